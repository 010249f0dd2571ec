//! Leaving out samples that tombstones delete: chunks they touch are written anew.
//!
//! Of an aggregate chunk the windows go whose time (that of their last millisecond) is deleted, as Prometheus would delete any other sample.

use parallax_model::TimeRange;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::ChunkEncoding;

use crate::downsample::without_windows;
use crate::merge::MergeFailure;
use crate::merge::encoder::ChunkEncoder;
use crate::merge::samples::{Noted, SampleId, Samples};

/// Removes the samples in `deleted` (ranges in order) from the chunks.
pub(super) fn remove(chunks: &mut Vec<BlockChunk>, deleted: &[TimeRange]) -> Result<(), TsdbError> {
    let mut kept = Vec::with_capacity(chunks.len());
    let mut samples = Samples::default();
    let mut encoder = ChunkEncoder::default();
    let is_deleted = |time_ms: i64| deleted.iter().any(|deleted| deleted.contains(time_ms));
    for chunk in chunks.drain(..) {
        let range = TimeRange::new(chunk.min_time_ms, chunk.max_time_ms);
        if !deleted.iter().any(|deleted| deleted.overlaps(&range)) {
            kept.push(chunk);
            continue;
        }
        if chunk.chunk.encoding == ChunkEncoding::Aggregate {
            without_windows(&chunk, is_deleted, &mut kept)?;
            continue;
        }
        samples.clear();
        let ids = samples.decode(&chunk, Noted::Samples)?;
        let ids: Vec<SampleId> = ids.filter(|id| !is_deleted(samples.time_ms(*id))).collect();
        encoder.push(&mut samples, &ids, &mut kept).map_err(MergeFailure::into_error)?;
        encoder.finish(&mut kept)?;
    }
    *chunks = kept;
    Ok(())
}
