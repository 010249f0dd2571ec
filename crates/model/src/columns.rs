//! Decoded samples of one series, as columns: what chunk decoders fill, dedup merges and the engine reads.
//!
//! A series may turn from floats to histograms and back; the two kinds are kept in two columns, each strictly
//! increasing in time, and no timestamp stands in both.

use std::sync::Arc;

use crate::{FloatHistogram, Labels};

/// Float samples: `timestamps_ms[i]` belongs to `values[i]`; both have the same length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FloatColumn {
    pub timestamps_ms: Vec<i64>,
    pub values: Vec<f64>,
}

impl FloatColumn {
    pub fn with_capacity(samples: usize) -> Self {
        Self { timestamps_ms: Vec::with_capacity(samples), values: Vec::with_capacity(samples) }
    }

    pub fn len(&self) -> usize {
        self.timestamps_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps_ms.is_empty()
    }

    pub fn push(&mut self, timestamp_ms: i64, value: f64) {
        self.timestamps_ms.push(timestamp_ms);
        self.values.push(value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, f64)> + '_ {
        self.timestamps_ms.iter().copied().zip(self.values.iter().copied())
    }
}

/// Histogram samples: `timestamps_ms[i]` belongs to `values[i]`; both have the same length.
///
/// Integer histograms are turned into float histograms when they are decoded, as Prometheus' engine does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramColumn {
    pub timestamps_ms: Vec<i64>,
    pub values: Vec<Arc<FloatHistogram>>,
}

impl HistogramColumn {
    pub fn len(&self) -> usize {
        self.timestamps_ms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps_ms.is_empty()
    }

    pub fn push(&mut self, timestamp_ms: i64, value: Arc<FloatHistogram>) {
        self.timestamps_ms.push(timestamp_ms);
        self.values.push(value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (i64, &Arc<FloatHistogram>)> + '_ {
        self.timestamps_ms.iter().copied().zip(self.values.iter())
    }
}

/// One series with its decoded samples, staleness markers included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesData {
    pub labels: Labels,
    pub floats: FloatColumn,
    pub histograms: HistogramColumn,
}

impl SeriesData {
    pub fn sample_count(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }
}
