//! Values of number and duration tokens.

use parallax_model::parse_duration_ms;

use super::{ParseError, Parser};
use crate::lex::quoting::quote;
use crate::lex::{Token, TokenKind};

impl Parser<'_> {
    /// The value of a number, or of a duration in seconds.
    pub(super) fn number_or_duration(&self, token: Token<'_>) -> Result<f64, ParseError> {
        let value = if token.kind == TokenKind::Duration {
            duration_ms(token.text).map(|ms| ms as f64 / 1000.0)
        } else {
            number(token.text).map_err(|error| format!("error parsing number: {error}"))
        };
        value.map_err(|message| self.error(token.pos, message))
    }
}

/// The milliseconds of a duration literal. The longest duration is 2⁶³−1 nanoseconds.
fn duration_ms(text: &str) -> Result<i64, String> {
    match parse_duration_ms(text) {
        Some(ms) if ms <= i64::MAX / 1_000_000 => Ok(ms),
        Some(_) => Err("duration out of range".to_owned()),
        None if units_are_in_order(text) => Err("duration out of range".to_owned()),
        None => Err(format!("not a valid duration string: {}", quote(text))),
    }
}

/// Whether `text` would be a duration if its amounts were smaller.
fn units_are_in_order(text: &str) -> bool {
    let mut small = String::with_capacity(text.len());
    for c in text.chars() {
        if !c.is_ascii_digit() {
            small.push(c);
        } else if !small.ends_with('1') {
            small.push('1');
        }
    }
    parse_duration_ms(&small).is_some()
}

/// A number as Go's `ParseInt` with base 0 reads it, or else as its `ParseFloat` does.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    let fail = |reason: &str| Err(format!("strconv.ParseFloat: parsing {}: {reason}", quote(text)));
    if let Some(integer) = integer(text) {
        return Ok(integer as f64);
    }
    let lower = text.to_ascii_lowercase();
    match lower.as_str() {
        "inf" => return Ok(f64::INFINITY),
        "nan" => return Ok(f64::NAN),
        _ if !underscores_are_between_digits(text) => return fail("invalid syntax"),
        _ => {}
    }
    match lower.replace('_', "").parse::<f64>() {
        Ok(value) if value.is_infinite() => fail("value out of range"),
        Ok(value) => Ok(value),
        Err(_) => fail("invalid syntax"),
    }
}

/// Decimal, `0x` hexadecimal or `0` octal digits that fit 64 bits.
fn integer(text: &str) -> Option<i64> {
    if !underscores_are_between_digits(text) {
        return None;
    }
    let digits = text.replace('_', "");
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    match (hex, digits.strip_prefix('0')) {
        (Some(hex), _) => i64::from_str_radix(hex, 16).ok(),
        (None, Some(octal)) if !octal.is_empty() => i64::from_str_radix(octal, 8).ok(),
        _ => digits.parse().ok(),
    }
}

/// An underscore must stand between digits, or between the base prefix (a leading `0` counts) and a digit.
fn underscores_are_between_digits(text: &str) -> bool {
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
    fn numbers_read_as_go_reads_them() {
        for (text, value) in [
            ("1", 1.0),
            ("010", 8.0),
            ("08", 8.0),
            ("0x1F", 31.0),
            ("0X_1f", 31.0),
            ("1_000", 1000.0),
            ("1_0.5_0e1_0", 10.5e10),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e-3", 0.001),
            ("9223372036854775808", 9223372036854775808.0),
            ("Inf", f64::INFINITY),
        ] {
            assert_eq!(number(text), Ok(value), "{text}");
        }
        assert!(number("NaN").unwrap().is_nan());
        assert_eq!(number("1e999").unwrap_err(), "strconv.ParseFloat: parsing \"1e999\": value out of range");
        for bad in ["0.5.5", "1_", "_1", "1__0", "1_.5", "0xe+3", "1e"] {
            assert!(number(bad).unwrap_err().ends_with("invalid syntax"), "{bad}");
        }
    }

    #[test]
    fn durations_have_ordered_units_and_an_end() {
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(duration_ms("5m5m").unwrap_err(), "not a valid duration string: \"5m5m\"");
        assert_eq!(duration_ms("5hs").unwrap_err(), "not a valid duration string: \"5hs\"");
        assert_eq!(duration_ms("300y").unwrap_err(), "duration out of range");
        assert_eq!(duration_ms("99999999999999999999y").unwrap_err(), "duration out of range");
    }
}
