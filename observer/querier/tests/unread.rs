//! Selections of one query that the engine has not come to yet: they keep nobody from going on, and count nothing twice.

#[path = "support/fake_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod fake_store;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake_store::{FakeStore, frame, series};
use parallax_dedup::Algorithm;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_net::GrpcTarget;
use parallax_promql::source::{Selection, SeriesStream, Source, SourceError};
use parallax_querier::select::{Budget, SelectOptions, StoreSource};
use parallax_querier::{Connection, EndpointConfig, EndpointOptions, EndpointSet, Proxy, ProxyConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series, SeriesRequest,
};
use parallax_storeapi::{Store, chunks, labels};
use parallax_telemetry::Metrics;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// In which everything that can go on has gone on.
const A_WHILE: Duration = Duration::from_millis(200);
/// In which anything ends that ends at all.
const LIMIT: Duration = Duration::from_secs(60);

fn job(index: usize) -> String {
    format!("{index:05}")
}

/// So many series called `up`.
fn ups(count: usize) -> Vec<Series> {
    let of =
        |index| series(&[("__name__", "up"), ("cluster", "eu-1"), ("job", &job(index))], &[(10_000, 1.0)]);
    (0..count).map(of).collect()
}

fn size(all: &[Series]) -> usize {
    all.iter().map(chunks::series_size_bytes).sum()
}

fn selection() -> Selection {
    Selection {
        matchers: vec![Matcher::equal("__name__", "up")],
        range: TimeRange::new(1_000, 500_000),
        query_range: TimeRange::new(1_000, 500_000),
        step_ms: 15_000,
        range_ms: 60_000,
        function: String::new(),
        grouping: Vec::new(),
        grouping_by: false,
        preparation: None,
        scope: Default::default(),
    }
}

fn source(store: Arc<dyn Store>, budget_bytes: usize, partial_response: bool) -> StoreSource {
    let options = SelectOptions {
        max_resolution_ms: 0,
        replica_labels: Vec::new(),
        algorithm: Algorithm::Penalty,
        partial_response,
        store_matchers: Vec::new(),
        shard: None,
        deadline: Instant::now() + LIMIT,
        max_concurrent_opens: 4,
    };
    let budget = Budget::new(budget_bytes);
    StoreSource::new(store, Handle::current(), options, budget, CancellationToken::new())
}

/// The series of each stream, read one stream after the other, and the warnings.
async fn read(streams: Vec<Box<dyn SeriesStream>>) -> Result<(Vec<usize>, Vec<String>), SourceError> {
    let reading = tokio::task::spawn_blocking(move || {
        let (mut counts, mut warnings) = (Vec::new(), Vec::new());
        for mut stream in streams {
            let mut count = 0;
            while let Some(batch) = stream.next_batch()? {
                count += batch.len();
            }
            warnings.extend(stream.take_warnings());
            counts.push(count);
        }
        Ok((counts, warnings))
    });
    tokio::time::timeout(LIMIT * 2, reading).await.expect("they wait for each other").unwrap()
}

/// A store that is asked often, and counts.
struct Counting {
    store: FakeStore,
    opens: AtomicUsize,
}

impl Counting {
    fn sending(frames: Vec<Vec<Series>>) -> Arc<Self> {
        let info = InfoResponse {
            label_sets: vec![labels::set_to_wire(&Labels::from_pairs([("cluster", "eu-1")]))],
            store: Some(StoreInfo {
                max_time: i64::MAX,
                supports_sharding: true,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        };
        let frames = frames.into_iter().map(frame).collect();
        Arc::new(Self {
            store: FakeStore { frames, info, ..FakeStore::default() },
            opens: AtomicUsize::new(0),
        })
    }

    fn opens(&self) -> usize {
        self.opens.load(Ordering::SeqCst)
    }

    /// Waits until a stream of this store was dropped.
    async fn has_let_go(&self) {
        let give_up = Instant::now() + LIMIT;
        while !self.store.dropped.load(Ordering::SeqCst) {
            assert!(Instant::now() < give_up, "the stream stays open");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.store.info().await
    }

    async fn series(
        &self,
        request: Request<SeriesRequest>,
    ) -> Result<parallax_storeapi::SeriesStream, Status> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        self.store.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.store.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.store.label_values(request).await
    }
}

/// `store` behind a fan-out, and beside it whatever `more` are.
async fn proxy(store: Arc<Counting>, more: Vec<EndpointConfig>, metrics: &Metrics) -> Proxy {
    let configs = [vec![EndpointConfig::new("eu", Connection::Local(store))], more].concat();
    let options = EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() };
    let endpoints = EndpointSet::start(configs, options, metrics, CancellationToken::new()).unwrap();
    endpoints.polled_once().await;
    Proxy::new(endpoints, ProxyConfig::default(), metrics)
}

#[tokio::test]
async fn a_first_frame_that_nobody_reads_yet_does_not_fail_the_query() {
    let all = ups(100);
    // Three frames are there at once, and there is no room for so many. (A fan-out and the engine's side count a frame each while it goes from one to the other.)
    let budget_bytes = size(&all) * 5 / 2;
    for behind_a_proxy in [false, true] {
        let store = Counting::sending(vec![all.clone()]);
        let store: Arc<dyn Store> =
            if behind_a_proxy { Arc::new(proxy(store, Vec::new(), &Metrics::new()).await) } else { store };
        for partial_response in [true, false] {
            let source = source(store.clone(), budget_bytes, partial_response);
            let streams: Vec<_> = (0..3).map(|_| source.select(&selection()).unwrap()).collect();
            tokio::time::sleep(A_WHILE).await;
            let (counts, warnings) = read(streams).await.unwrap();
            assert_eq!((counts, warnings), (vec![100; 3], vec![]), "behind a proxy: {behind_a_proxy}");
        }
    }
}

#[tokio::test]
async fn what_was_read_ahead_is_let_go_where_a_selection_that_is_read_needs_the_room() {
    let (small, large) = (ups(20), ups(100));
    // The small answer is a fifth of the large one: it fits into the quarter that is for reading ahead, and then the large one does not fit any more.
    let budget_bytes = size(&large);
    let ahead = Counting::sending(vec![small]);
    let needed = Counting::sending(vec![large]);
    let source_of = |store: Arc<Counting>, budget: &Arc<Budget>| {
        let options = SelectOptions {
            max_resolution_ms: 0,
            replica_labels: Vec::new(),
            algorithm: Algorithm::Penalty,
            partial_response: true,
            store_matchers: Vec::new(),
            shard: None,
            deadline: Instant::now() + LIMIT,
            max_concurrent_opens: 4,
        };
        StoreSource::new(store, Handle::current(), options, budget.clone(), CancellationToken::new())
    };
    let budget = Budget::new(budget_bytes);
    let unread = source_of(ahead.clone(), &budget).select(&selection()).unwrap();
    // Read to its end: its stream is let go.
    ahead.has_let_go().await;
    let first = source_of(needed, &budget).select(&selection()).unwrap();
    let (counts, warnings) = read(vec![first, unread]).await.unwrap();
    assert_eq!((counts, warnings), (vec![100, 20], vec![]));
    assert_eq!(ahead.opens(), 2, "it was let go, and asked for again");
}

#[tokio::test]
async fn gaps_of_an_attempt_that_is_repeated_count_once() {
    let metrics = Metrics::new();
    let nobody = format!("127.0.0.1:{}", parallax_net::free_port().unwrap());
    let down = EndpointConfig::new("us", Connection::Remote(GrpcTarget::plain(nobody))).with_cluster("us-1");
    // Far more than may be read ahead, so that the second selection is let go and opened again.
    let frames: Vec<Vec<Series>> = ups(400).into_iter().map(|one| vec![one]).collect();
    let budget_bytes = size(&ups(100));
    let store = Counting::sending(frames);
    let proxy = proxy(store.clone(), vec![down], &metrics).await;
    let source = source(Arc::new(proxy), budget_bytes, true);
    let streams: Vec<_> = (0..2).map(|_| source.select(&selection()).unwrap()).collect();
    // Until the patience with a stream that cannot be read ahead is over.
    store.has_let_go().await;
    let (counts, warnings) = read(streams).await.unwrap();
    assert_eq!((counts, warnings.len()), (vec![400; 2], 2), "{warnings:?}");
    assert!(store.opens() > 2, "there was an attempt that was repeated");
    let text = metrics.encode().unwrap();
    let counted =
        text.lines().find(|line| line.starts_with("parallax_querier_coverage_gaps_total{")).unwrap();
    assert_eq!(counted, "parallax_querier_coverage_gaps_total{kind=\"missing\"} 2");
}
