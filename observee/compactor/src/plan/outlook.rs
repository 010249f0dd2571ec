//! [`Outlook`]: all that is left to do in a group if every step succeeds, found by planning on with blocks that do not exist yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use parallax_block::meta::INDEX_FILE_NAME;
use parallax_block::{BlockId, BlockMeta, MetaFile};
use serde::Serialize;

use super::{PlanConfig, plan};
use crate::compaction::{merged_meta, new_id};
use crate::group::Group;

/// More steps than this are not looked ahead.
const MAX_STEPS: usize = 10_000;

/// What is left to do, in one group or in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outlook {
    pub compactions: usize,
    /// Blocks that are merged; one that is merged with others and then again counts twice.
    pub blocks: usize,
    /// What `meta.json` says of their files.
    pub size_bytes: u64,
}

impl Outlook {
    pub(crate) fn add(&mut self, other: Self) {
        self.compactions += other.compactions;
        self.blocks += other.blocks;
        self.size_bytes = self.size_bytes.saturating_add(other.size_bytes);
    }
}

/// Looks ahead. A group that cannot be planned has nothing to do.
pub fn outlook(group: &Group, no_compact: &BTreeSet<BlockId>, config: &PlanConfig) -> Outlook {
    let mut group = group.clone();
    let mut no_compact = no_compact.clone();
    let mut outlook = Outlook::default();
    for _ in 0..MAX_STEPS {
        let Ok(planned) = plan(&group, &no_compact, config) else { break };
        if planned.blocks.is_empty() {
            break;
        }
        no_compact.extend(planned.marks.iter().map(|(block, _)| *block));
        let size_bytes = planned.blocks.iter().map(|meta| size_of(meta)).sum();
        outlook.add(Outlook { compactions: 1, blocks: planned.blocks.len(), size_bytes });
        let merged = imagined(&group, &planned.blocks, size_bytes);
        let taken: BTreeSet<BlockId> = planned.blocks.iter().map(|meta| meta.ulid).collect();
        group.blocks.retain(|meta| !taken.contains(&meta.ulid));
        group.blocks.push(Arc::new(merged));
        group.blocks.sort_by_key(|meta| (meta.min_time_ms, meta.ulid));
    }
    outlook
}

/// What a compaction would make: as large as what it is made of, at most.
fn imagined(group: &Group, blocks: &[Arc<BlockMeta>], size_bytes: u64) -> BlockMeta {
    let mut meta = merged_meta(new_id(0), group, blocks);
    let index_bytes = blocks.iter().filter_map(|meta| meta.file_size_bytes(INDEX_FILE_NAME)).sum();
    meta.stats.num_series = blocks.iter().map(|meta| meta.stats.num_series).max().unwrap_or(0);
    meta.stats.num_samples = blocks.iter().map(|meta| meta.stats.num_samples).sum();
    if let Some(thanos) = &mut meta.thanos {
        let file = |rel_path: &str, size_bytes: u64| MetaFile {
            rel_path: rel_path.to_owned(),
            size_bytes: Some(size_bytes),
            ..MetaFile::default()
        };
        thanos.files.push(file(INDEX_FILE_NAME, index_bytes));
        thanos.files.push(file("chunks/000001", size_bytes.saturating_sub(index_bytes)));
    }
    meta
}

/// The size of a block's files, as far as `meta.json` lists them.
pub(crate) fn size_of(meta: &BlockMeta) -> u64 {
    let files = meta.thanos.as_ref().map_or(&[][..], |thanos| &thanos.files);
    files.iter().filter_map(|file| file.size_bytes).sum()
}
