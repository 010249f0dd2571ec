//! Compacting groups until none has a plan left.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use parallax_block::{BlockId, BlockMeta};

use super::Pass;
use super::leasing::Turn;
use crate::compaction::{Job, NewBlock, Outcome};
use crate::compactor::making::{Making, check_stays};
use crate::garbage::SOURCE_OF_COMPACTED;
use crate::group::Group;
use crate::merge::ReadTotals;
use crate::metrics::GroupEvent;
use crate::plan::{NoCompactReason, Plan, plan};
use crate::{CompactError, Remedy};

/// More steps than this no group takes in one pass: a plan that does not lead anywhere must not go round for ever.
const MAX_STEPS: usize = 10_000;

/// A planned step of a group.
struct Step {
    group: Group,
    blocks: Vec<Arc<BlockMeta>>,
    vertical: bool,
    turn: Turn,
}

impl Pass<'_> {
    /// Plans and compacts, a few groups at a time, until there is nothing left to do.
    pub(super) async fn compact_groups(&mut self) -> Result<(), CompactError> {
        let mut failed: BTreeSet<String> = BTreeSet::new();
        let keys = self.view.groups(&self.compactor.config.replica_labels).into_keys().collect();
        self.compactor.quarantine.keep_only(&keys, |block| self.view.blocks.contains_key(&block));
        for _ in 0..MAX_STEPS {
            self.refresh_if_old().await?;
            let mut steps = self.next_steps(&mut failed).await?;
            if steps.is_empty() {
                break;
            }
            if steps.iter().any(|step| step.turn == Turn::New) {
                // Whoever was at a group before may have left other blocks behind than the view knows.
                self.refresh().await?;
                steps = self.next_steps(&mut failed).await?;
            }
            self.take(steps, &mut failed).await?;
            for key in &failed {
                self.give_back(key).await;
            }
        }
        self.give_all_back().await;
        let aside = self.compactor.quarantine.list().len();
        self.metrics().quarantined.set(i64::try_from(aside).unwrap_or(i64::MAX));
        Ok(())
    }

    /// One step for each group that has one and has not failed in this pass.
    async fn next_steps(&mut self, failed: &mut BTreeSet<String>) -> Result<Vec<Step>, CompactError> {
        let mut steps = Vec::new();
        for (key, group) in self.view.groups(&self.compactor.config.replica_labels) {
            let no_compact = self.view.no_compact();
            if self.unclear.contains(&key) && failed.insert(key.clone()) {
                self.unsettled.push(group.blocks.clone());
            }
            if failed.contains(&key)
                || group.blocks.len() < 2 && group.blocks.iter().all(|meta| meta.stats.num_tombstones == 0)
            {
                continue;
            }
            if self.compactor.quarantine.holds(&group, &no_compact) {
                failed.insert(key);
                self.unsettled.push(group.blocks);
                continue;
            }
            if self.compactor.shutdown.is_cancelled() {
                return Err(CompactError::Interrupted);
            }
            self.metrics().count(GroupEvent::Started, group.resolution_ms);
            match self.plan_group(&group, &no_compact).await {
                Ok(plan) if plan.blocks.is_empty() => {
                    self.metrics().count(GroupEvent::Completed, group.resolution_ms);
                    failed.insert(key);
                }
                Ok(plan) => match self.turn(&key, self.compactor.config.group_concurrency).await? {
                    Turn::Later => {}
                    Turn::Busy => {
                        failed.insert(key);
                        self.unsettled.push(group.blocks);
                    }
                    turn => {
                        let vertical = overlaps(&plan.blocks);
                        steps.push(Step { group, blocks: plan.blocks, vertical, turn });
                    }
                },
                Err(error) => {
                    failed.insert(key);
                    self.set_back(&group, error).await?;
                }
            }
        }
        Ok(steps)
    }

    async fn plan_group(
        &mut self,
        group: &Group,
        no_compact: &BTreeSet<BlockId>,
    ) -> Result<Plan, CompactError> {
        if let Some(reason) = self.view.unreadable_mark(&group.blocks)
            && let Some(first) = group.blocks.first()
        {
            return Err(CompactError::Contradicts { block: first.ulid, reason });
        }
        let plan = plan(group, no_compact, &self.compactor.config.plan)?;
        for (block, reason) in &plan.marks {
            self.mark_no_compact(*block, *reason, "planned blocks would make an unfit one").await?;
        }
        Ok(plan)
    }

    /// Compacts several groups at once, and takes note of what came out.
    async fn take(&mut self, steps: Vec<Step>, failed: &mut BTreeSet<String>) -> Result<(), CompactError> {
        let (compactor, mode, clock) = (self.compactor, self.compactor.config.mode, self.clock());
        let steps: Vec<_> = steps
            .into_iter()
            .map(|step| {
                let marked = self.marked(&step.blocks);
                let lease = self.lease(&step.group.key);
                (step, marked, lease)
            })
            .collect();
        let mut running = futures::stream::iter(steps)
            .map(|(step, marked, lease)| async move {
                let now_ms = clock();
                let making = Making { sources: &step.blocks, marked, lease, now_ms };
                let (group, blocks) = (&step.group, &step.blocks);
                let prepare =
                    |job: Job| async move { job.prepare_compaction(group, blocks, mode, now_ms).await };
                let began = compactor.config.clock.now();
                let outcome = compactor.make(&making, prepare).await;
                (step, outcome, began)
            })
            .buffer_unordered(compactor.config.group_concurrency.max(1));
        while let Some((step, outcome, began)) = running.next().await {
            let resolution_ms = step.group.resolution_ms;
            let settled = match outcome {
                Ok(Outcome::Made(new)) => self.replace(&step, *new).await,
                Ok(Outcome::Nothing(read)) => self.drop_empty(&step, read).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(()) => {
                    let event =
                        if step.vertical { GroupEvent::CompactedVertically } else { GroupEvent::Compacted };
                    self.metrics().count(event, resolution_ms);
                    self.report.compactions += 1;
                    self.note_done(&step.blocks, began, true);
                    self.measure_progress();
                }
                Err(error) => {
                    self.metrics().count(GroupEvent::Failed, resolution_ms);
                    if !self.take_out(&step, &error).await? {
                        failed.insert(step.group.key.clone());
                        self.set_back(&step.group, error).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The new block takes the place of its sources, which are marked for deletion.
    async fn replace(&mut self, step: &Step, new: NewBlock) -> Result<(), CompactError> {
        let sources: Vec<BlockId> = step.blocks.iter().map(|meta| meta.ulid).collect();
        let NewBlock { meta } = new;
        check_stays(&self.compactor.config.bucket, &meta).await?;
        tracing::info!(
            block = %meta.ulid, sources = ?sources, group = step.group.key, level = meta.compaction.level,
            series = meta.stats.num_series, samples = meta.stats.num_samples, vertical = step.vertical, "compacted blocks"
        );
        self.view.blocks.insert(meta.ulid, Arc::new(meta));
        for block in sources {
            // From here on the source is covered: if it cannot be marked now, the next pass collects it as garbage.
            self.view.blocks.remove(&block);
            if let Err(error) = self.mark_for_deletion(block, SOURCE_OF_COMPACTED.to_owned()).await {
                self.leave_for_next_pass("a source was not marked for deletion", error)?;
            } else {
                self.metrics().garbage_collected.inc();
            }
        }
        Ok(())
    }

    /// Blocks without samples leave nothing behind. Those that claim to have some are not to be trusted, unless tombstones delete all of them.
    async fn drop_empty(&mut self, step: &Step, read: ReadTotals) -> Result<(), CompactError> {
        let chunks: u64 = step.blocks.iter().map(|meta| meta.stats.num_chunks).sum();
        let is_deleted =
            read.chunks_kept == 0 && read.series_deleted > 0 && (chunks == 0 || read.chunks == chunks);
        let claiming = step.blocks.iter().find(|meta| meta.stats.num_samples > 0);
        if let Some(meta) = claiming.filter(|_| !is_deleted) {
            let reason = format!("meta.json counts {} samples, none was found", meta.stats.num_samples);
            return Err(CompactError::Contradicts { block: meta.ulid, reason });
        }
        let details = if is_deleted { "tombstones delete all samples" } else { "empty block" };
        for meta in &step.blocks {
            self.view.blocks.remove(&meta.ulid);
            self.mark_for_deletion(meta.ulid, details.to_owned()).await?;
        }
        Ok(())
    }

    /// Takes a block out of compaction, so that its group goes on without it: one whose chunks are out of order, if that is wanted; and the one with the largest
    /// index of those that together do not fit one.
    async fn take_out(&mut self, step: &Step, error: &CompactError) -> Result<bool, CompactError> {
        let (block, reason) = match error {
            CompactError::OutOfOrderChunks { block, .. } if self.compactor.config.skip_out_of_order => {
                (*block, NoCompactReason::OutOfOrderChunks)
            }
            CompactError::IndexTooLarge { largest, .. } if step.blocks.len() > 1 => {
                (*largest, NoCompactReason::IndexSizeExceeding)
            }
            _ => return Ok(false),
        };
        match self.mark_no_compact(block, reason, &error.to_string()).await {
            Ok(()) => Ok(true),
            Err(error) => {
                self.leave_for_next_pass("a block was not marked", error)?;
                Ok(false)
            }
        }
    }

    /// Those of some blocks that are marked for deletion.
    pub(super) fn marked(&self, blocks: &[Arc<BlockMeta>]) -> BTreeSet<BlockId> {
        let ids = blocks.iter().map(|meta| meta.ulid);
        ids.filter(|block| self.view.is_marked_for_deletion(*block)).collect()
    }

    /// Sets a group aside, or leaves it for the next pass.
    async fn set_back(&mut self, group: &Group, error: CompactError) -> Result<(), CompactError> {
        self.unsettled.push(group.blocks.clone());
        match error.remedy() {
            Remedy::Quarantine => {
                let reason = error.to_string();
                tracing::error!(group = group.key, labels = ?group.labels, reason, "group is set aside");
                let no_compact = self.view.no_compact();
                self.compactor.quarantine.set_aside(group, &no_compact, reason, self.clock_ms());
                self.report.set_aside += 1;
                Ok(())
            }
            Remedy::Retry | Remedy::Stop => self.leave_for_next_pass("a group was not compacted", error),
        }
    }
}

fn overlaps(blocks: &[Arc<BlockMeta>]) -> bool {
    let mut end_ms = i64::MIN;
    blocks.iter().any(|meta| {
        let overlaps = meta.min_time_ms < end_ms;
        end_ms = end_ms.max(meta.max_time_ms);
        overlaps
    })
}
