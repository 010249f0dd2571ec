//! How soon an interrupted query ends, told by how often it looks: for each operator, over one large batch.

use parallax_model::{FloatHistogram, Labels, SeriesData};
use parallax_promql::engine::{Engine, EngineOptions, Interrupt, QueryError, QueryRange};
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::source::{Delivered, Selection, SeriesStream, Source, SourceError};

/// Looks at the interrupt are at most this many samples apart (`exec::meter::WORK_PER_CHECK`).
const WORK_PER_CHECK: usize = 1 << 14;
const SERIES: usize = 2 * WORK_PER_CHECK + 1_000;

/// All series in one batch, so that only operators themselves can look in between.
struct OneBatch(Vec<SeriesData>);

struct Batch(Option<Vec<SeriesData>>);

impl OneBatch {
    /// So many series of so many samples each, 15 s apart, up to `end_ms`.
    fn new(series: usize, samples: usize, end_ms: i64, histograms: bool) -> Self {
        let histogram = std::sync::Arc::new(FloatHistogram { count: 1.0, ..FloatHistogram::default() });
        let each = |number: usize| {
            let (instance, le) = (format!("{:07}", number / 2), ["1", "+Inf"][number % 2]);
            let pairs = [("__name__", "x"), ("instance", &instance), ("job", "j"), ("le", le)];
            let mut series = SeriesData { labels: Labels::from_pairs(pairs), ..SeriesData::default() };
            for sample in (0..samples).rev() {
                let at_ms = end_ms - 15_000 * sample as i64;
                if histograms {
                    series.histograms.push(at_ms, histogram.clone());
                } else {
                    series.floats.push(at_ms, number as f64);
                }
            }
            series
        };
        Self((0..series).map(each).collect())
    }
}

impl Source for OneBatch {
    fn select(&self, _: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        Ok(Box::new(Batch(Some(self.0.clone()))))
    }
}

impl SeriesStream for Batch {
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        Ok(self.0.take().map(|batch| batch.into_iter().map(Delivered::from).collect()))
    }
}

fn run(source: &OneBatch, query: &str, range: QueryRange, interrupt: &Interrupt) -> Result<(), QueryError> {
    let expr =
        parse(query, &ParserOptions { later_syntax: true, ..ParserOptions::all_features() }).expect(query);
    Engine::new(EngineOptions::default()).query(source, &expr, range, interrupt).map(drop)
}

/// How often a query looks when nobody stops it.
fn checks(source: &OneBatch, query: &str, range: QueryRange) -> u64 {
    let interrupt = Interrupt::none();
    run(source, query, range, &interrupt).expect(query);
    interrupt.checks()
}

/// A stopped query ends with the look that finds it stopped, wherever that is.
fn ends_where_it_is_stopped(source: &OneBatch, query: &str, range: QueryRange, checks: u64) {
    for stopped_at in [0, checks / 2, checks - 1] {
        let interrupt = Interrupt::after_checks(stopped_at);
        let error = run(source, query, range, &interrupt).expect_err(query);
        assert!(matches!(error, QueryError::Canceled), "{query}: {error}");
        let later = interrupt.checks() - stopped_at;
        assert!(later <= 2, "{query}: stopped at look {stopped_at}, and looked {later} times more");
    }
}

/// What each operator adds to the looks of its operand is as much as its rows ask for.
#[test]
fn operators_look_at_the_interrupt_while_they_loop_over_series() {
    let source = OneBatch::new(SERIES, 1, 3_600_000, false);
    let at = QueryRange::instant(3_600_000);
    let plain = checks(&source, "x", at);
    let once_over_all = (SERIES / WORK_PER_CHECK) as u64;
    assert!(plain >= once_over_all, "a selector looks {plain} times");
    for query in [
        "sort(x)",
        "sort_desc(x)",
        "sort_by_label(x, \"instance\")",
        "topk(5, x)",
        "bottomk by (instance) (1, x)",
        "limitk(10, x)",
        "limit_ratio(0.5, x)",
        "quantile(0.5, x)",
        "sum by (instance, le) (x)",
        "count_values(\"v\", x)",
        "absent(x)",
        "scalar(x)",
        "abs(x)",
        "-x",
        "x * 2",
        "x > bool 3",
        "clamp(x, 1, 2)",
        "timestamp(x)",
        "label_replace(x, \"a\", \"$1\", \"instance\", \"(.*)\")",
        "label_join(x, \"a\", \"-\", \"instance\", \"le\")",
        "histogram_quantile(0.9, x)",
        "histogram_fraction(0, 1, x)",
    ] {
        let looks = checks(&source, query, at);
        assert!(looks >= plain + once_over_all, "{query} looks {looks} times, its operand {plain} times");
        ends_where_it_is_stopped(&source, query, at, looks);
    }
    // Both sides are read before they are matched.
    for query in [
        "x and y",
        "x or y",
        "x unless y",
        "x + ignoring () y",
        "x / on (instance, le) group_left y",
        "x + ignoring () fill(0) y",
    ] {
        let looks = checks(&source, query, at);
        assert!(
            looks >= 2 * plain + 2 * once_over_all - 1,
            "{query} looks {looks} times, one side {plain} times"
        );
        ends_where_it_is_stopped(&source, query, at, looks);
    }
}

/// One series with long windows at many steps is as much work as many series.
#[test]
fn range_functions_look_at_the_interrupt_within_one_series() {
    let source = OneBatch::new(1, 4_000, 60_000_000, false);
    let range = QueryRange { start_ms: 0, end_ms: 60_000_000, step_ms: 60_000 };
    // Each of a thousand windows has up to 2,400 samples in it.
    for query in [
        "quantile_over_time(0.5, x[10h])",
        "mad_over_time(x[10h])",
        "sum_over_time(x[10h])",
        "stddev_over_time(x[10h])",
        "deriv(x[10h])",
        "double_exponential_smoothing(x[10h], 0.5, 0.5)",
        "rate(x[10h] anchored)",
        "rate(x[10h] smoothed)",
        "max_over_time(x[10h:15s])",
    ] {
        let looks = checks(&source, query, range);
        assert!(looks >= 100, "{query} looks only {looks} times");
        ends_where_it_is_stopped(&source, query, range, looks);
    }
    let histograms = OneBatch::new(1, 4_000, 60_000_000, true);
    for query in ["rate(x[10h])", "sum_over_time(x[10h])", "avg_over_time(x[10h])"] {
        let looks = checks(&histograms, query, range);
        assert!(looks >= 100, "{query} of histograms looks only {looks} times");
        ends_where_it_is_stopped(&histograms, query, range, looks);
    }
}

#[test]
fn a_result_is_made_and_sorted_with_looks_at_the_interrupt() {
    let source = OneBatch::new(SERIES, 1, 3_600_000, false);
    let range = QueryRange { start_ms: 3_600_000, end_ms: 3_600_000, step_ms: 1 };
    let (plain, renamed) = ("x", "label_replace(x, \"instance\", \"$1\", \"instance\", \"0*([0-9]*)\")");
    let looks = checks(&source, plain, range);
    let with_sorting = checks(&source, renamed, range);
    assert!(with_sorting >= looks + 3 * (SERIES / WORK_PER_CHECK) as u64, "{looks} {with_sorting}");
    ends_where_it_is_stopped(&source, renamed, range, with_sorting);
}
