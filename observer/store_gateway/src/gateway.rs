//! [`StoreGateway`]: keeps the list of blocks in step with the bucket, and answers calls on the present list.
//!
//! Every call is refused until the first sync has succeeded. A later sync that fails leaves the list as it was, and is logged and visible as
//! the age of the last success; after several in a row the gateway says that it is not ready, and why, and answers all the same. A sync that could not see
//! all of the bucket adds blocks but drops none.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use parallax_block::{
    BlockState, BlockSummary, Fetcher, FetcherConfig, FetcherMetrics, Filter, SyncedBlocks,
};
use parallax_bucket::{Access, Bucket, BucketMetrics};
use parallax_model::TimeRange;
use parallax_net::{Condition, Context};
use parallax_storeapi::encoded::{self, WireStream};
use parallax_storeapi::proto::parallax::v1::{ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, SideServices, Store, deadline_of};
use tonic::{Request, Status};

use crate::block::Block;
use crate::block_list::BlockList;
use crate::blocks::{Blocks, Unserved};
use crate::config::{LazyPostings, Limits, StoreGatewayConfig};
use crate::error::Error;
use crate::fetch::Fetch;
use crate::gate::Gate;
use crate::metrics::GatewayMetrics;
use crate::{info, label_calls, series_call};

/// How long after a failed first sync the next attempt is made, at most.
const FIRST_SYNC_RETRY: Duration = Duration::from_secs(5);

/// How long after another failed sync the next attempt is made, at most.
const SYNC_RETRY: Duration = Duration::from_secs(60);

/// A list is read early, because something was gone, no sooner than so long after the one before.
const GONE_PAUSE: Duration = Duration::from_secs(30);

/// Where the fetcher keeps what it knows, within the data directory, as Thanos has it.
const META_CACHE_DIRECTORY: &str = "meta-syncer";

/// A bucket of blocks behind one StoreAPI.
#[derive(Debug)]
pub struct StoreGateway {
    config: StoreGatewayConfig,
    serving: Arc<Serving>,
    fetcher: Fetcher<BlockSummary>,
    data_dir: Arc<Path>,
    condition: Condition,
    is_ready: AtomicBool,
    synced: Mutex<Synced>,
    /// One sync at a time.
    syncing: tokio::sync::Mutex<()>,
}

/// What came of the syncs so far.
#[derive(Debug, Default)]
struct Synced {
    /// Of the last one, well or not, in milliseconds since the epoch.
    at_ms: i64,
    /// Why the last one failed, and those before it since the last that did not.
    error: Option<String>,
    failures: u32,
    /// Whether readiness was taken back because of that.
    is_unready: bool,
}

/// The blocks that are served, for people to look at.
#[derive(Debug)]
pub struct Loaded {
    /// By name.
    pub blocks: Vec<Arc<BlockSummary>>,
    /// When the list was last read or attempted to be, in milliseconds since the epoch; 0 if it was not.
    pub refreshed_ms: i64,
    /// Why that failed: then the blocks are those of the list before.
    pub error: Option<String>,
}

/// What calls need.
#[derive(Debug)]
pub struct Serving {
    pub list: Arc<BlockList>,
    pub fetch: Fetch,
    pub metrics: GatewayMetrics,
    pub limits: Limits,
    pub lazy_postings: LazyPostings,
    pub time_range: TimeRange,
    /// Of one call.
    pub request_buffer_bytes: u64,
    pub max_batch_bytes: u64,
    pub gate: Gate,
}

impl StoreGateway {
    /// Opens the bucket and starts syncing in the background, until `context.shutdown`.
    ///
    /// # Errors
    /// If the bucket's directory or the data directory cannot be used; the message names it.
    pub async fn start(config: StoreGatewayConfig, context: Context) -> Result<Arc<Self>, Error> {
        let bucket = Bucket::open(&config.bucket, Access::Read)?
            .with_metrics(BucketMetrics::register(&context.metrics))
            .with_caches(config.caches.bucket.clone());
        Self::start_on(bucket, config, context).await
    }

    /// As [`Self::start`], on a bucket that is already open (`config.bucket` and `config.caches.bucket` are not looked at).
    ///
    /// # Errors
    /// If the data directory cannot be made.
    pub async fn start_on(
        bucket: Bucket,
        config: StoreGatewayConfig,
        context: Context,
    ) -> Result<Arc<Self>, Error> {
        crate::buffers::keep();
        let directory = config.data_dir.clone();
        tokio::fs::create_dir_all(&directory).await.map_err(|source| Error::DataDir { directory, source })?;
        let fetcher_config = FetcherConfig {
            concurrency: config.block_sync_concurrency,
            cache_dir: Some(config.data_dir.join(META_CACHE_DIRECTORY)),
            filters: vec![
                Filter::Time(config.time_range),
                Filter::Selector(config.selector.clone()),
                Filter::Consistency { delay: config.consistency_delay },
                Filter::DeletionMark { delay: config.ignore_deletion_marks_delay },
                Filter::Duplicate,
            ],
        };
        let fetcher =
            Fetcher::keeping(bucket.clone(), fetcher_config, FetcherMetrics::register(&context.metrics));
        let serving = Serving {
            list: Arc::default(),
            fetch: Fetch::new(bucket, config.max_gap_bytes, config.fetch_concurrency, config.cpu_concurrency)
                .with_index_cache(config.caches.index.clone()),
            metrics: GatewayMetrics::register(&context.metrics),
            limits: config.limits,
            lazy_postings: config.lazy_postings,
            time_range: config.time_range,
            request_buffer_bytes: config.call_buffer_bytes(),
            max_batch_bytes: config.max_batch_bytes,
            gate: Gate::new(config.series_max_concurrency, config.series_max_waiting),
        };
        serving.metrics.gate_max.set(i64::try_from(serving.gate.max_running()).unwrap_or(i64::MAX));
        let gateway = Arc::new(Self {
            serving: Arc::new(serving),
            fetcher,
            data_dir: config.data_dir.as_path().into(),
            synced: Mutex::default(),
            condition: context.readiness.condition("store"),
            is_ready: AtomicBool::new(false),
            syncing: tokio::sync::Mutex::new(()),
            config,
        });
        tokio::spawn(Arc::clone(&gateway).keep_synced(context.shutdown.clone()));
        tokio::spawn(Arc::clone(&gateway).unload_idle_headers(context.shutdown));
        Ok(gateway)
    }

    /// Reads the block list now, for few requests. Once this has succeeded the gateway is ready.
    ///
    /// # Errors
    /// If the bucket cannot be listed; the blocks served stay as they were.
    pub async fn sync(&self) -> Result<(), Error> {
        self.sync_once().await.map(|_| ())
    }

    /// The blocks that are served now.
    pub fn loaded(&self) -> Loaded {
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let blocks = self.blocks().all().map(|block| Arc::clone(&block.meta)).collect();
        Loaded { blocks, refreshed_ms: synced.at_ms, error: synced.error.clone() }
    }

    /// Says when the list should be read again at the latest.
    async fn sync_once(&self) -> Result<Duration, Error> {
        let _one_at_a_time = self.syncing.lock().await;
        let _until_replaced = self.serving.list.begin_sync();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let synced = match self.fetcher.refresh(now_ms).await {
            Ok(synced) => synced,
            Err(error) => {
                let error = Error::from(error);
                self.failed(now_ms, error.to_string());
                return Err(error);
            }
        };
        let within = match (synced.complete, synced.is_stale) {
            (false, _) => SYNC_RETRY,
            // As after a restart: what was remembered is served, and is to be checked now.
            (true, true) => Duration::ZERO,
            (true, false) => Duration::MAX,
        };
        for problem in &synced.problems {
            if problem.state != BlockState::NoMeta {
                tracing::warn!(block = %problem.block, state = problem.state.name(), error = %problem.error, "block has a problem");
            }
        }
        self.replace(synced);
        let metrics = &self.serving.metrics;
        metrics.last_sync.set(now.as_secs_f64());
        let was_ready = self.is_ready.swap(true, Ordering::AcqRel);
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if !was_ready || synced.is_unready {
            self.condition.ready();
        }
        *synced = Synced { at_ms: now_ms, ..Synced::default() };
        Ok(within)
    }

    fn failed(&self, now_ms: i64, error: String) {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        synced.at_ms = now_ms;
        synced.failures = synced.failures.saturating_add(1);
        let is_too_often = self.config.unready_after_failures.is_some_and(|most| synced.failures >= most);
        if !self.is_ready.load(Ordering::Acquire) || is_too_often {
            self.condition.not_ready(error.clone());
            synced.is_unready = true;
        }
        synced.error = Some(error);
    }

    fn replace(&self, synced: SyncedBlocks<BlockSummary>) {
        let old = self.blocks();
        let unserved: Vec<Unserved> = synced
            .problems
            .iter()
            .filter(|problem| matches!(problem.state, BlockState::CorruptedMeta | BlockState::Failed))
            .filter(|problem| synced.complete || old.get(problem.block).is_none())
            .map(|problem| Unserved { block: problem.block, reason: problem.error.to_string() })
            .collect();
        let mut blocks: Vec<Arc<Block>> = Vec::with_capacity(synced.blocks.len());
        for (id, meta) in &synced.blocks {
            let known = old.get(*id).filter(|block| block.meta == *meta);
            let block = known.cloned().unwrap_or_else(|| {
                self.serving.metrics.block_loads.inc();
                Arc::new(Block::new(Arc::clone(meta), &self.data_dir))
            });
            blocks.push(block);
        }
        for block in old.all() {
            if synced.blocks.contains_key(&block.id()) {
                continue;
            }
            let unseen = synced.dropped.get(&block.id()) == Some(&BlockState::Failed);
            if unseen || !synced.complete && !synced.dropped.contains_key(&block.id()) {
                blocks.push(Arc::clone(block));
            } else {
                self.serving.metrics.block_drops.inc();
                if !block.header.remove_file() {
                    self.serving.metrics.block_drop_failures.inc();
                }
            }
        }
        let blocks = Blocks::new(blocks, unserved);
        self.serving.metrics.blocks_loaded.set(i64::try_from(blocks.len()).unwrap_or(i64::MAX));
        self.serving.list.replace(blocks);
    }

    fn blocks(&self) -> Arc<Blocks> {
        self.serving.list.present()
    }

    /// The blocks; an error as long as nobody knows which there are.
    fn listed(&self) -> Result<Arc<Blocks>, Status> {
        if self.is_ready.load(Ordering::Acquire) {
            Ok(self.blocks())
        } else {
            Err(Status::unavailable("the store has not read its block list yet"))
        }
    }

    async fn keep_synced(self: Arc<Self>, shutdown: tokio_util::sync::CancellationToken) {
        let mut gone_counts_from = tokio::time::Instant::now() + GONE_PAUSE;
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                result = self.sync_once() => result,
            };
            let mut pause = self.config.sync_interval;
            match result {
                Ok(within) => pause = pause.min(within),
                Err(error) => {
                    tracing::error!(%error, "block list was not synced");
                    pause = pause.min(SYNC_RETRY);
                    if !self.is_ready.load(Ordering::Acquire) {
                        pause = pause.min(FIRST_SYNC_RETRY);
                    }
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
                () = self.something_gone(gone_counts_from) => {
                    self.fetcher.distrust();
                    gone_counts_from = tokio::time::Instant::now() + GONE_PAUSE;
                }
                () = self.serving.list.wanted() => {}
            }
        }
    }

    /// A block that was listed turned out to be gone: time for a list of the whole bucket, but not all the time.
    async fn something_gone(&self, counts_from: tokio::time::Instant) {
        tokio::time::sleep_until(counts_from).await;
        self.serving.fetch.gone.notified().await;
    }

    async fn unload_idle_headers(self: Arc<Self>, shutdown: tokio_util::sync::CancellationToken) {
        let idle = self.config.index_header_idle_timeout;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep((idle / 2).max(Duration::from_millis(10))) => {}
            }
            for block in self.blocks().all() {
                if block.header.unload_if_idle(idle) {
                    self.serving.metrics.header_unloads.inc();
                }
            }
        }
    }
}

#[async_trait]
impl Store for StoreGateway {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(info::info(&*self.listed()?, &self.serving.time_range))
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.series_encoded(request).await.map(encoded::decoded)
    }

    async fn series_encoded(&self, request: Request<SeriesRequest>) -> Result<WireStream, Status> {
        series_call::series(&self.serving, self.listed()?, request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let deadline = deadline_of(&request);
        let call = label_calls::label_names(&self.serving, self.listed()?, request.into_inner());
        parallax_storeapi::deadline::by(deadline, call).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let deadline = deadline_of(&request);
        let call = label_calls::label_values(&self.serving, self.listed()?, request.into_inner());
        parallax_storeapi::deadline::by(deadline, call).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for StoreGateway {
    /// Ships nothing; what it says of what it holds is exact.
    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        Ok(ShippingResponse { tsdb_infos_cover: true, ..ShippingResponse::default() })
    }
}
