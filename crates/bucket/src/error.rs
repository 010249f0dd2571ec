//! What can go wrong with a bucket, by subject; [`BucketError::is_not_found`] and [`BucketError::is_retryable`]
//! say what the caller can do about it.

use std::path::PathBuf;

/// Why a bucket could not be configured, opened or used. Every message names its subject.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The objstore YAML does not parse.
    #[error("objstore configuration{}: {reason}", at_line(.line))]
    Config { line: Option<u64>, reason: String },

    /// A key that this kind of bucket does not have.
    #[error("objstore configuration{}: unknown key {key:?}{}", at_line(.line), use_instead(.instead))]
    UnknownKey { key: String, line: Option<u64>, instead: Option<&'static str> },

    /// A kind of bucket that Thanos knows and this version does not read.
    #[error(
        "objstore configuration: type {provider} is not supported: this version reads FILESYSTEM buckets only"
    )]
    Unsupported { provider: &'static str },

    #[error("bucket directory {directory:?} does not exist")]
    MissingDirectory { directory: PathBuf },

    #[error("bucket directory {directory:?}: {source}")]
    Directory { directory: PathBuf, source: std::io::Error },

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

    /// A local file that should have been uploaded.
    #[error("file {path:?}: {source}")]
    LocalFile { path: PathBuf, source: std::io::Error },

    #[error("bucket operation {operation} on {object:?}: {source}")]
    Store { operation: &'static str, object: String, source: Box<object_store::Error> },
}

impl BucketError {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store { source, .. } => crate::retry::is_transient(source),
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
