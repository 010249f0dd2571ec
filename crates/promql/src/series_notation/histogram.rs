//! Histogram literals: `{{schema:1 sum:5 count:4 z_bucket:1 z_bucket_w:0.01 buckets:[1 2] offset:1 n_buckets:[1]}}`.

use parallax_model::{CounterResetHint, FloatHistogram, Span};

use super::Reader;
use crate::lex::quoting::quote;
use crate::lex::{is_alpha, is_space};
use crate::parse::ParseError;

const CONTEXT: &str = "histogram description";

/// A literal may not list more buckets than this.
const MAX_BUCKETS: usize = 10_000;

impl Reader<'_> {
    pub(super) fn histogram(&mut self) -> Result<FloatHistogram, ParseError> {
        if !self.take("{{") {
            return Err(self.unexpected("series values"));
        }
        let mut histogram = FloatHistogram::default();
        let (mut offset, mut negative_offset) = (0, 0);
        let mut seen: Vec<&str> = Vec::new();
        loop {
            self.skip_while(is_space);
            if self.take("}}") {
                break;
            }
            let key = self.take_while(is_alpha);
            if key.is_empty() {
                return Err(self.unexpected(CONTEXT));
            }
            if seen.contains(&key) {
                return Err(self.error(format!("duplicate key {} in histogram", quote(key))));
            }
            seen.push(key);
            if !self.take(":") {
                return Err(self.error("missing `:` for histogram descriptor"));
            }
            match key {
                "schema" => histogram.schema = self.integer()?,
                "sum" => histogram.sum = self.signed_number()?,
                "count" => histogram.count = self.signed_number()?,
                "z_bucket" => histogram.zero_count = self.signed_number()?,
                "z_bucket_w" => histogram.zero_threshold = self.signed_number()?,
                "custom_values" => histogram.custom_values = self.list()?.into(),
                "buckets" => histogram.positive_buckets = self.list()?,
                "n_buckets" => histogram.negative_buckets = self.list()?,
                "offset" => offset = self.integer()?,
                "n_offset" => negative_offset = self.integer()?,
                "counter_reset_hint" => histogram.counter_reset_hint = self.hint()?,
                _ => return Err(self.error(format!("bad histogram descriptor found: {}", quote(key)))),
            }
        }
        histogram.positive_spans = one_span(offset, histogram.positive_buckets.len());
        histogram.negative_spans = one_span(negative_offset, histogram.negative_buckets.len());
        Ok(histogram)
    }

    fn integer(&mut self) -> Result<i32, ParseError> {
        let sign = if self.take("-") { "-" } else { "" };
        let digits = self.take_while(|c| c.is_ascii_digit());
        format!("{sign}{digits}").parse().map_err(|_| self.unexpected(CONTEXT))
    }

    /// `[1 2 3]`
    fn list(&mut self) -> Result<Vec<f64>, ParseError> {
        if !self.take("[") {
            return Err(self.unexpected(CONTEXT));
        }
        let mut numbers = Vec::new();
        loop {
            self.skip_while(is_space);
            if self.take("]") {
                return Ok(numbers);
            }
            if numbers.len() >= MAX_BUCKETS {
                return Err(self.error(format!("a histogram of more than {MAX_BUCKETS} buckets")));
            }
            numbers.push(self.signed_number()?);
        }
    }

    fn hint(&mut self) -> Result<CounterResetHint, ParseError> {
        match self.take_while(is_alpha) {
            "unknown" => Ok(CounterResetHint::Unknown),
            "reset" => Ok(CounterResetHint::Reset),
            "not_reset" => Ok(CounterResetHint::NotReset),
            "gauge" => Ok(CounterResetHint::Gauge),
            other => Err(self.error(format!("bad histogram descriptor found: {}", quote(other)))),
        }
    }
}

fn one_span(offset: i32, length: usize) -> Vec<Span> {
    match u32::try_from(length) {
        Ok(length @ 1..) => vec![Span { offset, length }],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FloatHistogram, ParseError> {
        Reader { text, at: 0 }.histogram()
    }

    #[test]
    fn every_key_is_read() {
        let histogram = read(
            "{{schema:-1 sum:-1.5 count:9 z_bucket:2 z_bucket_w:0.5 buckets:[1 2 NaN] offset:-3 n_buckets:[ 4 ] n_offset:2 counter_reset_hint:gauge}}",
        )
        .unwrap();
        assert_eq!((histogram.schema, histogram.sum, histogram.count), (-1, -1.5, 9.0));
        assert_eq!((histogram.zero_count, histogram.zero_threshold), (2.0, 0.5));
        assert_eq!(histogram.positive_spans, [Span { offset: -3, length: 3 }]);
        assert_eq!(histogram.negative_spans, [Span { offset: 2, length: 1 }]);
        assert_eq!(histogram.negative_buckets, [4.0]);
        assert!(histogram.positive_buckets[2].is_nan());
        assert_eq!(histogram.counter_reset_hint, CounterResetHint::Gauge);
    }

    #[test]
    fn custom_buckets_have_bounds() {
        let histogram = read("{{schema:-53 custom_values:[1 2.5 +Inf] buckets:[1 0 2]}}").unwrap();
        assert!(histogram.uses_custom_buckets());
        assert_eq!(histogram.custom_values[..], [1.0, 2.5, f64::INFINITY]);
        assert_eq!(read("{{}}").unwrap(), FloatHistogram::default());
        assert_eq!(read("{{ }}").unwrap(), FloatHistogram::default());
    }
}
