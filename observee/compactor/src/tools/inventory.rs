//! [`Inventory`]: the blocks of a bucket with their marks.

use std::collections::BTreeMap;
use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta, BlockState, Fetcher, read_marks};
use parallax_bucket::Bucket;
use serde::Serialize;

use crate::CompactError;

/// A block, as a table shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BlockRow {
    pub ulid: BlockId,
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    pub resolution_ms: i64,
    pub level: u32,
    pub failed: bool,
    pub series: u64,
    pub samples: u64,
    pub chunks: u64,
    /// How many blocks it was made of.
    pub sources: usize,
    /// Which component wrote it.
    pub source: String,
    pub labels: BTreeMap<String, String>,
    /// Why it is marked, by kind of mark.
    pub marks: BTreeMap<&'static str, String>,
}

/// All blocks of a bucket.
#[derive(Debug, Default)]
pub struct Inventory {
    pub blocks: BTreeMap<BlockId, (Arc<BlockMeta>, BlockRow)>,
    /// Blocks without a usable `meta.json`, and marks that cannot be understood.
    pub problems: Vec<(BlockId, String)>,
}

/// Reads the list of blocks and their marks.
///
/// # Errors
/// If the bucket cannot be listed, or did not answer for every block.
pub async fn inventory(
    fetcher: &Fetcher,
    bucket: &Bucket,
    concurrency: usize,
    now_ms: i64,
) -> Result<Inventory, CompactError> {
    let synced = fetcher.sync(now_ms).await?;
    if !synced.complete {
        return Err(CompactError::Incomplete);
    }
    let problems = synced.problems.into_iter().filter(|problem| problem.state != BlockState::Loaded);
    let mut found = Inventory {
        problems: problems.map(|problem| (problem.block, problem.error.to_string())).collect(),
        ..Inventory::default()
    };
    let mut marks = read_marks(bucket, synced.blocks.keys().copied(), concurrency).await;
    for (block, meta) in synced.blocks {
        let marks = marks.remove(&block).unwrap_or_default();
        found.problems.extend(marks.problems.iter().map(|problem| (block, problem.to_string())));
        let mut row = row(&meta);
        let deletion = marks.deletion.map(|mark| ("deletion", mark.details));
        let no_compact = marks.no_compact.map(|mark| ("no-compact", mark.reason));
        let no_downsample = marks.no_downsample.map(|mark| ("no-downsample", mark.reason));
        row.marks.extend([deletion, no_compact, no_downsample].into_iter().flatten());
        found.blocks.insert(block, (meta, row));
    }
    Ok(found)
}

fn row(meta: &BlockMeta) -> BlockRow {
    BlockRow {
        ulid: meta.ulid,
        min_time_ms: meta.min_time_ms,
        max_time_ms: meta.max_time_ms,
        resolution_ms: meta.resolution_ms(),
        level: meta.compaction.level,
        failed: meta.compaction.failed,
        series: meta.stats.num_series,
        samples: meta.stats.num_samples,
        chunks: meta.stats.num_chunks,
        sources: meta.compaction.sources.len(),
        source: meta.source().to_owned(),
        labels: meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default(),
        marks: BTreeMap::new(),
    }
}
