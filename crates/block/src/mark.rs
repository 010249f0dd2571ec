//! Marks: small objects beside a block's `meta.json` that say what shall, or shall not, be done with it.
//!
//! Source: Thanos `pkg/block/metadata/markers.go`. An existing mark is never overwritten by whoever places one.

use bytes::Bytes;
use parallax_bucket::Bucket;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::meta::to_go_json;
use crate::{BlockError, BlockId};

/// No mark is larger.
const MAX_MARK_BYTES: u64 = 64 << 10;

const MARK_VERSION: u32 = 1;

/// A kind of mark.
pub trait Mark: DeserializeOwned + Serialize {
    const FILE_NAME: &'static str;

    fn version(&self) -> u32;
}

/// The block is to be deleted once the mark is old enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletionMark {
    pub id: BlockId,
    pub version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    /// Seconds since the epoch.
    #[serde(rename = "deletion_time")]
    pub deletion_time_s: i64,
}

/// The block is not to be compacted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoCompactMark {
    pub id: BlockId,
    pub version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    #[serde(rename = "no_compact_time")]
    pub no_compact_time_s: i64,
    pub reason: String,
}

/// The block is not to be downsampled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDownsampleMark {
    pub id: BlockId,
    pub version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
    #[serde(rename = "no_downsample_time")]
    pub no_downsample_time_s: i64,
    pub reason: String,
}

impl Mark for DeletionMark {
    const FILE_NAME: &'static str = "deletion-mark.json";

    fn version(&self) -> u32 {
        self.version
    }
}

impl Mark for NoCompactMark {
    const FILE_NAME: &'static str = "no-compact-mark.json";

    fn version(&self) -> u32 {
        self.version
    }
}

impl Mark for NoDownsampleMark {
    const FILE_NAME: &'static str = "no-downsample-mark.json";

    fn version(&self) -> u32 {
        self.version
    }
}

/// A block's mark of kind `M`, if it has one.
///
/// # Errors
/// [`BlockError::Mark`] if it does not parse or has an unknown version, which a reader treats as no mark but reports;
/// [`BlockError::Bucket`] if the bucket could not tell.
pub async fn read_mark<M: Mark>(bucket: &Bucket, block: BlockId) -> Result<Option<M>, BlockError> {
    let error = |reason: String| BlockError::Mark { block, file: M::FILE_NAME, reason };
    let json = match bucket.get(&block.object(M::FILE_NAME), MAX_MARK_BYTES).await {
        Ok(json) => json,
        Err(source) if source.is_not_found() => return Ok(None),
        Err(source @ parallax_bucket::BucketError::TooLarge { .. }) => return Err(error(source.to_string())),
        Err(source) => return Err(BlockError::Bucket { block, source }),
    };
    parse_mark(&json).map(Some).map_err(error)
}

/// A mark of a version that we know, or why it is none.
pub(crate) fn parse_mark<M: Mark>(json: &[u8]) -> Result<M, String> {
    let mark: M = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match mark.version() {
        MARK_VERSION => Ok(mark),
        version => Err(format!("version {version} is not supported")),
    }
}

/// Places a mark unless the block has one of its kind; says whether it did.
pub async fn place_mark<M: Mark>(bucket: &Bucket, block: BlockId, mark: &M) -> Result<bool, BlockError> {
    let object = block.object(M::FILE_NAME);
    let in_bucket = |source| BlockError::Bucket { block, source };
    if bucket.exists(&object).await.map_err(in_bucket)? {
        return Ok(false);
    }
    let json = to_go_json(mark).map_err(|error| BlockError::Mark {
        block,
        file: M::FILE_NAME,
        reason: error.to_string(),
    })?;
    bucket.put(&object, Bytes::from(json)).await.map_err(in_bucket)?;
    Ok(true)
}
