//! The chunks of one label set, as stores return them: ordered, rid of copies, and told apart into replicas.
//!
//! Stores take replica labels off before they answer, so the chunks of all replicas of a series, from all stores,
//! arrive under one label set. What tells replicas apart is only that their chunks overlap. The order and the
//! first-fit split are those of Thanos (`store.NewResponseDeduplicator`, `dedup.NewOverlapSplit`): which replica
//! comes first decides what the penalty algorithm prefers.

use std::cmp::Ordering;

use bytes::Bytes;
use parallax_tsdb::chunk::ChunkEncoding;

/// One chunk: its closed range of time as its store states it, and its bytes without the encoding byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub min_time_ms: i64,
    pub max_time_ms: i64,
    pub encoding: ChunkEncoding,
    pub data: Bytes,
    pub content: Content,
}

/// What the samples of a [`Chunk`] are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// As they were scraped.
    Raw,
    /// One aggregate of downsampled data: the counts, sums, minima or maxima of each window.
    Aggregate,
    /// The counter aggregate: it may begin with the first raw sample, and ends with the last one under a repeated timestamp.
    Counter,
    /// The sums of each window, to be divided by the counts, an XOR chunk with the same timestamps.
    Sums { counts: Bytes },
}

impl Content {
    pub const fn is_raw(&self) -> bool {
        matches!(self, Self::Raw)
    }

    /// The bytes that decide first between chunks of one encoding: Thanos compares counts before sums.
    fn leading_bytes<'a>(&'a self, data: &'a Bytes) -> &'a Bytes {
        match self {
            Self::Sums { counts } => counts,
            Self::Raw | Self::Aggregate | Self::Counter => data,
        }
    }
}

impl Chunk {
    /// By start, by end, raw before downsampled, by encoding, and then by *descending* bytes, as a Thanos proxy has them.
    fn wire_order(&self, other: &Self) -> Ordering {
        let key =
            |chunk: &Self| (chunk.min_time_ms, chunk.max_time_ms, !chunk.content.is_raw(), chunk.encoding);
        key(self)
            .cmp(&key(other))
            .then_with(|| {
                other.content.leading_bytes(&other.data).cmp(self.content.leading_bytes(&self.data))
            })
            .then_with(|| other.data.cmp(&self.data))
    }
}

/// Splits the chunks of one label set into replicas, none of which has chunks that overlap.
///
/// Chunks may come in any order and more than once. Each goes to the first replica that ends before it begins.
pub fn split_overlaps(mut chunks: Vec<Chunk>) -> Vec<Vec<Chunk>> {
    if !chunks.is_sorted_by(|a, b| a.wire_order(b) == Ordering::Less) {
        chunks.sort_by(Chunk::wire_order);
        chunks.dedup();
    }
    if chunks.windows(2).all(|pair| matches!(pair, [a, b] if a.max_time_ms < b.min_time_ms)) {
        return if chunks.is_empty() { Vec::new() } else { vec![chunks] };
    }
    let mut replicas: Vec<Vec<Chunk>> = Vec::new();
    for chunk in chunks {
        let free = replicas
            .iter_mut()
            .find(|replica| replica.last().is_none_or(|last| last.max_time_ms < chunk.min_time_ms));
        match free {
            Some(replica) => replica.push(chunk),
            None => replicas.push(vec![chunk]),
        }
    }
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(min_time_ms: i64, max_time_ms: i64, data: &'static str) -> Chunk {
        Chunk {
            min_time_ms,
            max_time_ms,
            encoding: ChunkEncoding::Xor,
            data: Bytes::from_static(data.as_bytes()),
            content: Content::Raw,
        }
    }

    #[test]
    fn chunks_that_follow_each_other_are_one_replica() {
        let split = split_overlaps(vec![chunk(20, 30, "b"), chunk(0, 10, "a"), chunk(11, 19, "c")]);
        assert_eq!(split, vec![vec![chunk(0, 10, "a"), chunk(11, 19, "c"), chunk(20, 30, "b")]]);
    }

    #[test]
    fn a_chunk_goes_to_the_first_replica_that_has_ended() {
        let split = split_overlaps(vec![
            chunk(0, 10, "a0"),
            chunk(5, 15, "b0"),
            chunk(12, 20, "a1"),
            chunk(14, 30, "c0"),
            chunk(31, 40, "a2"),
        ]);
        assert_eq!(
            split,
            vec![
                vec![chunk(0, 10, "a0"), chunk(12, 20, "a1"), chunk(31, 40, "a2")],
                vec![chunk(5, 15, "b0")],
                vec![chunk(14, 30, "c0")],
            ]
        );
    }

    #[test]
    fn copies_of_a_chunk_count_once() {
        let split = split_overlaps(vec![chunk(0, 10, "a"), chunk(0, 10, "b"), chunk(0, 10, "a")]);
        assert_eq!(split, vec![vec![chunk(0, 10, "b")], vec![chunk(0, 10, "a")]]);
    }

    #[test]
    fn no_chunks_are_no_replicas() {
        assert!(split_overlaps(Vec::new()).is_empty());
    }
}
