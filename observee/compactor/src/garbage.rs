//! Blocks that another block has made superfluous.
//!
//! A block is covered if all its sources are among those of another block of its group that is not itself marked for deletion: what is going holds
//! nothing for others. Of blocks with the same sources the oldest ULID stays, unless it is marked. Before
//! anything is marked, the block that covers must be whole in the bucket; and of two with the same sources, the one that goes must not have more
//! series or samples than the one that stays: then one of them lies, and both are left alone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parallax_block::meta::{CHUNKS_DIRECTORY, INDEX_FILE_NAME};
use parallax_block::{BlockId, BlockMeta, DeletionMark};
use parallax_bucket::Bucket;
use parallax_tsdb::index::INDEX_PREAMBLE_SIZE_BYTES;
use parallax_tsdb::index::toc::TOC_SIZE_BYTES;
use parallax_tsdb::segment::{SEGMENT_HEADER_SIZE_BYTES, segment_name};

use crate::CompactError;
use crate::group::Group;

/// Why a source is marked: as Thanos says it.
pub const SOURCE_OF_COMPACTED: &str = "source of compacted block";

/// Why a covered block is marked: as Thanos says it.
pub const OUTDATED: &str = "outdated block";

/// Whether a block was marked because another holds all that it holds, and not because somebody, or its age, wants its samples gone.
pub fn is_marked_as_covered(mark: &DeletionMark) -> bool {
    [SOURCE_OF_COMPACTED, OUTDATED].contains(&mark.details.as_str())
}

/// Of the blocks that are to be deleted since others cover them, those whose samples nothing else holds. `whole` are all blocks of the bucket.
///
/// A block that is itself marked as covered holds nothing for others; one that is marked for another reason does: whoever marked it wants its samples gone, and not those of its
/// sources back.
pub fn not_covered(
    expired: &[BlockId],
    whole: &BTreeMap<BlockId, Arc<BlockMeta>>,
    is_marked_as_covered: impl Fn(BlockId) -> bool,
) -> Vec<BlockId> {
    // A ULID is one source, whatever labels the blocks made of it carry.
    let mut held: HashMap<i64, HashSet<BlockId>> = HashMap::new();
    for meta in whole.values().filter(|meta| !is_marked_as_covered(meta.ulid)) {
        held.entry(meta.resolution_ms()).or_default().extend(&meta.compaction.sources);
    }
    let is_held = |meta: &BlockMeta| {
        let held = held.get(&meta.resolution_ms());
        meta.compaction.sources.iter().all(|source| held.is_some_and(|held| held.contains(source)))
    };
    let marked = expired.iter().filter(|block| is_marked_as_covered(**block));
    let metas = marked.filter_map(|block| whole.get(block));
    // A block that does not name its sources cannot be told from others, and one without samples holds nothing.
    let is_lost = |meta: &&Arc<BlockMeta>| {
        !meta.compaction.sources.is_empty() && meta.stats.num_samples > 0 && !is_held(meta)
    };
    metas.filter(is_lost).map(|meta| meta.ulid).collect()
}

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
}

/// A block has at most this many objects.
const MAX_OBJECTS: usize = 200_000;

/// Compares a block's files in the bucket with its `meta.json`; where that names no segments, as those of old versions do, with what a block has to have.
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
    let names_segments = files.iter().any(|file| file.rel_path.starts_with(CHUNKS_DIRECTORY));
    if names_segments { Ok(()) } else { check_objects(bucket, meta).await }
}

/// An index, and segments without a gap: as many as `meta.json` names, if it does, else at least one. (How many there should be only the index knows.)
async fn check_objects(bucket: &Bucket, meta: &BlockMeta) -> Result<(), CompactError> {
    let block = meta.ulid;
    let objects = bucket.list(&block.to_string(), MAX_OBJECTS).await;
    let objects = objects.map_err(|source| CompactError::Bucket { block, source })?;
    let sizes: BTreeMap<&str, u64> =
        objects.iter().map(|object| (object.name.as_str(), object.size_bytes)).collect();
    let check = |rel_path: &str, least_bytes: usize| {
        let object = block.object(rel_path);
        match sizes.get(object.as_str()) {
            Some(size_bytes) if *size_bytes >= least_bytes as u64 => Ok(()),
            Some(size_bytes) => {
                let reason = format!("{object} has only {size_bytes} bytes");
                Err(CompactError::Contradicts { block, reason })
            }
            None => {
                Err(CompactError::Contradicts { block, reason: format!("{object} is not in the bucket") })
            }
        }
    };
    check(INDEX_FILE_NAME, INDEX_PREAMBLE_SIZE_BYTES + TOC_SIZE_BYTES)?;
    let named = meta.thanos.as_ref().map_or(0, |thanos| thanos.segment_files.len());
    let prefix = block.object(CHUNKS_DIRECTORY);
    let found = sizes.keys().filter(|name| name.starts_with(&prefix)).count();
    let has_chunks = meta.stats.num_chunks > 0 || meta.stats.num_samples > 0;
    for segment in 0..named.max(found).max(usize::from(has_chunks)) {
        let name = segment_name(u32::try_from(segment).unwrap_or(u32::MAX));
        check(&format!("{CHUNKS_DIRECTORY}/{name}"), SEGMENT_HEADER_SIZE_BYTES)?;
    }
    Ok(())
}
