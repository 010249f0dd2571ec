//! A gRPC server over mTLS or plain text, with an acceptor of its own.
//!
//! Invariants:
//! - A handshake never runs in the accept loop, has a deadline, and the number of unfinished ones is bounded: when it is reached the oldest is dropped,
//!   so peers that never finish cannot keep out those that do.
//! - Each handshake uses the credentials that are current when it begins; nothing resumes an older one.
//! - When the CAs or revocation lists change, connections whose client would be refused now are cut.
//! - On shutdown the listener closes first, open calls get [`GrpcServerConfig::grace_period`] to end, then their connections are cut.
//!
//! - Who may call at all is [`GrpcServerConfig::access`], judged call by call.
//! - Every call is counted, also one that is refused.
//!
//! What is served is the caller's [`Routes`]; each call says who it is from by [`PeerInfo`](crate::PeerInfo).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parallax_pki::CredentialSource;
use parallax_telemetry::Metrics;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::Error;
use crate::compression::CompressionLayer;
use crate::connection_metrics::ConnectionMetrics;
use crate::listen::listen;
use crate::rpc_metrics::{Calls, RpcMethods};

mod acceptor;
mod access;
mod counting;
mod gather;
mod live;
mod refusal_log;
mod stream;

use acceptor::Acceptor;
pub use access::ServerAccess;
use access::{AccessLayer, AccessRule};
use counting::CountingLayer;
use refusal_log::RefusalLog;

/// Connections whose handshake is done and that wait to be served.
const ACCEPTED_QUEUE: usize = 64;
/// Flow-control windows: what a client may send unread. Requests are small.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Largest block of request headers.
const MAX_HEADER_LIST_BYTES: u32 = 64 << 10;

/// How to serve gRPC. [`GrpcServerConfig::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct GrpcServerConfig {
    /// `host:port` or `:port`.
    pub address: String,
    /// The flag that set the address, for errors.
    pub flag: &'static str,
    /// `None`: plain text.
    pub tls: Option<CredentialSource>,
    /// Who may call.
    pub access: ServerAccess,
    /// A connection of this age is asked to go away when its calls are done (HTTP/2 GOAWAY). `None`: never.
    pub max_connection_age: Option<Duration>,
    /// For a whole TLS handshake.
    pub handshake_timeout: Duration,
    /// Open connections; more are closed at once.
    pub max_connections: usize,
    /// Unfinished handshakes; one more drops the oldest.
    pub max_pending_handshakes: usize,
    /// Largest message of a compressed request, compressed and not.
    pub max_request_bytes: usize,
    /// Calls at a time on one connection.
    pub max_concurrent_streams: u32,
    /// Silence after which the peer is pinged.
    pub keepalive_interval: Duration,
    /// A ping unanswered for so long ends the connection.
    pub keepalive_timeout: Duration,
    /// For open calls at shutdown.
    pub grace_period: Duration,
}

impl GrpcServerConfig {
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            flag: "--grpc-address",
            tls: None,
            access: ServerAccess::default(),
            max_connection_age: Some(Duration::from_secs(60 * 60)),
            handshake_timeout: Duration::from_secs(10),
            max_connections: 4096,
            max_pending_handshakes: 512,
            max_request_bytes: 4 << 20,
            max_concurrent_streams: 1024,
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            grace_period: Duration::from_secs(120),
        }
    }
}

/// A bound server that does not accept yet.
pub struct GrpcServer {
    config: GrpcServerConfig,
    listener: TcpListener,
    local_addr: SocketAddr,
    metrics: ConnectionMetrics,
    registry: Metrics,
    methods: RpcMethods,
}

impl GrpcServer {
    /// Opens the listener. Errors: the address is bad or taken; the credentials are a client's; callers shall be told apart, and no certificates are
    /// asked for.
    pub async fn bind(config: GrpcServerConfig, metrics: &Metrics) -> Result<Self, Error> {
        let mut asks_for_certificates = false;
        if let Some(source) = &config.tls {
            let material = source.current();
            material.server_config()?;
            asks_for_certificates = material.requires_client_certificate();
        }
        if config.access.needs_certificates() && !asks_for_certificates {
            return Err(Error::Access { address: config.address, flag: config.flag });
        }
        let (listener, local_addr) = listen(&config.address, config.flag).await?;
        let (registry, metrics) = (metrics.clone(), ConnectionMetrics::new(metrics, "grpc"));
        Ok(Self { config, listener, local_addr, metrics, registry, methods: &[] })
    }

    /// Tells these methods apart when it counts calls; without them, all are `unknown`.
    #[must_use]
    pub fn counting(self, methods: RpcMethods) -> Self {
        Self { methods, ..self }
    }

    /// The address that is really bound; of use where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `shutdown`, then drains. Returns when all connections are closed, or the grace period is over.
    pub async fn serve(self, routes: Routes, shutdown: CancellationToken) -> Result<(), Error> {
        let Self { config, listener, local_addr, metrics, registry, methods } = self;
        let tls = match &config.tls {
            None => "off",
            Some(source) if source.current().requires_client_certificate() => "client certificates required",
            Some(_) => "server only",
        };
        tracing::debug!(address = %local_addr, tls, "serving gRPC");
        let cut = CancellationToken::new();
        let (grace_period, max_request_bytes) = (config.grace_period, config.max_request_bytes);
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(config.keepalive_interval))
            .http2_keepalive_timeout(Some(config.keepalive_timeout))
            .max_concurrent_streams(config.max_concurrent_streams)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES);
        if let Some(age) = config.max_connection_age {
            server = server.max_connection_age(age);
        }
        let (sender, receiver) = mpsc::channel(ACCEPTED_QUEUE);
        let refusals = Arc::<RefusalLog>::default();
        let access = config.access.needs_certificates().then(|| {
            Arc::new(AccessRule {
                access: config.access.clone(),
                source: config.tls.clone(),
                metrics: metrics.clone(),
                refusals: Arc::clone(&refusals),
            })
        });
        let acceptor = Arc::new(Acceptor::new(config, metrics, cut.clone(), sender, refusals));
        let accepting = tokio::spawn(acceptor.run(listener, shutdown.clone()));
        let serving = server
            .layer(CountingLayer(Calls::of_server(&registry, methods)))
            .layer(AccessLayer(access))
            .layer(CompressionLayer { limit_bytes: max_request_bytes })
            .add_routes(routes)
            .serve_with_incoming_shutdown(ReceiverStream::new(receiver), shutdown.clone().cancelled_owned());
        tokio::pin!(serving);
        let overdue = async {
            shutdown.cancelled().await;
            tokio::time::sleep(grace_period).await;
        };
        let result = tokio::select! {
            result = &mut serving => result,
            () = overdue => {
                tracing::warn!(address = %local_addr, "calls did not end within the grace period; cutting their connections");
                Ok(())
            }
        };
        // Also ends handshakes, and connections that outlived the grace period.
        cut.cancel();
        accepting.abort();
        result.map_err(|error| Error::Serve {
            address: local_addr.to_string(),
            reason: parallax_pki::explain::chain_text(&error),
        })
    }
}
