//! What is in an answer and what is not: gaps, and the report of the whole.
//!
//! A gap travels upwards as a warning, through any number of queriers, ours or Thanos'. Its text begins with a prefix that stays
//! the same and can be parsed: `parallax: cluster "us-1" missing: <endpoint>: <reason>`. The report ([`Coverage`]) says of every cluster and store what became
//! of its part; it travels as a hint of the answer.

mod book;
mod log;
mod report;
mod series;
mod wire;

use std::fmt;

pub use book::{CoverageBook, SAMPLE_INTERVAL};
pub(crate) use log::CoverageEntry;
pub use log::CoverageLog;
pub use report::{Coverage, MAX_PARTS, Part, State};
pub(crate) use series::{WithCoverageSeries, named as named_coverage_series};
pub(crate) use wire::{from_hint, from_text, to_hint, to_text};

/// How an endpoint failed an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GapKind {
    /// Nothing came: it is down, or does not have what it should.
    Missing,
    /// It failed after a part had come.
    Partial,
    /// It did not deliver in time.
    Late,
    /// It did not want to answer.
    Refused,
}

impl GapKind {
    pub const ALL: [Self; 4] = [Self::Missing, Self::Partial, Self::Late, Self::Refused];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Partial => "partial",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }
}

/// One endpoint's part that is not in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The expected cluster, the cluster it last advertised, or the endpoint's name.
    pub cluster: String,
    pub kind: GapKind,
    pub endpoint: String,
    pub reason: String,
}

const PREFIX: &str = "parallax: cluster ";

/// The longest text that somebody else wrote and that goes into an answer as a warning or a reason.
const MAX_TEXT_BYTES: usize = 2048;

/// `text`, cut to what may go into an answer; says how long it was.
pub(crate) fn bounded(mut text: String) -> String {
    let whole_bytes = text.len();
    if whole_bytes > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(&format!("… ({whole_bytes} bytes in all)"));
    }
    text
}

impl Gap {
    /// Reads a gap back from a warning; `None` for any other warning.
    pub fn parse(warning: &str) -> Option<Self> {
        let rest = warning.strip_prefix(PREFIX)?;
        let (cluster, rest) = unquote(rest)?;
        let (kind, rest) = rest.strip_prefix(' ')?.split_once(": ")?;
        let kind = GapKind::ALL.into_iter().find(|known| known.as_str() == kind)?;
        let (endpoint, reason) = rest.split_once(": ")?;
        Some(Self { cluster, kind, endpoint: endpoint.to_owned(), reason: reason.to_owned() })
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        write_quoted(f, &self.cluster)?;
        write!(f, " {}: {}: {}", self.kind.as_str(), self.endpoint, self.reason)
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// The text between quotes, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.char_indices();
    let mut out = String::new();
    while let Some((index, c)) = chars.next() {
        match c {
            '"' => return Some((out, text.get(index + 2..)?)),
            '\\' => out.push(chars.next()?.1),
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_survives_as_a_warning() {
        for (cluster, kind) in ["us-1", "a \"b\" \\ ü", ""].into_iter().zip(GapKind::ALL) {
            let gap = Gap {
                cluster: cluster.to_owned(),
                kind,
                endpoint: "sidecar.us-1:10901".to_owned(),
                reason: "connection refused: no route".to_owned(),
            };
            assert_eq!(Gap::parse(&gap.to_string()), Some(gap));
        }
    }

    #[test]
    fn a_text_of_megabytes_is_cut_between_characters() {
        let cut = bounded("ü".repeat(5 << 20));
        assert!(
            cut.len() < MAX_TEXT_BYTES + 64 && cut.ends_with("… (10485760 bytes in all)"),
            "{}",
            cut.len()
        );
        assert_eq!(bounded("short".to_owned()), "short");
    }

    #[test]
    fn the_text_is_stable_and_others_are_not_gaps() {
        let gap = Gap {
            cluster: "us-1".to_owned(),
            kind: GapKind::Missing,
            endpoint: "10.0.0.1:10901".to_owned(),
            reason: "connection refused".to_owned(),
        };
        assert_eq!(gap.to_string(), "parallax: cluster \"us-1\" missing: 10.0.0.1:10901: connection refused");
        for other in ["", "parallax: cluster", "parallax: cluster \"x", "parallax: cluster \"x\" gone: a: b"]
        {
            assert_eq!(Gap::parse(other), None, "{other:?}");
        }
    }
}
