//! Many stores as one: fan-out, merge, and an honest account of what is missing.
//!
//! Invariants:
//! - No answer waits for an endpoint longer than its deadlines allow; what others sent stays.
//! - An endpoint that was needed and did not answer in full is a warning, or where no partial answer is allowed, an error. Never silence.
//! - Dropping an answer ends every call behind it.
//! - What an endpoint sends is bounded, in frames, in bytes ahead of the merge and in all, and looked at: what is malformed is left out as that endpoint's gap.

mod attest;
mod blame;
mod check;
mod claimed;
mod gather;
mod info;
mod label_calls;
mod look_ahead;
mod open;
mod patience;
mod pump;
mod query_call;
mod series;
mod side;
mod side_calls;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::proto::thanos::info::{InfoResponse, QueryApiInfo};
use parallax_storeapi::proto::thanos::{
    LabelMatcher, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
    PartialResponseStrategy, SeriesRequest,
};
use parallax_storeapi::withhold::WITHHOLD_HEADER;
use parallax_storeapi::{
    SeriesStream, SideServices, Store, TENANT_HEADER, async_trait, deadline_of, matchers, with_deadline,
};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Request, Status};

use crate::cost::CostMetrics;
use crate::coverage::{CoverageEntry, Gap, GapKind, bounded};
use crate::endpoint::{Endpoint, EndpointSet};
use crate::received::{ReceivedCounter, ReceivedLog};
use crate::select::{Among, Budget, Interest};
use crate::store_selection::{Selection, select};
use patience::Patience;

pub(crate) use look_ahead::Ahead;
pub use side_calls::SideLimits;

/// The gRPC metadata by which a proxy tells one below it how long it bears silence, in milliseconds: the lower one has to give up on a hung
/// endpoint before the upper one gives up on it. Thanos ignores it.
const SILENCE_HEADER: &str = "parallax-silence-ms";

/// What a querier calls itself in Info, ours and Thanos'.
const QUERIER: &str = "query";

/// Of the silence the caller bears, one part in this many is kept for the way up.
const SILENCE_SHARE: u32 = 5;

/// Part of the time left that a proxy keeps to report what is late: one in this many…
const REPORT_SHARE: u32 = 10;
/// …and never more than this.
const MAX_REPORT_RESERVE: Duration = Duration::from_secs(1);

/// How much later than the wait for it a request ends, so that it is known why.
const AFTERTHOUGHT: Duration = Duration::from_millis(5);

/// Bounds of a fan-out.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Longest silence of an endpoint: before its first frame, retries included, and between frames. `None` for no
    /// limit but the request's deadline. Thanos' `--store.response-timeout`.
    pub response_timeout: Option<Duration>,
    /// Deadline of a request that came without one.
    pub default_timeout: Duration,
    /// An endpoint that was silent for this long when the request's deadline ended the wait counts as hung.
    pub hung_after: Duration,
    /// Deliveries that may wait per endpoint for the merge.
    pub look_ahead: usize,
    /// Bytes of series that may wait per endpoint for the merge; a larger frame waits alone.
    pub look_ahead_bytes: usize,
    /// Bytes of series that one call may hold, if it brings no budget of a query; 0 for no limit.
    pub max_held_bytes: usize,
    /// Bytes of series that one endpoint may send in one answer; 0 for no limit.
    pub max_response_bytes: u64,
    /// How often a stream is opened again after a transport error before its first frame.
    pub max_retries: u32,
    /// What answers of the small services (rules, targets…) may take.
    pub side_limits: SideLimits,
    /// Labels this proxy adds to what it advertises; a query that contradicts them gets nothing. Thanos' `--selector-label`.
    pub selector_labels: Labels,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            response_timeout: None,
            default_timeout: Duration::from_secs(120),
            hung_after: Duration::from_secs(5),
            look_ahead: 16,
            look_ahead_bytes: 16 << 20,
            max_held_bytes: 1 << 30,
            max_response_bytes: 16 << 30,
            max_retries: 2,
            side_limits: SideLimits::default(),
            selector_labels: Labels::empty(),
        }
    }
}

/// A `Store` over an [`EndpointSet`]. Cloning shares it.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Arc<EndpointSet>,
    config: ProxyConfig,
    gaps: GapCounter,
    received: ReceivedCounter,
    costs: CostMetrics,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

type GapCounter = Family<KindLabel, Counter<u64, AtomicU64>>;

impl Proxy {
    pub fn new(endpoints: Arc<EndpointSet>, config: ProxyConfig, metrics: &Metrics) -> Self {
        let gaps = metrics.register(
            "parallax_querier_coverage_gaps",
            "Endpoints that were missing from answers, by how they failed",
            GapCounter::default(),
        );
        let received = ReceivedCounter::new(metrics);
        let costs = CostMetrics::new(metrics);
        Self { inner: Arc::new(Inner { endpoints, config, gaps, received, costs }) }
    }

    pub fn endpoints(&self) -> &Arc<EndpointSet> {
        &self.inner.endpoints
    }

    /// Counts a gap, once for a selection that is asked for again.
    fn count(&self, call: &Call, gap: &Gap) {
        if call.interest.is_new(Arc::as_ptr(&self.inner).addr(), gap) {
            self.count_always(gap);
        }
    }

    fn count_always(&self, gap: &Gap) {
        self.inner.gaps.get_or_create(&KindLabel { kind: gap.kind.as_str() }).inc();
    }

    /// Checks a request's matchers; `None` if the selector labels rule everything out.
    fn matchers(&self, wire: &[LabelMatcher]) -> Result<Option<Vec<Matcher>>, Status> {
        let all = matchers::from_wire(wire)?;
        Ok(matchers::without_external(&all, &self.inner.config.selector_labels))
    }

    /// Selects endpoints. Where no partial answer is allowed, a gap, and having no endpoint at all, is an error.
    fn select(&self, call: &Call, matchers: &[Matcher], range: TimeRange) -> Result<Selection, Status> {
        let select = || select(&self.inner.endpoints, range, matchers, &call.store_matchers);
        let selection = match &call.among {
            None => select(),
            Some(among) => among.selection(matchers, select),
        };
        self.admit(call, selection)
    }

    fn admit(&self, call: &Call, selection: Selection) -> Result<Selection, Status> {
        if call.abort && self.inner.endpoints.endpoints().is_empty() {
            return Err(Status::unavailable("no endpoints are configured"));
        }
        for gap in &selection.gaps {
            self.count(call, gap);
        }
        match (selection.gaps.first(), selection.fatal()) {
            (Some(gap), _) if call.abort => Err(aborted(gap)),
            (_, Some(gap)) => Err(aborted(&without_exception(gap.clone()))),
            _ => Ok(selection),
        }
    }
}

/// What all calls have beside their message.
struct Call {
    /// Whether a gap fails the call.
    abort: bool,
    /// When endpoints have to be done.
    endpoint_deadline: Instant,
    /// Longest silence of an endpoint, for this call.
    silence: Option<Duration>,
    store_matchers: Vec<Vec<Matcher>>,
    /// Whether it reads what some endpoint did not evaluate, so that part of that endpoint's budget is spent.
    is_rest: bool,
    /// The gap of a required endpoint, if there is one.
    fatal: OnceLock<Gap>,
    /// For every endpoint.
    metadata: MetadataMap,
    /// Of the query, or of this call alone if it came from elsewhere.
    budget: Arc<Budget>,
    /// Whether anybody waits for the answer yet.
    interest: Interest,
    /// Only these endpoints are asked, if anybody says so.
    among: Option<Among>,
    /// Where whoever asked wants to find how much came.
    received: Option<ReceivedLog>,
    /// Where whoever asked wants to find what is known of the answer.
    coverage: Option<CoverageEntry>,
}

impl Call {
    fn of<T>(request: &Request<T>, config: &ProxyConfig, disabled: bool, strategy: i32) -> Self {
        let now = Instant::now();
        let deadline = deadline_of(request).unwrap_or_else(|| now + config.default_timeout);
        let left = deadline.saturating_duration_since(now);
        let reserve = (left / REPORT_SHARE).min(MAX_REPORT_RESERVE);
        let mut metadata = MetadataMap::new();
        for passed_on in [TENANT_HEADER, WITHHOLD_HEADER] {
            if let Some(value) = request.metadata().get(passed_on) {
                metadata.insert(passed_on, value.clone());
            }
        }
        let borne = silence_borne_by(request.metadata());
        let silence = [borne, config.response_timeout].into_iter().flatten().min();
        let among = request.extensions().get::<Among>().cloned();
        let is_rest =
            matches!(among, Some(Among::Only(_))) || request.extensions().get::<ReadsTheRest>().is_some();
        Self {
            abort: disabled || strategy == i32::from(PartialResponseStrategy::Abort),
            endpoint_deadline: deadline.checked_sub(reserve).unwrap_or(deadline),
            silence,
            is_rest,
            fatal: OnceLock::new(),
            store_matchers: request
                .extensions()
                .get::<crate::select::StoreMatchers>()
                .map(|matchers| matchers.0.clone())
                .unwrap_or_default(),
            metadata,
            budget: request
                .extensions()
                .get::<Arc<Budget>>()
                .cloned()
                .unwrap_or_else(|| Budget::new(config.max_held_bytes)),
            interest: request.extensions().get::<Interest>().cloned().unwrap_or_else(Interest::always),
            among,
            received: request.extensions().get::<ReceivedLog>().cloned(),
            coverage: request.extensions().get::<CoverageEntry>().cloned(),
        }
    }

    /// Whether anything that `endpoint` leaves out fails the call.
    fn is_strict(&self, endpoint: &Endpoint) -> bool {
        self.abort || endpoint.declared().required
    }

    /// `gap` of `endpoint`, which fails the call if it is required.
    fn left_by(&self, endpoint: &Endpoint, gap: Gap) -> Gap {
        if !endpoint.declared().required {
            return gap;
        }
        let gap = without_exception(gap);
        // The first one is told.
        let _ = self.fatal.set(gap.clone());
        gap
    }

    /// What fails the call, now that there is `gap`.
    fn failure(&self, gap: &Gap) -> Option<Status> {
        if self.abort { Some(aborted(gap)) } else { self.fatal.get().map(aborted) }
    }

    /// A request for frames to an endpoint. Its budget is no deadline of theirs: how fast they are read is not up to it.
    fn outgoing<T>(&self, endpoint: &Endpoint, message: T) -> Request<T> {
        self.outgoing_by(endpoint, message, self.endpoint_deadline)
    }

    /// A request for one answer, which nobody waits for beyond the endpoint's budget.
    fn outgoing_once<T>(&self, endpoint: &Endpoint, message: T) -> Request<T> {
        let ends = Patience::new(self, endpoint).ends_at_the_latest() + AFTERTHOUGHT;
        self.outgoing_by(endpoint, message, ends.min(self.endpoint_deadline))
    }

    fn outgoing_by<T>(&self, endpoint: &Endpoint, message: T, deadline: Instant) -> Request<T> {
        let mut request = with_deadline(message, Some(deadline));
        // A querier in this process shares it.
        request.extensions_mut().insert(Arc::clone(&self.budget));
        request.extensions_mut().insert(self.interest.clone());
        if self.is_rest {
            request.extensions_mut().insert(ReadsTheRest);
        }
        if let Some(received) = &self.received {
            request.extensions_mut().insert(received.clone());
        }
        for entry in self.metadata.iter() {
            if let KeyAndValueRef::Ascii(key, value) = entry {
                request.metadata_mut().insert(key.clone(), value.clone());
            }
        }
        if let Some(silence) = Patience::new(self, endpoint).silence() {
            let silence_ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
            request.metadata_mut().insert(SILENCE_HEADER, silence_ms.into());
        }
        request
    }
}

/// A request extension: see [`Call::is_rest`]. It never travels.
#[derive(Clone, Copy, Debug)]
struct ReadsTheRest;

/// The gap of a required endpoint.
fn without_exception(mut gap: Gap) -> Gap {
    // A querier of this process may have said so already.
    if !gap.reason.ends_with(REQUIRED) {
        gap.reason.push_str(REQUIRED);
    }
    gap
}

/// How long the caller bears silence from here, less what the way up takes.
fn silence_borne_by(metadata: &MetadataMap) -> Option<Duration> {
    let borne_ms: u64 = metadata.get(SILENCE_HEADER)?.to_str().ok()?.parse().ok()?;
    let borne = Duration::from_millis(borne_ms);
    Some(borne - borne / SILENCE_SHARE)
}

/// What is added to the reason of a gap that fails a call which allows others.
const REQUIRED: &str = " (this cluster is required: without it there is no answer)";

/// The gap that an endpoint leaves which was silent for `silence`. A real hang is recorded, so that the next query does not wait for it too;
/// that a caller was in a hurry proves nothing.
fn late(endpoint: &Endpoint, config: &ProxyConfig, silence: Duration, reason: String) -> Gap {
    // A caller that bears just as much silence as this proxy leaves it a little less.
    let own = [config.response_timeout, endpoint.declared().budget].into_iter().flatten();
    let hung_after = own.fold(config.hung_after, |least, own| least.min(own * 3 / 4));
    if silence >= hung_after {
        endpoint.hung(&reason);
    }
    endpoint.gap(GapKind::Late, reason)
}

/// The gap that a failed call leaves. A querier below that names a gap of its own is taken at its word.
fn gap_of(endpoint: &Endpoint, status: &Status, something_came: bool) -> Gap {
    Gap::parse(&bounded(status.message().to_owned()))
        .unwrap_or_else(|| endpoint.gap(kind_of(status, something_came), reason_of(status)))
}

fn aborted(gap: &Gap) -> Status {
    Status::aborted(gap.to_string())
}

/// What kind of gap a failed call leaves, by its status and whether something had come before.
fn kind_of(status: &Status, something_came: bool) -> GapKind {
    use tonic::Code;
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated | Code::ResourceExhausted => GapKind::Refused,
        Code::DeadlineExceeded => GapKind::Late,
        _ if something_came => GapKind::Partial,
        _ => GapKind::Missing,
    }
}

/// What a status says, or at least its code.
pub(crate) fn reason_of(status: &Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

#[async_trait]
impl Store for Proxy {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let query = self.passes_queries_to().map(|_| QueryApiInfo {});
        let all = info::aggregate(&self.inner.endpoints, &self.inner.config.selector_labels);
        Ok(InfoResponse { query, ..all })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.merged_series(request)
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.merged_label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.merged_label_values(request).await
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}
