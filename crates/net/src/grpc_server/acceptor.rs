//! From a listener to connections with a verified peer.
//!
//! Invariant: whatever a client does, the accept loop goes on; each refusal is counted under its reason and logged, up to a rate.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use parallax_pki::{CredentialSource, Explanation, FailureReason, Side, explain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::GrpcServerConfig;
use super::live::Live;
use super::refusal_log::RefusalLog;
use super::stream::{Place, ServerStream, Transport};
use crate::connection_metrics::ConnectionMetrics;
use crate::peer::PeerInfo;

/// After an accept error that will not go away by itself (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client is listened to, so that closing does not destroy the alert on its way (unread bytes turn a close into a reset).
const LINGER: Duration = Duration::from_secs(1);
/// How much of what it says is read meanwhile.
const LINGER_BYTES: usize = 64 << 10;

pub(super) struct Acceptor {
    config: GrpcServerConfig,
    metrics: ConnectionMetrics,
    cut: CancellationToken,
    sender: mpsc::Sender<io::Result<ServerStream>>,
    places: Arc<Semaphore>,
    pending: Mutex<Pending>,
    refusals: Arc<RefusalLog>,
    live: Option<Arc<Live>>,
}

/// Unfinished handshakes by age.
#[derive(Default)]
struct Pending {
    next: u64,
    running: BTreeMap<u64, Option<AbortHandle>>,
}

impl Acceptor {
    pub(super) fn new(
        config: GrpcServerConfig,
        metrics: ConnectionMetrics,
        cut: CancellationToken,
        sender: mpsc::Sender<io::Result<ServerStream>>,
        refusals: Arc<RefusalLog>,
    ) -> Self {
        let places = Arc::new(Semaphore::new(config.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let live = config.tls.as_ref().map(|source| Live::new(metrics.clone(), source.clone()));
        Self { config, metrics, live, cut, sender, places, pending: Mutex::default(), refusals }
    }

    /// Accepts until `shutdown`; then the listener is closed.
    pub(super) async fn run(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        if let Some(live) = &self.live {
            tokio::spawn(Arc::clone(live).watch(self.cut.clone()));
        }
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accepting a gRPC connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Never waits: what has to is left to a task, of which there are no more than places.
    fn admit(self: &Arc<Self>, stream: TcpStream, address: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.refused("too_many_connections");
            self.refusals.note(address, "too many connections are open");
            return;
        };
        let place = Place::new(permit, self.metrics.open.clone());
        // An error here means that the peer has gone; serving will notice.
        let _ = stream.set_nodelay(true);
        match self.config.tls.clone() {
            None => {
                let peer = PeerInfo::plain(address);
                let this = Arc::clone(self);
                tokio::spawn(async move {
                    let cut = this.cut.clone();
                    tokio::select! {
                        () = this.hand_over(ServerStream::new(Transport::Plain(stream), peer, place, cut)) => {}
                        () = this.cut.cancelled() => {}
                    }
                });
            }
            Some(source) => self.spawn_handshake(stream, address, place, source),
        }
    }

    fn spawn_handshake(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        place: Place,
        source: CredentialSource,
    ) {
        let mut pending = self.pending();
        if pending.running.len() >= self.config.max_pending_handshakes.max(1)
            && let Some((_, oldest)) = pending.running.pop_first()
        {
            if let Some(oldest) = oldest {
                oldest.abort();
            }
            self.metrics.refused("handshake_displaced");
        }
        let id = pending.next;
        pending.next += 1;
        pending.running.insert(id, None);
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _registration = Registration { acceptor: &this, id };
            tokio::select! {
                () = this.handshake(stream, address, place, source) => {}
                () = this.cut.cancelled() => {}
            }
        });
        // Under the lock: the task cannot have removed its entry yet.
        if let Some(entry) = pending.running.get_mut(&id) {
            *entry = Some(task.abort_handle());
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        place: Place,
        source: CredentialSource,
    ) {
        let material = source.current();
        let config = match material.server_config() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(%error, "no TLS configuration to serve with");
                return;
            }
        };
        let accepting = TlsAcceptor::from(config).accept(stream).into_fallible();
        match tokio::time::timeout(self.config.handshake_timeout, accepting).await {
            Ok(Ok(stream)) => {
                let peer = PeerInfo::of_tls(address, &stream);
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let chain: Vec<_> =
                    chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
                let cut = self.cut.child_token();
                let live = self.live.as_ref().filter(|_| !chain.is_empty());
                let listed = live.map(|live| live.add(address, chain, cut.clone(), material.trust_digest()));
                let stream = ServerStream::new(Transport::Tls(Box::new(stream)), peer, place, cut);
                self.hand_over(stream.listed(listed)).await;
            }
            Ok(Err((error, stream))) => {
                self.refuse(address, &explain(&error, Side::Server));
                linger(stream).await;
            }
            Err(_) => {
                let text = "the client did not finish the TLS handshake in time".to_owned();
                self.refuse(address, &Explanation { reason: FailureReason::Timeout, text });
            }
        }
    }

    async fn hand_over(&self, stream: ServerStream) {
        // The receiver is gone only when the server ends.
        let _ = self.sender.send(Ok(stream)).await;
    }

    fn refuse(&self, address: SocketAddr, explanation: &Explanation) {
        self.metrics.handshake_failed(explanation.reason);
        if explanation.reason == FailureReason::Closed {
            // Load balancers probe ports this way.
            tracing::debug!(peer = %address, reason = explanation.text, "TLS handshake not finished");
        } else {
            self.refusals.note(address, &explanation.text);
        }
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a handshake off the list when it ends, also by being aborted.
struct Registration<'a> {
    acceptor: &'a Acceptor,
    id: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.acceptor.pending().running.remove(&self.id);
    }
}

/// Lets the alert reach the client: ends our side, then reads what is under way.
async fn linger(mut stream: TcpStream) {
    let reading = async {
        stream.shutdown().await?;
        let mut buffer = [0_u8; 4096];
        let mut total = 0;
        while total < LINGER_BYTES {
            match stream.read(&mut buffer).await? {
                0 => break,
                count => total += count,
            }
        }
        Ok::<_, io::Error>(())
    };
    // The client has been refused already; how it leaves does not matter.
    let _ = tokio::time::timeout(LINGER, reading).await;
}

/// Errors of accept(2) that speak of the one connection, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use parallax_telemetry::Metrics;

    use super::*;

    #[tokio::test]
    async fn a_server_that_takes_no_connections_for_a_while_does_not_stop_the_accept_loop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = GrpcServerConfig { max_connections: 3, ..GrpcServerConfig::new("127.0.0.1:0") };
        let metrics = ConnectionMetrics::new(&Metrics::new(), "grpc");
        // Nobody receives.
        let (sender, _receiver) = mpsc::channel(1);
        let (cut, shutdown) = (CancellationToken::new(), CancellationToken::new());
        let acceptor = Arc::new(Acceptor::new(config, metrics, cut.clone(), sender, Arc::default()));
        tokio::spawn(Arc::clone(&acceptor).run(listener, shutdown.clone()));
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(TcpStream::connect(address).await.unwrap());
        }
        // There is no place for a fourth: only a loop that goes on can say so, by closing it.
        let mut refused = TcpStream::connect(address).await.unwrap();
        let reading = tokio::time::timeout(Duration::from_secs(120), refused.read_u8());
        assert!(reading.await.expect("the accept loop hangs").is_err());
        cut.cancel();
        shutdown.cancel();
    }
}
