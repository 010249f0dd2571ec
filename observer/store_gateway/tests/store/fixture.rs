//! A gateway over a golden bucket, or over a copy of one that a test may damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use parallax_bucket::{Bucket, BucketConfig, RetryPolicy};
use parallax_net::Context;
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::{Store, frames, matchers};
use tonic::{Request, Status};

/// The shared golden data, or the small copy in the repository; `None` if neither has it.
pub fn find_golden(what: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    [shared.join("golden").join(what), root.join("tests/golden").join(what)]
        .into_iter()
        .find(|path| path.exists())
}

pub fn golden(what: &str) -> PathBuf {
    find_golden(what).unwrap_or_else(|| panic!("no golden {what}"))
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::write(target, std::fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

pub struct Fixture {
    pub gateway: Arc<StoreGateway>,
    pub context: Context,
    data_dir: tempfile::TempDir,
    bucket: PathBuf,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

impl Fixture {
    pub async fn new(bucket: &Path) -> Self {
        Self::with(bucket, |_| {}).await
    }

    pub async fn with(bucket: &Path, change: impl FnOnce(&mut StoreGatewayConfig)) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let mut config = StoreGatewayConfig::new(BucketConfig::filesystem(bucket), data_dir.path());
        change(&mut config);
        let context = Context::for_test();
        let gateway = StoreGateway::start(config, context.clone()).await.unwrap();
        gateway.sync().await.unwrap();
        Self { gateway, context, data_dir, bucket: bucket.to_path_buf() }
    }

    /// The same data directory, another process.
    pub async fn restarted(&self) -> Arc<StoreGateway> {
        let config = StoreGatewayConfig::new(BucketConfig::filesystem(&self.bucket), self.data_dir.path());
        let gateway = StoreGateway::start(config, Context::for_test()).await.unwrap();
        gateway.sync().await.unwrap();
        gateway
    }

    pub fn data_dir(&self) -> &Path {
        self.data_dir.path()
    }

    pub async fn series(&self, request: SeriesRequest) -> Result<frames::Collected, Status> {
        series(&*self.gateway, request).await
    }

    pub fn metric(&self, line: &str) -> bool {
        self.context.metrics.encode().unwrap().contains(line)
    }
}

pub async fn series(store: &dyn Store, request: SeriesRequest) -> Result<frames::Collected, Status> {
    frames::collect(store.series(Request::new(request)).await?).await
}

/// The objects of a directory, in memory: what it costs to read them can be counted, and reading can be made to fail.
pub async fn in_memory(directory: &Path) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let bucket = Bucket::new(store.clone(), "", "to be filled").unwrap();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
            bucket.put(&name, std::fs::read(&path).unwrap().into()).await.unwrap();
        }
    }
    store
}

/// A gateway over a store that is not a directory. It has not synced yet.
pub async fn start_on(
    store: Arc<dyn ObjectStore>,
    data_dir: &Path,
    context: &Context,
    change: impl FnOnce(&mut StoreGatewayConfig),
) -> Arc<StoreGateway> {
    let retry = RetryPolicy { max_attempts: 3, first_pause: Duration::ZERO, max_pause: Duration::ZERO };
    let bucket = Bucket::new(store, "", "in memory").unwrap().with_retry(retry);
    let mut config = StoreGatewayConfig::new(BucketConfig::filesystem("nowhere"), data_dir);
    // Only when a test says so.
    config.sync_interval = Duration::from_secs(3600);
    change(&mut config);
    StoreGateway::start_on(bucket, config, context.clone()).await.unwrap()
}

/// Everything with a metric name, over all time.
pub fn everything() -> SeriesRequest {
    let any = parallax_model::Matcher::new(parallax_model::MatchOp::Regex, "__name__", ".+").unwrap();
    SeriesRequest {
        min_time: 0,
        max_time: i64::MAX,
        matchers: matchers::to_wire(&[any]),
        ..SeriesRequest::default()
    }
}
