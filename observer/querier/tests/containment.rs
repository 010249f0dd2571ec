//! One endpoint that sends nonsense, too much, or never stops: its gap, while the other clusters' answers stand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_net::{GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_promql::source::{Selection, Source};
use parallax_querier::select::{Budget, SelectOptions, StoreSource};
use parallax_querier::{
    Connection, Declared, EndpointConfig, EndpointLimits, EndpointOptions, EndpointSet, Gap, GapKind, Proxy,
    ProxyConfig,
};
use parallax_storeapi::frames::{self, Collected};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, PartialResponseStrategy,
    Series, SeriesRequest, SeriesResponse, chunk,
};
use parallax_storeapi::{MessageLimits, SeriesStream, Store, chunks, labels, matchers, with_deadline};
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

/// A store of one cluster that sends what a test wants.
struct Scripted {
    cluster: &'static str,
    opens: AtomicUsize,
    stream: Box<dyn Fn() -> SeriesStream + Send + Sync>,
    names: Vec<String>,
    warnings: Vec<String>,
}

impl Scripted {
    fn streaming(
        cluster: &'static str,
        stream: impl Fn() -> SeriesStream + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (names, warnings) = (Vec::new(), Vec::new());
        Arc::new(Self { cluster, opens: AtomicUsize::new(0), stream: Box::new(stream), names, warnings })
    }

    fn sending(cluster: &'static str, frames: Vec<SeriesResponse>) -> Arc<Self> {
        Self::streaming(cluster, move || frames::from_vec(frames.iter().cloned().map(Ok).collect()))
    }
}

#[parallax_storeapi::async_trait]
impl Store for Scripted {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse {
            label_sets: vec![labels::set_to_wire(&Labels::from_pairs([("cluster", self.cluster)]))],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo {
                max_time: i64::MAX,
                supports_sharding: true,
                supports_without_replica_labels: true,
                ..StoreInfo::default()
            }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        Ok((self.stream)())
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let (names, warnings) = (self.names.clone(), self.warnings.clone());
        Ok(LabelNamesResponse { names, warnings, hints: None })
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        let (values, warnings) = (self.names.clone(), self.warnings.clone());
        Ok(LabelValuesResponse { values, warnings, hints: None })
    }
}

/// The well-behaved cluster: three series called `up`.
fn good() -> Arc<FakeStore> {
    let samples = || (0..10).map(|i| (i * 15_000, i as f64));
    let store = ["a", "b", "c"].into_iter().fold(FakeStore::new([("cluster", "eu-1")]), |store, job| {
        store.with_series([("__name__", "up"), ("job", job)], samples())
    });
    Arc::new(store.with_range(TimeRange::new(0, i64::MAX)))
}

/// `up{cluster="us-1", job="…"}` with a chunk of `size_bytes`.
fn bad_up(job: &str, size_bytes: usize) -> Series {
    let labels = Labels::from_pairs([("__name__", "up"), ("cluster", "us-1"), ("job", job)]);
    let data = Bytes::from(vec![7; size_bytes]);
    Series {
        labels: labels::to_wire(&labels),
        chunks: vec![chunks::raw(0, 9, chunks::chunk(chunk::Encoding::Xor, data))],
    }
}

struct Mesh {
    proxy: Proxy,
    endpoints: Arc<EndpointSet>,
    metrics: Metrics,
    shutdown: CancellationToken,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn options() -> EndpointOptions {
    EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() }
}

async fn mesh_with(configs: Vec<EndpointConfig>, options: EndpointOptions, config: ProxyConfig) -> Mesh {
    let (metrics, shutdown) = (Metrics::new(), CancellationToken::new());
    let endpoints = EndpointSet::start(configs, options, &metrics, shutdown.clone()).unwrap();
    endpoints.polled_once().await;
    Mesh { proxy: Proxy::new(endpoints.clone(), config, &metrics), endpoints, metrics, shutdown }
}

/// The well-behaved cluster and `bad`, which is called `us:10901`.
async fn beside_good(bad: Arc<dyn Store>, config: ProxyConfig) -> Mesh {
    let configs = vec![
        EndpointConfig::new("eu:10901", Connection::Local(good())),
        EndpointConfig::new("us:10901", Connection::Local(bad)).with_cluster("us-1"),
    ];
    mesh_with(configs, options(), config).await
}

fn up() -> SeriesRequest {
    SeriesRequest {
        max_time: 10_000_000,
        matchers: matchers::to_wire(&[Matcher::equal("__name__", "up")]),
        ..SeriesRequest::default()
    }
}

fn aborting() -> SeriesRequest {
    SeriesRequest { partial_response_strategy: PartialResponseStrategy::Abort.into(), ..up() }
}

async fn ask(mesh: &Mesh, request: SeriesRequest) -> Result<Collected, Status> {
    frames::collect(mesh.proxy.series(Request::new(request)).await?).await
}

/// What comes beside a store that never ends, within the first of some deadlines in which the well-behaved cluster gets done: a machine that is busy needs longer.
async fn ask_in_time(bad: impl Fn() -> Arc<Scripted>) -> Collected {
    for millis in [300, 1_000, 5_000] {
        let mesh = beside_good(bad(), ProxyConfig::default()).await;
        let request = with_deadline(up(), Some(Instant::now() + Duration::from_millis(millis)));
        let answer = frames::collect(mesh.proxy.series(request).await.unwrap()).await.unwrap();
        if of_cluster(&answer, "eu-1") == 3 {
            return answer;
        }
    }
    panic!("the well-behaved cluster never gets done");
}

fn of_cluster(answer: &Collected, cluster: &str) -> usize {
    let wanted = cluster.as_bytes();
    answer.series.iter().filter(|series| labels::value_of(&series.labels, "cluster") == wanted).count()
}

fn gaps(answer: &Collected) -> Vec<Gap> {
    let gaps = answer.warnings.iter();
    gaps.map(|text| Gap::parse(text).unwrap_or_else(|| panic!("not a gap: {text}"))).collect()
}

/// A server of `store` on loopback, until the token is canceled.
async fn serve(store: Arc<dyn Store>) -> (String, CancellationToken) {
    let server = GrpcServer::bind(GrpcServerConfig::new("127.0.0.1:0"), &Metrics::new()).await.unwrap();
    let (address, stop) = (server.local_addr().to_string(), CancellationToken::new());
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let serving = server.serve(parallax_storeapi::routes(store, readiness).unwrap(), stop.clone());
    tokio::spawn(async move {
        let _ready = ready;
        serving.await.unwrap();
    });
    (address, stop)
}

#[tokio::test]
async fn malformed_series_of_one_store_are_its_gap_and_everything_else_stands() {
    let mut unsorted = bad_up("b", 9);
    unsorted.labels.reverse();
    let mut not_text = bad_up("b", 9);
    not_text.labels[2].value = Bytes::from_static(&[0xff]);
    let mut backwards = bad_up("b", 9);
    backwards.chunks[0].min_time = 100;
    let mut unknown = bad_up("b", 9);
    unknown.chunks[0].raw.as_mut().unwrap().r#type = 42;
    // The last number is how many of its series are left: one whose only chunk is bad stays, without it.
    for (bad, reason, left) in [
        (unsorted, "labels that are not sorted", 2),
        (not_text, "not UTF-8", 2),
        (backwards, "ends before it begins", 3),
        (unknown, "unknown encoding", 3),
        (bad_up("0", 9), "is out of order", 2),
    ] {
        let frames = [bad_up("a", 9), bad, bad_up("c", 9)].map(frames::series);
        let mesh = beside_good(Scripted::sending("us-1", frames.to_vec()), ProxyConfig::default()).await;
        let answer = ask(&mesh, up()).await.unwrap();
        assert_eq!((of_cluster(&answer, "eu-1"), of_cluster(&answer, "us-1")), (3, left), "{reason}");
        let gaps = gaps(&answer);
        assert_eq!((gaps.len(), gaps[0].kind, gaps[0].cluster.as_str()), (1, GapKind::Partial, "us-1"));
        assert_eq!(gaps[0].endpoint, "us:10901");
        assert!(gaps[0].reason.contains(reason), "{}", gaps[0].reason);
        let counted = mesh.metrics.encode().unwrap();
        assert!(counted.contains("parallax_querier_coverage_gaps_total{kind=\"partial\"} 1"), "{counted}");

        let status = ask(&mesh, aborting()).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().contains("us:10901") && status.message().contains(reason), "{status}");
    }
}

#[tokio::test]
async fn interleaved_series_are_counted_and_told_twice_at_most() {
    let jobs = ["a", "b", "a", "b", "a", "c"];
    let frames = jobs.map(|job| frames::series(bad_up(job, 9))).to_vec();
    let mesh = beside_good(Scripted::sending("us-1", frames), ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    // `b` comes twice and is put together.
    assert_eq!((of_cluster(&answer, "eu-1"), of_cluster(&answer, "us-1")), (3, 3));
    let reasons: Vec<String> = gaps(&answer).into_iter().map(|gap| gap.reason).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons[0].contains("out of order"), "{reasons:?}");
    assert_eq!(reasons[1], "2 series or chunks that are malformed or not its own were left out");
}

#[tokio::test]
async fn a_chunk_damaged_on_its_way_is_found_by_its_hash() {
    let mut damaged = bad_up("b", 9);
    damaged.chunks[0].raw.as_mut().unwrap().data = Bytes::from_static(b"something else");
    let mut unhashed = bad_up("c", 9);
    unhashed.chunks[0].raw.as_mut().unwrap().hash = 0;
    let frames = [bad_up("a", 9), damaged, unhashed].map(frames::series);
    let (address, _stop) = serve(Scripted::sending("us-1", frames.to_vec())).await;
    let remote = EndpointConfig::new("us:10901", Connection::Remote(GrpcTarget::plain(address)));
    let mesh = mesh_with(vec![remote], options(), ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    let chunks: Vec<usize> = answer.series.iter().map(|series| series.chunks.len()).collect();
    assert_eq!(chunks, [1, 0, 1]);
    let reason = &gaps(&answer)[0].reason;
    assert!(reason.contains(r#"job="b""#) && reason.contains("does not have the hash"), "{reason}");
}

/// How many series can be decoded, or what the error is; and the warnings.
async fn decoded_of(mesh: &Mesh, partial_response: bool) -> (Result<usize, String>, Vec<String>) {
    let options = SelectOptions {
        replica_labels: Vec::new(),
        algorithm: parallax_dedup::Algorithm::Penalty,
        partial_response,
        store_matchers: Vec::new(),
        shard: None,
        max_resolution_ms: 0,
        deadline: Instant::now() + Duration::from_secs(60),
        max_concurrent_opens: 4,
    };
    let proxy = Arc::new(mesh.proxy.clone());
    let (runtime, budget) = (tokio::runtime::Handle::current(), Budget::new(0));
    let source = StoreSource::new(proxy.clone(), runtime, options, budget, CancellationToken::new())
        .with_blame(Some(proxy));
    let range = TimeRange::new(0, 10_000_000);
    let mut stream = source
        .select(&Selection {
            matchers: vec![Matcher::equal("__name__", "up")],
            range,
            query_range: range,
            step_ms: 15_000,
            range_ms: 0,
            function: String::new(),
            grouping: Vec::new(),
            grouping_by: false,
            preparation: None,
            scope: Default::default(),
        })
        .unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut series = 0;
        let end = loop {
            match stream.next_batch() {
                Ok(Some(batch)) => series += batch.len(),
                Ok(None) => break Ok(series),
                Err(error) => break Err(error.to_string()),
            }
        };
        (end, stream.take_warnings())
    });
    reading.await.unwrap()
}

#[tokio::test]
async fn a_chunk_that_cannot_be_decoded_fails_the_query_if_only_a_required_cluster_has_such_series() {
    let required = || Declared { required: true, ..Declared::default() };
    let us = |name: &str, series: Vec<SeriesResponse>, declared: Declared| {
        EndpointConfig::new(name, Connection::Local(Scripted::sending("us-1", series)))
            .with_cluster("us-1")
            .with_declared(declared)
    };
    // More than are told one by one come from elsewhere before it.
    let eu = |index: usize| {
        let mut bad = bad_up("a", 9);
        let labels = [("__name__", "up"), ("cluster", "eu-1"), ("job", &format!("{index:02}"))]
            .map(|(n, v)| (n, v.to_owned()));
        bad.labels = labels::to_wire(&Labels::from_pairs(labels));
        frames::series(bad)
    };
    let bad = || vec![frames::series(bad_up("a", 9))];
    let others = Scripted::sending("eu-1", (0..15).map(eu).collect());
    let eu = || EndpointConfig::new("eu:10901", Connection::Local(others.clone())).with_cluster("eu-1");
    let first = || us("us:10901", bad(), required());
    for (beside, is_error) in [
        (None, true),
        (Some(us("us:10902", Vec::new(), required())), true),
        // It may have sent that chunk as well.
        (Some(us("us:10902", Vec::new(), Declared::default())), false),
    ] {
        let configs = [eu(), first()].into_iter().chain(beside).collect();
        let mesh = mesh_with(configs, options(), ProxyConfig::default()).await;
        let (end, warnings) = decoded_of(&mesh, true).await;
        if is_error {
            let gap = Gap::parse(&end.unwrap_err()).unwrap();
            assert_eq!((gap.cluster.as_str(), gap.kind), ("us-1", GapKind::Partial));
            assert!(gap.reason.contains("decode Xor chunk") && gap.reason.contains("is required"), "{gap}");
        } else {
            assert_eq!((end, warnings.len()), (Ok(0), 11), "{warnings:?}");
            assert!(!warnings.iter().any(|warning| warning.contains("is required")), "{warnings:?}");
        }
    }
}

#[tokio::test]
async fn a_chunk_that_cannot_be_decoded_is_the_gap_of_the_endpoint_that_has_such_series() {
    // Its hash fits: it was broken from the start.
    let frames = vec![frames::series(bad_up("a", 9))];
    let mesh = beside_good(Scripted::sending("us-1", frames), ProxyConfig::default()).await;
    for partial_response in [true, false] {
        let (end, warnings) = decoded_of(&mesh, partial_response).await;
        let text = if partial_response {
            assert_eq!((end, warnings.len()), (Ok(3), 1), "{warnings:?}");
            warnings[0].clone()
        } else {
            end.unwrap_err()
        };
        let gap = Gap::parse(&text).unwrap();
        assert_eq!((gap.cluster.as_str(), gap.endpoint.as_str()), ("us-1", "us:10901"));
        assert!(
            gap.reason.contains(r#"series up{cluster="us-1", job="a"}: decode Xor chunk [0, 9]"#),
            "{gap}"
        );
    }
    let counted = mesh.metrics.encode().unwrap();
    assert!(counted.contains("parallax_querier_coverage_gaps_total{kind=\"partial\"} 2"), "{counted}");
}

#[tokio::test]
async fn a_frame_that_is_too_large_is_refused_unread_and_says_what_to_raise() {
    let frames = [bad_up("a", 10), bad_up("b", 100_000)].map(frames::series);
    let (address, _stop) = serve(Scripted::sending("us-1", frames.to_vec())).await;
    let remote = || EndpointConfig::new("us:10901", Connection::Remote(GrpcTarget::plain(&address)));
    let limits = MessageLimits { frame_bytes: 50_000, ..MessageLimits::default() };
    let options = |message_limits| EndpointOptions { message_limits, ..options() };
    let configs = vec![EndpointConfig::new("eu:10901", Connection::Local(good())), remote()];
    let mesh = mesh_with(configs, options(limits), ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!((of_cluster(&answer, "eu-1"), of_cluster(&answer, "us-1")), (3, 1));
    let gap = gaps(&answer).remove(0);
    assert_eq!(
        (gap.kind, gap.endpoint.as_str(), gap.cluster.as_str()),
        (GapKind::Refused, "us:10901", "us-1")
    );
    assert!(gap.reason.contains("at most 50000 bytes are taken"), "{}", gap.reason);
    assert!(gap.reason.contains("--endpoint.max-frame-size"), "{}", gap.reason);

    // Of one endpoint alone.
    let own = EndpointLimits { frame_bytes: Some(50_000), ..EndpointLimits::default() };
    let few = EndpointLimits { response_bytes: Some(1_000), ..EndpointLimits::default() };
    for (limits, series, reason) in
        [(own, 1, "at most 50000 bytes are taken"), (few, 1, "it sent more than 1000 bytes in one answer")]
    {
        let configs =
            vec![EndpointConfig::new("eu:10901", Connection::Local(good())), remote().with_limits(limits)];
        let mesh = mesh_with(configs, options(MessageLimits::default()), ProxyConfig::default()).await;
        let answer = ask(&mesh, up()).await.unwrap();
        assert_eq!((of_cluster(&answer, "eu-1"), of_cluster(&answer, "us-1")), (3, series));
        assert!(gaps(&answer)[0].reason.contains(reason), "{:?}", answer.warnings);
    }

    let mesh = mesh_with(vec![remote()], options(MessageLimits::default()), ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (2, 0));
}

#[tokio::test]
async fn a_request_of_megabytes_is_refused_by_a_server() {
    let (address, _stop) = serve(good()).await;
    let channel = parallax_net::connect(&GrpcTarget::plain(address)).unwrap();
    let mut client = parallax_storeapi::proto::thanos::store_client::StoreClient::new(channel);
    let mut request = up();
    request.matchers[0].value = "x".repeat(parallax_storeapi::MAX_REQUEST_BYTES + 1);
    assert_eq!(client.series(request).await.unwrap_err().code(), Code::OutOfRange);
    assert!(client.series(up()).await.is_ok());
}

#[tokio::test]
async fn an_endpoint_runs_ahead_of_the_merge_by_bytes_and_not_by_frames() {
    const FRAME_BYTES: usize = 10_000;
    for (look_ahead_bytes, most_pulled) in [(35_000, 4), (1, 2)] {
        let pulled = Arc::new(AtomicUsize::new(0));
        let count = pulled.clone();
        let bad = Scripted::streaming("us-1", move || {
            let count = count.clone();
            let numbered = futures::stream::iter(0..1000).map(move |number| {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(frames::series(bad_up(&format!("{number:04}"), FRAME_BYTES)))
            });
            Box::pin(numbered)
        });
        let config = ProxyConfig { look_ahead_bytes, ..ProxyConfig::default() };
        let local = EndpointConfig::new("us:10901", Connection::Local(bad));
        let mesh = mesh_with(vec![local], options(), config).await;
        let mut stream = mesh.proxy.series(Request::new(up())).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        // Nobody reads on: it comes to rest.
        let mut before = usize::MAX;
        while before != pulled.load(Ordering::SeqCst) {
            before = pulled.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // What waits in the queue, two that the merge has taken, and one that waits for room.
        assert!(before <= most_pulled + 3, "{before} frames with a look-ahead of {look_ahead_bytes} bytes");
        drop(stream);
        assert_eq!(ask(&mesh, up()).await.unwrap().series.len(), 1000);
    }
}

#[tokio::test]
async fn a_query_over_its_bytes_loses_the_endpoint_that_is_too_large_and_says_so() {
    let frames = [bad_up("a", 10), bad_up("b", 1_000_000)].map(frames::series);
    let config = ProxyConfig { max_held_bytes: 500_000, ..ProxyConfig::default() };
    let mesh = beside_good(Scripted::sending("us-1", frames.to_vec()), config).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!((of_cluster(&answer, "eu-1"), of_cluster(&answer, "us-1")), (3, 1));
    let gap = gaps(&answer).remove(0);
    assert_eq!((gap.kind, gap.endpoint.as_str()), (GapKind::Refused, "us:10901"));
    assert!(gap.reason.contains("500000 bytes") && gap.reason.contains("--query.max-held-bytes"), "{gap}");
}

#[tokio::test]
async fn a_stream_without_end_ends_with_its_bytes_or_with_the_deadline() {
    let endless = || {
        Scripted::streaming("us-1", || {
            let numbers = futures::stream::iter(0_u64..);
            Box::pin(numbers.map(|number| Ok(frames::series(bad_up(&format!("{number:012}"), 1000)))))
        })
    };
    let config = ProxyConfig { max_response_bytes: 1_000_000, ..ProxyConfig::default() };
    let mesh = beside_good(endless(), config).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!(of_cluster(&answer, "eu-1"), 3);
    assert!((1..1_000).contains(&of_cluster(&answer, "us-1")));
    let gap = gaps(&answer).remove(0);
    assert!(gap.kind == GapKind::Refused && gap.reason.contains("more than 1000000 bytes"), "{gap}");

    let answer = ask_in_time(endless).await;
    assert_eq!(of_cluster(&answer, "eu-1"), 3);
    assert_eq!(gaps(&answer)[0].kind, GapKind::Late);
}

#[tokio::test]
async fn frames_of_nothing_without_end_end_with_the_deadline() {
    let nothing = || {
        Scripted::streaming("us-1", || {
            Box::pin(futures::stream::repeat_with(|| Ok(SeriesResponse { result: None })))
        })
    };
    let answer = ask_in_time(nothing).await;
    assert_eq!((answer.series.len(), gaps(&answer)[0].kind), (3, GapKind::Late));
}

#[tokio::test]
async fn warnings_of_megabytes_are_cut_and_too_many_are_dropped() {
    let mut frames = vec![frames::warning("w".repeat(10 << 20))];
    frames.extend((0..20_000).map(|number| frames::warning(format!("warning {number}"))));
    let mesh = beside_good(Scripted::sending("us-1", frames), ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!((answer.series.len(), answer.warnings.len()), (3, 10_000));
    assert!(answer.warnings[0].len() < 4096 && answer.warnings[0].ends_with("(10485760 bytes in all)"));

    let names = vec!["job".to_owned()];
    let bad = Scripted {
        warnings: vec!["w".repeat(10 << 20)],
        names,
        cluster: "us-1",
        opens: AtomicUsize::new(0),
        stream: Box::new(|| frames::from_vec(Vec::new())),
    };
    let mesh = beside_good(Arc::new(bad), ProxyConfig::default()).await;
    let request = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    let answer = mesh.proxy.label_names(Request::new(request)).await.unwrap();
    assert!(answer.warnings[0].len() < 4096);

    let failing = Arc::new(FakeStore::new([("cluster", "us-1")]).with_range(TimeRange::new(0, i64::MAX)));
    failing.set_fault(Fault::FailOpen(Status::internal("e".repeat(10 << 20))));
    let mesh = beside_good(failing, ProxyConfig::default()).await;
    assert!(ask(&mesh, up()).await.unwrap().warnings[0].len() < 4096);
}

#[tokio::test]
async fn label_answers_count_against_the_bytes_of_a_query() {
    let bad = Scripted {
        names: (0..1000).map(|number| format!("{number:0100}")).collect(),
        warnings: Vec::new(),
        cluster: "us-1",
        opens: AtomicUsize::new(0),
        stream: Box::new(|| frames::from_vec(Vec::new())),
    };
    let config = ProxyConfig { max_held_bytes: 50_000, ..ProxyConfig::default() };
    let mesh = beside_good(Arc::new(bad), config).await;
    let request = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    let answer = mesh.proxy.label_names(Request::new(request)).await.unwrap();
    assert_eq!(answer.names, ["__name__", "cluster", "job"]);
    let gap = Gap::parse(&answer.warnings[0]).unwrap();
    assert_eq!((gap.kind, gap.endpoint.as_str()), (GapKind::Refused, "us:10901"));
}

#[tokio::test]
async fn a_label_call_without_partial_answers_fails_with_the_first_endpoint_and_waits_for_no_other() {
    let hung = good();
    hung.set_fault(Fault::HangBeforeOpen);
    let failing = good();
    failing.set_fault(Fault::FailOpen(Status::internal("disk on fire")));
    // No response timeout: what waits for the hung one waits for two minutes.
    let configs = vec![
        EndpointConfig::new("hung", Connection::Local(hung)),
        EndpointConfig::new("failing", Connection::Local(failing)),
    ];
    let mesh = mesh_with(configs, options(), ProxyConfig::default()).await;
    let strategy = PartialResponseStrategy::Abort.into();
    let names = LabelNamesRequest {
        end: i64::MAX,
        partial_response_strategy: strategy,
        ..LabelNamesRequest::default()
    };
    let values = LabelValuesRequest {
        label: "job".to_owned(),
        end: i64::MAX,
        partial_response_strategy: strategy,
        ..LabelValuesRequest::default()
    };
    let limit = Duration::from_secs(60);
    let names = mesh.proxy.label_names(Request::new(names));
    let values = mesh.proxy.label_values(Request::new(values));
    for status in [
        tokio::time::timeout(limit, names).await.unwrap().unwrap_err(),
        tokio::time::timeout(limit, values).await.unwrap().unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().contains("failing: disk on fire"), "{status}");
    }
}

/// Fails as a connection does that runs into its own timeout.
struct SlowlyRefusing(AtomicUsize);

impl SlowlyRefusing {
    async fn refuse<T>(&self) -> Result<T, Status> {
        self.0.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(60)).await;
        Err(Status::unavailable("no connection within 60ms"))
    }
}

#[parallax_storeapi::async_trait]
impl Store for SlowlyRefusing {
    async fn info(&self) -> Result<InfoResponse, Status> {
        good().info().await
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.refuse().await
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.refuse().await
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        self.refuse().await
    }
}

#[tokio::test]
async fn a_connection_that_fails_slowly_is_tried_once_and_then_left_alone_while_a_fast_one_is_tried_again() {
    for (slow_failure, opens_of_first, opens_of_second) in
        [(Duration::from_millis(50), 1, 0), (Duration::from_secs(60), 3, 3)]
    {
        let store = Arc::new(SlowlyRefusing(AtomicUsize::new(0)));
        let options = EndpointOptions { slow_failure, ..options() };
        let configs = vec![EndpointConfig::new("us:10901", Connection::Local(store.clone()))];
        let mesh = mesh_with(configs, options, ProxyConfig::default()).await;
        let first = gaps(&ask(&mesh, up()).await.unwrap()).remove(0);
        assert_eq!((first.kind, first.reason.as_str()), (GapKind::Missing, "no connection within 60ms"));
        assert_eq!(store.0.swap(0, Ordering::SeqCst), opens_of_first);
        let is_open = mesh.endpoints.endpoints()[0].why_not_now(Instant::now()).is_some();
        assert_eq!(is_open, opens_of_second == 0);
        let second = gaps(&ask(&mesh, up()).await.unwrap()).remove(0);
        assert_eq!(store.0.load(Ordering::SeqCst), opens_of_second);
        assert_eq!(second.reason.starts_with("not asked: "), is_open, "{second}");
    }
}

#[tokio::test]
async fn label_calls_leave_a_connection_that_fails_slowly_alone_too() {
    let store = Arc::new(SlowlyRefusing(AtomicUsize::new(0)));
    let options = EndpointOptions { slow_failure: Duration::from_millis(50), ..options() };
    let configs = vec![EndpointConfig::new("us:10901", Connection::Local(store.clone()))];
    let mesh = mesh_with(configs, options, ProxyConfig::default()).await;
    let request = LabelNamesRequest { end: i64::MAX, ..LabelNamesRequest::default() };
    for (reason, opens) in [("no connection within 60ms", 1), ("not asked: ", 1)] {
        let answer = mesh.proxy.label_names(Request::new(request.clone())).await.unwrap();
        let gap = Gap::parse(&answer.warnings[0]).unwrap();
        assert!(gap.reason.starts_with(reason), "{gap}");
        assert_eq!(store.0.load(Ordering::SeqCst), opens);
    }
}

#[tokio::test]
async fn a_store_of_blocks_before_its_first_block_is_complete_while_it_can_be_read() {
    let empty = || {
        let store = FakeStore::new([]).with_component("store");
        Arc::new(store.with_range(TimeRange::new(i64::MAX, i64::MIN)))
    };
    let gateway = empty();
    let config =
        EndpointConfig::new("store gateway", Connection::Local(gateway.clone())).with_cluster("us-1");
    let mesh = mesh_with(vec![config.clone()], options(), ProxyConfig::default()).await;
    assert_eq!(
        gaps(&ask(&mesh, up()).await.unwrap())[0].cluster,
        "us-1",
        "others have to hold their cluster"
    );

    let frequent = EndpointOptions { info_interval: Duration::from_millis(20), ..options() };
    let mesh = mesh_with(vec![config.that_may_be_empty()], frequent, ProxyConfig::default()).await;
    let answer = ask(&mesh, up()).await.unwrap();
    assert_eq!((answer.warnings, gateway.calls().series), (vec![], 0));
    assert_eq!(mesh.endpoints.missing_clusters(), Vec::<String>::new());
    assert!(
        mesh.proxy.info().await.unwrap().label_sets.is_empty(),
        "it may hold anything, says an empty label set"
    );

    gateway.set_fault(Fault::Down(Status::unavailable("bucket: access denied")));
    let give_up = Instant::now() + Duration::from_secs(120);
    let answer = loop {
        let answer = ask(&mesh, up()).await.unwrap();
        if !answer.warnings.is_empty() || Instant::now() > give_up {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let gap = gaps(&answer).remove(0);
    assert_eq!((gap.cluster.as_str(), gap.reason.as_str()), ("us-1", "bucket: access denied"));
}
