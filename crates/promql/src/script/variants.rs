//! An instant query asked in other words: pinned to its time by `@`, it must answer the same at any time.
//!
//! Selectors and subqueries that have no time of their own get the query's; what stands inside a subquery with a
//! time is left alone. Functions that look at the evaluation time itself cannot be pinned.

use crate::ast::{At, Expr, ExprKind, TimeModifiers};

/// A query in one wording, and when to ask it.
pub(super) struct Variant {
    pub(super) text: String,
    pub(super) expr: Expr,
    pub(super) at_ms: i64,
}

/// Functions whose result depends on the evaluation time, or on the time of a sample.
const UNPINNABLE: [&str; 11] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "time",
    "timestamp",
    "year",
];

/// `expr` pinned to `at_ms`, asked at several times; nothing if it cannot be pinned.
pub(super) fn pinned(expr: &Expr, at_ms: i64) -> Vec<Variant> {
    let mut expr = expr.clone();
    if !pin(&mut expr, at_ms) {
        return Vec::new();
    }
    let times = match at_ms {
        0 => vec![-1000, 0, 1000],
        at_ms => vec![at_ms.saturating_mul(-10), 0, at_ms / 5, at_ms, at_ms.saturating_mul(10)],
    };
    let text = expr.to_string();
    times.into_iter().map(|at_ms| Variant { text: text.clone(), expr: expr.clone(), at_ms }).collect()
}

fn pin_modifiers(modifiers: &mut TimeModifiers, at_ms: i64) {
    // `start()` and `end()` are the query's time, too.
    if !matches!(modifiers.at, Some(At::TimestampMs(_))) {
        modifiers.at = Some(At::TimestampMs(at_ms));
    }
}

/// Whether everything could be pinned.
fn pin(expr: &mut Expr, at_ms: i64) -> bool {
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) => {
            pin_modifiers(&mut selector.modifiers, at_ms);
            true
        }
        ExprKind::Matrix(matrix) => {
            pin_modifiers(&mut matrix.selector.modifiers, at_ms);
            true
        }
        ExprKind::Subquery(subquery) => {
            pin_modifiers(&mut subquery.modifiers, at_ms);
            // Its inside runs at the subquery's own times, which are now fixed.
            true
        }
        ExprKind::Aggregate(aggregate) => {
            aggregate.parameter.as_mut().is_none_or(|parameter| pin(parameter, at_ms))
                && pin(&mut aggregate.operand, at_ms)
        }
        ExprKind::Binary(binary) => pin(&mut binary.left, at_ms) && pin(&mut binary.right, at_ms),
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => pin(operand, at_ms),
        ExprKind::Call(call) => {
            !UNPINNABLE.contains(&call.function.name)
                && call.arguments.iter_mut().all(|argument| pin(argument, at_ms))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{ParserOptions, parse};

    fn pinned_text(text: &str) -> Option<String> {
        let expr = parse(text, &ParserOptions::all_features()).unwrap();
        pinned(&expr, 5000).into_iter().next().map(|variant| variant.text)
    }

    #[test]
    fn selectors_and_subqueries_are_pinned_once() {
        assert_eq!(
            pinned_text("sum_over_time(vector(time())[5m:1m] @ 7)").as_deref(),
            Some("sum_over_time(vector(time())[5m:1m] @ 7.000)")
        );
        assert_eq!(
            pinned_text("sum(a) + rate(b[5m] @ 7)").as_deref(),
            Some("sum(a @ 5.000) + rate(b[5m] @ 7.000)")
        );
        assert_eq!(
            pinned_text("max_over_time(a[5m:1m]) + a @ end()").as_deref(),
            Some("max_over_time(a[5m:1m] @ 5.000) + a @ 5.000")
        );
        assert_eq!(pinned_text("a + time()"), None);
    }
}
