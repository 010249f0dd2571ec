//! Averages of downsampled data: sums divided by counts, window by window.
//!
//! A query that asks for no aggregate in particular reads the average of each window. Sums and counts are two chunks
//! over the same timestamps (Thanos `downsample.AverageChunkIterator`); histograms have a sum that is a histogram.

use std::sync::Arc;

use bytes::Bytes;
use parallax_model::{FloatColumn, HistogramColumn, TimeRange};
use parallax_tsdb::chunk::{ChunkEncoding, decode_chunk};
use parallax_tsdb::error::TsdbError;

use crate::{Chunk, Error};

impl Chunk {
    pub(crate) fn error(&self, source: TsdbError) -> Error {
        Error::Chunk {
            encoding: self.encoding,
            min_time_ms: self.min_time_ms,
            max_time_ms: self.max_time_ms,
            source,
        }
    }
}

/// Appends the averages within `range` of the sums in `chunk` to the column of their kind.
///
/// # Errors
/// If a chunk cannot be decoded, or the timestamps differ. Then the columns hold sums, and the series is lost.
pub(crate) fn decode_average(
    chunk: &Chunk,
    counts: &Bytes,
    range: TimeRange,
    floats: &mut FloatColumn,
    histograms: &mut HistogramColumn,
) -> Result<(), Error> {
    let (first_float, first_histogram) = (floats.len(), histograms.len());
    decode_chunk(chunk.encoding, &chunk.data, range, floats, histograms)
        .map_err(|source| chunk.error(source))?;
    let mut divisors = FloatColumn::default();
    let mut none = HistogramColumn::default();
    decode_chunk(ChunkEncoding::Xor, counts, range, &mut divisors, &mut none)
        .map_err(|source| chunk.error(source))?;

    let float_times = floats.timestamps_ms.get(first_float..).unwrap_or_default();
    let histogram_times = histograms.timestamps_ms.get(first_histogram..).unwrap_or_default();
    // A chunk holds one kind, so one of the two is empty.
    let times = if histogram_times.is_empty() { float_times } else { histogram_times };
    if times != divisors.timestamps_ms {
        return Err(Error::Misaligned { min_time_ms: chunk.min_time_ms, max_time_ms: chunk.max_time_ms });
    }
    for (sum, count) in floats.values.iter_mut().skip(first_float).zip(&divisors.values) {
        *sum /= count;
    }
    for (sum, count) in histograms.values.iter_mut().skip(first_histogram).zip(&divisors.values) {
        Arc::make_mut(sum).divide(*count);
    }
    Ok(())
}
