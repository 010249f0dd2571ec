//! The chunks of one label set, as stores return them: ordered, rid of copies, and told apart into replicas.
//!
//! Stores take replica labels off before they answer, so the chunks of all replicas of a series, from all stores,
//! arrive under one label set. What tells replicas apart is only that their chunks overlap. The order and the
//! first-fit split are those of Thanos (`store.NewResponseDeduplicator`, `dedup.NewOverlapSplit`): which replica
//! comes first decides what the penalty algorithm prefers.

use std::cmp::Ordering;

use bytes::Bytes;
use parallax_tsdb::chunk::ChunkEncoding;

use crate::Error;

/// One chunk: its closed range of time as its store states it, and its bytes without the encoding byte. A store may keep the bytes back: then there are none.
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
    /// Whether its store kept the bytes back.
    pub fn is_withheld(&self) -> bool {
        self.data.is_empty()
    }

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

/// Most replicas that overlapping chunks may make. Each costs a step per sample when they are merged, and how many there are is up to whoever sends them.
pub const MAX_REPLICAS: usize = 1024;

/// Splits the chunks of one label set into replicas, none of which has chunks that overlap.
///
/// Chunks may come in any order and more than once; they stay where they are. Each goes to the first replica that ends before it begins. `n` chunks take `n log n` time.
///
/// # Errors
/// [`Error::TooManyReplicas`] beyond [`MAX_REPLICAS`]; [`Error::Withheld`] if only data could tell chunks apart.
pub fn split_overlaps(chunks: &[Chunk]) -> Result<Vec<Vec<&Chunk>>, Error> {
    let mut chunks: Vec<&Chunk> = chunks.iter().collect();
    let is_sorted = chunks.is_sorted_by(|a, b| a.wire_order(b) == Ordering::Less);
    if !is_sorted {
        chunks.sort_by(|a, b| a.wire_order(b));
    }
    need_no_data(&chunks)?;
    if !is_sorted {
        chunks.dedup();
    }
    if chunks.windows(2).all(|pair| matches!(pair, [a, b] if a.max_time_ms < b.min_time_ms)) {
        return Ok(if chunks.is_empty() { Vec::new() } else { vec![chunks] });
    }
    let mut replicas: Vec<Vec<&Chunk>> = Vec::new();
    let mut ends = Ends::default();
    for chunk in chunks {
        let at = ends.first_before(chunk.min_time_ms);
        if at >= MAX_REPLICAS {
            return Err(Error::TooManyReplicas { time_ms: chunk.min_time_ms });
        }
        ends.set(at, chunk.max_time_ms);
        match replicas.get_mut(at) {
            Some(replica) => replica.push(chunk),
            None => replicas.push(vec![chunk]),
        }
    }
    Ok(replicas)
}

/// Fails if chunks of equal times, which are adjacent, are in an order that data decides which was kept back.
fn need_no_data(chunks: &[&Chunk]) -> Result<(), Error> {
    let is_open = |pair: &&[&Chunk]| match pair {
        [a, b] => {
            (a.min_time_ms, a.max_time_ms) == (b.min_time_ms, b.max_time_ms)
                && (a.is_withheld() || b.is_withheld())
        }
        _ => false,
    };
    match chunks.windows(2).find(is_open) {
        Some([Chunk { min_time_ms, max_time_ms, .. }, ..]) => {
            Err(Error::Withheld { min_time_ms: *min_time_ms, max_time_ms: *max_time_ms })
        }
        _ => Ok(()),
    }
}

/// Where each replica ends so far, as a tree in which the first one that ends early enough is found by going down once.
///
/// A node holds the earliest end beneath it; `None`, which is earlier than any, is that of a replica that has no chunk yet.
struct Ends {
    /// The root is node 1, the children of node `n` are `2n` and `2n + 1`; the second half are the leaves.
    nodes: Vec<Option<i64>>,
}

impl Default for Ends {
    fn default() -> Self {
        Self { nodes: vec![None; 8] }
    }
}

impl Ends {
    /// The first replica without a chunk that reaches `time_ms`; it may be one more than there were.
    fn first_before(&mut self, time_ms: i64) -> usize {
        while !self.is_before(1, time_ms) {
            self.grow();
        }
        let leaves = self.nodes.len() / 2;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            if !self.is_before(node, time_ms) {
                node += 1;
            }
        }
        node - leaves
    }

    fn is_before(&self, node: usize, time_ms: i64) -> bool {
        self.nodes.get(node).copied().flatten().is_none_or(|end_ms| end_ms < time_ms)
    }

    fn set(&mut self, replica: usize, end_ms: i64) {
        let mut node = self.nodes.len() / 2 + replica;
        if let Some(leaf) = self.nodes.get_mut(node) {
            *leaf = Some(end_ms);
        }
        while node > 1 {
            node /= 2;
            self.refresh(node);
        }
    }

    fn refresh(&mut self, node: usize) {
        let child = |at: usize| self.nodes.get(at).copied().flatten();
        let earliest = child(2 * node).min(child(2 * node + 1));
        if let Some(slot) = self.nodes.get_mut(node) {
            *slot = earliest;
        }
    }

    /// Twice as many leaves.
    fn grow(&mut self) {
        let leaves = self.nodes.split_off(self.nodes.len() / 2);
        let count = leaves.len();
        self.nodes = vec![None; 2 * count];
        self.nodes.extend(leaves);
        self.nodes.resize(4 * count, None);
        for node in (1..2 * count).rev() {
            self.refresh(node);
        }
    }
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

    fn split(chunks: &[Chunk]) -> Result<Vec<Vec<Chunk>>, Error> {
        let replicas = split_overlaps(chunks)?;
        Ok(replicas.into_iter().map(|chunks| chunks.into_iter().cloned().collect()).collect())
    }

    #[test]
    fn chunks_that_follow_each_other_are_one_replica() {
        let found = split(&[chunk(20, 30, "b"), chunk(0, 10, "a"), chunk(11, 19, "c")]).unwrap();
        assert_eq!(found, vec![vec![chunk(0, 10, "a"), chunk(11, 19, "c"), chunk(20, 30, "b")]]);
    }

    #[test]
    fn a_chunk_goes_to_the_first_replica_that_has_ended() {
        let found = split(&[
            chunk(0, 10, "a0"),
            chunk(5, 15, "b0"),
            chunk(12, 20, "a1"),
            chunk(14, 30, "c0"),
            chunk(31, 40, "a2"),
        ])
        .unwrap();
        assert_eq!(
            found,
            vec![
                vec![chunk(0, 10, "a0"), chunk(12, 20, "a1"), chunk(31, 40, "a2")],
                vec![chunk(5, 15, "b0")],
                vec![chunk(14, 30, "c0")],
            ]
        );
    }

    #[test]
    fn copies_of_a_chunk_count_once() {
        let found = split(&[chunk(0, 10, "a"), chunk(0, 10, "b"), chunk(0, 10, "a")]).unwrap();
        assert_eq!(found, vec![vec![chunk(0, 10, "b")], vec![chunk(0, 10, "a")]]);
    }

    #[test]
    fn no_chunks_are_no_replicas() {
        assert!(split(&[]).unwrap().is_empty());
    }

    /// A chunk whose bytes tell it from others at the same time.
    fn numbered(min_time_ms: i64, max_time_ms: i64, number: usize) -> Chunk {
        let data = Bytes::copy_from_slice(&number.to_be_bytes());
        Chunk { data, ..chunk(min_time_ms, max_time_ms, "") }
    }

    #[test]
    fn many_replicas_are_told_apart_as_by_looking_at_one_after_the_other() {
        let mut state = 7_u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut chunks: Vec<Chunk> = (0..3000)
            .map(|number| {
                let start_ms = i64::try_from(random(1000)).unwrap();
                numbered(start_ms, start_ms + i64::try_from(random(60)).unwrap(), number)
            })
            .collect();
        chunks.push(numbered(i64::MIN, i64::MIN, 0));
        chunks.push(numbered(i64::MIN, i64::MAX, 0));
        chunks.sort_by(Chunk::wire_order);
        let mut expected: Vec<Vec<Chunk>> = Vec::new();
        for chunk in chunks.clone() {
            let ends_before = |replica: &&mut Vec<Chunk>| {
                replica.last().is_none_or(|last| last.max_time_ms < chunk.min_time_ms)
            };
            match expected.iter_mut().find(ends_before) {
                Some(replica) => replica.push(chunk),
                None => expected.push(vec![chunk]),
            }
        }
        assert!(expected.len() > 64, "only {} replicas", expected.len());
        assert_eq!(split(&chunks).unwrap(), expected);
    }

    #[test]
    fn more_replicas_than_anybody_has_are_refused() {
        let overlapping = |count| (0..count).map(|number| numbered(0, 10, number)).collect::<Vec<_>>();
        assert_eq!(split(&overlapping(MAX_REPLICAS)).unwrap().len(), MAX_REPLICAS);
        let error = split(&overlapping(MAX_REPLICAS + 1)).unwrap_err();
        assert!(error.to_string().contains("1024"), "{error}");
    }
}
