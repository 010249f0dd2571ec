//! How frames of one selection come in before the engine wants them, and after.
//!
//! All selections of a query are opened together, but the engine reads one after the other. A stream that waits unread holds resources of its stores (a
//! sidecar serves some ten reads at a time), perhaps the very ones that the selection needs which the engine waits for. So nothing waits unread for long:
//!
//! - what fits is read ahead to its end, and costs the stores nothing from then on;
//! - what does not fit is let go after [`PATIENCE`] and asked for again when the engine comes to it;
//! - a selection that the engine waits for does not queue behind those it does not wait for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parallax_promql::source::SourceError;
use parallax_storeapi::proto::thanos::SeriesRequest;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::{SeriesStream, chunks, with_deadline};
use tokio::sync::{mpsc, watch};

use super::budget::Held;
use super::stream::Delivery;
use super::{Pump, StoreMatchers, source_error};

/// Selections that are not wanted yet may use one part in this many of a query's budget…
const UNREAD_SHARE: u64 = 4;
/// …and each of them so many bytes.
const MAX_UNREAD_BYTES: usize = 64 << 20;
/// How long a stream that cannot be read ahead stays open for an engine that may come to it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why reading ahead ended.
enum End {
    /// The engine has come.
    Wanted,
    /// There is nothing more.
    Whole,
    /// There is no room.
    Full,
}

impl Pump {
    /// Carries frames to the engine. Those in `ahead` have not been sent yet when it ends, well or not.
    pub(super) async fn forward(
        &mut self,
        message: SeriesRequest,
        deliveries: &mpsc::Sender<Delivery>,
        ahead: &mut VecDeque<Delivery>,
    ) -> Result<(), SourceError> {
        let mut frames = loop {
            let mut frames = self.open(message.clone(), ahead).await?;
            match self.read_ahead(&mut frames, ahead).await? {
                End::Wanted => break frames,
                End::Whole => return Ok(()),
                End::Full => {
                    drop(frames);
                    ahead.clear();
                    wanted(&mut self.wanted).await?;
                }
            }
        };
        while let Some(delivery) = ahead.pop_front() {
            deliveries.send(delivery).await.map_err(|_| SourceError::Canceled)?;
        }
        while let Some(frame) = frames.next().await {
            if let Some(delivery) = self.delivery(frame.map_err(source_error)?.result)? {
                deliveries.send(delivery).await.map_err(|_| SourceError::Canceled)?;
            }
        }
        Ok(())
    }

    /// Opens the stream and waits for its first frame.
    async fn open(
        &mut self,
        message: SeriesRequest,
        ahead: &mut VecDeque<Delivery>,
    ) -> Result<SeriesStream, SourceError> {
        // Held until the first frame is there, not longer, and not needed by a selection that is waited for: one that waits for another one's
        // reader would never end.
        let _permit = tokio::select! {
            biased;
            wanted = wanted(&mut self.wanted) => { wanted?; None }
            permit = self.opens.acquire() => Some(permit.map_err(|_| SourceError::Canceled)?),
        };
        let mut request = with_deadline(message, Some(self.options.deadline));
        request.extensions_mut().insert(Arc::clone(&self.budget));
        if !self.options.store_matchers.is_empty() {
            request.extensions_mut().insert(StoreMatchers(self.options.store_matchers.clone()));
        }
        let mut frames = self.store.series(request).await.map_err(source_error)?;
        if let Some(first) = frames.next().await {
            ahead.extend(self.delivery(first.map_err(source_error)?.result)?);
        }
        Ok(frames)
    }

    /// Reads frames into `ahead` until the engine wants them.
    async fn read_ahead(
        &mut self,
        frames: &mut SeriesStream,
        ahead: &mut VecDeque<Delivery>,
    ) -> Result<End, SourceError> {
        let mut unread_bytes = 0_usize;
        loop {
            let frame = tokio::select! {
                biased;
                wanted = wanted(&mut self.wanted) => { wanted?; return Ok(End::Wanted) }
                frame = frames.next() => frame,
            };
            let Some(frame) = frame else { return Ok(End::Whole) };
            let frame = frame.map_err(source_error)?.result;
            let size_bytes = size_bytes(frame.as_ref());
            unread_bytes = unread_bytes.saturating_add(size_bytes);
            if unread_bytes <= MAX_UNREAD_BYTES
                && let Some(held) = self.budget.hold_share(size_bytes, UNREAD_SHARE)
            {
                ahead.extend(delivery(frame, held));
                continue;
            }
            tokio::select! {
                biased;
                wanted = wanted(&mut self.wanted) => {
                    wanted?;
                    ahead.extend(self.delivery(frame)?);
                    return Ok(End::Wanted);
                }
                () = tokio::time::sleep(PATIENCE) => return Ok(End::Full),
            }
        }
    }

    fn delivery(&self, frame: Option<Frame>) -> Result<Option<Delivery>, SourceError> {
        let held = self.budget.hold(size_bytes(frame.as_ref()))?;
        Ok(delivery(frame, held))
    }
}

/// Waits until the engine reads the selection.
async fn wanted(wanted: &mut watch::Receiver<bool>) -> Result<(), SourceError> {
    wanted.wait_for(|wanted| *wanted).await.map(|_| ()).map_err(|_| SourceError::Canceled)
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
