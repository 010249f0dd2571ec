//! Metadata, rules, targets, exemplars and statistics between ours and Thanos': each as client, proxy and sidecar of the other, over two real
//! Prometheus servers that are replicas of one another.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use parallax_net::{HttpClient, HttpClientConfig, HttpServer};
use parallax_testkit::process::{Process, free_port, program_or_leave_out as program_of_debian};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::component::{Component, parallax};
use crate::peer::{Peer, program_or_leave_out};

/// Far more than anything here takes; only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(90);
const REPLICA_LABEL: &str = "prometheus_replica";
/// How often answers are compared that may be about different moments.
const ATTEMPTS: u32 = 5;

const RULES: &str = r#"
groups:
- name: demo
  interval: 1s
  rules:
  - alert: Warm
    expr: temperature_celsius > 10
    labels: {severity: page}
    annotations: {summary: "{{ $value }} degrees"}
  - {alert: Cold, expr: temperature_celsius < 10, for: 5m}
  - {record: "job:jobs:sum", expr: sum by (job) (jobs_total), labels: {kind: recorded}}
- name: always
  interval: 1s
  rules: [{record: always, expr: vector(1)}]
"#;

const EXPOSITION: &str = "# HELP jobs Jobs that were done\n# TYPE jobs counter\n\
    jobs_total{queue=\"a\"} 5 # {trace_id=\"abc\"} 1.5 1782864000.25\n\
    # HELP temperature_celsius How warm it is\n# TYPE temperature_celsius gauge\n# UNIT temperature_celsius celsius\n\
    temperature_celsius 20\n# EOF\n";

/// Of what differs from one moment or replica to the next, nothing is compared.
const MOMENTARY: [&str; 7] = [
    "lastEvaluation",
    "evaluationTime",
    "lastScrape",
    "lastScrapeDuration",
    "activeAt",
    "chunkCount",
    "maxTime",
];

fn external(replica: u32) -> Value {
    json!({"cluster": "eu-1", REPLICA_LABEL: replica.to_string()})
}

struct Prometheus {
    url: String,
    process: Process,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes `target` and drops another one; ready when every rule was evaluated over what was scraped. Replicas share the file of rules,
    /// which is part of a group's identity.
    async fn start(program: &Path, replica: u32, target: &str, rules: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = json!({
            "global": {"scrape_interval": "1s", "external_labels": external(replica)},
            "rule_files": [rules],
            "scrape_configs": [{
                "job_name": "demo",
                "static_configs": [{"targets": [target, "dropped:1"]}],
                "relabel_configs": [{"source_labels": ["__address__"], "regex": "dropped.*", "action": "drop"}],
            }],
        });
        std::fs::write(directory.path().join("prometheus.yml"), config.to_string()).unwrap();
        let port = free_port().unwrap();
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=warn"]);
        let process = Process::spawn(&mut command, &directory.path().join("log")).unwrap();
        let mut prometheus = Self { url: format!("http://127.0.0.1:{port}"), process, _directory: directory };
        prometheus.evaluated().await;
        prometheus
    }

    async fn evaluated(&mut self) {
        self.process.wait_for_http(&format!("{}/-/ready", self.url), PATIENCE).await.unwrap();
        let client = HttpClient::new(HttpClientConfig::new(&self.url)).unwrap();
        let query =
            "count(ALERTS{alertstate=\"firing\"}) and count({__name__=\"job:jobs:sum\"}) and count(always)";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = client.get("/api/v1/query", &[("query", query)]).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer.bytes(1 << 20).await.unwrap()).unwrap();
            if answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty()) {
                return;
            }
            assert!(Instant::now() < deadline, "rules are not evaluated: {}", self.process.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What is left to compare: no moments, numbers as floats, alerts without external labels, which only ours adds to them.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut kept: serde_json::Map<_, _> = members
                .iter()
                .filter(|(name, _)| !MOMENTARY.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), comparable(value)))
                .collect();
            if let Some(labels) = kept.get_mut("labels").and_then(Value::as_object_mut)
                && labels.contains_key("alertname")
            {
                labels.remove("cluster");
                labels.remove(REPLICA_LABEL);
            }
            Value::Object(kept)
        }
        Value::Array(items) => items.iter().map(comparable).collect(),
        Value::Number(number) => json!(number.as_f64()),
        other => other.clone(),
    }
}

/// Thanos does not order what counts the same.
fn in_any_order(list: &Value) -> Vec<String> {
    let mut all: Vec<String> = list.as_array().unwrap().iter().map(Value::to_string).collect();
    all.sort();
    all
}

/// `data` of an answer of our HTTP API that lacks nothing.
async fn ours(query: &Component, path: &str, parameters: &[(&str, &str)]) -> Value {
    let parameters: Vec<_> =
        parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (status, answer) = query.get(path, &parameters).await.unwrap();
    assert!(status.is_success() && answer.get("warnings").is_none(), "{path}: {answer}");
    comparable(&answer["data"])
}

fn theirs(peer: &mut Peer, question: Value) -> Value {
    let answer = peer.ask(&question).unwrap();
    assert!(answer.get("error").is_none() && answer["warnings"] == json!([]), "{question}: {answer}");
    comparable(&answer["data"])
}

#[tokio::test(flavor = "multi_thread")]
async fn small_services_are_thanos_own_in_both_directions() {
    const NAME: &str = "the small services between ours and Thanos'";
    let Some(peers) = program_or_leave_out(NAME) else { return };
    let Some(prometheus) = program_of_debian("prometheus", NAME) else { return };
    let stop = CancellationToken::new();
    let target = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let address = target.local_addr().to_string();
    let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let router = Router::new().route("/metrics", get(move || async move { (kind, EXPOSITION) }));
    tokio::spawn(target.serve(router, stop.clone()));
    let directory = tempfile::tempdir().unwrap();
    let rules = directory.path().join("rules.yml");
    std::fs::write(&rules, RULES).unwrap();
    let first = Prometheus::start(&prometheus, 0, &address, &rules).await;
    let second = Prometheus::start(&prometheus, 1, &address, &rules).await;

    let sidecar = Component::sidecar(&parallax(), &first.url).await.unwrap();
    let (_their_sidecar, their_address) =
        Peer::side(&peers, &second.url, &external(1)).expect("Thanos' services over Prometheus");
    let endpoints = [sidecar.grpc.as_str(), their_address.as_str()];
    let query = Component::query(&parallax(), &endpoints, &[]).await.unwrap();
    // Thanos' proxies over the two sidecars, and over our querier that stands over both.
    let mut beside = Peer::ask_sides(&peers, &endpoints).unwrap();
    let mut above = Peer::ask_sides(&peers, &[&query.grpc]).unwrap();

    let exemplars = "rate(jobs_total{cluster=\"eu-1\"}[5m])";
    for (service, path, parameters) in [
        ("metadata", "/api/v1/metadata", vec![]),
        ("rules", "/api/v1/rules", vec![]),
        ("targets", "/api/v1/targets", vec![]),
        (
            "exemplars",
            "/api/v1/query_exemplars",
            vec![("query", exemplars), ("start", "0"), ("end", "2147483647")],
        ),
    ] {
        let question = json!({
            "service": service,
            "query": if service == "exemplars" { exemplars } else { "" },
            "limit": -1,
            "replica_labels": [REPLICA_LABEL],
        });
        // A scrape or an evaluation that a busy machine makes late shows in one answer and not in the next.
        let mut attempts = 1;
        let expected = loop {
            let expected = theirs(&mut beside, question.clone());
            let (own, through) =
                (ours(&query, path, &parameters).await, theirs(&mut above, question.clone()));
            if attempts == ATTEMPTS {
                assert_eq!(own, expected, "{service}: ours over both sidecars");
                assert_eq!(through, expected, "{service}: theirs over our querier");
            }
            if own == expected && through == expected {
                break expected;
            }
            attempts += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        assert!(
            !expected.to_string().contains(REPLICA_LABEL) || service == "metadata",
            "{service}: {expected}"
        );
        let is_empty = expected.as_array().is_some_and(Vec::is_empty)
            || expected.as_object().is_some_and(|members| members.is_empty());
        assert!(!is_empty, "{service} compares nothing");
    }
    // Thanos 0.41 has statistics of receivers only; its client asks ours.
    let question = json!({"service": "status", "limit": 10});
    // Of the other lists Prometheus shows some of many that are equal.
    let parts =
        |answer: &Value| (answer["headStats"].clone(), in_any_order(&answer["labelValueCountByLabelName"]));
    for attempt in 1..=ATTEMPTS {
        let through = parts(&theirs(&mut above, question.clone())[""]);
        let mut past_the_querier = Peer::ask_sides(&peers, &[&sidecar.grpc]).unwrap();
        let straight = parts(&theirs(&mut past_the_querier, question.clone())[""]);
        let shown = parts(&ours(&query, "/api/v1/status/tsdb", &[]).await);
        if attempt == ATTEMPTS {
            assert_eq!(through, straight);
            assert_eq!(through, shown);
        }
        if through == straight && through == shown {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
}
