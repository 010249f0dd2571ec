//! Which blocks of a group become one next.
//!
//! The rules are those of Prometheus' leveled compaction as Thanos applies them to a bucket, so that both can work on one bucket at different times:
//!
//! 1. Blocks that overlap come first, if vertical compaction is on (off, they are an error).
//! 2. The newest block is left alone, so that one that was just uploaded stays for its own length.
//! 3. For each range from the second smallest on: the blocks within one aligned range, if there are two or more and the range is full or past.
//!    A block with a no-compact mark splits them, and neither part reaches over it.
//! 4. A large block of which more than a twentieth of the series have tombstones is rewritten alone.
//!
//! Whatever is planned, indexes that together come near the limit of an index make the block with the largest one a no-compact block, and planning
//! starts over. Source: Thanos `pkg/compact/planner.go`.

mod outlook;

use std::collections::BTreeSet;
use std::sync::Arc;

use parallax_block::meta::INDEX_FILE_NAME;
use parallax_block::{BlockId, BlockMeta};

use crate::CompactError;
use crate::group::{Group, shared_source};

pub(crate) use outlook::size_of;
pub use outlook::{Outlook, outlook};

const HOUR_MS: i64 = 3_600_000;

/// Thanos' ranges.
pub const RANGES_MS: [i64; 5] = [HOUR_MS, 2 * HOUR_MS, 8 * HOUR_MS, 48 * HOUR_MS, 14 * 24 * HOUR_MS];

/// Of the size limit of an index, how many hundredths the indexes that become one may have together.
const INDEX_HEADROOM_PERCENT: u64 = 85;

/// How blocks are planned.
#[derive(Clone, Debug)]
pub struct PlanConfig {
    /// Increasing.
    pub ranges_ms: Vec<i64>,
    /// Whether blocks may overlap in time, and are then merged.
    pub vertical: bool,
    /// The index of a new block shall not exceed this.
    pub max_index_size_bytes: u64,
}

impl Default for PlanConfig {
    fn default() -> Self {
        Self { ranges_ms: RANGES_MS.to_vec(), vertical: false, max_index_size_bytes: 64 << 30 }
    }
}

/// What is to be done to a group next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By minTime. Empty: nothing.
    pub blocks: Vec<Arc<BlockMeta>>,
    /// Blocks that must get a no-compact mark before anything else is done, each with the reason that Thanos gives.
    pub marks: Vec<(BlockId, NoCompactReason)>,
}

/// Why a block is taken out of compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCompactReason {
    IndexSizeExceeding,
    OutOfOrderChunks,
    DownsampleVertical,
}

impl NoCompactReason {
    /// As it stands in the mark.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IndexSizeExceeding => "index-size-exceeding",
            Self::OutOfOrderChunks => "block-index-out-of-order-chunk",
            Self::DownsampleVertical => "downsample-vertical-compaction",
        }
    }
}

/// Plans the next step of a group. `no_compact` are the blocks with a no-compact mark.
///
/// # Errors
/// Blocks that overlap or share sources while vertical compaction is off.
pub fn plan(
    group: &Group,
    no_compact: &BTreeSet<BlockId>,
    config: &PlanConfig,
) -> Result<Plan, CompactError> {
    if !config.vertical
        && let Some((first, second)) = group.overlap()
    {
        return Err(CompactError::Overlap { first, second });
    }
    let mut excluded = no_compact.clone();
    let mut marks = Vec::new();
    loop {
        let blocks = plan_once(&group.blocks, &excluded, &config.ranges_ms);
        let mut found = too_large(&blocks, config.max_index_size_bytes);
        if found.is_empty() && overlapping(&blocks).is_some() {
            // Downsampled blocks cannot be merged where they overlap.
            let downsampled = blocks.iter().filter(|meta| meta.resolution_ms() != 0);
            found = downsampled.map(|meta| (meta.ulid, NoCompactReason::DownsampleVertical)).collect();
        }
        if found.is_empty() {
            if !config.vertical
                && let Some((first, second, shared)) = shared_source(&blocks)
            {
                return Err(CompactError::SharedSource { first, second, shared });
            }
            return Ok(Plan { blocks, marks });
        }
        excluded.extend(found.iter().map(|(block, _)| *block));
        marks.extend(found);
    }
}

fn plan_once(all: &[Arc<BlockMeta>], excluded: &BTreeSet<BlockId>, ranges_ms: &[i64]) -> Vec<Arc<BlockMeta>> {
    let is_excluded = |meta: &Arc<BlockMeta>| excluded.contains(&meta.ulid);
    let free: Vec<Arc<BlockMeta>> = all.iter().filter(|meta| !is_excluded(meta)).cloned().collect();
    if let Some(overlapping) = overlapping(&free) {
        return overlapping.to_vec();
    }
    let Some((newest, settled)) = all.split_last() else { return Vec::new() };
    let planned = full_range(settled, excluded, ranges_ms);
    if !planned.is_empty() {
        return planned;
    }
    let free = match free.split_last() {
        Some((_, older)) if !is_excluded(newest) => older,
        _ => &free,
    };
    let large_ms = ranges_ms.get(ranges_ms.len() / 2).copied().unwrap_or(i64::MAX);
    let large = free.iter().rev().take_while(|meta| length_ms(meta) >= large_ms);
    large
        .into_iter()
        // More than a twentieth, of at least one.
        .find(|meta| meta.stats.num_tombstones.saturating_mul(20) > meta.stats.num_series.saturating_add(1))
        .cloned()
        .into_iter()
        .collect()
}

/// The first blocks, by time, that overlap one with the next.
fn overlapping(blocks: &[Arc<BlockMeta>]) -> Option<&[Arc<BlockMeta>]> {
    let mut end_ms = blocks.first()?.max_time_ms;
    let mut begin = None;
    for (at, meta) in blocks.iter().enumerate().skip(1) {
        match begin {
            None if meta.min_time_ms < end_ms => begin = Some(at - 1),
            Some(begin) if meta.min_time_ms >= end_ms => return blocks.get(begin..at),
            _ => {}
        }
        end_ms = end_ms.max(meta.max_time_ms);
    }
    blocks.get(begin?..)
}

/// Two or more blocks within one aligned range that is full or past.
fn full_range(
    settled: &[Arc<BlockMeta>],
    excluded: &BTreeSet<BlockId>,
    ranges_ms: &[i64],
) -> Vec<Arc<BlockMeta>> {
    let Some(newest) = settled.last() else { return Vec::new() };
    for range_ms in ranges_ms.iter().skip(1) {
        for part in split_by_range(settled, *range_ms) {
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            if part.len() < 2 || part.iter().any(|meta| meta.compaction.failed) {
                continue;
            }
            let is_full = last.max_time_ms.saturating_sub(first.min_time_ms) == *range_ms;
            if !is_full && last.max_time_ms > newest.min_time_ms {
                continue;
            }
            let mut runs = part.split(|meta| excluded.contains(&meta.ulid));
            if let Some(run) = runs.find(|run| run.len() > 1) {
                return run.to_vec();
            }
        }
    }
    Vec::new()
}

/// Runs of blocks that lie within the same range of this length, aligned to zero. Blocks that cross a border are in none.
fn split_by_range(blocks: &[Arc<BlockMeta>], range_ms: i64) -> Vec<&[Arc<BlockMeta>]> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(meta) = blocks.get(at) {
        let end_ms = meta.min_time_ms.div_euclid(range_ms).saturating_add(1).saturating_mul(range_ms);
        let fitting = blocks.iter().skip(at).take_while(|meta| meta.max_time_ms <= end_ms).count();
        parts.extend(blocks.get(at..at + fitting).filter(|part| !part.is_empty()));
        at += fitting.max(1);
    }
    parts
}

/// The block with the largest index, if the indexes together come too near the limit.
fn too_large(blocks: &[Arc<BlockMeta>], max_index_size_bytes: u64) -> Vec<(BlockId, NoCompactReason)> {
    // In floating point, as Thanos: the limit is rounded down.
    let limit = u128::from(max_index_size_bytes) * u128::from(INDEX_HEADROOM_PERCENT) / 100;
    let mut total = 0;
    let mut largest: Option<(u64, BlockId)> = None;
    for meta in blocks {
        // Where meta.json does not tell, the view has asked the bucket.
        let size = meta.file_size_bytes(INDEX_FILE_NAME).unwrap_or(0);
        if largest.is_none_or(|(most, _)| size > most) {
            largest = Some((size, meta.ulid));
        }
        total += u128::from(size);
        if total >= limit {
            return largest.into_iter().map(|(_, id)| (id, NoCompactReason::IndexSizeExceeding)).collect();
        }
    }
    Vec::new()
}

fn length_ms(meta: &BlockMeta) -> i64 {
    meta.max_time_ms.saturating_sub(meta.min_time_ms)
}

#[cfg(test)]
mod tests;
