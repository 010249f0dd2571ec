//! The blocks' sorted streams into one: equal series joined, equal chunks once.
//!
//! Holds the next series of each block and what their channels hold. Frames leave in groups; a group leaves early when the next
//! series has to be waited for. An input that stops without its end, and an output that does, are errors and never a short answer.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Instant;

use parallax_block::BlockId;
use parallax_storeapi::encoded::{Joined, Piece, Pieces, compare};
use parallax_storeapi::frames;
use tokio::sync::mpsc;
use tonic::Status;

use crate::answer::{Group, Part};
use crate::chunk_sizes::Tally;
use crate::error::BlockFailure;
use crate::limits::Usage;
use crate::metrics::{GatewayMetrics, ReasonLabels};
use crate::select::Item;

/// How many parts leave together.
const GROUP_PARTS: usize = 64;

/// Room for so many blocks is made at once where series are joined.
const JOINED_BLOCKS: usize = 16;

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
    on_missing: OnMissing,
    metrics: &'a GatewayMetrics,
    usage: &'a Usage,
    output: mpsc::Sender<Group>,
    /// Where the caller follows one replica only: from when on.
    withholds_from_ms: Option<i64>,
    group: Group,
    counted: Counted,
}

/// What was merged since it was last brought to where others look.
#[derive(Default)]
struct Counted {
    series: u64,
    chunks: u64,
    sizes: Tally,
}

/// Nothing more is to be sent.
pub struct Ended;

struct Source {
    input: Input,
    ready: Pieces,
    has_ended: bool,
}

/// A series that is the next one of some sources, with the chunks of all of them.
struct Head {
    series: Joined,
    sources: Owing,
}

/// The sources that owe their next series; nothing is allocated for one.
struct Owing {
    first: usize,
    more: Vec<usize>,
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
    fn place(&mut self, piece: Piece, source: usize) {
        let order = |known: &Head| compare(known.series.labels(), piece.labels());
        let place = match self.0.front().map(order) {
            None | Some(Ordering::Greater) => Err(0),
            Some(Ordering::Equal) => Ok(0),
            Some(Ordering::Less) => self.0.binary_search_by(order),
        };
        match place {
            Ok(at) => {
                if let Some(known) = self.0.get_mut(at) {
                    known.series.push(piece);
                    if known.sources.more.is_empty() {
                        known.sources.more.reserve(JOINED_BLOCKS);
                    }
                    known.sources.more.push(source);
                }
            }
            Err(at) => {
                let sources = Owing { first: source, more: Vec::new() };
                self.0.insert(at, Head { series: piece.into(), sources });
            }
        }
    }

    fn take_first(&mut self) -> Option<Head> {
        self.0.pop_front()
    }

    fn take_first_if(&mut self, labels: &[u8]) -> Option<Head> {
        let is_same = self.0.front()?.series.labels() == labels;
        is_same.then(|| self.0.pop_front()).flatten()
    }
}

impl<'a> Merge<'a> {
    pub fn new(
        on_missing: OnMissing,
        metrics: &'a GatewayMetrics,
        usage: &'a Usage,
        output: mpsc::Sender<Group>,
        withholds_from_ms: Option<i64>,
    ) -> Self {
        let (group, counted) = (Vec::new(), Counted::default());
        Self { on_missing, metrics, usage, output, withholds_from_ms, group, counted }
    }

    /// Sends every series of `inputs`.
    pub async fn run(&mut self, inputs: Vec<Input>) -> Result<(), Ended> {
        let mut sources: Vec<Source> = inputs
            .into_iter()
            .map(|input| Source { input, ready: Pieces::default(), has_ended: false })
            .collect();
        let mut heads = Heads::default();
        let all: Vec<usize> = (0..sources.len()).collect();
        self.advance(&mut sources, all, &mut heads).await?;
        let began = Instant::now();
        while let Some(Head { mut series, sources: owing }) = heads.take_first() {
            self.advance(&mut sources, owing, &mut heads).await?;
            // What a source has next may be a part of the same series.
            while let Some(same) = heads.take_first_if(series.labels()) {
                series.append(same.series);
                self.advance(&mut sources, same.sources, &mut heads).await?;
            }
            series.settle(self.withholds_from_ms);
            self.counted.series += 1;
            self.counted.chunks += series.chunks() as u64;
            self.counted.sizes.count(&series);
            self.push(Ok(Part::Series(series))).await?;
        }
        self.metrics.merge_seconds.observe(began.elapsed().as_secs_f64());
        self.settle();
        Ok(())
    }

    /// Brings what was counted of the series to where others look.
    fn settle(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        let Counted { series, chunks, sizes } = std::mem::take(&mut self.counted);
        self.usage.merged_series.fetch_add(series, Relaxed);
        self.usage.merged_chunks.fetch_add(chunks, Relaxed);
        self.metrics.chunk_sizes.add(&sizes);
    }

    /// Sends what is left, and the end.
    pub async fn finish(&mut self) -> Result<(), Ended> {
        self.flush().await?;
        self.output.send(Group::new()).await.map_err(|_| Ended)
    }

    pub async fn push(&mut self, part: Result<Part, Status>) -> Result<(), Ended> {
        if self.group.is_empty() {
            self.group.reserve_exact(GROUP_PARTS);
        }
        self.group.push(part);
        if self.group.len() >= GROUP_PARTS { self.flush().await } else { Ok(()) }
    }

    /// Says that something is missing, by a warning or by ending the answer.
    pub async fn missing(&mut self, failure: &BlockFailure) -> Result<(), Ended> {
        if let BlockFailure::Limit(status) = failure {
            self.metrics.queries_dropped.get_or_create(&ReasonLabels { reason: "limit" }).inc();
            return self.end(status.clone()).await;
        }
        self.metrics.warned(reason(failure));
        match self.on_missing {
            OnMissing::Warn => self.push(Ok(Part::Other(frames::warning(failure.to_string())))).await,
            OnMissing::Abort => self.end(Status::aborted(failure.to_string())).await,
        }
    }

    pub async fn end(&mut self, status: Status) -> Result<(), Ended> {
        self.group.push(Err(status));
        self.flush().await?;
        Err(Ended)
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
            if let Some(piece) = self.next(source).await? {
                heads.place(piece, index);
            }
        }
        Ok(())
    }

    /// The next series of a source, if it has one.
    async fn next(&mut self, source: &mut Source) -> Result<Option<Piece>, Ended> {
        loop {
            if let Some(piece) = source.ready.next() {
                return Ok(Some(piece));
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
                Some(Item::Series(series)) => source.ready = series.into(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parallax_model::Labels;
    use parallax_storeapi::proto::thanos::Series;
    use parallax_storeapi::{chunks, encoded, labels};
    use parallax_telemetry::Metrics;

    use super::*;
    use crate::answer::Answer;

    fn of(series: impl IntoIterator<Item = Series>) -> Item {
        Item::Series(Arc::new(series.into_iter().collect()))
    }

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
        merged_for(blocks, on_missing, None).await
    }

    /// The same, for a caller that follows one replica from then on.
    async fn merged_for(
        blocks: Vec<Vec<Item>>,
        on_missing: OnMissing,
        withholds_from_ms: Option<i64>,
    ) -> Result<frames::Collected, Status> {
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
            let mut merge = Merge::new(on_missing, &metrics, &usage, output, withholds_from_ms);
            if merge.run(inputs).await.is_ok() {
                let _ = merge.finish().await;
            }
        });
        frames::collect(encoded::decoded(Box::pin(Answer::new(receiver, merging, 0, 0)))).await
    }

    #[tokio::test]
    async fn equal_series_are_joined_and_equal_chunks_kept_once() {
        let blocks = vec![
            vec![of([series("a", &[b"1"]), series("b", &[b"2"])]), Item::End],
            vec![of([series("b", &[b"2", b"3"])]), of([series("c", &[b"4"])]), Item::End],
        ];
        let answer = merged(blocks, OnMissing::Warn).await.unwrap();
        assert_eq!(answer.series, [series("a", &[b"1"]), series("b", &[b"2", b"3"]), series("c", &[b"4"])]);
        assert!(answer.warnings.is_empty());
    }

    #[tokio::test]
    async fn a_replica_that_is_not_followed_is_kept_back_where_that_was_asked_for() {
        // Chunks of 120 scrapes, 15 s apart; data only tells how many there are.
        let chunk = |min_ms: i64| {
            let encoding = parallax_storeapi::proto::thanos::chunk::Encoding::Xor;
            let data = bytes::Bytes::from_static(&[0, 120, 1]);
            chunks::raw(min_ms, min_ms + 119 * 15_000, chunks::chunk(encoding, data))
        };
        let replica = |start_ms: i64| {
            let chunks = (0..4).map(|at| chunk(start_ms + at * 120 * 15_000)).collect();
            vec![of([Series { chunks, ..series("a", &[]) }]), Item::End]
        };
        for (withholds_from_ms, expected) in [(None, 0), (Some(0), 3)] {
            let blocks = vec![replica(1_000_000), replica(1_007_000)];
            let answer = merged_for(blocks, OnMissing::Abort, withholds_from_ms).await.unwrap();
            let raw = answer.series[0].chunks.iter().filter_map(|chunk| chunk.raw.as_ref());
            let kept_back = raw.filter(|raw| parallax_storeapi::withhold::is_withheld(raw)).count();
            assert_eq!((answer.series[0].chunks.len(), kept_back), (8, expected));
        }
    }

    #[tokio::test]
    async fn a_block_that_stops_without_its_end_is_missing_and_never_complete() {
        let blocks = || vec![vec![of([series("a", &[b"1"])])], vec![Item::End]];
        let answer = merged(blocks(), OnMissing::Warn).await.unwrap();
        assert_eq!(answer.series.len(), 1);
        assert!(answer.warnings[0].contains("01M7ZT2XAE94D33BEGH3SZ0000"), "{:?}", answer.warnings);
        let status = merged(blocks(), OnMissing::Abort).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted);
    }
}
