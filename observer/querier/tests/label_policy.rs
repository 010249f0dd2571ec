//! Callers of a querier that are held to a label policy: over HTTP and gRPC, read or evaluated beneath, their answers are those of a querier that has nothing else.

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

use cluster_store::{ClusterStore, SeriesOfFloats};
use futures::StreamExt;
use http::{HeaderMap, StatusCode};
use hub::{Hub, served};
use parallax_model::{Labels, Matcher};
use parallax_querier::{Connection, Distribution, EndpointConfig, QuerierConfig};
use parallax_storeapi::proto::thanos::query_range_response::Result as Frame;
use parallax_storeapi::proto::thanos::{QueryRangeRequest, SeriesRequest};
use parallax_storeapi::{Caller, Guard, Hold, Store, StoreClient, frames, guarded_routes, labels};
use proptest::prelude::*;
use serde_json::{Value, json};
use tonic::{Code, Extensions, Request, Status};

const TEAMS: [&str; 3] = ["a", "b", "c"];

/// Everybody is who their header says: a team, or `all`.
#[derive(Debug)]
struct ByHeader;

impl Guard for ByHeader {
    fn caller(&self, headers: &HeaderMap, _: &Extensions) -> Result<Caller, Status> {
        let team = headers.get("x-team").and_then(|value| value.to_str().ok());
        let team =
            team.ok_or_else(|| Status::permission_denied("rule of label policies: no rule names nobody"))?;
        let matchers = if team == "all" { vec![] } else { vec![Matcher::equal("team", team)] };
        Ok(Caller { hold: Hold::new(matchers), identity: Some(team.into()), ..Caller::default() })
    }
}

/// Of each team in `teams` the same few series, with values of their own; and of all the `target_info` that `info()` takes labels from.
fn series_of(cluster: &str, teams: &[&str]) -> Vec<SeriesOfFloats> {
    let mut all = Vec::new();
    for (number, team) in teams.iter().enumerate() {
        for instance in ["0", "1", "2"].map(|number| format!("{cluster}-{number}")) {
            for name in ["x_total", "gauge", "target_info"] {
                let mut pairs = vec![
                    ("__name__", name),
                    ("cluster", cluster),
                    ("instance", instance.as_str()),
                    ("job", "j"),
                    ("team", team),
                ];
                if name == "target_info" {
                    // Of one team only, so that the others have none for the same instance.
                    if *team != "b" {
                        continue;
                    }
                    pairs.push(("secret", "of b"));
                }
                let factor = (number + 1) as f64 * if name == "x_total" { 3.0 } else { 1.0 };
                let value = |step: i64| if name == "target_info" { 1.0 } else { step as f64 * factor };
                let samples = (1..240).map(|step| (step * 15_000, value(step))).collect();
                all.push((Labels::from_pairs(pairs), samples));
            }
        }
    }
    all
}

fn cluster(name: &str, teams: &[&str]) -> EndpointConfig {
    let sets = vec![Labels::from_pairs([("cluster", name)])];
    let store = ClusterStore::new(sets, series_of(name, teams));
    EndpointConfig::new(name, Connection::Local(Arc::new(store)))
}

fn with_info(mut config: QuerierConfig) -> QuerierConfig {
    config.api.parser.experimental_functions = true;
    config
}

fn guarded(mut config: QuerierConfig) -> QuerierConfig {
    config.api.guard = Some(Arc::new(ByHeader));
    with_info(config)
}

/// A querier that has all, and tells its callers apart.
async fn whole() -> Hub {
    Hub::with(vec![cluster("eu-1", &TEAMS), cluster("us-1", &TEAMS)], guarded).await
}

/// A querier that has one team's series, and lets everybody in.
async fn only(team: &str) -> Hub {
    let number = TEAMS.iter().position(|known| *known == team).unwrap();
    let teams: Vec<&str> = (0..=number).map(|index| if index == number { team } else { "-" }).collect();
    let of = |name: &str| {
        let series = series_of(name, &teams).into_iter().filter(|(set, _)| set.get("team") == Some(team));
        let store = ClusterStore::new(vec![Labels::from_pairs([("cluster", name)])], series.collect());
        EndpointConfig::new(name, Connection::Local(Arc::new(store)))
    };
    Hub::with(vec![of("eu-1"), of("us-1")], with_info).await
}

fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

const QUERIES: [&str; 18] = [
    "x_total",
    "gauge{team=~\".*\"}",
    "x_total{team=\"b\"}",
    "x_total{team!=\"a\"}",
    "{__name__=~\".+\"}",
    "{team=\"c\"} or gauge",
    "sum(rate(x_total[5m]))",
    "sum by (team, cluster) (x_total)",
    "count by (team) ({job=\"j\"})",
    "max_over_time(sum(gauge)[10m:1m])",
    "sum_over_time((gauge > bool 5)[5m:30s]) + on (instance, cluster, team) x_total",
    "topk(2, gauge)",
    "x_total / ignoring(x) group_left gauge",
    "quantile(0.5, gauge offset 1m)",
    "scalar(sum(gauge)) + vector(1)",
    "label_replace(gauge, \"team\", \"other\", \"team\", \"a\")",
    "info(x_total)",
    "count_values(\"v\", gauge @ 1800)",
];

async fn result(hub: &Hub, query: &str, team: &str) -> Value {
    let uri = format!("/api/v1/query_range?query={}&start=900&end=2700&step=60", escaped(query));
    let (status, answer) = hub.ask_with(&uri, &[("x-team", team)]).await;
    assert_eq!(status, StatusCode::OK, "{query}: {answer}");
    answer["data"]["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_caller_is_answered_as_if_there_were_nothing_else() {
    let whole = whole().await;
    for team in TEAMS {
        let own = only(team).await;
        for query in QUERIES {
            assert_eq!(result(&whole, query, team).await, result(&own, query, team).await, "{team}: {query}");
        }
    }
    let all = result(&whole, "count({__name__=~\".+\"})", "all").await;
    assert_eq!(all[0]["values"][0][1], json!("42"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_evaluated_beneath_is_held_too() {
    let mut endpoints = Vec::new();
    let mut leaves = Vec::new();
    for name in ["eu-1", "us-1"] {
        let leaf = Hub::over(vec![cluster(name, &TEAMS)]).await;
        endpoints.push(served(leaf.querier.clone(), &leaf.context).await.with_cluster(name));
        leaves.push(leaf);
    }
    let hub = Hub::with(endpoints, |config| QuerierConfig {
        distribution: Some(Distribution::default()),
        ..guarded(config)
    })
    .await;
    for team in TEAMS {
        let own = only(team).await;
        // Of whole numbers, so that the order of summation does not show.
        for query in ["sum(gauge)", "count by (team) (gauge)", "max by (cluster) (gauge{team=~\".+\"})"] {
            assert_eq!(result(&hub, query, team).await, result(&own, query, team).await, "{team}: {query}");
        }
    }
    let metrics = hub.context.metrics.encode().unwrap();
    let answered = metrics
        .lines()
        .find(|line| line.starts_with("parallax_querier_pushdown_total{outcome=\"answered\"}"));
    assert!(answered.is_some_and(|line| !line.ends_with(" 0")), "they are evaluated beneath: {metrics}");
}

#[tokio::test]
async fn series_labels_and_values_are_the_teams_own() {
    let hub = whole().await;
    let get = async |uri: &str, team: &str| hub.ask_with(uri, &[("x-team", team)]).await.1["data"].clone();
    assert_eq!(get("/api/v1/label/team/values", "a").await, json!(["a"]));
    assert_eq!(get("/api/v1/label/team/values", "all").await, json!(TEAMS));
    assert_eq!(get("/api/v1/label/secret/values", "a").await, json!([]));
    let names = get("/api/v1/labels", "a").await;
    assert_eq!(names, json!(["__name__", "cluster", "instance", "job", "team"]));
    let series = get("/api/v1/series?match[]=gauge&match[]=%7Bteam%3D%22b%22%7D", "a").await;
    let series = series.as_array().unwrap();
    assert!(series.len() == 6 && series.iter().all(|one| one["team"] == "a"), "{series:?}");
    let removed = get("/api/v1/series?match[]=gauge&replicaLabels[]=team", "a").await;
    assert!(removed.as_array().unwrap().len() == 6 && removed[0]["team"].is_null(), "{removed}");
}

#[tokio::test]
async fn who_is_not_named_is_refused_by_every_endpoint_of_the_api() {
    let hub = whole().await;
    for path in [
        "query?query=up",
        "query_range?query=up&start=1&end=2&step=1",
        "query_explain?query=up",
        "series?match[]=up",
        "labels",
        "label/team/values",
        "stores",
        "metadata",
        "rules",
        "alerts",
        "targets",
        "query_exemplars?query=up",
        "status/tsdb",
        "status/flags",
        "active_queries",
        "no/such/path",
    ] {
        let (status, answer) = hub.ask_with(&format!("/api/v1/{path}"), &[]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}: {answer}");
        assert_eq!(answer["errorType"], "forbidden", "{path}");
        assert!(answer["error"].as_str().unwrap().contains("rule of label policies"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn absent_series_are_described_by_what_the_caller_may_read() {
    let hub = whole().await;
    let found = result(&hub, "absent(gauge{team=\"b\"})", "a").await;
    assert_eq!(found.as_array().unwrap().len(), 1, "team a has no series of team b: {found}");
    let found = result(&hub, "absent(nothing)", "a").await;
    assert_eq!(found[0]["metric"], json!({"team": "a"}), "as with Thanos' rewritten queries");
}

fn over_grpc(hub: &Hub) -> StoreClient<tonic::service::Routes> {
    let (_ready, readiness) = tokio::sync::watch::channel(true);
    let guard: Arc<dyn Guard> = Arc::new(ByHeader);
    StoreClient::new(guarded_routes(hub.querier.clone(), Some(guard), readiness).unwrap())
}

fn of_team<T>(message: T, team: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-team", tonic::metadata::MetadataValue::from_static(team));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_series_over_grpc_are_held_as_over_http() {
    let hub = whole().await;
    let client = over_grpc(&hub);
    let message = |query: &str| QueryRangeRequest {
        query: query.to_owned(),
        start_time_seconds: 900,
        end_time_seconds: 1800,
        interval_seconds: 60,
        ..QueryRangeRequest::default()
    };
    for (query, team, expected) in
        [("gauge", "a", 6), ("count by (team) (gauge)", "b", 1), ("gauge", "all", 18)]
    {
        let mut stream = client.side().query_range(of_team(message(query), team)).await.unwrap();
        let mut found = 0;
        while let Some(frame) = stream.next().await {
            if let Some(Frame::Timeseries(series)) = frame.unwrap().result {
                let set = labels::from_wire(&series.labels).unwrap();
                assert!(team == "all" || set.get("team") == Some(team), "{query}: {set}");
                found += 1;
            }
        }
        assert_eq!(found, expected, "{query} for {team}");
    }
    let matchers = parallax_storeapi::matchers::to_wire(&[Matcher::equal("job", "j")]);
    let request = SeriesRequest { matchers, max_time: i64::MAX, ..SeriesRequest::default() };
    let found = frames::collect(client.series(of_team(request.clone(), "c")).await.unwrap()).await.unwrap();
    assert_eq!(found.series.len(), 12);
    assert!(!found.hints.is_empty(), "what the answer has is told all the same");
    let refused = client.series(Request::new(request)).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// Selectors of all kinds, put together at random.
fn a_query() -> impl Strategy<Value = String> {
    let selector = prop_oneof![
        Just("gauge".to_owned()),
        Just("x_total{team=\"b\"}".to_owned()),
        Just("{job=\"j\"}".to_owned()),
        Just("{team=~\"b|c\"}".to_owned()),
        Just("gauge{team!=\"\"} offset 1m".to_owned()),
        Just("{secret=~\".+\"}".to_owned()),
    ];
    selector.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|one| format!("sum by (team, instance) ({one})")),
            inner.clone().prop_map(|one| format!("max_over_time(({one})[5m:1m])")),
            inner.clone().prop_map(|one| format!("-({one})")),
            inner.clone().prop_map(|one| format!("topk(3, {one})")),
            inner.clone().prop_map(|one| format!("absent_over_time(({one})[5m:1m]) or ({one})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) or ({b})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("({a}) and on (team) ({b})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn no_query_makes_a_series_of_another_team_show(queries in prop::collection::vec(a_query(), 8)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = whole().await;
            for query in queries {
                let uri = format!("/api/v1/query?query={}&time=1800", escaped(&query));
                let (status, answer) = hub.ask_with(&uri, &[("x-team", "a")]).await;
                prop_assert!(status.is_success() || status == StatusCode::UNPROCESSABLE_ENTITY, "{query}: {answer}");
                let text = answer["data"].to_string();
                prop_assert!(!text.contains("of b"), "{query}: {text}");
                for one in answer["data"]["result"].as_array().into_iter().flatten() {
                    let team = one["metric"]["team"].as_str();
                    prop_assert!(matches!(team, None | Some("a")), "{query}: {one}");
                }
            }
            Ok::<(), TestCaseError>(())
        })?;
    }
}
