//! A whole XOR chunk at once: the bytes that [`super::XorAppender`] makes sample by sample, several times as fast.
//!
//! Bits are collected in a word and leave it eight bytes at a time, which an appender that must always be whole cannot do.

use super::MAX_SAMPLES;
use super::varbit::{XorWindow, fits_signed};
use crate::bits::BitReader;
use crate::cursor::{put_uvarint, put_varint};
use crate::error::TsdbError;

const WHAT: &str = "XOR chunk";

/// Encodes samples whose times do not go back.
///
/// # Errors
/// Times that go back, and more samples than a chunk can count.
pub fn encode_xor(samples: &[(i64, f64)]) -> Result<Vec<u8>, TsdbError> {
    encode_xor_in(Vec::new(), samples)
}

/// As [`encode_xor`], in the memory of some bytes that are not needed any more.
///
/// # Errors
/// As [`encode_xor`].
pub fn encode_xor_in(mut bytes: Vec<u8>, samples: &[(i64, f64)]) -> Result<Vec<u8>, TsdbError> {
    let count = u16::try_from(samples.len())
        .map_err(|_| TsdbError::invalid(WHAT, format!("it holds at most {MAX_SAMPLES} samples")))?;
    bytes.clear();
    bytes.reserve(16 + samples.len() * 3);
    bytes.extend(count.to_be_bytes());
    let mut bits = Bits::new(bytes);
    let mut rest = samples.iter();
    let Some((first_ms, first)) = rest.next() else { return Ok(bits.bytes) };
    put_varint(&mut bits.bytes, *first_ms);
    bits.bytes.extend(first.to_bits().to_be_bytes());
    let mut value = Xored::behind(first.to_bits(), XorWindow::NONE);
    let mut last_ms = *first_ms;
    let mut last_delta = 0;
    for (at, (time_ms, sample)) in rest.enumerate() {
        if *time_ms < last_ms {
            let reason = format!("a sample at {time_ms} ms follows one at {last_ms} ms");
            return Err(TsdbError::out_of_order(WHAT, reason));
        }
        let delta = time_ms.wrapping_sub(last_ms);
        if at == 0 {
            put_uvarint(&mut bits.bytes, delta.cast_unsigned());
        } else {
            bits.push_delta_change(delta.wrapping_sub(last_delta));
        }
        value.push(&mut bits, sample.to_bits());
        last_ms = *time_ms;
        last_delta = delta;
    }
    Ok(bits.finish())
}

/// Whole words in `bytes`, and the bits behind them at the top of `word`.
#[derive(Debug)]
pub(super) struct Bits {
    pub(super) bytes: Vec<u8>,
    word: u64,
    used: u32,
}

impl Bits {
    /// Behind whole bytes, to which more may be added until the first bit comes.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, word: 0, used: 0 }
    }

    /// Appends bits of other bytes, from one place to another; both are counted from the beginning.
    pub(super) fn copy(&mut self, bytes: &[u8], mut from: u32, to: u32) {
        /// What a reader gives with one load.
        const PIECE_BITS: u32 = 56;
        const WORD_BITS: u32 = 64;
        if self.used == 0 && from.is_multiple_of(8) {
            let whole = bytes.get(from as usize / 8..to as usize / 8).unwrap_or_default();
            self.bytes.extend_from_slice(whole);
            from += whole.len() as u32 * 8;
        }
        // Nine bytes hold a word, wherever in the first of them it begins.
        let words = to.saturating_sub(from) / WORD_BITS;
        self.bytes.reserve(words as usize * 8);
        let source = bytes.get(from as usize / 8..).unwrap_or_default();
        let shift = from % 8;
        for piece in source.windows(9).step_by(8).take(words as usize) {
            let Some((head, [tail, ..])) = piece.split_first_chunk::<8>() else { break };
            let word = u64::from_be_bytes(*head) << shift | u64::from(*tail) >> (8 - shift);
            self.push(word, WORD_BITS);
            from += WORD_BITS;
        }
        let mut reader = BitReader::new(bytes, from as usize / 8);
        reader.consume(shift);
        let mut left = to.saturating_sub(from);
        while left >= PIECE_BITS {
            self.push(reader.read(PIECE_BITS), PIECE_BITS);
            left -= PIECE_BITS;
        }
        if left > 0 {
            self.push(reader.read(left), left);
        }
    }

    /// Appends `count` bits, 1 to 64; those of `value` above them are zero.
    #[inline(always)]
    pub(super) fn push(&mut self, value: u64, count: u32) {
        let free = 64 - self.used;
        if count < free {
            self.word |= value << (free - count);
            self.used += count;
            return;
        }
        let over = count - free;
        self.bytes.extend_from_slice(&(self.word | value >> over).to_be_bytes());
        // Two shifts, since one by 64 is none.
        self.word = (value << 1) << (63 - over);
        self.used = over;
    }

    #[inline(always)]
    pub(super) fn push_delta_change(&mut self, change: i64) {
        let low = |size: u32| change.cast_unsigned() & ((1 << size) - 1);
        if change == 0 {
            self.push(0, 1);
        } else if fits_signed(change, 14) {
            self.push(0b10 << 14 | low(14), 16);
        } else if fits_signed(change, 17) {
            self.push(0b110 << 17 | low(17), 20);
        } else if fits_signed(change, 20) {
            self.push(0b1110 << 20 | low(20), 24);
        } else {
            self.push(0b1111, 4);
            self.push(change.cast_unsigned(), 64);
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let whole = self.used.div_ceil(8) as usize;
        self.bytes.extend(self.word.to_be_bytes().iter().take(whole));
        self.bytes
    }
}

/// The last value, and the window of its bits in use (more than 64 leading zeros: none yet).
#[derive(Debug)]
pub(super) struct Xored {
    pub(super) bits: u64,
    leading: u32,
    trailing: u32,
}

impl Xored {
    /// Behind a value that was written with this window in use.
    pub(super) fn behind(bits: u64, window: XorWindow) -> Self {
        let (leading, trailing) = window.zeros().unwrap_or((u32::MAX, 0));
        Self { bits, leading, trailing }
    }

    pub(super) fn window(&self) -> XorWindow {
        if self.leading < 64 { XorWindow::new(self.leading, self.trailing) } else { XorWindow::NONE }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, out: &mut Bits, next: u64) {
        let difference = self.bits ^ next;
        self.bits = next;
        if difference == 0 {
            return out.push(0, 1);
        }
        // Five bits hold the leading zeros.
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        if leading >= self.leading && trailing >= self.trailing {
            out.push(0b10, 2);
            return out.push(difference >> self.trailing, 64 - self.leading - self.trailing);
        }
        self.leading = leading;
        self.trailing = trailing;
        let significant = 64 - leading - trailing;
        // Six bits: 64 is written as 0.
        out.push(u64::from(0b11 << 11 | leading << 6 | significant & 63), 13);
        out.push(difference >> trailing, significant);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::XorAppender;

    proptest! {
        #[test]
        fn the_bytes_are_those_of_the_appender(
            steps in prop::collection::vec((0u32..64, any::<u64>(), 0u32..64, 0u32..64, any::<u64>()), 0..200),
            first: i32,
        ) {
            let mut time_ms = i64::from(first);
            let mut appender = XorAppender::new();
            let mut samples = Vec::new();
            for (length, step, high, low, value) in steps {
                let value = f64::from_bits(value >> high << low);
                // Steps of all lengths, as far as time goes.
                let next = time_ms.checked_add_unsigned(step >> length).unwrap_or(time_ms);
                time_ms = next;
                samples.push((time_ms, value));
                appender.append(time_ms, value).unwrap();
            }
            prop_assert_eq!(encode_xor(&samples).unwrap(), appender.into_bytes());
        }
    }

    #[test]
    fn time_that_goes_back_is_refused() {
        assert!(encode_xor(&[(5, 1.0), (4, 1.0)]).is_err());
    }
}
