//! What an operator watches of credentials: when the certificate in use ends, and how its replacements went.
//!
//! Read from the source at each scrape, so a swap shows at once. `name` tells the sets of one process apart; registering a name twice shows it twice.

use std::time::{SystemTime, UNIX_EPOCH};

use parallax_pki::CredentialSource;
use parallax_telemetry::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Shows `source` in `metrics` under `name` (for example `grpc_server`). The metrics keep the source alive.
pub fn watch_credentials(metrics: &Metrics, name: impl Into<String>, source: &CredentialSource) {
    metrics.register_collector(Box::new(CredentialCollector { name: name.into(), source: source.clone() }));
}

#[derive(Debug)]
struct CredentialCollector {
    name: String,
    source: CredentialSource,
}

impl Collector for CredentialCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = self.name.as_str();
        let material = self.source.current();
        if let Some(leaf) = material.leaf() {
            let role = material.identity().map_or("", |identity| identity.role().as_str());
            let mut metric = encoder.encode_descriptor(
                "parallax_tls_certificate_not_after_timestamp_seconds",
                "When the certificate in use ends",
                None,
                MetricType::Gauge,
            )?;
            let labels = [("name", name), ("role", role)];
            ConstGauge::new(unix_seconds(leaf.not_after)).encode(metric.encode_family(&labels)?)?;
        }
        let status = self.source.status();
        let mut metric = encoder.encode_descriptor(
            "parallax_tls_certificate_reload",
            "Sets of credentials that were taken up or refused, the first included",
            None,
            MetricType::Counter,
        )?;
        for (result, count) in [("success", status.successes), ("failure", status.failures)] {
            let labels = [("name", name), ("result", result)];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "parallax_tls_certificate_reload_last_success_timestamp_seconds",
            "When the set of credentials in use was taken up",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(unix_seconds(status.last_success)).encode(metric.encode_family(&[("name", name)])?)
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}
