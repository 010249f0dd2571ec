//! Index-headers: built from the bucket by ranges, kept in the data directory, mapped when first used, dropped when idle.
//!
//! A header file that does not read as one (a full disk, another version) is built anew. A header that cannot be built is not tried again for
//! a while, so that a damaged block does not cost each query a download. Loading belongs to no call: it goes on, within its own limits, when the call that
//! began it has ended, and serves the next one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use parallax_block::BlockId;
use parallax_tsdb::TsdbError;
use parallax_tsdb::index_header::{IndexHeader, IndexHeaderPlan};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use crate::error::BlockFailure;
use crate::fetch::{Fetch, MAX_RANGE_BYTES};
use crate::metrics::GatewayMetrics;

/// How long a failure to build is repeated before the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// A header that is not there by then is given up, and begun anew by whoever asks next.
const LOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The file's name in the block's directory of the data directory, as Thanos has it.
const HEADER_FILE_NAME: &str = "index-header";

/// The index-header of one block.
#[derive(Debug)]
pub struct LazyHeader(Arc<Place>);

/// Where a header is, or will be.
#[derive(Debug)]
struct Place {
    block: BlockId,
    data_dir: Arc<Path>,
    state: Mutex<State>,
}

type Outcome = Result<Arc<IndexHeader>, Arc<BlockFailure>>;

#[derive(Debug, Default)]
enum State {
    #[default]
    Unloaded,
    Loading(watch::Receiver<Option<Outcome>>),
    Loaded {
        header: Arc<IndexHeader>,
        last_used: Instant,
    },
    Failed {
        at: Instant,
        reason: String,
    },
}

impl LazyHeader {
    pub fn new(block: BlockId, data_dir: &Arc<Path>) -> Self {
        Self(Arc::new(Place { block, data_dir: Arc::clone(data_dir), state: Mutex::default() }))
    }

    /// The header, loaded or built now if need be. Concurrent callers wait for one load; one that goes away does not end it.
    pub async fn get(
        &self,
        fetch: &Fetch,
        metrics: &GatewayMetrics,
    ) -> Result<Arc<IndexHeader>, BlockFailure> {
        let mut loading = {
            let mut state = self.0.state();
            match &mut *state {
                State::Loaded { header, last_used } => {
                    *last_used = Instant::now();
                    return Ok(Arc::clone(header));
                }
                State::Failed { at, reason } if at.elapsed() < RETRY_AFTER => {
                    return Err(BlockFailure::Repeated { reason: reason.clone() });
                }
                State::Loading(loading) if loading.has_changed().is_ok() => loading.clone(),
                _ => {
                    let (sender, loading) = watch::channel(None);
                    *state = State::Loading(loading.clone());
                    let place = Arc::clone(&self.0);
                    tokio::spawn(place.run(fetch.clone(), metrics.clone(), sender));
                    loading
                }
            }
        };
        let block = self.0.block;
        let outcome =
            loading.wait_for(Option::is_some).await.map_err(|_| BlockFailure::Interrupted { block })?;
        match &*outcome {
            Some(Ok(header)) => Ok(Arc::clone(header)),
            Some(Err(failure)) => Err(BlockFailure::Load(Arc::clone(failure))),
            None => Err(BlockFailure::Interrupted { block }),
        }
    }

    /// Drops the header from memory if nobody asked for it lately; says whether it did.
    pub fn unload_if_idle(&self, idle: Duration) -> bool {
        let mut state = self.0.state();
        let is_idle = matches!(&*state, State::Loaded { last_used, .. } if last_used.elapsed() >= idle);
        if is_idle {
            *state = State::Unloaded;
        }
        is_idle
    }

    /// Removes the file, for a block that is gone; says whether none is left. What stays behind is checked before it is used again.
    pub fn remove_file(&self) -> bool {
        let removed = std::fs::remove_file(self.0.path());
        let _ = std::fs::remove_dir(self.0.directory());
        removed.is_ok() || !self.0.path().exists()
    }
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn directory(&self) -> PathBuf {
        self.data_dir.join(self.block.to_string())
    }

    fn path(&self) -> PathBuf {
        self.directory().join(HEADER_FILE_NAME)
    }

    /// The name of the index in the bucket.
    fn index_object(&self) -> String {
        self.block.object(parallax_block::meta::INDEX_FILE_NAME)
    }

    async fn run(
        self: Arc<Self>,
        fetch: Fetch,
        metrics: GatewayMetrics,
        sender: watch::Sender<Option<Outcome>>,
    ) {
        let loaded = match tokio::time::timeout(LOAD_LIMIT, self.load(&fetch, &metrics)).await {
            Ok(loaded) => loaded,
            Err(_) => {
                let reason = format!("block {}: no index-header within {LOAD_LIMIT:?}", self.block);
                Err(BlockFailure::Repeated { reason })
            }
        };
        let outcome = match loaded {
            Ok(header) => {
                metrics.header_loads.inc();
                let header = Arc::new(header);
                *self.state() = State::Loaded { header: Arc::clone(&header), last_used: Instant::now() };
                Ok(header)
            }
            Err(failure) => {
                metrics.header_load_failures.inc();
                metrics.block_load_failures.inc();
                *self.state() = match &failure {
                    BlockFailure::Damaged { .. } => {
                        State::Failed { at: Instant::now(), reason: failure.to_string() }
                    }
                    _ => State::Unloaded,
                };
                Err(Arc::new(failure))
            }
        };
        // Nobody may be waiting any more; the next one finds the state.
        let _ = sender.send(Some(outcome));
    }

    async fn load(&self, fetch: &Fetch, metrics: &GatewayMetrics) -> Result<IndexHeader, BlockFailure> {
        let path = self.path();
        match self.open(fetch, path.clone()).await {
            Ok(header) => return Ok(header),
            Err(BlockFailure::Damaged { source, .. }) if source.is_corruption() => {
                tracing::warn!(block = %self.block, error = %source, "index-header is built anew");
            }
            Err(_) => {}
        }
        let turn = fetch.header_turn(self.block).await?;
        let started = Instant::now();
        self.build(fetch, &path).await?;
        drop(turn);
        metrics.header_build_seconds.observe(started.elapsed().as_secs_f64());
        self.open(fetch, path).await
    }

    /// Errors speak of the index in the bucket, whose verbatim parts the header is.
    async fn open(&self, fetch: &Fetch, path: PathBuf) -> Result<IndexHeader, BlockFailure> {
        let what = format!("{} (index-header)", self.index_object());
        let block = self.block;
        let opened = fetch
            .compute(block, move || IndexHeader::open(what, &parallax_tsdb::mapped::open(&path)?))
            .await?;
        opened.map_err(|source| BlockFailure::Damaged { block, source })
    }

    /// Size, preamble, table of contents, symbols, postings table, the last two piece by piece. Renamed into place, so that a crash leaves
    /// no half a header under the name.
    async fn build(&self, fetch: &Fetch, path: &Path) -> Result<(), BlockFailure> {
        let (block, object) = (self.block, self.index_object());
        let object = object.as_str();
        let damaged = |source: TsdbError| BlockFailure::Damaged { block, source };
        let on_disk = |source| BlockFailure::Header { block: self.block, path: path.to_path_buf(), source };
        let size_bytes =
            fetch.bucket.head(object).await.map_err(|source| fetch.failed(block, source))?.size_bytes;
        let toc_range = IndexHeaderPlan::toc_range(object, size_bytes).map_err(damaged)?;
        let preamble = fetch.range(block, object, IndexHeaderPlan::preamble_range(), None).await?;
        let toc = fetch.range(block, object, toc_range, None).await?;
        let plan = IndexHeaderPlan::new(object, size_bytes, &preamble, &toc).map_err(damaged)?;

        tokio::fs::create_dir_all(self.directory()).await.map_err(on_disk)?;
        let staged = path.with_extension("tmp");
        let mut file = tokio::fs::File::create(&staged).await.map_err(on_disk)?;
        file.write_all(&plan.header_start()).await.map_err(on_disk)?;
        for section in [plan.symbols_range(), plan.postings_table_range()] {
            let mut next = section.start;
            while next < section.end {
                let piece = next..section.end.min(next.saturating_add(MAX_RANGE_BYTES));
                let bytes = fetch.range(block, object, piece.clone(), None).await?;
                let missing = (piece.end - piece.start).saturating_sub(bytes.len() as u64);
                if missing > 0 {
                    return Err(damaged(TsdbError::truncated(object, piece.start, missing)));
                }
                file.write_all(&bytes).await.map_err(on_disk)?;
                next = piece.end;
            }
        }
        file.write_all(&plan.header_end()).await.map_err(on_disk)?;
        file.flush().await.map_err(on_disk)?;
        tokio::fs::rename(&staged, path).await.map_err(on_disk)
    }
}
