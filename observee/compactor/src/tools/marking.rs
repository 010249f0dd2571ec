//! Marks by hand.

use std::str::FromStr;

use parallax_block::mark::{Mark, place_mark};
use parallax_block::{BlockError, BlockId, DeletionMark, NoCompactMark, NoDownsampleMark};
use parallax_bucket::Bucket;
use serde::Serialize;

/// The reason of a mark that somebody places.
const MANUAL: &str = "manual";

/// A kind of mark, named by its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkKind {
    Deletion,
    NoCompact,
    NoDownsample,
}

impl MarkKind {
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Deletion => DeletionMark::FILE_NAME,
            Self::NoCompact => NoCompactMark::FILE_NAME,
            Self::NoDownsample => NoDownsampleMark::FILE_NAME,
        }
    }
}

impl FromStr for MarkKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Deletion, Self::NoCompact, Self::NoDownsample];
        let names = all.map(Self::file_name).join(", ");
        let found = all.into_iter().find(|kind| kind.file_name() == text);
        found.ok_or_else(|| format!("{text:?} is no mark: there are {names}"))
    }
}

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Marked {
    Placed,
    /// A mark is never overwritten.
    ThereAlready,
    Removed,
    NotThere,
    /// There is no such block.
    NoBlock,
}

/// Places a mark; with `dry_run` only says what would become of it.
///
/// # Errors
/// If the bucket refused or failed.
pub async fn mark_by_hand(
    bucket: &Bucket,
    block: BlockId,
    kind: MarkKind,
    details: &str,
    now_ms: i64,
    dry_run: bool,
) -> Result<Marked, BlockError> {
    let exists = |object: String| async move {
        bucket.exists(&object).await.map_err(|source| BlockError::Bucket { block, source })
    };
    if !exists(block.meta_object()).await? {
        return Ok(Marked::NoBlock);
    }
    if dry_run {
        let is_there = exists(block.object(kind.file_name())).await?;
        return Ok(if is_there { Marked::ThereAlready } else { Marked::Placed });
    }
    let (version, details, time_s) = (1, details.to_owned(), now_ms / 1000);
    let reason = MANUAL.to_owned();
    let placed = match kind {
        MarkKind::Deletion => {
            let mark = DeletionMark { id: block, version, details, deletion_time_s: time_s };
            place_mark(bucket, block, &mark).await?
        }
        MarkKind::NoCompact => {
            let mark = NoCompactMark { id: block, version, details, no_compact_time_s: time_s, reason };
            place_mark(bucket, block, &mark).await?
        }
        MarkKind::NoDownsample => {
            let mark = NoDownsampleMark { id: block, version, details, no_downsample_time_s: time_s, reason };
            place_mark(bucket, block, &mark).await?
        }
    };
    Ok(if placed { Marked::Placed } else { Marked::ThereAlready })
}

/// Takes a mark away; with `dry_run` only says whether there is one.
///
/// # Errors
/// If the bucket refused or failed.
pub async fn unmark_by_hand(
    bucket: &Bucket,
    block: BlockId,
    kind: MarkKind,
    dry_run: bool,
) -> Result<Marked, BlockError> {
    let object = block.object(kind.file_name());
    let in_bucket = |source| BlockError::Bucket { block, source };
    if !bucket.exists(&object).await.map_err(in_bucket)? {
        return Ok(Marked::NotThere);
    }
    if !dry_run {
        bucket.delete(&object).await.map_err(in_bucket)?;
    }
    Ok(Marked::Removed)
}
