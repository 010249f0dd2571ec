//! One block's part of an answer: postings, series, chunks, in order, batch by batch into a bounded channel.
//!
//! The receiver sets the pace: a block holds one batch that is read and what waits for its place in the order (`order.rs`). When the receiver is gone the work
//! ends with the next batch.
//!
//! A block that has left the bucket meanwhile is read on, once, from the block that took its place: within the time of the first, and from the series on that was
//! handed on last (the merge joins equal series, and keeps equal chunks once).

use std::sync::Arc;

use parallax_model::TimeRange;
use parallax_storeapi::ShardMatcher;
use parallax_storeapi::encoded::{Packed, Packer, compare};
use parallax_storeapi::proto::thanos::Aggr;
use parallax_tsdb::TsdbError;
use tokio::sync::{OnceCell, mpsc};

use crate::block::Block;
use crate::block_list::BlockList;
use crate::blocks::Chosen;
use crate::chunk_read::ChunkReader;
use crate::config::LazyPostings;
use crate::error::BlockFailure;
use crate::fetch::Fetch;
use crate::limits::Usage;
use crate::metrics::GatewayMetrics;
use crate::order::Order;
use crate::postings::Selector;
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
    pub lazy: LazyPostings,
}

/// What a block sends.
#[derive(Debug)]
pub enum Item {
    /// In order of the labels answered with, external ones included.
    Series(Arc<Packed>),
    /// A piece is missing; more may follow.
    Missing(BlockFailure),
    /// That was all. A channel that closes without it closed too early.
    End,
}

/// One block of a call.
pub struct BlockSelect {
    /// Where a successor is looked for.
    pub list: Arc<BlockList>,
    pub fetch: Fetch,
    pub metrics: GatewayMetrics,
    pub usage: Arc<Usage>,
    pub chosen: Chosen,
    pub request: Arc<SelectRequest>,
    pub batch_bytes: u64,
}

/// The receiver is gone, or the block failed, or another is to be read instead.
enum Stop {
    Gone,
    Failed(BlockFailure),
    Replaced(Arc<Block>),
}

/// One block, as far as it has been read.
struct Reading<'a> {
    select: &'a BlockSelect,
    block: &'a Arc<Block>,
    request: Arc<SelectRequest>,
    /// Series with labels before these have been handed on by a block that this one replaces.
    from: Option<Vec<u8>>,
    /// The labels that were handed on last.
    reached: Option<Vec<u8>>,
    /// What has taken the place of the block, if anybody has looked. A block that replaces another is not replaced again.
    successor: OnceCell<Option<Arc<Block>>>,
}

impl From<BlockFailure> for Stop {
    fn from(failure: BlockFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Where a block's series and reports go.
struct Out {
    sender: mpsc::Sender<Item>,
    block: Arc<Block>,
    reported: usize,
}

/// For what a block sends: one thing at a time, and the end, for which there is always room.
pub fn channel() -> (mpsc::Sender<Item>, mpsc::Receiver<Item>) {
    mpsc::channel(2)
}

impl BlockSelect {
    /// Sends everything into a [`channel`], a failure of the whole block last.
    pub async fn run(self, sender: mpsc::Sender<Item>) {
        let Ok(end) = sender.clone().reserve_owned().await else { return };
        // If the receiver is gone nobody needs to know.
        if let Err(Stop::Failed(failure)) = self.read(&sender).await {
            let _ = sender.send(Item::Missing(failure)).await;
        }
        end.send(Item::End);
    }

    async fn read(&self, sender: &mpsc::Sender<Item>) -> Result<(), Stop> {
        let gone = &self.chosen.block;
        let mut first = Reading {
            select: self,
            block: gone,
            request: Arc::clone(&self.request),
            from: None,
            reached: None,
            successor: OnceCell::new(),
        };
        let successor = match first.stream(sender).await {
            Err(Stop::Failed(failure)) if failure.is_not_found() => match first.successor().await {
                Some(successor) => successor,
                None => return Err(Stop::Failed(self.gone(failure))),
            },
            Err(Stop::Replaced(successor)) => successor,
            result => return result,
        };
        tracing::info!(block = %gone.id(), successor = %successor.id(), "a block left the bucket while it was read");
        self.metrics.blocks_replaced.inc();
        self.usage.replaced(gone.id(), successor.id());
        let request = SelectRequest { range: self.time_range(), ..SelectRequest::clone(&self.request) };
        let mut second = Reading {
            select: self,
            block: &successor,
            request: Arc::new(request),
            from: first.reached.take(),
            reached: None,
            successor: OnceCell::new_with(Some(None)),
        };
        second.stream(sender).await
    }

    /// What of the asked time the block covers.
    fn time_range(&self) -> TimeRange {
        self.request.range.intersect(&self.chosen.block.meta.time_range())
    }

    fn gone(&self, failure: BlockFailure) -> BlockFailure {
        let TimeRange { min_ms, max_ms } = self.time_range();
        BlockFailure::Gone { min_ms, max_ms, source: Box::new(failure) }
    }
}

impl Reading<'_> {
    async fn stream(&mut self, sender: &mpsc::Sender<Item>) -> Result<(), Stop> {
        let (select, block) = (self.select, self.block);
        let header = block.header.get(&select.fetch, &select.metrics).await?;
        let (fetch, usage, lazy) = (&select.fetch, &select.usage, self.request.lazy);
        let selector = Selector { fetch, usage, block, header: &header, lazy };
        let selected = selector.select(&select.chosen.matchers).await?;
        let is_decided = selected.deferred.is_empty();
        if is_decided {
            usage.reserve_series(selected.refs.len())?;
        } else {
            select.metrics.lazy_postings.inc();
        }
        let mut out = Out { sender: sender.clone(), block: Arc::clone(block), reported: 0 };
        let series = SeriesReader::new(
            fetch.clone(),
            Arc::clone(usage),
            Arc::clone(block),
            Arc::clone(&header),
            Arc::clone(&self.request),
            &selected,
        );
        let (mut order, mut ready) = (Order::default(), Vec::new());
        let (mut matched, mut is_sound) = (Vec::new(), true);
        let mut rest = selected.refs.as_slice();
        let mut window_series = FIRST_WINDOW_SERIES;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(window_series.min(rest.len()));
            let mut window = series.read(now).await?;
            if !is_decided {
                usage.reserve_series(window.matched.len())?;
                is_sound &= window.damages.is_empty();
                matched.append(&mut window.matched);
            }
            for source in std::mem::take(&mut window.damages) {
                out.report(BlockFailure::Damaged { block: block.id(), source }).await?;
            }
            for one in window.series {
                order.push(one, &mut ready).map_err(|error| self.unsorted(&error))?;
            }
            rest = later;
            if rest.is_empty() {
                order.finish(&mut ready);
            }
            self.hand_on(order.hand_over(&mut ready), &mut out).await?;
            window_series = (window_series * 4).min(MAX_WINDOW_SERIES);
        }
        if !is_decided && is_sound {
            selector.remember(&select.chosen.matchers, matched);
        }
        Ok(())
    }

    fn unsorted(&self, error: &parallax_storeapi::Error) -> BlockFailure {
        let source = TsdbError::corrupt(&self.block.index_object(), 0, error.to_string());
        BlockFailure::Damaged { block: self.block.id(), source }
    }

    /// Reads the chunks of some series, and passes them on.
    async fn hand_on(&mut self, mut series: Vec<PendingSeries>, out: &mut Out) -> Result<(), Stop> {
        let select = self.select;
        if let Some(from) = &self.from {
            series.retain(|one| compare(one.labels(), from).is_ge());
        }
        if self.request.skip_chunks {
            return self.send(labels_only(&series), out).await;
        }
        let chunks = ChunkReader {
            fetch: select.fetch.clone(),
            usage: Arc::clone(&select.usage),
            block: Arc::clone(self.block),
            request: Arc::clone(&self.request),
        };
        let mut rest = series.as_slice();
        while !rest.is_empty() {
            let size = batch_size(rest, select.batch_bytes, select.fetch.max_gap_bytes);
            let (batch, later) = rest.split_at(size.min(rest.len()));
            rest = later;
            let loaded = chunks.load(batch).await?;
            if loaded.not_found.is_some()
                && let Some(successor) = self.successor().await
            {
                return Err(Stop::Replaced(successor));
            }
            for damage in loaded.damages {
                out.report(damage).await?;
            }
            self.send(loaded.series, out).await?;
        }
        Ok(())
    }

    async fn send(&mut self, series: Arc<Packed>, out: &Out) -> Result<(), Stop> {
        let Some(last) = series.len().checked_sub(1) else { return Ok(()) };
        let reached = self.reached.get_or_insert_default();
        reached.clear();
        reached.extend_from_slice(series.labels(last).unwrap_or_default());
        out.sender.send(Item::Series(series)).await.map_err(|_| Stop::Gone)
    }

    /// The block that took the place of this one. Looked for once.
    async fn successor(&self) -> Option<Arc<Block>> {
        self.successor.get_or_init(|| self.select.list.successor(self.block)).await.clone()
    }
}

impl Out {
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

/// Series without their chunks.
fn labels_only(series: &[PendingSeries]) -> Arc<Packed> {
    let labels_bytes = series.iter().map(|one| one.labels().len()).sum();
    let mut packer = Packer::with_capacity(series.len(), labels_bytes, 0);
    series.iter().for_each(|one| packer.push(one.labels()));
    packer.finish(Vec::new())
}

/// Of how many series, at least one, the chunks are about `batch_bytes` to fetch, gaps between them included.
fn batch_size(series: &[PendingSeries], batch_bytes: u64, max_gap_bytes: u64) -> usize {
    let mut bytes = 0;
    let mut last_ref: Option<u64> = None;
    let fits = |pending: &&PendingSeries| {
        for chunk in pending.chunks() {
            // Refs of one segment differ by bytes; those of different segments by far more than any gap.
            let number = chunk.chunk_ref.as_u64();
            let apart = last_ref.and_then(|last| number.checked_sub(last));
            bytes += apart.filter(|apart| *apart <= max_gap_bytes).unwrap_or(CHUNK_ESTIMATE_BYTES);
            last_ref = Some(number);
        }
        bytes <= batch_bytes
    };
    series.iter().take_while(fits).count().max(1)
}
