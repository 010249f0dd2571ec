//! Trust that is taken back while connections are open, and looking at servers from outside.

use std::time::{Duration, SystemTime};

use parallax_net::{GrpcChannel, probe_server, watch_credentials};
use parallax_pki::certificate::{Facts, parse_bundle};
use parallax_pki::{CredentialSource, Hierarchy, LeafFiles, Purpose, RevocationReason};
use parallax_telemetry::Metrics;
use tonic::Streaming;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::fixture::{CLIENT, Mesh, TestServer, ask, refusal, with_ca};

const PATIENCE: Duration = Duration::from_secs(120);

/// A call that goes on until somebody ends it.
async fn stream(channel: &GrpcChannel) -> Streaming<HealthCheckResponse> {
    let mut client = HealthClient::new(channel.clone());
    let mut stream = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    stream
}

async fn ends(stream: &mut Streaming<HealthCheckResponse>) -> bool {
    let ending = async { while let Ok(Some(_)) = stream.message().await {} };
    tokio::time::timeout(PATIENCE, ending).await.is_ok()
}

fn revoke(mesh: &Mesh, leaf: &LeafFiles) {
    let serial = leaf.serial.clone();
    let picked = move |known: &parallax_pki::ledger::Leaf| known.record.serial == serial;
    mesh.authority.revoke("a test leaf", picked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_client_is_cut_and_refused_while_others_go_on() {
    let mesh = Mesh::new();
    let server_leaf = mesh.server_leaf();
    let source = CredentialSource::from_pem(server_leaf.credentials(), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source.clone())).await;
    let (stolen, honest) = (mesh.client_leaf(), mesh.client_leaf());
    let channel =
        |leaf: &LeafFiles| server.channel(&CredentialSource::from_pem(leaf.credentials(), CLIENT).unwrap());
    let (thief, friend) = (channel(&stolen), channel(&honest));
    let (mut cut, mut left) = (stream(&thief).await, stream(&friend).await);

    revoke(&mesh, &stolen);
    source.swap(&with_ca(&server_leaf, mesh.bundle(Hierarchy::Observers))).unwrap();
    assert!(ends(&mut cut).await, "the stream of the revoked client goes on");
    let message = refusal(&channel(&stolen)).await;
    assert!(message.contains("revoked"), "{message}");
    server.expect_failure("revoked").await;
    assert!(refusal(&thief).await.contains("revoked"), "the old channel must not find a way back");
    ask(&friend).await.unwrap();
    server.reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    assert!(left.message().await.unwrap().is_some(), "the stream of the other client was cut as well");
    let text = server.metrics.encode().unwrap();
    assert!(
        text.contains("parallax_server_connections_cut_total{protocol=\"grpc\",reason=\"revoked\"} 1"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_server_is_left_at_once() {
    let mesh = Mesh::new();
    let server_leaf = mesh.server_leaf();
    let source = CredentialSource::from_pem(server_leaf.credentials(), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source)).await;
    let client_leaf = mesh.client_leaf();
    let client = CredentialSource::from_pem(client_leaf.credentials(), CLIENT).unwrap();
    let channel = server.channel(&client);
    let mut open = stream(&channel).await;

    revoke(&mesh, &server_leaf);
    client.swap(&with_ca(&client_leaf, mesh.bundle(Hierarchy::Observees))).unwrap();
    assert!(ends(&mut open).await, "the stream of the revoked server goes on");
    let message = refusal(&channel).await;
    assert!(message.contains("revoked"), "{message}");
}

#[tokio::test]
async fn an_older_revocation_list_does_not_take_back_a_revocation() {
    let mesh = Mesh::new();
    let server_leaf = mesh.server_leaf();
    let source = CredentialSource::from_pem(server_leaf.credentials(), Purpose::Server).unwrap();
    revoke(&mesh, &mesh.client_leaf());
    let older = mesh.bundle(Hierarchy::Observers);
    revoke(&mesh, &mesh.client_leaf());
    source.swap(&with_ca(&server_leaf, mesh.bundle(Hierarchy::Observers))).unwrap();
    let digest = source.current().digest().to_owned();
    let error = source.swap(&with_ca(&server_leaf, older)).unwrap_err().to_string();
    assert!(error.contains("older"), "{error}");
    let error = source.swap(&server_leaf.credentials()).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    assert_eq!(source.current().digest(), digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_seen_with_its_leaf_and_the_authorities_it_trusts() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let leaf = mesh.server_leaf();
    let clients = Hierarchy::Observers;
    let both = format!("{}{}", mesh.bundle(clients), other.bundle(clients));
    let source = CredentialSource::from_pem(with_ca(&leaf, both), Purpose::Server).unwrap();
    let server = TestServer::start(Some(source.clone())).await;
    let probe = probe_server(&server.localhost(), None, None, PATIENCE).await.unwrap();
    assert_eq!(Facts::read(&probe.chain[0]).unwrap().serial, leaf.serial);
    assert_eq!((probe.version.as_str(), probe.alpn.as_deref()), ("TLSv1_3", Some("h2")));
    let names = probe.client_cas.unwrap();
    for mesh in [&mesh, &other] {
        assert_eq!(mesh.authority.generations_named(clients, &names), [1].into());
    }
    let refused = probe.accepted.unwrap().unwrap_err();
    assert!(refused.contains("certificate"), "{refused}");

    // A canary: is a client of this CA taken?
    let known = mesh.client_leaf().credentials();
    let probe = probe_server(&server.localhost(), None, Some(&known), PATIENCE).await.unwrap();
    assert_eq!(probe.accepted, Some(Ok(())));
    let foreign = Mesh::new().client_leaf().credentials();
    let probe = probe_server(&server.localhost(), None, Some(&foreign), PATIENCE).await.unwrap();
    assert!(probe.accepted.unwrap().unwrap_err().contains("not signed by a CA"));
    let nobody = probe_server("127.0.0.1:1", None, None, PATIENCE).await.unwrap_err();
    assert!(nobody.to_string().contains("127.0.0.1:1"), "{nobody}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_what_is_trusted_shown_and_connected() {
    let mesh = Mesh::new();
    let leaf = mesh.server_leaf();
    let source = CredentialSource::from_pem(leaf.credentials(), Purpose::Server).unwrap();
    let metrics = Metrics::new();
    watch_credentials(&metrics, "grpc_server", &source);
    let server = TestServer::start(Some(source)).await;
    let channel = server.channel(&mesh.client_source());
    let _open = stream(&channel).await;
    let anchors = parse_bundle("bundle", &mesh.bundle(Hierarchy::Observers)).unwrap();
    let anchor = Facts::read(&anchors[0]).unwrap();
    let text = metrics.encode().unwrap();
    for wanted in [
        format!(
            "parallax_tls_certificate_info{{name=\"grpc_server\",identity=\"{}\",serial=\"{}\"",
            leaf.identity, leaf.serial
        ),
        format!(
            "parallax_tls_trust_anchor_not_after_timestamp_seconds{{name=\"grpc_server\",subject=\"{}\",serial=\"{}\"}}",
            anchor.subject, anchor.serial
        ),
        format!("parallax_tls_connections_by_issuer{{name=\"grpc_server\",issuer=\"{}\"}} 1", anchor.subject),
        "parallax_tls_trust_bundle_info{name=\"grpc_server\",sha256=\"".to_owned(),
    ] {
        assert!(text.contains(&wanted), "{wanted} is not in\n{text}");
    }
}
