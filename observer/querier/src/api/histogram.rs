//! Native histograms as JSON: `{"count":"42","sum":"1.5","buckets":[[0,"0.5","1","21"],…]}`.
//!
//! The first element of a bucket says which of its ends belong to it: 0 the upper, 1 the lower, 2 none, 3 both. Empty
//! buckets are left out. Source: Prometheus `util/jsonutil`.

use parallax_model::FloatHistogram;

use super::float::write_float;

pub(super) fn write_histogram(output: &mut Vec<u8>, histogram: &FloatHistogram) {
    output.extend_from_slice(b"{\"count\":");
    write_quoted(output, histogram.count);
    output.extend_from_slice(b",\"sum\":");
    write_quoted(output, histogram.sum);
    let mut opening: &[u8] = b",\"buckets\":[";
    // A bucket whose count is NaN is not empty.
    for bucket in histogram.buckets().into_iter().filter(|bucket| bucket.count != 0.0) {
        output.extend_from_slice(opening);
        opening = b",";
        let ends: &[u8] = match (bucket.lower_inclusive, bucket.upper_inclusive) {
            (false, true) => b"[0,",
            (true, false) => b"[1,",
            (false, false) => b"[2,",
            (true, true) => b"[3,",
        };
        output.extend_from_slice(ends);
        write_quoted(output, bucket.lower);
        output.push(b',');
        write_quoted(output, bucket.upper);
        output.push(b',');
        write_quoted(output, bucket.count);
        output.push(b']');
    }
    if opening == b"," {
        output.push(b']');
    }
    output.push(b'}');
}

fn write_quoted(output: &mut Vec<u8>, value: f64) {
    output.push(b'"');
    write_float(output, value);
    output.push(b'"');
}

#[cfg(test)]
mod tests {
    use parallax_model::Span;

    use super::*;

    fn json(histogram: &FloatHistogram) -> String {
        let mut output = Vec::new();
        write_histogram(&mut output, histogram);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn buckets_say_which_ends_are_theirs() {
        let histogram = FloatHistogram {
            count: 10.0,
            sum: 2.5,
            zero_threshold: 0.001,
            zero_count: 1.0,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![4.0, 0.0],
            negative_spans: vec![Span { offset: 1, length: 1 }],
            negative_buckets: vec![5.0],
            ..FloatHistogram::default()
        };
        assert_eq!(
            json(&histogram),
            r#"{"count":"10","sum":"2.5","buckets":[[1,"-2","-1","5"],[3,"-0.001","0.001","1"],[0,"0.5","1","4"]]}"#
        );
    }

    #[test]
    fn a_histogram_without_observations_has_no_buckets() {
        assert_eq!(json(&FloatHistogram::default()), r#"{"count":"0","sum":"0"}"#);
    }
}
