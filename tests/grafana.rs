//! What Grafana's Prometheus data source asks on "Save & test", in its query builder and in Explore, answered in Prometheus' shapes.
//!
//! Source of the questions: the public source of Grafana's Prometheus data source (`packages/grafana-prometheus`, `pkg/promlib`): forms by POST, with
//! GET where Prometheus has nothing else, `time`, `start` and `end` in seconds.

use std::path::Path;

use crate::program::{Program, command};
use crate::question::{Answer, ask_until, get, post, texts};
use serde_json::Value;
use tempfile::TempDir;

/// 2026-07-01T03:00Z, within the golden bucket.
const MOMENT: &str = "1782874800";
/// The hour before it.
const SPAN: [(&str, &str); 2] = [("start", "1782871200"), ("end", "1782874800")];

/// A querier over a store gateway with the golden bucket.
struct DataSource {
    url: String,
    _programs: [Program; 2],
    _directory: TempDir,
}

impl DataSource {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bucket = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short");
        let addresses = ["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];
        let mut store = Program::start(
            command(["store"])
                .args(addresses)
                .arg(format!("--objstore.config=type: FILESYSTEM\nconfig: {{directory: {bucket:?}}}"))
                .arg(format!("--data-dir={}", directory.path().join("data").display())),
            directory.path(),
            "store",
        );
        store.ready().await;
        let endpoint = format!("--endpoint={}", store.grpc().await);
        let replicas = "--query.replica-label=prometheus_replica";
        let mut query = Program::start(
            command(["query", &endpoint, replicas]).args(addresses),
            directory.path(),
            "query",
        );
        let url = query.http().await;
        ask_until(&url, &format!("count(up @ {MOMENT})"), |answer| !answer.by("").is_empty()).await;
        Self { url, _programs: [store, query], _directory: directory }
    }
}

/// The data of a good answer.
fn data(answer: &Answer) -> &Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.body["status"], "success", "{answer:?}");
    answer.data()
}

#[tokio::test(flavor = "multi_thread")]
async fn save_and_test_succeeds() {
    let source = DataSource::start().await;
    // The health check: a query by POST whose answer has to be a vector or a scalar.
    let health = post(&source.url, "/api/v1/query", &[("query", "1+1"), ("time", MOMENT)]).await;
    assert_eq!(data(&health)["resultType"], "scalar");
    assert_eq!(data(&health)["result"][1], "2");
    // Which Prometheus this is: a version that Grafana can read; `application` would say Mimir or others.
    let build = get(&source.url, "/api/v1/status/buildinfo", &[]).await;
    let version = data(&build)["version"].as_str().unwrap();
    assert_eq!(version.split('.').count(), 3, "{version}");
    assert!(data(&build).get("application").is_none());
    // Whether there is a ruler, for the alerting pages.
    let rules = get(&source.url, "/api/v1/rules", &[]).await;
    assert!(data(&rules)["groups"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_builder_finds_metrics_labels_and_values() {
    let source = DataSource::start().await;
    let url = &source.url;
    for labels in [get(url, "/api/v1/labels", &SPAN).await, post(url, "/api/v1/labels", &SPAN).await] {
        let names = texts(data(&labels));
        assert!(names.is_sorted(), "{names:?}");
        for name in ["__name__", "cluster", "instance", "job"] {
            assert!(names.iter().any(|known| known == name), "{name} of {names:?}");
        }
    }
    let names = get(url, "/api/v1/label/__name__/values", &SPAN).await;
    assert!(texts(data(&names)).iter().any(|name| name == "up"));
    let matched = [&SPAN[..], &[("match[]", "up{cluster=\"eu-1\"}")]].concat();
    let clusters = get(url, "/api/v1/label/cluster/values", &matched).await;
    assert_eq!(texts(data(&clusters)), ["eu-1"]);
    let limited = [&SPAN[..], &[("limit", "1")]].concat();
    let one = get(url, "/api/v1/labels", &limited).await;
    assert_eq!(texts(data(&one)).len(), 1);
    for series in [get(url, "/api/v1/series", &matched).await, post(url, "/api/v1/series", &matched).await] {
        let list = data(&series).as_array().unwrap();
        assert!(
            !list.is_empty() && list.iter().all(|one| one["__name__"] == "up" && one["cluster"] == "eu-1")
        );
    }
    let metadata = get(url, "/api/v1/metadata", &[("limit", "40000")]).await;
    assert!(data(&metadata).is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn explore_draws_instant_and_range_queries() {
    let source = DataSource::start().await;
    let instant = post(&source.url, "/api/v1/query", &[("query", "up"), ("time", MOMENT)]).await;
    assert_eq!(data(&instant)["resultType"], "vector");
    let first = &data(&instant)["result"][0];
    assert_eq!(first["metric"]["__name__"], "up");
    assert!(first["metric"].get("prometheus_replica").is_none(), "replicas are one series");
    assert!(first["value"][0].is_number() && first["value"][1].is_string(), "{first}");

    let range = [&SPAN[..], &[("query", "sum by (cluster) (up)"), ("step", "15")]].concat();
    for answer in [
        post(&source.url, "/api/v1/query_range", &range).await,
        get(&source.url, "/api/v1/query_range", &range).await,
    ] {
        assert_eq!(data(&answer)["resultType"], "matrix");
        let series = data(&answer)["result"].as_array().unwrap();
        assert_eq!(series.len(), 2, "one per cluster: {series:?}");
        for one in series {
            let points = one["values"].as_array().unwrap();
            assert_eq!(points.len(), 241, "an hour of 15 s, both ends");
            assert!(points.iter().all(|point| point[0].is_number() && point[1].is_string()));
        }
    }
    let exemplars = [&SPAN[..], &[("query", "up")]].concat();
    assert!(data(&post(&source.url, "/api/v1/query_exemplars", &exemplars).await).is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_come_back_as_prometheus_says_them() {
    let source = DataSource::start().await;
    for (path, form) in [
        ("/api/v1/query", vec![("query", "sum(")]),
        ("/api/v1/query", vec![("query", "up"), ("time", "yesterday")]),
        ("/api/v1/query_range", vec![("query", "up"), SPAN[0], ("end", "1"), ("step", "15")]),
        ("/api/v1/query_range", vec![("query", "up"), ("start", "0"), SPAN[1], ("step", "1")]),
        ("/api/v1/series", vec![]),
    ] {
        let answer = post(&source.url, path, &form).await;
        assert_eq!(answer.status, 400, "{path} {form:?}: {answer:?}");
        assert_eq!(answer.body["status"], "error");
        assert_eq!(answer.body["errorType"], "bad_data");
        assert!(!answer.body["error"].as_str().unwrap().is_empty());
    }
}
