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
use read_ahead::InHand;
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
        let mut in_hand = InHand::default();
        let forwarded = self.forward(message, deliveries, &mut in_hand);
        let outcome = match tokio::time::timeout_at(deadline, forwarded).await {
            Ok(outcome) => {
                if outcome.is_err() {
                    // The query fails when the engine comes to this: what has come only takes room until then.
                    in_hand.clear();
                }
                outcome
            }
            // What has come needs no more of the stores' time, however late the engine comes to it.
            Err(_) if in_hand.ends_whole() => Ok(()),
            Err(_) => Err(SourceError::Timeout { waiting_for: "stores".to_owned() }),
        };
        let last = match outcome {
            Ok(()) => Delivery::End,
            // What arrived in time is an answer, where a partial one is allowed.
            Err(SourceError::Timeout { .. }) if self.options.partial_response => {
                self.coverage.cut_short(NOT_IN_TIME);
                in_hand.push(Delivery::Warning(format!("{NOT_IN_TIME}: data may be missing")));
                Delivery::End
            }
            Err(error) => {
                in_hand.clear();
                Delivery::Failed(error)
            }
        };
        in_hand.push(last);
        // An engine that no longer listens needs no end.
        let _ = in_hand.send(deliveries).await;
    }
}

const NOT_IN_TIME: &str = "stores did not finish within the time of this query";

/// What a store's status means to a query.
pub fn source_error(status: Status) -> SourceError {
    match status.code() {
        Code::DeadlineExceeded => SourceError::Timeout { waiting_for: "stores".to_owned() },
        Code::Cancelled => SourceError::Canceled,
        Code::ResourceExhausted => SourceError::Limit(status.message().to_owned()),
        _ => SourceError::Storage(status.message().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use futures::{FutureExt, StreamExt, stream};
    use parallax_model::{Labels, TimeRange};
    use parallax_storeapi::proto::thanos::info::InfoResponse;
    use parallax_storeapi::proto::thanos::{
        LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
        SeriesResponse, chunk,
    };
    use parallax_storeapi::{SeriesStream as Frames, chunks, frames, labels};
    use parallax_tsdb::chunk::encode_xor;
    use tonic::Request;

    use super::*;
    use crate::coverage::{Coverage, Gap, GapKind, Part, State};

    /// Answers one call after the other, with what it vouches for.
    struct Scripted(Mutex<VecDeque<(Coverage, Frames)>>);

    #[parallax_storeapi::async_trait]
    impl Store for Scripted {
        async fn info(&self) -> Result<InfoResponse, Status> {
            Ok(InfoResponse::default())
        }

        async fn series(&self, request: Request<SeriesRequest>) -> Result<Frames, Status> {
            let (coverage, frames) = self.0.lock().unwrap().pop_front().unwrap();
            request.extensions().get::<CoverageEntry>().unwrap().leave(coverage);
            Ok(frames)
        }

        async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
            Err(Status::unimplemented(""))
        }

        async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
            Err(Status::unimplemented(""))
        }
    }

    fn source(
        calls: impl IntoIterator<Item = (Coverage, Frames)>,
        budget: &Arc<Budget>,
        deadline: Instant,
        log: &CoverageLog,
    ) -> StoreSource {
        let options = SelectOptions {
            replica_labels: vec!["replica".to_owned()],
            algorithm: Algorithm::Penalty,
            partial_response: true,
            store_matchers: Vec::new(),
            max_resolution_ms: 0,
            shard: None,
            deadline,
            max_concurrent_opens: 4,
        };
        let store = Arc::new(Scripted(Mutex::new(calls.into_iter().collect())));
        StoreSource::new(store, Handle::current(), options, budget.clone(), CancellationToken::new())
            .with_coverage(log.clone())
    }

    fn selection() -> Selection {
        let range = TimeRange::new(0, 500_000);
        Selection {
            matchers: vec![Matcher::equal("__name__", "up")],
            range,
            query_range: range,
            step_ms: 15_000,
            range_ms: 0,
            function: String::new(),
            grouping: Vec::new(),
            grouping_by: false,
            preparation: None,
            scope: Default::default(),
        }
    }

    /// `up` of a job, with its data or without.
    fn up(job: usize, is_kept_back: bool) -> Result<SeriesResponse, Status> {
        let labels = Labels::from_pairs([("__name__", "up".to_owned()), ("job", format!("{job:02}"))]);
        let mut chunk = chunks::chunk(chunk::Encoding::Xor, encode_xor(&[(10_000, 1.0)]).unwrap().into());
        if is_kept_back {
            chunk.data.clear();
        }
        let chunks = vec![chunks::raw(10_000, 10_000, chunk)];
        Ok(frames::series(Series { labels: labels::to_wire(&labels), chunks }))
    }

    fn coverage(clusters: &[(&str, State)]) -> Coverage {
        let part = |(cluster, state): &(&str, State)| Part {
            cluster: (*cluster).to_owned(),
            tier: "sidecar".to_owned(),
            store: format!("{cluster}:10901"),
            state: *state,
            min_time_ms: 0,
            max_time_ms: 500_000,
            reason: String::new(),
        };
        Coverage::new(clusters.iter().map(part), 0)
    }

    /// How many series there are, and the warnings.
    async fn drained(mut stream: Box<dyn SeriesStream>) -> (usize, Vec<String>) {
        let reading = tokio::task::spawn_blocking(move || {
            let mut series = 0;
            while let Some(batch) = stream.next_batch().unwrap() {
                series += batch.len();
            }
            (series, stream.take_warnings())
        });
        reading.await.unwrap()
    }

    /// Runs a test with a deadline that is over before the first timer begins.
    fn without_time(test: impl AsyncFnOnce(Instant)) {
        let deadline = Instant::now();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(deadline));
    }

    #[test]
    fn what_came_is_in_the_answer_though_the_time_is_up_and_is_complete_if_it_is_all() {
        for goes_on in [false, true] {
            without_time(async |deadline| {
                // One more than there is room for while nobody reads.
                let came = stream::iter((0..=QUEUED_FRAMES).map(|job| up(job, false)));
                let frames: Frames =
                    if goes_on { Box::pin(came.chain(stream::pending())) } else { Box::pin(came) };
                let (budget, log) = (Budget::new(0), CoverageLog::default());
                let whole = coverage(&[("a", State::Complete)]);
                let source = source([(whole.clone(), frames)], &budget, deadline, &log);
                source.open_early(selection()).await;
                let (series, warnings) = drained(source.select(&selection()).unwrap()).await;
                assert_eq!(series, QUEUED_FRAMES + 1);
                let left = log.coverage().unwrap();
                if goes_on {
                    assert!(warnings.len() == 1 && warnings[0].starts_with(NOT_IN_TIME), "{warnings:?}");
                    let part = &left.parts()[0];
                    assert_eq!((part.state, part.reason.as_str()), (State::Late, NOT_IN_TIME));
                } else {
                    assert_eq!((warnings, left), (Vec::new(), whole));
                }
            });
        }
    }

    #[test]
    fn what_was_let_go_and_cannot_be_asked_for_again_is_late() {
        without_time(async |deadline| {
            let (budget, log) = (Budget::new(100), CoverageLog::default());
            // A selection that is wanted waits for what others hold.
            let ((_want, unread), read) = (Interest::in_selection(), Interest::always());
            let _kept = budget.hold_for(&unread, 20).await.unwrap();
            let waiting = budget.hold_for(&read, 90);
            tokio::pin!(waiting);
            assert!(waiting.as_mut().now_or_never().is_none());

            let call = (coverage(&[("a", State::Complete)]), frames::from_vec(vec![up(0, false)]));
            let stream = source([call], &budget, deadline, &log).select(&selection()).unwrap();
            while log.coverage().is_none() {
                tokio::task::yield_now().await;
            }
            let (series, warnings) = drained(stream).await;
            assert_eq!((series, warnings.len()), (0, 1), "{warnings:?}");
            assert_eq!(log.coverage().unwrap().state(), State::Late);
        });
    }

    #[tokio::test]
    async fn series_that_are_not_read_again_still_lack_what_was_missing_when_they_came() {
        let gap = Gap {
            cluster: "b".to_owned(),
            kind: GapKind::Missing,
            endpoint: "b:10901".to_owned(),
            reason: "connection refused".to_owned(),
        };
        let warning = Ok(frames::warning(gap.to_string()));
        let first = frames::from_vec(vec![warning, up(0, false), up(1, true), up(2, false)]);
        let again = frames::from_vec((0..3).map(|job| up(job, false)).collect());
        let calls = [
            (coverage(&[("a", State::Complete), ("b", State::Missing)]), first),
            (coverage(&[("a", State::Complete), ("b", State::Complete)]), again),
        ];
        let (budget, log) = (Budget::new(0), CoverageLog::default());
        let deadline = Instant::now() + Duration::from_secs(60);
        let source = source(calls, &budget, deadline, &log);
        let (series, warnings) = drained(source.select(&selection()).unwrap()).await;
        assert_eq!((series, warnings), (3, vec![gap.to_string()]));
        let left = log.coverage().unwrap();
        let clusters: Vec<(&str, State)> = left.clusters().into_iter().collect();
        assert_eq!(clusters, [("a", State::Complete), ("b", State::Partial)]);
    }
}
