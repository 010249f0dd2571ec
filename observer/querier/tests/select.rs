//! The source over a store: what is asked, what comes out, and how it ends.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake_store::{FakeStore, Frame, frame, series, warning};
use parallax_dedup::Algorithm;
use parallax_model::{Matcher, TimeRange};
use parallax_promql::source::{Selection, SeriesStream, Source, SourceError};
use parallax_querier::select::{Budget, SelectOptions, StoreSource};
use parallax_storeapi::proto::thanos::{Chunk, PartialResponseStrategy, SeriesResponse};
use proptest::prelude::*;
use prost::Message;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::Status;

fn selection(function: &str) -> Selection {
    Selection {
        matchers: vec![Matcher::equal("__name__", "up")],
        range: TimeRange::new(1_000, 500_000),
        query_range: TimeRange::new(1_000, 500_000),
        step_ms: 15_000,
        range_ms: 60_000,
        function: function.to_owned(),
        grouping: vec!["job".to_owned()],
        grouping_by: true,
    }
}

fn options() -> SelectOptions {
    SelectOptions {
        max_resolution_ms: 0,
        replica_labels: vec!["replica".to_owned()],
        algorithm: Algorithm::Penalty,
        partial_response: true,
        store_matchers: Vec::new(),
        shard: None,
        deadline: Instant::now() + Duration::from_secs(60),
        max_concurrent_opens: 4,
    }
}

struct Read {
    series: Vec<(String, Vec<(i64, f64)>)>,
    warnings: Vec<String>,
    end: Result<(), SourceError>,
}

fn drain(mut stream: Box<dyn SeriesStream>) -> Read {
    let mut series = Vec::new();
    let end = loop {
        match stream.next_batch() {
            Ok(Some(batch)) => {
                series.extend(batch.into_iter().map(|s| (s.labels.to_string(), s.floats.iter().collect())));
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    Read { series, warnings: stream.take_warnings(), end }
}

async fn read(store: Arc<FakeStore>, options: SelectOptions, budget: Arc<Budget>, function: &str) -> Read {
    let source = StoreSource::new(store, Handle::current(), options, budget, CancellationToken::new());
    let stream = source.select(&selection(function)).unwrap();
    tokio::task::spawn_blocking(move || drain(stream)).await.unwrap()
}

async fn read_frames(frames: Vec<Frame>) -> Read {
    let store = Arc::new(FakeStore { frames, ..FakeStore::default() });
    read(store, options(), Budget::new(0), "").await
}

#[tokio::test]
async fn a_selection_is_asked_in_the_words_of_the_store_api() {
    let store = Arc::new(FakeStore::default());
    read(store.clone(), SelectOptions { partial_response: false, ..options() }, Budget::new(0), "rate").await;
    let asked = store.asked.lock().unwrap().clone().unwrap();
    assert_eq!((asked.min_time, asked.max_time, asked.max_resolution_window), (1_000, 500_000, 0));
    assert_eq!(asked.without_replica_labels, ["replica"]);
    assert_eq!(asked.response_batch_size, 64);
    assert_eq!(asked.partial_response_strategy(), PartialResponseStrategy::Abort);
    assert!(asked.partial_response_disabled && !asked.skip_chunks && asked.hints.is_none());
    let hints = asked.query_hints.unwrap();
    assert_eq!(hints.step_millis, 15_000);
    assert_eq!(hints.func.unwrap().name, "rate");
    assert_eq!(hints.range.unwrap().millis, 60_000);
    assert!(hints.grouping.is_some_and(|grouping| grouping.by && grouping.labels == ["job"]));
}

#[tokio::test]
async fn parts_of_a_series_become_one_across_frames_and_replicas() {
    let part = |replica: &str, samples: &[(i64, f64)]| {
        series(&[("__name__", "up"), ("job", "a"), ("replica", replica)], samples)
    };
    let read = read_frames(vec![
        frame(vec![part("0", &[(10_000, 1.0), (20_000, 1.0)]), part("1", &[(11_000, 2.0), (21_000, 2.0)])]),
        frame(vec![
            part("0", &[(30_000, 1.0)]),
            series(&[("__name__", "up"), ("job", "b")], &[(10_000, 5.0)]),
        ]),
    ])
    .await;
    read.end.unwrap();
    assert_eq!(
        read.series,
        [
            (r#"up{job="a"}"#.to_owned(), vec![(10_000, 1.0), (20_000, 1.0), (30_000, 1.0)]),
            (r#"up{job="b"}"#.to_owned(), vec![(10_000, 5.0)]),
        ]
    );
}

#[tokio::test]
async fn warnings_are_gathered_once() {
    let up = series(&[("__name__", "up")], &[(10_000, 1.0)]);
    let read =
        read_frames(vec![warning("us-1 is missing"), frame(vec![up]), warning("us-1 is missing")]).await;
    assert_eq!((read.series.len(), read.warnings), (1, vec!["us-1 is missing".to_owned()]));
}

#[tokio::test]
async fn a_series_out_of_order_ends_the_query() {
    let of = |job: &str| series(&[("__name__", "up"), ("job", job)], &[(10_000, 1.0)]);
    let read = read_frames(vec![frame(vec![of("b"), of("a")])]).await;
    assert!(
        matches!(read.end, Err(SourceError::Storage(text)) if text.contains(r#"up{job="a"} after up{job="b"}"#))
    );
}

#[tokio::test]
async fn broken_chunks_name_their_series() {
    let mut broken = series(&[("__name__", "up")], &[(10_000, 1.0), (20_000, 2.0)]);
    broken.chunks[0].raw.as_mut().unwrap().data = bytes::Bytes::from_static(&[0, 9, 1]);
    let read = read_frames(vec![frame(vec![broken])]).await;
    assert!(
        matches!(read.end, Err(SourceError::Storage(text)) if text.starts_with("series up: decode Xor chunk"))
    );
    let mut downsampled = series(&[("__name__", "up")], &[(10_000, 1.0)]);
    downsampled.chunks[0].raw = None;
    let read = read_frames(vec![frame(vec![downsampled])]).await;
    assert!(matches!(read.end, Err(SourceError::Storage(text)) if text.contains("is downsampled")));
}

#[tokio::test]
async fn a_budget_that_is_spent_says_so() {
    let up = series(&[("__name__", "up")], &[(10_000, 1.0)]);
    let store = Arc::new(FakeStore { frames: vec![frame(vec![up; 100])], ..FakeStore::default() });
    let read = read(store, options(), Budget::new(1_000), "").await;
    assert!(matches!(read.end, Err(SourceError::Limit(text)) if text.contains("more than 1000 bytes")));
}

#[tokio::test]
async fn a_store_that_hangs_leaves_a_partial_answer_with_a_warning() {
    let frames = vec![frame(vec![series(&[("__name__", "up")], &[(10_000, 1.0)])])];
    let store = Arc::new(FakeStore { frames: frames.clone(), hangs: true, ..FakeStore::default() });
    let soon = || Instant::now() + Duration::from_millis(50);
    let partial = read(store, SelectOptions { deadline: soon(), ..options() }, Budget::new(0), "").await;
    partial.end.unwrap();
    assert_eq!((partial.series.len(), partial.warnings.len()), (1, 1));

    let store = Arc::new(FakeStore { frames, hangs: true, ..FakeStore::default() });
    let whole = SelectOptions { deadline: soon(), partial_response: false, ..options() };
    let refused = read(store, whole, Budget::new(0), "").await;
    assert!(matches!(refused.end, Err(SourceError::Timeout { .. })));
}

#[tokio::test]
async fn statuses_of_stores_become_errors_of_sources() {
    for (status, wanted) in [
        (Status::aborted("store b is down"), "store b is down"),
        (Status::resource_exhausted("too many series"), "too many series"),
    ] {
        let read = read_frames(vec![Err(status)]).await;
        assert_eq!(read.end.unwrap_err().to_string(), wanted);
    }
}

#[tokio::test]
async fn dropping_a_stream_or_canceling_its_query_drops_the_request() {
    for cancels in [false, true] {
        let store = Arc::new(FakeStore { hangs: true, ..FakeStore::default() });
        let canceled = CancellationToken::new();
        let source =
            StoreSource::new(store.clone(), Handle::current(), options(), Budget::new(0), canceled.clone());
        let stream = source.select(&selection("")).unwrap();
        while store.asked.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        if cancels {
            canceled.cancel();
            let read = tokio::task::spawn_blocking(move || drain(stream)).await.unwrap();
            assert!(matches!(read.end, Err(SourceError::Canceled)));
        } else {
            drop(stream);
        }
        while !store.dropped.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn selections_beyond_the_limit_of_opens_wait_without_blocking_each_other() {
    // Many more series than the channel holds: the first selection stays unread while the second is drained.
    let frames: Vec<Frame> = (0..200)
        .map(|index| {
            let job = format!("{index:05}");
            frame(vec![series(&[("__name__", "up"), ("job", &job)], &[(10_000, 1.0)])])
        })
        .collect();
    let store = Arc::new(FakeStore { frames, ..FakeStore::default() });
    let narrow = SelectOptions { max_concurrent_opens: 1, ..options() };
    let source = StoreSource::new(store, Handle::current(), narrow, Budget::new(0), CancellationToken::new());
    let first = source.select(&selection("")).unwrap();
    let second = source.select(&selection("")).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let second = drain(second);
        (second.series.len(), drain(first).series.len())
    });
    assert_eq!(read.await.unwrap(), (200, 200));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a store sends, the query ends, with series in order or with an error.
    #[test]
    fn any_frames_end_in_sorted_series_or_an_error(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
        labels in proptest::collection::vec(("[a-c]", "[a-c]{0,2}"), 0..4),
        data in proptest::collection::vec(any::<u8>(), 0..40),
        times in (any::<i64>(), any::<i64>()),
        encoding in -1i32..4,
    ) {
        let mut decoded: Vec<Frame> = frames
            .iter()
            .filter_map(|bytes| SeriesResponse::decode(bytes.as_slice()).ok())
            .map(Ok)
            .collect();
        let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let mut odd = series(&labels, &[(1, 1.0)]);
        odd.chunks[0].min_time = times.0;
        odd.chunks[0].max_time = times.1;
        odd.chunks[0].raw = Some(Chunk { r#type: encoding, data: data.into(), hash: 0 });
        decoded.push(frame(vec![odd.clone(), odd]));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let read = runtime.block_on(read_frames(decoded));
        if read.end.is_ok() {
            for (_, samples) in &read.series {
                prop_assert!(samples.is_sorted_by(|a, b| a.0 < b.0));
            }
        }
    }
}
