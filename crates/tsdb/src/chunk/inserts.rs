//! Comparing the buckets of two histograms, and adding the empty buckets that one of them lacks.
//!
//! All samples of a chunk share their spans. When a sample has a bucket that the chunk lacks, the chunk is rewritten with that
//! bucket (empty in all samples so far); when it lacks one that the chunk has, it is given an empty one. Source: Prometheus
//! `tsdb/chunkenc/histogram_meta.go` for the rules.

use parallax_model::Span;

/// The indexes of the buckets that spans describe, in order.
pub(crate) fn bucket_indexes(spans: &[Span]) -> impl Iterator<Item = i64> + '_ {
    let mut next = 0i64;
    spans.iter().flat_map(move |span| {
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        start..next
    })
}

/// Builds spans from increasing bucket indexes; neighbours share a span.
#[derive(Debug, Default)]
pub(crate) struct SpanBuilder {
    spans: Vec<Span>,
    /// The index after the last bucket.
    end: i64,
}

impl SpanBuilder {
    /// Adds a bucket. Its index lies after the last one and, as all indexes of sane spans, fits `i32`.
    pub(crate) fn push(&mut self, index: i64) {
        let gap = index - self.end;
        self.end = index + 1;
        match self.spans.last_mut() {
            Some(span) if gap == 0 => span.length += 1,
            _ => self.spans.push(Span { offset: gap as i32, length: 1 }),
        }
    }

    pub(crate) fn finish(self) -> Vec<Span> {
        self.spans
    }
}

/// `count` empty buckets before the bucket at `position` (or after the last, if there is none there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    position: usize,
    count: usize,
}

/// What to add to two sets of buckets so that they are the same.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// What the old buckets lack.
    pub(crate) into_old: Vec<Insert>,
    /// What the new buckets lack.
    pub(crate) into_new: Vec<Insert>,
    /// The spans of the buckets of both, in the fewest spans.
    pub(crate) union: Vec<Span>,
}

fn note(inserts: &mut Vec<Insert>, position: usize) {
    match inserts.last_mut() {
        Some(insert) if insert.position == position => insert.count += 1,
        _ => inserts.push(Insert { position, count: 1 }),
    }
}

/// Compares the buckets of the last sample (`old`) with those of the next one (`new`), as spans.
///
/// `counts` are the absolute counts of both if they are counters; then the answer is `None` if a count fell or a bucket
/// that was in use is gone. Gauges have none.
pub(crate) fn compare<C: Copy + PartialOrd + Default>(
    old: &[Span],
    new: &[Span],
    counts: Option<(&[C], &[C])>,
) -> Option<Comparison> {
    let mut comparison = Comparison::default();
    let mut union = SpanBuilder::default();
    let (mut olds, mut news) = (bucket_indexes(old).peekable(), bucket_indexes(new).peekable());
    let (mut old_at, mut new_at) = (0, 0);
    loop {
        let (in_old, in_new, index) = match (olds.peek(), news.peek()) {
            (None, None) => break,
            (Some(old), None) => (true, false, *old),
            (None, Some(new)) => (false, true, *new),
            (Some(old), Some(new)) => (old <= new, new <= old, *old.min(new)),
        };
        if let Some((old_counts, new_counts)) = counts
            && in_old
        {
            let old_count = old_counts.get(old_at).copied().unwrap_or_default();
            let new_count = new_counts.get(new_at).copied().unwrap_or_default();
            let fell = if in_new { old_count > new_count } else { old_count != C::default() };
            if fell {
                return None;
            }
        }
        union.push(index);
        if !in_old {
            note(&mut comparison.into_old, old_at);
        }
        if !in_new {
            note(&mut comparison.into_new, new_at);
        }
        if in_old {
            olds.next();
            old_at += 1;
        }
        if in_new {
            news.next();
            new_at += 1;
        }
    }
    comparison.union = union.finish();
    Some(comparison)
}

/// The counts with empty buckets inserted.
pub(crate) fn expanded<C: Copy + Default>(counts: &[C], inserts: &[Insert]) -> Vec<C> {
    let added: usize = inserts.iter().map(|insert| insert.count).sum();
    let mut all = Vec::with_capacity(counts.len() + added);
    let mut inserts = inserts.iter().peekable();
    for (position, count) in counts.iter().enumerate() {
        while let Some(insert) = inserts.next_if(|insert| insert.position <= position) {
            all.resize(all.len() + insert.count, C::default());
        }
        all.push(*count);
    }
    for insert in inserts {
        all.resize(all.len() + insert.count, C::default());
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans_of(indexes: &[i64]) -> Vec<Span> {
        let mut builder = SpanBuilder::default();
        indexes.iter().for_each(|index| builder.push(*index));
        builder.finish()
    }

    #[test]
    fn an_unused_bucket_may_vanish_and_a_used_one_may_not() {
        let (old, new) = (spans_of(&[1, 2, 5]), spans_of(&[1, 5, 6]));
        let comparison = compare(&old, &new, Some((&[3, 0, 4], &[3, 5, 1]))).unwrap();
        assert_eq!(comparison.into_old, [Insert { position: 3, count: 1 }]);
        assert_eq!(comparison.into_new, [Insert { position: 1, count: 1 }]);
        assert_eq!(comparison.union, spans_of(&[1, 2, 5, 6]));
        assert_eq!(expanded(&[3, 5, 1], &comparison.into_new), [3, 0, 5, 1]);
        assert!(compare(&old, &new, Some((&[3, 1, 4], &[3, 5, 1]))).is_none(), "used bucket 2 is gone");
        assert!(compare(&old, &new, Some((&[3, 0, 6], &[3, 5, 1]))).is_none(), "bucket 5 fell");
        assert!(compare::<i64>(&old, &new, None).is_some(), "gauges may fall");
    }

    proptest! {
        #[test]
        fn both_sides_expand_to_the_union(
            old in prop::collection::btree_set(-40i64..40, 0..30),
            new in prop::collection::btree_set(-40i64..40, 0..30),
        ) {
            let union: Vec<i64> = old.union(&new).copied().collect();
            let (old, new): (Vec<_>, Vec<_>) = (old.into_iter().collect(), new.into_iter().collect());
            let comparison = compare::<i64>(&spans_of(&old), &spans_of(&new), None).unwrap();
            prop_assert_eq!(bucket_indexes(&comparison.union).collect::<Vec<_>>(), union.clone());
            // Counts are the indexes plus 100, so that an empty bucket is told from a moved one.
            for (indexes, inserts) in [(&old, &comparison.into_old), (&new, &comparison.into_new)] {
                let counts: Vec<i64> = indexes.iter().map(|index| index + 100).collect();
                let wanted: Vec<i64> =
                    union.iter().map(|index| if indexes.contains(index) { index + 100 } else { 0 }).collect();
                prop_assert_eq!(expanded(&counts, inserts), wanted);
            }
        }
    }
}
