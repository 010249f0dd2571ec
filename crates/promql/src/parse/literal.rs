//! Values of number and duration tokens.

use super::float::{float, underscores_are_between_digits};
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

/// Units of durations, from large to small, and their milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// The longest duration is 2⁶³−1 nanoseconds.
const MAX_DURATION_MS: u64 = i64::MAX.unsigned_abs() / 1_000_000;

/// The milliseconds of a duration literal. (The model's reader knows no messages.)
fn duration_ms(text: &str) -> Result<u64, String> {
    let invalid = || format!("not a valid duration string: {}", quote(text));
    let out_of_range = || "duration out of range".to_owned();
    let (mut rest, mut total_ms, mut units_left) = (text, 0u64, &UNITS[..]);
    while !rest.is_empty() {
        let (amount, tail) = split_while(rest, |c| c.is_ascii_digit());
        let amount: u64 = amount.parse().map_err(|_| invalid())?;
        let (unit, tail) = split_while(tail, |c| !c.is_ascii_digit());
        let Some(position) = units_left.iter().position(|(name, _)| *name == unit) else {
            let is_known = unit.is_empty() || UNITS.iter().any(|(name, _)| *name == unit);
            let unknown = format!("unknown unit {} in duration {}", quote(unit), quote(text));
            return Err(if is_known { invalid() } else { unknown });
        };
        let (found, after) = units_left.split_at(position + 1);
        let unit_ms = found.last().map_or(0, |(_, unit_ms)| *unit_ms);
        total_ms = amount
            .checked_mul(unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .filter(|ms| *ms <= MAX_DURATION_MS)
            .ok_or_else(out_of_range)?;
        (rest, units_left) = (tail, after);
    }
    Ok(total_ms)
}

fn split_while(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.len() - text.trim_start_matches(belongs).len())
}

/// A number as Go's `ParseInt` with base 0 reads it, or else as its `ParseFloat` does.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    if let Some(integer) = integer(text) {
        return Ok(integer as f64);
    }
    float(text).map_err(|reason| format!("strconv.ParseFloat: parsing {}: {reason}", quote(text)))
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
        assert_eq!(duration_ms("5hs").unwrap_err(), "unknown unit \"hs\" in duration \"5hs\"");
        assert_eq!(duration_ms("300y").unwrap_err(), "duration out of range");
        assert_eq!(duration_ms("9999999999999999y").unwrap_err(), "duration out of range");
    }
}
