//! How large the chunks of one series are, of all series that were sent.
//!
//! A call counts into a [`Tally`] of its own, a few additions per series, and brings it to the [`ChunkSizes`] when it ends: a histogram of the registry would take a
//! lock per series. Source of the bounds: Thanos `pkg/store/bucket.go`.

use std::sync::{Arc, Mutex, PoisonError};

use parallax_storeapi::encoded::Joined;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Upper bounds, in bytes; what is larger is counted beyond them.
const BOUNDS_BYTES: [u32; 11] =
    [32, 256, 512, 1 << 10, 32 << 10, 256 << 10, 512 << 10, 1 << 20, 32 << 20, 256 << 20, 512 << 20];

/// What one call has counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    sum_bytes: u64,
    /// By bound, and beyond the last.
    counts: [u64; BOUNDS_BYTES.len() + 1],
}

impl Tally {
    /// Counts a series that is sent with chunks.
    pub fn count(&mut self, series: &Joined) {
        if series.chunks() == 0 {
            return;
        }
        let size_bytes = series.data_bytes();
        let index = BOUNDS_BYTES.partition_point(|bound| u64::from(*bound) < size_bytes);
        if let Some(count) = self.counts.get_mut(index) {
            *count += 1;
        }
        self.sum_bytes = self.sum_bytes.saturating_add(size_bytes);
    }
}

/// The histogram. A clone counts into the same numbers.
#[derive(Clone, Debug, Default)]
pub struct ChunkSizes {
    all: Arc<Mutex<Tally>>,
}

impl ChunkSizes {
    /// Adds what a call has counted.
    pub fn add(&self, tally: &Tally) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.sum_bytes = all.sum_bytes.saturating_add(tally.sum_bytes);
        for (count, more) in all.counts.iter_mut().zip(tally.counts) {
            *count += more;
        }
    }
}

impl EncodeMetric for ChunkSizes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Tally { sum_bytes, counts } = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let bounds = BOUNDS_BYTES.into_iter().map(f64::from).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        encoder.encode_histogram::<NoLabelSet>(sum_bytes as f64, counts.iter().sum(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parallax_storeapi::chunks;
    use parallax_storeapi::encoded::{Packed, Pieces};
    use parallax_storeapi::proto::thanos::Series;
    use parallax_storeapi::proto::thanos::chunk::Encoding;
    use parallax_telemetry::Metrics;

    use super::*;

    #[test]
    fn a_series_counts_once_with_all_its_chunks() {
        let series = |sizes: &[usize]| Series {
            chunks: sizes
                .iter()
                .map(|size| chunks::raw(0, 1, chunks::chunk(Encoding::Xor, Bytes::from(vec![0; *size]))))
                .collect(),
            ..Series::default()
        };
        let metrics = Metrics::new();
        let sizes: ChunkSizes = metrics.register("sizes", "Sizes", ChunkSizes::default());
        let mut tally = Tally::default();
        let all: Packed =
            [series(&[]), series(&[16, 16]), series(&[33]), series(&[1 << 20, 1])].into_iter().collect();
        for one in Pieces::from(Arc::new(all)) {
            tally.count(&one.into());
        }
        sizes.add(&tally);
        sizes.add(&Tally::default());
        let text = metrics.encode().unwrap();
        for line in [
            "sizes_count 3",
            "sizes_sum 1048642.0",
            "sizes_bucket{le=\"32.0\"} 1",
            "sizes_bucket{le=\"256.0\"} 2",
            "sizes_bucket{le=\"1048576.0\"} 2",
            "sizes_bucket{le=\"33554432.0\"} 3",
            "sizes_bucket{le=\"+Inf\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }
}
