//! The source over a store: what is asked, what comes out, and how it ends.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_store::{FakeStore, Frame, frame, series, warning};
use parallax_dedup::Algorithm;
use parallax_model::{Matcher, TimeRange};
use parallax_promql::source::{Delivered, Selection, SeriesStream, Source, SourceError};
use parallax_querier::select::{Budget, SelectOptions, StoreSource};
use parallax_storeapi::Store;
use parallax_storeapi::proto::thanos::series_response::Result as ResponseResult;
use parallax_storeapi::proto::thanos::{
    Chunk, PartialResponseStrategy, Series, SeriesRequest, SeriesResponse,
};
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
        preparation: None,
        scope: Default::default(),
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
                series.extend(batch.into_iter().map(|one| match one {
                    Delivered::Samples(s) => (s.labels.to_string(), s.floats.iter().collect()),
                    Delivered::Steps(_) => panic!("nothing was to be prepared"),
                }));
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

/// Reads frames as a query that takes no partial answer.
async fn read_whole(frames: Vec<Frame>) -> Read {
    let store = Arc::new(FakeStore { frames, ..FakeStore::default() });
    read(store, SelectOptions { partial_response: false, ..options() }, Budget::new(0), "").await
}

#[tokio::test]
async fn a_series_out_of_order_is_left_out_and_named() {
    let of = |job: &str| series(&[("__name__", "up"), ("job", job)], &[(10_000, 1.0)]);
    let frames = || vec![frame(vec![of("b"), of("a"), of("c")])];
    let read = read_frames(frames()).await;
    read.end.unwrap();
    let names: Vec<&str> = read.series.iter().map(|(labels, _)| labels.as_str()).collect();
    assert_eq!(names, [r#"up{job="b"}"#, r#"up{job="c"}"#]);
    let expected = r#"series up{job="a"}: it came after up{job="b"}; it is left out"#;
    assert!(read.warnings.len() == 1 && read.warnings[0].ends_with(expected), "{:?}", read.warnings);
    let refused = read_whole(frames()).await.end.unwrap_err();
    assert!(matches!(&refused, SourceError::Storage(text) if text.ends_with(expected)), "{refused}");
}

#[tokio::test]
async fn a_chunk_that_cannot_be_decoded_is_left_out_and_the_rest_of_its_series_stays() {
    let labels = [("__name__", "up"), ("job", "a")];
    let mut half = series(&labels, &[(10_000, 1.0), (20_000, 2.0)]);
    let mut broken = series(&labels, &[(30_000, 1.0), (40_000, 2.0)]).chunks.remove(0);
    broken.raw.as_mut().unwrap().data = bytes::Bytes::from_static(&[0, 9, 1]);
    let mut downsampled = series(&labels, &[(50_000, 1.0)]).chunks.remove(0);
    downsampled.raw = None;
    half.chunks.extend([broken.clone(), downsampled]);
    let only = Series {
        labels: series(&[("__name__", "up"), ("job", "b")], &[(1, 1.0)]).labels,
        chunks: vec![broken],
    };
    let whole = series(&[("__name__", "up"), ("job", "c")], &[(10_000, 5.0)]);
    let frames = || vec![frame(vec![half.clone(), only.clone(), whole.clone()])];
    let read = read_frames(frames()).await;
    read.end.unwrap();
    let expected = [
        (r#"up{job="a"}"#.to_owned(), vec![(10_000, 1.0), (20_000, 2.0)]),
        (r#"up{job="c"}"#.to_owned(), vec![(10_000, 5.0)]),
    ];
    assert_eq!(read.series, expected);
    let has = |text: &str| read.warnings.iter().any(|warning| warning.contains(text));
    assert!(has(r#"series up{job="a"}: decode Xor chunk [30000, 40000]"#), "{:?}", read.warnings);
    assert!(has("chunk [50000, 50000] is downsampled"), "{:?}", read.warnings);
    assert!(has(r#"series up{job="b"}: decode Xor chunk"#), "{:?}", read.warnings);
    let refused = read_whole(frames()).await.end.unwrap_err();
    assert!(
        matches!(&refused, SourceError::Storage(text) if text.contains(r#"series up{job="a"}"#)),
        "{refused}"
    );
}

#[tokio::test]
async fn many_unreadable_series_are_told_ten_times_and_counted() {
    let broken = |job: usize| {
        let mut broken = series(&[("__name__", "up"), ("job", &format!("{job:03}"))], &[(10_000, 1.0)]);
        broken.chunks[0].raw.as_mut().unwrap().data = bytes::Bytes::from_static(&[0, 9, 1]);
        broken
    };
    let read = read_frames(vec![frame((0..100).map(broken).collect())]).await;
    read.end.unwrap();
    assert_eq!(read.warnings.len(), 11);
    assert_eq!(read.warnings[10], "stores sent 100 series or chunks that are malformed; they are left out");
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
    // Time enough for what comes, on a machine that is busy.
    let soon = || Instant::now() + Duration::from_secs(2);
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

/// Serves so many streams at once, from the call to the end of the stream, as a sidecar does; further ones wait.
struct Narrow {
    places: Arc<tokio::sync::Semaphore>,
    frames: Vec<Frame>,
    opens: AtomicUsize,
}

#[async_trait::async_trait]
impl Store for Narrow {
    async fn info(&self) -> Result<parallax_storeapi::proto::thanos::info::InfoResponse, Status> {
        Ok(Default::default())
    }

    async fn series(
        &self,
        _: tonic::Request<SeriesRequest>,
    ) -> Result<parallax_storeapi::SeriesStream, Status> {
        let place = self.places.clone().acquire_owned().await.unwrap();
        self.opens.fetch_add(1, Ordering::SeqCst);
        let frames = futures::stream::iter(self.frames.clone());
        Ok(Box::pin(futures::StreamExt::map(frames, move |frame| {
            let _place = &place;
            frame
        })))
    }

    async fn label_names(
        &self,
        _: tonic::Request<parallax_storeapi::proto::thanos::LabelNamesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelNamesResponse, Status> {
        Err(Status::unimplemented(""))
    }

    async fn label_values(
        &self,
        _: tonic::Request<parallax_storeapi::proto::thanos::LabelValuesRequest>,
    ) -> Result<parallax_storeapi::proto::thanos::LabelValuesResponse, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Opens fifteen selections on a store that serves ten streams at once, and reads them in order or backwards; the opens it took.
async fn fifteen_selections(frames: usize, budget: Arc<Budget>, backwards: bool) -> usize {
    let job = |index: usize| format!("{index:05}");
    let of = |index| frame(vec![series(&[("__name__", "up"), ("job", &job(index))], &[(10_000, 1.0)])]);
    let places = Arc::new(tokio::sync::Semaphore::new(10));
    let store =
        Arc::new(Narrow { places, frames: (0..frames).map(of).collect(), opens: AtomicUsize::new(0) });
    let source =
        StoreSource::new(store.clone(), Handle::current(), options(), budget, CancellationToken::new());
    let mut streams: Vec<_> = (0..15).map(|_| source.select(&selection("")).unwrap()).collect();
    if backwards {
        streams.reverse();
    }
    // A little time in which all that can be opened is.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let reading = tokio::task::spawn_blocking(move || streams.into_iter().map(drain).collect::<Vec<_>>());
    for read in tokio::time::timeout(Duration::from_secs(120), reading)
        .await
        .expect("they wait for each other")
        .unwrap()
    {
        read.end.unwrap();
        assert_eq!((read.series.len(), read.warnings), (frames, vec![]));
    }
    store.opens.load(Ordering::SeqCst)
}

#[tokio::test]
async fn more_selections_than_a_store_serves_at_once_do_not_wait_for_each_other() {
    for backwards in [false, true] {
        // Far more frames than the channel holds, and all of them fit into memory.
        assert_eq!(fifteen_selections(300, Budget::new(0), backwards).await, 15);
        // Room for the one that is read, however far its decoding is behind, and for little else: streams that are not read are let go, and opened
        // again when they are.
        let opens = fifteen_selections(300, Budget::new(200_000), backwards).await;
        assert!((15..=30).contains(&opens), "{opens}");
    }
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

/// A series of two replicas, cut into chunks; each chunk with its hash.
fn two_replicas(name: &str, left: &[(i64, f64)], right: &[(i64, f64)]) -> Series {
    let parts = left.chunks(8).chain(right.chunks(8)).map(|samples| series(&[("__name__", name)], samples));
    let mut whole = series(&[("__name__", name)], left);
    whole.chunks = parts.flat_map(|part| part.chunks).collect();
    for raw in whole.chunks.iter_mut().filter_map(|chunk| chunk.raw.as_mut()) {
        raw.hash = parallax_storeapi::chunks::hash(&raw.data);
    }
    whole.chunks.sort_by(parallax_storeapi::chunks::compare);
    whole
}

/// Every so often, with a little jitter, counting on.
fn scraped(start_ms: i64, interval_ms: i64, end_ms: i64) -> Vec<(i64, f64)> {
    let times = (start_ms..end_ms).step_by(usize::try_from(interval_ms).unwrap());
    times.map(|time_ms| (time_ms + time_ms / interval_ms % 3, time_ms as f64)).collect()
}

/// What two stores with the same series give, one of which is asked to keep back what is not needed; and that one.
async fn with_and_without(all: Vec<Series>, function: &str) -> (Read, Read, Arc<FakeStore>) {
    let store = Arc::new(FakeStore { frames: vec![frame(all.clone())], ..FakeStore::default() });
    let withheld = read(store.clone(), options(), Budget::new(0), function).await;
    // One that sends series one by one keeps nothing back.
    let single = |series| Ok(SeriesResponse { result: Some(ResponseResult::Series(series)) });
    let plain = Arc::new(FakeStore { frames: all.into_iter().map(single).collect(), ..FakeStore::default() });
    (withheld, read(plain, options(), Budget::new(0), function).await, store)
}

#[tokio::test]
async fn what_a_store_keeps_back_of_regular_replicas_is_not_missed() {
    for interval_ms in [1_000, 5_000, 10_000, 15_000, 20_000] {
        for apart_ms in (0..interval_ms).step_by(usize::try_from(interval_ms / 7).unwrap()) {
            let left = scraped(-interval_ms, interval_ms, 500_000);
            let right = scraped(apart_ms + 1, interval_ms, 500_000);
            for function in ["", "rate"] {
                let all = vec![two_replicas("a", &left, &right), two_replicas("b", &right, &left)];
                let (withheld, whole, store) = with_and_without(all, function).await;
                assert_eq!(withheld.series, whole.series, "every {interval_ms} ms, {apart_ms} ms apart");
                let calls =
                    (store.calls.load(Ordering::SeqCst), store.withholding_calls.load(Ordering::SeqCst));
                assert_eq!(calls, (1, 1), "every {interval_ms} ms, {apart_ms} ms apart");
            }
        }
    }
}

#[tokio::test]
async fn series_of_which_too_much_was_kept_back_are_asked_for_again_and_come_once() {
    let (left, right) = (scraped(1_000, 10_000, 480_000), scraped(3_000, 10_000, 480_000));
    // Gaps that the times of chunks do not show: of each chunk the first scrapes came too fast.
    let faster_ms = |at: usize| [0, 9_000, 18_000, 27_000].get(at % 8).copied().unwrap_or(0);
    let hidden: Vec<(i64, f64)> =
        left.iter().enumerate().map(|(at, (time_ms, value))| (time_ms - faster_ms(at), *value)).collect();
    let mut all: Vec<Series> =
        (0..40).map(|number| two_replicas(&format!("up_{number:02}"), &left, &right)).collect();
    for at in [17, 23] {
        all[at] = two_replicas(&format!("up_{at:02}"), &hidden, &right);
    }
    for function in ["", "rate"] {
        let (withheld, whole, store) = with_and_without(all.clone(), function).await;
        assert_eq!((whole.series.len(), withheld.series.len()), (40, 40));
        assert_eq!(withheld.series, whole.series);
        assert_eq!(
            (store.calls.load(Ordering::SeqCst), store.withholding_calls.load(Ordering::SeqCst)),
            (2, 1)
        );
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_made_up_for_by_what_was_kept_back_of_the_other_replica() {
    let (left, right) = (scraped(1_000, 10_000, 480_000), scraped(3_000, 10_000, 480_000));
    let mut all: Vec<Series> = ["a", "b", "c"].map(|name| two_replicas(name, &left, &right)).into();
    // In the middle of the replica that is followed.
    let damaged = all[1].chunks.iter_mut().find(|chunk| chunk.min_time == left[16].0).unwrap();
    let raw = damaged.raw.as_mut().unwrap();
    raw.data.truncate(raw.data.len() / 2);
    raw.hash = parallax_storeapi::chunks::hash(&raw.data);
    for function in ["", "rate"] {
        let (withheld, whole, store) = with_and_without(all.clone(), function).await;
        assert_eq!(withheld.series, whole.series, "{function}");
        assert_eq!(whole.warnings.len(), 1, "{:?}", whole.warnings);
        assert_eq!(withheld.warnings, whole.warnings);
        assert_eq!(
            (store.calls.load(Ordering::SeqCst), store.withholding_calls.load(Ordering::SeqCst)),
            (2, 1)
        );
        // The other replica's samples, where the damaged ones were.
        let (_, samples) = &whole.series[1];
        assert!(samples.iter().any(|(time_ms, _)| (left[16].0..=left[23].0).contains(time_ms)), "{function}");
    }
}

#[tokio::test]
async fn a_chunk_that_has_no_data_at_all_is_left_out_in_the_end() {
    let mut broken = two_replicas("up", &scraped(1_000, 10_000, 480_000), &scraped(3_000, 10_000, 480_000));
    broken.chunks.iter_mut().filter_map(|chunk| chunk.raw.as_mut()).for_each(|raw| raw.data.clear());
    let store = Arc::new(FakeStore { frames: vec![frame(vec![broken])], ..FakeStore::default() });
    let read = read(store.clone(), options(), Budget::new(0), "").await;
    assert!(read.series.is_empty() && read.end.is_ok());
    assert!(read.warnings[0].contains("came without its data"), "{:?}", read.warnings);
    assert_eq!(store.calls.load(Ordering::SeqCst), 2);
}
