//! Histograms as text, the way Prometheus prints them: `{count:3, sum:5.5, (1,2]:3}`.

use std::fmt;

use super::Bucket;
use crate::FloatHistogram;

/// A float as Go's `%g` prints it: as few digits as tell it apart, with an exponent below 10⁻⁴ and from 10⁶ on;
/// `+Inf`, `-Inf`, `NaN`.
pub fn format_g(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let scientific = format!("{value:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        write!(f, "{open}{},{}{close}:{}", format_g(self.lower), format_g(self.upper), format_g(self.count))
    }
}

impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", format_g(self.count), format_g(self.sum))?;
        let negative = self.negative_buckets();
        let zero = self.zero_bucket();
        let positive = self.positive_buckets();
        let populated = negative.iter().rev().chain(&zero).chain(&positive).filter(|b| b.count != 0.0);
        for bucket in populated {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}
