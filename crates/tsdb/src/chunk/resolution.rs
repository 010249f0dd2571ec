//! Histograms of a finer schema than we compute with, merged down to the finest that we do.
//!
//! Newer writers may use exponential schemas from 9 to 52; Prometheus reads them as schema 8. Each step halves the number of
//! buckets: bucket `i` becomes bucket `ceil(i / 2)`.

use parallax_model::Span;
use parallax_model::histogram::EXPONENTIAL_SCHEMA_MAX;

use super::inserts::{SpanBuilder, bucket_indexes};
use super::kind::{Kind, Side};

/// Gives the histogram with at most the finest schema.
pub(crate) fn reduced<K: Kind>(histogram: K) -> K {
    let mut layout = histogram.layout();
    let steps = layout.schema - EXPONENTIAL_SCHEMA_MAX;
    if steps <= 0 {
        return histogram;
    }
    let (positive_spans, positive) =
        merged(&layout.positive_spans, &histogram.absolute(Side::Positive), steps, K::add);
    let (negative_spans, negative) =
        merged(&layout.negative_spans, &histogram.absolute(Side::Negative), steps, K::add);
    layout.schema = EXPONENTIAL_SCHEMA_MAX;
    layout.positive_spans = positive_spans;
    layout.negative_spans = negative_spans;
    histogram.with_buckets(&layout, positive, negative)
}

fn merged<C: Copy>(spans: &[Span], counts: &[C], steps: i32, add: impl Fn(C, C) -> C) -> (Vec<Span>, Vec<C>) {
    let mut builder = SpanBuilder::default();
    let mut sums: Vec<C> = Vec::new();
    let mut last = None;
    for (index, count) in bucket_indexes(spans).zip(counts) {
        let target = ((index - 1) >> steps) + 1;
        match sums.last_mut() {
            Some(sum) if last == Some(target) => *sum = add(*sum, *count),
            _ => {
                builder.push(target);
                sums.push(*count);
            }
        }
        last = Some(target);
    }
    (builder.finish(), sums)
}

#[cfg(test)]
mod tests {
    use parallax_model::FloatHistogram;

    use super::*;

    #[test]
    fn neighbours_merge_into_the_bucket_that_holds_both() {
        let fine = FloatHistogram {
            schema: 9,
            positive_spans: vec![Span { offset: -1, length: 4 }, Span { offset: 3, length: 1 }],
            positive_buckets: vec![1.0, 2.0, 4.0, 8.0, 16.0],
            ..FloatHistogram::default()
        };
        let coarse = reduced(fine);
        assert_eq!(coarse.schema, 8);
        // Indexes -1, 0 | 1, 2 | 6 become 0, 1 and 3.
        assert_eq!(coarse.positive_spans, [Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }]);
        assert_eq!(coarse.positive_buckets, [3.0, 12.0, 16.0]);
    }
}
