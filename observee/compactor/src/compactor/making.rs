//! Making one block: under the group's lease, if there are leases, and with a look around before the block becomes visible.
//!
//! Whoever pauses between reading the bucket and writing a block may find another world: its lease taken over, its sources replaced by somebody else's block. Then the block
//! is not published, and its data are deleted. What still slips through (a pause just before the last write) is a second block of the same sources, of which the garbage collection
//! leaves one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parallax_block::mark::read_mark;
use parallax_block::{BlockId, BlockMeta, DeletionMark};
use parallax_bucket::Bucket;
use tokio_util::sync::CancellationToken;

use super::Compactor;
use crate::CompactError;
use crate::compaction::{Job, Outcome, Prepared};
use crate::garbage::check_whole;
use crate::lease::{Lease, Leases};
use crate::view::millis;

/// What a block is made of, and on what it rests.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    pub(crate) sources: &'a [Arc<BlockMeta>],
    /// Those of the sources that were already marked for deletion when it was planned.
    pub(crate) marked: BTreeSet<BlockId>,
    pub(crate) lease: Option<Lease>,
    /// When the job began, in milliseconds since the epoch.
    pub(crate) now_ms: i64,
}

impl Compactor {
    /// Prepares a block, looks around, and publishes it.
    pub(crate) async fn make<F>(
        &self,
        making: &Making<'_>,
        prepare: impl FnOnce(Job) -> F,
    ) -> Result<Outcome, CompactError>
    where
        F: Future<Output = Result<Prepared, CompactError>>,
    {
        let cancelled = self.shutdown.child_token();
        let job = self.job.cancelled_by(cancelled.clone());
        let prepared = match (&self.leases, &making.lease) {
            (Some(leases), Some(lease)) => {
                self.renewing(leases, lease, making, &cancelled, prepare(job.clone())).await?
            }
            _ => prepare(job.clone()).await?,
        };
        let ready = match prepared {
            Prepared::Nothing(read) => return Ok(Outcome::Nothing(read)),
            Prepared::Ready(ready) => ready,
        };
        if let Err(error) = self.look_around(making).await {
            job.discard(*ready).await;
            return Err(error);
        }
        job.publish(*ready).await
    }

    /// Runs a job and renews its lease meanwhile; gives the job up if somebody else has taken the lease.
    async fn renewing<T>(
        &self,
        leases: &Leases,
        lease: &Lease,
        making: &Making<'_>,
        cancelled: &CancellationToken,
        job: impl Future<Output = Result<T, CompactError>>,
    ) -> Result<T, CompactError> {
        let began = self.config.clock.now();
        let mut job = std::pin::pin!(job);
        loop {
            tokio::select! {
                outcome = &mut job => return outcome,
                () = tokio::time::sleep(leases.renew_every()) => {}
            }
            let now_ms = making.now_ms.saturating_add(millis(self.config.clock.since(began)));
            match leases.renew(lease, now_ms).await {
                Ok(true) => {}
                Ok(false) => {
                    cancelled.cancel();
                    // The job's threads see it at the next batch.
                    let _ = tokio::time::timeout(GIVE_UP_WITHIN, &mut job).await;
                    return Err(overtaken(making, "another worker has taken over its group".to_owned()));
                }
                // It may end, and that only means that somebody else may do the same.
                Err(error) => tracing::warn!(%error, "a lease was not renewed"),
            }
        }
    }

    /// Whether everything is still as it was when the block was planned.
    async fn look_around(&self, making: &Making<'_>) -> Result<(), CompactError> {
        let bucket = &self.config.bucket;
        for source in making.sources {
            let block = source.ulid;
            let in_bucket = |source| CompactError::Bucket { block, source };
            if !bucket.exists(&block.meta_object()).await.map_err(in_bucket)? {
                return Err(overtaken(making, format!("block {block} was deleted meanwhile")));
            }
            if !making.marked.contains(&block) && is_marked(bucket, block).await? {
                return Err(overtaken(making, format!("block {block} was marked for deletion meanwhile")));
            }
        }
        if let (Some(leases), Some(lease)) = (&self.leases, &making.lease)
            && let Some(first) = making.sources.first()
        {
            let block = first.ulid;
            let holds = leases.holds(lease).await;
            if !holds.map_err(|source| CompactError::Bucket { block, source })? {
                return Err(overtaken(making, "another worker has taken over its group".to_owned()));
            }
        }
        Ok(())
    }
}

/// How long a job that is given up may take to end.
const GIVE_UP_WITHIN: Duration = Duration::from_secs(30);

fn overtaken(making: &Making<'_>, reason: String) -> CompactError {
    let blocks: Vec<String> = making.sources.iter().map(|meta| meta.ulid.to_string()).collect();
    CompactError::Overtaken { blocks: blocks.join(", "), reason }
}

/// Whether a block has a deletion mark now, whatever was read before. A mark that cannot be understood counts.
async fn is_marked(bucket: &Bucket, block: BlockId) -> Result<bool, CompactError> {
    match read_mark::<DeletionMark>(bucket, block).await {
        Ok(mark) => Ok(mark.is_some()),
        Err(parallax_block::BlockError::Mark { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Whether something may rest on a block: it is whole, and is not on its way out.
pub(crate) async fn check_stays(bucket: &Bucket, meta: &BlockMeta) -> Result<(), CompactError> {
    check_whole(bucket, meta).await?;
    let block = meta.ulid;
    if is_marked(bucket, block).await? {
        let reason = "it was marked for deletion meanwhile".to_owned();
        return Err(CompactError::Overtaken { blocks: block.to_string(), reason });
    }
    Ok(())
}
