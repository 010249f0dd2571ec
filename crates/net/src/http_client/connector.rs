//! Connections of the HTTP client: TCP, and TLS for `https` with the credentials that are current at that moment.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parallax_dial::{ClientStream, DialError, dial};
use parallax_pki::{CredentialSource, ExpectedServer, Side, explain};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tower::Service;

use super::HttpClientConfig;
use super::url::BaseUrl;
use crate::Error;

/// Why a connection could not be made, in words.
#[derive(Debug)]
pub(super) struct ConnectFailure(String);

impl fmt::Display for ConnectFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConnectFailure {}

#[derive(Clone, Debug)]
pub(super) struct HttpConnector {
    tls: Option<Arc<Tls>>,
    timeout: Duration,
}

#[derive(Debug)]
struct Tls {
    source: CredentialSource,
    server_name: ServerName<'static>,
}

impl HttpConnector {
    pub(super) fn new(config: &HttpClientConfig, base: &BaseUrl) -> Result<Self, Error> {
        if !base.https {
            return Ok(Self { tls: None, timeout: config.connect_timeout });
        }
        let source = config.tls.clone().ok_or(parallax_pki::Error::NoTrust)?;
        source.current().client_config(&ExpectedServer::Name)?;
        let name = config.server_name.clone().unwrap_or_else(|| base.host.clone());
        let server_name = ServerName::try_from(name.clone()).map_err(|_| Error::Address {
            address: name,
            reason: "it cannot be used as a TLS server name".to_owned(),
        })?;
        Ok(Self { tls: Some(Arc::new(Tls { source, server_name })), timeout: config.connect_timeout })
    }

    pub(super) async fn open(self, uri: http::Uri) -> Result<ClientStream, ConnectFailure> {
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let opening = async {
            let stream = dial(&host, port).await.map_err(|error| match error {
                DialError::Resolve(error) => format!("the name {host} cannot be resolved ({error})"),
                DialError::Connect(error) => explain(&error, Side::Client).text,
            })?;
            // An error here means that the peer has gone; the request will notice.
            let _ = stream.set_nodelay(true);
            let Some(tls) = &self.tls else { return Ok(ClientStream::Plain(stream)) };
            let config = tls
                .source
                .current()
                .client_config(&ExpectedServer::Name)
                .map_err(|error| error.to_string())?;
            let mut config = (*config).clone();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            let stream = TlsConnector::from(Arc::new(config))
                .connect(tls.server_name.clone(), stream)
                .await
                .map_err(|error| explain(&error, Side::Client).text)?;
            Ok(ClientStream::Tls(Box::new(stream)))
        };
        match tokio::time::timeout(self.timeout, opening).await {
            Ok(result) => result.map_err(ConnectFailure),
            Err(_) => Err(ConnectFailure(format!("no connection within {:?}", self.timeout))),
        }
    }
}

impl Service<http::Uri> for HttpConnector {
    type Response = TokioIo<ClientStream>;
    type Error = ConnectFailure;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectFailure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.open(uri).await.map(TokioIo::new) })
    }
}
