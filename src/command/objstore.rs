//! The bucket of `--objstore.config` or `--objstore.config-file`.

use anyhow::Context as _;
use parallax_bucket::{Access, Bucket, BucketConfig, BucketMetrics};
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
    let bucket = Bucket::open(&BucketConfig::from_yaml(yaml)?, access)?;
    Ok(bucket.with_metrics(BucketMetrics::register(&context.metrics)))
}
