//! The trait [`Cache`].

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// A place that may still know what was put there.
#[async_trait]
pub trait Cache: fmt::Debug + Send + Sync + 'static {
    /// The values of `keys`, in their order; `None` for what is not there, or cannot be had in time. Never fails.
    async fn get_multi(&self, keys: &[String]) -> Vec<Option<Bytes>>;

    /// Remembers a value for at most `ttl`. Returns at once; a value that does not fit, or comes too fast, is dropped and counted.
    fn set(&self, key: &str, value: &Bytes, ttl: Duration);
}
