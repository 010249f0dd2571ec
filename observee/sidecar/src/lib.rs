//! Prometheus to StoreAPI, and its finished blocks to the bucket.
//!
//! A [`Sidecar`] stands beside one Prometheus. A heartbeat keeps what is known of Prometheus current (`state`), the StoreAPI answers over remote
//! read (`store`); if there is a bucket the shipper runs (`shipper`), and if there is something to watch the reloader (`reloader`). They share
//! nothing but the last known state; whatever Prometheus does, the sidecar stays up and says what it sees in
//! readiness, Info and metrics.

#![forbid(unsafe_code)]

mod error;
mod http_client;
mod metrics;
mod passing;
mod prometheus;
mod reloader;
mod samples;
mod shipper;
mod side;
mod state;
mod store;
mod trouble;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parallax_block::HashFunction;
use parallax_bucket::Bucket;
use parallax_model::Labels;
use parallax_net::{Context, HttpClient};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

pub use error::SidecarError;
pub use reloader::{ReloadMethod, ReloaderConfig};
pub use shipper::Shipping;

use metrics::SidecarMetrics;
use prometheus::Prometheus;
use reloader::Reloader;
use shipper::{Lag, Shipper};
use state::{Heartbeat, State};
use trouble::Troubles;

/// How a sidecar is set up.
#[derive(Clone)]
pub struct SidecarConfig {
    /// Prometheus' base URL.
    pub prometheus_url: String,
    /// Options of the HTTP client as YAML, in Thanos' form; empty is none.
    pub http_client_yaml: String,
    /// How long Prometheus may take to be ready after the start.
    pub ready_timeout: Duration,
    /// How often external labels and time range are read again.
    pub heartbeat_interval: Duration,
    pub heartbeat_timeout: Duration,
    /// Older data is not served.
    pub min_time_ms: i64,
    /// Most series and samples of one Series answer; 0 is no limit.
    pub max_series: usize,
    pub max_samples: usize,
    /// Remote reads at once; further ones wait. Prometheus' own default limit is 10.
    pub max_concurrent_reads: usize,
    /// How long a further one waits before it is refused.
    pub max_read_wait: Duration,
    /// Ships blocks, if set.
    pub shipper: Option<ShipperConfig>,
    /// Watches configuration and rules, if set.
    pub reloader: Option<ReloaderConfig>,
}

/// How blocks are shipped.
#[derive(Clone)]
pub struct ShipperConfig {
    pub bucket: Bucket,
    /// Prometheus' data directory.
    pub tsdb_path: PathBuf,
    /// Name of the journal of uploads in that directory.
    pub journal_name: String,
    /// Also ship blocks that Prometheus made of others.
    pub upload_compacted: bool,
    /// Go on with newer blocks after one that failed.
    pub allow_out_of_order: bool,
    /// Ship although Prometheus may compact blocks first.
    pub ignore_unequal_block_size: bool,
    pub hash: HashFunction,
    /// How many files of chunks of a block go up at once; 0 is 1.
    pub upload_concurrency: usize,
    pub interval: Duration,
}

impl SidecarConfig {
    /// Thanos' defaults for the Prometheus at `prometheus_url`, without a shipper.
    pub fn new(prometheus_url: impl Into<String>) -> Self {
        Self {
            prometheus_url: prometheus_url.into(),
            http_client_yaml: String::new(),
            ready_timeout: Duration::from_secs(600),
            heartbeat_interval: Duration::from_secs(30),
            heartbeat_timeout: Duration::from_secs(30),
            min_time_ms: i64::MIN,
            max_series: 0,
            max_samples: 0,
            max_concurrent_reads: 10,
            max_read_wait: Duration::from_secs(20),
            shipper: None,
            reloader: None,
        }
    }
}

impl ShipperConfig {
    /// Thanos' defaults.
    pub fn new(bucket: Bucket, tsdb_path: impl Into<PathBuf>) -> Self {
        Self {
            bucket,
            tsdb_path: tsdb_path.into(),
            journal_name: "thanos.shipper.json".to_owned(),
            upload_compacted: false,
            allow_out_of_order: false,
            ignore_unequal_block_size: false,
            hash: HashFunction::None,
            upload_concurrency: 0,
            interval: Duration::from_secs(30),
        }
    }
}

/// The background tasks of a sidecar; ends with the context, or with the reason why the sidecar cannot go on.
pub type Running = JoinHandle<Result<(), SidecarError>>;

/// A running sidecar: a `Store`, until the context shuts down.
pub struct Sidecar {
    config: SidecarConfig,
    prometheus: Prometheus,
    state: watch::Receiver<Option<State>>,
    /// Why Prometheus is not known yet.
    failure: watch::Receiver<Option<String>>,
    reads: Arc<Semaphore>,
    metrics: SidecarMetrics,
    troubles: Troubles,
    lag: Option<Arc<Lag>>,
}

impl Sidecar {
    /// Starts the heartbeat, the shipper and the reloader. Returns at once: until Prometheus has answered, the store is not ready.
    ///
    /// The handle gives the reason if the sidecar cannot go on: Prometheus was never ready within the configured time.
    ///
    /// # Errors
    /// If the configuration is unusable.
    pub fn start(config: SidecarConfig, context: &Context) -> Result<(Arc<Self>, Running), SidecarError> {
        let http = http_client::config(&config.prometheus_url, &config.http_client_yaml)?;
        let http = HttpClient::new(http).map_err(|error| SidecarError::HttpClient(error.to_string()))?;
        let prometheus = Prometheus::new(&config.prometheus_url, http);
        let metrics = SidecarMetrics::new(&context.metrics);
        let (publish, state) = watch::channel(None);
        let (fail, failure) = watch::channel(None);
        let heartbeat = Heartbeat::new(&config, prometheus.clone(), metrics.clone(), publish, fail, context);
        let shipper = config.shipper.clone().map(|shipper| {
            let metrics = metrics.clone();
            Shipper::new(shipper, prometheus.clone(), state.clone(), metrics)
        });
        let lag = shipper.as_ref().map(Shipper::lag);
        let reloader = config.reloader.clone();
        let reloader = reloader
            .map(|reloader| Reloader::new(reloader, prometheus.clone(), &context.metrics))
            .transpose()?;
        let shutdown = context.shutdown.clone();
        let task = tokio::spawn(async move {
            let shipping = async {
                match shipper {
                    Some(shipper) => shipper.run().await,
                    None => std::future::pending().await,
                }
            };
            let reloading = async {
                match reloader {
                    Some(reloader) => reloader.run().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                result = heartbeat.run() => result,
                () = shipping => Ok(()),
                () = reloading => Ok(()),
            }
        });
        let reads = Arc::new(Semaphore::new(config.max_concurrent_reads.max(1)));
        let troubles = Troubles::new(metrics.clone());
        Ok((Arc::new(Self { config, prometheus, state, failure, reads, metrics, troubles, lag }), task))
    }

    /// How far the bucket is behind, as of the last look; `None` where nothing is shipped.
    pub fn shipping(&self) -> Option<Shipping> {
        self.lag.as_ref().map(|lag| lag.now())
    }

    /// The external labels of Prometheus, once they are known.
    pub fn external_labels(&self) -> Option<Labels> {
        self.state.borrow().as_ref().map(|state| state.external_labels.clone())
    }
}
