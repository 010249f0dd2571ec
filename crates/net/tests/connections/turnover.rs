//! Certificates and authorities change while calls run: no call fails, none is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parallax_net::GrpcChannel;
use parallax_pki::{CredentialFiles, CredentialPem, CredentialSource, Hierarchy, LeafFiles, Purpose};
use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fixture::{CLIENT, Mesh, TestServer, ask, refusal, with_ca};

const CALLERS: usize = 8;

/// Callers that ask as fast as they can until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    callers: JoinSet<Vec<String>>,
}

impl Load {
    fn start(channel: &GrpcChannel) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (channel, stop, done) = (channel.clone(), Arc::clone(&stop), Arc::clone(&done));
            callers.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match ask(&channel).await {
                        Ok(()) => _ = done.fetch_add(1, Ordering::Relaxed),
                        Err(status) => failures.push(status.to_string()),
                    }
                }
                failures
            });
        }
        Self { stop, done, callers }
    }

    /// Waits until so many more calls are done.
    async fn advance(&self, calls: u64) {
        let goal = self.done.load(Ordering::Relaxed) + calls;
        while self.done.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut failures = Vec::new();
        while let Some(result) = self.callers.join_next().await {
            failures.extend(result.unwrap());
        }
        failures
    }
}

fn both(old: &Mesh, new: &Mesh, hierarchy: Hierarchy) -> String {
    format!("{}{}", old.bundle(hierarchy), new.bundle(hierarchy))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_authorities_and_all_leaves_change_under_load_without_a_failed_call() {
    let (old, new) = (Mesh::new(), Mesh::new());
    let server_source = old.server_source();
    let client_source = old.client_source();
    let server = TestServer::start(Some(server_source.clone())).await;
    let channel = server.channel(&client_source);
    let load = Load::start(&channel);
    load.advance(50).await;

    // Trust both, sign with the new, trust the new only: as a rotation goes.
    let (clients, servers) = (Hierarchy::Observers, Hierarchy::Observees);
    server_source.swap(&with_ca(&old.server_leaf(), both(&old, &new, clients))).unwrap();
    client_source.swap(&with_ca(&old.client_leaf(), both(&old, &new, servers))).unwrap();
    load.advance(200).await;
    server_source.swap(&with_ca(&new.server_leaf(), both(&old, &new, clients))).unwrap();
    load.advance(200).await;
    client_source.swap(&with_ca(&new.client_leaf(), both(&old, &new, servers))).unwrap();
    load.advance(200).await;
    server_source.swap(&new.server_leaf().credentials()).unwrap();
    let last = new.client_leaf();
    client_source.swap(&last.credentials()).unwrap();
    server.expect_leaf(&last).await;
    load.advance(200).await;

    let failures = load.finish().await;
    assert!(failures.is_empty(), "{} calls failed, first: {:?}", failures.len(), failures.first());
    // The old mesh is out now.
    let left_behind = with_ca(&old.client_leaf(), new.bundle(servers));
    let source = CredentialSource::from_pem(left_behind, CLIENT).unwrap();
    let message = refusal(&server.channel(&source)).await;
    assert!(message.contains("not signed by a CA that the server trusts"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_renewed_again_and_again_fail_no_call() {
    let mesh = Mesh::new();
    let (server_source, client_source) = (mesh.server_source(), mesh.client_source());
    let server = TestServer::start(Some(server_source.clone())).await;
    let channel = server.channel(&client_source);
    let load = Load::start(&channel);
    for _ in 0..20 {
        load.advance(20).await;
        server_source.swap(&mesh.server_leaf().credentials()).unwrap();
        let leaf = mesh.client_leaf();
        client_source.swap(&leaf.credentials()).unwrap();
        server.expect_leaf(&leaf).await;
    }
    assert_eq!(load.finish().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_server_ends_by_age_fail_no_call() {
    let mesh = Mesh::new();
    let server = TestServer::start_with(Some(mesh.server_source()), |config| {
        config.max_connection_age = Some(Duration::from_millis(40));
    })
    .await;
    let load = Load::start(&server.channel(&mesh.client_source()));
    tokio::time::sleep(Duration::from_millis(600)).await;
    load.advance(100).await;
    assert_eq!(load.finish().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_the_server_refuses_leave_the_working_connection_in_use() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server = TestServer::start(Some(mesh.server_source())).await;
    let source = mesh.client_source();
    let channel = server.channel(&source);
    ask(&channel).await.unwrap();
    source.swap(&with_ca(&other.client_leaf(), mesh.bundle(Hierarchy::Observees))).unwrap();
    server.expect_failure("wrong_ca").await;
    for _ in 0..20 {
        ask(&channel).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_began_before_the_change_goes_on_after_it() {
    let mesh = Mesh::new();
    let (server_source, client_source) = (mesh.server_source(), mesh.client_source());
    let server = TestServer::start(Some(server_source.clone())).await;
    let channel = server.channel(&client_source);
    let mut stream =
        HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    server_source.swap(&mesh.server_leaf().credentials()).unwrap();
    let leaf = mesh.client_leaf();
    client_source.swap(&leaf.credentials()).unwrap();
    let load = Load::start(&channel);
    server.expect_leaf(&leaf).await;
    assert_eq!(load.finish().await, Vec::<String>::new());
    server.reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    let update = stream.message().await.unwrap().unwrap();
    assert_eq!(update.status, tonic_health::pb::health_check_response::ServingStatus::NotServing as i32);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_written_pair_on_disk_fails_no_handshake() {
    let mesh = Mesh::new();
    let home = tempfile::tempdir().unwrap();
    mesh.server_leaf().write(home.path()).unwrap();
    let source = CredentialSource::from_files(CredentialFiles::in_directory(home.path()), Purpose::Server)
        .unwrap()
        .poll_every(Duration::from_millis(10));
    let server = TestServer::start(Some(source.clone())).await;
    let client = mesh.client_source();
    let next: LeafFiles = mesh.server_leaf();
    std::fs::write(home.path().join("tls.crt"), &next.cert_pem).unwrap();
    while source.status().failures == 0 {
        ask(&server.channel(&client)).await.unwrap();
    }
    std::fs::write(home.path().join("tls.key"), &next.key_pem).unwrap();
    while source.status().successes < 2 {
        ask(&server.channel(&client)).await.unwrap();
    }
    ask(&server.channel(&client)).await.unwrap();
    assert_eq!(source.current().leaf().unwrap().serial, next.serial);
}

#[tokio::test]
async fn nothing_resumes_so_a_change_of_trust_holds_from_the_next_handshake() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let server_source = mesh.server_source();
    let server = TestServer::start(Some(server_source.clone())).await;
    let client = mesh.client_source();
    ask(&server.channel(&client)).await.unwrap();
    let distrust: CredentialPem = with_ca(&mesh.server_leaf(), other.bundle(Hierarchy::Observers));
    server_source.swap(&distrust).unwrap();
    let message = refusal(&server.channel(&client)).await;
    assert!(message.contains("not signed by a CA that the server trusts"), "{message}");
}

#[tokio::test]
async fn the_state_of_credentials_shows_in_the_metrics() {
    let mesh = Mesh::new();
    let metrics = parallax_telemetry::Metrics::new();
    let (server, client) = (mesh.server_source(), mesh.client_source());
    parallax_net::watch_credentials(&metrics, "grpc_server", &server);
    parallax_net::watch_credentials(&metrics, "grpc_client", &client);
    server.swap(&mesh.server_leaf().credentials()).unwrap();
    assert!(client.swap(&CredentialPem::default()).is_err());
    let text = metrics.encode().unwrap();
    for line in [
        "parallax_tls_certificate_reload_total{name=\"grpc_server\",result=\"success\"} 2\n",
        "parallax_tls_certificate_reload_total{name=\"grpc_client\",result=\"failure\"} 1\n",
        "parallax_tls_certificate_not_after_timestamp_seconds{name=\"grpc_client\",role=\"observer\"} ",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert_eq!(text.matches("# TYPE parallax_tls_certificate_reload counter").count(), 1);
}
