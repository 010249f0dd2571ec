//! Downsampling aggregate chunks further, along their borders.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};
use parallax_tsdb::chunk::{ChunkEncoding, sample_count};

use super::batch::{FloatParts, each_window};
use super::counter::CounterWithoutResets;
use super::float::{FloatAggregator, FloatSample};
use super::histogram::{HistogramAggregator, HistogramWindow, are_gauges, encode_windows};
use super::raw::{downsample_raw, read_floats, read_histograms};
use super::{HistogramSample, encoding, target_chunk_count};
use crate::merge::MergeFailure;

/// The resolution that raw chunks in a downsampled block are brought to first.
const FIVE_MINUTES_MS: i64 = 300_000;

/// What the counter of an aggregate chunk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Float,
    Histogram { custom: bool },
}

/// Downsamples the chunks of one series of a downsampled block; gives how many raw samples were left out.
pub(super) fn downsample_aggregates(
    chunks: &[BlockChunk],
    from_ms: i64,
    to_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<u64, MergeFailure> {
    let mut left_out = 0;
    let mut aggregates = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        if chunk.chunk.encoding == ChunkEncoding::Aggregate {
            aggregates.push(chunk.clone());
            continue;
        }
        // Blocks of old versions hold raw chunks here and there; empty ones say nothing.
        left_out += downsample_raw(std::slice::from_ref(chunk), FIVE_MINUTES_MS, &mut aggregates)?;
    }
    let mut kinds = Vec::with_capacity(aggregates.len());
    for chunk in &aggregates {
        kinds.push(kind_of(chunk).map_err(MergeFailure::of_chunk(chunk))?);
    }
    let mut rest = aggregates.as_slice();
    for run in kinds.chunk_by(PartialEq::eq) {
        let (head, tail) = rest.split_at(run.len().min(rest.len()));
        rest = tail;
        let kind = run.first().copied().unwrap_or(Kind::Float);
        downsample_run(head, kind, from_ms, to_ms, out)?;
    }
    Ok(left_out)
}

fn kind_of(chunk: &BlockChunk) -> Result<Kind, TsdbError> {
    let Some((encoding, data)) = Parts::decode(&chunk.chunk.data)?.get(Aggregate::Counter) else {
        return Ok(Kind::Float);
    };
    if !encoding.is_histogram() {
        return Ok(Kind::Float);
    }
    let mut first = Vec::new();
    // One sample tells: all of a chunk have the same schema.
    read_histograms(data, &mut first)?;
    Ok(Kind::Histogram { custom: first.first().is_some_and(|(_, first)| first.uses_custom_buckets()) })
}

fn downsample_run(
    chunks: &[BlockChunk],
    kind: Kind,
    from_ms: i64,
    to_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(()) };
    let mut samples = 0;
    for chunk in chunks {
        let parts = Parts::decode(&chunk.chunk.data).map_err(MergeFailure::of_chunk(chunk))?;
        if let Some((_, data)) = parts.get(Aggregate::Count) {
            samples += sample_count(data).map_err(MergeFailure::of_chunk(chunk))?;
        }
    }
    let targets = target_chunk_count(first.min_time_ms, last.max_time_ms, from_ms, to_ms, samples);
    let batch_size = (chunks.len() / targets).max(1);
    for batch in chunks.chunks(batch_size) {
        match kind {
            Kind::Float => out.extend(float_batch(batch, to_ms)?),
            Kind::Histogram { .. } => histogram_batch(batch, to_ms, out)?,
        }
    }
    Ok(())
}

/// Reads one aggregate of all chunks.
fn expand<S>(
    chunks: &[BlockChunk],
    aggregate: Aggregate,
    mut read: impl FnMut(&[u8], &mut Vec<S>) -> Result<u64, TsdbError>,
) -> Result<Vec<S>, MergeFailure> {
    let mut samples = Vec::new();
    for chunk in chunks {
        let parts = Parts::decode(&chunk.chunk.data).map_err(MergeFailure::of_chunk(chunk))?;
        if let Some((_, data)) = parts.get(aggregate) {
            read(data, &mut samples).map_err(MergeFailure::of_chunk(chunk))?;
        }
    }
    Ok(samples)
}

fn float_batch(chunks: &[BlockChunk], window_ms: i64) -> Result<Option<BlockChunk>, MergeFailure> {
    let mut parts = FloatParts::default();
    type Value = fn(&FloatAggregator) -> f64;
    let plain: [(Aggregate, Value); 4] = [
        // The number of raw samples is the sum of numbers.
        (Aggregate::Count, |window| window.sum),
        (Aggregate::Sum, |window| window.sum),
        (Aggregate::Min, |window| window.min),
        (Aggregate::Max, |window| window.max),
    ];
    for (aggregate, value) in plain {
        let samples: Vec<FloatSample> = expand(chunks, aggregate, read_floats)?;
        let mut aggregator = FloatAggregator::default();
        each_window(
            &samples,
            |sample| sample.0,
            window_ms,
            &mut aggregator,
            |stamp, window| parts.append(aggregate, stamp, value(window)),
        )
        .map_err(encoding)?;
    }
    let mut counter = CounterWithoutResets::default();
    let samples = expand(chunks, Aggregate::Counter, |data, out| counter.read(data, out).map(|()| 0))?;
    if let (Some(first), Some(last)) = (samples.first(), counter.last_value()) {
        parts.append_raw(Aggregate::Counter, first.0, first.1).map_err(encoding)?;
        let mut aggregator = FloatAggregator::default();
        let stamp = each_window(
            &samples,
            |sample| sample.0,
            window_ms,
            &mut aggregator,
            |stamp, window| parts.append(Aggregate::Counter, stamp, window.counter),
        )
        .map_err(encoding)?;
        if let Some(stamp) = stamp {
            parts.append_raw(Aggregate::Counter, stamp, last).map_err(encoding)?;
        }
    }
    parts.finish().map_err(encoding)
}

fn histogram_batch(
    chunks: &[BlockChunk],
    window_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let counters: Vec<HistogramSample> = expand(chunks, Aggregate::Counter, read_histograms)?;
    let sums: Vec<HistogramSample> = expand(chunks, Aggregate::Sum, read_histograms)?;
    let counts: Vec<FloatSample> = expand(chunks, Aggregate::Count, read_floats)?;
    let time_ms = |sample: &HistogramSample| sample.0;
    let mut windows = Vec::new();
    let is_gauge = are_gauges(&counters);
    each_window(
        &counters,
        time_ms,
        window_ms,
        &mut HistogramAggregator::new(&counters),
        |stamp_ms, window| {
            if is_gauge {
                window.make_gauge();
            }
            windows.push(HistogramWindow {
                stamp_ms,
                count: 0.0,
                sum: parallax_model::FloatHistogram::default(),
                counter: window.counter(),
            });
            Ok::<(), TsdbError>(())
        },
    )
    .map_err(encoding)?;
    let mut at = 0;
    each_window(&sums, time_ms, window_ms, &mut HistogramAggregator::new(&sums), |stamp_ms, window| {
        let slot = aligned(&mut windows, at, stamp_ms)?;
        slot.sum = window.sum();
        at += 1;
        Ok(())
    })
    .map_err(encoding)?;
    let mut counted = 0;
    let mut aggregator = FloatAggregator::default();
    each_window(
        &counts,
        |sample| sample.0,
        window_ms,
        &mut aggregator,
        |stamp_ms, window| {
            let slot = aligned(&mut windows, counted, stamp_ms)?;
            slot.count = window.sum;
            counted += 1;
            Ok(())
        },
    )
    .map_err(encoding)?;
    if at != windows.len() || counted != windows.len() {
        return Err(encoding(misaligned()));
    }
    encode_windows(&windows, out).map_err(encoding)
}

/// Counter, sum and count of a chunk have the same windows.
fn aligned(
    windows: &mut [HistogramWindow],
    at: usize,
    stamp_ms: i64,
) -> Result<&mut HistogramWindow, TsdbError> {
    windows.get_mut(at).filter(|window| window.stamp_ms == stamp_ms).ok_or_else(misaligned)
}

fn misaligned() -> TsdbError {
    TsdbError::invalid("aggregate chunk", "its aggregates are not of the same windows")
}
