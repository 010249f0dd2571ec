//! [`Deletion`]: samples that are asked to be left out, by their series' labels and time, as tombstones do by numbers of series.

use parallax_model::{Matcher, TimeRange};
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::{SymbolRef, SymbolStore};

use super::SymbolLabels;

/// What is to be deleted.
#[derive(Clone, Debug)]
pub struct Deletion {
    /// All have to match a series.
    pub matchers: Vec<Matcher>,
    /// Closed ranges, in milliseconds; none is all of the series.
    pub ranges: Vec<TimeRange>,
}

/// Deletions, for series that are known by merged symbols.
#[derive(Debug)]
pub(super) struct Deletions(Vec<Resolved>);

#[derive(Debug)]
struct Resolved {
    matchers: Vec<ResolvedMatcher>,
    ranges: Vec<TimeRange>,
}

/// A matcher that was asked about every symbol once, instead of about every series.
#[derive(Debug)]
struct ResolvedMatcher {
    /// `None` if no series has such a label.
    name: Option<SymbolRef>,
    /// By symbol, a bit each.
    matched: Vec<u64>,
    matches_empty: bool,
}

impl Deletions {
    pub(super) fn new(deletions: &[Deletion], symbols: &SymbolStore) -> Result<Self, TsdbError> {
        let resolve = |matcher: &Matcher| ResolvedMatcher::new(matcher, symbols);
        let resolved = deletions.iter().map(|deletion| {
            let matchers = deletion.matchers.iter().map(resolve).collect::<Result<_, TsdbError>>()?;
            let ranges =
                if deletion.ranges.is_empty() { vec![TimeRange::ALL] } else { deletion.ranges.clone() };
            Ok(Resolved { matchers, ranges })
        });
        Ok(Self(resolved.collect::<Result<_, TsdbError>>()?))
    }

    /// What is deleted of a series, beside what `others` say, in order.
    pub(super) fn ranges(&self, labels: &SymbolLabels, others: &[TimeRange]) -> Vec<TimeRange> {
        let mut ranges = others.to_vec();
        for deletion in &self.0 {
            if deletion.matchers.iter().all(|matcher| matcher.matches(labels)) {
                ranges.extend_from_slice(&deletion.ranges);
            }
        }
        ranges.sort_unstable_by_key(|range| (range.min_ms, range.max_ms));
        ranges
    }
}

impl ResolvedMatcher {
    fn new(matcher: &Matcher, symbols: &SymbolStore) -> Result<Self, TsdbError> {
        let mut matched = Vec::with_capacity(symbols.len().div_ceil(u64::BITS) as usize);
        let mut name = None;
        let mut texts = symbols.cursor();
        let mut symbol: SymbolRef = 0;
        while let Some(text) = texts.advance()? {
            let bit = symbol % u64::BITS;
            if bit == 0 {
                matched.push(0);
            }
            if let Some(word) = matched.last_mut() {
                *word |= u64::from(matcher.matches(text)) << bit;
            }
            if text == matcher.name() {
                name = Some(symbol);
            }
            symbol = symbol.saturating_add(1);
        }
        Ok(Self { name, matched, matches_empty: matcher.matches_empty() })
    }

    fn matches(&self, labels: &SymbolLabels) -> bool {
        let value = labels.iter().find(|(name, _)| Some(*name) == self.name).map(|(_, value)| *value);
        let Some(value) = value else { return self.matches_empty };
        let word = self.matched.get((value / u64::BITS) as usize).copied().unwrap_or_default();
        word >> (value % u64::BITS) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use parallax_model::{Labels, MatchOp};
    use parallax_tsdb::index::SymbolSection;

    use super::*;

    #[test]
    fn symbols_are_matched_as_labels_are() {
        let texts = ["", "a", "b", "code", "instance", "x"];
        let dir = tempfile::tempdir().unwrap();
        let mut section = SymbolSection::new(dir.path());
        texts.iter().for_each(|text| {
            section.push(text).unwrap();
        });
        let symbols = section.finish().unwrap();
        let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
        for (name, value) in
            [("code", "a"), ("code", ""), ("code", "a|"), ("elsewhere", "a"), ("elsewhere", "")]
        {
            for op in ops {
                let matcher = Matcher::new(op, name, value).unwrap();
                let deletion = Deletion { matchers: vec![matcher.clone()], ranges: Vec::new() };
                let deletions = Deletions::new(&[deletion], &symbols).unwrap();
                for labels in [vec![(3, 1)], vec![(3, 2), (4, 1)], vec![(4, 1)], vec![(4, 3), (5, 3)]] {
                    let text = |symbol: u32| texts[symbol as usize];
                    let as_text =
                        Labels::from_pairs(labels.iter().map(|(name, value)| (text(*name), text(*value))));
                    let expected =
                        if matcher.matches_labels(&as_text) { vec![TimeRange::ALL] } else { Vec::new() };
                    assert_eq!(deletions.ranges(&labels, &[]), expected, "{matcher:?} {as_text}");
                }
            }
        }
    }
}
