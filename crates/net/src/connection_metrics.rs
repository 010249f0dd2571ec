//! Metrics of connections and handshakes, shared by all servers of a process.

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

/// Counters of one server.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionMetrics {
    handshake_failures: Family<FailureLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    cut: Family<RefusalLabels, Counter>,
    calls_refused: Family<RefusalLabels, Counter>,
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
            calls_refused: metrics.register(
                "parallax_server_calls_refused",
                "Calls that the rules of allowed identities and forwarded certificates refused, by protocol and reason",
                Family::default(),
            ),
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

    /// A call was refused by a rule about who may call.
    pub(crate) fn call_refused(&self, reason: &'static str) {
        self.calls_refused.get_or_create(&RefusalLabels { protocol: self.protocol, reason }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { protocol: self.protocol, reason }).inc();
    }
}
