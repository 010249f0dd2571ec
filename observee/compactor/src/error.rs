//! What can stop a compaction, by subject, and what is to be done about it.

use std::path::PathBuf;

use parallax_block::{BlockError, BlockId};
use parallax_bucket::BucketError;
use parallax_tsdb::TsdbError;

/// Why blocks were not compacted, downsampled, marked or deleted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactError {
    /// An object of a block contradicts its format; the message has the object and the offset.
    #[error("block {block}: {source}")]
    Damaged { block: BlockId, source: TsdbError },

    /// Chunks of one series that overlap or are not in order of time.
    #[error("block {block}: {object} at byte {offset}: {reason}")]
    OutOfOrderChunks { block: BlockId, object: String, offset: u64, reason: String },

    /// A block that is whole, but is not what its `meta.json` says.
    #[error("block {block}: {reason}")]
    Contradicts { block: BlockId, reason: String },

    /// Blocks that may not be merged without vertical compaction.
    #[error("blocks {first} and {second} overlap in time, and vertical compaction is off")]
    Overlap { first: BlockId, second: BlockId },

    /// Two blocks that say they were made of the same block.
    #[error("blocks {first} and {second} both hold source {shared}, and vertical compaction is off")]
    SharedSource { first: BlockId, second: BlockId, shared: BlockId },

    /// Chunks of one series, of several blocks, that cannot become one.
    #[error("series {series}: {reason}")]
    Unmergeable { series: String, reason: String },

    /// What we wrote is not what it should be; it was not uploaded.
    #[error("the new block is not sound and was not uploaded: {reason}")]
    Output { reason: String },

    /// The index of the new block does not fit its format, or the limit. `largest` is the block with the largest index of those that it was to be made of.
    #[error("{reason}; block {largest} has the largest of the indexes that were merged")]
    IndexTooLarge { largest: BlockId, reason: String },

    /// A new block that its format does not take.
    #[error("the block made of {blocks} cannot be written: {source}")]
    Unwritable { blocks: String, source: TsdbError },

    /// The new block could not be written to the local disk.
    #[error("staging a block: {0}")]
    Staging(TsdbError),

    #[error("{path:?}: {source}")]
    File { path: PathBuf, source: std::io::Error },

    /// The bucket refused or failed.
    #[error("block {block}: {source}")]
    Bucket { block: BlockId, source: BucketError },

    #[error(transparent)]
    Block(#[from] BlockError),

    /// Somebody else has changed what a block was to be made of, or rest on.
    #[error("{blocks}: {reason}")]
    Overtaken { blocks: String, reason: String },

    /// Several compactors were to share a bucket that has no conditional writes.
    #[error(
        "the bucket cannot be shared by several compactors ({0}): run one, or give each a part of the groups with --shard"
    )]
    Unshareable(BucketError),

    /// Some blocks could not be asked for, so that nothing may be concluded from what is missing.
    #[error("the bucket did not answer for every block")]
    Incomplete,

    /// A thread of ours panicked; its message is on standard error. The same blocks would do it again.
    #[error("{what} ended in a defect of Parallax; please report it with the lines on standard error")]
    Defect { what: String },

    /// The process is shutting down.
    #[error("interrupted")]
    Interrupted,
}

/// What is to be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// It may go away by itself: try again at the next pass.
    Retry,
    /// It stays until the blocks change: set the group aside, and say so.
    Quarantine,
    /// Nothing is wrong.
    Stop,
}

impl CompactError {
    /// What is to be done.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Interrupted => Remedy::Stop,
            Self::Damaged { .. }
            | Self::OutOfOrderChunks { .. }
            | Self::Contradicts { .. }
            | Self::Overlap { .. }
            | Self::SharedSource { .. }
            | Self::Unmergeable { .. }
            | Self::IndexTooLarge { .. }
            | Self::Unwritable { .. }
            | Self::Output { .. }
            | Self::Defect { .. } => Remedy::Quarantine,
            // A block whose object is gone will not come back by asking again.
            Self::Bucket { source, .. } if source.is_not_found() => Remedy::Quarantine,
            Self::Block(
                BlockError::Damaged { .. } | BlockError::Meta { .. } | BlockError::NoExternalLabels { .. },
            ) => Remedy::Quarantine,
            Self::Incomplete
            | Self::Overtaken { .. }
            | Self::Unshareable(_)
            | Self::Staging(_)
            | Self::File { .. }
            | Self::Bucket { .. }
            | Self::Block(_) => Remedy::Retry,
        }
    }

    /// The one block that is to blame, if it is one.
    pub fn block(&self) -> Option<BlockId> {
        match self {
            Self::Damaged { block, .. }
            | Self::OutOfOrderChunks { block, .. }
            | Self::Contradicts { block, .. }
            | Self::IndexTooLarge { largest: block, .. }
            | Self::Bucket { block, .. } => Some(*block),
            _ => None,
        }
    }
}
