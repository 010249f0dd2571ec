//! Metrics of connections and handshakes, shared by all servers of a process.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use parallax_pki::FailureReason;
use parallax_telemetry::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FailureLabels {
    side: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProtocolLabels {
    protocol: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabels {
    protocol: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct IssuerLabels {
    protocol: &'static str,
    issuer: String,
}

/// Names of issuers that are shown; connections of others are counted together.
const MAX_ISSUERS: usize = 32;

/// Counters of one server.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMetrics {
    handshake_failures: Family<FailureLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    cut: Family<RefusalLabels, Counter>,
    by_issuer: Family<IssuerLabels, Gauge>,
    issuers: Arc<Mutex<BTreeSet<String>>>,
    protocol: &'static str,
    pub(crate) open: Gauge,
}

impl ConnectionMetrics {
    pub(crate) fn new(metrics: &Metrics, protocol: &'static str) -> Self {
        let open: Family<ProtocolLabels, Gauge> = metrics.register(
            "parallax_server_connections",
            "Connections that are open now, by protocol",
            Family::default(),
        );
        Self {
            handshake_failures: metrics.register(
                "parallax_tls_handshake_failures",
                "TLS handshakes that failed, by side and reason",
                Family::default(),
            ),
            refused: metrics.register(
                "parallax_server_connections_refused",
                "Connections closed before they were served, by protocol and reason",
                Family::default(),
            ),
            cut: metrics.register(
                "parallax_server_connections_cut",
                "Open connections that were cut because their client is no longer trusted, by protocol and reason",
                Family::default(),
            ),
            by_issuer: metrics.register(
                "parallax_server_connections_by_issuer",
                "Open connections with a client certificate, by protocol and the CA that issued it",
                Family::default(),
            ),
            issuers: Arc::default(),
            protocol,
            open: open.get_or_create(&ProtocolLabels { protocol }).clone(),
        }
    }

    pub(crate) fn handshake_failed(&self, reason: FailureReason) {
        self.handshake_failures
            .get_or_create(&FailureLabels { side: "server", reason: reason.as_str() })
            .inc();
    }

    /// A connection was cut for `reason`.
    pub(crate) fn cut(&self, reason: FailureReason) {
        self.cut.get_or_create(&RefusalLabels { protocol: self.protocol, reason: reason.as_str() }).inc();
    }

    /// Open connections of clients that `issuer` vouches for.
    pub(crate) fn by_issuer(&self, issuer: String) -> Gauge {
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = issuers.contains(&issuer) || issuers.len() < MAX_ISSUERS;
        let issuer = if known { issuer } else { "others".to_owned() };
        issuers.insert(issuer.clone());
        self.by_issuer.get_or_create(&IssuerLabels { protocol: self.protocol, issuer }).clone()
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { protocol: self.protocol, reason }).inc();
    }
}
