//! The selectors of an expression: what series it can read.

use parallax_model::Matcher;

use crate::ast::{Expr, ExprKind, VectorSelector};

/// The matchers of every selector in `expr`, in the order in which they stand there.
pub fn selectors(expr: &Expr) -> Vec<Vec<Matcher>> {
    let mut found = Vec::new();
    collect(expr, &mut found);
    found
}

/// The parser bounds the depth.
fn collect(expr: &Expr, found: &mut Vec<Vec<Matcher>>) {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) => found.push(selector.matchers.clone()),
        ExprKind::Matrix(matrix) => found.push(matrix.selector.matchers.clone()),
        ExprKind::Subquery(subquery) => collect(&subquery.operand, found),
        ExprKind::Aggregate(aggregate) => {
            aggregate.parameter.iter().for_each(|parameter| collect(parameter, found));
            collect(&aggregate.operand, found);
        }
        ExprKind::Binary(binary) => {
            collect(&binary.left, found);
            collect(&binary.right, found);
        }
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => collect(operand, found),
        ExprKind::Call(call) => call.arguments.iter().for_each(|argument| collect(argument, found)),
    }
}

/// Adds `matchers` to every selector in `expr`, where they do not stand there already.
///
/// What the engine selects besides, such as the metrics that `info()` takes labels from, is not in `expr`.
pub fn restrict(expr: &mut Expr, matchers: &[Matcher]) {
    match &mut expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => {}
        ExprKind::Vector(selector) => add(selector, matchers),
        ExprKind::Matrix(matrix) => add(&mut matrix.selector, matchers),
        ExprKind::Subquery(subquery) => restrict(&mut subquery.operand, matchers),
        ExprKind::Aggregate(aggregate) => {
            aggregate.parameter.iter_mut().for_each(|parameter| restrict(parameter, matchers));
            restrict(&mut aggregate.operand, matchers);
        }
        ExprKind::Binary(binary) => {
            restrict(&mut binary.left, matchers);
            restrict(&mut binary.right, matchers);
        }
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => restrict(operand, matchers),
        ExprKind::Call(call) => {
            // The second argument of info() names labels to add, and no series.
            let selecting = if call.function.name == "info" { 1 } else { usize::MAX };
            call.arguments.iter_mut().take(selecting).for_each(|argument| restrict(argument, matchers));
        }
    }
}

fn add(selector: &mut VectorSelector, matchers: &[Matcher]) {
    for matcher in matchers {
        if !selector.matchers.contains(matcher) {
            selector.matchers.push(matcher.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{ParserOptions, parse};

    #[test]
    fn selectors_are_found_wherever_they_stand() {
        let names = |query: &str| -> Vec<String> {
            let expr = parse(query, &ParserOptions::default()).unwrap();
            selectors(&expr).iter().map(|matchers| matchers[0].value().to_owned()).collect()
        };
        let query =
            "sum by (le) (rate(a[5m])) / on() topk(scalar(b), -(c offset 1m)) + max_over_time(d[1h:1m])";
        assert_eq!(names(query), ["a", "b", "c", "d"]);
        assert_eq!(names("1 + time()"), [""; 0]);
    }

    #[test]
    fn a_restriction_reaches_every_selector_once() {
        let mut expr = parse(
            "sum by (le) (rate(a{t=\"x\"}[5m])) / on() topk(scalar(b), -(c offset 1m)) + max_over_time(d[1h:1m]) and (1 < bool absent({t=\"y\"}))",
            &ParserOptions::default(),
        )
        .unwrap();
        let added = Matcher::equal("t", "x");
        restrict(&mut expr, std::slice::from_ref(&added));
        let found = selectors(&expr);
        assert_eq!(found.len(), 5);
        for matchers in &found {
            assert_eq!(matchers.iter().filter(|matcher| **matcher == added).count(), 1, "{matchers:?}");
        }
        assert!(found[4].contains(&Matcher::equal("t", "y")), "what was asked for stays");
    }
}
