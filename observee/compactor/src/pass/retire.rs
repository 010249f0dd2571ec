//! Retention: blocks that are older than their resolution is kept are marked for deletion.

use std::sync::Arc;

use parallax_block::BlockMeta;

use super::{Action, Pass};
use crate::CompactError;

impl Pass<'_> {
    /// Whether a block goes since it is past its retention.
    pub(super) fn retires(&self, meta: &BlockMeta) -> bool {
        !self.compactor.config.retention_dry_run && self.compactor.is_retired(meta, self.view.now_ms)
    }

    pub(super) async fn retire_blocks(&mut self) -> Result<(), CompactError> {
        let retired: Vec<Arc<BlockMeta>> = self
            .view
            .blocks
            .values()
            .filter(|meta| self.compactor.is_retired(meta, self.view.now_ms))
            .filter(|meta| !self.view.is_marked_for_deletion(meta.ulid))
            .cloned()
            .collect();
        for meta in retired {
            let block = meta.ulid;
            if self.awaits_downsampling(&meta) {
                tracing::warn!(%block, "block is past its retention, and is kept until it is downsampled");
                continue;
            }
            if let Err(error) = self.check_coarser(&meta).await {
                self.leave_for_next_pass("a block past its retention was not marked", error)?;
                continue;
            }
            let kept = meta.resolution().and_then(|resolution| self.compactor.config.kept(&meta, resolution));
            let details = format!("block exceeding retention of {:?}", kept.unwrap_or_default());
            if self.compactor.config.retention_dry_run || self.compactor.config.dry_run {
                tracing::info!(%block, details, resolution_ms = meta.resolution_ms(), "block would be marked for deletion");
                self.plan(Action::MarkForDeletion, block, details);
                continue;
            }
            match self.mark_for_deletion(block, details).await {
                Ok(()) => {
                    tracing::info!(%block, resolution_ms = meta.resolution_ms(), "block is past its retention and marked for deletion");
                    self.report.retired += 1;
                }
                Err(error) => self.leave_for_next_pass("a block past its retention was not marked", error)?,
            }
        }
        Ok(())
    }
}
