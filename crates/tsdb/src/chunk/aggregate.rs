//! Aggregate chunks (encoding 0xff): five chunks in one, as downsampling writes them.
//!
//! In the order count, sum, min, max, counter, each is a uvarint `L`, and unless `L` is 0, which means absent, one byte of encoding and `L` bytes of
//! chunk. Source: Thanos `pkg/compact/downsample/aggr.go`.

use super::ChunkEncoding;
use crate::cursor::{Cursor, put_uvarint};
use crate::error::TsdbError;

const WHAT: &str = "aggregate chunk";

/// One of the five.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Aggregate {
    /// How many samples a window had.
    Count,
    /// Their sum.
    Sum,
    Min,
    Max,
    /// The value of a counter that never resets; begins with the first raw sample and ends with the last raw value.
    Counter,
}

impl Aggregate {
    /// In the order of a chunk.
    pub const ALL: [Self; 5] = [Self::Count, Self::Sum, Self::Min, Self::Max, Self::Counter];
}

/// A part of an aggregate chunk.
pub type Part<'a> = Option<(ChunkEncoding, &'a [u8])>;

/// The parts of an aggregate chunk, by [`Aggregate`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts<'a>([Part<'a>; 5]);

impl<'a> Parts<'a> {
    /// In the order of [`Aggregate::ALL`].
    pub fn new(parts: [Part<'a>; 5]) -> Self {
        Self(parts)
    }

    /// Takes a chunk apart, without copying.
    ///
    /// # Errors
    /// If the chunk is not what its format says, or has a part whose encoding is unknown.
    pub fn decode(data: &'a [u8]) -> Result<Self, TsdbError> {
        let mut cursor = Cursor::new(WHAT, data);
        let mut parts = Self::default();
        for slot in &mut parts.0 {
            let length = cursor.uvarint64()?;
            if length == 0 {
                continue;
            }
            let offset = cursor.offset();
            let number = cursor.u8()?;
            let length = usize::try_from(length).map_err(|_| cursor.corrupt("an aggregate is too long"))?;
            let start = cursor.position();
            cursor.skip(length)?;
            let encoding = ChunkEncoding::from_byte(number)
                .filter(|encoding| !matches!(encoding, ChunkEncoding::None | ChunkEncoding::Aggregate))
                .ok_or_else(|| TsdbError::unsupported(WHAT, offset, "chunk encoding", number))?;
            *slot = Some((encoding, data.get(start..start + length).unwrap_or_default()));
        }
        Ok(parts)
    }

    pub fn get(&self, aggregate: Aggregate) -> Part<'a> {
        let [count, sum, min, max, counter] = self.0;
        match aggregate {
            Aggregate::Count => count,
            Aggregate::Sum => sum,
            Aggregate::Min => min,
            Aggregate::Max => max,
            Aggregate::Counter => counter,
        }
    }

    /// The bytes of the chunk.
    pub fn encode(&self) -> Vec<u8> {
        let size = self.0.iter().flatten().map(|(_, data)| data.len() + 6).sum::<usize>() + self.0.len();
        let mut out = Vec::with_capacity(size);
        for part in &self.0 {
            match part {
                None => out.push(0),
                Some((encoding, data)) => {
                    put_uvarint(&mut out, data.len() as u64);
                    out.push(encoding.as_byte());
                    out.extend_from_slice(data);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_come_back_and_damage_never_panics(parts: [Option<Vec<u8>>; 5], cut: prop::sample::Index, bytes: Vec<u8>) {
            let parts = parts.map(|part| part.filter(|data| !data.is_empty()));
            let borrowed: Vec<Part<'_>> =
                parts.iter().map(|part| part.as_deref().map(|data| (ChunkEncoding::FloatHistogram, data))).collect();
            let parts = Parts::new(borrowed.try_into().unwrap());
            let encoded = parts.encode();
            prop_assert_eq!(Parts::decode(&encoded).unwrap(), parts);
            prop_assert!(Parts::decode(&encoded[..cut.index(encoded.len())]).is_err());
            let _ = Parts::decode(&bytes);
        }
    }
}
