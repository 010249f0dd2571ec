//! The blocks' sorted streams into one: equal series joined, equal chunks once.
//!
//! Holds the next series of each block and what their channels hold. Frames leave in groups; a group leaves early when the next
//! series has to be waited for.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use parallax_storeapi::proto::thanos::{Series, SeriesResponse};
use parallax_storeapi::{chunks, frames, labels};
use tokio::sync::mpsc;
use tonic::Status;

use crate::error::BlockFailure;
use crate::limits::Usage;
use crate::metrics::{GatewayMetrics, ReasonLabels};
use crate::select::Item;

/// Frames that leave together.
const GROUP_FRAMES: usize = 64;

pub type Frames = Vec<Result<SeriesResponse, Status>>;

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
}

/// Nothing more is to be sent.
pub struct Ended;

struct Source {
    receiver: mpsc::Receiver<Item>,
    ready: std::vec::IntoIter<Series>,
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
        Self { on_missing, metrics, usage, output, group: Vec::new() }
    }

    /// Sends every series of `inputs`.
    pub async fn run(&mut self, inputs: Vec<mpsc::Receiver<Item>>) -> Result<(), Ended> {
        let mut sources: Vec<Source> =
            inputs.into_iter().map(|receiver| Source { receiver, ready: Vec::new().into_iter() }).collect();
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for index in 0..sources.len() {
            self.advance(&mut sources, index, &mut heads).await?;
        }
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
        Ok(())
    }

    /// Sends what is left.
    pub async fn finish(&mut self) -> Result<(), Ended> {
        self.flush().await
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

    fn count(&self, series: &Series) {
        use std::sync::atomic::Ordering::Relaxed;
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
            let item = match source.receiver.try_recv() {
                Ok(item) => Some(item),
                Err(mpsc::error::TryRecvError::Disconnected) => None,
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.flush().await?;
                    source.receiver.recv().await
                }
            };
            match item {
                Some(Item::Series(series)) => source.ready = series.into_iter(),
                Some(Item::Missing(failure)) => self.missing(&failure).await?,
                None => return Ok(()),
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

/// The label value `reason` of `parallax_store_warnings_total`.
pub fn reason(failure: &BlockFailure) -> &'static str {
    match failure {
        BlockFailure::Bucket { .. } => "bucket",
        BlockFailure::Damaged { .. } => "damaged",
        BlockFailure::Header { .. } => "index-header",
        BlockFailure::Repeated { .. } => "repeated",
        BlockFailure::Limit(_) => "limit",
        BlockFailure::Interrupted { .. } => "interrupted",
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
