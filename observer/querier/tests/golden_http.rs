//! Recorded answers of Prometheus and Thanos, asked through the real HTTP router over the real blocks.

#[path = "support/block_store.rs"]
mod block_store;
#[path = "support/golden.rs"]
mod golden;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use block_store::BlockStore;
use golden::{Recorded, bucket_dirs, golden_dir, read, run};
use http::{Request, StatusCode};
use parallax_promql::engine::EngineOptions;
use parallax_promql::parse::ParserOptions;
use parallax_querier::api::{ApiOptions, StoreList, StoreStatus, router};
use parallax_querier::query::{QueryLimits, QueryRunner};
use parallax_telemetry::Metrics;
use serde_json::Value;
use tower::ServiceExt;

struct NoStores;

impl StoreList for NoStores {
    fn stores(&self) -> Vec<StoreStatus> {
        Vec::new()
    }
}

fn querier(golden: &Path, buckets: &[&str], parser: ParserOptions) -> Router {
    let dirs = bucket_dirs(golden, buckets);
    let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
    let store = Arc::new(BlockStore::open(&dirs));
    let runner =
        Arc::new(QueryRunner::new(store, EngineOptions::default(), QueryLimits::default(), &Metrics::new()));
    let options =
        ApiOptions { replica_labels: vec!["prometheus_replica".to_owned()], parser, ..ApiOptions::default() };
    router(runner, NoStores, options)
}

fn encode(params: &[(String, String)]) -> String {
    let escape = |text: &str| -> String {
        let escaped = text.bytes().map(|byte| match byte {
            plain if plain.is_ascii_alphanumeric() => char::from(plain).to_string(),
            other => format!("%{other:02X}"),
        });
        escaped.collect()
    };
    let pairs = params.iter().map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// Asks by POST where a form is allowed, and by GET otherwise.
async fn ask(router: &Router, question: &Recorded) -> (StatusCode, Value) {
    let form = encode(&question.params);
    let request = if question.path.contains("/label/") {
        Request::get(format!("{}?{form}", question.path)).body(Body::empty())
    } else {
        Request::post(&question.path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Body::from(form))
    };
    let response = router.clone().oneshot(request.expect("request")).await.expect("infallible");
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("body");
    (status, serde_json::from_slice(&body).expect("an answer in JSON"))
}

fn with(mut recorded: Vec<Recorded>, name: &str, value: &str) -> Vec<Recorded> {
    for question in &mut recorded {
        question.params.push((name.to_owned(), value.to_owned()));
    }
    recorded
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplicated_answers_are_those_of_thanos() {
    let golden = golden_dir();
    let querier = querier(&golden, &["bucket-short", "bucket-long"], ParserOptions::all_features());
    let recorded = read(&golden.join("queries/thanos-dedup-true.jsonl"));
    run("thanos-dedup-true", async |question| ask(&querier, question).await, &recorded, 314, &[]).await;
    let recorded = read(&golden.join("queries/thanos-downsampled-0s.jsonl"));
    run("thanos-downsampled-0s", async |question| ask(&querier, question).await, &recorded, 28, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_dedup_are_those_of_prometheus() {
    let golden = golden_dir();
    let querier = querier(&golden, &["bucket-short"], ParserOptions::all_features());
    let recorded = with(read(&golden.join("queries/prometheus-all-sources.jsonl")), "dedup", "false");
    run("prometheus-all-sources", async |question| ask(&querier, question).await, &recorded, 318, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_series_are_those_of_thanos() {
    let golden = golden_dir();
    let querier = querier(&golden, &["bucket-short", "bucket-long"], ParserOptions::default());
    let recorded = read(&golden.join("queries/thanos-metadata.jsonl"));
    run("thanos-metadata", async |question| ask(&querier, question).await, &recorded, 6, &[]).await;
}
