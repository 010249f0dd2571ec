//! The small services beside the real Prometheus: what it says of its rules, targets, metrics, exemplars and head, with external labels added.
//!
//! Without the program the tests are left out by name; in CI it has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use parallax_model::Labels;
use parallax_net::{Context, HttpClient, HttpClientConfig, HttpServer};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_simulate::stand_in::now_ms;
use parallax_storeapi::labels::set_from_wire;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::rules_request::Type;
use parallax_storeapi::proto::thanos::targets_request::State;
use parallax_storeapi::proto::thanos::{
    AlertState, ExemplarsRequest, LabelMatcher, MetricMetadataRequest, Rule, RuleGroup, RulesRequest,
    TargetDiscovery, TargetHealth, TargetsRequest, TsdbStatisticsRequest, ZLabelSet,
};
use parallax_storeapi::{SideFrame, SideRequest, SideService, Store};
use parallax_testkit::process::{Process, free_port, program_or_leave_out};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{Code, Request, Status};

/// Far more than anything here takes; only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);

const RULES: &str = r#"
groups:
- name: demo
  interval: 1s
  rules:
  - alert: Warm
    expr: temperature_celsius > 10
    labels: {severity: page, cluster: overridden}
    annotations: {summary: "{{ $value }} degrees"}
  - alert: Cold
    expr: temperature_celsius < 10
    for: 5m
  - record: job:jobs:sum
    expr: sum by (job) (jobs_total)
    labels: {kind: recorded}
- name: recorded
  interval: 1s
  rules:
  - {record: always, expr: vector(1)}
"#;

/// A Prometheus with rules that scrapes one target and drops another, and a sidecar.
struct Beside {
    url: String,
    sidecar: Arc<Sidecar>,
    exemplar_ms: i64,
    context: Context,
    _process: Process,
    _directory: tempfile::TempDir,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

fn external() -> Labels {
    Labels::from_pairs([("cluster", "eu-1"), ("prometheus_replica", "0")])
}

/// `None` where there is no Prometheus.
async fn start(test: &str) -> Option<Beside> {
    let program = program_or_leave_out("prometheus", test)?;
    let directory = tempfile::tempdir().unwrap();
    let context = Context::for_test();
    let exemplar_ms = now_ms() - 1_000;
    let target = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let target_address = target.local_addr();
    let exposition = format!(
        "# HELP jobs Jobs that were done\n# TYPE jobs counter\n\
         jobs_total{{queue=\"a\"}} 5 # {{trace_id=\"abc\"}} 1.5 {}\n\
         # HELP temperature_celsius How warm it is\n# TYPE temperature_celsius gauge\n# UNIT temperature_celsius celsius\n\
         temperature_celsius 20\n# EOF\n",
        exemplar_ms as f64 / 1000.0
    );
    let kind = [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")];
    let metrics = axum::routing::get(move || async move { (kind, exposition.clone()) });
    let router = axum::Router::new().route("/metrics", metrics);
    tokio::spawn(target.serve(router, context.shutdown.clone()));

    let config = json!({
        "global": {
            "scrape_interval": "1s",
            "external_labels": external(),
        },
        "rule_files": ["rules.yml"],
        "scrape_configs": [{
            "job_name": "demo",
            "static_configs": [{"targets": [target_address.to_string(), "dropped:1"]}],
            "relabel_configs": [{"source_labels": ["__address__"], "regex": "dropped.*", "action": "drop"}],
        }],
    });
    std::fs::write(directory.path().join("prometheus.yml"), config.to_string()).unwrap();
    std::fs::write(directory.path().join("rules.yml"), RULES).unwrap();
    let port = free_port().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(program);
    command
        .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .args(["--enable-feature=exemplar-storage", "--log.level=warn"]);
    let mut process = Process::spawn(&mut command, &directory.path().join("log")).unwrap();
    process.wait_for_http(&format!("{url}/-/ready"), PATIENCE).await.unwrap();

    let config = SidecarConfig { heartbeat_interval: Duration::from_millis(100), ..SidecarConfig::new(&url) };
    let (sidecar, _) = Sidecar::start(config, &context).unwrap();
    let ready =
        tokio::time::timeout(PATIENCE, context.readiness.subscribe().wait_for(|ready| *ready)).await.is_ok();
    assert!(ready, "{:?}", context.readiness.reasons());
    let beside = Beside { url, sidecar, exemplar_ms, context, _process: process, _directory: directory };
    beside.evaluated().await;
    Some(beside)
}

impl Beside {
    /// `data` of an answer of Prometheus' own API.
    async fn api(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let client = HttpClient::new(HttpClientConfig::new(&self.url)).unwrap();
        let body = client.get(path, query).await.unwrap().bytes(64 << 20).await.unwrap();
        let mut answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].take()
    }

    /// Waits until the target was scraped and every rule evaluated over that.
    async fn evaluated(&self) {
        let deadline = Instant::now() + PATIENCE;
        let query = "count(ALERTS{alertname=\"Warm\",alertstate=\"firing\"}) and count({__name__=\"job:jobs:sum\"}) and count(always)";
        while self.api("/api/v1/query", &[("query", query)]).await["result"] == json!([]) {
            assert!(Instant::now() < deadline, "rules are not evaluated: {}", self._process.output());
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ask<R: SideRequest>(&self, request: R) -> Result<Vec<R::Item>, Status> {
        let frames: Vec<_> = R::ask(Request::new(request), self.sidecar.side()).await?.try_collect().await?;
        Ok(frames
            .into_iter()
            .map(|frame| match R::read(frame) {
                Some(SideFrame::Item(item)) => item,
                other => panic!("no item: {:?}", other.is_some()),
            })
            .collect())
    }
}

/// Labels of Prometheus' JSON; older servers leave out what is empty.
fn own_labels(own: &Value) -> Labels {
    let own: Option<BTreeMap<String, String>> = serde_json::from_value(own.clone()).unwrap();
    Labels::from_pairs(own.unwrap_or_default())
}

/// The same with the external ones over them.
fn with_external(own: &Value) -> Labels {
    own_labels(own).overlaid_with(&external())
}

fn labels(set: &Option<ZLabelSet>) -> Labels {
    set_from_wire(set.as_ref().unwrap()).unwrap()
}

fn millis(text: &Value) -> i64 {
    text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

fn wire_millis(time: &Option<Timestamp>) -> i64 {
    let time = time.unwrap();
    time.seconds * 1000 + i64::from(time.nanos / 1_000_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_that_of_prometheus() {
    let Some(beside) = start("metadata_is_that_of_prometheus").await else { return };
    let info = beside.sidecar.info().await.unwrap();
    assert!(SideService::ALL.iter().all(|service| service.is_offered(&info)));
    assert_eq!(info.exemplars.unwrap().max_time, i64::MAX);

    let asked = |metric: &str, limit| {
        let request =
            MetricMetadataRequest { metric: metric.to_owned(), limit, ..MetricMetadataRequest::default() };
        beside.ask(request)
    };
    let as_json = |parts: Vec<parallax_storeapi::proto::thanos::MetricMetadata>| {
        let mut all = serde_json::Map::new();
        for (name, entry) in parts.into_iter().flat_map(|part| part.metadata) {
            let metas: Vec<_> = entry
                .metas
                .iter()
                .map(|meta| json!({"type": meta.r#type, "help": meta.help, "unit": meta.unit}))
                .collect();
            assert!(all.insert(name, json!(metas)).is_none(), "a metric comes twice");
        }
        Value::Object(all)
    };
    let all = as_json(asked("", -1).await.unwrap());
    assert_eq!(all, beside.api("/api/v1/metadata", &[]).await);
    assert_eq!(all["jobs"], json!([{"type": "counter", "help": "Jobs that were done", "unit": ""}]));
    let one = as_json(asked("temperature_celsius", -1).await.unwrap());
    assert_eq!(
        one,
        json!({"temperature_celsius": [{"type": "gauge", "help": "How warm it is", "unit": "celsius"}]})
    );
    assert_eq!(as_json(asked("", 1).await.unwrap()).as_object().unwrap().len(), 1);
    assert!(asked("", 0).await.unwrap().is_empty());
    assert!(asked("no_such", -1).await.unwrap().is_empty());
}

fn check_rule(rule: &Rule, own: &Value) {
    match rule.result.as_ref().unwrap() {
        Kind::Alert(alert) => {
            assert_eq!(own["type"], "alerting");
            assert_eq!((json!(alert.name), json!(alert.query)), (own["name"].clone(), own["query"].clone()));
            assert_eq!(labels(&alert.labels), with_external(&own["labels"]));
            assert_eq!(labels(&alert.annotations), own_labels(&own["annotations"]));
            let state = AlertState::try_from(alert.state).unwrap().as_str_name().to_lowercase();
            assert_eq!(json!(state), own["state"]);
            assert_eq!(json!(alert.duration_seconds).as_f64(), own["duration"].as_f64());
            assert_eq!(json!(alert.health), own["health"]);
            let active = own["alerts"].as_array().unwrap();
            assert_eq!(alert.alerts.len(), active.len());
            for (instance, own) in alert.alerts.iter().zip(active) {
                assert_eq!(labels(&instance.labels), with_external(&own["labels"]));
                assert_eq!(labels(&instance.annotations), own_labels(&own["annotations"]));
                assert_eq!(json!(instance.value), own["value"]);
                assert_eq!(wire_millis(&instance.active_at), millis(&own["activeAt"]));
            }
        }
        Kind::Recording(recording) => {
            assert_eq!(own["type"], "recording");
            assert_eq!(json!(recording.name), own["name"]);
            assert_eq!(json!(recording.query), own["query"]);
            assert_eq!(labels(&recording.labels), with_external(&own["labels"]));
            assert_eq!(json!(recording.health), own["health"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_alerts_are_those_of_prometheus_with_external_labels() {
    let Some(beside) = start("rules_and_alerts_are_those_of_prometheus").await else { return };
    let before = beside.api("/api/v1/rules", &[]).await;
    let groups: Vec<RuleGroup> = beside.ask(RulesRequest::default()).await.unwrap();
    let after = beside.api("/api/v1/rules", &[]).await;
    let own = before["groups"].as_array().unwrap();
    assert_eq!((groups.len(), own.len()), (2, 2));
    for (index, (group, own)) in groups.iter().zip(own).enumerate() {
        assert_eq!((json!(group.name), json!(group.file)), (own["name"].clone(), own["file"].clone()));
        assert_eq!(Some(group.interval), own["interval"].as_f64());
        let evaluated = millis(&own["lastEvaluation"])..=millis(&after["groups"][index]["lastEvaluation"]);
        assert!(evaluated.contains(&wire_millis(&group.last_evaluation)), "{group:?} not in {evaluated:?}");
        let rules = own["rules"].as_array().unwrap();
        assert_eq!(group.rules.len(), rules.len());
        group.rules.iter().zip(rules).for_each(|(rule, own)| check_rule(rule, own));
    }
    let Some(Kind::Alert(warm)) = &groups[0].rules[0].result else { panic!("{groups:?}") };
    assert_eq!((warm.state, warm.alerts.len()), (AlertState::Firing.into(), 1));
    assert_eq!(labels(&warm.alerts[0].labels).get("cluster"), Some("eu-1"), "external labels override");

    let names = async |kind: Type| -> BTreeSet<String> {
        let request = RulesRequest { r#type: kind.into(), ..RulesRequest::default() };
        let rules = beside.ask(request).await.unwrap().into_iter().flat_map(|group| group.rules);
        rules
            .map(|rule| match rule.result.unwrap() {
                Kind::Alert(alert) => alert.name,
                Kind::Recording(recording) => recording.name,
            })
            .collect()
    };
    assert_eq!(names(Type::Alert).await, ["Cold", "Warm"].map(str::to_owned).into());
    assert_eq!(names(Type::Record).await, ["always", "job:jobs:sum"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_are_those_of_prometheus_with_external_labels() {
    let Some(beside) = start("targets_are_those_of_prometheus").await else { return };
    let asked = async |state: State| -> TargetDiscovery {
        let request = TargetsRequest { state: state.into(), ..TargetsRequest::default() };
        let mut parts = beside.ask(request).await.unwrap();
        assert_eq!(parts.len(), 1);
        parts.remove(0)
    };
    // A scrape that a busy machine makes late is a target that is down, until the next one.
    let deadline = Instant::now() + PATIENCE;
    let (own, all) = loop {
        let own = beside.api("/api/v1/targets", &[]).await;
        let all = asked(State::Any).await;
        assert_eq!((all.active_targets.len(), all.dropped_targets.len()), (1, 1));
        let is_up = all.active_targets[0].health == i32::from(TargetHealth::Up);
        if is_up && own["activeTargets"][0]["health"] == "up" {
            break (own, all);
        }
        assert!(Instant::now() < deadline, "the target is down: {own}");
        tokio::time::sleep(POLL).await;
    };
    let (target, expected) = (&all.active_targets[0], &own["activeTargets"][0]);
    assert_eq!(labels(&target.discovered_labels), with_external(&expected["discoveredLabels"]));
    assert_eq!(labels(&target.labels), with_external(&expected["labels"]));
    for (got, name) in [
        (&target.scrape_pool, "scrapePool"),
        (&target.scrape_url, "scrapeUrl"),
        (&target.global_url, "globalUrl"),
        (&target.last_error, "lastError"),
    ] {
        assert_eq!(json!(got), expected[name], "{name}");
    }
    assert_eq!(target.health, i32::from(TargetHealth::Up));
    assert!(wire_millis(&target.last_scrape) >= millis(&expected["lastScrape"]));
    let dropped = &own["droppedTargets"][0]["discoveredLabels"];
    assert_eq!(labels(&all.dropped_targets[0].discovered_labels), with_external(dropped));

    let active = asked(State::Active).await;
    assert_eq!((active.active_targets.len(), active.dropped_targets.len()), (1, 0));
    let dropped = asked(State::Dropped).await;
    assert_eq!((dropped.active_targets.len(), dropped.dropped_targets.len()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_are_those_of_prometheus_and_external_labels_decide_whom_to_ask() {
    let Some(beside) = start("exemplars_are_those_of_prometheus").await else { return };
    let asked = |query: &str, start, end| {
        let request = ExemplarsRequest { query: query.to_owned(), start, end, ..ExemplarsRequest::default() };
        beside.ask(request)
    };
    let own = beside
        .api("/api/v1/query_exemplars", &[("query", "jobs_total"), ("start", "0"), ("end", "9999999999")])
        .await;
    for query in [
        "jobs_total",
        "jobs_total{cluster=\"eu-1\"}",
        "rate(jobs_total{queue=\"a\",prometheus_replica=~\"0|1\"}[1m]) + up{cluster=\"eu-1\"}",
        "{cluster=\"eu-1\"}",
    ] {
        let found = asked(query, i64::MIN, i64::MAX).await.unwrap();
        assert_eq!(found.len(), 1, "{query}: {found:?}");
        assert_eq!(labels(&found[0].series_labels), with_external(&own[0]["seriesLabels"]), "{query}");
        let exemplar = &found[0].exemplars[0];
        assert_eq!(labels(&exemplar.labels), Labels::from_pairs([("trace_id", "abc")]));
        assert_eq!((exemplar.value, exemplar.ts), (1.5, beside.exemplar_ms));
        assert_eq!(found[0].exemplars.len(), own[0]["exemplars"].as_array().unwrap().len());
    }
    for (query, start, end) in [
        ("jobs_total{cluster=\"us-1\"}", i64::MIN, i64::MAX),
        ("jobs_total{cluster=\"\"}", i64::MIN, i64::MAX),
        ("jobs_total", beside.exemplar_ms + 1, i64::MAX),
        ("jobs_total", i64::MIN, beside.exemplar_ms - 1),
        ("1", i64::MIN, i64::MAX),
    ] {
        let found = asked(query, start, end).await.unwrap();
        assert!(found.iter().all(|series| series.exemplars.is_empty()), "{query} {start} {end}: {found:?}");
    }
    assert_eq!(asked("sum(", 0, 1).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_the_head_are_those_of_prometheus() {
    let Some(beside) = start("statistics_of_the_head_are_those_of_prometheus").await else { return };
    let own = beside.api("/api/v1/status/tsdb", &[]).await;
    let mut parts = beside.ask(TsdbStatisticsRequest::default()).await.unwrap();
    let entry = parts.remove(0).statistics.remove("").unwrap();
    let head = entry.head_statistics.unwrap();
    assert_eq!(json!(head.num_series), own["headStats"]["numSeries"]);
    assert_eq!(json!(head.num_label_pairs), own["headStats"]["numLabelPairs"]);
    assert_eq!(json!(head.min_time), own["headStats"]["minTime"]);
    let listed = |list: &[parallax_storeapi::proto::thanos::Statistic]| -> BTreeSet<(String, u64)> {
        list.iter().map(|one| (one.name.clone(), one.value)).collect()
    };
    let expected = |name: &str| -> BTreeSet<(String, u64)> {
        let list = own[name].as_array().unwrap();
        list.iter()
            .map(|one| (one["name"].as_str().unwrap().to_owned(), one["value"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(listed(&entry.label_value_count_by_label_name), expected("labelValueCountByLabelName"));
    assert_eq!(listed(&entry.memory_in_bytes_by_label_name), expected("memoryInBytesByLabelName"));
    assert!(!entry.series_count_by_metric_name.is_empty());

    let by = |name: &str, value: &str| TsdbStatisticsRequest {
        matchers: vec![LabelMatcher { name: name.to_owned(), value: value.to_owned(), r#type: 0 }],
        ..TsdbStatisticsRequest::default()
    };
    assert_eq!(beside.ask(by("cluster", "eu-1")).await.unwrap().len(), 1);
    assert!(beside.ask(by("cluster", "us-1")).await.unwrap().is_empty());
    assert_eq!(beside.ask(by("job", "demo")).await.unwrap_err().code(), Code::InvalidArgument);
    let of_tenant = TsdbStatisticsRequest { tenant: "a".to_owned(), ..TsdbStatisticsRequest::default() };
    assert!(beside.ask(of_tenant).await.unwrap().is_empty());
}
