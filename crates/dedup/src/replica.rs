//! One replica's chunks, decoded into columns: cut to the query's range, or flattened first if they are a counter.
//!
//! Flattening (Thanos `downsample.ApplyCounterResetsSeriesIterator`) adds up the increases, so that the values never
//! fall, and drops NaN and stale samples. It begins with the first sample of the first chunk that was returned,
//! even where that lies before the query's range: the level of the result depends on where chunks begin.

use parallax_model::{FloatColumn, HistogramColumn, TimeRange};
use parallax_tsdb::chunk::decode_chunk;

use crate::downsampled::decode_average;
use crate::{Chunk, Content, Error, Samples};

/// The samples of one chunk, which are all of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum DecodedChunk {
    Floats(FloatColumn),
    Histograms(HistogramColumn),
}

/// The samples within `bounds` of one replica, whose `chunks` do not overlap and come in order of time.
///
/// # Errors
/// If a chunk cannot be decoded.
pub fn decode_replica(chunks: &[Chunk], bounds: TimeRange, flattens: bool) -> Result<Samples, Error> {
    let mut replica = Replica::new(bounds, flattens);
    for chunk in chunks {
        replica.decode(chunk)?;
    }
    Ok(replica.samples)
}

/// The same for chunks that are decoded already.
pub fn join(chunks: impl IntoIterator<Item = DecodedChunk>, bounds: TimeRange, flattens: bool) -> Samples {
    let mut replica = Replica::new(bounds, flattens);
    for chunk in chunks {
        match chunk {
            DecodedChunk::Floats(floats) => replica.add_floats(floats),
            DecodedChunk::Histograms(histograms) => replica.add_histograms(histograms),
        }
    }
    replica.samples
}

struct Replica {
    samples: Samples,
    bounds: TimeRange,
    counter: Option<Counter>,
    /// A counter's chunk before it is flattened; kept for its memory.
    scratch: FloatColumn,
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
        Self {
            samples: Samples::default(),
            bounds,
            counter: flattens.then(Counter::default),
            scratch: FloatColumn::default(),
            last_ms: None,
        }
    }

    fn decode(&mut self, chunk: &Chunk) -> Result<(), Error> {
        if chunk.min_time_ms > self.bounds.max_ms {
            return Ok(());
        }
        // A counter's total begins with the first sample there is, in bounds or not.
        let is_counter = self.counter.is_some();
        let range = if is_counter { TimeRange::new(i64::MIN, self.bounds.max_ms) } else { self.bounds };
        let (first_float, first_histogram) = (self.samples.floats.len(), self.samples.histograms.len());
        let mut scratch = std::mem::take(&mut self.scratch);
        let floats = if is_counter { &mut scratch } else { &mut self.samples.floats };
        let histograms = &mut self.samples.histograms;
        match &chunk.content {
            Content::Sums { counts } => decode_average(chunk, counts, range, floats, histograms)?,
            Content::Raw | Content::Aggregate | Content::Counter => {
                decode_chunk(chunk.encoding, &chunk.data, range, floats, histograms)
                    .map_err(|source| chunk.error(source))?;
            }
        }
        if is_counter {
            self.add_counter(&scratch);
            scratch.timestamps_ms.clear();
            scratch.values.clear();
        }
        self.scratch = scratch;
        if !is_counter {
            self.keep_new_floats(first_float);
        }
        self.keep_new_histograms(first_histogram);
        Ok(())
    }

    fn add_floats(&mut self, mut floats: FloatColumn) {
        if self.counter.is_some() {
            return self.add_counter(&floats);
        }
        let first = self.samples.floats.len();
        self.samples.floats.timestamps_ms.append(&mut floats.timestamps_ms);
        self.samples.floats.values.append(&mut floats.values);
        self.keep_new_floats(first);
    }

    fn add_histograms(&mut self, mut histograms: HistogramColumn) {
        let first = self.samples.histograms.len();
        self.samples.histograms.timestamps_ms.append(&mut histograms.timestamps_ms);
        self.samples.histograms.values.append(&mut histograms.values);
        self.keep_new_histograms(first);
    }

    /// Of the floats from index `first` on, keeps those that are newer than all before, and in bounds.
    fn keep_new_floats(&mut self, first: usize) {
        let added = self.samples.floats.timestamps_ms.get(first..).unwrap_or_default();
        if self.are_new(added) {
            self.last_ms = added.last().copied().or(self.last_ms);
            return;
        }
        let timestamps_ms = self.samples.floats.timestamps_ms.split_off(first);
        let values = self.samples.floats.values.split_off(first);
        for (time_ms, value) in timestamps_ms.into_iter().zip(values) {
            if self.takes(time_ms) {
                self.samples.floats.push(time_ms, value);
            }
        }
    }

    fn keep_new_histograms(&mut self, first: usize) {
        let added = self.samples.histograms.timestamps_ms.get(first..).unwrap_or_default();
        if self.are_new(added) {
            self.last_ms = added.last().copied().or(self.last_ms);
            return;
        }
        let timestamps_ms = self.samples.histograms.timestamps_ms.split_off(first);
        let values = self.samples.histograms.values.split_off(first);
        for (time_ms, value) in timestamps_ms.into_iter().zip(values) {
            if self.takes(time_ms) {
                self.samples.histograms.push(time_ms, value);
            }
        }
    }

    /// Whether all of `times_ms` can be taken, and in this order. That is nearly always so.
    fn are_new(&self, times_ms: &[i64]) -> bool {
        let (Some(first_ms), Some(last_ms)) = (times_ms.first(), times_ms.last()) else { return true };
        self.last_ms.is_none_or(|before_ms| before_ms < *first_ms)
            && self.bounds.contains(*first_ms)
            && self.bounds.contains(*last_ms)
            && times_ms.is_sorted_by(|a, b| a < b)
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
