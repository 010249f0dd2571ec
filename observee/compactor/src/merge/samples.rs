//! [`Samples`]: the decoded samples of chunks that are merged, of any kind, each known by a number.
//!
//! Merging moves numbers, never histograms. Numbers only grow while the chunks of a cluster are decoded, and the earliest samples can be let go, so that
//! what is held is what still matters. The memory is reused from one series to the next. The way back into chunks is [`super::encoder`]'s.

use std::ops::Range;

use parallax_model::{FloatColumn, FloatHistogram, Histogram};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{ChunkEncoding, FloatHistogramReader, HistogramReader, Order, decode_xor};

/// A sample's number.
pub(crate) type SampleId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Float,
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

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// Times of all samples, and the values of floats. Of a histogram the bits of the value are its place among those of its kind.
    column: FloatColumn,
    kinds: Vec<Kind>,
    histograms: Kept<Histogram>,
    float_histograms: Kept<FloatHistogram>,
    /// The number of the first sample that is held.
    first: SampleId,
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

    /// Adds the samples of a chunk; gives their numbers, which are in order of time.
    ///
    /// # Errors
    /// A chunk that does not decode, whose samples are not in strict order, or that does not cover the time that it is said to.
    pub fn decode(&mut self, chunk: &BlockChunk) -> Result<Range<SampleId>, TsdbError> {
        let start = self.column.len();
        let data = &chunk.chunk.data;
        let mut order = Order::Unknown;
        let kind = match chunk.chunk.encoding {
            ChunkEncoding::Xor => {
                order = decode_xor(data, &mut self.column)?;
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
        Ok(id(start)?..id(self.column.len())?)
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
        self.first = self.first.max(before);
    }

    /// Whether all that is held are floats.
    pub(super) fn are_floats(&self) -> bool {
        self.histograms.is_unused() && self.float_histograms.is_unused()
    }

    /// The time and value of a sample that is held, where all are floats.
    #[inline(always)]
    pub(super) fn float(&self, id: SampleId) -> Option<(i64, f64)> {
        let index = self.index(id);
        Some((*self.column.timestamps_ms.get(index)?, *self.column.values.get(index)?))
    }

    /// The time and value of a sample that is held.
    #[inline]
    pub(super) fn get(&self, id: SampleId) -> Option<(i64, Value<'_>)> {
        let index = self.index(id);
        let (time_ms, value) = (*self.column.timestamps_ms.get(index)?, *self.column.values.get(index)?);
        let value = match self.kinds.get(index)? {
            Kind::Float => Value::Float(value),
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
