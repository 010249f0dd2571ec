//! What a reader of a bucket may remember: Thanos' caching bucket (chunks, metas, the list of blocks).
//!
//! Blocks never change, so their bytes are remembered for long; what comes and goes (marks, the list of blocks) for as long as configured,
//! and that is how stale it may be. Only readers should cache: what is written through a bucket does not leave its cache. Whatever a cache does,
//! an answer is the bucket's own bytes, or an error of the bucket: values of the wrong length are misses. Source of keys and defaults: Thanos
//! `pkg/store/cache/caching_bucket_factory.go` and `docs/components/store.md`.

use std::sync::Arc;
use std::time::Duration;

use parallax_cache::config::{ByteSize, GoDuration, parse};
use parallax_cache::{Backend, Cache, CacheError};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// `--store.caching-bucket.config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachingConfig {
    pub backend: Backend,
    /// Chunks are remembered in pieces of this size.
    pub chunk_subrange_bytes: u64,
    /// Requests for the missing pieces of one read at most.
    pub max_chunk_requests: usize,
    pub metafile_max_bytes: u64,
    pub chunk_attrs_ttl: Duration,
    pub chunk_subrange_ttl: Duration,
    pub blocks_iter_ttl: Duration,
    pub metafile_exists_ttl: Duration,
    pub metafile_absent_ttl: Duration,
    pub metafile_content_ttl: Duration,
}

#[derive(Deserialize)]
struct CachingSection {
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    chunk_subrange_size: Option<u64>,
    max_chunks_get_range_requests: Option<i64>,
    metafile_max_size: Option<ByteSize>,
    chunk_object_attrs_ttl: Option<GoDuration>,
    chunk_subrange_ttl: Option<GoDuration>,
    blocks_iter_ttl: Option<GoDuration>,
    metafile_exists_ttl: Option<GoDuration>,
    metafile_doesnt_exist_ttl: Option<GoDuration>,
    metafile_content_ttl: Option<GoDuration>,
}

/// Smaller pieces would cost more to keep than they hold; larger ones are whole reads.
const SUBRANGE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=16 << 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

impl CachingConfig {
    /// # Errors
    /// [`CacheError::Config`] with the line where there is one.
    pub fn from_yaml(text: &str) -> Result<Self, CacheError> {
        let backend = Backend::from_yaml(
            text,
            &[
                "chunk_subrange_size",
                "max_chunks_get_range_requests",
                "metafile_max_size",
                "chunk_object_attrs_ttl",
                "chunk_subrange_ttl",
                "blocks_iter_ttl",
                "metafile_exists_ttl",
                "metafile_doesnt_exist_ttl",
                "metafile_content_ttl",
            ],
        )?;
        let section: CachingSection = parse(text)?;
        let or = |value: Option<GoDuration>, default: Duration| value.map_or(default, |value| value.0);
        let chunk_subrange_bytes = section.chunk_subrange_size.unwrap_or(16_000);
        if !SUBRANGE_BYTES.contains(&chunk_subrange_bytes) {
            let (least, most) = (SUBRANGE_BYTES.start(), SUBRANGE_BYTES.end());
            let reason =
                format!("chunk_subrange_size {chunk_subrange_bytes} is not between {least} and {most} bytes");
            return Err(CacheError::config(reason));
        }
        let requests = section.max_chunks_get_range_requests.unwrap_or(3);
        Ok(Self {
            backend,
            chunk_subrange_bytes,
            max_chunk_requests: usize::try_from(requests)
                .ok()
                .filter(|count| *count > 0)
                .unwrap_or(usize::MAX),
            metafile_max_bytes: section.metafile_max_size.map_or(1 << 20, |size| size.0),
            chunk_attrs_ttl: or(section.chunk_object_attrs_ttl, DAY),
            chunk_subrange_ttl: or(section.chunk_subrange_ttl, DAY),
            blocks_iter_ttl: or(section.blocks_iter_ttl, Duration::from_secs(5 * 60)),
            metafile_exists_ttl: or(section.metafile_exists_ttl, Duration::from_secs(2 * 3600)),
            metafile_absent_ttl: or(section.metafile_doesnt_exist_ttl, Duration::from_secs(15 * 60)),
            metafile_content_ttl: or(section.metafile_content_ttl, DAY),
        })
    }
}

/// The caches of one bucket; none by default.
#[derive(Clone, Debug, Default)]
pub struct BucketCaches {
    pub(crate) metas: Option<Arc<MetaCache>>,
    pub(crate) chunks: Option<Arc<RangeCache>>,
}

/// Metas, marks and the list of blocks.
#[derive(Debug)]
pub(crate) struct MetaCache {
    pub cache: Arc<dyn Cache>,
    pub config: CachingConfig,
    pub metrics: CachingMetrics,
}

/// Pieces of objects that never change.
#[derive(Debug)]
pub(crate) struct RangeCache {
    pub cache: Arc<dyn Cache>,
    pub subrange_bytes: u64,
    pub max_requests: usize,
    pub attrs_ttl: Duration,
    pub ttl: Duration,
    pub metrics: CachingMetrics,
    /// The label value `config` of its metrics.
    pub label: &'static str,
}

impl BucketCaches {
    /// Remembers chunks, metas and the list of blocks.
    #[must_use]
    pub fn with_bucket_cache(self, config: &CachingConfig, metrics: &Metrics) -> Self {
        let cache = parallax_cache::open(&config.backend, "caching-bucket", metrics);
        self.with_bucket_cache_on(cache, config, metrics)
    }

    /// As [`Self::with_bucket_cache`], on a cache that is already open (`config.backend` is not looked at).
    #[must_use]
    pub fn with_bucket_cache_on(
        mut self,
        cache: Arc<dyn Cache>,
        config: &CachingConfig,
        metrics: &Metrics,
    ) -> Self {
        let counts = CachingMetrics::register(metrics);
        self.chunks = Some(Arc::new(RangeCache {
            cache: Arc::clone(&cache),
            subrange_bytes: config.chunk_subrange_bytes,
            max_requests: config.max_chunk_requests,
            attrs_ttl: config.chunk_attrs_ttl,
            ttl: config.chunk_subrange_ttl,
            metrics: counts.clone(),
            label: "chunks",
        }));
        self.metas = Some(Arc::new(MetaCache { cache, config: config.clone(), metrics: counts }));
        self
    }

    /// The cache for ranges of an object, by its name.
    pub(crate) fn of_ranges(&self, object: &str) -> Option<&Arc<RangeCache>> {
        let (directory, file) = object.rsplit_once('/')?;
        let is_chunks = directory.ends_with("/chunks") && file.bytes().all(|byte| byte.is_ascii_digit());
        self.chunks.as_ref().filter(|_| is_chunks)
    }

    /// The cache for a whole object, by its name.
    pub(crate) fn of_meta(&self, object: &str) -> Option<&Arc<MetaCache>> {
        let is_meta = object.ends_with("/meta.json") || object.ends_with("/deletion-mark.json");
        self.metas.as_ref().filter(|_| is_meta)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    config: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BytesLabels {
    config: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OriginLabels {
    config: &'static str,
    origin: &'static str,
}

/// Thanos' names, with `config` `chunks`, `meta.jsons` and `blocks-iter`.
#[derive(Clone, Debug)]
pub(crate) struct CachingMetrics {
    requests: Family<OperationLabels, Counter>,
    hits: Family<OperationLabels, Counter>,
    requested_bytes: Family<BytesLabels, Counter>,
    fetched_bytes: Family<OriginLabels, Counter>,
    wrong: Family<BytesLabels, Counter>,
}

impl CachingMetrics {
    fn register(metrics: &Metrics) -> Self {
        Self {
            requests: metrics.register(
                "thanos_store_bucket_cache_operation_requests",
                "Operations on a bucket that a cache could answer",
                Family::default(),
            ),
            hits: metrics.register(
                "thanos_store_bucket_cache_operation_hits",
                "Operations on a bucket that a cache answered",
                Family::default(),
            ),
            requested_bytes: metrics.register(
                "thanos_store_bucket_cache_getrange_requested_bytes",
                "Bytes of ranges that were asked for",
                Family::default(),
            ),
            fetched_bytes: metrics.register(
                "thanos_store_bucket_cache_getrange_fetched_bytes",
                "Bytes of ranges that came from the bucket or the cache",
                Family::default(),
            ),
            wrong: metrics.register(
                "parallax_bucket_cache_wrong_values",
                "Values of a cache that could not be what was put there, and were not used",
                Family::default(),
            ),
        }
    }

    pub(crate) fn requested(&self, config: &'static str, operation: &'static str, hit: bool) {
        let labels = OperationLabels { config, operation };
        self.requests.get_or_create(&labels).inc();
        if hit {
            self.hits.get_or_create(&labels).inc();
        }
    }

    /// Pieces asked for, and those found.
    pub(crate) fn pieces(&self, config: &'static str, asked: usize, found: usize) {
        let labels = OperationLabels { config, operation: "getrange" };
        self.requests.get_or_create(&labels).inc_by(asked as u64);
        self.hits.get_or_create(&labels).inc_by(found as u64);
    }

    pub(crate) fn bytes(&self, config: &'static str, requested: u64, from_cache: u64, from_bucket: u64) {
        self.requested_bytes.get_or_create(&BytesLabels { config }).inc_by(requested);
        for (origin, bytes) in [("cache", from_cache), ("bucket", from_bucket)] {
            self.fetched_bytes.get_or_create(&OriginLabels { config, origin }).inc_by(bytes);
        }
    }

    pub(crate) fn wrong(&self, config: &'static str) {
        self.wrong.get_or_create(&BytesLabels { config }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_key_of_the_caching_bucket_is_accepted() {
        let text = "type: IN-MEMORY\nconfig: {max_size: 1MB, max_item_size: 1MB}\nchunk_subrange_size: 32000\nmax_chunks_get_range_requests: 0\n\
                    metafile_max_size: 2MiB\nchunk_object_attrs_ttl: 1h\nchunk_subrange_ttl: 2h\nblocks_iter_ttl: 1m\nmetafile_exists_ttl: 2m\n\
                    metafile_doesnt_exist_ttl: 3m\nmetafile_content_ttl: 4m\n";
        let config = CachingConfig::from_yaml(text).unwrap();
        assert_eq!((config.chunk_subrange_bytes, config.max_chunk_requests), (32_000, usize::MAX));
        assert_eq!((config.metafile_absent_ttl.as_secs(), config.metafile_max_bytes), (180, 2 << 20));
        let defaults = CachingConfig::from_yaml("type: IN-MEMORY").unwrap();
        assert_eq!((defaults.chunk_subrange_bytes, defaults.max_chunk_requests), (16_000, 3));
        for (text, word) in [
            ("type: IN-MEMORY\nchunk_subrange: 1", "chunk_subrange"),
            ("type: IN-MEMORY\nchunk_subrange_size: 1", "chunk_subrange_size 1"),
            ("type: IN-MEMORY\nblocks_iter_ttl: soon", "soon"),
            ("type: GROUPCACHE", "GROUPCACHE"),
        ] {
            let error = CachingConfig::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn caches_know_their_objects_by_name() {
        let metrics = Metrics::new();
        let caches = BucketCaches::default()
            .with_bucket_cache(&CachingConfig::from_yaml("type: IN-MEMORY").unwrap(), &metrics);
        let label = |object: &str| caches.of_ranges(object).map(|cache| cache.label);
        assert_eq!(label("01M7ZT2XAE94D33BEGH3SZ0N19/chunks/000001"), Some("chunks"));
        for other in [
            "01M7ZT2XAE94D33BEGH3SZ0N19/index",
            "index",
            "b/meta.json",
            "b/chunks/tmp",
            "chunks/000001",
            "b/index-header",
        ] {
            assert_eq!(label(other), None, "{other}");
        }
        assert!(caches.of_meta("b/meta.json").is_some() && caches.of_meta("b/deletion-mark.json").is_some());
        assert!(caches.of_meta("b/no-compact-mark.json").is_none());
    }
}
