//! `load` and `load_with_nhcb`: described series into storage.
//!
//! Storage is what a query sees of Prometheus' own: counter reset hints are those its chunks give back, whatever
//! a script writes, except that gauges stay gauges.

mod classic;

use std::collections::BTreeMap;
use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram, Labels};

use crate::memory_source::MemorySource;
use crate::series_notation::{SequenceValue, SeriesDescription};

#[derive(Debug)]
pub(super) struct Load {
    pub(super) line: usize,
    pub(super) step_ms: i64,
    pub(super) series: Vec<SeriesDescription>,
    /// Classic histograms are loaded as custom-bucket histograms, too.
    pub(super) with_nhcb: bool,
}

impl Load {
    pub(super) fn run(&self, source: &mut MemorySource) -> Result<(), String> {
        // The last description of a series counts.
        let described: BTreeMap<&Labels, &[SequenceValue]> =
            self.series.iter().map(|series| (&series.labels, series.values.as_slice())).collect();
        for (labels, values) in &described {
            push(source, labels, self.with_times(values))?;
        }
        if self.with_nhcb {
            for (labels, histograms) in classic::convert(&described, self.step_ms)? {
                let values = histograms
                    .into_iter()
                    .map(|(at_ms, histogram)| (at_ms, SequenceValue::Histogram(Arc::new(histogram))));
                push(source, &labels, values)?;
            }
        }
        Ok(())
    }

    fn with_times<'a>(&self, values: &'a [SequenceValue]) -> impl Iterator<Item = (i64, SequenceValue)> + 'a {
        let step_ms = self.step_ms;
        values.iter().enumerate().map(move |(index, value)| (time_of(index, step_ms), value.clone()))
    }
}

/// The time of a series' value number `index`; far values share the last millisecond.
fn time_of(index: usize, step_ms: i64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(step_ms)
}

fn push(
    source: &mut MemorySource,
    labels: &Labels,
    values: impl Iterator<Item = (i64, SequenceValue)>,
) -> Result<(), String> {
    let mut previous: Option<Arc<FloatHistogram>> = None;
    for (at_ms, value) in values {
        let taken = match value {
            SequenceValue::Omitted => continue,
            SequenceValue::Float(value) => {
                previous = None;
                source.push_float(labels, at_ms, value)
            }
            SequenceValue::Histogram(histogram) => {
                let stored = as_stored(&histogram, previous.as_deref());
                // The next one is compared with what was written, whose hint forces a new chunk.
                previous = Some(histogram);
                source.push_histogram(labels, at_ms, Arc::new(stored))
            }
        };
        if !taken {
            return Err(format!("{labels} already has a sample at or after {at_ms} ms"));
        }
    }
    Ok(())
}

/// `histogram` as a chunk gives it back: "no reset" inside a chunk, "unknown" for the first of a chunk. A chunk
/// ends with a counter reset, a change of layout, or a turn to or from a gauge.
fn as_stored(histogram: &FloatHistogram, previous: Option<&FloatHistogram>) -> FloatHistogram {
    let mut stored = histogram.clone();
    let is_gauge = |histogram: &FloatHistogram| histogram.counter_reset_hint == CounterResetHint::Gauge;
    if is_gauge(histogram) {
        return stored;
    }
    let same_chunk = previous.is_some_and(|previous| {
        !is_gauge(previous)
            && histogram.counter_reset_hint != CounterResetHint::Reset
            && histogram.schema == previous.schema
            && histogram.zero_threshold == previous.zero_threshold
            && histogram.custom_values == previous.custom_values
            && !without_hint(histogram).detect_reset(&without_hint(previous))
    });
    stored.counter_reset_hint =
        if same_chunk { CounterResetHint::NotReset } else { CounterResetHint::Unknown };
    stored
}

fn without_hint(histogram: &FloatHistogram) -> FloatHistogram {
    FloatHistogram { counter_reset_hint: CounterResetHint::Unknown, ..histogram.clone() }
}
