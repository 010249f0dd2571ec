//! What can go wrong with a bucket, by subject; [`BucketError::is_not_found`] and [`BucketError::is_retryable`]
//! say what the caller can do about it.

use std::path::PathBuf;

/// Why a bucket could not be configured, opened or used. Every message names its subject.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The objstore YAML does not parse, or its values do not fit together.
    #[error("objstore configuration{}: {reason}", at_line(.line))]
    Config { line: Option<u64>, reason: String },

    /// A key that this kind of bucket does not have.
    #[error("objstore configuration{}: unknown key {key:?}{}", at_line(.line), use_instead(.instead))]
    UnknownKey { key: String, line: Option<u64>, instead: Option<&'static str> },

    /// A kind of bucket that Thanos knows and this version does not read.
    #[error(
        "objstore configuration: type {provider} is not supported: this version reads FILESYSTEM, S3, GCS and AZURE"
    )]
    Unsupported { provider: &'static str },

    #[error("bucket directory {directory:?} does not exist")]
    MissingDirectory { directory: PathBuf },

    #[error("bucket directory {directory:?}: {source}")]
    Directory { directory: PathBuf, source: std::io::Error },

    /// The store is there and the bucket is not.
    #[error(
        "bucket {bucket} does not exist: make it, or correct its name, region or endpoint in --objstore.config"
    )]
    MissingBucket { bucket: String },

    /// The store knows who asks and says no, or does not know who asks.
    #[error("bucket {bucket}: {operation} of {object:?} was refused: {reason}")]
    Denied { bucket: String, operation: &'static str, object: String, reason: String },

    /// A name that cannot be an object of this bucket, such as one that climbs out of it.
    #[error("object name {object:?} is not valid: {reason}")]
    InvalidName { object: String, reason: String },

    #[error("object {object} does not exist in the bucket")]
    NotFound { object: String },

    #[error("object {object} has {size_bytes} bytes, more than the limit of {limit_bytes}")]
    TooLarge { object: String, size_bytes: u64, limit_bytes: u64 },

    /// A range that begins at or after the end of the object, or is empty.
    #[error("object {object}: range {start}..{end} is not within its {size_bytes} bytes")]
    Range { object: String, start: u64, end: u64, size_bytes: u64 },

    /// The store announced more or fewer bytes than it sent.
    #[error("object {object}: {got_bytes} bytes came where the store announced {wanted_bytes}")]
    WrongLength { object: String, wanted_bytes: u64, got_bytes: u64 },

    /// What a conditional write demanded does not hold: the object exists, or somebody else has changed it.
    #[error("object {object} was not written: {reason}")]
    Condition { object: String, reason: &'static str },

    /// A conditional write whose outcome is not known: whoever sent it has to read what is there now, and must not take it for another's.
    #[error("object {object} may have been written, or not: {reason}; read it to find out")]
    Uncertain { object: String, reason: String },

    /// A conditional write to a store that has none of that kind.
    #[error(
        "bucket {bucket} cannot {what}: this needs a store with conditional writes, such as S3, GCS or AZURE"
    )]
    Unconditional { bucket: String, what: &'static str },

    /// A local file that should have been uploaded.
    #[error("file {path:?}: {source}")]
    LocalFile { path: PathBuf, source: std::io::Error },

    #[error("bucket {bucket}: {operation} of {object:?}: {}", crate::explain::brief(.source))]
    Store { bucket: String, operation: &'static str, object: String, source: Box<object_store::Error> },
}

impl BucketError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether somebody else wrote the object first.
    pub fn is_condition(&self) -> bool {
        matches!(self, Self::Condition { .. })
    }

    /// Whether a conditional write may have been done all the same.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Uncertain { .. })
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store { source, .. } => crate::retry::is_transient(source),
            Self::WrongLength { .. } => true,
            _ => false,
        }
    }
}

fn at_line(line: &Option<u64>) -> String {
    line.map(|line| format!(" line {line}")).unwrap_or_default()
}

fn use_instead(instead: &Option<&'static str>) -> String {
    instead.map(|key| format!("; use {key} instead")).unwrap_or_default()
}
