//! A merge's output as frames: limited, put into batches, ready to leave the process.
//!
//! A limit counts single series and other frames alike; a batch holds series only, and any other frame sends the batch on its way first. Series that are ready do not
//! wait for slow ones. An output that stops without its end is an error, never a short answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::Stream;
use parallax_storeapi::encoded::{Joined, JoinedFrame, WireFrame};
use parallax_storeapi::frames::MAX_BATCH_SERIES;
use parallax_storeapi::proto::thanos::SeriesResponse;
use tokio::sync::mpsc;
use tonic::Status;

/// What there is to be sent.
#[derive(Debug)]
pub enum Part {
    Series(Joined),
    Other(SeriesResponse),
}

/// Parts that leave the merge together; none at all is the end of the answer.
pub type Group = Vec<Result<Part, Status>>;

/// The frames of an answer. `K` lives as long.
pub struct Answer<K> {
    /// `None` once it has ended.
    source: Option<(mpsc::Receiver<Group>, K)>,
    ready: std::vec::IntoIter<Result<Part, Status>>,
    /// How many parts may still go, if there is a limit.
    left: Option<usize>,
    /// Series in a frame; 1 for frames of single series.
    size: usize,
    is_batched: bool,
    batch: JoinedFrame,
    /// What comes after the batch that had to go first.
    next: Option<Result<SeriesResponse, Status>>,
}

impl<K> Answer<K> {
    /// `limit` and `batch_size` as a request has them: 0 and less is none of either.
    pub fn new(output: mpsc::Receiver<Group>, keep: K, limit: i64, batch_size: i64) -> Self {
        let size = usize::try_from(batch_size).unwrap_or(0);
        Self {
            source: Some((output, keep)),
            ready: Vec::new().into_iter(),
            left: usize::try_from(limit).ok().filter(|limit| *limit > 0),
            size: size.clamp(1, MAX_BATCH_SERIES),
            is_batched: size > 1,
            batch: JoinedFrame::new(size > 1),
            next: None,
        }
    }

    /// The batch, if there is anything in it.
    fn flush(&mut self) -> Option<Result<WireFrame, Status>> {
        let is_batched = self.is_batched;
        let batch = std::mem::replace(&mut self.batch, JoinedFrame::new(is_batched));
        (!batch.is_empty()).then(|| Ok(WireFrame::Joined(batch)))
    }

    /// The next part, within the limit; `None` at the end.
    fn poll_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Part, Status>>> {
        if self.left == Some(0) {
            self.source = None;
            return Poll::Ready(None);
        }
        loop {
            if let Some(part) = self.ready.next() {
                self.left = self.left.map(|left| left - 1);
                if part.is_err() {
                    // Nothing comes after an error.
                    self.source = None;
                    self.ready = Vec::new().into_iter();
                }
                return Poll::Ready(Some(part));
            }
            let Some((output, _)) = &mut self.source else { return Poll::Ready(None) };
            match ready!(output.poll_recv(context)) {
                Some(group) if !group.is_empty() => self.ready = group.into_iter(),
                Some(_) => self.source = None,
                None => {
                    self.source = None;
                    return Poll::Ready(Some(Err(Status::internal("the answer was interrupted"))));
                }
            }
        }
    }
}

impl<K: Unpin> Stream for Answer<K> {
    type Item = Result<WireFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(Some(next.map(WireFrame::Message)));
        }
        loop {
            let other = match self.poll_part(context) {
                Poll::Ready(Some(Ok(Part::Series(series)))) => {
                    self.batch.push(series);
                    if self.batch.len() >= self.size || self.batch.is_large() {
                        return Poll::Ready(self.flush());
                    }
                    continue;
                }
                Poll::Ready(Some(Ok(Part::Other(frame)))) => Ok(frame),
                Poll::Ready(Some(Err(status))) => Err(status),
                Poll::Ready(None) => return Poll::Ready(self.flush()),
                Poll::Pending => return self.flush().map_or(Poll::Pending, |frame| Poll::Ready(Some(frame))),
            };
            let Some(batch) = self.flush() else { return Poll::Ready(Some(other.map(WireFrame::Message))) };
            self.next = Some(other);
            return Poll::Ready(Some(batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt as _;
    use parallax_model::Labels;
    use parallax_storeapi::encoded::{Packed, Pieces};
    use parallax_storeapi::frames;
    use parallax_storeapi::labels::to_wire;
    use parallax_storeapi::proto::thanos::Series;
    use parallax_storeapi::proto::thanos::series_response::Result as Frame;

    use super::*;

    fn series(count: usize) -> Vec<Result<Part, Status>> {
        let one = |index: usize| Series {
            labels: to_wire(&Labels::from_pairs([("n", index.to_string())])),
            chunks: Vec::new(),
        };
        let packed: Packed = (0..count).map(one).collect();
        Pieces::from(Arc::new(packed)).map(|piece| Ok(Part::Series(piece.into()))).collect()
    }

    fn warning() -> Result<Part, Status> {
        Ok(Part::Other(frames::warning("careful")))
    }

    /// What becomes of groups, of which the last is followed by nothing at all.
    async fn shape(groups: Vec<Group>, limit: i64, batch_size: i64) -> Vec<String> {
        let (sender, receiver) = mpsc::channel(groups.len().max(1));
        for group in groups {
            sender.send(group).await.unwrap();
        }
        drop(sender);
        let answer =
            parallax_storeapi::encoded::decoded(Box::pin(Answer::new(receiver, (), limit, batch_size)));
        let name = |item: Result<SeriesResponse, Status>| match item.map(|frame| frame.result) {
            Ok(Some(Frame::Series(_))) => "series".to_owned(),
            Ok(Some(Frame::Batch(batch))) => format!("batch {}", batch.series.len()),
            Ok(Some(Frame::Warning(text))) => text,
            Ok(_) => "other".to_owned(),
            Err(status) => status.message().to_owned(),
        };
        answer.map(name).collect().await
    }

    #[tokio::test]
    async fn other_frames_and_errors_come_after_the_batch_before_them() {
        let mut group = series(3);
        group.push(warning());
        group.extend(series(1));
        let failed = vec![Err(Status::aborted("broken")), warning()];
        assert_eq!(
            shape(vec![group, failed], 0, 2).await,
            ["batch 2", "batch 1", "careful", "batch 1", "broken"]
        );
        assert_eq!(shape(vec![series(2), Vec::new()], 0, 1).await, ["series", "series"]);
        assert_eq!(shape(vec![series(2), series(1), Vec::new()], 0, 64).await, ["batch 3"]);
    }

    #[tokio::test]
    async fn a_limit_counts_every_part() {
        let groups = || vec![vec![warning()], series(3), Vec::new()];
        assert_eq!(shape(groups(), 2, 0).await, ["careful", "series"]);
        assert_eq!(shape(groups(), 3, 64).await, ["careful", "batch 2"]);
        assert_eq!(shape(groups(), 0, 0).await.len(), 4);
    }

    #[tokio::test]
    async fn an_answer_that_stops_without_its_end_is_an_error() {
        let interrupted = shape(vec![series(2)], 0, 64).await;
        assert_eq!(interrupted, ["batch 2", "the answer was interrupted"]);
        assert_eq!(shape(Vec::new(), 0, 0).await, ["the answer was interrupted"]);
    }
}
