//! Queriers that have aggregations evaluated by queriers beneath: the answer is what reading all series gives, whatever those beneath do; and what crosses the border is counted.

#[path = "support/cluster_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod cluster_store;
#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cluster_store::{ClusterStore, Manner, SeriesOfFloats, Tampered};
use hub::{Hub, down, impatient, served};
use parallax_dedup::Algorithm;
use parallax_model::{Labels, TimeRange};
use parallax_querier::{
    Connection, Distribution, EndpointConfig, EndpointSet, Proxy, ProxyConfig, QuerierConfig,
};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, QueryRangeRequest,
    QueryRangeResponse, SeriesRequest,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideServices, Store, async_trait};
use serde_json::{Value, json};
use tonic::{Request, Status};

const SCRAPE_MS: i64 = 15_000;

/// Two replicas of a few series, an hour of them. What they hold differs by cluster, and from replica to replica by when it was scraped.
fn series_of(cluster: &str, number: u64) -> Vec<SeriesOfFloats> {
    let mut all = Vec::new();
    for (name, count) in [("x_total", 6), ("gauge", 4)] {
        for instance in 0..count {
            for replica in 0..2_i64 {
                let (job, instance_text, replica_text) =
                    ((instance % 3).to_string(), instance.to_string(), replica.to_string());
                let labels = Labels::from_pairs([
                    ("__name__", name),
                    ("cluster", cluster),
                    ("instance", &instance_text),
                    ("job", &job),
                    ("replica", &replica_text),
                ]);
                let sample = |step: i64| {
                    let time_ms = step * SCRAPE_MS + replica * 1700;
                    let rate = 1.0 + (number * 7 + instance) as f64 / 3.0;
                    let value = if name == "gauge" {
                        (time_ms as f64 / 60_000.0).sin() * rate
                    } else {
                        time_ms as f64 / 1000.0 * rate
                    };
                    (time_ms, value)
                };
                // One replica after the other has a gap.
                let gap = 100 + replica * 60..110 + replica * 60;
                all.push((labels, (1..240).filter(|step| !gap.contains(step)).map(sample).collect()));
            }
        }
    }
    all
}

fn sets(cluster: &str) -> Vec<Labels> {
    ["0", "1"].map(|replica| Labels::from_pairs([("cluster", cluster), ("replica", replica)])).to_vec()
}

fn store_of(cluster: &str, number: u64) -> ClusterStore {
    ClusterStore::new(sets(cluster), series_of(cluster, number))
}

/// A cluster's querier, and how often it was asked.
struct Leaf {
    endpoint: EndpointConfig,
    queries: Arc<AtomicUsize>,
    reads: Arc<AtomicUsize>,
    hub: Hub,
}

async fn leaf(cluster: &str, number: u64, manner: Manner) -> Leaf {
    leaf_over(cluster, store_of(cluster, number), manner, vec![]).await
}

async fn leaf_over(cluster: &str, store: ClusterStore, manner: Manner, more: Vec<EndpointConfig>) -> Leaf {
    let reads = store.calls.clone();
    let mut endpoints = vec![EndpointConfig::new("sidecar", Connection::Local(Arc::new(store)))];
    endpoints.extend(more);
    leaf_of(cluster, Hub::over(endpoints).await, reads, manner).await
}

async fn leaf_of(cluster: &str, hub: Hub, reads: Arc<AtomicUsize>, manner: Manner) -> Leaf {
    let queries = Arc::new(AtomicUsize::new(0));
    let tampered = Tampered { inner: hub.querier.clone(), manner, queries: queries.clone() };
    let endpoint = served(Arc::new(tampered), &hub.context).await.with_cluster(cluster);
    Leaf { endpoint, queries, reads, hub }
}

fn sidecar(name: &str, store: ClusterStore) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(Arc::new(store)))
}

async fn distributed(endpoints: Vec<EndpointConfig>) -> Hub {
    Hub::with(endpoints, distributing).await
}

fn distributing(mut config: QuerierConfig) -> QuerierConfig {
    config.distribution = Some(Distribution::default());
    config
}

const QUERIES: [&str; 12] = [
    "sum by (job) (rate(x_total[5m]))",
    "sum(rate(x_total[5m]))",
    "sum by (cluster, job) (increase(x_total[4m]))",
    "avg by (job) (gauge)",
    "avg without (cluster, instance) (rate(x_total[5m]))",
    "min(gauge)",
    "max by (instance) (gauge * 2)",
    "count(gauge > 0)",
    "group by (cluster) (x_total)",
    "sum(rate(x_total[5m])) / sum(gauge)",
    "sum(rate(gauge[5m]))",
    "topk(1, sum by (cluster) (x_total))",
];

fn range_uri(query: &str) -> String {
    let query: String =
        query
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
    format!("/api/v1/query_range?query={query}&start=900&end=2700&step=60&stats=true")
}

/// Whether both have the same series, and samples that are equal but for the order of summation.
fn assert_alike(query: &str, expected: &Value, found: &Value) {
    let (expected, found) = (expected["result"].as_array().unwrap(), found["result"].as_array().unwrap());
    assert_eq!(expected.len(), found.len(), "{query}: {expected:?} {found:?}");
    assert!(!expected.is_empty(), "{query} has an answer");
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(expected["metric"], found["metric"], "{query}");
        let (expected, found) = (expected["values"].as_array().unwrap(), found["values"].as_array().unwrap());
        assert_eq!(expected.len(), found.len(), "{query}");
        for (expected, found) in expected.iter().zip(found) {
            assert_eq!(expected[0], found[0], "{query}");
            let number = |sample: &Value| -> f64 { sample[1].as_str().unwrap().parse().unwrap() };
            let (a, b) = (number(expected), number(found));
            assert!((a - b).abs() <= 1e-12 * a.abs().max(1.0), "{query}: {expected} {found}");
        }
    }
}

/// Both hubs' answers to all queries are the same, warnings and infos included.
async fn assert_same_answers(local: &Hub, distributed: &Hub) {
    for query in QUERIES {
        let uri = range_uri(query);
        let ((_, expected), (_, found)) = (local.ask(&uri).await, distributed.ask(&uri).await);
        assert_alike(query, &expected["data"], &found["data"]);
        for notes in ["warnings", "infos"] {
            assert_eq!(expected[notes], found[notes], "{query}");
        }
    }
}

fn queries(leaf: &Leaf) -> usize {
    leaf.queries.load(Ordering::SeqCst)
}

fn received(data: &Value, kind: &str) -> Vec<(String, u64)> {
    let all = data["stats"]["received"].as_array().unwrap();
    all.iter().map(|one| (one["cluster"].as_str().unwrap().to_owned(), one[kind].as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_evaluate_and_the_answer_is_the_same() {
    let (eu, us) = (leaf("eu-1", 1, Manner::Honest).await, leaf("us-1", 2, Manner::Honest).await);
    let endpoints = || vec![eu.endpoint.clone(), us.endpoint.clone()];
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &hub).await;
    assert!(queries(&eu) >= QUERIES.len() && queries(&us) >= QUERIES.len());
    let uri = range_uri("sum by (job) (rate(x_total[5m]))");
    let (whole, parts) = (local.whole(&uri).await, hub.whole(&uri).await);
    let reads = (eu.reads.load(Ordering::SeqCst), us.reads.load(Ordering::SeqCst));
    let names = ["eu-1", "us-1"];
    for (data, kind, other) in [(&whole, "seriesBytes", "queryBytes"), (&parts, "queryBytes", "seriesBytes")]
    {
        for (name, (cluster, bytes)) in names.iter().zip(received(data, kind)) {
            assert_eq!(*name, cluster);
            assert!(bytes > 0, "{data}");
        }
        assert!(received(data, other).iter().all(|(_, bytes)| *bytes == 0), "{data}");
    }
    let metrics = hub.context.metrics.encode().unwrap();
    for line in [
        "parallax_querier_received_bytes_total{cluster=\"eu-1\",call=\"query\"}",
        "parallax_querier_pushdown_total{outcome=\"answered\"}",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert!(reads.0 > 0 && reads.1 > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instant_query_is_distributed_at_whole_seconds() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let (local, hub) =
        (Hub::over(vec![eu.endpoint.clone()]).await, distributed(vec![eu.endpoint.clone()]).await);
    for (time, asked) in [("2000", 1), ("2000.5", 0)] {
        let before = queries(&eu);
        let uri = format!("/api/v1/query?query=max+by+(job)(gauge)&time={time}");
        let (mut expected, mut found) = (local.whole(&uri).await, hub.whole(&uri).await);
        for data in [&mut expected, &mut found] {
            data["result"].as_array_mut().unwrap().sort_by_key(|one| one["metric"].to_string());
        }
        assert_eq!(expected, found);
        assert_eq!(queries(&eu) - before, asked, "{time}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_endpoint_does_the_answer_is_the_same() {
    for manner in [
        Manner::Unimplemented,
        Manner::WithoutStats,
        Manner::Twice,
        Manner::Foreign,
        Manner::Nameless,
        Manner::Warns,
    ] {
        let (eu, us) = (leaf("eu-1", 1, Manner::Honest).await, leaf("us-1", 2, manner).await);
        let endpoints = || vec![eu.endpoint.clone(), us.endpoint.clone()];
        let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
        assert_same_answers(&local, &hub).await;
        assert!(queries(&us) > 0, "{manner:?}");
        let before = queries(&us);
        hub.get(&range_uri(QUERIES[0])).await;
        assert_eq!(queries(&us), before, "{manner:?}: what was declined is not asked again at once");
    }
}

/// Whom a hub has to ask from now on.
type Move = (Arc<EndpointSet>, Vec<EndpointConfig>);

/// A querier whose hub finds others in its place while it is asked to evaluate, and that then declines.
struct Moving {
    inner: Arc<dyn Store>,
    to: OnceLock<Move>,
}

#[async_trait]
impl Store for Moving {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.inner.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.inner.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.inner.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.inner.label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for Moving {
    async fn query_range(
        &self,
        _: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        if let Some((endpoints, configs)) = self.to.get() {
            endpoints.replace(configs.clone(), Vec::new());
        }
        Err(Status::unavailable("it is being moved"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_endpoint_is_replaced_while_it_declines_is_in_the_answer() {
    let (eu, us) = (leaf("eu-1", 1, Manner::Honest).await, leaf("us-1", 2, Manner::Honest).await);
    let uri = range_uri("sum(x_total)");
    let expected = Hub::over(vec![eu.endpoint.clone(), us.endpoint.clone()]).await.whole(&uri).await;
    let moved = EndpointConfig { name: "moved".to_owned(), ..us.endpoint.clone() };
    for after in [vec![eu.endpoint.clone(), moved], vec![eu.endpoint.clone()]] {
        let moving = Arc::new(Moving { inner: us.hub.querier.clone(), to: OnceLock::new() });
        let endpoint = served(moving.clone(), &us.hub.context).await.with_cluster("us-1");
        let hub = distributed(vec![eu.endpoint.clone(), endpoint]).await;
        assert!(moving.to.set((hub.querier.endpoints().clone(), after)).is_ok());
        // The query has begun with the endpoint as it was, which still answers.
        let found = hub.whole(&uri).await;
        assert_alike(&uri, &expected, &found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_another_way_of_dedup_is_read() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let (local, hub) =
        (Hub::over(vec![eu.endpoint.clone()]).await, distributed(vec![eu.endpoint.clone()]).await);
    let counts = "sum(count_over_time(gauge[5m]))";
    let mut answers = Vec::new();
    for func in ["penalty", "chain", "gap-aware"] {
        for query in QUERIES.into_iter().chain([counts]) {
            let before = queries(&eu);
            let uri = format!("{}&dedup_func={func}", range_uri(query));
            let (expected, found) = (local.whole(&uri).await, hub.whole(&uri).await);
            assert_alike(&uri, &expected, &found);
            assert!(func == "penalty" || queries(&eu) == before, "{uri}");
            if query == counts {
                answers.push(expected["result"].clone());
            }
        }
    }
    assert!(queries(&eu) > 0);
    let [penalty, chain, gap_aware] = &answers[..] else { panic!("{answers:?}") };
    assert!(penalty != chain && chain != gap_aware && gap_aware != penalty, "each is another answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_evaluates_is_told_the_way_of_dedup() {
    let store = store_of("eu-1", 1);
    let reads = store.calls.clone();
    let endpoints = vec![EndpointConfig::new("sidecar", Connection::Local(Arc::new(store)))];
    let beneath = Hub::with(endpoints, |mut config| {
        config.limits.algorithm = Algorithm::GapAware;
        config
    });
    let eu = leaf_of("eu-1", beneath.await, reads, Manner::Honest).await;
    let (local, hub) =
        (Hub::over(vec![eu.endpoint.clone()]).await, distributed(vec![eu.endpoint.clone()]).await);
    assert_same_answers(&local, &hub).await;
    assert!(queries(&eu) >= QUERIES.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_whose_series_others_may_hold_are_read() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let us = leaf("us-1", 2, Manner::Honest).await;
    // The history of one cluster, beside its querier: half of the hour is in both.
    let mut bucket = store_of("us-1", 2);
    bucket.range = TimeRange::new(0, 1_800_000);
    bucket.series.iter_mut().for_each(|(_, samples)| samples.retain(|(at, _)| *at <= 1_800_000));
    let bucket: Arc<dyn Store> = Arc::new(bucket);
    let endpoints = || {
        vec![
            eu.endpoint.clone(),
            us.endpoint.clone(),
            EndpointConfig::new("bucket", Connection::Local(bucket.clone())),
        ]
    };
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &hub).await;
    assert!(queries(&eu) > 0);
    assert_eq!(queries(&us), 0);
    // Of what came later the bucket has nothing.
    let late = "/api/v1/query_range?query=sum(rate(x_total[5m]))&start=2400&end=3000&step=60";
    let (expected, found) = (local.whole(late).await, hub.whole(late).await);
    assert_alike(late, &expected, &found);
    assert_eq!(queries(&us), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_beside_queriers_is_read_and_counts_once() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let other: Arc<dyn Store> = Arc::new(store_of("us-1", 2));
    let endpoints =
        || vec![eu.endpoint.clone(), EndpointConfig::new("sidecar-us-1", Connection::Local(other.clone()))];
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &hub).await;
    assert!(queries(&eu) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_comes_from_two_sides_counts_once() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    // It advertises one cluster and holds series of another, too.
    let mixed = || ClusterStore::new(sets("us-1"), [series_of("us-1", 2), series_of("eu-1", 1)].concat());
    let endpoints = || vec![eu.endpoint.clone(), sidecar("sidecar-us-1", mixed())];
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &hub).await;
    assert!(queries(&eu) <= 1, "after the first time it is left for a while");
    assert!(
        hub.context
            .metrics
            .encode()
            .unwrap()
            .contains("parallax_querier_pushdown_total{outcome=\"repeated\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_reported_as_ever() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let gone = down("us-1");
    let endpoints = || vec![eu.endpoint.clone(), gone.clone()];
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &hub).await;
    for query in QUERIES {
        let uri = range_uri(query);
        let (_, answer) = hub.ask(&uri).await;
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with(r#"parallax: cluster "us-1" missing"#), "{warning}");
        let (status, answer) = hub.ask(&format!("{uri}&partial_response=false")).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains(r#"cluster "us-1" missing"#), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_beneath_an_evaluation_is_reported_and_covered() {
    let mut eu = leaf_over("eu-1", store_of("eu-1", 1), Manner::Honest, vec![down("eu-2")]).await;
    // It holds two clusters, so it is declared as neither.
    eu.endpoint.cluster = None;
    let endpoints = || vec![eu.endpoint.clone()];
    let (local, hub) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    let uri = range_uri("sum(x_total)");
    let ((_, expected), (_, found)) = (local.ask(&uri).await, hub.ask(&uri).await);
    assert_eq!(queries(&eu), 1);
    assert_alike(&uri, &expected["data"], &found["data"]);
    assert_eq!(expected["warnings"], found["warnings"]);
    assert!(
        found["warnings"][0].as_str().unwrap().starts_with(r#"parallax: cluster "eu-2" missing"#),
        "{found}"
    );
    assert_eq!(found["coverage"]["state"], "partial");
    let clusters = |answer: &Value| -> Vec<Value> {
        let all = answer["coverage"]["clusters"].as_array().unwrap();
        all.iter().map(|one| json!([one["cluster"], one["state"]])).collect()
    };
    assert_eq!(clusters(&expected), clusters(&found));
    let (status, _) = hub.ask(&format!("{uri}&partial_response=false")).await;
    assert_eq!(status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_required_is_whole_where_it_is_evaluated_or_there_is_no_answer() {
    let mut eu = leaf_over("eu-1", store_of("eu-1", 1), Manner::Honest, vec![down("eu-2")]).await;
    eu.endpoint.cluster = None;
    eu.endpoint.declared.required = true;
    let hub = distributed(vec![eu.endpoint.clone()]).await;
    let (status, answer) = hub.ask(&format!("{}&partial_response=true", range_uri("sum(x_total)"))).await;
    let said = answer["error"].as_str().unwrap_or_default();
    assert_eq!((status.as_u16(), queries(&eu)), (422, 1), "{answer}");
    assert!(said.contains("cluster \"eu-2\" missing") && said.contains("required"), "{said}");
    let whole = leaf("us-1", 2, Manner::Honest).await;
    let mut endpoint = whole.endpoint.clone();
    endpoint.declared.required = true;
    let hub = distributed(vec![endpoint]).await;
    hub.whole(&range_uri("sum(x_total)")).await;
    assert_eq!(queries(&whole), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_that_does_not_say_what_it_has_is_unattested() {
    let eu = leaf("eu-1", 1, Manner::SaysNothing).await;
    let hub = distributed(vec![eu.endpoint.clone()]).await;
    let (_, answer) = hub.ask(&range_uri("sum(x_total)")).await;
    assert_eq!(queries(&eu), 1);
    assert_eq!(answer["coverage"]["clusters"][0]["state"], "unattested", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_of_others_is_not_believed_about_counters_that_are_not_deduplicated() {
    let eu = leaf("eu-1", 1, Manner::SaysNothing).await;
    let hub = distributed(vec![eu.endpoint.clone()]).await;
    for (query, dedup, bytes) in [
        ("sum(rate(x_total[5m]))", "false", true),
        ("sum(rate(x_total[5m]))", "true", false),
        ("sum(x_total)", "false", false),
    ] {
        let data = hub.whole(&format!("{}&dedup={dedup}", range_uri(query))).await;
        let read = received(&data, "seriesBytes");
        assert_eq!(read.iter().any(|(_, read)| *read > 0), bytes, "{query} {dedup}: {read:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_querier_that_hangs_is_late_and_then_left_alone() {
    let (eu, us) = (leaf("eu-1", 1, Manner::Honest).await, leaf("us-1", 2, Manner::Hangs).await);
    let endpoints = vec![eu.endpoint.clone(), us.endpoint.clone()];
    let hub = Hub::with(endpoints, |config| impatient(distributing(config))).await;
    let uri = range_uri("sum by (cluster) (rate(x_total[5m]))");
    for round in 0..2 {
        let (_, answer) = hub.ask(&uri).await;
        let warning = answer["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with(r#"parallax: cluster "us-1" late"#), "{warning}");
        let result = answer["data"]["result"].as_array().unwrap();
        assert_eq!(result.len(), 1, "{answer}");
        assert_eq!(result[0]["metric"]["cluster"], "eu-1", "{round}");
        assert_eq!(queries(&us), 1, "the second time it is not asked");
    }
    let (status, answer) = hub.ask(&format!("{uri}&partial_response=false")).await;
    assert_eq!(status, 422, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn queriers_distribute_through_tiers() {
    let (eu, us) = (leaf("eu-1", 1, Manner::Honest).await, leaf("us-1", 2, Manner::Honest).await);
    // As an observer does it: a proxy for each cluster, in one process with the querier above them.
    let context = parallax_net::Context::for_test();
    let mut proxies = Vec::new();
    for leaf in [&eu, &us] {
        let cluster = leaf.endpoint.cluster.clone().unwrap();
        let scoped = context.scoped([("querier", cluster.as_str())]);
        let options = parallax_querier::EndpointOptions {
            info_interval: Duration::from_secs(3600),
            ..parallax_querier::EndpointOptions::default()
        };
        let set = EndpointSet::start(
            vec![leaf.endpoint.clone()],
            options,
            &scoped.metrics,
            context.shutdown.clone(),
        )
        .unwrap();
        set.polled_once().await;
        let proxy: Arc<dyn Store> = Arc::new(Proxy::new(set, ProxyConfig::default(), &scoped.metrics));
        proxies.push((cluster, proxy));
    }
    let endpoints = || {
        let endpoint = |(cluster, proxy): &(String, Arc<dyn Store>)| {
            EndpointConfig::new(format!("querier {cluster}"), Connection::Local(proxy.clone()))
                .with_cluster(cluster.as_str())
        };
        proxies.iter().map(endpoint).collect::<Vec<_>>()
    };
    let (local, middle) = (Hub::over(endpoints()).await, distributed(endpoints()).await);
    assert_same_answers(&local, &middle).await;
    assert!(queries(&eu) > 0 && queries(&us) > 0);
    let above = served(middle.querier.clone(), &middle.context).await;
    let top = distributed(vec![above]).await;
    let (before, uri) = (queries(&us), range_uri("sum(rate(x_total[5m]))"));
    let (expected, found) = (local.whole(&uri).await, top.whole(&uri).await);
    assert_alike(&uri, &expected, &found);
    assert_eq!(queries(&us), before + 1);
    let (_, answer) = top.ask(&uri).await;
    assert_eq!(answer["coverage"]["state"], "complete", "{answer}");
    context.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_shows_who_is_asked_what_and_an_analysis_what_came() {
    let eu = leaf("eu-1", 1, Manner::Honest).await;
    let hub = distributed(vec![eu.endpoint.clone()]).await;
    let uri = range_uri("sum by (job) (rate(x_total[5m]))");
    let plan = hub.whole(&uri.replace("query_range?", "query_range_explain?")).await;
    let analysis = hub.whole(&format!("{uri}&analyze=true")).await;
    let remote = "[remote] eu-1: sum by (cluster, job) (rate(x_total{cluster=\"eu-1\"}[5m]))";
    assert!(plan.to_string().contains(&remote.replace('"', "\\\"")), "{plan}");
    let children = analysis["analysis"]["children"].as_array().unwrap();
    let found = children.iter().find(|child| child["name"] == remote).unwrap_or_else(|| panic!("{analysis}"));
    assert_eq!(found["series"], 3);
}
