//! Whether a compacted block may go up: not if the bucket has its samples already.
//!
//! Prometheus may compact blocks that went up one by one. Their union in the bucket as well would be an overlap, which stops
//! a compactor that does not merge vertically.

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::Bucket;
use parallax_model::Labels;

use crate::SidecarError;

/// A `meta.json` is a few kilobytes; with very many sources, megabytes.
const MAX_META_BYTES: u64 = 64 << 20;

/// # Errors
/// [`SidecarError::Block`] if a block of the same labels overlaps `meta`, or if the bucket's blocks cannot be read.
pub(super) async fn check(
    bucket: &Bucket,
    meta: &BlockMeta,
    external_labels: &Labels,
) -> Result<(), SidecarError> {
    let refuse = |reason: String| SidecarError::Block { block: meta.ulid.to_string(), reason };
    for name in bucket.list_blocks().await.map_err(|error| refuse(error.to_string()))? {
        let Ok(id) = name.parse::<BlockId>() else { continue };
        let bytes = match bucket.get(&id.meta_object(), MAX_META_BYTES).await {
            Ok(bytes) => bytes,
            // A partial upload.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(refuse(error.to_string())),
        };
        let other = BlockMeta::parse_of(id, &bytes).map_err(|error| refuse(error.to_string()))?;
        let overlaps = other.min_time_ms < meta.max_time_ms && meta.min_time_ms < other.max_time_ms;
        if overlaps && other.external_labels() == *external_labels {
            return Err(refuse(format!(
                "it was compacted and overlaps block {id} in the bucket; uploading both would hold samples twice"
            )));
        }
    }
    Ok(())
}
