//! Streams of bits, most significant bit first: what chunks are made of.
//!
//! The reader keeps up to 64 unread bits left-aligned in one register and refills it with unaligned loads of eight bytes.
//! Reading past the end gives zero bits and is noticed by [`BitReader::check`], which callers ask once per sample or once
//! per chunk: the hot loops carry no error branch. A loop whose length comes from the bytes must therefore be bounded by
//! something else, or ask in every round.

use crate::error::TsdbError;

/// Reads bits of untrusted bytes.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    /// The index of the first byte that is not wholly in `buffer`.
    next: usize,
    /// Unread bits, left-aligned. Below the `valid` ones stand bits that a refill will put there again, or zeros.
    buffer: u64,
    valid: u32,
}

/// How many bits [`BitReader::refill`] guarantees to be valid.
pub(crate) const REFILLED_BITS: u32 = 56;

impl<'a> BitReader<'a> {
    /// Starts at byte `start` of `bytes`.
    pub(crate) fn new(bytes: &'a [u8], start: usize) -> Self {
        Self { bytes, next: start, buffer: 0, valid: 0 }
    }

    /// Makes at least [`REFILLED_BITS`] bits valid.
    #[inline(always)]
    pub(crate) fn refill(&mut self) {
        let word = match self.bytes.get(self.next..).and_then(<[u8]>::first_chunk::<8>) {
            Some(word) => u64::from_be_bytes(*word),
            None => self.last_word(),
        };
        self.buffer |= word >> self.valid;
        self.next += ((63 - self.valid) >> 3) as usize;
        self.valid |= REFILLED_BITS;
    }

    /// The last bytes, followed by zeros.
    #[inline]
    fn last_word(&self) -> u64 {
        let past_end = (self.next + 8).saturating_sub(self.bytes.len());
        if past_end >= 8 {
            return 0;
        }
        match self.bytes.last_chunk::<8>() {
            Some(word) => u64::from_be_bytes(*word) << (past_end * 8),
            None => self.short_word(),
        }
    }

    /// The same where there are less than eight bytes.
    #[cold]
    fn short_word(&self) -> u64 {
        let rest = self.bytes.get(self.next..).unwrap_or_default();
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(rest) {
            *to = *from;
        }
        u64::from_be_bytes(word)
    }

    /// The unread bits, left-aligned; meaningful as far as the last refill reached.
    #[inline(always)]
    pub(crate) fn peek(&self) -> u64 {
        self.buffer
    }

    /// Drops `count` valid bits; `count` < 64.
    #[inline(always)]
    pub(crate) fn consume(&mut self, count: u32) {
        debug_assert!(count <= self.valid);
        self.buffer <<= count & 63;
        self.valid -= count;
    }

    /// The next `count` valid bits as an integer, without a refill; 0 ≤ `count` ≤ [`REFILLED_BITS`].
    #[inline(always)]
    pub(crate) fn take(&mut self, count: u32) -> u64 {
        let value = (self.buffer >> 1) >> ((63 - count) & 63);
        self.consume(count);
        value
    }

    /// Makes `count` bits valid, if they can be.
    #[inline(always)]
    pub(crate) fn ensure(&mut self, count: u32) {
        if count > self.valid {
            self.refill();
        }
    }

    /// The next `count` ≤ 64 bits as an integer.
    #[inline(always)]
    pub(crate) fn read(&mut self, count: u32) -> u64 {
        self.refill();
        if count <= REFILLED_BITS {
            return self.take(count);
        }
        let high = self.take(32);
        self.refill();
        (high << (count - 32)) | self.take(count - 32)
    }

    /// The next `size` bits as a signed integer from −(2^(size−1) − 1) to 2^(size−1); 1 ≤ `size` ≤ 56, all valid.
    #[inline(always)]
    pub(crate) fn take_signed(&mut self, size: u32) -> i64 {
        let value = self.take(size);
        let negative = u64::from(value > 1 << (size - 1));
        value.wrapping_sub(negative << size) as i64
    }

    /// How many bits have been read, those past the end included.
    pub(crate) fn position_bits(&self) -> u64 {
        (self.next as u64 * 8).saturating_sub(u64::from(self.valid))
    }

    /// How many bits are left; 0 after an overrun.
    pub(crate) fn remaining_bits(&self) -> u64 {
        (self.bytes.len() as u64 * 8).saturating_sub(self.position_bits())
    }

    /// Fails if more bits were read than there are.
    #[inline(always)]
    pub(crate) fn check(&self, what: &str) -> Result<(), TsdbError> {
        let (read, stored) = (self.position_bits(), self.bytes.len() as u64 * 8);
        if read <= stored {
            return Ok(());
        }
        Err(TsdbError::truncated(what, self.bytes.len() as u64, (read - stored).div_ceil(8)))
    }
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
