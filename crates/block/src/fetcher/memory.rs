//! What a fetcher remembers of a bucket: metas, deletion marks, directories that are no blocks, and when each was last seen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parallax_bucket::Revision;

use super::listing::{Listed, WrittenMs};
use crate::filter::BlockState;
use crate::{BlockError, BlockId, Catalog, CatalogEntry, DeletionMark, KeptMeta};

/// The end of the list is read from so long before the newest block: uploads come late.
const LATE_UPLOADS: Duration = Duration::from_secs(3 * 3600);

/// But not from before so many objects: two pages of a list.
const TAIL_OBJECTS: u64 = 2000;

/// A block's objects where no list has told: index, meta, and a segment or two.
const TYPICAL_OBJECTS: u32 = 4;

/// By how much the clocks of a catalog's writer and of its reader may differ.
const CLOCK_SKEW_MS: i64 = 10 * 60 * 1000;

/// One block that is whole.
#[derive(Clone, Debug)]
pub(super) struct Known<M> {
    pub meta: Arc<M>,
    /// When a list last had it, in milliseconds since the epoch.
    pub seen_ms: i64,
    pub objects: u32,
    pub mark: KnownMark,
}

#[derive(Clone, Debug, Default)]
pub(super) enum KnownMark {
    #[default]
    None,
    /// From a catalog there is no time of writing.
    Read { written: Option<WrittenMs>, mark: Arc<DeletionMark> },
    /// It is there, and cannot be understood.
    Unreadable { written: WrittenMs, reason: Box<str> },
}

/// A directory that is no whole block.
#[derive(Clone, Debug)]
pub(super) struct Trouble {
    pub state: BlockState,
    pub reason: String,
    /// Of the meta that was found wanting: one that was written since may be better.
    pub meta: Option<WrittenMs>,
    pub seen_ms: i64,
}

#[derive(Debug)]
pub(super) struct Memory<M> {
    pub known: BTreeMap<BlockId, Known<M>>,
    pub troubled: BTreeMap<BlockId, Trouble>,
    /// When the last list of the whole bucket began, ours or that of a catalog; `None` if there was none or it is not to be relied upon.
    pub listed_ms: Option<i64>,
    /// The catalog that was read last.
    pub catalog: Option<Revision>,
    /// Whether the local copy was looked for.
    pub is_restored: bool,
    /// Whether there is more to remember than the local copy has.
    pub is_changed: bool,
}

/// Nothing yet.
impl<M> Default for Memory<M> {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            troubled: BTreeMap::new(),
            listed_ms: None,
            catalog: None,
            is_restored: false,
            is_changed: false,
        }
    }
}

impl<M: KeptMeta> Memory<M> {
    /// Takes over what a catalog says. What a list has shown since it was written stays.
    pub fn adopt(&mut self, catalog: Catalog<M>, now_ms: i64) {
        let listed_ms = catalog.listed_ms.min(now_ms);
        if self.listed_ms.is_some_and(|own_ms| own_ms >= listed_ms) {
            return self.take_marks(catalog);
        }
        let (blocks, troubled) = (&catalog.blocks, &catalog.troubled);
        if catalog.complete {
            let is_newer = |seen_ms: i64| seen_ms.saturating_add(CLOCK_SKEW_MS) >= listed_ms;
            self.known.retain(|id, known| blocks.contains_key(id) || is_newer(known.seen_ms));
            self.troubled.retain(|id, trouble| troubled.contains_key(id) || is_newer(trouble.seen_ms));
            self.listed_ms = self.listed_ms.max(Some(listed_ms));
        }
        for (id, entry) in catalog.blocks {
            self.take_entry(id, entry, listed_ms);
        }
        for (id, (state, reason)) in catalog.troubled {
            if !self.known.contains_key(&id) {
                let trouble = Trouble { state, reason, meta: None, seen_ms: listed_ms };
                self.troubled.entry(id).or_insert(trouble);
            }
        }
        self.is_changed = true;
    }

    /// From a catalog that is older than our list: what is not known has been deleted since, but a mark stays a mark.
    fn take_marks(&mut self, catalog: Catalog<M>) {
        for (id, entry) in catalog.blocks {
            if let (Some(known), Some(mark)) = (self.known.get_mut(&id), entry.deletion)
                && known.seen_ms <= catalog.listed_ms
                && matches!(known.mark, KnownMark::None)
            {
                known.mark = KnownMark::Read { written: None, mark };
                self.is_changed = true;
            }
        }
    }

    fn take_entry(&mut self, id: BlockId, entry: CatalogEntry<M>, listed_ms: i64) {
        let CatalogEntry { meta, deletion } = entry;
        // What our own list found to be no whole block since is no whole block.
        if self.troubled.get(&id).is_some_and(|trouble| trouble.seen_ms > listed_ms) {
            return;
        }
        self.troubled.remove(&id);
        let fresh = || Known { meta, seen_ms: listed_ms, objects: TYPICAL_OBJECTS, mark: KnownMark::None };
        let known = self.known.entry(id).or_insert_with(fresh);
        match deletion {
            Some(mark) => {
                if matches!(known.mark, KnownMark::None) {
                    known.mark = KnownMark::Read { written: None, mark };
                }
            }
            None if known.seen_ms <= listed_ms => known.mark = KnownMark::None,
            None => {}
        }
    }

    pub fn to_catalog(&self) -> Option<Catalog<M>> {
        let blocks = self.known.iter().map(|(id, known)| {
            let deletion = match &known.mark {
                KnownMark::Read { mark, .. } => Some(Arc::clone(mark)),
                KnownMark::None | KnownMark::Unreadable { .. } => None,
            };
            (*id, CatalogEntry { meta: Arc::clone(&known.meta), deletion })
        });
        let troubled =
            self.troubled.iter().map(|(id, trouble)| (*id, (trouble.state, trouble.reason.clone())));
        let listed_ms = self.listed_ms?;
        Some(Catalog { listed_ms, blocks: blocks.collect(), troubled: troubled.collect(), complete: true })
    }

    /// From which block on the end of the list has to be read to see what is new.
    ///
    /// Names that lie in the future (somebody's clock is wrong) do not move the place: others would be passed over.
    pub fn tail_start(&self, now_ms: i64) -> Option<BlockId> {
        let newest_ms = self.known.keys().map(|id| id.time_ms()).rfind(|time| *time <= now_ms)?;
        let late_ms = i64::try_from(LATE_UPLOADS.as_millis()).unwrap_or(i64::MAX);
        let by_time = BlockId::first_of(newest_ms.saturating_sub(late_ms));
        let mut objects = 0;
        let mut start = None;
        for (id, known) in self.known.iter().rev().take_while(|(id, _)| **id >= by_time) {
            objects += u64::from(known.objects);
            if objects > TAIL_OBJECTS {
                return start.or(Some(id.successor()));
            }
            start = Some(*id);
        }
        Some(by_time)
    }

    /// Forgets what lies in the listed part of the bucket and was not in the list.
    pub fn forget_unlisted(
        &mut self,
        from: Option<BlockId>,
        listed: &BTreeMap<BlockId, Listed>,
    ) -> Vec<BlockId> {
        let is_gone = |id: &BlockId| from.is_none_or(|from| *id >= from) && !listed.contains_key(id);
        let gone: Vec<BlockId> = self.known.keys().copied().filter(is_gone).collect();
        for id in &gone {
            self.known.remove(id);
        }
        self.troubled.retain(|id, _| !is_gone(id));
        self.is_changed |= !gone.is_empty();
        gone
    }
}

impl Trouble {
    /// The error that was seen, in other words at most.
    pub fn error(&self, block: BlockId) -> BlockError {
        match self.state {
            BlockState::NoMeta => {
                let source = parallax_bucket::BucketError::NotFound { object: block.meta_object() };
                BlockError::Bucket { block, source }
            }
            _ => BlockError::Meta { block: block.to_string(), reason: self.reason.clone() },
        }
    }
}
