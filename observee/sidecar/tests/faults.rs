//! What a sidecar makes of a Prometheus that is slow, broken, damaged or merely unusual.

#[path = "faults/fake_prometheus.rs"]
mod fake_prometheus;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fake_prometheus::{Beside, Fake, Fault, STREAMED, start, start_unready, times};
use futures::StreamExt;
use parallax_model::{FloatColumn, Labels, MatchOp, Matcher};
use parallax_sidecar::SidecarError;
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use parallax_storeapi::{SeriesStream, Store, encoded, frames, labels, matchers, with_deadline};
use tonic::{Code, Request, Status};

fn labels_of(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied())
}

fn everything() -> SeriesRequest {
    let matcher = Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap();
    SeriesRequest {
        min_time: i64::MIN,
        max_time: i64::MAX,
        matchers: matchers::to_wire(&[matcher]),
        ..SeriesRequest::default()
    }
}

/// Labels and samples in the order they came; parts of one series as they came.
async fn ask(beside: &Beside, request: SeriesRequest) -> Result<Vec<(Labels, Vec<i64>)>, Status> {
    samples_of(beside.sidecar.series(Request::new(request)).await?).await
}

/// The same as somebody gets it who asks over the wire.
async fn ask_over_the_wire(
    beside: &Beside,
    request: SeriesRequest,
) -> Result<Vec<(Labels, Vec<i64>)>, Status> {
    samples_of(encoded::decoded(beside.sidecar.series_encoded(Request::new(request)).await?)).await
}

async fn samples_of(stream: SeriesStream) -> Result<Vec<(Labels, Vec<i64>)>, Status> {
    let answer = frames::collect(stream).await?;
    let decoded = answer.series.iter().map(|series| {
        let mut column = FloatColumn::default();
        for chunk in &series.chunks {
            parallax_tsdb::chunk::decode_xor(&chunk.raw.as_ref().unwrap().data, &mut column).unwrap();
        }
        let times = column.iter().map(|(time, value)| {
            assert_eq!(time as f64, value);
            time
        });
        (labels::from_wire(&series.labels).unwrap(), times.collect())
    });
    Ok(decoded.collect())
}

fn three_series() -> Fake {
    let own = |instance: &str| labels_of(&[("__name__", "up"), ("instance", instance)]);
    Fake::new([("cluster", "eu-1"), ("replica", "0")]).with(own("a"), 5).with(own("b"), 1).with(own("c"), 2)
}

async fn reads_end(beside: &Beside) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while beside.fake.open_reads.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < deadline, "a read of prometheus goes on though nobody wants it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sets of own labels with and without the names that external labels have, among them one that sorts before `__name__`.
fn awkward_series() -> Vec<Labels> {
    let mut all = Vec::new();
    for bits in 0..64u32 {
        let optional =
            [("Zone", "1"), ("a", "1"), ("cluster", "own"), ("m", "1"), ("replica", "1"), ("z", "1")];
        let chosen = optional.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0).map(|(_, pair)| *pair);
        for name in ["m1", "m2"] {
            all.push(Labels::from_pairs(chosen.clone().chain([("__name__", name)])));
        }
    }
    all
}

#[tokio::test]
async fn series_are_sorted_whatever_labels_they_have_in_common_with_the_external_ones() {
    let externals: [&[(&str, &str)]; 6] = [
        &[("cluster", "eu-1")],
        &[("b", "1"), ("x", "1")],
        &[("A", "1"), ("zz", "1")],
        &[("Zone", "9"), ("m", "9")],
        &[("cluster", "eu-1"), ("replica", "0")],
        &[("a", "1"), ("cluster", "eu-1"), ("m", "0"), ("replica", "5"), ("z", "0")],
    ];
    for (external, samples_only, skip_chunks) in
        externals.into_iter().flat_map(|e| [(e, false, false), (e, true, false), (e, false, true)])
    {
        for avoid_external in [false, true] {
            let external = labels_of(external);
            let mut fake = Fake { external: external.clone(), samples_only, ..Fake::default() };
            for own in awkward_series() {
                if !avoid_external || external.iter().all(|(name, _)| !own.contains(name)) {
                    fake = fake.with(own, 1);
                }
            }
            let own: Vec<Labels> = fake.series.iter().map(|(own, _)| own.clone()).collect();
            let beside = start(fake, |config| config).await;
            for without in [vec![], vec!["replica".to_owned()], vec!["Zone".to_owned(), "cluster".to_owned()]]
            {
                let request =
                    SeriesRequest { without_replica_labels: without.clone(), skip_chunks, ..everything() };
                let answer = ask(&beside, request.clone()).await.unwrap();
                assert_eq!(ask_over_the_wire(&beside, request).await.unwrap(), answer);
                let got: Vec<Labels> = answer.into_iter().map(|(labels, _)| labels).collect();
                let mut expected: Vec<Labels> =
                    own.iter().map(|own| own.overlaid_with(&external).without(&without)).collect();
                expected.sort();
                assert_eq!(
                    got, expected,
                    "external {external}, without {without:?}, samples only {samples_only}"
                );
            }
        }
    }
}

#[tokio::test]
async fn streamed_and_sampled_reads_give_the_same_samples() {
    let streamed = start(three_series(), |config| config).await;
    let sampled = start(Fake { samples_only: true, ..three_series() }, |config| config).await;
    let mut joined: Vec<(Labels, Vec<i64>)> = Vec::new();
    for (labels, samples) in ask(&streamed, everything()).await.unwrap() {
        match joined.last_mut() {
            Some((last, all)) if *last == labels => all.extend(samples),
            _ => joined.push((labels, samples)),
        }
    }
    assert_eq!(joined, ask(&sampled, everything()).await.unwrap());
    assert_eq!(
        joined.iter().map(|(_, samples)| samples.clone()).collect::<Vec<_>>(),
        [times(5), times(1), times(2)]
    );
}

#[tokio::test]
async fn a_body_cut_or_damaged_anywhere_is_an_error_and_never_a_shorter_answer() {
    let beside = start(three_series(), |config| config).await;
    let frames = beside.fake.frames();
    let mut borders = vec![0];
    for frame in &frames {
        borders.push(borders.last().unwrap() + frame.len());
    }
    let length = frames.concat().len();
    for at in (0..length).filter(|at| !borders.contains(at)) {
        beside.fake.set(Fault::CutAfter(at));
        for status in [ask(&beside, everything()).await, ask_over_the_wire(&beside, everything()).await] {
            let status = status.unwrap_err();
            assert!(status.message().contains(&beside.url), "cut at {at}: {status}");
        }
        beside.fake.set(Fault::FlipBit(at));
        for status in [ask(&beside, everything()).await, ask_over_the_wire(&beside, everything()).await] {
            let status = status.unwrap_err();
            assert!(status.message().contains(&beside.url), "flipped at {at}: {status}");
        }
    }
    for at in 0..length {
        beside.fake.set(Fault::BreakAfter(at));
        for status in [ask(&beside, everything()).await, ask_over_the_wire(&beside, everything()).await] {
            assert_eq!(status.unwrap_err().code(), Code::Unavailable, "broken at {at}");
        }
    }
    beside.fake.set(Fault::None);
    assert_eq!(ask(&beside, everything()).await.unwrap().len(), frames.len());
}

#[tokio::test]
async fn nonsense_in_place_of_an_answer_is_an_error_that_takes_no_memory() {
    let beside = start(three_series(), |config| config).await;
    // A snappy block that says it is 4 GiB long, one that is longer than it says, and no snappy at all.
    let bomb = [&[0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0xfe; 64][..]].concat();
    let endless_frame = [&[0xff; 9][..], &[0x01, 0, 0, 0, 0][..]].concat();
    let text = b"storage error: block is gone\n".to_vec();
    for (kind, body) in [
        ("application/x-protobuf", bomb),
        ("application/x-protobuf", vec![2, 0xfc, 0, 0]),
        ("text/html", text.clone()),
        (STREAMED, endless_frame),
        (STREAMED, [beside.fake.frames().concat(), text].concat()),
    ] {
        beside.fake.set(Fault::Answer { kind, body });
        let status = ask(&beside, everything()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal, "{status}");
        assert!(status.message().contains("unreadable answer of /api/v1/read"), "{status}");
    }
}

#[tokio::test]
async fn http_errors_say_whose_fault_they_are() {
    let beside = start(three_series(), |config| config).await;
    for (status, code) in [
        (400, Code::InvalidArgument),
        (401, Code::FailedPrecondition),
        (404, Code::FailedPrecondition),
        (422, Code::Aborted),
        (429, Code::ResourceExhausted),
        (500, Code::Unavailable),
        (503, Code::Unavailable),
    ] {
        beside.fake.set(Fault::Status(status));
        let error = ask(&beside, everything()).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let expected = format!("prometheus {}: /api/v1/read answered {status}: because", beside.url);
        assert_eq!(error.message(), expected);
    }
}

/// How an answer ends that has this much time, and how many parts came before.
async fn until_deadline(beside: &Beside, time: Duration) -> (Code, usize) {
    let deadline = Instant::now() + time;
    let (mut got, mut end) = (0, None);
    match beside.sidecar.series(with_deadline(everything(), Some(deadline))).await {
        Err(status) => end = Some(status),
        Ok(mut stream) => {
            while let Some(frame) = stream.next().await {
                match frame {
                    Ok(_) => got += 1,
                    Err(status) => end = Some(status),
                }
            }
        }
    }
    (end.unwrap().code(), got)
}

#[tokio::test]
async fn the_deadline_ends_a_hung_read_before_and_within_its_answer() {
    let beside = start(three_series(), |mut config| {
        config.max_concurrent_reads = 1;
        config
    })
    .await;
    // A label may come that sorts before `replica`, so a series waits for the next one: three parts of the first are free.
    let four = beside.fake.frames()[..4].concat().len();
    for (fault, series) in [(Fault::HangBeforeHeaders, 0), (Fault::HangAfter(four), 3)] {
        beside.fake.set(fault);
        let mut time = Duration::from_millis(200);
        loop {
            let (end, got) = until_deadline(&beside, time).await;
            assert_eq!(end, Code::DeadlineExceeded);
            reads_end(&beside).await;
            if got == series {
                break;
            }
            // A machine that is busy may need more time for what comes.
            time *= 2;
            assert!(got < series && time < Duration::from_secs(60), "{got} of {series} parts");
        }
    }
    // The only permit is back.
    beside.fake.set(Fault::None);
    assert!(ask(&beside, everything()).await.is_ok());
}

#[tokio::test]
async fn a_read_counts_until_its_stream_ends_and_a_further_one_waits_no_longer_than_allowed() {
    let beside = start(three_series(), |mut config| {
        config.max_concurrent_reads = 1;
        config.max_read_wait = Duration::from_millis(50);
        config
    })
    .await;
    beside.fake.set(Fault::HangAfter(1));
    let stream = beside.sidecar.series(Request::new(everything())).await.unwrap();
    let status = ask(&beside, everything()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let expected = format!("prometheus {}: all 1 remote reads have been busy for 0.05 s", beside.url);
    assert_eq!(status.message(), expected);
    beside.fake.set(Fault::None);
    drop(stream);
    // What is given back may take longer to arrive than the next one may wait.
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(status) = ask(&beside, everything()).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(Instant::now() < deadline, "the permit never comes back");
    }
}

#[tokio::test]
async fn dropping_the_stream_ends_the_read_of_prometheus() {
    let beside = start(three_series(), |config| config).await;
    let four = beside.fake.frames()[..4].concat().len();
    beside.fake.set(Fault::HangAfter(four));
    let mut stream = beside.sidecar.series(Request::new(everything())).await.unwrap();
    assert!(stream.next().await.unwrap().is_ok());
    assert_eq!(beside.fake.open_reads.load(Ordering::SeqCst), 1);
    drop(stream);
    reads_end(&beside).await;
}

#[tokio::test]
async fn limits_count_series_once_and_end_the_answer() {
    for (max_series, max_samples, refused) in
        [(3, 8, None), (2, 0, Some("more than 2 series")), (0, 7, Some("more than 7 samples"))]
    {
        let beside = start(three_series(), |mut config| {
            config.max_series = max_series;
            config.max_samples = max_samples;
            config
        })
        .await;
        match (ask(&beside, everything()).await, refused) {
            // The first series comes in three parts.
            (Ok(series), None) => assert_eq!(series.len(), 5),
            (Err(status), Some(text)) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert!(status.message().contains(text), "{status}");
            }
            (got, _) => panic!("limits {max_series} and {max_samples}: {got:?}"),
        }
    }
}

#[tokio::test]
async fn external_labels_are_checked_here_and_never_asked_of_prometheus() {
    let beside = start(three_series(), |config| config).await;
    let with = |name: &str, value: &str| {
        let mut request = everything();
        request.matchers.extend(matchers::to_wire(&[Matcher::equal(name, value)]));
        request
    };
    assert_eq!(ask(&beside, with("cluster", "us-1")).await.unwrap(), []);
    assert!(beside.fake.last_read.lock().unwrap().is_none(), "prometheus was asked in vain");
    assert_eq!(ask(&beside, with("cluster", "eu-1")).await.unwrap().len(), 5);
    let asked = beside.fake.last_read.lock().unwrap().take().unwrap().queries.remove(0);
    assert_eq!(asked.matchers.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["__name__"]);
    // The lowest timestamp is a second.
    assert_eq!((asked.start_timestamp_ms, asked.end_timestamp_ms), (1_000, i64::MAX));

    let only_external =
        matchers::to_wire(&[Matcher::equal("cluster", "eu-1"), Matcher::equal("replica", "0")]);
    let status = ask(&beside, SeriesRequest { matchers: only_external, ..everything() }).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let backwards = SeriesRequest { min_time: 10_000, max_time: 5_000, ..everything() };
    assert_eq!(ask(&beside, backwards).await.unwrap(), []);
    let before = SeriesRequest { max_time: 999, ..everything() };
    assert_eq!(ask(&beside, before).await.unwrap(), []);
}

#[tokio::test]
async fn a_configured_oldest_time_bounds_what_is_offered_and_asked() {
    let beside = start(three_series(), |mut config| {
        config.min_time_ms = 2_500;
        config
    })
    .await;
    assert_eq!(beside.sidecar.info().await.unwrap().store.unwrap().min_time, 2_500);
    ask(&beside, everything()).await.unwrap();
    let asked = beside.fake.last_read.lock().unwrap().take().unwrap().queries.remove(0);
    assert_eq!(asked.start_timestamp_ms, 2_500);
}

#[tokio::test]
async fn without_external_labels_the_sidecar_is_not_ready_and_says_why() {
    let fake = Fake::default().with(labels_of(&[("__name__", "up")]), 1);
    let beside = start_unready(fake, |config| config).await;
    let reason = loop {
        let reason = beside.context.readiness.reasons().join("");
        if !reason.contains("starting") {
            break reason;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(reason.contains("has no external labels; set global.external_labels"), "{reason}");
    assert!(!beside.context.readiness.is_ready());
    for status in [
        beside.sidecar.info().await.unwrap_err(),
        ask(&beside, everything()).await.unwrap_err(),
        beside.sidecar.label_names(Request::new(LabelNamesRequest::default())).await.unwrap_err(),
        beside
            .sidecar
            .label_values(Request::new(LabelValuesRequest { label: "a".to_owned(), ..Default::default() }))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(&beside.url), "{status}");
        assert!(status.message().contains("has no external labels; set global.external_labels"), "{status}");
    }
}

#[tokio::test]
async fn a_prometheus_that_never_gets_ready_ends_the_sidecar_with_the_reason() {
    let port = parallax_testkit::process::free_port().unwrap();
    let mut config = parallax_sidecar::SidecarConfig::new(format!("http://127.0.0.1:{port}"));
    config.ready_timeout = Duration::from_millis(50);
    config.heartbeat_interval = Duration::from_millis(10);
    let context = parallax_net::Context::for_test();
    let (_sidecar, task) = parallax_sidecar::Sidecar::start(config, &context).unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, SidecarError::NotReady { .. }), "{error}");
    assert!(error.to_string().contains(&format!("http://127.0.0.1:{port} was not ready")), "{error}");
}

fn failures(context: &parallax_net::Context, reason: &str) -> u64 {
    let name = format!("parallax_sidecar_prometheus_failures_total{{reason=\"{reason}\"}} ");
    let text = context.metrics.encode().unwrap();
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |number| number.parse().unwrap())
}

#[tokio::test]
async fn each_way_in_which_prometheus_fails_is_counted_by_its_name() {
    let beside = start(three_series(), |config| config).await;
    let half = beside.fake.frames().concat().len() / 2;
    let garbage = Fault::Answer { kind: "text/html", body: b"<html>".to_vec() };
    for (fault, reason) in [
        (Fault::Status(500), "failed"),
        (Fault::Status(401), "refused"),
        (garbage, "unreadable"),
        (Fault::FlipBit(half), "unreadable"),
        (Fault::CutAfter(half), "unreadable"),
        (Fault::BreakAfter(half), "unreachable"),
        (Fault::HangAfter(half), "late"),
        (Fault::HangBeforeHeaders, "late"),
    ] {
        let before = failures(&beside.context, reason);
        beside.fake.set(fault.clone());
        let deadline = Instant::now() + Duration::from_millis(200);
        let request = match reason {
            "late" => with_deadline(everything(), Some(deadline)),
            _ => Request::new(everything()),
        };
        let failed = match beside.sidecar.series(request).await {
            Err(_) => true,
            Ok(stream) => frames::collect(stream).await.is_err(),
        };
        assert!(failed, "{fault:?}");
        assert_eq!(failures(&beside.context, reason), before + 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_prometheus_that_says_nothing_is_not_ready_for_that_reason() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = parallax_sidecar::SidecarConfig::new(format!("http://{}", silent.local_addr().unwrap()));
    config.heartbeat_timeout = Duration::from_millis(50);
    config.heartbeat_interval = Duration::from_millis(10);
    let context = parallax_net::Context::for_test();
    let (sidecar, _) = parallax_sidecar::Sidecar::start(config, &context).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !context.readiness.reasons().join("").contains("no answer within 0.05 s") {
        assert!(Instant::now() < deadline, "{:?}", context.readiness.reasons());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(failures(&context, "unreachable") >= 1);
    assert!(sidecar.info().await.unwrap_err().message().contains("no answer within"));
    context.shutdown.cancel();
}
