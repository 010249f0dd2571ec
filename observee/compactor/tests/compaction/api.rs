//! What an operator sees and can do over HTTP, and what the metrics say meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode};
use parallax_compactor::{Compactor, CompactorConfig};
use parallax_model::Labels;
use parallax_net::Context;
use serde_json::Value;
use tower::ServiceExt as _;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

const MAX_ANSWER_BYTES: usize = 1 << 20;

fn add(bucket: &TestBucket, number: u64, hours: std::ops::Range<i64>, replica: &str) {
    let spec = SeriesSpec {
        labels: Labels::from_pairs([("__name__", "up")]),
        seed: 1,
        histograms: false,
        times_ms: (hours.start * 60..hours.end * 60).map(|minute| minute * 60_000).collect(),
        chunk_samples: 60,
    };
    bucket.add(id(number), (hours.start * HOUR_MS, hours.end * HOUR_MS), replica, &[spec]);
}

async fn ask(compactor: &Arc<Compactor>, method: Method, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = compactor.router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// The value of the only series that begins so.
fn metric(context: &Context, series: &str) -> f64 {
    let text = context.metrics.encode().unwrap();
    let found: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(series)).collect();
    assert_eq!(found.len(), 1, "{series} in {text}");
    found[0].trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_set_aside_is_shown_with_its_reason_and_tried_again_on_demand() {
    let bucket = TestBucket::new();
    for (first, replica) in [(10, "a"), (20, "b")] {
        for n in 0..5 {
            add(&bucket, first + n as u64, 2 * n..2 * n + 2, replica);
        }
    }
    // Overlaps, and vertical compaction is off.
    add(&bucket, 16, 1..2, "a");
    let context = Context::for_test();
    let config = CompactorConfig {
        consistency_delay: Duration::ZERO,
        ..CompactorConfig::new(bucket.bucket.clone(), bucket.dir.path().join("data"))
    };
    let compactor = Compactor::new(config, &context).unwrap();
    let (_, before) = ask(&compactor, Method::GET, "/api/v1/compactor").await;
    assert!(before["last_pass"].is_null() && before["quarantine"] == serde_json::json!([]), "{before}");

    compactor.pass(NOW_MS).await.unwrap();
    let (status, after) = ask(&compactor, Method::GET, "/api/v1/compactor").await;
    assert_eq!((status, after["quarantine"].as_array().map(Vec::len)), (StatusCode::OK, Some(1)), "{after}");
    let group = &after["quarantine"][0];
    let reason = group["reason"].as_str().unwrap();
    assert!(reason.contains(&id(10).to_string()) && reason.contains(&id(16).to_string()), "{reason}");
    assert_eq!((&group["labels"]["replica"], &group["resolution_ms"]), (&"a".into(), &0.into()));
    assert_eq!(
        (&after["last_pass"]["compactions"], &after["last_pass"]["set_aside"]),
        (&1.into(), &1.into())
    );
    assert_eq!((&after["todo"]["compactions"], &after["todo"]["done_compactions"]), (&0.into(), &1.into()));
    for (series, value) in [
        ("parallax_compact_quarantined_groups", 1.0),
        ("thanos_compact_halted", 0.0),
        ("thanos_compact_iterations_total", 1.0),
        ("thanos_compact_todo_compactions", 0.0),
        ("thanos_compact_group_compactions_total{resolution=\"0\"}", 1.0),
        ("thanos_compact_garbage_collected_blocks_total", 4.0),
    ] {
        assert_eq!(metric(&context, series), value, "{series}");
    }

    assert_eq!(compactor.pass(NOW_MS + 1).await.unwrap().set_aside, 0, "it is not tried in vain");
    let key = group["key"].as_str().unwrap();
    for (group, released) in [("0@1", 0), (key, 1), (key, 0)] {
        let path = format!("/api/v1/compactor/retry?group={group}");
        let (status, answer) = ask(&compactor, Method::POST, &path).await;
        assert_eq!((status, &answer["released"]), (StatusCode::OK, &released.into()), "{group}");
    }
    assert_eq!(compactor.pass(NOW_MS + 2).await.unwrap().set_aside, 1, "it was asked for");
    let (_, again) = ask(&compactor, Method::GET, "/api/v1/compactor").await;
    assert!(again["quarantine"][0]["since_ms"].as_i64() >= Some(NOW_MS + 2), "{again}");
    let (status, answer) = ask(&compactor, Method::POST, "/api/v1/compactor/retry").await;
    assert_eq!((status, &answer["released"]), (StatusCode::OK, &1.into()));
    let (status, _) = ask(&compactor, Method::GET, "/api/v1/compactor/retry").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "looking must not change anything");

    std::fs::remove_dir_all(bucket.path().join(id(16).to_string())).unwrap();
    assert_eq!(compactor.pass(NOW_MS + 3).await.unwrap().compactions, 1);
    assert_eq!(metric(&context, "parallax_compact_quarantined_groups"), 0.0);
}
