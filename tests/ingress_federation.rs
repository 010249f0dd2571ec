//! A mesh through real ingresses: long answers pass, and what an ingress breaks off, by its end, its timeouts or its silence, is named and never taken for whole.
//!
//! nginx and HAProxy come from Debian, Envoy and Traefik from Python packages (`tests/run`). The observee's place is taken by a store with many series, which can stop in
//! the middle of an answer; a second cluster is asked directly, and its part has to stand whatever happens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ingresses::{Ingress, Kind, Tls};
use crate::program::{PATIENCE, Program};
use crate::question::{Answer, get};
use crate::sides::{Keys, Leaf, server_name, side};
use parallax_model::TimeRange;
use parallax_net::{GrpcServer, GrpcServerConfig};
use parallax_pki::{CredentialFiles, CredentialSource, Purpose};
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Series of eu-1: several megabytes in many frames, more than any window of a connection.
const WIDE: u32 = 1200;
/// Series of us-1.
const NARROW: u32 = 5;
/// Frames of eu-1 after which its answer stops.
const FEW_FRAMES: usize = 3;
const COUNT: &str = "count by (cluster) (wide)";

/// The values are 1, 2, 3, … now.
fn store(cluster: &str, series: u32) -> Arc<FakeStore> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let empty = FakeStore::new([("cluster", cluster)]).with_range(TimeRange::new(0, i64::MAX));
    Arc::new((1..=series).fold(empty, |store, number| {
        // Noise that does not compress, and then the value, for longer than a test takes.
        let noise =
            (0..200_i64).map(|step| (now_ms - 4_000_000 + step * 15_000, (step * 7 % 13) as f64 / 3.0));
        let value = (0..70).map(|step| (now_ms - 900_000 + step * 15_000, f64::from(number)));
        let name = format!("{number:05}");
        store.with_series([("__name__", "wide"), ("instance", name.as_str())], noise.chain(value))
    }))
}

async fn serve(store: Arc<FakeStore>, leaf: Option<&Leaf>) -> (String, DropGuard) {
    let tls = leaf.map(|leaf| {
        CredentialSource::from_files(CredentialFiles::in_directory(&leaf.0), Purpose::Server).unwrap()
    });
    let config = GrpcServerConfig { tls, ..GrpcServerConfig::new("127.0.0.1:0") };
    let server = GrpcServer::bind(config, &Metrics::new()).await.unwrap();
    let address = server.local_addr().to_string();
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let stop = CancellationToken::new();
    let serving = server.serve(parallax_storeapi::routes(store, readiness).unwrap(), stop.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    (address, stop.drop_guard())
}

struct Mesh {
    eu: Arc<FakeStore>,
    ingress: Ingress,
    url: String,
    _observer: Program,
    _servers: [DropGuard; 2],
    _directory: TempDir,
}

impl Mesh {
    async fn start(kind: Kind, program: std::path::PathBuf, ends_tls: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::new(directory.path(), "mesh.test");
        let leaf = keys.observee("eu-1");
        let (eu, us) = (store("eu-1", WIDE), store("us-1", NARROW));
        let (backend, eu_server) = serve(eu.clone(), (!ends_tls).then_some(&leaf)).await;
        let (direct, us_server) = serve(us, None).await;
        let tls = if ends_tls { Tls::Ends(&leaf) } else { Tls::Passes };
        let ingress = Ingress::start(kind, program, tls, &backend, directory.path()).await;
        let name = server_name("eu-1");
        let config = json!({
            "http_address": "127.0.0.1:0",
            "tls": keys.observer("hub").section(),
            "data_dir": directory.path().join("data"),
            "info_interval": "500ms",
            "response_timeout": "6s",
            "clusters": [
                {"name": "eu-1", "address": ingress.address(), "server_name": name, "authority": name},
                {"name": "us-1", "address": direct, "plaintext": true},
            ],
        });
        let mut observer = side("observer", &config, directory.path(), "observer");
        let url = observer.http().await;
        let servers = [eu_server, us_server];
        Self { eu, ingress, url, _observer: observer, _servers: servers, _directory: directory }
    }

    async fn ask(&self, query: &str, partial_response: &str) -> Answer {
        let parameters = [("query", query), ("partial_response", partial_response)];
        get(&self.url, "/api/v1/query", &parameters).await
    }

    /// Counts series by cluster: what is there, and the state of eu-1.
    async fn count(&self) -> (f64, Value, Answer) {
        let answer = self.ask(COUNT, "1").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let counts = answer.by("cluster");
        assert_eq!(counts.get("us-1"), Some(&f64::from(NARROW)), "{answer:?}");
        let clusters = answer.body["coverage"]["clusters"].as_array().cloned().unwrap_or_default();
        let eu = clusters.iter().find(|one| one["cluster"] == "eu-1").map(|one| one["state"].clone());
        let count = counts.get("eu-1").copied().unwrap_or_default();
        let state = eu.unwrap_or_else(|| panic!("nothing is said of eu-1: {answer:?}"));
        if state == "complete" {
            assert_eq!(count, f64::from(WIDE), "{answer:?}");
        } else {
            assert!(answer.warning_about("eu-1").is_some(), "{answer:?}");
            assert!(count <= f64::from(WIDE), "{answer:?}");
        }
        (count, state, answer)
    }

    /// Asks until eu-1 is in this state; every answer on the way is held to what it says.
    async fn count_until(&self, wanted: impl Fn(f64, &Value) -> bool) -> Answer {
        let began = Instant::now();
        loop {
            let (count, state, answer) = self.count().await;
            if wanted(count, &state) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "the answer never comes to be as wanted: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_whole(&self) {
        self.count_until(|_, state| state == "complete").await;
    }

    async fn passes_long_answers(&self) {
        self.is_whole().await;
        let sums = self.ask("sum by (cluster) (wide)", "0").await;
        let sum = f64::from(WIDE) * f64::from(WIDE + 1) / 2.0;
        assert_eq!((sums.status, sums.by("cluster").get("eu-1")), (200, Some(&sum)), "{sums:?}");
    }

    /// Killed in the middle of an answer, gone for the next, and back.
    async fn names_what_dies(&mut self) {
        self.eu.set_fault(Fault::HangAfter(FEW_FRAMES));
        let (calls, url) = (self.eu.calls().series, self.url.clone());
        let asking = tokio::spawn(async move { get(&url, "/api/v1/query", &[("query", COUNT)]).await });
        let give_up = Instant::now() + PATIENCE;
        while self.eu.calls().series == calls {
            assert!(Instant::now() < give_up, "nobody asks eu-1");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ingress.kill();
        let answer = asking.await.unwrap();
        assert!(answer.status == 200 && answer.warning_about("eu-1").is_some(), "{answer:?}");
        let counts = answer.by("cluster");
        assert_eq!(counts.get("us-1"), Some(&f64::from(NARROW)), "{answer:?}");
        assert!(counts.get("eu-1").is_none_or(|count| *count < f64::from(WIDE)), "{answer:?}");

        let gone = self.count_until(|count, state| count == 0.0 && state == "missing").await;
        let warning = gone.warning_about("eu-1").unwrap();
        assert!(warning.contains(&self.ingress.address()), "{warning}");
        let refused = self.ask(COUNT, "0").await;
        assert_eq!(refused.status, 422, "{refused:?}");
        assert!(refused.body["error"].as_str().unwrap().contains("cluster \"eu-1\""), "{refused:?}");

        self.eu.set_fault(Fault::None);
        self.ingress.again().await;
        self.is_whole().await;
    }

    /// Frozen, so that everything stays open and nothing passes.
    async fn names_what_freezes(&mut self) {
        self.ingress.freeze();
        self.count_until(|count, state| count == 0.0 && state == "late").await;
        self.ingress.thaw();
        self.is_whole().await;
    }

    /// Answers that the ingress ends in their middle, as streams that are reset.
    async fn names_what_is_reset(&mut self) {
        self.ingress.again_with_little_patience().await;
        self.eu.set_fault(Fault::HangAfter(FEW_FRAMES));
        // Without the reset it would be late, for its silence.
        let answer = self.count_until(|count, state| count > 0.0 && state == "partial").await;
        let warning = answer.warning_about("eu-1").unwrap();
        assert!(!warning.contains("nothing came for"), "{warning}");
    }
}

async fn ends_tls(kind: Kind, test: &str) {
    let Some(program) = kind.program(test) else { return };
    let mut mesh = Mesh::start(kind, program, true).await;
    mesh.passes_long_answers().await;
    mesh.names_what_dies().await;
    mesh.names_what_freezes().await;
    mesh.names_what_is_reset().await;
}

async fn passes_tls(kind: Kind, test: &str) {
    let Some(program) = kind.program(test) else { return };
    let mut mesh = Mesh::start(kind, program, false).await;
    mesh.passes_long_answers().await;
    mesh.names_what_dies().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_carries_long_answers_and_what_it_breaks_off_is_named() {
    ends_tls(Kind::Nginx, "nginx_carries_long_answers_and_what_it_breaks_off_is_named").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_carries_long_answers_and_what_it_breaks_off_is_named() {
    ends_tls(Kind::Haproxy, "haproxy_carries_long_answers_and_what_it_breaks_off_is_named").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_carries_long_answers_and_what_it_breaks_off_is_named() {
    ends_tls(Kind::Envoy, "envoy_carries_long_answers_and_what_it_breaks_off_is_named").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_carries_long_answers_and_what_it_breaks_off_is_named() {
    ends_tls(Kind::Traefik, "traefik_carries_long_answers_and_what_it_breaks_off_is_named").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_passes_tls_on_by_its_name() {
    passes_tls(Kind::Haproxy, "haproxy_passes_tls_on_by_its_name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_passes_tls_on_by_its_name() {
    passes_tls(Kind::Envoy, "envoy_passes_tls_on_by_its_name").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traefik_passes_tls_on_by_its_name() {
    passes_tls(Kind::Traefik, "traefik_passes_tls_on_by_its_name").await;
}
