//! What a query tells about itself: the plan, samples per step as Prometheus counts them, and what each operator did.

use parallax_model::{Labels, SeriesData};
use parallax_promql::engine::{
    Engine, EngineOptions, Interrupt, OperatorStats, PlanNode, QueryOutcome, QueryRange, StatsOptions,
};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};

const MINUTE_MS: i64 = 60_000;
const RANGE: QueryRange = QueryRange { start_ms: 0, end_ms: 2 * MINUTE_MS, step_ms: MINUTE_MS };

/// `x_total{pod="a|b|c"}`, a float every 15 s over 10 min.
fn three_pods() -> MemorySource {
    let mut source = MemorySource::new();
    for pod in ["a", "b", "c"] {
        let labels = Labels::from_pairs([("__name__", "x_total"), ("pod", pod)]);
        let mut series = SeriesData { labels, ..SeriesData::default() };
        (0..40).for_each(|at| series.floats.push(at * 15_000, at as f64));
        source.insert(series);
    }
    source
}

fn run(query: &str, stats: StatsOptions) -> QueryOutcome {
    let expr = parse(query, &ParserOptions::all_features()).expect(query);
    let engine = Engine::new(EngineOptions { stats, ..EngineOptions::default() });
    engine.query_text(&three_pods(), query, &expr, RANGE, &Interrupt::none()).expect(query)
}

fn explained(query: &str) -> PlanNode {
    let expr = parse(query, &ParserOptions::all_features()).expect(query);
    Engine::default().explain(&expr, RANGE).expect(query)
}

/// One line per operator, two blanks per level.
fn indented(node: &PlanNode, depth: usize, text: &mut String) {
    text.push_str(&format!("{}{}\n", "  ".repeat(depth), node.name));
    node.children.iter().for_each(|child| indented(child, depth + 1, text));
}

fn names(operator: &OperatorStats) -> PlanNode {
    PlanNode { name: operator.name.clone(), children: operator.children.iter().map(names).collect() }
}

#[test]
fn a_plan_shows_each_operator_under_the_one_it_feeds() {
    for (query, tree) in [
        ("1", "[numberLiteral] 1\n"),
        ("\"text\"", "[stringLiteral] \"text\"\n"),
        ("(x_total)", "[vectorSelector] x_total\n"),
        (
            "sum by (pod, job) (rate(x_total{job=\"a\"}[5m]))",
            "[aggregate] sum by (pod, job)\n  [matrixSelector] rate(x_total{job=\"a\"}[5m])\n",
        ),
        (
            "topk without (pod) (2, -x_total) > bool on (pod) group_left () y",
            "[vectorBinary] > bool on (pod) group_left ()\n  [kaggregate] topk without (pod)\n    [numberLiteral] 2\n    \
             [unaryNegation]\n      [vectorSelector] x_total\n  [vectorSelector] y\n",
        ),
        (
            "max_over_time(abs(x_total)[10m:1m]) + 1",
            "[vectorScalarBinary] +\n  [subquery] max_over_time([10m:1m])\n    [function] abs\n      \
             [vectorSelector] x_total\n  [numberLiteral] 1\n",
        ),
        (
            "rate(x_total[5m] @ 100) * 2",
            "[stepInvariant]\n  [vectorScalarBinary] *\n    [matrixSelector] rate(x_total[5m] @ 100.000)\n    \
             [numberLiteral] 2\n",
        ),
        ("timestamp(x_total)", "[function] timestamp\n  [vectorSelector] x_total\n"),
        (
            "info(x_total)",
            "[function] info\n  [vectorSelector] x_total\n  [vectorSelector] of info metrics\n",
        ),
        ("count_values(\"v\", x_total)", "[countValues] count_values by ()\n  [vectorSelector] x_total\n"),
    ] {
        let mut text = String::new();
        indented(&explained(query), 0, &mut text);
        assert_eq!(text, tree, "{query}");
    }
}

#[test]
fn a_range_vector_is_a_plan_of_its_own() {
    let expr = parse("x_total[5m]", &ParserOptions::default()).unwrap();
    let at = QueryRange::instant(10 * MINUTE_MS);
    let name = "[matrixSelector] x_total[5m]";
    assert_eq!(Engine::default().explain(&expr, at).unwrap().name, name);
    let stats = StatsOptions { operators: true, per_step: true };
    let engine = Engine::new(EngineOptions { stats, ..EngineOptions::default() });
    let outcome = engine.query(&three_pods(), &expr, at, &Interrupt::none()).unwrap();
    let operator = outcome.stats.operators.unwrap();
    // The last sample is at 9:45, the first after 5:00 at 5:15.
    assert_eq!((operator.name.as_str(), operator.series, operator.samples), (name, 3, 3 * 19));
    assert_eq!(operator.total_samples, 3 * 19);
    assert_eq!(outcome.stats.total_samples_per_step, Some(vec![3 * 19]));
}

#[test]
fn a_very_long_selector_is_cut_in_a_plan() {
    let query = format!("x{{a=\"{}\"}}", "я".repeat(5000));
    let name = explained(&query).name;
    assert!(name.ends_with('…') && name.chars().count() == 401, "{name}");
}

#[test]
fn samples_are_counted_for_each_step_as_in_prometheus() {
    for (query, per_step) in [
        // The newest sample of each series.
        ("x_total", [3, 3, 3]),
        ("sum(x_total) + sum(x_total)", [6, 6, 6]),
        // A window counts whole at every step.
        ("rate(x_total[1m])", [3, 12, 12]),
        // What is the same at every step counts at each of them.
        ("x_total @ 60", [3, 3, 3]),
        ("sum(rate(x_total[1m] @ 60))", [12, 12, 12]),
        ("x_total + on (pod) sum by (pod) (rate(x_total[1m] @ 60))", [15, 15, 15]),
        // The inner expression of a subquery does not count, the windows over its result do.
        ("max_over_time(rate(x_total[1m])[2m:1m])", [0, 3, 6]),
        ("sum_over_time(x_total[2m:30s])", [3, 9, 12]),
        ("timestamp(x_total)", [3, 3, 3]),
        ("vector(1)", [0, 0, 0]),
    ] {
        let outcome = run(query, StatsOptions { per_step: true, ..StatsOptions::default() });
        assert_eq!(outcome.stats.total_samples_per_step.as_deref(), Some(per_step.as_slice()), "{query}");
        assert_eq!(outcome.stats.total_samples, per_step.iter().sum::<u64>(), "{query}");
        assert_eq!(run(query, StatsOptions::default()).stats.total_samples_per_step, None);
    }
}

#[test]
fn an_analysis_tells_what_each_operator_handed_on() {
    let query = "sum(rate(x_total[1m])) / 2";
    let outcome = run(query, StatsOptions { operators: true, ..StatsOptions::default() });
    let division = outcome.stats.operators.expect("an analysis");
    assert_eq!(names(&division), explained(query));
    let sum = &division.children[0];
    let rate = &sum.children[0];
    // At 0:00 there is one sample, which makes no rate.
    assert_eq!((rate.series, rate.samples, rate.total_samples), (3, 6, 27));
    assert_eq!((sum.series, sum.samples, sum.total_samples), (1, 2, 27));
    assert_eq!((division.series, division.samples, division.total_samples), (1, 2, 27));
    assert_eq!((rate.peak_samples, division.peak_samples), (6, 6));
    assert!(
        rate.size_bytes > sum.size_bytes && sum.size_bytes >= 3 * 8,
        "{} {}",
        rate.size_bytes,
        sum.size_bytes
    );
    assert!(division.execution_time >= sum.execution_time && sum.execution_time >= rate.execution_time);
    assert!(outcome.stats.timings.inner_eval >= division.execution_time);
    assert!(rate.execution_time > std::time::Duration::ZERO);
}

#[test]
fn nothing_is_measured_unasked() {
    let outcome = run("sum(x_total)", StatsOptions::default());
    assert_eq!((outcome.stats.operators, outcome.stats.total_samples_per_step), (None, None));
    assert_eq!(outcome.stats.total_samples, 9);
}
