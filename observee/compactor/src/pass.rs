//! One pass over the bucket: delete, collect garbage, compact, downsample, retire, clean up.
//!
//! No step waits for another to succeed: what goes wrong is reported, counted and left for the next pass, or set aside. Only what would
//! rest on something that failed is left out, such as retiring a block that should have been downsampled first. In a long pass the bucket is
//! read again from time to time.

mod clean;
mod compact;
mod downsample;
mod progress;
mod retire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_block::mark::place_mark;
use parallax_block::{BlockId, BlockMarks, BlockMeta, DeletionMark, NoCompactMark};
use serde::Serialize;

use crate::compactor::Compactor;
use crate::metrics::CompactorMetrics;
use crate::plan::NoCompactReason;
use crate::view::{View, mark_name, millis};
use crate::{CompactError, Remedy};

pub use progress::Progress;

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
}

/// One pass at work.
pub(crate) struct Pass<'a> {
    compactor: &'a Compactor,
    view: View,
    /// When the view was read, for what time it is now.
    read_at: Instant,
    report: PassReport,
    /// The blocks of groups whose compaction failed or which are set aside.
    unsettled: Vec<Vec<Arc<BlockMeta>>>,
}

/// After this long in a pass the bucket is read again: other writers' blocks and marks must not go unseen for the days that a first pass may take.
const MAX_VIEW_AGE: Duration = Duration::from_secs(600);

impl<'a> Pass<'a> {
    /// Does everything once.
    ///
    /// # Errors
    /// If the block list cannot be read, or the process is to end.
    pub(crate) async fn run(compactor: &'a Compactor, now_ms: i64) -> Result<PassReport, CompactError> {
        let view = compactor.read_view(now_ms).await?;
        let report = PassReport::default();
        let mut pass = Self { compactor, view, read_at: Instant::now(), report, unsettled: Vec::new() };
        pass.settle_view().await?;
        pass.compact_groups().await?;
        pass.refresh_if_old().await?;
        pass.downsample_blocks().await?;
        pass.refresh_if_old().await?;
        pass.retire_blocks().await?;
        pass.delete_partial().await;
        pass.measure_progress();
        Ok(pass.report)
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
        if self.read_at.elapsed() < MAX_VIEW_AGE {
            return Ok(());
        }
        let now_ms = self.clock_ms();
        self.view = self.compactor.read_view(now_ms).await?;
        self.read_at = Instant::now();
        self.settle_view().await
    }

    /// The time by the pass's clock. Marks and blocks carry the time when they are made, not when a long pass began: the delay before
    /// deletion counts from there.
    fn clock_ms(&self) -> i64 {
        self.view.now_ms.saturating_add(millis(self.read_at.elapsed()))
    }

    fn metrics(&self) -> &'a CompactorMetrics {
        &self.compactor.metrics
    }

    /// Marks a block for deletion, in the bucket and in the view. A block that has a mark keeps it.
    async fn mark_for_deletion(&mut self, block: BlockId, details: String) -> Result<(), CompactError> {
        let mark = DeletionMark { id: block, version: 1, details, deletion_time_s: self.clock_ms() / 1000 };
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
