//! Leaving out samples that tombstones delete: chunks they touch are written anew.

use parallax_model::TimeRange;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;

use crate::merge::samples::Samples;

/// Removes the samples in `deleted` (ranges in order) from the chunks. Aggregates cannot be cut, and are left whole.
pub(super) fn remove(chunks: &mut Vec<BlockChunk>, deleted: &[TimeRange]) -> Result<(), TsdbError> {
    let mut kept = Vec::with_capacity(chunks.len());
    let mut samples = Samples::default();
    for chunk in chunks.drain(..) {
        let range = TimeRange::new(chunk.min_time_ms, chunk.max_time_ms);
        let touched = deleted.iter().any(|deleted| deleted.overlaps(&range));
        if !touched || !Samples::takes(chunk.chunk.encoding) {
            kept.push(chunk);
            continue;
        }
        samples.clear();
        let ids = samples.decode(&chunk)?;
        let is_kept = |id: &u32| !deleted.iter().any(|deleted| deleted.contains(samples.time_ms(*id)));
        let ids: Vec<u32> = ids.filter(is_kept).collect();
        samples.encode(&ids, &mut kept)?;
    }
    *chunks = kept;
    Ok(())
}
