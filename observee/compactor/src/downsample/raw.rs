//! Downsampling raw chunks.
//!
//! How samples are cut into batches depends on how many there are and from when to when. A run of samples is decoded at once if it is not too long; a longer one is
//! decoded twice, once to count and once to aggregate, and of it no more is held than a batch and a chunk.

use parallax_model::FloatColumn;
use parallax_model::float::is_stale;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{ChunkEncoding, FloatHistogramReader, HistogramReader, Order, decode_xor};

use super::float::{FloatSample, float_batch};
use super::histogram::histogram_batch;
use super::{HistogramSample, encoding, target_chunk_count, window_end_ms};
use crate::merge::MergeFailure;
use crate::merge::account::samples_of;

/// The resolution of raw samples that the number of chunks is guessed from.
const ASSUMED_RAW_MS: i64 = 60_000;

/// Longer runs are decoded twice.
const MAX_HELD: MaxHeld = MaxHeld { floats: 256 << 10, histograms: 4 << 10 };

/// How many samples of a run may be held.
#[derive(Clone, Copy, Debug)]
struct MaxHeld {
    floats: u64,
    histograms: u64,
}

/// Downsamples the raw chunks of one series; gives how many samples were left out: staleness markers, NaN, samples that go back in time.
pub(super) fn downsample_raw(
    chunks: &[BlockChunk],
    window_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<u64, MergeFailure> {
    downsample_runs(chunks, window_ms, MAX_HELD, out)
}

fn downsample_runs(
    chunks: &[BlockChunk],
    window_ms: i64,
    most: MaxHeld,
    out: &mut Vec<BlockChunk>,
) -> Result<u64, MergeFailure> {
    let is_histogram = |chunk: &BlockChunk| chunk.chunk.encoding.is_histogram();
    let mut left_out = 0;
    for run in chunks.chunk_by(|a, b| is_histogram(a) == is_histogram(b)) {
        let left_out = &mut left_out;
        if run.first().is_some_and(is_histogram) {
            downsample_run::<HistogramSample>(run, window_ms, most.histograms, left_out, out)?;
        } else {
            downsample_run::<FloatSample>(run, window_ms, most.floats, left_out, out)?;
        }
    }
    Ok(left_out)
}

/// A raw sample of one kind.
trait RawSample: Sized {
    fn time_ms(&self) -> i64;

    /// Whether two samples may stand in one batch.
    fn goes_with(&self, other: &Self) -> bool;

    /// Adds the samples of a chunk; gives how many were left out. `column` is memory that is used again.
    fn read(chunk: &BlockChunk, column: &mut FloatColumn, out: &mut Vec<Self>) -> Result<u64, TsdbError>;

    /// Aggregates a batch; gives how many samples were left out.
    fn aggregate(batch: &[Self], window_ms: i64, out: &mut Vec<BlockChunk>) -> Result<u64, TsdbError>;
}

impl RawSample for FloatSample {
    fn time_ms(&self) -> i64 {
        self.0
    }

    fn goes_with(&self, _: &Self) -> bool {
        true
    }

    fn read(chunk: &BlockChunk, column: &mut FloatColumn, out: &mut Vec<Self>) -> Result<u64, TsdbError> {
        match chunk.chunk.encoding {
            ChunkEncoding::Xor => read_floats_in(column, &chunk.chunk.data, out),
            encoding => Err(TsdbError::unsupported("raw chunk", 0, "encoding", encoding.as_byte())),
        }
    }

    fn aggregate(batch: &[Self], window_ms: i64, out: &mut Vec<BlockChunk>) -> Result<u64, TsdbError> {
        if !batch.iter().any(|(_, value)| value.is_nan()) {
            out.extend(float_batch(batch, window_ms)?);
            return Ok(0);
        }
        let numbers: Vec<Self> = batch.iter().filter(|(_, value)| !value.is_nan()).copied().collect();
        out.extend(float_batch(&numbers, window_ms)?);
        Ok((batch.len() - numbers.len()) as u64)
    }
}

impl RawSample for HistogramSample {
    fn time_ms(&self) -> i64 {
        self.0
    }

    /// Histograms with custom buckets do not add up with others.
    fn goes_with(&self, other: &Self) -> bool {
        self.1.uses_custom_buckets() == other.1.uses_custom_buckets()
    }

    fn read(chunk: &BlockChunk, _: &mut FloatColumn, out: &mut Vec<Self>) -> Result<u64, TsdbError> {
        let data = &chunk.chunk.data;
        match chunk.chunk.encoding {
            ChunkEncoding::Histogram => {
                let mut filter = InOrder::default();
                let mut reader = HistogramReader::new(data)?;
                while let Some(time_ms) = reader.advance()? {
                    filter.push((time_ms, reader.float_histogram()), out);
                }
                Ok(filter.left_out)
            }
            _ => read_histograms(data, out),
        }
    }

    fn aggregate(batch: &[Self], window_ms: i64, out: &mut Vec<BlockChunk>) -> Result<u64, TsdbError> {
        let numbers: Vec<Self> =
            batch.iter().filter(|(_, histogram)| !histogram.sum.is_nan()).cloned().collect();
        histogram_batch(&numbers, window_ms, out)?;
        Ok((batch.len() - numbers.len()) as u64)
    }
}

/// Samples that follow each other and go together: what the size of batches depends on.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    count: usize,
    first_ms: i64,
    last_ms: i64,
}

impl Stretch {
    fn of<S: RawSample>(samples: &[S]) -> Option<Self> {
        let (first_ms, last_ms) = (samples.first()?.time_ms(), samples.last()?.time_ms());
        Some(Self { count: samples.len(), first_ms, last_ms })
    }

    /// Of about equal size.
    fn batch_size(self, window_ms: i64) -> usize {
        let chunks = target_chunk_count(self.first_ms, self.last_ms, ASSUMED_RAW_MS, window_ms, self.count);
        self.count / chunks + 1
    }
}

fn downsample_run<S: RawSample>(
    chunks: &[BlockChunk],
    window_ms: i64,
    most_held: u64,
    left_out: &mut u64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let mut count = 0;
    for chunk in chunks {
        count += samples_of(chunk).map_err(MergeFailure::of_chunk(chunk))?;
    }
    if count > most_held {
        return downsample_twice::<S>(chunks, window_ms, left_out, out);
    }
    let (mut samples, mut column) = (Vec::new(), FloatColumn::default());
    for chunk in chunks {
        *left_out += S::read(chunk, &mut column, &mut samples).map_err(MergeFailure::of_chunk(chunk))?;
    }
    for stretch in samples.chunk_by(S::goes_with) {
        let Some(batch_size) = Stretch::of(stretch).map(|stretch| stretch.batch_size(window_ms)) else {
            continue;
        };
        let mut rest = stretch;
        while let Some(size) = next_batch(rest, batch_size, window_ms, true) {
            let (batch, tail) = rest.split_at(size);
            *left_out += S::aggregate(batch, window_ms, out).map_err(encoding)?;
            rest = tail;
        }
    }
    Ok(())
}

/// As if all samples had been held.
fn downsample_twice<S: RawSample>(
    chunks: &[BlockChunk],
    window_ms: i64,
    left_out: &mut u64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let mut stretches = stretches::<S>(chunks)?.into_iter();
    let mut held: Vec<S> = Vec::new();
    let mut column = FloatColumn::default();
    let Some(mut stretch) = stretches.next() else {
        // Nothing but what is left out.
        for chunk in chunks {
            *left_out += S::read(chunk, &mut column, &mut held).map_err(MergeFailure::of_chunk(chunk))?;
        }
        return Ok(());
    };
    let mut batch_size = stretch.batch_size(window_ms);
    for chunk in chunks {
        *left_out += S::read(chunk, &mut column, &mut held).map_err(MergeFailure::of_chunk(chunk))?;
        loop {
            let is_last = held.len() >= stretch.count;
            let of_stretch = held.get(..stretch.count.min(held.len())).unwrap_or_default();
            if let Some(size) = next_batch(of_stretch, batch_size, window_ms, is_last) {
                let batch = of_stretch.get(..size).unwrap_or_default();
                *left_out += S::aggregate(batch, window_ms, out).map_err(encoding)?;
                held.drain(..size);
                stretch.count -= size;
                continue;
            }
            if stretch.count > 0 {
                break;
            }
            let Some(next) = stretches.next() else { break };
            batch_size = next.batch_size(window_ms);
            stretch = next;
        }
    }
    Ok(())
}

/// How many samples go together, without holding them.
fn stretches<S: RawSample>(chunks: &[BlockChunk]) -> Result<Vec<Stretch>, MergeFailure> {
    let mut found: Vec<Stretch> = Vec::new();
    let mut samples: Vec<S> = Vec::new();
    let mut column = FloatColumn::default();
    for chunk in chunks {
        // The last sample of the chunk before stays, to be compared with.
        let kept = usize::from(!samples.is_empty());
        samples.drain(..samples.len() - kept);
        S::read(chunk, &mut column, &mut samples).map_err(MergeFailure::of_chunk(chunk))?;
        let mut is_continued = kept > 0;
        for part in samples.chunk_by(S::goes_with) {
            let counted = if is_continued { part.get(1..).unwrap_or_default() } else { part };
            if let Some(stretch) = Stretch::of(counted) {
                match found.last_mut().filter(|_| is_continued) {
                    Some(last) => {
                        last.count += stretch.count;
                        last.last_ms = stretch.last_ms;
                    }
                    None => found.push(stretch),
                }
            }
            is_continued = false;
        }
    }
    Ok(found)
}

/// The size of the first batch: whole windows. `None` if there is none (yet: unless `is_last`, more samples may follow).
fn next_batch<S: RawSample>(
    samples: &[S],
    batch_size: usize,
    window_ms: i64,
    is_last: bool,
) -> Option<usize> {
    let mut size = batch_size.min(samples.len());
    let end_ms = window_end_ms(samples.get(size.checked_sub(1)?)?.time_ms(), window_ms);
    size += samples.iter().skip(size).take_while(|sample| sample.time_ms() <= end_ms).count();
    (is_last || size < samples.len()).then_some(size)
}

/// Adds the samples of an XOR chunk that are no staleness markers and do not go back in time; gives how many were left out.
pub(super) fn read_floats(data: &[u8], out: &mut Vec<FloatSample>) -> Result<u64, TsdbError> {
    read_floats_in(&mut FloatColumn::default(), data, out)
}

fn read_floats_in(
    column: &mut FloatColumn,
    data: &[u8],
    out: &mut Vec<FloatSample>,
) -> Result<u64, TsdbError> {
    column.timestamps_ms.clear();
    column.values.clear();
    let order = decode_xor(data, column)?;
    if order == Order::Ascending && !column.values.iter().any(|value| is_stale(*value)) {
        out.extend(column.timestamps_ms.iter().copied().zip(column.values.iter().copied()));
        return Ok(0);
    }
    let mut last_ms = i64::MIN;
    let mut left_out = 0;
    for (time_ms, value) in column.iter() {
        if !is_stale(value) && time_ms >= last_ms {
            out.push((time_ms, value));
            last_ms = time_ms;
        } else {
            left_out += 1;
        }
    }
    Ok(left_out)
}

/// Adds the samples of a float histogram chunk that are no staleness markers; gives how many were left out.
pub(super) fn read_histograms(data: &[u8], out: &mut Vec<HistogramSample>) -> Result<u64, TsdbError> {
    let mut filter = InOrder::default();
    let mut reader = FloatHistogramReader::new(data)?;
    while let Some(time_ms) = reader.advance()? {
        filter.push((time_ms, reader.float_histogram()), out);
    }
    Ok(filter.left_out)
}

/// Leaves out staleness markers, and samples that go back in time within a chunk.
#[derive(Default)]
struct InOrder {
    last_ms: Option<i64>,
    left_out: u64,
}

impl InOrder {
    fn push(&mut self, sample: HistogramSample, out: &mut Vec<HistogramSample>) {
        if sample.1.is_stale() || self.last_ms.is_some_and(|last_ms| sample.0 < last_ms) {
            self.left_out += 1;
            return;
        }
        self.last_ms = Some(sample.0);
        out.push(sample);
    }
}

#[cfg(test)]
mod tests;
