//! One replica's chunks, decoded into columns: cut to the query's range, or flattened first if they are a counter.
//!
//! Flattening (Thanos `downsample.ApplyCounterResetsSeriesIterator`) adds up the increases, so that the values never
//! fall, and drops NaN and stale samples. It begins with the first sample of the first chunk that was returned,
//! even where that lies before the query's range: the level of the result depends on where chunks begin.

use std::sync::Arc;

use parallax_model::{FloatColumn, FloatHistogram, HistogramColumn, TimeRange};

use crate::{Chunk, ChunkEncoding, Error, Samples};

/// The samples of one chunk, which are all of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum DecodedChunk {
    Floats(FloatColumn),
    Histograms(HistogramColumn),
}

/// Decodes the samples of `chunk` that lie in `range`.
///
/// # Errors
/// If its bytes are not a chunk of its encoding.
pub fn decode(chunk: &Chunk, range: TimeRange) -> Result<DecodedChunk, Error> {
    let _ = range;
    Err(Error::Chunk {
        encoding: chunk.encoding,
        min_time_ms: chunk.min_time_ms,
        max_time_ms: chunk.max_time_ms,
        reason: "no decoder".to_owned(),
    })
}

/// The samples within `bounds` of one replica, whose `chunks` do not overlap and come in order of time.
///
/// # Errors
/// If a chunk cannot be decoded.
pub fn decode_replica(chunks: &[Chunk], bounds: TimeRange, flattens: bool) -> Result<Samples, Error> {
    let mut replica = Replica::new(bounds, flattens);
    let range = if flattens { TimeRange::ALL } else { bounds };
    for chunk in chunks {
        if !flattens && (chunk.max_time_ms < bounds.min_ms || chunk.min_time_ms > bounds.max_ms) {
            continue;
        }
        replica.add(decode(chunk, range)?);
    }
    Ok(replica.samples)
}

/// The same for chunks that are decoded already.
pub fn join(chunks: impl IntoIterator<Item = DecodedChunk>, bounds: TimeRange, flattens: bool) -> Samples {
    let mut replica = Replica::new(bounds, flattens);
    for chunk in chunks {
        replica.add(chunk);
    }
    replica.samples
}

struct Replica {
    samples: Samples,
    bounds: TimeRange,
    counter: Option<Counter>,
    /// Of the last sample seen, in bounds or not.
    last_ms: Option<i64>,
}

/// A counter's running total.
#[derive(Default)]
struct Counter {
    /// The last value as it was stored; `None` before the first.
    last: Option<f64>,
    total: f64,
}

impl Counter {
    fn add(&mut self, value: f64) -> f64 {
        match self.last {
            None => self.total = value,
            Some(last) if value >= last => self.total += value - last,
            Some(_) => self.total += value,
        }
        self.last = Some(value);
        self.total
    }
}

impl Replica {
    fn new(bounds: TimeRange, flattens: bool) -> Self {
        Self { samples: Samples::default(), bounds, counter: flattens.then(Counter::default), last_ms: None }
    }

    fn add(&mut self, chunk: DecodedChunk) {
        match chunk {
            DecodedChunk::Floats(floats) if self.counter.is_some() => self.add_counter(&floats),
            DecodedChunk::Floats(floats) => self.add_floats(floats),
            DecodedChunk::Histograms(histograms) => self.add_histograms(histograms),
        }
    }

    fn add_floats(&mut self, floats: FloatColumn) {
        let (Some(first_ms), Some(last_ms)) =
            (floats.timestamps_ms.first().copied(), floats.timestamps_ms.last().copied())
        else {
            return;
        };
        let is_whole = self.last_ms.is_none_or(|last_ms| last_ms < first_ms)
            && self.bounds.min_ms <= first_ms
            && last_ms <= self.bounds.max_ms
            && floats.timestamps_ms.is_sorted_by(|a, b| a < b);
        if is_whole {
            self.last_ms = Some(last_ms);
            let mine = &mut self.samples.floats;
            if mine.is_empty() {
                *mine = floats;
            } else {
                mine.timestamps_ms.extend_from_slice(&floats.timestamps_ms);
                mine.values.extend_from_slice(&floats.values);
            }
            return;
        }
        for (time_ms, value) in floats.iter() {
            if self.takes(time_ms) {
                self.samples.floats.push(time_ms, value);
            }
        }
    }

    fn add_histograms(&mut self, histograms: HistogramColumn) {
        let HistogramColumn { timestamps_ms, values } = histograms;
        for (time_ms, value) in timestamps_ms.into_iter().zip(values) {
            self.add_histogram(time_ms, value);
        }
    }

    fn add_histogram(&mut self, time_ms: i64, value: Arc<FloatHistogram>) {
        if self.takes(time_ms) {
            self.samples.histograms.push(time_ms, value);
        }
    }

    fn add_counter(&mut self, floats: &FloatColumn) {
        for (time_ms, value) in floats.iter().filter(|(_, value)| !value.is_nan()) {
            if self.last_ms == Some(time_ms)
                && let Some(counter) = &mut self.counter
                && counter.last.is_some()
            {
                // A timestamp that is repeated carries the true last value, to compare the next one with.
                counter.last = Some(value);
                continue;
            }
            let is_new = self.last_ms.is_none_or(|last_ms| last_ms < time_ms);
            let is_first = self.counter.as_ref().is_some_and(|counter| counter.last.is_none());
            if !is_new && !is_first {
                continue;
            }
            let total = self.counter.as_mut().map_or(value, |counter| counter.add(value));
            if self.takes(time_ms) {
                self.samples.floats.push(time_ms, total);
            }
        }
    }

    /// Whether a sample at `time_ms` is newer than all before it, and in bounds.
    fn takes(&mut self, time_ms: i64) -> bool {
        if self.last_ms.is_some_and(|last_ms| last_ms >= time_ms) {
            return false;
        }
        self.last_ms = Some(time_ms);
        self.bounds.contains(time_ms)
    }
}
