//! The eight situations in which Thanos was measured to be either silent or stalled (contract, section 0): here, each answer says what is missing and comes in time.
//!
//! Two clusters with real processes: an observee each (sidecars before stand-ins for Prometheus), and queriers over them, flat or stacked. One cluster is
//! killed or frozen (`SIGSTOP`: its sockets stay open and nothing answers). Times are asserted against Thanos' stalls, not against ideals.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::program::{Program, command};
use crate::question::{Answer, ask_until, get};
use crate::sides::{MACHINES, MACHINES_UP, Observee, REPLICA_LABEL};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a querier bears an endpoint's silence here; long enough for one that is well on a machine that is busy with other tests.
const SILENCE: Duration = Duration::from_secs(4);
/// What an answer may take besides. Thanos took ten to twenty seconds.
const SLACK: Duration = Duration::from_secs(5);
/// How often it may be the machine that was busy, where an answer takes longer than that. What it says has to be right each time.
const ATTEMPTS: usize = 3;

struct Mesh {
    a: Observee,
    b: Observee,
    directory: TempDir,
}

impl Mesh {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let a = Observee::start("eu-1", None, directory.path()).await;
        let b = Observee::start("us-1", None, directory.path()).await;
        Self { a, b, directory }
    }

    /// A querier over `endpoints`, with more flags, that has answered for both clusters once.
    async fn querier(&self, name: &str, endpoints: &[String], more: &[&str]) -> (Program, String) {
        let mut program = querier(name, endpoints, more, self.directory.path());
        let url = program.ready().await;
        ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").len() == 2).await;
        (program, url)
    }

    fn both(&self, flag: &str) -> Vec<String> {
        vec![format!("--{flag}={}", self.a.grpc), format!("--{flag}={}", self.b.grpc)]
    }

    /// A querier per cluster, and one over both. `beside_b` are further endpoints of b's.
    async fn stacked(&self, beside_b: &[String]) -> (Vec<Program>, String) {
        let directory = self.directory.path();
        let own = |address: &str| vec![format!("--endpoint={address}")];
        let mut leaf_a = querier("leaf-a", &own(&self.a.grpc), &[], directory);
        let mut leaf_b = querier("leaf-b", &[own(&self.b.grpc), beside_b.to_vec()].concat(), &[], directory);
        let endpoints =
            [leaf_a.grpc().await, leaf_b.grpc().await].map(|grpc| format!("--endpoint-strict={grpc}"));
        leaf_a.ready().await;
        leaf_b.ready().await;
        let (top, url) = self.querier("top", &endpoints, &[]).await;
        (vec![leaf_a, leaf_b, top], url)
    }
}

fn querier(name: &str, endpoints: &[String], more: &[&str], directory: &Path) -> Program {
    let mut arguments: Vec<String> = vec!["query".to_owned()];
    arguments.extend(["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"].map(str::to_owned));
    arguments.push(format!("--query.replica-label={REPLICA_LABEL}"));
    arguments.push(format!("--store.response-timeout={}ms", SILENCE.as_millis()));
    arguments.extend(endpoints.iter().cloned());
    arguments.extend(more.iter().map(|flag| (*flag).to_owned()));
    Program::start(&mut command(arguments), directory, name)
}

async fn up(url: &str, more: &[(&str, &str)]) -> Answer {
    get(url, "/api/v1/query", &[&[("query", MACHINES_UP)], more].concat()).await
}

/// An answer that comes within this time; each is judged.
async fn up_within(url: &str, more: &[(&str, &str)], within: Duration, judge: impl Fn(&Answer)) {
    let mut took = Vec::new();
    while took.len() < ATTEMPTS {
        let answer = up(url, more).await;
        judge(&answer);
        if answer.took < within {
            return;
        }
        took.push(answer.took);
    }
    panic!("the answers took {took:?}, not less than {within:?}");
}

/// Lets a scenario happen until none of its answers takes too long. It gives what those took that did.
async fn in_time(scenario: impl AsyncFn() -> Vec<Duration>) {
    let mut took = Vec::new();
    while took.len() < ATTEMPTS {
        let too_long = scenario().await;
        if too_long.is_empty() {
            return;
        }
        took.push(too_long);
    }
    panic!("answers took {took:?}, not less than {:?}", SILENCE + SLACK);
}

/// The state of a cluster in the coverage of an answer.
fn state(answer: &Answer, cluster: &str) -> Value {
    let clusters = answer.body["coverage"]["clusters"].as_array().cloned().unwrap_or_default();
    clusters.iter().find(|one| one["cluster"] == cluster).map_or(Value::Null, |one| one["state"].clone())
}

/// A partial answer has a's data, names b in a warning and in its coverage; without partial answers it is an error that names b.
async fn says_what_is_missing(url: &str, states: &[&str], within: Duration) {
    up_within(url, &[("partial_response", "1")], within, |answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.by("cluster").get("eu-1"), Some(&MACHINES), "{answer:?}");
        assert_eq!(answer.by("cluster").len(), 1, "{answer:?}");
        let warned = answer.warnings().iter().any(|text| text.contains("parallax: cluster \"us-1\""));
        assert!(warned, "{answer:?}");
        assert_eq!(state(answer, "eu-1"), "complete", "{answer:?}");
        let of_b = state(answer, "us-1");
        assert!(states.iter().any(|state| of_b == *state), "{of_b}: {answer:?}");
    })
    .await;
    up_within(url, &[("partial_response", "0")], within, |refused| {
        assert_eq!(refused.status, 422, "{refused:?}");
        assert!(refused.body["error"].as_str().unwrap().contains("cluster \"us-1\""), "{refused:?}");
    })
    .await;
}

/// Whoever does not need b does not hear of it.
async fn leaves_others_alone(url: &str) {
    let parameters = [("query", "count by (cluster) (up{cluster=\"eu-1\"})"), ("partial_response", "0")];
    let answer = get(url, "/api/v1/query", &parameters).await;
    assert_eq!((answer.status, answer.warnings().len()), (200, 0), "{answer:?}");
    assert_eq!(
        answer.body["coverage"],
        json!({"state": "complete", "clusters": [{"cluster": "eu-1", "state": "complete"}]})
    );
}

/// Thanos: HTTP 200, only one cluster, no warning, even where no partial answer is allowed.
#[tokio::test(flavor = "multi_thread")]
async fn e1_a_killed_cluster_behind_a_plain_endpoint_is_named() {
    let mesh = Mesh::start().await;
    let (_querier, url) = mesh.querier("flat", &mesh.both("endpoint"), &[]).await;
    let Mesh { a: _a, b, directory: _directory } = mesh;
    drop(b);
    says_what_is_missing(&url, &["missing"], SILENCE + SLACK).await;
    leaves_others_alone(&url).await;
    // Twelve seconds later Thanos has dropped the endpoint.
    tokio::time::sleep(Duration::from_secs(12)).await;
    says_what_is_missing(&url, &["missing"], SILENCE + SLACK).await;
}

/// Thanos: a warning, or 422: the one situation that it reports.
#[tokio::test(flavor = "multi_thread")]
async fn e2_a_killed_cluster_behind_a_strict_endpoint_is_named() {
    let mesh = Mesh::start().await;
    let (_querier, url) = mesh.querier("flat", &mesh.both("endpoint-strict"), &[]).await;
    let Mesh { a: _a, b, directory: _directory } = mesh;
    drop(b);
    says_what_is_missing(&url, &["missing"], SILENCE + SLACK).await;
}

/// Thanos: 200 without a warning.
#[tokio::test(flavor = "multi_thread")]
async fn e3_a_killed_cluster_beneath_a_leaf_is_named_at_the_top() {
    let mesh = Mesh::start().await;
    let (_queriers, url) = mesh.stacked(&[]).await;
    let Mesh { a: _a, b, directory: _directory } = mesh;
    drop(b);
    says_what_is_missing(&url, &["missing"], SILENCE + SLACK).await;
    leaves_others_alone(&url).await;
}

/// Thanos: 200 without data or warning, with and without partial answers.
#[tokio::test(flavor = "multi_thread")]
async fn e4_a_killed_cluster_beneath_a_leaf_that_has_another_endpoint_is_named_at_the_top() {
    let mesh = Mesh::start().await;
    let other = Observee::start("ap-1", None, mesh.directory.path()).await;
    let directory = mesh.directory.path();
    let endpoints = [&mesh.b.grpc, &other.grpc].map(|grpc| format!("--endpoint={grpc}"));
    let mut leaf = querier("leaf", &endpoints, &[], directory);
    let mut leaf_a = querier("leaf-a", &[format!("--endpoint={}", mesh.a.grpc)], &[], directory);
    let below = [leaf.grpc().await, leaf_a.grpc().await].map(|grpc| format!("--endpoint-strict={grpc}"));
    leaf.ready().await;
    leaf_a.ready().await;
    let mut top = querier("top", &below, &[], directory);
    let url = top.ready().await;
    ask_until(&url, MACHINES_UP, |answer| answer.by("cluster").len() == 3).await;
    let Mesh { a: _a, b, directory: _directory } = mesh;
    drop(b);
    let answer = up(&url, &[("partial_response", "1")]).await;
    assert_eq!((answer.status, answer.by("cluster").len()), (200, 2), "{answer:?}");
    assert_eq!([state(&answer, "ap-1"), state(&answer, "us-1")], ["complete", "missing"], "{answer:?}");
    assert!(answer.warnings().iter().any(|text| text.contains("cluster \"us-1\" missing")), "{answer:?}");
    let refused = up(&url, &[("partial_response", "0")]).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.body["error"].as_str().unwrap().contains("us-1"), "{refused:?}");
    leaves_others_alone(&url).await;
}

/// Thanos: 14 to 15 s for the first query, flat, strict and stacked.
#[tokio::test(flavor = "multi_thread")]
async fn e5_a_frozen_cluster_costs_the_first_query_its_budget_and_no_more() {
    in_time(first_queries_of_a_frozen_cluster).await;
}

async fn first_queries_of_a_frozen_cluster() -> Vec<Duration> {
    let mesh = Mesh::start().await;
    let (_flat, flat) = mesh.querier("flat", &mesh.both("endpoint"), &[]).await;
    let (_strict, strict) = mesh.querier("strict", &mesh.both("endpoint-strict"), &[]).await;
    let (_queriers, stacked) = mesh.stacked(&[]).await;
    let Mesh { a: _a, mut b, directory: _directory } = mesh;
    b.program.process().suspend().unwrap();
    let mut took = Vec::new();
    for url in [&flat, &strict, &stacked] {
        let answer = up(url, &[]).await;
        assert_eq!((answer.status, answer.by("cluster").len()), (200, 1), "{answer:?}");
        assert_eq!(state(&answer, "us-1"), "late", "{answer:?}");
        took.push(answer.took);
    }
    b.program.process().resume().unwrap();
    took.retain(|took| *took >= SILENCE + SLACK);
    took
}

/// Thanos: silent at once without strict; 10 s on a later query with it.
#[tokio::test(flavor = "multi_thread")]
async fn e6_while_it_stays_frozen_no_further_query_waits_and_each_names_it() {
    let mesh = Mesh::start().await;
    let (_flat, flat) = mesh.querier("flat", &mesh.both("endpoint"), &[]).await;
    let (_strict, strict) = mesh.querier("strict", &mesh.both("endpoint-strict"), &[]).await;
    let Mesh { a: _a, mut b, directory: _directory } = mesh;
    b.program.process().suspend().unwrap();
    for url in [&flat, &strict] {
        up(url, &[]).await;
    }
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_secs(15) {
        for url in [&flat, &strict] {
            says_what_is_missing(url, &["late", "missing"], SILENCE + SLACK).await;
            leaves_others_alone(url).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // Well again, it is asked again.
    b.program.process().resume().unwrap();
    for url in [&flat, &strict] {
        ask_until(url, MACHINES_UP, |answer| answer.by("cluster").len() == 2 && answer.warnings().is_empty())
            .await;
    }
}

/// Thanos: 1 s three times, and then 20 s, because opening a stream is not covered by the timeout.
#[tokio::test(flavor = "multi_thread")]
async fn e7_the_response_timeout_covers_opening_a_stream_however_often_it_is_tried() {
    in_time(queries_while_a_connection_is_given_up).await;
}

async fn queries_while_a_connection_is_given_up() -> Vec<Duration> {
    let mesh = Mesh::start().await;
    let (_querier, url) = mesh.querier("flat", &mesh.both("endpoint-strict"), &[]).await;
    let Mesh { a: _a, mut b, directory: _directory } = mesh;
    b.program.process().suspend().unwrap();
    let (frozen, mut took) = (Instant::now(), Vec::new());
    // Longer than keepalives take to give the connection up, so that streams are opened on one that is being made, too.
    while frozen.elapsed() < Duration::from_secs(25) {
        let answer = up(&url, &[]).await;
        assert_eq!((answer.status, answer.by("cluster").len()), (200, 1), "{answer:?}");
        assert!(!answer.warnings().is_empty(), "{answer:?}");
        took.push(answer.took);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    b.program.process().resume().unwrap();
    took.retain(|took| *took >= SILENCE + SLACK);
    took
}

/// Thanos: 10.3 s and 422, where 2 s were allowed, instead of a partial answer.
#[tokio::test(flavor = "multi_thread")]
async fn e8_the_callers_timeout_bounds_the_wait_and_what_came_is_answered() {
    let mesh = Mesh::start().await;
    // The querier itself would bear a long silence.
    let more = ["--store.response-timeout=0s"];
    let (_querier, url) = mesh.querier("flat", &mesh.both("endpoint-strict"), &more).await;
    let Mesh { a: _a, mut b, directory: _directory } = mesh;
    b.program.process().suspend().unwrap();
    let more = [("timeout", "4s"), ("partial_response", "1")];
    up_within(&url, &more, Duration::from_secs(4) + SLACK, |answer| {
        assert_eq!((answer.status, answer.by("cluster").len()), (200, 1), "{answer:?}");
        assert_eq!(state(answer, "us-1"), "late", "{answer:?}");
    })
    .await;
    b.program.process().resume().unwrap();
}
