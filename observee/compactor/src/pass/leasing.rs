//! The leases that a pass holds: of the groups it is at, and no more of them than it works on at once.

use parallax_block::BlockMeta;

use super::Pass;
use crate::CompactError;
use crate::group::{group_key, without_replicas};
use crate::lease::{Attempt, Lease};

/// Whether a pass may work on a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody else is at it, and the view was read since that is so.
    Ours,
    /// Nobody else is at it, but the view is older than that.
    New,
    /// The pass holds as many leases as it works on groups.
    Later,
    /// Somebody else is at it, or the bucket did not say.
    Busy,
}

impl Pass<'_> {
    /// Asks for a group, or again for one that the pass holds; `most` is how many it works on at once. Without leases every group is ours.
    pub(super) async fn turn(&mut self, key: &str, most: usize) -> Result<Turn, CompactError> {
        let Some(leases) = &self.compactor.leases else { return Ok(Turn::Ours) };
        if let Some(lease) = self.leases.get(key) {
            // Nobody has renewed it since the last job of its group, which may have waited for a slower one of another.
            match leases.renew(lease, self.clock_ms()).await {
                Ok(true) => return Ok(Turn::Ours),
                Ok(false) => {
                    tracing::debug!(group = key, "another worker has taken over this group");
                    self.leases.remove(key);
                }
                // It may end, and that only means that somebody else may do the same.
                Err(error) => {
                    tracing::warn!(group = key, %error, "a lease was not renewed");
                    return Ok(Turn::Ours);
                }
            }
        }
        if self.leases.len() >= most.max(1) {
            return Ok(Turn::Later);
        }
        match leases.acquire(key, self.clock_ms()).await {
            Ok(Attempt::Taken(lease)) => {
                self.leases.insert(key.to_owned(), lease);
                Ok(Turn::New)
            }
            Ok(Attempt::Busy { worker }) => {
                tracing::debug!(group = key, worker, "another worker is at this group");
                self.report.busy += 1;
                Ok(Turn::Busy)
            }
            Err(error) => {
                let error = CompactError::Block(parallax_block::BlockError::List(error));
                self.leave_for_next_pass("it is not known who is at a group", error)?;
                Ok(Turn::Busy)
            }
        }
    }

    pub(super) fn lease(&self, key: &str) -> Option<Lease> {
        self.leases.get(key).cloned()
    }

    /// Gives a group back.
    pub(super) async fn give_back(&mut self, key: &str) {
        if let (Some(leases), Some(lease)) = (&self.compactor.leases, self.leases.remove(key)) {
            leases.release(&lease).await;
        }
    }

    /// Gives all groups back.
    pub(super) async fn give_all_back(&mut self) {
        while let Some(key) = self.leases.keys().next().cloned() {
            self.give_back(&key).await;
        }
    }

    /// The key of a block's group.
    pub(super) fn key_of(&self, meta: &BlockMeta) -> String {
        let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default();
        group_key(meta.resolution_ms(), &without_replicas(&labels, &self.compactor.config.replica_labels))
    }
}
