//! Downsampling: one aggregate sample per window of five minutes or an hour, as Thanos writes it, byte for byte.
//!
//! Raw samples are aggregated in batches of whole windows, aggregates along the borders of their chunks, since a chunk's counter begins with
//! the first raw sample and ends with the last raw value. Where Thanos panics (histograms with custom and with exponential buckets in one batch) or
//! drops windows (histograms that cannot share a chunk), ours begins another chunk. Source: Thanos `pkg/compact/downsample/downsample.go`.

mod aggregates;
mod batch;
mod counter;
mod deleted;
mod float;
mod histogram;
mod raw;
mod spans;

use std::sync::Arc;

use parallax_block::{BlockMeta, meta::Downsample};
use parallax_model::float::is_stale;
use parallax_model::{FloatHistogram, Resolution};
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, XorReader};

pub(crate) use deleted::without_windows;

use crate::compaction::{Job, Outcome, Prepared, new_id};
use crate::merge::account::samples_of;
use crate::merge::{MergeFailure, Scratch, Transform};
use crate::source::SeriesJob;
use crate::{CompactError, downsample::raw::downsample_raw};

/// A raw block shorter than this is not downsampled to five minutes (unless its raw data is about to go).
pub const FIVE_MINUTES_FROM_MS: i64 = 40 * 3_600_000;

/// A five-minute block shorter than this is not downsampled to an hour (unless its data is about to go).
pub const ONE_HOUR_FROM_MS: i64 = 10 * 24 * 3_600_000;

/// By how much counts may miss, relative to their sum.
const COUNT_TOLERANCE: f64 = 1e-9;

/// A histogram at a time in milliseconds.
type HistogramSample = (i64, FloatHistogram);

/// The resolution that a block of `resolution` is downsampled to, and the length from which it is.
pub fn next_resolution(resolution: Resolution) -> Option<(Resolution, i64)> {
    match resolution {
        Resolution::Raw => Some((Resolution::FiveMinutes, FIVE_MINUTES_FROM_MS)),
        Resolution::FiveMinutes => Some((Resolution::OneHour, ONE_HOUR_FROM_MS)),
        Resolution::OneHour => None,
    }
}

impl Job {
    /// Downsamples a block to a coarser resolution.
    ///
    /// # Errors
    /// As [`Job::compact`]; [`CompactError::Contradicts`] if the block is as coarse already.
    pub async fn downsample(
        &self,
        block: &Arc<BlockMeta>,
        to: Resolution,
        now_ms: i64,
    ) -> Result<Outcome, CompactError> {
        self.finish(self.prepare_downsampling(block, to, now_ms).await?).await
    }

    /// As [`Self::downsample`], up to the point where the block would become visible.
    ///
    /// # Errors
    /// As [`Self::downsample`].
    pub async fn prepare_downsampling(
        &self,
        block: &Arc<BlockMeta>,
        to: Resolution,
        now_ms: i64,
    ) -> Result<Prepared, CompactError> {
        let from_ms = block.resolution_ms();
        if from_ms >= to.millis() {
            let reason = format!("it has a resolution of {from_ms} ms, and is not to be downsampled to {to}");
            return Err(CompactError::Contradicts { block: block.ulid, reason });
        }
        let mut meta = BlockMeta::clone(block);
        meta.ulid = new_id(now_ms);
        if let Some(thanos) = &mut meta.thanos {
            thanos.downsample =
                Downsample { resolution_ms: to.millis(), ..std::mem::take(&mut thanos.downsample) };
        }
        let transform = Windows { from_ms, to_ms: to.millis() };
        self.run(meta, vec![Arc::clone(block)], Arc::new(transform), now_ms).await
    }
}

/// Aggregates the windows of each series.
struct Windows {
    from_ms: i64,
    to_ms: i64,
}

impl Transform for Windows {
    fn apply(
        &self,
        job: SeriesJob,
        _scratch: &mut Scratch,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        let chunks: Vec<BlockChunk> = job.sources.into_iter().flatten().collect();
        let begun = out.len();
        let left_out = downsample_series(&chunks, self.from_ms, self.to_ms, out)?;
        check_counts(&chunks, left_out, out.get(begun..).unwrap_or_default())
    }
}

/// The counts of the new windows must add up to the samples that went in, those left out aside.
fn check_counts(before: &[BlockChunk], left_out: u64, after: &[BlockChunk]) -> Result<(), MergeFailure> {
    let sum = |chunks: &[BlockChunk]| -> Result<f64, MergeFailure> {
        chunks.iter().try_fold(0.0, |sum, chunk| {
            Ok(sum + raw_samples_of(chunk).map_err(MergeFailure::of_chunk(chunk))?)
        })
    };
    let (before, after) = (sum(before)?, sum(after)?);
    let missing: f64 = before - left_out as f64 - after;
    // Whole numbers add up exactly; what others wrote may not be whole, or not be numbers.
    if missing.abs() <= before * COUNT_TOLERANCE || !before.is_finite() {
        return Ok(());
    }
    Err(MergeFailure::Account(format!(
        "of {before} samples {left_out} were left out, and {after} are in windows"
    )))
}

/// How many raw samples a chunk stands for.
fn raw_samples_of(chunk: &BlockChunk) -> Result<f64, TsdbError> {
    if chunk.chunk.encoding != ChunkEncoding::Aggregate {
        return Ok(samples_of(chunk)? as f64);
    }
    match Parts::decode(&chunk.chunk.data)?.get(Aggregate::Count) {
        Some((ChunkEncoding::Xor, counts)) => XorReader::new(counts)?
            .filter(|sample| !sample.as_ref().is_ok_and(|(_, count)| is_stale(*count)))
            .try_fold(0.0, |sum, sample| Ok(sum + sample?.1)),
        _ => Ok(0.0),
    }
}

/// Downsamples one series, whose chunks are in order and of resolution `from_ms`; gives how many raw samples were left out, as they are no numbers or not in order.
pub fn downsample_series(
    chunks: &[BlockChunk],
    from_ms: i64,
    to_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<u64, MergeFailure> {
    if from_ms == 0 {
        return downsample_raw(chunks, to_ms, out);
    }
    aggregates::downsample_aggregates(chunks, from_ms, to_ms, out)
}

/// The end of the window that a time lies in: a millisecond before the next one begins, so that it stays within the block.
fn window_end_ms(time_ms: i64, window_ms: i64) -> i64 {
    time_ms.saturating_sub(time_ms.rem_euclid(window_ms)).saturating_add(window_ms - 1)
}

/// How many chunks a series becomes: as few as keep them at 140 samples or less, given how densely `count` samples of resolution `from_ms` fill the time.
fn target_chunk_count(min_time_ms: i64, max_time_ms: i64, from_ms: i64, to_ms: i64, count: usize) -> usize {
    const MOST_SAMPLES: usize = 140;
    let length_ms = max_time_ms.saturating_sub(min_time_ms);
    let most = (length_ms / to_ms.max(1)) as f64;
    let fullness = (count as f64 / (length_ms as f64 / from_ms as f64)).min(1.0);
    // Both factors are finite and not negative; a float beyond the range saturates.
    let expected = (most * fullness) as usize + 1;
    let mut chunks = 1;
    while expected / chunks > MOST_SAMPLES {
        chunks += 1;
    }
    chunks
}

/// An encoder refused a sample, which is a matter of the whole series.
fn encoding(error: TsdbError) -> MergeFailure {
    MergeFailure::Encoding(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_that_miss_a_sample_are_not_accepted() {
        let samples: Vec<(i64, f64)> = (0..1000).map(|n| (n * 15_000, n as f64)).collect();
        let chunk = |samples: &[(i64, f64)]| BlockChunk {
            min_time_ms: samples[0].0,
            max_time_ms: samples[samples.len() - 1].0,
            chunk: parallax_tsdb::segment::Chunk {
                encoding: ChunkEncoding::Xor,
                data: parallax_tsdb::chunk::encode_xor(samples).unwrap().into(),
            },
        };
        let before: Vec<BlockChunk> = samples.chunks(120).map(chunk).collect();
        let mut after = Vec::new();
        assert_eq!(downsample_series(&before, 0, 300_000, &mut after).unwrap(), 0);
        check_counts(&before, 0, &after).unwrap();
        assert!(check_counts(&before, 1, &after).is_err());
        assert!(check_counts(&before[1..], 0, &after).is_err());
        let mut coarser = Vec::new();
        downsample_series(&after, 300_000, 3_600_000, &mut coarser).unwrap();
        check_counts(&after, 0, &coarser).unwrap();
        assert!(check_counts(&after, 0, &coarser[1..]).is_err());
    }

    #[test]
    fn windows_end_before_the_next_begins() {
        assert_eq!(window_end_ms(0, 300_000), 299_999);
        assert_eq!(window_end_ms(299_999, 300_000), 299_999);
        assert_eq!(window_end_ms(300_000, 300_000), 599_999);
        assert_eq!(window_end_ms(-1, 300_000), -1);
    }

    #[test]
    fn chunks_hold_about_140_windows() {
        let day = 24 * 3_600_000;
        // Two days of 5 m windows, one sample a minute: 576 windows.
        assert_eq!(target_chunk_count(0, 2 * day, 60_000, 300_000, 2880), 5);
        // A tenth as dense.
        assert_eq!(target_chunk_count(0, 2 * day, 60_000, 300_000, 288), 1);
        // One sample, no time.
        assert_eq!(target_chunk_count(5, 5, 60_000, 300_000, 1), 1);
    }
}
