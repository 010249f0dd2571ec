//! [`Compactor`]: passes over one bucket, once or for ever.

pub(crate) mod making;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parallax_block::{BlockMeta, Fetcher, FetcherConfig, FetcherMetrics, Filter};
use parallax_bucket::BucketError;
use parallax_model::Resolution;
use parallax_net::{Condition, Context};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::CompactError;
use crate::compaction::{Job, JobConfig};
use crate::config::CompactorConfig;
use crate::lease::Leases;
use crate::metrics::CompactorMetrics;
use crate::pass::{Chore, Pace, Pass, PassReport, Progress};
use crate::quarantine::Quarantine;
use crate::view::{View, ViewReading, millis};

/// Where blocks are staged, within the data directory.
const STAGING_DIRECTORY: &str = "compact";

/// Where the fetcher keeps metas, within the data directory, as Thanos has it.
const META_CACHE_DIRECTORY: &str = "meta-syncer";

/// A compactor of one bucket.
#[derive(Debug)]
pub struct Compactor {
    pub(crate) config: CompactorConfig,
    pub(crate) job: Job,
    pub(crate) metrics: CompactorMetrics,
    pub(crate) quarantine: Quarantine,
    pub(crate) leases: Option<Leases>,
    /// Whether the bucket was found to have what leases need.
    is_shareable: AtomicBool,
    pub(crate) shutdown: CancellationToken,
    fetcher: Fetcher,
    condition: Condition,
    progress: Mutex<Progress>,
    pace: Mutex<Pace>,
    last_pass: Mutex<Option<PassReport>>,
    /// One pass at a time.
    running: tokio::sync::Mutex<()>,
}

impl Compactor {
    /// Makes a compactor that has not begun yet; what an earlier process left in the staging directory is removed.
    ///
    /// # Errors
    /// If the data directory cannot be used.
    pub fn new(mut config: CompactorConfig, context: &Context) -> Result<Arc<Self>, CompactError> {
        let staging_dir = config.data_dir.join(STAGING_DIRECTORY);
        match std::fs::remove_dir_all(&staging_dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(CompactError::File { path: staging_dir, source });
            }
            _ => {}
        }
        let path = staging_dir.clone();
        std::fs::create_dir_all(&staging_dir).map_err(|source| CompactError::File { path, source })?;
        config.plan.vertical |= !config.replica_labels.is_empty();
        let fetcher_config = FetcherConfig {
            concurrency: config.fetch_concurrency,
            cache_dir: Some(config.data_dir.join(META_CACHE_DIRECTORY)),
            filters: vec![
                Filter::Time(config.time_range),
                Filter::Selector(config.selector.clone()),
                Filter::Consistency { delay: config.consistency_delay },
            ],
        };
        let metrics = CompactorMetrics::register(&context.metrics, config.delete_delay);
        let job = Job::new(JobConfig {
            bucket: config.bucket.clone(),
            staging_dir,
            workers: config.workers,
            hash: config.hash,
            max_index_size_bytes: config.plan.max_index_size_bytes,
            clock: config.clock.clone(),
            cancelled: context.shutdown.clone(),
        });
        Ok(Arc::new(Self {
            fetcher: Fetcher::new(
                config.bucket.clone(),
                fetcher_config,
                FetcherMetrics::register(&context.metrics),
            ),
            job,
            metrics,
            quarantine: Quarantine::default(),
            leases: config
                .sharing
                .clone()
                .map(|sharing| Leases::new(config.bucket.clone(), sharing, config.clock.clone())),
            is_shareable: AtomicBool::new(false),
            shutdown: context.shutdown.clone(),
            condition: context.readiness.condition("compact"),
            progress: Mutex::default(),
            pace: Mutex::default(),
            last_pass: Mutex::default(),
            running: tokio::sync::Mutex::new(()),
            config,
        }))
    }

    /// Runs in the background: one pass, or passes until shutdown. The handle ends with the first error that ends it all.
    pub fn start(self: &Arc<Self>) -> JoinHandle<Result<(), CompactError>> {
        let compactor = Arc::clone(self);
        self.condition.ready();
        tokio::spawn(async move { compactor.run().await })
    }

    async fn run(&self) -> Result<(), CompactError> {
        let Some(interval) = self.config.wait_interval else {
            return self.pass(now_ms()).await.map(|_| ());
        };
        loop {
            match self.pass(now_ms()).await {
                Ok(_) => {}
                Err(CompactError::Interrupted) => return Ok(()),
                Err(error @ CompactError::Unshareable(_)) => return Err(error),
                Err(error) => {
                    self.metrics.retries.inc();
                    tracing::error!(%error, "the pass ended early; the next one tries again");
                }
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// One pass over the bucket. `now_ms` is milliseconds since the epoch.
    ///
    /// # Errors
    /// If the block list cannot be read, or the process is to end.
    pub async fn pass(&self, now_ms: i64) -> Result<PassReport, CompactError> {
        let _one_at_a_time = self.running.lock().await;
        self.check_sharing(now_ms).await?;
        let report = Pass::run(self, now_ms).await?;
        self.metrics.iterations.inc();
        tracing::info!(?report, "pass finished");
        *self.last_pass.lock().unwrap_or_else(PoisonError::into_inner) = Some(report.clone());
        Ok(report)
    }

    /// One of the things that a pass does, by itself. `now_ms` is milliseconds since the epoch.
    ///
    /// # Errors
    /// As [`Self::pass`].
    pub async fn chore(&self, chore: Chore, now_ms: i64) -> Result<PassReport, CompactError> {
        let _one_at_a_time = self.running.lock().await;
        Pass::run_chore(self, chore, now_ms).await
    }

    /// Refuses to share a bucket that has no conditional writes.
    async fn check_sharing(&self, now_ms: i64) -> Result<(), CompactError> {
        let Some(leases) = self.leases.as_ref().filter(|_| !self.is_shareable.load(Ordering::Relaxed)) else {
            return Ok(());
        };
        match leases.probe(now_ms).await {
            Ok(()) => {
                self.is_shareable.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error @ BucketError::Unconditional { .. }) => Err(CompactError::Unshareable(error)),
            Err(error) => Err(CompactError::Block(parallax_block::BlockError::List(error))),
        }
    }

    /// Groups that are set aside.
    pub fn quarantine(&self) -> &Quarantine {
        &self.quarantine
    }

    /// What is left to do after the last pass.
    pub fn progress(&self) -> Progress {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the last pass did.
    pub fn last_pass(&self) -> Option<PassReport> {
        self.last_pass.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn pace(&self) -> Pace {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what was done.
    pub(crate) fn note_done(&self, done: Pace) {
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.size_bytes = pace.size_bytes.saturating_add(done.size_bytes);
        pace.took = pace.took.saturating_add(done.took);
        pace.compactions += done.compactions;
        pace.downsamples += done.downsamples;
    }

    pub(crate) fn note_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(crate) async fn read_view(&self, now_ms: i64) -> Result<View, CompactError> {
        let config = &self.config;
        let reading = ViewReading {
            bucket: &config.bucket,
            delete_delay: config.delete_delay,
            concurrency: config.fetch_concurrency,
            takes: &|meta| {
                let labels = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone());
                config
                    .shard
                    .is_none_or(|shard| shard.takes(&labels.unwrap_or_default(), &config.replica_labels))
            },
        };
        let view = View::read(&self.fetcher, &reading, now_ms).await?;
        if view.complete {
            self.publish_catalog().await;
        }
        Ok(view)
    }

    /// Readers of the bucket need not ask for each block. Without it they do, so a failure is no more than a warning.
    async fn publish_catalog(&self) {
        if let Err(error) = self.fetcher.publish_catalog().await {
            tracing::warn!(%error, "the catalog of blocks was not written");
        }
    }

    /// Whether a block is older than its resolution is kept.
    pub(crate) fn is_retired(&self, meta: &BlockMeta, now_ms: i64) -> bool {
        meta.resolution().is_some_and(|resolution| self.is_past(meta, resolution, now_ms))
    }

    /// Whether a block would be retired if it were of another resolution.
    pub(crate) fn is_past(&self, meta: &BlockMeta, resolution: Resolution, now_ms: i64) -> bool {
        let kept = self.config.kept(meta, resolution);
        kept.is_some_and(|kept| now_ms > meta.max_time_ms.saturating_add(millis(kept)))
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
