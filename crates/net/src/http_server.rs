//! An HTTP server for APIs, probes and metrics.
//!
//! Invariants: the number of open connections is bounded, handshakes and headers must come in time; on shutdown the listener closes first, then open requests
//! get [`GRACE_PERIOD`]. With TLS nothing is answered in plain text, and with passwords nothing without one. What is served is the caller's router; [`base_router`](crate::base_router) has the part that every component shares.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parallax_pki::{CredentialSource, Side, explain};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::Error;
use crate::listen::listen;
use crate::peer::PeerInfo;

mod security;

pub use security::{HttpRules, HttpSecurity, Users};

/// Connections open at a time; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 2048;
/// For the headers of a request, and for the first request of a connection to begin.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// For a whole TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// For open requests at shutdown.
pub const GRACE_PERIOD: Duration = Duration::from_secs(30);
/// Silence after which an HTTP/2 peer is pinged ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// ... and how long it may leave that unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// After an accept error that will not go away by itself.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound server that does not accept yet.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    local_addr: SocketAddr,
    header_timeout: Duration,
    security: HttpSecurity,
}

impl HttpServer {
    /// Opens a listener on `host:port` or `:port`. `flag` names the setting in the error.
    pub async fn bind(address: &str, flag: &'static str) -> Result<Self, Error> {
        let (listener, local_addr) = listen(address, flag).await?;
        let security = HttpSecurity::default();
        Ok(Self { listener, local_addr, header_timeout: HEADER_TIMEOUT, security })
    }

    /// Asks for TLS and passwords as `security` says; it may change while the server serves.
    #[must_use]
    pub fn secured(self, security: HttpSecurity) -> Self {
        Self { security, ..self }
    }

    /// Another time than [`HEADER_TIMEOUT`].
    #[must_use]
    pub fn with_header_timeout(self, header_timeout: Duration) -> Self {
        Self { header_timeout, ..self }
    }

    /// The address that is really bound; of use where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then waits for open requests, but not longer than [`GRACE_PERIOD`]. Handlers may extract
    /// `ConnectInfo<SocketAddr>`, and find a [`PeerInfo`] among a request's extensions.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { listener, local_addr, header_timeout, security } = self;
        tracing::debug!(address = %local_addr, "serving HTTP");
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let tasks = TaskTracker::new();
        loop {
            // The semaphore is never closed, so a place always comes.
            let place = tokio::select! {
                () = shutdown.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let (stream, peer) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::debug!(%error, "accepting an HTTP connection failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (guarded, shutdown) =
                (Guarded { router: router.clone(), security: security.clone() }, shutdown.clone());
            tasks.spawn(async move {
                let _place = place;
                // An error here means that the peer has gone; serving will notice.
                let _ = stream.set_nodelay(true);
                let tls = guarded.security.current().tls.clone();
                match tls {
                    None => {
                        let peer = PeerInfo::plain(peer);
                        serve_connection(stream, peer, guarded, header_timeout, shutdown).await;
                    }
                    Some(source) => {
                        if let Some(stream) = handshake(stream, peer, &source).await {
                            let peer = PeerInfo::of_tls(peer, &stream);
                            serve_connection(stream, peer, guarded, header_timeout, shutdown).await;
                        }
                    }
                }
            });
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(GRACE_PERIOD, tasks.wait()).await.is_err() {
            tracing::warn!(address = %local_addr, "HTTP requests did not end within the grace period");
        }
        Ok(())
    }
}

/// With the credentials that are current now.
async fn handshake(
    stream: TcpStream,
    peer: SocketAddr,
    source: &CredentialSource,
) -> Option<TlsStream<TcpStream>> {
    let config = match source.current().server_config() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "no TLS configuration to serve HTTP with");
            return None;
        }
    };
    let mut config = (*config).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let refused = match tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => explain(&error, Side::Server).text,
        Err(_) => "the client did not finish the TLS handshake in time".to_owned(),
    };
    tracing::debug!(%peer, reason = refused, "HTTP connection refused");
    None
}

/// What is served, and what is asked of whoever wants it.
#[derive(Clone)]
struct Guarded {
    router: Router,
    security: HttpSecurity,
}

impl Guarded {
    async fn answer(
        self,
        request: http::Request<hyper::body::Incoming>,
        peer: PeerInfo,
    ) -> Result<axum::response::Response, std::convert::Infallible> {
        let rules = self.security.current();
        if let Some(users) = &rules.users
            && !users.admit(request.headers()).await
        {
            let asks = [(http::header::WWW_AUTHENTICATE, "Basic realm=\"parallax\"")];
            return Ok(
                (http::StatusCode::UNAUTHORIZED, asks, "a user and password are needed\n").into_response()
            );
        }
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer.address));
        request.extensions_mut().insert(peer);
        self.router.oneshot(request).await
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: PeerInfo,
    guarded: Guarded,
    header_timeout: Duration,
    shutdown: CancellationToken,
) {
    let has_asked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&has_asked);
    let address = peer.address;
    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        asked.store(true, Ordering::Relaxed);
        guarded.clone().answer(request, peer.clone())
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    // Until the peer has said which HTTP it speaks, no timer of hyper's runs: one that says nothing would keep its place for ever.
    let silent = async {
        tokio::time::sleep(header_timeout).await;
        if has_asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = silent => {
            tracing::debug!(peer = %address, "HTTP connection closed: no request came");
            return;
        }
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE_PERIOD, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(peer = %address, error = %parallax_pki::explain::chain_text(error.as_ref()), "HTTP connection ended");
    }
}
