//! [`IndexCache`]: what was read of indexes and is likely to be read again, by block: postings lists, series entries, and the outcome of matchers.
//!
//! Blocks never change, so that nothing here grows stale. Item types, metrics and the document of `--index-cache.config` are Thanos'; the layout of keys
//! and values is ours: lists and entries are the index's own bytes with their checksums (which are checked again when they are used), found by their
//! place in the index, and sets of refs are packed differences with a checksum. A cache that Thanos uses as well is no trouble: its keys begin otherwise.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parallax_block::BlockId;
use parallax_cache::Cache;
use parallax_model::Matcher;
use parallax_telemetry::Metrics;
use parallax_tsdb::index::PostingsRange;
use parallax_tsdb::postings::SeriesRef;
use sha2::{Digest as _, Sha256};

mod config;
mod metrics;
mod packed_refs;

pub use config::IndexCacheConfig;
use config::Items;
pub(crate) use metrics::Item;
use metrics::{CACHE_NAME, IndexCacheMetrics};

/// In the name of every key: a layout of ours that differs gets another.
const LAYOUT: &str = "parallax2";

/// Matchers longer than this stand in a key by their hash.
const MAX_PLAIN_MATCHERS_BYTES: usize = 120;

/// A cache of parts of indexes.
#[derive(Debug)]
pub struct IndexCache {
    cache: Arc<dyn Cache>,
    items: Items,
    ttl: Duration,
    metrics: IndexCacheMetrics,
}

impl IndexCache {
    /// Opens what the configuration describes. Needs a runtime for a remote cache.
    pub fn open(config: &IndexCacheConfig, metrics: &Metrics) -> Self {
        Self::on(parallax_cache::open(&config.backend, CACHE_NAME, metrics), config, metrics)
    }

    /// As [`Self::open`], on a cache that is already open (`config.backend` is only shown in metrics).
    pub fn on(cache: Arc<dyn Cache>, config: &IndexCacheConfig, metrics: &Metrics) -> Self {
        let metrics = IndexCacheMetrics::register(metrics, &config.backend);
        Self { cache, items: config.items, ttl: config.ttl, metrics }
    }

    /// The same, for indexes that are read as fast as a cache is: of those only the outcome of matchers is remembered, which spares reading and combining whole
    /// lists.
    #[must_use]
    pub fn of_outcomes(&self) -> Self {
        let (cache, metrics) = (Arc::clone(&self.cache), self.metrics.clone());
        Self { cache, items: self.items.outcomes(), ttl: self.ttl, metrics }
    }

    /// Whether entries of series are remembered.
    pub(crate) fn keeps_series(&self) -> bool {
        self.items.series
    }

    /// The bytes of those lists that are known, by where they start.
    pub(crate) async fn postings(&self, block: BlockId, places: &[PostingsRange]) -> HashMap<u64, Bytes> {
        if !self.items.postings {
            return HashMap::new();
        }
        let keys: Vec<String> = places.iter().map(|place| list_key(block, place.start)).collect();
        let found = self.fetch(Item::Postings, &keys).await;
        places.iter().zip(found).filter_map(|(place, value)| Some((place.start, value?))).collect()
    }

    pub(crate) fn set_postings(&self, block: BlockId, start: u64, list: &Bytes) {
        if self.items.postings {
            self.set(Item::Postings, &list_key(block, start), list);
        }
    }

    /// The entries at `offsets` that are known, in their order.
    pub(crate) async fn series(&self, block: BlockId, offsets: &[u64]) -> Vec<Option<Bytes>> {
        if !self.items.series {
            return vec![None; offsets.len()];
        }
        let keys: Vec<String> = offsets.iter().map(|offset| entry_key(block, *offset)).collect();
        self.fetch(Item::Series, &keys).await
    }

    pub(crate) fn set_series(&self, block: BlockId, offset: u64, entry: &Bytes) {
        if self.items.series {
            self.set(Item::Series, &entry_key(block, offset), entry);
        }
    }

    /// The refs of the series that all `matchers` match, if that is known.
    pub(crate) async fn expanded(&self, block: BlockId, matchers: &[Matcher]) -> Option<Vec<SeriesRef>> {
        if !self.items.expanded {
            return None;
        }
        let key = matchers_key(block, matchers);
        let value = self.fetch(Item::ExpandedPostings, std::slice::from_ref(&key)).await.pop().flatten()?;
        let refs = packed_refs::decode(&value);
        if refs.is_none() {
            self.damaged(Item::ExpandedPostings);
        }
        refs
    }

    /// Counts a value that turned out not to be what was put there. It is as if it had not been there: whoever finds this reads the index, and
    /// what is remembered from there takes its place.
    pub(crate) fn damaged(&self, item: Item) {
        self.metrics.damaged(item);
    }

    pub(crate) fn set_expanded(&self, block: BlockId, matchers: &[Matcher], refs: &[SeriesRef]) {
        if self.items.expanded {
            let value = packed_refs::encode(refs).into();
            self.set(Item::ExpandedPostings, &matchers_key(block, matchers), &value);
        }
    }

    async fn fetch(&self, item: Item, keys: &[String]) -> Vec<Option<Bytes>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let mut found = self.cache.get_multi(keys).await;
        found.resize(keys.len(), None);
        self.metrics.fetched(item, keys.len(), found.iter().flatten().count(), started.elapsed());
        found
    }

    fn set(&self, item: Item, key: &str, value: &Bytes) {
        self.metrics.stored(item, value.len());
        self.cache.set(key, value, self.ttl);
    }
}

fn list_key(block: BlockId, start: u64) -> String {
    format!("{LAYOUT}:P:{block}:{start}")
}

fn entry_key(block: BlockId, offset: u64) -> String {
    format!("{LAYOUT}:S:{block}:{offset}")
}

/// The order of matchers does not matter, nor whether one is there twice.
fn matchers_key(block: BlockId, matchers: &[Matcher]) -> String {
    let mut texts: Vec<String> =
        matchers.iter().map(|m| format!("{:?}{:?}{:?}", m.name(), m.op(), m.value())).collect();
    texts.sort_unstable();
    texts.dedup();
    let text = texts.join(";");
    let is_plain = text.len() <= MAX_PLAIN_MATCHERS_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_plain {
        return format!("{LAYOUT}:EP:{block}:={text}");
    }
    let mut key = format!("{LAYOUT}:EP:{block}:#");
    for byte in Sha256::digest(text.as_bytes()) {
        // A string takes whatever is written to it.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

#[cfg(test)]
mod tests {
    use parallax_model::MatchOp;

    use super::*;

    fn block() -> BlockId {
        "01M7ZT2XAE94D33BEGH3SZ0N19".parse().unwrap()
    }

    fn cache(yaml: &str) -> (IndexCache, Metrics) {
        let metrics = Metrics::new();
        (IndexCache::open(&IndexCacheConfig::from_yaml(yaml).unwrap(), &metrics), metrics)
    }

    fn matcher(op: MatchOp, value: &str) -> Matcher {
        Matcher::new(op, "job", value).unwrap()
    }

    #[tokio::test]
    async fn what_was_put_there_comes_back_for_its_block_only() {
        let (cache, metrics) = cache("type: IN-MEMORY");
        let other: BlockId = "01M7ZT2XDX6XDB6P5XACT0A2ZN".parse().unwrap();
        let place = |start| PostingsRange { start, end: start + 10 };
        cache.set_postings(block(), 7, &Bytes::from_static(b"list"));
        cache.set_series(block(), 16, &Bytes::from_static(b"entry"));
        let matchers = [matcher(MatchOp::Equal, "a"), matcher(MatchOp::Regex, "b.*")];
        cache.set_expanded(block(), &matchers, &[1, 5, 9]);
        let found = cache.postings(block(), &[place(7), place(8)]).await;
        assert_eq!(found, HashMap::from([(7, Bytes::from_static(b"list"))]));
        assert!(cache.postings(other, &[place(7)]).await.is_empty());
        assert_eq!(cache.series(block(), &[0, 16]).await, [None, Some(Bytes::from_static(b"entry"))]);
        let [a, b] = matchers;
        assert_eq!(cache.expanded(block(), &[b, a.clone(), a.clone()]).await, Some(vec![1, 5, 9]));
        for otherwise in [vec![a], vec![matcher(MatchOp::NotEqual, "a"), matcher(MatchOp::Regex, "b.*")]] {
            assert_eq!(cache.expanded(block(), &otherwise).await, None);
        }
        let text = metrics.encode().unwrap();
        for line in [
            "thanos_store_index_cache_requests_total{item_type=\"Postings\"} 3",
            "thanos_store_index_cache_hits_total{item_type=\"Postings\"} 1",
            "thanos_store_index_cache_hits_total{item_type=\"Series\"} 1",
            "thanos_store_index_cache_hits_total{item_type=\"ExpandedPostings\"} 1",
            "thanos_store_index_cache_items_added_total{item_type=\"Series\"} 1",
            "thanos_store_index_cache_max_size_bytes",
        ] {
            assert!(text.contains(line), "{line} not in\n{text}");
        }
    }

    #[tokio::test]
    async fn only_enabled_items_are_remembered() {
        let (cache, _) = cache("type: IN-MEMORY\nenabled_items: [Series]\n");
        cache.set_postings(block(), 7, &Bytes::from_static(b"list"));
        cache.set_series(block(), 16, &Bytes::from_static(b"entry"));
        cache.set_expanded(block(), &[], &[1]);
        assert!(cache.postings(block(), &[PostingsRange { start: 7, end: 9 }]).await.is_empty());
        assert!(cache.expanded(block(), &[]).await.is_none());
        assert!(cache.series(block(), &[16]).await[0].is_some());
    }

    #[test]
    fn keys_fit_memcached_and_differ_for_different_matchers() {
        let key = |value: &str| matchers_key(block(), &[matcher(MatchOp::Regex, value)]);
        let long = "a|".repeat(1000);
        for value in ["a", "with space", "ü", &long] {
            let key = key(value);
            assert!(key.len() <= 250 && key.bytes().all(|byte| byte.is_ascii_graphic()), "{key}");
        }
        assert_ne!(key(&long), key(&long[2..]));
        // What stands between matchers cannot be part of one.
        let split = [matcher(MatchOp::Equal, "a"), matcher(MatchOp::Equal, "b")];
        assert_ne!(
            matchers_key(block(), &split),
            matchers_key(block(), &[matcher(MatchOp::Equal, "a\";\"job\"Equal\"b")])
        );
    }
}
