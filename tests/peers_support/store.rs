//! Thanos' StoreAPI client gets the same from our store gateway as from Thanos' own, over the same bucket.

use std::collections::BTreeMap;
use std::path::Path;

use parallax_block::BlockMeta;
use parallax_model::{Labels, MatchOp, Matcher, TimeRange};
use parallax_net::GrpcTarget;
use parallax_storeapi::conformance::{Known, KnownSeries, check};
use parallax_storeapi::proto::thanos::{Series, SeriesRequest};
use parallax_storeapi::{Store, StoreClient, frames, labels, matchers};
use serde_json::{Value, json};
use tonic::Request;

use crate::component::{Component, parallax};
use crate::golden::{bucket_dirs, golden_dir};
use crate::peer::{Peer, program_or_leave_out};

/// 2026-07-01T00:00:00Z, where the golden bucket begins.
const START_MS: i64 = 1_782_864_000_000;
const HOUR_MS: i64 = 3_600_000;

fn matcher(kind: &str, name: &str, value: &str) -> Value {
    json!({"type": kind, "name": name, "value": value})
}

/// Sets of matchers: each type, on labels of series and on external labels, some that match nothing or the empty text.
fn matcher_sets() -> Vec<Vec<Value>> {
    let all = || matcher("RE", "__name__", ".+");
    vec![
        vec![all()],
        vec![matcher("EQ", "__name__", "up")],
        vec![matcher("EQ", "__name__", "http_requests_total"), matcher("NEQ", "code", "200")],
        vec![matcher("EQ", "__name__", "http_requests_total"), matcher("RE", "code", "2..|5..")],
        vec![matcher("RE", "__name__", "rpc_.*|queue_.*"), matcher("NRE", "instance", ".*[13]:9100")],
        vec![all(), matcher("EQ", "cluster", "us-1")],
        vec![all(), matcher("RE", "cluster", "eu.*"), matcher("NEQ", "prometheus_replica", "prometheus-0")],
        vec![all(), matcher("EQ", "cluster", "nowhere")],
        vec![matcher("EQ", "job", "node"), matcher("EQ", "code", "")],
        vec![matcher("NEQ", "code", ""), matcher("RE", "method", "get|")],
        vec![matcher("EQ", "__name__", "utf8.metric/имя")],
        vec![matcher("EQ", "__name__", "no_such_metric")],
        vec![matcher("RE", "instance", "10\\.0\\.0\\.[12]:9100"), matcher("RE", "__name__", "(?i)UP|late.*")],
    ]
}

/// Every set of matchers in some window, with each way of asking.
fn requests() -> Vec<Value> {
    let windows = [
        (START_MS, START_MS + 6 * HOUR_MS),
        (START_MS + HOUR_MS, START_MS + HOUR_MS + 600_000),
        (START_MS + 2 * HOUR_MS - 1, START_MS + 2 * HOUR_MS),
        (START_MS + 100 * HOUR_MS, START_MS + 101 * HOUR_MS),
        (i64::MIN / 2, i64::MAX / 2),
    ];
    let mut all = Vec::new();
    for (index, matchers) in matcher_sets().into_iter().enumerate() {
        for (batch, without, skip) in [
            (0, vec![], false),
            (1, vec![], false),
            (64, vec![], false),
            (64, vec!["prometheus_replica"], false),
            (0, vec!["prometheus_replica", "instance"], false),
            (64, vec!["prometheus_replica", "no_such_label"], true),
        ] {
            let (min_ms, max_ms) = windows[if batch == 1 { index % windows.len() } else { 0 }];
            all.push(json!({
                "min_ms": min_ms, "max_ms": max_ms, "matchers": matchers, "batch_size": batch,
                "without_replica_labels": without, "skip_chunks": skip, "abort": true,
            }));
        }
    }
    for (min_ms, max_ms) in windows {
        let matchers = [matcher("RE", "__name__", ".+")];
        all.push(json!({"min_ms": min_ms, "max_ms": max_ms, "matchers": matchers, "batch_size": 16, "abort": true}));
    }
    all
}

/// Samples by labels. Frames of equal labels and chunks of one series may come in any order, so samples are sorted; what
/// comes twice stays twice.
fn samples(stream: &Value) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for series in stream["series"].as_array().expect("series") {
        let points = series["points"].as_array().into_iter().flatten();
        let points = points.map(|point| format!("{:>20} {} {}", point["t"], point["v"], point["h"]));
        found.entry(series["labels"].to_string()).or_default().extend(points);
    }
    found.values_mut().for_each(|points| points.sort());
    found
}

/// Labels as they come, without repetitions: the merging of a querier relies on their order.
fn order(stream: &Value) -> Vec<String> {
    let mut labels: Vec<String> = stream["series"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|series| series["labels"].to_string())
        .collect();
    labels.dedup();
    labels
}

fn difference(ours: &Value, theirs: &Value) -> Option<String> {
    if ours["error"] != theirs["error"] || ours["warnings"] != theirs["warnings"] {
        return Some(format!(
            "error {} warnings {}, Thanos {} {}",
            ours["error"], ours["warnings"], theirs["error"], theirs["warnings"]
        ));
    }
    let (our_samples, their_samples) = (samples(ours), samples(theirs));
    let (our_labels, their_labels): (Vec<_>, Vec<_>) =
        (our_samples.keys().collect(), their_samples.keys().collect());
    if our_labels != their_labels {
        return Some(format!("{} series, Thanos {}", our_labels.len(), their_labels.len()));
    }
    for (labels, points) in &our_samples {
        let wanted = &their_samples[labels];
        if points != wanted {
            let first = points.iter().zip(wanted).find(|(ours, theirs)| ours != theirs);
            return Some(format!(
                "series {labels}: {} samples, Thanos {}; {first:?}",
                points.len(),
                wanted.len()
            ));
        }
    }
    (order(ours) != order(theirs)).then(|| "the order of series".to_owned())
}

async fn compare_bucket(peers: &Path, bucket: &Path) {
    let ours = Component::store(&parallax(), bucket, &[]).await.expect("our store");
    let (_theirs, their_address) = Peer::store(peers, bucket).expect("Thanos' store");
    let info = |address: &str| {
        let mut info = Peer::info(peers, address, &[]).expect("Info");
        let sets = info["label_sets"].as_array_mut().expect("label sets");
        sets.sort_by_key(Value::to_string);
        info
    };
    assert_eq!(info(&ours.grpc), info(&their_address), "Info over {}", bucket.display());
    let mut our_client = Peer::series(peers, &ours.grpc, &[]).expect("a client");
    let mut their_client = Peer::series(peers, &their_address, &[]).expect("a client");
    let mut failures = Vec::new();
    let (mut series, mut points) = (0, 0);
    let requests = requests();
    for request in &requests {
        let ours = our_client.ask(request).expect("our answer");
        let theirs = their_client.ask(request).expect("Thanos' answer");
        let found = samples(&theirs);
        series += found.len();
        points += found.values().map(Vec::len).sum::<usize>();
        if let Some(reason) = difference(&ours, &theirs) {
            failures.push(format!("{request}: {reason}"));
        }
    }
    println!("{}: {} requests, {series} series, {points} samples", bucket.display(), requests.len());
    for failure in failures.iter().take(20) {
        println!("{failure}");
    }
    assert!(series > 100 && points > 10_000, "the bucket is not the golden one");
    assert!(failures.is_empty(), "{} of {} answers differ", failures.len(), requests.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn thanos_client_gets_the_same_series_from_our_store_as_from_thanos_own() {
    let Some(peers) = program_or_leave_out("the StoreAPI against Thanos") else { return };
    for bucket in bucket_dirs(&golden_dir(), &["bucket-short"]) {
        compare_bucket(&peers, &bucket).await;
    }
}

/// The blocks of one source, which the conformance suite can be told of, in `to`; and their external labels.
fn copy_one_source(bucket: &Path, to: &Path) -> Labels {
    let mut external = Labels::empty();
    for entry in std::fs::read_dir(bucket).expect("a bucket") {
        let block = entry.expect("an entry").path();
        let json = std::fs::read(block.join("meta.json")).expect("meta.json");
        let labels = BlockMeta::parse("golden", &json).expect("a meta").external_labels();
        if labels.value_of("cluster") == "eu-1" && labels.value_of("prometheus_replica") == "prometheus-0" {
            external = labels;
            let target = to.join(block.file_name().expect("a name"));
            std::fs::create_dir_all(target.join("chunks")).expect("a directory");
            for file in ["meta.json", "index", "chunks/000001"] {
                std::fs::copy(block.join(file), target.join(file)).expect("a copy");
            }
        }
    }
    external
}

/// What a store holds, by its own answer.
async fn known(store: &dyn Store, external: Labels) -> Known {
    let any = Matcher::new(MatchOp::Regex, "__name__", ".+").expect("a matcher");
    let matchers = matchers::to_wire(&[any]);
    let request = SeriesRequest { min_time: 0, max_time: i64::MAX, matchers, ..SeriesRequest::default() };
    let stream = store.series(Request::new(request)).await.expect("an answer");
    let series = frames::collect(stream).await.expect("a whole answer").series;
    let known = |one: Series| {
        let min_ms = one.chunks.iter().map(|chunk| chunk.min_time).min().expect("a chunk");
        let max_ms = one.chunks.iter().map(|chunk| chunk.max_time).max().expect("a chunk");
        let labels = labels::from_wire(&one.labels).expect("labels");
        KnownSeries { labels, range: TimeRange::new(min_ms, max_ms) }
    };
    Known { series: series.into_iter().map(known).collect(), external }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_store_and_thanos_own_pass_the_same_conformance_suite() {
    let Some(peers) = program_or_leave_out("the conformance suite on Thanos' store") else { return };
    let Some(bucket) = bucket_dirs(&golden_dir(), &["bucket-short"]).pop() else { return };
    let one_source = tempfile::tempdir().expect("a directory");
    let external = copy_one_source(&bucket, one_source.path());
    let ours = Component::store(&parallax(), one_source.path(), &[]).await.expect("our store");
    let (_theirs, their_address) = Peer::store(&peers, one_source.path()).expect("Thanos' store");
    let client = |address: &str| {
        StoreClient::new(parallax_net::connect(&GrpcTarget::plain(address)).expect("a channel"))
    };
    let (our_client, their_client) = (client(&ours.grpc), client(&their_address));
    let known = known(&our_client, external).await;
    assert!(known.series.len() > 50);
    for (name, store) in [("ours", &our_client), ("Thanos'", &their_client)] {
        let found = check(store, &known).await;
        assert!(found.is_empty(), "{name}: {} differences:\n{}", found.len(), found.join("\n"));
    }
}
