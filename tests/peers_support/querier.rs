//! Queriers and stores of both makes in every combination give the same numbers.

use std::path::Path;

use crate::component::{Component, parallax};
use crate::golden::golden_dir;
use crate::peer::{Peer, program_or_leave_out};
use crate::question::{Question, Tally, compare_peers};

const START_MS: i64 = 1_782_865_000_000;
const END_MS: i64 = 1_782_885_000_000;
const STEP_MS: i64 = 300_000;
const AT_MS: i64 = 1_782_876_543_000;

/// Queries whose answers Thanos and Prometheus agree on for any data.
const QUERIES: &[&str] = &[
    "up",
    "sum by (cluster) (up)",
    "node_memory_free_bytes",
    "{job=\"node\"}",
    "{cluster=\"eu-1\",__name__=~\"room_.*\"}",
    "avg_over_time(room_temperature_celsius[10m])",
    "max_over_time(room_temperature_celsius[7m])",
    "quantile_over_time(0.9, node_memory_free_bytes[10m])",
    "stddev_over_time(room_temperature_celsius[15m])",
    "count_over_time(up[5m])",
    "delta(room_temperature_celsius[10m])",
    "deriv(room_temperature_celsius[10m])",
    "last_over_time(http_requests_total[3m])",
    "sum by (code, cluster) (http_requests_total)",
    "avg without (instance) (node_memory_free_bytes)",
    "quantile(0.5, room_temperature_celsius)",
    "topk(2, node_memory_free_bytes)",
    "count_values(\"value\", up)",
    "stddev by (cluster) (room_temperature_celsius)",
    "http_requests_total{code=\"200\"} / on (cluster, instance, method, prometheus_replica) group_left (code) http_requests_total{code=\"500\"}",
    "sum by (instance) (http_requests_total) > bool 1000",
    "http_requests_total and on (instance, cluster) up == 1",
    "label_replace(up, \"host\", \"$1\", \"instance\", \"(.*):.*\")",
    "absent(no_such_metric)",
    "avg_over_time(sum by (cluster) (up)[20m:2m])",
    "room_temperature_celsius offset 1h",
    "room_temperature_celsius @ 1782876543",
    "timestamp(up)",
    "special_values",
    "flapping_target",
    "{\"utf8.metric/имя\"}",
    "rpc_latency_seconds",
    "sum by (cluster) (rpc_latency_seconds)",
    "histogram_quantile(0.9, sum by (cluster) (rpc_latency_seconds))",
    "histogram_count(queue_wait_seconds)",
    "rpc_latency_float_seconds / 3",
    "classic_as_custom_seconds",
    "float_then_histogram",
    "histogram_quantile(0.9, sum by (le, cluster) (http_request_duration_seconds_bucket))",
    "time() - batch_last_success_timestamp_seconds",
];

/// Thanos flattens counter resets before its engine sees them. Without dedup that changes what these give from what Prometheus
/// gives, and we are with Prometheus; with dedup it is what hides false resets between replicas.
const COUNTER_QUERIES: &[&str] = &[
    "rate(http_requests_total[5m])",
    "sum by (cluster, code) (rate(http_requests_total[5m]))",
    "increase(http_requests_total[15m])",
    "irate(http_requests_total[2m])",
    "sum(rate(late_series_total[5m]))",
    "histogram_quantile(0.9, sum by (le) (rate(http_request_duration_seconds_bucket[5m])))",
    "histogram_quantile(0.9, sum by (cluster) (rate(rpc_latency_seconds[5m])))",
    "histogram_avg(increase(rpc_latency_seconds[10m]))",
    "sum(rate(rpc_latency_float_seconds[5m]))",
];

fn questions(queries: &[&str], dedup: bool) -> Vec<Question> {
    let both = |query: &&str| {
        [Question::range(query, START_MS, END_MS, STEP_MS, dedup), Question::instant(query, AT_MS, dedup)]
    };
    queries.iter().flat_map(both).collect()
}

/// Questions that each make answers the same, with and without dedup.
fn all_questions() -> Vec<Question> {
    let mut all = questions(QUERIES, true);
    all.extend(questions(COUNTER_QUERIES, true));
    all.extend(questions(QUERIES, false));
    all
}

struct Stores {
    ours: Component,
    _theirs: Peer,
    their_address: String,
}

impl Stores {
    async fn start(peers: &Path) -> Self {
        let bucket = golden_dir().join("bucket-short");
        let (theirs, their_address) = Peer::store(peers, &bucket).expect("Thanos' store");
        let ours = Component::store(&parallax(), &bucket, &[]).await.expect("our store");
        Self { ours, _theirs: theirs, their_address }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thanos_querier_answers_from_our_store_as_from_thanos_own() {
    let Some(peers) = program_or_leave_out("Thanos' querier over our store") else { return };
    let stores = Stores::start(&peers).await;
    let mut theirs = Peer::query(&peers, &[&stores.their_address]).expect("Thanos' querier");
    let mut over_ours = Peer::query(&peers, &[&stores.ours.grpc]).expect("Thanos' querier over our store");
    let mut tally = Tally::default();
    let all = all_questions().into_iter().chain(questions(COUNTER_QUERIES, false));
    for question in all {
        let wanted = question.ask_peer(&mut theirs);
        let answer = question.ask_peer(&mut over_ours);
        tally.count(&question, &wanted, compare_peers(&wanted, &answer));
    }
    tally.conclude("Thanos over our store");
}

#[tokio::test(flavor = "multi_thread")]
async fn our_querier_answers_as_thanos_querier_over_either_store() {
    let Some(peers) = program_or_leave_out("our querier against Thanos'") else { return };
    let stores = Stores::start(&peers).await;
    let mut theirs = Peer::query(&peers, &[&stores.their_address]).expect("Thanos' querier");
    for (name, address) in [
        ("our querier over Thanos' store", &stores.their_address),
        ("our querier over our store", &stores.ours.grpc),
    ] {
        let ours = Component::query(&parallax(), &[address], &[]).await.expect("our querier");
        let mut tally = Tally::default();
        for question in all_questions() {
            let wanted = question.ask_peer(&mut theirs);
            let difference = question.compare(&wanted, &ours).await;
            tally.count(&question, &wanted, difference);
        }
        tally.conclude(name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thanos_querier_may_stand_on_our_querier_and_ours_on_another_of_ours() {
    let Some(peers) = program_or_leave_out("stacked queriers") else { return };
    let stores = Stores::start(&peers).await;
    let leaf = Component::query(&parallax(), &[&stores.ours.grpc], &[]).await.expect("our querier");
    let mut theirs = Peer::query(&peers, &[&stores.their_address]).expect("Thanos' querier");
    let mut on_ours = Peer::query(&peers, &[&leaf.grpc]).expect("Thanos' querier over ours");
    let global = Component::query(&parallax(), &[&leaf.grpc], &[]).await.expect("our querier over ours");
    let (mut thanos_tally, mut our_tally) = (Tally::default(), Tally::default());
    for question in all_questions() {
        let wanted = question.ask_peer(&mut theirs);
        let answer = question.ask_peer(&mut on_ours);
        thanos_tally.count(&question, &wanted, compare_peers(&wanted, &answer));
        let difference = question.compare(&wanted, &global).await;
        our_tally.count(&question, &wanted, difference);
    }
    thanos_tally.conclude("Thanos' querier over ours");
    our_tally.conclude("our querier over ours");
}

/// Two clusters, each with a querier of ours or the real Thanos' over its own bucket's store.
#[tokio::test(flavor = "multi_thread")]
async fn our_distributed_querier_lets_ours_and_thanos_queriers_evaluate() {
    let Some(peers) = program_or_leave_out("our distributed querier") else { return };
    let stores = Stores::start(&peers).await;
    let thanos = std::env::var_os("THANOS_BIN").map(std::path::PathBuf::from);
    if thanos.is_none() {
        println!("left out: our distributed querier over Thanos' (THANOS_BIN names none)");
    }
    let mut leaves =
        vec![Component::query(&parallax(), &[&stores.ours.grpc], &[]).await.expect("our querier")];
    if let Some(thanos) = &thanos {
        let arguments = ["--query.replica-label=prometheus_replica".to_owned()];
        let endpoint = format!("--endpoint={}", stores.their_address);
        let arguments = [&arguments[..], &[endpoint]].concat();
        leaves.push(Component::start(thanos, "query", arguments, false).await.expect("Thanos' querier"));
    }
    let mut theirs = Peer::query(&peers, &[&stores.their_address]).expect("Thanos' querier");
    for leaf in &leaves {
        let mode = ["--query.mode=distributed".to_owned()];
        let ours = Component::query(&parallax(), &[&leaf.grpc], &mode).await.expect("a distributed querier");
        let mut tally = Tally::default();
        for question in all_questions() {
            let wanted = question.ask_peer(&mut theirs);
            let difference = question.compare(&wanted, &ours).await;
            tally.count(&question, &wanted, difference);
        }
        tally.conclude("our distributed querier");
        let (_, metrics) = ours.text("/metrics").await.expect("metrics");
        let answered = metrics.lines().find(|line| {
            line.starts_with("parallax_querier_pushdown_total{") && line.contains("outcome=\"answered\"")
        });
        assert!(answered.is_some_and(|line| !line.ends_with(" 0")), "nothing was evaluated beneath");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thanos_remote_engine_gets_from_our_query_api_what_thanos_querier_answers() {
    let Some(peers) = program_or_leave_out("Thanos' remote engine over our querier") else { return };
    let stores = Stores::start(&peers).await;
    let ours = Component::query(&parallax(), &[&stores.ours.grpc], &[]).await.expect("our querier");
    let mut theirs = Peer::query(&peers, &[&stores.their_address]).expect("Thanos' querier");
    let mut remote = Peer::remote(&peers, &ours.grpc).expect("Thanos' remote engine");
    let mut tally = Tally::default();
    // It deduplicates always, and takes a scalar for a vector.
    for question in questions(QUERIES, true).into_iter().chain(questions(COUNTER_QUERIES, true)) {
        let wanted = question.ask_peer(&mut theirs);
        let answer = question.ask_peer(&mut remote);
        tally.count(&question, &wanted, compare_peers(&wanted, &answer));
    }
    tally.conclude("Thanos' remote engine over our Query API");
}
