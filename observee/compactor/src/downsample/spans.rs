//! Adding histograms so that the spans come out as Prometheus cuts them, which is seen in the bytes of a chunk.
//!
//! The counts are [`FloatHistogram::add`]'s. Prometheus adds bucket by bucket into the spans that are there: a bucket behind a span lengthens it, even if the
//! next span then touches; one before a span lengthens that; any other becomes a span. Source: Prometheus `model/histogram/float_histogram.go` (addBuckets).

use parallax_model::{FloatHistogram, Span};

/// Adds `other`; its kind of buckets is the same, which is the caller's to see to.
pub(super) fn add(histogram: &mut FloatHistogram, other: &FloatHistogram) {
    combine(histogram, other, |histogram| {
        let _ = histogram.add(other);
    });
}

/// Subtracts `other`; its kind of buckets is the same, which is the caller's to see to.
pub(super) fn sub(histogram: &mut FloatHistogram, other: &FloatHistogram) {
    combine(histogram, other, |histogram| {
        let _ = histogram.sub(other);
    });
}

fn combine(
    histogram: &mut FloatHistogram,
    other: &FloatHistogram,
    operation: impl FnOnce(&mut FloatHistogram),
) {
    let positive = lengthened(&histogram.positive_spans, &other.positive_spans);
    let negative = lengthened(&histogram.negative_spans, &other.negative_spans);
    operation(histogram);
    // Where zero buckets or schemas had to be reconciled the buckets are others, and the spans stay as they came out.
    recut(&mut histogram.positive_spans, positive);
    recut(&mut histogram.negative_spans, negative);
}

/// Buckets from one index up to another, exclusive.
type Run = (i64, i64);

fn runs(spans: &[Span]) -> Vec<Run> {
    let mut end = 0;
    let run = |span: &Span| {
        let start = end + i64::from(span.offset);
        end = start + i64::from(span.length);
        (start, end)
    };
    spans.iter().map(run).collect()
}

/// The runs of the first spans with the buckets of the second.
fn lengthened(spans: &[Span], added: &[Span]) -> Vec<Run> {
    let mut runs_held = runs(spans);
    let mut at = 0;
    for index in runs(added).into_iter().flat_map(|(start, end)| start..end) {
        while runs_held.get(at).is_some_and(|run| run.0 <= index) {
            at += 1;
        }
        // Now `at` is the run behind the index.
        let before = at.checked_sub(1).and_then(|before| runs_held.get_mut(before));
        match before {
            Some(run) if index < run.1 => continue,
            Some(run) if index == run.1 => {
                run.1 += 1;
                continue;
            }
            _ => {}
        }
        match runs_held.get_mut(at) {
            Some(run) if run.0 == index + 1 => run.0 = index,
            _ => runs_held.insert(at, (index, index + 1)),
        }
    }
    runs_held
}

/// Cuts spans like `wanted`, if they are of the same buckets.
fn recut(spans: &mut Vec<Span>, wanted: Vec<Run>) {
    let buckets = |runs: &[Run]| runs.iter().flat_map(|(start, end)| *start..*end).collect::<Vec<i64>>();
    let found = runs(spans);
    if found == wanted || buckets(&found) != buckets(&wanted) {
        return;
    }
    let mut end = 0;
    let span = |(start, stop): Run| {
        let offset = i32::try_from(start - end).ok()?;
        end = stop;
        Some(Span { offset, length: u32::try_from(stop - start).ok()? })
    };
    if let Some(cut) = wanted.into_iter().map(span).collect::<Option<Vec<Span>>>() {
        *spans = cut;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(spans: &[(i32, u32)]) -> FloatHistogram {
        let positive_spans: Vec<Span> =
            spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect();
        let buckets = spans.iter().map(|(_, length)| *length as usize).sum();
        FloatHistogram { positive_spans, positive_buckets: vec![1.0; buckets], ..FloatHistogram::default() }
    }

    #[test]
    fn a_bucket_between_two_spans_lengthens_the_first_and_does_not_join_them() {
        let mut histogram = with(&[(0, 2), (1, 2)]);
        add(&mut histogram, &with(&[(2, 1)]));
        assert_eq!(histogram.positive_spans, [Span { offset: 0, length: 3 }, Span { offset: 0, length: 2 }]);
        assert_eq!(histogram.positive_buckets, [1.0; 5]);
    }

    #[test]
    fn buckets_before_and_far_from_spans() {
        let mut histogram = with(&[(5, 1)]);
        sub(&mut histogram, &with(&[(0, 1), (3, 2)]));
        // 0 is a span of its own; 4 comes before 5, and lengthens it.
        assert_eq!(histogram.positive_spans, [Span { offset: 0, length: 1 }, Span { offset: 3, length: 2 }]);
        assert_eq!(histogram.positive_buckets, [-1.0, -1.0, 0.0]);
    }
}
