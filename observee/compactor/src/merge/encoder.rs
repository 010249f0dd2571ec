//! [`ChunkEncoder`]: samples, in order of time, into chunks as Prometheus cuts them.
//!
//! A chunk ends when it has 120 samples, when the kind of sample changes, or when a histogram cannot follow the one before. Samples may come bit by bit:
//! the chunks are the same as if they had come at once. Where floats stand behind each other in a chunk of a source, their bits are copied as far as they are the
//! same ([`XorSplicer`]); where they are a chunk, the chunk is taken as it is.

use bytes::BytesMut;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{
    Appended, ChunkEncoding, FloatHistogramAppender, HistogramAppender, XorSplicer, encode_xor_in,
};
use parallax_tsdb::segment::Chunk;

use super::overlap::MergeFailure;
use super::samples::{SampleId, Samples, Value};

/// The most samples of a chunk that is written anew: Prometheus' number.
pub const MAX_CHUNK_SAMPLES: usize = 120;

/// The chunk that is being filled.
#[derive(Debug, Default)]
enum Open {
    #[default]
    Nothing,
    /// The samples are in `floats`.
    Floats,
    /// Floats whose places in their chunks are known.
    Spliced(XorSplicer),
    Histograms(HistogramAppender),
    FloatHistograms(FloatHistogramAppender),
}

/// See the module.
#[derive(Debug, Default)]
pub struct ChunkEncoder {
    open: Open,
    floats: Vec<(i64, f64)>,
    count: usize,
    first_ms: i64,
    last_ms: i64,
    /// Where finished chunks lie, many in one piece of memory.
    finished: BytesMut,
    /// Memory of the next chunk.
    spare: Vec<u8>,
}

/// A piece of memory for finished chunks.
const PIECE_BYTES: usize = 64 << 10;

impl ChunkEncoder {
    /// Adds samples behind those that came before; appends the chunks that are full.
    pub fn push(
        &mut self,
        samples: &mut Samples,
        ids: &[SampleId],
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        if samples.are_floats() {
            return self.push_floats(samples, ids, out);
        }
        samples.read_all()?;
        for id in ids {
            let (time_ms, value) = samples.get(*id).ok_or_else(let_go)?;
            self.push_one(time_ms, value, out)?;
        }
        Ok(())
    }

    /// As [`Self::push_one`] for each: many at once, and where it is known in which chunks they stand, their bits.
    fn push_floats(
        &mut self,
        samples: &mut Samples,
        mut ids: &[SampleId],
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        while !ids.is_empty() {
            let is_open = matches!(self.open, Open::Floats | Open::Spliced(_));
            if !is_open || self.count >= MAX_CHUNK_SAMPLES {
                self.finish(out)?;
                if let Some(chunk) = samples.whole(ids, MAX_CHUNK_SAMPLES)? {
                    out.push(chunk);
                    ids = ids.get(MAX_CHUNK_SAMPLES..).unwrap_or_default();
                    continue;
                }
                self.open = if samples.have_places() {
                    Open::Spliced(XorSplicer::reusing(std::mem::take(&mut self.spare)))
                } else {
                    Open::Floats
                };
            }
            let room = MAX_CHUNK_SAMPLES - self.count;
            let (taken, first_ms, last_ms) = match &mut self.open {
                Open::Spliced(splicer) => push_run(splicer, samples, ids, room)?,
                _ => {
                    let now = ids.get(..room.min(ids.len())).unwrap_or_default();
                    buffer(&mut self.floats, samples, now)?
                }
            };
            if self.count == 0 {
                self.first_ms = first_ms;
            }
            self.last_ms = last_ms;
            self.count += taken;
            ids = ids.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Appends the chunk that is not full, and is ready for another series.
    pub fn finish(&mut self, out: &mut Vec<BlockChunk>) -> Result<(), TsdbError> {
        let (encoding, data) = match std::mem::take(&mut self.open) {
            Open::Nothing => return Ok(()),
            Open::Floats => {
                (ChunkEncoding::Xor, encode_xor_in(std::mem::take(&mut self.spare), &self.floats)?)
            }
            Open::Spliced(splicer) => (ChunkEncoding::Xor, splicer.into_bytes()?),
            Open::Histograms(appender) => (ChunkEncoding::Histogram, appender.into_bytes()),
            Open::FloatHistograms(appender) => (ChunkEncoding::FloatHistogram, appender.into_bytes()),
        };
        self.floats.clear();
        self.emit(encoding, &data, out);
        self.spare = data;
        Ok(())
    }

    /// Forgets what is not finished, after an error.
    pub fn clear(&mut self) {
        (self.open, self.count) = (Open::Nothing, 0);
        self.floats.clear();
    }

    fn push_one(
        &mut self,
        time_ms: i64,
        value: Value<'_>,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), TsdbError> {
        let follows = matches!(
            (&self.open, value),
            (Open::Floats | Open::Spliced(_), Value::Float(_))
                | (Open::Histograms(_), Value::Histogram(_))
                | (Open::FloatHistograms(_), Value::FloatHistogram(_))
        );
        if !follows || self.count >= MAX_CHUNK_SAMPLES {
            self.finish(out)?;
            self.open = match value {
                Value::Float(_) => Open::Floats,
                Value::Histogram(_) => Open::Histograms(HistogramAppender::new()),
                Value::FloatHistogram(_) => Open::FloatHistograms(FloatHistogramAppender::new()),
            };
        }
        let (appended, encoding) = match (&mut self.open, value) {
            (Open::Histograms(appender), Value::Histogram(histogram)) => {
                (appender.append(time_ms, histogram)?, ChunkEncoding::Histogram)
            }
            (Open::FloatHistograms(appender), Value::FloatHistogram(histogram)) => {
                (appender.append(time_ms, histogram)?, ChunkEncoding::FloatHistogram)
            }
            (Open::Spliced(splicer), Value::Float(value)) => {
                splicer.push(time_ms, value)?;
                self.note(time_ms);
                return Ok(());
            }
            (_, Value::Float(value)) => {
                self.floats.push((time_ms, value));
                self.note(time_ms);
                return Ok(());
            }
            _ => return Err(TsdbError::invalid("chunk", "two kinds of samples")),
        };
        // The appender has begun another chunk with this sample.
        if let Appended::NewChunk { finished } = appended {
            self.emit(encoding, &finished, out);
        }
        self.note(time_ms);
        Ok(())
    }

    fn note(&mut self, time_ms: i64) {
        if self.count == 0 {
            self.first_ms = time_ms;
        }
        self.last_ms = time_ms;
        self.count += 1;
    }

    fn emit(&mut self, encoding: ChunkEncoding, data: &[u8], out: &mut Vec<BlockChunk>) {
        if self.count > 0 {
            if self.finished.capacity() < data.len() {
                self.finished = BytesMut::with_capacity(PIECE_BYTES.max(data.len()));
            }
            self.finished.extend_from_slice(data);
            out.push(BlockChunk {
                min_time_ms: self.first_ms,
                max_time_ms: self.last_ms,
                chunk: Chunk { encoding, data: self.finished.split().freeze() },
            });
        }
        self.count = 0;
    }
}

/// Copies the run that some numbers begin with, as far as there is room; gives how many samples it has, and the times of its ends.
fn push_run(
    splicer: &mut XorSplicer,
    samples: &mut Samples,
    ids: &[SampleId],
    room: usize,
) -> Result<(usize, i64, i64), MergeFailure> {
    let run = samples.run(ids, room)?.ok_or_else(let_go)?;
    let times = run.times_ms.get(run.from..run.to);
    let ends = times.and_then(|times| Some((*times.first()?, *times.last()?)));
    let (first_ms, last_ms) = ends.ok_or_else(let_go)?;
    splicer.push_run(&run)?;
    Ok((run.to - run.from, first_ms, last_ms))
}

/// Collects samples; gives how many they are, and the times of their ends.
fn buffer(
    floats: &mut Vec<(i64, f64)>,
    samples: &Samples,
    ids: &[SampleId],
) -> Result<(usize, i64, i64), TsdbError> {
    let begun = floats.len();
    for id in ids {
        floats.push(samples.float(*id).ok_or_else(let_go)?);
    }
    let added = floats.get(begun..).and_then(|added| Some((added.first()?.0, added.last()?.0)));
    let (first_ms, last_ms) = added.ok_or_else(let_go)?;
    Ok((ids.len(), first_ms, last_ms))
}

/// A sample is not there any more.
fn let_go() -> TsdbError {
    TsdbError::invalid("chunk", "a sample was let go before it was written")
}
