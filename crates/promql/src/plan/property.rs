//! What can be said about an expression without evaluating it.

use parallax_model::{METRIC_NAME, MatchOp};

use super::strip_parens;
use crate::ast::{AggregateOp, Binary, Call, Expr, ExprKind, Grouping, ValueType, VectorSelector};
use crate::functions::arithmetic::changes_metric;

/// Functions whose result depends on the step even if their arguments do not.
const STEP_DEPENDENT: [&str; 11] = [
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
];

/// Whether the expression is the same at every step: everything it selects stands at a fixed time.
pub(crate) fn is_step_invariant(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) => selector.modifiers.at.is_some(),
        ExprKind::Matrix(matrix) => matrix.selector.modifiers.at.is_some(),
        ExprKind::Subquery(subquery) => subquery.modifiers.at.is_some(),
        ExprKind::Aggregate(aggregate) => {
            is_step_invariant(&aggregate.operand)
                && aggregate.parameter.as_deref().is_none_or(is_step_invariant)
        }
        ExprKind::Binary(binary) => is_step_invariant(&binary.left) && is_step_invariant(&binary.right),
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => is_step_invariant(operand),
        ExprKind::Call(call) => {
            !STEP_DEPENDENT.contains(&call.function.name) && call.arguments.iter().all(is_step_invariant)
        }
    }
}

/// Whether all series have the same metric name, or none: then no two become equal when names are dropped.
pub(crate) fn has_one_name(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => true,
        ExprKind::Vector(selector) => selects_one_name(selector),
        ExprKind::Matrix(matrix) => selects_one_name(&matrix.selector),
        ExprKind::Subquery(subquery) => has_one_name(&subquery.operand),
        ExprKind::Paren(inner) => has_one_name(inner),
        ExprKind::Unary { negate, operand } => *negate || has_one_name(operand),
        ExprKind::Aggregate(aggregate) => match aggregate.op {
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                has_one_name(&aggregate.operand)
            }
            _ => match &aggregate.grouping {
                Grouping::By(names) => !names.iter().any(|name| name == METRIC_NAME),
                Grouping::Without(_) => true,
            },
        },
        ExprKind::Binary(binary) => binary_has_one_name(binary),
        ExprKind::Call(call) => call_has_one_name(call),
    }
}

fn selects_one_name(selector: &VectorSelector) -> bool {
    selector.matchers.iter().any(|matcher| matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal)
}

fn binary_has_one_name(binary: &Binary) -> bool {
    use crate::ast::BinaryOp;
    if binary.matching.as_ref().is_some_and(|m| m.include.iter().any(|name| name == METRIC_NAME)) {
        return false;
    }
    if changes_metric(binary.op) || binary.return_bool {
        return true;
    }
    match binary.op {
        BinaryOp::Or => false,
        BinaryOp::And | BinaryOp::Unless => has_one_name(&binary.left),
        // A filter keeps the names of one of its sides.
        _ => has_one_name(&binary.left) && has_one_name(&binary.right),
    }
}

fn call_has_one_name(call: &Call) -> bool {
    let vector = call
        .arguments
        .iter()
        .find(|argument| matches!(argument.value_type(), ValueType::Vector | ValueType::Matrix));
    match call.function.name {
        "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" | "info" | "first_over_time"
        | "last_over_time" => vector.is_none_or(has_one_name),
        "label_replace" | "label_join" => {
            let target = call.arguments.get(1).map(strip_parens).map(|target| &target.kind);
            let renames = matches!(target, Some(ExprKind::String(name)) if name == METRIC_NAME);
            !renames && vector.is_none_or(has_one_name)
        }
        _ => true,
    }
}
