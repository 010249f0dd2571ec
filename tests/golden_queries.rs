//! Recorded answers of Thanos and Prometheus, asked over HTTP of queriers that stand on store gateways over the real buckets.
//!
//! The whole way up: blocks in a bucket -> store gateway -> querier per bucket -> global querier -> HTTP. What a querier
//! makes of given series is its own tests' affair; here every part of the way has to keep chunks, order and labels.

#[path = "../observer/querier/tests/support/golden.rs"]
mod golden;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golden::{Recorded, bucket_dirs, golden_dir, read, run};
use http::StatusCode;
use parallax_bucket::BucketConfig;
use parallax_net::{Context, HttpClient, HttpClientConfig, HttpServer};
use parallax_promql::parse::ParserOptions;
use parallax_querier::{Connection, EndpointConfig, Querier, QuerierConfig};
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_storeapi::Store;
use serde_json::Value;
use tempfile::TempDir;

/// More than any recorded answer takes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// Older than any mark in the golden buckets.
const LONG_AGO: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A global querier with an HTTP address, over one querier and one gateway per bucket.
struct Mesh {
    client: HttpClient,
    context: Context,
    /// The gateways' data directories.
    _dirs: Vec<TempDir>,
}

impl Mesh {
    async fn start(golden: &Path, buckets: &[&str]) -> Self {
        let context = Context::for_test();
        let mut dirs = Vec::new();
        let mut endpoints = Vec::new();
        for bucket in bucket_dirs(golden, buckets) {
            let dir = tempfile::tempdir().expect("a directory");
            let mut config = StoreGatewayConfig::new(BucketConfig::filesystem(bucket), dir.path());
            // When the answers were recorded, marks of deletion were still young, and their blocks were served.
            config.ignore_deletion_marks_delay = LONG_AGO;
            let gateway = StoreGateway::start(config, context.clone()).await.expect("a gateway");
            gateway.sync().await.expect("a bucket that can be listed");
            let name = format!("leaf-{}", endpoints.len());
            let leaf = querier(&name, vec![local("store", gateway)], &context).await;
            endpoints.push(local(&name, leaf));
            dirs.push(dir);
        }
        let global = querier("global", endpoints, &context).await;
        let server = HttpServer::bind("127.0.0.1:0", "--http-address").await.expect("an address");
        let address = server.local_addr();
        tokio::spawn(server.serve(global.router(), context.shutdown.clone()));
        let client = HttpClient::new(HttpClientConfig::new(format!("http://{address}"))).expect("a client");
        Self { client, context, _dirs: dirs }
    }

    async fn ask(&self, question: &Recorded) -> (StatusCode, Value) {
        let params: Vec<(&str, &str)> =
            question.params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let response = if question.path.contains("/label/") {
            self.client.get(&question.path, &params).await
        } else {
            self.client.post_form(&question.path, &params).await
        };
        let response = response.expect("an answer");
        let status = response.status();
        let body = response.bytes(MAX_ANSWER_BYTES).await.expect("a whole answer");
        (status, serde_json::from_slice(&body).expect("an answer in JSON"))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

fn local(name: &str, store: Arc<impl Store>) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(store))
}

async fn querier(name: &str, endpoints: Vec<EndpointConfig>, context: &Context) -> Arc<Querier> {
    let mut config = QuerierConfig { name: name.to_owned(), endpoints, ..QuerierConfig::default() };
    config.api.replica_labels = vec!["prometheus_replica".to_owned()];
    config.api.parser = ParserOptions::all_features();
    let querier = Querier::start(config, context.scoped([("querier", name)])).expect("a querier");
    querier.endpoints().polled_once().await;
    querier
}

#[tokio::test(flavor = "multi_thread")]
async fn deduplicated_answers_are_those_of_thanos() {
    let golden = golden_dir();
    let mesh = Mesh::start(&golden, &["bucket-short", "bucket-long"]).await;
    let recorded = read(&golden.join("queries/thanos-dedup-true.jsonl"));
    run("thanos-dedup-true", async |question| mesh.ask(question).await, &recorded, 314, &[]).await;
    let recorded = read(&golden.join("queries/thanos-downsampled-0s.jsonl"));
    run("thanos-downsampled-0s", async |question| mesh.ask(question).await, &recorded, 28, &[]).await;
    let recorded = read(&golden.join("queries/thanos-downsampled-5m.jsonl"));
    run("thanos-downsampled-5m", async |question| mesh.ask(question).await, &recorded, 28, &[]).await;
    let recorded = read(&golden.join("queries/thanos-downsampled-1h.jsonl"));
    run("thanos-downsampled-1h", async |question| mesh.ask(question).await, &recorded, 28, &[]).await;
    let recorded = read(&golden.join("queries/thanos-metadata.jsonl"));
    run("thanos-metadata", async |question| mesh.ask(question).await, &recorded, 6, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_dedup_are_those_of_prometheus() {
    let golden = golden_dir();
    let mesh = Mesh::start(&golden, &["bucket-short"]).await;
    let mut recorded = read(&golden.join("queries/prometheus-all-sources.jsonl"));
    for question in &mut recorded {
        question.params.push(("dedup".to_owned(), "false".to_owned()));
    }
    run("prometheus-all-sources", async |question| mesh.ask(question).await, &recorded, 318, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_say_of_which_resolutions_the_data_was() {
    let golden = golden_dir();
    if bucket_dirs(&golden, &["bucket-long"]).is_empty() {
        println!("left out: there is no golden bucket with downsampled blocks");
        return;
    }
    let mesh = Mesh::start(&golden, &["bucket-long"]).await;
    // Downsampled blocks reach to 1782950283; what is younger is raw.
    for (allowed, time, expected) in [
        ("0s", "1782900000", Value::Null),
        ("5m", "1782900000", serde_json::json!(["5m"])),
        ("1h", "1782900000", serde_json::json!(["1h"])),
        ("1h", "1782960000", serde_json::json!(["raw", "1h"])),
        ("1h", "1783000000", serde_json::json!(["raw"])),
    ] {
        let params = [
            ("query", "count_over_time(up[6h])"),
            ("time", time),
            ("max_source_resolution", allowed),
            ("stats", "true"),
        ];
        let question = Recorded {
            path: "/api/v1/query".to_owned(),
            params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            status: 200,
            response: Value::Null,
        };
        let (status, answer) = mesh.ask(&question).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert!(!answer["data"]["result"].as_array().expect("a vector").is_empty(), "{allowed} at {time}");
        assert_eq!(answer["data"]["stats"]["sourceResolutions"], expected, "{allowed} at {time}");
    }
}
