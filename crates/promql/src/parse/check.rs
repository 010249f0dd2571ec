//! The type check: what a tree must fulfil beyond the grammar, with Prometheus' messages (`checkAST`).
//!
//! It also settles what only the operands' types tell: matching exists between vectors alone, and set operators
//! match many to many. Children are checked before their parents, so that the first error is Prometheus' first.

use parallax_model::METRIC_NAME;

use super::ParseError;
use crate::ast::{
    Aggregate, AggregateOp, Binary, Call, Cardinality, Expr, ExprKind, PosRange, ValueType, VectorSelector,
};
use crate::lex::is_space;
use crate::lex::quoting::quote;

pub(super) fn check(expr: &mut Expr, text: &str) -> Result<ValueType, ParseError> {
    let pos = expr.pos;
    let fail = |message: String| Err(ParseError::new(text, pos, message));
    match &mut expr.kind {
        ExprKind::Number(_) => return Ok(ValueType::Scalar),
        ExprKind::String(_) => return Ok(ValueType::String),
        ExprKind::Vector(selector) => selector_is_specific(selector, false, pos, text)?,
        ExprKind::Matrix(matrix) => selector_is_specific(&matrix.selector, false, matrix.selector_pos, text)?,
        ExprKind::Subquery(subquery) => {
            let operand = check(&mut subquery.operand, text)?;
            if operand != ValueType::Vector {
                let name = short_name(operand);
                return fail(format!("subquery is only allowed on instant vector, got {name} instead"));
            }
        }
        ExprKind::Aggregate(aggregate) => check_aggregate(aggregate, text)?,
        ExprKind::Binary(binary) => return check_binary(binary, pos, text),
        ExprKind::Unary { operand, .. } => {
            let operand = check(operand, text)?;
            if !matches!(operand, ValueType::Scalar | ValueType::Vector) {
                let what = "unary expression only allowed on expressions of type scalar or instant vector";
                return fail(format!("{what}, got {}", quote(operand.documented())));
            }
            return Ok(operand);
        }
        ExprKind::Paren(inner) => return check(inner, text),
        ExprKind::Call(call) => check_call(call, pos, text)?,
    }
    Ok(expr.value_type())
}

/// The names that `subquery is only allowed on …` uses.
fn short_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    }
}

fn expect_type(expr: &mut Expr, wanted: ValueType, context: &str, text: &str) -> Result<(), ParseError> {
    let found = check(expr, text)?;
    if found == wanted {
        return Ok(());
    }
    let (wanted, found) = (wanted.documented(), found.documented());
    Err(ParseError::new(text, expr.pos, format!("expected type {wanted} in {context}, got {found}")))
}

fn check_aggregate(aggregate: &mut Aggregate, text: &str) -> Result<(), ParseError> {
    expect_type(&mut aggregate.operand, ValueType::Vector, "aggregation expression", text)?;
    let Some(parameter) = &mut aggregate.parameter else { return Ok(()) };
    let wanted = match aggregate.op {
        AggregateOp::CountValues => ValueType::String,
        _ => ValueType::Scalar,
    };
    expect_type(parameter, wanted, "aggregation parameter", text)
}

fn check_binary(binary: &mut Binary, pos: PosRange, text: &str) -> Result<ValueType, ParseError> {
    let left = check(&mut binary.left, text)?;
    let right = check(&mut binary.right, text)?;
    let both_scalars = left == ValueType::Scalar && right == ValueType::Scalar;
    let op = binary.op;
    let fail_at_operator = |message: String| {
        Err(ParseError::new(text, operator_pos(&binary.left, &binary.right, text), message))
    };

    if binary.return_bool && !op.is_comparison() {
        return fail_at_operator("bool modifier can only be used on comparison operators".to_owned());
    }
    if op.is_comparison() && !binary.return_bool && both_scalars {
        return fail_at_operator("comparisons between scalars must use BOOL modifier".to_owned());
    }
    if let Some(matching) = &binary.matching
        && matching.on
        && let Some(twice) = matching.labels.iter().find(|label| matching.include.contains(label))
    {
        let message = format!("label {} must not occur in ON and GROUP clause at once", quote(twice));
        return fail_at_operator(message);
    }
    for (side, side_type) in [(&binary.left, left), (&binary.right, right)] {
        if !matches!(side_type, ValueType::Scalar | ValueType::Vector) {
            let message = "binary expression must contain only scalar and instant vector types";
            return Err(ParseError::new(text, side.pos, message));
        }
    }
    check_matching(binary, (left, right), pos, text)?;
    Ok(if both_scalars { ValueType::Scalar } else { ValueType::Vector })
}

fn check_matching(
    binary: &mut Binary,
    (left, right): (ValueType, ValueType),
    pos: PosRange,
    text: &str,
) -> Result<(), ParseError> {
    let fail = |message: String| Err(ParseError::new(text, pos, message));
    let op = binary.op;
    let Some(matching) = &mut binary.matching else { return Ok(()) };
    let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
    if left != ValueType::Vector || right != ValueType::Vector {
        if !matching.labels.is_empty() {
            return fail("vector matching only allowed between instant vectors".to_owned());
        }
        if fills {
            return fail("filling in missing series only allowed between instant vectors".to_owned());
        }
        binary.matching = None;
        if op.is_set() {
            let op = quote(op.symbol());
            return fail(format!("set operator {op} not allowed in binary scalar expression"));
        }
        return Ok(());
    }
    if op.is_set() {
        if matching.cardinality != Cardinality::OneToOne {
            return fail(format!("no grouping allowed for {} operation", quote(op.symbol())));
        }
        if fills {
            return fail("filling in missing series not allowed for set operators".to_owned());
        }
        matching.cardinality = Cardinality::ManyToMany;
    }
    Ok(())
}

/// Where the operator stands between two operands.
fn operator_pos(left: &Expr, right: &Expr, text: &str) -> PosRange {
    let between = text.get(left.pos.end..right.pos.start).unwrap_or("");
    let start = left.pos.end + (between.len() - between.trim_start_matches(is_space).len());
    let end = left.pos.end + between.trim_end_matches(is_space).len();
    PosRange { start, end: end.max(start) }
}

fn check_call(call: &mut Call, pos: PosRange, text: &str) -> Result<(), ParseError> {
    let function = call.function;
    let name = quote(function.name);
    let fail = |message: String| Err(ParseError::new(text, pos, message));
    let (declared, given) = (function.arguments.len(), call.arguments.len());
    if function.variadic == 0 {
        if declared != given {
            return fail(format!("expected {declared} argument(s) in call to {name}, got {given}"));
        }
    } else {
        let least = declared.saturating_sub(1);
        if given < least {
            return fail(format!("expected at least {least} argument(s) in call to {name}, got {given}"));
        }
        if let Ok(optional @ 1..) = usize::try_from(function.variadic)
            && given > least + optional
        {
            let most = least + optional;
            return fail(format!("expected at most {most} argument(s) in call to {name}, got {given}"));
        }
    }
    if function.name == "info"
        && let Some(selector) = call.arguments.get(1)
    {
        check_info_selector(selector, pos, text)?;
    }
    for (index, argument) in call.arguments.iter_mut().enumerate() {
        if function.name == "info"
            && index == 1
            && let ExprKind::Vector(selector) = &argument.kind
        {
            // Nothing but label matchers, and an empty set of them is fine.
            selector_is_specific(selector, true, argument.pos, text)?;
            continue;
        }
        let Some(wanted) = function.arguments.get(index).or(function.arguments.last()) else { break };
        let found = check(argument, text)?;
        if found != *wanted {
            let (wanted, found) = (wanted.documented(), found.documented());
            let message = format!("expected type {wanted} in call to function {name}, got {found}");
            return Err(ParseError::new(text, argument.pos, message));
        }
    }
    Ok(())
}

fn check_info_selector(selector: &Expr, call_pos: PosRange, text: &str) -> Result<(), ParseError> {
    let found = selector.value_type();
    if found != ValueType::Vector {
        let wanted = ValueType::Vector.documented();
        let message =
            format!("expected type {wanted} in call to function \"info\", got {}", found.documented());
        return Err(ParseError::new(text, call_pos, message));
    }
    match &selector.kind {
        ExprKind::Vector(VectorSelector { name: None, .. }) => Ok(()),
        ExprKind::Vector(_) => {
            let message = "expected label selectors only, got vector selector instead";
            Err(ParseError::new(text, selector.pos, message))
        }
        _ => Err(ParseError::new(text, selector.pos, "expected label selectors only")),
    }
}

/// The metric name is given once, and something narrows the selection, unless `may_be_empty`.
fn selector_is_specific(
    selector: &VectorSelector,
    may_be_empty: bool,
    pos: PosRange,
    text: &str,
) -> Result<(), ParseError> {
    let fail = |message: String| Err(ParseError::new(text, pos, message));
    if let Some(name) = &selector.name {
        // The last matcher is the one of the name before the braces.
        let in_braces = selector.matchers.split_last().map_or(&[][..], |(_, in_braces)| in_braces);
        if let Some(second) = in_braces.iter().find(|matcher| matcher.name() == METRIC_NAME) {
            let (name, second) = (quote(name), quote(second.value()));
            return fail(format!("metric name must not be set twice: {name} or {second}"));
        }
        return Ok(());
    }
    if may_be_empty || selector.matchers.iter().any(|matcher| !matcher.matches_empty()) {
        return Ok(());
    }
    fail("vector selector must contain at least one non-empty matcher".to_owned())
}
