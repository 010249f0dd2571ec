//! Whether stores are asked to keep back what the penalty algorithm would not look at (`parallax_storeapi::withhold`), and a selection that can be
//! asked for again when one of them kept back too much.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;

use futures::FutureExt as _;
use parallax_model::TimeRange;
use parallax_storeapi::proto::thanos::SeriesRequest;
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::stream::Delivery;
use super::{Pump, QUEUED_FRAMES};
use crate::coverage::{Coverage, Gap, Part};

/// Selections for which nobody is asked after one had to be read again: where series have gaps, or come from several stores, the next would, too.
const PAUSE: u32 = 64;

/// Shared by all queries of a querier. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Withholding {
    /// Selections for which nobody is asked.
    pause: Arc<AtomicU32>,
    read_again: Counter<u64, AtomicU64>,
}

impl Withholding {
    /// Counts selections that had to be read again in `read_again`.
    pub fn counting(read_again: Counter<u64, AtomicU64>) -> Self {
        Self { read_again, ..Self::default() }
    }

    /// Whether stores are asked for the next selection.
    pub fn begin(&self) -> bool {
        let next = |left: u32| left.checked_sub(1);
        self.pause.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_err()
    }

    fn failed(&self) {
        self.read_again.inc();
        self.pause.store(PAUSE, Ordering::Relaxed);
    }
}

/// One selection, asked of the stores once, or twice.
pub(super) struct Asked {
    pub pump: Pump,
    pub message: SeriesRequest,
    pub runtime: Handle,
    pub canceled: CancellationToken,
    pub withholding: Withholding,
    pub under_way: UnderWay,
}

/// A request of which deliveries come.
pub(super) enum UnderWay {
    Nothing,
    /// It goes on when somebody lets it.
    Here(Pin<Box<dyn Future<Output = ()> + Send>>),
    Elsewhere(JoinHandle<()>),
}

impl Asked {
    /// Sends the request; what comes of it comes out here.
    pub fn begin(&mut self) -> mpsc::Receiver<Delivery> {
        let (request, queue) = self.request();
        self.under_way = UnderWay::Elsewhere(self.runtime.spawn(request));
        queue
    }

    /// Makes the request ready, for [`Self::go_on_here`].
    pub fn prepare(&mut self) -> mpsc::Receiver<Delivery> {
        let (request, queue) = self.request();
        // As in a task, a panic ends the request alone.
        self.under_way = UnderWay::Here(Box::pin(AssertUnwindSafe(request).catch_unwind().map(drop)));
        queue
    }

    /// Lets a request that was prepared go on right here until it has ended, which is what this says, or has brought enough: then it goes on by itself.
    pub async fn go_on_here(&mut self, mut is_enough: impl FnMut() -> bool) -> bool {
        let UnderWay::Here(mut request) = std::mem::replace(&mut self.under_way, UnderWay::Nothing) else {
            return false;
        };
        let has_ended = poll_fn(|context| match request.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if is_enough() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await;
        if !has_ended {
            self.under_way = UnderWay::Elsewhere(self.runtime.spawn(request));
        }
        has_ended
    }

    fn request(&mut self) -> (impl Future<Output = ()> + Send + use<>, mpsc::Receiver<Delivery>) {
        let (deliveries, queue) = mpsc::channel(QUEUED_FRAMES);
        let (pump, message, canceled) = (self.pump.clone(), self.message.clone(), self.canceled.clone());
        let before = std::mem::replace(&mut self.under_way, UnderWay::Nothing);
        let request = async move {
            if let UnderWay::Elsewhere(before) = before {
                // What it holds is given back before more is held.
                before.abort();
                let _ = before.await;
            }
            tokio::select! {
                () = canceled.cancelled() => {}
                () = deliveries.closed() => {}
                () = pump.run(message, &deliveries) => {}
            }
        };
        (request, queue)
    }

    /// Whether stores may keep anything back.
    pub fn withholds(&self) -> bool {
        self.pump.withholds_from_ms.is_some()
    }

    /// A store kept back what is needed: everything is to be asked for, by whoever asks.
    pub fn lacks(&self) {
        self.withholding.failed();
    }

    /// What comes of the request stays in the answer without these, whatever comes when it is sent once more.
    pub fn stays_without(&self, gaps: &[Gap]) {
        if gaps.is_empty() {
            return;
        }
        let range = TimeRange::new(self.message.min_time, self.message.max_time);
        let parts = gaps.iter().map(|gap| Part::of_gap(gap, "", range));
        self.pump.coverage.leave_for_good(Coverage::new(parts, 0));
    }

    /// Sends the request once more, for everything.
    pub fn begin_again(&mut self) -> mpsc::Receiver<Delivery> {
        self.pump.withholds_from_ms = None;
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_nobody_is_asked_for_a_while() {
        let withholding = Withholding::default();
        assert!(withholding.begin() && withholding.begin());
        withholding.failed();
        assert_eq!((0..2 * PAUSE).take_while(|_| !withholding.begin()).count(), PAUSE as usize);
        assert_eq!(withholding.read_again.get(), 1);
    }
}
