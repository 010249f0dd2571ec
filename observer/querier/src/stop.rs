//! The end of requests that are still open some time after a stop signal.
//!
//! Invariant: what is ended says so, by an error; it is dropped, which ends all that it waits for.

use std::time::Duration;

use futures::StreamExt;
use parallax_storeapi::FrameStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// When open requests have to end. Cloning shares the signal.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    shutdown: CancellationToken,
    grace: Duration,
}

/// The request did not end in time.
#[derive(Debug)]
pub(crate) struct Stopping;

impl Stopping {
    pub(crate) const TEXT: &str = "the querier is stopping";
}

impl From<Stopping> for Status {
    fn from(_: Stopping) -> Self {
        Self::unavailable(Stopping::TEXT)
    }
}

impl Stop {
    pub(crate) fn new(shutdown: CancellationToken, grace: Duration) -> Self {
        Self { shutdown, grace }
    }

    /// Waits for `work`, but after the signal not longer than the grace period.
    pub(crate) async fn bound<T>(&self, work: impl Future<Output = T>) -> Result<T, Stopping> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.clone().overdue() => Err(Stopping),
        }
    }

    /// The same for a stream.
    pub(crate) fn bound_stream<T: 'static>(&self, stream: FrameStream<T>) -> FrameStream<T> {
        let overdue = Box::pin(self.clone().overdue());
        Box::pin(futures::stream::unfold(Some((stream, overdue)), async |state| {
            let (mut stream, mut overdue) = state?;
            tokio::select! {
                biased;
                () = &mut overdue => Some((Err(Stopping.into()), None)),
                item = stream.next() => Some((item?, Some((stream, overdue)))),
            }
        }))
    }

    async fn overdue(self) {
        self.shutdown.cancelled().await;
        tokio::time::sleep(self.grace).await;
    }
}
