//! [`MemoryCache`]: the least recently used values leave when the bound in bytes is reached.
//!
//! One lock around two maps; what is done under it is a few map operations, never a copy of a value.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use parallax_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::Cache;
use crate::config::MemoryConfig;

/// What an entry costs beside its key (held once) and its value: map nodes, counters, times.
const ENTRY_BYTES: u64 = 160;

/// A cache in this process.
pub struct MemoryCache {
    config: MemoryConfig,
    entries: Mutex<Entries>,
    metrics: MemoryMetrics,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Arc<str>, Entry>,
    /// From the least recently used on.
    by_use: BTreeMap<u64, Arc<str>>,
    uses: u64,
    size_bytes: u64,
}

struct Entry {
    value: Bytes,
    expires: Instant,
    used: u64,
}

impl fmt::Debug for MemoryCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache").field("config", &self.config).finish_non_exhaustive()
    }
}

impl MemoryCache {
    pub fn new(config: MemoryConfig, name: &str, metrics: &Metrics) -> Self {
        let metrics = MemoryMetrics::register(&metrics.scoped([("name", name)]));
        metrics.max_size_bytes.set(signed(config.max_size_bytes));
        metrics.max_item_size_bytes.set(signed(config.max_item_size_bytes));
        Self { config, entries: Mutex::default(), metrics }
    }

    /// Bytes held now, entries' own cost included: at most the configured bound.
    pub fn size_bytes(&self) -> u64 {
        self.lock().size_bytes
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, entries: &mut Entries, key: &str, now: Instant) -> Option<Bytes> {
        self.metrics.requests.inc();
        let entry = entries.by_key.get_mut(key)?;
        if entry.expires <= now {
            self.metrics.expired.inc();
            entries.remove(key);
            return None;
        }
        entries.uses += 1;
        let name = entries.by_use.remove(&entry.used)?;
        entry.used = entries.uses;
        entries.by_use.insert(entry.used, name);
        self.metrics.hits.inc();
        Some(entry.value.clone())
    }

    fn insert(&self, key: &str, value: &Bytes, ttl: Duration) {
        let size_bytes = cost(key, value);
        if value.len() as u64 > self.config.max_item_size_bytes || size_bytes > self.config.max_size_bytes {
            self.metrics.overflowed.inc();
            // What was there before is not what the key stands for any more.
            self.lock().remove(key);
            return;
        }
        // A slice would keep the whole it was cut from; what is counted is what is held.
        let value = Bytes::copy_from_slice(value);
        let expires = Instant::now() + ttl;
        let mut entries = self.lock();
        entries.remove(key);
        while entries.size_bytes + size_bytes > self.config.max_size_bytes {
            let Some((_, oldest)) = entries.by_use.pop_first() else { break };
            entries.forget(&oldest);
            self.metrics.evicted.inc();
        }
        entries.uses += 1;
        let used = entries.uses;
        let key: Arc<str> = key.into();
        entries.by_use.insert(used, Arc::clone(&key));
        entries.by_key.insert(key, Entry { value, expires, used });
        entries.size_bytes += size_bytes;
        self.metrics.added.inc();
        self.metrics.items.set(signed(entries.by_key.len() as u64));
        self.metrics.size_bytes.set(signed(entries.size_bytes));
    }
}

impl Entries {
    fn remove(&mut self, key: &str) {
        if let Some(used) = self.by_key.get(key).map(|entry| entry.used) {
            self.by_use.remove(&used);
            self.forget(key);
        }
    }

    /// Of an entry that is no longer in `by_use`.
    fn forget(&mut self, key: &str) {
        if let Some(entry) = self.by_key.remove(key) {
            self.size_bytes = self.size_bytes.saturating_sub(cost(key, &entry.value));
        }
    }
}

fn cost(key: &str, value: &Bytes) -> u64 {
    ENTRY_BYTES + key.len() as u64 + value.len() as u64
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[async_trait]
impl Cache for MemoryCache {
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>> {
        let now = Instant::now();
        let mut entries = self.lock();
        keys.iter().map(|key| self.get(&mut entries, key, now)).collect()
    }

    fn set(&self, key: &str, value: &Bytes, ttl: Duration) {
        self.insert(key, value, ttl);
    }
}

/// Thanos' names.
struct MemoryMetrics {
    requests: Counter,
    hits: Counter,
    expired: Counter,
    added: Counter,
    evicted: Counter,
    overflowed: Counter,
    items: Gauge,
    size_bytes: Gauge,
    max_size_bytes: Gauge,
    max_item_size_bytes: Gauge,
}

impl MemoryMetrics {
    fn register(metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| {
            metrics.register(&format!("thanos_cache_inmemory_{name}"), help, Counter::default())
        };
        let gauge = |name: &str, help: &str| {
            metrics.register(&format!("thanos_cache_inmemory_{name}"), help, Gauge::default())
        };
        Self {
            requests: counter("requests", "Values asked of the cache"),
            hits: counter("hits", "Values found in the cache"),
            expired: counter("hits_on_expired_data", "Values found in the cache that were too old"),
            added: counter("items_added", "Values put into the cache"),
            evicted: counter("items_evicted", "Values that left for newer ones"),
            overflowed: counter("items_overflowed", "Values that were too large for the cache"),
            items: gauge("items", "Values in the cache"),
            size_bytes: gauge("total_size_bytes", "Bytes of the values in the cache and of their keys"),
            max_size_bytes: gauge("max_size_bytes", "Most bytes in the cache"),
            max_item_size_bytes: gauge("max_item_size_bytes", "Most bytes of one value"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(max_size_bytes: u64, max_item_size_bytes: u64) -> MemoryCache {
        MemoryCache::new(MemoryConfig { max_size_bytes, max_item_size_bytes }, "test", &Metrics::new())
    }

    const LONG: Duration = Duration::from_secs(3600);

    fn get(cache: &MemoryCache, key: &str) -> Option<Bytes> {
        let mut entries = cache.lock();
        cache.get(&mut entries, key, Instant::now())
    }

    #[test]
    fn the_least_recently_used_leaves_first() {
        let cache = cache(3 * (ENTRY_BYTES + 11), 100);
        for key in ["a", "b", "c"] {
            cache.set(key, &vec![0; 10].into(), LONG);
        }
        assert!(get(&cache, "a").is_some());
        cache.set("d", &vec![0; 10].into(), LONG);
        let kept: Vec<bool> = ["a", "b", "c", "d"].iter().map(|key| get(&cache, key).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
    }

    #[test]
    fn old_and_large_values_are_not_given() {
        let registry = Metrics::new();
        let config = MemoryConfig { max_size_bytes: 10_000, max_item_size_bytes: 10 };
        let cache = MemoryCache::new(config, "test", &registry);
        cache.set("large", &vec![0; 11].into(), LONG);
        assert_eq!(get(&cache, "large"), None);
        cache.set("old", &"x".into(), Duration::ZERO);
        assert_eq!(get(&cache, "old"), None);
        assert_eq!(cache.size_bytes(), 0);
        cache.set("k", &"first".into(), LONG);
        cache.set("k", &"second".into(), LONG);
        assert_eq!(get(&cache, "k").unwrap(), "second");
        let text = registry.encode().unwrap();
        for line in [
            "requests_total{name=\"test\"} 3",
            "hits_total{name=\"test\"} 1",
            "hits_on_expired_data_total{name=\"test\"} 1",
            "items_overflowed_total{name=\"test\"} 1",
            "items{name=\"test\"} 1",
        ] {
            assert!(text.contains(&format!("thanos_cache_inmemory_{line}")), "{line} not in\n{text}");
        }
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_what_is_found_is_what_was_put(
            puts in prop::collection::vec((0u8..20, 0usize..300), 1..200), bound in 0u64..3000,
        ) {
            let cache = cache(bound, 250);
            let mut last = HashMap::new();
            for (key, size) in puts {
                let (key, value) = (format!("key {key}"), Bytes::from(vec![key; size]));
                cache.set(&key, &value, LONG);
                last.insert(key, value);
                prop_assert!(cache.size_bytes() <= bound);
            }
            for (key, value) in &last {
                if let Some(found) = get(&cache, key) {
                    prop_assert!(found == *value);
                }
            }
        }
    }
}
