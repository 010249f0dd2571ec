//! Bad input 19: servers that are not what an ingress for gRPC should be. Each is told apart from the others.

use std::sync::Arc;

use parallax_net::{ClientTls, GrpcTarget, connect};
use parallax_pki::ExpectedServer;
use parallax_pki::certificate::parse_bundle;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Mesh, ask, refusal};

/// Shows `other` to whoever asks for another name than `name`, as a shared ingress does.
#[derive(Debug)]
struct ByName {
    name: &'static str,
    own: Arc<CertifiedKey>,
    other: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_own = hello.server_name() == Some(self.name);
        Some(Arc::clone(if is_own { &self.own } else { &self.other }))
    }
}

struct Odd {
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: Vec<Vec<u8>>,
    /// What it says after the handshake.
    says: &'static [u8],
}

fn pair(cert: &str, key: &str) -> Arc<CertifiedKey> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let chain = parse_bundle("leaf", cert).unwrap();
    Arc::new(CertifiedKey::from_der(chain, key, &parallax_pki::provider()).unwrap())
}

/// `localhost:port` of such a server; for another name than `localhost` it shows a certificate of the cluster us-1.
async fn start(mesh: &Mesh, odd: Odd) -> String {
    let (own, other) =
        (mesh.server_leaf(), mesh.authority.issue_observee("us-1", &["us-1.example"]).unwrap());
    let certificates = ByName {
        name: "localhost",
        own: pair(&own.cert_pem, &own.key_pem),
        other: pair(&other.cert_pem, &other.key_pem),
    };
    let mut config = ServerConfig::builder_with_provider(parallax_pki::provider())
        .with_protocol_versions(odd.versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = odd.alpn;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let _ = stream.write_all(odd.says).await;
                    let _ = stream.shutdown().await;
                    // Until the client is done: a connection that is closed with something unread is reset.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                }
            });
        }
    });
    format!("localhost:{port}")
}

const H1: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn bad_input_19_each_odd_server_gets_a_text_of_its_own() {
    let mesh = Mesh::new();
    let told = async |odd: Odd| {
        let address = start(&mesh, odd).await;
        refusal(&connect(&GrpcTarget::tls(address, mesh.client_source())).unwrap()).await
    };
    static OLD: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
    let (both, h2) = (rustls::ALL_VERSIONS, || vec![b"h2".to_vec()]);
    let h1_only = told(Odd { versions: both, alpn: vec![b"http/1.1".to_vec()], says: H1 }).await;
    assert!(h1_only.contains("does not speak the application protocol (h2)"), "{h1_only}");
    let old = told(Odd { versions: &OLD, alpn: h2(), says: b"" }).await;
    assert!(old.contains("does not speak TLS 1.3 or refuses our versions"), "{old}");
    let silent = told(Odd { versions: both, alpn: h2(), says: b"" }).await;
    assert!(silent.contains("closed the connection before it said anything"), "{silent}");
    let no_alpn = told(Odd { versions: both, alpn: vec![], says: H1 }).await;
    for (one, other) in [(&h1_only, &old), (&old, &silent), (&silent, &no_alpn), (&no_alpn, &h1_only)] {
        assert_ne!(one, other);
    }
}

#[tokio::test]
async fn bad_input_19_the_default_certificate_of_a_shared_ingress_is_named() {
    let mesh = Mesh::new();
    let address = start(&mesh, Odd { versions: rustls::ALL_VERSIONS, alpn: vec![], says: b"" }).await;
    let target = |address: &str, server_name: &str| GrpcTarget {
        tls: Some(ClientTls {
            source: mesh.client_source(),
            server_name: Some(server_name.to_owned()),
            expected: ExpectedServer::NameOfCluster("eu-1".to_owned()),
        }),
        ..GrpcTarget::plain(address)
    };
    let message = refusal(&connect(&target(&address, "eu-1.example")).unwrap()).await;
    assert!(message.contains("observee/us-1 answers for the cluster \"eu-1\""), "{message}");
    // An address as a name sends no SNI at all, so it gets the default as well.
    let by_address = connect(&target(&address.replace("localhost", "127.0.0.1"), "127.0.0.1")).unwrap();
    assert!(ask(&by_address).await.unwrap_err().message().contains("observee/us-1"));
}
