//! Open connections with a client certificate: who they are, and cutting those that a change of trust no longer allows.
//!
//! Invariant: no connection outlives the trust it was accepted under. When the CAs or revocation lists of the server change, every chain is judged again
//! as a new handshake would judge it; one whose client was accepted while the change happened is judged when it is added.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use parallax_pki::certificate::Facts;
use parallax_pki::{CredentialSource, Material};
use prometheus_client::metrics::gauge::Gauge;
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::connection_metrics::ConnectionMetrics;

/// The connections of one server.
pub(super) struct Live {
    metrics: ConnectionMetrics,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Connection>,
}

struct Connection {
    address: SocketAddr,
    chain: Vec<CertificateDer<'static>>,
    cut: CancellationToken,
}

/// Takes a connection off the list when it is dropped.
pub(super) struct Listed {
    live: Arc<Live>,
    id: u64,
    by_issuer: Gauge,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.by_issuer.dec();
        self.live.connections().open.remove(&self.id);
    }
}

impl Live {
    pub(super) fn new(metrics: ConnectionMetrics) -> Arc<Self> {
        Arc::new(Self { metrics, connections: Mutex::default() })
    }

    /// Adds a connection that `accepted_by` let in. `cut` ends it.
    pub(super) fn add(
        self: &Arc<Self>,
        address: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
        cut: CancellationToken,
        source: &CredentialSource,
        accepted_by: Option<&str>,
    ) -> Listed {
        let issuer =
            chain.first().and_then(|leaf| Facts::read(leaf).ok()).map(|facts| facts.issuer).unwrap_or_default();
        let by_issuer = self.metrics.by_issuer(issuer);
        by_issuer.inc();
        let id = {
            let mut connections = self.connections();
            let id = connections.next;
            connections.next += 1;
            connections.open.insert(id, Connection { address, chain, cut });
            id
        };
        // After it is on the list: either the watcher sees it, or the change is seen here.
        let now = source.current();
        if now.trust_digest() != accepted_by {
            self.recheck(&now, Some(id));
        }
        Listed { live: Arc::clone(self), id, by_issuer }
    }

    /// Judges all connections, or one, by `material`.
    fn recheck(&self, material: &Material, only: Option<u64>) {
        let now = SystemTime::now();
        // Copied out, so that verifying many chains does not hold up new connections.
        let open: Vec<(SocketAddr, Vec<CertificateDer<'static>>, CancellationToken)> = self
            .connections()
            .open
            .iter()
            .filter(|(id, _)| only.is_none_or(|only| only == **id))
            .map(|(_, connection)| (connection.address, connection.chain.clone(), connection.cut.clone()))
            .collect();
        for (address, chain, cut) in open {
            if let Err(explanation) = material.recheck_client(&chain, now) {
                self.metrics.cut(explanation.reason);
                tracing::warn!(
                    peer = %address,
                    reason = explanation.text,
                    "gRPC connection cut: its client is no longer trusted"
                );
                cut.cancel();
            }
        }
    }

    /// Rechecks whenever the trust of `source` changes, until `end`.
    pub(super) async fn watch(self: Arc<Self>, source: CredentialSource, end: CancellationToken) {
        let mut changes = source.subscribe();
        let mut trust = changes.borrow_and_update().trust_digest().map(str::to_owned);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            let material = Arc::clone(&changes.borrow_and_update());
            if material.trust_digest() == trust.as_deref() {
                continue;
            }
            trust = material.trust_digest().map(str::to_owned);
            let this = Arc::clone(&self);
            // Signatures of thousands of chains: not on a thread that serves.
            let _ = tokio::task::spawn_blocking(move || this.recheck(&material, None)).await;
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
