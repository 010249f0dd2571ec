//! Queries that are too long, too deep, too wide or senseless: a clear 400 or 422 by GET and by POST, and no thread's stack overflows.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use fake_store::{FakeStore, frame, series};
use http::{Method, Request, StatusCode, header};
use parallax_model::{Labels, TimeRange};
use parallax_promql::engine::EngineOptions;
use parallax_promql::parse::ParserOptions;
use parallax_querier::Declared;
use parallax_querier::api::{ApiOptions, StoreList, StoreStatus, router};
use parallax_querier::query::{QueryLimits, QueryRunner};
use parallax_telemetry::Metrics;
use tower::ServiceExt;

/// The smallest stack a thread of ours has: tokio's and Rust's default.
const STACK_BYTES: usize = 2 << 20;

struct OneStore;

impl StoreList for OneStore {
    fn stores(&self) -> Vec<StoreStatus> {
        vec![StoreStatus {
            name: "store".to_owned(),
            component: "store".to_owned(),
            last_check: None,
            last_error: None,
            label_sets: vec![Labels::empty()],
            range: TimeRange::new(0, i64::MAX),
            shipping: Vec::new(),
            declared: Declared::default(),
        }]
    }

    fn missing_clusters(&self) -> Vec<String> {
        Vec::new()
    }
}

fn api(parser: ParserOptions) -> Router {
    let up = series(&[("__name__", "up"), ("instance", "a:1")], &[(10_000, 1.0), (20_000, 2.0)]);
    let store = FakeStore { frames: vec![frame(vec![up])], ..FakeStore::default() };
    let runner =
        QueryRunner::new(Arc::new(store), EngineOptions::default(), QueryLimits::default(), &Metrics::new());
    router(Arc::new(runner), OneStore, ApiOptions { parser, ..ApiOptions::default() })
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

async fn ask(api: &Router, method: Method, path: &str, parameters: &str) -> (StatusCode, String) {
    let (uri, form) = match method {
        Method::GET => (format!("{path}?{parameters}"), String::new()),
        _ => (path.to_owned(), parameters.to_owned()),
    };
    let request = Request::builder()
        .method(method)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form))
        .unwrap();
    let response = api.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// Runs `work` on a runtime whose threads have the smallest stack.
fn on_small_stacks<F: Future<Output = ()> + Send + 'static>(work: F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { tokio::spawn(work).await.unwrap() });
}

/// Asks by POST, and by GET what fits into a request line; both answers are the same.
async fn refused(wrong: &mut Vec<String>, api: &Router, query: &str, status: StatusCode, said: &str) {
    const LONGEST_LINE: usize = 60_000;
    let shown: String = query.chars().take(60).collect();
    for (path, times) in [("/api/v1/query", "&time=15"), ("/api/v1/query_range", "&start=10&end=20&step=5")] {
        let parameters = format!("query={}{times}", encoded(query));
        for method in [Method::POST, Method::GET] {
            if method == Method::GET && parameters.len() > LONGEST_LINE {
                continue;
            }
            let (answered, body) = ask(api, method.clone(), path, &parameters).await;
            if answered != status || !body.contains(said) {
                wrong.push(format!("{method} {path} {shown}: {answered}, not {status} {said}: {body:.300}"));
            }
            if body.len() >= 3 * query.len() + 1_000 {
                wrong.push(format!("{method} {path} {shown}: an error of {} bytes", body.len()));
            }
        }
    }
}

/// All that is wrong at once, since each case stands for itself.
fn nothing_is(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn long_and_deep_queries_are_refused() {
    on_small_stacks(async {
        let api = api(ParserOptions::all_features());
        let bad = StatusCode::BAD_REQUEST;
        let mut wrong = Vec::new();
        let deep = "levels deep";
        for (query, said) in [
            ("x".repeat((1 << 20) + 1), "is longer than"),
            (format!("up{{a=\"{}\"}}", "y".repeat(1 << 20)), "is longer than"),
            (format!("{}1{}", "(".repeat(10_000), ")".repeat(10_000)), deep),
            ("(".repeat(1_000_000), deep),
            (format!("{}1", "-".repeat(10_000)), deep),
            (format!("{}up{}", "abs(".repeat(10_000), ")".repeat(10_000)), deep),
            (format!("{}up{}", "sum(".repeat(10_000), ")".repeat(10_000)), deep),
            ("max_over_time(".repeat(10_000), deep),
            (format!("1{}", "+1".repeat(10_000)), deep),
            (format!("1{}", "^1".repeat(10_000)), deep),
            (format!("up{}", " or up".repeat(10_000)), deep),
            (format!("up[{}5m{}]", "(".repeat(10_000), ")".repeat(10_000)), ""),
            (format!("up[5m{}]", "+5m".repeat(10_000)), ""),
            ("{".repeat(10_000), "unexpected"),
            ("[".repeat(10_000), "unexpected"),
            ("\"".repeat(9_999), ""),
            (format!("up{{a=\"{}\"}}", "\\u0000".repeat(5_000) + "\\xzz"), ""),
        ] {
            refused(&mut wrong, &api, &query, bad, said).await;
        }
        nothing_is(wrong);
    });
}

#[test]
fn queries_that_are_just_not_too_deep_are_answered() {
    on_small_stacks(async {
        let api = api(ParserOptions::all_features());
        let mut wrong = Vec::new();
        for query in [
            format!("{}up{}", "(".repeat(99), ")".repeat(99)),
            format!("{}up{}", "abs(".repeat(99), ")".repeat(99)),
            format!("{}up{}", "sum(".repeat(99), ")".repeat(99)),
            format!("{}up", "-".repeat(99)),
            format!("up{}", " + up".repeat(398)),
            format!("{}up{}", "max_over_time(".repeat(49), "[1m:30s])".repeat(49)),
            format!("{}up{}", "label_replace(".repeat(99), ", \"a\", \"b\", \"c\", \"d\")".repeat(99)),
            format!("up{{{}}}", "a!=\"b\",".repeat(20_000)),
            format!("up{{a=~\"{}\"}}", "x|".repeat(20_000)),
            format!("sum by ({}) (up)", "a,".repeat(50_000)),
        ] {
            for path in ["/api/v1/query", "/api/v1/query_explain"] {
                let parameters = format!("query={}&time=15&analyze=true", encoded(&query));
                let (status, body) = ask(&api, Method::POST, path, &parameters).await;
                if status != StatusCode::OK {
                    wrong.push(format!("{path} {query:.60}: {status} {body:.300}"));
                }
            }
        }
        nothing_is(wrong);
    });
}

#[test]
fn regular_expressions_that_explode_are_refused_where_they_stand() {
    on_small_stacks(async {
        let api = api(ParserOptions::default());
        let mut wrong = Vec::new();
        for pattern in [
            "((a{1000}){1000}){1000}".to_owned(),
            "(a{0,1000}){1000}".to_owned(),
            "[\\\\p{L}]{1000}{1000}".to_owned(),
            "(?:".repeat(10_000) + &")".repeat(10_000),
            "(".repeat(100_000),
            "**".to_owned(),
            "[z-a]".to_owned(),
        ] {
            let query = format!("up{{instance=~\"{pattern}\"}}");
            refused(&mut wrong, &api, &query, StatusCode::BAD_REQUEST, "error parsing regexp").await;
        }
        // Those of label_replace are compiled when the query runs.
        let replaced = "label_replace(up, \"a\", \"b\", \"instance\", \"((a{1000}){1000}){1000}\")";
        let (status, said) =
            (StatusCode::UNPROCESSABLE_ENTITY, "invalid regular expression in label_replace()");
        refused(&mut wrong, &api, replaced, status, said).await;
        nothing_is(wrong);
        // Backtracking has nothing to explode on.
        let (status, _) = ask(
            &api,
            Method::POST,
            "/api/v1/query",
            &format!("query={}", encoded("up{instance=~\"(a*)*b\"}")),
        )
        .await;
        assert_eq!(status, StatusCode::OK);
    });
}

#[tokio::test]
async fn parameters_of_functions_that_make_no_sense_are_said() {
    let api = api(ParserOptions::all_features());
    let failed = StatusCode::UNPROCESSABLE_ENTITY;
    let mut wrong = Vec::new();
    for (query, status, said) in [
        ("topk(NaN, up)", failed, "Parameter value is NaN"),
        ("bottomk(Inf, up)", failed, "overflows int64"),
        ("topk(1e300, up)", failed, "overflows int64"),
        ("limitk(-Inf, up) or topk(scalar(up) * -Inf, up)", StatusCode::OK, "success"),
        ("limit_ratio(NaN, up)", failed, "Ratio value is NaN"),
        ("limit_ratio(2, up)", StatusCode::OK, "PromQL warning"),
        (
            "quantile(NaN, up)",
            StatusCode::OK,
            "PromQL warning: quantile value should be between 0 and 1, got NaN",
        ),
        ("quantile_over_time(Inf, up[5m])", StatusCode::OK, "got +Inf"),
        ("histogram_quantile(-Inf, up)", StatusCode::OK, "got -Inf"),
        (
            "double_exponential_smoothing(up[5m], NaN, Inf)",
            failed,
            "invalid trend factor. Expected: 0 < tf < 1, got: +Inf",
        ),
        ("predict_linear(up[5m], Inf)", StatusCode::OK, "success"),
        ("round(up, 0)", StatusCode::OK, "success"),
        ("clamp(up, NaN, -Inf)", StatusCode::OK, "success"),
        ("count_values(\"\", up)", failed, "invalid label name"),
        ("label_replace(up, \"\", \"\", \"\", \"\")", failed, "invalid destination label name"),
        ("label_join(up, \"\", \"-\", \"a\")", failed, "invalid destination label name"),
        ("label_join(up, \"a\", \"-\", \"\")", failed, "invalid source label name"),
        ("sum by (\"\") (up)", StatusCode::BAD_REQUEST, "invalid label name"),
        ("sum_over_time(up[100y:1ms])", failed, "too many samples"),
        ("up offset 300y", StatusCode::BAD_REQUEST, "duration out of range"),
        ("up @ 1e300", StatusCode::BAD_REQUEST, "timestamp out of bounds"),
        ("up @ NaN", StatusCode::BAD_REQUEST, "timestamp out of bounds"),
        ("up[0s]", StatusCode::BAD_REQUEST, "duration must be greater than 0"),
        ("rate(up[5m/0])", StatusCode::BAD_REQUEST, "division by zero"),
        ("rate(up[-5m])", StatusCode::BAD_REQUEST, "greater than 0"),
        (
            "up offset 9223372037",
            StatusCode::BAD_REQUEST,
            "\\\"query\\\": 1:11: parse error: duration out of range",
        ),
        (
            "up offset -9223372037",
            StatusCode::BAD_REQUEST,
            "\\\"query\\\": 1:11: parse error: duration out of range",
        ),
        (
            "up offset --9223372037",
            StatusCode::BAD_REQUEST,
            "\\\"query\\\": 1:13: parse error: duration out of range",
        ),
    ] {
        let parameters = format!("query={}&time=15", encoded(query));
        for method in [Method::GET, Method::POST] {
            let (answered, body) = ask(&api, method, "/api/v1/query", &parameters).await;
            if answered != status || !body.contains(said) {
                wrong.push(format!("{query}: {answered}, not {status} {said}: {body:.400}"));
            }
        }
    }
    nothing_is(wrong);
}

#[tokio::test]
async fn durations_that_come_out_wrong_make_a_bad_query() {
    let api = api(ParserOptions::all_features());
    let mut wrong = Vec::new();
    for (query, said) in [
        ("rate(up[5m/(1-1)])", "8:15: division by zero"),
        ("up offset (0/(1-1))", "11:17: division by zero"),
        ("rate(up[5s%(1-1)])", "8:15: modulo by zero"),
        ("rate((up[((5s%(1-1)))]))", "11:18: modulo by zero"),
        ("rate(up[-5s+4s])", "8:14: duration must be greater than 0"),
        ("rate(up[-(5s+4s)])", "8:15: duration must be greater than 0"),
        ("rate(up[(-(5s+4s))])", "9:16: duration must be greater than 0"),
        ("rate(up[+(1s-2s)])", "10:15: duration must be greater than 0"),
        ("rate(up[min(-5s+1s,-4s)])", "12:22: duration must be greater than 0"),
        ("rate(up[-min(5s,4s)])", "8:18: duration must be greater than 0"),
        ("rate(up[-(2^1000)])", "8:16: duration must be greater than 0"),
        ("rate(up[1m:(1s-1s)])", "12:17: duration must be greater than 0"),
        ("rate(up[(1s-1s):(2s-2s)])", "17:22: duration must be greater than 0"),
        ("up offset (2^1000)", "11:17: duration is out of range"),
        ("up offset -(2^1000)", "10:18: duration is out of range"),
        ("up offset ((2^1000)+(1))", "12:22: duration is out of range"),
    ] {
        let said = format!("invalid parameter \\\"query\\\": {said}");
        refused(&mut wrong, &api, query, StatusCode::BAD_REQUEST, &said).await;
    }
    // Over a range there is a step.
    for (path, times, status) in [
        ("/api/v1/query", "time=15", StatusCode::BAD_REQUEST),
        ("/api/v1/query_range", "start=10&end=20&step=5", StatusCode::OK),
    ] {
        let parameters = format!("query={}&{times}", encoded("sum_over_time(up[step()])"));
        let (answered, body) = ask(&api, Method::POST, path, &parameters).await;
        let said = "17:23: duration must be greater than 0";
        let is_told = body.contains(said) == (status == StatusCode::BAD_REQUEST);
        if answered != status || !is_told {
            wrong.push(format!("{path}: {answered}, not {status}: {body:.300}"));
        }
    }
    nothing_is(wrong);
}

#[tokio::test]
async fn parameters_of_requests_that_make_no_sense_are_named() {
    let api = api(ParserOptions::default());
    let (instant, range) = ("/api/v1/query", "/api/v1/query_range");
    let mut wrong = Vec::new();
    for (path, parameters, said) in [
        (range, "start=0&end=11001&step=1", "exceeded maximum resolution of 11,000 points"),
        (range, "start=10&end=9&step=1", "end timestamp must not be before start time"),
        (range, "start=0&end=1&step=0", "zero or negative query resolution"),
        (range, "start=0&end=1&step=-1", "zero or negative query resolution"),
        (range, "start=0&end=1&step=NaN", "invalid parameter \\\"step\\\""),
        (range, "start=0&end=1&step=Inf", "invalid parameter \\\"step\\\""),
        (range, "start=0&end=1&step=1e300", "overflows int64"),
        (range, "start=0&end=1&step=x", "invalid parameter \\\"step\\\""),
        (range, "start=NaN&end=1&step=1", "invalid parameter \\\"start\\\""),
        (range, "start=-Inf&end=1&step=1", "invalid parameter \\\"start\\\""),
        (range, "start=0&end=Infinity&step=1", "invalid parameter \\\"end\\\""),
        (range, "start=-9e15&end=9e15&step=1", "exceeded maximum resolution"),
        (range, "end=1&step=1", "invalid parameter \\\"start\\\""),
        (instant, "time=NaN", "invalid parameter \\\"time\\\""),
        (instant, "time=1e300", "invalid parameter \\\"time\\\""),
        (instant, "timeout=NaN", "invalid parameter \\\"timeout\\\""),
        (instant, "timeout=x", "invalid parameter \\\"timeout\\\""),
        (instant, "lookback_delta=x", "invalid parameter \\\"lookback_delta\\\""),
        (instant, "limit=-1", "limit must be non-negative"),
        (instant, "limit=NaN", "invalid parameter \\\"limit\\\""),
        (instant, "dedup=maybe", "invalid parameter \\\"dedup\\\""),
        (
            instant,
            "dedup_func=best",
            "invalid parameter \\\"dedup_func\\\": there is no such algorithm, use penalty, chain or gap-aware",
        ),
        (range, "start=0&end=1&step=1&dedup_func=Penalty", "invalid parameter \\\"dedup_func\\\""),
        (instant, "partial_response=2", "invalid parameter \\\"partial_response\\\""),
        (instant, "max_source_resolution=x", "invalid parameter \\\"max_source_resolution\\\""),
        (instant, "storeMatch[]=%7B", "invalid parameter \\\"storeMatch[]\\\""),
        (instant, "shard_info=%7B", "invalid parameter \\\"shard_info\\\""),
        (instant, "engine=other", "bad engine"),
    ] {
        for method in [Method::GET, Method::POST] {
            let (status, body) = ask(&api, method, path, &format!("query=up&{parameters}")).await;
            let kind = r#""errorType":"bad_data""#;
            if status != StatusCode::BAD_REQUEST || !body.contains(said) || !body.contains(kind) {
                wrong.push(format!("{path} {parameters}: {status}, not {said}: {body:.400}"));
            }
        }
    }
    nothing_is(wrong);
}

#[tokio::test]
async fn a_form_has_a_bound() {
    let api = api(ParserOptions::default());
    let (status, body) =
        ask(&api, Method::POST, "/api/v1/query", &format!("query={}", "x".repeat((10 << 20) + 1))).await;
    assert!(status.is_client_error(), "{status} {body:.200}");
    assert!(body.contains(r#""status":"error""#), "{body:.200}");
}

#[tokio::test]
async fn experimental_syntax_needs_its_feature() {
    let stable = ParserOptions::default();
    let with = |name: &str| {
        let mut options = ParserOptions::default();
        assert!(options.enable_feature(name));
        options
    };
    let mut wrong = Vec::new();
    for (feature, query) in [
        ("promql-experimental-functions", "limitk(1, up)"),
        ("promql-experimental-functions", "limit_ratio(0.5, up)"),
        ("promql-experimental-functions", "info(up)"),
        ("promql-experimental-functions", "sort_by_label(up, \"instance\")"),
        ("promql-experimental-functions", "mad_over_time(up[5m])"),
        ("promql-experimental-functions", "ts_of_max_over_time(up[5m])"),
        ("promql-experimental-functions", "first_over_time(up[5m])"),
        ("promql-experimental-functions", "double_exponential_smoothing(up[5m], 0.5, 0.5)"),
        ("promql-duration-expr", "rate(up[1m * 5])"),
        ("promql-duration-expr", "up offset (1s + step())"),
        // Without parentheses Prometheus takes this one at any time.
        ("promql-duration-expr", "rate(up[(max(step(), 1m))])"),
        ("promql-extended-range-selectors", "rate(up[5m] anchored)"),
        ("promql-extended-range-selectors", "rate(up[5m] smoothed)"),
        ("promql-extended-range-selectors", "up smoothed"),
    ] {
        let parameters = format!("query={}&time=15", encoded(query));
        for method in [Method::GET, Method::POST] {
            let (status, body) =
                ask(&api(stable.clone()), method.clone(), "/api/v1/query", &parameters).await;
            if status != StatusCode::BAD_REQUEST || !body.contains("invalid parameter \\\"query\\\"") {
                wrong.push(format!("{query}: {status} {body:.300}"));
            }
            let (status, body) = ask(&api(with(feature)), method, "/api/v1/query", &parameters).await;
            if status != StatusCode::OK {
                wrong.push(format!("{query} with {feature}: {status} {body:.300}"));
            }
        }
    }
    nothing_is(wrong);
}
