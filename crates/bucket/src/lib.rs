//! A bucket of blocks: Thanos' objstore configuration over `object_store`, with metrics and retry.
//!
//! One concern per file: [`config`] reads the YAML, [`error`] says what the caller can do, `retry` bounds second
//! attempts, [`metrics`] counts under Thanos' names, `path` lets no object name leave the prefix, and [`Bucket`]
//! composes them. What the objects mean (blocks, marks) is the block crate's.

#![forbid(unsafe_code)]

pub mod bucket;
pub mod config;
pub mod error;
pub mod metrics;
mod path;
pub mod retry;

pub use bucket::{Access, Bucket, ObjectInfo};
pub use config::{BucketConfig, Provider};
pub use error::BucketError;
pub use metrics::{BucketMetrics, Operation};
pub use path::is_block_id;
pub use retry::RetryPolicy;
