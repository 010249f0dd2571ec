//! A bucket of blocks: Thanos' objstore configuration over `object_store`, with metrics and retry.
//!
//! One concern per file: [`config`] reads the YAML, `provider` opens a store, `client` carries its requests (our HTTP and TLS
//! beneath `object_store`), [`error`] says what the caller can do and `explain` finds out from a store's answer, `retry` and
//! `hedge` bound second attempts, [`ranges`] joins near reads, [`metrics`] counts under Thanos' names, `path` lets no object name
//! leave the prefix, and [`Bucket`] composes them. [`caching`] says what readers remember.
//! What the objects mean (blocks, marks) is the block crate's.

#![forbid(unsafe_code)]

pub mod bucket;
pub mod caching;
mod client;
pub mod config;
pub mod error;
mod explain;
mod hedge;
pub mod metrics;
mod path;
mod provider;
pub mod ranges;
pub mod retry;

pub use bucket::{Access, Bucket, Listing, ObjectInfo, Revision};
pub use caching::{BucketCaches, CachingConfig};
pub use config::{BucketConfig, Provider};
pub use error::BucketError;
pub use metrics::{BucketMetrics, Operation};
pub use path::is_block_id;
pub use provider::Environment;
pub use retry::RetryPolicy;
