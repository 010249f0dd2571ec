//! [`Samples`]: the decoded samples of chunks that are merged, of any kind, each known by a number; and their way back into chunks.
//!
//! Merging moves numbers, never histograms. The memory is reused from one series to the next.

use std::ops::Range;

use bytes::Bytes;
use parallax_model::{FloatColumn, FloatHistogram, Histogram};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{
    Appended, ChunkEncoding, FloatHistogramAppender, FloatHistogramReader, HistogramAppender,
    HistogramReader, decode_xor, encode_xor,
};
use parallax_tsdb::segment::Chunk;

/// The most samples of a chunk that is written anew: Prometheus' number.
pub const MAX_CHUNK_SAMPLES: usize = 120;

/// A sample's number.
pub(crate) type SampleId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Float,
    Histogram,
    FloatHistogram,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Samples {
    /// Times of all samples, and the values of floats. Of a histogram the bits of the value are its place among those of its kind.
    column: FloatColumn,
    kinds: Vec<Kind>,
    histograms: Vec<Histogram>,
    float_histograms: Vec<FloatHistogram>,
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
    }

    #[inline]
    pub fn time_ms(&self, id: SampleId) -> i64 {
        self.column.timestamps_ms.get(id as usize).copied().unwrap_or(i64::MAX)
    }

    /// By number.
    pub fn times_ms(&self) -> &[i64] {
        &self.column.timestamps_ms
    }

    /// Adds the samples of a chunk; gives their numbers, which are in order of time.
    ///
    /// # Errors
    /// A chunk that does not decode, whose samples are not in strict order, or that does not cover the time that it is said to.
    pub fn decode(&mut self, chunk: &BlockChunk) -> Result<Range<SampleId>, TsdbError> {
        let start = self.column.len();
        let data = &chunk.chunk.data;
        let kind = match chunk.chunk.encoding {
            ChunkEncoding::Xor => {
                decode_xor(data, &mut self.column)?;
                Kind::Float
            }
            ChunkEncoding::Histogram => {
                for sample in HistogramReader::new(data)? {
                    let (time_ms, histogram) = sample?;
                    self.column.push(time_ms, place(self.histograms.len()));
                    self.histograms.push(histogram);
                }
                Kind::Histogram
            }
            ChunkEncoding::FloatHistogram => {
                for sample in FloatHistogramReader::new(data)? {
                    let (time_ms, histogram) = sample?;
                    self.column.push(time_ms, place(self.float_histograms.len()));
                    self.float_histograms.push(histogram);
                }
                Kind::FloatHistogram
            }
            encoding => return Err(TsdbError::unsupported("chunk", 0, "encoding", encoding.as_byte())),
        };
        self.kinds.resize(self.column.len(), kind);
        let times = self.column.timestamps_ms.get(start..).unwrap_or_default();
        let in_order = times.windows(2).all(|pair| matches!(pair, [a, b] if a < b));
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
            SampleId::try_from(index).map_err(|_| TsdbError::invalid("chunk", "too many samples overlap"))
        };
        Ok(id(start)?..id(self.column.len())?)
    }

    /// Appends chunks of the samples with these numbers, which are in order of time.
    pub fn encode(&self, ids: &[SampleId], out: &mut Vec<BlockChunk>) -> Result<(), TsdbError> {
        for run in ids.chunk_by(|a, b| self.kind(*a) == self.kind(*b)) {
            match run.first().map(|id| self.kind(*id)) {
                None => {}
                Some(Kind::Float) => self.encode_floats(run, out)?,
                Some(Kind::Histogram) => {
                    let make = |id| self.histograms.get(self.place(id));
                    encode_histograms(
                        self,
                        run,
                        make,
                        ChunkEncoding::Histogram,
                        HistogramAppender::new,
                        out,
                    )?;
                }
                Some(Kind::FloatHistogram) => {
                    let make = |id| self.float_histograms.get(self.place(id));
                    let encoding = ChunkEncoding::FloatHistogram;
                    encode_histograms(self, run, make, encoding, FloatHistogramAppender::new, out)?;
                }
            }
        }
        Ok(())
    }

    fn encode_floats(&self, ids: &[SampleId], out: &mut Vec<BlockChunk>) -> Result<(), TsdbError> {
        for ids in ids.chunks(MAX_CHUNK_SAMPLES) {
            let mut samples = [(0, 0.0); MAX_CHUNK_SAMPLES];
            for (sample, id) in samples.iter_mut().zip(ids) {
                *sample = (self.time_ms(*id), self.value(*id));
            }
            let data = encode_xor(samples.get(..ids.len()).unwrap_or_default())?;
            self.push_chunk(ids, ChunkEncoding::Xor, data, out);
        }
        Ok(())
    }

    fn push_chunk(
        &self,
        ids: &[SampleId],
        encoding: ChunkEncoding,
        data: Vec<u8>,
        out: &mut Vec<BlockChunk>,
    ) {
        if let (Some(first), Some(last)) = (ids.first(), ids.last()) {
            out.push(BlockChunk {
                min_time_ms: self.time_ms(*first),
                max_time_ms: self.time_ms(*last),
                chunk: Chunk { encoding, data: Bytes::from(data) },
            });
        }
    }

    #[inline]
    fn kind(&self, id: SampleId) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Float)
    }

    #[inline]
    fn value(&self, id: SampleId) -> f64 {
        self.column.values.get(id as usize).copied().unwrap_or_default()
    }

    fn place(&self, id: SampleId) -> usize {
        usize::try_from(self.value(id).to_bits()).unwrap_or(usize::MAX)
    }
}

/// A place among histograms, where the value of a float would stand.
fn place(index: usize) -> f64 {
    f64::from_bits(index as u64)
}

/// What both kinds of appenders of histogram chunks do.
trait HistogramChunks<H> {
    fn append(&mut self, time_ms: i64, histogram: &H) -> Result<Appended, TsdbError>;
    fn into_bytes(self) -> Vec<u8>;
}

impl HistogramChunks<Histogram> for HistogramAppender {
    fn append(&mut self, time_ms: i64, histogram: &Histogram) -> Result<Appended, TsdbError> {
        HistogramAppender::append(self, time_ms, histogram)
    }

    fn into_bytes(self) -> Vec<u8> {
        HistogramAppender::into_bytes(self)
    }
}

impl HistogramChunks<FloatHistogram> for FloatHistogramAppender {
    fn append(&mut self, time_ms: i64, histogram: &FloatHistogram) -> Result<Appended, TsdbError> {
        FloatHistogramAppender::append(self, time_ms, histogram)
    }

    fn into_bytes(self) -> Vec<u8> {
        FloatHistogramAppender::into_bytes(self)
    }
}

/// A chunk ends when it is full, or when a histogram cannot follow the one before.
fn encode_histograms<'a, H: 'a, A: HistogramChunks<H>>(
    samples: &Samples,
    ids: &[SampleId],
    histogram: impl Fn(SampleId) -> Option<&'a H>,
    encoding: ChunkEncoding,
    fresh: impl Fn() -> A,
    out: &mut Vec<BlockChunk>,
) -> Result<(), TsdbError> {
    let mut appender = fresh();
    let mut begun = 0;
    for (at, id) in ids.iter().enumerate() {
        if at - begun >= MAX_CHUNK_SAMPLES {
            let full = std::mem::replace(&mut appender, fresh());
            samples.push_chunk(ids.get(begun..at).unwrap_or_default(), encoding, full.into_bytes(), out);
            begun = at;
        }
        let Some(histogram) = histogram(*id) else { continue };
        if let Appended::NewChunk { finished } = appender.append(samples.time_ms(*id), histogram)? {
            samples.push_chunk(ids.get(begun..at).unwrap_or_default(), encoding, finished, out);
            begun = at;
        }
    }
    samples.push_chunk(ids.get(begun..).unwrap_or_default(), encoding, appender.into_bytes(), out);
    Ok(())
}
