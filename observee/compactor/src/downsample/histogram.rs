//! Aggregating native histograms: how many, their sum, and the counter without its resets. There is no least and no largest histogram.

use parallax_model::{CounterResetHint, FloatHistogram};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{Appended, ChunkEncoding, FloatHistogramAppender, XorAppender};

use super::batch::{Aggregator, aggregate_chunk, each_window};
use super::{HistogramSample, spans};

/// What is known of the present window, and of the counter since the beginning.
///
/// All samples are brought down to the coarsest schema among them, so that they fit one chunk. They must be all of custom buckets or all of exponential ones.
pub(super) struct HistogramAggregator {
    schema: i32,
    pub(super) count: u64,
    sum: Option<FloatHistogram>,
    counter: Option<FloatHistogram>,
    previous: Option<FloatHistogram>,
}

impl HistogramAggregator {
    pub(super) fn new(samples: &[HistogramSample]) -> Self {
        let schema = samples.iter().map(|(_, histogram)| histogram.schema).min().unwrap_or(0);
        Self { schema, count: 0, sum: None, counter: None, previous: None }
    }

    /// The sum of the window. A gauge: it falls from window to window.
    pub(super) fn sum(&self) -> FloatHistogram {
        let mut sum = self.sum.clone().unwrap_or_default();
        sum.counter_reset_hint = CounterResetHint::Gauge;
        sum
    }

    pub(super) fn counter(&self) -> FloatHistogram {
        self.counter.clone().unwrap_or_default()
    }

    pub(super) fn make_gauge(&mut self) {
        if let Some(counter) = &mut self.counter {
            counter.counter_reset_hint = CounterResetHint::Gauge;
        }
    }
}

impl Aggregator for HistogramAggregator {
    type Sample = HistogramSample;

    fn begin(&mut self) {
        self.count = 0;
        self.sum = None;
    }

    fn add(&mut self, (_, original): &HistogramSample) {
        let mut histogram = original.clone();
        if histogram.schema > self.schema {
            histogram.reduce_resolution(self.schema);
        }
        // Kinds of buckets are never mixed here, so that nothing is left out.
        match (&mut self.counter, &self.previous) {
            (Some(counter), Some(previous)) => {
                let is_gauge = original.counter_reset_hint == CounterResetHint::Gauge;
                if !is_gauge && original.detect_reset(previous) {
                    spans::add(counter, &histogram);
                } else {
                    let mut grown = histogram.clone();
                    spans::sub(&mut grown, previous);
                    spans::add(counter, &grown);
                }
            }
            _ => self.counter = Some(histogram.clone()),
        }
        match &mut self.sum {
            None => self.sum = Some(histogram.clone()),
            Some(sum) => spans::add(sum, &histogram),
        }
        if let Some(sum) = &mut self.sum {
            sum.counter_reset_hint = CounterResetHint::Gauge;
        }
        self.previous = Some(histogram);
        self.count += 1;
    }
}

/// One window of histograms.
pub(super) struct HistogramWindow {
    pub(super) stamp_ms: i64,
    pub(super) count: f64,
    pub(super) sum: FloatHistogram,
    pub(super) counter: FloatHistogram,
}

/// Whether the first sample is a gauge, and then all are taken for gauges.
pub(super) fn are_gauges(samples: &[HistogramSample]) -> bool {
    samples.first().is_some_and(|(_, first)| first.counter_reset_hint == CounterResetHint::Gauge)
}

/// Aggregate chunks (one, as a rule) of raw samples, none of which is stale, and whose buckets are of one kind.
pub(super) fn histogram_batch(
    samples: &[HistogramSample],
    window_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), TsdbError> {
    let is_gauge = are_gauges(samples);
    let mut aggregator = HistogramAggregator::new(samples);
    let mut windows = Vec::new();
    each_window(
        samples,
        |sample| sample.0,
        window_ms,
        &mut aggregator,
        |stamp_ms, window| {
            if is_gauge {
                window.make_gauge();
            }
            let count = window.count as f64;
            windows.push(HistogramWindow { stamp_ms, count, sum: window.sum(), counter: window.counter() });
            Ok::<(), TsdbError>(())
        },
    )?;
    encode_windows(&windows, out)
}

/// Writes windows into one chunk, or into more where histograms do not fit one: a wider zero bucket, other bounds.
pub(super) fn encode_windows(
    mut windows: &[HistogramWindow],
    out: &mut Vec<BlockChunk>,
) -> Result<(), TsdbError> {
    while !windows.is_empty() {
        let mut fitting = windows.len();
        loop {
            let (head, _) = windows.split_at(fitting);
            match encode_chunk(head)? {
                Ok(chunk) => {
                    out.extend(chunk);
                    break;
                }
                // At least the first one fits.
                Err(fit) => fitting = fit.clamp(1, fitting.saturating_sub(1).max(1)),
            }
        }
        windows = windows.get(fitting..).unwrap_or_default();
    }
    Ok(())
}

/// The chunk, or how many windows fit one.
fn encode_chunk(windows: &[HistogramWindow]) -> Result<Result<Option<BlockChunk>, usize>, TsdbError> {
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return Ok(Ok(None)) };
    let mut count = XorAppender::new();
    // As if they went on from chunks that are empty: that says "no reset" of the first histogram.
    let fresh = || FloatHistogramAppender::following(&FloatHistogramAppender::new());
    let (mut sum, mut counter) = (fresh(), fresh());
    for (at, window) in windows.iter().enumerate() {
        let stamp_ms = window.stamp_ms;
        for (appender, histogram) in [(&mut counter, &window.counter), (&mut sum, &window.sum)] {
            if let Appended::NewChunk { .. } = appender.append(stamp_ms, histogram)? {
                return Ok(Err(at));
            }
        }
        count.append(stamp_ms, window.count)?;
    }
    let histograms =
        |appender: FloatHistogramAppender| Some((ChunkEncoding::FloatHistogram, appender.into_bytes()));
    let count = Some((ChunkEncoding::Xor, count.into_bytes()));
    let parts = [count, histograms(sum), None, None, histograms(counter)];
    Ok(Ok(Some(aggregate_chunk(first.stamp_ms, last.stamp_ms, &parts))))
}
