//! A Prometheus behind TLS that wants to know who asks: certificates and secrets by file, which may change at any time.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use parallax_net::{Context, HttpServer};
use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialSource, LeafRequest, PeerIdentity, Purpose,
    TrustDomain,
};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_simulate::Fleet;
use parallax_simulate::stand_in::{self, StandIn};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Far more than anything here takes; only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Certificates in files: `server`, `client`, and the CA that made them.
struct Keys {
    directory: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        parallax_pki::install_provider();
        let keys = Self { directory: tempfile::tempdir().unwrap() };
        let domain = TrustDomain::new("mesh.test").unwrap();
        let yesterday = SystemTime::now() - Duration::from_secs(86_400);
        let authority = Authority::in_memory(&AuthorityOptions::new(domain.clone()), yesterday).unwrap();
        let issue = |name: &str, request: LeafRequest| {
            let leaf = authority.issue_at(&request, SystemTime::now()).unwrap();
            leaf.write(&keys.at(name)).unwrap();
        };
        let server = PeerIdentity::observee(&domain, "eu-1").unwrap();
        issue("server", LeafRequest::new(server).dns("localhost"));
        issue("client", LeafRequest::new(PeerIdentity::observer(&domain, "hub").unwrap()));
        keys
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// A `tls_config` that shows the client's certificate and trusts the CA in `ca`.
    fn tls_config(&self, ca: &str) -> Value {
        json!({"ca_file": ca, "cert_file": self.file("client/tls.crt"), "key_file": self.file("client/tls.key")})
    }
}

/// A stand-in that answers only to this `Authorization`, behind TLS that asks for a certificate.
struct Guarded {
    url: String,
    expected: Arc<Mutex<String>>,
    context: Context,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

async fn check(State(expected): State<Arc<Mutex<String>>>, request: Request, next: Next) -> Response {
    let found = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or("");
    if *expected.lock().unwrap() != found {
        return (StatusCode::UNAUTHORIZED, "who are you?").into_response();
    }
    next.run(request).await
}

impl Guarded {
    async fn start(keys: &Keys, expected: &str) -> Self {
        let (context, expected) = (Context::for_test(), Arc::new(Mutex::new(expected.to_owned())));
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 1, seed: 3 };
        let start_ms = stand_in::now_ms() - 3_600_000;
        let router = stand_in::router(StandIn { fleet, start_ms })
            .layer(middleware::from_fn_with_state(Arc::clone(&expected), check));
        let inner = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
        let inner_address = inner.local_addr();
        tokio::spawn(inner.serve(router, context.shutdown.clone()));
        let files = CredentialFiles::in_directory(&keys.at("server"));
        let source = CredentialSource::from_files(files, Purpose::Server).unwrap();
        // Made for gRPC; Prometheus' API is HTTP/1.1.
        let mut tls = (*source.current().server_config().unwrap()).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else { return };
                    let mut inner = TcpStream::connect(inner_address).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        Self { url, expected, context }
    }

    fn sidecar(&self, options: &Value) {
        let config = SidecarConfig {
            http_client_yaml: options.to_string(),
            heartbeat_interval: Duration::from_millis(20),
            ..SidecarConfig::new(&self.url)
        };
        Sidecar::start(config, &self.context).unwrap();
    }

    async fn is_ready(&self) {
        let mut readiness = self.context.readiness.subscribe();
        let ready = tokio::time::timeout(PATIENCE, readiness.wait_for(|ready| *ready)).await;
        assert!(ready.is_ok(), "{:?}", self.context.readiness.reasons());
    }

    /// Waits until the reason why it is not ready contains `part`.
    async fn is_not_ready_for(&self, part: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reasons = self.context.readiness.reasons().join("\n");
            if reasons.contains(part) {
                return;
            }
            assert!(Instant::now() < deadline, "{part:?} is not in {reasons:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_a_password_by_file_open_the_door() {
    let keys = Keys::new();
    // user:secret
    let guarded = Guarded::start(&keys, "Basic dXNlcjpzZWNyZXQ=").await;
    write(&keys.at("password"), "secret\n");
    let basic = json!({"username": "user", "password_file": keys.file("password")});
    guarded
        .sidecar(&json!({"basic_auth": basic, "tls_config": keys.tls_config(&keys.file("client/ca.crt"))}));
    guarded.is_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_changes_is_followed() {
    let keys = Keys::new();
    let guarded = Guarded::start(&keys, "Bearer first").await;
    write(&keys.at("token"), "first");
    let tls = keys.tls_config(&keys.file("client/ca.crt"));
    guarded.sidecar(&json!({"bearer_token_file": keys.file("token"), "tls_config": tls}));
    guarded.is_ready().await;
    *guarded.expected.lock().unwrap() = "Bearer second".to_owned();
    guarded.is_not_ready_for("401").await;
    write(&keys.at("token"), "second");
    guarded.is_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_authority_is_refused_unless_one_is_told_not_to_look() {
    let (keys, others) = (Keys::new(), Keys::new());
    let guarded = Guarded::start(&keys, "").await;
    let mut tls = keys.tls_config(&others.file("client/ca.crt"));
    guarded.sidecar(&json!({"tls_config": tls.clone()}));
    guarded.is_not_ready_for("certificate").await;
    tls["insecure_skip_verify"] = json!(true);
    let blind = Guarded { context: Context::for_test(), url: guarded.url.clone(), expected: Arc::default() };
    blind.sidecar(&json!({"tls_config": tls}));
    blind.is_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_another_name_is_asked_for_by_that_name() {
    let keys = Keys::new();
    let guarded = Guarded::start(&keys, "").await;
    let by_address = Guarded {
        url: guarded.url.replace("localhost", "127.0.0.1"),
        context: Context::for_test(),
        expected: Arc::default(),
    };
    let mut tls = keys.tls_config(&keys.file("client/ca.crt"));
    by_address.sidecar(&json!({"tls_config": tls.clone()}));
    by_address.is_not_ready_for("certificate").await;
    tls["server_name"] = json!("localhost");
    let by_name =
        Guarded { url: by_address.url.clone(), context: Context::for_test(), expected: Arc::default() };
    by_name.sidecar(&json!({"tls_config": tls}));
    by_name.is_ready().await;
}
