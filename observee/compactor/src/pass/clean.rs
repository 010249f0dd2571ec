//! Deleting: blocks whose mark is old enough, blocks that another covers, uploads that were given up.

use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_block::mark::{Mark, read_mark};
use parallax_block::{BlockError, BlockId, DeletionMark, PartialBlock, delete_block};

use super::{Action, Pass};
use crate::compactor::Compactor;
use crate::compactor::making::check_stays;
use crate::garbage::{OUTDATED, covered, is_marked_as_covered, not_covered};
use crate::view::{is_expired, millis};
use crate::{CompactError, CompactorConfig, Remedy};

/// How old the newest object of a partial upload must be before it is taken for given up: Thanos' time.
pub const PARTIAL_UPLOAD_AGE: Duration = Duration::from_secs(48 * 3600);

/// Blocks deleted at once.
const DELETE_CONCURRENCY: usize = 8;

/// Why a block is to be deleted.
#[derive(Clone, Copy, Debug)]
enum Reason {
    Marked,
    GivenUp,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::GivenUp => "partial",
        }
    }
}

/// What becomes of a block that is to be deleted.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deleted,
    /// It would be deleted if this were no dry run.
    Planned,
    /// It is not time yet.
    Stays(&'static str),
    /// The bucket has changed since the view was read.
    Spared(&'static str),
}

impl Pass<'_> {
    /// Deletes blocks whose deletion mark is older than the delay. Of those that were marked as covered only what is covered: where two workers have each marked a block for the
    /// sake of the other's, one of them loses its mark instead.
    pub(super) async fn delete_expired(&mut self) {
        let mut expired = std::mem::take(&mut self.view.expired);
        let marks = &self.view.marks;
        let is_marked_as_covered = |block: BlockId| {
            marks.get(&block).and_then(|marks| marks.deletion.as_ref()).is_some_and(is_marked_as_covered)
        };
        if !self.view.complete {
            // What covers a block may be among what the bucket did not tell.
            expired.retain(|block| !is_marked_as_covered(*block));
        }
        for block in not_covered(&expired, &self.view.whole, is_marked_as_covered) {
            expired.retain(|expired| *expired != block);
            if self.compactor.config.dry_run {
                continue;
            }
            let object = block.object(DeletionMark::FILE_NAME);
            match self.compactor.config.bucket.delete(&object).await {
                Ok(()) => tracing::error!(
                    %block, "block was marked for deletion as covered, and nothing covers it: it loses its mark"
                ),
                Err(error) => tracing::warn!(%block, %error, "a deletion mark was not taken away"),
            }
        }
        self.delete(expired, Reason::Marked).await;
        self.metrics().cleanup_loops.inc();
    }

    /// Deletes what was uploaded of blocks that never got their `meta.json`, once nobody can still be at it.
    pub(super) async fn delete_partial(&mut self) {
        let partial = std::mem::take(&mut self.view.partial);
        self.delete(partial, Reason::GivenUp).await;
        self.metrics().cleanup_loops.inc();
    }

    /// Leaves covered blocks out of the view, as a pass does when it collects garbage.
    pub(super) fn leave_out_covered(&mut self) {
        let groups = self.view.groups(&self.compactor.config.replica_labels);
        let is_marked = |block| self.view.is_marked_for_deletion(block);
        let found: Vec<_> = groups.values().flat_map(|group| covered(group, is_marked)).collect();
        for covered in found.into_iter().filter(|covered| covered.contradiction().is_none()) {
            self.view.blocks.remove(&covered.block.ulid);
        }
    }

    /// Deletes those blocks of which the reason still holds when their turn comes: the view may be old by then.
    async fn delete(&mut self, blocks: Vec<BlockId>, reason: Reason) {
        let (compactor, now_ms) = (self.compactor, self.view.now_ms);
        let kind = reason.name();
        let mut fates = futures::stream::iter(blocks)
            .map(|block| async move {
                let fate = match reason {
                    Reason::Marked => delete_marked(compactor, block, now_ms).await,
                    Reason::GivenUp => delete_given_up(compactor, block, now_ms).await,
                };
                (block, fate)
            })
            .buffered(DELETE_CONCURRENCY);
        while let Some((block, fate)) = fates.next().await {
            match fate {
                Ok(Fate::Deleted) => {
                    tracing::info!(%block, kind, "deleted block");
                    self.report.deleted += 1;
                    self.view.blocks.remove(&block);
                    self.compactor.metrics.cleaned.inc();
                }
                Ok(Fate::Planned) => self.plan(Action::Delete, block, kind.to_owned()),
                Ok(Fate::Stays(reason)) => tracing::debug!(%block, kind, reason, "block is left alone"),
                Ok(Fate::Spared(reason)) => tracing::info!(%block, kind, reason, "block is not deleted"),
                Err(error) => {
                    tracing::warn!(%block, kind, %error, "block could not be deleted; it is tried again");
                    self.compactor.metrics.cleanup_failures.inc();
                }
            }
        }
    }

    /// Marks blocks whose samples another block holds, once that one is known to be whole.
    pub(super) async fn collect_garbage(&mut self) -> Result<(), CompactError> {
        let began = Instant::now();
        self.metrics().garbage_collections.inc();
        let collected = self.mark_covered().await;
        self.metrics().garbage_collected_in(began.elapsed());
        collected
    }

    async fn mark_covered(&mut self) -> Result<(), CompactError> {
        let groups = self.view.groups(&self.compactor.config.replica_labels);
        let is_marked = |block| self.view.is_marked_for_deletion(block);
        let found: Vec<_> = groups
            .iter()
            .flat_map(|(key, group)| {
                covered(group, is_marked).into_iter().map(|covered| (key.clone(), covered))
            })
            .collect();
        self.unclear.clear();
        for (key, covered) in found {
            let block = covered.block.ulid;
            if self.view.is_marked_for_deletion(block) {
                self.view.blocks.remove(&block);
                continue;
            }
            if let Some(contradiction) = covered.contradiction() {
                self.metrics().garbage_collection_failures.inc();
                tracing::warn!(error = %contradiction, "both blocks are left alone");
                continue;
            }
            let marked = match check_stays(&self.compactor.config.bucket, &covered.by).await {
                Ok(()) => self.mark_for_deletion(block, OUTDATED.to_owned()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = marked {
                self.metrics().garbage_collection_failures.inc();
                if error.remedy() == Remedy::Retry {
                    self.unclear.insert(key);
                }
                self.leave_for_next_pass("a covered block was not marked for deletion", error)?;
                continue;
            }
            if self.compactor.config.dry_run {
                continue;
            }
            tracing::info!(%block, by = %covered.by.ulid, "block is covered by another and marked for deletion");
            self.metrics().garbage_collected.inc();
            self.report.garbage_collected += 1;
            self.view.blocks.remove(&block);
        }
        Ok(())
    }
}

/// Deletes a block unless its mark was taken away, or placed anew, since the view was read.
async fn delete_marked(compactor: &Compactor, block: BlockId, now_ms: i64) -> Result<Fate, BlockError> {
    let CompactorConfig { bucket, delete_delay, dry_run, .. } = &compactor.config;
    match read_mark::<DeletionMark>(bucket, block).await? {
        None => Ok(Fate::Spared("its deletion mark is gone by now")),
        Some(mark) if !is_expired(&mark, now_ms, *delete_delay) => {
            Ok(Fate::Spared("its deletion mark is a younger one"))
        }
        Some(_) if *dry_run => Ok(Fate::Planned),
        Some(_) => delete_block(bucket, block).await.map(|()| Fate::Deleted),
    }
}

/// Deletes a block without `meta.json` that nobody has written to for long, judged by what the bucket has of it now.
async fn delete_given_up(compactor: &Compactor, block: BlockId, now_ms: i64) -> Result<Fate, BlockError> {
    let CompactorConfig { bucket, dry_run, .. } = &compactor.config;
    let since_ms = now_ms.saturating_sub(millis(PARTIAL_UPLOAD_AGE));
    match PartialBlock::look(bucket, block, since_ms).await? {
        PartialBlock::Whole => Ok(Fate::Spared("it has its meta.json by now")),
        PartialBlock::Young => Ok(Fate::Stays("somebody may still be uploading it")),
        PartialBlock::Gone => Ok(Fate::Stays("nothing of it is there")),
        PartialBlock::GivenUp(_) if *dry_run => Ok(Fate::Planned),
        PartialBlock::GivenUp(given_up) => {
            compactor.metrics.partial_deletions.inc();
            given_up.delete(bucket).await.map(|()| Fate::Deleted)
        }
    }
}
