//! Whole samples into chunks: what a Prometheus that cannot stream sends, in the form the StoreAPI wants.

use bytes::Bytes;
use parallax_model::{CounterResetHint, FloatHistogram, Histogram, Span};
use parallax_storeapi::proto::prometheus::histogram::{Count, ResetHint, ZeroCount};
use parallax_storeapi::proto::prometheus::{BucketSpan, Histogram as WireHistogram, TimeSeries};
use parallax_tsdb::chunk::{Appended, ChunkEncoding, FloatHistogramAppender, HistogramAppender, XorAppender};

use crate::prometheus::remote_read::ReadChunk;

/// Samples of one chunk, as Prometheus cuts them.
const SAMPLES_PER_CHUNK: usize = 120;

/// The chunks of a series, in order of time within each kind of sample.
///
/// # Errors
/// A text that says which sample is out of order or malformed.
pub(crate) fn encode(series: &TimeSeries) -> Result<Vec<ReadChunk>, String> {
    let mut chunks = Vec::new();
    for part in series.samples.chunks(SAMPLES_PER_CHUNK) {
        let mut appender = XorAppender::new();
        for sample in part {
            appender.append(sample.timestamp, sample.value).map_err(|error| error.to_string())?;
        }
        chunks.push(read_chunk(
            part.first().map_or(0, |sample| sample.timestamp),
            part.last().map_or(0, |sample| sample.timestamp),
            ChunkEncoding::Xor,
            appender.into_bytes(),
        ));
    }
    let (floats, integers): (Vec<_>, Vec<_>) =
        series.histograms.iter().partition(|histogram| matches!(histogram.count, Some(Count::CountFloat(_))));
    histogram_chunks(&integers, &mut chunks)?;
    float_histogram_chunks(&floats, &mut chunks)?;
    chunks.sort_by_key(|chunk| chunk.min_time_ms);
    Ok(chunks)
}

fn read_chunk(min_time_ms: i64, max_time_ms: i64, encoding: ChunkEncoding, data: Vec<u8>) -> ReadChunk {
    ReadChunk { min_time_ms, max_time_ms, encoding: encoding.as_byte(), data: Bytes::from(data) }
}

fn histogram_chunks(samples: &[&WireHistogram], chunks: &mut Vec<ReadChunk>) -> Result<(), String> {
    for part in samples.chunks(SAMPLES_PER_CHUNK) {
        let mut appender = HistogramAppender::new();
        let mut open = OpenChunk::default();
        for wire in part {
            let appended =
                appender.append(wire.timestamp, &integer(wire)).map_err(|error| error.to_string())?;
            open.took(wire.timestamp, appended, ChunkEncoding::Histogram, chunks);
        }
        open.close(ChunkEncoding::Histogram, appender.into_bytes(), chunks);
    }
    Ok(())
}

fn float_histogram_chunks(samples: &[&WireHistogram], chunks: &mut Vec<ReadChunk>) -> Result<(), String> {
    for part in samples.chunks(SAMPLES_PER_CHUNK) {
        let mut appender = FloatHistogramAppender::new();
        let mut open = OpenChunk::default();
        for wire in part {
            let appended =
                appender.append(wire.timestamp, &float(wire)).map_err(|error| error.to_string())?;
            open.took(wire.timestamp, appended, ChunkEncoding::FloatHistogram, chunks);
        }
        open.close(ChunkEncoding::FloatHistogram, appender.into_bytes(), chunks);
    }
    Ok(())
}

/// The time of the chunk that an appender is writing.
#[derive(Default)]
struct OpenChunk(Option<(i64, i64)>);

impl OpenChunk {
    /// Notes a sample, and the chunk that it finished, if it did.
    fn took(
        &mut self,
        timestamp_ms: i64,
        appended: Appended,
        encoding: ChunkEncoding,
        chunks: &mut Vec<ReadChunk>,
    ) {
        if let Appended::NewChunk { finished } = appended {
            self.close(encoding, finished, chunks);
        }
        let (min_time_ms, _) = self.0.unwrap_or((timestamp_ms, timestamp_ms));
        self.0 = Some((min_time_ms, timestamp_ms));
    }

    fn close(&mut self, encoding: ChunkEncoding, data: Vec<u8>, chunks: &mut Vec<ReadChunk>) {
        if let Some((min_time_ms, max_time_ms)) = self.0.take() {
            chunks.push(read_chunk(min_time_ms, max_time_ms, encoding, data));
        }
    }
}

fn integer(wire: &WireHistogram) -> Histogram {
    Histogram {
        counter_reset_hint: hint(wire),
        schema: wire.schema,
        zero_threshold: wire.zero_threshold,
        zero_count: match wire.zero_count {
            Some(ZeroCount::ZeroCountInt(count)) => count,
            _ => 0,
        },
        count: match wire.count {
            Some(Count::CountInt(count)) => count,
            _ => 0,
        },
        sum: wire.sum,
        positive_spans: spans(&wire.positive_spans),
        negative_spans: spans(&wire.negative_spans),
        positive_deltas: wire.positive_deltas.clone(),
        negative_deltas: wire.negative_deltas.clone(),
        custom_values: wire.custom_values.as_slice().into(),
    }
}

fn float(wire: &WireHistogram) -> FloatHistogram {
    FloatHistogram {
        counter_reset_hint: hint(wire),
        schema: wire.schema,
        zero_threshold: wire.zero_threshold,
        zero_count: match wire.zero_count {
            Some(ZeroCount::ZeroCountFloat(count)) => count,
            _ => 0.0,
        },
        count: match wire.count {
            Some(Count::CountFloat(count)) => count,
            _ => 0.0,
        },
        sum: wire.sum,
        positive_spans: spans(&wire.positive_spans),
        negative_spans: spans(&wire.negative_spans),
        positive_buckets: wire.positive_counts.clone(),
        negative_buckets: wire.negative_counts.clone(),
        custom_values: wire.custom_values.as_slice().into(),
    }
}

fn hint(wire: &WireHistogram) -> CounterResetHint {
    match wire.reset_hint() {
        ResetHint::Unknown => CounterResetHint::Unknown,
        ResetHint::Yes => CounterResetHint::Reset,
        ResetHint::No => CounterResetHint::NotReset,
        ResetHint::Gauge => CounterResetHint::Gauge,
    }
}

fn spans(wire: &[BucketSpan]) -> Vec<Span> {
    wire.iter().map(|span| Span { offset: span.offset, length: span.length }).collect()
}

#[cfg(test)]
mod tests {
    use parallax_model::{FloatColumn, HistogramColumn, TimeRange};
    use parallax_storeapi::proto::prometheus::Sample;
    use parallax_tsdb::chunk::{decode_histogram, decode_xor};

    use super::*;

    #[test]
    fn samples_survive_and_chunks_are_cut() {
        let samples: Vec<Sample> =
            (0..250).map(|i| Sample { timestamp: 1_000 * i, value: i as f64 }).collect();
        let series = TimeSeries { samples: samples.clone(), ..TimeSeries::default() };
        let chunks = encode(&series).unwrap();
        assert_eq!(
            chunks.iter().map(|c| (c.min_time_ms, c.max_time_ms)).collect::<Vec<_>>(),
            [(0, 119_000), (120_000, 239_000), (240_000, 249_000)]
        );
        let mut column = FloatColumn::default();
        for chunk in &chunks {
            decode_xor(&chunk.data, &mut column).unwrap();
        }
        assert!(column.iter().eq(samples.iter().map(|sample| (sample.timestamp, sample.value))));
    }

    #[test]
    fn a_counter_reset_of_histograms_begins_a_new_chunk() {
        let wire = |timestamp, count| WireHistogram {
            timestamp,
            count: Some(Count::CountInt(count)),
            zero_count: Some(ZeroCount::ZeroCountInt(0)),
            positive_spans: vec![BucketSpan { offset: 0, length: 1 }],
            positive_deltas: vec![count as i64],
            ..WireHistogram::default()
        };
        let histograms = vec![wire(1, 5), wire(2, 7), wire(3, 1), wire(4, 2)];
        let chunks = encode(&TimeSeries { histograms, ..TimeSeries::default() }).unwrap();
        assert_eq!(
            chunks.iter().map(|c| (c.min_time_ms, c.max_time_ms)).collect::<Vec<_>>(),
            [(1, 2), (3, 4)]
        );
        let mut column = HistogramColumn::default();
        for chunk in &chunks {
            decode_histogram(&chunk.data, TimeRange::ALL, &mut column).unwrap();
        }
        assert_eq!(column.values.iter().map(|h| h.count).collect::<Vec<_>>(), [5.0, 7.0, 1.0, 2.0]);
    }
}
