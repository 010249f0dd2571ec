//! What one side of a vector match owes to the other: series that no partner can have are not selected.
//!
//! In `x{job="a"} / y` only series of `y` with `job="a"` can find a partner, so `y{job="a"}` is read. Invariant: answers, errors and annotations stay as
//! they are. Therefore only instant selectors are narrowed, which say nothing about the series that they select, and only
//!
//! - by matchers on labels that have to be equal on both sides, and that all series of the other side carry as they were selected;
//! - where nothing on either side could be refused for having a double: for `and` and `unless`, and for one-to-one matches of all labels between metrics of one name.
//!
//! Labels that selectors may name and series do not show ([`EngineOptions::unseen_labels`]) are nobody's to match. Where samples are counted for each step they have
//! to be seen: then nothing is narrowed.

use parallax_model::Matcher;

use super::property::has_one_name;
use super::strip_parens;
use crate::ast::{
    Aggregate, AggregateOp, Binary, BinaryOp, Call, Cardinality, Expr, ExprKind, Grouping, RangeExtension,
    ValueType, VectorMatching, VectorSelector,
};
use crate::engine::EngineOptions;
use crate::exec::row::METADATA_LABELS;

/// A selector with more matchers than this is not held against others.
const MAX_MATCHERS: usize = 64;

/// `expr` with its selectors narrowed; `None` if there is nothing to narrow.
pub(crate) fn narrowed(expr: &Expr, options: &EngineOptions) -> Option<Expr> {
    if options.stats.per_step || !matches_vectors(expr) {
        return None;
    }
    let mut changed = expr.clone();
    narrow(&mut changed, options).then_some(changed)
}

/// Whether two vectors are matched anywhere in it.
fn matches_vectors(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) | ExprKind::Matrix(_) => false,
        ExprKind::Subquery(subquery) => matches_vectors(&subquery.operand),
        ExprKind::Aggregate(aggregate) => {
            matches_vectors(&aggregate.operand) || aggregate.parameter.as_deref().is_some_and(matches_vectors)
        }
        ExprKind::Binary(binary) => {
            binary.matching.is_some() || matches_vectors(&binary.left) || matches_vectors(&binary.right)
        }
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => matches_vectors(operand),
        ExprKind::Call(call) => call.arguments.iter().any(matches_vectors),
    }
}

/// Narrows all there is beneath `expr`; whether there was anything.
fn narrow(expr: &mut Expr, options: &EngineOptions) -> bool {
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) | ExprKind::Matrix(_) => false,
        ExprKind::Subquery(subquery) => narrow(&mut subquery.operand, options),
        ExprKind::Aggregate(aggregate) => {
            let of_parameter =
                aggregate.parameter.as_deref_mut().is_some_and(|parameter| narrow(parameter, options));
            narrow(&mut aggregate.operand, options) | of_parameter
        }
        ExprKind::Binary(binary) => {
            let beneath = narrow(&mut binary.left, options) | narrow(&mut binary.right, options);
            narrow_sides(binary, options) | beneath
        }
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => narrow(operand, options),
        ExprKind::Call(call) => {
            call.arguments.iter_mut().fold(false, |any, argument| narrow(argument, options) | any)
        }
    }
}

fn narrow_sides(binary: &mut Binary, options: &EngineOptions) -> bool {
    let Some(matching) = &binary.matching else { return false };
    let (left_may, right_may) = match binary.op {
        BinaryOp::And => (true, true),
        BinaryOp::Unless => (false, true),
        BinaryOp::Or => (false, false),
        _ => {
            let has_no_doubles = |side: &Expr| {
                // Names that are dropped at the end of the query only are still there.
                has_one_name(side) && (!options.delayed_name_removal || selector_of(side).is_some())
            };
            let may =
                matches_all_labels(matching) && has_no_doubles(&binary.left) && has_no_doubles(&binary.right);
            (may, may)
        }
    };
    let is_owed = |matcher: &Matcher| {
        let name = matcher.name();
        let is_named = matching.labels.iter().any(|label| label == name);
        is_named == matching.on
            && !METADATA_LABELS.contains(&name)
            && !options.unseen_labels.iter().any(|unseen| unseen == name)
    };
    let owed = |by: &Expr, to: &Expr, may: bool| -> Vec<Matcher> {
        if !may || selector_of(to).is_none() {
            return Vec::new();
        }
        carried(by).into_iter().filter(is_owed).collect()
    };
    let to_left = owed(&binary.right, &binary.left, left_may);
    let to_right = owed(&binary.left, &binary.right, right_may);
    add(&mut binary.left, to_left) | add(&mut binary.right, to_right)
}

/// One-to-one, by all labels but the name, and nothing stands in for a partner that is missing.
fn matches_all_labels(matching: &VectorMatching) -> bool {
    matching.cardinality == Cardinality::OneToOne
        && !matching.on
        && matching.labels.is_empty()
        && matching.fill_left.is_none()
        && matching.fill_right.is_none()
}

/// The selector that `expr` is, if it can be narrowed.
fn selector_of(expr: &Expr) -> Option<&VectorSelector> {
    match &strip_parens(expr).kind {
        ExprKind::Vector(selector) if selector.extension == RangeExtension::None => Some(selector),
        _ => None,
    }
}

/// Adds to the selector that `expr` is those matchers that it does not have; whether there were any.
fn add(expr: &mut Expr, matchers: Vec<Matcher>) -> bool {
    match &mut expr.kind {
        ExprKind::Paren(inner) => add(inner, matchers),
        ExprKind::Vector(selector) => {
            let before = selector.matchers.len();
            for matcher in matchers {
                if selector.matchers.len() < MAX_MATCHERS && !selector.matchers.contains(&matcher) {
                    selector.matchers.push(matcher);
                }
            }
            selector.matchers.len() > before
        }
        _ => false,
    }
}

/// Matchers that hold for the labels of whatever series `expr` gives.
fn carried(expr: &Expr) -> Vec<Matcher> {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => Vec::new(),
        ExprKind::Vector(selector) => of_selector(selector),
        ExprKind::Matrix(matrix) => of_selector(&matrix.selector),
        ExprKind::Subquery(subquery) => carried(&subquery.operand),
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => carried(operand),
        ExprKind::Aggregate(aggregate) => of_aggregate(aggregate),
        ExprKind::Binary(binary) => match (&binary.matching, binary.op) {
            (Some(_), BinaryOp::And | BinaryOp::Unless) => carried(&binary.left),
            (Some(_), _) => Vec::new(),
            // One of them is a scalar, which has no labels.
            (None, _) if binary.left.value_type() == ValueType::Vector => carried(&binary.left),
            (None, _) => carried(&binary.right),
        },
        ExprKind::Call(call) => of_call(call),
    }
}

fn of_selector(selector: &VectorSelector) -> Vec<Matcher> {
    if selector.matchers.len() > MAX_MATCHERS { Vec::new() } else { selector.matchers.clone() }
}

fn of_aggregate(aggregate: &Aggregate) -> Vec<Matcher> {
    let mut matchers = carried(&aggregate.operand);
    match aggregate.op {
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
            return matchers;
        }
        AggregateOp::CountValues => without_written(&mut matchers, aggregate.parameter.as_deref()),
        _ => {}
    }
    match &aggregate.grouping {
        Grouping::By(names) => matchers.retain(|matcher| names.iter().any(|name| name == matcher.name())),
        Grouping::Without(names) => {
            matchers.retain(|matcher| !names.iter().any(|name| name == matcher.name()));
        }
    }
    matchers
}

fn of_call(call: &Call) -> Vec<Matcher> {
    let of_vector = || {
        let vector = call
            .arguments
            .iter()
            .find(|argument| matches!(argument.value_type(), ValueType::Vector | ValueType::Matrix));
        vector.map(carried).unwrap_or_default()
    };
    match call.function.name {
        "absent" | "absent_over_time" | "info" | "scalar" | "vector" => Vec::new(),
        "histogram_quantile" | "histogram_fraction" => {
            let mut matchers = of_vector();
            matchers.retain(|matcher| matcher.name() != "le");
            matchers
        }
        "label_replace" | "label_join" => {
            let mut matchers = of_vector();
            without_written(&mut matchers, call.arguments.get(1));
            matchers
        }
        _ => of_vector(),
    }
}

/// Takes off what is said of the label whose name `written` is; of all if it is not known.
fn without_written(matchers: &mut Vec<Matcher>, written: Option<&Expr>) {
    match written.map(strip_parens).map(|written| &written.kind) {
        Some(ExprKind::String(name)) => matchers.retain(|matcher| matcher.name() != name),
        _ => matchers.clear(),
    }
}
