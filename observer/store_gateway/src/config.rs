//! What a store gateway can be told. Defaults are Thanos', but that index-headers are always loaded lazily, and postings where that is cheaper.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parallax_block::Selector;
use parallax_bucket::{BucketCaches, BucketConfig, Provider};
use parallax_model::TimeRange;

use crate::IndexCache;

/// Configuration of one gateway.
#[derive(Clone, Debug)]
pub struct StoreGatewayConfig {
    pub bucket: BucketConfig,
    /// Where index-headers and metas are kept; made if it does not exist, and safe to delete between runs.
    pub data_dir: PathBuf,
    pub sync_interval: Duration,
    /// After so many syncs that failed one after the other the gateway is not ready until one succeeds; `None` if it stays ready.
    pub unready_after_failures: Option<u32>,
    /// Only blocks with samples in this range are served, and only samples in it are asked for.
    pub time_range: TimeRange,
    /// Which of the blocks are this gateway's.
    pub selector: Selector,
    /// Blocks uploaded less than this ago are left out.
    pub consistency_delay: Duration,
    /// A block is served for this long after it was marked for deletion.
    pub ignore_deletion_marks_delay: Duration,
    pub limits: Limits,
    pub lazy_postings: LazyPostings,
    /// Series calls at a time; further ones wait.
    pub series_max_concurrency: usize,
    /// Series calls that may wait; further ones are refused.
    pub series_max_waiting: usize,
    /// Blocks whose metas and marks are read at a time during a sync.
    pub block_sync_concurrency: usize,
    /// Requests for ranges to the bucket at a time, over all calls.
    pub fetch_concurrency: usize,
    /// Threads' worth of decoding at a time, over all calls.
    pub cpu_concurrency: usize,
    /// Two wanted ranges of an object at most this far apart are fetched as one.
    pub max_gap_bytes: u64,
    /// Bytes of chunks that a block reads for a Series call at a time, at most.
    pub max_batch_bytes: u64,
    /// Bytes of chunks that one Series call may hold before they are sent, over all its blocks (each block holds at least one batch).
    pub request_buffer_bytes: u64,
    /// The same over all Series calls: where that is less, each gets its part of this.
    pub max_held_bytes: u64,
    pub caches: Caches,
    /// An index-header unused for this long leaves memory.
    pub index_header_idle_timeout: Duration,
}

/// What readers of a bucket remember; nothing by default. Several gateways may share them.
#[derive(Clone, Debug, Default)]
pub struct Caches {
    /// Of chunks, metas and marks.
    pub bucket: BucketCaches,
    pub index: Option<Arc<IndexCache>>,
}

/// When postings lists are left unread, because to read series that turn out not to match costs less. Answers are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LazyPostings {
    pub is_enabled: bool,
    /// A matcher that needs more lists than this for each series that the others may leave is not looked up, whatever the size of its lists; 0 is no such
    /// limit.
    pub max_lists_per_series: f64,
}

impl Default for LazyPostings {
    /// Thanos' ratio; enabled, which Thanos is not.
    fn default() -> Self {
        Self { is_enabled: true, max_lists_per_series: 100.0 }
    }
}

/// What one call may use; 0 is no limit. More is refused with `ResourceExhausted`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub request_series: u64,
    /// Counted as chunks, at 120 samples each.
    pub request_samples: u64,
    /// Postings, series entries and chunks together.
    pub downloaded_bytes: u64,
}

impl StoreGatewayConfig {
    pub fn new(bucket: BucketConfig, data_dir: impl Into<PathBuf>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            max_gap_bytes: gap_bytes(&bucket.provider),
            max_batch_bytes: batch_bytes(&bucket.provider),
            bucket,
            data_dir: data_dir.into(),
            sync_interval: Duration::from_secs(15 * 60),
            unready_after_failures: Some(3),
            time_range: TimeRange::ALL,
            selector: Selector::default(),
            consistency_delay: Duration::ZERO,
            ignore_deletion_marks_delay: Duration::from_secs(24 * 3600),
            limits: Limits::default(),
            lazy_postings: LazyPostings::default(),
            series_max_concurrency: 20,
            series_max_waiting: 1000,
            block_sync_concurrency: 20,
            fetch_concurrency: 64,
            cpu_concurrency: cpus,
            request_buffer_bytes: 256 << 20,
            max_held_bytes: 2 << 30,
            caches: Caches::default(),
            index_header_idle_timeout: Duration::from_secs(5 * 60),
        }
    }
}

impl StoreGatewayConfig {
    /// What one of as many calls as may run at a time may hold.
    pub(crate) fn call_buffer_bytes(&self) -> u64 {
        let calls = u64::try_from(self.series_max_concurrency).unwrap_or(u64::MAX).max(1);
        self.request_buffer_bytes.min(self.max_held_bytes / calls)
    }
}

/// What is worth reading for nothing rather than asking twice. A request to object storage costs about as much as half a megabyte
/// (Thanos' number); a read of a local file hardly more than its bytes.
fn gap_bytes(provider: &Provider) -> u64 {
    match provider {
        Provider::Filesystem { .. } => 16 << 10,
        _ => 512 << 10,
    }
}

/// From object storage many bytes are had by one request for the time of few. What is read of local files is best passed on while it is in the processor's caches.
fn batch_bytes(provider: &Provider) -> u64 {
    match provider {
        Provider::Filesystem { .. } => 512 << 10,
        _ => 8 << 20,
    }
}
