//! The Series call of a proxy: select, ask all at once, merge, and say what is missing.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures::Stream;
use parallax_model::TimeRange;
use parallax_storeapi::proto::thanos::{SeriesRequest, SeriesResponse};
use parallax_storeapi::{Begun, SeriesStream, ShardMatcher, frames, matchers};
use tokio::sync::mpsc;
use tonic::{Request, Status};

use super::attest::Attested;
use super::pump::Pump;
use super::{Call, Proxy};
use crate::coverage::{Coverage, Gap, GapKind, to_hint};
use crate::endpoint::Endpoint;
use crate::merge::{Merge, Merged, Source};
use crate::received::Kind;

/// Of so many endpoints those of this process are asked by the call itself, one after the other: what they have in memory is then there at once.
const ENDPOINTS_BEGUN_HERE: usize = 8;

impl Proxy {
    pub(super) fn merged_series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let config = &self.inner.config;
        let message = request.get_ref();
        let call =
            Call::of(&request, config, message.partial_response_disabled, message.partial_response_strategy);
        let request = request.into_inner();
        ShardMatcher::new(request.shard_info.as_ref())?;
        let Some(matchers) = self.matchers(&request.matchers)? else {
            return Ok(frames::from_vec(Vec::new()));
        };
        if matchers.is_empty() {
            return Err(Status::invalid_argument("no matchers specified (excluding selector labels)"));
        }
        let range = TimeRange::new(request.min_time, request.max_time);
        let selection = self.select(&call, &matchers, range)?;
        // Hints are for one kind of store; another refuses what it does not know.
        let asked = SeriesRequest { matchers: matchers::to_wire(&matchers), hints: None, ..request.clone() };

        let label = &self.inner.endpoints.options().cluster_label;
        let selectors = std::slice::from_ref(&matchers);
        let attested = Arc::new(Attested::new(&selection, selectors, range, label));
        let call = Arc::new(call);
        let is_of_few = selection.ask.len() <= ENDPOINTS_BEGUN_HERE;
        let mut tasks = Vec::with_capacity(selection.ask.len());
        let mut sources = Vec::with_capacity(selection.ask.len());
        let endpoints = selection.ask.iter().map(|selected| Arc::clone(&selected.endpoint)).collect();
        for (index, selected) in selection.ask.into_iter().enumerate() {
            let (sender, queue) = mpsc::channel(config.look_ahead.max(1));
            let lost = selected.endpoint.gap(GapKind::Partial, "its task ended unexpectedly");
            sources.push(Source::new(queue, lost));
            let place = (Arc::clone(&attested), index);
            let log = call.received.as_ref();
            let received = self.received_from(&selected.endpoint, Kind::Series, log);
            let cost = self.inner.costs.of_call(&selected.endpoint, received, log);
            let (asked, call) = (asked.clone(), Arc::clone(&call));
            let pump = Pump::new(selected, asked, call, config.clone(), sender, place, cost);
            let is_near = is_of_few && pump.selected.endpoint.is_local();
            tasks.push(if is_near { Begun::here(pump.run()) } else { Begun::elsewhere(pump.run()) });
        }
        let answer = Answer {
            proxy: self.clone(),
            gaps: selection.gaps.into(),
            merge: Some(Merge::new(sources)),
            endpoints,
            series_left: u64::try_from(request.limit).ok().filter(|limit| *limit > 0),
            call,
            attested,
            is_told: false,
            tasks,
        };
        Ok(frames::batched(Box::pin(answer), request.response_batch_size))
    }
}

/// The merged stream as frames: gaps known from the start, then what the stores send.
struct Answer {
    proxy: Proxy,
    /// Known before anything was asked.
    gaps: VecDeque<Gap>,
    /// `None` once it has ended.
    merge: Option<Merge>,
    /// Whom the merge's sources are of.
    endpoints: Vec<Arc<Endpoint>>,
    /// Series that may still be sent; `None` for no limit. Thanos counts warnings too: there, naming what is missing costs series that are not.
    series_left: Option<u64>,
    call: Arc<Call>,
    attested: Arc<Attested>,
    /// Whether its coverage was told.
    is_told: bool,
    /// Dropped with the answer, and ended by that.
    tasks: Vec<Begun>,
}

impl Answer {
    fn frame(&mut self, merged: Merged) -> Result<SeriesResponse, Status> {
        let merged = match merged {
            Merged::Lost(index, gap) => Merged::Gap(self.lost(index, gap)),
            other => other,
        };
        let failure = match merged {
            Merged::Series(series) => {
                self.series_left = self.series_left.map(|left| left.saturating_sub(1));
                return Ok(frames::series(series));
            }
            Merged::Hints(hints) => return Ok(frames::hints(hints)),
            Merged::Warning(text) if !self.call.abort => return Ok(frames::warning(text)),
            Merged::Warning(text) => Status::aborted(text),
            Merged::Gap(gap) | Merged::Lost(_, gap) => {
                self.proxy.count(&self.call, &gap);
                match self.call.failure(&gap) {
                    None => return Ok(frames::warning(gap.to_string())),
                    Some(failure) => failure,
                }
            }
        };
        self.end();
        // Of an answer that fails, the error says what there is to say.
        self.is_told = true;
        Err(failure)
    }

    /// The gap of the endpoint `index`, whose task ended before it could leave it.
    fn lost(&self, index: usize, gap: Gap) -> Gap {
        let gap = match self.endpoints.get(index) {
            Some(endpoint) => self.call.left_by(endpoint, gap),
            None => gap,
        };
        self.attested.gap(index, &gap);
        gap
    }

    fn end(&mut self) {
        self.merge = None;
        self.tasks.clear();
    }

    /// Says once what the answer has: to whoever asked in this process, or in a last frame to a querier above.
    fn tell(&mut self, was_enough: bool) -> Option<SeriesResponse> {
        if std::mem::replace(&mut self.is_told, true) {
            return None;
        }
        self.leave(self.attested.coverage(was_enough))
    }

    fn leave(&self, coverage: Coverage) -> Option<SeriesResponse> {
        match &self.call.coverage {
            Some(entry) => {
                entry.leave(coverage);
                None
            }
            None => Some(frames::hints(to_hint(&coverage))),
        }
    }
}

/// An answer that is given up has what came until then; if that is for its time, nobody knows what of it was passed on.
impl Drop for Answer {
    fn drop(&mut self) {
        if self.is_told || self.call.coverage.is_none() {
            return;
        }
        if Instant::now() < self.call.endpoint_deadline {
            self.tell(false);
        } else {
            self.leave(self.attested.coverage_of_given_up());
        }
    }
}

impl Stream for Answer {
    type Item = Result<SeriesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(gap) = self.gaps.pop_front() {
            return Poll::Ready(Some(Ok(frames::warning(gap.to_string()))));
        }
        if self.series_left == Some(0) {
            self.end();
            return Poll::Ready(self.tell(true).map(Ok));
        }
        let Some(merge) = &mut self.merge else { return Poll::Ready(None) };
        match futures::ready!(Pin::new(merge).poll_next(context)) {
            Some(merged) => Poll::Ready(Some(self.frame(merged))),
            None => {
                self.merge = None;
                Poll::Ready(self.tell(false).map(Ok))
            }
        }
    }
}
