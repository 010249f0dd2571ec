//! One job: some blocks in, one verified block out, uploaded. What happens to the sources is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use parallax_block::meta::{Downsample, IndexStats, Parent, ThanosMeta};
use parallax_block::{
    BlockId, BlockMeta, BlockStats as MetaStats, Compaction, HashFunction, UploadOptions, upload_block,
};
use parallax_bucket::Bucket;
use parallax_tsdb::block::{BlockChunk, BlockStats};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::CompactError;
use crate::group::Group;
use crate::merge::{MergeFailure, MergeMode, Scratch, Transform, merge_series, write_block};
use crate::source::{Reading, SeriesJob, SourceBlock};
use crate::verify::verify_staged;
use crate::view::millis;

/// Which component says that it made our blocks.
const SOURCE: &str = "compactor";

/// How jobs work.
#[derive(Clone, Debug)]
pub struct JobConfig {
    pub bucket: Bucket,
    /// Blocks are staged here, each in a directory of its own.
    pub staging_dir: PathBuf,
    /// Threads that merge, besides one that reads and one that writes.
    pub workers: usize,
    pub hash: HashFunction,
    pub cancelled: CancellationToken,
}

/// A block that was uploaded.
#[derive(Clone, Debug)]
pub struct NewBlock {
    pub meta: BlockMeta,
}

/// A job on some blocks.
#[derive(Clone, Debug)]
pub struct Job {
    config: JobConfig,
}

impl Job {
    pub fn new(config: JobConfig) -> Self {
        Self { config }
    }

    /// Merges `blocks` (by minTime) of a group into one. `None` if no sample is left.
    pub async fn compact(
        &self,
        group: &Group,
        blocks: &[Arc<BlockMeta>],
        mode: MergeMode,
        now_ms: i64,
    ) -> Result<Option<NewBlock>, CompactError> {
        let meta = merged_meta(new_id(now_ms), group, blocks);
        self.run(meta, blocks.to_vec(), Arc::new(Merge { mode }), now_ms).await
    }

    /// Writes `meta`'s block from `blocks` through a transformation, verifies it, and uploads it.
    pub(crate) async fn run(
        &self,
        meta: BlockMeta,
        blocks: Vec<Arc<BlockMeta>>,
        transform: Arc<dyn Transform + Send + Sync>,
        now_ms: i64,
    ) -> Result<Option<NewBlock>, CompactError> {
        let staged = StagedDir { path: self.config.staging_dir.join(meta.ulid.to_string()) };
        let config = self.config.clone();
        let runtime = Handle::current();
        let target = staged.path.clone();
        let began = Instant::now();
        let written = tokio::task::spawn_blocking(move || {
            stage(&config, &runtime, meta, &blocks, transform.as_ref(), &target)
        });
        let Some(meta) = written.await.map_err(ended)?? else { return Ok(None) };
        if self.config.cancelled.is_cancelled() {
            return Err(CompactError::Interrupted);
        }
        let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default();
        let options = UploadOptions {
            external_labels: labels,
            source: SOURCE.to_owned(),
            hash: self.config.hash,
            now_ms: now_ms.saturating_add(millis(began.elapsed())),
        };
        let meta = upload_block(&self.config.bucket, &staged.path, meta, &options).await?;
        Ok(Some(NewBlock { meta }))
    }
}

/// Why a job's thread did not come to its end.
fn ended(error: JoinError) -> CompactError {
    if error.is_panic() {
        CompactError::Defect { what: "a merge".to_owned() }
    } else {
        CompactError::Interrupted
    }
}

/// Writes and verifies the block; gives its meta with what it holds, or `None` if it holds nothing.
fn stage(
    config: &JobConfig,
    runtime: &Handle,
    mut meta: BlockMeta,
    blocks: &[Arc<BlockMeta>],
    transform: &dyn Transform,
    target: &Path,
) -> Result<Option<BlockMeta>, CompactError> {
    let unusable = |source| CompactError::File { path: config.staging_dir.clone(), source };
    std::fs::create_dir_all(&config.staging_dir).map_err(unusable)?;
    let reading = Reading::new(config.bucket.clone(), runtime.clone(), blocks.len());
    let (sources, symbols) = SourceBlock::open_all(&reading, blocks)?;
    let sealed = write_block(sources, &symbols, target, transform, config.workers, &config.cancelled)?;
    if sealed.stats().sample_count == 0 {
        return Ok(None);
    }
    fill_stats(&mut meta, sealed.stats());
    sealed.publish().map_err(CompactError::Staging)?;
    verify_staged(&config.staging_dir, runtime, &meta, &symbols)?;
    Ok(Some(meta))
}

/// A staged block; removed on drop.
struct StagedDir {
    path: PathBuf,
}

impl Drop for StagedDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the compactor starts again.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Merging is a transformation of series.
struct Merge {
    mode: MergeMode,
}

impl Transform for Merge {
    fn apply(
        &self,
        job: SeriesJob,
        scratch: &mut Scratch,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        merge_series(job, self.mode, scratch, out)
    }
}

pub(crate) fn new_id(now_ms: i64) -> BlockId {
    BlockId::generate(now_ms, &mut rand::rng())
}

/// The meta of a block made of others, but for what it holds. Source: Prometheus `CompactBlockMetas`.
fn merged_meta(id: BlockId, group: &Group, blocks: &[Arc<BlockMeta>]) -> BlockMeta {
    let sources: BTreeSet<BlockId> =
        blocks.iter().flat_map(|meta| meta.compaction.sources.iter().copied()).collect();
    let parents = blocks.iter().map(|meta| Parent {
        ulid: meta.ulid,
        min_time_ms: meta.min_time_ms,
        max_time_ms: meta.max_time_ms,
        unknown: Map::new(),
    });
    let level = blocks.iter().map(|meta| meta.compaction.level).max().unwrap_or(0);
    BlockMeta {
        ulid: id,
        min_time_ms: blocks.iter().map(|meta| meta.min_time_ms).min().unwrap_or(0),
        max_time_ms: blocks.iter().map(|meta| meta.max_time_ms).max().unwrap_or(0),
        stats: MetaStats::default(),
        compaction: Compaction {
            level: level.saturating_add(1),
            sources: sources.into_iter().collect(),
            parents: parents.collect(),
            ..Compaction::default()
        },
        version: 1,
        thanos: Some(thanos_meta(group.labels.clone(), group.resolution_ms, group.extensions())),
        unknown: Map::new(),
    }
}

fn thanos_meta(
    labels: BTreeMap<String, String>,
    resolution_ms: i64,
    extensions: Option<Value>,
) -> ThanosMeta {
    ThanosMeta {
        version: 1,
        labels: Some(labels),
        downsample: Downsample { resolution_ms, unknown: Map::new() },
        source: SOURCE.to_owned(),
        extensions,
        ..ThanosMeta::default()
    }
}

fn fill_stats(meta: &mut BlockMeta, stats: &BlockStats) {
    meta.stats.num_samples = stats.sample_count;
    meta.stats.num_series = stats.series_count;
    meta.stats.num_chunks = stats.chunk_count;
    meta.stats.num_tombstones = 0;
    // A downsampled block keeps the numbers of the raw one here, as with Thanos.
    if meta.resolution_ms() == 0 {
        meta.stats.num_float_samples = stats.float_sample_count;
        meta.stats.num_histogram_samples = stats.histogram_sample_count;
    }
    if let Some(thanos) = &mut meta.thanos {
        thanos.index_stats = Some(IndexStats {
            series_max_size_bytes: stats.series_max_size_bytes,
            chunk_max_size_bytes: stats.chunk_max_size_bytes,
            unknown: Map::new(),
        });
    }
}
