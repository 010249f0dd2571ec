//! The two special NaN bit patterns of Prometheus, and the one way in which Go writes floats otherwise than Rust.
//!
//! Source: Prometheus `model/value`. Both are quiet NaNs, so arithmetic keeps working; only the exact bits tell.

/// The NaN that says "this series ended here": a sample, but never a value of an answer.
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The NaN that a plain `NaN` value carries when it is written by Prometheus.
pub const NORMAL_NAN_BITS: u64 = 0x7ff8_0000_0000_0001;

/// The staleness marker as a value.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether `value` is the staleness marker (an ordinary NaN is not).
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Settles a tie in `text`, the shortest decimal of `value` as Rust writes it, as Go does: where two of the same length are equally
/// near, the one with an even last digit is taken. `text` may have a sign, a fraction and an exponent (`e-7`).
pub fn settle_tie_as_go(text: &mut [u8], value: f64) {
    let Some(exact_decimals) = exact_decimals(value) else { return };
    let mantissa_end = text.iter().position(|byte| *byte == b'e').unwrap_or(text.len());
    let (mantissa, exponent) = text.split_at(mantissa_end);
    let exponent = exponent.get(1..).and_then(|digits| std::str::from_utf8(digits).ok());
    let exponent: i64 = exponent.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let fraction = mantissa.iter().rev().position(|byte| *byte == b'.').unwrap_or(0);
    let decimals = i64::try_from(fraction).unwrap_or(0) - exponent;
    // The exact number then ends in a 5, just behind the last digit.
    if decimals != exact_decimals - 1 {
        return;
    }
    let exact = format!("{value:.*}", usize::try_from(exact_decimals).unwrap_or(0));
    let (Some(below), Some(at)) = (exact.bytes().rev().nth(1), mantissa_end.checked_sub(1)) else { return };
    let Some(last) = text.get(at).copied().filter(u8::is_ascii_digit) else { return };
    if last % 2 == 0 {
        return;
    }
    let even = if below == last { last + 1 } else { last - 1 };
    let mut other = text.to_vec();
    if let Some(slot) = other.get_mut(at) {
        *slot = even;
    }
    // Beside a power of two the other one may belong to the next number.
    if std::str::from_utf8(&other).ok().and_then(|other| other.parse().ok()) == Some(value) {
        text.copy_from_slice(&other);
    }
}

/// How many decimals it takes to write a number that is not whole exactly.
fn exact_decimals(value: f64) -> Option<i64> {
    const MANTISSA_BITS: u32 = 52;
    let bits = value.abs().to_bits();
    let exponent = i64::try_from(bits >> MANTISSA_BITS).ok()?;
    let mantissa = bits & ((1 << MANTISSA_BITS) - 1) | if exponent > 0 { 1 << MANTISSA_BITS } else { 0 };
    if mantissa == 0 || !value.is_finite() {
        return None;
    }
    let lowest_bit = exponent.max(1) - 1075 + i64::from(mantissa.trailing_zeros());
    (lowest_bit < 0).then_some(-lowest_bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_settled_as_in_go() {
        for (value, text) in [
            (1_413_080_760_490_521.0 + 0.25, "1413080760490521.2"),
            (1_413_080_760_490_521.0 + 0.75, "1413080760490521.8"),
            (-1_413_080_760_490_521.0 - 0.25, "-1413080760490521.2"),
            (1_413_080_760_490_520.0 + 0.75, "1413080760490520.8"),
            (1.0 + 2f64.powi(-17), "1.0000076293945312"),
            (1.0 + 3.0 * 2f64.powi(-17), "1.0000228881835938"),
            (0.5, "0.5"),
            (0.25, "0.25"),
            (1e21, "1000000000000000000000"),
            (f64::MIN_POSITIVE, "0.00000000000000000000000000000000000000000000000000"),
            (0.0, "0"),
            (0.1, "0.1"),
        ] {
            let mut written = format!("{value}").into_bytes();
            settle_tie_as_go(&mut written, value);
            let written = String::from_utf8(written).unwrap();
            assert!(written.starts_with(text), "{value}: {written}");
            assert_eq!(written.parse::<f64>().unwrap().to_bits(), value.to_bits());
        }
    }
}
