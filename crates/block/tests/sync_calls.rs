//! What a sync costs and what it sees: requests are counted, other writers come and go, and catalogs are old.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use parallax_block::catalog::CATALOG_OBJECT;
use parallax_block::mark::place_mark;
use parallax_block::{
    BlockId, BlockState, BlockSummary, DeletionMark, FULL_LIST_INTERVAL, Fetcher, FetcherConfig,
    FetcherMetrics, Filter, SyncedBlocks,
};
use parallax_bucket::{Bucket, RetryPolicy};
use parallax_testkit::counting_bucket::{Calls, CountingStore};
use parallax_testkit::faulty_bucket::{Fault, Faults, FaultyStore};

const NOW_MS: i64 = 1_795_400_000_000;
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// The `number`-th block of those made at `time_ms`.
fn id(time_ms: i64, number: u32) -> BlockId {
    let first = BlockId::first_of(time_ms).to_string();
    format!("{}{number:06}", &first[..20]).parse().unwrap()
}

struct Fixture {
    bucket: Bucket,
    store: Arc<CountingStore>,
    faults: Arc<FaultyStore>,
}

impl Fixture {
    fn new() -> Self {
        let faults =
            Faults { seed: 1, permille: 1000, kinds: vec![Fault::ServerError], slow: Duration::ZERO };
        let faults = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), faults));
        faults.set_on(false);
        let store = Arc::new(CountingStore::new(faults.clone()));
        let bucket = Bucket::new(store.clone(), "pre/fix", "counted").unwrap().with_retry(RetryPolicy::NEVER);
        Self { bucket, store, faults }
    }

    /// A block with four objects.
    async fn upload(&self, block: BlockId) {
        for file in ["index", "chunks/000001", "chunks/000002"] {
            self.bucket.put(&block.object(file), "x".into()).await.unwrap();
        }
        let json = format!(
            r#"{{"ulid":"{block}","minTime":0,"maxTime":7200000,"compaction":{{"level":1,"sources":["{block}"]}},"version":1,
            "thanos":{{"labels":{{"cluster":"eu-1"}},"downsample":{{"resolution":0}},"source":"sidecar"}}}}"#
        );
        self.bucket.put(&block.meta_object(), json.into()).await.unwrap();
    }

    async fn remove(&self, block: BlockId) {
        for file in ["meta.json", "index", "chunks/000001", "chunks/000002"] {
            self.bucket.delete(&block.object(file)).await.unwrap();
        }
    }

    async fn mark(&self, block: BlockId, deletion_time_ms: i64) {
        let deletion_time_s = deletion_time_ms / 1000;
        let mark = DeletionMark { id: block, version: 1, details: String::new(), deletion_time_s };
        assert!(place_mark(&self.bucket, block, &mark).await.unwrap());
    }

    /// One block every two hours, the newest an hour ago.
    async fn history(&self, count: u32) -> Vec<BlockId> {
        let ids: Vec<BlockId> =
            (0..count).map(|i| id(NOW_MS - HOUR_MS - i64::from(count - 1 - i) * 2 * HOUR_MS, i)).collect();
        for block in &ids {
            self.upload(*block).await;
        }
        self.store.take();
        ids
    }

    fn reader(&self) -> Reader<'_> {
        self.reader_with(None)
    }

    fn reader_with(&self, cache_dir: Option<&std::path::Path>) -> Reader<'_> {
        let config = FetcherConfig {
            cache_dir: cache_dir.map(Into::into),
            filters: vec![Filter::DeletionMark { delay: Duration::from_secs(3600) }],
            ..FetcherConfig::default()
        };
        Reader {
            fixture: self,
            fetcher: Fetcher::keeping(self.bucket.clone(), config, FetcherMetrics::default()),
        }
    }

    /// As the compactor does.
    async fn publish(&self, now_ms: i64) {
        let compactor =
            Fetcher::new(self.bucket.clone(), FetcherConfig::default(), FetcherMetrics::default());
        assert!(compactor.sync(now_ms).await.unwrap().complete);
        compactor.publish_catalog().await.unwrap();
        self.store.take();
    }
}

/// As a store gateway is one.
struct Reader<'f> {
    fixture: &'f Fixture,
    fetcher: Fetcher<BlockSummary>,
}

impl Reader<'_> {
    async fn refresh(&self, now_ms: i64) -> (SyncedBlocks<BlockSummary>, Calls) {
        self.fixture.store.take();
        let synced = self.fetcher.refresh(now_ms).await.unwrap();
        (synced, self.fixture.store.take())
    }

    async fn blocks(&self, now_ms: i64) -> Vec<BlockId> {
        self.refresh(now_ms).await.0.blocks.into_keys().collect()
    }
}

#[tokio::test]
async fn what_is_known_is_not_asked_for_again() {
    let fixture = Fixture::new();
    let ids = fixture.history(300).await;
    let reader = fixture.reader();
    let (synced, calls) = reader.refresh(NOW_MS).await;
    assert!(synced.complete && !synced.is_stale);
    assert_eq!(synced.blocks.into_keys().collect::<Vec<_>>(), ids);
    // 1200 objects in two pages; each meta once; and the catalog, which is not there.
    assert_eq!(calls, Calls { lists: 2, gets: 301, ..Calls::default() });

    let new = id(NOW_MS, 7);
    fixture.upload(new).await;
    let (synced, calls) = reader.refresh(NOW_MS + MINUTE_MS).await;
    assert!(synced.blocks.contains_key(&new) && synced.blocks.len() == 301);
    assert_eq!(calls, Calls { lists: 1, gets: 2, ..Calls::default() });
    let (synced, calls) = reader.refresh(NOW_MS + 15 * MINUTE_MS).await;
    assert_eq!(synced.blocks.len(), 301);
    assert_eq!(calls, Calls { lists: 1, gets: 1, ..Calls::default() });

    // The whole list again, and nothing else.
    let later = NOW_MS + FULL_LIST_INTERVAL.as_millis() as i64;
    let (_, calls) = reader.refresh(later).await;
    assert_eq!(calls, Calls { lists: 2, gets: 1, ..Calls::default() });
}

#[tokio::test]
async fn a_catalog_spares_a_reader_the_metas() {
    let fixture = Fixture::new();
    let ids = fixture.history(300).await;
    let old = ids[3];
    fixture.mark(old, NOW_MS - 2 * HOUR_MS).await;
    fixture.publish(NOW_MS).await;
    let reader = fixture.reader();
    let (synced, calls) = reader.refresh(NOW_MS + MINUTE_MS).await;
    assert!(synced.complete && !synced.is_stale);
    assert_eq!(synced.blocks.len(), 299);
    assert_eq!(synced.dropped.get(&old), Some(&BlockState::MarkedForDeletion));
    assert_eq!(calls, Calls { lists: 1, gets: 1, ..Calls::default() });

    // As long as the compactor writes it, no reader lists the whole bucket.
    for pass in 1..10 {
        let now_ms = NOW_MS + pass * 20 * MINUTE_MS;
        fixture.publish(now_ms).await;
        let (synced, calls) = reader.refresh(now_ms + MINUTE_MS).await;
        assert_eq!(synced.blocks.len(), 299);
        assert!(calls.total() <= 5, "{calls:?}");
    }
}

#[tokio::test]
async fn a_restart_begins_with_the_local_copy_and_then_checks_it() {
    let fixture = Fixture::new();
    let directory = tempfile::tempdir().unwrap();
    let ids = fixture.history(300).await;
    let reader = fixture.reader_with(Some(directory.path()));
    reader.refresh(NOW_MS).await;
    drop(reader);
    // Meanwhile.
    fixture.remove(ids[5]).await;
    let now_ms = NOW_MS + 3 * HOUR_MS;
    let new = id(now_ms, 1);
    fixture.upload(new).await;

    let restarted = fixture.reader_with(Some(directory.path()));
    let (synced, calls) = restarted.refresh(now_ms).await;
    assert!(synced.complete && synced.is_stale && synced.blocks.contains_key(&new));
    assert!(calls.total() <= 5, "{calls:?}");
    assert_eq!(calls.gets, 2, "the catalog, which is not there, and the new block");
    let (synced, calls) = restarted.refresh(now_ms + 1).await;
    assert!(!synced.is_stale && !synced.blocks.contains_key(&ids[5]));
    assert_eq!(calls, Calls { lists: 2, gets: 1, ..Calls::default() });

    // A copy that is too old, or damaged, spares requests or not, and is never relied upon.
    let late_ms = now_ms + 24 * HOUR_MS;
    let (synced, calls) = fixture.reader_with(Some(directory.path())).refresh(late_ms).await;
    assert!(!synced.is_stale && calls.gets == 1, "{calls:?}");
    std::fs::write(directory.path().join("summaries-1"), b"damaged").unwrap();
    let (synced, _) = fixture.reader_with(Some(directory.path())).refresh(late_ms).await;
    assert_eq!((synced.blocks.len(), synced.is_stale), (300, false));
}

#[tokio::test]
async fn other_writers_beside_a_catalog_are_seen() {
    let fixture = Fixture::new();
    let ids = fixture.history(400).await;
    fixture.publish(NOW_MS).await;
    let reader = fixture.reader();
    reader.refresh(NOW_MS + MINUTE_MS).await;
    // New, late by two hours, gone from the end of the list: at the next refresh.
    let (new, late) = (id(NOW_MS + MINUTE_MS, 1), id(NOW_MS - 2 * HOUR_MS, 999));
    fixture.upload(new).await;
    fixture.upload(late).await;
    fixture.remove(ids[399]).await;
    // Far back: when the whole bucket is listed, by whomever.
    let very_late = id(NOW_MS - 300 * HOUR_MS, 999);
    fixture.upload(very_late).await;
    fixture.remove(ids[2]).await;
    fixture.mark(ids[3], NOW_MS - 5 * HOUR_MS).await;
    let blocks = reader.blocks(NOW_MS + 2 * MINUTE_MS).await;
    assert!(blocks.contains(&new) && blocks.contains(&late) && !blocks.contains(&ids[399]));
    assert!(blocks.contains(&ids[2]) && blocks.contains(&ids[3]) && !blocks.contains(&very_late));

    let by_itself = fixture.reader();
    by_itself.refresh(NOW_MS + MINUTE_MS).await;
    by_itself.fetcher.distrust();
    fixture.publish(NOW_MS + 25 * MINUTE_MS).await;
    for reader in [&reader, &by_itself] {
        let blocks = reader.blocks(NOW_MS + 26 * MINUTE_MS).await;
        assert!(!blocks.contains(&ids[2]) && !blocks.contains(&ids[3]) && blocks.contains(&very_late));
        assert_eq!(blocks.len(), 400);
    }
}

#[tokio::test]
async fn an_old_catalog_brings_nothing_back() {
    let fixture = Fixture::new();
    let ids = fixture.history(10).await;
    fixture.publish(NOW_MS - 5 * HOUR_MS).await;
    let old = fixture.bucket.get(CATALOG_OBJECT, 1 << 20).await.unwrap();
    fixture.remove(ids[1]).await;
    fixture.publish(NOW_MS).await;
    let reader = fixture.reader();
    assert!(!reader.blocks(NOW_MS + MINUTE_MS).await.contains(&ids[1]));
    // Somebody restores the old object; later it is too old to be relied upon by anybody.
    fixture.bucket.put(CATALOG_OBJECT, old).await.unwrap();
    assert!(!reader.blocks(NOW_MS + 2 * MINUTE_MS).await.contains(&ids[1]));
    let newcomer = fixture.reader();
    let (synced, _) = newcomer.refresh(NOW_MS + 3 * MINUTE_MS).await;
    assert!(synced.is_stale, "it serves what it can at once, and knows that this is old");
    assert!(!newcomer.blocks(NOW_MS + 3 * MINUTE_MS).await.contains(&ids[1]));
    // Nonsense in its place costs requests, and is not read again until it changes.
    fixture.bucket.put(CATALOG_OBJECT, "nonsense".into()).await.unwrap();
    let reader = fixture.reader();
    let (synced, calls) = reader.refresh(NOW_MS).await;
    assert_eq!((synced.blocks.len(), synced.complete, calls.gets), (9, true, 10));
    fixture.bucket.delete(CATALOG_OBJECT).await.unwrap();
    assert_eq!(reader.blocks(NOW_MS + MINUTE_MS).await.len(), 9);
}

#[tokio::test]
async fn a_writer_whose_clock_is_ahead_does_not_hide_the_others() {
    let fixture = Fixture::new();
    fixture.history(50).await;
    let ahead = id(NOW_MS + 1000 * HOUR_MS, 1);
    fixture.upload(ahead).await;
    let reader = fixture.reader();
    assert!(reader.blocks(NOW_MS).await.contains(&ahead));
    let new = id(NOW_MS + MINUTE_MS, 2);
    fixture.upload(new).await;
    assert!(reader.blocks(NOW_MS + 2 * MINUTE_MS).await.contains(&new));
    // A catalog from a clock that is ahead is not taken to be newer than now.
    fixture.publish(NOW_MS + 1000 * HOUR_MS).await;
    let reader = fixture.reader();
    reader.refresh(NOW_MS).await;
    let newer = id(NOW_MS + 3 * MINUTE_MS, 3);
    fixture.upload(newer).await;
    assert!(reader.blocks(NOW_MS + 4 * MINUTE_MS).await.contains(&newer));
}

#[tokio::test]
async fn many_blocks_at_one_time_do_not_make_the_fast_path_long() {
    let fixture = Fixture::new();
    for number in 0..3000 {
        fixture.upload(id(NOW_MS - HOUR_MS, number)).await;
    }
    let reader = fixture.reader();
    let (synced, calls) = reader.refresh(NOW_MS).await;
    assert_eq!((synced.blocks.len(), calls.lists), (3000, 12));
    let (synced, calls) = reader.refresh(NOW_MS + MINUTE_MS).await;
    assert_eq!(synced.blocks.len(), 3000);
    assert!(calls.total() <= 5, "{calls:?}");
}

#[tokio::test]
async fn what_the_bucket_does_not_say_is_asked_again_and_nothing_is_dropped_for_it() {
    let fixture = Fixture::new();
    let ids = fixture.history(5).await;
    let reader = fixture.reader();
    reader.refresh(NOW_MS).await;
    let new = id(NOW_MS, 9);
    fixture.upload(new).await;
    // The list is had, the meta is not: the store knows no such fault, so the object goes in between.
    let json = fixture.bucket.get(&new.meta_object(), 10_000).await.unwrap();
    fixture.faults.set_on(true);
    assert!(reader.fetcher.refresh(NOW_MS + MINUTE_MS).await.is_err(), "nothing can be listed");
    fixture.faults.set_on(false);
    fixture.bucket.put(&new.meta_object(), "{".into()).await.unwrap();
    let (synced, _) = reader.refresh(NOW_MS + 2 * MINUTE_MS).await;
    assert_eq!(synced.dropped.get(&new), Some(&BlockState::CorruptedMeta));
    assert_eq!(synced.blocks.len(), ids.len());
    // It is not read again as long as it is the same, and is when it was written anew.
    let (_, calls) = reader.refresh(NOW_MS + 3 * MINUTE_MS).await;
    assert_eq!(calls.gets, 1);
    tokio::time::sleep(Duration::from_millis(5)).await;
    fixture.bucket.put(&new.meta_object(), json).await.unwrap();
    assert!(reader.blocks(NOW_MS + 4 * MINUTE_MS).await.contains(&new));
}

#[tokio::test]
async fn who_needs_whole_metas_never_begins_with_summaries_and_the_other_way_round_may() {
    let fixture = Fixture::new();
    let ids = fixture.history(3).await;
    let directory = tempfile::tempdir().unwrap();
    fixture.reader_with(Some(directory.path())).refresh(NOW_MS).await;
    let whole = || {
        let config = FetcherConfig { cache_dir: Some(directory.path().into()), ..FetcherConfig::default() };
        Fetcher::new(fixture.bucket.clone(), config, FetcherMetrics::default())
    };
    fixture.store.take();
    let synced = whole().refresh(NOW_MS).await.unwrap();
    let calls = fixture.store.take();
    assert_eq!(
        (synced.blocks.len(), calls.gets),
        (ids.len(), 1 + ids.len() as u64),
        "each meta, and no catalog"
    );
    fixture.store.take();
    whole().refresh(NOW_MS).await.unwrap();
    assert_eq!(fixture.store.take().gets, 1, "its own copy");
    std::fs::remove_file(directory.path().join("summaries-1")).unwrap();
    let (synced, calls) = fixture.reader_with(Some(directory.path())).refresh(NOW_MS).await;
    assert_eq!((synced.blocks.len(), calls.gets), (ids.len(), 1), "a copy of the whole has all of a summary");
}
