//! From a configuration to an [`ObjectStore`], one file per kind of bucket, with what the bucket's operations have to know about it.

use std::sync::Arc;
use std::time::Duration;

use object_store::{Attributes, BackoffConfig, ObjectStore, RetryConfig};

use crate::BucketError;
use crate::client::{CloudConnector, Proxy, RetryBudget};
use crate::config::HttpConfig;

pub(crate) mod azure;
mod environment;
pub(crate) mod gcs;
pub(crate) mod s3;
mod s3_profile;

pub use environment::Environment;

/// A store that was opened.
pub(crate) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    /// As Thanos names it in metrics.
    pub name: String,
    /// Written with every object.
    pub attributes: Attributes,
    pub part_size_bytes: usize,
}

/// No request is repeated when this has passed since it was first sent: its signature would grow old.
const RETRY_LIMIT: Duration = Duration::from_secs(180);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);

fn retry(max_attempts: u32, first: Option<Duration>, longest: Option<Duration>) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: first.unwrap_or(FIRST_PAUSE),
            max_backoff: longest.unwrap_or(MAX_PAUSE),
            base: 2.0,
        },
        max_retries: usize::try_from(max_attempts.saturating_sub(1)).unwrap_or(usize::MAX),
        retry_timeout: RETRY_LIMIT,
    }
}

/// The client of the bucket at `url`.
fn connector(http: &HttpConfig, url: &str, environment: &Environment) -> Result<CloudConnector, BucketError> {
    let variable =
        |upper: &str| environment.get(upper).or_else(|| environment.get(&upper.to_ascii_lowercase()));
    let proxy = variable("HTTPS_PROXY")
        .map(|url| Proxy::parse(&url, &variable("NO_PROXY").unwrap_or_default()))
        .transpose()
        .map_err(|reason| BucketError::Config { line: None, reason: format!("HTTPS_PROXY: {reason}") })?;
    CloudConnector::new(http, url, Arc::new(RetryBudget::default()), proxy)
}

fn refused(error: object_store::Error) -> BucketError {
    BucketError::Config { line: None, reason: crate::client::chain(&error) }
}
