//! Reading through caches: the bucket's own bytes, fewer requests, and no cache that is down or lies ever fails a read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::memory::InMemory;
use parallax_bucket::{Bucket, BucketCaches, BucketMetrics, CachingConfig, Operation, RetryPolicy};
use parallax_cache::Cache;
use parallax_telemetry::Metrics;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";
const SIZE: usize = 500_000;

struct Fixture {
    /// Reads through caches.
    bucket: Bucket,
    /// The same store without any.
    plain: Bucket,
    counts: BucketMetrics,
    registry: Metrics,
}

impl Fixture {
    async fn new(caches: impl FnOnce(&Metrics) -> BucketCaches) -> Self {
        let registry = Metrics::new();
        let counts = BucketMetrics::register(&registry);
        let store = Arc::new(InMemory::new());
        let plain = Bucket::new(store.clone(), "p", "plain").unwrap();
        for file in ["chunks/000001", "index"] {
            plain.put(&format!("{BLOCK}/{file}"), contents().into()).await.unwrap();
        }
        plain.put(&format!("{BLOCK}/meta.json"), "{}".into()).await.unwrap();
        let bucket = Bucket::new(store, "p", "cached")
            .unwrap()
            .with_retry(RetryPolicy::NEVER)
            .with_metrics(counts.clone())
            .with_caches(caches(&registry));
        Self { bucket, plain, counts, registry }
    }

    async fn in_memory() -> Self {
        Self::new(|metrics| {
            let config = CachingConfig::from_yaml("type: IN-MEMORY\nconfig: {max_size: 10MB}\n").unwrap();
            BucketCaches::default().with_bucket_cache(&config, metrics)
        })
        .await
    }

    fn requests(&self, operation: Operation) -> u64 {
        self.counts.operations_of("cached", operation)
    }

    fn shows(&self, line: &str) {
        let text = self.registry.encode().unwrap();
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

fn contents() -> Vec<u8> {
    (0..SIZE).map(|i| (i * 31 % 251) as u8).collect()
}

/// Random reads of both files are what the store holds.
async fn reads_are_right(fixture: &Fixture, seed: u64) {
    let right = contents();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..60 {
        let file = if random.random_bool(0.5) { "chunks/000001" } else { "index" };
        let ranges: Vec<_> = (0..random.random_range(1..6))
            .map(|_| {
                let start = random.random_range(0..SIZE);
                start as u64..(start + random.random_range(1..70_000)) as u64
            })
            .collect();
        let parts = fixture.bucket.get_ranges(&format!("{BLOCK}/{file}"), &ranges).await.unwrap();
        for (range, part) in ranges.iter().zip(parts) {
            let end = (range.end as usize).min(SIZE);
            assert!(part == right[range.start as usize..end], "seed {seed}: {file} {range:?}");
        }
    }
}

#[tokio::test]
async fn reads_through_a_cache_are_the_buckets_bytes() {
    for seed in 0..5 {
        let fixture = Fixture::in_memory().await;
        reads_are_right(&fixture, seed).await;
        assert_eq!(fixture.requests(Operation::Attributes), 1, "seed {seed}");
        fixture.shows(
            "thanos_store_bucket_cache_operation_hits_total{config=\"chunks\",operation=\"getrange\"}",
        );
        fixture.shows(
            "thanos_store_bucket_cache_getrange_fetched_bytes_total{config=\"chunks\",origin=\"cache\"}",
        );
    }
}

#[tokio::test]
async fn what_was_read_is_not_asked_for_again() {
    let fixture = Fixture::in_memory().await;
    let chunks = format!("{BLOCK}/chunks/000001");
    for _ in 0..5 {
        assert!(
            fixture.bucket.get_range(&chunks, 40_000..100_000).await.unwrap() == contents()[40_000..100_000]
        );
    }
    assert_eq!(fixture.requests(Operation::GetRange), 1);
    // What lies around it only in part.
    fixture.bucket.get_range(&chunks, 20_000..120_000).await.unwrap();
    assert!(fixture.requests(Operation::GetRange) <= 3);
    // Other errors are the bucket's own.
    assert!(fixture.bucket.get_range(&chunks, SIZE as u64..SIZE as u64 + 1).await.is_err());
    let missing = fixture.bucket.get_range(&format!("{BLOCK}/chunks/000009"), 0..1).await.unwrap_err();
    assert!(missing.is_not_found());
}

#[tokio::test]
async fn metas_marks_and_the_list_of_blocks_are_remembered_for_their_time() {
    let fixture = Fixture::in_memory().await;
    let (meta, mark) = (format!("{BLOCK}/meta.json"), format!("{BLOCK}/deletion-mark.json"));
    for _ in 0..3 {
        assert_eq!(fixture.bucket.get(&meta, 10).await.unwrap(), "{}");
        assert!(fixture.bucket.get(&mark, 10).await.unwrap_err().is_not_found());
        assert!(fixture.bucket.exists(&meta).await.unwrap());
        assert!(!fixture.bucket.exists(&mark).await.unwrap());
        assert_eq!(fixture.bucket.list_blocks().await.unwrap(), [BLOCK]);
    }
    assert_eq!(fixture.requests(Operation::Get), 2);
    assert_eq!(fixture.requests(Operation::Exists), 2);
    assert_eq!(fixture.requests(Operation::Iter), 1);
    // A limit holds for what is remembered too; other objects are not.
    assert!(fixture.bucket.get(&meta, 1).await.is_err());
    fixture.plain.put(&format!("{BLOCK}/no-compact-mark.json"), "1".into()).await.unwrap();
    assert_eq!(fixture.bucket.get(&format!("{BLOCK}/no-compact-mark.json"), 9).await.unwrap(), "1");
    // Leases and the like are never answered from memory.
    assert!(fixture.bucket.get_with_revision(&meta, 10).await.is_ok());
    assert_eq!(fixture.requests(Operation::Get), 4);
}

/// A cache of a test that answers with other bytes than were put there.
#[derive(Debug)]
struct Liar(Bytes);

#[async_trait]
impl Cache for Liar {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        vec![Some(self.0.clone()); keys.len()]
    }

    fn set(&self, _: &str, _: &Bytes, _: Duration) {}
}

#[tokio::test]
async fn values_of_the_wrong_length_are_not_used() {
    for lie in [Bytes::new(), Bytes::from_static(b"short"), vec![9; 40_000].into()] {
        let fixture = Fixture::new(|metrics| {
            let config = CachingConfig::from_yaml("type: IN-MEMORY").unwrap();
            BucketCaches::default().with_bucket_cache_on(Arc::new(Liar(lie.clone())), &config, metrics)
        })
        .await;
        let bytes = fixture.bucket.get_range(&format!("{BLOCK}/chunks/000001"), 100..200).await.unwrap();
        assert!(bytes == contents()[100..200], "{} bytes", lie.len());
        assert_eq!(fixture.bucket.get(&format!("{BLOCK}/meta.json"), 10).await.unwrap(), "{}");
        assert!(fixture.bucket.exists(&format!("{BLOCK}/meta.json")).await.unwrap());
    }
}

#[tokio::test]
async fn a_cache_that_is_down_never_fails_a_read() {
    let nobody = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    for yaml in [
        format!("type: MEMCACHED\nconfig: {{addresses: [\"{nobody}\"], timeout: 50ms}}\n"),
        format!("type: REDIS\nconfig: {{addr: \"{nobody}\"}}\n"),
    ] {
        let fixture = Fixture::new(|metrics| {
            BucketCaches::default().with_bucket_cache(&CachingConfig::from_yaml(&yaml).unwrap(), metrics)
        })
        .await;
        reads_are_right(&fixture, 1).await;
        assert_eq!(fixture.bucket.list_blocks().await.unwrap(), [BLOCK]);
        assert_eq!(fixture.bucket.get(&format!("{BLOCK}/meta.json"), 10).await.unwrap(), "{}");
        fixture.shows("reason=\"circuit-breaker\"");
    }
}
