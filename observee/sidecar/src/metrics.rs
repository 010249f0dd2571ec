//! The sidecar's metrics, with Thanos' names where they mean the same.

use std::sync::atomic::AtomicU64;

use parallax_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::SidecarError;

type FloatGauge = Gauge<f64, AtomicU64>;

#[derive(Clone)]
pub(crate) struct SidecarMetrics {
    pub prometheus_up: Gauge,
    pub last_heartbeat_seconds: FloatGauge,
    pub rounds: Counter,
    pub failed_rounds: Counter,
    pub uploads: Counter,
    pub upload_failures: Counter,
    pub blocks_waiting: Gauge,
    pub last_upload_seconds: FloatGauge,
    pub corrupted_blocks: Counter,
    pub series_requests: Counter,
    pub upload_lag_seconds: FloatGauge,
    pub retention_seconds: FloatGauge,
    pub lag_nears_retention: Gauge,
    /// 1 while compacted blocks are uploaded, too, and all of them are.
    pub compacted_done: Gauge,
    pub skipped_blocks: Family<[(String, String); 1], Counter>,
    prometheus_failures: Family<[(String, String); 1], Counter>,
}

impl SidecarMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            prometheus_up: metrics.register(
                "thanos_sidecar_prometheus_up",
                "Whether Prometheus answered the last heartbeat",
                Gauge::default(),
            ),
            last_heartbeat_seconds: metrics.register(
                "thanos_sidecar_last_heartbeat_success_time_seconds",
                "When Prometheus last answered a heartbeat, in seconds since the epoch",
                FloatGauge::default(),
            ),
            rounds: metrics.register(
                "thanos_shipper_dir_syncs",
                "Rounds over the data directory that succeeded",
                Counter::default(),
            ),
            failed_rounds: metrics.register(
                "thanos_shipper_dir_sync_failures",
                "Rounds over the data directory that failed",
                Counter::default(),
            ),
            uploads: metrics.register("thanos_shipper_uploads", "Blocks uploaded", Counter::default()),
            upload_failures: metrics.register(
                "thanos_shipper_upload_failures",
                "Attempts to upload a block that failed",
                Counter::default(),
            ),
            blocks_waiting: metrics.register(
                "parallax_shipper_blocks_waiting",
                "Finished blocks that are not in the bucket yet",
                Gauge::default(),
            ),
            last_upload_seconds: metrics.register(
                "parallax_shipper_last_upload_time_seconds",
                "When a block was last uploaded, in seconds since the epoch",
                FloatGauge::default(),
            ),
            corrupted_blocks: metrics.register(
                "thanos_shipper_corrupted_blocks",
                "Blocks skipped because they could not be read",
                Counter::default(),
            ),
            series_requests: metrics.register(
                "parallax_sidecar_series_requests",
                "Series calls answered",
                Counter::default(),
            ),
            upload_lag_seconds: metrics.register(
                "parallax_shipper_upload_lag_seconds",
                "How long the time of the oldest block that is not in the bucket has been over; 0 if none waits",
                FloatGauge::default(),
            ),
            retention_seconds: metrics.register(
                "parallax_shipper_prometheus_retention_seconds",
                "How long Prometheus keeps samples; 0 if that is not known, or not limited by time",
                FloatGauge::default(),
            ),
            lag_nears_retention: metrics.register(
                "parallax_shipper_lag_nears_retention",
                "Whether Prometheus is about to delete blocks that are not in the bucket",
                Gauge::default(),
            ),
            compacted_done: metrics.register(
                "thanos_shipper_upload_compacted_done",
                "Whether all blocks are in the bucket, those that Prometheus compacted included",
                Gauge::default(),
            ),
            skipped_blocks: metrics.register(
                "parallax_shipper_skipped_blocks",
                "Blocks that are left where they are, by reason",
                Family::default(),
            ),
            prometheus_failures: metrics.register(
                "parallax_sidecar_prometheus_failures",
                "Questions that Prometheus did not answer as it should, by what was wrong",
                Family::default(),
            ),
        }
    }

    /// Counts a failure that is Prometheus'.
    pub fn failed(&self, error: &SidecarError) {
        if let Some(kind) = error.kind() {
            self.failed_by(kind);
        }
    }

    pub fn failed_by(&self, reason: &str) {
        self.prometheus_failures.get_or_create(&[("reason".to_owned(), reason.to_owned())]).inc();
    }
}
