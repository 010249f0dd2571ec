//! The small services over fakes, through HTTP: shapes, filters, and replicas made one.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;

use fake_side::{FakeSide, fake};
use http::StatusCode;
use hub::{Hub, down, local, served};
use parallax_model::Labels;
use parallax_storeapi::labels::set_to_wire;
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::{
    ActiveTarget, Alert, AlertInstance, AlertState, DroppedTarget, Exemplar, ExemplarData, HeadStatistics,
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, PartialResponseStrategy,
    RecordingRule, Rule, RuleGroup, RulesRequest, RulesResponse, SeriesRequest, Statistic, TargetDiscovery,
    TargetHealth, TsdbStatistics, TsdbStatisticsEntry, ZLabelSet,
};
use parallax_storeapi::{FrameStream, SeriesStream, SideServices, Store, async_trait};
use prost_types::Timestamp;
use serde_json::{Value, json};
use tonic::{Request, Status};

fn set(pairs: &[(&str, &str)]) -> Option<ZLabelSet> {
    Some(set_to_wire(&Labels::from_pairs(pairs.iter().copied())))
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// A replica of a cluster: an alert in `state` evaluated at `evaluated`, a recording rule, a target, a series with exemplars.
fn replica(cluster: &str, replica: &str, state: AlertState, evaluated: i64) -> Arc<FakeSide> {
    let external = [("cluster", cluster), ("replica", replica)];
    let with = |pairs: &[(&str, &str)]| set(&[&external[..], pairs].concat());
    let alert = Alert {
        state: state.into(),
        name: "Down".to_owned(),
        query: "up == 0".to_owned(),
        duration_seconds: 60.0,
        labels: with(&[("severity", "page")]),
        annotations: set(&[("summary", "it is down")]),
        alerts: vec![AlertInstance {
            labels: with(&[("alertname", "Down"), ("instance", "a")]),
            annotations: set(&[("summary", "it is down")]),
            state: state.into(),
            active_at: at(evaluated - 90),
            value: "0e+00".to_owned(),
            partial_response_strategy: PartialResponseStrategy::Abort.into(),
        }],
        health: "ok".to_owned(),
        evaluation_duration_seconds: 0.25,
        last_evaluation: at(evaluated),
        ..Alert::default()
    };
    let recording = RecordingRule {
        name: "job:up:sum".to_owned(),
        query: "sum by (job) (up)".to_owned(),
        labels: with(&[]),
        health: "err".to_owned(),
        last_error: "no".to_owned(),
        last_evaluation: at(evaluated),
        ..RecordingRule::default()
    };
    let group = RuleGroup {
        name: "availability".to_owned(),
        file: "rules.yml".to_owned(),
        rules: vec![
            Rule { result: Some(Kind::Alert(alert)) },
            Rule { result: Some(Kind::Recording(recording)) },
        ],
        interval: 15.0,
        last_evaluation: at(evaluated),
        partial_response_strategy: PartialResponseStrategy::Abort.into(),
        ..RuleGroup::default()
    };
    let target = ActiveTarget {
        discovered_labels: with(&[("__address__", "a:9100"), ("job", "node")]),
        labels: with(&[("instance", "a"), ("job", "node")]),
        scrape_pool: "node".to_owned(),
        scrape_url: "http://a:9100/metrics".to_owned(),
        global_url: "http://a:9100/metrics".to_owned(),
        last_scrape: at(evaluated),
        last_scrape_duration: 0.5,
        health: TargetHealth::Up.into(),
        ..ActiveTarget::default()
    };
    let dropped = DroppedTarget { discovered_labels: with(&[("job", "other")]) };
    let exemplar = |ts, value| Exemplar { labels: set(&[("trace_id", "t")]), value, ts };
    let exemplars = ExemplarData {
        series_labels: with(&[("__name__", "requests_total")]),
        exemplars: vec![exemplar(1_500, 1.0), exemplar(evaluated * 1_000, f64::INFINITY)],
    };
    let statistics = TsdbStatisticsEntry {
        head_statistics: Some(HeadStatistics {
            num_series: 100,
            num_label_pairs: 7,
            chunk_count: 200,
            min_time: evaluated,
            max_time: evaluated + 10,
        }),
        series_count_by_metric_name: vec![
            Statistic { name: "up".to_owned(), value: 3 },
            Statistic { name: "requests_total".to_owned(), value: 90 },
        ],
        label_value_count_by_label_name: vec![Statistic { name: "job".to_owned(), value: 4 }],
        ..TsdbStatisticsEntry::default()
    };
    Arc::new(FakeSide {
        groups: vec![group],
        targets: vec![TargetDiscovery { active_targets: vec![target], dropped_targets: vec![dropped] }],
        exemplars: vec![exemplars],
        statistics: vec![TsdbStatistics { statistics: [(String::new(), statistics)].into() }],
        ..fake(external)
    })
}

async fn two_replicas() -> Hub {
    let a = replica("eu-1", "0", AlertState::Pending, 1_000);
    let b = replica("eu-1", "1", AlertState::Firing, 990);
    Hub::over(vec![local("a", &a), local("b", &b)]).await
}

#[tokio::test]
async fn rules_have_prometheus_shape_and_of_replicas_the_worse_state() {
    let hub = two_replicas().await;
    let data = hub.whole("/api/v1/rules").await;
    let alert = json!({
        "labels": {"alertname": "Down", "cluster": "eu-1", "instance": "a"},
        "annotations": {"summary": "it is down"},
        "state": "firing",
        "activeAt": "1970-01-01T00:15:00Z",
        "value": "0e+00",
        "partialResponseStrategy": "ABORT",
    });
    let alerting = json!({
        "state": "firing",
        "name": "Down",
        "query": "up == 0",
        "duration": 60.0,
        "keepFiringFor": 0.0,
        "labels": {"cluster": "eu-1", "severity": "page"},
        "annotations": {"summary": "it is down"},
        "alerts": [alert.clone()],
        "health": "ok",
        "evaluationTime": 0.25,
        "lastEvaluation": "1970-01-01T00:16:30Z",
        "type": "alerting",
    });
    let recording = json!({
        "name": "job:up:sum",
        "query": "sum by (job) (up)",
        "labels": {"cluster": "eu-1"},
        "health": "err",
        "lastError": "no",
        "evaluationTime": 0.0,
        "lastEvaluation": "1970-01-01T00:16:40Z",
        "type": "recording",
    });
    let group = json!({
        "name": "availability",
        "file": "rules.yml",
        "rules": [alerting, recording],
        "interval": 15.0,
        "limit": 0,
        "evaluationTime": 0.0,
        "lastEvaluation": "1970-01-01T00:16:40Z",
        "partialResponseStrategy": "ABORT",
    });
    assert_eq!(data, json!({"groups": [group]}));
    assert_eq!(hub.whole("/api/v1/alerts").await, json!({"alerts": [alert]}));

    let undeduplicated = hub.whole("/api/v1/rules?dedup=false").await;
    assert_eq!(undeduplicated["groups"][0]["rules"].as_array().unwrap().len(), 4);
    assert_eq!(hub.whole("/api/v1/alerts?dedup=false").await["alerts"].as_array().unwrap().len(), 2);
}

/// The names of the rules in an answer.
fn names(data: &Value) -> Vec<String> {
    let groups = data["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn rules_are_filtered_as_in_prometheus_at_every_tier() {
    let leaf = two_replicas().await;
    let hub = Hub::over(vec![served(leaf.querier.clone(), &leaf.context).await]).await;
    for (query, expected) in [
        ("", vec!["Down", "job:up:sum"]),
        ("type=alert", vec!["Down"]),
        ("type=RECORD", vec!["job:up:sum"]),
        ("rule_name[]=Down&rule_name[]=x", vec!["Down"]),
        ("rule_group[]=x", vec![]),
        ("file[]=rules.yml", vec!["Down", "job:up:sum"]),
        ("match[]=%7Bseverity=%22page%22%7D", vec!["Down"]),
        ("match[]=%7Bcluster=%22us-1%22%7D", vec![]),
    ] {
        assert_eq!(names(&hub.whole(&format!("/api/v1/rules?{query}")).await), expected, "{query}");
    }
    let without = hub.whole("/api/v1/rules?type=alert&exclude_alerts=true").await;
    assert_eq!(without["groups"][0]["rules"][0]["alerts"], json!([]));
    for query in ["type=x", "match[]=%7B", "exclude_alerts=x", "group_limit=0", "group_next_token=a"] {
        let (status, answer) = hub.ask(&format!("/api/v1/rules?{query}")).await;
        assert_eq!(
            (status, answer["errorType"].as_str()),
            (StatusCode::BAD_REQUEST, Some("bad_data")),
            "{query}"
        );
    }
}

#[tokio::test]
async fn groups_come_in_pages() {
    let recording = Rule { result: Some(Kind::Recording(RecordingRule::default())) };
    let group = |name: &str| RuleGroup {
        name: name.to_owned(),
        rules: vec![recording.clone()],
        ..RuleGroup::default()
    };
    let many =
        Arc::new(FakeSide { groups: ["c", "a", "b"].map(group).to_vec(), ..fake([("cluster", "eu-1")]) });
    let hub = Hub::over(vec![local("a", &many)]).await;
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let data = hub.whole(&format!("/api/v1/rules?group_limit=2{token}")).await;
        seen.push(data["groups"].as_array().unwrap().iter().map(|g| g["name"].clone()).collect::<Vec<_>>());
        match data["groupNextToken"].as_str() {
            Some(next) => token = format!("&group_next_token={next}"),
            None => break,
        }
    }
    assert_eq!(seen, [vec![json!("a"), json!("b")], vec![json!("c")]]);
    let (status, _) = hub.ask("/api/v1/rules?group_limit=2&group_next_token=00").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn targets_of_replicas_are_there_once() {
    let leaf = two_replicas().await;
    let top = Hub::over(vec![served(leaf.querier.clone(), &leaf.context).await]).await;
    for hub in [&leaf, &top] {
        check_targets(hub).await;
    }
}

async fn check_targets(hub: &Hub) {
    let active = json!({
        "discoveredLabels": {"__address__": "a:9100", "cluster": "eu-1", "job": "node"},
        "labels": {"cluster": "eu-1", "instance": "a", "job": "node"},
        "scrapePool": "node",
        "scrapeUrl": "http://a:9100/metrics",
        "globalUrl": "http://a:9100/metrics",
        "lastError": "",
        "lastScrape": "1970-01-01T00:16:40Z",
        "lastScrapeDuration": 0.5,
        "health": "up",
    });
    let dropped = json!({"discoveredLabels": {"cluster": "eu-1", "job": "other"}});
    let all = json!({"activeTargets": [active.clone()], "droppedTargets": [dropped.clone()]});
    for query in ["", "?state=any", "?state=Any"] {
        assert_eq!(hub.whole(&format!("/api/v1/targets{query}")).await, all);
    }
    let only_active = json!({"activeTargets": [active], "droppedTargets": []});
    let only_dropped = json!({"activeTargets": [], "droppedTargets": [dropped]});
    assert_eq!(hub.whole("/api/v1/targets?state=active").await, only_active);
    assert_eq!(hub.whole("/api/v1/targets?state=dropped").await, only_dropped);
    assert_eq!(hub.whole("/api/v1/targets?scrapePool=node").await, only_active);
    assert_eq!(hub.whole("/api/v1/targets?scrapePool=other").await, only_dropped);
    let (status, _) = hub.ask("/api/v1/targets?state=lost").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let both = hub.whole("/api/v1/targets?dedup=false").await;
    assert_eq!(both["activeTargets"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn exemplars_of_replicas_are_united_and_each_endpoint_gets_its_own_query() {
    let a = replica("eu-1", "0", AlertState::Inactive, 1_000);
    let b = replica("eu-1", "1", AlertState::Inactive, 990);
    let us = replica("us-1", "0", AlertState::Inactive, 1_000);
    let hub = Hub::over(vec![local("a", &a), local("b", &b), local("us", &us)]).await;
    let exemplar =
        |time: f64, value: &str| json!({"labels": {"trace_id": "t"}, "value": value, "timestamp": time});
    let uri = "/api/v1/query_exemplars?query=rate(requests_total%7Bcluster=%22eu-1%22%7D[5m])";
    let top = Hub::over(vec![served(hub.querier.clone(), &hub.context).await]).await;
    let data = top.whole(uri).await;
    assert_eq!(hub.whole(uri).await, data);
    let mut expected = vec![exemplar(1.5, "1"), exemplar(990.0, "+Inf"), exemplar(1000.0, "+Inf")];
    // Whole numbers are written as such.
    expected[1]["timestamp"] = json!(990);
    expected[2]["timestamp"] = json!(1000);
    let series = json!({"__name__": "requests_total", "cluster": "eu-1"});
    assert_eq!(data, json!([{"seriesLabels": series, "exemplars": expected}]));
    assert_eq!(us.calls(), 0, "it cannot have any");
    assert_eq!(*a.last_query.lock().unwrap(), r#"{__name__="requests_total"}"#);
    assert_eq!(hub.whole("/api/v1/query_exemplars?query=1").await, json!([]));
    let by_pod = hub.whole(&format!("{uri}&replicaLabels[]=pod")).await;
    assert_eq!(by_pod.as_array().unwrap().len(), 2, "replicas are told apart by another label");
    for query in ["", "query=sum(", "query=up&start=5&end=4", "query=up&start=x"] {
        let (status, _) = hub.ask(&format!("/api/v1/query_exemplars?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn statistics_add_up_over_clusters() {
    let eu = replica("eu-1", "0", AlertState::Inactive, 1_000);
    let us = replica("us-1", "0", AlertState::Inactive, 990);
    let leaf = Hub::over(vec![local("eu", &eu), local("us", &us)]).await;
    let hub = Hub::over(vec![served(leaf.querier.clone(), &leaf.context).await]).await;
    let one = |name: &str, value: u64| json!({"name": name, "value": value});
    let head =
        json!({"numSeries": 200, "numLabelPairs": 14, "chunkCount": 400, "minTime": 990, "maxTime": 1010});
    let expected = |by_name: Vec<Value>| {
        json!({
            "headStats": head,
            "seriesCountByMetricName": by_name,
            "labelValueCountByLabelName": [one("job", 4)],
            "memoryInBytesByLabelName": [],
            "seriesCountByLabelValuePair": [],
        })
    };
    let largest = one("requests_total", 180);
    let all = expected(vec![largest.clone(), one("up", 6)]);
    assert_eq!(hub.whole("/api/v1/status/tsdb").await, all);
    assert_eq!(hub.whole("/api/v1/status/tsdb?limit=1").await, expected(vec![largest]));
    for limit in ["0", "-1", "x", "10001"] {
        let (status, _) = hub.ask(&format!("/api/v1/status/tsdb?limit={limit}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{limit}");
    }
}

const SERVICES: [&str; 6] =
    ["rules", "alerts", "targets", "metadata", "query_exemplars?query=requests_total", "status/tsdb"];

#[tokio::test(flavor = "multi_thread")]
async fn every_service_says_what_its_answer_is_made_of_flat_and_three_deep() {
    let eu = replica("eu-1", "0", AlertState::Firing, 1_000);
    let bottom = Hub::over(vec![local("eu:1", &eu), down("us-1")]).await;
    let middle = Hub::over(vec![served(bottom.querier.clone(), &bottom.context).await]).await;
    let top = Hub::over(vec![served(middle.querier.clone(), &middle.context).await]).await;
    for (tier, hub) in [&bottom, &middle, &top].into_iter().enumerate() {
        for path in SERVICES {
            let (status, answer) = hub.ask(&format!("/api/v1/{path}")).await;
            let what = format!("{path}, tier {tier}: {answer}");
            let coverage = &answer["coverage"];
            assert_eq!((status, &coverage["state"]), (StatusCode::OK, &json!("partial")), "{what}");
            assert_eq!(coverage["clusters"][0], json!({"cluster": "eu-1", "state": "complete"}), "{what}");
            let missed = &coverage["clusters"][1];
            assert_eq!((&missed["cluster"], &missed["state"]), (&json!("us-1"), &json!("missing")), "{what}");
            assert_eq!(missed["parts"][0]["store"], "sidecar-us-1", "{what}");
            assert_eq!(answer["warnings"].as_array().unwrap().len(), 1, "{what}");
            assert!(!answer["warnings"].to_string().contains("parallax-coverage"), "{what}");
        }
    }
}

/// A querier that does not know what whoever asks wants to know of an answer, as Thanos'.
struct Unknowing(Arc<dyn Store>);

#[async_trait]
impl Store for Unknowing {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let mut info = self.0.info().await?;
        // What is beneath has no series to advertise it.
        info.label_sets.extend(set(&[("cluster", "eu-1")]));
        Ok(info)
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.0.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.0.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.0.label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

#[async_trait]
impl SideServices for Unknowing {
    async fn rules(&self, mut request: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        request.metadata_mut().remove("parallax-coverage");
        self.0.side().rules(request).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_through_a_querier_that_vouches_for_nothing_are_unattested() {
    let eu = replica("eu-1", "0", AlertState::Firing, 1_000);
    let bottom = Hub::over(vec![local("eu:1", &eu), down("us-1")]).await;
    let unknowing = served(Arc::new(Unknowing(bottom.querier.clone())), &bottom.context).await;
    let top = Hub::over(vec![unknowing]).await;
    let (_, answer) = top.ask("/api/v1/rules").await;
    let clusters = &answer["coverage"]["clusters"];
    assert_eq!(
        (&clusters[0]["cluster"], &clusters[0]["state"]),
        (&json!("eu-1"), &json!("unattested")),
        "{answer}"
    );
    assert_eq!(
        (&clusters[1]["cluster"], &clusters[1]["state"]),
        (&json!("us-1"), &json!("missing")),
        "{answer}"
    );
    assert_eq!(answer["data"]["groups"].as_array().unwrap().len(), 1, "{answer}");
}
