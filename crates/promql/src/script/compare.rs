//! Answers against what a script states. Floats may differ by a millionth, as in Prometheus' own runner.

use std::collections::BTreeMap;

use parallax_model::float::is_stale;
use parallax_model::{FloatHistogram, Labels, Span};

use super::expect::Expectations;
use crate::engine::QueryRange;
use crate::series_notation::SequenceValue;
use crate::value::{MatrixSeries, QueryValue, Sample, VectorSample};

/// How far floats may differ, relative to their sum.
const EPSILON: f64 = 0.000_001;

impl Expectations {
    pub(super) fn check_value(&self, value: &QueryValue, range: QueryRange) -> Result<(), String> {
        match value {
            QueryValue::Scalar { value, .. } => match self.scalar {
                None => Err(format!("expected series, but got the scalar {value}")),
                Some(expected) if almost_equal(expected, *value) => Ok(()),
                Some(expected) => Err(format!("expected the scalar {expected}, but got {value}")),
            },
            QueryValue::String { value, .. } => match self.string.as_deref().unwrap_or("") {
                expected if expected == value => Ok(()),
                expected => Err(format!("expected the string {expected:?}, but got {value:?}")),
            },
            _ if self.scalar.is_some() => Err(format!("expected a scalar, but got {value:?}")),
            QueryValue::Vector(vector) => self.check_vector(vector),
            QueryValue::Matrix(_) if self.is_ordered() => {
                Err("expected an order, but a matrix has none".to_owned())
            }
            QueryValue::Matrix(matrix) => self.check_matrix(matrix, self.matrix_times.unwrap_or(range)),
        }
    }

    /// The stated series, and where in the script's order each stands.
    fn by_labels(&self) -> BTreeMap<&Labels, (usize, &[SequenceValue])> {
        let stated = self.series.iter().enumerate();
        stated.map(|(at, (labels, values))| (labels, (at, values.as_slice()))).collect()
    }

    fn check_vector(&self, vector: &[VectorSample]) -> Result<(), String> {
        let mut missing = self.by_labels();
        for (at, found) in vector.iter().enumerate() {
            let labels = &found.labels;
            let Some((expected_at, values)) = missing.remove(labels) else {
                return Err(format!("unexpected series {labels:?} with {:?}", found.sample));
            };
            if self.is_ordered() && expected_at != at {
                return Err(format!("expected {labels:?} at position {expected_at}, but it is at {at}"));
            }
            let same = match (values.first(), &found.sample) {
                (Some(SequenceValue::Float(expected)), Sample::Float(value)) => {
                    almost_equal(*expected, *value)
                }
                (Some(SequenceValue::Histogram(expected)), Sample::Histogram(value)) => {
                    same_histogram(expected, value)
                }
                _ => false,
            };
            if !same {
                return Err(format!("expected {values:?} for {labels:?}, but got {:?}", found.sample));
            }
        }
        none_missing(&missing)
    }

    fn check_matrix(&self, matrix: &[MatrixSeries], times: QueryRange) -> Result<(), String> {
        let is_sorted = matrix.iter().zip(matrix.iter().skip(1)).all(|(one, next)| one.labels <= next.labels);
        if !is_sorted {
            return Err("the series of a matrix must be sorted by labels".to_owned());
        }
        let mut missing = self.by_labels();
        for found in matrix {
            let Some((_, values)) = missing.remove(&found.labels) else {
                return Err(format!("unexpected series {found:?}"));
            };
            check_series(values, found, times)?;
        }
        none_missing(&missing)
    }
}

fn none_missing(missing: &BTreeMap<&Labels, (usize, &[SequenceValue])>) -> Result<(), String> {
    match missing.iter().next() {
        None => Ok(()),
        Some((labels, (_, values))) => Err(format!("expected {labels:?} with {values:?}, but it is missing")),
    }
}

fn check_series(values: &[SequenceValue], found: &MatrixSeries, times: QueryRange) -> Result<(), String> {
    let fail =
        |what: &str| Err(format!("{what} for {:?}: expected {values:?}, but got {found:?}", found.labels));
    let step_ms = times.step_ms;
    let time_of = |index: usize| times.start_ms.saturating_add(step_ms.saturating_mul(index as i64));
    let (mut floats, mut histograms) = (found.floats.iter(), found.histograms.iter());
    for (index, value) in values.iter().enumerate() {
        let at_ms = time_of(index);
        if at_ms > times.end_ms {
            return fail("more values than the query has steps");
        }
        let same = match value {
            SequenceValue::Omitted => continue,
            SequenceValue::Float(expected) => {
                floats.next().is_some_and(|(at, value)| at == at_ms && almost_equal(*expected, value))
            }
            SequenceValue::Histogram(expected) => {
                histograms.next().is_some_and(|(at, value)| at == at_ms && same_histogram(expected, value))
            }
        };
        if !same {
            return fail(&format!("a difference at {at_ms} ms"));
        }
    }
    match (floats.next(), histograms.next()) {
        (None, None) => Ok(()),
        _ => fail("more values than expected"),
    }
}

/// One step of a range query's answer, as the instant query of that time would give it. Scalars come back from
/// a range query as a series without labels.
pub(super) fn step_of(answer: &QueryValue, at_ms: i64, instant: &QueryValue) -> Result<QueryValue, String> {
    let QueryValue::Matrix(matrix) = answer else {
        return Err(format!("a range query must answer with a matrix, but got {answer:?}"));
    };
    let sample_of = |series: &MatrixSeries| {
        let float = series.floats.iter().find(|(at, _)| *at == at_ms).map(|(_, value)| Sample::Float(value));
        let histogram = series.histograms.iter().find(|(at, _)| *at == at_ms);
        float.or(histogram.map(|(_, value)| Sample::Histogram(value.clone())))
    };
    let samples = matrix.iter().filter_map(|series| {
        let sample = sample_of(series)?;
        Some(VectorSample { labels: series.labels.clone(), timestamp_ms: at_ms, sample })
    });
    let vector: Vec<VectorSample> = samples.collect();
    match (instant, vector.first().map(|first| &first.sample)) {
        (QueryValue::Scalar { .. }, Some(Sample::Float(value))) => {
            Ok(QueryValue::Scalar { timestamp_ms: at_ms, value: *value })
        }
        (QueryValue::Scalar { .. }, other) => {
            Err(format!("a range query over a scalar must give a float, but got {other:?}"))
        }
        _ => Ok(QueryValue::Vector(vector)),
    }
}

/// NaN equals NaN, and only the staleness marker equals the staleness marker.
fn almost_equal(one: f64, other: f64) -> bool {
    if is_stale(one) || is_stale(other) {
        return is_stale(one) && is_stale(other);
    }
    if (one.is_nan() && other.is_nan()) || one == other {
        return true;
    }
    let (sum, difference) = (one.abs() + other.abs(), (one - other).abs());
    if one == 0.0 || other == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

/// Counter reset hints do not count, nor do empty buckets.
fn same_histogram(expected: &FloatHistogram, found: &FloatHistogram) -> bool {
    let (mut expected, mut found) = (expected.clone(), found.clone());
    expected.compact();
    found.compact();
    expected.schema == found.schema
        && almost_equal(expected.count, found.count)
        && almost_equal(expected.sum, found.sum)
        && expected.zero_threshold == found.zero_threshold
        && almost_equal(expected.zero_count, found.zero_count)
        && (!expected.uses_custom_buckets() || expected.custom_values == found.custom_values)
        && same_spans(&expected.positive_spans, &found.positive_spans)
        && same_spans(&expected.negative_spans, &found.negative_spans)
        && same_buckets(&expected.positive_buckets, &found.positive_buckets)
        && same_buckets(&expected.negative_buckets, &found.negative_buckets)
}

fn same_buckets(expected: &[f64], found: &[f64]) -> bool {
    expected.len() == found.len() && expected.iter().zip(found).all(|(one, other)| almost_equal(*one, *other))
}

/// Whether both lists of spans cover the same buckets, however they are cut.
fn same_spans(expected: &[Span], found: &[Span]) -> bool {
    joined(expected) == joined(found)
}

/// First and last index (exclusive) of each run of buckets, runs that touch joined.
fn joined(spans: &[Span]) -> Vec<(i64, i64)> {
    let mut runs: Vec<(i64, i64)> = Vec::with_capacity(spans.len());
    let mut at = 0i64;
    for span in spans {
        let start = at + i64::from(span.offset);
        at = start + i64::from(span.length);
        match runs.last_mut() {
            _ if span.length == 0 => {}
            Some((_, end)) if *end == start => *end = at,
            _ => runs.push((start, at)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_may_differ_by_a_millionth() {
        assert!(almost_equal(1.0, 1.000_000_1));
        assert!(!almost_equal(1.0, 1.000_01));
        assert!(almost_equal(f64::NAN, -f64::NAN));
        assert!(almost_equal(f64::INFINITY, f64::INFINITY));
        assert!(!almost_equal(f64::INFINITY, f64::MAX));
        assert!(!almost_equal(parallax_model::float::stale_nan(), f64::NAN));
        assert!(!almost_equal(0.0, 1e-300));
    }

    #[test]
    fn spans_are_the_buckets_they_cover() {
        let span = |offset, length| Span { offset, length };
        assert!(same_spans(&[span(1, 2), span(0, 1)], &[span(1, 3)]));
        assert!(same_spans(&[span(1, 0), span(2, 1)], &[span(3, 1)]));
        assert!(!same_spans(&[span(1, 2)], &[span(1, 1), span(1, 1)]));
    }
}
