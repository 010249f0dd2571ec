//! Why a gateway does not start, and why a block could not answer.

use std::path::PathBuf;
use std::sync::Arc;

use parallax_block::{BlockError, BlockId};
use parallax_bucket::BucketError;
use parallax_tsdb::TsdbError;
use tonic::Status;

/// Why a gateway does not start, or a sync fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("data directory {directory:?}: {source}")]
    DataDir { directory: PathBuf, source: std::io::Error },
    #[error("sync of the block list: {0}")]
    Sync(#[from] BlockError),
}

/// Why a block, or a piece of it, is missing from an answer.
#[derive(Debug, thiserror::Error)]
pub enum BlockFailure {
    #[error("block {block}: {source}")]
    Bucket { block: BlockId, source: BucketError },
    /// The message of `source` names the object and the offset.
    #[error("block {block}: {source}")]
    Damaged { block: BlockId, source: TsdbError },
    #[error("block {block}: index-header {path:?}: {source}")]
    Header { block: BlockId, path: PathBuf, source: std::io::Error },
    /// What the load of the index-header came to, which several calls waited for.
    #[error("{0}")]
    Load(Arc<BlockFailure>),
    /// An earlier attempt at the index-header failed, and it is too soon for another.
    #[error("{reason}")]
    Repeated { reason: String },
    /// Not of this block: a limit of the request, which ends the whole of it.
    #[error("{}", .0.message())]
    Limit(Status),
    #[error("block {block}: interrupted")]
    Interrupted { block: BlockId },
    /// The block left the bucket while it was read, and nothing has taken its place.
    #[error(
        "{source}; the block has left the bucket, and no other is known to hold its samples from {min_ms} to {max_ms} ms"
    )]
    Gone { min_ms: i64, max_ms: i64, source: Box<BlockFailure> },
}

impl BlockFailure {
    /// Whether an object of the block does not exist, though the list had the block.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Bucket { source, .. } => source.is_not_found(),
            Self::Load(failure) => failure.is_not_found(),
            _ => false,
        }
    }
}
