//! Expressions as text, in Prometheus' normal form.
//!
//! Source: Prometheus 3.9 `promql/parser/printer.go`. What is printed parses to the same tree again (places aside);
//! where Prometheus' own form would not, because a name needs quotes, or a number its parentheses, it has them.

use std::fmt::{self, Display, Formatter};

use parallax_model::{METRIC_NAME, MatchOp, Matcher};

use crate::ast::{
    Aggregate, At, Binary, Cardinality, DurationExpr, DurationKind, DurationOp, Expr, ExprKind, Grouping,
    MatrixSelector, RangeExtension, Subquery, TimeModifiers, VectorMatching, VectorSelector,
};
use crate::lex::quoting::quote;
use crate::lex::{TokenKind, is_alpha, is_alphanumeric, keyword};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number(value) => write_number(f, *value),
            ExprKind::String(value) => f.write_str(&quote(value)),
            ExprKind::Vector(selector) => selector.fmt(f),
            ExprKind::Matrix(matrix) => matrix.fmt(f),
            ExprKind::Subquery(subquery) => subquery.fmt(f),
            ExprKind::Aggregate(aggregate) => aggregate.fmt(f),
            ExprKind::Binary(binary) => binary.fmt(f),
            ExprKind::Unary { negate, operand } => {
                write!(f, "{}{operand}", if *negate { '-' } else { '+' })
            }
            ExprKind::Paren(inner) => write!(f, "({inner})"),
            ExprKind::Call(call) => {
                write!(f, "{}(", call.function.name)?;
                write_joined(f, &call.arguments, ", ")?;
                f.write_str(")")
            }
        }
    }
}

/// The shortest decimal that reads back as the same number, never with an exponent.
fn write_number(f: &mut Formatter<'_>, value: f64) -> fmt::Result {
    match value {
        f64::INFINITY => f.write_str("+Inf"),
        f64::NEG_INFINITY => f.write_str("-Inf"),
        value => write!(f, "{value}"),
    }
}

fn write_joined<T: Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_series(f)?;
        write_at(f, &self.modifiers)?;
        write_extension(f, self.extension)?;
        write_offset(f, &self.modifiers)
    }
}

impl VectorSelector {
    /// Name and matchers, sorted as text.
    fn write_series(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let name = self.name.as_deref().unwrap_or("");
        let is_name = |matcher: &Matcher| {
            matcher.name() == METRIC_NAME
                && matcher.op() == MatchOp::Equal
                && !name.is_empty()
                && matcher.value() == name
        };
        let mut matchers: Vec<String> =
            self.matchers.iter().filter(|matcher| !is_name(matcher)).map(matcher_text).collect();
        matchers.sort();
        f.write_str(name)?;
        if !matchers.is_empty() {
            f.write_str("{")?;
            write_joined(f, &matchers, ",")?;
            f.write_str("}")?;
        } else if name.is_empty() {
            f.write_str("{}")?;
        }
        Ok(())
    }
}

fn matcher_text(matcher: &Matcher) -> String {
    let name = matcher.name();
    let is_plain = name.starts_with(is_alpha) && name.chars().all(is_alphanumeric);
    let name = if is_plain { name.to_owned() } else { quote(name) };
    format!("{name}{}{}", matcher.op().symbol(), quote(matcher.value()))
}

impl Display for MatrixSelector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.selector.write_series(f)?;
        write!(f, "[{}]", self.range)?;
        write_extension(f, self.selector.extension)?;
        write_at(f, &self.selector.modifiers)?;
        write_offset(f, &self.selector.modifiers)
    }
}

impl Display for Subquery {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}:", self.operand, self.range)?;
        if let Some(step) = &self.step {
            step.fmt(f)?;
        }
        f.write_str("]")?;
        write_at(f, &self.modifiers)?;
        write_offset(f, &self.modifiers)
    }
}

fn write_at(f: &mut Formatter<'_>, modifiers: &TimeModifiers) -> fmt::Result {
    match modifiers.at {
        None => Ok(()),
        Some(At::Start) => f.write_str(" @ start()"),
        Some(At::End) => f.write_str(" @ end()"),
        Some(At::TimestampMs(ms)) => {
            let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
            write!(f, " @ {sign}{}.{:03}", ms / 1000, ms % 1000)
        }
    }
}

fn write_offset(f: &mut Formatter<'_>, modifiers: &TimeModifiers) -> fmt::Result {
    match &modifiers.offset {
        None => Ok(()),
        Some(offset) if offset.kind == DurationKind::Literal(0) => Ok(()),
        Some(offset) => {
            f.write_str(" offset ")?;
            write_offset_duration(f, offset)
        }
    }
}

/// An operator belongs to what stands after `offset` only if that begins with a parenthesis.
fn write_offset_duration(f: &mut Formatter<'_>, duration: &DurationExpr) -> fmt::Result {
    let DurationKind::Binary { op, left, right } = &duration.kind else { return duration.fmt(f) };
    match &left.kind {
        DurationKind::Binary { .. } => write_offset_duration(f, left)?,
        DurationKind::Paren(_) => left.fmt(f)?,
        _ => write!(f, "({left})")?,
    }
    write!(f, " {} {right}", op.symbol())
}

fn write_extension(f: &mut Formatter<'_>, extension: RangeExtension) -> fmt::Result {
    f.write_str(match extension {
        RangeExtension::None => "",
        RangeExtension::Anchored => " anchored",
        RangeExtension::Smoothed => " smoothed",
    })
}

impl Display for DurationExpr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            DurationKind::Literal(ms) => write_duration(f, *ms),
            DurationKind::Number(value) => write_number(f, *value),
            DurationKind::Step => f.write_str("step()"),
            DurationKind::Range => f.write_str("range()"),
            DurationKind::Unary { negate: true, operand } => write!(f, "-{operand}"),
            DurationKind::Unary { negate: false, operand } => operand.fmt(f),
            // Its sign would be that of the power.
            DurationKind::Binary { op: DurationOp::Pow, left, right } if left.is_negative_number() => {
                write!(f, "({left}) ^ {right}")
            }
            DurationKind::Binary { op, left, right } => write!(f, "{left} {} {right}", op.symbol()),
            DurationKind::Min(left, right) => write!(f, "min({left}, {right})"),
            DurationKind::Max(left, right) => write!(f, "max({left}, {right})"),
            DurationKind::Paren(inner) => write!(f, "({inner})"),
        }
    }
}

impl DurationExpr {
    fn is_negative_number(&self) -> bool {
        match self.kind {
            DurationKind::Literal(ms) => ms < 0,
            DurationKind::Number(value) => value.is_sign_negative(),
            _ => false,
        }
    }
}

impl DurationOp {
    /// As it is written.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        }
    }
}

/// `1h30m`: units from large to small; weeks and years only if nothing remains.
fn write_duration(f: &mut Formatter<'_>, ms: i64) -> fmt::Result {
    const UNITS: [(&str, u64, bool); 7] = [
        ("y", 365 * 86_400_000, true),
        ("w", 7 * 86_400_000, true),
        ("d", 86_400_000, false),
        ("h", 3_600_000, false),
        ("m", 60_000, false),
        ("s", 1000, false),
        ("ms", 1, false),
    ];
    if ms < 0 {
        f.write_str("-")?;
    }
    let mut rest = ms.unsigned_abs();
    if rest == 0 {
        return f.write_str("0s");
    }
    for (unit, size, only_exact) in UNITS {
        let amount = rest / size;
        if amount == 0 || (only_exact && !rest.is_multiple_of(size)) {
            continue;
        }
        write!(f, "{amount}{unit}")?;
        rest -= amount * size;
    }
    Ok(())
}

impl Display for Aggregate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.op.name())?;
        match &self.grouping {
            Grouping::By(labels) if labels.is_empty() => {}
            Grouping::By(labels) => write!(f, " by ({}) ", label_list(labels))?,
            Grouping::Without(labels) => write!(f, " without ({}) ", label_list(labels))?,
        }
        f.write_str("(")?;
        if let Some(parameter) = &self.parameter {
            write!(f, "{parameter}, ")?;
        }
        write!(f, "{})", self.operand)
    }
}

fn label_list(labels: &[String]) -> String {
    let labels: Vec<String> = labels.iter().map(|label| label_text(label)).collect();
    labels.join(", ")
}

/// Quoted unless it reads as one word that a label list takes.
fn label_text(label: &str) -> String {
    let starts_plainly = label.starts_with(|c| is_alpha(c) || c == ':');
    let is_plain = starts_plainly && label.chars().all(|c| is_alphanumeric(c) || c == ':');
    let is_taken = label.eq_ignore_ascii_case("without") || keyword(label) == Some(TokenKind::Number);
    if is_plain && !is_taken { label.to_owned() } else { quote(label) }
}

impl Display for Binary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.left, self.op.symbol())?;
        if self.return_bool {
            f.write_str(" bool")?;
        }
        if let Some(matching) = &self.matching {
            matching.fmt(f)?;
        }
        write!(f, " {}", self.right)
    }
}

impl Display for VectorMatching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let group = match self.cardinality {
            Cardinality::ManyToOne => Some("left"),
            Cardinality::OneToMany => Some("right"),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if !self.labels.is_empty() || self.on || group.is_some() {
            let clause = if self.on { "on" } else { "ignoring" };
            write!(f, " {clause} ({})", label_list(&self.labels))?;
        }
        if let Some(side) = group {
            write!(f, " group_{side} ({})", label_list(&self.include))?;
        }
        match (self.fill_left, self.fill_right) {
            (Some(left), Some(right)) if left.to_bits() == right.to_bits() => write_fill(f, "fill", left),
            (left, right) => {
                left.map_or(Ok(()), |left| write_fill(f, "fill_left", left))?;
                right.map_or(Ok(()), |right| write_fill(f, "fill_right", right))
            }
        }
    }
}

fn write_fill(f: &mut Formatter<'_>, word: &str, value: f64) -> fmt::Result {
    write!(f, " {word} (")?;
    write_number(f, value)?;
    f.write_str(")")
}
