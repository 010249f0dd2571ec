//! The blocks' sorted streams into one: equal series joined, equal chunks once.
//!
//! Holds the next series of each block and what their channels hold. Frames leave in groups; a group leaves early when the next
//! series has to be waited for. An input that stops without its end, and an output that does, are errors and never a short answer.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use futures::{Stream, StreamExt};
use parallax_block::BlockId;
use parallax_storeapi::proto::thanos::{Series, SeriesResponse};
use parallax_storeapi::{chunks, frames, labels};
use tokio::sync::mpsc;
use tonic::Status;

use crate::chunk_sizes::Tally;
use crate::error::BlockFailure;
use crate::limits::Usage;
use crate::metrics::{GatewayMetrics, ReasonLabels};
use crate::select::Item;

const GROUP_FRAMES: usize = 64;

/// Frames that leave together; none at all is the end of the answer.
pub type Frames = Vec<Result<SeriesResponse, Status>>;

/// A block and what it sends.
pub struct Input {
    pub block: BlockId,
    pub receiver: mpsc::Receiver<Item>,
}

/// What a missing piece does to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    Warn,
    Abort,
}

/// Merges until the inputs end, a failure ends the answer, or the receiver is gone.
pub struct Merge<'a> {
    pub on_missing: OnMissing,
    pub metrics: &'a GatewayMetrics,
    pub usage: &'a Usage,
    pub output: mpsc::Sender<Frames>,
    group: Frames,
    sizes: Tally,
}

/// Nothing more is to be sent.
pub struct Ended;

struct Source {
    input: Input,
    ready: std::vec::IntoIter<Series>,
    has_ended: bool,
}

struct Head {
    series: Series,
    source: usize,
}

impl<'a> Merge<'a> {
    pub fn new(
        on_missing: OnMissing,
        metrics: &'a GatewayMetrics,
        usage: &'a Usage,
        output: mpsc::Sender<Frames>,
    ) -> Self {
        Self { on_missing, metrics, usage, output, group: Vec::new(), sizes: Tally::default() }
    }

    /// Sends every series of `inputs`.
    pub async fn run(&mut self, inputs: Vec<Input>) -> Result<(), Ended> {
        let mut sources: Vec<Source> = inputs
            .into_iter()
            .map(|input| Source { input, ready: Vec::new().into_iter(), has_ended: false })
            .collect();
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for index in 0..sources.len() {
            self.advance(&mut sources, index, &mut heads).await?;
        }
        let began = Instant::now();
        while let Some(Reverse(Head { mut series, source })) = heads.pop() {
            self.advance(&mut sources, source, &mut heads).await?;
            let mut is_joined = false;
            while let Some(Reverse(next)) = heads.peek()
                && next.series.labels == series.labels
            {
                let Some(Reverse(Head { series: same, source })) = heads.pop() else { break };
                series.chunks.extend(same.chunks);
                is_joined = true;
                self.advance(&mut sources, source, &mut heads).await?;
            }
            if is_joined {
                series.chunks.sort_by(chunks::compare);
                series.chunks.dedup_by(|a, b| chunks::compare(a, b) == Ordering::Equal);
            }
            self.count(&series);
            self.push(Ok(frames::series(series))).await?;
        }
        self.metrics.merge_seconds.observe(began.elapsed().as_secs_f64());
        self.settle();
        Ok(())
    }

    /// Brings what was counted of the series to the metrics.
    fn settle(&mut self) {
        self.metrics.chunk_sizes.add(&std::mem::take(&mut self.sizes));
    }

    /// Sends what is left, and the end.
    pub async fn finish(&mut self) -> Result<(), Ended> {
        self.flush().await?;
        self.output.send(Frames::new()).await.map_err(|_| Ended)
    }

    pub async fn push(&mut self, frame: Result<SeriesResponse, Status>) -> Result<(), Ended> {
        self.group.push(frame);
        if self.group.len() >= GROUP_FRAMES { self.flush().await } else { Ok(()) }
    }

    /// Says that something is missing, by a warning or by ending the answer.
    pub async fn missing(&mut self, failure: &BlockFailure) -> Result<(), Ended> {
        if let BlockFailure::Limit(status) = failure {
            self.metrics.queries_dropped.get_or_create(&ReasonLabels { reason: "limit" }).inc();
            return self.end(status.clone()).await;
        }
        self.metrics.warned(reason(failure));
        match self.on_missing {
            OnMissing::Warn => self.push(Ok(frames::warning(failure.to_string()))).await,
            OnMissing::Abort => self.end(Status::aborted(failure.to_string())).await,
        }
    }

    pub async fn end(&mut self, status: Status) -> Result<(), Ended> {
        self.group.push(Err(status));
        self.flush().await?;
        Err(Ended)
    }

    fn count(&mut self, series: &Series) {
        use std::sync::atomic::Ordering::Relaxed;
        self.sizes.count(series);
        self.usage.merged_series.fetch_add(1, Relaxed);
        self.usage.merged_chunks.fetch_add(series.chunks.len() as u64, Relaxed);
    }

    /// Puts the next series of a source among the heads, if it has one.
    async fn advance(
        &mut self,
        sources: &mut [Source],
        index: usize,
        heads: &mut BinaryHeap<Reverse<Head>>,
    ) -> Result<(), Ended> {
        let Some(source) = sources.get_mut(index) else { return Ok(()) };
        loop {
            if let Some(series) = source.ready.next() {
                heads.push(Reverse(Head { series, source: index }));
                return Ok(());
            }
            if source.has_ended {
                return Ok(());
            }
            let item = match source.input.receiver.try_recv() {
                Ok(item) => Some(item),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.flush().await?;
                    source.input.receiver.recv().await
                }
            };
            match item {
                Some(Item::Series(series)) => source.ready = series.into_iter(),
                Some(Item::Missing(failure)) => self.missing(&failure).await?,
                Some(Item::End) => source.has_ended = true,
                None => {
                    source.has_ended = true;
                    self.missing(&BlockFailure::Interrupted { block: source.input.block }).await?;
                }
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.group.is_empty() {
            return Ok(());
        }
        self.output.send(std::mem::take(&mut self.group)).await.map_err(|_| Ended)
    }
}

impl Drop for Merge<'_> {
    /// An answer that was ended early has sent what it has sent.
    fn drop(&mut self) {
        self.settle();
    }
}

/// The label value `reason` of `parallax_store_warnings_total`.
pub fn reason(failure: &BlockFailure) -> &'static str {
    match failure {
        BlockFailure::Bucket { .. } => "bucket",
        BlockFailure::Damaged { .. } => "damaged",
        BlockFailure::Header { .. } => "index-header",
        BlockFailure::Load(failure) => reason(failure),
        BlockFailure::Repeated { .. } => "repeated",
        BlockFailure::Limit(_) => "limit",
        BlockFailure::Interrupted { .. } => "interrupted",
        BlockFailure::Gone { .. } => "gone",
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        labels::compare(&self.series.labels, &other.series.labels)
            .then_with(|| self.source.cmp(&other.source))
    }
}

/// The frames of a merge's output, which fails if the merge stops without its end. `keep` lives as long as the stream.
pub fn frames_of(
    output: mpsc::Receiver<Frames>,
    keep: impl Send + 'static,
) -> impl Stream<Item = Result<SeriesResponse, Status>> + Send {
    let groups = futures::stream::unfold(Some((output, keep)), async |state| {
        let (mut output, keep) = state?;
        match output.recv().await {
            None => Some((vec![Err(Status::internal("the answer was interrupted"))], None)),
            Some(group) if group.is_empty() => None,
            Some(group) => {
                // Nothing comes after an error.
                let has_failed = group.last().is_some_and(Result::is_err);
                Some((group, (!has_failed).then_some((output, keep))))
            }
        }
    });
    groups.flat_map(futures::stream::iter)
}

#[cfg(test)]
mod tests {
    use parallax_model::Labels;
    use parallax_telemetry::Metrics;

    use super::*;

    fn series(job: &str, chunk_bytes: &[&'static [u8]]) -> Series {
        let raw = |data: &&'static [u8]| {
            let encoding = parallax_storeapi::proto::thanos::chunk::Encoding::Xor;
            let time_ms = i64::from(data[0]);
            chunks::raw(time_ms, time_ms, chunks::chunk(encoding, bytes::Bytes::from_static(data)))
        };
        Series {
            labels: labels::to_wire(&Labels::from_pairs([("job", job)])),
            chunks: chunk_bytes.iter().map(raw).collect(),
        }
    }

    /// Merges blocks that send these items and then go away.
    async fn merged(blocks: Vec<Vec<Item>>, on_missing: OnMissing) -> Result<frames::Collected, Status> {
        let (output, receiver) = mpsc::channel(2);
        let merging = tokio::spawn(async move {
            let mut inputs = Vec::new();
            for (index, items) in blocks.into_iter().enumerate() {
                let (sender, receiver) = mpsc::channel(items.len() + 1);
                for item in items {
                    sender.send(item).await.unwrap();
                }
                let block = format!("01M7ZT2XAE94D33BEGH3SZ000{index}").parse().unwrap();
                inputs.push(Input { block, receiver });
            }
            let (metrics, usage) = (GatewayMetrics::register(&Metrics::new()), Usage::default());
            let mut merge = Merge::new(on_missing, &metrics, &usage, output);
            if merge.run(inputs).await.is_ok() {
                let _ = merge.finish().await;
            }
        });
        frames::collect(Box::pin(frames_of(receiver, merging))).await
    }

    #[tokio::test]
    async fn equal_series_are_joined_and_equal_chunks_kept_once() {
        let blocks = vec![
            vec![Item::Series(vec![series("a", &[b"1"]), series("b", &[b"2"])]), Item::End],
            vec![
                Item::Series(vec![series("b", &[b"2", b"3"])]),
                Item::Series(vec![series("c", &[b"4"])]),
                Item::End,
            ],
        ];
        let answer = merged(blocks, OnMissing::Warn).await.unwrap();
        assert_eq!(answer.series, [series("a", &[b"1"]), series("b", &[b"2", b"3"]), series("c", &[b"4"])]);
        assert!(answer.warnings.is_empty());
    }

    #[tokio::test]
    async fn a_block_that_stops_without_its_end_is_missing_and_never_complete() {
        let blocks = || vec![vec![Item::Series(vec![series("a", &[b"1"])])], vec![Item::End]];
        let answer = merged(blocks(), OnMissing::Warn).await.unwrap();
        assert_eq!(answer.series.len(), 1);
        assert!(answer.warnings[0].contains("01M7ZT2XAE94D33BEGH3SZ0000"), "{:?}", answer.warnings);
        let status = merged(blocks(), OnMissing::Abort).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted);
    }

    #[tokio::test]
    async fn an_answer_that_stops_without_its_end_is_an_error() {
        let (output, receiver) = mpsc::channel(1);
        output.send(vec![Ok(frames::series(series("a", &[b"1"])))]).await.unwrap();
        drop(output);
        let status = frames::collect(Box::pin(frames_of(receiver, ()))).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal);
    }
}
