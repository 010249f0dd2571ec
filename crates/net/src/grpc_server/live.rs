//! Open connections with a client certificate, and cutting those that a change of trust no longer allows.
//!
//! Invariant: no connection outlives the trust it was accepted under by more than [`DISTRUST_GRACE`]; one whose client is revoked is cut at once. When the
//! CAs or revocation lists of the server change, every chain is judged again as a new handshake would judge it; one that was accepted while the change
//! happened is judged when it is added.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use parallax_pki::credentials::CountedConnection;
use parallax_pki::{CredentialSource, FailureReason, Material};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::connection_metrics::ConnectionMetrics;
use crate::distrust::DISTRUST_GRACE;

/// The connections of one server.
pub(super) struct Live {
    metrics: ConnectionMetrics,
    source: CredentialSource,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Connection>,
}

#[derive(Clone)]
struct Connection {
    address: SocketAddr,
    chain: Arc<[CertificateDer<'static>]>,
    cut: CancellationToken,
}

/// Takes a connection off the list when it is dropped.
pub(super) struct Listed {
    live: Arc<Live>,
    id: u64,
    _counted: CountedConnection,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.live.connections().open.remove(&self.id);
    }
}

impl Live {
    pub(super) fn new(metrics: ConnectionMetrics, source: CredentialSource) -> Arc<Self> {
        Arc::new(Self { metrics, source, connections: Mutex::default() })
    }

    /// Adds a connection that trust with the digest `accepted_by` let in. `cut` ends it.
    pub(super) fn add(
        self: &Arc<Self>,
        address: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
        cut: CancellationToken,
        accepted_by: Option<&str>,
    ) -> Listed {
        let counted = self.source.count_connection(chain.first().map(|leaf| &**leaf));
        let connection = Connection { address, chain: chain.into(), cut };
        let id = {
            let mut connections = self.connections();
            let id = connections.next;
            connections.next += 1;
            connections.open.insert(id, connection.clone());
            id
        };
        // After it is on the list: either the watcher sees it, or the change is seen here.
        let now = self.source.current();
        if now.trust_digest() != accepted_by {
            self.recheck(&now, &connection, false);
        }
        Listed { live: Arc::clone(self), id, _counted: counted }
    }

    /// Judges a connection by `material`. True: its client is not trusted any more, but has a while left.
    fn recheck(&self, material: &Material, connection: &Connection, grace_is_over: bool) -> bool {
        let Err(explanation) = material.recheck_client(&connection.chain, SystemTime::now()) else {
            return false;
        };
        if explanation.reason != FailureReason::Revoked && !grace_is_over {
            return true;
        }
        if !connection.cut.is_cancelled() {
            self.metrics.cut(explanation.reason);
            tracing::warn!(
                peer = %connection.address,
                reason = explanation.text,
                "gRPC connection cut: its client is no longer trusted"
            );
            connection.cut.cancel();
        }
        false
    }

    fn recheck_all(&self, grace_is_over: bool) -> bool {
        let material = self.source.current();
        // Copied out, so that verifying many chains does not hold up new connections.
        let open: Vec<Connection> = self.connections().open.values().cloned().collect();
        // All of them: no short circuit.
        open.iter().fold(false, |left, connection| self.recheck(&material, connection, grace_is_over) | left)
    }

    /// Rechecks whenever the trust changes, until `end`.
    pub(super) async fn watch(self: Arc<Self>, end: CancellationToken) {
        let mut changes = self.source.subscribe();
        let mut trust = changes.borrow_and_update().trust_digest().map(str::to_owned);
        let mut second_look = None;
        loop {
            let grace = async {
                match second_look {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let grace_is_over = tokio::select! {
                () = end.cancelled() => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = changes.borrow_and_update().trust_digest().map(str::to_owned);
                    if now == trust {
                        continue;
                    }
                    trust = now;
                    false
                }
                () = grace => true,
            };
            let this = Arc::clone(&self);
            // Signatures of thousands of chains: not on a thread that serves.
            let looking = tokio::task::spawn_blocking(move || this.recheck_all(grace_is_over));
            let left = looking.await.unwrap_or(true);
            second_look = match (left, second_look) {
                // The grace of the first change counts: a change every second must not prolong it.
                (true, Some(at)) if !grace_is_over => Some(at),
                (true, _) => Some(tokio::time::Instant::now() + DISTRUST_GRACE),
                (false, _) => None,
            };
        }
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
