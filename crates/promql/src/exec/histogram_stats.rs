//! Histograms of which only count and sum matter: `histogram_count`, `histogram_sum`, `histogram_avg`.
//!
//! The buckets are looked at once, to tell whether a counter was reset, and then left out. So a hint is exact
//! where a sample's own hint says nothing. Prometheus' `HistogramStatsIterator` begins anew whenever it skips
//! samples; so does this, as its hints show in annotations.

use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram};

/// The histograms without buckets, with hints of their own. `windows` gives what each step reads: from (closed)
/// and to which time, in order.
pub(crate) fn without_buckets(
    times_ms: &[i64],
    histograms: &[Arc<FloatHistogram>],
    windows: impl Iterator<Item = (i64, i64)>,
) -> Vec<Arc<FloatHistogram>> {
    let restarts = restarts(times_ms, windows);
    let mut last: Option<(&FloatHistogram, CounterResetHint)> = None;
    let mut stats = Vec::with_capacity(histograms.len());
    for (at, histogram) in histograms.iter().enumerate() {
        if restarts.binary_search(&at).is_ok() {
            last = None;
        }
        let mut hint = histogram.counter_reset_hint;
        if !histogram.is_stale() {
            if let (CounterResetHint::Unknown, Some((before, before_hint))) = (hint, last) {
                let before = FloatHistogram { counter_reset_hint: before_hint, ..before.clone() };
                hint = if histogram.detect_reset(&before) {
                    CounterResetHint::Reset
                } else {
                    CounterResetHint::NotReset
                };
            }
            last = Some((histogram, hint));
        }
        stats.push(Arc::new(FloatHistogram {
            counter_reset_hint: hint,
            count: histogram.count,
            sum: histogram.sum,
            ..FloatHistogram::default()
        }));
    }
    stats
}

/// The positions that are reached by skipping: sorted, each the first of a window that begins after what the
/// windows before have read.
fn restarts(times_ms: &[i64], windows: impl Iterator<Item = (i64, i64)>) -> Vec<usize> {
    let mut restarts = Vec::new();
    let mut read_up_to: Option<i64> = None;
    for (from_ms, to_ms) in windows {
        if read_up_to.is_none_or(|read| from_ms > read) {
            restarts.push(times_ms.partition_point(|time| *time < from_ms));
        }
        let next = times_ms.partition_point(|time| *time < to_ms);
        read_up_to = Some(times_ms.get(next).copied().unwrap_or(i64::MAX));
    }
    restarts.dedup();
    restarts
}
