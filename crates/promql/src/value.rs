//! What a query evaluates to.
//!
//! These are the values that leave the engine; inside it, values are rows over all steps (`exec::row`).

use std::sync::Arc;

use parallax_model::{FloatHistogram, Labels, SeriesData};

/// One sample's value. Never a staleness marker.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorSample {
    pub labels: Labels,
    pub timestamp_ms: i64,
    pub sample: Sample,
}

/// The answer of a query.
///
/// An instant query gives what its expression's type says. A range query always gives a matrix; a scalar
/// expression becomes one series without labels.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryValue {
    Scalar {
        timestamp_ms: i64,
        value: f64,
    },
    String {
        timestamp_ms: i64,
        value: String,
    },
    /// In the order the outermost sorting function or `topk` gave; otherwise in the order of evaluation.
    Vector(Vec<VectorSample>),
    /// Sorted by labels; no series without samples; floats and histograms each in order of time.
    Matrix(Vec<SeriesData>),
}

impl QueryValue {
    /// The name the HTTP API gives this type: `scalar`, `string`, `vector`, `matrix`.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Scalar { .. } => "scalar",
            Self::String { .. } => "string",
            Self::Vector(_) => "vector",
            Self::Matrix(_) => "matrix",
        }
    }
}
