//! How fast identity is: handshakes, half-open connections, reloads, revocation, the status of a large mesh. Nothing here is asserted about time: the numbers are
//! printed (`cargo test -p parallax-net --test identity_pace -- --nocapture --test-threads=1`), and written down in BENCHMARKS.md.

#[path = "connections/fixture.rs"]
#[allow(dead_code, reason = "each test file uses the part that it needs")]
mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fixture::{CLIENT, Mesh, TestServer, ask};
use parallax_pki::inventory::{Inventory, Thresholds};
use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialSource, ExpectedServer, Hierarchy, LeafRequest,
    PeerIdentity, Purpose, RevocationReason, TrustDomain,
};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const HANDSHAKES: u32 = 300;
const HALF_OPEN: usize = 10_000;
const CLUSTERS: usize = 500;
/// As processes look at their files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Moves what one side has to say to the other; the time is what `server` took to read and to answer.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Duration {
    let mut took = Duration::ZERO;
    while client.is_handshaking() || server.is_handshaking() {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).unwrap();
        }
        let began = Instant::now();
        let mut reader = said.as_slice();
        while !reader.is_empty() {
            server.read_tls(&mut reader).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        took += began.elapsed();
        let mut reader = answer.as_slice();
        while !reader.is_empty() {
            client.read_tls(&mut reader).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    took
}

#[test]
fn full_handshakes_with_both_certificates_verified() {
    let mesh = Mesh::new();
    let server = mesh.server_source().current().server_config().unwrap();
    let client = mesh.client_source().current().client_config(&ExpectedServer::Name).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut took = Duration::ZERO;
    let began = Instant::now();
    for _ in 0..HANDSHAKES {
        let mut client = ClientConnection::new(Arc::clone(&client), name.clone()).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
        took += shake(&mut client, &mut server);
        assert!(server.peer_certificates().is_some(), "the client's certificate was verified");
    }
    let per_second = |time: Duration| f64::from(HANDSHAKES) / time.as_secs_f64();
    println!(
        "mTLS handshakes per second and core: {:.0} on a server, {:.0} for both sides together",
        per_second(took),
        per_second(began.elapsed())
    );
}

/// The time of a connection with its first call, one after the other.
async fn connections(server: &TestServer, mesh: &Mesh) -> Vec<Duration> {
    let source = mesh.client_source();
    let mut times = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        ask(&server.channel(&source)).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beside_those_who_never_finish_their_handshake() {
    let mesh = Mesh::new();
    let server =
        TestServer::start_with(Some(mesh.server_source()), |config| config.max_connections = 20_000).await;
    let before = connections(&server, &mesh).await;
    let mut half_open = Vec::new();
    for _ in 0..HALF_OPEN {
        match TcpStream::connect(server.address).await {
            Ok(stream) => half_open.push(stream),
            // The limit of open files; what there is has to do.
            Err(_) => break,
        }
    }
    let beside = connections(&server, &mesh).await;
    println!(
        "a connection with its first call: median {:?}, slowest of 100 {:?}; beside {} half-open handshakes {:?}, {:?}",
        before[50],
        before[99],
        half_open.len(),
        beside[50],
        beside[99]
    );
    assert!(half_open.len() > 500, "fewer than the server bears: {}", half_open.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_and_revocation() {
    let mesh = Mesh::new();
    let home = tempfile::tempdir().unwrap();
    mesh.server_leaf().write(home.path()).unwrap();
    let source = CredentialSource::from_files(CredentialFiles::in_directory(home.path()), Purpose::Server)
        .unwrap()
        .poll_every(LOOK_INTERVAL);
    let server = TestServer::start(Some(source.clone())).await;
    let next = mesh.server_leaf();
    let began = Instant::now();
    next.write(home.path()).unwrap();
    while source.current().leaf().map(|leaf| &leaf.serial) != Some(&next.serial) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("a changed leaf is shown to new connections after {:?}", began.elapsed());

    let client = mesh.client_leaf();
    let channel = server.channel(&CredentialSource::from_pem(client.credentials(), CLIENT).unwrap());
    let mut stream =
        HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    let revoked = |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == client.serial;
    mesh.authority.revoke("hub", revoked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    let began = Instant::now();
    std::fs::write(home.path().join("ca.crt"), mesh.bundle(Hierarchy::Observers)).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(60), stream.message()).await;
    assert!(ended.expect("the stream goes on").is_err(), "it was cut");
    println!("a stream of a revoked client is cut {:?} after the file has changed", began.elapsed());
}

#[test]
fn the_status_of_a_mesh_of_many_clusters() {
    let home = tempfile::tempdir().unwrap();
    let domain = TrustDomain::new("mesh.example").unwrap();
    let state = home.path().join("pki");
    let authority = Authority::init(&state, &AuthorityOptions::new(domain.clone())).unwrap();
    let began = Instant::now();
    for number in 0..CLUSTERS {
        let identity = PeerIdentity::observee(&domain, &format!("cluster-{number}")).unwrap();
        authority.issue(&LeafRequest::new(identity)).unwrap();
    }
    let issuing = began.elapsed();
    drop(authority);
    let began = Instant::now();
    let authority = Authority::open(&state).unwrap();
    let thresholds =
        Thresholds { warn: Duration::from_secs(7 * 86_400), critical: Duration::from_secs(2 * 86_400) };
    let inventory = Inventory::of(&authority, thresholds, SystemTime::now()).unwrap();
    println!(
        "status over {CLUSTERS} clusters, from the journal on disk: {:?}; issuing them {issuing:?}",
        began.elapsed()
    );
    assert_eq!(inventory.leaves.len(), CLUSTERS);
}
