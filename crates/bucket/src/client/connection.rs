//! Connections to a cloud: TCP, and TLS for `https`. Each is made within the handshake timeout or not at all.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use super::proxy::Proxy;

pub(super) struct ConnectorConfig {
    pub tls: Arc<rustls::ClientConfig>,
    /// Looked for in certificates instead of the host.
    pub server_name: Option<String>,
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

    async fn open(self, uri: http::Uri) -> io::Result<CloudStream> {
        let https = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        if !https && !self.0.allow_http {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "plain HTTP is not allowed here"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let opening = async {
            let stream = match &self.0.proxy {
                Some(proxy) if https && proxy.is_for(&host, port) => proxy.connect(&host, port).await?,
                _ => TcpStream::connect((host.as_str(), port)).await?,
            };
            // An error here means that the peer has gone; the request will notice.
            let _ = stream.set_nodelay(true);
            if !https {
                return Ok(CloudStream::Plain(stream));
            }
            let name = self.0.server_name.clone().unwrap_or_else(|| host.clone());
            let name = ServerName::try_from(name)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TlsConnector::from(Arc::clone(&self.0.tls)).connect(name, stream).await?;
            Ok(CloudStream::Tls(Box::new(stream)))
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
    type Response = TokioIo<CloudStream>;
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

pub(super) enum CloudStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for CloudStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for CloudStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for CloudStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}
