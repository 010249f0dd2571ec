//! Downsampling raw chunks.

use parallax_model::float::is_stale;
use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{ChunkEncoding, FloatHistogramReader, HistogramReader, XorReader};

use super::float::{FloatSample, float_batch};
use super::histogram::histogram_batch;
use super::{HistogramSample, encoding, target_chunk_count, window_end_ms};
use crate::merge::MergeFailure;

/// The resolution of raw samples that the number of chunks is guessed from.
const ASSUMED_RAW_MS: i64 = 60_000;

/// Samples of a series that are of one kind, without staleness markers.
#[derive(Debug, Default)]
pub(super) struct RawRun {
    floats: Vec<FloatSample>,
    histograms: Vec<HistogramSample>,
}

/// Downsamples the raw chunks of one series.
pub(super) fn downsample_raw(
    chunks: &[BlockChunk],
    window_ms: i64,
    out: &mut Vec<BlockChunk>,
) -> Result<(), MergeFailure> {
    let mut run = RawRun::default();
    let mut last_is_histogram = None;
    for chunk in chunks {
        let is_histogram = chunk.chunk.encoding.is_histogram();
        if last_is_histogram.is_some_and(|last| last != is_histogram) {
            run.flush(window_ms, out).map_err(encoding)?;
        }
        last_is_histogram = Some(is_histogram);
        run.read(chunk).map_err(MergeFailure::of_chunk(chunk))?;
    }
    run.flush(window_ms, out).map_err(encoding)
}

impl RawRun {
    /// Adds the samples of a chunk. Staleness markers are left out, and samples that go back in time.
    pub(super) fn read(&mut self, chunk: &BlockChunk) -> Result<(), TsdbError> {
        let data = &chunk.chunk.data;
        match chunk.chunk.encoding {
            ChunkEncoding::Xor => read_floats(data, &mut self.floats),
            ChunkEncoding::Histogram => {
                let mut reader = HistogramReader::new(data)?;
                while let Some(time_ms) = reader.advance()? {
                    push_histogram(&mut self.histograms, (time_ms, reader.float_histogram()));
                }
                Ok(())
            }
            ChunkEncoding::FloatHistogram => read_histograms(data, &mut self.histograms),
            encoding => Err(TsdbError::unsupported("raw chunk", 0, "encoding", encoding.as_byte())),
        }
    }

    /// Downsamples what was read, and forgets it.
    pub(super) fn flush(&mut self, window_ms: i64, out: &mut Vec<BlockChunk>) -> Result<(), TsdbError> {
        each_batch(
            &self.floats,
            |sample| sample.0,
            window_ms,
            |batch| {
                let batch: Vec<FloatSample> =
                    batch.iter().filter(|(_, value)| !value.is_nan()).copied().collect();
                out.extend(float_batch(&batch, window_ms)?);
                Ok(())
            },
        )?;
        // Histograms with custom buckets do not add up with others.
        for run in self.histograms.chunk_by(|a, b| a.1.uses_custom_buckets() == b.1.uses_custom_buckets()) {
            each_batch(
                run,
                |sample| sample.0,
                window_ms,
                |batch| {
                    let batch: Vec<HistogramSample> =
                        batch.iter().filter(|(_, histogram)| !histogram.sum.is_nan()).cloned().collect();
                    histogram_batch(&batch, window_ms, out)
                },
            )?;
        }
        self.floats.clear();
        self.histograms.clear();
        Ok(())
    }
}

/// Adds the samples of an XOR chunk that are no staleness markers and do not go back in time.
pub(super) fn read_floats(data: &[u8], out: &mut Vec<FloatSample>) -> Result<(), TsdbError> {
    let mut last_ms = i64::MIN;
    for sample in XorReader::new(data)? {
        let (time_ms, value) = sample?;
        if !is_stale(value) && time_ms >= last_ms {
            out.push((time_ms, value));
            last_ms = time_ms;
        }
    }
    Ok(())
}

/// Adds the samples of a float histogram chunk that are no staleness markers.
pub(super) fn read_histograms(data: &[u8], out: &mut Vec<HistogramSample>) -> Result<(), TsdbError> {
    let mut reader = FloatHistogramReader::new(data)?;
    while let Some(time_ms) = reader.advance()? {
        push_histogram(out, (time_ms, reader.float_histogram()));
    }
    Ok(())
}

fn push_histogram(out: &mut Vec<HistogramSample>, sample: HistogramSample) {
    let goes_back = out.last().is_some_and(|last| sample.0 < last.0);
    if !sample.1.is_stale() && !goes_back {
        out.push(sample);
    }
}

/// Cuts samples into batches of about equal size, each of whole windows.
fn each_batch<S>(
    samples: &[S],
    time_ms: impl Fn(&S) -> i64,
    window_ms: i64,
    mut batch: impl FnMut(&[S]) -> Result<(), TsdbError>,
) -> Result<(), TsdbError> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Ok(()) };
    let chunks = target_chunk_count(time_ms(first), time_ms(last), ASSUMED_RAW_MS, window_ms, samples.len());
    let batch_size = samples.len() / chunks + 1;
    let mut rest = samples;
    while !rest.is_empty() {
        let mut size = batch_size.min(rest.len());
        if let Some(last) = rest.get(size - 1) {
            let end_ms = window_end_ms(time_ms(last), window_ms);
            size += rest.iter().skip(size).take_while(|sample| time_ms(sample) <= end_ms).count();
        }
        let (head, tail) = rest.split_at(size);
        batch(head)?;
        rest = tail;
    }
    Ok(())
}
