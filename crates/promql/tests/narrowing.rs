//! Matchers that reach the other side of a vector match: which do, and that answers, errors and annotations are the same without.

use std::sync::Arc;

use parallax_model::{FloatHistogram, Labels};
use parallax_promql::engine::{Engine, EngineOptions, Interrupt, PlanNode, QueryRange, StatsOptions};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};
use proptest::prelude::*;

const RANGE: QueryRange = QueryRange { start_ms: 0, end_ms: 120_000, step_ms: 30_000 };

fn parsed(query: &str) -> parallax_promql::ast::Expr {
    parse(query, &ParserOptions { later_syntax: true, ..ParserOptions::all_features() }).expect(query)
}

/// The instant selectors of a plan, in order.
fn selectors(query: &str, options: EngineOptions) -> Vec<String> {
    fn gather(node: &PlanNode, all: &mut Vec<String>) {
        all.extend(node.name.strip_prefix("[vectorSelector] ").map(str::to_owned));
        node.children.iter().for_each(|child| gather(child, all));
    }
    let mut all = Vec::new();
    gather(&Engine::new(options).explain(&parsed(query), RANGE).expect(query), &mut all);
    all
}

#[test]
fn series_that_no_partner_can_have_are_not_selected() {
    for (query, read) in [
        ("x{a=\"1\"} / y", ["x{a=\"1\"}", "y{a=\"1\"}"]),
        ("x{a=\"1\"} / y{b!~\"2|3\"}", ["x{a=\"1\",b!~\"2|3\"}", "y{a=\"1\",b!~\"2|3\"}"]),
        ("(x) > bool ((y{a=\"\"}))", ["x{a=\"\"}", "y{a=\"\"}"]),
        ("x{a=\"1\"} * ignoring () y{a=\"1\"}", ["x{a=\"1\"}", "y{a=\"1\"}"]),
        ("x{a=\"1\",b=\"2\"} and on (a) y", ["x{a=\"1\",b=\"2\"}", "y{a=\"1\"}"]),
        (
            "x{a=\"1\",b=\"2\"} and ignoring (a) y{c=\"3\"}",
            ["x{a=\"1\",b=\"2\",c=\"3\"}", "y{b=\"2\",c=\"3\"}"],
        ),
        ("x{a=\"1\"} unless on (a, b) y{b=\"2\"}", ["x{a=\"1\"}", "y{a=\"1\",b=\"2\"}"]),
        ("sum by (a) (x{a=\"1\",b=\"2\"}) and on (a, b) y", ["x{a=\"1\",b=\"2\"}", "y{a=\"1\"}"]),
        ("sum without (b) (x{a=\"1\",b=\"2\"}) and on (a, b) y", ["x{a=\"1\",b=\"2\"}", "y{a=\"1\"}"]),
        ("-abs(x{a=\"1\"} * 2) < y", ["x{a=\"1\"}", "y{a=\"1\"}"]),
        ("topk(1, 3 - x{a=\"1\"}) and y", ["x{a=\"1\"}", "y{a=\"1\"}"]),
        (
            "label_replace(x{a=\"1\",b=\"2\"}, \"b\", \"$1\", \"a\", \"(.*)\") and y",
            ["x{a=\"1\",b=\"2\"}", "y{a=\"1\"}"],
        ),
        ("histogram_quantile(0.9, x{a=\"1\",le=\"2\"}) and y", ["x{a=\"1\",le=\"2\"}", "y{a=\"1\"}"]),
        ("count_values(\"a\", x{a=\"1\",b=\"2\"}) by (a, b) and y", ["x{a=\"1\",b=\"2\"}", "y{b=\"2\"}"]),
        ("max_over_time((x{a=\"1\"} * y)[5m:1m])", ["x{a=\"1\"}", "y{a=\"1\"}"]),
    ] {
        // Matchers are printed in the order of their text.
        assert_eq!(selectors(query, EngineOptions::default()), read, "{query}");
    }
    let three = "(x{a=\"1\"} and y{b=\"2\"}) and z";
    let all = ["x{a=\"1\",b=\"2\"}", "y{a=\"1\",b=\"2\"}", "z{a=\"1\",b=\"2\"}"];
    assert_eq!(selectors(three, EngineOptions::default()), all);
}

#[test]
fn what_could_change_an_answer_or_an_error_is_selected_whole() {
    let plain = |query: &str| selectors(query, EngineOptions::default());
    for query in [
        // Series without a partner count.
        "x{a=\"1\"} or y",
        "x{a=\"1\"} + ignoring () fill (0) y",
        // Doubles are refused, and those that match nothing as well.
        "x{a=\"1\"} * on (a) y",
        "x{a=\"1\"} * ignoring (b) y",
        "x{a=\"1\"} * on (a) group_left () y",
        "{b=\"2\"} * y",
        // Labels of the result are not those that were selected.
        "absent(x{a=\"1\"}) and y",
        "vector(scalar(x{a=\"1\"})) and y",
        "label_join(x{a=\"1\"}, \"a\", \"-\", \"b\") and y",
        "info(x{a=\"1\"}) and y",
        "(x{a=\"1\"} + on (a) group_left () vector(1)) and y",
        // Range functions and smoothed selectors have something to say about what they select.
        "x{a=\"1\"} and y smoothed",
        // The label is not matched.
        "x{a=\"1\"} and on (b) y",
        "x{a=\"1\"} and ignoring (a) y",
        "sum by (b) (x{a=\"1\"}) and y",
    ] {
        assert!(
            !plain(query).iter().any(|selector| selector.starts_with("y{")),
            "{query}: {:?}",
            plain(query)
        );
    }
    assert_eq!(plain("x unless y{a=\"1\"}"), ["x", "y{a=\"1\"}"]);
    let many: String = (0..70).map(|number| format!("a!=\"{number}\",")).collect();
    assert_eq!(plain(&format!("y and x{{{many}}}"))[0], "y");
}

#[test]
fn labels_that_series_do_not_show_are_nobodys_to_match() {
    let unseen_labels = vec!["replica".to_owned()];
    let options = EngineOptions { unseen_labels, ..EngineOptions::default() };
    let query = "x{replica=\"0\",a=\"1\"} and y";
    assert_eq!(selectors(query, options), ["x{a=\"1\",replica=\"0\"}", "y{a=\"1\"}"]);
    let shown = ["x{a=\"1\",replica=\"0\"}", "y{a=\"1\",replica=\"0\"}"];
    assert_eq!(selectors(query, EngineOptions::default()), shown);
}

#[test]
fn names_that_are_dropped_late_keep_expressions_apart() {
    let query = "rate({__name__=~\"x|z\",a=\"1\"}[5m]) * y";
    assert_eq!(selectors(query, EngineOptions::default()), ["y{a=\"1\"}"]);
    let late = EngineOptions { delayed_name_removal: true, ..EngineOptions::default() };
    assert_eq!(selectors(query, late), ["y"]);
}

/// What a query gives, as text; with or without narrowing, which samples that are counted step by step rule out.
fn answered(source: &MemorySource, query: &str, is_narrowed: bool, is_late: bool) -> String {
    let stats = StatsOptions { per_step: !is_narrowed, ..StatsOptions::default() };
    let options = EngineOptions { stats, delayed_name_removal: is_late, ..EngineOptions::default() };
    match Engine::new(options).query_text(source, query, &parsed(query), RANGE, &Interrupt::none()) {
        Ok(outcome) => format!("{:?} {:?} {:?}", outcome.value, outcome.warnings, outcome.infos),
        // Which of several doubles is named is chance.
        Err(error) => error.to_string().split(" group").next().unwrap_or_default().to_owned(),
    }
}

/// `x`, `y` and `z` with some of the labels `a` and `b`, each as numbers of a few bits: label values, samples, and now and then a histogram.
fn source(seeds: &[u16]) -> MemorySource {
    let mut source = MemorySource::new();
    for seed in seeds.iter().map(|seed| usize::from(*seed)) {
        let mut pairs = vec![("__name__", ["x", "y", "z", "y"][seed % 4])];
        for (name, value) in [("a", seed / 4 % 4), ("b", seed / 16 % 4), ("c", seed / 64 % 2)] {
            pairs.extend(["1", "2", "3"].get(value).map(|text| (name, *text)));
        }
        let labels = Labels::from_pairs(pairs);
        for at in (0..8).filter(|at| seed >> (at + 7) & 1 == 0) {
            let at_ms = i64::from(at) * 15_000;
            if seed.is_multiple_of(11) && at % 2 == 0 {
                let histogram = FloatHistogram { count: 1.0, sum: 2.0, ..FloatHistogram::default() };
                source.push_histogram(&labels, at_ms, Arc::new(histogram));
            } else {
                source.push_float(&labels, at_ms, (seed % 13) as f64);
            }
        }
    }
    source
}

fn side() -> impl Strategy<Value = String> {
    let selector = (prop::sample::select(vec!["x", "y", "z", "{__name__=~\"x|y\"}"]), matchers()).prop_map(
        |(name, matchers)| match name.strip_suffix('}') {
            Some(open) => format!("{open},{matchers}}}"),
            None => format!("{name}{{{matchers}}}"),
        },
    );
    let wrapped = (
        selector.clone(),
        prop::sample::select(vec![
            "(#)",
            "-#",
            "abs(#)",
            "# * 2",
            "sum by (a) (#)",
            "sum without (a) (#)",
            "max_over_time(#[1m])",
            "rate(#[1m])",
            "count_values(\"a\", #) without (c)",
            "label_replace(#, \"a\", \"$1\", \"b\", \"(.*)\")",
            "topk(1, #)",
            "# @ 60",
            "# offset 15s",
        ]),
    )
        .prop_map(|(selector, around)| around.replace('#', &selector));
    prop_oneof![2 => selector, 3 => wrapped]
}

fn matchers() -> impl Strategy<Value = String> + Clone {
    let one = (prop::sample::select(vec!["a", "b", "c"]), prop::sample::select(vec!["=", "!=", "=~", "!~"]))
        .prop_flat_map(|(name, op)| {
            prop::sample::select(vec!["", "1", "2", "1|2", ".+"])
                .prop_map(move |value| format!("{name}{op}\"{value}\""))
        });
    prop::collection::vec(one, 0..3).prop_map(|all| all.join(","))
}

fn operator() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "and",
        "and on (a)",
        "and ignoring (a)",
        "unless",
        "unless on (b, a)",
        "or",
        "or on (a)",
        "+",
        "/ ignoring ()",
        "* on (a)",
        "- ignoring (c)",
        "* on (a) group_left (b)",
        "> bool",
        "==",
        "<",
        "+ ignoring () fill (7)",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn narrowed_or_not_the_answer_is_the_same(
        seeds in prop::collection::vec(any::<u16>(), 0..24),
        sides in (side(), side(), side()),
        operators in (operator(), operator()),
        is_late: bool,
    ) {
        let source = source(&seeds);
        let (left, middle, right) = sides;
        let query = format!("({left}) {} (({middle}) {} {right})", operators.0, operators.1);
        let parser = ParserOptions { later_syntax: true, ..ParserOptions::all_features() };
        prop_assume!(parse(&query, &parser).is_ok());
        let [narrowed, whole] = [true, false].map(|is_narrowed| answered(&source, &query, is_narrowed, is_late));
        prop_assert_eq!(narrowed, whole, "{}", query);
    }
}
