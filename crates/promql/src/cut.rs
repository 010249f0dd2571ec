//! Where a plan can be cut: aggregations whose parts can be evaluated closer to the data, each over its own share of the series.
//!
//! Cut are `sum`, `avg`, `min`, `max`, `count` and `group`, by or without labels, over something that is made of **one selector, series by series**: range functions,
//! rounding and clamping, negation, arithmetic and comparisons with numbers. Of such an operand it holds that `f(A ∪ B) = f(A) ⊎ f(B)` wherever no series has samples in
//! both A and B, and these aggregations can be put together from parts: sums of sums, the least of the least. `avg` asks for sums and counts. That is all; the rest stays where it is:
//!
//! - `topk`, `quantile`, `stddev`, `count_values`…: not decomposable, or in a way that ties and order decide.
//! - `@`, `start()`, `end()`, `step()`, `range()`, subqueries: what they mean depends on the query around them, which the one who is asked does not see.
//! - `label_replace`, `label_join`: they can change the labels by which the shares are told apart. `absent`, `scalar`, vector matching: they look at more than one series.
//! - logarithms, powers, trigonometry: other programs may round them differently.
//! - times, steps or lookbacks that are not whole seconds, which is all that `thanos.Query` can say.
//! - grouping by `__name__`, and functions of metrics of several names: when names are removed is a setting. Delayed name removal, type and unit labels, samples counted per step: an engine elsewhere need not have them.
//!
//! An answer is looked at before it counts ([`Question::check`]). Histograms decline it: whether they mix with floats is only seen with all series in one place. So does a sum that is
//! infinite, as the order of summation may decide that, and for averages one that is not a number. So does any PromQL warning. Sums of floats may differ from those made in one
//! place in their last bits: Kahan's compensation is applied within each part and over the parts. Signs of zeros, too, depend on the order.

mod question;

use parallax_model::{METRIC_NAME, MatchOp, Matcher, TimeRange};

use crate::ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Call, DurationKind, Expr, ExprKind, Grouping, RangeExtension,
    ValueType, VectorSelector,
};
use crate::engine::EngineOptions;
use crate::exec::Grid;

pub(crate) use question::PartialRow;
pub use question::{Partition, Question};

/// More steps than that no server of `thanos.Query` has to take.
const MAX_STEPS: usize = 11_000;

/// Functions that make of each series one, without a look at others, its labels or its place.
const OF_EACH_SERIES: [&str; 26] = [
    "abs",
    "avg_over_time",
    "ceil",
    "changes",
    "clamp",
    "clamp_max",
    "clamp_min",
    "count_over_time",
    "delta",
    "deriv",
    "floor",
    "idelta",
    "increase",
    "irate",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
    "quantile_over_time",
    "rate",
    "resets",
    "round",
    "sgn",
    "sqrt",
    "stddev_over_time",
    "sum_over_time",
];

/// Those of them that look at resets of counters.
const OF_COUNTERS: [&str; 4] = ["increase", "irate", "rate", "resets"];

/// An aggregation that can be evaluated in parts, and the steps it is evaluated at.
#[derive(Clone, Debug)]
pub struct Cut {
    aggregate: Aggregate,
    /// Where the aggregation stands in the query.
    position: usize,
    matchers: Vec<Matcher>,
    range: TimeRange,
    times: Times,
}

/// The steps of a cut, in milliseconds; all are whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub start_ms: i64,
    /// The last step.
    pub end_ms: i64,
    /// Positive; a second if there is one step.
    pub step_ms: i64,
    pub steps: usize,
    pub lookback_ms: i64,
}

impl Cut {
    /// The cut at `aggregate`, which stands at `position`, if it can be cut there.
    pub(crate) fn of(
        aggregate: &Aggregate,
        position: usize,
        grid: Grid,
        options: &EngineOptions,
    ) -> Option<Self> {
        use AggregateOp::{Avg, Count, Group, Max, Min, Sum};
        if !matches!(aggregate.op, Sum | Avg | Min | Max | Count | Group) || aggregate.parameter.is_some() {
            return None;
        }
        if options.delayed_name_removal || options.type_and_unit_labels || options.stats.per_step {
            return None;
        }
        let times = Times::of(grid, options.lookback_ms)?;
        let (selector, range_ms) = selector_of(&aggregate.operand)?;
        if !keeps_names_apart(aggregate, selector) {
            return None;
        }
        let offset_ms = match &selector.modifiers.offset {
            None => 0,
            Some(offset) => literal_ms(&offset.kind)?,
        };
        let before_ms = range_ms.unwrap_or(times.lookback_ms);
        let first_ms = times.start_ms.checked_sub(offset_ms)?.checked_sub(before_ms)?.checked_add(1)?;
        let range = TimeRange { min_ms: first_ms, max_ms: times.end_ms.checked_sub(offset_ms)? };
        let matchers = selector.matchers.clone();
        Some(Self { aggregate: aggregate.clone(), position, matchers, range, times })
    }

    /// What is selected.
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// The samples that can be needed. Closed.
    pub fn range(&self) -> TimeRange {
        self.range
    }

    pub fn times(&self) -> Times {
        self.times
    }

    /// What to ask somebody who holds the series that carry the labels `partition`, whatever their values, and of these those that match `own`, too. The answer keeps those
    /// labels, so that one can see whose it is. `None` if there is no text that says exactly this.
    pub fn question<S: AsRef<str>>(&self, partition: &[S], own: &[Matcher]) -> Option<Question> {
        let partition: Vec<&str> = partition.iter().map(AsRef::as_ref).collect();
        Question::new(&self.aggregate, self.position, self.times, &partition, own)
    }

    /// Whether it looks at resets of counters. Thanos' queriers take those out even where nothing is deduplicated.
    pub fn reads_counters(&self) -> bool {
        fn reads(expr: &Expr) -> bool {
            match &expr.kind {
                ExprKind::Call(call) => {
                    OF_COUNTERS.contains(&call.function.name) || call.arguments.iter().any(reads)
                }
                ExprKind::Paren(inner) | ExprKind::Unary { operand: inner, .. } => reads(inner),
                ExprKind::Binary(binary) => reads(&binary.left) || reads(&binary.right),
                _ => false,
            }
        }
        reads(&self.aggregate.operand)
    }

    /// The labels by which it groups.
    pub fn grouping(&self) -> &Grouping {
        &self.aggregate.grouping
    }
}

impl Times {
    fn of(grid: Grid, lookback_ms: i64) -> Option<Self> {
        if grid.steps == 0 || grid.steps > MAX_STEPS {
            return None;
        }
        let step_ms = if grid.steps == 1 { 1000 } else { grid.step_ms };
        let end_ms = grid.time_ms(grid.steps - 1);
        let is_whole = |ms: i64| ms % 1000 == 0;
        let all_whole = is_whole(grid.start_ms) && is_whole(step_ms) && is_whole(lookback_ms);
        // Times before 1970, and no lookback at all, mean other things to others.
        (all_whole && grid.start_ms > 0 && lookback_ms > 0).then_some(Self {
            start_ms: grid.start_ms,
            end_ms,
            step_ms,
            steps: grid.steps,
            lookback_ms,
        })
    }
}

/// Whether it makes no difference when names are removed: an engine elsewhere may do that at the end of a query.
fn keeps_names_apart(aggregate: &Aggregate, selector: &VectorSelector) -> bool {
    if matches!(&aggregate.grouping, Grouping::By(names) if names.iter().any(|name| name == METRIC_NAME)) {
        return false;
    }
    let is_bare = matches!(crate::plan::strip_parens(&aggregate.operand).kind, ExprKind::Vector(_));
    let has_name = |matcher: &Matcher| {
        matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal && !matcher.value().is_empty()
    };
    is_bare || selector.matchers.iter().any(has_name)
}

/// The one selector that `expr` makes its series of, one by one, with its range if it has one.
fn selector_of(expr: &Expr) -> Option<(&VectorSelector, Option<i64>)> {
    match &expr.kind {
        ExprKind::Vector(selector) => is_plain(selector).then_some((selector, None)),
        ExprKind::Paren(inner) => selector_of(inner),
        ExprKind::Unary { operand, .. } => selector_of(operand),
        ExprKind::Call(call) => of_call(call),
        ExprKind::Binary(binary) => of_binary(binary),
        ExprKind::Number(_)
        | ExprKind::String(_)
        | ExprKind::Matrix(_)
        | ExprKind::Subquery(_)
        | ExprKind::Aggregate(_) => None,
    }
}

fn of_call(call: &Call) -> Option<(&VectorSelector, Option<i64>)> {
    if !OF_EACH_SERIES.contains(&call.function.name) {
        return None;
    }
    let (scalars, series): (Vec<&Expr>, Vec<&Expr>) =
        call.arguments.iter().partition(|argument| argument.value_type() == ValueType::Scalar);
    let [series] = series.as_slice() else { return None };
    if !scalars.iter().all(|scalar| is_constant(scalar)) {
        return None;
    }
    match &crate::plan::strip_parens(series).kind {
        ExprKind::Matrix(matrix) => {
            let range_ms = literal_ms(&matrix.range.kind)?;
            (is_plain(&matrix.selector) && range_ms > 0).then_some((&matrix.selector, Some(range_ms)))
        }
        _ => selector_of(series),
    }
}

fn of_binary(binary: &Binary) -> Option<(&VectorSelector, Option<i64>)> {
    use BinaryOp::{Add, Div, Equal, Greater, GreaterOrEqual, Less, LessOrEqual, Mod, Mul, NotEqual, Sub};
    let is_exact = matches!(
        binary.op,
        Add | Sub | Mul | Div | Mod | Equal | NotEqual | Greater | GreaterOrEqual | Less | LessOrEqual
    );
    match (is_exact, is_constant(&binary.left), is_constant(&binary.right)) {
        (true, true, false) => selector_of(&binary.right),
        (true, false, true) => selector_of(&binary.left),
        _ => None,
    }
}

fn is_constant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) => true,
        ExprKind::Paren(inner) => is_constant(inner),
        ExprKind::Unary { operand, .. } => is_constant(operand),
        _ => false,
    }
}

fn is_plain(selector: &VectorSelector) -> bool {
    selector.modifiers.at.is_none() && selector.extension == RangeExtension::None
}

fn literal_ms(kind: &DurationKind) -> Option<i64> {
    match kind {
        DurationKind::Literal(ms) => Some(*ms),
        _ => None,
    }
}
