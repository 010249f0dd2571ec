//! Whether somebody else ships blocks under our external labels.
//!
//! Two Prometheus servers that cannot be told apart would put their samples into the bucket on top of each other, and no compactor could part them again.
//! So before a block goes up, and once more before its `meta.json` does, the bucket is looked through for a block of a sidecar that
//! has our labels, covers the same time, is as young as Prometheus writes them, and does not come from this directory. Whoever came first has its way.
//!
//! What was seen of a block stays true, so each `meta.json` is read once in the life of a process, and none of blocks that are older than our data.

use std::collections::BTreeMap;

use parallax_block::meta::MAX_META_BYTES;
use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::Bucket;
use parallax_model::{Labels, TimeRange};
use tokio::sync::Mutex;

use super::SOURCE;
use crate::SidecarError;

const DELETION_MARK: &str = "deletion-mark.json";

/// What is known of the other blocks in the bucket.
#[derive(Default)]
pub(super) struct Rivals {
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Under which labels was looked.
    labels: Labels,
    /// The time of each block that may be in our way; `None` for all others.
    blocks: BTreeMap<BlockId, Option<TimeRange>>,
}

impl Rivals {
    /// `is_own` tells the blocks of this directory.
    ///
    /// # Errors
    /// [`SidecarError::SameLabels`]; [`SidecarError::Block`] if the bucket cannot be looked through.
    pub async fn check(
        &self,
        bucket: &Bucket,
        meta: &BlockMeta,
        labels: &Labels,
        is_own: impl Fn(&BlockId) -> bool,
    ) -> Result<(), SidecarError> {
        let block = meta.ulid.to_string();
        let failed = |error: parallax_bucket::BucketError| SidecarError::Block {
            block: block.clone(),
            reason: format!("looking for blocks with the same external labels: {error}"),
        };
        let mut seen = self.seen.lock().await;
        if seen.labels != *labels {
            *seen = Seen { labels: labels.clone(), blocks: BTreeMap::new() };
        }
        let listed: Vec<BlockId> =
            bucket.list_blocks().await.map_err(failed)?.iter().filter_map(|name| name.parse().ok()).collect();
        let mut still_there = BTreeMap::new();
        for id in listed {
            // What was written before our data began cannot hold the same time.
            if is_own(&id) || id.time_ms() < meta.min_time_ms {
                continue;
            }
            let known = match seen.blocks.get(&id) {
                Some(known) => Some(*known),
                None => look(bucket, id, labels).await.map_err(failed)?,
            };
            still_there.extend(known.map(|known| (id, known)));
        }
        seen.blocks = still_there;
        let in_the_way = seen.blocks.iter().filter_map(|(id, range)| Some((id, (*range)?)));
        for (id, range) in in_the_way {
            let overlaps = range.min_ms < meta.max_time_ms && meta.min_time_ms < range.max_ms;
            if overlaps && !bucket.exists(&id.object(DELETION_MARK)).await.map_err(failed)? {
                let (other, labels) = (id.to_string(), labels.to_string());
                return Err(SidecarError::SameLabels { block, other, labels });
            }
        }
        Ok(())
    }
}

/// `None`: nothing can be said of it yet.
async fn look(
    bucket: &Bucket,
    id: BlockId,
    labels: &Labels,
) -> Result<Option<Option<TimeRange>>, parallax_bucket::BucketError> {
    let bytes = match bucket.get(&id.meta_object(), MAX_META_BYTES).await {
        Ok(bytes) => bytes,
        // On its way up, or down.
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    // A damaged one is for the compactor to report.
    let Ok(other) = BlockMeta::parse_of(id, &bytes) else { return Ok(Some(None)) };
    let is_rival =
        other.compaction.level <= 1 && other.source() == SOURCE && other.external_labels() == *labels;
    Ok(Some(is_rival.then(|| TimeRange::new(other.min_time_ms, other.max_time_ms))))
}
