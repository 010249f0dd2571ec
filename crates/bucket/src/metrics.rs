//! What a bucket counts, under Thanos' names, so that existing dashboards and alerts keep working.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// What is done to a bucket; the label value `operation` of its metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Iter,
    Get,
    GetRange,
    Exists,
    Upload,
    Delete,
    Attributes,
}

impl Operation {
    const ALL: [Self; 7] =
        [Self::Iter, Self::Get, Self::GetRange, Self::Exists, Self::Upload, Self::Delete, Self::Attributes];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Iter => "iter",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Exists => "exists",
            Self::Upload => "upload",
            Self::Delete => "delete",
            Self::Attributes => "attributes",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    bucket: String,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BucketLabels {
    bucket: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HedgeLabels {
    bucket: String,
    /// `sent` or `won`.
    outcome: &'static str,
}

/// Upper bounds of the duration histogram, in seconds: Thanos' own.
const DURATION_BUCKETS_SECONDS: [f64; 12] =
    [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0];

/// The metrics of one or more buckets; a clone counts into the same numbers.
///
/// Made once per registry; [`crate::Bucket::with_metrics`] labels them with the bucket's name.
#[derive(Clone, Debug)]
pub struct BucketMetrics {
    operations: Family<OperationLabels, Counter>,
    failures: Family<OperationLabels, Counter>,
    duration: Family<OperationLabels, Histogram>,
    last_upload: Family<BucketLabels, Gauge<f64, AtomicU64>>,
    fetched: Family<OperationLabels, Counter>,
    hedged: Family<HedgeLabels, Counter>,
}

impl Default for BucketMetrics {
    fn default() -> Self {
        Self {
            operations: Family::default(),
            failures: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_SECONDS)),
            last_upload: Family::default(),
            fetched: Family::default(),
            hedged: Family::default(),
        }
    }
}

impl BucketMetrics {
    /// Metrics registered in `registry`; a second call gives the same ones.
    pub fn register(registry: &Metrics) -> Self {
        let fresh = Self::default();
        Self {
            operations: registry.register(
                "thanos_objstore_bucket_operations",
                "All attempted operations against a bucket",
                fresh.operations,
            ),
            failures: registry.register(
                "thanos_objstore_bucket_operation_failures",
                "Operations against a bucket that failed, apart from objects that do not exist",
                fresh.failures,
            ),
            duration: registry.register(
                "thanos_objstore_bucket_operation_duration_seconds",
                "Duration of successful operations against a bucket, retries included",
                fresh.duration,
            ),
            last_upload: registry.register(
                "thanos_objstore_bucket_last_successful_upload_time",
                "Unix time in seconds of the last successful upload",
                fresh.last_upload,
            ),
            fetched: registry.register(
                "thanos_objstore_bucket_operation_fetched_bytes",
                "Bytes fetched from a bucket",
                fresh.fetched,
            ),
            hedged: registry.register(
                "parallax_objstore_hedged_requests",
                "Further requests for reads that took long, and those of them that answered first",
                fresh.hedged,
            ),
        }
    }

    /// Makes every series of this bucket exist, at zero, so that rates have a start.
    pub(crate) fn begin(&self, bucket: &str) {
        for operation in Operation::ALL {
            let labels = OperationLabels { bucket: bucket.to_owned(), operation: operation.name() };
            drop(self.operations.get_or_create(&labels));
            drop(self.failures.get_or_create(&labels));
        }
        drop(self.last_upload.get_or_create(&BucketLabels { bucket: bucket.to_owned() }));
    }

    pub(crate) fn finished(&self, bucket: &str, operation: Operation, outcome: Outcome) {
        let labels = OperationLabels { bucket: bucket.to_owned(), operation: operation.name() };
        self.operations.get_or_create(&labels).inc();
        match outcome {
            Outcome::Failed => {
                self.failures.get_or_create(&labels).inc();
            }
            Outcome::Expected => {}
            Outcome::Done { took } => {
                self.duration.get_or_create(&labels).observe(took.as_secs_f64());
                if operation == Operation::Upload {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                    let labels = BucketLabels { bucket: bucket.to_owned() };
                    self.last_upload.get_or_create(&labels).set(now.as_secs_f64());
                }
            }
        }
    }

    pub(crate) fn fetched(&self, bucket: &str, operation: Operation, bytes: usize) {
        let labels = OperationLabels { bucket: bucket.to_owned(), operation: operation.name() };
        self.fetched.get_or_create(&labels).inc_by(bytes as u64);
    }

    pub(crate) fn hedged(&self, bucket: &str, further: u32, won: bool) {
        for (outcome, count) in [("sent", u64::from(further)), ("won", u64::from(won))] {
            if count > 0 {
                let labels = HedgeLabels { bucket: bucket.to_owned(), outcome };
                self.hedged.get_or_create(&labels).inc_by(count);
            }
        }
    }

    /// How many operations of a kind were attempted on a bucket: for tests that count requests.
    pub fn operations_of(&self, bucket: &str, operation: Operation) -> u64 {
        let labels = OperationLabels { bucket: bucket.to_owned(), operation: operation.name() };
        self.operations.get_or_create(&labels).get()
    }
}

/// How an operation ended.
pub(crate) enum Outcome {
    Done {
        took: Duration,
    },
    /// An object that does not exist, or a condition that does not hold.
    Expected,
    Failed,
}
