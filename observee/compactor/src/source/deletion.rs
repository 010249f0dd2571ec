//! [`Deletion`]: samples that are asked to be left out, by their series' labels and time, as tombstones do by numbers of series.

use bytes::Bytes;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::Symbols;

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
pub(super) struct Deletions {
    deletions: Vec<Deletion>,
    symbols: Symbols,
}

impl Deletions {
    pub(super) fn new(deletions: &[Deletion], symbols: &Bytes) -> Result<Self, TsdbError> {
        let symbols = Symbols::open("symbols".into(), 0, symbols, 8)?;
        Ok(Self { deletions: deletions.to_vec(), symbols })
    }

    /// What is deleted of a series, beside what `others` say, in order.
    pub(super) fn ranges(
        &self,
        labels: &SymbolLabels,
        others: &[TimeRange],
    ) -> Result<Vec<TimeRange>, TsdbError> {
        let mut pairs = Vec::with_capacity(labels.len());
        for (name, value) in labels {
            pairs.push((self.symbols.lookup(*name)?, self.symbols.lookup(*value)?));
        }
        let labels = Labels::from_sorted(pairs);
        let mut ranges = others.to_vec();
        for deletion in &self.deletions {
            if !deletion.matchers.iter().all(|matcher| matcher.matches_labels(&labels)) {
                continue;
            }
            match deletion.ranges.as_slice() {
                [] => ranges.push(TimeRange::ALL),
                some => ranges.extend_from_slice(some),
            }
        }
        ranges.sort_unstable_by_key(|range| (range.min_ms, range.max_ms));
        Ok(ranges)
    }
}
