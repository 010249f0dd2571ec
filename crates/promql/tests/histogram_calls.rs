//! Classic histograms are read as soon as they are whole: the answer is that of reading them at the end, and less is held.

use std::sync::Arc;

use parallax_model::{FloatHistogram, Labels};
use parallax_promql::engine::{Engine, EngineOptions, Interrupt, QueryError, QueryOutcome, QueryRange};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};
use proptest::prelude::*;

const RANGE: QueryRange = QueryRange { start_ms: 600_000, end_ms: 900_000, step_ms: 60_000 };
const SCRAPES: i64 = 60;
const SCRAPE_MS: i64 = 15_000;

fn ask(
    source: &MemorySource,
    options: &EngineOptions,
    query: &str,
    range: QueryRange,
) -> Result<QueryOutcome, QueryError> {
    let expr = parse(query, &ParserOptions::all_features()).expect(query);
    Engine::new(options.clone()).query_text(source, query, &expr, range, &Interrupt::none())
}

/// The answer as text, in which NaN is NaN, and what was said, without places.
fn told(outcome: Result<QueryOutcome, QueryError>) -> (String, Vec<String>) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return (error.to_string(), Vec::new()),
    };
    let notes = outcome.warnings.iter().chain(&outcome.infos);
    let placeless =
        |text: &String| text.rsplit_once(" (1:").map_or(text.as_str(), |(text, _)| text).to_owned();
    (format!("{:?}", outcome.value), notes.map(placeless).collect())
}

/// One series by numbers: which of a few label sets, and what its samples are.
#[derive(Clone, Debug)]
struct Drawn {
    labels: [usize; 6],
    is_native: bool,
    slope: u32,
    /// Scrapes that are missing.
    gap: std::ops::Range<i64>,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let labels = [0usize..2, 0..6, 0..3, 0..5, 0..6, 0..3];
    (labels, prop::bool::weighted(0.05), 0u32..9, 0i64..SCRAPES, 0i64..40).prop_map(
        |(labels, is_native, slope, from, length)| Drawn {
            labels,
            is_native,
            slope,
            gap: from..from + length,
        },
    )
}

impl Drawn {
    /// Labels that sort before the name, right behind it, and before and after `le`; each may be missing.
    fn labels(&self) -> Labels {
        let [upper, kind, instance, le, method, unit] = self.labels;
        Labels::from_pairs([
            ("A", ["", "x"][upper]),
            ("__name__", "x_bucket"),
            ("__type__", ["", "", "", "", "counter", "histogram"][kind]),
            ("__unit__", ["", "", "seconds"][unit]),
            ("instance", ["", "a", "b"][instance]),
            ("le", ["", "1", "2.5", "+Inf", "many"][le]),
            ("method", ["", "", "", "", "GET", "PUT"][method]),
        ])
    }

    fn push(&self, source: &mut MemorySource) {
        let labels = self.labels();
        for scrape in (0..SCRAPES).filter(|scrape| !self.gap.contains(scrape)) {
            let (at_ms, value) = (scrape * SCRAPE_MS, f64::from(self.slope) * scrape as f64);
            if self.is_native {
                let histogram = FloatHistogram { count: value, sum: value, ..FloatHistogram::default() };
                source.push_histogram(&labels, at_ms, Arc::new(histogram));
            } else {
                source.push_float(&labels, at_ms, value);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// An argument that is no number is only known at the end, so that all is kept until then.
    #[test]
    fn reading_early_and_reading_at_the_end_is_the_same(
        all in prop::collection::vec(drawn(), 0..40),
        vector in prop::sample::select(vec![
            "x_bucket", "rate(x_bucket[2m])", "increase({__name__=~\"x.*\"}[2m])", "last_over_time(x_bucket[1m])", "rate(x_bucket[2m] @ 700)",
        ]),
        delayed_name_removal: bool,
        is_instant: bool,
    ) {
        let mut source = MemorySource::new();
        all.iter().for_each(|one| one.push(&mut source));
        let options = EngineOptions { delayed_name_removal, ..EngineOptions::default() };
        let range = if is_instant { QueryRange::instant(RANGE.end_ms) } else { RANGE };
        for (early, late) in [
            ("histogram_quantile(0.9,", "histogram_quantile(scalar(vector(0.9)),"),
            ("histogram_quantile(7,", "histogram_quantile(scalar(vector(7)),"),
            ("histogram_fraction(0, 2,", "histogram_fraction(0, scalar(vector(2)),"),
        ] {
            let early = ask(&source, &options, &format!("{early} {vector})"), range);
            let late = ask(&source, &options, &format!("{late} {vector})"), range);
            prop_assert_eq!(told(early), told(late));
        }
    }
}

#[test]
fn the_buckets_of_histograms_that_are_whole_are_not_held() {
    let of = |instances: usize| {
        let mut source = MemorySource::new();
        for (instance, le) in (0..instances).flat_map(|at| ["1", "2", "4", "+Inf"].map(|le| (at, le))) {
            let instance = format!("{instance:04}");
            let labels = [("__name__", "x_bucket"), ("instance", &instance), ("le", le), ("pod", "p")];
            let labels = Labels::from_pairs(labels);
            (0..SCRAPES).for_each(|at| assert!(source.push_float(&labels, at * SCRAPE_MS, at as f64)));
        }
        source
    };
    let options = EngineOptions::default();
    let (few, many) = (of(200), of(1200));
    let peak = |source, query| ask(source, &options, query, RANGE).unwrap().stats.peak_samples;
    let steps = usize::try_from((RANGE.end_ms - RANGE.start_ms) / RANGE.step_ms + 1).unwrap();
    let grown = |query| peak(&many, query) - peak(&few, query);
    // The rows of the result and at most a batch, of which the last one may be a shorter one; or else the rows of all buckets.
    let (early, late) = (
        "histogram_quantile(0.9, rate(x_bucket[2m]))",
        "histogram_quantile(scalar(vector(0.9)), rate(x_bucket[2m]))",
    );
    assert!(grown(early) < 1500 * steps, "{}", grown(early));
    assert!(grown(late) >= 4 * 1000 * steps, "{}", grown(late));
}
