//! Blocks that leave the bucket while they are read: what took their place answers for them, or the answer says what is missing.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parallax_bucket::Bucket;
use parallax_model::{Labels, Matcher};
use parallax_net::Context;
use parallax_store_gateway::StoreGateway;
use parallax_storeapi::proto::hintspb;
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use parallax_storeapi::{Store, frames, matchers};
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use prost::Message as _;
use tonic::Request;

use crate::fixture::{in_memory, series, start_on};

const GONE: &str = "01M7ZT2XAE94D33BEGH3SZ0001";
const OTHER: &str = "01M7ZT2XAE94D33BEGH3SZ0002";
const SUCCESSOR: &str = "01M7ZT2XAE94D33BEGH3SZ0009";

/// Enough that a block is read in several windows.
const SERIES: usize = 1500;

/// Hides some blocks until, and others from, a moment: that of a certain read of [`GONE`].
struct VanishingStore {
    inner: Arc<InMemory>,
    /// Reads of [`GONE`] that are answered once this is armed.
    left: AtomicU64,
    is_armed: AtomicBool,
    has_vanished: AtomicBool,
}

impl VanishingStore {
    fn hides(&self, path: &Path) -> bool {
        let is_of = |block: &str| path.as_ref().starts_with(block);
        if self.has_vanished.load(Ordering::SeqCst) { is_of(GONE) } else { is_of(SUCCESSOR) }
    }

    fn before(&self, path: &Path) -> Result<()> {
        if self.is_armed.load(Ordering::SeqCst) && path.as_ref().starts_with(GONE) {
            let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_err() {
                self.has_vanished.store(true, Ordering::SeqCst);
            }
        }
        if self.hides(path) {
            return Err(Error::NotFound { path: path.to_string(), source: "gone".into() });
        }
        Ok(())
    }
}

impl fmt::Debug for VanishingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for VanishingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vanishing({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for VanishingStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(path)?;
        self.inner.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.before(path)?;
        self.inner.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let hidden = if self.has_vanished.load(Ordering::SeqCst) { GONE } else { SUCCESSOR };
        let is_shown = move |meta: &Result<ObjectMeta>| {
            !meta.as_ref().is_ok_and(|meta| meta.location.as_ref().starts_with(hidden))
        };
        self.inner.list(prefix).filter(move |meta| std::future::ready(is_shown(meta))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What is put into a bucket: a block's name, its sources, and where its time ends.
struct Made {
    id: &'static str,
    sources: &'static [&'static str],
    max_time_ms: i64,
}

/// The samples of all blocks are the same: four chunks of a hundred milliseconds each.
const CHUNKS: i64 = 4;

fn write_block(bucket: &std::path::Path, made: &Made) {
    let mut all: Vec<Labels> = (0..SERIES)
        .map(|number| {
            Labels::from_pairs([
                ("__name__", format!("metric_{}", number % 3)),
                ("instance", format!("host-{:04}", number / 2)),
                ("replica", format!("{}", number % 2)),
            ])
        })
        .collect();
    all.sort();
    let config = SegmentConfig::default();
    let mut writer = BlockWriter::create(&bucket.join(made.id), symbols_of(&all), config).unwrap();
    for (number, labels) in all.iter().enumerate() {
        let chunks: Vec<BlockChunk> = (0..CHUNKS)
            .map(|chunk| {
                let samples = [(chunk * 100, number as f64), (chunk * 100 + 99, 1.0)];
                let data = Bytes::from(encode_xor(&samples).unwrap());
                let chunk_of = Chunk { encoding: ChunkEncoding::Xor, data };
                BlockChunk { min_time_ms: chunk * 100, max_time_ms: chunk * 100 + 99, chunk: chunk_of }
            })
            .collect();
        writer.add_series(labels, &chunks).unwrap();
    }
    let sealed = writer.seal().unwrap();
    let meta = format!(
        r#"{{"ulid":"{}","minTime":0,"maxTime":{},"version":1,"compaction":{{"level":1,"sources":{:?}}},
        "thanos":{{"labels":{{"cluster":"eu-1"}},"downsample":{{"resolution":0}},"source":"compactor"}}}}"#,
        made.id, made.max_time_ms, made.sources
    );
    sealed.add_file("meta.json", meta.as_bytes()).unwrap();
    sealed.publish().unwrap();
}

async fn filled(blocks: &[Made]) -> Arc<InMemory> {
    let directory = tempfile::tempdir().unwrap();
    for made in blocks {
        write_block(directory.path(), made);
    }
    in_memory(directory.path()).await
}

struct Running {
    gateway: Arc<StoreGateway>,
    store: Arc<VanishingStore>,
    context: Context,
    _data: tempfile::TempDir,
}

impl Running {
    /// A gateway that has read the list before anything vanishes: [`GONE`] does with the read number `reads`.
    async fn start(inner: &Arc<InMemory>, reads: u64) -> Self {
        let store = Arc::new(VanishingStore {
            inner: Arc::clone(inner),
            left: AtomicU64::new(reads),
            is_armed: AtomicBool::new(false),
            has_vanished: AtomicBool::new(false),
        });
        let (data, context) = (tempfile::tempdir().unwrap(), Context::for_test());
        // Every piece is a request of its own.
        let gateway = start_on(store.clone(), data.path(), &context, |config| config.max_gap_bytes = 0).await;
        gateway.sync().await.unwrap();
        store.is_armed.store(true, Ordering::SeqCst);
        Self { gateway, store, context, _data: data }
    }

    fn has_vanished(&self) -> bool {
        self.store.has_vanished.load(Ordering::SeqCst)
    }

    fn replaced(&self) -> bool {
        self.context.metrics.encode().unwrap().contains("parallax_store_blocks_replaced_total 1")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

const NEVER: u64 = u64::MAX;

fn request() -> SeriesRequest {
    SeriesRequest {
        max_time: CHUNKS * 100 - 1,
        matchers: matchers::to_wire(&[Matcher::equal("cluster", "eu-1")]),
        ..SeriesRequest::default()
    }
}

const WHOLE: Made = Made { id: GONE, sources: &[GONE], max_time_ms: CHUNKS * 100 };
const HEIR: Made = Made { id: SUCCESSOR, sources: &[GONE, OTHER], max_time_ms: CHUNKS * 100 };

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_goes_away_at_any_read_is_read_on_from_its_successor() {
    let bucket = filled(&[WHOLE, HEIR]).await;
    let mut labels_only = request();
    labels_only.skip_chunks = true;
    let mut without_replica = request();
    without_replica.without_replica_labels = vec!["replica".to_owned()];
    for request in [request(), labels_only, without_replica] {
        let sound = series(&*Running::start(&bucket, NEVER).await.gateway, request.clone()).await.unwrap();
        assert!(sound.warnings.is_empty() && sound.series.len() >= SERIES / 2);
        let mut reads = 0;
        loop {
            let running = Running::start(&bucket, reads).await;
            let answer = series(&*running.gateway, request.clone()).await.unwrap();
            assert!(answer.warnings.is_empty(), "read {reads}: {:?}", answer.warnings);
            assert!(answer.series == sound.series, "read {reads}: another answer");
            assert_eq!(running.replaced(), running.has_vanished(), "read {reads}");
            if !running.has_vanished() {
                break;
            }
            reads += 1;
        }
        // Index-header, postings, series in windows, and their chunks.
        assert!(reads >= 8, "{reads} reads");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_the_successor_too() {
    let bucket = filled(&[WHOLE, HEIR]).await;
    let sound = Running::start(&bucket, NEVER).await;
    for matchers in [Vec::new(), matchers::to_wire(&[Matcher::equal("__name__", "metric_1")])] {
        let names = LabelNamesRequest { end: 1000, matchers: matchers.clone(), ..Default::default() };
        let label = "instance".to_owned();
        let values = LabelValuesRequest { label, end: 1000, matchers, ..Default::default() };
        let expected = sound.gateway.label_names(Request::new(names.clone())).await.unwrap();
        assert_eq!(expected.names.len(), 4);
        for reads in 0..4 {
            let running = Running::start(&bucket, reads).await;
            let found = running.gateway.label_names(Request::new(names.clone())).await.unwrap();
            assert!(running.has_vanished());
            assert_eq!(found, expected, "read {reads}");
            let running = Running::start(&bucket, reads).await;
            let found = running.gateway.label_values(Request::new(values.clone())).await.unwrap();
            assert!(found.warnings.is_empty() && found.values.len() >= SERIES / 6, "{:?}", found.warnings);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_successor_answers_for_the_time_of_the_block_only_and_hints_name_it() {
    // The block that goes away covers the first half of what its successor has.
    let half = Made { max_time_ms: CHUNKS * 50, ..WHOLE };
    let bucket = filled(&[half, HEIR]).await;
    let running = Running::start(&bucket, 0).await;
    let mut request = request();
    request.hints = Some(prost_types::Any {
        type_url: "type.googleapis.com/hintspb.SeriesRequestHints".to_owned(),
        value: Vec::new(),
    });
    let answer = series(&*running.gateway, request).await.unwrap();
    assert_eq!(answer.series.len(), SERIES);
    let last = answer.series.iter().flat_map(|one| &one.chunks).map(|chunk| chunk.min_time).max();
    assert_eq!(last, Some(CHUNKS * 50 - 100));
    let hints = answer.hints.first().expect("hints");
    let hints = hintspb::SeriesResponseHints::decode(hints.value.as_slice()).unwrap();
    let ids: Vec<&str> = hints.queried_blocks.iter().map(|block| block.id.as_str()).collect();
    assert_eq!(ids, [SUCCESSOR]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_nothing_replaces_is_named_with_its_time() {
    // The other one has a part of its sources only.
    let part = Made { sources: &[OTHER], ..HEIR };
    let bucket = filled(&[WHOLE, part]).await;
    for reads in [0, 6] {
        let running = Running::start(&bucket, reads).await;
        let answer = series(&*running.gateway, request()).await.unwrap();
        let warning = answer.warnings.first().expect("a warning");
        assert!(warning.contains(GONE) && !running.replaced(), "{warning}");
        if reads == 0 {
            assert!(warning.contains("from 0 to 399 ms"), "{warning}");
        }
        let running = Running::start(&bucket, reads).await;
        let mut strict = request();
        strict.partial_response_disabled = true;
        assert_eq!(series(&*running.gateway, strict).await.unwrap_err().code(), tonic::Code::Aborted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_began_with_the_old_list_needs_no_new_one() {
    // By the time the block goes away, the list has been read again: the call alone does not know.
    let bucket = filled(&[WHOLE, HEIR]).await;
    let sound = series(&*Running::start(&bucket, NEVER).await.gateway, request()).await.unwrap();
    let running = Running::start(&bucket, NEVER).await;
    let mut stream = running.gateway.series(Request::new(request())).await.unwrap();
    let first = stream.next().await.unwrap();
    running.store.has_vanished.store(true, Ordering::SeqCst);
    running.gateway.sync().await.unwrap();
    let all = futures::stream::once(async { first }).chain(stream);
    let answer = frames::collect(Box::pin(all)).await.unwrap();
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    assert!(answer.series == sound.series && running.replaced());
}

/// A bucket can be made of a decorated store: what the other tests rely on.
#[tokio::test]
async fn the_store_of_these_tests_hides_and_shows() {
    let running = Running::start(&filled(&[WHOLE, HEIR]).await, NEVER).await;
    let bucket = Bucket::new(running.store.clone(), "", "here").unwrap();
    let names = || async {
        let mut names = Vec::new();
        bucket.scan("", |object| names.push(object.name.clone())).await.unwrap();
        names
    };
    assert!(names().await.iter().all(|name| name.starts_with(GONE)));
    running.store.has_vanished.store(true, Ordering::SeqCst);
    assert!(names().await.iter().all(|name| name.starts_with(SUCCESSOR)));
}
