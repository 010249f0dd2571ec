//! One endpoint asked to evaluate a query.
//!
//! An evaluation is silent until it is done, so silence alone says nothing: while it lasts, Info shows whether the endpoint is alive. One that is not counts as hung, as in any
//! other call; one that is may take as long as the request allows. Nothing is tried again here: whoever asked can still ask for the series.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_model::{Matcher, TimeRange};
use parallax_storeapi::proto::thanos::{QueryRangeRequest, QueryRangeResponse};
use parallax_storeapi::{FrameStream, TENANT_HEADER, deadline_of, with_deadline};
use prost::Message;
use tonic::{Request, Status};

use super::attest::Attested;
use super::{Proxy, ProxyConfig, late};
use crate::claim::ForeignLabels;
use crate::coverage::Coverage;
use crate::endpoint::Endpoint;
use crate::query_api::{COVERAGE_HEADER, DEDUP_FUNC_HEADER};
use crate::received::{Kind, ReceivedInCall, ReceivedLog};
use crate::store_selection::{Selected, Selection, select};

/// Headers that whoever asks may set for whoever evaluates.
const PASSED_HEADERS: [&str; 3] = [TENANT_HEADER, COVERAGE_HEADER, DEDUP_FUNC_HEADER];

impl Proxy {
    /// What a selection would be asked of; `None` where not every endpoint is asked for the same.
    pub(crate) fn selection(&self, matchers: &[Matcher], range: TimeRange) -> Option<Selection> {
        let is_plain = self.inner.config.selector_labels.is_empty();
        is_plain.then(|| select(&self.inner.endpoints, range, matchers, &[]))
    }

    /// What one endpoint's whole answer vouches for.
    pub(crate) fn attested(
        &self,
        selected: &Selected,
        (matchers, range): (&[Matcher], TimeRange),
        warnings: &[String],
        beneath: Option<Coverage>,
    ) -> Coverage {
        let selection = Selection { ask: vec![selected.clone()], ..Selection::default() };
        let label = &self.inner.endpoints.options().cluster_label;
        let attested = Attested::new(&selection, &[matchers.to_vec()], range, label);
        warnings.iter().for_each(|text| attested.warning(0, text));
        if let Some(beneath) = beneath {
            attested.beneath(0, beneath);
        }
        attested.ended(0);
        attested.coverage(false)
    }

    /// The only endpoint, if it can be asked to evaluate queries in this proxy's place: then what it holds is what this one holds.
    pub(super) fn passes_queries_to(&self) -> Option<Selected> {
        let all = self.inner.endpoints.endpoints();
        let [only] = &all[..] else { return None };
        let selected = Selected::at(only, Instant::now());
        (self.inner.config.selector_labels.is_empty() && selected.can_evaluate()).then_some(selected)
    }

    /// Counts what `endpoint` sends, if it is not of this process.
    pub(super) fn received_from(
        &self,
        endpoint: &Endpoint,
        kind: Kind,
        log: Option<&ReceivedLog>,
    ) -> Option<ReceivedInCall> {
        let count = || {
            let label = self.inner.costs.names().of(endpoint);
            self.inner.received.of_call(endpoint.cluster_name(), label, kind, log.cloned())
        };
        (!endpoint.is_local()).then(count)
    }

    /// Asks `selected`, and gives its frames as they come.
    ///
    /// # Errors
    /// What it answers, or `DeadlineExceeded`.
    pub(crate) async fn ask_query(
        &self,
        selected: &Selected,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        let config = self.inner.config.clone();
        let now = Instant::now();
        let asked_until = deadline_of(&request).unwrap_or_else(|| now + config.default_timeout);
        // The rest of its budget is for its series, should it decline.
        let budget = selected.endpoint.declared().budget.map(|budget| budget / 2);
        let deadline = budget.and_then(|budget| now.checked_add(budget));
        let deadline = deadline.map_or(asked_until, |deadline| deadline.min(asked_until));
        let left = deadline.saturating_duration_since(now);
        let silence = config.response_timeout.unwrap_or(left / 2).min(left / 2);
        let log = request.extensions().get::<ReceivedLog>();
        let received = self.received_from(&selected.endpoint, Kind::Query, log);
        let call =
            QueryCall { endpoint: Arc::clone(&selected.endpoint), config, deadline, silence, received };
        let mut outgoing = outgoing(request, deadline);
        if selected.endpoint.declared().required {
            outgoing.get_mut().enable_partial_response = false;
        }
        call.ask(outgoing).await
    }
}

impl Selected {
    /// Whether it is well, offers to evaluate queries, and what it holds is believed as it is.
    pub(crate) fn can_evaluate(&self) -> bool {
        let Some(known) = &self.metadata else { return false };
        let injects = self.endpoint.claim().is_some_and(|claim| claim.mode() == ForeignLabels::Inject);
        known.has_query
            && known.has_store
            && known.foreign.is_none()
            // What is evaluated there would have all of it.
            && known.left_out.is_empty()
            && !injects
            && self.was_as_expected
    }
}

fn outgoing(request: Request<QueryRangeRequest>, deadline: Instant) -> Request<QueryRangeRequest> {
    let mut outgoing = with_deadline(request.get_ref().clone(), Some(deadline));
    for name in PASSED_HEADERS {
        if let Some(value) = request.metadata().get(name) {
            outgoing.metadata_mut().insert(name, value.clone());
        }
    }
    if let Some(log) = request.extensions().get::<ReceivedLog>() {
        outgoing.extensions_mut().insert(log.clone());
    }
    outgoing
}

struct QueryCall {
    endpoint: Arc<Endpoint>,
    config: ProxyConfig,
    deadline: Instant,
    /// How long nothing at all may be heard.
    silence: Duration,
    received: Option<ReceivedInCall>,
}

type Frame = Result<QueryRangeResponse, Status>;

impl QueryCall {
    async fn ask(
        self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        let store = Arc::clone(self.endpoint.store());
        let opening = async {
            let mut stream = store.side().query_range(request).await?;
            let first = stream.next().await;
            Ok((stream, first))
        };
        let (stream, first) = self.while_alive(opening).await?;
        let first = first.inspect(|frame| self.count(frame));
        let rest = futures::stream::unfold(Some((self, stream)), |state| async move {
            let (call, mut stream) = state?;
            let ends = call.deadline.min(Instant::now() + call.silence);
            match tokio::time::timeout_at(ends.into(), stream.next()).await {
                Ok(None) => None,
                Ok(Some(frame)) => {
                    call.count(&frame);
                    Some((frame, Some((call, stream))))
                }
                Err(_) => Some((Err(call.too_late(call.silence)), None)),
            }
        });
        Ok(Box::pin(futures::stream::iter(first).chain(rest)))
    }

    /// Waits for `answer` as long as the endpoint shows that it is alive.
    async fn while_alive<T>(&self, answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
        let began = Instant::now();
        tokio::pin!(answer);
        loop {
            let pause = self.deadline.min(Instant::now() + self.silence / 2);
            if let Ok(answer) = tokio::time::timeout_at(pause.into(), &mut answer).await {
                return answer;
            }
            let ends = Instant::now() + self.silence / 2;
            let alive = tokio::time::timeout_at(ends.into(), self.endpoint.store().info());
            tokio::select! {
                biased;
                answer = &mut answer => return answer,
                info = alive => {
                    if !matches!(info, Ok(Ok(_))) {
                        return Err(self.too_late(began.elapsed()));
                    }
                }
            }
            if Instant::now() >= self.deadline {
                return Err(Status::deadline_exceeded("it takes longer than there is time"));
            }
        }
    }

    fn too_late(&self, silence: Duration) -> Status {
        let reason = format!("nothing came for {:.1} s, after 0 frames", silence.as_secs_f64());
        Status::deadline_exceeded(late(&self.endpoint, &self.config, silence, reason).to_string())
    }

    fn count(&self, frame: &Frame) {
        if let (Some(received), Ok(frame)) = (&self.received, frame) {
            received.add(frame.encoded_len());
        }
    }
}
