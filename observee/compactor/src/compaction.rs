//! One job: some blocks in, one verified block out, uploaded. What happens to the sources is the caller's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parallax_block::meta::{CHUNKS_DIRECTORY, Downsample, INDEX_FILE_NAME, IndexStats, Parent, ThanosMeta};
use parallax_block::{
    BlockId, BlockMeta, BlockStats as MetaStats, Compaction, HashFunction, UploadOptions, UploadedData,
    delete_block, move_data,
};
use parallax_bucket::Bucket;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::{BlockChunk, BlockStats};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::CompactError;
use crate::clock::Clock;
use crate::group::Group;
use crate::merge::{
    MergeFailure, MergeMode, ReadTotals, Scratch, Transform, Written, merge_series, write_block,
};
use crate::source::{Reading, SeriesJob, SourceBlock};
use crate::verify::{SPLIT_FROM_SERIES, verify_staged};
use crate::view::millis;

/// Which component says that it made merged blocks.
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
    /// The index of a new block must not exceed this.
    pub max_index_size_bytes: u64,
    pub clock: Clock,
    pub cancelled: CancellationToken,
}

/// A block that was uploaded.
#[derive(Clone, Debug)]
pub struct NewBlock {
    pub meta: BlockMeta,
}

/// What came of a job.
#[derive(Clone, Debug)]
pub enum Outcome {
    Made(Box<NewBlock>),
    /// No sample was left, and nothing was uploaded.
    Nothing(ReadTotals),
}

impl Outcome {
    /// The block, if there is one.
    pub fn made(self) -> Option<NewBlock> {
        match self {
            Self::Made(new) => Some(*new),
            Self::Nothing(_) => None,
        }
    }
}

/// A block that was written and verified, and whose data are in the bucket, where nobody sees it yet.
#[derive(Debug)]
pub struct Ready {
    data: UploadedData,
    options: UploadOptions,
    /// By the clock, when `options` were made.
    began: Duration,
}

/// What a job has prepared.
#[derive(Debug)]
pub enum Prepared {
    Ready(Box<Ready>),
    /// No sample was left, and nothing was uploaded.
    Nothing(ReadTotals),
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

    /// The same, ended by another token.
    pub(crate) fn cancelled_by(&self, cancelled: CancellationToken) -> Self {
        Self { config: JobConfig { cancelled, ..self.config.clone() } }
    }

    /// Merges `blocks` (by minTime) of a group into one.
    pub async fn compact(
        &self,
        group: &Group,
        blocks: &[Arc<BlockMeta>],
        mode: MergeMode,
        now_ms: i64,
    ) -> Result<Outcome, CompactError> {
        self.finish(self.prepare_compaction(group, blocks, mode, now_ms).await?).await
    }

    /// As [`Self::compact`], up to the point where the block would become visible.
    pub async fn prepare_compaction(
        &self,
        group: &Group,
        blocks: &[Arc<BlockMeta>],
        mode: MergeMode,
        now_ms: i64,
    ) -> Result<Prepared, CompactError> {
        let meta = merged_meta(new_id(now_ms), group, blocks);
        self.run(meta, blocks.to_vec(), Arc::new(Merge { mode }), now_ms).await
    }

    /// Writes `meta`'s block from `blocks` through a transformation, verifies it, and uploads its data.
    pub(crate) async fn run(
        &self,
        meta: BlockMeta,
        blocks: Vec<Arc<BlockMeta>>,
        transform: Arc<dyn Transform + Send + Sync>,
        now_ms: i64,
    ) -> Result<Prepared, CompactError> {
        let began = self.config.clock.now();
        let component = transform.component();
        let (dir, staged) = self.stage(meta, blocks, transform).await?;
        let meta = match staged {
            Staged::Block(meta) => *meta,
            Staged::Nothing(read) => return Ok(Prepared::Nothing(read)),
        };
        if self.config.cancelled.is_cancelled() {
            return Err(CompactError::Interrupted);
        }
        let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default();
        let options = UploadOptions {
            external_labels: labels,
            source: component.to_owned(),
            hash: self.config.hash,
            now_ms,
            concurrency: 1,
        };
        let data = move_data(&self.config.bucket, &dir.path, meta, &options).await?;
        Ok(Prepared::Ready(Box::new(Ready { data, options, began })))
    }

    /// What would be left of a block after a transformation; nothing is uploaded.
    pub(crate) async fn count(
        &self,
        meta: &Arc<BlockMeta>,
        transform: Arc<dyn Transform + Send + Sync>,
    ) -> Result<MetaStats, CompactError> {
        let (_dir, staged) = self.stage(BlockMeta::clone(meta), vec![Arc::clone(meta)], transform).await?;
        Ok(match staged {
            Staged::Block(meta) => meta.stats,
            Staged::Nothing(_) => MetaStats::default(),
        })
    }

    /// Writes a block to the local disk, where it stays until the directory is dropped.
    async fn stage(
        &self,
        meta: BlockMeta,
        blocks: Vec<Arc<BlockMeta>>,
        transform: Arc<dyn Transform + Send + Sync>,
    ) -> Result<(StagedDir, Staged), CompactError> {
        let dir = StagedDir { path: self.config.staging_dir.join(meta.ulid.to_string()) };
        let config = self.config.clone();
        let runtime = Handle::current();
        let target = dir.path.clone();
        let written = tokio::task::spawn_blocking(move || {
            stage(&config, &runtime, meta, &blocks, transform.as_ref(), &target)
        });
        Ok((dir, written.await.map_err(ended)??))
    }

    pub(crate) async fn finish(&self, prepared: Prepared) -> Result<Outcome, CompactError> {
        match prepared {
            Prepared::Ready(ready) => self.publish(*ready).await,
            Prepared::Nothing(read) => Ok(Outcome::Nothing(read)),
        }
    }

    /// Makes a block visible.
    pub async fn publish(&self, ready: Ready) -> Result<Outcome, CompactError> {
        let Ready { data, mut options, began } = ready;
        options.now_ms = options.now_ms.saturating_add(millis(self.config.clock.since(began)));
        let meta = data.publish(&self.config.bucket, &options).await?;
        Ok(Outcome::Made(Box::new(NewBlock { meta })))
    }

    /// Deletes the data of a block that is not wanted any more. What cannot be deleted is a partial upload, and goes as one.
    pub async fn discard(&self, ready: Ready) {
        let block = ready.data.block();
        if let Err(error) = delete_block(&self.config.bucket, block).await {
            tracing::warn!(%block, %error, "the data of a block that is not published were not deleted");
        }
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

enum Staged {
    Block(Box<BlockMeta>),
    Nothing(ReadTotals),
}

/// Writes and verifies the block; gives its meta with what it holds.
fn stage(
    config: &JobConfig,
    runtime: &Handle,
    mut meta: BlockMeta,
    blocks: &[Arc<BlockMeta>],
    transform: &dyn Transform,
    target: &Path,
) -> Result<Staged, CompactError> {
    let unusable = |source| CompactError::File { path: config.staging_dir.clone(), source };
    std::fs::create_dir_all(&config.staging_dir).map_err(unusable)?;
    let refused = |error| name_sources(error, blocks);
    let reading = Reading::new(config.bucket.clone(), runtime.clone(), blocks.len());
    let (mut sources, symbols) =
        SourceBlock::open_all(&reading, blocks, &config.staging_dir).map_err(refused)?;
    if !transform.deletions().is_empty() {
        for source in &mut sources {
            source.delete(transform.deletions(), &symbols)?;
        }
    }
    let (limit, workers) = (config.max_index_size_bytes, config.workers);
    let written = write_block(sources, &symbols, target, limit, transform, workers, &config.cancelled);
    let Written { sealed, digest, read } = written.map_err(refused)?;
    if sealed.stats().sample_count == 0 {
        return Ok(Staged::Nothing(read));
    }
    fill_stats(&mut meta, sealed.stats());
    sealed.publish().map_err(CompactError::Staging)?;
    std::thread::scope(|scope| {
        if config.bucket.is_directory() {
            // They will be moved there, and have to be on the disk then.
            scope.spawn(|| sync_files(target));
        }
        verify_staged(&config.staging_dir, runtime, &meta, &symbols, &digest, SPLIT_FROM_SERIES)
    })?;
    Ok(Staged::Block(Box::new(meta)))
}

/// Has the files of a staged block on their way to the disk. Whoever moves them waits for that, and hears of errors.
fn sync_files(block: &Path) {
    let chunks = std::fs::read_dir(block.join(CHUNKS_DIRECTORY)).into_iter().flatten().flatten();
    for path in chunks.map(|entry| entry.path()).chain([block.join(INDEX_FILE_NAME)]) {
        let _ = std::fs::File::open(path).and_then(|file| file.sync_data());
    }
}

/// A block that the format, or the limit, does not take: the same blocks would make it again, so the message names them.
fn name_sources(error: CompactError, blocks: &[Arc<BlockMeta>]) -> CompactError {
    let largest = blocks.iter().max_by_key(|meta| meta.file_size_bytes(INDEX_FILE_NAME));
    match (error, largest) {
        (CompactError::Staging(source @ TsdbError::TooLarge { .. }), Some(largest)) => {
            CompactError::IndexTooLarge { largest: largest.ulid, reason: source.to_string() }
        }
        (CompactError::Staging(error @ TsdbError::Io { .. }), _) => CompactError::Staging(error),
        (CompactError::Staging(source), _) => {
            let ids: Vec<String> = blocks.iter().map(|meta| meta.ulid.to_string()).collect();
            CompactError::Unwritable { blocks: ids.join(", "), source }
        }
        (error, _) => error,
    }
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
pub(crate) fn merged_meta(id: BlockId, group: &Group, blocks: &[Arc<BlockMeta>]) -> BlockMeta {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Remedy;

    #[test]
    fn what_the_format_does_not_take_is_set_aside_and_what_the_disk_does_not_is_tried_again() {
        let id = |number: u64| -> BlockId { format!("01{number:024}").parse().unwrap() };
        let meta = |number: u64, index_bytes: u64| {
            let json = format!(
                r#"{{"ulid":"{}","minTime":0,"maxTime":1,"version":1,
                    "thanos":{{"labels":{{"a":"b"}},"files":[{{"rel_path":"index","size_bytes":{index_bytes}}}]}}}}"#,
                id(number)
            );
            Arc::new(BlockMeta::parse("test", json.as_bytes()).unwrap())
        };
        let blocks = [meta(1, 10), meta(2, 30), meta(3, 20)];
        let named = |error: TsdbError| name_sources(CompactError::Staging(error), &blocks);
        let too_large = named(TsdbError::too_large("index", "its symbols take more than 4 GiB"));
        assert!(
            matches!(&too_large, CompactError::IndexTooLarge { largest, .. } if *largest == id(2)),
            "{too_large}"
        );
        assert_eq!(too_large.remedy(), Remedy::Quarantine);
        let refused = named(TsdbError::invalid("segment", "a chunk of 70000000 bytes, Xor"));
        assert_eq!(refused.remedy(), Remedy::Quarantine);
        for number in 1..4 {
            assert!(refused.to_string().contains(&id(number).to_string()), "{refused}");
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = named(TsdbError::Io { path: "index".into(), source: full });
        assert_eq!(full.remedy(), Remedy::Retry);
    }
}
