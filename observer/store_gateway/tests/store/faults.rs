//! A bucket that fails from a seed: an answer is complete, or says what is missing, or is an error; never silently short and never invented.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parallax_net::Context;
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest};
use parallax_storeapi::{Store, frames, labels};
use parallax_testkit::counting_bucket::CountingStore;
use parallax_testkit::faulty_bucket::{Fault, Faults, FaultyStore};
use tonic::Request;

use crate::fixture::{everything, golden, in_memory, series, start_on};

type Chunks = BTreeSet<(String, i64, i64, Vec<u8>)>;

fn chunks(answer: &frames::Collected) -> Chunks {
    let of_series = |one: &parallax_storeapi::proto::thanos::Series| {
        let name = labels::display(&one.labels);
        let chunks = one.chunks.iter().map(move |chunk| {
            (name.clone(), chunk.min_time, chunk.max_time, chunk.raw.as_ref().unwrap().data.to_vec())
        });
        chunks.collect::<Vec<_>>()
    };
    answer.series.iter().flat_map(of_series).collect()
}

async fn sound() -> Chunks {
    let data = tempfile::tempdir().unwrap();
    let store = in_memory(&golden("bucket-short")).await;
    let context = Context::for_test();
    let gateway = start_on(store, data.path(), &context, |_| {}).await;
    gateway.sync().await.unwrap();
    let answer = series(&*gateway, everything()).await.unwrap();
    assert!(answer.warnings.is_empty());
    chunks(&answer)
}

/// How many answers were complete, were short and said so, were errors.
#[derive(Debug, Default)]
struct Tally([u32; 3]);

/// One gateway from its start on, over a bucket that fails all the time.
async fn live_through(seed: u64, permille: u32, sound: &Chunks, tally: &mut Tally) {
    let data = tempfile::tempdir().unwrap();
    let faults = Faults { slow: Duration::ZERO, ..Faults::all(seed, permille) };
    let store = Arc::new(FaultyStore::new(in_memory(&golden("bucket-short")).await, faults));
    let context = Context::for_test();
    let gateway = start_on(store.clone(), data.path(), &context, |_| {}).await;
    for round in 0..6 {
        // A failed sync leaves what was known before, or nothing that could be taken for an answer.
        let _ = gateway.sync().await;
        match series(&*gateway, everything()).await {
            Ok(answer) => {
                let got = chunks(&answer);
                assert!(got.is_subset(sound), "seed {seed}, round {round}: invented data");
                let is_whole = got == *sound;
                assert!(
                    is_whole || !answer.warnings.is_empty(),
                    "seed {seed}, round {round}: silently short"
                );
                tally.0[usize::from(!is_whole)] += 1;
            }
            Err(_) => tally.0[2] += 1,
        }
        let request = LabelNamesRequest { start: 0, end: i64::MAX, ..Default::default() };
        if let Ok(names) = gateway.label_names(Request::new(request)).await {
            let is_whole = names.names.iter().any(|name| name == "__name__") && names.names.len() > 3;
            assert!(is_whole || !names.warnings.is_empty(), "seed {seed}, round {round}: {names:?}");
        }
        let request =
            LabelValuesRequest { label: "__name__".to_owned(), end: i64::MAX, ..Default::default() };
        if let Ok(values) = gateway.label_values(Request::new(request)).await {
            assert!(!values.values.is_empty() || !values.warnings.is_empty(), "seed {seed}, round {round}");
        }
    }
    let injected: u64 = store.injected().values().sum();
    assert!(injected > 0, "seed {seed}: nothing failed");
    // When the trouble is over, so is what it caused.
    store.set_on(false);
    gateway.sync().await.unwrap();
    let answer = series(&*gateway, everything()).await;
    let is_back = answer.is_ok_and(|answer| chunks(&answer) == *sound && answer.warnings.is_empty());
    // A header that was taken for damaged is not tried again at once; that is said, too.
    if !is_back {
        let answer = series(&*gateway, everything()).await.unwrap();
        assert!(!answer.warnings.is_empty(), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_bucket_does_no_answer_is_silently_short() {
    let sound = sound().await;
    let first: u64 = std::env::var("PARALLAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut tally = Tally::default();
    for seed in first..first + 12 {
        for permille in [20, 150, 500] {
            live_through(seed, permille, &sound, &mut tally).await;
        }
    }
    println!("complete, short and said so, errors: {:?}, seeds from {first}", tally.0);
    assert!(tally.0.iter().all(|count| *count > 0), "{tally:?}: every kind of answer has to be seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_fault_is_named_with_its_block() {
    for (kind, words) in [
        (Fault::Forbidden, "refused"),
        (Fault::NotFound, "does not exist"),
        (Fault::ServerError, "500"),
        (Fault::HalfBody, "500"),
        (Fault::ShortBody, "announced"),
        (Fault::LongBody, "announced"),
    ] {
        let data = tempfile::tempdir().unwrap();
        let faults = Faults { seed: 1, permille: 1000, kinds: vec![kind], slow: Duration::ZERO };
        let store = Arc::new(FaultyStore::new(in_memory(&golden("bucket-short")).await, faults));
        store.set_on(false);
        let context = Context::for_test();
        let gateway = start_on(store.clone(), data.path(), &context, |_| {}).await;
        gateway.sync().await.unwrap();
        // With the index-headers at hand what fails is the reading of ranges.
        assert!(series(&*gateway, everything()).await.unwrap().warnings.is_empty());
        store.set_on(true);
        let answer = series(&*gateway, everything()).await.unwrap();
        assert!(answer.series.is_empty());
        assert!(
            answer.warnings.iter().any(|text| text.contains("block 01") && text.contains(words)),
            "{kind:?}: {:?}",
            answer.warnings
        );
        let mut strict = everything();
        strict.partial_response_disabled = true;
        assert_eq!(series(&*gateway, strict).await.unwrap_err().code(), tonic::Code::Aborted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_bucket_is_waited_for_no_longer_than_the_caller_wants() {
    let data = tempfile::tempdir().unwrap();
    let faults =
        Faults { seed: 1, permille: 1000, kinds: vec![Fault::Slow], slow: Duration::from_secs(3600) };
    let store = Arc::new(FaultyStore::new(in_memory(&golden("bucket-short")).await, faults));
    store.set_on(false);
    let context = Context::for_test();
    let gateway = start_on(store.clone(), data.path(), &context, |_| {}).await;
    gateway.sync().await.unwrap();
    store.set_on(true);
    let mut request = Request::new(everything());
    request.set_timeout(Duration::from_millis(200));
    let answer = tokio::time::timeout(Duration::from_secs(120), async {
        frames::collect(gateway.series(request).await?).await
    });
    let status = answer.await.expect("the caller's deadline holds").unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
}

#[tokio::test]
async fn before_the_first_sync_there_is_no_answer_that_could_be_taken_for_an_empty_one() {
    let data = tempfile::tempdir().unwrap();
    let faults = Faults { seed: 1, permille: 1000, kinds: vec![Fault::ServerError], slow: Duration::ZERO };
    let store = Arc::new(FaultyStore::new(in_memory(&golden("bucket-short")).await, faults));
    let gateway = start_on(store, data.path(), &Context::for_test(), |_| {}).await;
    assert!(gateway.sync().await.is_err());
    let status = series(&*gateway, everything()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let names = gateway.label_names(Request::new(LabelNamesRequest::default())).await;
    assert_eq!(names.unwrap_err().code(), tonic::Code::Unavailable);
    let request = LabelValuesRequest { label: "job".to_owned(), ..Default::default() };
    let values = gateway.label_values(Request::new(request)).await;
    assert_eq!(values.unwrap_err().code(), tonic::Code::Unavailable);
    assert_eq!(gateway.info().await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_header_whose_caller_gave_up_serves_the_next() {
    let data = tempfile::tempdir().unwrap();
    let slow = Duration::from_millis(150);
    let faults = Faults { seed: 1, permille: 1000, kinds: vec![Fault::Slow], slow };
    let counting = Arc::new(CountingStore::new(in_memory(&golden("bucket-short")).await));
    let store = Arc::new(FaultyStore::new(counting.clone(), faults));
    store.set_on(false);
    let context = Context::for_test();
    let gateway = start_on(store.clone(), data.path(), &context, |_| {}).await;
    gateway.sync().await.unwrap();
    let blocks = std::fs::read_dir(golden("bucket-short")).unwrap().count() as u64;
    store.set_on(true);
    // Four requests in turn for each header, and a caller with less time than one of them takes.
    let asks = async || {
        let mut request = Request::new(everything());
        request.set_timeout(Duration::from_millis(50));
        let answer = async { frames::collect(gateway.series(request).await?).await };
        assert_eq!(answer.await.unwrap_err().code(), tonic::Code::DeadlineExceeded);
    };
    // Nobody asks any more, and yet they are built. (On a machine that is busy, the caller's time may be over before any is begun.)
    let loaded = format!("thanos_bucket_store_indexheader_lazy_load_total {blocks}");
    let is_built = async || {
        for _ in 0..500 {
            if context.metrics.encode().unwrap().contains(&loaded) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    let mut callers = 0;
    loop {
        asks().await;
        callers += 1;
        if is_built().await {
            break;
        }
        assert!(callers < 5, "the headers were not built to their end");
    }
    store.set_on(false);
    counting.take();
    let answer = series(&*gateway, everything()).await.unwrap();
    assert!(answer.warnings.is_empty() && !answer.series.is_empty());
    assert_eq!(counting.take().heads, 0, "no header was begun again");
}
