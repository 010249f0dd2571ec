//! What can be wrong with a message that came over the wire.

use tonic::Status;

/// Names the part of the message that is wrong. None of these gets better by asking again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("matcher on label {name:?} has the unknown type {kind}")]
    UnknownMatcherType { name: String, kind: i32 },
    #[error(transparent)]
    BadMatcher(#[from] parallax_model::MatcherError),
    #[error("matcher has an empty label name")]
    EmptyMatcherName,
    #[error("label {name:?} is not UTF-8")]
    LabelNotUtf8 { name: String },
    #[error("shard {shard_index} of {total_shards} does not exist")]
    BadShard { shard_index: i64, total_shards: i64 },
    #[error("series {labels} came after one that sorts above it: the source is not sorted")]
    OutOfOrder { labels: String },
}

/// What the request asks for is the caller's fault, what a store sends is the store's.
impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownMatcherType { .. }
            | Error::BadMatcher(_)
            | Error::EmptyMatcherName
            | Error::BadShard { .. } => Self::invalid_argument(error.to_string()),
            Error::LabelNotUtf8 { .. } | Error::OutOfOrder { .. } => Self::data_loss(error.to_string()),
        }
    }
}
