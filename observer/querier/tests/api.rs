//! The HTTP API over a fake store: parameters, shapes, errors, headers, and answers that lack data.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use fake_store::{FakeStore, Frame, frame, series, warning};
use http::{HeaderMap, Method, Request, StatusCode, header};
use parallax_dedup::Algorithm;
use parallax_model::{Labels, TimeRange};
use parallax_promql::engine::{EngineOptions, StatsOptions};
use parallax_querier::Declared;
use parallax_querier::api::{ApiOptions, StoreList, StoreStatus, router};
use parallax_querier::query::{QueryLimits, QueryRunner};
use parallax_storeapi::proto::thanos::LabelNamesResponse;
use parallax_telemetry::Metrics;
use tonic::Status;
use tower::ServiceExt;

struct TwoStores;

impl StoreList for TwoStores {
    fn stores(&self) -> Vec<StoreStatus> {
        let sidecar = StoreStatus {
            name: "sidecar:10901".to_owned(),
            component: "sidecar".to_owned(),
            last_check: Some("2026-07-01T00:00:00Z".parse().unwrap()),
            last_error: None,
            label_sets: vec![Labels::from_pairs([("cluster", "eu-1")])],
            range: TimeRange::new(1, i64::MAX),
            shipping: Vec::new(),
            declared: Declared::default(),
        };
        let never = StoreStatus {
            name: "store:10901".to_owned(),
            component: String::new(),
            last_check: None,
            last_error: Some("connection \"refused\"".to_owned()),
            label_sets: Vec::new(),
            range: TimeRange::new(i64::MIN, i64::MAX),
            shipping: Vec::new(),
            declared: Declared::default(),
        };
        vec![sidecar, never]
    }

    fn missing_clusters(&self) -> Vec<String> {
        vec!["us-1".to_owned()]
    }
}

fn api(store: FakeStore) -> Router {
    api_over(Arc::new(store), QueryLimits::default())
}

fn api_over(store: Arc<FakeStore>, limits: QueryLimits) -> Router {
    api_with(store, EngineOptions::default(), limits)
}

fn api_with(store: Arc<FakeStore>, engine: EngineOptions, limits: QueryLimits) -> Router {
    let runner = Arc::new(QueryRunner::new(store, engine, limits, &Metrics::new()));
    let flags = BTreeMap::from([("query.timeout".to_owned(), "2m".to_owned())]);
    let options = ApiOptions { replica_labels: vec!["replica".to_owned()], flags, ..ApiOptions::default() };
    router(runner, TwoStores, options)
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

async fn send(router: &Router, method: Method, uri: &str, form: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    Answer { status, headers, body: String::from_utf8(body.to_vec()).unwrap() }
}

async fn get(router: &Router, uri: &str) -> Answer {
    send(router, Method::GET, uri, "").await
}

fn up(replica: &str, samples: &[(i64, f64)]) -> Frame {
    frame(vec![series(&[("__name__", "up"), ("replica", replica)], samples)])
}

fn with_frames(frames: Vec<Frame>) -> FakeStore {
    FakeStore { frames, ..FakeStore::default() }
}

#[tokio::test]
async fn what_grafana_asks_on_save_and_test_is_answered() {
    let api = api(FakeStore::default());
    let answer = send(&api, Method::POST, "/api/v1/query", "query=1%2B1&time=4").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (StatusCode::OK, r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]}}"#)
    );
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert!(!answer.headers.contains_key(header::CACHE_CONTROL));
    let info = get(&api, "/api/v1/status/buildinfo").await;
    assert!(info.body.starts_with(r#"{"status":"success","data":{"version":""#), "{}", info.body);
    for path in ["/api/v1/labels", "/api/v1/label/job/values"] {
        assert_eq!(get(&api, path).await.body, r#"{"status":"success","data":[]}"#, "{path}");
    }
}

#[tokio::test]
async fn only_scalars_are_written_without_exponents() {
    let api = api(FakeStore::default());
    let range = "/api/v1/query_range?start=4&end=4&step=1&query=";
    for (uri, data) in [
        (
            "/api/v1/query?time=4&query=1e21",
            r#"{"resultType":"scalar","result":[4,"1000000000000000000000"]}"#,
        ),
        ("/api/v1/query?time=4&query=9.99e-7", r#"{"resultType":"scalar","result":[4,"0.000000999"]}"#),
        (
            "/api/v1/query?time=4&query=vector(1e21)",
            r#"{"resultType":"vector","result":[{"metric":{},"value":[4,"1e+21"]}]}"#,
        ),
        (
            &format!("{range}1e21"),
            r#"{"resultType":"matrix","result":[{"metric":{},"values":[[4,"1e+21"]]}]}"#,
        ),
    ] {
        let body = get(&api, uri).await.body;
        assert_eq!(body, format!(r#"{{"status":"success","data":{data}}}"#), "{uri}");
    }
}

#[tokio::test]
async fn a_vector_is_deduplicated_unless_asked_otherwise() {
    let frames = || vec![up("0", &[(10_000, 1.0)]), up("1", &[(10_001, 1.0)])];
    let uri = "/api/v1/query?query=up&time=12.5";
    assert_eq!(
        get(&api(with_frames(frames())), uri).await.body,
        r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up"},"value":[12.500,"1"]}]}}"#
    );
    let both = get(&api(with_frames(frames())), &format!("{uri}&dedup=false")).await.body;
    assert!(both.contains(r#""replica":"0""#) && both.contains(r#""replica":"1""#), "{both}");
    let other = get(&api(with_frames(frames())), &format!("{uri}&replicaLabels[]=pod")).await.body;
    assert!(other.contains(r#""replica":"0""#), "{other}");
}

#[tokio::test]
async fn each_query_may_choose_how_replicas_become_one_series() {
    // The left replica misses the scrape at 40 s; the right one comes 3 s after each.
    let left = [0, 10, 20, 30, 50, 60, 70, 80].map(|at| (at * 1000, 1.0));
    let right = [0, 10, 20, 30, 40, 50, 60, 70, 80].map(|at| (at * 1000 + 3000, 2.0));
    let frames = || vec![up("0", &left), up("1", &right)];
    let times = |body: &str| -> Vec<i64> {
        let answer: serde_json::Value = serde_json::from_str(body).unwrap();
        let values = answer["data"]["result"][0]["values"].as_array().unwrap().clone();
        values.iter().map(|sample| sample[0].as_f64().unwrap() as i64).collect()
    };
    let all = vec![0, 3, 10, 13, 20, 23, 30, 33, 43, 50, 53, 60, 63, 70, 73, 80, 83];
    let penalty = vec![0, 10, 20, 30, 50, 60, 70, 80];
    let gap_aware = vec![0, 10, 20, 30, 43, 53, 63, 73, 83];
    for default in [Algorithm::Penalty, Algorithm::GapAware] {
        let limits = QueryLimits { algorithm: default, ..QueryLimits::default() };
        let api = api_over(Arc::new(with_frames(frames())), limits);
        let ask = |more: &'static str| {
            let uri = format!("/api/v1/query?query=up%5B100s%5D&time=90{more}");
            let api = api.clone();
            async move { times(&get(&api, &uri).await.body) }
        };
        assert_eq!(ask("&dedup_func=penalty").await, penalty);
        assert_eq!(ask("&dedup_func=chain").await, all);
        assert_eq!(ask("&dedup_func=gap-aware").await, gap_aware);
        let by_default = if default == Algorithm::Penalty { &penalty } else { &gap_aware };
        assert_eq!(&ask("").await, by_default, "{default}");
    }
}

#[tokio::test]
async fn a_range_is_a_matrix() {
    let api = api(with_frames(vec![up("0", &[(10_000, 1.0), (20_000, f64::INFINITY)])]));
    let answer = get(&api, "/api/v1/query_range?query=up&start=10&end=20&step=5").await;
    assert_eq!(
        answer.body,
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[10,"1"],[15,"1"],[20,"+Inf"]]}]}}"#
    );
}

#[tokio::test]
async fn bad_parameters_are_named_as_in_prometheus() {
    let api = api(FakeStore::default());
    let range = "/api/v1/query_range?query=up&start=0&end=100";
    for (uri, message) in [
        (
            "/api/v1/query?query=sum(",
            r#"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"#,
        ),
        (
            "/api/v1/query?query=1&time=x",
            r#"invalid parameter \"time\": Invalid time value for 'time': cannot parse \"x\" to a valid timestamp"#,
        ),
        (
            "/api/v1/query_range?query=1&end=1&step=1",
            r#"invalid parameter \"start\": cannot parse \"\" to a valid timestamp"#,
        ),
        (
            "/api/v1/query_range?query=1&start=2&end=1&step=1",
            r#"invalid parameter \"end\": end timestamp must not be before start time"#,
        ),
        (
            &format!("{range}&step=0"),
            r#"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"#,
        ),
        (
            &format!("{range}000&step=1"),
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        (
            "/api/v1/query_range?query=up[5m]&start=0&end=1&step=1",
            r#"invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"#,
        ),
        ("/api/v1/query?query=1&limit=-1", r#"invalid parameter \"limit\": limit must be non-negative"#),
        (
            "/api/v1/query?query=1&dedup=perhaps",
            r#"invalid parameter \"dedup\": cannot parse \"perhaps\" to a valid bool"#,
        ),
        ("/api/v1/query?query=1&engine=x", "'x' bad engine"),
        (
            "/api/v1/query?query=1&max_source_resolution=-5",
            "negative 'max_source_resolution' is not accepted. Try a positive integer",
        ),
        ("/api/v1/series", "no match[] parameter provided"),
        (
            "/api/v1/series?match[]={a=~\".*\"}",
            r#"invalid parameter \"match[]\": match[] must contain at least one non-empty matcher"#,
        ),
        ("/api/v1/labels?start=2&end=1", "end timestamp must not be before start time"),
    ] {
        let uri = uri.replace('{', "%7B").replace('}', "%7D").replace('"', "%22");
        let answer = get(&api, &uri).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{uri}: {}", answer.body);
        assert_eq!(
            answer.body,
            format!(r#"{{"status":"error","errorType":"bad_data","error":"{message}"}}"#)
        );
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    }
}

#[tokio::test]
async fn a_shard_of_a_query_asks_for_that_shard_only() {
    let store = Arc::new(FakeStore::default());
    let api = api_over(store.clone(), QueryLimits::default());
    let shard = r#"{"shard_index":1,"total_shards":3,"by":true,"labels":["pod"]}"#;
    let form = format!("query=up&shard_info={}", shard.replace('"', "%22"));
    assert_eq!(send(&api, Method::POST, "/api/v1/query", &form).await.status, StatusCode::OK);
    let asked = store.asked.lock().unwrap().clone().unwrap().shard_info.unwrap();
    assert_eq!(
        (asked.shard_index, asked.total_shards, asked.by, asked.labels),
        (1, 3, true, vec!["pod".to_owned()])
    );
    let answer = send(&api, Method::POST, "/api/v1/query", "query=up&shard_info=x").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_partial_answer_says_what_is_missing_and_is_not_cached() {
    let frames = vec![warning("cluster us-1 is missing"), up("0", &[(10_000, 1.0)])];
    let answer = get(&api(with_frames(frames)), "/api/v1/query?query=up&time=10").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.ends_with(r#""warnings":["cluster us-1 is missing"]}"#), "{}", answer.body);
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
}

#[tokio::test]
async fn a_store_that_fails_without_partial_response_is_an_error() {
    let frames = vec![Err(Status::aborted("store us-1:10901 is down"))];
    let answer = get(&api(with_frames(frames)), "/api/v1/query?query=up&partial_response=false").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        answer.body,
        r#"{"status":"error","errorType":"execution","error":"expanding series: store us-1:10901 is down"}"#
    );
}

#[tokio::test]
async fn the_timeout_of_the_url_gives_what_arrived_in_time() {
    let hanging = || FakeStore { hangs: true, ..with_frames(vec![up("0", &[(10_000, 1.0)])]) };
    let uri = "/api/v1/query?query=up&time=10&timeout=200ms";
    let answer = get(&api(hanging()), uri).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(
        answer.body.contains(r#""value":[10,"1"]"#) && answer.body.contains("warnings"),
        "{}",
        answer.body
    );
    let answer = get(&api(hanging()), &format!("{uri}&partial_response=false")).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains(r#""errorType":"timeout""#), "{}", answer.body);
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_requests() {
    let store = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
    let api = api_over(store.clone(), QueryLimits::default());
    let asking = tokio::spawn(async move { get(&api, "/api/v1/query?query=up").await.status });
    while store.asked.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    asking.abort();
    while !store.dropped.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn queries_beyond_the_queue_are_refused() {
    let store = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
    let limits = QueryLimits { max_concurrent: 1, max_waiting: 0, ..QueryLimits::default() };
    let api = api_over(store.clone(), limits);
    let busy = tokio::spawn({
        let api = api.clone();
        async move { get(&api, "/api/v1/query?query=up").await.status }
    });
    while store.asked.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let answer = get(&api, "/api/v1/query?query=up").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains("query timed out in query queue, which is full"), "{}", answer.body);
    busy.abort();
}

#[tokio::test]
async fn waiting_for_a_slot_ends_with_the_deadline() {
    let store = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
    let limits = QueryLimits { max_concurrent: 1, ..QueryLimits::default() };
    let api = api_over(store.clone(), limits);
    let busy = tokio::spawn({
        let api = api.clone();
        async move { get(&api, "/api/v1/query?query=up").await.status }
    });
    while store.asked.lock().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let answer = get(&api, "/api/v1/query?query=up&timeout=50ms").await;
    assert!(answer.body.contains("query timed out in query queue"), "{}", answer.body);
    busy.abort();
}

#[tokio::test]
async fn series_are_listed_once_and_cut_to_the_limit() {
    let frames = || {
        vec![frame(vec![
            series(&[("__name__", "up"), ("job", "a"), ("replica", "0")], &[(1, 1.0)]),
            series(&[("__name__", "up"), ("job", "a"), ("replica", "1")], &[(1, 1.0)]),
            series(&[("__name__", "up"), ("job", "b"), ("replica", "0")], &[(1, 1.0)]),
        ])]
    };
    let uri = "/api/v1/series?match[]=up&match[]=up";
    let answer = get(&api(with_frames(frames())), uri).await;
    assert_eq!(
        answer.body,
        r#"{"status":"success","data":[{"__name__":"up","job":"a"},{"__name__":"up","job":"b"}]}"#
    );
    let cut = get(&api(with_frames(frames())), &format!("{uri}&limit=1")).await;
    assert_eq!(
        cut.body,
        r#"{"status":"success","data":[{"__name__":"up","job":"a"}],"warnings":["results truncated due to limit"]}"#
    );
}

#[tokio::test]
async fn label_answers_carry_warnings_of_stores() {
    let label_answer = LabelNamesResponse {
        names: vec!["b".to_owned(), "a\"".to_owned()],
        warnings: vec!["us-1 is missing".to_owned()],
        ..LabelNamesResponse::default()
    };
    let api = api(FakeStore { label_answer, ..FakeStore::default() });
    for path in ["/api/v1/labels", "/api/v1/label/U__a_2e_b/values"] {
        let answer = get(&api, path).await;
        assert_eq!(answer.body, r#"{"status":"success","data":["a\"","b"],"warnings":["us-1 is missing"]}"#);
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    }
}

#[tokio::test]
async fn stores_are_shown_as_in_thanos_with_missing_clusters() {
    let answer = get(&api(FakeStore::default()), "/api/v1/stores").await;
    assert_eq!(
        answer.body,
        concat!(
            r#"{"status":"success","data":{"sidecar":[{"name":"sidecar:10901","lastCheck":"2026-07-01T00:00:00Z","#,
            r#""lastError":null,"labelSets":[{"cluster":"eu-1"}],"minTime":1,"maxTime":9223372036854775807}],"#,
            r#""unknown":[{"name":"store:10901","lastCheck":"0001-01-01T00:00:00Z","#,
            r#""lastError":"connection \"refused\"","labelSets":[],"minTime":-9223372036854775808,"#,
            r#""maxTime":9223372036854775807}]},"warnings":["expected cluster us-1 is missing"],"#,
            r#""missingClusters":["us-1"]}"#
        )
    );
}

#[tokio::test]
async fn browsers_of_any_origin_may_ask() {
    let api = api(FakeStore::default());
    let preflight = send(&api, Method::OPTIONS, "/api/v1/query", "").await;
    assert_eq!(preflight.status, StatusCode::NO_CONTENT);
    for answer in [preflight, get(&api, "/api/v1/status/flags").await] {
        assert_eq!(answer.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
    assert_eq!(get(&api, "/api/v1/nothing").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn stats_are_given_where_they_are_asked_for() {
    let api = api(FakeStore::default());
    let answer = get(&api, "/api/v1/query?query=1&time=1&stats=all").await;
    assert!(answer.body.contains(r#""stats":{"timings":{"evalTotalTime":"#), "{}", answer.body);
    assert!(!answer.headers.contains_key(header::CACHE_CONTROL));
}

fn parsed(answer: &Answer) -> serde_json::Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {}", answer.body))
}

#[tokio::test]
async fn stats_have_prometheus_names_and_per_step_only_with_its_feature() {
    let frames = || vec![up("0", &[(10_000, 1.0), (20_000, 1.0)])];
    let uri = "/api/v1/query_range?query=up&start=5.5&end=25.5&step=10&stats=";
    let plain = api(with_frames(frames()));
    let stats = StatsOptions { per_step: true, ..StatsOptions::default() };
    let engine = EngineOptions { stats, ..EngineOptions::default() };
    let with_feature = api_with(Arc::new(with_frames(frames())), engine, QueryLimits::default());
    for (api, value, per_step) in [
        (&plain, "true", None),
        (&plain, "all", None),
        (&with_feature, "1", None),
        (&with_feature, "all", Some(serde_json::json!([[5.5, 0], [15.5, 1], [25.5, 1]]))),
    ] {
        let answer = parsed(&get(api, &format!("{uri}{value}")).await);
        let stats = &answer["data"]["stats"];
        assert_eq!(stats["samples"]["totalQueryableSamples"], 2);
        assert!(stats["samples"]["peakSamples"].as_u64() >= Some(2));
        assert_eq!(stats["samples"].get("totalQueryableSamplesPerStep"), per_step.as_ref(), "{value}");
        for timing in [
            "evalTotalTime",
            "resultSortTime",
            "queryPreparationTime",
            "innerEvalTime",
            "execQueueTime",
            "execTotalTime",
        ] {
            assert!(stats["timings"][timing].is_f64() || stats["timings"][timing].is_u64(), "{timing}");
        }
        assert!(answer["data"].get("analysis").is_none());
    }
    assert!(parsed(&get(&plain, uri).await)["data"].get("stats").is_none());
}

#[tokio::test]
async fn an_analysis_is_a_tree_of_operators() {
    let api = api(with_frames(vec![up("0", &[(10_000, 1.0), (20_000, 1.0)])]));
    for value in ["true", "1"] {
        let uri = format!("/api/v1/query_range?query=sum(up)&start=10&end=20&step=5&analyze={value}");
        let analysis = parsed(&get(&api, &uri).await)["data"]["analysis"].take();
        assert_eq!(analysis["name"], "[aggregate] sum by ()");
        let selector = &analysis["children"][0];
        assert_eq!(selector["name"], "[vectorSelector] up");
        for (operator, series) in [(&analysis, 1), (selector, 1)] {
            assert_eq!(operator["series"], series);
            assert_eq!(operator["samples"], 3);
            assert_eq!(operator["totalSamples"], 3);
            assert!(operator["bytes"].as_u64() > Some(0));
            let time = operator["executionTime"].as_str().unwrap();
            assert!(time.ends_with('s'), "{time}");
        }
        assert!(selector.get("children").is_none());
    }
    for value in ["", "0", "false", "all"] {
        let uri = format!("/api/v1/query?query=up&time=10&analyze={value}");
        assert!(parsed(&get(&api, &uri).await)["data"].get("analysis").is_none(), "{value}");
    }
}

#[tokio::test]
async fn a_query_is_explained_without_being_run() {
    let store = Arc::new(with_frames(vec![up("0", &[(10_000, 1.0)])]));
    let api = api_over(store.clone(), QueryLimits::default());
    let wanted = r#"{"status":"success","data":{"name":"[aggregate] sum by ()","children":[{"name":"[vectorSelector] up"}]}}"#;
    for (method, path, parameters) in [
        (Method::GET, "/api/v1/query_explain", "query=sum(up)&time=1"),
        (Method::POST, "/api/v1/query_explain", "query=sum(up)"),
        (Method::GET, "/api/v1/query_range_explain", "query=sum(up)&start=0&end=10&step=5"),
        (Method::POST, "/api/v1/query_range_explain", "query=sum(up)&start=0&end=10&step=5&engine=thanos"),
    ] {
        let (uri, form) = match method {
            Method::GET => (format!("{path}?{parameters}"), ""),
            _ => (path.to_owned(), parameters),
        };
        let answer = send(&api, method, &uri, form).await;
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, wanted), "{uri}");
    }
    // What a replica label says of one side says nothing of the other, for deduplicated series do not show it.
    for (dedup, read) in [(true, r#"y{job=\"a\"}"#), (false, r#"y{job=\"a\",replica=\"0\"}"#)] {
        let uri = format!("/api/v1/query_explain?dedup={dedup}&query=x%7Bjob=%22a%22,replica=%220%22%7D%2By");
        let body = get(&api, &uri).await.body;
        assert!(body.contains(&format!(r#""[vectorSelector] {read}""#)), "{body}");
    }
    for (uri, status) in [
        ("/api/v1/query_explain?query=sum(", StatusCode::BAD_REQUEST),
        ("/api/v1/query_range_explain?query=up&start=0&end=10&step=0", StatusCode::BAD_REQUEST),
        ("/api/v1/query_range_explain?query=up[5m]&start=0&end=10&step=5", StatusCode::BAD_REQUEST),
        ("/api/v1/query_explain?query=count_values(%22%22,up)", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        assert_eq!(get(&api, uri).await.status, status, "{uri}");
    }
    assert!(store.asked.lock().unwrap().is_none(), "no store was asked");
}

#[tokio::test]
async fn requests_for_series_and_labels_take_a_slot_and_the_queue_is_bounded() {
    let hung = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
    let api =
        api_over(hung.clone(), QueryLimits { max_concurrent: 1, max_waiting: 0, ..QueryLimits::default() });
    let busy = api.clone();
    let first = tokio::spawn(async move { get(&busy, "/api/v1/series?match[]=up").await });
    while hung.asked.lock().unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    for uri in
        ["/api/v1/series?match[]=up", "/api/v1/labels", "/api/v1/label/job/values", "/api/v1/query?query=1"]
    {
        let answer = get(&api, uri).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{uri}");
        assert!(answer.body.contains("query queue, which is full"), "{uri}: {}", answer.body);
    }
    // Bad parameters are told without a slot.
    assert_eq!(get(&api, "/api/v1/series").await.status, StatusCode::BAD_REQUEST);
    first.abort();
    let _ = first.await;
    assert_eq!(get(&api, "/api/v1/labels").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_selectors_of_one_request_for_series_share_one_budget() {
    let jobs: Vec<String> = (0..50).map(|job| format!("{job:0100}")).collect();
    let found = jobs.iter().map(|job| series(&[("__name__", "up"), ("job", job)], &[(1, 1.0)])).collect();
    let frames = vec![frame(found)];
    let limits = QueryLimits { max_held_bytes: 10_000, ..QueryLimits::default() };
    let api = api_over(Arc::new(with_frames(frames)), limits);
    assert_eq!(get(&api, "/api/v1/series?match[]=up").await.status, StatusCode::OK);
    let answer = get(&api, "/api/v1/series?match[]=up&match[]=up").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", answer.body);
    assert!(answer.body.contains("more than 10000 bytes"), "{}", answer.body);
}
