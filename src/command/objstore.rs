//! The bucket of `--objstore.config` or `--objstore.config-file`.

use std::sync::Arc;

use anyhow::Context as _;
use parallax_bucket::{Access, Bucket, BucketCaches, BucketConfig, BucketMetrics, CachingConfig, Provider};
use parallax_net::Context;
use parallax_store_gateway::{Caches, IndexCache, IndexCacheConfig};

use crate::flags::Values;

/// Opens the configured bucket, or none.
pub fn bucket(values: &Values, access: Access, context: &Context) -> anyhow::Result<Option<Bucket>> {
    match values.text_or_file("objstore.config")? {
        None => Ok(None),
        Some(yaml) => open(&yaml, access, context).context("--objstore.config").map(Some),
    }
}

/// Opens the bucket that Thanos' objstore YAML describes.
pub fn open(yaml: &str, access: Access, context: &Context) -> anyhow::Result<Bucket> {
    let config = BucketConfig::from_yaml(yaml)?;
    if let (Provider::Filesystem { directory }, Access::Write) = (&config.provider, access)
        && !directory.exists()
    {
        // As Thanos does; after a slip of the pen, or on a volume that is not mounted, the log is where one finds out.
        tracing::warn!(directory = %directory.display(), "the bucket's directory does not exist and is made");
    }
    let bucket = Bucket::open(&config, access)?;
    Ok(bucket.with_metrics(BucketMetrics::register(&context.metrics)))
}

/// What may be remembered of a bucket that is a directory, which the operating system remembers already: outcomes of matchers, which are small.
const MAX_OUTCOME_BYTES: u64 = 16 << 20;

/// What `--store.caching-bucket.config` and `--index-cache.*` say, checked; opened by [`CacheFlags::open`].
pub struct CacheFlags {
    bucket: Option<CachingConfig>,
    index: Option<IndexCacheConfig>,
}

impl CacheFlags {
    pub fn read(values: &Values, provider: &Provider) -> anyhow::Result<Self> {
        Self::parse(
            values.text_or_file("store.caching-bucket.config")?.as_deref(),
            values.text_or_file("index-cache.config")?.as_deref(),
            match values.bytes("index-cache-size") {
                0 => None,
                bytes if matches!(provider, Provider::Filesystem { .. }) => {
                    Some(IndexCacheConfig::of_outcomes(bytes.min(MAX_OUTCOME_BYTES)))
                }
                bytes => Some(IndexCacheConfig::in_memory(bytes)),
            },
        )
    }

    /// From the two documents. `default_index` is for the index where there is no document.
    pub fn parse(
        bucket: Option<&str>,
        index: Option<&str>,
        default_index: Option<IndexCacheConfig>,
    ) -> anyhow::Result<Self> {
        let bucket =
            bucket.map(CachingConfig::from_yaml).transpose().context("--store.caching-bucket.config")?;
        let index = match index {
            Some(yaml) => Some(IndexCacheConfig::from_yaml(yaml).context("--index-cache.config")?),
            None => default_index,
        };
        Ok(Self { bucket, index })
    }

    /// Needs a runtime.
    pub fn open(&self, context: &Context) -> Caches {
        let mut caches = Caches::default();
        if let Some(config) = &self.bucket {
            caches.bucket = BucketCaches::default().with_bucket_cache(config, &context.metrics);
        }
        caches.index = self.index.as_ref().map(|config| Arc::new(IndexCache::open(config, &context.metrics)));
        caches
    }
}
