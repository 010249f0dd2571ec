//! [`Fetcher`]: the list of a bucket's blocks as a reader sees it, for as few requests as may be.
//!
//! What exists is what a list of the bucket says; a meta never changes, so it is read once and kept (in memory, in a local copy over a restart,
//! and, by the compactor, in the bucket's [`Catalog`]). Partial and corrupted blocks are reported by name and never fail a sync. If the bucket
//! failed to answer for some block, the sync is incomplete: what it found may be added by the caller, but nothing that is missing may be dropped.
//!
//! - [`Fetcher::sync`] lists the whole bucket: a request for a thousand objects, one for each meta and mark that is not known.
//! - [`Fetcher::refresh`] reads the catalog if it has changed, and the end of the list: from three hours before the newest block on, but two pages
//!   at most. It turns into a full list when the last one, its own or the catalog's, is older than [`FULL_LIST_INTERVAL`].
//!
//! So a refresh sees new blocks at once, unless they were named more than three hours before the newest one or the bucket takes in more than 2000 objects in
//! that time; what it passes over, deleted blocks and deletion marks of old ones among it, is seen within [`FULL_LIST_INTERVAL`] and the time
//! between two refreshes. Marks take effect hours later (`--ignore-deletion-marks-delay`, the compactor's delay), so that this is soon enough.
//! Thanos' components may write beside us: a catalog is never taken to be newer than its list.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_bucket::{Bucket, BucketError};

use crate::catalog::{CATALOG_OBJECT, MAX_CATALOG_BYTES};
use crate::filter::{BlockState, Filter, View};
use crate::mark::read_mark;
use crate::meta::MAX_META_BYTES;
use crate::{BlockError, BlockId, BlockMeta, Catalog, DeletionMark, FetcherMetrics, KeptMeta, Shared};

mod listing;
mod local_copy;
mod memory;

use listing::{Listed, Listing};
use memory::{Known, KnownMark, Memory, Trouble};

/// The whole bucket is listed at least this often, by ourselves or by the writer of the catalog.
pub const FULL_LIST_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// With a local copy or a catalog of this age at most, the first refresh may leave the full list to the second: a start is ready at once. Blocks that were
/// deleted meanwhile were marked long before.
const MAX_COPY_AGE: Duration = Duration::from_secs(12 * 3600);

/// How a fetcher works.
#[derive(Clone, Debug)]
pub struct FetcherConfig {
    /// Requests to the bucket at a time.
    pub concurrency: usize,
    /// Where what is known is kept over a restart.
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
#[derive(Debug)]
pub struct SyncedBlocks<M = BlockMeta> {
    pub blocks: BTreeMap<BlockId, Arc<M>>,
    pub dropped: BTreeMap<BlockId, BlockState>,
    pub problems: Vec<Problem>,
    /// False if the bucket failed to answer for some block: add from this list, drop nothing for it.
    pub complete: bool,
    /// Whether this rests on a list older than [`FULL_LIST_INTERVAL`], as the first after a restart may: refresh again soon.
    pub is_stale: bool,
}

/// Syncs the block list of one bucket. `M` is how much of each `meta.json` it keeps.
#[derive(Debug)]
pub struct Fetcher<M = BlockMeta> {
    bucket: Bucket,
    config: FetcherConfig,
    metrics: FetcherMetrics,
    memory: std::sync::Mutex<Memory<M>>,
    shared: Shared,
    /// One sync at a time: each builds on what the one before remembers.
    syncing: tokio::sync::Mutex<()>,
}

/// How much of the bucket is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    From(BlockId),
}

/// What a look at one block brought.
enum Look<M> {
    Whole(Known<M>),
    Troubled(Trouble),
    /// The bucket did not say.
    Failed(BlockError),
}

impl Fetcher {
    /// One that keeps metas whole.
    pub fn new(bucket: Bucket, config: FetcherConfig, metrics: FetcherMetrics) -> Self {
        Self::keeping(bucket, config, metrics)
    }

    /// Writes what is known of the whole bucket as its catalog. For the compactor, which alone may, after a complete [`Self::sync`].
    ///
    /// # Errors
    /// Whatever the bucket says; readers then go by the catalog that was there, or by lists of their own.
    pub async fn publish_catalog(&self) -> Result<(), BlockError> {
        let Some(catalog) = self.memory().to_catalog() else { return Ok(()) };
        let bytes = tokio::task::spawn_blocking(move || catalog.encode());
        let bytes = bytes.await.map_err(|_| BlockError::Catalog { reason: "interrupted".to_owned() })??;
        self.bucket.put(CATALOG_OBJECT, bytes.into()).await.map_err(BlockError::List)
    }
}

impl<M: KeptMeta> Fetcher<M> {
    /// One that keeps of metas what `M` holds.
    pub fn keeping(bucket: Bucket, config: FetcherConfig, metrics: FetcherMetrics) -> Self {
        Self {
            bucket,
            config,
            metrics,
            memory: std::sync::Mutex::default(),
            shared: Shared::default(),
            syncing: tokio::sync::Mutex::new(()),
        }
    }

    /// The list as of now, from a list of the whole bucket; `now_ms` is milliseconds since the epoch.
    ///
    /// # Errors
    /// Only if the bucket cannot be listed.
    pub async fn sync(&self, now_ms: i64) -> Result<SyncedBlocks<M>, BlockError> {
        let _one_at_a_time = self.syncing.lock().await;
        let started = Instant::now();
        self.restore(now_ms).await;
        let result = self.sync_extent(Extent::Whole, now_ms).await;
        self.count(&result, started);
        result
    }

    /// The list as of now, for few requests; `now_ms` is milliseconds since the epoch. The module says what it may miss, and for how long.
    ///
    /// # Errors
    /// Only if the bucket cannot be listed.
    pub async fn refresh(&self, now_ms: i64) -> Result<SyncedBlocks<M>, BlockError> {
        let _one_at_a_time = self.syncing.lock().await;
        let started = Instant::now();
        let is_first = self.restore(now_ms).await;
        self.read_catalog(now_ms).await;
        let extent = self.extent(now_ms, if is_first { MAX_COPY_AGE } else { FULL_LIST_INTERVAL });
        let result = self.sync_extent(extent, now_ms).await;
        self.count(&result, started);
        result
    }

    /// Makes the next refresh list the whole bucket: something that was listed turned out to be gone.
    pub fn distrust(&self) {
        self.memory().listed_ms = None;
    }

    fn count(&self, result: &Result<SyncedBlocks<M>, BlockError>, started: Instant) {
        self.metrics.finished(started.elapsed(), result.as_ref().is_ok_and(|synced| synced.complete));
        let Ok(synced) = result else { return };
        for state in BlockState::ALL {
            let dropped = synced.dropped.values().filter(|dropped| **dropped == state).count();
            let count = if state == BlockState::Loaded { synced.blocks.len() } else { dropped };
            self.metrics.set(state, count);
        }
    }

    /// Begins with the local copy; says whether this was the first time.
    async fn restore(&self, now_ms: i64) -> bool {
        if std::mem::replace(&mut self.memory().is_restored, true) {
            return false;
        }
        let Some(directory) = &self.config.cache_dir else { return true };
        if let Some(catalog) = local_copy::read(directory, self.shared.clone()).await {
            let mut memory = self.memory();
            memory.adopt(catalog, now_ms);
            memory.is_changed = false;
        }
        true
    }

    /// Takes over a catalog that is new to us. That there is none, or that it cannot be had, costs a list only.
    async fn read_catalog(&self, now_ms: i64) {
        let known = self.memory().catalog.clone();
        let (bytes, revision) = match self
            .bucket
            .get_if_changed(CATALOG_OBJECT, MAX_CATALOG_BYTES, known.as_ref())
            .await
        {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                tracing::warn!(%error, "the catalog of blocks was not read; the bucket is listed instead");
                return;
            }
        };
        let shared = self.shared.clone();
        let decoded = tokio::task::spawn_blocking(move || Catalog::decode_keeping(&bytes, &shared)).await;
        let mut memory = self.memory();
        // One that cannot be used is not read again until it changes.
        memory.catalog = Some(revision);
        match decoded {
            Ok(Ok(catalog)) => memory.adopt(catalog, now_ms),
            Ok(Err(error)) => tracing::warn!(%error, "the bucket is listed instead"),
            Err(_) => {}
        }
    }

    fn extent(&self, now_ms: i64, max_age: Duration) -> Extent {
        let memory = self.memory();
        let is_recent = memory.listed_ms.is_some_and(|listed_ms| is_within(listed_ms, now_ms, max_age));
        match memory.tail_start(now_ms) {
            Some(start) if is_recent => Extent::From(start),
            _ => Extent::Whole,
        }
    }

    async fn sync_extent(&self, extent: Extent, now_ms: i64) -> Result<SyncedBlocks<M>, BlockError> {
        let (after, from) = match extent {
            Extent::Whole => (String::new(), None),
            // Its own objects sort behind a block's name.
            Extent::From(block) => (block.to_string(), Some(block)),
        };
        let listing = Listing::read(&self.bucket, &after).await.map_err(BlockError::List)?;
        self.memory().forget_unlisted(from, &listing.blocks);
        let mut view = View::new(now_ms);
        let mut complete = true;
        let mut looks = futures::stream::iter(listing.blocks)
            .map(|(id, listed)| async move { (id, self.look(id, listed, now_ms).await) })
            .buffer_unordered(self.config.concurrency.max(1));
        while let Some((id, look)) = looks.next().await {
            complete &= self.remember(id, look, &mut view);
        }
        drop(looks);
        if !complete {
            // The next one looks at everything again.
            self.memory().listed_ms = None;
        } else if extent == Extent::Whole {
            let mut memory = self.memory();
            memory.listed_ms = Some(now_ms);
            memory.is_changed = true;
        }
        self.keep_copy().await;
        self.fill(&mut view);
        for filter in &self.config.filters {
            filter.apply(&mut view);
        }
        view.problems.sort_by_key(|problem| problem.block);
        let View { blocks, dropped, problems, .. } = view;
        let listed_ms = self.memory().listed_ms;
        let is_stale = !listed_ms.is_some_and(|listed_ms| is_within(listed_ms, now_ms, FULL_LIST_INTERVAL));
        Ok(SyncedBlocks { blocks, dropped, problems, complete, is_stale })
    }

    /// What a listed block is: from memory where that has it.
    async fn look(&self, id: BlockId, listed: Listed, now_ms: i64) -> Look<M> {
        let (known, trouble) = {
            let memory = self.memory();
            (memory.known.get(&id).cloned(), memory.troubled.get(&id).cloned())
        };
        let Some(written) = listed.meta else {
            let (state, reason) = (BlockState::NoMeta, String::new());
            return Look::Troubled(Trouble { state, reason, meta: None, seen_ms: now_ms });
        };
        if let Some(trouble) = trouble.filter(|trouble| trouble.meta == Some(written)) {
            return Look::Troubled(Trouble { seen_ms: now_ms, ..trouble });
        }
        let (meta, mark) = match known {
            Some(known) => (known.meta, known.mark),
            None => match self.read_meta(id).await {
                Ok(meta) => (meta, KnownMark::None),
                Err(error) => {
                    let Some(reason) = why_corrupted(&error) else { return Look::Failed(error) };
                    let (state, meta) = (BlockState::CorruptedMeta, Some(written));
                    return Look::Troubled(Trouble { state, reason, meta, seen_ms: now_ms });
                }
            },
        };
        match self.look_at_mark(id, listed.deletion_mark, mark).await {
            Ok(mark) => Look::Whole(Known { meta, seen_ms: now_ms, objects: listed.objects, mark }),
            Err(error) => Look::Failed(error),
        }
    }

    async fn read_meta(&self, id: BlockId) -> Result<Arc<M>, BlockError> {
        let json = self.bucket.get(&id.meta_object(), MAX_META_BYTES).await;
        let json = json.map_err(|source| BlockError::Bucket { block: id, source })?;
        let meta = match BlockMeta::parse_of(id, &json) {
            Ok(meta) => meta,
            // What a cache gave may be to blame.
            Err(error) => {
                let again = self.bucket.get_again(&id.meta_object(), MAX_META_BYTES).await;
                let again = again.map_err(|source| BlockError::Bucket { block: id, source })?;
                BlockMeta::parse_of(id, &again.ok_or(error)?)?
            }
        };
        Ok(M::keep(meta, &self.shared))
    }

    /// A mark is read once: whoever places one never overwrites it.
    async fn look_at_mark(
        &self,
        id: BlockId,
        listed: Option<i64>,
        known: KnownMark,
    ) -> Result<KnownMark, BlockError> {
        let Some(written) = listed else { return Ok(KnownMark::None) };
        match known {
            KnownMark::Read { written: at, mark } if at.is_none_or(|at| at == written) => {
                return Ok(KnownMark::Read { written: Some(written), mark });
            }
            KnownMark::Unreadable { written: at, reason } if at == written => {
                return Ok(KnownMark::Unreadable { written, reason });
            }
            _ => {}
        }
        match read_mark::<DeletionMark>(&self.bucket, id).await {
            Ok(Some(mark)) => Ok(KnownMark::Read { written: Some(written), mark: Arc::new(mark) }),
            Ok(None) => Ok(KnownMark::None),
            Err(BlockError::Mark { reason, .. }) => {
                Ok(KnownMark::Unreadable { written, reason: reason.into() })
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what was found; false if the bucket did not answer for this block.
    fn remember(&self, id: BlockId, look: Look<M>, view: &mut View<M>) -> bool {
        let mut memory = self.memory();
        match look {
            Look::Whole(known) => {
                memory.troubled.remove(&id);
                let old = memory.known.insert(id, known);
                memory.is_changed |= old.is_none();
            }
            Look::Troubled(trouble) => {
                memory.known.remove(&id);
                let old = memory.troubled.insert(id, trouble);
                memory.is_changed |= old.is_none();
            }
            Look::Failed(error) => {
                // What is known of it stays, and is served.
                let is_known = memory.known.contains_key(&id);
                let state = if is_known { BlockState::Loaded } else { BlockState::Failed };
                if !is_known {
                    memory.troubled.remove(&id);
                    view.dropped.insert(id, state);
                }
                view.problems.push(Problem { block: id, state, error });
                return false;
            }
        }
        true
    }

    /// All that is known, for the filters.
    fn fill(&self, view: &mut View<M>) {
        let memory = self.memory();
        for (id, trouble) in &memory.troubled {
            view.dropped.insert(*id, trouble.state);
            view.problems.push(Problem { block: *id, state: trouble.state, error: trouble.error(*id) });
        }
        for (id, known) in &memory.known {
            view.blocks.insert(*id, Arc::clone(&known.meta));
            match &known.mark {
                KnownMark::None => {}
                KnownMark::Read { mark, .. } => {
                    view.deletions.insert(*id, Arc::clone(mark));
                }
                // A mark that cannot be read is no mark, but the operator hears of it.
                KnownMark::Unreadable { reason, .. } => {
                    let file = <DeletionMark as crate::mark::Mark>::FILE_NAME;
                    let error = BlockError::Mark { block: *id, file, reason: reason.to_string() };
                    view.problems.push(Problem { block: *id, state: BlockState::Loaded, error });
                }
            }
        }
    }

    async fn keep_copy(&self) {
        let Some(directory) = &self.config.cache_dir else { return };
        let catalog = {
            let mut memory = self.memory();
            let Some(catalog) = memory.is_changed.then(|| memory.to_catalog()).flatten() else { return };
            memory.is_changed = false;
            catalog
        };
        if !local_copy::write(directory.clone(), catalog).await {
            self.memory().is_changed = true;
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory<M>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_within(then_ms: i64, now_ms: i64, limit: Duration) -> bool {
    now_ms.saturating_sub(then_ms) < i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)
}

/// `None` for what the bucket failed to say. That it lists an object and then has none of that name is a failure, too.
fn why_corrupted(error: &BlockError) -> Option<String> {
    match error {
        BlockError::Meta { reason, .. } => Some(reason.clone()),
        BlockError::Bucket { source: source @ BucketError::TooLarge { .. }, .. } => Some(source.to_string()),
        _ => None,
    }
}
