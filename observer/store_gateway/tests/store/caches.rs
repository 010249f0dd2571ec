//! The index cache: the same answers, for fewer requests; and caches that are shared, down, or filled by others.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parallax_cache::Cache;
use parallax_net::Context;
use parallax_store_gateway::{IndexCache, IndexCacheConfig};
use parallax_storeapi::frames;
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
    let data = tempfile::tempdir().unwrap();
    let store = Arc::new(CountingStore::new(in_memory(&golden("bucket-short")).await));
    let context = Context::for_test();
    let cache = cache(&context).map(Arc::new);
    let gateway = start_on(store.clone(), data.path(), &context, |config| {
        config.caches.index = cache;
    })
    .await;
    gateway.sync().await.unwrap();
    let mut request = everything();
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
async fn a_cache_that_is_down_costs_requests_only() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plain = ask_twice(|_| None).await;
    for yaml in [
        format!("type: MEMCACHED\nconfig: {{addresses: [\"{taken}\"], timeout: 50ms}}\n"),
        format!("type: REDIS\nconfig: {{addr: \"{taken}\"}}\n"),
    ] {
        let cached = ask_twice(|context| with(&yaml, context)).await;
        assert_eq!(cached.second.series, plain.first.series);
        assert!(cached.second.warnings.is_empty());
    }
}

/// A cache that answers every key with the same bytes.
#[derive(Debug)]
struct Liar(Bytes);

#[async_trait]
impl Cache for Liar {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        vec![Some(self.0.clone()); keys.len()]
    }

    fn set(&self, _: &str, _: &Bytes, _: Duration) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_lies_is_noticed_by_checksums_and_never_believed() {
    let plain = ask_twice(|_| None).await;
    for lie in [&b""[..], b"\x00", b"\x00\x00\x00\x04\x00\x00\x00\x00junk", &[0xff; 300]] {
        for items in ["Postings", "Series"] {
            let yaml = format!("{IN_MEMORY}enabled_items: [{items}]\n");
            let asked = ask_twice(|context| {
                let config = IndexCacheConfig::from_yaml(&yaml).unwrap();
                Some(IndexCache::on(Arc::new(Liar(Bytes::from_static(lie))), &config, &context.metrics))
            })
            .await;
            let is_right = asked.first.series == plain.first.series;
            assert!(is_right || !asked.first.warnings.is_empty(), "{items} {lie:?}");
            assert!(
                asked.first.series.iter().all(|one| plain.first.series.contains(one)),
                "{items} {lie:?}: invented"
            );
        }
    }
}
