use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parallax_bucket::{Access, BucketConfig, RetryPolicy};

use super::*;

fn shared() -> Bucket {
    Bucket::new(Arc::new(InMemory::new()), "", "memory").unwrap().with_retry(RetryPolicy::NEVER)
}

/// A worker, and its clock in seconds.
fn worker(bucket: &Bucket, name: &str) -> (Leases, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&seconds);
    let config = LeaseConfig { worker: name.to_owned(), ..LeaseConfig::default() };
    let clock = Clock::of(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
    (Leases::new(bucket.clone(), config, clock), seconds)
}

async fn taken(leases: &Leases, now_ms: i64) -> Option<Lease> {
    match leases.acquire("0@17", now_ms).await.unwrap() {
        Attempt::Taken(lease) => Some(lease),
        Attempt::Busy { .. } => None,
    }
}

#[tokio::test]
async fn one_of_two_workers_has_a_group_until_it_gives_it_back() {
    let bucket = shared();
    let ((a, _), (b, _)) = (worker(&bucket, "a"), worker(&bucket, "b"));
    let lease = taken(&a, 0).await.unwrap();
    assert!(matches!(b.acquire("0@17", 1).await.unwrap(), Attempt::Busy { worker } if worker == "a"));
    assert!(matches!(b.acquire("300000@17", 1).await.unwrap(), Attempt::Taken(_)), "another group is free");
    assert!(a.holds(&lease).await.unwrap() && a.renew(&lease, 100_000).await.unwrap());
    // It would have ended, and was renewed.
    assert!(taken(&b, 390_000).await.is_none());
    a.release(&lease).await;
    assert!(!a.holds(&lease).await.unwrap());
    assert!(taken(&b, 390_000).await.is_some());
}

#[tokio::test]
async fn a_lease_that_ended_is_taken_over_and_its_owner_finds_out() {
    let bucket = shared();
    let ((a, _), (b, _)) = (worker(&bucket, "a"), worker(&bucket, "b"));
    let lease = taken(&a, 0).await.unwrap();
    // 300 s, and a minute for clocks.
    assert!(taken(&b, 360_000).await.is_none());
    let theirs = taken(&b, 360_001).await.unwrap();
    assert!(!a.holds(&lease).await.unwrap() && !a.renew(&lease, 400_000).await.unwrap());
    a.release(&lease).await;
    assert!(b.holds(&theirs).await.unwrap(), "giving back what one no longer has changes nothing");
}

#[tokio::test]
async fn a_lease_of_a_clock_that_runs_ahead_ends_once_it_was_seen_unchanged_for_long_enough() {
    let bucket = shared();
    let ((a, _), (b, seconds)) = (worker(&bucket, "a"), worker(&bucket, "b"));
    taken(&a, 1_000_000_000).await.unwrap();
    assert!(taken(&b, 0).await.is_none());
    seconds.store(360, Ordering::Relaxed);
    assert!(taken(&b, 360_000).await.is_none());
    seconds.store(361, Ordering::Relaxed);
    assert!(taken(&b, 361_000).await.is_some());
}

#[tokio::test]
async fn an_object_that_is_no_lease_does_not_block_a_group_for_ever() {
    let bucket = shared();
    bucket.put(&object("0@17"), Bytes::from_static(b"{\"version\":9}")).await.unwrap();
    let (b, seconds) = worker(&bucket, "b");
    assert!(taken(&b, 0).await.is_none());
    seconds.store(400, Ordering::Relaxed);
    assert!(taken(&b, 400_000).await.is_some());
}

#[tokio::test]
async fn a_bucket_without_conditional_writes_cannot_be_shared() {
    worker(&shared(), "a").0.probe(0).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&BucketConfig::filesystem(dir.path()), Access::Write).unwrap();
    let error = worker(&bucket, "a").0.probe(0).await.unwrap_err();
    assert!(matches!(error, BucketError::Unconditional { .. }), "{error}");
    assert!(bucket.list("", 10).await.unwrap().is_empty(), "the probe leaves nothing behind");
}

/// Writes whatever the condition, if it does not know that kind.
#[derive(Debug)]
struct Ignoring {
    inner: InMemory,
    knows: fn(&PutMode) -> bool,
}

impl std::fmt::Display for Ignoring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ignoring")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Ignoring {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut opts: PutOptions,
    ) -> Result<PutResult> {
        if !(self.knows)(&opts.mode) {
            opts.mode = PutMode::Overwrite;
        }
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_bucket_that_writes_whatever_the_condition_cannot_be_shared() {
    let kinds: [fn(&PutMode) -> bool; 3] =
        [|_| false, |mode| *mode == PutMode::Create, |mode| matches!(mode, PutMode::Update(_))];
    for knows in kinds {
        let store = Ignoring { inner: InMemory::new(), knows };
        let bucket = Bucket::new(Arc::new(store), "", "ignoring").unwrap().with_retry(RetryPolicy::NEVER);
        let error = worker(&bucket, "a").0.probe(0).await.unwrap_err();
        assert!(matches!(error, BucketError::Unconditional { .. }), "{error}");
        assert!(bucket.list("", 10).await.unwrap().is_empty(), "the probe leaves nothing behind");
    }
}
