//! One entry of a segment: the length of a chunk's data, its encoding, the data and a checksum of the last two.

use bytes::Bytes;

use super::MAX_CHUNK_DATA_SIZE_BYTES;
use crate::chunk::ChunkEncoding;
use crate::crc::{self, CRC_SIZE_BYTES};
use crate::cursor::{Cursor, MAX_UVARINT32_BYTES};
use crate::error::TsdbError;

/// A chunk as it stands in a segment. Its checksum was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub encoding: ChunkEncoding,
    pub data: Bytes,
}

/// What [`parse_entry`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParsedEntry<'a> {
    /// A whole entry with a right checksum; it takes the first `size_bytes` of the input.
    Whole { encoding: ChunkEncoding, data: &'a [u8], size_bytes: usize },
    /// The entry goes on: the input must be at least `total_bytes` long (which may turn out to be too little again, if
    /// not even the length was there).
    NeedMore { total_bytes: usize },
}

/// Reads the entry at the start of `bytes`, which may be too short, or longer than needed.
///
/// This is for ranges of objects, which are fetched with a guess at the size of what stands there. `what` names the segment
/// and `offset` the place of `bytes` in it, for errors.
pub fn parse_entry<'a>(what: &str, offset: u64, bytes: &'a [u8]) -> Result<ParsedEntry<'a>, TsdbError> {
    // The shortest entry has a length of one byte and no data.
    let shortest = 1 + 1 + CRC_SIZE_BYTES;
    let mut cursor = Cursor::at(what, offset, bytes);
    let length_is_cut = bytes.len() < MAX_UVARINT32_BYTES && bytes.iter().all(|byte| *byte >= 0x80);
    if length_is_cut {
        return Ok(ParsedEntry::NeedMore { total_bytes: (bytes.len() + 1).max(shortest) });
    }
    let data_size = cursor.uvarint32()? as usize;
    if data_size > MAX_CHUNK_DATA_SIZE_BYTES {
        return Err(TsdbError::corrupt(what, offset, format!("a chunk claims {data_size} bytes")));
    }
    let (start, encoding_offset) = (cursor.position(), cursor.offset());
    let size_bytes = start + 1 + data_size + CRC_SIZE_BYTES;
    if bytes.len() < size_bytes {
        return Ok(ParsedEntry::NeedMore { total_bytes: size_bytes });
    }
    let number = cursor.clone().u8()?;
    let covered = cursor.bytes(1 + data_size)?;
    crc::verify(what, encoding_offset, covered, cursor.be_u32()?)?;
    let Some(encoding) = ChunkEncoding::from_byte(number) else {
        return Err(TsdbError::unsupported(what, encoding_offset, "chunk encoding", number));
    };
    // Not from the cursor, whose slices live no longer than `what`.
    let data = bytes.get(start + 1..start + 1 + data_size).unwrap_or_default();
    Ok(ParsedEntry::Whole { encoding, data, size_bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cursor::put_uvarint;

    fn entry(encoding: u8, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_uvarint(&mut bytes, data.len() as u64);
        let start = bytes.len();
        bytes.push(encoding);
        bytes.extend(data);
        let crc = crc::crc32c(&bytes[start..]);
        bytes.extend(crc.to_be_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn a_short_range_says_how_much_is_needed_until_it_is_enough(data in prop::collection::vec(any::<u8>(), 0..400)) {
            let bytes = entry(1, &data);
            let mut have = 0;
            for _ in 0..3 {
                match parse_entry("000001", 8, &bytes[..have]).unwrap() {
                    ParsedEntry::NeedMore { total_bytes } => {
                        prop_assert!(total_bytes > have && total_bytes <= bytes.len());
                        have = total_bytes;
                    }
                    ParsedEntry::Whole { data: parsed, size_bytes, .. } => {
                        prop_assert_eq!(parsed, &data[..]);
                        prop_assert_eq!(size_bytes, bytes.len());
                        prop_assert_eq!(have, bytes.len());
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "the entry was never whole");
        }

        #[test]
        fn a_flipped_bit_is_never_read_as_a_chunk(data in prop::collection::vec(any::<u8>(), 0..100), place: prop::sample::Index) {
            let mut bytes = entry(2, &data);
            let bit = place.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = matches!(parse_entry("000001", 8, &bytes), Ok(ParsedEntry::Whole { .. }));
            prop_assert!(!whole);
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse_entry("000001", u64::MAX, &bytes);
        }
    }

    #[test]
    fn absurd_lengths_and_unknown_encodings_are_errors() {
        let mut absurd = Vec::new();
        put_uvarint(&mut absurd, MAX_CHUNK_DATA_SIZE_BYTES as u64 + 1);
        assert!(matches!(parse_entry("000001", 8, &absurd), Err(TsdbError::Corrupt { offset: 8, .. })));
        assert!(matches!(parse_entry("000001", 8, &[0xff; 9]), Err(TsdbError::Corrupt { offset: 8, .. })));
        let error = parse_entry("000001", 8, &entry(7, b"abc")).unwrap_err();
        assert_eq!(error.to_string(), "000001 at byte 9: chunk encoding 7 is not supported");
    }
}
