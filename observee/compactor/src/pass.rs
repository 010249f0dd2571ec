//! One pass over the bucket: delete, collect garbage, compact, downsample, retire, clean up.
//!
//! No step waits for another to succeed: what goes wrong is reported, counted and left for the next pass, or set aside. Only what would
//! rest on something that failed is left out, such as retiring a block that should have been downsampled first. In a long pass the bucket is
//! read again from time to time.

mod clean;
mod compact;
mod downsample;
mod leasing;
mod progress;
mod retire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parallax_block::mark::place_mark;
use parallax_block::{BlockId, BlockMarks, BlockMeta, DeletionMark, NoCompactMark, NoDownsampleMark};
use serde::Serialize;

use crate::compactor::Compactor;
use crate::lease::Lease;
use crate::metrics::CompactorMetrics;
use crate::plan::NoCompactReason;
use crate::view::{View, mark_name, millis};
use crate::{CompactError, Remedy};

pub(crate) use progress::Pace;
pub use progress::{GroupProgress, Progress};

/// What a pass did and could not do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PassReport {
    pub compactions: u64,
    pub downsamples: u64,
    pub garbage_collected: u64,
    pub retired: u64,
    pub deleted: u64,
    /// Groups that were set aside in this pass.
    pub set_aside: u64,
    /// Errors that are tried again at the next pass.
    pub retries: u64,
    /// Groups that another worker was at.
    pub busy: u64,
    /// What a dry run would have done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<Planned>,
}

/// Something that a dry run leaves undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub action: Action,
    pub block: BlockId,
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Delete,
    MarkForDeletion,
    Downsample,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::MarkForDeletion => "mark for deletion",
            Self::Downsample => "downsample",
        }
    }
}

/// One of the things that a pass does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Deleting what was marked long enough ago, marking what another block covers, deleting uploads that were given up.
    Cleanup,
    Retention,
    Downsampling,
}

/// One pass at work.
pub(crate) struct Pass<'a> {
    compactor: &'a Compactor,
    view: View,
    /// When the view was read, by the compactor's clock, for what time it is now.
    read_at: Duration,
    report: PassReport,
    /// The blocks of groups whose compaction failed or which are set aside.
    unsettled: Vec<Vec<Arc<BlockMeta>>>,
    /// By the key of the group.
    leases: BTreeMap<String, Lease>,
    /// Keys of groups of which the bucket did not tell what covers what: not compacted in this pass, since what overlaps may be no more than not marked yet.
    unclear: BTreeSet<String>,
}

impl<'a> Pass<'a> {
    /// Does everything once.
    ///
    /// # Errors
    /// If the block list cannot be read, or the process is to end.
    pub(crate) async fn run(compactor: &'a Compactor, now_ms: i64) -> Result<PassReport, CompactError> {
        let read_at = compactor.config.clock.now();
        let view = compactor.read_view(now_ms).await?;
        let report = PassReport::default();
        let (unsettled, leases) = (Vec::new(), BTreeMap::new());
        let unclear = BTreeSet::new();
        let mut pass = Self { compactor, view, read_at, report, unsettled, leases, unclear };
        let outcome = pass.work().await;
        pass.give_all_back().await;
        outcome.map(|()| pass.report)
    }

    /// Does one thing.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn run_chore(
        compactor: &'a Compactor,
        chore: Chore,
        now_ms: i64,
    ) -> Result<PassReport, CompactError> {
        let read_at = compactor.config.clock.now();
        let view = compactor.read_view(now_ms).await?;
        let report = PassReport::default();
        let (unsettled, leases) = (Vec::new(), BTreeMap::new());
        let unclear = BTreeSet::new();
        let mut pass = Self { compactor, view, read_at, report, unsettled, leases, unclear };
        if !pass.view.complete {
            return Err(CompactError::Incomplete);
        }
        let outcome = pass.do_chore(chore).await;
        pass.give_all_back().await;
        outcome.map(|()| pass.report)
    }

    async fn do_chore(&mut self, chore: Chore) -> Result<(), CompactError> {
        match chore {
            Chore::Cleanup => {
                self.delete_expired().await;
                self.collect_garbage().await?;
                self.delete_partial().await;
                Ok(())
            }
            Chore::Retention => {
                self.leave_out_covered();
                self.retire_blocks().await
            }
            Chore::Downsampling => {
                self.leave_out_covered();
                self.downsample_blocks().await
            }
        }
    }

    /// Notes what a dry run leaves undone.
    fn plan(&mut self, action: Action, block: BlockId, reason: String) {
        self.report.planned.push(Planned { action, block, reason });
    }

    async fn work(&mut self) -> Result<(), CompactError> {
        self.settle_view().await?;
        self.measure_progress();
        self.compact_groups().await?;
        self.measure_progress();
        self.refresh_if_old().await?;
        self.downsample_blocks().await?;
        self.refresh_if_old().await?;
        self.retire_blocks().await?;
        self.delete_partial().await;
        self.measure_progress();
        Ok(())
    }

    /// Deletes what is due, and leaves out of the view what another block covers.
    async fn settle_view(&mut self) -> Result<(), CompactError> {
        self.delete_expired().await;
        if !self.view.complete {
            return Err(CompactError::Incomplete);
        }
        self.collect_garbage().await
    }

    async fn refresh_if_old(&mut self) -> Result<(), CompactError> {
        let config = &self.compactor.config;
        if config.clock.since(self.read_at) < config.max_view_age {
            return Ok(());
        }
        self.refresh().await
    }

    async fn refresh(&mut self) -> Result<(), CompactError> {
        let config = &self.compactor.config;
        let (now_ms, read_at) = (self.clock_ms(), config.clock.now());
        self.view = self.compactor.read_view(now_ms).await?;
        self.read_at = read_at;
        self.settle_view().await
    }

    /// The time by the pass's clock. Marks and blocks carry the time when they are made, not when a long pass began: the delay before
    /// deletion counts from there.
    fn clock_ms(&self) -> i64 {
        self.clock()()
    }

    /// [`Self::clock_ms`] for jobs that wait for each other: each asks when it begins.
    fn clock(&self) -> impl Fn() -> i64 + Copy + use<'a> {
        let (clock, read_at, read_ms) = (&self.compactor.config.clock, self.read_at, self.view.now_ms);
        move || read_ms.saturating_add(millis(clock.since(read_at)))
    }

    fn metrics(&self) -> &'a CompactorMetrics {
        &self.compactor.metrics
    }

    /// Marks a block for deletion, in the bucket and in the view. A block that has a mark keeps it.
    async fn mark_for_deletion(&mut self, block: BlockId, details: String) -> Result<(), CompactError> {
        let mark = DeletionMark { id: block, version: 1, details, deletion_time_s: self.clock_ms() / 1000 };
        if self.compactor.config.dry_run {
            self.plan(Action::MarkForDeletion, block, mark.details);
            return Ok(());
        }
        if place_mark(&self.compactor.config.bucket, block, &mark).await? {
            self.metrics().marked(mark_name::<DeletionMark>(), "");
        }
        self.view.marks.entry(block).or_default().deletion = Some(mark);
        Ok(())
    }

    async fn mark_no_compact(
        &mut self,
        block: BlockId,
        reason: NoCompactReason,
        details: &str,
    ) -> Result<(), CompactError> {
        let mark = NoCompactMark {
            id: block,
            version: 1,
            details: details.to_owned(),
            no_compact_time_s: self.clock_ms() / 1000,
            reason: reason.name().to_owned(),
        };
        if place_mark(&self.compactor.config.bucket, block, &mark).await? {
            self.metrics().marked(mark_name::<NoCompactMark>(), reason.name());
            tracing::warn!(%block, reason = reason.name(), details, "block is taken out of compaction");
        }
        let marks: &mut BlockMarks = self.view.marks.entry(block).or_default();
        marks.no_compact = Some(mark);
        Ok(())
    }

    async fn mark_no_downsample(
        &mut self,
        block: BlockId,
        reason: &'static str,
        details: &str,
    ) -> Result<(), CompactError> {
        let mark = NoDownsampleMark {
            id: block,
            version: 1,
            details: details.to_owned(),
            no_downsample_time_s: self.clock_ms() / 1000,
            reason: reason.to_owned(),
        };
        if place_mark(&self.compactor.config.bucket, block, &mark).await? {
            self.metrics().marked(mark_name::<NoDownsampleMark>(), reason);
            tracing::info!(%block, reason, details, "block is taken out of downsampling");
        }
        self.view.marks.entry(block).or_default().no_downsample = Some(mark);
        Ok(())
    }

    /// Counts an error that the next pass tries again. The process ending is passed on.
    fn leave_for_next_pass(&mut self, what: &str, error: CompactError) -> Result<(), CompactError> {
        if error.remedy() == Remedy::Stop {
            return Err(error);
        }
        tracing::warn!(%error, "{what}; it is tried again at the next pass");
        self.report.retries += 1;
        self.metrics().retries.inc();
        Ok(())
    }
}
