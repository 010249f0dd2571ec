//! How frames of one selection come in before the engine wants them, and after.
//!
//! All selections of a query are opened together, but the engine reads one after the other. A stream that waits unread holds resources of its stores (a
//! sidecar serves some ten reads at a time), perhaps the very ones that the selection needs which the engine waits for. So nothing waits unread for long:
//!
//! - what fits is read ahead to its end, and costs the stores nothing from then on;
//! - what does not fit is let go after [`PATIENCE`] and asked for again when the engine comes to it;
//! - what was read ahead is let go, too, when a selection that the engine waits for needs the room;
//! - a selection that the engine waits for does not queue behind those it does not wait for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt};
use parallax_promql::source::SourceError;
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::withhold::ask_to_withhold;
use parallax_storeapi::{SeriesStream, chunks, with_deadline};
use tokio::sync::{mpsc, watch};

use super::budget::{Held, UNREAD_SHARE};
use super::stream::Delivery;
use super::{Pump, StoreMatchers, source_error};

/// Most bytes that one selection reads ahead.
const MAX_UNREAD_BYTES: usize = 64 << 20;
/// How long a stream that cannot be read ahead stays open for an engine that may come to it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why reading ahead ended.
enum End {
    /// The engine has come; the rest is in the stream.
    Wanted(SeriesStream),
    /// The engine has come, and there is nothing more.
    Whole,
    /// There is no room, or others need it.
    LetGo,
}

/// What has come of a selection and is not the engine's yet. It outlives the stores' time.
#[derive(Default)]
pub(super) struct InHand {
    deliveries: VecDeque<Delivery>,
    rest: Rest,
}

/// What there is beside what has come.
#[derive(Default)]
enum Rest {
    /// Something that was not waited for to its end, or was let go.
    #[default]
    Missing,
    /// What the stream still gives. Nothing of it is elsewhere.
    In(SeriesStream),
    Nothing,
}

impl InHand {
    pub(super) fn push(&mut self, delivery: Delivery) {
        self.deliveries.push_back(delivery);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Waits for nothing more and lets the stream go; tells whether nothing more was to come.
    pub(super) fn ends_whole(&mut self) -> bool {
        match std::mem::take(&mut self.rest) {
            Rest::Missing => false,
            Rest::In(mut frames) => {
                matches!(tokio::task::coop::unconstrained(frames.next()).now_or_never(), Some(None))
            }
            Rest::Nothing => true,
        }
    }

    /// Gives the engine what has come. What it has no room for stays here if this is dropped.
    pub(super) async fn send(&mut self, deliveries: &mpsc::Sender<Delivery>) -> Result<(), SourceError> {
        while !self.deliveries.is_empty() {
            let place = deliveries.reserve().await.map_err(|_| SourceError::Canceled)?;
            if let Some(delivery) = self.deliveries.pop_front() {
                place.send(delivery);
            }
        }
        Ok(())
    }
}

impl Pump {
    /// Carries frames to the engine. Those `in_hand` have not been sent yet when it ends, well or not.
    pub(super) async fn forward(
        &self,
        message: SeriesRequest,
        deliveries: &mpsc::Sender<Delivery>,
        in_hand: &mut InHand,
    ) -> Result<(), SourceError> {
        let frames = loop {
            let end = self.read_ahead(message.clone(), in_hand).await?;
            if matches!(end, End::LetGo) {
                in_hand.clear();
                wanted(&self.wanted).await?;
            }
            // What this one holds is wanted from here on: who waits for it to be let go looks again.
            self.budget.released().notify_waiters();
            match end {
                End::Wanted(frames) => break frames,
                End::Whole => return Ok(()),
                End::LetGo => {}
            }
        };
        in_hand.rest = Rest::In(frames);
        loop {
            in_hand.send(deliveries).await?;
            // Missing for as long as a frame is waited for, or room for it.
            let Rest::In(mut frames) = std::mem::take(&mut in_hand.rest) else { return Ok(()) };
            let Some(frame) = frames.next().await else { return Ok(()) };
            in_hand.deliveries.extend(self.delivery(frame.map_err(source_error)?.result).await?);
            in_hand.rest = Rest::In(frames);
        }
    }

    async fn open(&self, message: SeriesRequest) -> Result<SeriesStream, SourceError> {
        let mut request = with_deadline(message, Some(self.options.deadline));
        request.extensions_mut().insert(Arc::clone(&self.budget));
        request.extensions_mut().insert(self.interest.clone());
        request.extensions_mut().insert(self.coverage.clone());
        request.extensions_mut().insert(self.received.clone());
        if let Some(from_ms) = self.withholds_from_ms {
            ask_to_withhold(&mut request, from_ms);
        }
        if let Some(among) = &self.among {
            request.extensions_mut().insert(among.clone());
        }
        if !self.options.store_matchers.is_empty() {
            request.extensions_mut().insert(StoreMatchers(self.options.store_matchers.clone()));
        }
        self.store.series(request).await.map_err(source_error)
    }

    /// Opens the stream and takes frames `in_hand` until the engine wants them.
    async fn read_ahead(&self, message: SeriesRequest, in_hand: &mut InHand) -> Result<End, SourceError> {
        // Held until the first frame is there, not longer, and not needed by a selection that is waited for: one that waits for another one's
        // reader would never end.
        let opens = Arc::clone(&self.opens);
        let mut permit = tokio::select! {
            biased;
            wanted = wanted(&self.wanted) => { wanted?; None }
            permit = opens.acquire() => Some(permit.map_err(|_| SourceError::Canceled)?),
        };
        let mut frames = self.open(message).await?;
        let mut unread_bytes = 0_usize;
        loop {
            let frame = tokio::select! {
                biased;
                wanted = wanted(&self.wanted) => { wanted?; return Ok(End::Wanted(frames)) }
                () = self.budget.needed() => return Ok(End::LetGo),
                frame = frames.next() => frame,
                () = self.beneath_is_full() => return Ok(End::LetGo),
            };
            permit.take();
            let Some(frame) = frame else {
                // It costs its stores nothing from here on.
                drop(frames);
                in_hand.rest = Rest::Nothing;
                return tokio::select! {
                    biased;
                    wanted = wanted(&self.wanted) => wanted.map(|()| End::Whole),
                    () = self.budget.needed() => Ok(End::LetGo),
                };
            };
            let frame = frame.map_err(source_error)?.result;
            let size_bytes = size_bytes(frame.as_ref());
            unread_bytes = unread_bytes.saturating_add(size_bytes);
            if unread_bytes <= MAX_UNREAD_BYTES
                && let Some(held) = self.budget.hold_share(&self.interest, size_bytes, UNREAD_SHARE)
            {
                in_hand.deliveries.extend(delivery(frame, held));
                continue;
            }
            tokio::select! {
                biased;
                wanted = wanted(&self.wanted) => {
                    wanted?;
                    in_hand.deliveries.extend(self.delivery(frame).await?);
                    return Ok(End::Wanted(frames));
                }
                () = self.budget.needed() => return Ok(End::LetGo),
                () = tokio::time::sleep(PATIENCE) => return Ok(End::LetGo),
            }
        }
    }

    /// Comes back when a fan-out in this process has found no room for a frame of this selection for as long as [`PATIENCE`].
    async fn beneath_is_full(&self) {
        self.interest.is_short_of_room().await;
        tokio::time::sleep(PATIENCE).await;
    }

    /// For a selection that is wanted.
    async fn delivery(&self, frame: Option<Frame>) -> Result<Option<Delivery>, SourceError> {
        let held = self.budget.hold_for(&self.interest, size_bytes(frame.as_ref())).await?;
        Ok(delivery(frame, held))
    }
}
/// Waits until the engine reads the selection.
async fn wanted(wanted: &watch::Receiver<bool>) -> Result<(), SourceError> {
    wanted.clone().wait_for(|wanted| *wanted).await.map(|_| ()).map_err(|_| SourceError::Canceled)
}

fn size_bytes(frame: Option<&Frame>) -> usize {
    match frame {
        Some(Frame::Series(series)) => chunks::series_size_bytes(series),
        Some(Frame::Batch(batch)) => batch.series.iter().map(chunks::series_size_bytes).sum(),
        Some(Frame::Warning(text)) => text.len(),
        Some(Frame::Hints(_)) | None => 0,
    }
}

fn delivery(frame: Option<Frame>, held: Held) -> Option<Delivery> {
    match frame? {
        Frame::Series(series) => Some(Delivery::Series(vec![series], held)),
        Frame::Batch(batch) => Some(Delivery::Series(batch.series, held)),
        Frame::Warning(warning) => Some(Delivery::Warning(warning)),
        Frame::Hints(_) => None,
    }
}
