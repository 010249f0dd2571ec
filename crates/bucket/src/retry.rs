//! Second attempts: how many, how long apart, and for which errors.
//!
//! Every operation of a bucket may be repeated safely: reads by nature, uploads because an object appears whole or not at
//! all, deletions because a missing object is no error the second time.

use std::error::Error as _;
use std::io::ErrorKind;
use std::time::Duration;

use crate::BucketError;

/// Bounded exponential backoff. The pauses are not random: object stores are asked by few components at a time.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Attempts in all; 1 never repeats, 0 counts as 1.
    pub max_attempts: u32,
    /// Pause after the first failure; doubles each time.
    pub first_pause: Duration,
    pub max_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 4, first_pause: Duration::from_millis(50), max_pause: Duration::from_secs(2) }
    }
}

impl RetryPolicy {
    pub const NEVER: Self = Self { max_attempts: 1, first_pause: Duration::ZERO, max_pause: Duration::ZERO };

    /// Runs `attempt` until it succeeds, fails for good, or `max_attempts` are used up; returns the last error.
    pub(crate) async fn run<T, F, A>(&self, mut attempt: A) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
        A: FnMut() -> F,
    {
        let mut pause = self.first_pause;
        let mut tried = 1;
        loop {
            match attempt().await {
                Err(error) if error.is_retryable() && tried < self.max_attempts => {
                    tracing::debug!(%error, attempt = tried, "bucket operation failed, trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.max_pause);
                    tried += 1;
                }
                result => return result,
            }
        }
    }
}

/// Whether an error of a store may go away by itself.
pub(crate) fn is_transient(error: &object_store::Error) -> bool {
    use object_store::Error;
    match error {
        // On a disk only what the operating system calls transient is; a range outside a file stays outside.
        Error::Generic { store: "LocalFileSystem", .. } => io_kind(error).is_some_and(|kind| {
            matches!(
                kind,
                ErrorKind::Interrupted
                    | ErrorKind::TimedOut
                    | ErrorKind::WouldBlock
                    | ErrorKind::ResourceBusy
                    | ErrorKind::StaleNetworkFileHandle
            )
        }),
        Error::Generic { .. } => true,
        Error::JoinError { source } => !source.is_panic(),
        _ => false,
    }
}

fn io_kind(error: &object_store::Error) -> Option<ErrorKind> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(io) = source.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        next = source.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transient() -> BucketError {
        BucketError::Store {
            bucket: "b".to_owned(),
            operation: "get",
            object: "x".to_owned(),
            source: Box::new(object_store::Error::Generic { store: "S3", source: "reset".into() }),
        }
    }

    #[tokio::test]
    async fn attempts_are_bounded_and_final_errors_are_not_repeated() {
        let policy = RetryPolicy { max_attempts: 3, first_pause: Duration::ZERO, max_pause: Duration::ZERO };
        let mut calls = 0;
        let result: Result<(), _> = policy
            .run(|| {
                calls += 1;
                async { Err(transient()) }
            })
            .await;
        assert!(result.is_err());
        assert_eq!(calls, 3);

        let mut calls = 0;
        let result: Result<(), _> = policy
            .run(|| {
                calls += 1;
                async { Err(BucketError::NotFound { object: "x".to_owned() }) }
            })
            .await;
        assert!(result.unwrap_err().is_not_found());
        assert_eq!(calls, 1);

        let mut calls = 0;
        let result = policy
            .run(|| {
                calls += 1;
                let now = calls;
                async move { if now < 2 { Err(transient()) } else { Ok(now) } }
            })
            .await;
        assert_eq!(result.unwrap(), 2);
    }
}
