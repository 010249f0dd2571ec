//! Chunks on the wire: hash, order, the aggregates they hold.

use std::cmp::Ordering;

use bytes::Bytes;
use xxhash_rust::xxh64::xxh64;

use crate::proto::thanos::{Aggr, AggrChunk, Chunk, Series, chunk};

/// The hash that a `Chunk` carries: xxhash64 of its data, seed 0.
pub fn hash(data: &[u8]) -> u64 {
    xxh64(data, 0)
}

/// A chunk with its hash.
pub fn chunk(encoding: chunk::Encoding, data: Bytes) -> Chunk {
    Chunk { r#type: encoding.into(), hash: hash(&data), data }
}

/// A raw chunk whose first and last samples are at the given times.
pub fn raw(min_time_ms: i64, max_time_ms: i64, chunk: Chunk) -> AggrChunk {
    AggrChunk { min_time: min_time_ms, max_time: max_time_ms, raw: Some(chunk), ..AggrChunk::default() }
}

/// Whether there is a chunk of an aggregate, as downsampled data has them.
pub fn has_aggregates(chunk: &AggrChunk) -> bool {
    chunk.count.is_some()
        || chunk.sum.is_some()
        || chunk.min.is_some()
        || chunk.max.is_some()
        || chunk.counter.is_some()
}

/// The raw chunk and the aggregates present, in the order of the protocol.
pub fn parts(chunk: &AggrChunk) -> impl Iterator<Item = (Aggr, &Chunk)> {
    [
        (Aggr::Raw, chunk.raw.as_ref()),
        (Aggr::Count, chunk.count.as_deref()),
        (Aggr::Sum, chunk.sum.as_deref()),
        (Aggr::Min, chunk.min.as_deref()),
        (Aggr::Max, chunk.max.as_deref()),
        (Aggr::Counter, chunk.counter.as_deref()),
    ]
    .into_iter()
    .filter_map(|(kind, part)| Some((kind, part?)))
}

/// The order of a merged series' chunks: by time, and then by content, so that equal chunks are adjacent and the result
/// does not depend on which store answered first.
///
/// Of chunks with the same times, one that has a part comes before one that lacks it, and larger data before smaller. It is Thanos'
/// order (`AggrChunk.Compare`, turned round by its sort), and it decides which replica penalty dedup starts from.
pub fn compare(left: &AggrChunk, right: &AggrChunk) -> Ordering {
    left.min_time
        .cmp(&right.min_time)
        .then_with(|| left.max_time.cmp(&right.max_time))
        .then_with(|| compare_parts(left, right))
}

fn compare_parts(left: &AggrChunk, right: &AggrChunk) -> Ordering {
    let (mut a, mut b) = (parts(left), parts(right));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some((kind_a, chunk_a)), Some((kind_b, chunk_b))) => {
                let order = (kind_a as i32)
                    .cmp(&(kind_b as i32))
                    .then_with(|| chunk_a.r#type.cmp(&chunk_b.r#type))
                    .then_with(|| chunk_b.data.cmp(&chunk_a.data));
                if order != Ordering::Equal {
                    return order;
                }
            }
        }
    }
}

/// How many samples a chunk says it has, as every encoding does first; none of nonsense.
pub fn samples(chunk: &Chunk) -> usize {
    chunk.data.first_chunk().map_or(0, |count| usize::from(u16::from_be_bytes(*count)))
}

/// Bytes that a series holds, for budgets: its text, its data and what the structures take.
pub fn series_size_bytes(series: &Series) -> usize {
    let labels: usize = series.labels.iter().map(|label| label.name.len() + label.value.len() + 64).sum();
    let chunks: usize = series
        .chunks
        .iter()
        .map(|chunk| size_of::<AggrChunk>() + parts(chunk).map(|(_, part)| part.data.len()).sum::<usize>())
        .sum();
    labels + chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(min: i64, max: i64, data: &'static [u8]) -> AggrChunk {
        raw(min, max, chunk(chunk::Encoding::Xor, Bytes::from_static(data)))
    }

    #[test]
    fn the_hash_is_xxhash64() {
        // Reference vectors of xxHash.
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"abc"), 0x44bc_2cf5_ad77_0999);
    }

    #[test]
    fn samples_are_counted_by_what_a_chunk_says_and_none_of_nonsense() {
        let of = |data: &'static [u8]| Chunk { data: data.into(), ..Chunk::default() };
        assert_eq!(samples(&of(&[1, 2, 9])), 258);
        assert_eq!(samples(&of(&[7])), 0);
    }

    #[test]
    fn chunks_sort_by_time_and_then_by_content() {
        assert_eq!(compare(&of(1, 2, b"b"), &of(1, 2, b"b")), Ordering::Equal);
        assert_eq!(compare(&of(1, 2, b"b"), &of(1, 3, b"a")), Ordering::Less);
        assert_eq!(compare(&of(1, 2, b"b"), &of(1, 2, b"a")), Ordering::Less);
        let empty = AggrChunk { min_time: 1, max_time: 2, ..AggrChunk::default() };
        assert_eq!(compare(&empty, &of(1, 2, b"a")), Ordering::Greater);
    }
}
