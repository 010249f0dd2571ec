//! Filters: which blocks of the list a reader leaves out, each with a named reason.
//!
//! They run in the order given; the store's is time, relabel rules, consistency delay, deletion marks, duplicates. A filter sees only what those
//! before it left. Source of the rules: Thanos `pkg/block/fetcher.go`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parallax_model::TimeRange;

use crate::fetcher::Problem;
use crate::{BlockId, BlockMeta, DeletionMark, KeptMeta};

mod duplicate;
mod selector;

pub use selector::Selector;

/// What a sync made of a block; the label value `state` of `thanos_blocks_meta_synced`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockState {
    Loaded,
    /// There is no `meta.json` (yet, or any more).
    NoMeta,
    CorruptedMeta,
    /// The bucket failed to say.
    Failed,
    TimeExcluded,
    LabelExcluded,
    TooFresh,
    MarkedForDeletion,
    Duplicate,
}

impl BlockState {
    pub const ALL: [Self; 9] = [
        Self::Loaded,
        Self::NoMeta,
        Self::CorruptedMeta,
        Self::Failed,
        Self::TimeExcluded,
        Self::LabelExcluded,
        Self::TooFresh,
        Self::MarkedForDeletion,
        Self::Duplicate,
    ];

    /// Thanos' name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::NoMeta => "no-meta-json",
            Self::CorruptedMeta => "corrupted-meta-json",
            Self::Failed => "failed",
            Self::TimeExcluded => "time-excluded",
            Self::LabelExcluded => "label-excluded",
            Self::TooFresh => "too-fresh",
            Self::MarkedForDeletion => "marked-for-deletion",
            Self::Duplicate => "duplicate",
        }
    }
}

/// One rule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Filter {
    /// Drops blocks with no sample in the range.
    Time(TimeRange),
    /// Drops blocks that relabel rules do not choose.
    Selector(Selector),
    /// Drops blocks uploaded less than this ago: a reader elsewhere may not see all their objects yet.
    Consistency { delay: Duration },
    /// Drops blocks whose deletion mark is older than this. Readers keep using a marked block for a while, so that
    /// what replaces it is everywhere before it goes.
    DeletionMark { delay: Duration },
    /// Drops blocks whose sources are all in another block of the same external labels and resolution.
    Duplicate,
}

/// The list that filters work on.
#[derive(Debug)]
pub(crate) struct View<M = BlockMeta> {
    pub now_ms: i64,
    pub blocks: BTreeMap<BlockId, Arc<M>>,
    pub deletions: BTreeMap<BlockId, Arc<DeletionMark>>,
    pub dropped: BTreeMap<BlockId, BlockState>,
    pub problems: Vec<Problem>,
}

/// Blocks that these made are complete from the start: their parts are read by whoever waits for them.
const SOURCES_WITHOUT_DELAY: [&str; 3] = ["compactor", "compactor.repair", "bucket.repair"];

impl Filter {
    pub(crate) fn apply<M: KeptMeta>(&self, view: &mut View<M>) {
        match self {
            Self::Time(range) => {
                // As Thanos: the block's exclusive end counts as touched.
                let overlaps =
                    |meta: &M| meta.max_time_ms() >= range.min_ms && meta.min_time_ms() <= range.max_ms;
                view.keep(BlockState::TimeExcluded, overlaps);
            }
            Self::Selector(selector) => view.keep(BlockState::LabelExcluded, |meta| selector.chooses(meta)),
            Self::Consistency { delay } => {
                let oldest_ms = view.now_ms.saturating_sub(millis(*delay));
                view.keep(BlockState::TooFresh, |meta| {
                    let made_ms = meta.upload_time_ms().unwrap_or_else(|| meta.id().time_ms());
                    delay.is_zero() || made_ms <= oldest_ms || SOURCES_WITHOUT_DELAY.contains(&meta.source())
                });
            }
            Self::DeletionMark { delay } => drop_marked(view, *delay),
            Self::Duplicate => {
                let covered = duplicate::covered(view.blocks.values().map(Arc::as_ref));
                view.keep(BlockState::Duplicate, |meta| !covered.contains(&meta.id()));
            }
        }
    }
}

impl<M: KeptMeta> View<M> {
    pub(crate) fn new(now_ms: i64) -> Self {
        Self {
            now_ms,
            blocks: BTreeMap::new(),
            deletions: BTreeMap::new(),
            dropped: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn keep(&mut self, otherwise: BlockState, keep: impl Fn(&M) -> bool) {
        let dropped = &mut self.dropped;
        self.blocks.retain(|id, meta| {
            let keeps = keep(meta);
            if !keeps {
                dropped.insert(*id, otherwise);
            }
            keeps
        });
    }
}

fn drop_marked<M: KeptMeta>(view: &mut View<M>, delay: Duration) {
    for (id, mark) in &view.deletions {
        let age_ms = view.now_ms.saturating_sub(mark.deletion_time_s.saturating_mul(1000));
        if age_ms > millis(delay) && view.blocks.remove(id).is_some() {
            view.dropped.insert(*id, BlockState::MarkedForDeletion);
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
