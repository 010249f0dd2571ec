//! The selectors of an expression: what series it can read.

use parallax_model::Matcher;

use crate::ast::{Expr, ExprKind};

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
}
