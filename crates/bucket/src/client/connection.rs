//! Connections to a cloud: TCP, and TLS for `https`. Each is made within the handshake timeout or not at all.
//!
//! Invariant: what `tls_config` says (authorities, client certificate, server name, no verification) holds for the bucket's own endpoint. Services
//! that hand out credentials are other servers: they are judged by the system's authorities and the name they were dialled by.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parallax_dial::{ClientStream, DialError, dial};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::Service;

use super::proxy::Proxy;

/// A server, as URLs name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// In lower case, an IPv6 address without brackets.
    host: String,
    port: u16,
}

impl Endpoint {
    /// The server of a URL; `None` if it names none.
    pub(crate) fn of(url: &str) -> Option<Self> {
        Self::of_uri(&url.parse().ok()?)
    }

    fn of_uri(uri: &http::Uri) -> Option<Self> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let is_plain = uri.scheme() == Some(&http::uri::Scheme::HTTP);
        Some(Self { host, port: uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 }) })
    }
}

/// How a server is met over TLS.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    pub tls: Arc<rustls::ClientConfig>,
    /// Looked for in the certificate instead of the host.
    pub server_name: Option<String>,
}

pub(super) struct ConnectorConfig {
    /// The bucket's own; `None` if its URL names no server.
    pub endpoint: Option<Endpoint>,
    /// For `endpoint`.
    pub configured: Trust,
    /// For all others.
    pub others: Trust,
    pub proxy: Option<Proxy>,
    pub allow_http: bool,
    pub timeout: Duration,
}

#[derive(Clone)]
pub(super) struct Connector(Arc<ConnectorConfig>);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("allow_http", &self.0.allow_http).finish_non_exhaustive()
    }
}

impl Connector {
    pub(super) fn new(config: ConnectorConfig) -> Self {
        Self(Arc::new(config))
    }

    fn trust_for(&self, target: &Endpoint) -> &Trust {
        if self.0.endpoint.as_ref() == Some(target) { &self.0.configured } else { &self.0.others }
    }

    async fn open(self, uri: http::Uri) -> io::Result<ClientStream> {
        let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        if !https && !self.0.allow_http {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "plain HTTP is not allowed here"));
        }
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        let target = Endpoint::of_uri(&uri).ok_or_else(|| invalid("the URL names no server".to_owned()))?;
        let (host, port) = (target.host.as_str(), target.port);
        let opening = async {
            let stream = match &self.0.proxy {
                Some(proxy) if https && proxy.is_for(host, port) => proxy.connect(host, port).await?,
                _ => open_tcp(host, port).await?,
            };
            // An error here means that the peer has gone; the request will notice.
            let _ = stream.set_nodelay(true);
            if !https {
                return Ok(ClientStream::Plain(stream));
            }
            let trust = self.trust_for(&target);
            let name = trust.server_name.clone().unwrap_or_else(|| host.to_owned());
            let name = ServerName::try_from(name).map_err(|error| invalid(error.to_string()))?;
            let stream = TlsConnector::from(Arc::clone(&trust.tls)).connect(name, stream).await?;
            Ok(ClientStream::Tls(Box::new(stream)))
        };
        match tokio::time::timeout(self.0.timeout, opening).await {
            Ok(result) => result,
            Err(_) => {
                let text = format!("no connection to port {port} within {:?}", self.0.timeout);
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

impl Service<http::Uri> for Connector {
    type Response = TokioIo<ClientStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.open(uri).await.map(TokioIo::new) })
    }
}

/// A connection to the first address of a name that takes one.
pub(super) async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    dial(host, port).await.map_err(|error| match error {
        DialError::Resolve(error) => {
            io::Error::new(error.kind(), format!("the name {host} cannot be resolved: {error}"))
        }
        DialError::Connect(error) => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_by_host_and_port() {
        let of = |url: &str| Endpoint::of(url).unwrap();
        assert_eq!(of("https://S3.example"), of("https://s3.example:443/bucket/key?x"));
        assert_eq!(of("https://[::1]:9000"), of("https://[::1]:9000/a"));
        for other in ["http://s3.example", "https://sts.example", "https://s3.example:8443"] {
            assert_ne!(of("https://s3.example"), of(other), "{other}");
        }
        assert_eq!(Endpoint::of("no url"), None);
    }
}
