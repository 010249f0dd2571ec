//! Numbers as Prometheus prints them.
//!
//! Values are Go's shortest form that reads back the same (`strconv.FormatFloat(v, 'f' or 'e', -1, 64)`): with an
//! exponent only below 1e-6 and from 1e21 on, and in scalars never. Timestamps are seconds with up to three decimals.

use std::io::Write as _;

use parallax_model::float::settle_tie_as_go;

/// Appends `value` without quotes: `1.5`, `+Inf`, `1e+21`.
pub(super) fn write_float(output: &mut Vec<u8>, value: f64) {
    if let Some(whole) = as_small_whole(value) {
        write_whole(output, whole);
    } else if value.is_finite() && value != 0.0 && (value.abs() < 1e-6 || value.abs() >= 1e21) {
        write_with_exponent(output, value);
    } else {
        write_all_digits(output, value);
    }
}

/// Appends `value` without quotes and never with an exponent: how Prometheus writes scalars.
pub(super) fn write_all_digits(output: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        output.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        output.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else {
        // Writing to a Vec cannot fail.
        let start = output.len();
        let _ = write!(output, "{value}");
        settle_tie_as_go(output.get_mut(start..).unwrap_or_default(), value);
    }
}

/// Appends `value` and `end`, as one piece where that can be done: most values are whole and short.
#[inline]
pub(super) fn write_float_and(output: &mut Vec<u8>, value: f64, end: [u8; 3]) {
    match as_small_whole(value).and_then(Eight::new) {
        Some(digits) => digits.write_and(output, end),
        None => {
            write_float(output, value);
            output.extend_from_slice(&end);
        }
    }
}

/// The number, if it is whole, not negative and below 2^52: what counters hold.
#[inline]
fn as_small_whole(value: f64) -> Option<u64> {
    // The last bit of numbers from here on is worth 1: what is added to it is rounded to a whole number, and stands in the lower bits.
    const END: f64 = 4_503_599_627_370_496.0;
    // As bits, for those of what has a sign are larger, and so are those of NaN.
    if value.to_bits() >= END.to_bits() {
        return None;
    }
    let raised = value + END;
    (raised - END == value).then(|| raised.to_bits() - END.to_bits())
}

/// Appends a whole number in decimal.
fn write_whole(output: &mut Vec<u8>, number: u64) {
    match Eight::new(number) {
        Some(digits) => digits.write(output),
        None => {
            write_whole(output, number / Eight::END);
            output.extend_from_slice(&Eight::of(number % Eight::END).text().to_le_bytes());
        }
    }
}

/// The eight digits of a number, zeros in front: one in each byte, the first one in the lowest.
#[derive(Clone, Copy)]
struct Eight(u64);

impl Eight {
    const END: u64 = 100_000_000;

    /// `None` if it takes more than eight digits.
    #[inline]
    fn new(number: u64) -> Option<Self> {
        (number < Self::END).then(|| Self::of(number))
    }

    /// Of a number that is small enough: halves are parted in all parts at once, by a multiplication that is exact for numbers so small and a shift.
    #[inline]
    fn of(number: u64) -> Self {
        let fours = (number / 10_000) | ((number % 10_000) << 32);
        let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
        let twos = hundreds | ((fours - 100 * hundreds) << 16);
        let tens = ((twos * 103) >> 10) & 0xf_000f_000f_000f;
        Self(tens | ((twos - 10 * tens) << 8))
    }

    /// The digits as text, in the order of memory on a little-endian machine.
    #[inline]
    fn text(self) -> u64 {
        self.0 | u64::from_ne_bytes([b'0'; 8])
    }

    /// Zeros in front; the last digit is none.
    #[inline]
    fn leading_zeros(self) -> u32 {
        (self.0 | 1 << 63).trailing_zeros() / 8
    }

    /// Appends the number. All eight bytes, for that is one move, and then those that are too many go.
    #[inline]
    fn write(self, output: &mut Vec<u8>) {
        let zeros = self.leading_zeros();
        let end = output.len() + (8 - zeros) as usize;
        output.extend_from_slice(&(self.text() >> (8 * zeros)).to_le_bytes());
        output.truncate(end);
    }

    /// Appends the number and `tail`, in the same way.
    #[inline]
    fn write_and(self, output: &mut Vec<u8>, [a, b, c]: [u8; 3]) {
        let zeros = self.leading_zeros();
        let end = output.len() + (11 - zeros) as usize;
        let tail = u128::from(u32::from_le_bytes([a, b, c, 0])) << 64;
        output.extend_from_slice(&((tail | u128::from(self.text())) >> (8 * zeros)).to_le_bytes());
        output.truncate(end);
    }
}

/// Rust writes `1e-7` where Go writes `1e-07`: a sign and two digits at least.
fn write_with_exponent(output: &mut Vec<u8>, value: f64) {
    let mut text = format!("{value:e}").into_bytes();
    settle_tie_as_go(&mut text, value);
    let text = String::from_utf8_lossy(&text);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    let _ = write!(output, "{mantissa}e{sign}{digits:0>2}");
}

/// Appends milliseconds as seconds: `1782870000`, `-0.5`, `1.25`.
pub(super) fn write_seconds(output: &mut Vec<u8>, time_ms: i64) {
    if time_ms < 0 {
        output.push(b'-');
    }
    let magnitude = time_ms.unsigned_abs();
    let (seconds, millis) = (magnitude / 1000, magnitude % 1000);
    write_whole(output, seconds);
    if millis != 0 {
        let [.., hundreds, tens, ones] = Eight::of(millis).text().to_le_bytes();
        output.extend_from_slice(&[b'.', hundreds, tens, ones]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn float(value: f64) -> String {
        let mut output = Vec::new();
        write_float(&mut output, value);
        String::from_utf8(output).unwrap()
    }

    fn seconds(time_ms: i64) -> String {
        let mut output = Vec::new();
        write_seconds(&mut output, time_ms);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn floats_print_as_in_go() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (100.0, "100"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (123_456_789_012_345_680_000.0, "123456789012345680000"),
            (1e-6, "0.000001"),
            (9.5e-7, "9.5e-07"),
            (8.675853104654784e-7, "8.675853104654784e-07"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::from_bits(1), "5e-324"),
            (-1.5e-10, "-1.5e-10"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
            (1416.0999999999985, "1416.0999999999985"),
            (1_413_080_760_490_521.0 + 0.25, "1413080760490521.2"),
            (7.0, "7"),
            (10.0, "10"),
            (99.0, "99"),
            (101.0, "101"),
            (1_000_200.0, "1000200"),
            (-12.0, "-12"),
            (99_999_999.0, "99999999"),
            (100_000_000.0, "100000000"),
            (1_000_000_007.0, "1000000007"),
            (4_503_599_627_370_495.0, "4503599627370495"),
            (4_503_599_627_370_495.5, "4503599627370495.5"),
            (4_503_599_627_370_496.0, "4503599627370496"),
            (0.5, "0.5"),
            (1_000_000.000_000_1, "1000000.0000001"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (9_007_199_254_740_992.0, "9007199254740992"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn scalars_print_all_digits() {
        for (value, text) in [
            (0.0, "0".to_owned()),
            (-0.0, "-0".to_owned()),
            (1.5, "1.5".to_owned()),
            (1e21, format!("1{}", "0".repeat(21))),
            (-1.25e300, format!("-125{}", "0".repeat(298))),
            (9.99e-7, "0.000000999".to_owned()),
            (f64::from_bits(1), format!("0.{}5", "0".repeat(323))),
            (f64::INFINITY, "+Inf".to_owned()),
            (f64::NEG_INFINITY, "-Inf".to_owned()),
            (f64::NAN, "NaN".to_owned()),
        ] {
            let mut output = Vec::new();
            write_all_digits(&mut output, value);
            assert_eq!(String::from_utf8(output).unwrap(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_printed_float_reads_back_the_same(bits in proptest::num::u64::ANY) {
            let value = f64::from_bits(bits);
            let back: f64 = float(value).parse().unwrap();
            proptest::prop_assert!(back.to_bits() == bits || (back.is_nan() && value.is_nan()));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_follows_a_float_stands_behind_it(bits in proptest::num::u64::ANY, whole in 0u64..1 << 54, digits in 0u32..17) {
            for value in [f64::from_bits(bits), whole as f64, (whole % 10u64.pow(digits)) as f64, -(whole as f64)] {
                let mut output = b"x".to_vec();
                write_float_and(&mut output, value, *b"\"],");
                proptest::prop_assert_eq!(String::from_utf8(output).unwrap(), format!("x{}\"],", float(value)));
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn whole_numbers_have_their_digits(number in proptest::num::u64::ANY, digits in 0u32..20) {
            for number in [number, number % 10u64.pow(digits), 10u64.pow(digits), 10u64.pow(digits) - 1] {
                let mut output = b"x".to_vec();
                write_whole(&mut output, number);
                proptest::prop_assert_eq!(String::from_utf8(output).unwrap(), format!("x{number}"));
            }
        }
    }

    #[test]
    fn timestamps_print_as_in_prometheus() {
        for (time_ms, text) in [
            (0, "0"),
            (1_782_870_000_000, "1782870000"),
            (1_435_781_451_781, "1435781451.781"),
            (1_005, "1.005"),
            (1_050, "1.050"),
            (1_500, "1.500"),
            (-1, "-0.001"),
            (-1_500, "-1.500"),
            (i64::MIN, "-9223372036854775.808"),
        ] {
            assert_eq!(seconds(time_ms), text);
        }
    }
}
