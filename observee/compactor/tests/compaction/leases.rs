//! Leases of a worker of which one job is slow, with a clock that the test turns and a second worker that wants the group.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use parallax_bucket::{Bucket, RetryPolicy};
use parallax_compactor::lease::{Attempt, LEASE_DIRECTORY, Leases};
use parallax_compactor::{Clock, Compactor, CompactorConfig, LeaseConfig, group_key};
use parallax_model::Labels;
use parallax_net::Context;
use tokio::sync::watch;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};
use super::hooked::{Call, Hooked};

/// When the clock was turned; longer than any lease here lasts.
const LATER_MS: i64 = NOW_MS + HOUR_MS;

fn bucket_over(store: Arc<dyn object_store::ObjectStore>) -> Bucket {
    Bucket::new(store, "", "shared").unwrap().with_retry(RetryPolicy::NEVER)
}

/// What is in a directory, in a store that has conditional writes.
async fn in_memory(bucket: &TestBucket) -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    for (name, bytes) in bucket.objects() {
        store.put(&Path::from(name), PutPayload::from_bytes(bytes)).await.unwrap();
    }
    store
}

/// The worker whose clock is turned.
struct Turned {
    store: Arc<InMemory>,
    elapsed_ms: Arc<AtomicU64>,
    lasts: Duration,
}

impl Turned {
    fn compactor(
        &self,
        bucket: &TestBucket,
        hook: impl Fn(Call, &str) -> BoxFuture<'static, ()> + Send + Sync + 'static,
    ) -> Arc<Compactor> {
        let clock = Arc::clone(&self.elapsed_ms);
        let store = Hooked::over(self.store.clone(), hook);
        let sharing = LeaseConfig { worker: "slow".to_owned(), lasts: self.lasts, ..LeaseConfig::default() };
        let config = CompactorConfig {
            consistency_delay: Duration::ZERO,
            group_concurrency: 2,
            workers: 1,
            clock: Clock::of(move || Duration::from_millis(clock.load(Ordering::Relaxed))),
            sharing: Some(sharing),
            ..CompactorConfig::new(bucket_over(Arc::new(store)), bucket.dir.path().join("data"))
        };
        Compactor::new(config, &Context::for_test()).unwrap()
    }

    /// The leases of another worker.
    fn other(&self) -> Arc<Leases> {
        let config = LeaseConfig { worker: "other".to_owned(), ..LeaseConfig::default() };
        Arc::new(Leases::new(bucket_over(self.store.clone()), config, Clock::of(|| Duration::ZERO)))
    }
}

/// The key of the group of raw blocks of a replica.
fn key(replica: &str) -> String {
    let labels = [("cluster", "c"), ("replica", replica)];
    group_key(0, &BTreeMap::from(labels.map(|(name, value)| (name.to_owned(), value.to_owned()))))
}

fn is_meta(object: &str) -> bool {
    object.ends_with("/meta.json")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waited_for_another_renews_its_lease_from_the_time_when_it_began() {
    let bucket = TestBucket::new();
    // Far enough apart not to become one.
    for (number, from_ms) in [(1, 0), (2, 14 * 24 * HOUR_MS)] {
        let spec = SeriesSpec {
            labels: Labels::from_pairs([("__name__", "up")]),
            seed: 3,
            histograms: false,
            times_ms: (0..48).map(|hour| from_ms + hour * HOUR_MS).collect(),
            chunk_samples: 10,
        };
        bucket.add(id(number), (from_ms, from_ms + 48 * HOUR_MS), "a", &[spec]);
    }
    let store = in_memory(&bucket).await;
    // Renewed every ten milliseconds.
    let lasts = Duration::from_millis(30);
    let slow = Turned { store: Arc::clone(&store), elapsed_ms: Arc::default(), lasts };
    let (elapsed_ms, other) = (Arc::clone(&slow.elapsed_ms), slow.other());
    let seen = Arc::new(Mutex::new(None));
    let (sink, was_seen) = (Arc::clone(&seen), AtomicBool::new(false));
    let renewals = watch::Sender::new(0_u64);
    let second = format!("{}/chunks/", id(2));
    let compactor = slow.compactor(&bucket, move |call, object| {
        if call == Call::Wrote && object.starts_with(LEASE_DIRECTORY) {
            renewals.send_modify(|count| *count += 1);
        }
        if call == Call::Wrote && is_meta(object) && elapsed_ms.load(Ordering::Relaxed) == 0 {
            // The first block was an hour's work.
            elapsed_ms.store(HOUR_MS as u64, Ordering::Relaxed);
        }
        let is_second = call == Call::Reads && object.starts_with(&second);
        if !is_second || was_seen.swap(true, Ordering::Relaxed) {
            return ready(()).boxed();
        }
        assert_eq!(elapsed_ms.load(Ordering::Relaxed), HOUR_MS as u64, "one block after the other");
        let (mut renewals, other) = (renewals.subscribe(), Arc::clone(&other));
        let (store, sink) = (Arc::clone(&store), Arc::clone(&sink));
        async move {
            renewals.changed().await.unwrap();
            let object = format!("{LEASE_DIRECTORY}/{}.json", key("a").replace('@', "-"));
            let record = store.get(&Path::from(object)).await.unwrap().bytes().await.unwrap();
            let attempt = other.acquire(&key("a"), LATER_MS).await.unwrap();
            *sink.lock().unwrap() = Some((record, attempt));
        }
        .boxed()
    });
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.downsamples, report.retries), (2, 0));
    let (record, attempt) = seen.lock().unwrap().take().unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
    assert_eq!(record["expires_ms"].as_i64(), Some(LATER_MS + 30), "{record}");
    assert!(matches!(attempt, Attempt::Busy { .. }), "{attempt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_was_taken_over_between_two_jobs_is_left_to_whoever_has_it() {
    let bucket = TestBucket::new();
    // Each makes two blocks of eight hours.
    bucket.add_two_hours_each(10, 9, "a");
    bucket.add_two_hours_each(30, 9, "b");
    let lasts = Duration::from_secs(300);
    let slow = Turned { store: in_memory(&bucket).await, elapsed_ms: Arc::default(), lasts };
    let (elapsed_ms, other) = (Arc::clone(&slow.elapsed_ms), slow.other());
    let taken = Arc::new(Mutex::new(None));
    let (sink, is_slow) = (Arc::clone(&taken), AtomicBool::new(false));
    let read = Arc::new(Mutex::new(Vec::new()));
    let reads = Arc::clone(&read);
    let made = watch::Sender::new(0_u64);
    let slow_block = format!("{}/chunks/", id(30));
    let second_range: Vec<String> = (14..18).map(|number| format!("{}/chunks/", id(number))).collect();
    let compactor = slow.compactor(&bucket, move |call, object| {
        if call == Call::Wrote && is_meta(object) {
            made.send_modify(|count| *count += 1);
        }
        if call == Call::Reads && second_range.iter().any(|block| object.starts_with(block)) {
            reads.lock().unwrap().push(object.to_owned());
        }
        let is_first = call == Call::Reads && object.starts_with(&slow_block);
        if !is_first || is_slow.swap(true, Ordering::Relaxed) {
            return ready(()).boxed();
        }
        let (mut made, other) = (made.subscribe(), Arc::clone(&other));
        let (elapsed_ms, sink) = (Arc::clone(&elapsed_ms), Arc::clone(&sink));
        async move {
            // The first job of the other group is done, and nobody renews its lease for an hour.
            made.wait_for(|made| *made > 0).await.unwrap();
            elapsed_ms.store(HOUR_MS as u64, Ordering::Relaxed);
            *sink.lock().unwrap() = Some(other.acquire(&key("a"), LATER_MS).await.unwrap());
        }
        .boxed()
    });
    let report = compactor.pass(NOW_MS).await.unwrap();
    let taken = taken.lock().unwrap().take().unwrap();
    assert!(matches!(taken, Attempt::Taken(_)), "{taken:?}");
    assert_eq!((report.compactions, report.busy, report.retries), (3, 1, 0));
    assert_eq!(*read.lock().unwrap(), [""; 0], "a job began in a group that is another worker's");
}
