//! [`Samples`]: the decoded samples of chunks that are merged, of any kind, each known by a number.
//!
//! Merging moves numbers, never histograms. Numbers only grow while the chunks of a cluster are decoded, and the earliest samples can be let go, so that
//! what is held is what still matters. The memory is reused from one series to the next. The way back into chunks is [`super::encoder`]'s.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use parallax_model::{FloatColumn, FloatHistogram, Histogram};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{
    ChunkEncoding, FloatHistogramReader, HistogramReader, Order, XorRun, XorTrace, decode_xor,
    decode_xor_times, decode_xor_traced, ends_exactly,
};
use parallax_tsdb::segment::Chunk;

/// A sample's number.
pub(crate) type SampleId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Float,
    /// A float of which the time was read, and no more.
    Time,
    Histogram,
    FloatHistogram,
}

/// A sample's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Float(f64),
    Histogram(&'a Histogram),
    FloatHistogram(&'a FloatHistogram),
}

/// What is noted of floats when they are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    Samples,
    /// Where each stands in its chunk, too, so that it can be copied from there.
    Places,
    /// Times alone, as long as nobody asks for more: of a chunk that will most likely be copied as a whole, or left out.
    Times,
}

/// A chunk of floats whose places are noted, or will be when somebody asks for one, and of which some samples are held.
#[derive(Debug)]
struct Traced {
    ids: Range<SampleId>,
    data: Bytes,
    /// Whether nothing follows the last sample.
    is_exact: bool,
    /// Of the samples before this one more is known than the times.
    read_to: SampleId,
}

/// So many samples are read at once, if not all.
const FEW_SAMPLES: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// Times of all samples, and the values of floats. Of a histogram the bits of the value are its place among those of its kind.
    column: FloatColumn,
    /// As long as the column, if places are noted.
    trace: XorTrace,
    /// In the order of their numbers.
    traced: VecDeque<Traced>,
    kinds: Vec<Kind>,
    histograms: Kept<Histogram>,
    float_histograms: Kept<FloatHistogram>,
    /// The number of the first sample that is held.
    first: SampleId,
    /// Memory of reading a chunk once more.
    reread: FloatColumn,
    retraced: XorTrace,
}

/// Histograms of one kind, by place; those of the lowest places may be gone.
#[derive(Debug)]
struct Kept<H> {
    held: Vec<H>,
    gone: usize,
}

impl<H> Default for Kept<H> {
    fn default() -> Self {
        Self { held: Vec::new(), gone: 0 }
    }
}

impl<H> Kept<H> {
    /// Adds one; gives its place, as it stands where the value of a float would.
    fn push(&mut self, histogram: H) -> f64 {
        self.held.push(histogram);
        f64::from_bits((self.gone + self.held.len() - 1) as u64)
    }

    fn get(&self, place: f64) -> Option<&H> {
        self.held.get(usize::try_from(place.to_bits()).ok()?.checked_sub(self.gone)?)
    }

    /// Whether there never was one.
    fn is_unused(&self) -> bool {
        self.held.is_empty() && self.gone == 0
    }

    fn let_go(&mut self, count: usize) {
        self.held.drain(..count.min(self.held.len()));
        self.gone += count;
    }

    fn clear(&mut self) {
        self.held.clear();
        self.gone = 0;
    }
}

impl Samples {
    /// Whether chunks of this encoding hold samples that can be merged.
    pub fn takes(encoding: ChunkEncoding) -> bool {
        matches!(encoding, ChunkEncoding::Xor | ChunkEncoding::Histogram | ChunkEncoding::FloatHistogram)
    }

    pub fn clear(&mut self) {
        self.column.timestamps_ms.clear();
        self.column.values.clear();
        self.trace.resize(0);
        self.traced.clear();
        self.kinds.clear();
        self.histograms.clear();
        self.float_histograms.clear();
        self.first = 0;
    }

    /// How many samples are held.
    pub fn len(&self) -> usize {
        self.column.len()
    }

    #[inline]
    pub fn time_ms(&self, id: SampleId) -> i64 {
        self.column.timestamps_ms.get(self.index(id)).copied().unwrap_or(i64::MAX)
    }

    /// The times of samples that are held.
    pub(super) fn times_ms(&self, ids: &Range<SampleId>) -> &[i64] {
        self.column.timestamps_ms.get(self.index(ids.start)..self.index(ids.end)).unwrap_or_default()
    }

    /// Adds the samples of a chunk; gives their numbers, which are in order of time.
    ///
    /// # Errors
    /// A chunk that does not decode, whose samples are not in strict order, or that does not cover the time that it is said to.
    pub fn decode(&mut self, chunk: &BlockChunk, noted: Noted) -> Result<Range<SampleId>, TsdbError> {
        let start = self.column.len();
        let data = &chunk.chunk.data;
        let mut order = Order::Unknown;
        let mut is_exact = false;
        let kind = match chunk.chunk.encoding {
            ChunkEncoding::Xor => {
                order = match noted {
                    Noted::Samples => decode_xor(data, &mut self.column)?,
                    Noted::Places => {
                        // Samples of other kinds have no places.
                        self.trace.resize(start);
                        let order = decode_xor_traced(data, usize::MAX, &mut self.column, &mut self.trace)?;
                        let end = self.trace.ends.get(start..).unwrap_or_default().last();
                        is_exact = end.is_some_and(|end| ends_exactly(data, u64::from(*end)));
                        order
                    }
                    Noted::Times => {
                        let found = decode_xor_times(data, &mut self.column.timestamps_ms)?;
                        self.column.values.resize(self.column.timestamps_ms.len(), 0.0);
                        is_exact = found.is_exact;
                        found.order
                    }
                };
                if noted == Noted::Times { Kind::Time } else { Kind::Float }
            }
            ChunkEncoding::Histogram => {
                for sample in HistogramReader::new(data)? {
                    let (time_ms, histogram) = sample?;
                    self.column.push(time_ms, self.histograms.push(histogram));
                }
                Kind::Histogram
            }
            ChunkEncoding::FloatHistogram => {
                for sample in FloatHistogramReader::new(data)? {
                    let (time_ms, histogram) = sample?;
                    self.column.push(time_ms, self.float_histograms.push(histogram));
                }
                Kind::FloatHistogram
            }
            encoding => return Err(TsdbError::unsupported("chunk", 0, "encoding", encoding.as_byte())),
        };
        self.kinds.resize(self.column.len(), kind);
        let times = self.column.timestamps_ms.get(start..).unwrap_or_default();
        let in_order =
            order == Order::Ascending || times.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
        let covers = (times.first(), times.last()) == (Some(&chunk.min_time_ms), Some(&chunk.max_time_ms));
        if !in_order || !covers {
            let reason = if in_order {
                format!(
                    "a chunk does not cover the time from {} to {} ms",
                    chunk.min_time_ms, chunk.max_time_ms
                )
            } else {
                "the samples of a chunk are not in order of time".to_owned()
            };
            return Err(TsdbError::corrupt("chunk", 0, reason));
        }
        let id = |index: usize| {
            let id = SampleId::try_from(index).ok().and_then(|index| self.first.checked_add(index));
            id.ok_or_else(|| TsdbError::invalid("chunk", "too many samples overlap"))
        };
        let ids = id(start)?..id(self.column.len())?;
        if kind == Kind::Time || kind == Kind::Float && noted == Noted::Places {
            let read_to = if kind == Kind::Time { ids.start } else { ids.end };
            self.traced.push_back(Traced { ids: ids.clone(), data: data.clone(), is_exact, read_to });
        }
        Ok(ids)
    }

    /// Reads what is not known of the samples of a chunk that are held, up to `to`.
    fn read(&mut self, place: usize, to: SampleId) -> Result<(), TsdbError> {
        let Some(chunk) = self.traced.get_mut(place).filter(|chunk| chunk.read_to < to) else {
            return Ok(());
        };
        // Of a replica that is left for another soon only the first samples are needed.
        let is_begun = chunk.read_to > chunk.ids.start;
        let wanted = to.saturating_sub(chunk.ids.start) as usize;
        let most = if is_begun || wanted > FEW_SAMPLES { chunk.ids.len() } else { FEW_SAMPLES };
        let end = chunk.ids.end.min(chunk.ids.start.saturating_add(most as SampleId));
        chunk.read_to = end;
        let (start, data) = (chunk.ids.start, chunk.data.clone());
        self.reread.timestamps_ms.clear();
        self.reread.values.clear();
        self.retraced.resize(0);
        decode_xor_traced(&data, most, &mut self.reread, &mut self.retraced)?;
        // The first samples may be gone.
        let held = self.first.max(start).min(end);
        let gone = (held - start) as usize;
        let range = self.index(held)..self.index(end);
        self.trace.resize(self.trace.ends.len().max(self.column.len()));
        copy_behind(&mut self.column.values, range.clone(), &self.reread.values, gone);
        copy_behind(&mut self.trace.ends, range.clone(), &self.retraced.ends, gone);
        copy_behind(&mut self.trace.windows, range.clone(), &self.retraced.windows, gone);
        self.kinds.get_mut(range).unwrap_or_default().fill(Kind::Float);
        Ok(())
    }

    /// Reads all that is not known of any sample that is held.
    pub(super) fn read_all(&mut self) -> Result<(), TsdbError> {
        for place in 0..self.traced.len() {
            let end = self.traced.get(place).map_or(0, |chunk| chunk.ids.end);
            self.read(place, end)?;
        }
        Ok(())
    }

    /// The chunk whose samples some numbers begin with, if it has `count` of them, all are meant, and there is nothing else in it.
    pub(super) fn whole(&self, ids: &[SampleId], count: usize) -> Option<BlockChunk> {
        let ids = ids.get(..count)?;
        let chunk = self.traced.get(self.traced_at(*ids.first()?)?)?;
        if !chunk.is_exact || chunk.ids.len() != count || !ids.iter().copied().eq(chunk.ids.clone()) {
            return None;
        }
        let chunk_of = Chunk { encoding: ChunkEncoding::Xor, data: chunk.data.clone() };
        let times = self.times_ms(&chunk.ids);
        Some(BlockChunk { min_time_ms: *times.first()?, max_time_ms: *times.last()?, chunk: chunk_of })
    }

    /// The place of the chunk that a sample stands in.
    fn traced_at(&self, id: SampleId) -> Option<usize> {
        let place = self.traced.partition_point(|chunk| chunk.ids.end <= id);
        self.traced.get(place).is_some_and(|chunk| chunk.ids.contains(&id)).then_some(place)
    }

    /// The run in one chunk that some numbers begin with, of `most` samples at most; `None` if it is not known where they stand. There are that many of them.
    pub(super) fn run(&mut self, ids: &[SampleId], most: usize) -> Result<Option<XorRun<'_>>, TsdbError> {
        let Some(first) = ids.first().copied() else { return Ok(None) };
        let Some(place) = self.traced_at(first) else { return Ok(None) };
        let end = self.traced.get(place).map_or(first, |chunk| chunk.ids.end);
        let following = ids.iter().copied().zip(first..end).take(most);
        let count = following.take_while(|(id, next)| id == next).count();
        // It is not longer than its chunk.
        self.read(place, first.saturating_add(count as SampleId))?;
        Ok(self.run_at(place, first, count))
    }

    fn run_at(&self, place: usize, first: SampleId, count: usize) -> Option<XorRun<'_>> {
        let chunk = self.traced.get(place)?;
        // The first samples of the chunk may be gone.
        let held = self.first.max(chunk.ids.start);
        let places = self.index(held)..self.index(chunk.ids.end);
        let from = (first - held) as usize;
        Some(XorRun {
            bytes: &chunk.data,
            times_ms: self.column.timestamps_ms.get(places.clone())?,
            values: self.column.values.get(places.clone())?,
            ends: self.trace.ends.get(places.clone())?,
            windows: self.trace.windows.get(places)?,
            is_whole: held == chunk.ids.start,
            from,
            to: from + count,
        })
    }

    /// Whether places are noted.
    pub(super) fn have_places(&self) -> bool {
        !self.traced.is_empty()
    }

    /// Forgets the samples whose numbers are lower.
    pub fn let_go(&mut self, before: SampleId) {
        let count = (before.saturating_sub(self.first) as usize).min(self.column.len());
        let of_kind = |kind| self.kinds.iter().take(count).filter(|found| **found == kind).count();
        let (histograms, float_histograms) = (of_kind(Kind::Histogram), of_kind(Kind::FloatHistogram));
        self.histograms.let_go(histograms);
        self.float_histograms.let_go(float_histograms);
        self.column.timestamps_ms.drain(..count);
        self.column.values.drain(..count);
        self.kinds.drain(..count);
        self.trace.let_go(count);
        self.first = self.first.max(before);
        while self.traced.front().is_some_and(|chunk| chunk.ids.end <= self.first) {
            self.traced.pop_front();
        }
    }

    /// Whether all that is held are floats.
    pub(super) fn are_floats(&self) -> bool {
        self.histograms.is_unused() && self.float_histograms.is_unused()
    }

    /// The time and value of a sample that is held, where all are floats and were read.
    #[inline(always)]
    pub(super) fn float(&self, id: SampleId) -> Option<(i64, f64)> {
        let index = self.index(id);
        Some((*self.column.timestamps_ms.get(index)?, *self.column.values.get(index)?))
    }

    /// The time and value of a sample that is held and was read.
    #[inline]
    pub(super) fn get(&self, id: SampleId) -> Option<(i64, Value<'_>)> {
        let index = self.index(id);
        let (time_ms, value) = (*self.column.timestamps_ms.get(index)?, *self.column.values.get(index)?);
        let value = match self.kinds.get(index)? {
            Kind::Float => Value::Float(value),
            Kind::Time => return None,
            Kind::Histogram => Value::Histogram(self.histograms.get(value)?),
            Kind::FloatHistogram => Value::FloatHistogram(self.float_histograms.get(value)?),
        };
        Some((time_ms, value))
    }

    /// Beyond everything for a sample that was let go.
    #[inline]
    fn index(&self, id: SampleId) -> usize {
        id.wrapping_sub(self.first) as usize
    }
}

/// Copies what stands behind the first `gone` values to a range.
fn copy_behind<T: Copy>(to: &mut [T], range: Range<usize>, from: &[T], gone: usize) {
    let slots = to.get_mut(range).unwrap_or_default();
    for (slot, value) in slots.iter_mut().zip(from.iter().skip(gone)) {
        *slot = *value;
    }
}
