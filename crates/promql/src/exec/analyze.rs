//! What operators did: the samples they looked at, and, when somebody asks, their time, series, samples and bytes.
//!
//! How a selector's samples count is settled by the plan ([`Tally`]), so that nothing here depends on the order in which
//! operators run, nor on the thread. An operator is only wrapped ([`Measured`]) when an analysis was asked for.
//! Source of the counts: Prometheus 3.9 `util/stats/query_stats.go` and its uses in `promql/engine.go`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parallax_model::FloatHistogram;

use super::row::Row;
use super::{Batch, BoxedOperator, Context, Operator};
use crate::engine::QueryError;

/// Samples that selectors of one query looked at.
#[derive(Debug, Default)]
pub(crate) struct SampleCounts {
    total: AtomicU64,
    /// One per step of the query, if asked for.
    per_step: Option<Vec<AtomicU64>>,
}

impl SampleCounts {
    /// Counts each of `steps` steps by itself, too.
    pub fn with_steps(steps: usize) -> Self {
        Self { total: AtomicU64::new(0), per_step: Some((0..steps).map(|_| AtomicU64::new(0)).collect()) }
    }

    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    pub fn per_step(&self) -> Option<Vec<u64>> {
        let counts = self.per_step.as_ref()?;
        Some(counts.iter().map(|count| count.load(Ordering::Relaxed)).collect())
    }

    fn add(&self, step: usize, samples: u64) {
        if let Some(count) = self.per_step.as_ref().and_then(|counts| counts.get(step)) {
            count.fetch_add(samples, Ordering::Relaxed);
        }
    }
}

/// How the samples that one selector looks at count for the query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CountRule {
    /// At the step at which they were looked at.
    #[default]
    EachStep,
    /// At each of that many steps: they are looked at once because they are the same at every step.
    Repeated(usize),
    /// Not at all: whatever takes in the result of a subquery counts that instead.
    Never,
}

/// Where a selector counts its samples: in the query, and in its operator if that is measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub rule: CountRule,
    pub operator: Option<Arc<Counters>>,
}

impl Tally {
    /// Counts the samples of a row, each at its step.
    pub fn count_row(&self, row: &Row, context: &Context<'_>) {
        let weights = || {
            let floats = row.present.ones().map(|step| (step, 1));
            floats.chain(row.histograms.iter().map(|(step, h)| (*step, h.sample_weight())))
        };
        self.count(row.weight(), weights, context);
    }

    /// Counts `samples`, which are the sum of what `weights` gives for each step. Those are only asked for if somebody wants to know.
    pub fn count<W: Iterator<Item = (usize, usize)>>(
        &self,
        samples: usize,
        weights: impl FnOnce() -> W,
        context: &Context<'_>,
    ) {
        let samples = samples as u64;
        if let Some(operator) = &self.operator {
            operator.looked_at.fetch_add(samples, Ordering::Relaxed);
        }
        let counts = &context.samples;
        match self.rule {
            CountRule::Never => {}
            CountRule::EachStep => {
                counts.total.fetch_add(samples, Ordering::Relaxed);
                if counts.per_step.is_some() {
                    weights().for_each(|(step, weight)| counts.add(step, weight as u64));
                }
            }
            CountRule::Repeated(steps) => {
                counts.total.fetch_add(samples.saturating_mul(steps as u64), Ordering::Relaxed);
                if counts.per_step.is_some() {
                    (0..steps).for_each(|step| counts.add(step, samples));
                }
            }
        }
    }
}

/// What one operator of a measured plan did so far. Several operators that do one's work may share it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    busy_ns: AtomicU64,
    series: AtomicU64,
    samples: AtomicU64,
    size_bytes: AtomicU64,
    largest_batch_samples: AtomicU64,
    looked_at: AtomicU64,
}

/// The state of [`Counters`] at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// In this operator and those beneath it.
    pub busy: Duration,
    pub series: u64,
    pub samples: u64,
    pub size_bytes: u64,
    pub largest_batch_samples: u64,
    /// By this operator itself, as a selector.
    pub looked_at: u64,
}

impl Counters {
    pub fn counted(&self) -> Counted {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            busy: Duration::from_nanos(get(&self.busy_ns)),
            series: get(&self.series),
            samples: get(&self.samples),
            size_bytes: get(&self.size_bytes),
            largest_batch_samples: get(&self.largest_batch_samples),
            looked_at: get(&self.looked_at),
        }
    }

    pub fn add_busy(&self, busy: Duration) {
        self.busy_ns.fetch_add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Counts what an operator hands on at once: so many series, samples and bytes.
    pub fn add_batch(&self, series: usize, samples: usize, size_bytes: usize) {
        self.series.fetch_add(series as u64, Ordering::Relaxed);
        self.samples.fetch_add(samples as u64, Ordering::Relaxed);
        self.size_bytes.fetch_add(size_bytes as u64, Ordering::Relaxed);
        self.largest_batch_samples.fetch_max(samples as u64, Ordering::Relaxed);
    }
}

/// An operator that is watched.
pub(crate) struct Measured {
    pub inner: BoxedOperator,
    pub counters: Arc<Counters>,
}

impl Operator for Measured {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        let began = Instant::now();
        let batch = self.inner.next_batch(context);
        self.counters.add_busy(began.elapsed());
        if let Ok(Some(rows)) = &batch {
            let samples = rows.iter().map(Row::weight).sum();
            self.counters.add_batch(rows.len(), samples, rows.iter().map(size_bytes).sum());
        }
        batch
    }

    fn keeps_prefixes_together(&self) -> bool {
        self.inner.keeps_prefixes_together()
    }
}

/// What a row takes in memory, labels shared with others included.
fn size_bytes(row: &Row) -> usize {
    let histograms: usize = row.histograms.iter().map(|(_, histogram)| histogram_size_bytes(histogram)).sum();
    row.labels.size_bytes() + row.floats.len() * size_of::<f64>() + row.steps().div_ceil(8) + histograms
}

/// As Prometheus counts the size of a sample: 16 bytes each.
pub(crate) fn histogram_size_bytes(histogram: &FloatHistogram) -> usize {
    const SAMPLE_BYTES: usize = 16;
    histogram.sample_weight() * SAMPLE_BYTES
}
