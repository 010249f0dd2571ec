//! What feeds the engine: selections become StoreAPI requests, and their frames become decoded, deduplicated series.
//!
//! A request runs on tokio; its frames wait in a bounded channel for the engine's thread, which decodes and merges
//! them (`select/stream.rs`). So back-pressure goes from the engine to the stores, and a query that is dropped cancels
//! its requests. What a query holds undecoded is bounded by its [`Budget`].
//!
//! Which stores are asked, and what happens when one fails, is the store's affair.

mod budget;
mod request;
mod stream;

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use parallax_dedup::{Algorithm, Dedup};
use parallax_model::Matcher;
use parallax_promql::source::{Selection, SeriesStream, Source, SourceError};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{SeriesRequest, ShardInfo};
use parallax_storeapi::{Store, with_deadline};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

pub use budget::Budget;
pub(crate) use request::strategy;
pub use request::{StoreMatchers, wire_matchers};
pub(crate) use stream::labels_of;
use stream::{Delivery, SelectedSeries};

/// Frames that may wait for the engine, per selection.
const QUEUED_FRAMES: usize = 16;

/// How one query's selections are made.
#[derive(Clone, Debug)]
pub struct SelectOptions {
    /// Labels that tell replicas apart; empty if nothing is to be deduplicated.
    pub replica_labels: Vec<String>,
    pub algorithm: Algorithm,
    pub partial_response: bool,
    /// Which stores may be asked: any of these sets of matchers on their external labels and `__address__`.
    pub store_matchers: Vec<Vec<Matcher>>,
    /// The coarsest downsampled data that may be read; 0 for raw data only.
    pub max_resolution_ms: i64,
    /// Only the series of one shard.
    pub shard: Option<ShardInfo>,
    /// When stores have to be done, somewhat before the query's own deadline.
    pub deadline: Instant,
    /// How many selections of this query may wait for their first frame at once.
    pub max_concurrent_opens: usize,
}

/// One query's view of a [`Store`].
pub struct StoreSource {
    store: Arc<dyn Store>,
    runtime: Handle,
    options: Arc<SelectOptions>,
    opens: Arc<Semaphore>,
    budget: Arc<Budget>,
    canceled: CancellationToken,
}

impl StoreSource {
    /// Requests run on `runtime` until they are done, or `canceled` is.
    pub fn new(
        store: Arc<dyn Store>,
        runtime: Handle,
        options: SelectOptions,
        budget: Arc<Budget>,
        canceled: CancellationToken,
    ) -> Self {
        let opens = Arc::new(Semaphore::new(options.max_concurrent_opens.max(1)));
        Self { store, runtime, options: Arc::new(options), opens, budget, canceled }
    }
}

impl Source for StoreSource {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        let (deliveries, queue) = mpsc::channel(QUEUED_FRAMES);
        let pump = Pump {
            store: self.store.clone(),
            options: self.options.clone(),
            opens: self.opens.clone(),
            budget: self.budget.clone(),
        };
        let message = request::series_request(selection, &self.options);
        let canceled = self.canceled.clone();
        self.runtime.spawn(async move {
            tokio::select! {
                () = canceled.cancelled() => {}
                () = deliveries.closed() => {}
                () = pump.run(message, &deliveries) => {}
            }
        });
        let algorithm = (!self.options.replica_labels.is_empty()).then_some(self.options.algorithm);
        let dedup = Dedup::new(algorithm, &selection.function, selection.query_range, selection.range);
        let wanted = (self.options.max_resolution_ms > 0).then(|| request::aggregates(&selection.function));
        Ok(Box::new(SelectedSeries::new(queue, dedup, wanted, self.options.replica_labels.clone())))
    }
}

/// Carries the frames of one request into the channel.
struct Pump {
    store: Arc<dyn Store>,
    options: Arc<SelectOptions>,
    opens: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl Pump {
    async fn run(&self, message: SeriesRequest, deliveries: &mpsc::Sender<Delivery>) {
        let deadline = tokio::time::Instant::from_std(self.options.deadline);
        let outcome = tokio::time::timeout_at(deadline, self.forward(message, deliveries)).await;
        let timeout = || SourceError::Timeout { waiting_for: "stores".to_owned() };
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(timeout()),
        };
        let last = match error {
            None => Delivery::End,
            // What arrived in time is an answer, where a partial one is allowed.
            Some(SourceError::Timeout { .. }) if self.options.partial_response => {
                let warning =
                    "stores did not finish within the time of this query: data may be missing".to_owned();
                if deliveries.send(Delivery::Warning(warning)).await.is_err() {
                    return;
                }
                Delivery::End
            }
            Some(error) => Delivery::Failed(error),
        };
        // An engine that no longer listens needs no end.
        let _ = deliveries.send(last).await;
    }

    async fn forward(
        &self,
        message: SeriesRequest,
        deliveries: &mpsc::Sender<Delivery>,
    ) -> Result<(), SourceError> {
        let canceled = |_| SourceError::Canceled;
        // Held until the first frame is there, not longer: the engine may read selections in any order, and one that
        // waits for another one's reader would never end.
        let mut permit = Some(self.opens.acquire().await.map_err(canceled)?);
        let mut request = with_deadline(message, Some(self.options.deadline));
        if !self.options.store_matchers.is_empty() {
            request.extensions_mut().insert(StoreMatchers(self.options.store_matchers.clone()));
        }
        let mut frames = self.store.series(request).await.map_err(source_error)?;
        while let Some(frame) = frames.next().await {
            drop(permit.take());
            let delivery = match frame.map_err(source_error)?.result {
                Some(Frame::Series(series)) => Delivery::series(vec![series], &self.budget)?,
                Some(Frame::Batch(batch)) => Delivery::series(batch.series, &self.budget)?,
                Some(Frame::Warning(warning)) => Delivery::Warning(warning),
                Some(Frame::Hints(_)) | None => continue,
            };
            if deliveries.send(delivery).await.is_err() {
                return Err(SourceError::Canceled);
            }
        }
        Ok(())
    }
}

/// What a store's status means to a query.
pub fn source_error(status: Status) -> SourceError {
    match status.code() {
        Code::DeadlineExceeded => SourceError::Timeout { waiting_for: "stores".to_owned() },
        Code::Cancelled => SourceError::Canceled,
        Code::ResourceExhausted => SourceError::Limit(status.message().to_owned()),
        _ => SourceError::Storage(status.message().to_owned()),
    }
}
