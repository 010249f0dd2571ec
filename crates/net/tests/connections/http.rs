//! The HTTP server and client against each other.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, RawForm, RawQuery};
use axum::routing::{get, post};
use bytes::Bytes;
use futures::StreamExt as _;
use parallax_net::{
    Context, Error, HttpAuth, HttpClient, HttpClientConfig, HttpRules, HttpSecurity, HttpServer, Users,
    base_router,
};
use parallax_pki::{CredentialPem, CredentialSource, Hierarchy, Purpose};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::fixture::{CLIENT, Mesh};

async fn serve(router: Router) -> (String, CancellationToken) {
    let server = HttpServer::bind("127.0.0.1:0", "--http-address").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let shutdown = CancellationToken::new();
    tokio::spawn(server.serve(router, shutdown.clone()));
    (url, shutdown)
}

fn client(url: &str) -> HttpClient {
    HttpClient::new(HttpClientConfig::new(url)).unwrap()
}

async fn text(client: &HttpClient, path: &str) -> (u16, String) {
    let response = client.get(path, &[]).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.bytes(1 << 20).await.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn probes_and_metrics_tell_the_state_of_the_process() {
    let context = Context::for_test();
    let condition = context.readiness.condition("store");
    let (url, _shutdown) = serve(base_router(&context)).await;
    let client = client(&url);
    assert_eq!(text(&client, "/-/healthy").await.0, 200);
    let (status, body) = text(&client, "/-/ready").await;
    assert_eq!((status, body.as_str()), (503, "not ready: store: starting\n"));
    condition.ready();
    assert_eq!(text(&client, "/-/ready").await.0, 200);
    let response = client.get("/metrics", &[]).await.unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(response.bytes(1 << 20).await.unwrap().ends_with(b"# EOF\n"));
}

#[tokio::test]
async fn queries_and_forms_arrive_as_they_were_meant() {
    let echo = Router::new()
        .route("/api/get", get(async |RawQuery(query): RawQuery| query.unwrap_or_default()))
        .route("/api/post", post(async |RawForm(form): RawForm| form))
        .route("/api/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string()));
    let (url, _shutdown) = serve(echo).await;
    let client = client(&format!("{url}/api/"));
    let pairs = [("query", "sum by (a) (x{b=~\"c|d\"})"), ("time", "1")];
    let encoded = "query=sum%20by%20%28a%29%20%28x%7Bb%3D~%22c%7Cd%22%7D%29&time=1";
    let got = client.get("/get", &pairs).await.unwrap().bytes(1000).await.unwrap();
    assert_eq!(got, encoded);
    let posted = client.post_form("/post", &pairs).await.unwrap().bytes(1000).await.unwrap();
    assert_eq!(posted, encoded);
    assert_eq!(text(&client, "/peer").await.1, "127.0.0.1");
}

#[tokio::test]
async fn credentials_are_sent() {
    let echo = Router::new().route(
        "/",
        get(async |headers: axum::http::HeaderMap| headers["authorization"].to_str().unwrap().to_owned()),
    );
    let (url, _shutdown) = serve(echo).await;
    let basic = HttpAuth::Basic { username: "u".to_owned(), password: "p".into() };
    for (auth, expected) in [(basic, "Basic dTpw"), (HttpAuth::Bearer { token: "t".into() }, "Bearer t")] {
        let client = HttpClient::new(HttpClientConfig { auth, ..HttpClientConfig::new(&url) }).unwrap();
        assert_eq!(text(&client, "/").await.1, expected);
    }
}

#[tokio::test]
async fn a_body_is_streamed_and_a_large_one_is_not_collected() {
    let pieces =
        || futures::stream::iter((0..64).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![1_u8; 1024]))));
    let router = Router::new().route("/", get(async move || Body::from_stream(pieces())));
    let (url, _shutdown) = serve(router).await;
    let client = client(&url);
    let mut stream = client.get("/", &[]).await.unwrap().into_stream();
    let mut total = 0;
    while let Some(piece) = stream.next().await {
        total += piece.unwrap().len();
    }
    assert_eq!(total, 64 * 1024);
    let error = client.get("/", &[]).await.unwrap().bytes(10_000).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit_bytes: 10_000, .. }), "{error}");
    assert_eq!(client.get("/", &[]).await.unwrap().text_prefix(10).await.len(), 10);
}

#[tokio::test]
async fn slow_answers_and_stalled_bodies_end() {
    let stalled = || {
        futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))])
            .chain(futures::stream::pending())
    };
    let router = Router::new()
        .route("/never", get(async || std::future::pending::<()>().await))
        .route("/stalls", get(async move || Body::from_stream(stalled())));
    let (url, _shutdown) = serve(router).await;
    let client = |change: fn(&mut HttpClientConfig)| {
        let mut config = HttpClientConfig::new(&url);
        change(&mut config);
        HttpClient::new(config).unwrap()
    };
    let hasty = client(|config| config.response_timeout = Duration::from_millis(50));
    let error = hasty.get("/never", &[("secret", "s")]).await.unwrap_err();
    assert!(matches!(&error, Error::Timeout { url, .. } if url.ends_with("/never")), "{error}");
    let restless = client(|config| config.idle_timeout = Duration::from_millis(50));
    let error = restless.get("/stalls", &[]).await.unwrap().bytes(10).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { what: "further part of the answer", .. }), "{error}");
}

#[tokio::test]
async fn a_connection_on_which_no_request_begins_is_closed_and_one_that_asked_stays() {
    let server = HttpServer::bind("127.0.0.1:0", "--http-address").await.unwrap();
    let server = server.with_header_timeout(Duration::from_millis(500));
    let address = server.local_addr();
    let asked = Router::new().route("/", get(async || tokio::time::sleep(Duration::from_secs(1)).await));
    tokio::spawn(server.serve(asked, CancellationToken::new()));
    // Nothing at all, and the beginning of both HTTP/2's preface and an HTTP/1 method.
    for beginning in [&b""[..], b"P"] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_u8()).await.unwrap();
        assert!(closed.is_err());
    }
    assert_eq!(text(&client(&format!("http://{address}")), "/").await.0, 200);
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let url = format!("http://127.0.0.1:{}", parallax_net::free_port().unwrap());
    let error = client(&url).get("/api", &[]).await.unwrap_err().to_string();
    assert!(error.contains(&url) && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn shutdown_lets_an_open_request_end() {
    let (started, entered) = tokio::sync::oneshot::channel();
    let started = std::sync::Arc::new(std::sync::Mutex::new(Some(started)));
    let router = Router::new().route(
        "/",
        get(async move || {
            started.lock().unwrap().take().unwrap().send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
            "done"
        }),
    );
    let (url, shutdown) = serve(router).await;
    let client = client(&url);
    let (answer, ()) = tokio::join!(text(&client, "/"), async {
        entered.await.unwrap();
        shutdown.cancel();
    });
    assert_eq!(answer, (200, "done".to_owned()));
}

#[tokio::test]
async fn https_needs_a_ca_and_verifies_with_it() {
    let mesh = Mesh::new();
    assert!(HttpClient::new(HttpClientConfig::new("https://localhost:1")).is_err());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = CredentialPem { ca: None, ..mesh.server_leaf().credentials() };
    let server = CredentialSource::from_pem(server, parallax_pki::Purpose::Server).unwrap();
    let mut config = (*server.current().server_config().unwrap()).clone();
    config.alpn_protocols.clear();
    tokio::spawn(async move {
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(async |_| {
                let body = http_body_util::Full::new(Bytes::from_static(b"secured"));
                Ok::<_, std::convert::Infallible>(http::Response::new(body))
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        }
    });
    let asked = |ca: String| {
        let pem = CredentialPem { ca: Some(ca), ..CredentialPem::default() };
        let mut config = HttpClientConfig::new(format!("https://localhost:{port}"));
        config.tls = Some(CredentialSource::from_pem(pem, CLIENT).unwrap());
        HttpClient::new(config).unwrap()
    };
    assert_eq!(text(&asked(mesh.bundle(Hierarchy::Observees)), "/").await.1, "secured");
    let stranger = asked(Mesh::new().bundle(Hierarchy::Observees));
    let error = stranger.get("/", &[]).await.unwrap_err().to_string();
    assert!(error.contains("not signed by a CA in our bundle"), "{error}");
}

/// Of "open sesame", at the lowest cost.
const HASH: &str = "$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy";

fn users(pairs: &[(&str, &str)]) -> Result<Users, Error> {
    Users::new(pairs.iter().map(|(user, hash)| ((*user).to_owned(), (*hash).to_owned())).collect())
}

async fn serve_secured(security: &HttpSecurity) -> (SocketAddr, CancellationToken) {
    let server = HttpServer::bind("127.0.0.1:0", "--http-address").await.unwrap().secured(security.clone());
    let (address, shutdown) = (server.local_addr(), CancellationToken::new());
    let router = Router::new().route("/", get(async || "in"));
    tokio::spawn(server.serve(router, shutdown.clone()));
    (address, shutdown)
}

fn as_user(url: &str, user: &str, password: &str) -> HttpClient {
    let auth = HttpAuth::Basic { username: user.to_owned(), password: password.into() };
    HttpClient::new(HttpClientConfig { auth, ..HttpClientConfig::new(url) }).unwrap()
}

#[tokio::test]
async fn who_knows_a_users_password_is_let_in_and_users_may_change() {
    let security = HttpSecurity::new(HttpRules {
        users: Some(users(&[("ali", HASH)]).unwrap()),
        ..HttpRules::default()
    });
    let (address, _shutdown) = serve_secured(&security).await;
    let url = format!("http://{address}");
    for _ in 0..2 {
        assert_eq!(text(&as_user(&url, "ali", "open sesame"), "/").await, (200, "in".to_owned()));
        assert_eq!(text(&as_user(&url, "ali", "sesame"), "/").await.0, 401);
        assert_eq!(text(&as_user(&url, "baba", "open sesame"), "/").await.0, 401);
    }
    let response = client(&url).get("/", &[]).await.unwrap();
    assert_eq!(response.status().as_u16(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));

    security.replace(HttpRules { users: Some(users(&[("baba", HASH)]).unwrap()), tls: None }).unwrap();
    assert_eq!(text(&as_user(&url, "baba", "open sesame"), "/").await.0, 200);
    assert_eq!(text(&as_user(&url, "ali", "open sesame"), "/").await.0, 401);
    let error = security.replace(HttpRules::default()).unwrap_err().to_string();
    assert!(error.contains("take TLS or passwords away"), "{error}");
    assert_eq!(text(&client(&url), "/").await.0, 401, "it was not taken");
}

#[test]
fn hashes_that_are_none_or_cost_too_much_are_refused_by_user() {
    let costly = HASH.replace("$04$", "$20$");
    for (user, hash, part) in
        [("ali", "secret", "no bcrypt hash"), ("ali", &costly, "cost 20"), ("a:b", HASH, "no colon")]
    {
        let error = users(&[(user, hash)]).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(user), "{error}");
    }
}

#[tokio::test]
async fn an_http_server_with_tls_answers_over_tls_alone_and_asks_for_certificates_where_it_shall() {
    let mesh = Mesh::new();
    let without_ca = CredentialPem { ca: None, ..mesh.server_leaf().credentials() };
    let open = CredentialSource::from_pem(without_ca, Purpose::Server).unwrap();
    let nobody = CredentialPem { ca: Some(mesh.bundle(Hierarchy::Observees)), ..CredentialPem::default() };
    let nobody = CredentialSource::from_pem(nobody, CLIENT).unwrap();
    let over_tls = |address: SocketAddr, source: &CredentialSource| {
        let url = format!("https://localhost:{}", address.port());
        HttpClient::new(HttpClientConfig { tls: Some(source.clone()), ..HttpClientConfig::new(url) }).unwrap()
    };
    let security = HttpSecurity::new(HttpRules { tls: Some(open), users: None });
    let (address, _shutdown) = serve_secured(&security).await;
    assert_eq!(text(&over_tls(address, &nobody), "/").await, (200, "in".to_owned()));
    assert!(client(&format!("http://{address}")).get("/", &[]).await.is_err(), "plain text was answered");

    let mutual = HttpSecurity::new(HttpRules { tls: Some(mesh.server_source()), users: None });
    let (address, _shutdown) = serve_secured(&mutual).await;
    assert_eq!(text(&over_tls(address, &mesh.client_source()), "/").await.0, 200);
    assert!(over_tls(address, &nobody).get("/", &[]).await.is_err(), "nobody was let in");
}
