//! The bucket of `--objstore.config` or `--objstore.config-file`.

use anyhow::Context as _;
use parallax_bucket::{Access, Bucket, BucketConfig, BucketMetrics, Provider};
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
