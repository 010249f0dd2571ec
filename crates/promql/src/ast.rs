//! The syntax tree of a PromQL expression: what the parser makes and the planner reads.
//!
//! Every node knows where it stands in the text, for error messages and annotations. A tree that the parser
//! returns is type-checked: arguments have the types their function asks for, matching fits its operator.

use parallax_model::Matcher;

/// A half-open range of byte offsets in the query text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PosRange {
    pub start: usize,
    pub end: usize,
}

/// An expression and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    pub pos: PosRange,
    pub kind: ExprKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    Number(f64),
    String(String),
    Vector(VectorSelector),
    Matrix(MatrixSelector),
    Subquery(Subquery),
    Aggregate(Aggregate),
    Binary(Box<Binary>),
    /// `-x`, or `+x` with `negate` false.
    Unary {
        negate: bool,
        operand: Box<Expr>,
    },
    Paren(Box<Expr>),
    Call(Call),
}

/// What an expression evaluates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    Scalar,
    String,
    /// An instant vector.
    Vector,
    /// A range vector.
    Matrix,
}

impl ValueType {
    /// The name error messages use: `scalar`, `string`, `instant vector`, `range vector`.
    pub const fn documented(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

/// `name{a="b"} @ 12 offset 5m`.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSelector {
    /// The metric name as written before the braces, if it was.
    pub name: Option<String>,
    /// All matchers, the one on `__name__` included.
    pub matchers: Vec<Matcher>,
    pub modifiers: TimeModifiers,
    /// `anchored` or `smoothed`, experimental in 3.9.
    pub extension: RangeExtension,
}

/// `selector[5m]`. The modifiers stand in the selector.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixSelector {
    pub selector: VectorSelector,
    /// Where the selector without its range stands.
    pub selector_pos: PosRange,
    pub range: DurationExpr,
}

/// `expr[1h:5m] @ end() offset -1m`; without a step, the default evaluation interval is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Subquery {
    pub operand: Box<Expr>,
    pub range: DurationExpr,
    pub step: Option<DurationExpr>,
    pub modifiers: TimeModifiers,
}

/// `offset` and `@`, in whichever order they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimeModifiers {
    pub offset: Option<DurationExpr>,
    pub at: Option<At>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At {
    TimestampMs(i64),
    Start,
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RangeExtension {
    #[default]
    None,
    Anchored,
    Smoothed,
}

/// A duration as written. All but `Literal` are experimental duration expressions, evaluated in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct DurationExpr {
    pub pos: PosRange,
    pub kind: DurationKind,
}

impl DurationExpr {
    /// Where Prometheus sees it: from the first operand to the last, without the parentheses around them and without the names of functions.
    pub(crate) fn place(&self) -> PosRange {
        match &self.kind {
            DurationKind::Paren(inner) => inner.place(),
            DurationKind::Binary { left, right, .. }
            | DurationKind::Min(left, right)
            | DurationKind::Max(left, right) => {
                PosRange { start: left.place().start, end: right.place().end }
            }
            DurationKind::Unary { operand, .. } => {
                PosRange { start: self.pos.start, end: operand.place().end }
            }
            _ => self.pos,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum DurationKind {
    /// Milliseconds; a literal number of seconds is already multiplied. May be negative for an offset.
    Literal(i64),
    /// `step()`: the query's step, 0 for an instant query.
    Step,
    /// `range()`: the query's end minus its start.
    Range,
    /// A plain number inside arithmetic: seconds, or a factor.
    Number(f64),
    Unary {
        negate: bool,
        operand: Box<DurationExpr>,
    },
    Binary {
        op: DurationOp,
        left: Box<DurationExpr>,
        right: Box<DurationExpr>,
    },
    Min(Box<DurationExpr>, Box<DurationExpr>),
    Max(Box<DurationExpr>, Box<DurationExpr>),
    Paren(Box<DurationExpr>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DurationOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
}

/// `sum by (a, b) (expr)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    pub op: AggregateOp,
    /// `topk(5, …)`, `quantile(0.9, …)`, `count_values("v", …)`, `limitk`, `limit_ratio`.
    pub parameter: Option<Box<Expr>>,
    pub operand: Box<Expr>,
    pub grouping: Grouping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// `by (…)`; no clause at all is `By` of nothing.
    By(Vec<String>),
    Without(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateOp {
    Sum,
    Avg,
    Count,
    Min,
    Max,
    Group,
    Stddev,
    Stdvar,
    Topk,
    Bottomk,
    CountValues,
    Quantile,
    Limitk,
    LimitRatio,
}

/// `left op bool on(…) group_left(…) right`.
#[derive(Clone, Debug, PartialEq)]
pub struct Binary {
    pub op: BinaryOp,
    pub left: Expr,
    pub right: Expr,
    /// `bool`: comparisons give 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// Set if both sides are vectors.
    pub matching: Option<VectorMatching>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    And,
    Or,
    Unless,
    /// `</`: drop the buckets above a bound (native histograms).
    TrimUpper,
    /// `>/`: drop the buckets below a bound (native histograms).
    TrimLower,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VectorMatching {
    pub cardinality: Cardinality,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// Whether `labels` came with `on`; without a clause this is `ignoring` of nothing.
    pub on: bool,
    /// The labels of `group_left(…)` or `group_right(…)`, copied from the "one" side.
    pub include: Vec<String>,
    /// `fill_left`, `fill_right`, `fill`: the value of a missing partner on that side (experimental in 3.9).
    pub fill_left: Option<f64>,
    pub fill_right: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cardinality {
    OneToOne,
    /// `group_left`.
    ManyToOne,
    /// `group_right`.
    OneToMany,
    /// Set operators.
    ManyToMany,
}

/// `rate(x[5m])`. The function is one of the table in `functions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub function: &'static FunctionSignature,
    pub arguments: Vec<Expr>,
}

/// What the parser has to know about a function.
#[derive(Debug, PartialEq)]
pub struct FunctionSignature {
    pub name: &'static str,
    pub arguments: &'static [ValueType],
    /// How many arguments may be left out (positive: at most that many of the last repeated or missing; −1: any
    /// number of the last), as Prometheus' `Variadic`.
    pub variadic: i32,
    pub returns: ValueType,
    /// Only with the feature `promql-experimental-functions`.
    pub experimental: bool,
}

impl Expr {
    /// The type of this expression's value.
    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number(_) => ValueType::Scalar,
            ExprKind::String(_) => ValueType::String,
            ExprKind::Vector(_) | ExprKind::Aggregate(_) => ValueType::Vector,
            ExprKind::Matrix(_) | ExprKind::Subquery(_) => ValueType::Matrix,
            ExprKind::Binary(binary) => match (binary.left.value_type(), binary.right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
            ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => operand.value_type(),
            ExprKind::Call(call) => call.function.returns,
        }
    }
}
