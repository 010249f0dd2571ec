//! [`Fetcher`]: the list of a bucket's blocks as a reader sees it.
//!
//! A sync lists the root, checks that each block still has its `meta.json`, reads those it has not seen (they never
//! change, so memory and an optional local directory keep them), and applies the filters in order. Partial and corrupted
//! blocks are reported by name and never fail a sync. If the bucket failed to answer for some block, the sync is
//! incomplete: what it found may be added by the caller, but nothing that is missing from it may be dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures::StreamExt;
use parallax_bucket::Bucket;

use crate::filter::{BlockState, Filter, View};
use crate::meta::{MAX_META_BYTES, META_FILE_NAME};
use crate::{BlockError, BlockId, BlockMeta, FetcherMetrics};

/// How a fetcher works.
#[derive(Clone, Debug)]
pub struct FetcherConfig {
    /// Requests to the bucket at a time.
    pub concurrency: usize,
    /// Where metas are kept over a restart: `<dir>/<ulid>/meta.json`.
    pub cache_dir: Option<PathBuf>,
    /// In order.
    pub filters: Vec<Filter>,
}

impl Default for FetcherConfig {
    fn default() -> Self {
        Self { concurrency: 32, cache_dir: None, filters: Vec::new() }
    }
}

/// A block about which the operator should hear.
#[derive(Debug)]
pub struct Problem {
    pub block: BlockId,
    /// [`BlockState::Loaded`] if the block is used all the same.
    pub state: BlockState,
    pub error: BlockError,
}

/// The outcome of a sync.
#[derive(Debug, Default)]
pub struct SyncedBlocks {
    pub blocks: BTreeMap<BlockId, Arc<BlockMeta>>,
    pub dropped: BTreeMap<BlockId, BlockState>,
    pub problems: Vec<Problem>,
    /// False if the bucket failed to answer for some block: add from this list, drop nothing for it.
    pub complete: bool,
}

/// Syncs the block list of one bucket.
#[derive(Debug)]
pub struct Fetcher {
    bucket: Bucket,
    config: FetcherConfig,
    metrics: FetcherMetrics,
    seen: Mutex<BTreeMap<BlockId, Arc<BlockMeta>>>,
}

impl Fetcher {
    pub fn new(bucket: Bucket, config: FetcherConfig, metrics: FetcherMetrics) -> Self {
        Self { bucket, config, metrics, seen: Mutex::default() }
    }

    /// The list as of now; `now_ms` is milliseconds since the epoch.
    ///
    /// # Errors
    /// Only if the bucket's root cannot be listed.
    pub async fn sync(&self, now_ms: i64) -> Result<SyncedBlocks, BlockError> {
        let started = Instant::now();
        let result = self.sync_once(now_ms).await;
        self.metrics.finished(started.elapsed(), result.as_ref().is_ok_and(|synced| synced.complete));
        if let Ok(synced) = &result {
            for state in BlockState::ALL {
                let dropped = synced.dropped.values().filter(|dropped| **dropped == state).count();
                let count = if state == BlockState::Loaded { synced.blocks.len() } else { dropped };
                self.metrics.set(state, count);
            }
        }
        result
    }

    async fn sync_once(&self, now_ms: i64) -> Result<SyncedBlocks, BlockError> {
        let names = self.bucket.list_blocks().await.map_err(BlockError::List)?;
        let concurrency = self.config.concurrency.max(1);
        // Names that are ULIDs only to the bucket cannot be: both check the same letters.
        let ids: Vec<BlockId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let fetched: Vec<(BlockId, Result<Arc<BlockMeta>, BlockError>)> = futures::stream::iter(ids)
            .map(|id| async move { (id, self.fetch(id).await) })
            .buffer_unordered(concurrency)
            .collect()
            .await;
        let mut view = View {
            bucket: &self.bucket,
            concurrency,
            now_ms,
            blocks: BTreeMap::new(),
            dropped: BTreeMap::new(),
            problems: Vec::new(),
        };
        let mut complete = true;
        for (block, result) in fetched {
            let error = match result {
                Ok(meta) => {
                    view.blocks.insert(block, meta);
                    continue;
                }
                Err(error) => error,
            };
            let state = state_of(&error);
            complete &= state != BlockState::Failed;
            view.dropped.insert(block, state);
            view.problems.push(Problem { block, state, error });
        }
        self.remember(&view.blocks, complete);
        for filter in &self.config.filters {
            filter.apply(&mut view).await;
        }
        view.problems.sort_by_key(|problem| problem.block);
        let View { blocks, dropped, problems, .. } = view;
        Ok(SyncedBlocks { blocks, dropped, problems, complete })
    }

    async fn fetch(&self, id: BlockId) -> Result<Arc<BlockMeta>, BlockError> {
        let in_bucket = |source| BlockError::Bucket { block: id, source };
        let seen = self.lock().get(&id).cloned();
        let known = match seen {
            Some(meta) => Some(meta),
            None => self.read_cached(id).await,
        };
        let object = id.meta_object();
        if let Some(meta) = known {
            if self.bucket.exists(&object).await.map_err(in_bucket)? {
                return Ok(meta);
            }
            let source = parallax_bucket::BucketError::NotFound { object };
            return Err(BlockError::Bucket { block: id, source });
        }
        let json = self.bucket.get(&object, MAX_META_BYTES).await.map_err(in_bucket)?;
        let meta = Arc::new(BlockMeta::parse_of(id, &json)?);
        self.write_cached(id, &json).await;
        Ok(meta)
    }

    /// Keeps what is in the bucket and forgets what is gone, unless some blocks could not be asked for.
    fn remember(&self, blocks: &BTreeMap<BlockId, Arc<BlockMeta>>, complete: bool) {
        let mut seen = self.lock();
        if !complete {
            seen.extend(blocks.iter().map(|(id, meta)| (*id, Arc::clone(meta))));
            return;
        }
        let gone: Vec<BlockId> = seen.keys().filter(|id| !blocks.contains_key(id)).copied().collect();
        seen.clone_from(blocks);
        drop(seen);
        if let Some(dir) = &self.config.cache_dir {
            for id in gone {
                // A leftover is harmless: it is checked against the bucket before it is used.
                let _ = std::fs::remove_file(cached_path(dir, id));
                let _ = std::fs::remove_dir(dir.join(id.to_string()));
            }
        }
    }

    async fn read_cached(&self, id: BlockId) -> Option<Arc<BlockMeta>> {
        let path = cached_path(self.config.cache_dir.as_ref()?, id);
        let json = tokio::fs::read(path).await.ok()?;
        BlockMeta::parse_of(id, &json).ok().map(Arc::new)
    }

    async fn write_cached(&self, id: BlockId, json: &[u8]) {
        let Some(dir) = &self.config.cache_dir else { return };
        let path = cached_path(dir, id);
        let staged = path.with_extension("json.tmp");
        let written = async {
            tokio::fs::create_dir_all(dir.join(id.to_string())).await?;
            tokio::fs::write(&staged, json).await?;
            tokio::fs::rename(&staged, &path).await
        };
        if let Err(error) = written.await {
            tracing::warn!(path = %path.display(), %error, "meta.json is not cached on disk");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<BlockId, Arc<BlockMeta>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cached_path(dir: &Path, id: BlockId) -> PathBuf {
    dir.join(id.to_string()).join(META_FILE_NAME)
}

fn state_of(error: &BlockError) -> BlockState {
    match error {
        BlockError::Meta { .. } => BlockState::CorruptedMeta,
        BlockError::Bucket { source: parallax_bucket::BucketError::TooLarge { .. }, .. } => {
            BlockState::CorruptedMeta
        }
        BlockError::Bucket { source, .. } if source.is_not_found() => BlockState::NoMeta,
        _ => BlockState::Failed,
    }
}
