//! Classic histograms (`_bucket`, `_sum`, `_count`) into histograms with custom buckets.
//!
//! Source: Prometheus `util/convertnhcb`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parallax_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use parallax_model::{FloatHistogram, Labels, LabelsBuilder, METRIC_NAME, Span};

use super::time_of;
use crate::series_notation::SequenceValue;

const BUCKET_LABEL: &str = "le";

/// What is known of one classic histogram at one time.
#[derive(Debug, Default)]
struct Parts {
    /// Upper bound and cumulative count.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: f64,
}

#[derive(Clone, Copy)]
enum Part {
    Bucket(f64),
    Sum,
    Count,
}

/// Histograms by the labels they share, each in order of time.
pub(super) fn convert(
    series: &BTreeMap<&Labels, &[SequenceValue]>,
    step_ms: i64,
) -> Result<BTreeMap<Labels, Vec<(i64, FloatHistogram)>>, String> {
    let mut gathered: BTreeMap<Labels, BTreeMap<i64, Parts>> = BTreeMap::new();
    for (labels, values) in series {
        let Some((part, base)) = part_of(labels) else { continue };
        let by_time = gathered.entry(base).or_default();
        for (index, value) in values.iter().enumerate() {
            let SequenceValue::Float(value) = value else { continue };
            let parts = by_time.entry(time_of(index, step_ms)).or_default();
            match part {
                Part::Bucket(bound) => parts.buckets.push((bound, *value)),
                Part::Sum => parts.sum = *value,
                Part::Count => parts.count = Some(*value),
            }
        }
    }
    gathered
        .into_iter()
        .map(|(labels, by_time)| {
            let histograms = by_time.into_iter().map(|(at_ms, parts)| Ok((at_ms, parts.histogram()?)));
            let histograms: Result<Vec<_>, String> = histograms.collect();
            Ok((labels, histograms?))
        })
        .collect()
}

/// Which part of a classic histogram a series is, and the labels of the whole.
fn part_of(labels: &Labels) -> Option<(Part, Labels)> {
    let name = labels.metric_name();
    let (part, base) = if let Some(base) = name.strip_suffix("_bucket") {
        let bound = labels.value_of(BUCKET_LABEL).trim_start_matches('+').parse::<f64>().ok()?;
        (Part::Bucket(bound), base)
    } else if let Some(base) = name.strip_suffix("_sum") {
        (Part::Sum, base)
    } else {
        (Part::Count, name.strip_suffix("_count")?)
    };
    let whole = LabelsBuilder::new(labels).set(METRIC_NAME, base).remove(BUCKET_LABEL).build();
    Some((part, whole)).filter(|(part, _)| !matches!(part, Part::Bucket(bound) if bound.is_nan()))
}

impl Parts {
    fn histogram(mut self) -> Result<FloatHistogram, String> {
        self.buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        self.buckets.dedup_by(|(one, _), (other, _)| one == other);
        let counts = || self.buckets.iter().map(|(_, count)| *count);
        let is_cumulative = counts().zip(counts().skip(1)).all(|(one, next)| next >= one);
        if counts().chain(self.count).any(|count| count < 0.0) || !is_cumulative {
            return Err("the counts of a classic histogram must not be negative and never fall".to_owned());
        }
        let count = self.count.or(counts().next_back()).unwrap_or(0.0);
        if self.buckets.last().is_none_or(|(bound, _)| *bound != f64::INFINITY) {
            self.buckets.push((f64::INFINITY, count));
        }
        if self.buckets.last().is_some_and(|(_, last)| *last != count) {
            return Err("the last bucket of a classic histogram must hold its count".to_owned());
        }
        let custom_values: Arc<[f64]> =
            self.buckets.iter().map(|(bound, _)| *bound).filter(|bound| *bound != f64::INFINITY).collect();
        let mut below = 0.0;
        let buckets = self.buckets.iter().map(|(_, count)| count - std::mem::replace(&mut below, *count));
        let positive_buckets: Vec<f64> = buckets.collect();
        let length = u32::try_from(positive_buckets.len()).map_err(|error| error.to_string())?;
        let mut histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: self.sum,
            positive_spans: vec![Span { offset: 0, length }],
            positive_buckets,
            custom_values,
            ..FloatHistogram::default()
        };
        histogram.compact();
        Ok(histogram)
    }
}
