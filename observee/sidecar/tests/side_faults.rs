//! The small services beside a Prometheus that answers nonsense, refuses, or does not answer at all.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::TryStreamExt;
use parallax_net::{Context, HttpServer};
use parallax_sidecar::{Sidecar, SidecarConfig};
use parallax_storeapi::proto::thanos::{
    ExemplarsRequest, MetricMetadataRequest, RulesRequest, TargetsRequest, TsdbStatisticsRequest,
};
use parallax_storeapi::{SideRequest, Store, with_deadline};
use serde_json::json;
use tonic::{Code, Status};

/// What every path of the API says that the sidecar does not need to be ready.
#[derive(Clone)]
enum Answer {
    Text(u16, String),
    Nothing,
}

struct Fake {
    answer: Arc<Mutex<Answer>>,
    sidecar: Arc<Sidecar>,
    context: Context,
    url: String,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

async fn answer(State(answer): State<Arc<Mutex<Answer>>>) -> Response {
    let answer = answer.lock().unwrap().clone();
    match answer {
        Answer::Text(status, text) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Answer::Nothing => std::future::pending().await,
    }
}

async fn start() -> Fake {
    let success = |data: serde_json::Value| axum::Json(json!({"status": "success", "data": data}));
    let yaml = json!({"global": {"external_labels": {"cluster": "eu-1"}}}).to_string();
    let answers = Arc::new(Mutex::new(Answer::Nothing));
    let router = Router::new()
        .route("/metrics", get(|| async { "prometheus_tsdb_lowest_timestamp_seconds 1\n" }))
        .route("/api/v1/status/buildinfo", get(move || async move { success(json!({"version": "fake"})) }))
        .route("/api/v1/status/config", get(move || async move { success(json!({"yaml": yaml})) }))
        .route("/api/v1/labels", get(move || async move { success(json!([])) }))
        .fallback(answer)
        .with_state(answers.clone());
    let context = Context::for_test();
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    tokio::spawn(server.serve(router, context.shutdown.clone()));
    let (sidecar, _) = Sidecar::start(SidecarConfig::new(&url), &context).unwrap();
    context.readiness.subscribe().wait_for(|ready| *ready).await.unwrap();
    Fake { answer: answers, sidecar, context, url }
}

impl Fake {
    fn say(&self, status: u16, text: &str) {
        *self.answer.lock().unwrap() = Answer::Text(status, text.to_owned());
    }

    async fn ask<R: SideRequest>(&self, request: R) -> Result<Vec<R::Response>, Status> {
        let deadline = Some(Instant::now() + Duration::from_secs(60));
        let request = with_deadline(request, deadline);
        R::ask(request, self.sidecar.side()).await?.try_collect().await
    }

    /// The error of each service, which has to name Prometheus and the path.
    async fn errors(&self) -> Vec<Status> {
        let exemplars = ExemplarsRequest { query: "up".to_owned(), ..ExemplarsRequest::default() };
        let all = vec![
            ("metadata", self.ask(MetricMetadataRequest::default()).await.err()),
            ("rules", self.ask(RulesRequest::default()).await.err()),
            ("targets", self.ask(TargetsRequest::default()).await.err()),
            ("query_exemplars", self.ask(exemplars).await.err()),
            ("status/tsdb", self.ask(TsdbStatisticsRequest::default()).await.err()),
        ];
        all.into_iter()
            .map(|(path, error)| {
                let error = error.unwrap_or_else(|| panic!("{path}: no error"));
                let message = error.message();
                assert!(message.contains(&self.url) && message.contains(path), "{path}: {message}");
                error
            })
            .collect()
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_one_error_that_names_the_path() {
    let fake = start().await;
    let wrong = [
        "",
        "<html>",
        "{}",
        r#"{"status":"success","data":17}"#,
        r#"{"status":"error","errorType":"internal","error":"it broke"}"#,
    ];
    for text in wrong {
        fake.say(200, text);
        // Prometheus says null for no exemplars at all.
        if text == "{}" {
            continue;
        }
        for error in fake.errors().await {
            assert_eq!(error.code(), Code::Internal, "{text}: {error}");
        }
    }
    fake.say(503, "starting");
    for error in fake.errors().await {
        assert_eq!(error.code(), Code::Unavailable, "{error}");
        assert!(error.message().contains("starting"));
    }
    // An API that an older server, or something that only looks like Prometheus, does not have.
    fake.say(404, "404 page not found");
    for error in fake.errors().await {
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    }
}

#[tokio::test]
async fn parts_that_make_no_sense_are_named() {
    let fake = start().await;
    let data =
        |data: serde_json::Value| fake.say(200, &json!({"status": "success", "data": data}).to_string());
    let rule = |rule: serde_json::Value| json!({"groups": [{"name": "g", "rules": [rule]}]});
    for (answer, reason) in [
        (rule(json!({"name": "a", "query": "b"})), "missing field `type`"),
        (rule(json!({"type": "x", "name": "a", "query": "b"})), "unknown variant `x`"),
        (
            rule(json!({"type": "alerting", "state": "purple", "name": "a", "query": "b"})),
            "unknown variant `purple`",
        ),
        (json!({"groups": [{"name": "g", "lastEvaluation": "soon"}]}), "\"soon\" is no time in RFC 3339"),
    ] {
        data(answer);
        let error = fake.ask(RulesRequest::default()).await.unwrap_err();
        assert!(error.message().contains(reason), "{error}");
    }
    data(json!([{"exemplars": [{"value": "x", "timestamp": 1}]}]));
    let request = ExemplarsRequest { query: "up".to_owned(), ..ExemplarsRequest::default() };
    let error = fake.ask(request.clone()).await.unwrap_err();
    assert!(error.message().contains("\"x\" is no number"), "{error}");
    data(json!({"activeTargets": [{"scrapeUrl": "a", "health": "ill"}]}));
    let error = fake.ask(TargetsRequest::default()).await.unwrap_err();
    assert!(error.message().contains("unknown variant `ill`"), "{error}");

    // What Go calls nil is nothing.
    data(json!({"groups": null}));
    assert!(fake.ask(RulesRequest::default()).await.unwrap().is_empty());
    data(json!({"activeTargets": null, "droppedTargets": null}));
    assert!(fake.ask(TargetsRequest::default()).await.unwrap().is_empty());
    data(json!(null));
    assert!(fake.ask(request).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_prometheus_that_hangs_costs_no_more_than_the_deadline() {
    let fake = start().await;
    let deadline = Some(Instant::now() + Duration::from_millis(200));
    let request = with_deadline(RulesRequest::default(), deadline);
    let hung = RulesRequest::ask(request, fake.sidecar.side()).await;
    assert_eq!(hung.err().map(|status| status.code()), Some(Code::DeadlineExceeded));
}

#[tokio::test]
async fn many_targets_come_in_several_messages() {
    let fake = start().await;
    let target = json!({"scrapeUrl": "http://a", "health": "up"});
    let active: Vec<_> = std::iter::repeat_n(target, 2_500).collect();
    let data = json!({"status": "success", "data": {"activeTargets": active, "droppedTargets": []}});
    fake.say(200, &data.to_string());
    let sizes: Vec<usize> = fake
        .ask(TargetsRequest::default())
        .await
        .unwrap()
        .into_iter()
        .map(|frame| match TargetsRequest::read(frame) {
            Some(parallax_storeapi::SideFrame::Item(part)) => part.active_targets.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [1000, 1000, 500]);
}
