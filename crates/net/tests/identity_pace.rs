//! How fast identity is: handshakes, half-open connections, reloads, revocation, the status of a large mesh. Nothing here is asserted about time: the numbers are
//! printed as rows of the table "Identity" in BENCHMARKS.md
//! (`cargo test -p parallax-net --test identity_pace -- --nocapture --test-threads=1 | grep '^|'`).

#[path = "connections/fixture.rs"]
#[allow(dead_code, reason = "each test file uses the part that it needs")]
mod fixture;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fixture::{CLIENT, Mesh, TestServer, ask};
use parallax_net::probe_server;
use parallax_pki::certificate::Facts;
use parallax_pki::inventory::{Inventory, Thresholds};
use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialSource, ExpectedServer, Hierarchy, LeafRequest,
    PeerIdentity, Purpose, RevocationReason, TrustDomain,
};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const HANDSHAKES: u32 = 1000;
const HALF_OPEN: usize = 10_000;
/// Connections that are timed, before and beside the half-open ones.
const TIMED: usize = 200;
/// Of reloads and revocations; the slowest is what counts.
const ROUNDS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(60);
/// Tells this program, started once more, where to hold half-open connections.
const HOLD_AT: &str = "IDENTITY_PACE_HOLD_AT";
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
        "\n| new mTLS handshakes per second and core on a server, TLS 1.3, both certificates verified | at least 1,000 | {:.0} (both sides together: {:.0}) |",
        per_second(took),
        per_second(began.elapsed())
    );
}

/// The time of a connection with its first call, one after the other.
async fn connections(server: &TestServer, mesh: &Mesh) -> Vec<Duration> {
    let source = mesh.client_source();
    let mut times = Vec::new();
    for _ in 0..TIMED {
        let began = Instant::now();
        ask(&server.channel(&source)).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    times
}

/// Half-open connections in a process of their own: one has files for the server's ends or for the clients', not for both.
struct Holder {
    child: Child,
    held: usize,
}

impl Holder {
    fn start(address: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holds_half_open_connections_where_it_is_told", "--nocapture"])
            .env(HOLD_AT, address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let held = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("held ")?.parse().ok());
        Self { child, held: held.expect("it ended") }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test by itself: see [`Holder`].
#[test]
fn holds_half_open_connections_where_it_is_told() {
    let Ok(address) = std::env::var(HOLD_AT) else { return };
    let connect = || std::net::TcpStream::connect(&address).ok();
    let held: Vec<std::net::TcpStream> = (0..HALF_OPEN).map_while(|_| connect()).collect();
    println!("\nheld {}", held.len());
    // Until the parent is gone.
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beside_those_who_never_finish_their_handshake() {
    let mesh = Mesh::new();
    let server = TestServer::start_with(Some(mesh.server_source()), |config| {
        config.max_connections = 2 * HALF_OPEN;
        config.max_pending_handshakes = 2 * HALF_OPEN;
        config.handshake_timeout = PATIENCE;
    })
    .await;
    let before = connections(&server, &mesh).await;
    let address = server.address.to_string();
    let holder = tokio::task::spawn_blocking(move || Holder::start(&address)).await.unwrap();
    let beside = connections(&server, &mesh).await;
    println!(
        "\n| a connection with its first call beside {} half-open handshakes, median and slowest of {TIMED} | as without them | {:.1} and {:.1} ms (without: {:.1} and {:.1} ms) |",
        holder.held,
        millis(beside[TIMED / 2]),
        millis(beside[TIMED - 1]),
        millis(before[TIMED / 2]),
        millis(before[TIMED - 1])
    );
    assert!(holder.held > HALF_OPEN / 2, "fewer than the server bears: {}", holder.held);
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A server that follows its files as processes do.
async fn following(mesh: &Mesh, home: &std::path::Path) -> TestServer {
    mesh.server_leaf().write(home).unwrap();
    let files = CredentialFiles::in_directory(home);
    let source = CredentialSource::from_files(files, Purpose::Server).unwrap().poll_every(LOOK_INTERVAL);
    TestServer::start(Some(source)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_until_a_new_connection_sees_it() {
    let (mesh, home) = (Mesh::new(), tempfile::tempdir().unwrap());
    let server = following(&mesh, home.path()).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let next = mesh.server_leaf();
        let began = Instant::now();
        next.write(home.path()).unwrap();
        loop {
            let probe = probe_server(&server.localhost(), None, None, PATIENCE).await.unwrap();
            if Facts::read(&probe.chain[0]).unwrap().serial == next.serial {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the new leaf is never shown");
        }
        slowest = slowest.max(began.elapsed());
    }
    println!(
        "\n| a changed leaf, from the file to the first new connection that shows it, slowest of {ROUNDS} | 2 s | {:.2} s |",
        slowest.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_until_a_live_stream_is_cut() {
    let (mesh, home) = (Mesh::new(), tempfile::tempdir().unwrap());
    let server = following(&mesh, home.path()).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let client = mesh.client_leaf();
        let channel = server.channel(&CredentialSource::from_pem(client.credentials(), CLIENT).unwrap());
        let mut stream =
            HealthClient::new(channel).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        let revoked = |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == client.serial;
        mesh.authority.revoke("hub", revoked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
        let began = Instant::now();
        std::fs::write(home.path().join("ca.crt"), mesh.bundle(Hierarchy::Observers)).unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await;
        assert!(ended.expect("the stream goes on").is_err(), "it was cut");
        slowest = slowest.max(began.elapsed());
    }
    println!(
        "\n| a live stream of a client whose revocation arrives in the file, until it is cut, slowest of {ROUNDS} | 5 s | {:.2} s |",
        slowest.as_secs_f64()
    );
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
        "\n| `pki status` over {CLUSTERS} clusters, from the state on disk | 1 s | {:.3} s (issuing them: {:.1} s) |",
        began.elapsed().as_secs_f64(),
        issuing.as_secs_f64()
    );
    assert_eq!(inventory.leaves.len(), CLUSTERS);
}
