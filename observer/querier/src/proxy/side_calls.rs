//! Calls of the small services: every endpoint that offers one is asked at once, within the same deadlines and under the same rules as for labels.
//!
//! Answers are held whole, because they are merged or sorted by whoever asked; what they may take is bounded per endpoint and per call. An endpoint
//! that breaks off leaves what it sent and a gap. One that never said what it offers is asked: only it could tell that nothing is missing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use parallax_storeapi::{FrameStream, SideFrame, SideRequest};
use tonic::{Code, Request, Status};

use super::{Call, Proxy, aborted, gap_of, late};
use crate::coverage::{Gap, GapKind, bounded};
use crate::endpoint::Endpoint;
use crate::store_selection::{Question, Selected, choose};

/// What the answers to one call may take, as the wire counts.
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

/// First wait before an endpoint is asked again; it doubles.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What all endpoints answered.
pub(super) struct Heard<T> {
    pub items: Vec<T>,
    /// Of the endpoints, and about those that are missing.
    pub warnings: Vec<String>,
}

impl<T: Send + 'static> Heard<T> {
    /// The answer as frames, warnings first.
    pub(super) fn into_frames<R: SideRequest<Item = T>>(self) -> FrameStream<R::Response> {
        let warnings = self.warnings.into_iter().map(SideFrame::Warning);
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
    ) -> Result<Heard<R::Item>, Status> {
        let call = Call::of(&request, &self.inner.config, false, request.get_ref().strategy());
        let message = request.into_inner();
        let selection = {
            let question = Question { side: Some(R::SERVICE), range, selectors };
            self.admit(&call, choose(&self.inner.endpoints, &question, &call.store_matchers))?
        };
        let left = AtomicUsize::new(self.inner.config.side_limits.call_bytes);
        let (call, left) = (&call, &left);
        let asked = selection.ask.iter().map(|selected| {
            let message = adapt(selected, &message);
            Listening { proxy: self, call, selected, left, part: Part::default() }.hear(message)
        });
        let parts = join_all(asked).await;
        let mut heard =
            Heard { items: Vec::new(), warnings: selection.gaps.iter().map(Gap::to_string).collect() };
        let mut seen: HashSet<String> = heard.warnings.iter().cloned().collect();
        for part in parts {
            heard.items.extend(part.items);
            for warning in part.warnings {
                if seen.insert(warning.clone()) {
                    heard.warnings.push(warning);
                }
            }
            if let Some(gap) = part.gap {
                self.count(&gap);
                if call.abort {
                    return Err(aborted(&gap));
                }
                heard.warnings.push(gap.to_string());
            }
        }
        match heard.warnings.first() {
            Some(warning) if call.abort => Err(Status::aborted(warning.clone())),
            _ => Ok(heard),
        }
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
        Self { items: Vec::new(), warnings: Vec::new(), gap: None }
    }
}

/// One endpoint being heard.
struct Listening<'a, T> {
    proxy: &'a Proxy,
    call: &'a Call,
    selected: &'a Selected,
    /// Bytes that the whole call may still take.
    left: &'a AtomicUsize,
    part: Part<T>,
}

type Opened<R> = (FrameStream<R>, Option<Result<R, Status>>);

impl<T> Listening<'_, T> {
    async fn hear<R: SideRequest<Item = T>>(mut self, message: R) -> Part<T> {
        self.part.gap = self.read::<R>(message).await.err().flatten();
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
            let began = Instant::now();
            next = match tokio::time::timeout_at(self.call.silence_ends().into(), stream.next()).await {
                Ok(next) => next,
                Err(_) => return Err(Some(self.late(began.elapsed(), frames))),
            };
        }
    }

    /// Waits for the first frame, within one budget for all attempts.
    async fn open<R: SideRequest>(&self, message: &R) -> Result<Opened<R::Response>, Option<Gap>> {
        let budget_ends = self.call.silence_ends();
        let budget_began = Instant::now();
        let mut attempt = 0;
        loop {
            let opening = async {
                let request = self.call.outgoing(message.clone());
                let mut stream = R::ask(request, self.endpoint().store().side()).await?;
                match stream.next().await {
                    Some(Err(status)) => Err(status),
                    first => Ok((stream, first)),
                }
            };
            let began = Instant::now();
            let status = match tokio::time::timeout_at(budget_ends.into(), opening).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(status)) => status,
                Err(_) => return Err(Some(self.late(budget_began.elapsed(), 0))),
            };
            if status.code() == Code::Unimplemented && !self.selected.offers(R::SERVICE) {
                return Err(None);
            }
            let is_transient = status.code() == Code::Unavailable;
            if is_transient && began.elapsed() >= self.endpoint().slow_failure() {
                self.endpoint().hung(status.message());
                return Err(Some(gap_of(self.endpoint(), &status, false)));
            }
            let pause = RETRY_PAUSE * 2_u32.saturating_pow(attempt);
            let in_time = Instant::now().checked_add(pause).is_some_and(|then| then < budget_ends);
            if !is_transient || attempt >= self.proxy.inner.config.max_retries || !in_time {
                return Err(Some(gap_of(self.endpoint(), &status, false)));
            }
            attempt += 1;
            tokio::time::sleep(pause).await;
        }
    }

    fn accept<R: SideRequest<Item = T>>(
        &mut self,
        response: R::Response,
        left: &mut usize,
    ) -> Result<(), Option<Gap>> {
        let size_bytes = prost::Message::encoded_len(&response);
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
                self.part.items.push(item);
            }
            Some(SideFrame::Warning(text)) => self.part.warn(text),
            None => {}
        }
        Ok(())
    }

    fn late(&self, silence: Duration, frames: u64) -> Gap {
        late(self.endpoint(), &self.proxy.inner.config, silence, frames)
    }

    fn endpoint(&self) -> &Endpoint {
        &self.selected.endpoint
    }
}
