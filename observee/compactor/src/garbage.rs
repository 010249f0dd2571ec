//! Blocks that another block has made superfluous.
//!
//! A block is covered if all its sources are among those of another block of its group that is not itself marked for deletion: what is going holds
//! nothing for others. Of blocks with the same sources the oldest ULID stays, unless it is marked. Before
//! anything is marked, the block that covers must be whole in the bucket, as far as its `meta.json` lists files; and of two with the same sources, the one that goes must not have more
//! series or samples than the one that stays: then one of them lies, and both are left alone.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::Bucket;

use crate::CompactError;
use crate::group::Group;

/// A block and the one that holds all that it holds.
#[derive(Clone, Debug)]
pub struct Covered {
    pub block: Arc<BlockMeta>,
    pub by: Arc<BlockMeta>,
}

/// A block that stays, and its sources.
type Holder = (Arc<BlockMeta>, Arc<BTreeSet<BlockId>>);

/// The covered blocks of a group, of which some `is_marked` for deletion.
pub fn covered(group: &Group, is_marked: impl Fn(BlockId) -> bool) -> Vec<Covered> {
    let mut blocks: Vec<&Arc<BlockMeta>> = group.blocks.iter().collect();
    blocks.sort_by_key(|meta| {
        (std::cmp::Reverse(meta.compaction.sources.len()), is_marked(meta.ulid), meta.ulid)
    });
    // By source: the blocks that stay and hold it.
    let mut holders: HashMap<BlockId, Vec<Holder>> = HashMap::new();
    let mut found = Vec::new();
    for meta in blocks {
        let sources: Arc<BTreeSet<BlockId>> = Arc::new(meta.compaction.sources.iter().copied().collect());
        // A block that does not say what it was made of covers nothing, and nothing covers it.
        let Some(first) = sources.first() else { continue };
        let candidates = holders.get(first).map_or(&[][..], Vec::as_slice);
        match candidates.iter().find(|(_, held)| sources.is_subset(held)) {
            Some((by, _)) => found.push(Covered { block: Arc::clone(meta), by: Arc::clone(by) }),
            None if is_marked(meta.ulid) => {}
            None => {
                for source in sources.iter() {
                    holders.entry(*source).or_default().push((Arc::clone(meta), Arc::clone(&sources)));
                }
            }
        }
    }
    found
}

impl Covered {
    /// Whether the two claim the same, and the one that would go has more.
    pub fn contradiction(&self) -> Option<CompactError> {
        let (goes, stays) = (&self.block, &self.by);
        let sources = |meta: &BlockMeta| meta.compaction.sources.iter().copied().collect::<BTreeSet<_>>();
        let has_more = goes.stats.num_series > stays.stats.num_series
            || goes.stats.num_samples > stays.stats.num_samples;
        if !has_more || sources(goes) != sources(stays) {
            return None;
        }
        let reason = format!(
            "it has the same sources as block {}, but {} series and {} samples instead of {} and {}",
            stays.ulid,
            goes.stats.num_series,
            goes.stats.num_samples,
            stays.stats.num_series,
            stays.stats.num_samples
        );
        Some(CompactError::Contradicts { block: goes.ulid, reason })
    }

    /// Whether the block that stays is whole: every file that its `meta.json` lists is there, with its size.
    pub async fn check_whole(&self, bucket: &Bucket) -> Result<(), CompactError> {
        check_whole(bucket, &self.by).await
    }
}

/// Compares a block's files in the bucket with its `meta.json`.
pub async fn check_whole(bucket: &Bucket, meta: &BlockMeta) -> Result<(), CompactError> {
    let block = meta.ulid;
    let files = meta.thanos.as_ref().map_or(&[][..], |thanos| &thanos.files);
    for file in files {
        let object = block.object(&file.rel_path);
        let info = bucket.head(&object).await.map_err(|source| CompactError::Bucket { block, source })?;
        if let Some(size_bytes) = file.size_bytes
            && size_bytes != info.size_bytes
        {
            let reason = format!("{object} has {} bytes, meta.json says {size_bytes}", info.size_bytes);
            return Err(CompactError::Contradicts { block, reason });
        }
    }
    Ok(())
}
