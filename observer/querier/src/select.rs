//! What feeds the engine: selections become StoreAPI requests, and their frames become decoded, deduplicated series.
//!
//! A request runs on tokio; its frames wait in a bounded channel for the engine's thread, which puts series together
//! (`select/stream.rs`) and shares their decoding with other threads (`select/decode.rs`). So back-pressure goes from the engine to the stores, and a query that is dropped cancels
//! its requests. What a query holds undecoded is bounded by its [`Budget`]. Selections that the engine has not come to yet are
//! read ahead, so that they cost their stores nothing while they wait (`select/read_ahead.rs`). The only selection of a query may be opened before that has a thread
//! (`select/early.rs`).
//!
//! Which stores are asked, and what happens when one fails, is the store's affair.

mod among;
mod blame;
mod budget;
mod decode;
mod early;
mod interest;
mod read_ahead;
mod request;
mod stream;
mod withholding;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use parallax_dedup::{Algorithm, Dedup};
use parallax_model::Matcher;
use parallax_promql::source::{Cut, Pushed, Selection, SeriesStream, Source, SourceError};
use parallax_storeapi::Store;
use parallax_storeapi::proto::thanos::{SeriesRequest, ShardInfo};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::coverage::{CoverageEntry, CoverageLog};
use crate::pushdown::QueryPushdown;
use crate::received::ReceivedLog;
use crate::resolution::ResolutionLog;

pub(crate) use among::Among;
pub use blame::Blame;
use blame::Containment;
pub use budget::Budget;
pub(crate) use budget::{Held, OverBudget};
pub use decode::Helpers;
use decode::{Decoder, Work};
pub(crate) use early::{Arrived, Brief};
pub(crate) use interest::Interest;
pub(crate) use request::strategy;
pub use request::{StoreMatchers, wire_matchers};
pub(crate) use stream::labels_of;
use stream::{Delivery, SelectedSeries, Wanted};
pub(crate) use withholding::Withholding;
use withholding::{Asked, UnderWay};

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
    blame: Option<Arc<dyn Blame>>,
    helpers: Helpers,
    coverage: CoverageLog,
    received: ReceivedLog,
    pushdown: Option<Arc<QueryPushdown>>,
    resolutions: ResolutionLog,
    withholding: Withholding,
    /// A selection that was opened before the engine asked for it.
    early: Mutex<Option<(Selection, SelectedSeries)>>,
    /// Set where nothing may be waited for.
    brief: Option<Brief>,
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
        let (options, helpers) = (Arc::new(options), Helpers::new(1));
        Self {
            store,
            runtime,
            options,
            opens,
            budget,
            canceled,
            blame: None,
            helpers,
            coverage: CoverageLog::default(),
            received: ReceivedLog::default(),
            pushdown: None,
            resolutions: ResolutionLog::default(),
            withholding: Withholding::default(),
            early: Mutex::default(),
            brief: None,
        }
    }

    /// Opens `selection` now, and comes back when there is something to begin with. If that is all of it, this tells how much it is.
    pub(crate) async fn open_early(&self, selection: Selection) -> Option<Arrived> {
        let mut series = self.series(&selection, None, Asked::prepare);
        let arrived = series.arrive().await;
        *self.early() = Some((selection, series));
        arrived
    }

    /// From here on nothing may be waited for, and nobody may be asked.
    #[must_use]
    pub(crate) fn briefly(mut self, brief: &Brief) -> Self {
        if let Some((_, series)) = self.early.get_mut().unwrap_or_else(PoisonError::into_inner) {
            series.be_brief(brief.clone());
        }
        self.brief = Some(brief.clone());
        self
    }

    fn early(&self) -> std::sync::MutexGuard<'_, Option<(Selection, SelectedSeries)>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks stores to keep back what is not looked at, as long as that goes well for the queries that share this.
    #[must_use]
    pub(crate) fn with_withholding(self, withholding: Withholding) -> Self {
        Self { withholding, ..self }
    }

    /// From when on stores may keep back what the penalty algorithm would not look at.
    fn withholds_from_ms(&self, selection: &Selection) -> Option<i64> {
        let options = &self.options;
        let follows = options.algorithm == Algorithm::Penalty && !options.replica_labels.is_empty();
        // Of downsampled data everything is decoded.
        let may = follows && options.max_resolution_ms == 0 && self.withholding.begin();
        may.then_some(selection.query_range.min_ms)
    }

    /// Leaves how much came in `received`.
    #[must_use]
    pub fn with_received(self, received: ReceivedLog) -> Self {
        Self { received, ..self }
    }

    /// Has aggregations evaluated elsewhere.
    #[must_use]
    pub(crate) fn with_pushdown(self, pushdown: Option<Arc<QueryPushdown>>) -> Self {
        Self { pushdown, ..self }
    }

    /// Leaves in `resolutions` how coarse the data was, where downsampled data is allowed.
    #[must_use]
    pub(crate) fn with_resolutions(self, resolutions: ResolutionLog) -> Self {
        Self { resolutions, ..self }
    }

    /// Decodes with these, which other queries use too; otherwise with one helper of its own.
    #[must_use]
    pub fn with_helpers(self, helpers: Helpers) -> Self {
        Self { helpers, ..self }
    }

    /// Leaves what is known of the answer in `coverage`.
    #[must_use]
    pub fn with_coverage(self, coverage: CoverageLog) -> Self {
        Self { coverage, ..self }
    }

    /// Names whose series are malformed by asking `blame`.
    #[must_use]
    pub fn with_blame(self, blame: Option<Arc<dyn Blame>>) -> Self {
        Self { blame, ..self }
    }
}

impl StoreSource {
    /// The series of a selection whose request `begin` begins.
    fn series(
        &self,
        selection: &Selection,
        among: Option<Among>,
        begin: impl FnOnce(&mut Asked) -> mpsc::Receiver<Delivery>,
    ) -> SelectedSeries {
        let (want, wanted) = watch::channel(false);
        let pump = Pump {
            store: self.store.clone(),
            options: self.options.clone(),
            opens: self.opens.clone(),
            budget: self.budget.clone(),
            interest: Interest::new(wanted.clone()),
            coverage: self.coverage.entry(),
            received: self.received.clone(),
            among,
            wanted,
            withholds_from_ms: self.withholds_from_ms(selection),
        };
        let mut asked = Asked {
            pump,
            message: request::series_request(selection, &self.options),
            runtime: self.runtime.clone(),
            canceled: self.canceled.clone(),
            withholding: self.withholding.clone(),
            under_way: UnderWay::Nothing,
        };
        let algorithm = (!self.options.replica_labels.is_empty()).then_some(self.options.algorithm);
        let dedup = Dedup::new(algorithm, &selection.function, selection.query_range, selection.range);
        let aggregates =
            (self.options.max_resolution_ms > 0).then(|| request::aggregates(&selection.function));
        let containment = Containment::new(self.blame.clone(), self.options.partial_response);
        let replica_labels = self.options.replica_labels.clone();
        let work = Work { dedup, preparation: selection.preparation.clone(), withholds: asked.withholds() };
        let decoder = Decoder::new(work, self.runtime.clone(), self.helpers.clone(), self.canceled.clone());
        let wanted = aggregates.map(|aggregates| Wanted {
            aggregates,
            max_resolution_ms: self.options.max_resolution_ms,
            resolutions: self.resolutions.clone(),
        });
        let queue = begin(&mut asked);
        SelectedSeries::new((asked, queue), want, decoder, wanted, replica_labels, containment)
    }
}

impl Source for StoreSource {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        if let Some((_, series)) = self.early().take_if(|(early, _)| early == selection) {
            return Ok(Box::new(series));
        }
        if let Some(brief) = &self.brief {
            return Err(brief.give_up());
        }
        let part = match &self.pushdown {
            Some(pushdown) => pushdown.part(selection.scope),
            None => None,
        };
        let among = part.as_ref().map(|part| part.among.clone());
        let series = self.series(selection, among, Asked::begin);
        Ok(match part {
            Some(part) => Box::new(part.guarding(Box::new(series))),
            None => Box::new(series),
        })
    }

    fn push_down(&self, cut: &Cut) -> Option<Box<dyn Pushed>> {
        self.pushdown.as_ref()?.offer(cut)
    }
}

/// Carries the frames of one request into the channel.
#[derive(Clone)]
struct Pump {
    store: Arc<dyn Store>,
    options: Arc<SelectOptions>,
    opens: Arc<Semaphore>,
    budget: Arc<Budget>,
    /// Whether the engine has come to this selection.
    wanted: watch::Receiver<bool>,
    /// The same, for the fan-outs beneath.
    interest: Interest,
    coverage: CoverageEntry,
    received: ReceivedLog,
    among: Option<Among>,
    /// From when on stores may keep back what is not looked at.
    withholds_from_ms: Option<i64>,
}

impl Pump {
    async fn run(self, message: SeriesRequest, deliveries: &mpsc::Sender<Delivery>) {
        let deadline = tokio::time::Instant::from_std(self.options.deadline);
        let mut ahead = VecDeque::new();
        let outcome = tokio::time::timeout_at(deadline, self.forward(message, deliveries, &mut ahead)).await;
        if matches!(&outcome, Ok(Err(_))) {
            // The query fails when the engine comes to this: what has come only takes room until then.
            ahead.clear();
        }
        // What has come needs no more of the stores' time, however late the engine comes to it.
        for delivery in ahead {
            if deliveries.send(delivery).await.is_err() {
                return;
            }
        }
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
