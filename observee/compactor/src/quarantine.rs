//! [`Quarantine`]: groups that cannot be compacted as they are, each with the reason, while all others go on.
//!
//! A group is tried again when its blocks or their marks change, when somebody asks for it, or when the process starts anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use parallax_block::BlockId;
use serde::Serialize;

use crate::group::Group;

/// A group that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    pub key: String,
    /// External labels and resolution, for people.
    pub labels: BTreeMap<String, String>,
    pub resolution_ms: i64,
    pub reason: String,
    pub since_ms: i64,
    #[serde(skip)]
    content: BTreeSet<(BlockId, bool)>,
}

/// A block that cannot be downsampled. A block never changes, so it stays one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockSetAside {
    pub block: BlockId,
    pub reason: String,
    pub since_ms: i64,
}

/// The groups that are set aside, by key, and the blocks.
#[derive(Debug, Default)]
pub struct Quarantine {
    groups: Mutex<BTreeMap<String, SetAside>>,
    blocks: Mutex<BTreeMap<BlockId, BlockSetAside>>,
    /// Blocks that were read and gave nothing to downsample.
    barren: Mutex<BTreeMap<BlockId, BlockSetAside>>,
}

impl Quarantine {
    /// Sets a group aside.
    pub fn set_aside(&self, group: &Group, no_compact: &BTreeSet<BlockId>, reason: String, now_ms: i64) {
        let entry = SetAside {
            key: group.key.clone(),
            labels: group.labels.clone(),
            resolution_ms: group.resolution_ms,
            reason,
            since_ms: now_ms,
            content: content(group, no_compact),
        };
        self.lock().insert(group.key.clone(), entry);
    }

    /// Whether a group is set aside. One whose blocks have changed no longer is.
    pub fn holds(&self, group: &Group, no_compact: &BTreeSet<BlockId>) -> bool {
        let mut groups = self.lock();
        let Some(entry) = groups.get(&group.key) else { return false };
        if entry.content == content(group, no_compact) {
            return true;
        }
        groups.remove(&group.key);
        false
    }

    /// Lets a group (or all groups and blocks) be tried again; gives how many were set aside.
    pub fn release(&self, key: Option<&str>) -> usize {
        let mut groups = self.lock();
        if let Some(key) = key {
            return usize::from(groups.remove(key).is_some());
        }
        let mut blocks = self.lock_blocks();
        let released = groups.len() + blocks.len();
        groups.clear();
        blocks.clear();
        released
    }

    /// Sets a block aside that cannot be downsampled.
    pub fn set_block_aside(&self, block: BlockId, reason: String, now_ms: i64) {
        self.lock_blocks().insert(block, BlockSetAside { block, reason, since_ms: now_ms });
    }

    pub fn holds_block(&self, block: BlockId) -> bool {
        self.lock_blocks().contains_key(&block)
    }

    /// All blocks that are set aside.
    pub fn list_blocks(&self) -> Vec<BlockSetAside> {
        self.lock_blocks().values().cloned().collect()
    }

    /// Remembers that a block was read and gave nothing to downsample, and why.
    pub fn note_barren(&self, block: BlockId, reason: &str, now_ms: i64) {
        let entry = BlockSetAside { block, reason: reason.to_owned(), since_ms: now_ms };
        self.lock_barren().insert(block, entry);
    }

    pub fn is_barren(&self, block: BlockId) -> bool {
        self.lock_barren().contains_key(&block)
    }

    /// All blocks that gave nothing to downsample.
    pub fn list_barren(&self) -> Vec<BlockSetAside> {
        self.lock_barren().values().cloned().collect()
    }

    /// Forgets groups and blocks that no longer exist.
    pub fn keep_only(&self, keys: &BTreeSet<String>, exists: impl Fn(BlockId) -> bool) {
        self.lock().retain(|key, _| keys.contains(key));
        self.lock_blocks().retain(|block, _| exists(*block));
        self.lock_barren().retain(|block, _| exists(*block));
    }

    /// All of them.
    pub fn list(&self) -> Vec<SetAside> {
        self.lock().values().cloned().collect()
    }

    fn lock_barren(&self) -> std::sync::MutexGuard<'_, BTreeMap<BlockId, BlockSetAside>> {
        self.barren.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_blocks(&self) -> std::sync::MutexGuard<'_, BTreeMap<BlockId, BlockSetAside>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, SetAside>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn content(group: &Group, no_compact: &BTreeSet<BlockId>) -> BTreeSet<(BlockId, bool)> {
    group.blocks.iter().map(|meta| (meta.ulid, no_compact.contains(&meta.ulid))).collect()
}
