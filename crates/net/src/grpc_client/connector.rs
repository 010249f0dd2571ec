//! Makes connections: name resolution, TCP, and TLS with the credentials that are current at that moment.
//!
//! Invariant: an error is a [`ConnectFailure`], whose text is fit for an operator.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parallax_dial::{DialError, dial};
use parallax_pki::certificate::Facts;
use parallax_pki::verify::identity_of;
use parallax_pki::{ExpectedServer, Explanation, FailureReason, Side, explain, explain_to};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::health::Health;
use super::stream::{ClientStream, Parties, Watched};
use super::turnover::Shown;
use super::{ClientTls, GrpcTarget, is_client};
use crate::Error;
use crate::distrust::AcceptedServer;

/// Why a connection could not be made.
#[derive(Clone, Debug)]
pub(super) struct ConnectFailure {
    pub(super) explanation: Explanation,
}

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.explanation.text)
    }
}

impl std::error::Error for ConnectFailure {}

/// Connects to one target. Clones report to their own [`Health`].
#[derive(Clone)]
pub(super) struct Connector {
    host: Arc<str>,
    port: u16,
    tls: Option<Tls>,
    timeout: Duration,
    health: Arc<Health>,
    shown: Arc<Shown>,
}

#[derive(Clone)]
struct Tls {
    settings: ClientTls,
    server_name: ServerName<'static>,
}

impl Connector {
    /// Errors: the server name cannot be one; the credentials are not a client's.
    pub(super) fn new(target: &GrpcTarget, host: String, port: u16) -> Result<Self, Error> {
        let tls = match &target.tls {
            None => None,
            Some(settings) => {
                if !is_client(&settings.source) {
                    settings.source.current().client_config(&ExpectedServer::Name)?;
                }
                let name = settings.server_name.clone().unwrap_or_else(|| host.clone());
                let server_name = ServerName::try_from(name.clone()).map_err(|_| Error::Address {
                    address: name,
                    reason: "it cannot be used as a TLS server name".to_owned(),
                })?;
                Some(Tls { settings: settings.clone(), server_name })
            }
        };
        Ok(Self {
            host: host.into(),
            port,
            tls,
            timeout: target.connect_timeout,
            health: Health::new(),
            shown: Arc::default(),
        })
    }

    /// What servers show on the connections of this one and its clones.
    pub(super) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown)
    }

    pub(super) fn reporting_to(&self, health: Arc<Health>) -> Self {
        Self { health, ..self.clone() }
    }

    async fn connect(self) -> Result<TokioIo<ClientStream>, ConnectFailure> {
        let result = match tokio::time::timeout(self.timeout, self.open()).await {
            Ok(result) => result,
            Err(_) => Err(Explanation {
                reason: FailureReason::Timeout,
                text: format!("no connection within {:?}", self.timeout),
            }),
        };
        result.map(TokioIo::new).map_err(|explanation| {
            self.health.note_failure(explanation.clone());
            ConnectFailure { explanation }
        })
    }

    async fn open(&self) -> Result<ClientStream, Explanation> {
        let stream = dial(&self.host, self.port).await.map_err(|error| match error {
            DialError::Resolve(error) => Explanation {
                reason: FailureReason::Unreachable,
                text: format!("the name {} cannot be resolved ({error})", self.host),
            },
            DialError::Connect(error) => explain(&error, Side::Client),
        })?;
        // An error here means that the peer has gone; the handshake will notice.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return Ok(ClientStream::plain(stream, Arc::clone(&self.health)));
        };
        let material = tls.settings.source.current();
        let config = material
            .client_config(&tls.settings.expected)
            .map_err(|error| Explanation { reason: FailureReason::Other, text: error.to_string() })?;
        let own = material.identity().map(ToString::to_string);
        let stream = TlsConnector::from(config)
            .connect(tls.server_name.clone(), stream)
            .await
            .map_err(|error| explain_handshake(&error, own.as_deref()))?;
        if let Some(protocol) = stream.get_ref().1.alpn_protocol().filter(|protocol| *protocol != b"h2") {
            return Err(Explanation {
                reason: FailureReason::Protocol,
                text: format!(
                    "the server chose the protocol {:?}, not h2",
                    String::from_utf8_lossy(protocol)
                ),
            });
        }
        Ok(self.watched(tls, stream, material.trust_digest(), own))
    }
}

impl Connector {
    /// Counts the connection, and ends it when its server is no longer trusted.
    fn watched(
        &self,
        tls: &Tls,
        stream: TlsStream<TcpStream>,
        accepted_by: Option<&str>,
        own: Option<String>,
    ) -> ClientStream {
        let source = &tls.settings.source;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let counted = source.count_connection(chain.first().map(|leaf| &**leaf));
        let mut parties = Parties { own, server: None };
        if let Some(leaf) = chain.first().and_then(|leaf| Facts::read(leaf).ok()) {
            parties.server = identity_of(&leaf).ok().flatten().map(|identity| identity.to_string());
            self.shown.note(leaf.issuer_raw);
        }
        let cut = CancellationToken::new();
        let server = AcceptedServer {
            address: format!("{}:{}", self.host, self.port),
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            name: tls.server_name.clone(),
            expected: tls.settings.expected.clone(),
        };
        tokio::spawn(server.watch(source.clone(), accepted_by.map(str::to_owned), cut.clone()));
        ClientStream::tls(stream, Arc::clone(&self.health), Watched::new(cut, counted, parties))
    }
}

/// A server that hangs up in the middle of a handshake most often does not speak TLS.
fn explain_handshake(error: &io::Error, own: Option<&str>) -> Explanation {
    let mut explanation = explain_to(error, Side::Client, own);
    if explanation.reason == FailureReason::Closed {
        explanation.text.push_str("; does it speak TLS on this port?");
    }
    explanation
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<ClientStream>;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectFailure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
