//! What texts parse to, and the errors of those that do not.
//!
//! `parse/recorded.jsonl` holds what Prometheus 3.9.1 answered: the normal form of a query, or its error, without
//! feature flags and (`"features": true`, where it differs) with all of them.

use std::path::{Path, PathBuf};

use parallax_promql::ast::*;
use parallax_promql::parse::{
    MAX_DEPTH, MAX_INPUT_BYTES, MAX_NESTING, ParserOptions, parse, parse_selector, parse_selectors,
};
use serde_json::Value;

fn parsed(text: &str) -> Expr {
    parse(text, &ParserOptions::all_features()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn error_of(text: &str) -> String {
    parse(text, &ParserOptions::all_features()).expect_err(text).to_string()
}

/// The tree with every operation in parentheses.
fn grouped(text: &str) -> String {
    fn write(expr: &Expr) -> String {
        match &expr.kind {
            ExprKind::Binary(binary) => {
                format!("({} {} {})", write(&binary.left), binary.op.symbol(), write(&binary.right))
            }
            ExprKind::Unary { negate, operand } => {
                format!("({}{})", if *negate { '-' } else { '+' }, write(operand))
            }
            _ => expr.to_string(),
        }
    }
    write(&parsed(text))
}

#[test]
fn answers_are_those_prometheus_gave() {
    let recorded = include_str!("parse/recorded.jsonl");
    let mut wrong = Vec::new();
    for line in recorded.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let query = row["query"].as_str().unwrap();
        let options = match row["features"].as_bool() {
            Some(true) => ParserOptions::all_features(),
            _ => ParserOptions::default(),
        };
        let (ok, error) = match parse(query, &options) {
            Ok(expr) => (Some(expr.to_string()), None),
            Err(error) => (None, Some(error.to_string())),
        };
        if ok.as_deref() != row["ok"].as_str() || error.as_deref() != row["error"].as_str() {
            wrong.push(format!("{row}\n    got {ok:?} {error:?}"));
        }
    }
    assert!(recorded.lines().count() > 500);
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

fn golden_queries() -> Option<PathBuf> {
    let name = "golden/queries/prometheus-eu-1-replica-0.jsonl";
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let named = std::env::var_os("PARALLAX_SHARED").map(PathBuf::from);
    [named, Some(shared), Some(repository())].into_iter().flatten().map(|f| f.join(name)).find(|f| f.exists())
}

#[test]
fn golden_queries_parse_or_fail_as_recorded() {
    let Some(file) = golden_queries() else {
        println!("no golden queries at hand");
        return;
    };
    let whole = !file.starts_with(repository());
    let (mut good, mut bad) = (0, 0);
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let query = row["query"].as_str().unwrap();
        let error = row["response"]["error"].as_str().unwrap_or("");
        let result = parse(query, &ParserOptions::all_features());
        if error.contains("parse error:") {
            let found = format!("invalid parameter \"query\": {}", result.expect_err(query));
            assert_eq!(found, error, "{query}");
            bad += 1;
        } else {
            result.unwrap_or_else(|error| panic!("{query}: {error}"));
            good += 1;
        }
    }
    // The copy in the repository is a small one.
    let (least_good, least_bad) = if whole { (100, 30) } else { (10, 5) };
    assert!(good > least_good && bad > least_bad, "{good} good, {bad} bad");
}

#[test]
fn operators_bind_and_associate_as_documented() {
    for (text, tree) in [
        ("a + b * c ^ d", "(a + (b * (c ^ d)))"),
        ("a ^ b ^ c", "(a ^ (b ^ c))"),
        ("a - b - c", "((a - b) - c)"),
        ("a / b * c % d atan2 e", "((((a / b) * c) % d) atan2 e)"),
        ("-a ^ b", "(-(a ^ b))"),
        ("-a * b", "((-a) * b)"),
        ("2 ^ -a * b", "((2 ^ (-a)) * b)"),
        ("a or b and c unless d", "(a or ((b and c) unless d))"),
        ("a == b + c > d", "((a == (b + c)) > d)"),
        ("a and b == c", "(a and (b == c))"),
        ("-a offset 5m", "(-a offset 5m)"),
        ("a offset -2 ^ 2", "(a offset -2s ^ 2)"),
    ] {
        assert_eq!(grouped(text), tree, "{text}");
    }
}

#[test]
fn signs_fold_into_numbers_alone() {
    assert_eq!(parsed("-1").kind, ExprKind::Number(-1.0));
    assert_eq!(parsed("--1").kind, ExprKind::Number(1.0));
    assert!(matches!(parsed("-(1)").kind, ExprKind::Unary { negate: true, .. }));
    assert!(matches!(parsed("-1 ^ 2").kind, ExprKind::Unary { negate: true, .. }));
    assert_eq!(parsed("1h30m").kind, ExprKind::Number(5400.0));
}

#[test]
fn modifiers_come_in_any_order() {
    let expected = parsed("a[5m] offset 1m @ 10").to_string();
    assert_eq!(parsed("a[5m] @ 10 offset 1m").to_string(), expected);
    let ExprKind::Matrix(matrix) = parsed("a[5m] @ 1.5 offset -1m").kind else { panic!() };
    assert_eq!(matrix.range.kind, DurationKind::Literal(300_000));
    assert_eq!(matrix.selector.modifiers.at, Some(At::TimestampMs(1500)));
    assert_eq!(matrix.selector.modifiers.offset.unwrap().kind, DurationKind::Literal(-60_000));
    let ExprKind::Subquery(subquery) = parsed("a[1h:] @ end()").kind else { panic!() };
    assert_eq!((subquery.step, subquery.modifiers.at), (None, Some(At::End)));
    let ExprKind::Matrix(matrix) = parsed("a[5m] smoothed").kind else { panic!() };
    assert_eq!(matrix.selector.extension, RangeExtension::Smoothed);
}

#[test]
fn numbers_inside_duration_arithmetic_stay_numbers() {
    let ExprKind::Matrix(matrix) = parsed("a[2 * step() + 1m]").kind else { panic!() };
    let DurationKind::Binary { op: DurationOp::Add, left, right } = matrix.range.kind else { panic!() };
    assert_eq!(right.kind, DurationKind::Literal(60_000));
    let DurationKind::Binary { op: DurationOp::Mul, left, right } = left.kind else { panic!() };
    assert_eq!((left.kind, right.kind), (DurationKind::Number(2.0), DurationKind::Step));
}

#[test]
fn matching_exists_between_vectors_alone() {
    let matching = |text: &str| match parsed(text).kind {
        ExprKind::Binary(binary) => binary.matching,
        other => panic!("{other:?}"),
    };
    assert_eq!(matching("1 + 2"), None);
    assert_eq!(matching("a + 2"), None);
    let sets = matching("a and on(x) b").unwrap();
    assert_eq!((sets.cardinality, sets.on), (Cardinality::ManyToMany, true));
    assert_eq!(sets.labels, ["x"]);
    let grouped = matching("a * ignoring(x) group_left(\"y.z\", by) b").unwrap();
    assert_eq!(grouped.cardinality, Cardinality::ManyToOne);
    assert_eq!(grouped.include, ["y.z", "by"]);
}

#[test]
fn aggregations_take_their_clause_on_either_side() {
    assert_eq!(parsed("sum by (x) (a)").to_string(), parsed("sum(a) by (x)").to_string());
    let ExprKind::Aggregate(aggregate) = parsed("topk without (x) (5, a)").kind else { panic!() };
    assert_eq!(aggregate.op, AggregateOp::Topk);
    assert_eq!(aggregate.grouping, Grouping::Without(vec!["x".to_owned()]));
    assert_eq!(aggregate.parameter.unwrap().kind, ExprKind::Number(5.0));
}

#[test]
fn every_node_knows_its_place() {
    let text = " sum by (x) (rate(a{b=\"c\"}[5m] offset 1m)) / -(b)";
    let place = |expr: &Expr| text[expr.pos.start..expr.pos.end].to_owned();
    let expr = parsed(text);
    assert_eq!(place(&expr), text.trim());
    let ExprKind::Binary(binary) = expr.kind else { panic!() };
    assert_eq!(place(&binary.left), "sum by (x) (rate(a{b=\"c\"}[5m] offset 1m))");
    assert_eq!(place(&binary.right), "-(b)");
    let ExprKind::Aggregate(aggregate) = binary.left.kind else { panic!() };
    let ExprKind::Call(call) = aggregate.operand.kind else { panic!() };
    assert_eq!(place(&call.arguments[0]), "a{b=\"c\"}[5m] offset 1m");
    let ExprKind::Matrix(matrix) = &call.arguments[0].kind else { panic!() };
    assert_eq!(&text[matrix.selector_pos.start..matrix.selector_pos.end], "a{b=\"c\"}");
}

#[test]
fn syntax_after_3_9_needs_its_option() {
    let options = ParserOptions { later_syntax: true, ..ParserOptions::all_features() };
    let printed = |text: &str| parse(text, &options).map(|expr| expr.to_string());
    for text in [
        "a + fill (0) b",
        "a + on (x) group_left (y) fill_left (1) fill_right (-1) b",
        "a </ 5",
        "a >/ b",
        "a[range()]",
        "fill + fill",
        "a offset -range()",
    ] {
        assert_eq!(printed(text).as_deref(), Ok(text));
    }
    for text in ["a + fill (0) b", "a </ 5", "a[range()]"] {
        assert!(parse(text, &ParserOptions::all_features()).is_err(), "{text}");
    }
    for text in ["a and fill(1) b", "1 + fill(1) 2", "a + fill(x) b", "a + fill(1) fill(2) b"] {
        assert!(printed(text).is_err(), "{text}");
    }
}

#[test]
fn selectors_stand_alone_in_match_parameters() {
    let texts = |text: &str| {
        let matchers = parse_selector(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    };
    assert_eq!(texts("up{job=\"x\"}"), "job=\"x\",__name__=\"up\"");
    assert_eq!(texts("{\"a.b\", c!~'d'}"), "__name__=\"a.b\",c!~\"d\"");
    assert_eq!(texts("{}"), "");
    for bad in ["", "up[5m]", "up offset 5m", "sum(up)", "1", "up or down", "up{"] {
        assert!(parse_selector(bad).is_err(), "{bad}");
    }
    assert_eq!(parse_selectors(&["a", "b{c=\"d\"}"]).unwrap().len(), 2);
    assert!(parse_selectors(&["a", "b{"]).is_err());
}

#[test]
fn depth_is_bounded_before_the_stack_is() {
    let chain = |operands: usize| vec!["a"; operands].join(" or ");
    assert!(parse(&chain(MAX_DEPTH), &ParserOptions::default()).is_ok());
    assert!(error_of(&chain(MAX_DEPTH + 1)).contains("levels deep"));
    let parens = |levels: usize| format!("{}a{}", "(".repeat(levels), ")".repeat(levels));
    assert!(parse(&parens(MAX_NESTING - 1), &ParserOptions::default()).is_ok());
    assert!(error_of(&parens(MAX_NESTING)).contains("nested"));
    for opening in ["(", "sum(", "-", "rate(a[1m:", "a[(", "a[-", "a offset (", "a ^ ", "a[min(", "{"] {
        assert!(!error_of(&opening.repeat(100_000)).is_empty());
    }
    let longest = format!("a{}", " ".repeat(MAX_INPUT_BYTES));
    assert!(error_of(&longest).contains("longer than"));
}
