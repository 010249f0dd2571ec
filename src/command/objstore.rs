//! The bucket of `--objstore.config` or `--objstore.config-file`.

use anyhow::Context as _;
use parallax_bucket::{
    Access, Bucket, BucketCaches, BucketConfig, BucketMetrics, CachingConfig, IndexCacheConfig, Provider,
};
use parallax_net::Context;

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

/// What `--store.caching-bucket.config` and `--index-cache.*` say, checked; opened by [`CacheFlags::open`].
pub struct CacheFlags {
    bucket: Option<CachingConfig>,
    index: Option<IndexCacheConfig>,
}

impl CacheFlags {
    pub fn read(values: &Values, provider: &Provider) -> anyhow::Result<Self> {
        let bucket = match values.text_or_file("store.caching-bucket.config")? {
            None => None,
            Some(yaml) => Some(CachingConfig::from_yaml(&yaml).context("--store.caching-bucket.config")?),
        };
        let size_bytes = values.bytes("index-cache-size");
        let is_local = matches!(provider, Provider::Filesystem { .. });
        let index = match values.text_or_file("index-cache.config")? {
            Some(yaml) => Some(IndexCacheConfig::from_yaml(&yaml).context("--index-cache.config")?),
            // The operating system remembers local files already.
            None if is_local || size_bytes == 0 => None,
            None => Some(IndexCacheConfig::in_memory(size_bytes)),
        };
        Ok(Self { bucket, index })
    }

    /// Needs a runtime.
    pub fn open(&self, context: &Context) -> BucketCaches {
        let mut caches = BucketCaches::default();
        if let Some(config) = &self.bucket {
            caches = caches.with_bucket_cache(config, &context.metrics);
        }
        if let Some(config) = &self.index {
            caches = caches.with_index_cache(config, &context.metrics);
        }
        caches
    }
}
