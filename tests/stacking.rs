//! Queriers over queriers over store gateways, by gRPC with mutual TLS at each hop, as separate processes.
//!
//! What two levels answer is what one level answers; what is missing at the bottom is said at the top.

use std::path::{Path, PathBuf};

use crate::program::{PATIENCE, Program, command};
use crate::question::{Answer, ask_until, get};
use crate::sides::{self, Keys, Leaf, REPLICA_LABEL, server_name};
use tempfile::TempDir;

/// A moment in the middle of the golden bucket, and all of it.
const MOMENT: &str = "2026-07-01T03:00:00Z";
const RANGE: [(&str, &str); 3] =
    [("start", "2026-07-01T00:00:00Z"), ("end", "2026-07-01T06:00:00Z"), ("step", "300")];

/// Store gateway, leaf querier, global querier: each a process with leaves of its own.
struct Stack {
    store: Program,
    leaf: Program,
    global: Program,
    leaf_url: String,
    global_url: String,
    directory: TempDir,
}

fn bucket() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bucket-short")
}

/// A querier over these endpoints, which show certificates for `below`, and itself serves with the leaf of `name`.
fn querier(name: &str, endpoints: &[String], below: &str, keys: &Keys, directory: &Path) -> Program {
    let mut arguments = vec!["query".to_owned()];
    arguments.extend(["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"].map(str::to_owned));
    arguments.push(format!("--query.replica-label={REPLICA_LABEL}"));
    arguments.push(format!("--grpc-client-server-name={}", server_name(below)));
    arguments.extend(endpoints.iter().map(|endpoint| format!("--endpoint={endpoint}")));
    arguments.extend(keys.observer(&format!("client-{name}")).client_flags());
    arguments.extend(keys.observee(name).server_flags());
    Program::start(&mut command(arguments), directory, name)
}

fn gateway(leaf: &Leaf, directory: &Path) -> Program {
    let mut arguments = vec!["store".to_owned()];
    arguments.extend(["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"].map(str::to_owned));
    arguments.push(format!("--data-dir={}", directory.join("store-data").display()));
    let objstore = format!("type: FILESYSTEM\nconfig: {{directory: {:?}}}", bucket());
    arguments.push(format!("--objstore.config={objstore}"));
    arguments.extend(leaf.server_flags());
    Program::start(&mut command(arguments), directory, "store")
}

impl Stack {
    /// Comes back when data comes through the whole of it.
    async fn start(more: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::new(directory.path(), "mesh.test");
        let mut store = gateway(&keys.observee("below"), directory.path());
        store.ready().await;
        let endpoints = [&[store.grpc().await], more].concat();
        let mut leaf = querier("middle", &endpoints, "below", &keys, directory.path());
        let leaf_url = leaf.http().await;
        let mut global = querier("top", &[leaf.grpc().await], "middle", &keys, directory.path());
        let global_url = global.http().await;
        let stack = Self { store, leaf, global, leaf_url, global_url, directory };
        stack.wait_for_data().await;
        stack
    }

    async fn wait_for_data(&self) {
        let query = format!("count(up @ {})", 1_782_874_800);
        for url in [&self.leaf_url, &self.global_url] {
            ask_until(url, &query, |answer| answer.status == 200 && !answer.by("").is_empty()).await;
        }
    }

    async fn both(&self, path: &str, parameters: &[(&str, &str)]) -> (Answer, Answer) {
        (get(&self.leaf_url, path, parameters).await, get(&self.global_url, path, parameters).await)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_levels_answer_what_one_level_answers() {
    let stack = Stack::start(&[]).await;
    for query in [
        "up",
        "count by (cluster) (up)",
        "count({__name__!=\"\"})",
        "sum by (cluster, __name__) (rate({__name__=~\".+_total\"}[10m]))",
        "histogram_quantile(0.9, sum by (le, cluster) (rate({__name__=~\".+_bucket\"}[10m])))",
        "avg_over_time(up[1h])",
    ] {
        for dedup in ["true", "false"] {
            let instant = [("query", query), ("time", MOMENT), ("dedup", dedup)];
            let (leaf, global) = stack.both("/api/v1/query", &instant).await;
            assert_eq!(leaf.status, 200, "{query}: {leaf:?}");
            assert_eq!(leaf.body, global.body, "{query} dedup={dedup}");
            let range = [&[("query", query), ("dedup", dedup)], &RANGE[..]].concat();
            let (leaf, global) = stack.both("/api/v1/query_range", &range).await;
            assert_eq!(leaf.status, 200, "{query}: {leaf:?}");
            assert!(!leaf.data()["result"].as_array().unwrap().is_empty(), "{query} has an answer");
            assert_eq!(leaf.body, global.body, "range of {query} dedup={dedup}");
        }
    }
    for (path, parameters) in [
        ("/api/v1/labels", vec![]),
        ("/api/v1/label/cluster/values", vec![]),
        ("/api/v1/label/__name__/values", vec![("match[]", "{cluster=\"eu-1\"}")]),
        ("/api/v1/series", vec![("match[]", "up"), RANGE[0], RANGE[1]]),
    ] {
        let (leaf, global) = stack.both(path, &parameters).await;
        assert_eq!(leaf.status, 200, "{path}: {leaf:?}");
        assert_eq!(leaf.body, global.body, "{path}");
        assert!(!leaf.data().as_array().unwrap().is_empty(), "{path} has an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_one_series_at_both_levels_and_two_without_dedup() {
    let stack = Stack::start(&[]).await;
    let count = async |url: &str, dedup: &str| {
        let parameters = [("query", "count by (cluster) (up)"), ("time", MOMENT), ("dedup", dedup)];
        get(url, "/api/v1/query", &parameters).await.by("cluster")
    };
    for url in [&stack.leaf_url, &stack.global_url] {
        let (deduplicated, all) = (count(url, "true").await, count(url, "false").await);
        assert_eq!(deduplicated.len(), 2, "{deduplicated:?}");
        for (cluster, machines) in deduplicated {
            assert_eq!(all[&cluster], 2.0 * machines, "{cluster}");
        }
    }
}

/// Thanos answers this case with HTTP 200 and no warning (contract E3, E4).
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_beneath_the_leaf_is_a_warning_at_the_top() {
    let Stack { mut store, leaf, global, leaf_url, global_url, directory } = Stack::start(&[]).await;
    let address = store.grpc().await;
    drop(store);
    let parameters = [("query", "up"), ("time", MOMENT)];
    for url in [&leaf_url, &global_url] {
        let answer = get(url, "/api/v1/query", &parameters).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let warnings = answer.warnings();
        assert!(warnings.iter().any(|warning| warning.contains(&address)), "{url}: {warnings:?}");
        let strict = [&parameters[..], &[("partial_response", "false")]].concat();
        let refused = get(url, "/api/v1/query", &strict).await;
        assert_ne!(refused.status, 200, "without partial answers this is an error: {refused:?}");
        assert!(refused.body["error"].as_str().unwrap().contains(&address), "{refused:?}");
    }
    drop((leaf, global, directory));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_never_there_beneath_the_leaf_is_a_warning_at_the_top_beside_the_data() {
    let nowhere = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    let stack = Stack::start(std::slice::from_ref(&nowhere)).await;
    let answer =
        get(&stack.global_url, "/api/v1/query", &[("query", "count by (cluster) (up)"), ("time", MOMENT)])
            .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.by("cluster").len(), 2, "the other store's data is there: {answer:?}");
    assert!(answer.warnings().iter().any(|warning| warning.contains(&nowhere)), "{answer:?}");
    assert!(answer.took < PATIENCE, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_no_more_still_answers_from_its_bucket() {
    let stack = Stack::start(&[]).await;
    let clusters = [serde_json::json!({
        "name": "eu-1", "bucket": {"type": "FILESYSTEM", "config": {"directory": bucket()}},
    })];
    let mut observer = sides::observer(&clusters, None, stack.directory.path());
    let url = observer.ready().await;
    let query = format!("count(up @ {})", 1_782_874_800);
    ask_until(&url, &query, |answer| !answer.by("").is_empty()).await;
    let query = "sum by (__name__, instance) (rate({cluster=\"eu-1\", __name__=~\".+_total\"}[10m]))";
    let question = [&[("query", query)], &RANGE[..]].concat();
    let expected = get(&stack.leaf_url, "/api/v1/query_range", &question).await;
    let found = get(&url, "/api/v1/query_range", &question).await;
    assert_eq!(found.status, 200, "{found:?}");
    assert!(!found.data()["result"].as_array().unwrap().is_empty());
    assert_eq!(found.data()["result"], expected.data()["result"]);
}
