//! Downsampling what is long enough, and what is short but about to be retired.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use parallax_block::{BlockId, BlockMeta};
use parallax_model::Resolution;

use super::leasing::Turn;
use super::{Action, Pass};
use crate::compaction::{Job, Outcome};
use crate::compactor::making::{Making, check_stays};
use crate::downsample::next_resolution;
use crate::merge::ReadTotals;
use crate::metrics::GroupEvent;
use crate::view::View;
use crate::{CompactError, Remedy};

/// More often than this the groups of a resolution are not gone through in one pass.
const MAX_ROUNDS: usize = 10_000;

/// The reason in a no-downsample mark of ours; Thanos knows only `manual`, and takes any.
const NOTHING_TO_DOWNSAMPLE: &str = "nothing-to-downsample";

/// The sources that are there at a resolution, by the resolution's window.
type Sources = BTreeMap<i64, BTreeSet<BlockId>>;

impl Pass<'_> {
    /// Raw blocks to five minutes, then five-minute blocks to an hour, those just made among them.
    pub(super) async fn downsample_blocks(&mut self) -> Result<(), CompactError> {
        if !self.compactor.config.downsampling {
            return Ok(());
        }
        for from in [Resolution::Raw, Resolution::FiveMinutes] {
            let Some((to, _)) = next_resolution(from) else { continue };
            if self.compactor.config.dry_run {
                for meta in self.due(from) {
                    self.plan(Action::Downsample, meta.ulid, format!("to a resolution of {to}"));
                }
                continue;
            }
            let mut tried: BTreeSet<String> = BTreeSet::new();
            for _ in 0..MAX_ROUNDS {
                let due = self.due_in_turn(from, &tried).await?;
                if due.is_empty() {
                    break;
                }
                tried.extend(due.iter().map(|meta| self.key_of(meta)));
                self.downsample_all(due, from, to).await?;
                self.give_all_back().await;
            }
        }
        Ok(())
    }

    /// The blocks that are to be downsampled now, of groups that were not tried yet: with leases, of as many as are worked on at once.
    async fn due_in_turn(
        &mut self,
        from: Resolution,
        tried: &BTreeSet<String>,
    ) -> Result<Vec<Arc<BlockMeta>>, CompactError> {
        let mut busy = tried.clone();
        for _ in 0..MAX_ROUNDS {
            let mut due = self.due(from);
            due.retain(|meta| !busy.contains(&self.key_of(meta)));
            let keys: BTreeSet<String> = due.iter().map(|meta| self.key_of(meta)).collect();
            let (mut ours, mut is_new) = (BTreeSet::new(), false);
            for key in keys {
                match self.turn(&key, self.compactor.config.downsample_concurrency).await? {
                    Turn::Later => continue,
                    Turn::Busy => {
                        busy.insert(key);
                        continue;
                    }
                    Turn::New => is_new = true,
                    Turn::Ours => {}
                }
                ours.insert(key);
            }
            if !is_new {
                due.retain(|meta| ours.contains(&self.key_of(meta)));
                return Ok(due);
            }
            // Whoever was at a group before may have done it.
            self.refresh().await?;
        }
        Ok(Vec::new())
    }

    async fn downsample_all(
        &mut self,
        due: Vec<Arc<BlockMeta>>,
        from: Resolution,
        to: Resolution,
    ) -> Result<(), CompactError> {
        let (compactor, clock) = (self.compactor, self.clock());
        let due: Vec<_> = due
            .into_iter()
            .map(|meta| {
                let marked = self.marked(std::slice::from_ref(&meta));
                let lease = self.lease(&self.key_of(&meta));
                (meta, marked, lease)
            })
            .collect();
        let mut running = futures::stream::iter(due)
            .map(|(meta, marked, lease)| async move {
                let now_ms = clock();
                let making = Making { sources: std::slice::from_ref(&meta), marked, lease, now_ms };
                let source = &meta;
                let prepare = |job: Job| async move { job.prepare_downsampling(source, to, now_ms).await };
                let began = compactor.config.clock.now();
                let outcome = compactor.make(&making, prepare).await;
                (meta, outcome, began)
            })
            .buffer_unordered(compactor.config.downsample_concurrency.max(1));
        while let Some((meta, outcome, began)) = running.next().await {
            match outcome {
                Ok(Outcome::Made(new)) => {
                    tracing::info!(block = %new.meta.ulid, source = %meta.ulid, resolution = %to, "downsampled block");
                    self.metrics().count(GroupEvent::Downsampled, from.millis());
                    self.report.downsamples += 1;
                    self.note_done(std::slice::from_ref(&meta), began, false);
                    self.view.blocks.insert(new.meta.ulid, Arc::new(new.meta));
                }
                Ok(Outcome::Nothing(read)) => self.note_barren(meta.ulid, read).await?,
                Err(error) => {
                    self.metrics().count(GroupEvent::DownsampleFailed, from.millis());
                    if let Err(error) = self.set_block_back(meta.ulid, error) {
                        let what = format!("block {} was not downsampled", meta.ulid);
                        self.leave_for_next_pass(&what, error)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A block that nothing came of is not read again: it is remembered, and marked for whoever comes later.
    async fn note_barren(&mut self, block: BlockId, read: ReadTotals) -> Result<(), CompactError> {
        let details = if read.chunks_kept == 0 && read.series_deleted > 0 {
            "tombstones delete all of its samples"
        } else {
            "none of its samples is a number: no window has a value"
        };
        self.compactor.quarantine.note_barren(block, details, self.clock_ms());
        if let Err(error) = self.mark_no_downsample(block, NOTHING_TO_DOWNSAMPLE, details).await {
            self.leave_for_next_pass("a block with nothing to downsample was not marked", error)?;
        }
        Ok(())
    }

    /// Sets a block aside, or leaves it for the next pass.
    fn set_block_back(&self, block: BlockId, error: CompactError) -> Result<(), CompactError> {
        if error.remedy() != Remedy::Quarantine {
            return Err(error);
        }
        let reason = error.to_string();
        tracing::error!(%block, reason, "block cannot be downsampled and is set aside");
        self.compactor.quarantine.set_block_aside(block, reason, self.view.now_ms);
        Ok(())
    }

    /// The blocks of a resolution that are to be downsampled, oldest first.
    pub(super) fn due(&self, from: Resolution) -> Vec<Arc<BlockMeta>> {
        let Some((to, least_ms)) = next_resolution(from) else { return Vec::new() };
        let done = sources(&self.view);
        let is_due = |meta: &&Arc<BlockMeta>| {
            let length_ms = meta.max_time_ms.saturating_sub(meta.min_time_ms);
            let is_long = length_ms >= least_ms;
            meta.resolution_ms() == from.millis()
                && !self.view.is_no_downsample(meta.ulid)
                && !self.compactor.quarantine.holds_block(meta.ulid)
                && !self.compactor.quarantine.is_barren(meta.ulid)
                && !is_covered(meta, to, &done)
                && !self.is_useless(meta, to, &done)
                && (self.retires(meta) || is_long && !self.awaits_merge(meta))
        };
        let mut due: Vec<_> = self.view.blocks.values().filter(is_due).cloned().collect();
        due.sort_by_key(|meta| (meta.min_time_ms, meta.ulid));
        due
    }

    /// Whether a block must not be retired yet, because what it is to be downsampled to is not there.
    pub(super) fn awaits_downsampling(&self, meta: &BlockMeta) -> bool {
        let next = meta.resolution().and_then(next_resolution);
        let Some((to, _)) = next.filter(|_| self.compactor.config.downsampling) else { return false };
        let done = sources(&self.view);
        !self.view.is_no_downsample(meta.ulid)
            && !self.compactor.quarantine.is_barren(meta.ulid)
            && !self.is_useless(meta, to, &done)
            && meta.stats.num_samples > 0
            && !is_covered(meta, to, &done)
    }

    /// Compares the blocks that `meta` was downsampled to with what their `meta.json` lists: they are what is left once it goes.
    pub(super) async fn check_coarser(&self, meta: &BlockMeta) -> Result<(), CompactError> {
        let next = meta.resolution().and_then(next_resolution);
        let Some((to, _)) = next.filter(|_| self.compactor.config.downsampling) else { return Ok(()) };
        let coarser = self.view.blocks.values().filter(|other| {
            other.resolution_ms() == to.millis()
                && !self.view.is_marked_for_deletion(other.ulid)
                && meta.compaction.sources.iter().any(|source| other.compaction.sources.contains(source))
        });
        for other in coarser {
            check_stays(&self.compactor.config.bucket, other).await?;
        }
        Ok(())
    }

    /// Whether the coarser block would be retired as soon as it is made, and everything made from it, too, or is there already.
    fn is_useless(&self, meta: &BlockMeta, to: Resolution, done: &Sources) -> bool {
        let is_past = |resolution| self.compactor.is_past(meta, resolution, self.view.now_ms);
        let is_needless = |coarser| is_past(coarser) || is_covered(meta, coarser, done);
        is_past(to) && next_resolution(to).is_none_or(|(coarser, _)| is_needless(coarser))
    }

    /// Whether a merge with blocks of the same time was tried in this pass and failed. Downsampled apart, they would never become one.
    fn awaits_merge(&self, meta: &BlockMeta) -> bool {
        self.unsettled.iter().any(|group| {
            group.iter().any(|other| other.ulid == meta.ulid)
                && group.iter().any(|other| {
                    other.ulid != meta.ulid
                        && self.view.blocks.contains_key(&other.ulid)
                        && other.min_time_ms < meta.max_time_ms
                        && meta.min_time_ms < other.max_time_ms
                })
        })
    }
}

fn sources(view: &View) -> Sources {
    let mut sources = Sources::new();
    // What is marked for deletion is as good as gone.
    for meta in view.blocks.values().filter(|meta| !view.is_marked_for_deletion(meta.ulid)) {
        sources.entry(meta.resolution_ms()).or_default().extend(&meta.compaction.sources);
    }
    sources
}

fn is_covered(meta: &BlockMeta, to: Resolution, done: &Sources) -> bool {
    let done = done.get(&to.millis());
    meta.compaction.sources.iter().all(|source| done.is_some_and(|done| done.contains(source)))
}
