//! Calls of the small services: every endpoint that offers one is asked at once, within the same deadlines and under the same rules as for labels.
//!
//! Answers are held whole, because they are merged or sorted by whoever asked; what they may take is bounded per endpoint and per call. An endpoint
//! that breaks off leaves what it sent and a gap. One that never said what it offers is asked: only it could tell that nothing is missing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use parallax_storeapi::{FrameStream, SideFrame, SideRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::attest::Attested;
use super::claimed::{Claimed, LeftOut};
use super::gather::gather;
use super::open::{NotOpened, open_with_retries};
use super::patience::Patience;
use super::{Call, Proxy, gap_of};
use crate::claim::ForeignLabels;
use crate::coverage::{Coverage, CoverageLog, Gap, GapKind, bounded, from_text, to_text};
use crate::endpoint::Endpoint;
use crate::query_api::COVERAGE_HEADER;
use crate::store_selection::{Question, Selected, choose};

/// What the answers to one call may take in memory.
#[derive(Clone, Copy, Debug)]
pub struct SideLimits {
    pub endpoint_bytes: usize,
    /// Of all endpoints together.
    pub call_bytes: usize,
}

impl Default for SideLimits {
    fn default() -> Self {
        Self { endpoint_bytes: 64 << 20, call_bytes: 256 << 20 }
    }
}

/// What all endpoints answered.
pub(super) struct Heard<T> {
    pub items: Vec<T>,
    /// Of the endpoints, and about those that are missing.
    pub warnings: Vec<String>,
    /// What the answer has, where a querier of another process asked for that.
    pub coverage: Option<Coverage>,
}

/// The longest report that goes into an answer, whose messages are small; without one, nothing is vouched for.
const MAX_REPORT_BYTES: usize = 1 << 20;

impl<T> Heard<T> {
    /// The same answer with other items.
    pub(super) fn with<U>(self, change: impl FnOnce(Vec<T>) -> Vec<U>) -> Heard<U> {
        Heard { items: change(self.items), warnings: self.warnings, coverage: self.coverage }
    }
}

impl<T: Send + 'static> Heard<T> {
    /// The answer as frames, warnings first. These services have no place for a report of coverage but a text: it goes only to who asked for it.
    pub(super) fn into_frames<R: SideRequest<Item = T>>(self) -> FrameStream<R::Response> {
        let report = self.coverage.as_ref().map(to_text).filter(|text| text.len() <= MAX_REPORT_BYTES);
        let warnings = report.into_iter().chain(self.warnings).map(SideFrame::Warning);
        let frames = warnings.chain(self.items.into_iter().map(SideFrame::Item));
        let frames: Vec<_> = frames.map(|frame| Ok(R::frame(frame))).collect();
        Box::pin(futures::stream::iter(frames))
    }
}

/// What one endpoint answered.
struct Part<T> {
    items: Vec<T>,
    warnings: Vec<String>,
    gap: Option<Gap>,
    /// Whether it was told that something claims another cluster.
    is_foreign: bool,
    /// Where a querier of this process leaves what its own answer has.
    beneath: CoverageLog,
    /// What a querier of another process says of its answer.
    reported: Option<Coverage>,
}

impl Proxy {
    /// Asks every endpoint that `question` concerns; `adapt` makes each one's request.
    ///
    /// # Errors
    /// Where no partial answer is allowed: any gap or warning.
    pub(super) async fn ask_side<R: SideRequest>(
        &self,
        request: Request<R>,
        selectors: &[Vec<parallax_model::Matcher>],
        range: parallax_model::TimeRange,
        adapt: impl Fn(&Selected, &R) -> R,
    ) -> Result<Heard<R::Item>, Status>
    where
        R::Item: Claimed,
    {
        let call = Call::of(&request, &self.inner.config, false, request.get_ref().strategy());
        let is_report_wanted = request.metadata().contains_key(COVERAGE_HEADER);
        let message = request.into_inner();
        let selection = {
            let question = Question { side: Some(R::SERVICE), range, selectors };
            self.admit(&call, choose(&self.inner.endpoints, &question, &call.store_matchers))?
        };
        let label = &self.inner.endpoints.options().cluster_label;
        let attested = Attested::new(&selection, selectors, range, label);
        let left = AtomicUsize::new(self.inner.config.side_limits.call_bytes);
        let (call, left) = (&call, &left);
        let asked = selection.ask.iter().map(|selected| {
            let message = adapt(selected, &message);
            let patience = Patience::new(call, &selected.endpoint);
            Listening { proxy: self, call, selected, left, patience, part: Part::default() }.hear(message)
        });
        let parts = gather(asked, |part| self.judge_part(call, part)).await?;
        let warnings = selection.gaps.iter().map(Gap::to_string).collect();
        let mut heard = Heard { items: Vec::new(), warnings, coverage: None };
        let mut seen: HashSet<String> = heard.warnings.iter().cloned().collect();
        for (index, part) in parts.into_iter().enumerate() {
            part.gap.iter().for_each(|gap| attested.gap(index, gap));
            part.warnings.iter().for_each(|text| attested.warning(index, text));
            if let Some(beneath) = part.beneath.coverage().or(part.reported) {
                attested.beneath(index, beneath);
            }
            attested.ended(index);
            heard.items.extend(part.items);
            for warning in part.warnings {
                if seen.insert(warning.clone()) {
                    heard.warnings.push(warning);
                }
            }
            heard.warnings.extend(part.gap.iter().map(Gap::to_string));
        }
        if let Some(entry) = &call.coverage {
            entry.leave(attested.coverage(false));
        }
        heard.coverage = is_report_wanted.then(|| attested.coverage(false));
        match heard.warnings.first() {
            Some(warning) if call.abort => Err(Status::aborted(warning.clone())),
            _ => Ok(heard),
        }
    }

    /// What fails the call at once, where no partial answer is allowed. Gaps are counted.
    fn judge_part<T>(&self, call: &Call, part: &Part<T>) -> Option<Status> {
        if let Some(gap) = &part.gap {
            self.count(call, gap);
            return call.failure(gap);
        }
        part.warnings.first().filter(|_| call.abort).map(Status::aborted)
    }
}

/// Warnings of one endpoint that are passed on.
const MAX_WARNINGS: usize = 1_000;

impl<T> Part<T> {
    fn warn(&mut self, text: String) {
        match self.warnings.len() {
            0..MAX_WARNINGS => self.warnings.push(bounded(text)),
            MAX_WARNINGS => self.warnings.push(format!("an endpoint sent more than {MAX_WARNINGS} warnings")),
            _ => {}
        }
    }
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            warnings: Vec::new(),
            gap: None,
            is_foreign: false,
            beneath: CoverageLog::default(),
            reported: None,
        }
    }
}

/// One endpoint being heard.
struct Listening<'a, T> {
    proxy: &'a Proxy,
    call: &'a Call,
    selected: &'a Selected,
    /// Bytes that the whole call may still take.
    left: &'a AtomicUsize,
    patience: Patience,
    part: Part<T>,
}

type Opened<R> = (FrameStream<R>, Option<Result<R, Status>>);

impl<T: Claimed> Listening<'_, T> {
    async fn hear<R: SideRequest<Item = T>>(mut self, message: R) -> Part<T> {
        let gap = self.read::<R>(message).await.err().flatten();
        self.part.gap = gap.map(|gap| self.call.left_by(&self.selected.endpoint, gap));
        self.part
    }

    /// Reads the endpoint's answer; the error is the gap that it leaves, if that is one.
    async fn read<R: SideRequest<Item = T>>(&mut self, message: R) -> Result<(), Option<Gap>> {
        let (mut stream, mut next) = self.open(&message).await?;
        let mut left = self.proxy.inner.config.side_limits.endpoint_bytes;
        let mut frames = 0_u64;
        loop {
            match next {
                None => return Ok(()),
                Some(Ok(response)) => {
                    frames += 1;
                    self.accept::<R>(response, &mut left)?;
                }
                Some(Err(status)) => return Err(Some(gap_of(self.endpoint(), &status, frames > 0))),
            }
            next = match self.patience.wait(stream.next()).await {
                Ok(next) => next,
                Err(silence) => {
                    let config = &self.proxy.inner.config;
                    return Err(Some(self.patience.late(self.endpoint(), config, silence, frames)));
                }
            };
        }
    }

    /// Waits for the first frame.
    async fn open<R: SideRequest>(&mut self, message: &R) -> Result<Opened<R::Response>, Option<Gap>> {
        let (call, endpoint) = (self.call, &self.selected.endpoint);
        let entry = endpoint.is_local().then(|| self.part.beneath.entry());
        let opening = || async {
            let mut request = call.outgoing(endpoint, message.clone());
            match &entry {
                Some(entry) => {
                    request.extensions_mut().insert(entry.clone());
                }
                None => {
                    request.metadata_mut().insert(COVERAGE_HEADER, MetadataValue::from_static("1"));
                }
            }
            let mut stream = R::ask(request, endpoint.store().side()).await?;
            match stream.next().await {
                Some(Err(status)) => Err(status),
                first => Ok((stream, first)),
            }
        };
        let config = &self.proxy.inner.config;
        let opened = open_with_retries(endpoint, &mut self.patience, config, opening).await;
        opened.map_err(|failure| {
            let is_absent =
                matches!(&failure, NotOpened::Failed(status) if status.code() == Code::Unimplemented);
            let is_missed = !is_absent || self.selected.offers(R::SERVICE);
            is_missed.then(|| failure.gap(endpoint, &self.patience, config))
        })
    }

    fn accept<R: SideRequest<Item = T>>(
        &mut self,
        response: R::Response,
        left: &mut usize,
    ) -> Result<(), Option<Gap>> {
        let size_bytes = R::size_bytes(&response);
        let limits = self.proxy.inner.config.side_limits;
        let Some(after) = left.checked_sub(size_bytes) else {
            let reason = format!("its answer has more than {} bytes", limits.endpoint_bytes);
            return Err(Some(self.endpoint().gap(GapKind::Partial, reason)));
        };
        *left = after;
        let taken =
            self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size_bytes));
        if taken.is_err() {
            let reason = format!("all answers together have more than {} bytes", limits.call_bytes);
            return Err(Some(self.endpoint().gap(GapKind::Partial, reason)));
        }
        match R::read(response) {
            Some(SideFrame::Item(item)) => {
                R::check(&item)
                    .map_err(|error| Some(self.endpoint().gap(GapKind::Partial, error.to_string())))?;
                let item = self.held_to_claim(item).map_err(Some)?;
                self.part.items.extend(item);
            }
            Some(SideFrame::Warning(text)) => {
                if let Some(report) = from_text(&text) {
                    return self.reported(report);
                }
                if self.endpoint().declared().required {
                    let odd = |text: String| self.endpoint().gap(GapKind::Partial, text);
                    return Err(Some(Gap::parse(&text).unwrap_or_else(|| odd(text))));
                }
                self.part.warn(text);
                if self.call.abort {
                    // The call fails by this warning: the rest is for nobody.
                    return Err(None);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Takes what a querier says of its answer. What cannot be read vouches for nothing.
    fn reported(&mut self, report: Result<Coverage, String>) -> Result<(), Option<Gap>> {
        match report {
            Ok(coverage) => {
                let former = self.part.reported.take();
                self.part.reported = Some(Coverage::union(former.into_iter().chain([coverage])));
            }
            Err(reason) => self.part.warn(reason),
        }
        Ok(())
    }

    /// What of `item` is the declared cluster's.
    fn held_to_claim(&mut self, item: T) -> Result<Option<T>, Gap> {
        let Some(claim) = self.endpoint().claim() else { return Ok(Some(item)) };
        let mut left_out = LeftOut::default();
        let kept = item.restrict(&claim, &mut left_out);
        let Some(reason) = left_out.first else { return Ok(kept) };
        self.endpoint().foreign_counter().inc_by(left_out.count);
        if claim.mode() == ForeignLabels::Refuse {
            return Err(self
                .endpoint()
                .gap(GapKind::Refused, format!("{reason}; nothing of it is believed")));
        }
        let gap = self.endpoint().gap(GapKind::Partial, format!("{reason}; it is left out"));
        if self.call.is_strict(self.endpoint()) {
            return Err(gap);
        }
        if !self.part.is_foreign {
            self.part.is_foreign = true;
            self.proxy.count(self.call, &gap);
            self.part.warnings.push(gap.to_string());
        }
        Ok(kept)
    }

    fn endpoint(&self) -> &Endpoint {
        &self.selected.endpoint
    }
}
