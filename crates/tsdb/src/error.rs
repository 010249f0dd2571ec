//! The one error type of this crate: what was read or written, where in it, and what is wrong.
//!
//! Damage in stored bytes never goes away by itself, so nothing here is worth a retry but [`TsdbError::Io`], and there it
//! depends on its source. Whoever calls with a file or an object in hand names it once, in `what`.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// Why bytes of a block cannot be read, or may not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TsdbError {
    /// The bytes contradict their format.
    #[error("{what} is corrupt at byte {offset}: {reason}")]
    Corrupt { what: Box<str>, offset: u64, reason: Cow<'static, str> },

    /// The bytes stop before the value that starts at `offset` is complete.
    #[error("{what} is truncated: {missing_bytes} more bytes are needed for what starts at byte {offset}")]
    Truncated { what: Box<str>, offset: u64, missing_bytes: u64 },

    /// A stored checksum (CRC32C) differs from the one of the bytes that it covers.
    #[error(
        "{what} has a wrong checksum at byte {offset}: {stored:08x} is stored, the bytes give {computed:08x}"
    )]
    Checksum { what: Box<str>, offset: u64, stored: u32, computed: u32 },

    /// A version, an encoding or a schema that we do not know: whole and perhaps valid, but not for us.
    #[error("{what} at byte {offset}: {kind} {value} is not supported")]
    Unsupported { what: Box<str>, offset: u64, kind: &'static str, value: i64 },

    /// A reference that points to nothing, such as a chunk of a segment that is not there.
    #[error("{what} has no {wanted}")]
    NotFound { what: Box<str>, wanted: Cow<'static, str> },

    /// A writer was called in an order that the format does not allow.
    #[error("{what} is written out of order: {reason}")]
    OutOfOrder { what: Box<str>, reason: Cow<'static, str> },

    /// A writer was handed a value that the format cannot hold.
    #[error("{what} cannot hold this: {reason}")]
    Invalid { what: Box<str>, reason: Cow<'static, str> },

    /// What is written would exceed the format's limit, or the one that the caller set.
    #[error("{what} would be too large: {reason}")]
    TooLarge { what: Box<str>, reason: Cow<'static, str> },

    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl TsdbError {
    pub fn corrupt(what: &str, offset: u64, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Corrupt { what: what.into(), offset, reason: reason.into() }
    }

    pub fn truncated(what: &str, offset: u64, missing_bytes: u64) -> Self {
        Self::Truncated { what: what.into(), offset, missing_bytes }
    }

    pub fn unsupported(what: &str, offset: u64, kind: &'static str, value: impl Into<i64>) -> Self {
        Self::Unsupported { what: what.into(), offset, kind, value: value.into() }
    }

    pub fn not_found(what: &str, wanted: impl Into<Cow<'static, str>>) -> Self {
        Self::NotFound { what: what.into(), wanted: wanted.into() }
    }

    pub fn out_of_order(what: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::OutOfOrder { what: what.into(), reason: reason.into() }
    }

    pub fn invalid(what: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    pub fn too_large(what: &str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::TooLarge { what: what.into(), reason: reason.into() }
    }

    /// For `map_err`: an [`io::Error`] together with the path that it is about.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.to_owned(), source }
    }

    /// Whether stored bytes are damaged (rather than unknown to us, misused or unreachable).
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Truncated { .. } | Self::Checksum { .. })
    }
}
