//! Floats as Go's `strconv.ParseFloat` reads them: decimal or hexadecimal, with underscores between digits.

/// Why a text is no float, in Go's words.
const INVALID: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

/// The float that `text` says.
///
/// # Errors
/// If it says none, or one that is too large.
pub(crate) fn float(text: &str) -> Result<f64, &'static str> {
    let (is_negative, number) = match text.as_bytes().first() {
        Some(b'-') => (true, text.get(1..).unwrap_or_default()),
        Some(b'+') => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let is = |name: &str| number.eq_ignore_ascii_case(name);
    let size = if is("inf") || is("infinity") {
        f64::INFINITY
    } else if is("nan") && number.len() == text.len() {
        f64::NAN
    } else if !underscores_are_between_digits(number) {
        return Err(INVALID);
    } else {
        let number = number.replace('_', "").to_ascii_lowercase();
        match number.strip_prefix("0x") {
            Some(number) => hexadecimal(number)?,
            None => decimal(&number)?,
        }
    };
    Ok(if is_negative { -size } else { size })
}

/// Without sign.
fn decimal(number: &str) -> Result<f64, &'static str> {
    // Rust knows names, too.
    if !number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Err(INVALID);
    }
    match number.parse::<f64>() {
        Ok(value) if value.is_infinite() => Err(OUT_OF_RANGE),
        Ok(value) => Ok(value),
        Err(_) => Err(INVALID),
    }
}

/// What stands behind `0x`: digits, and a power of two in decimal.
fn hexadecimal(number: &str) -> Result<f64, &'static str> {
    let (digits, power) = number.split_once('p').ok_or(INVALID)?;
    let (is_small, power) = match power.strip_prefix('-') {
        Some(power) => (true, power),
        None => (false, power.strip_prefix('+').unwrap_or(power)),
    };
    if power.is_empty() || !power.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(INVALID);
    }
    // As in Go, for more than that no number of digits makes up.
    let power = power
        .bytes()
        .fold(0, |power, digit| if power < 10_000 { power * 10 + i64::from(digit - b'0') } else { power });
    let mut exponent = if is_small { -power } else { power };
    let (mut mantissa, mut is_fraction, mut digit_count) = (0u64, false, 0);
    for c in digits.chars() {
        if c == '.' && !is_fraction {
            is_fraction = true;
            continue;
        }
        let digit = u64::from(c.to_digit(16).ok_or(INVALID)?);
        digit_count += 1;
        let has_room = mantissa >> 60 == 0;
        // Of the digits without room it matters only whether there are any: that settles ties.
        mantissa = if has_room { (mantissa << 4) | digit } else { mantissa | u64::from(digit != 0) };
        exponent += match (has_room, is_fraction) {
            (true, true) => -4,
            (false, false) => 4,
            _ => 0,
        };
    }
    if digit_count == 0 { Err(INVALID) } else { scaled(mantissa, exponent) }
}

/// The float that is nearest to `mantissa * 2^exponent`, the even one of two.
fn scaled(mantissa: u64, exponent: i64) -> Result<f64, &'static str> {
    if mantissa == 0 {
        return Ok(0.0);
    }
    let bits = i64::from(u64::BITS - mantissa.leading_zeros());
    // The power of two of the first bit; the last bit of any float is worth 2^-1074 at least.
    let first = exponent + bits - 1;
    if first > 1023 {
        return Err(OUT_OF_RANGE);
    }
    if first < -1075 {
        return Ok(0.0);
    }
    let dropped = (bits - 53).max(-1074 - exponent).max(0);
    // Wide enough for all bits to be dropped, and one more.
    let (wide, unit) = (u128::from(mantissa), 1u128 << dropped);
    let (kept, rest) = (wide / unit, wide % unit);
    let rounds_up = rest * 2 > unit || (rest * 2 == unit && kept % 2 == 1);
    let kept = kept + u128::from(rounds_up);
    // Both factors are exact, and so is the product.
    let value = kept as f64 * power_of_two(exponent + dropped);
    if value.is_infinite() { Err(OUT_OF_RANGE) } else { Ok(value) }
}

/// 2 to the power of −1074 to 1023.
fn power_of_two(exponent: i64) -> f64 {
    let bits = if exponent < -1022 { 1 << (exponent + 1074).clamp(0, 51) } else { (exponent + 1023) << 52 };
    f64::from_bits(bits.cast_unsigned())
}

/// An underscore must stand between digits, or between the base prefix (a leading `0` counts) and a digit.
pub(super) fn underscores_are_between_digits(text: &str) -> bool {
    let hex = text.starts_with("0x") || text.starts_with("0X");
    let is_digit = |byte: u8| if hex { byte.is_ascii_hexdigit() } else { byte.is_ascii_digit() };
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(i, _)| {
        let before = i.checked_sub(1).and_then(|i| bytes.get(i).copied());
        let after = bytes.get(i + 1).copied();
        let behind_prefix = hex && i == 2;
        (behind_prefix || before.is_some_and(is_digit)) && after.is_some_and(is_digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_as_go_reads_them() {
        // All of this is what Go says.
        for (text, bits) in [
            ("0x1p-2", 0x3fd0_0000_0000_0000),
            ("0X1.8P1", 0x4008_0000_0000_0000),
            ("0x_1p0", 0x3ff0_0000_0000_0000),
            ("0x1_0p0", 0x4030_0000_0000_0000),
            ("0x.8p0", 0x3fe0_0000_0000_0000),
            ("0x8.p0", 0x4020_0000_0000_0000),
            ("+0x1p4", 0x4030_0000_0000_0000),
            ("-0x1p4", 0xc030_0000_0000_0000),
            ("0x1p1_0", 0x4090_0000_0000_0000),
            ("-0x0p0", 0x8000_0000_0000_0000),
            ("0x0p99999999999", 0),
            ("0x1p-1080", 0),
            ("0x1p-1075", 0),
            ("0x0.00000000000001p-1022", 0),
            ("0x1.8p-1075", 1),
            ("0x1p-1074", 1),
            ("0x3p-1075", 2),
            ("0x1.000000000000080000000001p0", 0x3ff0_0000_0000_0001),
            ("0x1.00000000000008p0", 0x3ff0_0000_0000_0000),
            ("0x1.00000000000018p0", 0x3ff0_0000_0000_0002),
            ("0x1.fffffffffffff7p1023", 0x7fef_ffff_ffff_ffff),
            ("0x1234567890123456789abcdefp-20", 0x44b2_3456_7890_1234),
            ("1_000", 0x408f_4000_0000_0000),
            ("1_0.5", 0x4025_0000_0000_0000),
            ("1e5_0", 0x4a51_1b0e_c57e_649a),
            ("1.", 0x3ff0_0000_0000_0000),
            (".5", 0x3fe0_0000_0000_0000),
            ("+1", 0x3ff0_0000_0000_0000),
            ("-0", 0x8000_0000_0000_0000),
            ("1e-400", 0),
            ("0e99999999999", 0),
            ("inf", 0x7ff0_0000_0000_0000),
            ("+Infinity", 0x7ff0_0000_0000_0000),
            ("-INF", 0xfff0_0000_0000_0000),
        ] {
            assert_eq!(float(text).map(f64::to_bits), Ok(bits), "{text}");
        }
        assert!(float("nan").unwrap().is_nan() && float("NaN").unwrap().is_nan());
        for text in ["1e400", "-1e400", "1e99999999999", "0x1p1024", "0x1.fffffffffffff8p1023"] {
            assert_eq!(float(text), Err(OUT_OF_RANGE), "{text}");
        }
        for text in [
            "",
            ".",
            "+",
            "--1",
            "+-1",
            " 1",
            "1 ",
            "1f",
            "1e",
            "1e+",
            "1p5",
            "+nan",
            "-NaN",
            "infin",
            "-infinit",
            "0x",
            "0x10",
            "0x1.8",
            "0x1e5",
            "0xp0",
            "0x.p0",
            "0x1.1.1p0",
            "0x1p",
            "0x1p+",
            "0x1p_1",
            "0x1_p1",
            "0x_p1",
            "_0x1p1",
            "0x1__0p0",
            "0x+1p0",
            "0b1p0",
            "٣",
        ] {
            assert_eq!(float(text), Err(INVALID), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hexadecimal_floats_are_those_of_their_digits(mantissa in 0u64..1 << 53, exponent in -1074i64..971) {
            // Exact, so that the sum over the digits is no rounding's business.
            let wanted = mantissa as f64 * power_of_two(exponent);
            proptest::prop_assert_eq!(float(&format!("0x{mantissa:x}p{exponent}")), Ok(wanted));
            let (shifted, digits) = (exponent + 4 * 14, format!("{mantissa:014x}"));
            proptest::prop_assert_eq!(float(&format!("0X0.{digits}P{shifted:+}")), Ok(wanted));
        }
    }
}
