//! The variable-length numbers of chunks: integers in buckets of bits, and floats as XOR with the value before.
//!
//! Source: Prometheus `tsdb/docs/format/chunks.md` (`varbit_int`, `varbit_uint`, `varbit_xor`). Byte boxes stand in
//! `FORMAT-chunks.md`.

use crate::bits::{BitReader, BitWriter, WINDOW_BITS, top_signed};

/// The sizes in bits of a number whose prefix has 0, 1, ..., 8 ones.
const VARBIT_SIZES: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

/// The prefix of a number at the top of a window: its own size and that of what follows.
#[inline(always)]
fn prefix(window: u64) -> (u32, u32) {
    let ones = window.leading_ones().min(8);
    // Eight ones need no zero to end them.
    ((ones + 1).min(8), VARBIT_SIZES.get(ones as usize).copied().unwrap_or_default())
}

#[inline(always)]
pub(crate) fn read_varbit_int(reader: &mut BitReader<'_>) -> i64 {
    let window = reader.window();
    if window >> 63 == 0 {
        reader.consume(1);
        return 0;
    }
    let (prefix, size) = prefix(window);
    if prefix + size <= WINDOW_BITS {
        reader.consume(prefix + size);
        return top_signed(window << prefix, size);
    }
    reader.consume(prefix);
    let bits = reader.read(size);
    if size == 64 { bits as i64 } else { top_signed(bits << (64 - size), size) }
}

#[inline(always)]
pub(crate) fn read_varbit_uint(reader: &mut BitReader<'_>) -> u64 {
    let (prefix, size) = prefix(reader.window());
    reader.consume(prefix);
    reader.read(size)
}

/// Whether `value` is one of the numbers that [`top_signed`] gives for `size`.
pub(crate) fn fits_signed(value: i64, size: u32) -> bool {
    let half = 1i64 << (size - 1);
    -(half - 1) <= value && value <= half
}

fn write_varbit(writer: &mut BitWriter, value: u64, fits: impl Fn(u32) -> bool) {
    if value == 0 {
        return writer.write_bit(false);
    }
    let found = VARBIT_SIZES.iter().enumerate().skip(1).find(|(_, size)| **size == 64 || fits(**size));
    let (ones, size) = found.map_or((8, 64), |(ones, size)| (ones as u32, *size));
    if ones == 8 {
        writer.write(0xff, 8);
    } else {
        writer.write((1 << (ones + 1)) - 2, ones + 1);
    }
    writer.write(value, size);
}

pub(crate) fn write_varbit_int(writer: &mut BitWriter, value: i64) {
    write_varbit(writer, value as u64, |size| fits_signed(value, size));
}

pub(crate) fn write_varbit_uint(writer: &mut BitWriter, value: u64) {
    write_varbit(writer, value, |size| value >> size == 0);
}

/// The decoding state of a float that is stored as XOR with the value before.
#[derive(Clone, Copy, Debug)]
pub struct XorReading {
    bits: u64,
    /// The zeros of the window in use: leading and trailing together, and trailing alone.
    unused: u32,
    trailing: u32,
    /// Whether a window was wider than 64 bits: the bytes are corrupt, and `bits` is not to be used.
    pub(crate) broken: bool,
}

impl XorReading {
    /// After the first value, which is stored raw.
    pub(crate) fn starting(bits: u64) -> Self {
        Self { bits, unused: 0, trailing: 0, broken: false }
    }

    #[inline(always)]
    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.bits)
    }

    /// Reads the next value.
    #[inline(always)]
    pub(crate) fn advance(&mut self, reader: &mut BitReader<'_>) {
        self.advance_in(reader, reader.window(), 0);
    }

    /// Reads the next value, where the reader's window has been loaded and moved up by `used` ≤ 1 bits that are not consumed yet.
    #[inline(always)]
    pub(crate) fn advance_in(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32) {
        if window >> 63 == 0 {
            return reader.consume(used + 1);
        }
        let head = self.open_window(window);
        let size = used + head + 64 - self.unused;
        let difference = if size <= WINDOW_BITS {
            reader.consume(size);
            (window << head) >> self.unused
        } else {
            reader.consume(used + head);
            reader.read(64 - self.unused)
        };
        self.bits ^= difference << self.trailing;
    }

    /// As [`Self::advance_in`], past a value that nobody wants to know.
    #[inline(always)]
    pub(crate) fn skip_in(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32) {
        if window >> 63 == 0 {
            return reader.consume(used + 1);
        }
        let head = self.open_window(window);
        reader.consume(used + head + 64 - self.unused);
    }

    /// Uses the window of bits that is in use, or the one that stands before a value that differs; gives how many bits stand there.
    #[inline(always)]
    fn open_window(&mut self, window: u64) -> u32 {
        if (window >> 62) & 1 == 0 {
            return 2;
        }
        let leading = ((window >> 57) & 31) as u32;
        // 64 does not fit six bits and is stored as 0, which is never needed for itself. So all but one bit is counted.
        let others = (((window >> 51) & 63) as u32).wrapping_sub(1) & 63;
        self.broken |= leading + others > 63;
        self.unused = 63 - others;
        self.trailing = 63u32.wrapping_sub(leading + others) & 63;
        13
    }
}

/// What becomes of floats that are stored as XOR, one behind the other.
pub(crate) trait XorStep {
    /// After the first value, which is stored raw.
    fn first(bits: u64) -> Self;

    /// Goes on by one value; see [`XorReading::advance_in`].
    fn step(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32);

    fn reading(&self) -> &XorReading;
}

impl XorStep for XorReading {
    #[inline(always)]
    fn first(bits: u64) -> Self {
        Self::starting(bits)
    }

    #[inline(always)]
    fn step(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32) {
        self.advance_in(reader, window, used);
    }

    #[inline(always)]
    fn reading(&self) -> &XorReading {
        self
    }
}

/// Leading and trailing zeros of the window in use: what an encoder has to know to go on behind a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XorWindow(u16);

impl XorWindow {
    /// Before the first value that differs from the one before.
    pub(crate) const NONE: Self = Self(u16::MAX);

    /// Both are less than 64; more leading zeros are those of no window.
    #[inline(always)]
    pub(crate) fn new(leading: u32, trailing: u32) -> Self {
        Self((leading << 8 | trailing) as u16)
    }

    /// Leading and trailing zeros, if there is a window.
    #[inline(always)]
    pub(crate) fn zeros(self) -> Option<(u32, u32)> {
        (self != Self::NONE).then_some((u32::from(self.0 >> 8), u32::from(self.0 & 0xff)))
    }
}

/// As [`XorReading`], and knows the window in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XorTracing {
    reading: XorReading,
    has_window: bool,
}

impl XorTracing {
    #[inline(always)]
    pub(crate) fn value(&self) -> f64 {
        self.reading.value()
    }

    #[inline(always)]
    pub(crate) fn window(&self) -> XorWindow {
        if !self.has_window {
            return XorWindow::NONE;
        }
        // Of a broken window nothing is used.
        let leading = self.reading.unused.wrapping_sub(self.reading.trailing) & 63;
        XorWindow::new(leading, self.reading.trailing)
    }
}

impl XorStep for XorTracing {
    #[inline(always)]
    fn first(bits: u64) -> Self {
        Self { reading: XorReading::starting(bits), has_window: false }
    }

    #[inline(always)]
    fn step(&mut self, reader: &mut BitReader<'_>, window: u64, used: u32) {
        self.has_window |= window >> 62 == 3;
        self.reading.advance_in(reader, window, used);
    }

    #[inline(always)]
    fn reading(&self) -> &XorReading {
        &self.reading
    }
}

/// The encoding state of a float that is stored as XOR with the value before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XorWriting {
    bits: u64,
    /// Leading and trailing zeros of the window in use, if there is one.
    window: Option<(u32, u32)>,
}

impl XorWriting {
    /// After the first value, which the caller stores raw.
    pub(crate) fn starting(value: f64) -> Self {
        Self { bits: value.to_bits(), window: None }
    }

    pub(crate) fn value(&self) -> f64 {
        f64::from_bits(self.bits)
    }

    pub(crate) fn append(&mut self, writer: &mut BitWriter, value: f64) {
        let difference = self.bits ^ value.to_bits();
        self.bits = value.to_bits();
        if difference == 0 {
            return writer.write_bit(false);
        }
        // Five bits hold the leading zeros.
        let leading = difference.leading_zeros().min(31);
        let trailing = difference.trailing_zeros();
        if let Some((window_leading, window_trailing)) = self.window
            && leading >= window_leading
            && trailing >= window_trailing
        {
            writer.write(0b10, 2);
            return writer.write(difference >> window_trailing, 64 - window_leading - window_trailing);
        }
        self.window = Some((leading, trailing));
        let significant = 64 - leading - trailing;
        writer.write(0b11, 2);
        writer.write(u64::from(leading), 5);
        writer.write(u64::from(significant), 6);
        writer.write(difference >> trailing, significant);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varbits_come_back_as_they_were_written(values in prop::collection::vec((any::<i64>(), 0u32..64), 0..40)) {
            let values: Vec<i64> = values.into_iter().map(|(value, shift)| value >> shift).collect();
            let mut writer = BitWriter::default();
            for value in &values {
                write_varbit_int(&mut writer, *value);
                write_varbit_uint(&mut writer, *value as u64);
            }
            let mut reader = BitReader::new(writer.bytes(), 0);
            for value in &values {
                prop_assert_eq!(read_varbit_int(&mut reader), *value);
                prop_assert_eq!(read_varbit_uint(&mut reader), *value as u64);
            }
            prop_assert!(reader.check("test").is_ok());
        }

        #[test]
        fn xored_floats_come_back_bit_by_bit(values in prop::collection::vec((any::<u64>(), 0u32..64, 0u32..64), 1..40)) {
            let values: Vec<u64> = values.into_iter().map(|(bits, left, right)| bits >> right << left).collect();
            let mut writer = BitWriter::default();
            let mut writing = XorWriting::starting(f64::from_bits(values[0]));
            for bits in &values[1..] {
                writing.append(&mut writer, f64::from_bits(*bits));
            }
            let mut reader = BitReader::new(writer.bytes(), 0);
            let mut reading = XorReading::starting(values[0]);
            for bits in &values[1..] {
                reading.advance(&mut reader);
                prop_assert_eq!(reading.value().to_bits(), *bits);
            }
            prop_assert!(!reading.broken && reader.check("test").is_ok());
        }
    }

    #[test]
    fn small_numbers_take_the_documented_sizes() {
        for (value, bits) in [
            (0, 1),
            (4, 5),
            (-3, 5),
            (5, 9),
            (-4, 9),
            (256, 13),
            (-255, 13),
            (2048, 17),
            (131_072, 24),
            (-131_072, 32),
        ] {
            let mut writer = BitWriter::default();
            write_varbit_int(&mut writer, value);
            let mut reader = BitReader::new(writer.bytes(), 0);
            assert_eq!(read_varbit_int(&mut reader), value);
            assert_eq!(reader.position_bits(), bits, "{value}");
        }
    }
}
