//! [`Samples`]: the decoded samples of chunks that are merged, of any kind, each known by a number.
//!
//! Merging moves numbers, never histograms. Numbers only grow while the chunks of a cluster are decoded, and the earliest samples can be let go, so that
//! what is held is what still matters. The memory is reused from one series to the next. The way back into chunks is [`super::encoder`]'s.
//!
//! Of a chunk that will most likely be left out, but for its first samples, only these are read, until somebody asks for more. Where it ends the index says;
//! whoever leaves it out asks whether that is true ([`Samples::check_ends`]) where it would matter.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use parallax_model::{FloatColumn, FloatHistogram, Histogram};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{
    ChunkEncoding, FloatHistogramReader, HistogramReader, Order, XorRun, XorTrace, decode_xor,
    decode_xor_times, decode_xor_traced, ends_exactly, sample_count,
};
use parallax_tsdb::segment::Chunk;

use super::encoder::MAX_CHUNK_SAMPLES;
use super::overlap::MergeFailure;

/// A sample's number.
pub(crate) type SampleId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Float,
    /// A float of which the time was read at most.
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
    /// As places, of the first few samples; of the others only the time of the last, as long as nobody asks for more.
    Beginning,
}

/// A chunk of floats whose places are noted, or will be when somebody asks for one, and of which some samples are held.
#[derive(Debug)]
struct Traced {
    ids: Range<SampleId>,
    data: Bytes,
    min_time_ms: i64,
    max_time_ms: i64,
    /// Whether nothing follows the last sample; false as long as not all times were read.
    is_exact: bool,
    /// The times before that of this sample are known, and that of the last one.
    timed_to: SampleId,
    /// Of the samples before this one all is known.
    read_to: SampleId,
}

/// A chunk whose end was not read, and may stand elsewhere.
#[derive(Debug)]
struct Doubt {
    /// Its first sample.
    first: SampleId,
    chunk: BlockChunk,
    /// It ends before.
    until_ms: i64,
}

/// Behind a chunk there is room for more samples of it if it is longer than so many of its steps.
const ROOM_STEPS: i64 = 2;

/// So many samples are read of a chunk of which only the beginning is wanted.
const FEW_SAMPLES: usize = 4;

/// Stands for a time that was not read; to be asked about, since a sample may have it.
const UNREAD_MS: i64 = i64::MIN;

/// The time of this sample was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unread(pub(super) SampleId);

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// Times of all samples, and the values of floats. Of a histogram the bits of the value are its place among those of its kind.
    column: FloatColumn,
    /// At least as long as the column, if places are noted.
    trace: XorTrace,
    /// In the order of their numbers.
    traced: VecDeque<Traced>,
    /// Held apart from samples: these may be let go before.
    doubts: Vec<Doubt>,
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
        self.traced.clear();
        self.doubts.clear();
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

    /// As [`Self::time_ms`], if it was read.
    #[inline]
    pub(super) fn known_ms(&self, id: SampleId) -> Result<i64, Unread> {
        self.known(id, self.time_ms(id))
    }

    /// What [`Self::times_ms`] gave for a sample, if it was read.
    #[inline(always)]
    pub(super) fn known(&self, id: SampleId, time_ms: i64) -> Result<i64, Unread> {
        if time_ms == UNREAD_MS && self.is_unread(id) { Err(Unread(id)) } else { Ok(time_ms) }
    }

    #[cold]
    fn is_unread(&self, id: SampleId) -> bool {
        let chunk = self.traced_at(id).and_then(|place| self.traced.get(place));
        chunk.is_some_and(|chunk| (chunk.timed_to..chunk.ids.end.saturating_sub(1)).contains(&id))
    }

    /// The times of samples that are held, as far as they were read ([`Self::known`]).
    pub(super) fn times_ms(&self, ids: &Range<SampleId>) -> &[i64] {
        self.column.timestamps_ms.get(self.index(ids.start)..self.index(ids.end)).unwrap_or_default()
    }

    /// Adds the samples of a chunk; gives their numbers, which are in order of time.
    ///
    /// # Errors
    /// A chunk that does not decode, whose samples are not in strict order, or that does not cover the time that it is said to, as far as it is read.
    pub fn decode(&mut self, chunk: &BlockChunk, noted: Noted) -> Result<Range<SampleId>, TsdbError> {
        let start = self.column.len();
        let data = &chunk.chunk.data;
        let mut order = Order::Unknown;
        let mut is_exact = false;
        let kind = match chunk.chunk.encoding {
            ChunkEncoding::Xor => {
                order = match noted {
                    Noted::Samples => decode_xor(data, &mut self.column)?,
                    Noted::Places | Noted::Beginning => {
                        let most = if noted == Noted::Beginning { beginning(data) } else { usize::MAX };
                        let order = decode_xor_traced(data, most, &mut self.column, &mut self.trace)?;
                        is_exact = ends_with(
                            data,
                            self.trace.ends.get(start..self.column.len()).unwrap_or_default(),
                        );
                        order
                    }
                };
                Kind::Float
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
        let read = self.column.len();
        if kind == Kind::Float && noted == Noted::Beginning {
            self.leave_unread(start + sample_count(data)?, chunk.max_time_ms);
        }
        let times = self.column.timestamps_ms.get(start..).unwrap_or_default();
        // Behind those that were read only the last time is known.
        let unread = self.column.len() - read;
        check_times(times, unread, order, (chunk.min_time_ms, chunk.max_time_ms))?;
        let id = |index: usize| {
            let id = SampleId::try_from(index).ok().and_then(|index| self.first.checked_add(index));
            id.ok_or_else(|| TsdbError::invalid("chunk", "too many samples overlap"))
        };
        let ids = id(start)?..id(self.column.len())?;
        if kind == Kind::Float && noted != Noted::Samples {
            let read_to = id(read)?;
            self.traced.push_back(Traced {
                ids: ids.clone(),
                data: data.clone(),
                min_time_ms: chunk.min_time_ms,
                max_time_ms: chunk.max_time_ms,
                is_exact: is_exact && unread == 0,
                timed_to: read_to,
                read_to,
            });
        }
        Ok(ids)
    }

    /// Makes room for samples up to `len` that are not read, of which the last has this time.
    fn leave_unread(&mut self, len: usize, last_ms: i64) {
        if len <= self.column.len() {
            return;
        }
        self.column.timestamps_ms.resize(len - 1, UNREAD_MS);
        self.column.timestamps_ms.push(last_ms);
        self.column.values.resize(len, 0.0);
        self.kinds.resize(len, Kind::Time);
        self.trace.reach(len);
    }

    /// Notes that a chunk, that of these samples, may have more of them behind the end that is said, but none from `until_ms` on: if its end was not read, and there is room.
    ///
    /// Chunks of one source do not overlap, and the first time of each is known to be true. So where one follows the other closely, as they mostly do, there is nothing to doubt.
    pub(super) fn doubt_end(&mut self, chunk: &BlockChunk, ids: &Range<SampleId>, until_ms: i64) {
        let is_unread = |traced: &Traced| traced.ids == *ids && traced.timed_to < ids.end;
        if !self.traced.back().is_some_and(is_unread) {
            return;
        }
        let steps = ids.len().saturating_sub(1).max(1);
        let step_ms = chunk.max_time_ms.saturating_sub(chunk.min_time_ms) / steps as i64;
        if until_ms.saturating_sub(chunk.max_time_ms) > step_ms.saturating_mul(ROOM_STEPS) {
            self.doubts.push(Doubt { first: ids.start, chunk: chunk.clone(), until_ms });
        }
    }

    pub(super) fn have_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// Forgets doubts about chunks that cannot reach beyond this time: nobody will ask about what lies before.
    pub(super) fn trust_ends_before(&mut self, time_ms: i64) {
        if self.have_doubts() {
            self.doubts.retain(|doubt| doubt.until_ms > time_ms);
        }
    }

    /// Reads the times of chunks that are said to end before `to_ms` and may reach beyond `from_ms`, of each once.
    ///
    /// # Errors
    /// A chunk that does not end where it is said to.
    #[inline]
    pub(super) fn check_ends(&mut self, from_ms: i64, to_ms: i64) -> Result<(), MergeFailure> {
        if self.have_doubts() { self.check_doubts(from_ms, to_ms) } else { Ok(()) }
    }

    #[cold]
    fn check_doubts(&mut self, from_ms: i64, to_ms: i64) -> Result<(), MergeFailure> {
        let matters = |doubt: &Doubt| doubt.chunk.max_time_ms < to_ms && doubt.until_ms > from_ms;
        while let Some(place) = self.doubts.iter().position(matters) {
            let Doubt { chunk, .. } = self.doubts.swap_remove(place);
            self.reread.timestamps_ms.clear();
            let read = decode_xor_times(&chunk.chunk.data, &mut self.reread.timestamps_ms);
            let range_ms = (chunk.min_time_ms, chunk.max_time_ms);
            let checked =
                read.and_then(|found| check_times(&self.reread.timestamps_ms, 0, found.order, range_ms));
            checked.map_err(MergeFailure::of_chunk(&chunk))?;
        }
        Ok(())
    }

    /// Reads the times of the chunk that a sample stands in, and all of it if it will not be copied as a whole.
    pub(super) fn read_chunk_of(&mut self, unread: Unread) -> Result<(), MergeFailure> {
        let place = self.traced_at(unread.0);
        let chunk = place.and_then(|place| Some((place, self.traced.get(place)?)));
        match chunk.map(|(place, chunk)| (place, chunk.timed_to < chunk.ids.end, chunk.ids.len())) {
            Some((place, true, MAX_CHUNK_SAMPLES)) => self.read_times(place),
            Some((place, true, _)) => self.read(place),
            _ => Err(TsdbError::invalid("chunk", "a sample has no time").into()),
        }
    }

    /// Reads the times of a chunk that are not known.
    fn read_times(&mut self, place: usize) -> Result<(), MergeFailure> {
        let Some(chunk) = self.traced.get(place).filter(|chunk| chunk.timed_to < chunk.ids.end) else {
            return Ok(());
        };
        let refused = chunk.refused();
        self.reread.timestamps_ms.clear();
        let read = decode_xor_times(&chunk.data, &mut self.reread.timestamps_ms);
        let checked = read.and_then(|found| {
            check_times(&self.reread.timestamps_ms, 0, found.order, (chunk.min_time_ms, chunk.max_time_ms))?;
            Ok(found.is_exact)
        });
        let is_exact = checked.map_err(refused)?;
        let (held, gone) = self.held(place);
        copy_behind(&mut self.column.timestamps_ms, held, &self.reread.timestamps_ms, gone);
        if let Some(chunk) = self.traced.get_mut(place) {
            (chunk.timed_to, chunk.is_exact) = (chunk.ids.end, is_exact);
            let first = chunk.ids.start;
            self.doubts.retain(|doubt| doubt.first != first);
        }
        Ok(())
    }

    /// Reads what is not known of a chunk.
    fn read(&mut self, place: usize) -> Result<(), MergeFailure> {
        let Some(chunk) = self.traced.get(place).filter(|chunk| chunk.read_to < chunk.ids.end) else {
            return Ok(());
        };
        let refused = chunk.refused();
        self.reread.timestamps_ms.clear();
        self.reread.values.clear();
        let read = decode_xor_traced(&chunk.data, usize::MAX, &mut self.reread, &mut self.retraced);
        let range_ms = (chunk.min_time_ms, chunk.max_time_ms);
        let checked = read.and_then(|order| check_times(&self.reread.timestamps_ms, 0, order, range_ms));
        let is_exact =
            ends_with(&chunk.data, self.retraced.ends.get(..self.reread.len()).unwrap_or_default());
        checked.map_err(refused)?;
        let (held, gone) = self.held(place);
        copy_behind(&mut self.column.timestamps_ms, held.clone(), &self.reread.timestamps_ms, gone);
        copy_behind(&mut self.column.values, held.clone(), &self.reread.values, gone);
        copy_behind(&mut self.trace.ends, held.clone(), &self.retraced.ends, gone);
        copy_behind(&mut self.trace.windows, held.clone(), &self.retraced.windows, gone);
        self.kinds.get_mut(held).unwrap_or_default().fill(Kind::Float);
        if let Some(chunk) = self.traced.get_mut(place) {
            let end = chunk.ids.end;
            (chunk.timed_to, chunk.read_to, chunk.is_exact) = (end, end, is_exact);
            let first = chunk.ids.start;
            self.doubts.retain(|doubt| doubt.first != first);
        }
        Ok(())
    }

    /// Where in the columns what is held of a chunk stands, and how many of its first samples are gone.
    fn held(&self, place: usize) -> (Range<usize>, usize) {
        let ids = self.traced.get(place).map_or(0..0, |chunk| chunk.ids.clone());
        let held = self.first.max(ids.start).min(ids.end);
        (self.index(held)..self.index(ids.end), (held - ids.start) as usize)
    }

    /// Reads all that is not known of any sample that is held.
    pub(super) fn read_all(&mut self) -> Result<(), MergeFailure> {
        (0..self.traced.len()).try_for_each(|place| self.read(place))
    }

    /// The chunk whose samples some numbers begin with, if it has `count` of them, all are meant, and there is nothing else in it.
    pub(super) fn whole(
        &mut self,
        ids: &[SampleId],
        count: usize,
    ) -> Result<Option<BlockChunk>, MergeFailure> {
        let ids = ids.get(..count).unwrap_or_default();
        let Some(place) = ids.first().and_then(|first| self.traced_at(*first)) else { return Ok(None) };
        let is_whole = |chunk: &&Traced| ids.iter().copied().eq(chunk.ids.clone());
        if self.traced.get(place).filter(is_whole).is_none() {
            return Ok(None);
        }
        self.read_times(place)?;
        Ok(self.traced.get(place).filter(|chunk| chunk.is_exact).map(|chunk| BlockChunk {
            min_time_ms: chunk.min_time_ms,
            max_time_ms: chunk.max_time_ms,
            chunk: Chunk { encoding: ChunkEncoding::Xor, data: chunk.data.clone() },
        }))
    }

    /// The place of the chunk that a sample stands in.
    fn traced_at(&self, id: SampleId) -> Option<usize> {
        let place = self.traced.partition_point(|chunk| chunk.ids.end <= id);
        self.traced.get(place).is_some_and(|chunk| chunk.ids.contains(&id)).then_some(place)
    }

    /// The run in one chunk that some numbers begin with, of `most` samples at most; `None` if it is not known where they stand. There are that many of them.
    pub(super) fn run(&mut self, ids: &[SampleId], most: usize) -> Result<Option<XorRun<'_>>, MergeFailure> {
        let Some(first) = ids.first().copied() else { return Ok(None) };
        let Some(place) = self.traced_at(first) else { return Ok(None) };
        let (end, read_to) =
            self.traced.get(place).map_or((first, 0), |chunk| (chunk.ids.end, chunk.read_to));
        let most = most.min(end.saturating_sub(first) as usize).min(ids.len());
        let count = following(ids.get(..most).unwrap_or_default());
        // It is not longer than its chunk.
        if first.saturating_add(count as SampleId) > read_to {
            self.read(place)?;
        }
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

impl Traced {
    /// Makes errors of decoding errors of this chunk.
    fn refused(&self) -> impl FnOnce(TsdbError) -> MergeFailure + use<> {
        let (min_time_ms, max_time_ms) = (self.min_time_ms, self.max_time_ms);
        move |source| MergeFailure::Chunk { min_time_ms, max_time_ms, source }
    }
}

/// How many numbers, from the first on, follow each other.
fn following(ids: &[SampleId]) -> usize {
    /// Compared at once.
    const BLOCK: usize = 16;
    let Some(first) = ids.first().copied() else { return 0 };
    let is_at = |id: &SampleId, place: usize| *id == first.wrapping_add(place as SampleId);
    let mut count = 0;
    for block in ids.as_chunks::<BLOCK>().0 {
        if !block.iter().enumerate().fold(true, |all, (at, id)| all & is_at(id, count + at)) {
            break;
        }
        count += BLOCK;
    }
    let rest = ids.get(count..).unwrap_or_default();
    count + rest.iter().enumerate().take_while(|(at, id)| is_at(id, count + at)).count()
}

/// How many samples are read of a chunk of which only the beginning is wanted. A count that the bytes cannot hold must not claim memory: whoever decodes all finds it.
fn beginning(data: &[u8]) -> usize {
    let fits = |count: &usize| *count <= data.len().saturating_mul(4);
    if sample_count(data).is_ok_and(|count| fits(&count)) { FEW_SAMPLES } else { usize::MAX }
}

/// Whether the last of some samples ends where the chunk does.
fn ends_with(data: &[u8], ends: &[u32]) -> bool {
    ends.last().is_some_and(|end| ends_exactly(data, u64::from(*end)))
}

/// Compares times with what is said of their chunk. `unread` of them in front of the last one are not known, that one included.
fn check_times(times_ms: &[i64], unread: usize, order: Order, range_ms: (i64, i64)) -> Result<(), TsdbError> {
    let read = times_ms.get(..times_ms.len().saturating_sub(unread)).unwrap_or_default();
    let in_order = order == Order::Ascending || read.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
    if !in_order {
        return Err(TsdbError::corrupt("chunk", 0, "the samples of a chunk are not in order of time"));
    }
    let (min_ms, max_ms) = range_ms;
    let ends = read.last().is_some_and(|last| if unread == 0 { *last == max_ms } else { *last < max_ms });
    if ends && read.first() == Some(&min_ms) {
        return Ok(());
    }
    let reason = format!("a chunk does not cover the time from {min_ms} to {max_ms} ms");
    Err(TsdbError::corrupt("chunk", 0, reason))
}

/// Copies what stands behind the first `gone` values to a range.
fn copy_behind<T: Copy>(to: &mut [T], range: Range<usize>, from: &[T], gone: usize) {
    let slots = to.get_mut(range).unwrap_or_default();
    for (slot, value) in slots.iter_mut().zip(from.iter().skip(gone)) {
        *slot = *value;
    }
}
