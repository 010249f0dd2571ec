//! Cutting samples into windows, and windows into aggregate chunks.

use bytes::Bytes;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::{Aggregate, Part, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::Chunk;

use super::float::FloatSample;
use super::window_end_ms;

/// What collects the samples of windows.
pub(super) trait Aggregator {
    type Sample;

    /// A new window begins.
    fn begin(&mut self);
    fn add(&mut self, sample: &Self::Sample);

    /// As [`Self::add`] for each.
    fn add_all(&mut self, samples: &[Self::Sample]) {
        samples.iter().for_each(|sample| self.add(sample));
    }
}

/// Feeds samples (in order of time) to an aggregator and calls `done` with the stamp of each window that has any; gives the last stamp.
///
/// A stamp is the window's end, but no later than the last sample: what comes behind may be in another chunk.
pub(super) fn each_window<A: Aggregator, E>(
    samples: &[A::Sample],
    time_ms: impl Fn(&A::Sample) -> i64,
    window_ms: i64,
    aggregator: &mut A,
    mut done: impl FnMut(i64, &mut A) -> Result<(), E>,
) -> Result<Option<i64>, E> {
    let Some(last_ms) = samples.last().map(&time_ms) else { return Ok(None) };
    let mut stamp = None;
    let mut rest = samples;
    while let Some((first, others)) = rest.split_first() {
        let end_ms = window_end_ms(time_ms(first), window_ms).min(last_ms);
        let count = 1 + others.iter().take_while(|sample| time_ms(sample) <= end_ms).count();
        let (window, later) = rest.split_at(count);
        aggregator.begin();
        aggregator.add_all(window);
        done(end_ms, aggregator)?;
        stamp = Some(end_ms);
        rest = later;
    }
    Ok(stamp)
}

/// An aggregate chunk of float parts in the making.
#[derive(Default)]
pub(super) struct FloatParts {
    /// A part without samples is none.
    parts: [Vec<FloatSample>; 5],
    range: Option<(i64, i64)>,
}

impl FloatParts {
    /// Appends a sample to a part, and counts its time to the chunk's.
    pub(super) fn append(
        &mut self,
        aggregate: Aggregate,
        stamp_ms: i64,
        value: f64,
    ) -> Result<(), TsdbError> {
        let (min, max) = self.range.unwrap_or((stamp_ms, stamp_ms));
        self.range = Some((min.min(stamp_ms), max.max(stamp_ms)));
        self.append_raw(aggregate, stamp_ms, value)
    }

    /// Appends a raw sample of a counter, whose time is not that of a window.
    pub(super) fn append_raw(
        &mut self,
        aggregate: Aggregate,
        time_ms: i64,
        value: f64,
    ) -> Result<(), TsdbError> {
        match self.parts.get_mut(aggregate as usize) {
            Some(part) => part.push((time_ms, value)),
            None => return Err(TsdbError::invalid("aggregate chunk", "there is no such aggregate")),
        }
        Ok(())
    }

    /// The chunk; `None` without a window.
    ///
    /// # Errors
    /// Times of a part that go back, and parts that are too long.
    pub(super) fn finish(self) -> Result<Option<BlockChunk>, TsdbError> {
        let Some((min_time_ms, max_time_ms)) = self.range else { return Ok(None) };
        let mut parts: [Option<(ChunkEncoding, Vec<u8>)>; 5] = Default::default();
        for (part, samples) in parts.iter_mut().zip(&self.parts) {
            if !samples.is_empty() {
                *part = Some((ChunkEncoding::Xor, encode_xor(samples)?));
            }
        }
        Ok(Some(aggregate_chunk(min_time_ms, max_time_ms, &parts)))
    }
}

/// An aggregate chunk of finished parts, in the order of [`Aggregate::ALL`].
pub(super) fn aggregate_chunk(
    min_time_ms: i64,
    max_time_ms: i64,
    parts: &[Option<(ChunkEncoding, Vec<u8>)>; 5],
) -> BlockChunk {
    let parts = parts
        .each_ref()
        .map(|part| -> Part<'_> { part.as_ref().map(|(encoding, data)| (*encoding, data.as_slice())) });
    let data = Bytes::from(Parts::new(parts).encode());
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding: ChunkEncoding::Aggregate, data } }
}
