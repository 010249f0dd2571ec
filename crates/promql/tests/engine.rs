//! What the engine promises besides answers: when it reads, how much it holds, how it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parallax_model::{FloatHistogram, Labels, SeriesData};
use parallax_promql::engine::{
    Engine, EngineOptions, Interrupt, QueryError, QueryOutcome, QueryRange, StatsOptions,
};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::source::{Delivered, Selection, SeriesStream, Source, SourceError};
use parallax_promql::value::{QueryValue, Sample};
use proptest::prelude::*;

/// Series made on the fly, and counts of what was asked for.
#[derive(Default)]
struct Generated {
    series: usize,
    batch: usize,
    selects: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    selects_at_first_read: Arc<AtomicUsize>,
    fail_after: Option<usize>,
}

struct Stream {
    left: usize,
    next: usize,
    batch: usize,
    range: (i64, i64),
    reads: Arc<AtomicUsize>,
    selects: Arc<AtomicUsize>,
    selects_at_first_read: Arc<AtomicUsize>,
    fail_after: Option<usize>,
}

const SCRAPE_MS: i64 = 15_000;

impl Source for Generated {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        self.selects.fetch_add(1, Ordering::Relaxed);
        assert!(selection.query_range.min_ms <= selection.range.min_ms);
        assert!(selection.query_range.max_ms >= selection.range.max_ms);
        Ok(Box::new(Stream {
            left: self.series,
            next: 0,
            batch: self.batch.max(1),
            range: (selection.range.min_ms, selection.range.max_ms),
            reads: self.reads.clone(),
            selects: self.selects.clone(),
            selects_at_first_read: self.selects_at_first_read.clone(),
            fail_after: self.fail_after,
        }))
    }
}

impl SeriesStream for Stream {
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            self.selects_at_first_read.store(self.selects.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if self.fail_after.is_some_and(|after| self.next >= after) {
            return Err(SourceError::Storage("store eu-1 went away".to_owned()));
        }
        if self.left == 0 {
            return Ok(None);
        }
        let count = self.batch.min(self.left);
        self.left -= count;
        let mut batch = Vec::with_capacity(count);
        for _ in 0..count {
            let number = format!("{:08}", self.next);
            let group = (self.next % 3).to_string();
            let labels =
                Labels::from_pairs([("__name__", "x_total"), ("group", &group), ("instance", &number)]);
            let mut series = SeriesData { labels, ..SeriesData::default() };
            let mut at = self.range.0.div_euclid(SCRAPE_MS) * SCRAPE_MS;
            while at <= self.range.1 {
                if at >= self.range.0 {
                    series.floats.push(at, at as f64 / 1000.0);
                }
                at += SCRAPE_MS;
            }
            self.next += 1;
            batch.push(series.into());
        }
        Ok(Some(batch))
    }

    fn take_warnings(&mut self) -> Vec<String> {
        vec!["store us-1 is not reachable".to_owned()]
    }
}

const HOUR: QueryRange = QueryRange { start_ms: 3_600_000, end_ms: 7_200_000, step_ms: 60_000 };

fn run(source: &dyn Source, options: EngineOptions, query: &str) -> Result<QueryOutcome, QueryError> {
    run_until(source, options, query, &Interrupt::none())
}

fn run_until(
    source: &dyn Source,
    options: EngineOptions,
    query: &str,
    interrupt: &Interrupt,
) -> Result<QueryOutcome, QueryError> {
    let expr = parse(query, &ParserOptions::all_features()).expect(query);
    Engine::new(options).query_text(source, query, &expr, HOUR, interrupt)
}

#[test]
fn all_selections_are_opened_before_one_is_read() {
    let source = Generated { series: 4, batch: 2, ..Generated::default() };
    run(&source, EngineOptions::default(), "sum(x_total) / sum(y_total) + on() sum(z_total)").unwrap();
    assert_eq!(source.selects.load(Ordering::Relaxed), 3);
    assert_eq!(source.selects_at_first_read.load(Ordering::Relaxed), 3);
}

#[test]
fn identical_selections_are_read_once() {
    let source = Generated { series: 5, batch: 2, ..Generated::default() };
    let query = "rate(x_total[5m]) / rate(x_total[5m])";
    let outcome = run(&source, EngineOptions::default(), query).unwrap();
    assert_eq!(source.selects.load(Ordering::Relaxed), 1);
    // Three batches and the end.
    assert_eq!(source.reads.load(Ordering::Relaxed), 4);
    let QueryValue::Matrix(matrix) = outcome.value else { panic!("a matrix") };
    assert_eq!(matrix.len(), 5);
    assert!(matrix.iter().all(|series| series.floats.values.iter().all(|value| *value == 1.0)));
}

#[test]
fn an_aggregation_holds_groups_and_one_batch_but_not_the_series() {
    let query = "sum by (group) (rate(x_total[5m]))";
    let few = Generated { series: 60, batch: 20, ..Generated::default() };
    let many = Generated { series: 2000, batch: 20, ..Generated::default() };
    let few = run(&few, EngineOptions::default(), query).unwrap();
    let many = run(&many, EngineOptions::default(), query).unwrap();
    assert!(many.stats.total_samples > 30 * few.stats.total_samples);
    assert_eq!(many.stats.peak_samples, few.stats.peak_samples);
}

#[test]
fn a_query_that_would_hold_too_much_is_refused() {
    let options = EngineOptions { max_samples: 10_000, ..EngineOptions::default() };
    let source = Generated { series: 2000, batch: 20, ..Generated::default() };
    let error = run(&source, options.clone(), "x_total").unwrap_err();
    assert!(matches!(error, QueryError::TooManySamples));
    assert_eq!(
        error.to_string(),
        "query processing would load too many samples into memory in query execution"
    );
    run(&source, options, "sum(x_total)").unwrap();
}

#[test]
fn a_subquery_with_absurdly_many_steps_is_refused_before_anything_is_read() {
    let source = Generated { series: 1, batch: 1, ..Generated::default() };
    let error = run(&source, EngineOptions::default(), "sum_over_time(x_total[100y:1ms])").unwrap_err();
    assert!(matches!(error, QueryError::TooManySamples));
    assert_eq!(source.reads.load(Ordering::Relaxed), 0);
}

#[test]
fn a_canceled_query_and_one_past_its_deadline_end() {
    let source = Generated { series: 10, batch: 1, ..Generated::default() };
    let canceled = Interrupt::none();
    canceled.cancel();
    let result = run_until(&source, EngineOptions::default(), "x_total", &canceled);
    assert!(matches!(result, Err(QueryError::Canceled)));
    let past = Interrupt::at(Instant::now() - Duration::from_secs(1));
    let error = run_until(&source, EngineOptions::default(), "x_total", &past).unwrap_err();
    assert_eq!(error.to_string(), "query timed out in expression evaluation");
}

#[test]
fn a_failing_source_fails_the_query_and_its_warnings_are_handed_on() {
    let failing = Generated { series: 10, batch: 1, fail_after: Some(3), ..Generated::default() };
    let error = run(&failing, EngineOptions::default(), "sum(x_total)").unwrap_err();
    assert_eq!(error.to_string(), "expanding series: store eu-1 went away");
    let warning = Generated { series: 1, batch: 1, ..Generated::default() };
    let outcome = run(&warning, EngineOptions::default(), "x_total").unwrap();
    assert_eq!(outcome.warnings, ["store us-1 is not reachable"]);
}

#[test]
fn what_is_the_same_at_every_step_is_evaluated_once() {
    let source = Generated { series: 3, batch: 3, ..Generated::default() };
    let stats = StatsOptions { operators: true, ..StatsOptions::default() };
    let options = EngineOptions { stats, ..EngineOptions::default() };
    let once = run(&source, options, "sum(rate(x_total[5m] @ 3600))").unwrap();
    // Twenty samples in the window of each of three series, which count for every step as if each had looked at them.
    assert_eq!(once.stats.total_samples, 60 * 61);
    let operators = once.stats.operators.expect("an analysis");
    assert_eq!((operators.name.as_str(), operators.total_samples), ("[stepInvariant]", 60));
    let QueryValue::Matrix(matrix) = once.value else { panic!("a matrix") };
    assert_eq!(matrix[0].floats.len(), 61);
}

#[test]
fn an_instant_query_is_the_last_step_of_a_range_query() {
    let source = Generated { series: 7, batch: 3, ..Generated::default() };
    for query in ["rate(x_total[5m])", "sum by (group) (x_total)", "x_total > 7100", "time() * 2"] {
        let expr = parse(query, &ParserOptions::default()).unwrap();
        let engine = Engine::default();
        let at = QueryRange::instant(HOUR.end_ms);
        let instant = engine.query(&source, &expr, at, &Interrupt::none()).unwrap().value;
        let QueryValue::Matrix(matrix) =
            engine.query(&source, &expr, HOUR, &Interrupt::none()).unwrap().value
        else {
            panic!("a matrix")
        };
        let last: Vec<f64> = matrix
            .iter()
            .filter(|series| series.floats.timestamps_ms.last() == Some(&HOUR.end_ms))
            .filter_map(|series| series.floats.values.last().copied())
            .collect();
        let values: Vec<f64> = match instant {
            QueryValue::Scalar { value, .. } => vec![value],
            QueryValue::Vector(samples) => samples
                .into_iter()
                .map(|sample| match sample.sample {
                    Sample::Float(value) => value,
                    Sample::Histogram(_) => panic!("a float"),
                })
                .collect(),
            other => panic!("{query}: {other:?}"),
        };
        assert_eq!(values, last, "{query}");
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("x_total".to_owned()),
        Just("{instance=~\".*1\",__name__=~\"x.+\"}".to_owned()),
        Just("rate(x_total[1m])".to_owned()),
        Just("x_total @ 4000".to_owned()),
        Just("x_total offset -7m".to_owned()),
        Just("vector(NaN)".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone(), "(\\+|-|/|> bool|==|and|or|unless)")
                .prop_map(|(a, b, op)| format!("({a}) {op} ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) * on(group) group_left() ({b})")),
            (inner.clone(), "(sum|avg|min|stddev|count|group)")
                .prop_map(|(a, op)| format!("{op} by (group) ({a})")),
            (inner.clone(), "(topk|bottomk|limitk|quantile|limit_ratio)")
                .prop_map(|(a, op)| format!("{op}(0.7 * scalar({a}), {a})")),
            (inner.clone(), "(max|avg|changes|quantile)").prop_map(|(a, f)| match f.as_str() {
                "changes" => format!("changes(({a})[5m:1m])"),
                "quantile" => format!("quantile_over_time(0.3, ({a})[7m:2m] offset 1m)"),
                f => format!("{f}_over_time(({a})[10m:])"),
            }),
            (inner.clone(), "(abs|sort_desc|absent|timestamp|histogram_count|-|day_of_year)")
                .prop_map(|(a, f)| format!("{f}({a})")),
            inner
                .clone()
                .prop_map(|a| format!("label_replace({a}, \"instance\", \"$1\", \"group\", \"(.*)\")")),
            inner.prop_map(|a| format!("histogram_quantile(0.9, {a})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever the expression, the engine answers or refuses, within its budget, and the answer is in order.
    #[test]
    fn any_expression_is_answered_or_refused(query in expression(), series in 0usize..8, batch in 1usize..4) {
        let source = Generated { series, batch, ..Generated::default() };
        let options = EngineOptions { max_samples: 200_000, ..EngineOptions::default() };
        if let Ok(outcome) = run(&source, options, &query) {
            prop_assert!(outcome.stats.peak_samples <= 200_000);
            let QueryValue::Matrix(matrix) = outcome.value else { panic!("a matrix") };
            for pair in matrix.windows(2) {
                prop_assert!(pair[0].labels < pair[1].labels, "{query}");
            }
            for series in &matrix {
                prop_assert!(series.sample_count() > 0);
                prop_assert!(series.floats.timestamps_ms.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}

/// Notes what is selected, and has nothing.
#[derive(Default)]
struct Noting(std::sync::Mutex<Vec<Selection>>);

impl Source for Noting {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        self.0.lock().unwrap().push(selection.clone());
        let nothing = Generated { batch: 1, ..Generated::default() };
        nothing.select(selection)
    }
}

#[test]
fn what_will_be_selected_can_be_told_before() {
    for query in [
        "x_total",
        "sum by (group) (rate(x_total[5m]))",
        "x_total offset 5m / on (group) sum by (group) (x_total @ 4000)",
        "max_over_time(rate(x_total[5m])[10m:1m])",
        "absent(x_total) or vector(1)",
        "topk(3, x_total{group=~\"a|b\"})",
    ] {
        let expr = parse(query, &ParserOptions::all_features()).expect(query);
        let (source, engine) = (Noting::default(), Engine::default());
        engine.query_text(&source, query, &expr, HOUR, &Interrupt::none()).expect(query);
        let told = engine.selections(&expr, HOUR, &Interrupt::none()).expect(query);
        assert_eq!(*source.0.lock().unwrap(), told, "{query}");
        assert!(!told.is_empty(), "{query}");
    }
}

#[test]
fn notes_of_range_functions_over_subqueries_stand_at_the_beginning() {
    let mut source = MemorySource::new();
    let (float, histogram) =
        (Labels::from_pairs([("__name__", "f")]), Labels::from_pairs([("__name__", "h")]));
    for at in 0..60 {
        source.push_float(&float, at * 60_000, at as f64);
        source.push_histogram(&histogram, at * 60_000, Arc::new(FloatHistogram::default()));
    }
    let info = |place: &str| {
        let text =
            "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
        (Vec::new(), vec![format!("{text} \"f\" {place}")])
    };
    let gauge = |place: &str| {
        (
            vec![format!("PromQL warning: this native histogram metric is not a gauge: \"h\" {place}")],
            Vec::new(),
        )
    };
    let quantile = |place: &str| {
        (vec![format!("PromQL warning: quantile value should be between 0 and 1, got 2 {place}")], Vec::new())
    };
    for (query, notes) in [
        ("1 + rate(f[10m:1m])", info("(1:1)")),
        ("increase((f[10m:1m]))", info("(1:1)")),
        ("\n rate(f[10m:1m])", info("(1:1)")),
        ("1 + rate(f[10m])", info("(1:10)")),
        ("1 + rate((f[10m]))", info("(1:11)")),
        ("delta(h[10m:1m])", gauge("(1:1)")),
        ("delta(h[10m])", gauge("(1:7)")),
        ("quantile_over_time(2, f[10m:1m])", quantile("(1:20)")),
    ] {
        let expr = parse(query, &ParserOptions::all_features()).expect(query);
        let range = QueryRange::instant(3_000_000);
        let outcome =
            Engine::default().query_text(&source, query, &expr, range, &Interrupt::none()).expect(query);
        assert_eq!((outcome.warnings, outcome.infos), notes, "{query}");
    }
}

#[test]
fn calendars_cut_the_time_of_a_query_towards_zero() {
    for (query, at_ms, wanted) in [
        ("year()", -500, 1970.0),
        ("year()", -1_000, 1969.0),
        ("minute()", -1, 0.0),
        ("minute()", -1_500, 59.0),
        ("year()", 1_500, 1970.0),
    ] {
        let expr = parse(query, &ParserOptions::default()).expect(query);
        let range = QueryRange::instant(at_ms);
        let outcome =
            Engine::default().query(&MemorySource::new(), &expr, range, &Interrupt::none()).expect(query);
        let QueryValue::Vector(vector) = outcome.value else { panic!("no vector: {:?}", outcome.value) };
        let values: Vec<&Sample> = vector.iter().map(|element| &element.sample).collect();
        assert!(
            matches!(values[..], [Sample::Float(value)] if *value == wanted),
            "{query} {at_ms}: {values:?}"
        );
    }
}
