//! The notation that describes a series and its samples: `name{a="b"} 1+2x5 _x3 stale {{schema:1 sum:2}}x4`.
//!
//! Scripts load series with it and state what they expect. Source: Prometheus' documentation of rule unit tests
//! ("series") and the grammar's series descriptions. What one description can expand to is bounded by
//! [`MAX_VALUES`].

mod histogram;

use std::sync::Arc;

use parallax_model::float::stale_nan;
use parallax_model::{FloatHistogram, Labels};

use crate::ast::PosRange;
use crate::lex::quoting::quote;
use crate::lex::{is_alpha, is_space};
use crate::parse::{ParseError, number, parse_labels};

/// A description may not stand for more values than this.
pub const MAX_VALUES: usize = 1_000_000;

/// A series and its values, one for each step of whatever uses it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesDescription {
    pub labels: Labels,
    pub values: Vec<SequenceValue>,
}

/// What a series holds at one step.
#[derive(Clone, Debug, PartialEq)]
pub enum SequenceValue {
    /// `_`: nothing.
    Omitted,
    /// A number, or the staleness marker.
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// Reads one description.
///
/// # Errors
/// The first thing that does not fit the notation, with its place.
pub fn parse_series(text: &str) -> Result<SeriesDescription, ParseError> {
    let (labels, at) = parse_labels(text)?;
    let mut reader = Reader { text, at };
    let mut values = Vec::new();
    loop {
        let blanks = reader.skip_while(is_space);
        if reader.rest().is_empty() {
            return Ok(SeriesDescription { labels, values });
        }
        if blanks == 0 {
            return Err(reader.unexpected("series values"));
        }
        reader.item(&mut values)?;
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, prefix: &str) -> bool {
        let found = self.rest().starts_with(prefix);
        if found {
            self.at += prefix.len();
        }
        found
    }

    /// Skips characters and returns how many bytes they took.
    fn skip_while(&mut self, skipped: impl Fn(char) -> bool) -> usize {
        let rest = self.rest();
        let length = rest.len() - rest.trim_start_matches(skipped).len();
        self.at += length;
        length
    }

    fn take_while(&mut self, taken: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = self.skip_while(taken);
        rest.get(..length).unwrap_or("")
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        let pos = PosRange { start: self.at, end: self.text.len() };
        ParseError::new(self.text, pos, message)
    }

    fn unexpected(&self, context: &str) -> ParseError {
        match self.peek() {
            None => self.error(format!("unexpected end of input in {context}")),
            Some(c) => self.error(format!("unexpected {} in {context}", quote(&c.to_string()))),
        }
    }

    /// One item, with its repetition: `5`, `_x3`, `1+2x5`, `{{…}}-{{…}}x2`.
    fn item(&mut self, values: &mut Vec<SequenceValue>) -> Result<(), ParseError> {
        match self.peek() {
            Some('_') => {
                self.at += 1;
                let count = self.repetition()?.unwrap_or(1);
                self.repeat(values, count, |_| Ok(SequenceValue::Omitted))
            }
            Some('{') => self.histogram_item(values),
            _ => self.float_item(values),
        }
    }

    fn float_item(&mut self, values: &mut Vec<SequenceValue>) -> Result<(), ParseError> {
        let start = match self.peek().filter(|c| is_alpha(*c)) {
            Some(_) if self.rest().split(is_space).next() == Some("stale") => {
                self.at += "stale".len();
                stale_nan()
            }
            _ => self.signed_number()?,
        };
        let delta = match self.peek() {
            Some('+' | '-') => self.signed_number()?,
            _ => {
                // `5x3` is a value and three repetitions.
                let count = self.repetition()?.map_or(1, |times| times.saturating_add(1));
                return self.repeat(values, count, |_| Ok(SequenceValue::Float(start)));
            }
        };
        let Some(times) = self.repetition()? else { return Err(self.unexpected("series values")) };
        let mut value = start;
        self.repeat(values, times.saturating_add(1), |index| {
            if index > 0 {
                value += delta;
            }
            Ok(SequenceValue::Float(value))
        })
    }

    fn histogram_item(&mut self, values: &mut Vec<SequenceValue>) -> Result<(), ParseError> {
        let start = self.histogram()?;
        let adds = match self.peek() {
            Some('+') => true,
            Some('-') => false,
            _ => {
                let start = Arc::new(start);
                let count = self.repetition()?.map_or(1, |times| times.saturating_add(1));
                return self.repeat(values, count, |_| Ok(SequenceValue::Histogram(start.clone())));
            }
        };
        self.at += 1;
        let delta = self.histogram()?;
        let Some(times) = self.repetition()? else { return Err(self.unexpected("series values")) };
        let mut value = start;
        self.repeat(values, times.saturating_add(1), |index| {
            if index > 0 {
                if value.schema > delta.schema {
                    let (from, to) = (delta.schema, value.schema);
                    return Err(format!(
                        "error combining histograms: cannot merge from schema {from} to {to}"
                    ));
                }
                let combined = if adds { value.add(&delta) } else { value.sub(&delta) };
                combined.map_err(|error| error.to_string())?;
            }
            Ok(SequenceValue::Histogram(Arc::new(value.clone())))
        })
    }

    fn repeat(
        &self,
        values: &mut Vec<SequenceValue>,
        count: usize,
        mut value_at: impl FnMut(usize) -> Result<SequenceValue, String>,
    ) -> Result<(), ParseError> {
        if count > MAX_VALUES.saturating_sub(values.len()) {
            return Err(self.error(format!("a series of more than {MAX_VALUES} values")));
        }
        for index in 0..count {
            values.push(value_at(index).map_err(|message| self.error(message))?);
        }
        Ok(())
    }

    /// `x5`, if there is one.
    fn repetition(&mut self) -> Result<Option<usize>, ParseError> {
        if !self.take("x") {
            return Ok(None);
        }
        let digits = self.take_while(|c| c.is_ascii_digit());
        digits.parse().map(Some).map_err(|_| {
            self.error(format!("invalid repetition in series values: {} is no count", quote(digits)))
        })
    }

    fn signed_number(&mut self) -> Result<f64, ParseError> {
        let negate = self.take("-");
        if !negate {
            self.take("+");
        }
        let value = self.unsigned_number()?;
        Ok(if negate { -value } else { value })
    }

    /// Decimal digits with dot, exponent and underscores, or `Inf` or `NaN`.
    fn unsigned_number(&mut self) -> Result<f64, ParseError> {
        let begin = self.at;
        if self.peek().is_some_and(is_alpha) {
            self.skip_while(is_alpha);
        } else {
            loop {
                let length = self.skip_while(|c| c.is_ascii_digit() || matches!(c, '.' | '_'));
                let in_exponent = matches!(self.peek(), Some('e' | 'E'));
                if !in_exponent {
                    break;
                }
                self.at += 1;
                self.skip_while(|c| matches!(c, '+' | '-'));
                if length == 0 {
                    break;
                }
            }
        }
        let text = self.text.get(begin..self.at).unwrap_or("");
        if text.is_empty() {
            return Err(self.unexpected("series values"));
        }
        number(text).map_err(|reason| {
            let pos = PosRange { start: begin, end: self.at };
            ParseError::new(self.text, pos, format!("error parsing number: {reason}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(text: &str) -> Vec<f64> {
        let series = parse_series(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        series
            .values
            .iter()
            .map(|value| match value {
                SequenceValue::Float(value) => *value,
                SequenceValue::Omitted => -99.0,
                SequenceValue::Histogram(_) => panic!("a histogram in {text}"),
            })
            .collect()
    }

    #[test]
    fn values_repeat_and_grow() {
        assert_eq!(
            floats("m 1 2+3x2 _ -4x1 5-1x2 _x2"),
            [1.0, 2.0, 5.0, 8.0, -99.0, -4.0, -4.0, 5.0, 4.0, 3.0, -99.0, -99.0]
        );
        assert_eq!(
            floats("m 1e3 .5 1.5e-1+1x1 +Inf -inf"),
            [1000.0, 0.5, 0.15, 1.15, f64::INFINITY, f64::NEG_INFINITY]
        );
        assert!(floats("m NaN")[0].is_nan());
        assert_eq!(floats("m  0x2"), [0.0, 0.0, 0.0]);
        assert_eq!(floats("m stale")[0].to_bits(), stale_nan().to_bits());
        assert_eq!(floats("m"), [] as [f64; 0]);
    }

    #[test]
    fn labels_may_stand_before_around_or_nowhere() {
        for (text, labels) in [
            ("m 1", r#"{__name__="m"}"#),
            (r#"m{a="b"} 1"#, r#"{__name__="m", a="b"}"#),
            (r#"{a="b",} 1"#, r#"{a="b"}"#),
            (r#"{"m.n", "l.x"='y'} 1"#, r#"{__name__="m.n", l.x="y"}"#),
            ("{} 1", "{}"),
            ("sum 1", r#"{__name__="sum"}"#),
        ] {
            let found = parse_series(text).unwrap().labels;
            let pairs: Vec<String> = found.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            assert_eq!(format!("{{{}}}", pairs.join(", ")), labels, "{text}");
        }
    }

    #[test]
    fn histograms_repeat_and_grow() {
        let text = "m {{schema:1 sum:3 count:6 buckets:[1 2 3] offset:2}}+{{schema:1 sum:1 count:1 buckets:[1] offset:2}}x2";
        let series = parse_series(text).unwrap();
        let sums: Vec<f64> = series
            .values
            .iter()
            .map(|value| match value {
                SequenceValue::Histogram(histogram) => histogram.sum,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(sums, [3.0, 4.0, 5.0]);
        assert_eq!(parse_series("m {{}}x3 {{sum:1}}").unwrap().values.len(), 5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for bad in [
            "m 1+2",
            "m 1x",
            "m 1x2x3",
            "m x",
            "m 1 stalex2",
            "m {{",
            "m {{schema:1",
            "m {{schema}}",
            "m {{bogus:1}}",
            "m {{sum:1 sum:2}}",
            "m {{buckets:[1 2}}",
            "m {{}}+{{}}",
            "m 1x99999999",
            "m{a=} 1",
            "m{a=\"b\"}1",
            "5 1",
            "",
        ] {
            assert!(parse_series(bad).is_err(), "{bad}");
        }
    }
}
