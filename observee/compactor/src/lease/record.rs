//! What stands in a lease's object.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub(super) const VERSION: u32 = 1;

/// A lease as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) group: String,
    /// The token of whoever has it; empty: free.
    pub(super) owner: String,
    /// For people.
    pub(super) worker: String,
    pub(super) taken_ms: i64,
    pub(super) expires_ms: i64,
}

impl Record {
    /// `None` for what is not a lease of this version, which is left alone until it has been the same for long enough.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|record: &Self| record.version == VERSION)
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        // Texts and numbers always serialize.
        Bytes::from(serde_json::to_vec(self).unwrap_or_default())
    }
}
