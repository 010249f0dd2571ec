//! What is left to do, as the plans say.

use parallax_model::Resolution;
use serde::Serialize;

use super::Pass;
use crate::plan::plan;

/// What is left to do in the bucket, set-aside groups aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Groups of blocks that are planned to become one next.
    pub compactions: usize,
    pub compaction_blocks: usize,
    pub downsample_blocks: usize,
    pub deletion_blocks: usize,
}

impl Pass<'_> {
    pub(super) fn measure_progress(&self) {
        let mut progress = Progress::default();
        let no_compact = self.view.no_compact();
        for group in self.view.groups(&self.compactor.config.replica_labels).values() {
            if let Ok(plan) = plan(group, &no_compact, &self.compactor.config.plan)
                && !plan.blocks.is_empty()
            {
                progress.compactions += 1;
                progress.compaction_blocks += plan.blocks.len();
            }
        }
        if self.compactor.config.downsampling {
            progress.downsample_blocks =
                self.due(Resolution::Raw).len() + self.due(Resolution::FiveMinutes).len();
        }
        let is_due = |meta: &&std::sync::Arc<parallax_block::BlockMeta>| {
            self.retires(meta) && !self.view.is_marked_for_deletion(meta.ulid)
        };
        progress.deletion_blocks = self.view.blocks.values().filter(is_due).count();
        let metrics = self.metrics();
        for (gauge, count) in [
            (&metrics.todo_compactions, progress.compactions),
            (&metrics.todo_compaction_blocks, progress.compaction_blocks),
            (&metrics.todo_downsample_blocks, progress.downsample_blocks),
            (&metrics.todo_deletion_blocks, progress.deletion_blocks),
        ] {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.compactor.note_progress(progress);
    }
}
