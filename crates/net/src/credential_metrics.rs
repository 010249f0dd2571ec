//! What an operator watches of credentials: when the certificate in use ends, and how its replacements went.
//!
//! Read from the source at each scrape, so a swap shows at once. `name` tells the sets of one process apart; registering a name twice shows it twice.

use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parallax_pki::{CredentialSource, Material};
use parallax_telemetry::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Shows `source` in `metrics` under `name` (for example `grpc_server`). The metrics keep the source alive.
pub fn watch_credentials(metrics: &Metrics, name: impl Into<String>, source: &CredentialSource) {
    let source = Watched::Kept(source.clone());
    metrics.register_collector(Box::new(CredentialCollector { name: name.into(), source }));
}

/// The same, until the last holder of `source` lets it go: for credentials that come and go with a configuration file.
pub fn watch_credentials_in_use(metrics: &Metrics, name: impl Into<String>, source: &Arc<CredentialSource>) {
    let source = Watched::InUse(Arc::downgrade(source));
    metrics.register_collector(Box::new(CredentialCollector { name: name.into(), source }));
}

#[derive(Debug)]
struct CredentialCollector {
    name: String,
    source: Watched,
}

#[derive(Debug)]
enum Watched {
    Kept(CredentialSource),
    InUse(Weak<CredentialSource>),
}

impl Watched {
    fn source(&self) -> Option<CredentialSource> {
        match self {
            Self::Kept(source) => Some(source.clone()),
            Self::InUse(source) => source.upgrade().map(|source| CredentialSource::clone(&source)),
        }
    }
}

impl Collector for CredentialCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(source) = self.source.source() else { return Ok(()) };
        let name = self.name.as_str();
        let material = source.current();
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
        encode_trust(&mut encoder, name, &material)?;
        let mut metric = encoder.encode_descriptor(
            "parallax_tls_connections_by_issuer",
            "Open connections whose peer showed a certificate, by the CA that issued it",
            None,
            MetricType::Gauge,
        )?;
        for (issuer, count) in source.connections_by_issuer() {
            let labels = [("name", name), ("issuer", issuer.as_str())];
            ConstGauge::new(u32::try_from(count).map_or(f64::MAX, f64::from))
                .encode(metric.encode_family(&labels)?)?;
        }
        let status = source.status();
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

/// What peers are verified with, for comparing the sides of a mesh and for the gates of a CA rotation: an observer of it sees which CAs a process
/// trusts, and which leaf it shows.
fn encode_trust(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    material: &Material,
) -> Result<(), std::fmt::Error> {
    if let Some(leaf) = material.leaf() {
        let identity = material.identity().map(ToString::to_string).unwrap_or_default();
        let mut metric = encoder.encode_descriptor(
            "parallax_tls_certificate_info",
            "The certificate in use: its identity, serial number and issuer",
            None,
            MetricType::Gauge,
        )?;
        let labels = [
            ("name", name),
            ("identity", identity.as_str()),
            ("serial", leaf.serial.as_str()),
            ("issuer", leaf.issuer.as_str()),
        ];
        ConstGauge::new(1.0).encode(metric.encode_family(&labels)?)?;
    }
    if let Some(digest) = material.trust_digest() {
        let mut metric = encoder.encode_descriptor(
            "parallax_tls_trust_bundle_info",
            "The bundle that verifies peers, by its SHA-256",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(1.0).encode(metric.encode_family(&[("name", name), ("sha256", digest)])?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "parallax_tls_trust_anchor_not_after_timestamp_seconds",
        "When the CAs that verify peers end",
        None,
        MetricType::Gauge,
    )?;
    for anchor in material.trusted() {
        let labels =
            [("name", name), ("subject", anchor.subject.as_str()), ("serial", anchor.serial.as_str())];
        ConstGauge::new(unix_seconds(anchor.not_after)).encode(metric.encode_family(&labels)?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "parallax_tls_crl_next_update_timestamp_seconds",
        "When a newer revocation list is due",
        None,
        MetricType::Gauge,
    )?;
    for list in material.revocation_lists() {
        let Some(due) = list.next_update() else { continue };
        let number = list.number_text();
        let labels = [("name", name), ("number", number.as_str())];
        ConstGauge::new(unix_seconds(due)).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}
