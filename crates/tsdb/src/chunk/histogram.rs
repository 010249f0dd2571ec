//! Reading histogram chunks of both kinds, sample by sample or into a column.
//!
//! The counter reset hint of a sample is the one that Prometheus' iterator reports: gauges say so; in counter chunks the
//! samples after the first have no reset before them; of the first nothing is known, whatever the header says, because the
//! chunk before it may be gone. A staleness marker is a histogram with nothing but the stale NaN as its sum.

use std::sync::Arc;

use parallax_model::float::is_stale;
use parallax_model::{CounterResetHint, FloatHistogram, Histogram, HistogramColumn, TimeRange};

use super::kind::Kind;
use super::layout::Layout;
use super::resolution::reduced;
use super::varbit::read_varbit_int;
use super::{HISTOGRAM_HEADER_SIZE_BYTES, counter_reset_header, sample_count};
use crate::bits::BitReader;
use crate::error::TsdbError;

/// Appends the samples of a histogram chunk that lie in `range`, with float counts. On an error `out` is left as it was.
pub fn decode_histogram(bytes: &[u8], range: TimeRange, out: &mut HistogramColumn) -> Result<(), TsdbError> {
    decode::<Histogram>(bytes, range, out)
}

/// Appends the samples of a float histogram chunk that lie in `range`. On an error `out` is left as it was.
pub fn decode_float_histogram(
    bytes: &[u8],
    range: TimeRange,
    out: &mut HistogramColumn,
) -> Result<(), TsdbError> {
    decode::<FloatHistogram>(bytes, range, out)
}

fn decode<K: Kind>(bytes: &[u8], range: TimeRange, out: &mut HistogramColumn) -> Result<(), TsdbError> {
    let start = out.len();
    let outcome = decode_into::<K>(bytes, range, out);
    if outcome.is_err() {
        out.timestamps_ms.truncate(start);
        out.values.truncate(start);
    }
    outcome
}

fn decode_into<K: Kind>(bytes: &[u8], range: TimeRange, out: &mut HistogramColumn) -> Result<(), TsdbError> {
    let mut reader = SampleReader::<K>::new(bytes)?;
    while let Some(timestamp_ms) = reader.advance()? {
        if timestamp_ms > range.max_ms {
            break;
        }
        if timestamp_ms >= range.min_ms {
            out.push(timestamp_ms, Arc::new(reader.float_histogram()));
        }
    }
    Ok(())
}

/// Reads a histogram chunk with integer counts, losslessly.
pub type HistogramReader<'a> = SampleReader<'a, Histogram>;

/// Reads a float histogram chunk.
pub type FloatHistogramReader<'a> = SampleReader<'a, FloatHistogram>;

/// Reads a chunk of one kind of histogram sample by sample: [`Self::advance`], then ask for the sample in the form wanted.
///
/// As an iterator it gives timestamps and histograms of the chunk's own kind, and ends after the first error.
#[derive(Clone, Debug)]
pub struct SampleReader<'a, K: Kind> {
    reader: BitReader<'a>,
    header: CounterResetHint,
    total: usize,
    read: usize,
    timestamp: i64,
    delta: i64,
    layout: Layout,
    state: Option<K::Reading>,
}

impl<'a, K: Kind> SampleReader<'a, K> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, TsdbError> {
        Ok(Self {
            reader: BitReader::new(bytes, HISTOGRAM_HEADER_SIZE_BYTES),
            header: counter_reset_header(bytes)?,
            total: sample_count(bytes)?,
            read: 0,
            timestamp: 0,
            delta: 0,
            layout: Layout::default(),
            state: None,
        })
    }

    /// What the header of the chunk says about its first sample's predecessor.
    pub fn header(&self) -> CounterResetHint {
        self.header
    }

    /// How many samples are still to come, if the chunk is whole.
    pub fn remaining(&self) -> usize {
        self.total - self.read
    }

    /// Moves to the next sample and gives its timestamp in milliseconds; `None` after the last one.
    pub fn advance(&mut self) -> Result<Option<i64>, TsdbError> {
        if self.read == self.total {
            return Ok(None);
        }
        let outcome = self.read_sample();
        self.read = if outcome.is_ok() { self.read + 1 } else { self.total };
        outcome.map(|()| Some(self.timestamp))
    }

    fn read_sample(&mut self) -> Result<(), TsdbError> {
        match &mut self.state {
            None => {
                self.layout = Layout::read(K::WHAT, &mut self.reader)?;
                self.timestamp = read_varbit_int(&mut self.reader);
                self.state = Some(K::read_first(&mut self.reader, &self.layout)?);
            }
            Some(state) => {
                self.delta = self.delta.wrapping_add(read_varbit_int(&mut self.reader));
                self.timestamp = self.timestamp.wrapping_add(self.delta);
                K::read_next(state, &mut self.reader);
                // A cut window looks broken, too.
                self.reader.check(K::WHAT)?;
                if K::is_broken(state) {
                    return Err(TsdbError::corrupt(
                        K::WHAT,
                        self.reader.position_bits() / 8,
                        "a float has more than 64 significant bits",
                    ));
                }
            }
        }
        self.reader.check(K::WHAT)
    }

    fn hint(&self) -> CounterResetHint {
        match self.header {
            CounterResetHint::Gauge => CounterResetHint::Gauge,
            _ if self.read > 1 => CounterResetHint::NotReset,
            _ => CounterResetHint::Unknown,
        }
    }

    /// The present sample as it is stored (in at most the finest schema known); an empty one before the first [`Self::advance`].
    pub fn histogram(&self) -> K {
        match &self.state {
            None => K::only_sum(0.0),
            Some(state) if is_stale(K::read_sum(state).value()) => K::only_sum(K::read_sum(state).value()),
            Some(state) => reduced(K::build(state, &self.layout, self.hint())),
        }
    }

    /// The present sample with float counts.
    pub fn float_histogram(&self) -> FloatHistogram {
        match &self.state {
            None => FloatHistogram::default(),
            Some(state) if is_stale(K::read_sum(state).value()) => {
                FloatHistogram::only_sum(K::read_sum(state).value())
            }
            Some(state) => reduced(K::build_float(state, &self.layout, self.hint())),
        }
    }
}

impl<K: Kind> Iterator for SampleReader<'_, K> {
    type Item = Result<(i64, K), TsdbError>;

    fn next(&mut self) -> Option<Self::Item> {
        let timestamp_ms = self.advance().transpose()?;
        Some(timestamp_ms.map(|timestamp_ms| (timestamp_ms, self.histogram())))
    }
}
