//! Twenty thousand small blocks: what it costs to be ready, with a local copy and without, and what is held while nobody asks.
//!
//!     cargo test -p parallax-store-gateway --test many_blocks -- --nocapture
//!
//! Prints requests, seconds and resident memory; only requests are asserted, and that memory is of the right order. `MANY_BLOCKS` changes the number.

use std::sync::Arc;
use std::time::Instant;

use object_store::memory::InMemory;
use parallax_block::BlockId;
use parallax_bucket::{Bucket, BucketConfig};
use parallax_net::Context;
use parallax_store_gateway::{StoreGateway, StoreGatewayConfig};
use parallax_testkit::counting_bucket::{Calls, CountingStore};

const OBJECTS_PER_BLOCK: u64 = 4;

fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

async fn fill(store: &Arc<CountingStore>, count: u32) {
    let bucket = Bucket::new(store.clone(), "", "to be filled").unwrap();
    let now_ms = i64::try_from(
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis(),
    )
    .unwrap();
    for number in 0..count {
        // Two hours apart, in ten clusters.
        let age = i64::from((count - number) / 10);
        let first = BlockId::first_of(now_ms - (1 + age) * 7_200_000).to_string();
        let block: BlockId = format!("{}{number:06}", &first[..20]).parse().unwrap();
        for file in ["index", "chunks/000001", "no-compact-mark.json"] {
            bucket.put(&block.object(file), "x".into()).await.unwrap();
        }
        let (min, cluster) = (now_ms - (2 + age) * 7_200_000, number % 10);
        let json = format!(
            r#"{{"ulid":"{block}","minTime":{min},"maxTime":{},"stats":{{"numSamples":1000,"numSeries":10,"numChunks":20}},
            "compaction":{{"level":1,"sources":["{block}"]}},"version":1,"thanos":{{"version":1,"labels":{{"cluster":"cluster-{cluster}","replica":"a"}},
            "downsample":{{"resolution":0}},"source":"sidecar","segment_files":["000001"],"files":[{{"rel_path":"chunks/000001","size_bytes":1234}},
            {{"rel_path":"index","size_bytes":5678}},{{"rel_path":"meta.json"}}],"index_stats":{{"series_max_size":64,"chunk_max_size":128}}}}}}"#,
            min + 7_200_000
        );
        bucket.put(&block.meta_object(), json.into()).await.unwrap();
    }
    store.take();
}

struct Start {
    calls: Calls,
    seconds: f64,
    grown_bytes: u64,
    gateway: Arc<StoreGateway>,
    context: Context,
}

async fn start(store: &Arc<CountingStore>, data_dir: &std::path::Path) -> Start {
    let before = resident_bytes().unwrap_or_default();
    let bucket = Bucket::new(store.clone(), "", "many").unwrap();
    let mut config = StoreGatewayConfig::new(BucketConfig::filesystem("nowhere"), data_dir);
    config.sync_interval = std::time::Duration::from_secs(36_000);
    let context = Context::for_test();
    store.take();
    let began = Instant::now();
    let gateway = StoreGateway::start_on(bucket, config, context.clone()).await.unwrap();
    while !context.metrics.encode().unwrap().contains("thanos_blocks_meta_syncs_total 1") {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let grown_bytes = resident_bytes().unwrap_or_default().saturating_sub(before);
    Start { calls: store.take(), seconds, grown_bytes, gateway, context }
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_small_blocks_cost_few_requests() {
    let count: u32 = std::env::var("MANY_BLOCKS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    let blocks = u64::from(count);
    let store = Arc::new(CountingStore::new(Arc::new(InMemory::new())));
    fill(&store, count).await;
    let data = tempfile::tempdir().unwrap();

    let first = start(&store, data.path()).await;
    first.context.shutdown.cancel();
    println!(
        "without a copy: {:?}, {:.1} s, resident memory grown by {} bytes per block",
        first.calls,
        first.seconds,
        first.grown_bytes / blocks
    );
    let pages = (blocks * OBJECTS_PER_BLOCK).div_ceil(1000);
    assert!(first.calls.lists <= pages + 1, "{:?}", first.calls);
    assert!(first.calls.gets <= blocks + 1 && first.calls.heads == 0, "{:?}", first.calls);
    // Whatever the allocator keeps of what the sync itself needed is in it.
    assert!(first.grown_bytes / blocks < 16 << 10);

    let began = Instant::now();
    first.gateway.sync().await.unwrap();
    let fast = store.take();
    println!("a sync when nothing has changed: {fast:?}, {:.2} s", began.elapsed().as_secs_f64());
    assert!(fast.total() <= 5, "{fast:?}");
    drop(first);

    let again = start(&store, data.path()).await;
    println!(
        "with a local copy: {:?}, {:.1} s, resident memory grown by {} bytes per block",
        again.calls,
        again.seconds,
        again.grown_bytes / blocks
    );
    assert!(again.calls.total() <= 5, "{:?}", again.calls);
    again.context.shutdown.cancel();
}
