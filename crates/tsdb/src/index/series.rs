//! One entry of the series section: the symbols of its labels, and where and when its chunks are.
//!
//! An entry's length is only known from its first bytes, so decoding from a fetched range may ask for more.

use parallax_model::{Labels, TimeRange};

use super::symbols::{SymbolRef, Symbols};
use crate::crc::{CRC_SIZE_BYTES, crc32c};
use crate::cursor::{Cursor, put_uvarint, put_varint};
use crate::error::TsdbError;
use crate::segment::ChunkRef;

/// No series entry is larger: a million chunks fit. Bounds what a damaged length can make a caller fetch.
pub const MAX_SERIES_ENTRY_SIZE_BYTES: u64 = 64 << 20;

/// Where and when one chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkMeta {
    pub chunk_ref: ChunkRef,
    /// The time of the first sample.
    pub min_time_ms: i64,
    /// The time of the last sample.
    pub max_time_ms: i64,
}

impl ChunkMeta {
    /// The closed range of time that this chunk covers.
    pub fn time_range(&self) -> TimeRange {
        TimeRange::new(self.min_time_ms, self.max_time_ms)
    }
}

/// What a decoder makes of a byte range that may end too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<T> {
    Whole(T),
    /// The range is to be read again with at least this many bytes from where it began.
    Cut {
        needed_bytes: usize,
    },
}

/// A decoded entry. Made to be reused: decoding replaces the content and keeps the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesEntry {
    /// (name, value) of each label, strictly increasing by name.
    pub labels: Vec<(SymbolRef, SymbolRef)>,
    pub chunks: Vec<ChunkMeta>,
}

impl SeriesEntry {
    /// Decodes the entry that starts at the beginning of `bytes`, which lie at `offset` in `what`.
    ///
    /// The size of the whole entry is returned. When bytes are missing the content of `self` is empty.
    ///
    /// # Errors
    /// A wrong checksum, or an entry that contradicts its format.
    pub fn decode(&mut self, what: &str, offset: u64, bytes: &[u8]) -> Result<Piece<usize>, TsdbError> {
        self.labels.clear();
        self.chunks.clear();
        let mut cursor = Cursor::at(what, offset, bytes);
        let len = match cursor.uvarint64() {
            Ok(len) if len > MAX_SERIES_ENTRY_SIZE_BYTES => {
                return Err(TsdbError::corrupt(
                    what,
                    offset,
                    format!("a series entry of {len} bytes is too long"),
                ));
            }
            Ok(len) => len as usize,
            Err(TsdbError::Truncated { .. }) => return Ok(Piece::Cut { needed_bytes: bytes.len() + 1 }),
            Err(other) => return Err(other),
        };
        let size_bytes = cursor.position() + len + CRC_SIZE_BYTES;
        if size_bytes > bytes.len() {
            return Ok(Piece::Cut { needed_bytes: size_bytes });
        }
        let content_offset = cursor.offset();
        let content = cursor.checked_bytes(len)?;
        let mut cursor = Cursor::at(what, content_offset, content);
        let outcome = self.decode_labels(&mut cursor).and_then(|()| self.decode_chunks(&mut cursor));
        if outcome.is_err() {
            self.labels.clear();
            self.chunks.clear();
        }
        outcome.map(|()| Piece::Whole(size_bytes))
    }

    fn decode_labels(&mut self, cursor: &mut Cursor<'_>) -> Result<(), TsdbError> {
        let count = cursor.uvarint64()?;
        self.labels.reserve(bounded_count(count, cursor.remaining() / 2));
        for _ in 0..count {
            let pair = (cursor.uvarint32()?, cursor.uvarint32()?);
            // Symbols are sorted, so their refs sort as the names do.
            if self.labels.last().is_some_and(|last| last.0 >= pair.0) {
                return Err(cursor.corrupt("the labels of a series are not in order"));
            }
            self.labels.push(pair);
        }
        Ok(())
    }

    fn decode_chunks(&mut self, cursor: &mut Cursor<'_>) -> Result<(), TsdbError> {
        let count = cursor.uvarint64()?;
        self.chunks.reserve(bounded_count(count, cursor.remaining() / 3));
        let mut last: Option<ChunkMeta> = None;
        for _ in 0..count {
            let min_time_ms = match last {
                None => cursor.varint64()?,
                // Chunks of a series that overlap have a negative distance, which wraps on disk.
                Some(last) => last.max_time_ms.wrapping_add_unsigned(cursor.uvarint64()?),
            };
            let Some(max_time_ms) = min_time_ms.checked_add_unsigned(cursor.uvarint64()?) else {
                return Err(cursor.corrupt("a chunk ends after the end of time"));
            };
            let chunk_ref = match last {
                None => cursor.uvarint64()?,
                Some(last) => last.chunk_ref.as_u64().wrapping_add_signed(cursor.varint64()?),
            };
            let chunk_ref = ChunkRef::from_u64(chunk_ref);
            let meta = ChunkMeta { chunk_ref, min_time_ms, max_time_ms };
            self.chunks.push(meta);
            last = Some(meta);
        }
        if cursor.is_empty() {
            Ok(())
        } else {
            Err(cursor.corrupt("bytes follow the last chunk of a series"))
        }
    }

    /// Appends the entry as it is stored: length, content, checksum.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut content = Vec::with_capacity(16 + self.labels.len() * 4 + self.chunks.len() * 8);
        put_uvarint(&mut content, self.labels.len() as u64);
        for (name, value) in &self.labels {
            put_uvarint(&mut content, u64::from(*name));
            put_uvarint(&mut content, u64::from(*value));
        }
        put_uvarint(&mut content, self.chunks.len() as u64);
        let mut last: Option<&ChunkMeta> = None;
        for chunk in &self.chunks {
            match last {
                None => put_varint(&mut content, chunk.min_time_ms),
                Some(last) => {
                    put_uvarint(&mut content, wrapped_distance(last.max_time_ms, chunk.min_time_ms))
                }
            }
            put_uvarint(&mut content, wrapped_distance(chunk.min_time_ms, chunk.max_time_ms));
            match last {
                None => put_uvarint(&mut content, chunk.chunk_ref.as_u64()),
                Some(last) => {
                    let distance = chunk.chunk_ref.as_u64().wrapping_sub(last.chunk_ref.as_u64());
                    put_varint(&mut content, distance.cast_signed());
                }
            }
            last = Some(chunk);
        }
        put_uvarint(out, content.len() as u64);
        let crc = crc32c(&content);
        out.append(&mut content);
        out.extend(crc.to_be_bytes());
    }

    /// The labels as text.
    pub fn labels(&self, symbols: &Symbols) -> Result<Labels, TsdbError> {
        let mut pairs = Vec::with_capacity(self.labels.len());
        for (name, value) in &self.labels {
            pairs.push((symbols.lookup(*name)?, symbols.lookup(*value)?));
        }
        Ok(Labels::from_sorted(pairs))
    }
}

fn wrapped_distance(from: i64, to: i64) -> u64 {
    to.wrapping_sub(from).cast_unsigned()
}

/// How much to reserve for a count from outside: what the remaining bytes can hold, at most.
fn bounded_count(count: u64, most: usize) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX).min(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = SeriesEntry> {
        let labels = prop::collection::btree_map(any::<u32>(), any::<u32>(), 0..6);
        let chunk = (any::<u64>(), any::<i64>(), any::<i64>()).prop_map(|(chunk_ref, a, b)| ChunkMeta {
            chunk_ref: ChunkRef::from_u64(chunk_ref),
            min_time_ms: a.min(b),
            max_time_ms: a.max(b),
        });
        (labels, prop::collection::vec(chunk, 0..6))
            .prop_map(|(labels, chunks)| SeriesEntry { labels: labels.into_iter().collect(), chunks })
    }

    proptest! {
        #[test]
        fn an_entry_comes_back_and_every_cut_asks_for_more(entry in entry()) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let size = bytes.len();
            bytes.extend([7; 20]);
            let mut decoded = SeriesEntry::default();
            prop_assert_eq!(decoded.decode("index", 32, &bytes).unwrap(), Piece::Whole(size));
            prop_assert_eq!(&decoded, &entry);
            for cut in 0..size {
                match decoded.decode("index", 32, &bytes[..cut]).unwrap() {
                    Piece::Cut { needed_bytes } => prop_assert!(cut < needed_bytes && needed_bytes <= size),
                    Piece::Whole(_) => prop_assert!(false, "{} of {} bytes were enough", cut, size),
                }
                prop_assert!(decoded.labels.is_empty() && decoded.chunks.is_empty());
            }
        }

        #[test]
        fn a_flipped_bit_never_gives_another_entry(entry in entry(), at: prop::sample::Index, bit in 0u32..8) {
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(!matches!(SeriesEntry::default().decode("index", 0, &bytes), Ok(Piece::Whole(_))));
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = SeriesEntry::default().decode("index", u64::MAX, &bytes);
            // With a valid frame around them, the content's decoders see them too.
            let mut framed = Vec::new();
            put_uvarint(&mut framed, bytes.len() as u64);
            framed.extend(&bytes);
            framed.extend(crc32c(&bytes).to_be_bytes());
            let _ = SeriesEntry::default().decode("index", 0, &framed);
        }
    }
}
