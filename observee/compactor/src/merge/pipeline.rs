//! One merge over several threads: one reads series in order, some transform their chunks, one writes.
//!
//! Batches go to the workers in turn and are taken from them in the same turn, so that the order needs no sorting. All queues are short, and what is in them
//! is bounded in bytes: memory is bounded by that, one series' chunks and the windows, whatever the size of the blocks. The first error ends all threads.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use parallax_block::meta::CHUNKS_DIRECTORY;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::{BlockChunk, SealedBlock, SymbolBlockWriter};
use parallax_tsdb::index::{ChunkMeta, SymbolStore};
use parallax_tsdb::segment::SegmentConfig;
use tokio_util::sync::CancellationToken;

use super::digest::{Digest, SeriesDigest};
use super::gate::{Gate, Permit};
use super::heap::GoHeap;
use super::overlap::{MergeFailure, Scratch};
use crate::CompactError;
use crate::source::{Deletion, Origin, SeriesJob, SourceBlock, SymbolLabels};

/// A batch goes off when it has this many series, or this many bytes of chunks.
const BATCH_SERIES: usize = 256;
const BATCH_BYTES: usize = 256 << 10;

/// Batches waiting for one worker, and behind it.
const QUEUE_BATCHES: usize = 2;

/// Chunks on their way between the threads; one batch may be larger.
const MAX_IN_FLIGHT_BYTES: usize = 32 << 20;

/// What is done to the chunks of a series.
pub trait Transform: Sync {
    /// Appends the new chunks, in order of time and without overlap; none leaves the series out.
    fn apply(
        &self,
        job: SeriesJob,
        scratch: &mut Scratch,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure>;

    /// What is left out of the sources before that.
    fn deletions(&self) -> &[Deletion] {
        &[]
    }

    /// Which component says that it made the block.
    fn component(&self) -> &'static str {
        "compactor"
    }
}

/// Series that were read, and those that were made of them.
type Jobs = (Vec<SeriesJob>, Permit);
type Made = (Vec<MadeSeries>, Permit);

struct MadeSeries {
    labels: SymbolLabels,
    chunks: Vec<BlockChunk>,
    digest: SeriesDigest,
}

/// What was read of the sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadTotals {
    /// Chunks in the indexes.
    pub chunks: u64,
    /// Of those, what is left without deleted ones, and without repetitions of the one before.
    pub chunks_kept: u64,
    /// Series of which tombstones leave nothing.
    pub series_deleted: u64,
}

impl ReadTotals {
    fn add(&mut self, other: Self) {
        self.chunks += other.chunks;
        self.chunks_kept += other.chunks_kept;
        self.series_deleted += other.series_deleted;
    }
}

/// A block that was written.
#[derive(Debug)]
pub struct Written {
    pub sealed: SealedBlock,
    /// What it has to hold when it is read back.
    pub digest: Digest,
    pub read: ReadTotals,
}

/// Reads `blocks` to their ends, transforms each series, and writes what comes out as the block `target`, sealed but not published.
///
/// `symbols` are the merged symbols of the blocks; an index beyond `max_index_size_bytes` is refused. Runs on the calling thread, one that reads, and `workers` more.
pub fn write_block(
    blocks: Vec<SourceBlock>,
    symbols: &Arc<SymbolStore>,
    target: &Path,
    max_index_size_bytes: u64,
    transform: &dyn Transform,
    workers: usize,
    cancelled: &CancellationToken,
) -> Result<Written, CompactError> {
    // A crash costs the job in any case: nobody looks at what was staged before.
    let config = SegmentConfig { is_durable: false, ..SegmentConfig::default() };
    let mut writer = SymbolBlockWriter::create(target, symbols, config).map_err(CompactError::Staging)?;
    writer.limit_index(max_index_size_bytes);
    let workers = workers.max(1);
    let (digest, read) = thread::scope(|scope| {
        let mut to_workers = Vec::with_capacity(workers);
        let mut from_workers = Vec::with_capacity(workers);
        for _ in 0..workers {
            let (job_sender, jobs) = sync_channel(QUEUE_BATCHES);
            let (result_sender, results) = sync_channel(QUEUE_BATCHES);
            to_workers.push(job_sender);
            from_workers.push(results);
            scope.spawn(move || work(&jobs, &result_sender, transform, symbols));
        }
        let reader = scope.spawn(move || read(blocks, &to_workers, cancelled));
        let written = write(&mut writer, &from_workers);
        // Whoever still waits for the writer is to give up.
        drop(from_workers);
        let read =
            reader.join().unwrap_or_else(|_| Err(CompactError::Defect { what: "reading blocks".to_owned() }));
        // A reader whose workers are gone only knows that it was interrupted.
        match (read, written) {
            (Err(CompactError::Interrupted), Err(error)) => Err(error),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(read), Ok(digest)) => Ok((digest, read)),
        }
    })?;
    Ok(Written { sealed: writer.seal().map_err(CompactError::Staging)?, digest, read })
}

/// Merges the series of all blocks in the order of their labels.
fn read(
    blocks: Vec<SourceBlock>,
    workers: &[SyncSender<Jobs>],
    cancelled: &CancellationToken,
) -> Result<ReadTotals, CompactError> {
    let is_before = |a: &SourceBlock, b: &SourceBlock| a.labels() < b.labels();
    let mut heap = GoHeap::new();
    let mut current = blocks;
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    let mut totals = ReadTotals::default();
    let gate = Gate::new(MAX_IN_FLIGHT_BYTES);
    let mut turn = workers.iter().cycle();
    let mut hand_over = |batch: &mut Vec<SeriesJob>, size_bytes: usize| {
        let permit = gate.enter(size_bytes);
        match turn.next().map(|to| to.send((std::mem::take(batch), permit))) {
            Some(Ok(())) => Ok(()),
            _ => Err(CompactError::Interrupted),
        }
    };
    loop {
        for mut block in current.drain(..) {
            if block.advance()? {
                heap.push(block, is_before);
            } else {
                totals.add(block.totals());
            }
        }
        let Some(first) = heap.pop(is_before) else { break };
        current.push(first);
        while let (Some(next), Some(first)) = (heap.peek(), current.first())
            && next.labels() == first.labels()
        {
            current.extend(heap.pop(is_before));
        }
        let mut job = SeriesJob::default();
        for block in &mut current {
            if job.labels.is_empty() {
                job.labels.clone_from(block.labels());
            }
            let chunks = block.chunks()?;
            if !chunks.is_empty() {
                batch_bytes += chunks.iter().map(|chunk| chunk.chunk.data.len()).sum::<usize>();
                job.sources.push(chunks);
                job.ends_ms.push(block.end_ms());
                job.origins.push(block.origin());
            }
        }
        if !job.sources.is_empty() {
            batch.push(job);
        }
        if batch.len() >= BATCH_SERIES || batch_bytes >= BATCH_BYTES {
            if cancelled.is_cancelled() {
                return Err(CompactError::Interrupted);
            }
            hand_over(&mut batch, batch_bytes)?;
            batch_bytes = 0;
        }
    }
    if !batch.is_empty() {
        hand_over(&mut batch, batch_bytes)?;
    }
    Ok(totals)
}

fn work(
    jobs: &Receiver<Jobs>,
    results: &SyncSender<Result<Made, CompactError>>,
    transform: &dyn Transform,
    symbols: &SymbolStore,
) {
    let mut scratch = Scratch::default();
    for (batch, permit) in jobs {
        let made = transform_batch(batch, transform, &mut scratch, symbols);
        let result = made.map(|made| (made, permit));
        let failed = result.is_err();
        if results.send(result).is_err() || failed {
            return;
        }
    }
}

fn transform_batch(
    batch: Vec<SeriesJob>,
    transform: &dyn Transform,
    scratch: &mut Scratch,
    symbols: &SymbolStore,
) -> Result<Vec<MadeSeries>, CompactError> {
    let mut made = Vec::with_capacity(batch.len());
    for mut job in batch {
        let labels = std::mem::take(&mut job.labels);
        let origins = std::mem::take(&mut job.origins);
        let mut chunks = Vec::new();
        let outcome = transform.apply(job, scratch, &mut chunks);
        outcome.map_err(|failure| explain(failure, &origins, &labels, symbols))?;
        if !chunks.is_empty() {
            let digest = SeriesDigest::of(&labels, &chunks).map_err(CompactError::Staging)?;
            made.push(MadeSeries { labels, chunks, digest });
        }
    }
    Ok(made)
}

fn write(
    writer: &mut SymbolBlockWriter,
    workers: &[Receiver<Result<Made, CompactError>>],
) -> Result<Digest, CompactError> {
    let mut digest = Digest::default();
    for worker in workers.iter().cycle() {
        // Batches go round, so the first worker that has no more is the one after the last batch.
        let Ok(batch) = worker.recv() else { break };
        let (batch, _permit) = batch?;
        for MadeSeries { labels, chunks, digest: of_series } in batch {
            writer.add_series(&labels, &chunks).map_err(CompactError::Staging)?;
            digest.add(of_series);
        }
    }
    Ok(digest)
}

/// Names the block and the offset of a chunk that is to blame, if it is one.
fn explain(
    failure: MergeFailure,
    origins: &[Origin],
    labels: &SymbolLabels,
    symbols: &SymbolStore,
) -> CompactError {
    let series = symbols.show(labels);
    let (min_time_ms, max_time_ms, source) = match failure {
        MergeFailure::Chunk { min_time_ms, max_time_ms, source } => (min_time_ms, max_time_ms, source),
        MergeFailure::Encoding(source) => {
            return CompactError::Unmergeable { series, reason: source.to_string() };
        }
        MergeFailure::Aggregates => {
            let reason = "aggregate chunks of several blocks overlap".to_owned();
            return CompactError::Unmergeable { series, reason };
        }
        MergeFailure::Account(missing) => {
            return CompactError::Output { reason: format!("series {series}: {missing}") };
        }
    };
    let mut places = origins.iter().flat_map(|origin| {
        let of_times =
            move |chunk: &&ChunkMeta| (chunk.min_time_ms, chunk.max_time_ms) == (min_time_ms, max_time_ms);
        origin.chunks.iter().filter(of_times).map(|chunk| (origin.block, chunk.chunk_ref))
    });
    match (places.next(), places.next()) {
        (Some((block, chunk)), None) => {
            let object = block.object(&format!("{CHUNKS_DIRECTORY}/{}", chunk.segment_name()));
            let source = TsdbError::corrupt(&object, u64::from(chunk.offset), source.to_string());
            CompactError::Damaged { block, source }
        }
        (Some((first, chunk)), Some((second, other))) => {
            let reason = format!("in block {first} at {chunk} or block {second} at {other}: {source}");
            CompactError::Unmergeable { series, reason }
        }
        (None, _) => CompactError::Unmergeable { series, reason: source.to_string() },
    }
}
