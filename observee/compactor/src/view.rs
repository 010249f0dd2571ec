//! [`View`]: the blocks of the bucket as one pass sees them, and what the pass itself changes about them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parallax_block::mark::{Mark, read_mark};
use parallax_block::meta::INDEX_FILE_NAME;
use parallax_block::{
    BlockError, BlockId, BlockMarks, BlockMeta, BlockState, DeletionMark, Fetcher, MetaFile, SyncedBlocks,
    read_marks,
};
use parallax_bucket::Bucket;

use crate::group::{Group, group_blocks};

/// The blocks of a bucket at one time.
#[derive(Debug, Default)]
pub struct View {
    pub now_ms: i64,
    /// Whole blocks, those with a young deletion mark among them.
    pub blocks: BTreeMap<BlockId, Arc<BlockMeta>>,
    pub marks: BTreeMap<BlockId, BlockMarks>,
    /// All blocks, however old their deletion marks.
    pub whole: BTreeMap<BlockId, Arc<BlockMeta>>,
    /// Blocks that are to be deleted now: marked long enough ago, whole or not.
    pub expired: Vec<BlockId>,
    /// Blocks without `meta.json` and without a deletion mark.
    pub partial: Vec<BlockId>,
    /// False if the bucket could not tell about some block: nothing may be concluded from what is missing.
    pub complete: bool,
}

/// How the bucket is read.
pub struct ViewReading<'a> {
    pub bucket: &'a Bucket,
    pub delete_delay: Duration,
    /// Marks read at once.
    pub concurrency: usize,
    /// Which blocks are looked at.
    pub takes: &'a (dyn Fn(&BlockMeta) -> bool + Sync),
}

impl View {
    /// Reads the block list and all marks.
    ///
    /// # Errors
    /// If the bucket cannot be listed, or a mark could not be asked for.
    pub async fn read(fetcher: &Fetcher, reading: &ViewReading<'_>, now_ms: i64) -> Result<Self, BlockError> {
        let ViewReading { bucket, delete_delay, concurrency, takes } = *reading;
        let SyncedBlocks { blocks, dropped, problems, complete, .. } = fetcher.sync(now_ms).await?;
        for problem in problems {
            if problem.state != BlockState::NoMeta {
                let (block, state) = (problem.block, problem.state.name());
                tracing::warn!(%block, state, error = %problem.error, "block is left alone");
            }
        }
        let mut view = Self { now_ms, blocks, complete, ..Self::default() };
        view.blocks.retain(|_, meta| takes(meta));
        for meta in view.blocks.values_mut() {
            add_index_size(bucket, meta).await?;
        }
        view.marks = read_marks(bucket, view.blocks.keys().copied(), concurrency).await;
        for marks in view.marks.values_mut() {
            // What the bucket did not answer is not the same as what is not there.
            if let Some(at) =
                marks.problems.iter().position(|error| matches!(error, BlockError::Bucket { .. }))
            {
                return Err(marks.problems.swap_remove(at));
            }
        }
        for (block, state) in dropped {
            if state != BlockState::NoMeta {
                continue;
            }
            match read_mark::<DeletionMark>(bucket, block).await {
                Ok(Some(mark)) if is_expired(&mark, now_ms, delete_delay) => view.expired.push(block),
                Ok(None) => view.partial.push(block),
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(%block, %error, "partial block is left alone"),
            }
        }
        view.whole = view.blocks.clone();
        let marked = view.marks.iter().filter_map(|(block, marks)| Some((*block, marks.deletion.as_ref()?)));
        let old = marked.map(|(block, mark)| (block, age_ms(mark, now_ms))).collect::<Vec<_>>();
        for (block, age_ms) in old {
            if age_ms > millis(delete_delay) {
                view.expired.push(block);
            }
            // As long as what replaces it may not be there yet, a marked block is planned with.
            if age_ms > millis(delete_delay) / 2 {
                view.blocks.remove(&block);
            }
        }
        Ok(view)
    }

    /// The groups of all blocks.
    pub fn groups(&self, replica_labels: &[String]) -> BTreeMap<String, Group> {
        group_blocks(self.blocks.values(), replica_labels)
    }

    pub fn is_marked_for_deletion(&self, block: BlockId) -> bool {
        self.marks.get(&block).is_some_and(|marks| marks.deletion.is_some())
    }

    pub fn is_no_downsample(&self, block: BlockId) -> bool {
        self.marks.get(&block).is_some_and(|marks| marks.no_downsample.is_some())
    }

    /// The blocks that are not to be compacted.
    pub fn no_compact(&self) -> BTreeSet<BlockId> {
        let marked = self.marks.iter().filter(|(_, marks)| marks.no_compact.is_some());
        marked.map(|(block, _)| *block).collect()
    }

    /// A mark of one of these blocks that cannot be understood.
    pub fn unreadable_mark(&self, blocks: &[Arc<BlockMeta>]) -> Option<String> {
        let mut problems = blocks.iter().filter_map(|meta| self.marks.get(&meta.ulid)?.problems.first());
        problems.next().map(ToString::to_string)
    }
}

/// Old blocks do not list their files, and the plan needs to know how large their indexes are.
async fn add_index_size(bucket: &Bucket, meta: &mut Arc<BlockMeta>) -> Result<(), BlockError> {
    if meta.thanos.is_none() || meta.file_size_bytes(INDEX_FILE_NAME).is_some() {
        return Ok(());
    }
    let block = meta.ulid;
    let size_bytes = match bucket.head(&block.object(INDEX_FILE_NAME)).await {
        Ok(info) => Some(info.size_bytes),
        // Whoever opens the block will say that it has none.
        Err(error) if error.is_not_found() => return Ok(()),
        Err(source) => return Err(BlockError::Bucket { block, source }),
    };
    let file = MetaFile { rel_path: INDEX_FILE_NAME.to_owned(), size_bytes, ..MetaFile::default() };
    if let Some(thanos) = &mut Arc::make_mut(meta).thanos {
        thanos.files.push(file);
    }
    Ok(())
}

/// Whether a marked block is to be deleted now.
pub(crate) fn is_expired(mark: &DeletionMark, now_ms: i64, delete_delay: Duration) -> bool {
    age_ms(mark, now_ms) > millis(delete_delay)
}

fn age_ms(mark: &DeletionMark, now_ms: i64) -> i64 {
    now_ms.saturating_sub(mark.deletion_time_s.saturating_mul(1000))
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The name of a mark's file, as metrics have it.
pub(crate) const fn mark_name<M: Mark>() -> &'static str {
    M::FILE_NAME
}
