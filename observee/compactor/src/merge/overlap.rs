//! The chunks of one series in several blocks: clusters of chunks that overlap, and what becomes of each.
//!
//! Chunks come in the order of (first time, last time). A cluster grows as long as the next chunk begins before its end. A chunk that is byte for byte
//! the one before is dropped. A cluster of one chunk is copied. Source of the rules: Prometheus `storage/merge.go`, Thanos
//! `pkg/dedup/chunk_iter.go`; but a cluster of several kinds of chunks keeps the samples of all, where Thanos keeps those of the first kind.

use std::ops::Range;

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;

use super::heap::GoHeap;
use super::one_to_one;
use super::penalty::Penalty;
use super::samples::{SampleId, Samples};
use crate::source::SeriesJob;

/// How overlapping chunks become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MergeMode {
    /// The blocks hold the same samples.
    #[default]
    OneToOne,
    /// The blocks are of replicas that were scraped at different times.
    Penalty,
}

/// The memory of merging, reused from series to series.
#[derive(Debug, Default)]
pub struct Scratch {
    samples: Samples,
    ranges: Vec<Range<SampleId>>,
    picked: Vec<SampleId>,
    penalty: Penalty,
}

/// Why the chunks of a series do not merge.
#[derive(Debug)]
pub enum MergeFailure {
    /// A chunk of one of the sources, with these times, does not decode.
    Chunk { min_time_ms: i64, max_time_ms: i64, source: TsdbError },
    /// The samples do not fit a chunk.
    Encoding(TsdbError),
    /// Aggregate chunks that overlap.
    Aggregates,
}

impl MergeFailure {
    pub(crate) fn of_chunk(chunk: &BlockChunk) -> impl FnOnce(TsdbError) -> Self {
        let (min_time_ms, max_time_ms) = (chunk.min_time_ms, chunk.max_time_ms);
        move |source| Self::Chunk { min_time_ms, max_time_ms, source }
    }
}

/// Merges the chunks of one series into chunks that do not overlap, in order.
pub fn merge_series(
    job: SeriesJob,
    mode: MergeMode,
    scratch: &mut Scratch,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let mut sources = job.sources;
    if sources.len() == 1 {
        out.extend(sources.pop().into_iter().flatten());
        return Ok(());
    }
    let mut heap = GoHeap::new();
    for source in sources {
        let mut chunks = source.into_iter();
        if let Some(first) = chunks.next() {
            heap.push(Head { chunk: first, rest: chunks }, Head::is_before);
        }
    }
    let mut cluster = Vec::new();
    while let Some(first) = next(&mut heap) {
        let mut end_ms = first.max_time_ms;
        cluster.clear();
        cluster.push(first);
        while heap.peek().is_some_and(|head| head.chunk.min_time_ms <= end_ms) {
            let Some(chunk) = next(&mut heap) else { break };
            if cluster.last() == Some(&chunk) {
                continue;
            }
            end_ms = end_ms.max(chunk.max_time_ms);
            cluster.push(chunk);
        }
        if cluster.len() == 1 {
            out.append(&mut cluster);
        } else {
            scratch.merge_cluster(&cluster, mode, out)?;
        }
    }
    Ok(())
}

impl Scratch {
    fn merge_cluster(
        &mut self,
        cluster: &[BlockChunk],
        mode: MergeMode,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        if cluster.iter().any(|chunk| !Samples::takes(chunk.chunk.encoding)) {
            return Err(MergeFailure::Aggregates);
        }
        self.samples.clear();
        self.ranges.clear();
        for chunk in cluster {
            self.ranges.push(self.samples.decode(chunk).map_err(MergeFailure::of_chunk(chunk))?);
        }
        match mode {
            MergeMode::OneToOne => one_to_one::merge(&self.samples, &self.ranges, &mut self.picked),
            MergeMode::Penalty => self.penalty.merge(&self.samples, &self.ranges, &mut self.picked),
        }
        self.samples.encode(&self.picked, out).map_err(MergeFailure::Encoding)
    }
}

/// The chunks of one source that are still to come.
struct Head {
    chunk: BlockChunk,
    rest: std::vec::IntoIter<BlockChunk>,
}

impl Head {
    fn is_before(a: &Self, b: &Self) -> bool {
        (a.chunk.min_time_ms, a.chunk.max_time_ms) < (b.chunk.min_time_ms, b.chunk.max_time_ms)
    }
}

fn next(heap: &mut GoHeap<Head>) -> Option<BlockChunk> {
    let Head { chunk, mut rest } = heap.pop(Head::is_before)?;
    if let Some(chunk) = rest.next() {
        heap.push(Head { chunk, rest }, Head::is_before);
    }
    Some(chunk)
}
