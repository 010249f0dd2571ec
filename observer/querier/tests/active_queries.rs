//! The list of running queries, and what endpoints cost: a line for each in an analysis, counters by cluster.

#[path = "support/cluster_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod cluster_store;
#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::body::Body;
use cluster_store::ClusterStore;
use http::HeaderMap;
use hub::{Hub, down, served};
use parallax_model::{Labels, Matcher};
use parallax_querier::{Connection, EndpointConfig, QuerierConfig};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{Caller, Guard, Hold, SeriesStream, Store};
use serde_json::{Value, json};
use tonic::{Extensions, Request, Status};
use tower::ServiceExt;

/// Far beyond what anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says what it has, and never sends it.
struct Hanging;

#[async_trait]
impl Store for Hanging {
    async fn info(&self) -> Result<InfoResponse, Status> {
        store("eu-1").info().await
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        std::future::pending().await
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        Ok(LabelNamesResponse::default())
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        Ok(LabelValuesResponse::default())
    }
}

/// Two series of an hour.
fn store(cluster: &str) -> ClusterStore {
    let series = ["0", "1"].map(|instance| {
        let pairs = [("__name__", "up"), ("cluster", cluster), ("instance", instance)];
        (Labels::from_pairs(pairs), (0..240).map(|step| (step * 15_000, 1.0)).collect())
    });
    ClusterStore::new(vec![Labels::from_pairs([("cluster", cluster)])], series.to_vec())
}

#[derive(Debug)]
struct ByHeader;

impl Guard for ByHeader {
    fn caller(&self, headers: &HeaderMap, _: &Extensions) -> Result<Caller, Status> {
        let name = headers.get("x-team").and_then(|value| value.to_str().ok()).unwrap_or("operator");
        let matchers = if name == "operator" { vec![] } else { vec![Matcher::equal("team", name)] };
        Ok(Caller { hold: Hold::new(matchers), identity: Some(name.into()), tenant: Some("t".into()) })
    }
}

async fn active(hub: &Hub, team: &str) -> Vec<Value> {
    let (_, answer) = hub.ask_with("/api/v1/active_queries", &[("x-team", team)]).await;
    answer["data"]["queries"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
}

/// Asks until as many are listed.
async fn active_until(hub: &Hub, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let began = Instant::now();
    loop {
        let queries = active(hub, "operator").await;
        if wanted(&queries) {
            return queries;
        }
        assert!(began.elapsed() < PATIENCE, "{queries:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_listed_while_it_runs_with_the_endpoints_it_waits_for() {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = EndpointConfig::new("hanging", Connection::Local(Arc::new(Hanging))).with_cluster("eu-1");
    let hub = Hub::with(vec![endpoint], |mut config: QuerierConfig| {
        config.proxy.response_timeout = None;
        config.limits.max_concurrent = 1;
        config.api.guard = Some(Arc::new(ByHeader));
        config.active_query_dir = Some(directory.path().to_owned());
        config
    })
    .await;
    let router = hub.querier.router();
    let ask = |query: &str| {
        let uri = format!("/api/v1/query_range?query={query}&start=60&end=120&step=30");
        let request = http::Request::get(uri).header("x-team", "a").body(Body::empty()).unwrap();
        tokio::spawn(router.clone().oneshot(request))
    };
    let first = ask("up");
    let waits_for_it =
        |queries: &[Value]| queries.len() == 1 && queries[0]["endpoints"][0]["open"] == json!(1);
    let listed = active_until(&hub, waits_for_it).await;
    let one = &listed[0];
    assert_eq!((&one["query"], &one["state"]), (&json!("up"), &json!("running")));
    assert_eq!((&one["start"], &one["end"], &one["step"]), (&json!(60), &json!(120), &json!(30)));
    assert_eq!((&one["tenant"], &one["identity"]), (&json!("t"), &json!("a")));
    assert_eq!(one["endpoints"][0]["cluster"], json!("eu-1"));
    let second = ask("down");
    let listed = active_until(&hub, |queries| queries.len() == 2).await;
    assert_eq!(listed[1]["state"], json!("queued"), "one runs at a time: {listed:?}");

    assert_eq!(active(&hub, "a").await.len(), 2);
    assert!(active(&hub, "b").await.is_empty(), "others' queries are others' affair");
    let file = std::fs::read_to_string(directory.path().join("queries.active")).unwrap();
    assert!(file.contains("\"query\":\"up\"") && !file.contains("down"), "{file}");

    first.abort();
    second.abort();
    active_until(&hub, <[Value]>::is_empty).await;
    let file = std::fs::read(directory.path().join("queries.active")).unwrap();
    assert!(file[1..].iter().all(|byte| *byte == 0), "what has ended is off the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_analysis_has_a_line_for_each_endpoint_and_clusters_are_counted() {
    let remote =
        Hub::over(vec![EndpointConfig::new("sidecar", Connection::Local(Arc::new(store("us-1"))))]).await;
    let endpoints = vec![
        EndpointConfig::new("near", Connection::Local(Arc::new(store("eu-1")))).with_cluster("eu-1"),
        served(remote.querier.clone(), &remote.context).await.with_cluster("us-1"),
        down("ap-1"),
    ];
    let hub = Hub::over(endpoints).await;
    let uri =
        "/api/v1/query_range?query=sum(up)%2Bcount(up%20offset%201m)&start=900&end=1800&step=60&analyze=true";
    let (data, _) = hub.get(uri).await;
    let lines = data["endpoints"].as_array().unwrap();
    let clusters: Vec<&str> = lines.iter().map(|line| line["cluster"].as_str().unwrap()).collect();
    assert_eq!(clusters, ["ap-1", "eu-1", "us-1"], "{lines:?}");
    let number = |line: &Value, key: &str| line[key].as_u64().unwrap();
    for line in &lines[1..] {
        assert_eq!(line["outcome"], "complete", "{line}");
        // Two selectors, each of two series.
        assert_eq!(
            (number(line, "calls"), number(line, "open"), number(line, "series")),
            (2, 0, 4),
            "{line}"
        );
        assert!(number(line, "frames") >= 2 && number(line, "chunks") >= 4, "{line}");
        assert!(number(line, "samples") >= 4 * 60, "{line}");
        assert!(line["firstFrame"].is_string() && line["time"].is_string(), "{line}");
    }
    assert_eq!(number(&lines[1], "receivedBytes"), 0, "nothing came over the network from {}", lines[1]);
    assert!(number(&lines[2], "receivedBytes") > 100, "{}", lines[2]);
    assert_eq!((&lines[0]["outcome"], &lines[0]["firstFrame"]), (&json!("missing"), &Value::Null));

    let (plain, _) = hub.get("/api/v1/query?query=up&time=1800").await;
    assert!(plain["endpoints"].is_null() && plain["analysis"].is_null());
    let metrics = hub.context.metrics.encode().unwrap();
    for line in [
        "parallax_querier_cluster_series_total{cluster=\"us-1\"} 6",
        "parallax_querier_cluster_calls_total{cluster=\"us-1\",outcome=\"complete\"} 3",
        "parallax_querier_cluster_calls_total{cluster=\"ap-1\",outcome=\"missing\"} 3",
        "parallax_querier_cluster_call_seconds_total{cluster=\"eu-1\"}",
        "parallax_querier_cluster_samples_total{cluster=\"eu-1\"}",
        "parallax_querier_cluster_chunks_total{cluster=\"eu-1\"}",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}
