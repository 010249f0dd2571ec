//! `type: S3`: Thanos' keys, and what each of them comes to.
//!
//! Accepted without effect, because there is nothing to change: `disable_dualstack` (the endpoint is used as written), `send_content_md5`
//! (every upload is signed with its SHA-256), `trace` (requests are logged at debug level). Refused with what to do: `signature_version2:
//! true`, `list_objects_version: v1`, `disable_multipart: true`, `sse_config.kms_encryption_context`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::http::{HttpConfig, HttpSection};
use super::{Secret, invalid};
use crate::BucketError;

/// An S3 bucket, or one of a store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    /// `host` or `host:port`.
    pub endpoint: String,
    /// Empty: taken from an Amazon endpoint, else from the environment, else `us-east-1`.
    pub region: String,
    /// HTTP instead of HTTPS.
    pub insecure: bool,
    /// `None`: from the environment, a shared file or the machine's role.
    pub keys: Option<AccessKeys>,
    /// The order of the AWS SDK when looking for credentials: a web identity goes before shared files.
    pub aws_sdk_auth: bool,
    /// Where web identity tokens are exchanged; empty for the region's own.
    pub sts_endpoint: String,
    pub lookup: BucketLookup,
    pub encryption: Encryption,
    /// Headers of every upload, by the name as written.
    pub put_user_metadata: BTreeMap<String, String>,
    /// Files larger than this go up in parts of this size.
    pub part_size_bytes: usize,
    /// Attempts in all.
    pub max_attempts: u32,
    pub http: HttpConfig,
}

/// Keys from the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKeys {
    pub access_key: String,
    pub secret_key: Secret,
    pub session_token: Secret,
}

/// Where the bucket's name stands in a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketLookup {
    /// In the host for the stores known to want it, else in the path.
    Auto,
    VirtualHosted,
    Path,
}

/// `sse_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    None,
    /// With the store's own keys.
    S3,
    Kms {
        key_id: String,
    },
    /// With our key: 32 bytes in a file.
    Customer {
        key_file: PathBuf,
    },
}

/// Thanos' default.
const PART_SIZE_BYTES: u64 = 64 << 20;
/// What S3 allows: 5 MiB to 5 GiB. Each part is held in memory once, so the upper end here is lower.
const PART_SIZE_RANGE_BYTES: std::ops::RangeInclusive<u64> = (5 << 20)..=(512 << 20);
/// When `max_retries` is 0 or absent.
pub(super) const MAX_ATTEMPTS: u32 = 6;

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct S3Section {
    bucket: Option<String>,
    endpoint: Option<String>,
    region: Option<String>,
    aws_sdk_auth: Option<bool>,
    access_key: Option<String>,
    secret_key: Option<String>,
    session_token: Option<String>,
    insecure: Option<bool>,
    signature_version2: Option<bool>,
    put_user_metadata: Option<BTreeMap<String, String>>,
    http_config: Option<HttpSection>,
    list_objects_version: Option<String>,
    bucket_lookup_type: Option<String>,
    disable_multipart: Option<bool>,
    part_size: Option<u64>,
    sse_config: Option<SseSection>,
    sts_endpoint: Option<String>,
    max_retries: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SseSection {
    #[serde(rename = "type")]
    kind: Option<String>,
    kms_key_id: Option<String>,
    kms_encryption_context: Option<BTreeMap<String, String>>,
    encryption_key: Option<String>,
}

impl S3Section {
    pub(super) fn resolve(self) -> Result<S3Config, BucketError> {
        self.refuse()?;
        let keys = keys(
            self.access_key.unwrap_or_default(),
            self.secret_key.unwrap_or_default(),
            self.session_token.unwrap_or_default(),
        )?;
        let aws_sdk_auth = self.aws_sdk_auth.unwrap_or(false);
        if aws_sdk_auth && keys.is_some() {
            return Err(invalid("aws_sdk_auth and access_key exclude each other: leave one out"));
        }
        let insecure = self.insecure.unwrap_or(false);
        let encryption = self.sse_config.unwrap_or_default().resolve()?;
        if insecure && matches!(encryption, Encryption::Customer { .. }) {
            return Err(invalid(
                "sse_config.type SSE-C sends its key with every request: insecure must be false",
            ));
        }
        Ok(S3Config {
            bucket: bucket_name(self.bucket.unwrap_or_default())?,
            endpoint: endpoint(self.endpoint.unwrap_or_default())?,
            region: self.region.unwrap_or_default(),
            insecure,
            keys,
            aws_sdk_auth,
            sts_endpoint: self.sts_endpoint.unwrap_or_default(),
            lookup: lookup(&self.bucket_lookup_type.unwrap_or_default())?,
            encryption,
            put_user_metadata: self.put_user_metadata.unwrap_or_default(),
            part_size_bytes: part_size(self.part_size.unwrap_or(0))?,
            max_attempts: self.max_retries.filter(|count| *count > 0).unwrap_or(MAX_ATTEMPTS),
            http: self.http_config.unwrap_or_default().resolve()?,
        })
    }

    fn refuse(&self) -> Result<(), BucketError> {
        if self.signature_version2 == Some(true) {
            return Err(invalid(
                "signature_version2: true is not supported: requests are signed with version 4 only; leave the key out",
            ));
        }
        if self.disable_multipart == Some(true) {
            return Err(invalid(
                "disable_multipart: true is not supported: it would hold whole files in memory; raise part_size if the store \
                 wants few parts",
            ));
        }
        match self.list_objects_version.as_deref() {
            None | Some("" | "v2") => Ok(()),
            Some("v1") => Err(invalid(
                "list_objects_version: v1 is not supported: the store has to know ListObjectsV2; leave the key out",
            )),
            Some(other) => Err(invalid(&format!("list_objects_version {other:?} is not one of v1, v2"))),
        }
    }
}

impl SseSection {
    fn resolve(self) -> Result<Encryption, BucketError> {
        if self.kms_encryption_context.is_some_and(|context| !context.is_empty()) {
            return Err(invalid(
                "sse_config.kms_encryption_context is not supported: leave it out, and the store uses the object's name",
            ));
        }
        let text = |value: Option<String>| value.filter(|value| !value.is_empty());
        match self.kind.unwrap_or_default().as_str() {
            "" => Ok(Encryption::None),
            "SSE-S3" => Ok(Encryption::S3),
            "SSE-KMS" => {
                let key_id = text(self.kms_key_id)
                    .ok_or_else(|| invalid("sse_config.type SSE-KMS needs sse_config.kms_key_id"))?;
                Ok(Encryption::Kms { key_id })
            }
            "SSE-C" => {
                let file = text(self.encryption_key).ok_or_else(|| {
                    invalid("sse_config.type SSE-C needs sse_config.encryption_key, the path of a file")
                })?;
                Ok(Encryption::Customer { key_file: file.into() })
            }
            other => Err(invalid(&format!("sse_config.type {other:?} is not one of SSE-S3, SSE-KMS, SSE-C"))),
        }
    }
}

fn bucket_name(name: String) -> Result<String, BucketError> {
    if name.is_empty() {
        return Err(invalid("type S3 needs config.bucket"));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.len() > 255 || !name.chars().all(fits) {
        return Err(invalid(&format!("bucket {name:?} cannot be the name of an S3 bucket")));
    }
    Ok(name)
}

fn endpoint(endpoint: String) -> Result<String, BucketError> {
    if endpoint.is_empty() {
        return Err(invalid("type S3 needs config.endpoint, such as s3.eu-west-1.amazonaws.com"));
    }
    if let Some((scheme, host)) = endpoint.split_once("://") {
        let host = host.trim_end_matches('/');
        let hint = if scheme == "http" { ", with insecure: true" } else { "" };
        return Err(invalid(&format!("endpoint {endpoint:?} has a scheme: write endpoint: {host}{hint}")));
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if !endpoint.chars().all(fits) {
        return Err(invalid(&format!("endpoint {endpoint:?} is not host or host:port")));
    }
    Ok(endpoint)
}

fn keys(
    access_key: String,
    secret_key: String,
    session_token: String,
) -> Result<Option<AccessKeys>, BucketError> {
    match (access_key.is_empty(), secret_key.is_empty()) {
        (true, true) => Ok(None),
        (true, false) => {
            Err(invalid("secret_key is set without access_key: give both, or neither to use the environment"))
        }
        (false, true) => {
            Err(invalid("access_key is set without secret_key: give both, or neither to use the environment"))
        }
        (false, false) => Ok(Some(AccessKeys {
            access_key,
            secret_key: Secret::new(secret_key),
            session_token: Secret::new(session_token),
        })),
    }
}

fn lookup(text: &str) -> Result<BucketLookup, BucketError> {
    match text {
        "" | "auto" => Ok(BucketLookup::Auto),
        "virtual-hosted" => Ok(BucketLookup::VirtualHosted),
        "path" => Ok(BucketLookup::Path),
        other => {
            Err(invalid(&format!("bucket_lookup_type {other:?} is not one of auto, virtual-hosted, path")))
        }
    }
}

fn part_size(bytes: u64) -> Result<usize, BucketError> {
    let bytes = if bytes == 0 { PART_SIZE_BYTES } else { bytes };
    if !PART_SIZE_RANGE_BYTES.contains(&bytes) {
        let (least, most) = (PART_SIZE_RANGE_BYTES.start(), PART_SIZE_RANGE_BYTES.end());
        return Err(invalid(&format!("part_size {bytes} is not between {least} and {most} bytes")));
    }
    usize::try_from(bytes).map_err(|_| invalid("part_size does not fit this machine"))
}
