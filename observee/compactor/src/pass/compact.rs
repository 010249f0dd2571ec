//! Compacting groups until none has a plan left.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use parallax_block::{BlockId, BlockMeta};

use super::Pass;
use crate::compaction::NewBlock;
use crate::garbage::check_whole;
use crate::group::Group;
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
}

impl Pass<'_> {
    /// Plans and compacts, a few groups at a time, until there is nothing left to do.
    pub(super) async fn compact_groups(&mut self) -> Result<(), CompactError> {
        let mut failed: BTreeSet<String> = BTreeSet::new();
        let keys = self.view.groups(&self.compactor.config.replica_labels).into_keys().collect();
        self.compactor.quarantine.keep_only(&keys);
        for _ in 0..MAX_STEPS {
            self.refresh_if_old().await?;
            let steps = self.next_steps(&mut failed).await?;
            if steps.is_empty() {
                break;
            }
            self.take(steps, &mut failed).await?;
        }
        let aside = self.compactor.quarantine.list().len();
        self.metrics().quarantined.set(i64::try_from(aside).unwrap_or(i64::MAX));
        Ok(())
    }

    /// One step for each group that has one and has not failed in this pass.
    async fn next_steps(&mut self, failed: &mut BTreeSet<String>) -> Result<Vec<Step>, CompactError> {
        let mut steps = Vec::new();
        for (key, group) in self.view.groups(&self.compactor.config.replica_labels) {
            let no_compact = self.view.no_compact();
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
                Ok(plan) => {
                    let vertical = overlaps(&plan.blocks);
                    steps.push(Step { group, blocks: plan.blocks, vertical });
                }
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
        let compactor = self.compactor;
        let now_ms = self.clock_ms();
        let mut running = futures::stream::iter(steps)
            .map(|step| async move {
                let outcome =
                    compactor.job.compact(&step.group, &step.blocks, compactor.config.mode, now_ms).await;
                (step, outcome)
            })
            .buffer_unordered(compactor.config.group_concurrency.max(1));
        while let Some((step, outcome)) = running.next().await {
            let resolution_ms = step.group.resolution_ms;
            let settled = match outcome {
                Ok(new) => self.replace(&step, new).await,
                Err(error) => Err(error),
            };
            match settled {
                Ok(()) => {
                    let event =
                        if step.vertical { GroupEvent::CompactedVertically } else { GroupEvent::Compacted };
                    self.metrics().count(event, resolution_ms);
                    self.report.compactions += 1;
                }
                Err(error) => {
                    self.metrics().count(GroupEvent::Failed, resolution_ms);
                    if !self.skip_out_of_order(&error).await? {
                        failed.insert(step.group.key.clone());
                        self.set_back(&step.group, error).await?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The new block takes the place of its sources, which are marked for deletion.
    async fn replace(&mut self, step: &Step, new: Option<NewBlock>) -> Result<(), CompactError> {
        let sources: Vec<BlockId> = step.blocks.iter().map(|meta| meta.ulid).collect();
        let Some(NewBlock { meta }) = new else {
            return self.drop_empty(step).await;
        };
        check_whole(&self.compactor.config.bucket, &meta).await?;
        tracing::info!(
            block = %meta.ulid, sources = ?sources, group = step.group.key, level = meta.compaction.level,
            series = meta.stats.num_series, samples = meta.stats.num_samples, vertical = step.vertical, "compacted blocks"
        );
        self.view.blocks.insert(meta.ulid, Arc::new(meta));
        for block in sources {
            // From here on the source is covered: if it cannot be marked now, the next pass collects it as garbage.
            self.view.blocks.remove(&block);
            if let Err(error) = self.mark_for_deletion(block, "source of compacted block".to_owned()).await {
                self.leave_for_next_pass("a source was not marked for deletion", error)?;
            } else {
                self.metrics().garbage_collected.inc();
            }
        }
        Ok(())
    }

    /// Blocks without samples leave nothing behind; those that claim to have some are not to be trusted.
    async fn drop_empty(&mut self, step: &Step) -> Result<(), CompactError> {
        if let Some(meta) = step.blocks.iter().find(|meta| meta.stats.num_samples > 0) {
            let reason = format!("meta.json counts {} samples, none was found", meta.stats.num_samples);
            return Err(CompactError::Contradicts { block: meta.ulid, reason });
        }
        for meta in &step.blocks {
            self.view.blocks.remove(&meta.ulid);
            self.mark_for_deletion(meta.ulid, "empty block".to_owned()).await?;
        }
        Ok(())
    }

    /// Takes a block whose chunks are out of order out of compaction, if that is wanted.
    async fn skip_out_of_order(&mut self, error: &CompactError) -> Result<bool, CompactError> {
        let CompactError::OutOfOrderChunks { block, .. } = error else { return Ok(false) };
        if !self.compactor.config.skip_out_of_order {
            return Ok(false);
        }
        let marked =
            self.mark_no_compact(*block, NoCompactReason::OutOfOrderChunks, &error.to_string()).await;
        match marked {
            Ok(()) => Ok(true),
            Err(error) => {
                self.leave_for_next_pass("a block was not marked", error)?;
                Ok(false)
            }
        }
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
