//! Ranges of one object that lie near each other are fetched as one.

use std::ops::Range;

/// Ranges that together cover `wanted`, sorted: what lies at most `gap_bytes` apart becomes one, unless it would grow
/// beyond `max_bytes`. A single wanted range is never split.
pub fn merge(wanted: &[Range<u64>], gap_bytes: u64, max_bytes: u64) -> Vec<Range<u64>> {
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end || joins(last, &range, gap_bytes, max_bytes) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

fn joins(last: &Range<u64>, next: &Range<u64>, gap_bytes: u64, max_bytes: u64) -> bool {
    next.start - last.end <= gap_bytes && next.end.saturating_sub(last.start) <= max_bytes
}

/// The place of the range in `merged` that covers a wanted range beginning at `start`.
pub(crate) fn covering(merged: &[Range<u64>], start: u64) -> Option<usize> {
    merged.partition_point(|range| range.start <= start).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn near_ranges_become_one() {
        assert_eq!(merge(&[20..30, 0..10], 10, 1000), vec![0..30]);
        assert_eq!(merge(&[0..10, 21..30], 10, 1000), vec![0..10, 21..30]);
        assert_eq!(merge(&[0..10, 12..30], 10, 20), vec![0..10, 12..30]);
        assert_eq!(merge(&[0..100, 50..120], 0, 20), vec![0..120]);
        assert!(merge(&[], 1, 1).is_empty());
    }

    proptest! {
        #[test]
        fn every_range_is_covered_and_nothing_overlaps(
            wanted in prop::collection::vec((0u64..1000, 1u64..50), 0..30), gap in 0u64..40, max in 1u64..200,
        ) {
            let wanted: Vec<_> = wanted.into_iter().map(|(start, length)| start..start + length).collect();
            let merged = merge(&wanted, gap, max);
            for range in &wanted {
                let all = &merged[covering(&merged, range.start).unwrap()];
                prop_assert!(all.start <= range.start && range.end <= all.end);
            }
            prop_assert!(merged.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert!(merged.len() <= wanted.len());
        }
    }
}
