//! Recorded answers of Prometheus and Thanos, asked through the real HTTP router over the real blocks.

#[path = "support/block_store.rs"]
mod block_store;
#[path = "support/golden.rs"]
mod golden;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use block_store::BlockStore;
use golden::{Exception, Recorded, golden_dir, read, run};
use parallax_promql::engine::EngineOptions;
use parallax_promql::parse::ParserOptions;
use parallax_querier::api::{ApiOptions, StoreList, StoreStatus, router};
use parallax_querier::query::{QueryLimits, QueryRunner};
use parallax_telemetry::Metrics;

struct NoStores;

impl StoreList for NoStores {
    fn stores(&self) -> Vec<StoreStatus> {
        Vec::new()
    }
}

fn querier(golden: &Path, buckets: &[&str], parser: ParserOptions) -> Router {
    let dirs: Vec<_> = buckets.iter().map(|bucket| golden.join(bucket)).collect();
    let dirs: Vec<&Path> = dirs.iter().map(|dir| dir.as_path()).collect();
    let store = Arc::new(BlockStore::open(&dirs));
    let runner =
        Arc::new(QueryRunner::new(store, EngineOptions::default(), QueryLimits::default(), &Metrics::new()));
    let options =
        ApiOptions { replica_labels: vec!["prometheus_replica".to_owned()], parser, ..ApiOptions::default() };
    router(runner, NoStores, options)
}

fn with(mut recorded: Vec<Recorded>, name: &str, value: &str) -> Vec<Recorded> {
    for question in &mut recorded {
        question.params.push((name.to_owned(), value.to_owned()));
    }
    recorded
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplicated_answers_are_those_of_thanos() {
    let Some(golden) = golden_dir() else { return println!("left out: no golden queries") };
    let querier = querier(&golden, &["bucket-short", "bucket-long"], ParserOptions::all_features());
    let recorded = read(&golden.join("queries/thanos-dedup-true.jsonl"));
    run("thanos-dedup-true", &querier, &recorded, 314, DEDUP_EXCEPTIONS).await;
}

const DEDUP_EXCEPTIONS: &[Exception] = &[];

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_dedup_are_those_of_prometheus() {
    let Some(golden) = golden_dir() else { return println!("left out: no golden queries") };
    let querier = querier(&golden, &["bucket-short"], ParserOptions::all_features());
    let recorded = with(read(&golden.join("queries/prometheus-all-sources.jsonl")), "dedup", "false");
    run("prometheus-all-sources", &querier, &recorded, 318, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_series_are_those_of_thanos() {
    let Some(golden) = golden_dir() else { return println!("left out: no golden queries") };
    let querier = querier(&golden, &["bucket-short", "bucket-long"], ParserOptions::default());
    let recorded = read(&golden.join("queries/thanos-metadata.jsonl"));
    run("thanos-metadata", &querier, &recorded, 6, &[]).await;
}
