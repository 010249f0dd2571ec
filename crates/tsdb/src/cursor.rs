//! The one checked cursor over bytes from outside, and the writers of the same primitives.
//!
//! Every read is bounded by the slice; an error names the file (or object) and the absolute offset at which the value that
//! could not be read starts. After an error the position is unchanged. The primitives are those of Prometheus' formats:
//! big-endian integers, LEB128 `uvarint`, zigzag `varint` (both as in Go's `encoding/binary`), and CRC32C.

use crate::crc;
use crate::error::TsdbError;

/// The most bytes that a uvarint of 32 and of 64 bits may take.
pub const MAX_UVARINT32_BYTES: usize = 5;
pub const MAX_UVARINT64_BYTES: usize = 10;

/// A position in untrusted bytes.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    what: &'a str,
    base: u64,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    /// Reads `bytes` from their start, where `bytes` is the whole of what `what` names.
    pub fn new(what: &'a str, bytes: &'a [u8]) -> Self {
        Self::at(what, 0, bytes)
    }

    /// Reads `bytes` from their start; `base` is where in `what` they begin, and is only used in errors and by [`Self::offset`].
    pub fn at(what: &'a str, base: u64, bytes: &'a [u8]) -> Self {
        Self { what, base, bytes, position: 0 }
    }

    pub fn what(&self) -> &'a str {
        self.what
    }

    /// The absolute offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.base.saturating_add(self.position as u64)
    }

    /// How far this cursor has moved since it was made.
    pub fn position(&self) -> usize {
        self.position
    }

    /// All bytes that are still to be read.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub fn is_empty(&self) -> bool {
        self.remaining() == 0
    }

    /// An error about the value at the present position.
    pub fn corrupt(&self, reason: impl Into<std::borrow::Cow<'static, str>>) -> TsdbError {
        TsdbError::corrupt(self.what, self.offset(), reason)
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], TsdbError> {
        let rest = self.rest();
        let Some(taken) = rest.get(..len) else {
            return Err(TsdbError::truncated(self.what, self.offset(), (len - rest.len()) as u64));
        };
        self.position += len;
        Ok(taken)
    }

    pub fn skip(&mut self, len: usize) -> Result<(), TsdbError> {
        self.bytes(len).map(|_| ())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], TsdbError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub fn u8(&mut self) -> Result<u8, TsdbError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn be_u16(&mut self) -> Result<u16, TsdbError> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn be_u32(&mut self) -> Result<u32, TsdbError> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn be_u64(&mut self) -> Result<u64, TsdbError> {
        self.array().map(u64::from_be_bytes)
    }

    /// An unsigned LEB128 integer of at most 64 bits.
    #[inline]
    pub fn uvarint64(&mut self) -> Result<u64, TsdbError> {
        let rest = self.rest();
        if let Some((value, size)) = short_uvarint(rest) {
            self.position += size;
            return Ok(u64::from(value));
        }
        self.long_uvarint64()
    }

    fn long_uvarint64(&mut self) -> Result<u64, TsdbError> {
        let rest = self.rest();
        let mut value = 0u64;
        for (index, byte) in rest.iter().take(MAX_UVARINT64_BYTES).enumerate() {
            if index == MAX_UVARINT64_BYTES - 1 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.position += index + 1;
                return Ok(value);
            }
        }
        if rest.len() < MAX_UVARINT64_BYTES {
            return Err(TsdbError::truncated(self.what, self.offset(), 1));
        }
        Err(self.corrupt("a uvarint does not fit 64 bits"))
    }

    /// An unsigned LEB128 integer that must fit 32 bits.
    #[inline]
    pub fn uvarint32(&mut self) -> Result<u32, TsdbError> {
        if let Some((value, size)) = short_uvarint(self.rest()) {
            self.position += size;
            return Ok(value);
        }
        self.long_uvarint32()
    }

    fn long_uvarint32(&mut self) -> Result<u32, TsdbError> {
        let before = self.clone();
        if self.rest().get(..MAX_UVARINT32_BYTES).is_some_and(|head| head.iter().all(|byte| *byte >= 0x80)) {
            return Err(self.corrupt("a uvarint does not fit 32 bits"));
        }
        let value = self.uvarint64()?;
        u32::try_from(value).map_err(|_| {
            *self = before;
            self.corrupt("a uvarint does not fit 32 bits")
        })
    }

    /// A zigzag LEB128 integer, as Go's `binary.Varint` has it.
    pub fn varint64(&mut self) -> Result<i64, TsdbError> {
        let folded = self.uvarint64()?;
        Ok(((folded >> 1) as i64) ^ -((folded & 1) as i64))
    }

    /// A uvarint that counts bytes which follow: at most as many as there are.
    pub fn uvarint_len(&mut self) -> Result<usize, TsdbError> {
        let before = self.clone();
        let len = self.uvarint64()?;
        let remaining = self.remaining() as u64;
        if len > remaining {
            *self = before;
            return Err(TsdbError::truncated(self.what, self.offset(), len - remaining));
        }
        Ok(len as usize)
    }

    /// Bytes that are preceded by their length as a uvarint.
    pub fn uvarint_bytes(&mut self) -> Result<&'a [u8], TsdbError> {
        let len = self.uvarint_len()?;
        self.bytes(len)
    }

    /// Text that is preceded by its length in bytes as a uvarint.
    pub fn uvarint_str(&mut self) -> Result<&'a str, TsdbError> {
        let before = self.clone();
        let bytes = self.uvarint_bytes()?;
        std::str::from_utf8(bytes).map_err(|_| {
            *self = before;
            self.corrupt("text is not UTF-8")
        })
    }

    /// Reads `len` bytes and the CRC32C that follows and covers them; gives the bytes.
    pub fn checked_bytes(&mut self, len: usize) -> Result<&'a [u8], TsdbError> {
        let before = self.clone();
        let outcome = self.bytes(len).and_then(|covered| {
            let stored = self.be_u32()?;
            crc::verify(self.what, before.offset(), covered, stored)?;
            Ok(covered)
        });
        if outcome.is_err() {
            *self = before;
        }
        outcome
    }
}

/// An unsigned LEB128 integer of up to three bytes, as nearly all lengths, deltas and numbers of symbols are, and how many it takes.
#[inline]
fn short_uvarint(bytes: &[u8]) -> Option<(u32, usize)> {
    match *bytes {
        [a @ 0..=0x7f, ..] => Some((u32::from(a), 1)),
        [a, b @ 0..=0x7f, ..] => Some((u32::from(a & 0x7f) | u32::from(b) << 7, 2)),
        [a, b, c @ 0..=0x7f, ..] => {
            Some((u32::from(a & 0x7f) | u32::from(b & 0x7f) << 7 | u32::from(c) << 14, 3))
        }
        _ => None,
    }
}

/// Appends an unsigned LEB128 integer.
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a zigzag LEB128 integer.
pub fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// The bytes that [`put_uvarint`] appends for `value`.
pub fn uvarint_size_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_come_back_as_they_were_written(number: u64, bits in 0u32..64, signed: i64) {
            let unsigned = number >> bits;
            let mut out = Vec::new();
            put_uvarint(&mut out, unsigned);
            prop_assert_eq!(out.len(), uvarint_size_bytes(unsigned));
            prop_assert_eq!(Cursor::new("test", &out).uvarint32().ok(), u32::try_from(unsigned).ok());
            put_varint(&mut out, signed);
            let mut cursor = Cursor::new("test", &out);
            prop_assert_eq!(cursor.uvarint64().unwrap(), unsigned);
            prop_assert_eq!(cursor.varint64().unwrap(), signed);
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn no_read_panics_or_moves_on_failure(bytes: Vec<u8>, len: usize, step in 0u8..10) {
            let mut cursor = Cursor::at("test", u64::MAX - 3, &bytes);
            let failed = match step {
                0 => cursor.u8().is_err(),
                1 => cursor.be_u32().is_err(),
                2 => cursor.be_u64().is_err(),
                3 => cursor.uvarint32().is_err(),
                4 => cursor.varint64().is_err(),
                5 => cursor.bytes(len).is_err(),
                6 => cursor.uvarint_str().is_err(),
                7 => cursor.checked_bytes(len).is_err(),
                8 => cursor.be_u16().is_err(),
                _ => cursor.uvarint_bytes().is_err(),
            };
            prop_assert!(!failed || cursor.position() == 0);
        }
    }

    #[test]
    fn an_overlong_uvarint_is_corrupt_and_a_cut_one_is_truncated() {
        let overlong = [0xff; 11];
        assert!(matches!(
            Cursor::new("index", &overlong).uvarint64(),
            Err(TsdbError::Corrupt { offset: 0, .. })
        ));
        let cut = [0xff; 3];
        let error = Cursor::at("index", 70, &cut).uvarint64().unwrap_err();
        assert_eq!(
            error.to_string(),
            "index is truncated: 1 more bytes are needed for what starts at byte 70"
        );
    }

    #[test]
    fn a_flipped_bit_fails_the_checksum_and_names_the_place() {
        let mut bytes = b"abc".to_vec();
        bytes.extend(crc::crc32c(b"abc").to_be_bytes());
        assert_eq!(Cursor::new("index", &bytes).checked_bytes(3).unwrap(), b"abc");
        bytes[1] ^= 4;
        let error = Cursor::at("index", 9, &bytes).checked_bytes(3).unwrap_err();
        assert!(matches!(error, TsdbError::Checksum { offset: 9, .. }), "{error}");
    }
}
