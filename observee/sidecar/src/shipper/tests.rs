//! Rounds of a shipper over blocks of a simulated fleet, with a bucket that fails on demand.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parallax_block::HashFunction;
use parallax_bucket::{Bucket, RetryPolicy};
use parallax_model::TimeRange;
use parallax_net::{Context, HttpClient, HttpClientConfig, HttpServer};
use parallax_simulate::Fleet;
use parallax_simulate::history::{self, BLOCK_RANGE_MS};
use parallax_simulate::stand_in::{self, StandIn};

use super::*;

mod outages;

/// Lets so many writes pass; the one after is cut short of its object, as a kill would do it.
#[derive(Debug)]
struct Failing {
    inner: LocalFileSystem,
    writes_left: Arc<AtomicUsize>,
    puts: Arc<Puts>,
}

/// What was written whole, in order, and how many writes there were at once.
#[derive(Debug, Default)]
struct Puts {
    done: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
    /// Writes of chunks go on once so many were there at once.
    meet: AtomicUsize,
}

impl Puts {
    async fn begin(&self, to: &ObjectPath) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let met = || self.most.load(Ordering::SeqCst) >= self.meet.load(Ordering::SeqCst);
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while to.to_string().contains("/chunks/") && !met() && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl ObjectStore for Failing {
    async fn put_opts(
        &self,
        to: &ObjectPath,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let one_less = |left: usize| left.checked_sub(1);
        if self.writes_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_err() {
            return Err(object_store::Error::Generic { store: "failing", source: "no writes left".into() });
        }
        self.puts.begin(to).await;
        let put = self.inner.put_opts(to, payload, options).await;
        self.puts.now.fetch_sub(1, Ordering::SeqCst);
        self.puts.done.lock().unwrap().push(to.to_string());
        put
    }

    async fn put_multipart_opts(
        &self,
        to: &ObjectPath,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        objects: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(objects)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

const FIRST_BLOCK_MS: i64 = 200_000 * BLOCK_RANGE_MS;
/// Of one block: a segment, the index, `meta.json`.
const WRITES_PER_BLOCK: usize = 3;

struct Setup {
    fleet: Fleet,
    data: tempfile::TempDir,
    bucket: Arc<tempfile::TempDir>,
    writes_left: Arc<AtomicUsize>,
    puts: Arc<Puts>,
    context: Context,
    blocks: Vec<BlockId>,
}

impl Setup {
    fn new(blocks: i64) -> Self {
        Self::with_seed(blocks, 5)
    }

    /// Another seed is another Prometheus: other blocks.
    fn with_seed(blocks: i64, seed: u64) -> Self {
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 1, seed };
        let (data, bucket) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
        let range = TimeRange::new(FIRST_BLOCK_MS, FIRST_BLOCK_MS + blocks * BLOCK_RANGE_MS - 1);
        let blocks = history::write(&fleet, range, data.path()).unwrap();
        let writes_left = Arc::new(AtomicUsize::new(usize::MAX));
        let puts = Arc::default();
        Self { fleet, data, bucket, writes_left, puts, context: Context::for_test(), blocks }
    }

    fn shipper(&self, change: impl FnOnce(&mut ShipperConfig)) -> Shipper {
        let inner = LocalFileSystem::new_with_prefix(self.bucket.path()).unwrap();
        let store =
            Failing { inner, writes_left: Arc::clone(&self.writes_left), puts: Arc::clone(&self.puts) };
        let bucket = Bucket::new(Arc::new(store), "", "test").unwrap().with_retry(RetryPolicy::NEVER);
        let mut config = ShipperConfig::new(bucket, self.data.path());
        config.ignore_unequal_block_size = true;
        change(&mut config);
        self.shipper_of(config, "http://127.0.0.1:1")
    }

    fn shipper_of(&self, config: ShipperConfig, url: &str) -> Shipper {
        let http = HttpClient::new(HttpClientConfig::new(url)).unwrap();
        let (_, state) = watch::channel(None);
        Shipper::new(config, Prometheus::new(url, http), state, SidecarMetrics::new(&self.context.metrics))
    }

    fn labels(&self) -> Labels {
        self.fleet.external_labels()
    }

    /// The blocks that the bucket has whole, and all that it has something of.
    fn in_bucket(&self) -> (Vec<BlockId>, Vec<BlockId>) {
        let entries = std::fs::read_dir(self.bucket.path()).unwrap();
        let mut partial: Vec<BlockId> =
            entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
        partial.sort_unstable();
        let whole = |id: &&BlockId| self.bucket.path().join(id.meta_object()).exists();
        (partial.iter().filter(whole).copied().collect(), partial)
    }

    fn journal(&self) -> Vec<BlockId> {
        let journal = Journal::read(&self.data.path().join("thanos.shipper.json")).unwrap();
        self.blocks.iter().filter(|id| journal.contains(id)).copied().collect()
    }

    fn in_data(&self, id: BlockId, file: &str) -> PathBuf {
        self.data.path().join(id.to_string()).join(file)
    }

    fn change_meta(&self, id: BlockId, change: impl FnOnce(&mut BlockMeta)) {
        let path = self.in_data(id, "meta.json");
        let mut meta = BlockMeta::parse_of(id, &std::fs::read(&path).unwrap()).unwrap();
        change(&mut meta);
        std::fs::write(&path, meta.to_json().unwrap()).unwrap();
    }

    fn metric(&self, name: &str) -> String {
        let text = self.context.metrics.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).to_owned()
    }

    fn no_links_are_left(&self) {
        let root = self.data.path().join("thanos/upload");
        assert_eq!(std::fs::read_dir(root).map_or(0, Iterator::count), 0);
    }
}

#[tokio::test]
async fn blocks_go_up_unchanged_with_labels_and_only_once() {
    let setup = Setup::new(2);
    let shipper = setup.shipper(|config| config.hash = HashFunction::Sha256);
    let round = shipper.round(&setup.labels()).await.unwrap();
    assert_eq!(round, Round { uploaded: setup.blocks.clone(), waiting: 0 });
    for id in &setup.blocks {
        for file in ["index", "chunks/000001"] {
            let uploaded = std::fs::read(setup.bucket.path().join(id.object(file))).unwrap();
            assert_eq!(uploaded, std::fs::read(setup.in_data(*id, file)).unwrap(), "{file}");
        }
        let meta = std::fs::read(setup.bucket.path().join(id.meta_object())).unwrap();
        let meta = BlockMeta::parse_of(*id, &meta).unwrap();
        assert_eq!(
            (meta.external_labels(), meta.thanos.unwrap().source),
            (setup.labels(), "sidecar".to_owned())
        );
    }
    setup.no_links_are_left();
    assert_eq!(setup.journal(), setup.blocks);
    assert_eq!(setup.metric("thanos_shipper_uploads_total"), "2");

    // Nothing is asked of the bucket, and nothing written, for what the journal knows; without it, the bucket is asked.
    setup.writes_left.store(0, Ordering::SeqCst);
    assert_eq!(shipper.round(&setup.labels()).await.unwrap(), Round::default());
    std::fs::remove_file(setup.data.path().join("thanos.shipper.json")).unwrap();
    assert_eq!(shipper.round(&setup.labels()).await.unwrap(), Round::default());
    assert_eq!(setup.journal(), setup.blocks);
}

#[tokio::test]
async fn files_of_chunks_go_up_together_as_many_as_allowed_and_index_and_meta_after_them() {
    for (concurrency, most) in [(0, 1), (1, 1), (3, 3), (1000, 5)] {
        let setup = Setup::new(2);
        for id in &setup.blocks {
            for copy in 2..=5 {
                let segment = setup.in_data(*id, "chunks/000001");
                std::fs::copy(&segment, segment.with_file_name(format!("{copy:06}"))).unwrap();
            }
        }
        setup.puts.meet.store(most, Ordering::SeqCst);
        let shipper = setup.shipper(|config| config.upload_concurrency = concurrency);
        assert_eq!(shipper.round(&setup.labels()).await.unwrap().uploaded, setup.blocks);
        assert_eq!(setup.puts.most.load(Ordering::SeqCst), most, "concurrency {concurrency}");
        // Block after block, and of each the chunks (in any order), the index, meta.json.
        let done = setup.puts.done.lock().unwrap().clone();
        for (id, files) in setup.blocks.iter().zip(done.chunks(7)) {
            let chunks = id.object("chunks/");
            assert!(files[..5].iter().all(|file| file.starts_with(&chunks)), "{files:?}");
            assert_eq!(files[5..], [id.object("index"), id.meta_object()]);
        }
    }
}

#[tokio::test]
async fn a_failure_among_files_that_go_up_together_leaves_no_visible_block() {
    for writes in 0..7 {
        let setup = Setup::new(1);
        for copy in 2..=5 {
            let segment = setup.in_data(setup.blocks[0], "chunks/000001");
            std::fs::copy(&segment, segment.with_file_name(format!("{copy:06}"))).unwrap();
        }
        setup.writes_left.store(writes, Ordering::SeqCst);
        let shipper = || setup.shipper(|config| config.upload_concurrency = 4);
        shipper().round(&setup.labels()).await.unwrap_err();
        assert_eq!(setup.in_bucket().0, [], "after {writes} writes");
        setup.writes_left.store(usize::MAX, Ordering::SeqCst);
        assert_eq!(shipper().round(&setup.labels()).await.unwrap().uploaded, setup.blocks);
        assert_eq!(setup.in_bucket().0, setup.blocks);
    }
}

#[tokio::test]
async fn an_upload_that_stops_anywhere_is_invisible_and_completed_later() {
    for writes in 0..2 * WRITES_PER_BLOCK {
        let setup = Setup::new(2);
        setup.writes_left.store(writes, Ordering::SeqCst);
        let error = setup.shipper(|_| {}).round(&setup.labels()).await.unwrap_err();
        let whole = writes / WRITES_PER_BLOCK;
        assert!(
            error.to_string().contains(&setup.blocks[whole].to_string()),
            "after {writes} writes: {error}"
        );
        assert_eq!(setup.in_bucket().0, setup.blocks[..whole], "after {writes} writes");
        assert_eq!(setup.journal(), setup.blocks[..whole]);
        assert_eq!(setup.metric("thanos_shipper_upload_failures_total"), "1");
        setup.no_links_are_left();

        setup.writes_left.store(usize::MAX, Ordering::SeqCst);
        let round = setup.shipper(|_| {}).round(&setup.labels()).await.unwrap();
        assert_eq!(round.uploaded, setup.blocks[whole..]);
        assert_eq!(setup.in_bucket().0, setup.blocks);
    }
}

#[tokio::test]
async fn a_failure_holds_newer_blocks_back_unless_order_does_not_matter() {
    let setup = Setup::new(2);
    // A directory stands where the segment of the oldest block should go.
    std::fs::create_dir_all(setup.bucket.path().join(setup.blocks[0].object("chunks/000001/x"))).unwrap();
    let error = setup.shipper(|_| {}).round(&setup.labels()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("block {}", setup.blocks[0])), "{error}");
    assert_eq!(setup.in_bucket().0, []);
    setup.shipper(|config| config.allow_out_of_order = true).round(&setup.labels()).await.unwrap_err();
    assert_eq!(setup.in_bucket().0, setup.blocks[1..]);
    assert_eq!(setup.metric("parallax_shipper_blocks_waiting"), "1");
}

#[tokio::test]
async fn damaged_blocks_are_reported_once_and_never_uploaded_and_the_rest_goes_on() {
    let setup = Setup::new(5);
    let segment = setup.in_data(setup.blocks[0], "chunks/000001");
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
    let index = setup.in_data(setup.blocks[1], "index");
    std::fs::write(&index, &std::fs::read(&index).unwrap()[..1000]).unwrap();
    std::fs::remove_file(setup.in_data(setup.blocks[2], "chunks/000001")).unwrap();
    std::fs::write(setup.in_data(setup.blocks[3], "meta.json"), "{").unwrap();
    let shipper = setup.shipper(|_| {});
    for _ in 0..2 {
        let round = shipper.round(&setup.labels()).await.unwrap();
        assert_eq!(round.waiting, 0);
        assert_eq!(setup.in_bucket(), (vec![setup.blocks[4]], vec![setup.blocks[4]]));
        assert_eq!(setup.journal(), [setup.blocks[4]]);
        assert_eq!(setup.metric("thanos_shipper_corrupted_blocks_total"), "4");
    }
}

#[tokio::test]
async fn empty_and_compacted_blocks_stay_and_a_compacted_one_never_doubles_samples() {
    let setup = Setup::new(3);
    setup.change_meta(setup.blocks[0], |meta| meta.stats.num_samples = 0);
    setup.change_meta(setup.blocks[1], |meta| meta.compaction.level = 2);
    assert_eq!(setup.shipper(|_| {}).round(&setup.labels()).await.unwrap().uploaded, [setup.blocks[2]]);
    let round = setup.shipper(|config| config.upload_compacted = true).round(&setup.labels()).await.unwrap();
    assert_eq!(round.uploaded, [setup.blocks[1]]);

    // One that holds what the bucket has in parts.
    std::fs::remove_dir_all(setup.bucket.path().join(setup.blocks[1].to_string())).unwrap();
    std::fs::remove_file(setup.data.path().join("thanos.shipper.json")).unwrap();
    setup.change_meta(setup.blocks[1], |meta| meta.max_time_ms += BLOCK_RANGE_MS);
    let compacted = |labels: Labels| {
        let shipper = setup.shipper(|config| config.upload_compacted = true);
        async move { shipper.round(&labels).await }
    };
    let error = compacted(setup.labels()).await.unwrap_err();
    let expected =
        format!("block {}: it was compacted and overlaps block {}", setup.blocks[1], setup.blocks[2]);
    assert!(error.to_string().starts_with(&expected), "{error}");
    // Another replica's samples are no overlap.
    let other = Labels::from_pairs([("cluster", "eu-1"), ("prometheus_replica", "prometheus-1")]);
    assert_eq!(compacted(other).await.unwrap().uploaded, [setup.blocks[1]]);
}

#[tokio::test]
async fn what_a_killed_process_left_behind_is_removed_and_nothing_else() {
    let setup = Setup::new(1);
    let upload = setup.data.path().join("thanos/upload");
    for name in [setup.blocks[0].to_string(), "somebody-elses".to_owned()] {
        std::fs::create_dir_all(upload.join(&name).join("chunks")).unwrap();
    }
    staging::remove_leftovers(setup.data.path()).unwrap();
    assert!(!upload.join(setup.blocks[0].to_string()).exists());
    assert!(upload.join("somebody-elses").exists());
    // Stale links do not get into the upload of a round either.
    std::fs::create_dir_all(upload.join(setup.blocks[0].to_string()).join("chunks")).unwrap();
    std::fs::write(upload.join(setup.blocks[0].to_string()).join("chunks/000009"), "stale").unwrap();
    assert_eq!(setup.shipper(|_| {}).round(&setup.labels()).await.unwrap().uploaded, setup.blocks);
    assert!(!setup.bucket.path().join(setup.blocks[0].object("chunks/000009")).exists());
}

#[tokio::test]
async fn a_block_deleted_meanwhile_is_no_failure() {
    let setup = Setup::new(1);
    let id = setup.blocks[0];
    let meta = BlockMeta::parse_of(id, &std::fs::read(setup.in_data(id, "meta.json")).unwrap()).unwrap();
    std::fs::remove_dir_all(setup.data.path().join(id.to_string())).unwrap();
    let shipped = setup.shipper(|_| {}).ship(id, meta, &setup.labels(), &BTreeSet::new()).await.unwrap();
    assert_eq!(shipped, Shipped::Gone);
    setup.no_links_are_left();
    assert_eq!(setup.in_bucket().1, []);
}

#[tokio::test]
async fn where_links_are_impossible_the_error_says_what_is_needed() {
    let elsewhere = match tempfile::tempdir_in("/dev/shm") {
        Ok(directory) => directory,
        Err(error) => return println!("left out: links across filesystems (/dev/shm: {error})"),
    };
    let setup = Setup::new(1);
    std::os::unix::fs::symlink(elsewhere.path(), setup.data.path().join("thanos")).unwrap();
    let probe = std::fs::hard_link(setup.in_data(setup.blocks[0], "index"), elsewhere.path().join("probe"));
    if probe.is_ok() {
        return println!("left out: links across filesystems (/dev/shm is on the same one)");
    }
    let error = setup.shipper(|_| {}).round(&setup.labels()).await.unwrap_err();
    assert!(error.to_string().contains("both have to lie on one filesystem"), "{error}");
    assert_eq!(setup.in_bucket().1, []);
}

#[tokio::test]
async fn without_external_labels_nothing_is_uploaded() {
    let setup = Setup::new(1);
    let error = setup.shipper(|_| {}).round(&Labels::empty()).await.unwrap_err();
    assert!(error.to_string().contains("no external labels"), "{error}");
    assert_eq!(setup.in_bucket().1, []);
}

#[tokio::test]
async fn prometheus_must_not_compact_and_may_stop() {
    let setup = Setup::new(1);
    let config = |shipper: Shipper| ShipperConfig { ignore_unequal_block_size: false, ..shipper.config };
    let flags = |min: &str, max: &str, file: &str| {
        serde_json::json!({"status": "success", "data": {
            "storage.tsdb.min-block-duration": min, "storage.tsdb.max-block-duration": max,
            "storage.tsdb.delay-compact-file.path": file,
        }})
        .to_string()
    };
    let journal = setup.data.path().join("thanos.shipper.json").display().to_string();
    for (answer, allowed) in [
        (flags("2h", "2h", ""), true),
        (flags("2h", "1d", ""), false),
        (flags("2h", "1d", "/elsewhere.json"), false),
        (flags("2h", "1d", &journal), true),
    ] {
        let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let answered =
            axum::Router::new().route("/api/v1/status/flags", axum::routing::get(|| async { answer }));
        let stop = tokio_util::sync::CancellationToken::new();
        let serving = tokio::spawn(server.serve(answered, stop.clone()));
        let shipper = setup.shipper_of(config(setup.shipper(|_| {})), &url);
        match shipper.round(&setup.labels()).await {
            Ok(_) => assert!(allowed),
            Err(SidecarError::UnequalBlockDurations { min, max, .. }) => {
                assert_eq!((min.as_str(), max.as_str(), allowed), ("2h", "1d", false));
            }
            Err(error) => panic!("{error}"),
        }
        stop.cancel();
        drop(serving.await);
        // What was right stays right while Prometheus is away.
        assert_eq!(shipper.round(&setup.labels()).await.is_ok(), allowed);
    }
}

#[tokio::test]
async fn the_stand_in_leaves_blocks_alone() {
    let setup = Setup::new(1);
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let router = stand_in::router(StandIn { fleet: setup.fleet.clone(), start_ms: FIRST_BLOCK_MS });
    tokio::spawn(server.serve(router, setup.context.shutdown.clone()));
    let config = ShipperConfig { ignore_unequal_block_size: false, ..setup.shipper(|_| {}).config };
    let round = setup.shipper_of(config, &url).round(&setup.labels()).await.unwrap();
    assert_eq!(round.uploaded, setup.blocks);
    setup.context.shutdown.cancel();
}
