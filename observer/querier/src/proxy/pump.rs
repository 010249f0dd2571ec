//! One endpoint's part of a Series answer: opens the stream, keeps its deadlines and bounds, and moves frames into the merge's queue.
//!
//! The time that counts is the endpoint's silence, not the time the merge takes to accept. A transport error before the first frame is tried again;
//! after it, what came stays and the rest is a gap. Series of old stores are sharded and re-sorted here, so that all deliver alike.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use parallax_model::{Labels, Quota};
use parallax_storeapi::proto::Any;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{PartialResponseStrategy, Series, SeriesRequest};
use parallax_storeapi::{Resorter, SeriesStream, ShardMatcher, chunks};
use tokio::sync::mpsc;
use tonic::Status;

use super::attest::Attested;
use super::check::{Checker, Held};
use super::look_ahead::LookAhead;
use super::open::open_with_retries;
use super::patience::Patience;
use super::{Call, ProxyConfig, gap_of};
use crate::chosen::{Narrowing, Sieve};
use crate::claim::{Claim, ForeignLabels};
use crate::cost::CallCost;
use crate::coverage::{Gap, GapKind, bounded, from_hint};
use crate::merge::Delivery;
use crate::store_selection::Selected;

/// Most warnings, and most hints, of one endpoint in one answer; a querier sends one for each of its own endpoints that is missing.
const MAX_ASIDES: u64 = 10_000;

pub(super) struct Pump {
    pub selected: Selected,
    pub request: SeriesRequest,
    pub call: Arc<Call>,
    pub config: ProxyConfig,
    pub queue: mpsc::Sender<Delivery>,
    /// What this endpoint vouches for, at its place.
    attested: Arc<Attested>,
    index: usize,
    ahead: LookAhead,
    patience: Patience,
    /// What it may send in all.
    sent: Quota,
    cost: CallCost,
    asides: Quota,
}

/// The merge does not want any more.
struct Unwanted;

/// Why a pump stopped early.
enum Stop {
    Gap(Gap),
    Unwanted,
}

impl From<Unwanted> for Stop {
    fn from(_: Unwanted) -> Self {
        Self::Unwanted
    }
}

impl Pump {
    pub(super) fn new(
        selected: Selected,
        request: SeriesRequest,
        call: Arc<Call>,
        config: ProxyConfig,
        queue: mpsc::Sender<Delivery>,
        (attested, index): (Arc<Attested>, usize),
        cost: CallCost,
    ) -> Self {
        let ahead = LookAhead::new(Arc::clone(&call.budget), call.interest.clone(), config.look_ahead_bytes);
        let response_bytes = selected.endpoint.limits().response_bytes;
        let sent = Quota::new("bytes", response_bytes.unwrap_or(config.max_response_bytes));
        let asides = Quota::new("warnings", MAX_ASIDES);
        let patience = Patience::new(&call, &selected.endpoint);
        Self { selected, request, call, config, queue, attested, index, ahead, patience, sent, cost, asides }
    }

    pub(super) async fn run(mut self) {
        let last = match self.pump().await {
            Ok(()) => {
                self.cost.ended(None);
                Delivery::Done
            }
            Err(Stop::Gap(gap)) => {
                let gap = self.call.left_by(&self.selected.endpoint, gap);
                self.cost.ended(Some(gap.kind));
                self.attested.gap(self.index, &gap);
                Delivery::Failed(gap)
            }
            Err(Stop::Unwanted) => return,
        };
        self.attested.ended(self.index);
        // If nobody listens any more, nobody misses it.
        let _ = self.queue.send(last).await;
    }

    async fn pump(&mut self) -> Result<(), Stop> {
        let mut shaper = Shaper::new(&self.selected, &self.request)
            .map_err(|status| Stop::Gap(self.gap(&status, false)))?;
        let (mut stream, mut next) = self.open(&shaper).await?;
        let mut frames = 0_u64;
        loop {
            match next {
                None => break,
                Some(Ok(frame)) => {
                    frames += 1;
                    self.cost.frame(&frame);
                    self.accept(&mut shaper, frame.result).await?;
                }
                Some(Err(status)) => {
                    self.settle(&mut shaper).await?;
                    return Err(Stop::Gap(self.gap(&status, frames > 0)));
                }
            }
            // A stream that always has more would never let anybody else run, nor see its deadline.
            tokio::task::coop::consume_budget().await;
            if Instant::now() >= self.call.endpoint_deadline {
                self.settle(&mut shaper).await?;
                let reason = format!("it was still sending when the time was up, after {frames} frames");
                return Err(Stop::Gap(self.selected.endpoint.gap(GapKind::Late, reason)));
            }
            next = match self.patience.wait(stream.next()).await {
                Ok(next) => next,
                Err(silence) => {
                    self.settle(&mut shaper).await?;
                    let endpoint = &self.selected.endpoint;
                    return Err(Stop::Gap(self.patience.late(endpoint, &self.config, silence, frames)));
                }
            };
        }
        self.settle(&mut shaper).await
    }

    /// Delivers what was held back, and says how much was left out.
    async fn settle(&self, shaper: &mut Shaper) -> Result<(), Stop> {
        let rest = shaper.finish()?;
        self.deliver(shaper, rest).await?;
        match shaper.checker.summary() {
            Some(reason) => self.leave_gap(reason).await,
            None => Ok(()),
        }
    }

    /// Opens the stream and waits for its first frame.
    async fn open(&mut self, shaper: &Shaper) -> Result<(SeriesStream, Opened), Stop> {
        let endpoint = &self.selected.endpoint;
        let (call, request) = (&self.call, shaper.adapted(&self.request));
        let opening = || async {
            let request = call.outgoing(endpoint, request.clone());
            let mut stream = endpoint.store().series(request).await?;
            match stream.next().await {
                Some(Err(status)) => Err(status),
                first => Ok((stream, first)),
            }
        };
        open_with_retries(endpoint, &mut self.patience, &self.config, opening)
            .await
            .map_err(|failure| Stop::Gap(failure.gap(endpoint, &self.patience, &self.config)))
    }

    fn gap(&self, status: &Status, something_came: bool) -> Gap {
        gap_of(&self.selected.endpoint, status, something_came)
    }

    async fn accept(&self, shaper: &mut Shaper, frame: Option<Frame>) -> Result<(), Stop> {
        let series = match frame {
            Some(Frame::Series(series)) => vec![series],
            Some(Frame::Batch(batch)) => batch.series,
            Some(Frame::Warning(text)) => {
                let text = bounded(text);
                if self.selected.endpoint.declared().required {
                    let odd = |text| self.selected.endpoint.gap(GapKind::Partial, text);
                    return Err(Stop::Gap(Gap::parse(&text).unwrap_or_else(|| odd(text))));
                }
                self.attested.warning(self.index, &text);
                return self.pass_aside(Delivery::Warning(text)).await;
            }
            Some(Frame::Hints(hints)) => return self.take_hints(hints).await,
            None => return Ok(()),
        };
        let series = shaper.shape(series)?;
        self.deliver(shaper, series).await
    }

    async fn deliver(&self, shaper: &mut Shaper, series: Vec<Series>) -> Result<(), Stop> {
        if let Some(reason) = shaper.checker.take_news() {
            self.leave_gap(reason).await?;
        }
        if series.is_empty() {
            return Ok(());
        }
        let size_bytes = series.iter().map(chunks::series_size_bytes).sum();
        let refused = |reason: String| Stop::Gap(self.selected.endpoint.gap(GapKind::Refused, reason));
        let size = u64::try_from(size_bytes).unwrap_or(u64::MAX);
        self.sent.take(size).map_err(|over| {
            let limit = over.limit;
            refused(format!(
                "it sent more than {limit} bytes in one answer; select less, or raise the limit (--endpoint.max-response-size, or max_response_size of the endpoint)"
            ))
        })?;
        let ahead = tokio::select! {
            ahead = self.ahead.admit(size_bytes) => ahead.map_err(|over| refused(over.to_string()))?,
            () = self.queue.closed() => return Err(Stop::Unwanted),
        };
        Ok(self.send(Delivery::Series(series, Some(ahead))).await?)
    }

    /// A report of coverage goes into our own; other hints pass.
    async fn take_hints(&self, hints: Any) -> Result<(), Stop> {
        match from_hint(&hints) {
            None => self.pass_aside(Delivery::Hints(hints)).await,
            Some(Ok(coverage)) => {
                self.attested.beneath(self.index, coverage);
                Ok(())
            }
            Some(Err(reason)) => {
                self.attested.warning(self.index, &reason);
                Ok(())
            }
        }
    }

    /// Passes a warning or hints on; too many of them are dropped.
    async fn pass_aside(&self, aside: Delivery) -> Result<(), Stop> {
        if self.asides.take(1).is_ok() {
            self.send(aside).await?;
        }
        Ok(())
    }

    /// Says that something is left out, and goes on, if a partial answer is allowed.
    async fn leave_gap(&self, reason: String) -> Result<(), Stop> {
        let gap = self.selected.endpoint.gap(GapKind::Partial, reason);
        if self.call.is_strict(&self.selected.endpoint) {
            return Err(Stop::Gap(gap));
        }
        self.attested.gap(self.index, &gap);
        Ok(self.send(Delivery::Gap(gap)).await?)
    }

    async fn send(&self, delivery: Delivery) -> Result<(), Unwanted> {
        self.queue.send(delivery).await.map_err(|_| Unwanted)
    }
}

/// The first item of a stream, `None` if it ended at once.
type Opened = Option<Result<parallax_storeapi::proto::thanos::SeriesResponse, Status>>;

/// Makes an endpoint's series what the merge expects: sorted, in the asked shard, without replica labels.
struct Shaper {
    endpoint: Selected,
    /// Only if the endpoint does not shard itself.
    shard: ShardMatcher,
    /// Only if the endpoint does not remove replica labels itself, or is given its cluster's label.
    resorter: Option<Resorter>,
    checker: Checker,
    /// Decides what the endpoint is asked for, whatever labels are taken off.
    claim: Option<Claim>,
    /// Only if some of what the endpoint advertises is not chosen.
    narrowing: Option<Narrowing>,
}

impl Shaper {
    fn new(selected: &Selected, request: &SeriesRequest) -> Result<Self, Status> {
        let without = &request.without_replica_labels;
        let claim = selected.endpoint.claim();
        // Where the label is taken off, nothing can be told by it, and nothing is to be injected.
        let told = claim.clone().filter(|claim| !without.iter().any(|name| name == claim.label()));
        let injects = told.as_ref().is_some_and(|claim| claim.mode() == ForeignLabels::Inject);
        let narrowing = selected.metadata.as_deref().and_then(Narrowing::of);
        // What is sifted here has to come with all its labels.
        let is_sifted = narrowing.as_ref().is_some_and(|narrowing| narrowing.sieve.is_some());
        let removes = without.is_empty() || (selected.supports_without_replica_labels() && !is_sifted);
        let shards = selected.supports_sharding() && !injects && !is_sifted;
        let own = told.as_ref().filter(|_| injects).map_or_else(Labels::empty, Claim::own);
        let counter = selected.endpoint.foreign_counter().clone();
        Ok(Self {
            endpoint: selected.clone(),
            shard: ShardMatcher::new(request.shard_info.as_ref().filter(|_| !shards))?,
            resorter: (!removes || injects).then(|| Resorter::new(&own, without)),
            checker: Checker::new(selected.endpoint.is_local(), told.map(|claim| Held { claim, counter })),
            claim,
            narrowing,
        })
    }

    fn sieve(&self) -> Option<&Sieve> {
        self.narrowing.as_ref()?.sieve.as_ref()
    }

    /// The request for an endpoint that may do less: a limit would count series that are filtered out here.
    fn adapted(&self, request: &SeriesRequest) -> SeriesRequest {
        let mut request = request.clone();
        if self.shard.is_sharded() || self.resorter.is_some() || self.sieve().is_some() {
            request.limit = 0;
            request.shard_info = request.shard_info.filter(|_| !self.shard.is_sharded());
        }
        if let Some(claim) = &self.claim {
            claim.adapt(&mut request.matchers);
        }
        if let Some(narrowing) = &self.narrowing {
            narrowing.adapt(&mut request.matchers);
        }
        if self.sieve().is_some() {
            request.without_replica_labels.clear();
        }
        if self.endpoint.endpoint.declared().required {
            request.partial_response_strategy = PartialResponseStrategy::Abort.into();
        }
        request
    }

    fn shape(&mut self, mut series: Vec<Series>) -> Result<Vec<Series>, Stop> {
        self.checker.sift(&mut series);
        if let Some(reason) = self.checker.refused() {
            let reason = format!("{reason}; nothing of it is believed");
            return Err(Stop::Gap(self.endpoint.endpoint.gap(GapKind::Refused, reason)));
        }
        if let Some(sieve) = self.sieve() {
            sieve.sift(&mut series);
        }
        if let Some(resorter) = &mut self.resorter {
            for one in series {
                resorter.push(one);
            }
            series = self.release()?;
        }
        Ok(self.sorted(series))
    }

    /// What is held back, once nothing more will come.
    fn finish(&mut self) -> Result<Vec<Series>, Stop> {
        if let Some(resorter) = &mut self.resorter {
            resorter.finish();
        }
        let released = self.release()?;
        Ok(self.sorted(released))
    }

    fn release(&mut self) -> Result<Vec<Series>, Stop> {
        let mut released = Vec::new();
        let Some(resorter) = &mut self.resorter else { return Ok(released) };
        match resorter.release(&mut released) {
            Ok(()) => Ok(resorter.hand_over(&mut released)),
            Err(error) => Err(self.broken(error.to_string())),
        }
    }

    /// Of the asked shard, and in order.
    fn sorted(&mut self, mut series: Vec<Series>) -> Vec<Series> {
        if self.shard.is_sharded() {
            series.retain(|one| self.shard.matches(&one.labels));
        }
        self.checker.sort_out(&mut series);
        series
    }

    fn broken(&self, reason: String) -> Stop {
        Stop::Gap(self.endpoint.endpoint.gap(GapKind::Partial, reason))
    }
}
