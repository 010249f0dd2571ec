//! What a query evaluates to.
//!
//! These are the values that leave the engine; inside it, values are rows over all steps (`exec::row`).

use std::sync::Arc;

use parallax_model::{FloatColumn, FloatHistogram, HistogramColumn, Labels};

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

/// One element of a matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatrixSeries {
    pub labels: Labels,
    pub floats: Points,
    pub histograms: HistogramColumn,
}

impl MatrixSeries {
    pub fn sample_count(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }
}

/// Floats and their times, as many of one as of the other. Series that have a float at every step of a query share the times: those would take as much as the floats.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    pub timestamps_ms: Arc<[i64]>,
    pub values: Vec<f64>,
}

impl Points {
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        self.timestamps_ms.iter().copied().zip(self.values.iter().copied())
    }
}

impl From<FloatColumn> for Points {
    fn from(column: FloatColumn) -> Self {
        Self { timestamps_ms: column.timestamps_ms.into(), values: column.values }
    }
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
    Matrix(Vec<MatrixSeries>),
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
