//! S3 from its configuration to its bytes: the suite over HTTP and over TLS with a private authority, faults, and errors that say what to do.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parallax_bucket::{Access, Bucket, BucketConfig, BucketError, BucketMetrics, Environment};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::cloud_server::{CloudServer, Fault};
use crate::suite::{self, Traits};

pub fn open(yaml: &str) -> Bucket {
    open_in(yaml, &Environment::fixed([])).unwrap()
}

pub fn open_in(yaml: &str, environment: &Environment) -> Result<Bucket, BucketError> {
    Bucket::open_in(&BucketConfig::from_yaml(yaml).unwrap(), Access::Write, environment)
}

/// A certificate authority's file, a server's TLS, and a client's certificate with its key.
pub struct Tls {
    pub directory: tempfile::TempDir,
    pub server: Arc<rustls::ServerConfig>,
}

impl Tls {
    /// For 127.0.0.1 and `s3.test`; with `ask_client` only clients with a certificate of the same authority get in.
    pub fn new(ask_client: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // Two authorities of one name would differ in the signature only.
        let name = directory.path().display().to_string();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = parameters.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(parameters, key);
        let leaf = |names: Vec<String>| {
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
            (certificate, key)
        };
        let (client, client_key) = leaf(vec!["client".to_owned()]);
        for (file, text) in [
            ("ca.pem", authority.pem()),
            ("client.pem", client.pem()),
            ("client.key", client_key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(file), text).unwrap();
        }
        let (certificate, server_key) = leaf(vec!["127.0.0.1".to_owned(), "s3.test".to_owned()]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if ask_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(server_key.serialize_der());
        let server = builder.with_single_cert(vec![certificate.der().clone()], key.into()).unwrap();
        Self { directory, server: Arc::new(server) }
    }

    pub fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

#[tokio::test]
async fn s3_conforms() {
    let server = CloudServer::s3(None).await;
    let open = |prefix: &str| open(&server.yaml(prefix, "insecure: true, part_size: 5242880"));
    suite::conforms(&open("a/b"), Traits { replaces_unchanged: true }).await;
    suite::prefixes_are_isolated(&open("one"), &open("on"), &open("")).await;
}

#[tokio::test]
async fn s3_conforms_over_tls_with_a_private_authority() {
    let tls = Tls::new(false);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let trust =
        format!("http_config: {{tls_config: {{ca_file: \"{}\"}}}}, part_size: 5242880", tls.file("ca.pem"));
    suite::conforms(&open(&server.yaml("", &trust)), Traits { replaces_unchanged: true }).await;
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gets_no_request() {
    let tls = Tls::new(false);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let other = Tls::new(false);
    let once = "max_retries: 1";
    let strange = format!("{once}, http_config: {{tls_config: {{ca_file: \"{}\"}}}}", other.file("ca.pem"));
    let error = open(&server.yaml("", &strange)).get("x", 10).await.unwrap_err().to_string();
    assert!(error.contains("ca_file") && error.contains("blocks"), "{error}");
    let misnamed = format!(
        "{once}, http_config: {{tls_config: {{ca_file: \"{}\", server_name: other.test}}}}",
        tls.file("ca.pem")
    );
    let error = open(&server.yaml("", &misnamed)).get("x", 10).await.unwrap_err().to_string();
    assert!(error.contains("server_name"), "{error}");
    assert!(server.seen().is_empty());

    let named = format!(
        "{once}, http_config: {{tls_config: {{ca_file: \"{}\", server_name: s3.test}}}}",
        tls.file("ca.pem")
    );
    for trust in [named, format!("{once}, http_config: {{insecure_skip_verify: true}}")] {
        assert!(open(&server.yaml("", &trust)).get("x", 10).await.unwrap_err().is_not_found());
    }
    let plain = open(&server.yaml("", &format!("{once}, insecure: true"))).get("x", 10).await.unwrap_err();
    assert!(!plain.is_not_found());
}

#[tokio::test]
async fn a_client_certificate_opens_a_server_that_asks_for_one() {
    let tls = Tls::new(true);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let ca = tls.file("ca.pem");
    let without = format!("max_retries: 1, http_config: {{tls_config: {{ca_file: \"{ca}\"}}}}");
    assert!(!open(&server.yaml("", &without)).get("x", 10).await.unwrap_err().is_not_found());
    let with = format!(
        "http_config: {{tls_config: {{ca_file: \"{ca}\", cert_file: \"{}\", key_file: \"{}\"}}}}",
        tls.file("client.pem"),
        tls.file("client.key")
    );
    assert!(open(&server.yaml("", &with)).get("x", 10).await.unwrap_err().is_not_found());
}

/// A proxy that connects to `target` whatever it is asked for; gives what it was asked.
async fn proxy(
    target: std::net::SocketAddr,
    answer: &'static str,
) -> (u16, Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let Ok((mut client, _)) = listener.accept().await else { return };
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                if client.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                if let Ok(mut server) = tokio::net::TcpStream::connect(target).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn tls_goes_through_the_proxy_of_the_environment() {
    let tls = Tls::new(false);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let trust =
        format!("max_retries: 1, http_config: {{tls_config: {{ca_file: \"{}\"}}}}", tls.file("ca.pem"));
    // A name that only the proxy can reach.
    let yaml = server.yaml("", &trust).replace(&server.address.to_string(), "s3.test:9000");
    let (port, asked) = proxy(server.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let url = format!("http://user:pass@127.0.0.1:{port}");
    let bucket = open_in(&yaml, &Environment::fixed([("https_proxy", &url)])).unwrap();
    bucket.put("x", "y".into()).await.unwrap();
    assert_eq!(bucket.get("x", 10).await.unwrap(), "y");
    let asked = asked.lock().unwrap().concat();
    assert!(asked.starts_with("CONNECT s3.test:9000 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"), "{asked}");

    let (port, _) = proxy(server.address, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let url = format!("http://127.0.0.1:{port}");
    let bucket = open_in(&yaml, &Environment::fixed([("HTTPS_PROXY", &url)])).unwrap();
    let error = bucket.get("x", 10).await.unwrap_err().to_string();
    assert!(error.contains("proxy") && error.contains("407"), "{error}");
    let error = open_in(&yaml, &Environment::fixed([("HTTPS_PROXY", "socks5://x")])).unwrap_err().to_string();
    assert!(error.contains("HTTPS_PROXY") && error.contains("socks5"), "{error}");
}

#[test]
fn files_of_tls_config_are_named_when_they_cannot_be_used() {
    let tls = Tls::new(false);
    std::fs::write(tls.directory.path().join("empty.pem"), "").unwrap();
    let base =
        "type: S3\nconfig: {bucket: b, endpoint: e, access_key: a, secret_key: s, http_config: {tls_config: ";
    let ca = tls.file("ca.pem");
    for (config, word) in [
        ("{ca_file: /no/such.pem}".to_owned(), "/no/such.pem"),
        (format!("{{ca_file: \"{}\"}}", tls.file("empty.pem")), "empty.pem"),
        (format!("{{ca_file: \"{ca}\", cert_file: \"{ca}\", key_file: \"{ca}\"}}"), "key_file"),
        (format!("{{cert_file: \"{ca}\", key_file: \"{}\"}}", tls.file("client.key")), "belong together"),
    ] {
        let error =
            open_in(&format!("{base}{config}}}}}\n"), &Environment::fixed([])).unwrap_err().to_string();
        assert!(error.contains(word), "{config}: {error}");
    }
}

#[tokio::test]
async fn the_buckets_name_may_stand_in_the_host() {
    let server = CloudServer::s3(None).await;
    let port = server.address.port();
    // `localhost` and what is beneath it is this machine.
    let yaml = server
        .yaml("", "insecure: true, bucket_lookup_type: virtual-hosted")
        .replace(&server.address.to_string(), &format!("localhost:{port}"));
    let bucket = open(&yaml);
    match bucket.put("a/b", "x".into()).await {
        Ok(()) => assert_eq!(bucket.get("a/b", 10).await.unwrap(), "x"),
        // Not every resolver knows names beneath localhost; then it is the name that was asked for.
        Err(error) => assert!(error.to_string().contains("blocks.localhost"), "{error}"),
    }
    assert!(server.seen().iter().all(|seen| seen.path == "/a/b"));
}

#[tokio::test]
async fn wrong_credentials_are_one_clear_error() {
    let server = CloudServer::s3(None).await;
    let yaml = server.yaml("", "insecure: true");
    for (yaml, words) in [
        (yaml.replace("secret+key", "other"), ["SignatureDoesNotMatch", "secret_key"]),
        (yaml.replace("AKIAEXAMPLE", "AKIAOTHER"), ["InvalidAccessKeyId", "access_key"]),
        (yaml.replace("eu-test-1", "us-test-1"), ["eu-test-1", "set region"]),
    ] {
        let bucket = open(&yaml);
        for error in [
            bucket.get("x", 10).await.unwrap_err(),
            bucket.list_blocks().await.unwrap_err(),
            bucket.put("x", "y".into()).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, BucketError::Denied { .. }), "{text}");
            assert!(text.contains("bucket blocks") && words.iter().all(|word| text.contains(word)), "{text}");
            assert!(!text.contains("hunter2") && !text.contains('<'), "{text}");
        }
    }
    // Asked once each: what is refused is refused again.
    assert_eq!(server.seen().len(), 9);
}

#[tokio::test]
async fn a_bucket_that_does_not_exist_is_not_an_empty_one() {
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true").replace("bucket: blocks", "bucket: blokcs"));
    for error in [bucket.list_blocks().await.unwrap_err(), bucket.get("x", 10).await.unwrap_err()] {
        assert!(matches!(error, BucketError::MissingBucket { .. }), "{error}");
        assert!(error.to_string().contains("blokcs"), "{error}");
    }
}

#[tokio::test]
async fn stray_names_do_not_hide_blocks() {
    const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true"));
    bucket.put(&format!("{BLOCK}/meta.json"), "{}".into()).await.unwrap();
    for stray in ["a//b", "/rooted", "folder/", "dots/../up"] {
        server.plant(stray);
    }
    assert_eq!(bucket.list_blocks().await.unwrap(), [BLOCK]);
    assert_eq!(bucket.list(BLOCK, 10).await.unwrap().len(), 1);
    // What lies beside blocks is an error by name where it is looked at, not a listing without it.
    let error = bucket.list("a", 10).await.unwrap_err().to_string();
    assert!(error.contains("a//b"), "{error}");
}

#[tokio::test]
async fn what_fails_for_a_moment_is_tried_again() {
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true"));
    bucket.put("x", vec![7; 300_000].into()).await.unwrap();
    let unwell = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);
    for faults in
        [vec![unwell, unwell], vec![Fault::HalfBody], vec![Fault::HalfBody, unwell, Fault::HalfBody]]
    {
        server.fail(faults);
        assert!(bucket.get("x", 300_000).await.unwrap() == vec![7; 300_000]);
    }
    server.fail([Fault::HalfBody]);
    assert!(bucket.get_range("x", 100..200_000).await.unwrap() == vec![7; 199_900]);
    server.fail([unwell]);
    bucket.put("y", "1".into()).await.unwrap();
    server.fail([unwell]);
    assert_eq!(bucket.list("", 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_keeps_failing_is_an_error_with_the_stores_words() {
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true, max_retries: 2"));
    server.fail([Fault::Status(StatusCode::SERVICE_UNAVAILABLE); 2]);
    let error = bucket.get("x", 10).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_retryable() && text.contains("503") && text.contains("InternalError"), "{text}");
    assert_eq!(server.seen().len(), 2);
    bucket.put("x", vec![7; 100_000].into()).await.unwrap();
    server.fail([Fault::HalfBody; 2]);
    let error = bucket.get("x", 100_000).await.unwrap_err();
    // Whether the head gets out before the connection breaks is up to the server's buffers.
    let text = error.to_string();
    assert!(error.is_retryable() && (text.contains("broke off") || text.contains("closed")), "{text}");
}

#[tokio::test]
async fn a_store_that_fails_everything_is_not_asked_many_times_more() {
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true, max_retries: 6"));
    server.fail(vec![Fault::Status(StatusCode::INTERNAL_SERVER_ERROR); 10_000]);
    let reads = futures::future::join_all((0..100).map(|_| bucket.get("x", 10))).await;
    assert!(reads.iter().all(Result::is_err));
    let requests = server.seen().len();
    assert!((100..=161).contains(&requests), "{requests} requests for 100 reads");
    let spent = reads
        .iter()
        .filter_map(|read| read.as_ref().err())
        .any(|error| error.to_string().contains("too many"));
    assert!(spent);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_an_error_in_time() {
    let server = CloudServer::s3(None).await;
    let limits = "insecure: true, max_retries: 1, http_config: {response_header_timeout: 50ms}";
    let bucket = open(&server.yaml("", limits));
    server.fail([Fault::Slow(60_000)]);
    let error = bucket.get("x", 10).await.unwrap_err().to_string();
    assert!(error.contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_read_that_hangs_is_asked_for_again_when_hedging() {
    let server = CloudServer::s3(None).await;
    let registry = parallax_telemetry::Metrics::new();
    let yaml = format!("{}hedging_config: {{enabled: true, up_to: 2}}\n", server.yaml("", "insecure: true"));
    let bucket = open(&yaml).with_metrics(BucketMetrics::register(&registry));
    bucket.put("x", "contents".into()).await.unwrap();
    for _ in 0..30 {
        bucket.get("x", 10).await.unwrap();
    }
    let won = || {
        let text = registry.encode().unwrap();
        let name = "parallax_objstore_hedged_requests_total{bucket=\"blocks\",outcome=\"won\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse::<u64>().unwrap())
    };
    // Where the machine is busy, some of those were slow, too.
    let before = won();
    server.fail([Fault::Slow(60_000)]);
    let read = tokio::time::timeout(Duration::from_secs(50), bucket.get_range("x", 0..4));
    assert_eq!(read.await.unwrap().unwrap(), "cont");
    assert_eq!(won(), before + 1);
}

#[tokio::test]
async fn uploads_carry_encryption_and_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, [7_u8; 32]).unwrap();
    let tls = Tls::new(false);
    let server = CloudServer::s3(Some(Arc::clone(&tls.server))).await;
    let trust = format!("http_config: {{tls_config: {{ca_file: \"{}\"}}}}", tls.file("ca.pem"));
    let customer = format!("sse_config: {{type: SSE-C, encryption_key: \"{}\"}}", key.display());
    for (config, header, value) in [
        ("sse_config: {type: SSE-S3}", "x-amz-server-side-encryption", "AES256"),
        ("sse_config: {type: SSE-KMS, kms_key_id: k}", "x-amz-server-side-encryption-aws-kms-key-id", "k"),
        (customer.as_str(), "x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("put_user_metadata: {X-Amz-Storage-Class: STANDARD_IA}", "x-amz-storage-class", "STANDARD_IA"),
        ("put_user_metadata: {team: a}", "x-amz-meta-team", "a"),
    ] {
        let bucket = open(&server.yaml("", &format!("{trust}, {config}")));
        bucket.put("x", "y".into()).await.unwrap();
        let seen = server.seen();
        assert_eq!(seen[0].headers.get(header).and_then(|v| v.to_str().ok()), Some(value), "{config}");
        assert_eq!(bucket.get("x", 10).await.unwrap(), "y");
        let sends_key = server.seen()[0].headers.contains_key("x-amz-server-side-encryption-customer-key");
        assert_eq!(sends_key, config == customer, "{config}");
    }
    std::fs::write(&key, "short").unwrap();
    let error =
        open_in(&server.yaml("", &format!("{trust}, {customer}")), &Environment::fixed([])).unwrap_err();
    assert!(error.to_string().contains("32 bytes"), "{error}");
}

#[tokio::test]
async fn no_more_connections_than_configured() {
    let server = CloudServer::s3(None).await;
    let bucket = open(&server.yaml("", "insecure: true, http_config: {max_conns_per_host: 1}"));
    bucket.put("x", "y".into()).await.unwrap();
    let reads = futures::future::join_all((0..20).map(|_| bucket.get("x", 10))).await;
    assert!(reads.iter().all(Result::is_ok), "{reads:?}");
}
