//! The chunks of one series in several blocks: clusters of chunks that overlap, and what becomes of each.
//!
//! Chunks come in the order of (first time, last time). A cluster grows as long as the next chunk begins before its end. A chunk that is byte for byte
//! the one before is dropped. A cluster of one chunk is copied. Source of the rules: Prometheus `storage/merge.go`, Thanos
//! `pkg/dedup/chunk_iter.go`; but a cluster of several kinds of chunks keeps the samples of all, where Thanos keeps those of the first kind.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;

use super::account::{Account, samples_of};
use super::encoder::ChunkEncoder;
use super::heap::GoHeap;
use super::picked::Picked;
use super::samples::{Noted, Samples};
use super::{one_to_one, penalty};
use crate::source::SeriesJob;

/// When more samples than this are held, those that nothing to come can change are written and forgotten. What overlaps at one time is always held.
const MAX_HELD_SAMPLES: usize = 8192;

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
    picked: Picked,
    encoder: ChunkEncoder,
    cluster: Vec<Member>,
    /// Samples of the present series that were not kept.
    left_out: u64,
}

/// A chunk of a cluster.
#[derive(Debug)]
struct Member {
    chunk: BlockChunk,
    /// Where the next chunk of its source begins, or else its block ends: it has no samples from then on.
    until_ms: i64,
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
    /// What came out is not what went in; the message says what is missing.
    Account(String),
}

impl MergeFailure {
    pub(crate) fn of_chunk(chunk: &BlockChunk) -> impl FnOnce(TsdbError) -> Self {
        let (min_time_ms, max_time_ms) = (chunk.min_time_ms, chunk.max_time_ms);
        move |source| Self::Chunk { min_time_ms, max_time_ms, source }
    }

    /// For whoever names the series itself.
    pub(crate) fn into_error(self) -> TsdbError {
        match self {
            Self::Chunk { source, .. } | Self::Encoding(source) => source,
            Self::Aggregates => TsdbError::invalid("chunk", "aggregate chunks overlap"),
            Self::Account(missing) => TsdbError::invalid("chunk", missing),
        }
    }
}

impl From<TsdbError> for MergeFailure {
    fn from(source: TsdbError) -> Self {
        Self::Encoding(source)
    }
}

/// Merges the chunks of one series into chunks that do not overlap, in order; every sample that went in is accounted for.
pub fn merge_series(
    job: SeriesJob,
    mode: MergeMode,
    scratch: &mut Scratch,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let before = Account::of(job.sources.iter().flatten())?;
    scratch.left_out = 0;
    let begun = out.len();
    merge_sources(job.sources, &job.ends_ms, mode, scratch, out)?;
    let after = Account::of(out.iter().skip(begun))?;
    before.check(after, scratch.left_out, mode)
}

fn merge_sources(
    mut sources: Vec<Vec<BlockChunk>>,
    ends_ms: &[i64],
    mode: MergeMode,
    scratch: &mut Scratch,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    if sources.len() == 1 {
        out.extend(sources.pop().into_iter().flatten());
        return Ok(());
    }
    let mut heap = GoHeap::new();
    let ends_ms = ends_ms.iter().copied().chain(std::iter::repeat(i64::MAX));
    for (source, end_ms) in sources.into_iter().zip(ends_ms) {
        let mut chunks = source.into_iter();
        if let Some(first) = chunks.next() {
            heap.push(Head { chunk: first, rest: chunks, end_ms }, Head::is_before);
        }
    }
    while let Some(first) = next(&mut heap) {
        let mut end_ms = first.chunk.max_time_ms;
        scratch.cluster.clear();
        scratch.cluster.push(first);
        while heap.peek().is_some_and(|head| head.chunk.min_time_ms <= end_ms) {
            let Some(member) = next(&mut heap) else { break };
            let chunk = &member.chunk;
            if scratch.cluster.last().is_some_and(|last| last.chunk == *chunk) {
                scratch.left_out += samples_of(chunk).map_err(MergeFailure::of_chunk(chunk))?;
                continue;
            }
            end_ms = end_ms.max(chunk.max_time_ms);
            scratch.cluster.push(member);
        }
        if scratch.cluster.len() == 1 {
            out.extend(scratch.cluster.drain(..).map(|member| member.chunk));
        } else {
            scratch.merge_cluster(mode, MAX_HELD_SAMPLES, out)?;
        }
    }
    Ok(())
}

impl Scratch {
    /// Chunks are decoded one after the other, and what they settle is written: of a cluster, however long, only what overlaps at one time is held.
    fn merge_cluster(
        &mut self,
        mode: MergeMode,
        most_held: usize,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        if self.cluster.iter().any(|member| !Samples::takes(member.chunk.chunk.encoding)) {
            return Err(MergeFailure::Aggregates);
        }
        self.samples.clear();
        self.picked.clear();
        self.encoder.clear();
        let (mut decoded, mut kept) = (0, 0);
        let mut most = most_held;
        for Member { chunk, until_ms } in self.cluster.drain(..) {
            let noted = match mode {
                // Of two replicas that do not hold the same every other sample is kept: there is nothing to copy.
                MergeMode::OneToOne => Noted::Samples,
                MergeMode::Penalty => penalty::noted(&mut self.samples, &chunk, &mut self.picked)?,
            };
            let range = self.samples.decode(&chunk, noted).map_err(MergeFailure::of_chunk(&chunk))?;
            decoded += range.len();
            match mode {
                MergeMode::OneToOne => one_to_one::add(&self.samples, range.clone(), &mut self.picked),
                MergeMode::Penalty => {
                    self.samples.doubt_end(&chunk, &range, until_ms);
                    penalty::add(&mut self.samples, &range, &mut self.picked)?;
                }
            }
            if self.samples.len() > most {
                let written = self.picked.written();
                kept += written.len();
                self.encoder.push(&mut self.samples, written, out)?;
                self.picked.forget();
                let earliest = self.picked.ids.iter().copied().min();
                self.samples.let_go(earliest.unwrap_or(range.end));
                // Looking for what may go takes as long as there are samples: not after every chunk, if nothing goes.
                most = most_held.max(2 * self.samples.len());
            }
        }
        if mode == MergeMode::Penalty {
            penalty::finish(&mut self.samples, &mut self.picked)?;
        }
        kept += self.picked.ids.len();
        self.left_out += (decoded - kept) as u64;
        self.encoder.push(&mut self.samples, &self.picked.ids, out)?;
        Ok(self.encoder.finish(out)?)
    }
}

/// The chunks of one source that are still to come.
struct Head {
    chunk: BlockChunk,
    rest: std::vec::IntoIter<BlockChunk>,
    /// Where its block ends.
    end_ms: i64,
}

impl Head {
    fn is_before(a: &Self, b: &Self) -> bool {
        (a.chunk.min_time_ms, a.chunk.max_time_ms) < (b.chunk.min_time_ms, b.chunk.max_time_ms)
    }
}

fn next(heap: &mut GoHeap<Head>) -> Option<Member> {
    let Head { chunk, mut rest, end_ms } = heap.pop(Head::is_before)?;
    let mut until_ms = end_ms;
    if let Some(chunk) = rest.next() {
        until_ms = chunk.min_time_ms;
        heap.push(Head { chunk, rest, end_ms }, Head::is_before);
    }
    Some(Member { chunk, until_ms })
}

#[cfg(test)]
mod tests;
