//! What a gateway counts: under Thanos' names where Thanos counts the same.

use std::sync::atomic::{AtomicU64, Ordering};

use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::chunk_sizes::ChunkSizes;
use crate::limits::{Data, Usage};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DataLabels {
    data_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabels {
    pub reason: &'static str,
}

type DataHistogram = Family<DataLabels, Histogram>;

/// A clone counts into the same numbers.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    pub blocks_loaded: Gauge,
    pub block_loads: Counter,
    pub block_load_failures: Counter,
    pub block_drops: Counter,
    pub block_drop_failures: Counter,
    pub blocks_replaced: Counter,
    pub lazy_postings: Counter,
    pub last_sync: Gauge<f64, AtomicU64>,
    pub header_loads: Counter,
    pub header_load_failures: Counter,
    pub header_unloads: Counter,
    pub header_build_seconds: Histogram,
    pub queries_dropped: Family<ReasonLabels, Counter>,
    pub warnings: Family<ReasonLabels, Counter>,
    pub gate_max: Gauge,
    pub gate_total: Counter,
    pub gate_seconds: Histogram,
    pub gate_queries: Gauge,
    pub merge_seconds: Histogram,
    pub chunk_sizes: ChunkSizes,
    pub blocks_queried: Histogram,
    touched: DataHistogram,
    fetched: DataHistogram,
    touched_bytes: DataHistogram,
    fetched_bytes: DataHistogram,
    result_series: Histogram,
    call_seconds: Histogram,
}

fn counts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 10.0, 8))
}

fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1024.0, 8.0, 9))
}

fn seconds() -> Histogram {
    Histogram::new([0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0])
}

/// Bounds of the wait for a turn, in seconds.
fn waits() -> Histogram {
    Histogram::new([
        0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0, 240.0, 360.0, 720.0,
    ])
}

/// The wait for a turn under Thanos' name, and under the one that its dashboards and alerts still ask for.
fn gate_seconds(registry: &Metrics) -> Histogram {
    let help = "How long Series calls waited for their turn";
    let wait = registry.register("thanos_bucket_store_series_gate_queries_duration_seconds", help, waits());
    registry.register("thanos_bucket_store_series_gate_duration_seconds", help, wait)
}

impl GatewayMetrics {
    pub fn register(registry: &Metrics) -> Self {
        let by_data = |name: &str, help: &str, make: fn() -> Histogram| {
            registry.register(name, help, DataHistogram::new_with_constructor(make))
        };
        Self {
            blocks_loaded: registry.register(
                "thanos_bucket_store_blocks_loaded",
                "Blocks that are served",
                Gauge::default(),
            ),
            block_loads: registry.register(
                "thanos_bucket_store_block_loads",
                "Blocks that began to be served",
                Counter::default(),
            ),
            block_load_failures: registry.register(
                "thanos_bucket_store_block_load_failures",
                "Blocks whose index-header could not be built or loaded when it was needed",
                Counter::default(),
            ),
            block_drop_failures: registry.register(
                "thanos_bucket_store_block_drop_failures",
                "Blocks that are no longer served and left a file behind",
                Counter::default(),
            ),
            block_drops: registry.register(
                "thanos_bucket_store_block_drops",
                "Blocks that are no longer served",
                Counter::default(),
            ),
            blocks_replaced: registry.register(
                "parallax_store_blocks_replaced",
                "Blocks that left the bucket during a call, and whose samples were read from another",
                Counter::default(),
            ),
            lazy_postings: registry.register(
                "thanos_bucket_store_lazy_expanded_postings",
                "Blocks of calls some of whose matchers were held against series instead of postings",
                Counter::default(),
            ),
            last_sync: registry.register(
                "parallax_store_last_successful_sync_timestamp_seconds",
                "Unix time of the last successful sync of the block list",
                Gauge::default(),
            ),
            header_loads: registry.register(
                "thanos_bucket_store_indexheader_lazy_load",
                "Index-headers loaded into memory",
                Counter::default(),
            ),
            header_load_failures: registry.register(
                "thanos_bucket_store_indexheader_lazy_load_failed",
                "Index-headers that could not be built or loaded",
                Counter::default(),
            ),
            header_unloads: registry.register(
                "thanos_bucket_store_indexheader_lazy_unload",
                "Index-headers dropped from memory when idle",
                Counter::default(),
            ),
            header_build_seconds: registry.register(
                "thanos_bucket_store_indexheader_download_duration_seconds",
                "Duration of building an index-header from the bucket",
                seconds(),
            ),
            queries_dropped: registry.register(
                "thanos_bucket_store_queries_dropped",
                "Calls refused because of a limit",
                Family::default(),
            ),
            warnings: registry.register(
                "parallax_store_warnings",
                "Pieces missing from answers, by the reason",
                Family::default(),
            ),
            gate_max: registry.register(
                "thanos_bucket_store_series_gate_queries_max",
                "Series calls that may be answered at a time",
                Gauge::default(),
            ),
            gate_total: registry.register(
                "thanos_bucket_store_series_gate_queries",
                "Series calls that asked for their turn",
                Counter::default(),
            ),
            gate_seconds: gate_seconds(registry),
            merge_seconds: registry.register(
                "thanos_bucket_store_series_merge_duration_seconds",
                "Duration of merging, from the first series of every block to the last frame",
                seconds(),
            ),
            chunk_sizes: registry.register(
                "thanos_bucket_store_sent_chunk_size_bytes",
                "Bytes of the chunks of a series that was sent",
                ChunkSizes::default(),
            ),
            gate_queries: registry.register(
                "thanos_bucket_store_series_gate_queries_in_flight",
                "Series calls that are answered now",
                Gauge::default(),
            ),
            blocks_queried: registry.register(
                "thanos_bucket_store_series_blocks_queried",
                "Blocks that a Series call touched",
                Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            ),
            touched: by_data(
                "thanos_bucket_store_series_data_touched",
                "Items of data that a Series call touched",
                counts,
            ),
            fetched: by_data(
                "thanos_bucket_store_series_data_fetched",
                "Ranges of data that a Series call fetched",
                counts,
            ),
            touched_bytes: by_data(
                "thanos_bucket_store_series_data_size_touched_bytes",
                "Bytes of data that a Series call touched",
                sizes,
            ),
            fetched_bytes: by_data(
                "thanos_bucket_store_series_data_size_fetched_bytes",
                "Bytes of data that a Series call fetched",
                sizes,
            ),
            result_series: registry.register(
                "thanos_bucket_store_series_result_series",
                "Series in the answer of a Series call",
                Histogram::new(exponential_buckets(100.0, 2.0, 15)),
            ),
            call_seconds: registry.register(
                "thanos_bucket_store_series_get_all_duration_seconds",
                "Duration of a Series call from its turn to its last frame",
                seconds(),
            ),
        }
    }

    pub fn warned(&self, reason: &'static str) {
        self.warnings.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub fn call_ended(&self, usage: &Usage, took: std::time::Duration) {
        for data in Data::ALL {
            let used = usage.of(data);
            let labels = DataLabels { data_type: data.name() };
            for (family, value) in [
                (&self.touched, &used.touched),
                (&self.fetched, &used.fetched),
                (&self.touched_bytes, &used.touched_bytes),
                (&self.fetched_bytes, &used.fetched_bytes),
            ] {
                family.get_or_create(&labels).observe(value.load(Ordering::Relaxed) as f64);
            }
        }
        self.result_series.observe(usage.merged_series.load(Ordering::Relaxed) as f64);
        self.call_seconds.observe(took.as_secs_f64());
    }
}
