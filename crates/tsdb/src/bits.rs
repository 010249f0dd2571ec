//! Streams of bits, most significant bit first: what chunks are made of.
//!
//! The reader is no more than a position. A window of 64 bits is loaded there, unaligned, whenever bits are wanted; as long as
//! branches are predicted the loads do not wait for each other. Reading past the end gives zero bits and is noticed by
//! [`BitReader::check`], which callers ask once per sample or once per chunk: the hot loops carry no error branch. A loop whose
//! length comes from the bytes must therefore be bounded by something else, or ask in every round.

use crate::error::TsdbError;

/// Reads bits of untrusted bytes.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// In bits. Stays far from overflow: a caller that goes on past the end does so for at most a chunk's samples.
    position: usize,
}

/// How many bits of [`BitReader::window`] are sure to be there: a byte holds up to seven that were read before.
pub(crate) const WINDOW_BITS: u32 = 57;

impl<'a> BitReader<'a> {
    /// Starts at byte `start` of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, position: start * 8 }
    }

    /// The next [`WINDOW_BITS`] bits, left-aligned, and zeros or more of them below.
    #[inline(always)]
    pub(crate) fn window(&self) -> u64 {
        let byte = self.position / 8;
        let word = match self.bytes.get(byte..byte + 8).and_then(|word| word.try_into().ok()) {
            Some(word) => u64::from_be_bytes(word),
            None => self.last_word(byte),
        };
        word << (self.position % 8)
    }

    /// The last bytes from `byte` on, followed by zeros.
    #[inline(never)]
    fn last_word(&self, byte: usize) -> u64 {
        let past_end = (byte + 8).saturating_sub(self.bytes.len());
        if past_end >= 8 {
            return 0;
        }
        if let Some(word) = self.bytes.last_chunk::<8>() {
            return u64::from_be_bytes(*word) << (past_end * 8);
        }
        let rest = self.bytes.get(byte..).unwrap_or_default();
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        u64::from_be_bytes(word)
    }

    /// Moves on by `count` bits.
    #[inline(always)]
    pub(crate) fn consume(&mut self, count: u32) {
        self.position += count as usize;
    }

    /// The next `count` ≤ 64 bits as an integer.
    #[inline(always)]
    pub(crate) fn read(&mut self, count: u32) -> u64 {
        if count <= WINDOW_BITS {
            let value = (self.window() >> 1) >> ((63 - count) & 63);
            self.consume(count);
            return value;
        }
        let high = self.window() >> 32;
        self.consume(32);
        let low = self.window() >> (96 - count);
        self.consume(count - 32);
        (high << (count - 32)) | low
    }

    /// How many bits have been read, those past the end included.
    pub(crate) fn position_bits(&self) -> u64 {
        self.position as u64
    }

    /// How many bits are left; 0 after an overrun.
    pub(crate) fn remaining_bits(&self) -> u64 {
        (self.bytes.len() as u64 * 8).saturating_sub(self.position_bits())
    }

    /// Fails if more bits were read than there are.
    #[inline(always)]
    pub(crate) fn check(&self, what: &str) -> Result<(), TsdbError> {
        if self.position.div_ceil(8) <= self.bytes.len() {
            return Ok(());
        }
        Err(self.overrun(what))
    }

    #[cold]
    fn overrun(&self, what: &str) -> TsdbError {
        let len = self.bytes.len();
        TsdbError::truncated(what, len as u64, self.position.div_ceil(8).saturating_sub(len) as u64)
    }
}

/// The top `size` bits of a window as a signed integer from −(2^(size−1) − 1) to 2^(size−1); 1 ≤ `size` ≤ 63.
#[inline(always)]
pub(crate) fn top_signed(window: u64, size: u32) -> i64 {
    let value = window >> (64 - size);
    let negative = u64::from(value > 1 << (size - 1));
    value.wrapping_sub(negative << size) as i64
}

/// Appends bits to bytes. The last byte is padded with zero bits.
#[derive(Clone, Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// How many low bits of the last byte are still unused.
    free: u32,
}

impl BitWriter {
    /// Continues whole bytes, which stay as they are.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Overwrites whole bytes that were written before, such as a header.
    pub(crate) fn patch(&mut self, at: usize, replacement: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..at + replacement.len()) {
            place.copy_from_slice(replacement);
        }
    }

    pub(crate) fn write_bit(&mut self, bit: bool) {
        self.write(u64::from(bit), 1);
    }

    /// Appends the low `count` ≤ 64 bits of `value`.
    pub(crate) fn write(&mut self, value: u64, count: u32) {
        if count == 0 {
            return;
        }
        let mut rest = value << (64 - count);
        let mut left = count;
        if let (1.., Some(last)) = (self.free, self.bytes.last_mut()) {
            *last |= (rest >> (64 - self.free)) as u8;
            let taken = self.free.min(left);
            rest <<= taken;
            self.free -= taken;
            left -= taken;
        }
        if left > 0 {
            let whole = left.div_ceil(8);
            self.bytes.extend(rest.to_be_bytes().iter().take(whole as usize));
            self.free = whole * 8 - left;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn low_bits(value: u64, count: u32) -> u64 {
        if count == 64 { value } else { value & ((1 << count) - 1) }
    }

    proptest! {
        #[test]
        fn bits_come_back_as_they_were_written(fields: Vec<(u64, u8)>) {
            let fields: Vec<_> = fields.into_iter().map(|(value, count)| (value, u32::from(count % 65))).collect();
            let mut writer = BitWriter::default();
            for (value, count) in &fields {
                writer.write(*value, *count);
            }
            let total: u64 = fields.iter().map(|(_, count)| u64::from(*count)).sum();
            prop_assert_eq!(writer.bytes().len() as u64, total.div_ceil(8));
            let mut reader = BitReader::new(writer.bytes(), 0);
            for (value, count) in &fields {
                prop_assert_eq!(reader.read(*count), low_bits(*value, *count));
            }
            prop_assert_eq!(reader.position_bits(), total);
            prop_assert!(reader.check("bits").is_ok());
            reader.read(8);
            prop_assert!(reader.check("bits").is_err());
        }
    }

    #[test]
    fn reading_past_the_end_gives_zeros_and_is_noticed() {
        let mut reader = BitReader::new(&[0xff], 0);
        assert_eq!(reader.read(64), 0xff << 56);
        assert_eq!(reader.read(64), 0);
        let error = reader.check("XOR chunk").unwrap_err();
        assert!(matches!(error, TsdbError::Truncated { offset: 1, missing_bytes: 15, .. }), "{error}");
    }
}
