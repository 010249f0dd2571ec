//! PromQL over gRPC, as a querier above asks: over the real codec and server, without a socket.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;
use std::time::Duration;

use fake_store::{FakeStore, frame, series};
use futures::{Stream, StreamExt};
use parallax_model::Labels;
use parallax_net::{Context, GrpcTarget};
use parallax_querier::{Connection, EndpointConfig, Querier, QuerierConfig};
use parallax_storeapi::proto::prometheus::TimeSeries;
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::query_client::QueryClient;
use parallax_storeapi::proto::thanos::query_range_response::Result as RangeFrame;
use parallax_storeapi::proto::thanos::query_response::Result as InstantFrame;
use parallax_storeapi::proto::thanos::{QueryRangeRequest, QueryRequest, QueryResponse, ZLabelSet};
use parallax_storeapi::{Store, labels};
use tonic::service::Routes;
use tonic::{Code, Request, Status};

/// Two replicas' series of two jobs, in one store.
fn store() -> FakeStore {
    let samples =
        |value: f64| -> Vec<(i64, f64)> { (0..60).map(|at| (at * 10_000, value * at as f64)).collect() };
    let of = |job: &str, replica: &str, value: f64| {
        series(&[("__name__", "requests_total"), ("job", job), ("replica", replica)], &samples(value))
    };
    FakeStore {
        frames: vec![frame(vec![of("a", "0", 1.0), of("a", "1", 1.0), of("b", "0", 2.0), of("b", "1", 2.0)])],
        info: InfoResponse {
            label_sets: vec![ZLabelSet::default()],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo { min_time: 0, max_time: i64::MAX, ..StoreInfo::default() }),
            ..InfoResponse::default()
        },
        ..FakeStore::default()
    }
}

async fn client(more: Vec<EndpointConfig>) -> (QueryClient<Routes>, Arc<Querier>) {
    let mut endpoints = vec![EndpointConfig::new("sidecar", Connection::Local(Arc::new(store())))];
    endpoints.extend(more);
    let config = QuerierConfig { name: "query".to_owned(), endpoints, ..QuerierConfig::default() };
    let context = Context::for_test();
    let querier = Querier::start(config, context.clone()).unwrap();
    querier.endpoints().polled_once().await;
    let routes = parallax_storeapi::routes(querier.clone(), context.readiness.subscribe()).unwrap();
    (QueryClient::new(routes.prepare()), querier)
}

fn asking(query: &str) -> QueryRequest {
    QueryRequest {
        query: query.to_owned(),
        time_seconds: 590,
        replica_labels: vec!["replica".to_owned()],
        enable_dedup: true,
        enable_partial_response: true,
        ..QueryRequest::default()
    }
}

fn asking_range(query: &str) -> QueryRangeRequest {
    QueryRangeRequest {
        query: query.to_owned(),
        start_time_seconds: 300,
        end_time_seconds: 360,
        interval_seconds: 30,
        replica_labels: vec!["replica".to_owned()],
        enable_dedup: true,
        enable_partial_response: true,
        ..QueryRangeRequest::default()
    }
}

/// Labels, and samples in seconds.
type Answer = Vec<(String, Vec<(i64, f64)>)>;

fn read(series: Vec<TimeSeries>, answer: &mut Answer) {
    answer.extend(series.into_iter().map(|one| {
        let text = labels::from_wire(&one.labels).as_ref().map(Labels::to_string).unwrap();
        (text, one.samples.iter().map(|sample| (sample.timestamp / 1000, sample.value)).collect())
    }));
}

async fn collected<T>(mut frames: impl Stream<Item = Result<T, Status>> + Unpin) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(frame) = frames.next().await {
        all.push(frame.unwrap());
    }
    all
}

#[tokio::test]
async fn an_instant_query_is_answered_and_ends_with_statistics() {
    let (mut client, querier) = client(vec![]).await;
    assert!(querier.info().await.unwrap().query.is_some());
    let asked = [
        ("requests_total", vec![(r#"requests_total{job="a"}"#, 59.0), (r#"requests_total{job="b"}"#, 118.0)]),
        ("sum by (job) (rate(requests_total[5m]))", vec![(r#"{job="a"}"#, 0.1), (r#"{job="b"}"#, 0.2)]),
        ("scalar(sum(requests_total))", vec![("{}", 177.0)]),
    ];
    for (query, expected) in asked {
        let frames = collected(client.query(asking(query)).await.unwrap().into_inner()).await;
        let mut answer = Answer::new();
        let (last, before) = frames.split_last().unwrap();
        for frame in before {
            let Some(InstantFrame::Timeseries(series)) = frame.result.clone() else { panic!("{frame:?}") };
            read(vec![series], &mut answer);
        }
        assert!(
            matches!(&last.result, Some(InstantFrame::Stats(stats)) if stats.samples_total > 0),
            "{last:?}"
        );
        answer.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(answer.len(), expected.len(), "{query}: {answer:?}");
        for ((labels, samples), (expected_labels, value)) in answer.iter().zip(expected) {
            assert_eq!((labels.as_str(), samples[0].0), (expected_labels, 590), "{query}");
            assert!((samples[0].1 - value).abs() < 1e-9, "{query}: {samples:?}");
        }
    }
}

#[tokio::test]
async fn a_range_query_comes_in_batches_and_with_its_replicas_if_that_is_asked() {
    let (mut client, _querier) = client(vec![]).await;
    for (batch_size, dedup, sizes) in [(0, true, vec![1, 1]), (2, false, vec![2, 2]), (3, false, vec![3, 1])]
    {
        let request = QueryRangeRequest {
            enable_dedup: dedup,
            response_batch_size: batch_size,
            ..asking_range("requests_total")
        };
        let mut frames = collected(client.query_range(request).await.unwrap().into_inner()).await;
        assert!(matches!(frames.pop().unwrap().result, Some(RangeFrame::Stats(_))));
        let (mut found, mut answer) = (Vec::new(), Answer::new());
        for frame in frames {
            let series = match frame.result.unwrap() {
                RangeFrame::Timeseries(series) => vec![series],
                RangeFrame::TimeseriesBatch(batch) => batch.series,
                other => panic!("{other:?}"),
            };
            found.push(series.len());
            read(series, &mut answer);
        }
        assert_eq!(found, sizes, "batches of {batch_size}");
        assert_eq!(answer[0].1, [(300, 30.0), (330, 33.0), (360, 36.0)], "{answer:?}");
        assert_eq!(answer[0].0.contains("replica"), !dedup);
    }
}

#[tokio::test]
async fn metadata_choose_how_replicas_become_one_series() {
    let (mut client, _querier) = client(vec![]).await;
    let request = |name: &'static str| {
        let mut request = Request::new(asking("count_over_time(requests_total[1m])"));
        request.metadata_mut().insert("parallax-dedup-func", name.parse().unwrap());
        request
    };
    for name in ["penalty", "chain", "gap-aware"] {
        let frames = collected(client.query(request(name)).await.unwrap().into_inner()).await;
        let is_series =
            |frame: &&_| matches!(frame, QueryResponse { result: Some(InstantFrame::Timeseries(_)) });
        assert_eq!(frames.iter().filter(is_series).count(), 2, "{name}");
    }
    let status = client.query(request("best")).await.err().unwrap();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("parallax-dedup-func: there is no such algorithm"), "{status}");
}

#[tokio::test]
async fn a_missing_cluster_is_a_warning_or_an_error() {
    let address = format!("127.0.0.1:{}", parallax_net::free_port().unwrap());
    let down = EndpointConfig::new("sidecar-us-1", Connection::Remote(GrpcTarget::plain(address)));
    let (mut client, _querier) = client(vec![down.with_cluster("us-1")]).await;
    let frames = collected(client.query(asking("requests_total")).await.unwrap().into_inner()).await;
    let Some(InstantFrame::Warnings(warning)) = &frames[0].result else { panic!("{:?}", frames[0]) };
    assert!(warning.starts_with(r#"parallax: cluster "us-1" missing"#), "{warning}");
    assert_eq!(frames.len(), 4);
    let strict = QueryRequest { enable_partial_response: false, ..asking("requests_total") };
    let status = client.query(strict).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    assert!(status.message().contains(r#"cluster "us-1" missing"#), "{status}");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_with_the_reason() {
    let (mut client, _querier) = client(vec![]).await;
    for (query, reason) in
        [("sum(", "parse error"), (r#""text""#, "no answer that is a string"), ("", "query")]
    {
        let status = client.query(asking(query)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{query}: {status}");
        assert!(status.message().contains(reason), "{query}: {status}");
    }
    let of = |change: fn(&mut QueryRangeRequest)| {
        let mut request = asking_range("requests_total");
        change(&mut request);
        request
    };
    for (request, reason) in [
        (of(|request| request.interval_seconds = 0), "interval_seconds must be positive"),
        (of(|request| request.end_time_seconds = 0), "must not be before"),
        (of(|request| request.end_time_seconds = i64::MAX), "more than 11000 points"),
        (of(|request| request.query = "requests_total[5m]".to_owned()), "invalid expression type"),
    ] {
        let status = client.query_range(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
    let mut late = Request::new(asking("requests_total"));
    late.set_timeout(Duration::ZERO);
    assert_eq!(client.query(late).await.unwrap_err().code(), Code::DeadlineExceeded);
}
