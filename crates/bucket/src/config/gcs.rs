//! `type: GCS`: Thanos' keys. `use_grpc: true` is refused; `grpc_conn_pool_size` goes with it and has no effect.

use serde::Deserialize;

use super::http::{HttpConfig, HttpSection};
use super::s3::MAX_ATTEMPTS;
use super::{Secret, invalid};
use crate::BucketError;

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcsConfig {
    pub bucket: String,
    /// The JSON of a service account; empty: from `GOOGLE_APPLICATION_CREDENTIALS`, gcloud's file or the metadata server.
    pub service_account: Secret,
    /// Files larger than this go up in parts of this size.
    pub part_size_bytes: usize,
    /// Attempts in all.
    pub max_attempts: u32,
    pub http: HttpConfig,
}

/// The Go client's default.
const PART_SIZE_BYTES: u64 = 16 << 20;
const PART_SIZE_RANGE_BYTES: std::ops::RangeInclusive<u64> = (5 << 20)..=(512 << 20);

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct GcsSection {
    bucket: Option<String>,
    service_account: Option<String>,
    use_grpc: Option<bool>,
    http_config: Option<HttpSection>,
    chunk_size_bytes: Option<u64>,
    max_retries: Option<u32>,
}

impl GcsSection {
    pub(super) fn resolve(self) -> Result<GcsConfig, BucketError> {
        if self.use_grpc == Some(true) {
            return Err(invalid("use_grpc: true is not supported: leave the key out to use HTTP"));
        }
        let bucket = self.bucket.filter(|bucket| !bucket.is_empty());
        let wanted = self.chunk_size_bytes.filter(|bytes| *bytes > 0).unwrap_or(PART_SIZE_BYTES);
        // Smaller chunks are a wish for less memory; the store's smallest part is what comes nearest.
        let part = wanted.clamp(*PART_SIZE_RANGE_BYTES.start(), *PART_SIZE_RANGE_BYTES.end());
        Ok(GcsConfig {
            bucket: bucket.ok_or_else(|| invalid("type GCS needs config.bucket"))?,
            service_account: Secret::new(self.service_account.unwrap_or_default().trim()),
            part_size_bytes: usize::try_from(part).unwrap_or(usize::MAX),
            max_attempts: self.max_retries.filter(|count| *count > 0).unwrap_or(MAX_ATTEMPTS),
            http: self.http_config.unwrap_or_default().resolve()?,
        })
    }
}
