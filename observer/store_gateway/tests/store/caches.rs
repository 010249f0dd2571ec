//! The index cache: the same answers, for fewer requests; and caches that are shared, down, or filled by others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parallax_bucket::{Bucket, BucketCaches, BucketConfig, CachingConfig};
use parallax_cache::Cache;
use parallax_model::Matcher;
use parallax_net::Context;
use parallax_store_gateway::{IndexCache, IndexCacheConfig, StoreGateway, StoreGatewayConfig};
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::{frames, matchers};
use parallax_testkit::counting_bucket::{Calls, CountingStore};

use crate::fixture::{everything, golden, in_memory, series, start_on};

const IN_MEMORY: &str = "type: IN-MEMORY\nconfig: {max_size: 50MB, max_item_size: 10MB}\n";

struct Asked {
    first: frames::Collected,
    second: frames::Collected,
    /// Of the second.
    calls: Calls,
    context: Context,
}

/// The same question twice.
async fn ask_twice(cache: impl FnOnce(&Context) -> Option<IndexCache>) -> Asked {
    ask_twice_for(everything(), cache).await
}

async fn ask_twice_for(
    mut request: SeriesRequest,
    cache: impl FnOnce(&Context) -> Option<IndexCache>,
) -> Asked {
    let data = tempfile::tempdir().unwrap();
    let store = Arc::new(CountingStore::new(in_memory(&golden("bucket-short")).await));
    let context = Context::for_test();
    let cache = cache(&context).map(Arc::new);
    let gateway = start_on(store.clone(), data.path(), &context, |config| {
        config.caches.index = cache;
    })
    .await;
    gateway.sync().await.unwrap();
    request.skip_chunks = true;
    let first = series(&*gateway, request.clone()).await.unwrap();
    store.take();
    let second = series(&*gateway, request).await.unwrap();
    Asked { first, second, calls: store.take(), context }
}

fn with(yaml: &str, context: &Context) -> Option<IndexCache> {
    Some(IndexCache::open(&IndexCacheConfig::from_yaml(yaml).unwrap(), &context.metrics))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_of_an_index_is_not_read_again() {
    let plain = ask_twice(|_| None).await;
    assert!(plain.calls.gets > 0 && !plain.first.series.is_empty());
    let cached = ask_twice(|context| with(IN_MEMORY, context)).await;
    for answer in [&cached.first, &cached.second] {
        assert_eq!(answer.series, plain.first.series);
        assert!(answer.warnings.is_empty());
    }
    assert_eq!(cached.calls, Calls::default(), "all of it was known");
    let metrics = cached.context.metrics.encode().unwrap();
    for line in [
        "thanos_store_index_cache_hits_total{item_type=\"ExpandedPostings\"}",
        "thanos_store_index_cache_hits_total{item_type=\"Series\"}",
        "thanos_store_index_cache_requests_total{item_type=\"Postings\"}",
        "thanos_store_index_cache_stored_data_size_bytes_count{item_type=\"Postings\"}",
        "thanos_store_index_cache_fetch_duration_seconds_count{item_type=\"Series\"}",
    ] {
        assert!(metrics.contains(line), "{line} not in\n{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_item_spares_its_own_requests() {
    let plain = ask_twice(|_| None).await;
    for items in ["Postings", "Series", "ExpandedPostings"] {
        let yaml = format!("{IN_MEMORY}enabled_items: [{items}]\n");
        let cached = ask_twice(|context| with(&yaml, context)).await;
        assert_eq!(cached.second.series, plain.first.series, "{items}");
        assert!(cached.calls.gets < plain.calls.gets, "{items}: {:?} {:?}", cached.calls, plain.calls);
        assert!(cached.calls.gets > 0, "{items} are not all that is read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_against_each_series_is_remembered_too() {
    // The first is held against the series that the second leaves.
    let wanted = [Matcher::equal("job", "api"), Matcher::equal("code", "500")];
    let request = || SeriesRequest { matchers: matchers::to_wire(&wanted), ..everything() };
    let plain = ask_twice_for(request(), |_| None).await;
    let outcomes =
        |context: &Context| Some(IndexCache::open(&IndexCacheConfig::of_outcomes(1 << 20), &context.metrics));
    let cached = ask_twice_for(request(), outcomes).await;
    assert!(!plain.first.series.is_empty());
    assert_eq!(cached.second.series, plain.first.series);
    assert!(cached.calls.gets < plain.calls.gets, "{:?} {:?}", cached.calls, plain.calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_down_costs_requests_only() {
    let nobody = format!("127.0.0.1:{}", parallax_testkit::process::free_port().unwrap());
    let plain = ask_twice(|_| None).await;
    for yaml in [
        format!("type: MEMCACHED\nconfig: {{addresses: [\"{nobody}\"], timeout: 50ms}}\n"),
        format!("type: REDIS\nconfig: {{addr: \"{nobody}\"}}\n"),
    ] {
        let cached = ask_twice(|context| with(&yaml, context)).await;
        assert_eq!(cached.second.series, plain.first.series);
        assert!(cached.second.warnings.is_empty());
    }
}

/// A cache that answers with the same bytes, until it has been told better.
#[derive(Debug)]
struct Liar {
    lie: Bytes,
    told: Mutex<HashMap<String, Bytes>>,
}

impl Liar {
    fn new(lie: &'static [u8]) -> Self {
        Self { lie: Bytes::from_static(lie), told: Mutex::default() }
    }
}

#[async_trait]
impl Cache for Liar {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let told = self.told.lock().unwrap();
        keys.iter().map(|key| Some(told.get(key).unwrap_or(&self.lie).clone())).collect()
    }

    fn set(&self, key: &str, value: &Bytes, _: Duration) {
        self.told.lock().unwrap().insert(key.to_owned(), value.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cache_has_wrong_is_read_from_the_index_and_put_right() {
    let plain = ask_twice(|_| None).await;
    for lie in [&b""[..], b"\x00", b"\x00\x00\x00\x04\x00\x00\x00\x00junk", &[0xff; 300]] {
        for items in ["Postings", "Series", "ExpandedPostings"] {
            let yaml = format!("{IN_MEMORY}enabled_items: [{items}]\n");
            let asked = ask_twice(|context| {
                let config = IndexCacheConfig::from_yaml(&yaml).unwrap();
                Some(IndexCache::on(Arc::new(Liar::new(lie)), &config, &context.metrics))
            })
            .await;
            for answer in [&asked.first, &asked.second] {
                assert_eq!(answer.series, plain.first.series, "{items} {lie:?}");
                assert!(answer.warnings.is_empty(), "{items} {lie:?}: {:?}", answer.warnings);
            }
            assert!(asked.calls.gets < plain.calls.gets, "{items} {lie:?}: nothing was put right");
            let metrics = asked.context.metrics.encode().unwrap();
            let counted = format!("parallax_store_index_cache_damaged_total{{item_type=\"{items}\"}}");
            assert!(metrics.contains(&counted), "{items} {lie:?}: {metrics}");
        }
    }
}

/// A cache whose memory can go bad.
#[derive(Debug, Default)]
struct Rotting(Mutex<HashMap<String, Bytes>>);

impl Rotting {
    /// Changes a byte in the middle of each value whose key has `word`.
    fn rot(&self, word: &str) -> usize {
        let mut values = self.0.lock().unwrap();
        let mut rotten = 0;
        for (_, value) in values.iter_mut().filter(|(key, _)| key.contains(word)) {
            let mut bytes = value.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x55;
                rotten += 1;
            }
            *value = bytes.into();
        }
        rotten
    }

    fn cut(&self, word: &str) -> usize {
        let mut values = self.0.lock().unwrap();
        let mut cut = 0;
        for (_, value) in values.iter_mut().filter(|(key, _)| key.contains(word)) {
            value.truncate(value.len() / 2);
            cut += 1;
        }
        cut
    }

    /// Of values that are numbers.
    fn shrink(&self, word: &str) -> usize {
        let mut values = self.0.lock().unwrap();
        let mut shrunk = 0;
        for (_, value) in values.iter_mut().filter(|(key, _)| key.contains(word)) {
            let size = u64::from_be_bytes(value.as_ref().try_into().unwrap());
            *value = Bytes::copy_from_slice(&(size - 10).to_be_bytes());
            shrunk += 1;
        }
        shrunk
    }
}

#[async_trait]
impl Cache for Rotting {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let values = self.0.lock().unwrap();
        keys.iter().map(|key| values.get(key).cloned()).collect()
    }

    fn set(&self, key: &str, value: &Bytes, _: Duration) {
        self.0.lock().unwrap().insert(key.to_owned(), value.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_and_metas_that_went_bad_in_a_cache_are_read_again_and_put_right() {
    let store = Arc::new(CountingStore::new(in_memory(&golden("bucket-short")).await));
    let cache = Arc::new(Rotting::default());
    let config = CachingConfig::from_yaml("type: IN-MEMORY\nchunk_subrange_size: 4096\n").unwrap();
    let start = async || {
        let (context, data) = (Context::for_test(), tempfile::tempdir().unwrap());
        let caches = BucketCaches::default().with_bucket_cache_on(cache.clone(), &config, &context.metrics);
        let bucket = Bucket::new(store.clone(), "", "cached").unwrap().with_caches(caches);
        let mut config = StoreGatewayConfig::new(BucketConfig::filesystem("nowhere"), data.path());
        config.sync_interval = Duration::from_secs(3600);
        let gateway = StoreGateway::start_on(bucket, config, context.clone()).await.unwrap();
        gateway.sync().await.unwrap();
        (gateway, context, data)
    };
    let (gateway, context, _data) = start().await;
    let sound = series(&*gateway, everything()).await.unwrap();
    assert!(sound.warnings.is_empty() && !sound.series.is_empty());
    for damage in [|cache: &Rotting| cache.rot("subrange:"), |cache: &Rotting| cache.shrink("attrs:")] {
        assert!(damage(&cache) > 0);
        for _ in 0..2 {
            store.take();
            let answer = series(&*gateway, everything()).await.unwrap();
            assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
            assert!(answer.series == sound.series);
        }
        // The second time the chunks are in the cache again; what is left are reads of indexes.
        let again = store.take();
        let index_only = {
            let mut request = everything();
            request.skip_chunks = true;
            let _ = series(&*gateway, request).await.unwrap();
            store.take()
        };
        assert_eq!(again, index_only);
    }
    assert!(
        context
            .metrics
            .encode()
            .unwrap()
            .contains("parallax_bucket_cache_wrong_values_total{config=\"chunks\"}")
    );
    // Metas: a new process that shares the cache.
    assert!(cache.cut("/meta.json") > 0);
    let (gateway, _context, _data) = start().await;
    let answer = series(&*gateway, everything()).await.unwrap();
    assert!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    assert!(answer.series == sound.series);
}
