//! Each way in which a handshake fails: both sides say why, in words, and the server counts it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parallax_net::{ClientTls, GrpcTarget, connect};
use parallax_pki::certificate::parse_bundle;
use parallax_pki::{
    CredentialPem, CredentialSource, ExpectedServer, Hierarchy, LeafFiles, PeerIdentity, Purpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::{CLIENT, DAY, Mesh, TestServer, ask, refusal, with_ca};

#[tokio::test]
async fn peers_of_one_mesh_talk_by_name_and_by_address() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    ask(&server.channel(&mesh.client_source())).await.unwrap();
    let by_address = connect(&GrpcTarget::tls(server.address.to_string(), mesh.client_source())).unwrap();
    ask(&by_address).await.unwrap();
}

#[tokio::test]
async fn plain_text_works_where_both_sides_want_it() {
    let server = TestServer::start(None).await;
    ask(&connect(&GrpcTarget::plain(server.address.to_string())).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_handler_sees_who_asks() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    ask(&server.channel(&mesh.client_source())).await.unwrap();
    let peer = server.last_peer();
    assert_eq!(peer.identity.unwrap().to_string(), "spiffe://mesh.example/observer/hub");
    assert!(peer.certificate.is_some());
    assert!(peer.address.ip().is_loopback());
}

#[tokio::test]
async fn a_client_of_another_mesh_is_refused_and_told_so() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = TestServer::start(Some(mesh.server_source())).await;
    let foreign = with_ca(&other.client_leaf(), mesh.bundle(Hierarchy::Observees));
    let source = CredentialSource::from_pem(foreign, CLIENT).unwrap();
    let message = refusal(&server.channel(&source)).await;
    assert!(message.starts_with(&server.localhost()), "{message}");
    assert!(message.contains("not signed by a CA that the server trusts"), "{message}");
    server.expect_failure("wrong_ca").await;
}

#[tokio::test]
async fn a_server_of_another_mesh_is_refused() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = TestServer::start(Some(other.server_source())).await;
    let message = refusal(&server.channel(&mesh.client_source())).await;
    assert!(message.contains("server's certificate is not signed by a CA in our bundle"), "{message}");
    server.expect_failure("wrong_ca").await;
}

#[tokio::test]
async fn an_expired_client_is_refused_and_told_to_look_at_dates() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let expired = mesh.client_leaf_at(SystemTime::now() - 60 * DAY);
    let source = CredentialSource::from_pem(expired.credentials(), CLIENT).unwrap();
    let message = refusal(&server.channel(&source)).await;
    assert!(message.contains("expired or is not valid yet"), "{message}");
    server.expect_failure("expired").await;
}

#[tokio::test]
async fn a_client_of_the_future_is_refused() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let early = mesh.client_leaf_at(SystemTime::now() + 2 * DAY);
    let source = CredentialSource::from_pem(early.credentials(), CLIENT).unwrap();
    let message = refusal(&server.channel(&source)).await;
    assert!(message.contains("not valid yet"), "{message}");
    server.expect_failure("not_yet_valid").await;
}

#[tokio::test]
async fn an_expired_server_is_refused_with_the_date() {
    let mesh = Mesh::new();
    let identity = PeerIdentity::observee(mesh.authority.trust_domain(), "eu-1").unwrap();
    let request = parallax_pki::LeafRequest::new(identity).dns("localhost");
    let expired = mesh.authority.issue_at(&request, SystemTime::now() - 60 * DAY).unwrap();
    let source = CredentialSource::from_pem(expired.credentials(), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    let message = refusal(&server.channel(&mesh.client_source())).await;
    assert!(message.contains("the server's certificate expired at 20"), "{message}");
}

#[tokio::test]
async fn a_client_without_certificate_is_told_that_one_is_required() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let bare = CredentialPem { ca: Some(mesh.bundle(Hierarchy::Observees)), ..CredentialPem::default() };
    let source = CredentialSource::from_pem(bare, CLIENT).unwrap();
    let message = refusal(&server.channel(&source)).await;
    assert!(message.contains("requires a client certificate"), "{message}");
    server.expect_failure("missing_certificate").await;
}

#[tokio::test]
async fn a_server_without_ca_takes_clients_without_certificate() {
    let mesh = Mesh::new();
    let tls_only = CredentialPem { ca: None, ..mesh.server_leaf().credentials() };
    let source = CredentialSource::from_pem(tls_only, Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    let bare = CredentialPem { ca: Some(mesh.bundle(Hierarchy::Observees)), ..CredentialPem::default() };
    ask(&server.channel(&CredentialSource::from_pem(bare, CLIENT).unwrap())).await.unwrap();
}

#[tokio::test]
async fn a_wrong_server_name_is_answered_with_the_names_there_are() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let mut target = GrpcTarget::tls(server.localhost(), mesh.client_source());
    target.tls.as_mut().unwrap().server_name = Some("us-1.example".to_owned());
    let message = refusal(&connect(&target).unwrap()).await;
    assert!(message.contains("not for us-1.example"), "{message}");
    assert!(message.contains("localhost") && message.contains("eu-1.mesh.example"), "{message}");

    target.tls.as_mut().unwrap().server_name = Some("eu-1.mesh.example".to_owned());
    ask(&connect(&target).unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_expected_identity_replaces_the_name_and_must_match() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let target = |cluster: &str| {
        let expected = PeerIdentity::observee(mesh.authority.trust_domain(), cluster).unwrap();
        GrpcTarget {
            tls: Some(ClientTls {
                source: mesh.client_source(),
                server_name: Some("ingress.example".to_owned()),
                expected: ExpectedServer::Identity(expected),
            }),
            ..GrpcTarget::plain(server.localhost())
        }
    };
    ask(&connect(&target("eu-1")).unwrap()).await.unwrap();
    let message = refusal(&connect(&target("us-1")).unwrap()).await;
    assert!(message.contains("observee/eu-1") && message.contains("observee/us-1 was expected"), "{message}");
}

#[tokio::test]
async fn of_a_declared_cluster_only_its_own_certificate_is_taken_or_one_without_identity() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let target = |cluster: &str, server_name: Option<&str>| GrpcTarget {
        tls: Some(ClientTls {
            source: mesh.client_source(),
            server_name: server_name.map(str::to_owned),
            expected: ExpectedServer::NameOfCluster(cluster.to_owned()),
        }),
        ..GrpcTarget::plain(server.localhost())
    };
    ask(&connect(&target("eu-1", None)).unwrap()).await.unwrap();
    let message = refusal(&connect(&target("us-1", None)).unwrap()).await;
    assert!(message.contains("rule of cluster identities"), "{message}");
    assert!(message.contains("observee/eu-1") && message.contains("\"us-1\""), "{message}");
    let message = refusal(&connect(&target("eu-1", Some("us-1.example"))).unwrap()).await;
    assert!(message.contains("not for us-1.example"), "the name still counts: {message}");
}

#[tokio::test]
async fn both_sides_are_told_the_rule_the_identity_and_what_to_do() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let expired = mesh.client_leaf_at(SystemTime::now() - 60 * DAY);
    let foreign = with_ca(&Mesh::new().client_leaf(), mesh.bundle(Hierarchy::Observees));
    for (pem, rule) in
        [(expired.credentials(), "rule of validity: renew it"), (foreign, "rule of trusted CAs: ")]
    {
        let source = CredentialSource::from_pem(pem, CLIENT).unwrap();
        let message = refusal(&server.channel(&source)).await;
        for part in [rule, "the server refused our certificate", "[spiffe://mesh.example/observer/hub]"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    // Of the server's certificate, which we refuse.
    let mut target = GrpcTarget::tls(server.localhost(), mesh.client_source());
    target.tls.as_mut().unwrap().server_name = Some("us-1.example".to_owned());
    let message = refusal(&connect(&target).unwrap()).await;
    for part in ["[spiffe://mesh.example/observee/eu-1]", "rule of server names: dial it by a name"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn skipping_verification_accepts_any_server() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let source = with_ca(&other.server_leaf(), mesh.bundle(Hierarchy::Observers));
    let server = TestServer::start(Some(CredentialSource::from_pem(source, Purpose::Server).unwrap())).await;
    let careless = Purpose::Client { skip_verify: true };
    let source = CredentialSource::from_pem(mesh.client_leaf().credentials(), careless).unwrap();
    ask(&server.channel(&source)).await.unwrap();
}

#[tokio::test]
async fn plain_text_to_a_tls_port_is_named_on_both_sides() {
    let mesh = Mesh::new();
    let server = TestServer::start(Some(mesh.server_source())).await;
    let message = refusal(&connect(&GrpcTarget::plain(server.localhost())).unwrap()).await;
    assert!(message.contains("speaks TLS on this port"), "{message}");
    server.expect_failure("plain_text").await;
}

#[tokio::test]
async fn tls_to_a_plain_text_port_is_named() {
    let mesh = Mesh::new();
    let server = TestServer::start(None).await;
    let message = refusal(&server.channel(&mesh.client_source())).await;
    assert!(message.contains("TLS on this port"), "{message}");
}

#[tokio::test]
async fn nobody_listening_and_silence_are_named() {
    // A port that nobody else is given once it is free.
    let address = format!("127.0.0.1:{}", parallax_net::free_port().unwrap());
    let listener = TcpListener::bind(&address).await.unwrap();
    let mesh = Mesh::new();
    let mut silent = GrpcTarget::tls(address.clone(), mesh.client_source());
    silent.connect_timeout = Duration::from_millis(50);
    let message = refusal(&connect(&silent).unwrap()).await;
    assert!(message.contains("no connection within"), "{message}");
    drop(listener);
    let message = refusal(&connect(&GrpcTarget::plain(address)).unwrap()).await;
    assert!(message.contains("connection was refused"), "{message}");
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_deadline_of_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = connect(&GrpcTarget::plain(listener.local_addr().unwrap().to_string())).unwrap();
    let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
    request.set_timeout(Duration::from_millis(50));
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
    let status = client.check(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status:?}");
}

#[tokio::test]
async fn servers_credentials_are_no_clients_and_the_other_way_round() {
    let mesh = Mesh::new();
    assert!(connect(&GrpcTarget::tls("localhost:1", mesh.server_source())).is_err());
    let mut config = parallax_net::GrpcServerConfig::new("127.0.0.1:0");
    config.tls = Some(mesh.client_source());
    assert!(parallax_net::GrpcServer::bind(config, &parallax_telemetry::Metrics::new()).await.is_err());
}

#[tokio::test]
async fn an_observees_leaf_used_as_a_client_is_refused_even_by_a_server_that_trusts_its_ca() {
    let mesh = Mesh::new();
    let both = format!("{}{}", mesh.bundle(Hierarchy::Observers), mesh.bundle(Hierarchy::Observees));
    let source = CredentialSource::from_pem(with_ca(&mesh.server_leaf(), both), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    let alert = raw_client(&server, &mesh.server_leaf(), &mesh.bundle(Hierarchy::Observees)).await;
    assert!(alert.contains("UnsupportedCertificate"), "{alert}");
    server.expect_failure("wrong_role").await;
}

#[tokio::test]
async fn a_thief_of_the_observees_authority_cannot_make_observers() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let domain = parallax_pki::TrustDomain::new("mesh.example").unwrap();
    let options = parallax_pki::AuthorityOptions::new(domain);
    let honest = parallax_pki::Authority::init(&state, &options).unwrap();
    // The stolen authority signs as if it were the observers'.
    let stolen = parallax_pki::ImportedAuthority {
        hierarchy: Hierarchy::Observers,
        subject: "what was stolen".to_owned(),
        cert_pem: std::fs::read_to_string(state.join("ca/observees/g1/ca.crt")).unwrap(),
        key_pem: std::fs::read_to_string(state.join("ca/observees/g1/ca.key")).unwrap().into(),
        passphrase: None,
    };
    let forger = parallax_pki::AuthorityOptions { imported: vec![stolen], ..options };
    let forger = parallax_pki::Authority::in_memory(&forger, std::time::SystemTime::now()).unwrap();
    let forged = forger.issue_observer("hub").unwrap();
    let own = honest.issue_observee("eu-1", &["localhost"]).unwrap();
    let source = CredentialSource::from_pem(own.credentials(), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    let alert = raw_client(&server, &forged, &honest.bundle_pem(Hierarchy::Observees)).await;
    assert!(alert.contains("UnknownCA"), "{alert}");
    server.expect_failure("wrong_ca").await;
}

#[tokio::test]
async fn an_authority_presented_as_a_leaf_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let domain = parallax_pki::TrustDomain::new("mesh.example").unwrap();
    let authority =
        parallax_pki::Authority::init(&state, &parallax_pki::AuthorityOptions::new(domain)).unwrap();
    let mut leaf = authority.issue_observer("hub").unwrap();
    leaf.cert_pem = std::fs::read_to_string(state.join("ca/observers/g1/ca.crt")).unwrap();
    leaf.key_pem = std::fs::read_to_string(state.join("ca/observers/g1/ca.key")).unwrap();
    let own = authority.issue_observee("eu-1", &["localhost"]).unwrap();
    let source = CredentialSource::from_pem(own.credentials(), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    raw_client(&server, &leaf, &authority.bundle_pem(Hierarchy::Observees)).await;
    server.expect_failure("bad_certificate").await;
}

/// Presents `leaf` without the checks of our own client, and gives back what the server answers.
async fn raw_client(server: &TestServer, leaf: &LeafFiles, ca: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    for anchor in parse_bundle("ca", ca).unwrap() {
        roots.add(anchor).unwrap();
    }
    let chain = parse_bundle("leaf", &leaf.cert_pem).unwrap();
    let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(parallax_pki::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let stream = TcpStream::connect(server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let written = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let mut buffer = [0_u8; 64];
    let read = stream.read(&mut buffer).await;
    format!("{written:?} {read:?}")
}
