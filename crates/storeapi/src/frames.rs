//! Frames of a Series answer: building them, batching and limiting a stream of them.
//!
//! The order of adapters is: limit, then batch. A limit counts frames of single series, warnings and hints included; a
//! batch holds series only, and any other frame sends the batch on its way first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{Stream, StreamExt};
use prost_types::Any;
use tonic::Status;

use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{Series, SeriesBatch, SeriesRequest, SeriesResponse};
use crate::{SeriesStream, chunks};

/// Most series in one frame, whatever a request asks for.
pub const MAX_BATCH_SERIES: usize = 4096;

/// A batch that holds as much as this goes on its way, so that no frame grows beyond what receivers take.
pub(crate) const MAX_BATCH_BYTES: usize = 8 << 20;

pub fn series(series: Series) -> SeriesResponse {
    SeriesResponse { result: Some(Frame::Series(series)) }
}

pub fn warning(text: impl Into<String>) -> SeriesResponse {
    SeriesResponse { result: Some(Frame::Warning(text.into())) }
}

pub fn hints(hints: Any) -> SeriesResponse {
    SeriesResponse { result: Some(Frame::Hints(hints)) }
}

/// A stream of frames that are there already.
pub fn from_vec(frames: Vec<Result<SeriesResponse, Status>>) -> SeriesStream {
    Box::pin(futures::stream::iter(frames))
}

/// Applies the request's limit and batch size to a stream of single series.
pub fn respond(stream: SeriesStream, request: &SeriesRequest) -> SeriesStream {
    batched(limited(stream, request.limit), request.response_batch_size)
}

/// Ends the stream after `limit` frames; 0 or less is no limit.
pub fn limited(stream: SeriesStream, limit: i64) -> SeriesStream {
    match usize::try_from(limit) {
        Ok(0) | Err(_) => stream,
        Ok(limit) => Box::pin(stream.take(limit)),
    }
}

/// Puts up to `batch_size` series in a frame; 0 and 1 leave single series.
pub fn batched(stream: SeriesStream, batch_size: i64) -> SeriesStream {
    match usize::try_from(batch_size) {
        Ok(0 | 1) | Err(_) => stream,
        Ok(size) => Box::pin(Batched {
            stream: Some(stream),
            size: size.min(MAX_BATCH_SERIES),
            batch: Vec::new(),
            batch_bytes: 0,
            next: None,
        }),
    }
}

/// Takes batches apart, so that every frame of series is a single one, and drops frames of unknown kind.
pub fn unbatched(stream: SeriesStream) -> SeriesStream {
    Box::pin(Unbatched { stream, ready: VecDeque::new() })
}

/// A whole answer in memory, for tests and for answers known to be small.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collected {
    pub series: Vec<Series>,
    pub warnings: Vec<String>,
    pub hints: Vec<Any>,
}

/// Reads a stream to its end.
///
/// # Errors
/// The stream's own.
pub async fn collect(stream: SeriesStream) -> Result<Collected, Status> {
    let mut all = Collected::default();
    let mut stream = unbatched(stream);
    while let Some(frame) = stream.next().await {
        match frame?.result {
            Some(Frame::Series(series)) => all.series.push(series),
            Some(Frame::Batch(batch)) => all.series.extend(batch.series),
            Some(Frame::Warning(text)) => all.warnings.push(text),
            Some(Frame::Hints(hints)) => all.hints.push(hints),
            None => {}
        }
    }
    Ok(all)
}

struct Batched {
    /// `None` once it has ended.
    stream: Option<SeriesStream>,
    size: usize,
    batch: Vec<Series>,
    batch_bytes: usize,
    /// What comes after the batch that had to go first.
    next: Option<Result<SeriesResponse, Status>>,
}

impl Batched {
    fn flush(&mut self) -> SeriesResponse {
        let series = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        SeriesResponse { result: Some(Frame::Batch(SeriesBatch { series })) }
    }

    /// Sends `item`, after the batch if there is one.
    fn after_batch(&mut self, item: Result<SeriesResponse, Status>) -> Result<SeriesResponse, Status> {
        if self.batch.is_empty() {
            return item;
        }
        self.next = Some(item);
        Ok(self.flush())
    }
}

impl Stream for Batched {
    type Item = Result<SeriesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(item) = self.next.take() {
            return Poll::Ready(Some(item));
        }
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(SeriesResponse { result: Some(Frame::Series(series)) }))) => {
                    self.batch_bytes += chunks::series_size_bytes(&series);
                    self.batch.push(series);
                    if self.batch.len() >= self.size || self.batch_bytes >= MAX_BATCH_BYTES {
                        return Poll::Ready(Some(Ok(self.flush())));
                    }
                }
                Poll::Ready(Some(item)) => return Poll::Ready(Some(self.after_batch(item))),
                Poll::Ready(None) => {
                    self.stream = None;
                    return Poll::Ready((!self.batch.is_empty()).then(|| Ok(self.flush())));
                }
                // Series that are ready do not wait for slow ones.
                Poll::Pending if !self.batch.is_empty() => return Poll::Ready(Some(Ok(self.flush()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

struct Unbatched {
    stream: SeriesStream,
    ready: VecDeque<Series>,
}

impl Stream for Unbatched {
    type Item = Result<SeriesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(series(next))));
            }
            match futures::ready!(self.stream.as_mut().poll_next(context)) {
                Some(Ok(SeriesResponse { result: Some(Frame::Batch(batch)) })) => {
                    self.ready.extend(batch.series)
                }
                Some(Ok(SeriesResponse { result: None })) => {}
                item => return Poll::Ready(item),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(n: i64) -> Result<SeriesResponse, Status> {
        let labels =
            crate::labels::to_wire(&parallax_model::Labels::from_pairs([("n", n.to_string().as_str())]));
        Ok(series(Series { labels, chunks: vec![] }))
    }

    async fn shape(stream: SeriesStream) -> Vec<String> {
        stream
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .map(|item| match item {
                Ok(SeriesResponse { result: Some(Frame::Series(_)) }) => "series".to_owned(),
                Ok(SeriesResponse { result: Some(Frame::Batch(batch)) }) => {
                    format!("batch {}", batch.series.len())
                }
                Ok(SeriesResponse { result: Some(Frame::Warning(text)) }) => text,
                Ok(_) => "other".to_owned(),
                Err(status) => status.message().to_owned(),
            })
            .collect()
    }

    #[tokio::test]
    async fn other_frames_and_errors_flush_the_batch_before_them() {
        let frames = vec![
            frame(1),
            frame(2),
            frame(3),
            Ok(warning("careful")),
            frame(4),
            Err(Status::aborted("broken")),
        ];
        assert_eq!(
            shape(batched(from_vec(frames), 2)).await,
            ["batch 2", "batch 1", "careful", "batch 1", "broken"]
        );
        assert_eq!(shape(batched(from_vec(vec![frame(1), frame(2)]), 1)).await, ["series", "series"]);
        assert_eq!(shape(batched(from_vec(vec![]), 64)).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_limit_counts_every_frame() {
        let frames = || vec![Ok(warning("careful")), frame(1), frame(2)];
        assert_eq!(shape(limited(from_vec(frames()), 2)).await, ["careful", "series"]);
        assert_eq!(shape(limited(from_vec(frames()), 0)).await.len(), 3);
        let request = SeriesRequest { limit: 3, response_batch_size: 64, ..SeriesRequest::default() };
        assert_eq!(shape(respond(from_vec(frames()), &request)).await, ["careful", "batch 2"]);
    }

    #[tokio::test]
    async fn unbatching_undoes_batching_and_skips_what_it_does_not_know() {
        let mut frames: Vec<_> = (0..5).map(frame).collect();
        frames.insert(2, Ok(SeriesResponse { result: None }));
        let stream = unbatched(batched(from_vec(frames), 3));
        assert_eq!(shape(stream).await, ["series"; 5]);
    }
}
