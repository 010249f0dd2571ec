//! Deleting a block from a bucket, in an order that leaves nothing visible behind.
//!
//! `meta.json` goes first, so that nobody begins to read what is going; the deletion mark goes last, so that whoever finds the rest after a crash knows
//! that it was meant to go. Source: Thanos `pkg/block/block.go` (Delete).
//!
//! A block without `meta.json` may be one that somebody is still at. It is looked at right before it is deleted ([`PartialBlock`]), and a `meta.json` is never
//! among what goes.

use std::time::UNIX_EPOCH;

use parallax_bucket::{Bucket, ObjectInfo};

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

/// What the bucket has of a block that had no `meta.json` when it was last looked for.
#[derive(Debug)]
pub enum PartialBlock {
    /// Nothing any more.
    Gone,
    /// It has its `meta.json` by now.
    Whole,
    /// Somebody may still be at it.
    Young,
    GivenUp(GivenUp),
}

/// The objects of an upload that was given up.
#[derive(Debug)]
pub struct GivenUp {
    block: BlockId,
    objects: Vec<String>,
}

impl PartialBlock {
    /// Looks at a block; it was given up if nothing of it was written at `since_ms` (milliseconds since the epoch) or later.
    ///
    /// # Errors
    /// If the bucket cannot list the block.
    pub async fn look(bucket: &Bucket, block: BlockId, since_ms: i64) -> Result<Self, BlockError> {
        let found = bucket.list(&block.to_string(), MAX_OBJECTS).await;
        let found = found.map_err(|source| BlockError::Bucket { block, source })?;
        let meta = block.object(META_FILE_NAME);
        let written_ms = |object: &ObjectInfo| {
            let since = object.last_modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        };
        if found.iter().any(|object| object.name == meta) {
            return Ok(Self::Whole);
        }
        Ok(match found.iter().map(written_ms).max() {
            None => Self::Gone,
            Some(newest_ms) if newest_ms >= since_ms => Self::Young,
            Some(_) => {
                let objects = found.into_iter().map(|object| object.name).collect();
                Self::GivenUp(GivenUp { block, objects })
            }
        })
    }
}

impl GivenUp {
    /// Deletes what was seen, and nothing that has come since: to be called at once, for whoever uploads the block anew writes to the same names.
    ///
    /// # Errors
    /// If an object cannot be deleted; then some may be gone.
    pub async fn delete(self, bucket: &Bucket) -> Result<(), BlockError> {
        let Self { block, objects } = self;
        for object in objects {
            bucket.delete(&object).await.map_err(|source| BlockError::Bucket { block, source })?;
        }
        Ok(())
    }
}
