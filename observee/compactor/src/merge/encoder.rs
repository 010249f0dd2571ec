//! [`ChunkEncoder`]: samples, in order of time, into chunks as Prometheus cuts them.
//!
//! A chunk ends when it has 120 samples, when the kind of sample changes, or when a histogram cannot follow the one before. Samples may come bit by bit:
//! the chunks are the same as if they had come at once.

use bytes::Bytes;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{Appended, ChunkEncoding, FloatHistogramAppender, HistogramAppender, encode_xor};
use parallax_tsdb::segment::Chunk;

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
}

impl ChunkEncoder {
    /// Adds samples behind those that came before; appends the chunks that are full.
    pub fn push(
        &mut self,
        samples: &Samples,
        ids: &[SampleId],
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), TsdbError> {
        if samples.are_floats() {
            return self.push_floats(samples, ids, out);
        }
        for id in ids {
            let (time_ms, value) = samples.get(*id).ok_or_else(let_go)?;
            self.push_one(time_ms, value, out)?;
        }
        Ok(())
    }

    /// As [`Self::push_one`] for each.
    fn push_floats(
        &mut self,
        samples: &Samples,
        mut ids: &[SampleId],
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), TsdbError> {
        while !ids.is_empty() {
            if !matches!(self.open, Open::Floats) || self.count >= MAX_CHUNK_SAMPLES {
                self.finish(out)?;
                self.open = Open::Floats;
            }
            let (now, later) = ids.split_at((MAX_CHUNK_SAMPLES - self.count).min(ids.len()));
            for id in now {
                self.floats.push(samples.float(*id).ok_or_else(let_go)?);
            }
            if let ([(first_ms, _), ..], [.., (last_ms, _)]) = (&self.floats[..], &self.floats[..]) {
                (self.first_ms, self.last_ms) = (*first_ms, *last_ms);
            }
            self.count = self.floats.len();
            ids = later;
        }
        Ok(())
    }

    /// Appends the chunk that is not full, and is ready for another series.
    pub fn finish(&mut self, out: &mut Vec<BlockChunk>) -> Result<(), TsdbError> {
        let (encoding, data) = match std::mem::take(&mut self.open) {
            Open::Nothing => return Ok(()),
            Open::Floats => (ChunkEncoding::Xor, encode_xor(&self.floats)?),
            Open::Histograms(appender) => (ChunkEncoding::Histogram, appender.into_bytes()),
            Open::FloatHistograms(appender) => (ChunkEncoding::FloatHistogram, appender.into_bytes()),
        };
        self.floats.clear();
        self.emit(encoding, data, out);
        Ok(())
    }

    /// Forgets what is not finished, after an error.
    pub fn clear(&mut self) {
        *self = Self { floats: std::mem::take(&mut self.floats), ..Self::default() };
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
            (Open::Floats, Value::Float(_))
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
            (_, Value::Float(value)) => {
                self.floats.push((time_ms, value));
                self.note(time_ms);
                return Ok(());
            }
            _ => return Err(TsdbError::invalid("chunk", "two kinds of samples")),
        };
        // The appender has begun another chunk with this sample.
        if let Appended::NewChunk { finished } = appended {
            self.emit(encoding, finished, out);
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

    fn emit(&mut self, encoding: ChunkEncoding, data: Vec<u8>, out: &mut Vec<BlockChunk>) {
        if self.count > 0 {
            out.push(BlockChunk {
                min_time_ms: self.first_ms,
                max_time_ms: self.last_ms,
                chunk: Chunk { encoding, data: Bytes::from(data) },
            });
        }
        self.count = 0;
    }
}

/// A sample is not there any more.
fn let_go() -> TsdbError {
    TsdbError::invalid("chunk", "a sample was let go before it was written")
}
