//! Deleting a block from a bucket, in an order that leaves nothing visible behind.
//!
//! `meta.json` goes first, so that nobody begins to read what is going; the deletion mark goes last, so that whoever finds the rest after a crash knows
//! that it was meant to go. Source: Thanos `pkg/block/block.go` (Delete).

use parallax_bucket::Bucket;

use crate::mark::Mark;
use crate::meta::META_FILE_NAME;
use crate::{BlockError, BlockId, DeletionMark};

/// A block has at most this many objects.
const MAX_OBJECTS: usize = 200_000;

/// Deletes all objects of a block. What is missing is no error: a deletion may be finished by somebody else.
pub async fn delete_block(bucket: &Bucket, block: BlockId) -> Result<(), BlockError> {
    let in_bucket = |source| BlockError::Bucket { block, source };
    let (meta, mark) = (block.object(META_FILE_NAME), block.object(DeletionMark::FILE_NAME));
    bucket.delete(&meta).await.map_err(in_bucket)?;
    for object in bucket.list(&block.to_string(), MAX_OBJECTS).await.map_err(in_bucket)? {
        if object.name != mark && object.name != meta {
            bucket.delete(&object.name).await.map_err(in_bucket)?;
        }
    }
    bucket.delete(&mark).await.map_err(in_bucket)
}

/// When the newest object of a block was written, in milliseconds since the epoch; `None` if there are no objects.
pub async fn last_written_ms(bucket: &Bucket, block: BlockId) -> Result<Option<i64>, BlockError> {
    let objects = bucket.list(&block.to_string(), MAX_OBJECTS).await;
    let objects = objects.map_err(|source| BlockError::Bucket { block, source })?;
    let written = objects.iter().map(|object| {
        let since = object.last_modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    });
    Ok(written.max())
}
