//! What an answer says it is made of: exact, flat and through three tiers of queriers, whatever becomes of one cluster.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use hub::{Hub, impatient, served};
use parallax_model::TimeRange;
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, QuerierConfig};
use parallax_testkit::fake_store::{FakeStore, Fault};
use serde_json::{Value, json};
use tonic::Status;
use tower::ServiceExt;

/// `up` of one cluster, around the epoch plus 1000 s.
fn store(cluster: &str, replica: &str) -> FakeStore {
    let samples = (0..100).map(|i| (i * 15_000, i as f64));
    FakeStore::new([("cluster", cluster), ("replica", replica)])
        .with_range(TimeRange::new(0, i64::MAX))
        .with_series([("__name__", "up"), ("job", "a")], samples)
}

fn endpoint(name: &str, store: &Arc<FakeStore>) -> EndpointConfig {
    EndpointConfig::new(name, Connection::Local(store.clone()))
}

const UP: &str = "/api/v1/query?query=up&time=1000";

struct Answer {
    status: u16,
    header: String,
    no_store: bool,
    body: Value,
}

impl Answer {
    fn cluster(&self, name: &str) -> Value {
        let clusters = self.body["coverage"]["clusters"].as_array().unwrap();
        clusters.iter().find(|one| one["cluster"] == name).cloned().unwrap_or_default()
    }

    fn series(&self) -> usize {
        self.body["data"]["result"].as_array().unwrap().len()
    }
}

async fn ask(hub: &Hub, uri: &str) -> Answer {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = hub.querier.router().oneshot(request).await.unwrap();
    let header = |name: &str| {
        response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (status, no_store) = (response.status().as_u16(), header("cache-control") == "no-store");
    let header = header("parallax-coverage");
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, header, no_store, body: serde_json::from_slice(&body).unwrap() }
}

/// Queriers on top of each other, by gRPC; the last is the top.
async fn stacked(bottom: Vec<EndpointConfig>, tiers: usize) -> Vec<Hub> {
    stacked_with(bottom, tiers, |config| config).await
}

async fn stacked_with(
    bottom: Vec<EndpointConfig>,
    tiers: usize,
    change: fn(QuerierConfig) -> QuerierConfig,
) -> Vec<Hub> {
    let mut hubs = vec![Hub::with(bottom, change).await];
    for _ in 1..tiers {
        let below = hubs.last().unwrap();
        let endpoint = served(below.querier.clone(), &below.context).await;
        hubs.push(Hub::with(vec![endpoint], change).await);
    }
    hubs
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_is_exact_flat_and_three_deep_whatever_becomes_of_one_cluster() {
    let faults: [(&str, Fault); 5] = [
        ("missing", Fault::FailOpen(Status::unavailable("connection refused"))),
        ("late", Fault::HangBeforeOpen),
        ("late", Fault::HangAfter(0)),
        ("late", Fault::Slow(Duration::from_secs(30))),
        ("refused", Fault::FailOpen(Status::permission_denied("not you"))),
    ];
    for tiers in [1, 3] {
        for (state, fault) in &faults {
            let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
            us.set_fault(fault.clone());
            let endpoints = vec![endpoint("eu:1", &eu), endpoint("us:1", &us)];
            let hubs = stacked_with(endpoints, tiers, impatient).await;
            let answer = ask(hubs.last().unwrap(), UP).await;
            let what = format!("{tiers} tiers, {fault:?}: {}", answer.body);
            assert_eq!((answer.status, answer.series()), (200, 1), "{what}");
            assert_eq!(answer.header, format!("partial; complete=1; us-1={state}"), "{what}");
            assert!(answer.no_store, "{what}");
            assert_eq!(answer.body["coverage"]["state"], "partial", "{what}");
            assert_eq!(answer.cluster("eu-1"), json!({"cluster": "eu-1", "state": "complete"}), "{what}");
            let missed = answer.cluster("us-1");
            assert_eq!(missed["state"], *state, "{what}");
            let part = &missed["parts"][0];
            assert_eq!(
                (part["tier"].as_str(), part["store"].as_str(), part["minTime"].as_i64().unwrap() > 0),
                (Some("sidecar"), Some("us:1"), true),
                "{what}"
            );
            assert!(!part["reason"].as_str().unwrap().is_empty(), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_is_partial_and_a_replica_that_is_missing_makes_its_cluster_partial() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    us.set_fault(Fault::FailAfter(1, Status::internal("disk on fire")));
    for tiers in [1, 3] {
        let hubs = stacked(vec![endpoint("eu:1", &eu), endpoint("us:1", &us)], tiers).await;
        let answer = ask(hubs.last().unwrap(), UP).await;
        assert_eq!(answer.header, "partial; complete=1; us-1=partial", "{}", answer.body);
        assert_eq!(answer.cluster("us-1")["parts"][0]["reason"], "disk on fire");
    }

    let gone = Arc::new(store("us-1", "1").with_fault(Fault::FailOpen(Status::unavailable("gone"))));
    us.set_fault(Fault::None);
    let hub = Hub::over(vec![endpoint("us:1", &us), endpoint("us:2", &gone)]).await;
    let answer = ask(&hub, UP).await;
    assert_eq!(answer.cluster("us-1")["state"], "partial");
    let parts = answer.cluster("us-1")["parts"].clone();
    let state = |index: usize| (parts[index]["store"].clone(), parts[index]["state"].clone());
    assert_eq!((state(0), state(1)), ((json!("us:1"), json!("complete")), (json!("us:2"), json!("missing"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_question_could_have_needed_is_in_its_coverage() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    us.set_fault(Fault::FailOpen(Status::unavailable("gone")));
    for tiers in [1, 3] {
        let hubs = stacked(vec![endpoint("eu:1", &eu), endpoint("us:1", &us)], tiers).await;
        let top = hubs.last().unwrap();
        let answer = ask(top, "/api/v1/query?query=up%7Bcluster%3D%22eu-1%22%7D&time=1000").await;
        assert_eq!(
            (answer.header.as_str(), answer.no_store),
            ("complete; complete=1", false),
            "{}",
            answer.body
        );
        assert_eq!(answer.cluster("us-1"), Value::Null);
        let refused = ask(top, &format!("{UP}&partial_response=false")).await;
        assert_eq!(refused.status, 422);
        assert!(
            refused.body["error"].as_str().unwrap().contains("cluster \"us-1\" missing"),
            "{}",
            refused.body
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tier_that_says_nothing_of_what_lies_beneath_it_vouches_for_nothing() {
    // As a querier of Thanos: it calls itself one, and sends no report.
    let silent = Arc::new(store("us-1", "0").with_component("query"));
    let eu = Arc::new(store("eu-1", "0"));
    for tiers in [1, 3] {
        let hubs = stacked(vec![endpoint("eu:1", &eu), endpoint("thanos:1", &silent)], tiers).await;
        let answer = ask(hubs.last().unwrap(), UP).await;
        assert_eq!(answer.header, "unattested; complete=1; us-1=unattested", "{}", answer.body);
        assert_eq!(answer.series(), 2);
        assert!(!answer.no_store, "nothing is known to be missing");
    }
    // What it warns of in our words, because one of ours lies beneath it, is taken up.
    silent.set_fault(Fault::Warn(
        "parallax: cluster \"us-1\" late: sidecar:1: nothing came for 1.0 s".to_owned(),
    ));
    let hub = Hub::over(vec![endpoint("eu:1", &eu), endpoint("thanos:1", &silent)]).await;
    let answer = ask(&hub, UP).await;
    assert_eq!(answer.header, "partial; complete=1; us-1=late", "{}", answer.body);
    assert_eq!(answer.cluster("us-1")["parts"][0]["store"], "sidecar:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_series_say_what_they_are_made_of_too() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    us.set_fault(Fault::FailOpen(Status::permission_denied("not you")));
    for tiers in [1, 3] {
        let hubs = stacked(vec![endpoint("eu:1", &eu), endpoint("us:1", &us)], tiers).await;
        for path in ["/api/v1/labels", "/api/v1/label/cluster/values", "/api/v1/series?match%5B%5D=up"] {
            let answer = ask(hubs.last().unwrap(), path).await;
            assert_eq!(answer.header, "partial; complete=1; us-1=refused", "{path}: {}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_shows_in_metrics_and_as_series() {
    let (eu, us) = (Arc::new(store("eu-1", "0")), Arc::new(store("us-1", "0")));
    us.set_fault(Fault::Down(Status::unavailable("gone")));
    let quick = |config: QuerierConfig| QuerierConfig {
        endpoint_options: EndpointOptions {
            info_interval: Duration::from_millis(20),
            ..config.endpoint_options.clone()
        },
        ..config
    };
    let us = endpoint("us:1", &us).with_cluster("us-1");
    let hub = Hub::with(vec![endpoint("eu:1", &eu).with_cluster("eu-1"), us], quick).await;
    ask(&hub, UP).await;
    let text = hub.context.metrics.encode().unwrap();
    for line in [
        "parallax_querier_answers_total{state=\"partial\"} 1",
        "parallax_querier_cluster_answers_total{cluster=\"eu-1\",state=\"complete\"} 1",
        "parallax_querier_cluster_answers_total{cluster=\"us-1\",state=\"missing\"} 1",
    ] {
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    let give_up = std::time::Instant::now() + Duration::from_secs(60);
    let (up, ratio) = loop {
        let up = ask(&hub, "/api/v1/query?query=parallax_cluster_up").await;
        let ratio =
            ask(&hub, "/api/v1/query?query=parallax_cluster_coverage_ratio%7Bcluster%3D%22us-1%22%7D").await;
        if up.series() == 2 || std::time::Instant::now() > give_up {
            break (up, ratio);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let value = |cluster: &str| {
        let all = up.body["data"]["result"].as_array().unwrap();
        all.iter().find(|one| one["metric"]["cluster"] == cluster).map(|one| one["value"][1].clone())
    };
    assert_eq!((value("eu-1"), value("us-1")), (Some(json!("1")), Some(json!("0"))), "{}", up.body);
    assert_eq!(ratio.series(), 1, "{}", ratio.body);
    let names = ask(&hub, "/api/v1/label/__name__/values").await;
    assert_eq!(names.body["data"], json!(["up"]), "they are there for who asks for them by name");
}
