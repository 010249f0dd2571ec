//! What can go wrong with a block, always naming it.

use std::path::PathBuf;

use parallax_bucket::BucketError;
use parallax_tsdb::error::TsdbError;

use crate::BlockId;

#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("{text:?} is no block: a block is named by a ULID")]
    NoBlockId { text: String },

    /// `meta.json` that is not what the format says.
    #[error("block {block}: meta.json: {reason}")]
    Meta { block: String, reason: String },

    /// A mark of a version that we do not know, or one that does not parse.
    #[error("block {block}: {file}: {reason}")]
    Mark { block: BlockId, file: &'static str, reason: String },

    /// Uploading a block that could not be told from another cluster's.
    #[error("block {block} has no external labels and cannot be uploaded")]
    NoExternalLabels { block: BlockId },

    #[error("block directory {directory:?}: {reason}")]
    Directory { directory: PathBuf, reason: String },

    #[error("{path:?}: {source}")]
    File { path: PathBuf, source: std::io::Error },

    #[error("block {block}: {source}")]
    Bucket { block: BlockId, source: BucketError },

    /// The bucket as a whole.
    #[error(transparent)]
    List(BucketError),

    #[error("block {block}: {source}")]
    Damaged { block: String, source: TsdbError },

    /// A catalog, in the bucket or kept beside the data, that is not what the format says.
    #[error("catalog of blocks: {reason}")]
    Catalog { reason: String },

    /// Relabel rules that cannot choose blocks.
    #[error("selector relabel configuration: {reason}")]
    Selector { reason: String },

    /// A background task ended early: the process is shutting down.
    #[error("block {block}: interrupted")]
    Interrupted { block: String },
}
