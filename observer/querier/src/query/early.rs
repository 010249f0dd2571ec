//! What a query of one selector selects, opened before the query has a thread, and what may be evaluated without one.
//!
//! Bounded is what an evaluation looks at and what it makes: together they take some ten microseconds, and so less than to wake another thread twice.

use parallax_promql::ast::{Expr, ExprKind};
use parallax_promql::engine::{Engine, Interrupt, QueryRange};
use parallax_promql::selectors::selectors;
use parallax_promql::source::Selection;

use super::Query;
use crate::coverage::CoverageLog;
use crate::select::{Arrived, StoreSource};

/// Most samples that are decoded and looked at, and values that are made.
const MAX_VALUES: usize = 8192;
/// Most bytes of chunks that are decoded: histograms are few and large.
const MAX_DATA_BYTES: usize = 32 << 10;
/// A longer expression takes its time, and perhaps more of a stack than is left where a query comes in.
const MAX_OPERATORS: usize = 32;

/// A source whose one selection is open.
pub(super) struct Early {
    pub source: StoreSource,
    pub coverage: CoverageLog,
    /// Whether there is so little to do that it need not be handed over.
    pub is_small: bool,
}

impl Early {
    /// `None` unless the query is simple and selects once. What cannot be planned fails where it is evaluated.
    pub fn selection(engine: &Engine, query: &Query, interrupt: &Interrupt) -> Option<Selection> {
        let is_simple = operators(&query.expr).is_some_and(|operators| operators <= MAX_OPERATORS);
        if !is_simple || engine.options().stats.operators || selectors(&query.expr).len() != 1 {
            return None;
        }
        let mut all = engine.selections(&query.expr, query.range, interrupt).ok()?;
        let one = all.pop()?;
        all.is_empty().then_some(one)
    }

    /// Opens the selection, and waits until there is something to begin with.
    pub async fn open(
        source: StoreSource,
        coverage: CoverageLog,
        query: &Query,
        selection: Selection,
    ) -> Self {
        let work = Work::of(query, &selection);
        let arrived = source.open_early(selection).await;
        let is_small = arrived.zip(work).is_some_and(|(arrived, work)| work.is_small(arrived));
        Self { source, coverage, is_small }
    }
}

/// What an evaluation does beside decoding.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Work {
    operators: usize,
    steps: usize,
    /// Of the samples of a series, the part that each step looks at.
    share_in_window: f64,
}

impl Work {
    /// `None` if that cannot be told from the query.
    fn of(query: &Query, selection: &Selection) -> Option<Self> {
        let operators = operators(&query.expr)?;
        let steps = steps(query.range)?;
        let length_ms = selection.range.max_ms.checked_sub(selection.range.min_ms)?.max(1);
        let share_in_window = (selection.range_ms as f64 / length_ms as f64).min(1.0);
        Some(Self { operators, steps, share_in_window })
    }

    fn is_small(&self, arrived: Arrived) -> bool {
        let Self { operators, steps, share_in_window } = *self;
        let made = operators.saturating_mul(steps).saturating_mul(arrived.series.max(1));
        let in_windows = share_in_window * arrived.samples as f64 * steps as f64;
        let values = arrived.samples as f64 + made as f64 + in_windows;
        values <= MAX_VALUES as f64 && arrived.data_bytes <= MAX_DATA_BYTES
    }
}

fn steps(range: QueryRange) -> Option<usize> {
    let QueryRange { start_ms, end_ms, step_ms } = range;
    let further = end_ms.checked_sub(start_ms)?.checked_div(step_ms.max(1))?;
    usize::try_from(further).ok()?.checked_add(1)
}

/// How many operators an expression has; `None` if one of them may do far more than its operand shows. The parser bounds the depth.
fn operators(expr: &Expr) -> Option<usize> {
    let inner = match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) | ExprKind::Vector(_) | ExprKind::Matrix(_) => Some(0),
        // It has steps of its own.
        ExprKind::Subquery(_) => None,
        ExprKind::Aggregate(aggregate) => {
            let parameter = aggregate.parameter.as_ref().map_or(Some(0), |parameter| operators(parameter))?;
            operators(&aggregate.operand)?.checked_add(parameter)
        }
        ExprKind::Binary(binary) => operators(&binary.left)?.checked_add(operators(&binary.right)?),
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => operators(operand),
        ExprKind::Call(call) => call.arguments.iter().map(operators).sum(),
    };
    inner?.checked_add(1)
}

#[cfg(test)]
#[path = "../../tests/support/fake_store.rs"]
#[allow(dead_code, reason = "only a part of it is of use here")]
mod fake_store;

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use parallax_promql::engine::{EngineOptions, QueryOutcome, StatsOptions};
    use parallax_promql::parse::{ParserOptions, parse};
    use parallax_promql::value::QueryValue;
    use parallax_storeapi::Caller;
    use parallax_storeapi::proto::thanos::Series;
    use parallax_telemetry::Metrics;
    use proptest::prelude::*;
    use tokio_util::sync::CancellationToken;

    use super::super::{Evaluation, QueryLimits, QueryRunner};
    use super::fake_store::{FakeStore, frame, series};
    use super::*;
    use crate::received::ReceivedLog;

    const HOUR_MS: i64 = 3_600_000;

    fn query(text: &str, step_ms: i64) -> Query {
        Query {
            text: text.to_owned(),
            expr: parse(text, &ParserOptions::all_features()).unwrap(),
            range: QueryRange { start_ms: 0, end_ms: 6 * HOUR_MS, step_ms },
            timeout: None,
            lookback: None,
            replica_labels: Vec::new(),
            algorithm: None,
            partial_response: true,
            store_matchers: Vec::new(),
            max_resolution_ms: 0,
            shard: None,
            caller: Caller::default(),
            stats: StatsOptions::default(),
        }
    }

    fn selection(query: &Query) -> Option<Selection> {
        Early::selection(&Engine::new(EngineOptions::default()), query, &Interrupt::none())
    }

    fn is_small(text: &str, arrived: Arrived) -> bool {
        let query = query(text, 60_000);
        selection(&query).and_then(|one| Work::of(&query, &one)).is_some_and(|work| work.is_small(arrived))
    }

    #[test]
    fn one_selection_is_opened_early_and_several_or_none_are_not() {
        for (text, is_one) in [
            ("up", true),
            ("sum(rate(up[5m])) * 2", true),
            ("up + down", false),
            ("1 + 2", false),
            // The engine selects what it takes labels from.
            ("info(up)", false),
            ("max_over_time(up[5m:1s])", false),
        ] {
            assert_eq!(selection(&query(text, 60_000)).is_some(), is_one, "{text}");
        }
    }

    #[test]
    fn what_is_small_depends_on_samples_steps_windows_and_operators() {
        let arrived = |series, samples| Arrived { series, samples, data_bytes: samples * 2 };
        assert!(is_small("up", arrived(1, 1440)));
        assert!(is_small("rate(up[1m])", arrived(1, 1440)));
        assert!(!is_small("rate(up[6h])", arrived(1, 1440)));
        assert!(!is_small("up", arrived(20, 20 * 1440)));
        assert!(!is_small("up", Arrived { data_bytes: MAX_DATA_BYTES + 1, ..arrived(1, 1440) }));
        assert!(!is_small("max_over_time(up[5m:1s])", arrived(1, 10)));
        assert!(
            is_small("---up", arrived(1, 10)) && !is_small(&format!("{}up", "-".repeat(40)), arrived(1, 10))
        );
        assert!(!is_small(&format!("{}up", "-".repeat(25)), arrived(1, 10)));
    }

    /// A store with `replicas` of two series, each from its own offset on and with some scrapes missing.
    fn store(replicas: &[(i64, Vec<bool>)]) -> Arc<FakeStore> {
        let mut all = Vec::new();
        for job in ["a", "b"] {
            for (replica, (offset_ms, is_scraped)) in replicas.iter().enumerate() {
                let scrapes = is_scraped.iter().enumerate().filter(|(_, is_scraped)| **is_scraped);
                let samples: Vec<(i64, f64)> =
                    scrapes.map(|(at, _)| (offset_ms + at as i64 * 15_000, at as f64)).collect();
                let replica = replica.to_string();
                let labels = [("__name__", "up"), ("job", job), ("replica", replica.as_str())];
                all.extend(samples.chunks(20).map(|part| series(&labels, part)));
            }
        }
        all.iter_mut().flat_map(|one| &mut one.chunks).for_each(|chunk| {
            let raw = chunk.raw.as_mut().unwrap();
            raw.hash = parallax_storeapi::chunks::hash(&raw.data);
        });
        // As a store answers who does not want the label.
        for one in &mut all {
            one.labels.retain(|label| label.name != "replica");
        }
        let mut whole: Vec<Series> = Vec::new();
        for one in all {
            match whole.iter_mut().find(|known| known.labels == one.labels) {
                Some(known) => known.chunks.extend(one.chunks),
                None => whole.push(one),
            }
        }
        whole.iter_mut().for_each(|one| one.chunks.sort_by(parallax_storeapi::chunks::compare));
        Arc::new(FakeStore { frames: vec![frame(whole)], ..FakeStore::default() })
    }

    fn evaluation(store: Arc<FakeStore>, text: &str, step_ms: i64, dedup: bool) -> Evaluation {
        let runner =
            QueryRunner::new(store, EngineOptions::default(), QueryLimits::default(), &Metrics::new());
        let replica_labels = if dedup { vec!["replica".to_owned()] } else { Vec::new() };
        let query = Query {
            range: QueryRange { start_ms: 0, end_ms: 1_200_000, step_ms },
            replica_labels,
            ..query(text, step_ms)
        };
        let deadline = runner.deadline(None);
        Evaluation {
            sources: runner.sources(&query, deadline, CancellationToken::new()),
            engine: Engine::new(runner.engine_options(&query)),
            query,
            interrupt: Interrupt::at(deadline),
            received: ReceivedLog::default(),
            began: Instant::now(),
        }
    }

    async fn on_a_thread(evaluation: Evaluation) -> QueryValue {
        let evaluated = tokio::task::spawn_blocking(move || evaluation.evaluate(None));
        evaluated.await.unwrap().unwrap().0.value
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_evaluated_at_once_is_what_a_thread_would_evaluate(
            scrapes in prop::collection::vec((0_i64..15_000, prop::collection::vec(prop::bool::weighted(0.9), 40..80)), 1..3),
            text in prop::sample::select(vec!["up", "sum(up)", "rate(up[1m])", "topk(1, up) * 2", "absent(up)", r#"up{job="a"}"#]),
            step_ms in prop::sample::select(vec![15_000, 60_000]),
            dedup: bool,
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let store = store(&scrapes);
                let evaluation = evaluation(Arc::clone(&store), text, step_ms, dedup);
                let early = evaluation.open_early().await.unwrap();
                prop_assert!(early.is_small);
                let early = evaluation.briefly(early).map(|evaluated| evaluated.unwrap().0.value);
                // Only what is asked for again cannot be had at once.
                prop_assert!(early.is_some() || store.withholding_calls.load(Ordering::SeqCst) == 1);
                let early = match early {
                    Some(early) => early,
                    None => on_a_thread(evaluation).await,
                };
                prop_assert_eq!(early, on_a_thread(self::evaluation(store, text, step_ms, dedup)).await);
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn a_query_of_little_is_answered_where_it_came_in_and_one_of_much_is_not() {
        let runner = |count: usize| {
            let samples: Vec<(i64, f64)> = (0..100).map(|at| (at * 15_000, at as f64)).collect();
            let one = |number: usize| series(&[("__name__", "up"), ("n", &format!("{number:04}"))], &samples);
            let store =
                FakeStore { frames: vec![frame((0..count).map(one).collect())], ..FakeStore::default() };
            QueryRunner::new(
                Arc::new(store),
                EngineOptions::default(),
                QueryLimits::default(),
                &Metrics::new(),
            )
        };
        let here = std::thread::current().id();
        for (count, is_here) in [(1, true), (20, true), (100, false)] {
            let query = Query {
                range: QueryRange { start_ms: 0, end_ms: 900_000, step_ms: 60_000 },
                ..query("up", 1)
            };
            let finish = move |outcome: QueryOutcome, _, _| {
                let QueryValue::Matrix(all) = outcome.value else { panic!("no matrix") };
                (all.len(), std::thread::current().id())
            };
            let (series, thread) = runner(count).run(query, finish).await.unwrap();
            assert_eq!((series, thread == here), (count, is_here));
        }
    }
}
