//! What a list of the bucket says of each block: whether it is whole, and which marks it has.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use parallax_bucket::{Bucket, BucketError, ObjectInfo};

use crate::BlockId;
use crate::mark::{DeletionMark, Mark};
use crate::meta::META_FILE_NAME;

/// When an object was written, in milliseconds since the epoch by the store's clock.
pub(super) type WrittenMs = i64;

/// The objects of one block, by a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    pub meta: Option<WrittenMs>,
    pub deletion_mark: Option<WrittenMs>,
    pub objects: u32,
}

/// What a list says, by block. Whatever is no block's is passed over.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub blocks: BTreeMap<BlockId, Listed>,
}

impl Listing {
    /// Everything behind the name `after`, or everything.
    pub async fn read(bucket: &Bucket, after: &str) -> Result<Self, BucketError> {
        let mut listing = Self::default();
        bucket.scan(after, |object| listing.take(&object)).await?;
        Ok(listing)
    }

    fn take(&mut self, object: &ObjectInfo) {
        let Some((directory, file)) = object.name.split_once('/') else { return };
        let Ok(block) = directory.parse::<BlockId>() else { return };
        let listed = self.blocks.entry(block).or_default();
        listed.objects = listed.objects.saturating_add(1);
        let since = object.last_modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let written_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        if file == META_FILE_NAME {
            listed.meta = Some(written_ms);
        } else if file == DeletionMark::FILE_NAME {
            listed.deletion_mark = Some(written_ms);
        }
    }
}
