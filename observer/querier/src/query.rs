//! Running queries: a slot, a deadline, a source over the stores, and the engine on a thread of its own. What takes less time than to hand it over is evaluated
//! where it came in (`query/early.rs`).
//!
//! At most [`QueryLimits::max_concurrent`] queries run; a bounded number waits. A query whose caller has gone is
//! canceled: its requests end at once, its evaluation at the engine's next check. Stores are given a little less time
//! than the query has, so that what arrived in time can still be evaluated.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use parallax_dedup::Algorithm;
use parallax_model::Matcher;
use parallax_promql::ast::{Expr, ValueType};
use parallax_promql::engine::{
    Engine, EngineOptions, Interrupt, PlanNode, QueryError, QueryOutcome, QueryRange, StatsOptions,
};
use parallax_promql::selectors::restrict;
use parallax_storeapi::proto::thanos::ShardInfo;
use parallax_storeapi::{Caller, Store};
use parallax_telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

mod early;

use early::Early;

use crate::active::ActiveQueries;
use crate::coverage::{Coverage, CoverageBook, CoverageLog};
use crate::gate::{GateMetrics, InFlight};
use crate::pushdown::{Distributor, QueryPushdown};
use crate::received::ReceivedLog;
use crate::resolution::{self, ReadResolutions, ResolutionLog};
use crate::select::{Blame, Brief, Budget, Helpers, SelectOptions, StoreSource, Withholding};

/// Most points a range query may have per series, as in Prometheus.
pub(crate) const MAX_STEPS: i64 = 11_000;

/// The part of a query's time that is kept for evaluating what stores sent: one in this many.
const EVALUATION_SHARE: u32 = 10;
/// It is never more than this.
const MAX_EVALUATION_RESERVE: Duration = Duration::from_secs(2);

/// What all queries of a querier are bounded by.
#[derive(Clone, Debug)]
pub struct QueryLimits {
    /// The longest a query may take, waiting included; a caller may ask for less.
    pub timeout: Duration,
    /// Queries evaluated at once.
    pub max_concurrent: usize,
    /// Queries that may wait for one of those to end; more are refused.
    pub max_waiting: usize,
    /// Selections of one query that may wait for their stores' first answer at once.
    pub max_concurrent_select: usize,
    /// Bytes of series one query may hold before they are decoded; 0 for no limit.
    pub max_held_bytes: usize,
    /// How replicas become one series where a query does not say.
    pub algorithm: Algorithm,
    /// Look as far back as two samples of the coarsest data that a query allows may be apart.
    pub dynamic_lookback: bool,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(120),
            max_concurrent: 20,
            max_waiting: 256,
            max_concurrent_select: 4,
            max_held_bytes: 1 << 30,
            algorithm: Algorithm::Penalty,
            dynamic_lookback: true,
        }
    }
}

/// One question, parsed.
#[derive(Clone, Debug)]
pub struct Query {
    pub text: String,
    pub expr: Expr,
    pub range: QueryRange,
    /// `None` for the querier's own limit.
    pub timeout: Option<Duration>,
    /// `None` for the querier's own, which grows with the resolution if [`QueryLimits::dynamic_lookback`] is set.
    pub lookback: Option<Duration>,
    /// Empty if nothing is to be deduplicated.
    pub replica_labels: Vec<String>,
    /// How replicas become one series; `None` for the querier's own way.
    pub algorithm: Option<Algorithm>,
    pub partial_response: bool,
    pub store_matchers: Vec<Vec<Matcher>>,
    /// The coarsest downsampled data that may be read; 0 for raw data only.
    pub max_resolution_ms: i64,
    /// Only the series of one shard, for a frontend that splits queries by series.
    pub shard: Option<ShardInfo>,
    /// Whoever asks: its matchers are added to every selector.
    pub caller: Caller,
    /// What to measure. Samples per step only if the querier's own options have them, too.
    pub stats: StatsOptions,
}

/// Whether `expr` can be evaluated step by step; the error says why not, as Prometheus does.
pub(crate) fn evaluates_over_range(expr: &Expr) -> Result<(), String> {
    match expr.value_type() {
        ValueType::Scalar | ValueType::Vector => Ok(()),
        other => Err(format!(
            "invalid expression type \"{}\" for range query, must be Scalar or instant Vector",
            other.documented()
        )),
    }
}

/// How long the parts of a query took, what came over the network for it, and how coarse what it read was.
#[derive(Clone, Debug, Default)]
pub struct QueryTimes {
    /// Waiting for a slot.
    pub queued: Duration,
    /// Everything after that: stores and evaluation.
    pub evaluated: Duration,
    pub received: ReceivedLog,
    /// `None` if nothing but raw data was allowed.
    pub resolutions: Option<ReadResolutions>,
}

/// Why a query has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The thread that evaluated the query ended before it did: a defect.
    #[error("the evaluation ended early: {0}")]
    Lost(String),
}

/// Evaluates queries over one store.
pub struct QueryRunner {
    store: Arc<dyn Store>,
    engine: EngineOptions,
    limits: QueryLimits,
    slots: Arc<Semaphore>,
    /// One permit per query that runs or waits.
    places: Arc<Semaphore>,
    helpers: Helpers,
    withholding: Withholding,
    metrics: QueryMetrics,
    gate: GateMetrics,
    blame: Option<Arc<dyn Blame>>,
    book: Arc<CoverageBook>,
    distributor: Option<Arc<Distributor>>,
    active: ActiveQueries,
}

/// The right to run, which a query or a request for series or labels has until it ends.
pub(crate) struct Slot {
    _in_flight: InFlight,
    _place: OwnedSemaphorePermit,
    _slot: OwnedSemaphorePermit,
}

#[derive(Clone)]
struct QueryMetrics {
    started: Counter<u64, AtomicU64>,
    failed: Counter<u64, AtomicU64>,
    refused: Counter<u64, AtomicU64>,
    running: Gauge,
    duration: Histogram,
}

/// Bounds of the histogram of durations, in seconds.
const DURATION_BOUNDS_SECONDS: [f64; 12] =
    [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

impl QueryMetrics {
    fn new(metrics: &Metrics) -> Self {
        Self {
            started: metrics.register(
                "parallax_query_started",
                "Queries that began to run",
                Counter::default(),
            ),
            failed: metrics.register(
                "parallax_query_failed",
                "Queries that ended in an error",
                Counter::default(),
            ),
            refused: metrics.register(
                "parallax_query_refused",
                "Queries that were refused because too many were waiting",
                Counter::default(),
            ),
            running: metrics.register("parallax_query_running", "Queries that are running", Gauge::default()),
            duration: metrics.register(
                "parallax_query_duration_seconds",
                "How long queries took, waiting included",
                Histogram::new(DURATION_BOUNDS_SECONDS),
            ),
        }
    }
}

impl QueryRunner {
    pub fn new(store: Arc<dyn Store>, engine: EngineOptions, limits: QueryLimits, metrics: &Metrics) -> Self {
        let running = limits.max_concurrent.clamp(1, Semaphore::MAX_PERMITS / 2);
        let waiting = limits.max_waiting.min(Semaphore::MAX_PERMITS / 2);
        Self {
            store,
            engine,
            slots: Arc::new(Semaphore::new(running)),
            places: Arc::new(Semaphore::new(running + waiting)),
            helpers: Helpers::default(),
            withholding: Withholding::counting(metrics.register(
                "parallax_query_selections_read_again",
                "Selections that were asked for again because a store had kept back chunks that were needed",
                Counter::default(),
            )),
            limits,
            metrics: QueryMetrics::new(metrics),
            gate: GateMetrics::register(metrics, running),
            blame: None,
            book: CoverageBook::new(metrics),
            distributor: None,
            active: ActiveQueries::default(),
        }
    }

    /// Lists what runs in `active`.
    #[must_use]
    pub(crate) fn with_active(self, active: ActiveQueries) -> Self {
        Self { active, ..self }
    }

    pub(crate) fn active(&self) -> &ActiveQueries {
        &self.active
    }

    /// Has aggregations evaluated by other queriers.
    #[must_use]
    pub(crate) fn with_distributor(self, distributor: Option<Arc<Distributor>>) -> Self {
        Self { distributor, ..self }
    }

    /// Counts answers in `book`.
    #[must_use]
    pub(crate) fn with_book(self, book: Arc<CoverageBook>) -> Self {
        Self { book, ..self }
    }

    /// What one answer is made of; counted.
    pub(crate) fn covered(&self, log: &CoverageLog) -> Option<Coverage> {
        self.book.covered(log)
    }

    /// Names whose series are malformed by asking `blame`.
    #[must_use]
    pub fn with_blame(self, blame: Arc<dyn Blame>) -> Self {
        Self { blame: Some(blame), ..self }
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn limits(&self) -> &QueryLimits {
        &self.limits
    }

    /// When a question that may take `timeout` at most has to be answered.
    pub fn deadline(&self, timeout: Option<Duration>) -> Instant {
        Instant::now() + self.limits.timeout.min(timeout.unwrap_or(Duration::MAX))
    }

    /// When stores have to be done for a question that is to be answered by `deadline`.
    pub fn store_deadline(&self, deadline: Instant) -> Instant {
        let left = deadline.saturating_duration_since(Instant::now());
        deadline.checked_sub((left / EVALUATION_SHARE).min(MAX_EVALUATION_RESERVE)).unwrap_or(deadline)
    }

    /// The operators that would answer `query`, and what others would be asked. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// If it cannot be planned.
    pub fn explain(&self, query: &Query) -> Result<PlanNode, QueryError> {
        let query = held(query.clone());
        let sources = self.sources(&query, self.deadline(query.timeout), CancellationToken::new());
        let (source, _) = sources.open(&CoverageLog::default(), &ReceivedLog::default(), true);
        Engine::new(self.engine_options(&query)).explain_over(&source, &query.expr, query.range)
    }

    fn sources(&self, query: &Query, deadline: Instant, canceled: CancellationToken) -> Sources {
        Sources {
            // What the engine selects beside the selectors of a query, as for info(), is held, too.
            store: query.caller.over(self.store.clone()),
            tenant: query.caller.tenant.clone(),
            runtime: Handle::current(),
            options: SelectOptions {
                replica_labels: query.replica_labels.clone(),
                algorithm: query.algorithm.unwrap_or(self.limits.algorithm),
                partial_response: query.partial_response,
                store_matchers: query.store_matchers.clone(),
                max_resolution_ms: query.max_resolution_ms,
                shard: query.shard.clone(),
                deadline: self.store_deadline(deadline),
                max_concurrent_opens: self.limits.max_concurrent_select,
            },
            max_held_bytes: self.limits.max_held_bytes,
            canceled,
            blame: self.blame.clone(),
            helpers: self.helpers.clone(),
            withholding: self.withholding.clone(),
            distributor: self.distributor.clone(),
            resolutions: ResolutionLog::default(),
        }
    }

    fn engine_options(&self, query: &Query) -> EngineOptions {
        let mut options = self.engine.clone();
        if let Some(lookback) = query.lookback {
            options.lookback_ms = i64::try_from(lookback.as_millis()).unwrap_or(i64::MAX);
        } else if self.limits.dynamic_lookback {
            options.lookback_ms = resolution::lookback_ms(options.lookback_ms, query.max_resolution_ms);
        }
        options.unseen_labels.clone_from(&query.replica_labels);
        options.stats.per_step &= query.stats.per_step;
        options.stats.operators |= query.stats.operators;
        options
    }

    /// Runs `query`, and `finish` on its outcome: both on a thread that may block, or both here if there is little to do.
    ///
    /// Dropping the future cancels the query.
    ///
    /// # Errors
    /// See [`RunError`]; a full queue and a wait past the deadline are timeouts.
    pub async fn run<T: Send + 'static>(
        &self,
        query: Query,
        finish: impl FnOnce(QueryOutcome, QueryTimes, Option<Coverage>) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let began = Instant::now();
        let deadline = self.deadline(query.timeout);
        let query = held(query);
        let mut active = self.active.enter(&query.text, query.range, &query.caller);
        let slot = self.slot(deadline).await?;
        let received = ReceivedLog::default();
        active.runs(&received);
        self.metrics.started.inc();
        let running = Running::new(self.metrics.running.clone());
        let queued = began.elapsed();

        let options = self.engine_options(&query);
        let interrupt = Interrupt::at(deadline);
        let canceled = CancellationToken::new();
        let guard = CancelOnDrop { interrupt: interrupt.clone(), canceled: canceled.clone() };
        let may_be_coarse = query.max_resolution_ms > 0;
        let evaluation = Evaluation {
            sources: self.sources(&query, deadline, canceled),
            engine: Engine::new(options),
            query,
            interrupt,
            received,
            began: Instant::now(),
        };
        let book = self.book.clone();
        let concluded = move |evaluation: Evaluation, (outcome, coverage): Evaluated| {
            let resolutions = may_be_coarse.then(|| evaluation.sources.resolutions.read());
            let (evaluated, received) = (evaluation.began.elapsed(), evaluation.received);
            let times = QueryTimes { queued, evaluated, received, resolutions };
            finish(outcome, times, book.covered(&coverage))
        };
        // These last as long as a thread is busy, which is longer than the caller when it goes away.
        let busy = (slot, running, active);
        let result = evaluation.conclude(busy, concluded).await;
        drop(guard);
        self.metrics.duration.observe(began.elapsed().as_secs_f64());
        if result.is_err() {
            self.metrics.failed.inc();
        }
        result
    }

    /// Waits for a place among those that run.
    ///
    /// # Errors
    /// A full queue and a wait past the deadline are timeouts.
    pub(crate) async fn slot(&self, deadline: Instant) -> Result<Slot, QueryError> {
        let in_queue = || QueryError::Timeout { waiting_for: "query queue".to_owned() };
        let waiting = self.gate.waiting();
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.refused.inc();
            return Err(QueryError::Timeout { waiting_for: "query queue, which is full".to_owned() });
        };
        match tokio::time::timeout_at(deadline.into(), self.slots.clone().acquire_owned()).await {
            Ok(Ok(slot)) => Ok(Slot { _in_flight: waiting.passed(), _place: place, _slot: slot }),
            Ok(Err(_)) | Err(_) => {
                self.metrics.failed.inc();
                Err(in_queue())
            }
        }
    }
}

/// What the sources of one query are made of.
struct Sources {
    /// As the caller sees it.
    store: Arc<dyn Store>,
    /// Whom those who evaluate a part are told to evaluate it for.
    tenant: Option<Arc<str>>,
    runtime: Handle,
    options: SelectOptions,
    max_held_bytes: usize,
    canceled: CancellationToken,
    blame: Option<Arc<dyn Blame>>,
    helpers: Helpers,
    withholding: Withholding,
    distributor: Option<Arc<Distributor>>,
    resolutions: ResolutionLog,
}

/// One query, ready to be evaluated.
struct Evaluation {
    sources: Sources,
    engine: Engine,
    query: Query,
    interrupt: Interrupt,
    received: ReceivedLog,
    began: Instant,
}

/// An outcome, and what was left while it came about.
type Evaluated = (QueryOutcome, CoverageLog);

impl Evaluation {
    /// Opens what the query selects, if that is one selection and nobody else evaluates a part.
    async fn open_early(&self) -> Option<Early> {
        if self.sources.distributor.is_some() {
            return None;
        }
        let selection = Early::selection(&self.engine, &self.query, &self.interrupt)?;
        let coverage = CoverageLog::default();
        let (source, _) = self.sources.open(&coverage, &self.received, false);
        Some(Early::open(source, coverage, &self.query, selection).await)
    }

    /// Evaluates right here what is small and there, and everything else, with `conclude`, on a thread that may block.
    async fn conclude<T: Send + 'static>(
        self,
        busy: impl Send + 'static,
        conclude: impl FnOnce(Self, Evaluated) -> T + Send + 'static,
    ) -> Result<T, RunError> {
        let mut early = self.open_early().await;
        if let Some(small) = early.take_if(|early| early.is_small)
            && let Some(evaluated) = caught(|| self.briefly(small))?
        {
            let evaluated = evaluated?;
            return caught(|| conclude(self, evaluated));
        }
        let work = move || {
            let _busy = busy;
            let evaluated = self.evaluate(early)?;
            Ok(conclude(self, evaluated))
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result.map_err(RunError::Query),
            Err(error) => Err(lost(error.to_string())),
        }
    }

    /// Evaluates what is there; `None` if that turns out to wait for something.
    fn briefly(&self, early: Early) -> Option<Result<Evaluated, QueryError>> {
        let Early { source, coverage, .. } = early;
        let brief = Brief::default();
        let outcome = self.run(&source.briefly(&brief));
        (!brief.has_given_up()).then(|| outcome.map(|outcome| (outcome, coverage)))
    }

    /// Evaluates, and once more without pushdown if that turns out to have been a mistake. Blocks.
    fn evaluate(&self, early: Option<Early>) -> Result<Evaluated, QueryError> {
        let sources = &self.sources;
        let (source, coverage, pushdown) = match early {
            Some(Early { source, coverage, .. }) => (source, coverage, None),
            None => {
                let coverage = CoverageLog::default();
                let (source, pushdown) = sources.open(&coverage, &self.received, true);
                (source, coverage, pushdown)
            }
        };
        let outcome = self.run(&source);
        match (outcome, pushdown) {
            (Err(error), Some(pushdown)) if pushdown.is_mixed() => {
                tracing::warn!(%error, "the query is evaluated again, without pushdown");
                pushdown.gives_up();
                drop(source);
                let coverage = CoverageLog::default();
                let (source, _) = sources.open(&coverage, &self.received, false);
                self.run(&source).map(|outcome| (outcome, coverage))
            }
            (outcome, _) => outcome.map(|outcome| (outcome, coverage)),
        }
    }

    fn run(&self, source: &StoreSource) -> Result<QueryOutcome, QueryError> {
        let query = &self.query;
        self.engine.query_text(source, &query.text, &query.expr, query.range, &self.interrupt)
    }
}

impl Sources {
    fn open(
        &self,
        coverage: &CoverageLog,
        received: &ReceivedLog,
        distributed: bool,
    ) -> (StoreSource, Option<Arc<QueryPushdown>>) {
        let budget = Budget::new(self.max_held_bytes);
        let runtime = self.runtime.clone();
        let distributor = self.distributor.as_ref().filter(|_| distributed);
        let pushdown = distributor.and_then(|distributor| {
            let logs = (coverage, received);
            let tenant = self.tenant.clone();
            QueryPushdown::new(distributor, runtime, &self.options, &budget, &self.canceled, logs, tenant)
        });
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        let source = StoreSource::new(store, runtime, self.options.clone(), budget, self.canceled.clone())
            .with_blame(self.blame.clone())
            .with_helpers(self.helpers.clone())
            .with_withholding(self.withholding.clone())
            .with_coverage(coverage.clone())
            .with_received(received.clone())
            .with_resolutions(self.resolutions.clone())
            .with_pushdown(pushdown.clone());
        (source, pushdown)
    }
}

/// What `work` gives, unless it panics: then that ends this query alone, as on a thread of its own.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, RunError> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| lost("it panicked".to_owned()))
}

fn lost(reason: String) -> RunError {
    tracing::error!(reason, "a query's evaluation ended early");
    RunError::Lost(reason)
}

/// With what its caller is held to in every selector.
fn held(mut query: Query) -> Query {
    restrict(&mut query.expr, query.caller.hold.matchers());
    query
}

/// Ends a query whose caller no longer waits.
struct CancelOnDrop {
    interrupt: Interrupt,
    canceled: CancellationToken,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.interrupt.cancel();
        self.canceled.cancel();
    }
}

/// Counts a query as running for as long as it lives.
struct Running(Gauge);

impl Running {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
