//! gRPC channels that pick up new credentials while they are used.
//!
//! Invariants:
//! - Each new connection uses the credentials that are current when it is made.
//! - When they change, or a connection is old, a new one is made and proven (the server has spoken on it, so it has accepted our certificate) before calls
//!   move over; calls on the old connection end there. If the new one cannot be made, the old one stays and the attempt is repeated.
//! - What a call's error says begins with the address and names the cause in words, also if the server refused our certificate, which TLS 1.3 tells a client
//!   only after its own handshake is done.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use parallax_pki::{CredentialSource, ExpectedServer, Purpose};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Service, ServiceExt as _};

use crate::Error;
use crate::compression::{Compression, compress_request, decompress_response};
use crate::listen::split_host_port;
use crate::rpc_metrics::EndpointCalls;

mod connector;
mod health;
mod replay;
mod status;
mod stream;
mod turnover;

use connector::Connector;
use health::Health;
use replay::Replayable;
use turnover::turn_over;

/// A ping after so much silence finds a dead peer ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// ... if it is not answered for so long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control windows: what a server may send before the reader takes it, per call and per connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest piece that a server may send at once: each costs it a write to the socket, and with the 16 KiB that are usual those take a quarter of its time.
const MAX_FRAME_BYTES: u32 = 256 << 10;
/// Oldest that a TLS connection grows, unless told otherwise: younger than the age at which servers, ours and Thanos', send clients away (an hour), so
/// that the client chooses the moment.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(45 * 60);
/// Largest message of a compressed answer, unless told otherwise.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Repetitions of a call whose connection went away before the answer began.
const RETRIES: usize = 2;

/// Where to connect, and how.
#[derive(Clone, Debug)]
pub struct GrpcTarget {
    /// `host:port`.
    pub address: String,
    /// `None`: plain text.
    pub tls: Option<ClientTls>,
    /// The `:authority` of requests, by which proxies route; else the server name, else the address.
    pub authority: Option<String>,
    /// For name resolution, TCP and TLS together.
    pub connect_timeout: Duration,
    /// A TLS connection of about this age is replaced by a new one, which sees what the server shows and trusts now.
    pub max_connection_age: Duration,
    /// Of requests, and so of answers: a server answers in the encoding of the request.
    pub compression: Option<Compression>,
    /// Largest message of a compressed answer, compressed and not.
    pub max_message_bytes: usize,
    /// Counts the calls; repetitions of one whose connection went away are that call.
    pub calls: Option<EndpointCalls>,
}

impl GrpcTarget {
    /// Without TLS.
    pub fn plain(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            tls: None,
            authority: None,
            connect_timeout: Duration::from_secs(5),
            max_connection_age: MAX_CONNECTION_AGE,
            compression: None,
            max_message_bytes: MAX_MESSAGE_BYTES,
            calls: None,
        }
    }

    /// With TLS by `source`; the server must carry the host of `address` as a name.
    pub fn tls(address: impl Into<String>, source: CredentialSource) -> Self {
        let tls = ClientTls { source, server_name: None, expected: ExpectedServer::Name };
        Self { tls: Some(tls), ..Self::plain(address) }
    }
}

/// The TLS side of a target.
#[derive(Clone, Debug)]
pub struct ClientTls {
    pub source: CredentialSource,
    /// Sent as SNI and looked for in the certificate, instead of the host of the address.
    pub server_name: Option<String>,
    /// Which server is the right one.
    pub expected: ExpectedServer,
}

/// A channel to `target`, which connects when it is first used. Must be called within a tokio runtime. Errors: the address or the server name cannot be
/// one; the credentials are a server's.
pub fn connect(target: &GrpcTarget) -> Result<GrpcChannel, Error> {
    let (host, port) = split_host_port(&target.address)?;
    let connector = Connector::new(target, host, port)?;
    let endpoint = endpoint(target)?;
    let health = Health::new();
    let channel = endpoint.connect_with_connector_lazy(connector.reporting_to(Arc::clone(&health)));
    let stop = CancellationToken::new();
    let inner = Arc::new(Inner {
        address: target.address.clone(),
        connect_timeout: target.connect_timeout,
        compression: target.compression,
        max_message_bytes: target.max_message_bytes,
        calls: target.calls.clone(),
        endpoint,
        connector,
        current: ArcSwap::from_pointee(Live { channel, health }),
        _stop: stop.clone().drop_guard(),
    });
    if let Some(tls) = &target.tls {
        let shown = inner.connector.shown();
        let turning =
            turn_over(Arc::downgrade(&inner), tls.source.subscribe(), shown, target.max_connection_age, stop);
        tokio::spawn(turning);
    }
    Ok(GrpcChannel { inner })
}

fn endpoint(target: &GrpcTarget) -> Result<Endpoint, Error> {
    let refuse = |what: &str, text: &str| Error::Address {
        address: text.to_owned(),
        reason: format!("it cannot be used as {what}"),
    };
    let server_name = target.tls.as_ref().and_then(|tls| tls.server_name.as_ref());
    let authority = target.authority.as_ref().or(server_name).unwrap_or(&target.address);
    let scheme = if target.tls.is_some() { "https" } else { "http" };
    let origin = http::Uri::builder()
        .scheme(scheme)
        .authority(authority.as_str())
        .path_and_query("/")
        .build()
        .map_err(|_| refuse("an authority", authority))?;
    let endpoint = Endpoint::from_shared(format!("http://{}", target.address))
        .map_err(|_| refuse("an address", &target.address))?;
    Ok(endpoint
        .origin(origin)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES))
}

/// A channel for generated clients: `StoreClient::new(channel)`. Cloning is cheap; clones share the connection.
#[derive(Clone)]
pub struct GrpcChannel {
    inner: Arc<Inner>,
}

struct Inner {
    address: String,
    connect_timeout: Duration,
    compression: Option<Compression>,
    max_message_bytes: usize,
    calls: Option<EndpointCalls>,
    endpoint: Endpoint,
    connector: Connector,
    current: ArcSwap<Live>,
    _stop: DropGuard,
}

/// A tonic channel and what its connections reported.
struct Live {
    channel: Channel,
    health: Arc<Health>,
}

impl std::fmt::Debug for GrpcChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcChannel").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl GrpcChannel {
    /// The address that was asked for.
    pub fn address(&self) -> &str {
        &self.inner.address
    }
}

impl Service<http::Request<Body>> for GrpcChannel {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Status>> + Send>>;

    /// Always ready: waiting for the connection is part of the call, which so can move to a new one.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let begun = inner.calls.as_ref().map(|calls| calls.begin(request.uri().path(), request.headers()));
        Box::pin(async move {
            let answer = inner.call(request).await;
            let Some(mut call) = begun else { return answer };
            match answer {
                Ok(response) => Ok(call.watch(response)),
                Err(status) => {
                    call.ended(status.code());
                    Err(status)
                }
            }
        })
    }
}

impl Inner {
    async fn call(&self, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        let request = match self.compression {
            None => request,
            Some(compression) => compress_request(request, compression),
        };
        let replayable = Replayable::new(request);
        let mut last = Status::unavailable(format!("{}: the call was not sent", self.address));
        for _ in 0..=RETRIES {
            let Some(request) = replayable.next() else { return Err(last) };
            let live = self.current.load_full();
            let failure = match Self::attempt(&live, request).await {
                Ok(response) => {
                    let response = status::from_plain_http(response, &self.address).await?;
                    let response = status::with_address(response, &self.address);
                    return Ok(decompress_response(response, self.max_message_bytes));
                }
                Err(error) => error,
            };
            last = status::from_transport(&self.address, &live.health, &failure);
            if !status::is_lost_connection(&failure) {
                break;
            }
        }
        Err(last)
    }

    async fn attempt(
        live: &Live,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, tonic::transport::Error> {
        let mut channel = live.channel.clone();
        channel.ready().await?.call(request).await
    }

    /// Connects with the current credentials and waits until the server has spoken.
    async fn prove(&self) -> Result<Live, String> {
        let health = Health::new();
        let connector = self.connector.reporting_to(Arc::clone(&health));
        let proving = async {
            let channel = self.endpoint.connect_with_connector(connector).await.map_err(|error| {
                status::from_transport(&self.address, &health, &error).message().to_owned()
            })?;
            health.heard().await.map_err(|explanation| format!("{}: {}", self.address, explanation.text))?;
            Ok::<_, String>(channel)
        };
        match tokio::time::timeout(self.connect_timeout, proving).await {
            Ok(Ok(channel)) => Ok(Live { channel, health }),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(format!("{}: no answer within {:?}", self.address, self.connect_timeout)),
        }
    }
}

/// The purpose that a target's credentials must have been loaded for.
pub(crate) fn is_client(source: &CredentialSource) -> bool {
    matches!(source.profile().purpose, Purpose::Client { .. })
}
