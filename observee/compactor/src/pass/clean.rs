//! Deleting: blocks whose mark is old enough, blocks that another covers, uploads that were given up.

use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_block::delete::{delete_block, last_written_ms};
use parallax_block::mark::Mark;
use parallax_block::{BlockId, DeletionMark};

use super::{Action, Pass};
use crate::compactor::making::check_stays;
use crate::garbage::{OUTDATED, covered, is_marked_as_covered, not_covered};
use crate::view::millis;
use crate::{CompactError, Remedy};

/// How old the newest object of a partial upload must be before it is taken for given up: Thanos' time.
pub const PARTIAL_UPLOAD_AGE: Duration = Duration::from_secs(48 * 3600);

/// Blocks deleted at once.
const DELETE_CONCURRENCY: usize = 8;

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
        self.delete(expired, "marked").await;
        self.metrics().cleanup_loops.inc();
    }

    /// Deletes what was uploaded of blocks that never got their `meta.json`, once nobody can still be at it.
    pub(super) async fn delete_partial(&mut self) {
        let mut given_up = Vec::new();
        for block in std::mem::take(&mut self.view.partial) {
            match last_written_ms(&self.compactor.config.bucket, block).await {
                Ok(Some(written_ms))
                    if self.view.now_ms.saturating_sub(written_ms) > millis(PARTIAL_UPLOAD_AGE) =>
                {
                    self.metrics().partial_deletions.inc();
                    given_up.push(block);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%block, %error, "partial block is left alone"),
            }
        }
        self.delete(given_up, "partial").await;
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

    async fn delete(&mut self, blocks: Vec<BlockId>, kind: &str) {
        if self.compactor.config.dry_run {
            for block in blocks {
                self.plan(Action::Delete, block, kind.to_owned());
            }
            return;
        }
        let bucket = &self.compactor.config.bucket;
        let mut outcomes = futures::stream::iter(blocks)
            .map(|block| async move { (block, delete_block(bucket, block).await) })
            .buffer_unordered(DELETE_CONCURRENCY);
        while let Some((block, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => {
                    tracing::info!(%block, kind, "deleted block");
                    self.report.deleted += 1;
                    self.view.blocks.remove(&block);
                    self.compactor.metrics.cleaned.inc();
                }
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
