//! Merging replicas that hold the same: every time that any of them has is kept once.

use std::ops::Range;

use super::samples::{SampleId, Samples};

/// Puts into `picked` one sample for each time that any of the chunks has, in order; of several the one of the first chunk.
pub(super) fn merge(samples: &Samples, chunks: &[Range<SampleId>], picked: &mut Vec<SampleId>) {
    picked.clear();
    picked.extend(chunks.iter().flat_map(Clone::clone));
    // Stable, and made for input that consists of sorted runs.
    picked.sort_by_key(|id| samples.time_ms(*id));
    picked.dedup_by_key(|id| samples.time_ms(*id));
}
