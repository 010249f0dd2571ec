//! What a fetcher counts, under Thanos' names.

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::filter::BlockState;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Upper bounds, in seconds, of the duration of a sync: Thanos' own.
const SYNC_BUCKETS_SECONDS: [f64; 9] = [0.01, 1.0, 10.0, 100.0, 300.0, 600.0, 1000.0, 3000.0, 6000.0];

/// A clone counts into the same numbers.
#[derive(Clone, Debug)]
pub struct FetcherMetrics {
    synced: Family<StateLabels, Gauge>,
    syncs: Counter,
    failures: Counter,
    duration: Histogram,
}

impl Default for FetcherMetrics {
    fn default() -> Self {
        Self {
            synced: Family::default(),
            syncs: Counter::default(),
            failures: Counter::default(),
            duration: Histogram::new(SYNC_BUCKETS_SECONDS),
        }
    }
}

impl FetcherMetrics {
    pub fn register(registry: &Metrics) -> Self {
        let fresh = Self::default();
        Self {
            synced: registry.register(
                "thanos_blocks_meta_synced",
                "Blocks by what the last sync made of them",
                fresh.synced,
            ),
            syncs: registry.register("thanos_blocks_meta_syncs", "Syncs of the block list", fresh.syncs),
            failures: registry.register(
                "thanos_blocks_meta_sync_failures",
                "Syncs of the block list that failed, in whole or for some blocks",
                fresh.failures,
            ),
            duration: registry.register(
                "thanos_blocks_meta_sync_duration_seconds",
                "Duration of a sync of the block list",
                fresh.duration,
            ),
        }
    }

    pub(crate) fn finished(&self, took: std::time::Duration, complete: bool) {
        self.syncs.inc();
        self.duration.observe(took.as_secs_f64());
        if !complete {
            self.failures.inc();
        }
    }

    pub(crate) fn set(&self, state: BlockState, blocks: usize) {
        let labels = StateLabels { state: state.name() };
        self.synced.get_or_create(&labels).set(i64::try_from(blocks).unwrap_or(i64::MAX));
    }

    /// How many blocks the last sync put in a state.
    pub fn synced(&self, state: BlockState) -> i64 {
        self.synced.get_or_create(&StateLabels { state: state.name() }).get()
    }
}
