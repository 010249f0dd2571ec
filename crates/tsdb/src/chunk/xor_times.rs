//! The times of an XOR chunk alone: for whoever has to know which samples there are before it wants their values, if it ever does.

use super::newer::{self, BitWork};
use super::varbit::{XorReading, XorStep};
use super::xor::{WHAT, XorState, is_ordinary};
use super::{Order, Steps, sample_count};
use crate::bits::BitReader;
use crate::error::TsdbError;

/// What was found besides the times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XorTimes {
    pub order: Order,
    /// Whether the chunk ends with its last sample, but for bits up to a whole byte, which are zero.
    pub is_exact: bool,
}

/// Appends the times of an XOR chunk. What [`super::decode_xor`] refuses is refused, and leaves `out` as it was.
pub fn decode_xor_times(bytes: &[u8], out: &mut Vec<i64>) -> Result<XorTimes, TsdbError> {
    let count = sample_count(bytes)?;
    // As with values: a count that the bytes cannot hold must not claim memory.
    let capacity = count.min(bytes.len() * 4);
    if capacity < count {
        let missing = (count - capacity).div_ceil(4) as u64;
        return Err(TsdbError::truncated(WHAT, bytes.len() as u64, missing));
    }
    let start = out.len();
    out.resize(start + count, 0);
    let found = newer::run(Decoding { bytes, times: out.get_mut(start..).unwrap_or_default() });
    if found.is_err() {
        out.truncate(start);
    }
    found
}

/// Whether bytes end where their last bit in use does, and zeros fill them up.
pub fn ends_exactly(bytes: &[u8], end_bits: u64) -> bool {
    let unused = bytes.len() as u64 * 8 - end_bits.min(bytes.len() as u64 * 8);
    let last = bytes.last().copied().unwrap_or_default();
    unused < 8 && u16::from(last) & ((1 << unused) - 1) == 0
}

struct Decoding<'a> {
    bytes: &'a [u8],
    times: &'a mut [i64],
}

impl BitWork for Decoding<'_> {
    type Output = Result<XorTimes, TsdbError>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        let Self { bytes, times } = self;
        let mut slots = times.iter_mut();
        let Some(time) = slots.next() else {
            let is_exact = ends_exactly(bytes, super::xor::HEADER_SIZE_BYTES as u64 * 8);
            return Ok(XorTimes { order: Order::Ascending, is_exact });
        };
        let mut state = XorState::<Skipping>::first(bytes)?;
        let is_ordinary = is_ordinary(state.timestamp);
        *time = state.timestamp;
        if let Some(time) = slots.next() {
            state.second(bytes)?;
            *time = state.timestamp;
        }
        for time in slots {
            state.advance();
            *time = state.timestamp;
        }
        state.check()?;
        Ok(XorTimes {
            order: Steps::order(state.steps().filter(|_| is_ordinary)),
            is_exact: ends_exactly(bytes, state.reader.position_bits()),
        })
    }
}

/// Passes over values.
struct Skipping(XorReading);

impl XorStep for Skipping {
    #[inline(always)]
    fn first(bits: u64) -> Self {
        Self(XorReading::starting(bits))
    }

    #[inline(always)]
    fn step(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32) {
        self.0.skip_in(reader, window, used);
    }

    #[inline(always)]
    fn reading(&self) -> &XorReading {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use parallax_model::FloatColumn;
    use proptest::prelude::*;

    use super::*;
    use crate::chunk::{decode_xor, encode_xor};

    proptest! {
        #[test]
        fn times_are_those_that_decoding_gives(
            mut bytes: Vec<u8>,
            count in 0u16..300,
            samples in prop::collection::vec((0u32..100_000, any::<u64>(), 0u32..64), 0..200),
            at: prop::sample::Index,
            bit in 0u32..8,
        ) {
            let mut time_ms = 1_700_000_000_000;
            let samples: Vec<(i64, f64)> = samples.into_iter().map(|(step, bits, shift)| {
                time_ms += i64::from(if step < 70_000 { 15_000 } else { step });
                (time_ms, f64::from_bits(bits >> shift << (shift / 2)))
            }).collect();
            let whole = encode_xor(&samples).unwrap();
            let mut damaged = whole.clone();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            if let Some(header) = bytes.first_chunk_mut::<2>() {
                *header = count.to_be_bytes();
            }
            for bytes in [&damaged[..], &damaged[..at], &bytes[..], &whole[..]] {
                let (mut column, mut times) = (FloatColumn::default(), vec![7]);
                let expected = decode_xor(bytes, &mut column).map_err(|error| error.to_string());
                let found = decode_xor_times(bytes, &mut times).map_err(|error| error.to_string());
                prop_assert_eq!(found.map(|found| found.order), expected);
                prop_assert_eq!(&times[1..], &column.timestamps_ms[..]);
            }
            prop_assert!(decode_xor_times(&whole, &mut Vec::new()).unwrap().is_exact);
            let longer = [&whole[..], &[0]].concat();
            prop_assert!(!decode_xor_times(&longer, &mut Vec::new()).unwrap().is_exact);
        }
    }

    #[test]
    fn bits_behind_the_last_sample_are_noticed() {
        // The second sample ends with a single bit.
        let mut bytes = encode_xor(&[(1, 1.0), (2, 1.0)]).unwrap();
        assert!(decode_xor_times(&bytes, &mut Vec::new()).unwrap().is_exact);
        *bytes.last_mut().unwrap() |= 1;
        assert!(!decode_xor_times(&bytes, &mut Vec::new()).unwrap().is_exact);
    }
}
