//! The blocks' sorted streams into one: equal series joined, equal chunks once.
//!
//! Holds the next series of each block and what their channels hold. Frames leave in groups; a group leaves early when the next
//! series has to be waited for. An input that stops without its end, and an output that does, are errors and never a short answer.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Instant;

use futures::{Stream, StreamExt};
use parallax_block::BlockId;
use parallax_storeapi::proto::thanos::{Label, Series, SeriesResponse};
use parallax_storeapi::withhold::withhold;
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
    /// Where the caller follows one replica only: from when on.
    pub withholds_from_ms: Option<i64>,
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

/// A series that is the next one of some sources, with the chunks of all of them.
struct Head {
    series: Series,
    sources: Owing,
}

/// The sources that owe their next series; nothing is allocated for one.
struct Owing {
    first: usize,
    more: Vec<usize>,
}

impl Owing {
    fn len(&self) -> usize {
        1 + self.more.len()
    }
}

impl IntoIterator for Owing {
    type Item = usize;
    type IntoIter = std::iter::Chain<std::iter::Once<usize>, std::vec::IntoIter<usize>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.more)
    }
}

/// The next series of each source, equal ones joined, in order.
///
/// Blocks of one cluster mostly have the same series: what one of them has next is most often just what another one has. So it is held against the first
/// head before its place is looked for, and one comparison for each series is all it takes.
#[derive(Default)]
struct Heads(VecDeque<Head>);

impl Heads {
    fn place(&mut self, series: Series, source: usize) {
        let order = |known: &Head| labels::compare(&known.series.labels, &series.labels);
        let place = match self.0.front().map(order) {
            None | Some(Ordering::Greater) => Err(0),
            Some(Ordering::Equal) => Ok(0),
            Some(Ordering::Less) => self.0.binary_search_by(order),
        };
        match place {
            Ok(at) => {
                if let Some(known) = self.0.get_mut(at) {
                    known.series.chunks.extend(series.chunks);
                    known.sources.more.push(source);
                }
            }
            Err(at) => {
                self.0.insert(at, Head { series, sources: Owing { first: source, more: Vec::new() } });
            }
        }
    }

    fn take_first(&mut self) -> Option<Head> {
        self.0.pop_front()
    }

    fn take_first_if(&mut self, labels: &[Label]) -> Option<Head> {
        let is_same = labels::compare(&self.0.front()?.series.labels, labels).is_eq();
        is_same.then(|| self.0.pop_front()).flatten()
    }
}

impl<'a> Merge<'a> {
    pub fn new(
        on_missing: OnMissing,
        metrics: &'a GatewayMetrics,
        usage: &'a Usage,
        output: mpsc::Sender<Frames>,
    ) -> Self {
        let (group, sizes) = (Vec::new(), Tally::default());
        Self { on_missing, metrics, usage, output, withholds_from_ms: None, group, sizes }
    }

    /// Sends every series of `inputs`.
    pub async fn run(&mut self, inputs: Vec<Input>) -> Result<(), Ended> {
        let mut sources: Vec<Source> = inputs
            .into_iter()
            .map(|input| Source { input, ready: Vec::new().into_iter(), has_ended: false })
            .collect();
        let mut heads = Heads::default();
        let all: Vec<usize> = (0..sources.len()).collect();
        self.advance(&mut sources, all, &mut heads).await?;
        let began = Instant::now();
        while let Some(Head { mut series, sources: owing }) = heads.take_first() {
            let mut is_joined = owing.len() > 1;
            self.advance(&mut sources, owing, &mut heads).await?;
            // What a source has next may be a part of the same series.
            while let Some(mut same) = heads.take_first_if(&series.labels) {
                series.chunks.append(&mut same.series.chunks);
                is_joined = true;
                self.advance(&mut sources, same.sources, &mut heads).await?;
            }
            if is_joined {
                series.chunks.sort_by(chunks::compare);
                series.chunks.dedup_by(|a, b| chunks::compare(a, b) == Ordering::Equal);
                if let Some(from_ms) = self.withholds_from_ms {
                    withhold(&mut series, from_ms);
                }
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

    /// Places what some sources have next.
    async fn advance(
        &mut self,
        sources: &mut [Source],
        owing: impl IntoIterator<Item = usize>,
        heads: &mut Heads,
    ) -> Result<(), Ended> {
        for index in owing {
            let Some(source) = sources.get_mut(index) else { continue };
            if let Some(series) = self.next(source).await? {
                heads.place(series, index);
            }
        }
        Ok(())
    }

    /// The next series of a source, if it has one.
    async fn next(&mut self, source: &mut Source) -> Result<Option<Series>, Ended> {
        loop {
            if let Some(series) = source.ready.next() {
                return Ok(Some(series));
            }
            if source.has_ended {
                return Ok(None);
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
