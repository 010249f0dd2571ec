//! One block's part of an answer: postings, series, chunks, in order, batch by batch into a bounded channel.
//!
//! The receiver sets the pace: a block holds one batch that is read and what its re-sorting holds back. When the receiver is gone the work
//! ends with the next batch.

use std::sync::Arc;

use parallax_model::TimeRange;
use parallax_storeapi::proto::thanos::{Aggr, Series};
use parallax_storeapi::{Resorter, ShardMatcher};
use parallax_tsdb::TsdbError;
use parallax_tsdb::index_header::IndexHeader;
use tokio::sync::mpsc;

use crate::block::Block;
use crate::blocks::Chosen;
use crate::chunk_read::ChunkReader;
use crate::error::BlockFailure;
use crate::fetch::Fetch;
use crate::limits::Usage;
use crate::metrics::GatewayMetrics;
use crate::postings;
use crate::series_read::{PendingSeries, SeriesReader};

/// Series entries read at once: few at first, so that the first frame comes soon.
const FIRST_WINDOW_SERIES: usize = 256;
const MAX_WINDOW_SERIES: usize = 4096;

/// What a chunk counts in a batch before its size is known.
const CHUNK_ESTIMATE_BYTES: u64 = 1 << 10;

/// A block with much damage does not answer with a warning for each piece.
const MAX_WARNINGS_PER_BLOCK: usize = 10;

/// What is asked of every block of a call.
#[derive(Clone, Debug)]
pub struct SelectRequest {
    pub range: TimeRange,
    pub skip_chunks: bool,
    pub aggregates: Vec<Aggr>,
    pub without_replica_labels: Vec<String>,
    pub shard: ShardMatcher,
}

/// What a block sends.
#[derive(Debug)]
pub enum Item {
    /// In order of the labels answered with, external ones included.
    Series(Vec<Series>),
    /// A piece is missing; more may follow.
    Missing(BlockFailure),
    /// That was all. A channel that closes without it closed too early.
    End,
}

/// One block of a call.
pub struct BlockSelect {
    pub fetch: Fetch,
    pub metrics: GatewayMetrics,
    pub usage: Arc<Usage>,
    pub chosen: Chosen,
    pub request: Arc<SelectRequest>,
    pub batch_bytes: u64,
}

/// The receiver is gone, or the block failed.
enum Stop {
    Gone,
    Failed(BlockFailure),
}

impl From<BlockFailure> for Stop {
    fn from(failure: BlockFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Where a block's series and reports go.
struct Out {
    sender: mpsc::Sender<Item>,
    resorter: Resorter,
    block: Arc<Block>,
    reported: usize,
}

impl BlockSelect {
    /// Sends everything, a failure of the whole block last.
    pub async fn run(self, sender: mpsc::Sender<Item>) {
        // If the receiver is gone nobody needs to know.
        if let Err(Stop::Failed(failure)) = self.stream(sender.clone()).await {
            let _ = sender.send(Item::Missing(failure)).await;
        }
        let _ = sender.send(Item::End).await;
    }

    async fn stream(&self, sender: mpsc::Sender<Item>) -> Result<(), Stop> {
        let block = &self.chosen.block;
        let header = block.header.get(&self.fetch, &self.metrics).await?;
        let refs = postings::select(&self.fetch, &self.usage, block, &header, &self.chosen.matchers).await?;
        self.usage.reserve_series(refs.len())?;
        let mut out = Out { sender, resorter: self.resorter(&header), block: Arc::clone(block), reported: 0 };
        let series = SeriesReader::new(
            self.fetch.clone(),
            Arc::clone(&self.usage),
            Arc::clone(block),
            header,
            Arc::clone(&self.request),
        );
        let chunks = ChunkReader {
            fetch: self.fetch.clone(),
            usage: Arc::clone(&self.usage),
            block: Arc::clone(block),
            request: Arc::clone(&self.request),
        };
        let mut rest = refs.as_slice();
        let mut window_series = FIRST_WINDOW_SERIES;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window_series.min(rest.len()));
            let window = series.read(now).await?;
            for source in window.damages {
                out.report(BlockFailure::Damaged { block: block.id(), source }).await?;
            }
            if self.request.skip_chunks {
                let labels_only = |pending: PendingSeries| Series { labels: pending.labels, chunks: vec![] };
                out.push(window.series.into_iter().map(labels_only)).await?;
            } else {
                for batch in batches(window.series, self.batch_bytes, self.fetch.max_gap_bytes) {
                    let loaded = chunks.load(batch).await?;
                    for damage in loaded.damages {
                        out.report(damage).await?;
                    }
                    out.push(loaded.series.into_iter()).await?;
                }
            }
            rest = later;
            window_series = (window_series * 4).min(MAX_WINDOW_SERIES);
        }
        out.finish().await
    }

    fn resorter(&self, header: &IndexHeader) -> Resorter {
        let without = &self.request.without_replica_labels;
        let own = |name: &String| header.postings_table().value_count(name) > 0;
        if without.iter().any(own) {
            Resorter::new(&self.chosen.block.external, without)
        } else {
            Resorter::adding(&self.chosen.block.external, without)
        }
    }
}

impl Out {
    async fn push(&mut self, series: impl Iterator<Item = Series>) -> Result<(), Stop> {
        let mut ready = Vec::with_capacity(series.size_hint().0);
        for one in series {
            self.resorter.push(one);
            self.release(&mut ready)?;
        }
        let ready = self.resorter.hand_over(&mut ready);
        self.send(ready).await
    }

    async fn finish(mut self) -> Result<(), Stop> {
        self.resorter.finish();
        let mut ready = Vec::new();
        self.release(&mut ready)?;
        self.send(ready).await
    }

    fn release(&mut self, ready: &mut Vec<Series>) -> Result<(), Stop> {
        self.resorter.release(ready).map_err(|error| {
            let source = TsdbError::corrupt(&self.block.index_object, 0, error.to_string());
            BlockFailure::Damaged { block: self.block.id(), source }.into()
        })
    }

    async fn send(&self, ready: Vec<Series>) -> Result<(), Stop> {
        if ready.is_empty() {
            return Ok(());
        }
        self.sender.send(Item::Series(ready)).await.map_err(|_| Stop::Gone)
    }

    /// Reports the first few pieces that are missing; that more are is said by the last report.
    async fn report(&mut self, damage: BlockFailure) -> Result<(), Stop> {
        self.reported += 1;
        let failure = match self.reported {
            ..=MAX_WARNINGS_PER_BLOCK => damage,
            more if more == MAX_WARNINGS_PER_BLOCK + 1 => {
                BlockFailure::Repeated { reason: format!("block {}: more of it is damaged", self.block.id()) }
            }
            _ => return Ok(()),
        };
        self.sender.send(Item::Missing(failure)).await.map_err(|_| Stop::Gone)
    }
}

/// Cuts series into batches whose chunks are about `batch_bytes` to fetch, gaps between them included; at least one series each.
fn batches(series: Vec<PendingSeries>, batch_bytes: u64, max_gap_bytes: u64) -> Vec<Vec<PendingSeries>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut last_ref: Option<u64> = None;
    for pending in series {
        let mut more = 0;
        for chunk in &pending.chunks {
            // Refs of one segment differ by bytes; those of different segments by far more than any gap.
            let number = chunk.chunk_ref.as_u64();
            let apart = last_ref.and_then(|last| number.checked_sub(last));
            more += apart.filter(|apart| *apart <= max_gap_bytes).unwrap_or(CHUNK_ESTIMATE_BYTES);
            last_ref = Some(number);
        }
        if bytes + more > batch_bytes && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += more;
        batch.push(pending);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}
