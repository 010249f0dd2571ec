//! Points and ranges in time, in milliseconds since the Unix epoch, and the resolutions of stored data.

use std::fmt;

/// A closed range of time, `[min_ms, max_ms]`, as chunks and StoreAPI requests have it.
///
/// (A block's range is half-open; whoever turns one into the other subtracts the millisecond.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimeRange {
    pub min_ms: i64,
    pub max_ms: i64,
}

impl TimeRange {
    pub const ALL: Self = Self { min_ms: i64::MIN, max_ms: i64::MAX };

    pub const fn new(min_ms: i64, max_ms: i64) -> Self {
        Self { min_ms, max_ms }
    }

    pub const fn is_empty(&self) -> bool {
        self.min_ms > self.max_ms
    }

    pub const fn contains(&self, timestamp_ms: i64) -> bool {
        self.min_ms <= timestamp_ms && timestamp_ms <= self.max_ms
    }

    pub const fn overlaps(&self, other: &Self) -> bool {
        self.min_ms <= other.max_ms && other.min_ms <= self.max_ms
    }

    /// What both ranges cover; empty if they do not overlap.
    pub fn intersect(&self, other: &Self) -> Self {
        Self { min_ms: self.min_ms.max(other.min_ms), max_ms: self.max_ms.min(other.max_ms) }
    }
}

/// How coarse stored data is: raw samples, or aggregates of windows of five minutes or an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    #[default]
    Raw,
    FiveMinutes,
    OneHour,
}

impl Resolution {
    pub const ALL: [Self; 3] = [Self::Raw, Self::FiveMinutes, Self::OneHour];

    /// The window in milliseconds, 0 for raw: the number that meta.json and StoreAPI carry.
    pub const fn millis(self) -> i64 {
        match self {
            Self::Raw => 0,
            Self::FiveMinutes => 300_000,
            Self::OneHour => 3_600_000,
        }
    }

    /// The resolution with exactly this window, if there is one.
    pub const fn from_millis(millis: i64) -> Option<Self> {
        match millis {
            0 => Some(Self::Raw),
            300_000 => Some(Self::FiveMinutes),
            3_600_000 => Some(Self::OneHour),
            _ => None,
        }
    }
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "0s",
            Self::FiveMinutes => "5m",
            Self::OneHour => "1h",
        })
    }
}

/// Parses a duration as Prometheus writes it (`5m`, `1h30m`, `1d12h`, `500ms`, `0`) into milliseconds.
///
/// Units must come from large to small, each at most once: `y w d h m s ms`. Source: Prometheus `model.ParseDuration`.
/// Returns `None` for anything else, or if the result does not fit.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    const UNITS: [(&str, i64); 7] = [
        ("y", 365 * 86_400_000),
        ("w", 7 * 86_400_000),
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
        ("ms", 1),
    ];
    let mut rest = text;
    let mut next_unit = 0;
    let mut total_ms: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            return None;
        }
        let amount: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let position = UNITS.iter().position(|(unit, _)| *unit == &rest[..letters])?;
        if position < next_unit {
            return None;
        }
        next_unit = position + 1;
        total_ms = total_ms.checked_add(amount.checked_mul(UNITS[position].1)?)?;
        rest = &rest[letters..];
    }
    (!text.is_empty()).then_some(total_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_prometheus_reads_them() {
        assert_eq!(parse_duration_ms("5m"), Some(300_000));
        assert_eq!(parse_duration_ms("1h30m"), Some(5_400_000));
        assert_eq!(
            parse_duration_ms("1y2w3d4h5m6s7ms"),
            Some(((((365 + 14 + 3) * 24 + 4) * 60 + 5) * 60 + 6) * 1000 + 7)
        );
        assert_eq!(parse_duration_ms("0"), Some(0));
        for bad in ["", "5", "m", "5m5m", "5m1h", "-5m", "5 m", "1.5h", "99999999999999999y", "5M"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn closed_ranges_touch_at_their_ends() {
        let range = TimeRange::new(10, 20);
        assert!(range.overlaps(&TimeRange::new(20, 30)));
        assert!(!range.overlaps(&TimeRange::new(21, 30)));
        assert!(range.intersect(&TimeRange::new(21, 30)).is_empty());
    }
}
