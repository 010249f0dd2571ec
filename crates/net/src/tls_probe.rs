//! Looking at a TLS server without trusting it: its certificates, the CAs whose clients it takes, whether it takes a given client.
//!
//! Invariant: nothing but handshakes is sent, and nothing the server says is believed beyond what it shows; its certificates are for the caller to judge.
//! A server that speaks TLS 1.3 refuses a client after the client's own handshake is done: its first bytes, or its alert, are waited for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use parallax_pki::verify::any_server;
use parallax_pki::{CredentialPem, Explanation, FailureReason, Side, explain};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ClientConfig, SignatureScheme};

use crate::Error;
use crate::listen::split_host_port;
use parallax_dial::{DialError, dial};

/// Names of CAs that are kept of what a server sends.
const MAX_CA_NAMES: usize = 1024;

/// What a server showed.
#[derive(Clone, Debug, Default)]
pub struct ServerProbe {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// DER names of the CAs whose clients it takes. `None`: it asked for no certificate.
    pub client_cas: Option<Vec<Vec<u8>>>,
    /// For example `TLSv1_3`.
    pub version: String,
    /// The application protocol that was agreed on.
    pub alpn: Option<String>,
    /// Whether it went on after it saw the client's certificate (or that there is none), and if not, why.
    pub accepted: Option<Result<(), String>>,
}

/// Shakes hands with the server at `address` (`host:port`), which is asked for by `server_name` or else by its host, and shows `client` to it, if given.
pub async fn probe_server(
    address: &str,
    server_name: Option<&str>,
    client: Option<&CredentialPem>,
    timeout: Duration,
) -> Result<ServerProbe, Error> {
    let unreachable = |reason: String| Error::Unreachable { url: address.to_owned(), reason };
    let probing = probe(address, server_name, client);
    match tokio::time::timeout(timeout, probing).await {
        Ok(result) => result,
        Err(_) => Err(unreachable(format!("no TLS handshake within {timeout:?}"))),
    }
}

async fn probe(
    address: &str,
    server_name: Option<&str>,
    client: Option<&CredentialPem>,
) -> Result<ServerProbe, Error> {
    let unreachable =
        |explanation: Explanation| Error::Unreachable { url: address.to_owned(), reason: explanation.text };
    let (host, port) = split_host_port(address)?;
    let name = server_name.unwrap_or(&host).to_owned();
    let name = ServerName::try_from(name.clone()).map_err(|_| Error::Address {
        address: name,
        reason: "it cannot be used as a TLS server name".to_owned(),
    })?;
    let stream = dial(&host, port).await.map_err(|error| {
        unreachable(match error {
            DialError::Resolve(error) => Explanation {
                reason: FailureReason::Unreachable,
                text: format!("the name {host} cannot be resolved ({error})"),
            },
            DialError::Connect(error) => explain(&error, Side::Client),
        })
    })?;
    let asked = Arc::new(Recorder { key: client.map(certified_key).transpose()?, cas: Mutex::default() });
    let config = config(Arc::clone(&asked)).map_err(|error| {
        unreachable(Explanation { reason: FailureReason::Other, text: error.to_string() })
    })?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let mut probe = ServerProbe { client_cas: asked.cas(), ..ServerProbe::default() };
    match connected {
        Ok(mut stream) => {
            let (_, connection) = stream.get_ref();
            probe.chain = connection.peer_certificates().unwrap_or_default().to_vec();
            probe.version =
                connection.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default();
            probe.alpn = connection.alpn_protocol().map(|alpn| String::from_utf8_lossy(alpn).into_owned());
            probe.accepted = Some(first_word(&mut stream).await);
            Ok(probe)
        }
        // The server said no to the certificate before the handshake was done (TLS 1.2).
        Err(error) if probe.client_cas.is_some() => {
            probe.accepted = Some(Err(explain(&error, Side::Client).text));
            Ok(probe)
        }
        Err(error) => Err(unreachable(explain(&error, Side::Client))),
    }
}

/// An HTTP/2 server speaks first (its settings), once it has accepted the client.
async fn first_word(stream: &mut TlsStream<TcpStream>) -> Result<(), String> {
    let mut byte = [0_u8; 1];
    match stream.read(&mut byte).await {
        Ok(0) => Err("the server closed the connection without a word".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(explain(&error, Side::Client).text),
    }
}

fn certified_key(pem: &CredentialPem) -> Result<Arc<CertifiedKey>, Error> {
    let malformed = |what: &'static str, reason: String| {
        Error::Credentials(parallax_pki::Error::Malformed { subject: what.to_owned(), reason })
    };
    let cert = pem.cert.as_deref().unwrap_or_default();
    let chain = parallax_pki::certificate::parse_bundle("the client certificate", cert)?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_deref().unwrap_or_default().as_bytes())
        .map_err(|error| malformed("the client's private key", error.to_string()))?;
    CertifiedKey::from_der(chain, key, &parallax_pki::provider())
        .map(Arc::new)
        .map_err(|error| malformed("the client's private key", error.to_string()))
}

fn config(recorder: Arc<Recorder>) -> Result<ClientConfig, rustls::Error> {
    let provider = parallax_pki::provider();
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(any_server(provider))
        .with_client_cert_resolver(recorder);
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Writes down which CAs the server names.
#[derive(Debug)]
struct Recorder {
    key: Option<Arc<CertifiedKey>>,
    cas: Mutex<Option<Vec<Vec<u8>>>>,
}

impl Recorder {
    fn cas(&self) -> Option<Vec<Vec<u8>>> {
        self.cas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesClientCert for Recorder {
    fn resolve(&self, root_hint_subjects: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let names = root_hint_subjects.iter().take(MAX_CA_NAMES).map(|name| name.to_vec()).collect();
        *self.cas.lock().unwrap_or_else(PoisonError::into_inner) = Some(names);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
