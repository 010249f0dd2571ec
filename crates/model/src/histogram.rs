//! Native histograms, as Prometheus has them: sparse buckets of an exponential or a custom schema.
//!
//! Source: Prometheus `model/histogram`. [`Histogram`] counts in integers and holds bucket *deltas*, as the
//! wire and the chunk encoding do; [`FloatHistogram`] holds absolute float counts and is what queries compute
//! with. Arithmetic and everything else a query needs stands in `float_histogram`.

use std::sync::Arc;

/// The schema of histograms whose buckets are given by `custom_values`.
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// The smallest and largest exponential schema.
pub const EXPONENTIAL_SCHEMA_MIN: i32 = -4;
pub const EXPONENTIAL_SCHEMA_MAX: i32 = 8;

/// A run of consecutive buckets: `offset` buckets are skipped (for the first span: the first bucket's index).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub offset: i32,
    pub length: u32,
}

/// What is known about a counter reset between a histogram and its predecessor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CounterResetHint {
    #[default]
    Unknown,
    Reset,
    NotReset,
    /// The histogram is a gauge: resets have no meaning.
    Gauge,
}

/// A histogram with integer counts. Bucket counts are deltas to the bucket before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    pub counter_reset_hint: CounterResetHint,
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: u64,
    pub count: u64,
    /// The stale NaN marks the whole sample as stale.
    pub sum: f64,
    pub positive_spans: Vec<Span>,
    pub negative_spans: Vec<Span>,
    pub positive_deltas: Vec<i64>,
    pub negative_deltas: Vec<i64>,
    /// Upper bounds of the buckets, for [`CUSTOM_BUCKETS_SCHEMA`] only.
    pub custom_values: Arc<[f64]>,
}

/// A histogram with float counts. Bucket counts are absolute.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FloatHistogram {
    pub counter_reset_hint: CounterResetHint,
    pub schema: i32,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    /// The stale NaN marks the whole sample as stale.
    pub sum: f64,
    pub positive_spans: Vec<Span>,
    pub negative_spans: Vec<Span>,
    pub positive_buckets: Vec<f64>,
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of the buckets, for [`CUSTOM_BUCKETS_SCHEMA`] only.
    pub custom_values: Arc<[f64]>,
}

impl Histogram {
    pub fn is_stale(&self) -> bool {
        crate::float::is_stale(self.sum)
    }

    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// The same histogram with absolute float counts.
    pub fn to_float(&self) -> FloatHistogram {
        FloatHistogram {
            counter_reset_hint: self.counter_reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count as f64,
            count: self.count as f64,
            sum: self.sum,
            positive_spans: self.positive_spans.clone(),
            negative_spans: self.negative_spans.clone(),
            positive_buckets: absolute(&self.positive_deltas),
            negative_buckets: absolute(&self.negative_deltas),
            custom_values: self.custom_values.clone(),
        }
    }
}

/// Running sums of bucket deltas. Wraps on overflow: bytes from outside must not panic.
fn absolute(deltas: &[i64]) -> Vec<f64> {
    deltas
        .iter()
        .scan(0i64, |count, delta| {
            *count = count.wrapping_add(*delta);
            Some(*count as f64)
        })
        .collect()
}

impl FloatHistogram {
    pub fn is_stale(&self) -> bool {
        crate::float::is_stale(self.sum)
    }

    pub fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }
}
