//! Numbers as Prometheus prints them.
//!
//! Values are Go's shortest form that reads back the same (`strconv.FormatFloat(v, 'f' or 'e', -1, 64)`): with an
//! exponent only below 1e-6 and from 1e21 on. Timestamps are seconds with up to three decimals.

use std::io::Write as _;

use parallax_model::float::settle_tie_as_go;

/// Appends `value` without quotes: `1.5`, `+Inf`, `1e+21`.
pub(super) fn write_float(output: &mut Vec<u8>, value: f64) {
    if let Some(whole) = as_small_whole(value) {
        write_whole(output, whole);
    } else if value.is_nan() {
        output.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        output.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    } else if value != 0.0 && (value.abs() < 1e-6 || value.abs() >= 1e21) {
        write_with_exponent(output, value);
    } else {
        // Writing to a Vec cannot fail.
        let start = output.len();
        let _ = write!(output, "{value}");
        settle_tie_as_go(output.get_mut(start..).unwrap_or_default(), value);
    }
}

/// The number, if it is whole, not negative and below 2^53: what counters hold.
fn as_small_whole(value: f64) -> Option<u64> {
    const END: f64 = 9_007_199_254_740_992.0;
    // Not for -0, which has a sign to show.
    let is_small = value.is_sign_positive() && value < END;
    let whole = value as u64;
    (is_small && whole as f64 == value).then_some(whole)
}

/// Two digits each, from `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Appends a whole number in decimal.
fn write_whole(output: &mut Vec<u8>, number: u64) {
    const EIGHT_DIGITS: u64 = 100_000_000;
    let (above, below) = (number / EIGHT_DIGITS, eight_digits((number % EIGHT_DIGITS) as u32));
    if above > 0 {
        write_whole(output, above);
        output.extend_from_slice(&below);
        return;
    }
    // Moved up over the zeros in front: eight bytes are appended faster than as many as there are.
    let word = u64::from_be_bytes(below);
    let zeros = (word ^ u64::from_be_bytes([b'0'; 8])).leading_zeros().min(63) / 8;
    output.extend_from_slice(&(word << (8 * zeros)).to_be_bytes());
    output.truncate(output.len() - zeros as usize);
}

/// The digits of a number below 10^8, zeros in front.
fn eight_digits(number: u32) -> [u8; 8] {
    let (high, low) = (number / 10_000, number % 10_000);
    let [a, b] = PAIRS[(high / 100) as usize];
    let [c, d] = PAIRS[(high % 100) as usize];
    let [e, f] = PAIRS[(low / 100) as usize];
    let [g, h] = PAIRS[(low % 100) as usize];
    [a, b, c, d, e, f, g, h]
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
        let [tens, ones] = PAIRS[(millis % 100) as usize];
        output.extend_from_slice(&[b'.', b'0' + (millis / 100) as u8, tens, ones]);
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
            (9_007_199_254_740_991.0, "9007199254740991"),
            (9_007_199_254_740_992.0, "9007199254740992"),
        ] {
            assert_eq!(float(value), text);
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
