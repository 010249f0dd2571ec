//! [`Gate`]: how many Series calls run at a time, and how many may wait for their turn.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

/// A bounded number of calls, and a bounded queue before it.
#[derive(Debug)]
pub struct Gate {
    running: Arc<Semaphore>,
    /// Those that run and those that wait.
    inside: Arc<Semaphore>,
    max_running: usize,
    max_waiting: usize,
}

/// A call's right to run; dropped with it.
#[derive(Debug)]
pub struct Turn {
    _running: OwnedSemaphorePermit,
    _inside: OwnedSemaphorePermit,
}

impl Gate {
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        let max_running = max_running.clamp(1, Semaphore::MAX_PERMITS / 2);
        let max_waiting = max_waiting.min(Semaphore::MAX_PERMITS / 2);
        Self {
            running: Arc::new(Semaphore::new(max_running)),
            inside: Arc::new(Semaphore::new(max_running + max_waiting)),
            max_running,
            max_waiting,
        }
    }

    /// How many calls run at a time.
    pub fn max_running(&self) -> usize {
        self.max_running
    }

    /// Waits until a call may run.
    ///
    /// # Errors
    /// `ResourceExhausted`, with the numbers, if as many wait already as may.
    pub async fn turn(&self) -> Result<Turn, Status> {
        let (running, waiting) = (self.max_running, self.max_waiting);
        let inside = Arc::clone(&self.inside).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{running} Series calls are answered (--store.grpc.series-max-concurrency) and {waiting} wait: no more may"
            ))
        })?;
        let turn = Arc::clone(&self.running).acquire_owned().await;
        let running = turn.map_err(|_| Status::unavailable("the store is shutting down"))?;
        Ok(Turn { _running: running, _inside: inside })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_wait_for_their_turn_and_too_many_are_refused_with_the_numbers() {
        let gate = Arc::new(Gate::new(2, 1));
        let (first, _second) = (gate.turn().await.unwrap(), gate.turn().await.unwrap());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.turn().await }
        });
        while gate.inside.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let status = gate.turn().await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(
            status.message().starts_with("2 Series calls") && status.message().contains(" 1 wait"),
            "{status}"
        );
        drop(first);
        let third = waiting.await.unwrap().unwrap();
        // One that gives up waiting leaves its place to the next.
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(10), gate.turn()).await;
        assert!(given_up.is_err());
        drop(third);
        gate.turn().await.unwrap();
    }
}
