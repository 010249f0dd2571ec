//! What a remote cache counts, under Thanos' names where it has them.

use std::time::Duration;

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::server::Failure;

/// Why a value was not written, or not believed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    TooLarge,
    QueueFull,
    Corrupt,
}

impl Why {
    const fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "max-item-size",
            Self::QueueFull => "async-buffer-full",
            Self::Corrupt => "corrupt",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    operation: &'static str,
    reason: &'static str,
}

/// Thanos' bounds.
const DURATION_BUCKETS_SECONDS: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 3.0, 6.0, 10.0];

pub(super) struct RemoteMetrics {
    requests: Counter,
    hits: Counter,
    operations: Family<OperationLabels, Counter>,
    failures: Family<ReasonLabels, Counter>,
    skipped: Family<ReasonLabels, Counter>,
    duration: Family<OperationLabels, Histogram>,
}

impl RemoteMetrics {
    /// `kind` is `memcached` or `redis`.
    pub(super) fn register(metrics: &Metrics, kind: &str, name: &str) -> Self {
        let metrics = metrics.scoped([("name", name)]);
        let register = |name: &str, help: &str| {
            metrics.register(&format!("thanos_cache_{kind}_{name}"), help, Counter::default())
        };
        let durations = Family::<OperationLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(DURATION_BUCKETS_SECONDS)
        });
        Self {
            requests: register("requests", "Values asked of the cache"),
            hits: register("hits", "Values found in the cache"),
            operations: metrics.register(
                &format!("thanos_{kind}_operations"),
                "Requests to the cache's servers",
                Family::default(),
            ),
            failures: metrics.register(
                &format!("thanos_{kind}_operation_failures"),
                "Requests to the cache's servers that failed, and values that were not what was put there",
                Family::default(),
            ),
            skipped: metrics.register(
                &format!("thanos_{kind}_operation_skipped"),
                "Values that were not written to the cache",
                Family::default(),
            ),
            duration: metrics.register(
                &format!("thanos_{kind}_operation_duration_seconds"),
                "Duration of successful requests to the cache's servers",
                durations,
            ),
        }
    }

    pub(super) fn requested(&self, keys: usize) {
        self.requests.inc_by(keys as u64);
    }

    pub(super) fn hit(&self, values: usize) {
        self.hits.inc_by(values as u64);
    }

    pub(super) fn finished(&self, operation: &'static str, took: Duration, failure: Option<&Failure>) {
        self.operations.get_or_create(&OperationLabels { operation }).inc();
        let reason = match failure {
            None => {
                self.duration.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
                return;
            }
            Some(Failure::Resting) => "circuit-breaker",
            Some(Failure::Timeout) => "timeout",
            Some(Failure::Io(error)) => {
                tracing::debug!(operation, %error, "cache request failed");
                "network-error"
            }
        };
        self.failures.get_or_create(&ReasonLabels { operation, reason }).inc();
    }

    pub(super) fn failed(&self, operation: &'static str, why: Why) {
        self.failures.get_or_create(&ReasonLabels { operation, reason: why.name() }).inc();
    }

    pub(super) fn skipped(&self, why: Why) {
        self.skipped.get_or_create(&ReasonLabels { operation: "set", reason: why.name() }).inc();
    }
}
