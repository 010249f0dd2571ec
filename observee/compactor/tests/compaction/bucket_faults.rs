//! Every call to the bucket fails once, before or after it took effect: no sample is ever out of reach, none is there twice, and the
//! next passes finish the work.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parallax_bucket::{Bucket, RetryPolicy};
use parallax_compactor::{Compactor, CompactorConfig, Retention};
use parallax_model::Labels;
use parallax_net::Context;

use super::fixture::{Content, HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id, read_content};

/// Fails one call.
#[derive(Debug)]
struct Faulty {
    inner: LocalFileSystem,
    calls: AtomicUsize,
    fails_at: usize,
    /// Whether the failing call takes effect all the same.
    answer_lost: bool,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

impl Faulty {
    /// A lost answer only matters where a call changes something.
    fn fails(&self, changes: bool) -> bool {
        (changes || !self.answer_lost) && self.calls.fetch_add(1, Ordering::Relaxed) == self.fails_at
    }

    async fn call<T>(&self, changes: bool, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fails = self.fails(changes);
        if fails && !self.answer_lost {
            return Err(failure());
        }
        let result = call.await;
        if fails { Err(failure()) } else { result }
    }
}

fn failure() -> Error {
    Error::Generic { store: "faulty", source: "injected".into() }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.call(true, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.call(true, self.inner.put_multipart_opts(location, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.call(false, self.inner.get_opts(location, options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call(false, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        if !self.fails(true) {
            return self.inner.delete_stream(locations);
        }
        let done: BoxStream<'static, Result<Path>> =
            if self.answer_lost { self.inner.delete_stream(locations) } else { locations };
        done.map(|_| Err(failure())).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        if self.fails(false) {
            return futures::stream::once(async { Err(failure()) }).boxed();
        }
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.call(false, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call(true, self.inner.copy_opts(from, to, options)).await
    }
}

/// Five blocks of two hours, of which four become one.
fn fill(bucket: &TestBucket) {
    for n in 0..5 {
        let spec = SeriesSpec {
            labels: Labels::from_pairs([("__name__", "up")]),
            seed: 3,
            histograms: false,
            times_ms: (0..24).map(|k| 2 * n * HOUR_MS + k * 300_000).collect(),
            chunk_samples: 10,
        };
        bucket.add(id(10 + n as u64), (2 * n * HOUR_MS, (2 * n + 2) * HOUR_MS), "a", &[spec]);
    }
}

/// What a reader sees: whole blocks, without those that another of them covers.
fn seen(bucket: &TestBucket) -> Content {
    let mut metas = Vec::new();
    for entry in std::fs::read_dir(bucket.path()).unwrap() {
        let dir = entry.unwrap().path();
        if let Ok(json) = std::fs::read(dir.join("meta.json")) {
            metas.push((dir, parallax_block::BlockMeta::parse("test", &json).unwrap()));
        }
    }
    let mut content = Content::new();
    for (dir, meta) in &metas {
        let is_covered = metas.iter().any(|(_, other)| {
            other.compaction.sources.len() > meta.compaction.sources.len()
                && meta.compaction.sources.iter().all(|source| other.compaction.sources.contains(source))
        });
        if is_covered {
            continue;
        }
        for (labels, samples) in read_content(dir) {
            let known: &mut BTreeMap<_, _> = content.entry(labels).or_default();
            for (time_ms, value) in samples {
                assert!(known.insert(time_ms, value).is_none(), "a sample is there twice");
            }
        }
    }
    content
}

fn faulty_compactor(
    bucket: &TestBucket,
    fails_at: usize,
    answer_lost: bool,
    change: impl FnOnce(CompactorConfig) -> CompactorConfig,
) -> (Arc<Compactor>, Arc<Faulty>) {
    let inner = LocalFileSystem::new_with_prefix(bucket.path()).unwrap();
    let store = Arc::new(Faulty { inner, calls: AtomicUsize::new(0), fails_at, answer_lost });
    let faulty = Bucket::new(Arc::clone(&store) as Arc<dyn ObjectStore>, "", "faulty").unwrap();
    let config = CompactorConfig {
        consistency_delay: Duration::ZERO,
        delete_delay: Duration::ZERO,
        ..CompactorConfig::new(faulty.with_retry(RetryPolicy::NEVER), bucket.dir.path().join("data"))
    };
    (Compactor::new(change(config), &Context::for_test()).unwrap(), store)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_call_anywhere_loses_nothing_and_the_next_passes_finish() {
    for answer_lost in [false, true] {
        for fails_at in 0.. {
            let bucket = TestBucket::new();
            fill(&bucket);
            let expected = seen(&bucket);
            let (compactor, store) = faulty_compactor(&bucket, fails_at, answer_lost, |config| config);
            for pass in 0..4 {
                let outcome = compactor.pass(NOW_MS + pass * 3_000).await;
                let what = format!("call {fails_at}, answer lost: {answer_lost}, pass {pass}: {outcome:?}");
                assert!(seen(&bucket) == expected, "{what}");
                // An error of the bucket is never a reason to give a group up.
                assert!(compactor.quarantine().list().is_empty(), "{what}");
            }
            let mut levels: Vec<u32> = bucket.living().iter().map(|meta| meta.compaction.level).collect();
            levels.sort_unstable();
            assert_eq!(levels, [1, 2], "call {fails_at}, answer lost: {answer_lost}");
            if store.calls.load(Ordering::Relaxed) <= fails_at {
                assert!(fails_at > 10, "{fails_at} calls are too few to have tested anything");
                break;
            }
        }
    }
}

/// Raw blocks that have done their time: two short ones that were never merged, and one of two days. A block that is there twice, of which one goes; and an upload that was given up.
fn fill_with_old_blocks(bucket: &TestBucket) {
    for (number, hours) in [(20u64, 0..2i64), (21, 2..4), (22, 10..58)] {
        let spec = SeriesSpec {
            labels: Labels::from_pairs([("__name__", "up")]),
            seed: 3,
            histograms: false,
            times_ms: (hours.start * 12..hours.end * 12).map(|k| k * 300_000).collect(),
            chunk_samples: 100,
        };
        bucket.add(id(number), (hours.start * HOUR_MS, hours.end * HOUR_MS), "old", &[spec]);
    }
    // As a second worker would have made it, from the same source.
    let (from, to) = (bucket.path().join(id(22).to_string()), bucket.path().join(id(23).to_string()));
    std::fs::create_dir_all(to.join("chunks")).unwrap();
    for file in ["index", "chunks/000001"] {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
    let meta = std::fs::read_to_string(from.join("meta.json")).unwrap();
    std::fs::write(to.join("meta.json"), meta.replacen(&id(22).to_string(), &id(23).to_string(), 1)).unwrap();
    std::fs::create_dir_all(bucket.path().join(id(24).to_string())).unwrap();
    std::fs::write(bucket.path().join(id(24).to_string()).join("index"), "given up").unwrap();
}

/// The sources that whole blocks hold, by resolution; every one of these blocks reads from end to end.
fn held(bucket: &TestBucket) -> BTreeMap<i64, std::collections::BTreeSet<parallax_block::BlockId>> {
    let mut held: BTreeMap<i64, std::collections::BTreeSet<_>> = BTreeMap::new();
    for entry in std::fs::read_dir(bucket.path()).unwrap() {
        let dir = entry.unwrap().path();
        if let Ok(json) = std::fs::read(dir.join("meta.json")) {
            let meta = parallax_block::BlockMeta::parse("test", &json).unwrap();
            parallax_block::verify_block(&dir).unwrap();
            held.entry(meta.resolution_ms()).or_default().extend(&meta.compaction.sources);
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failing_call_anywhere_retires_nothing_that_was_not_downsampled() {
    let sources = [id(20), id(21), id(22)];
    let retention = Retention { raw: Duration::from_secs(3600), ..Retention::default() };
    for answer_lost in [false, true] {
        for fails_at in 0.. {
            let bucket = TestBucket::new();
            fill_with_old_blocks(&bucket);
            let (compactor, store) = faulty_compactor(&bucket, fails_at, answer_lost, |config| {
                CompactorConfig { retention, ..config }
            });
            for pass in 0..5 {
                let outcome = compactor.pass(NOW_MS + pass * 3_000).await;
                let what = format!("call {fails_at}, answer lost: {answer_lost}, pass {pass}: {outcome:?}");
                let held = held(&bucket);
                for source in sources {
                    assert!(held.values().any(|held| held.contains(&source)), "{what}: {source} is gone");
                }
                let quarantine = compactor.quarantine();
                assert!(quarantine.list().is_empty() && quarantine.list_blocks().is_empty(), "{what}");
            }
            let what = format!("call {fails_at}, answer lost: {answer_lost}");
            let held = held(&bucket);
            assert_eq!(held.keys().collect::<Vec<_>>(), [&300_000], "{what}: raw data has done its time");
            assert!(held[&300_000].iter().copied().eq(sources), "{what}: {held:?}");
            let samples: u64 = bucket.living().iter().map(|meta| meta.stats.num_samples).sum();
            assert_eq!(samples, 52 * 12, "{what}: a window is there twice, or not at all");
            if store.calls.load(Ordering::Relaxed) <= fails_at {
                assert!(fails_at > 20, "{fails_at} calls are too few to have tested anything");
                break;
            }
        }
    }
}
