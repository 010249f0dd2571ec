//! One replica's chunks, decoded into columns: cut to the query's range, or flattened first if they are a counter.
//!
//! Flattening (Thanos `downsample.ApplyCounterResetsSeriesIterator`) adds up the increases, so that the values never
//! fall, and drops NaN and stale samples. It begins with the first sample of the first chunk that was returned,
//! even where that lies before the query's range: the level of the result depends on where chunks begin.

use parallax_model::{FloatColumn, HistogramColumn, TimeRange};
use parallax_tsdb::chunk::{ChunkEncoding, Steps, decode_chunk, sample_count};

use crate::downsampled::decode_average;
use crate::follow::FloatFeed;
use crate::scratch::Scratch;
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
pub fn decode_replica(chunks: &[&Chunk], bounds: TimeRange, flattens: bool) -> Result<Samples, Error> {
    decode_replica_in(chunks, bounds, flattens, FloatColumn::default())
}

/// The same, with floats in the memory of `column`.
pub(crate) fn decode_replica_in(
    chunks: &[&Chunk],
    bounds: TimeRange,
    flattens: bool,
    column: FloatColumn,
) -> Result<Samples, Error> {
    let mut replica = Replica::new(bounds, flattens, column);
    reserve(&mut replica.samples.floats, expected_floats(chunks));
    for chunk in chunks {
        replica.decode(chunk)?;
    }
    Ok(replica.samples)
}

fn reserve(column: &mut FloatColumn, samples: usize) {
    column.timestamps_ms.reserve(samples);
    column.values.reserve(samples);
}

/// How many floats the chunks say they have, and can have.
pub(crate) fn expected_floats(chunks: &[&Chunk]) -> usize {
    // A sample takes two bits at least.
    let floats = chunks.iter().filter(|chunk| chunk.encoding == ChunkEncoding::Xor);
    floats.map(|chunk| sample_count(&chunk.data).unwrap_or(0).min(chunk.data.len() * 4)).sum()
}

/// Room for no more samples than these is made before they are wanted.
const MAX_ROOM_SAMPLES: usize = 1 << 12;

/// Of the first chunk one part in this many is decoded first: of a replica that is not followed, nothing more is wanted.
const BEGINNING_SHARE: i64 = 16;

/// The floats of one replica, decoded chunk by chunk as they are wanted.
pub(crate) struct LazyReplica<'a> {
    chunks: std::slice::Iter<'a, &'a Chunk>,
    replica: Replica,
    /// Whether chunks before what is wanted are left out.
    skips: bool,
    /// The first chunk, while no more than its beginning was decoded.
    begun: Option<&'a Chunk>,
    is_untouched: bool,
}

impl<'a> LazyReplica<'a> {
    /// For chunks of floats that do not overlap and come in order of time, decoded in the memory of `column`.
    pub(crate) fn new(
        chunks: &'a [&'a Chunk],
        bounds: TimeRange,
        flattens: bool,
        column: FloatColumn,
    ) -> Self {
        // A counter's total needs what comes before.
        let skips = !flattens;
        let replica = Replica::new(bounds, flattens, column);
        Self { chunks: chunks.iter(), replica, skips, begun: None, is_untouched: true }
    }

    /// Decodes what comes before the samples that are wanted, too.
    pub(crate) fn without_skipping(self) -> Self {
        Self { skips: false, ..self }
    }

    /// Decodes a chunk, or the beginning of the first one.
    fn decode(&mut self, chunk: &'a Chunk) -> Result<(), Error> {
        if std::mem::replace(&mut self.is_untouched, false) && chunk.content.is_raw() {
            let span_ms = chunk.max_time_ms.saturating_sub(chunk.min_time_ms);
            self.begun = Some(chunk);
            return self
                .replica
                .decode_until(chunk, chunk.min_time_ms.saturating_add(span_ms / BEGINNING_SHARE));
        }
        self.replica.decode(chunk)
    }
}

impl FloatFeed for LazyReplica<'_> {
    type Error = Error;

    fn decoded(&self) -> &FloatColumn {
        &self.replica.samples.floats
    }

    fn steps(&self) -> Option<Steps> {
        self.replica.steps
    }

    /// What chunks hold is taken to lie where their store says.
    fn decode_more(&mut self, from_ms: i64) -> Result<bool, Error> {
        let has_some = |chunk: &&Chunk| chunk.max_time_ms >= from_ms;
        let is_there = self.begun.iter().any(has_some) || self.chunks.as_slice().iter().any(has_some);
        if from_ms > self.replica.bounds.max_ms || !is_there {
            return Ok(false);
        }
        if let Some(chunk) = self.begun.take().filter(|chunk| !self.skips || has_some(chunk)) {
            // From its beginning: what has been decoded of it comes out the same.
            self.replica.restart();
            self.replica.decode(chunk)?;
            return Ok(true);
        }
        let skips = self.skips;
        let Some(chunk) = self.chunks.find(|chunk| !skips || has_some(chunk)) else { return Ok(false) };
        let floats = &mut self.replica.samples.floats;
        let mut expected = expected_floats(std::slice::from_ref(chunk));
        if floats.timestamps_ms.capacity() - floats.len() < expected {
            if !floats.is_empty() {
                // Of most replicas no more than the first chunks are wanted, and of the others all of them.
                expected =
                    expected.max((expected + expected_floats(self.chunks.as_slice())).min(MAX_ROOM_SAMPLES));
            }
            reserve(floats, expected);
        }
        self.decode(chunk)?;
        Ok(true)
    }

    fn expected(&self) -> usize {
        self.decoded().len()
            + expected_floats(self.begun.as_slice())
            + expected_floats(self.chunks.as_slice())
    }

    fn into_decoded(self) -> FloatColumn {
        self.replica.samples.floats
    }

    fn leave(self, scratch: &mut Scratch) {
        scratch.give(self.replica.samples.floats);
    }
}

/// The same for chunks that are decoded already.
pub fn join(chunks: impl IntoIterator<Item = DecodedChunk>, bounds: TimeRange, flattens: bool) -> Samples {
    let mut replica = Replica::new(bounds, flattens, FloatColumn::default());
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
    /// Of the last sample seen, in bounds or not.
    last_ms: Option<i64>,
    /// Between the floats, where decoding has shown them all.
    steps: Option<Steps>,
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

    /// Adds values that [count on](counts_on) from the last one, where the total is that one too: no sum of whole numbers is rounded, so that each total
    /// is the value. False, and nothing done, if they are others.
    fn count_on(&mut self, values: &[f64]) -> bool {
        let (Some(first), Some(newest)) = (values.first(), values.last()) else { return true };
        let counts = match self.last {
            None => counts_on(*first, values),
            Some(last) => last == self.total && counts_on(last, values),
        };
        if counts {
            (self.last, self.total) = (Some(*newest), *newest);
        }
        counts
    }

    /// The same for values of which none is NaN, in place.
    fn add_all(&mut self, values: &mut [f64]) {
        let rest = match (self.last, &mut *values) {
            (None, [first, rest @ ..]) => {
                self.add(*first);
                rest
            }
            (_, all) => all,
        };
        let Some(mut last) = self.last else { return };
        let mut total = self.total;
        for value in rest {
            let now = *value;
            total += if now >= last { now - last } else { now };
            last = now;
            *value = total;
        }
        (self.last, self.total) = (Some(last), total);
    }
}

/// Whether `values` and the one before them are whole numbers that never fall, all so small that sums of them are exact: what nearly every counter is.
fn counts_on(before: f64, values: &[f64]) -> bool {
    /// To add it, and to take it off again, leaves whole numbers below 2^51 as they are, and no others that are not negative.
    const ROUNDING: f64 = (3u64 << 51) as f64;
    /// Within so many there is no branch, so that several are looked at together.
    const BLOCK: usize = 64;
    let is_whole = |value: f64| value.is_sign_positive() & ((value + ROUNDING) - ROUNDING == value);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return true };
    // What does not fall lies between the first and the last.
    let is_small = before <= *first && *last < (1u64 << 51) as f64;
    let later = values.get(1..).unwrap_or_default();
    let mut blocks = values.chunks(BLOCK).zip(later.chunks(BLOCK));
    is_small
        && is_whole(before)
        && is_whole(*last)
        && blocks.all(|(earlier, later)| {
            let pairs = earlier.iter().zip(later);
            pairs.fold(true, |all, (earlier, later)| all & is_whole(*earlier) & (earlier <= later))
        })
}

impl Replica {
    /// `column` is empty.
    fn new(bounds: TimeRange, flattens: bool, column: FloatColumn) -> Self {
        let (counter, samples) =
            (flattens.then(Counter::default), Samples { floats: column, ..Samples::default() });
        Self { samples, bounds, counter, last_ms: None, steps: Some(Steps::NONE) }
    }

    /// As if nothing had been decoded.
    fn restart(&mut self) {
        let mut column = std::mem::take(&mut self.samples.floats);
        column.timestamps_ms.clear();
        column.values.clear();
        *self = Self::new(self.bounds, self.counter.is_some(), column);
    }

    fn decode(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.decode_until(chunk, i64::MAX)
    }

    /// Decodes no sample after `until_ms`.
    fn decode_until(&mut self, chunk: &Chunk, until_ms: i64) -> Result<(), Error> {
        if chunk.min_time_ms > self.bounds.max_ms {
            return Ok(());
        }
        if chunk.is_withheld() {
            let Chunk { min_time_ms, max_time_ms, .. } = *chunk;
            return Err(Error::Withheld { min_time_ms, max_time_ms });
        }
        // A counter's total begins with the first sample there is, in bounds or not.
        let is_counter = self.counter.is_some();
        let min_ms = if is_counter { i64::MIN } else { self.bounds.min_ms };
        let range = TimeRange::new(min_ms, self.bounds.max_ms.min(until_ms));
        let (first_float, first_histogram) = (self.samples.floats.len(), self.samples.histograms.len());
        let (floats, histograms) = (&mut self.samples.floats, &mut self.samples.histograms);
        let steps = match &chunk.content {
            Content::Sums { counts } => {
                decode_average(chunk, counts, range, floats, histograms)?;
                None
            }
            Content::Raw | Content::Aggregate | Content::Counter => {
                decode_chunk(chunk.encoding, &chunk.data, range, floats, histograms)
                    .map_err(|source| chunk.error(source))?
            }
        };
        if is_counter {
            self.flatten_new_floats(first_float, steps);
        } else {
            self.keep_new_floats(first_float, steps);
        }
        self.go_on(first_float, steps);
        self.keep_new_histograms(first_histogram);
        Ok(())
    }

    fn add_floats(&mut self, mut floats: FloatColumn) {
        let first = self.samples.floats.len();
        self.samples.floats.timestamps_ms.append(&mut floats.timestamps_ms);
        self.samples.floats.values.append(&mut floats.values);
        if self.counter.is_some() {
            self.flatten_new_floats(first, None);
        } else {
            self.keep_new_floats(first, None);
        }
        self.go_on(first, None);
    }

    fn add_histograms(&mut self, mut histograms: HistogramColumn) {
        let first = self.samples.histograms.len();
        self.samples.histograms.timestamps_ms.append(&mut histograms.timestamps_ms);
        self.samples.histograms.values.append(&mut histograms.values);
        self.keep_new_histograms(first);
    }

    /// Adds the steps between the floats from index `first` on, which all came as they were decoded, and the one that leads to them.
    fn go_on(&mut self, first: usize, steps: Option<Steps>) {
        let times_ms = &self.samples.floats.timestamps_ms;
        if times_ms.len() == first {
            return;
        }
        let before = first.checked_sub(1).and_then(|before| times_ms.get(before));
        let across =
            before.zip(times_ms.get(first)).map(|(before_ms, first_ms)| first_ms.wrapping_sub(*before_ms));
        let known = self.steps.zip(steps).map(|(known, steps)| known.and_all(steps));
        self.steps = known.map(|known| across.map_or(known, |step_ms| known.and(step_ms)));
    }

    /// Of the floats from index `first` on, keeps those that are newer than all before, and in bounds.
    fn keep_new_floats(&mut self, first: usize, steps: Option<Steps>) {
        let added = self.samples.floats.timestamps_ms.get(first..).unwrap_or_default();
        if self.are_new(added, steps) {
            self.last_ms = added.last().copied().or(self.last_ms);
            return;
        }
        self.steps = None;
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
        if self.are_new(added, None) {
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
    fn are_new(&self, times_ms: &[i64], steps: Option<Steps>) -> bool {
        let (Some(first_ms), Some(last_ms)) = (times_ms.first(), times_ms.last()) else { return true };
        self.last_ms.is_none_or(|before_ms| before_ms < *first_ms)
            && self.bounds.contains(*first_ms)
            && self.bounds.contains(*last_ms)
            && (steps.is_some() || times_ms.is_sorted_by(|a, b| a < b))
    }

    /// Makes running totals of the floats from index `first` on, and keeps those that are newer than all before, and in bounds.
    fn flatten_new_floats(&mut self, first: usize, steps: Option<Steps>) {
        let floats = &mut self.samples.floats;
        let times_ms = floats.timestamps_ms.get(first..).unwrap_or_default();
        let values = floats.values.get_mut(first..).unwrap_or_default();
        let (Some(first_ms), Some(last_ms)) = (times_ms.first(), times_ms.last()) else { return };
        // Nearly always samples are in order, and none of them is a staleness marker: the less so if they count on.
        let is_ordered = self.last_ms.is_none_or(|before_ms| before_ms < *first_ms)
            && (steps.is_some() || times_ms.is_sorted_by(|a, b| a < b));
        let counts = is_ordered && self.counter.as_mut().is_some_and(|counter| counter.count_on(values));
        let is_plain =
            is_ordered && (counts || !values.iter().fold(false, |found, value| found | value.is_nan()));
        if !is_plain {
            self.steps = None;
            let timestamps_ms = floats.timestamps_ms.split_off(first);
            let values = floats.values.split_off(first);
            return self.add_counter(&FloatColumn { timestamps_ms, values });
        }
        self.last_ms = Some(*last_ms);
        if let Some(counter) = self.counter.as_mut().filter(|_| !counts) {
            counter.add_all(values);
        }
        if *first_ms >= self.bounds.min_ms && *last_ms <= self.bounds.max_ms {
            return;
        }
        let inside = times_ms.partition_point(|time_ms| *time_ms < self.bounds.min_ms)
            ..times_ms.partition_point(|time_ms| *time_ms <= self.bounds.max_ms);
        floats.timestamps_ms.truncate(first + inside.end);
        floats.values.truncate(first + inside.end);
        if inside.start > 0 {
            let before = first..first + inside.start.min(inside.end);
            floats.timestamps_ms.drain(before.clone());
            floats.values.drain(before);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            20 => (0u32..1000).prop_map(f64::from),
            1 => Just(-0.0),
            1 => Just(0.5),
            1 => Just(f64::INFINITY),
            1 => Just(-3.0),
            1 => Just((1u64 << 51) as f64 - 1.0),
            1 => Just((1u64 << 53) as f64 + 2.0),
            1 => any::<f64>().prop_filter("no marker", |value| !value.is_nan()),
        ]
    }

    proptest! {
        #[test]
        fn totals_in_place_are_those_of_one_value_after_the_other(
            chunks in prop::collection::vec((prop::collection::vec(value(), 0..12), any::<bool>()), 1..5),
        ) {
            let (mut together, mut single) = (Counter::default(), Counter::default());
            for (mut values, rises) in chunks {
                if rises {
                    values.sort_by(f64::total_cmp);
                }
                let expected: Vec<u64> = values.iter().map(|value| single.add(*value).to_bits()).collect();
                if !together.count_on(&values) {
                    together.add_all(&mut values);
                }
                let totals: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
                prop_assert_eq!(totals, expected);
            }
        }
    }
}
