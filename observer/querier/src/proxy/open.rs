//! One endpoint's answer, begun: every kind of call opens here.
//!
//! Invariant: all attempts together have one budget of silence. A transport error is tried again after a pause that doubles; one that took so long that the
//! next would cost as much opens the endpoint's breaker instead.

use std::time::{Duration, Instant};

use tonic::{Code, Status};

use super::patience::Patience;
use super::{ProxyConfig, gap_of};
use crate::coverage::Gap;
use crate::endpoint::Endpoint;

/// First wait before an endpoint is asked again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Why nothing came.
#[derive(Debug)]
pub(super) enum NotOpened {
    Failed(Status),
    /// It said nothing for so long.
    Silent(Duration),
}

impl NotOpened {
    /// The gap that the endpoint leaves.
    pub fn gap(self, endpoint: &Endpoint, patience: &Patience, config: &ProxyConfig) -> Gap {
        match self {
            Self::Failed(status) => gap_of(endpoint, &status, false),
            Self::Silent(silence) => patience.late(endpoint, config, silence, 0),
        }
    }
}

/// Makes attempts until one answers, which uses up `patience`. For a stream, an attempt has to end with the first frame: until then, opening it again repeats nothing.
pub(super) async fn open_with_retries<T, F: Future<Output = Result<T, Status>>>(
    endpoint: &Endpoint,
    patience: &mut Patience,
    config: &ProxyConfig,
    attempt: impl Fn() -> F,
) -> Result<T, NotOpened> {
    let waiting_since = Instant::now();
    let opened = attempts(endpoint, patience.ends(), config, attempt, waiting_since).await;
    patience.waited(waiting_since.elapsed());
    opened
}

async fn attempts<T, F: Future<Output = Result<T, Status>>>(
    endpoint: &Endpoint,
    ends: Instant,
    config: &ProxyConfig,
    attempt: impl Fn() -> F,
    waiting_since: Instant,
) -> Result<T, NotOpened> {
    let mut pause = RETRY_PAUSE;
    let mut retries_left = config.max_retries;
    loop {
        let began = Instant::now();
        let status = match tokio::time::timeout_at(ends.into(), attempt()).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(status)) => status,
            Err(_) => return Err(NotOpened::Silent(waiting_since.elapsed())),
        };
        if status.code() != Code::Unavailable {
            return Err(NotOpened::Failed(status));
        }
        if began.elapsed() >= endpoint.slow_failure() {
            // A connection attempt that ran into its own timeout: the next query need not wait for another.
            endpoint.hung(status.message());
            return Err(NotOpened::Failed(status));
        }
        let in_time = Instant::now().checked_add(pause).is_some_and(|then| then < ends);
        if retries_left == 0 || !in_time {
            return Err(NotOpened::Failed(status));
        }
        retries_left -= 1;
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2);
    }
}
