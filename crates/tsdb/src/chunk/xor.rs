//! XOR chunks (encoding 1): float samples.
//!
//! Timestamps are stored as deltas of deltas, values as XOR with the value before; the first sample is raw. Samples come
//! out exactly as stored: a chunk of a downsampled counter ends with a repeated timestamp, and nothing here checks order
//! when it reads. Source: Prometheus `tsdb/docs/format/chunks.md` and `tsdb/chunkenc/xor.go`.

use parallax_model::{FloatColumn, TimeRange};

use super::newer::{self, BitWork};
use super::varbit::{XorReading, XorStep, XorWriting, fits_signed};
use super::{MAX_SAMPLES, Order, Steps, sample_count};
use crate::bits::{BitReader, BitWriter, top_signed};
use crate::cursor::{Cursor, put_uvarint, put_varint};
use crate::error::TsdbError;

pub(super) const WHAT: &str = "XOR chunk";

/// The sample count, as a big-endian `u16`.
pub(super) const HEADER_SIZE_BYTES: usize = 2;

/// Appends all samples of an XOR chunk to `out`. On an error `out` is left as it was.
pub fn decode_xor(bytes: &[u8], out: &mut FloatColumn) -> Result<Order, TsdbError> {
    decode_xor_range(bytes, TimeRange::ALL, out).map(Steps::order)
}

/// Appends the samples of an XOR chunk that lie in `range`. On an error `out` is left as it was.
///
/// Decoding stops at the first sample after `range`, and so does the search for damage. Gives how far apart the samples are, if each is later than the one before.
pub fn decode_xor_range(
    bytes: &[u8],
    range: TimeRange,
    out: &mut FloatColumn,
) -> Result<Option<Steps>, TsdbError> {
    let count = sample_count(bytes)?;
    // A sample takes at least two bits; a count that the bytes cannot hold must not claim memory.
    let capacity = count.min(bytes.len() * 4);
    let start = out.len();
    out.timestamps_ms.resize(start + capacity, 0);
    out.values.resize(start + capacity, 0.0);
    let timestamps = out.timestamps_ms.get_mut(start..).unwrap_or_default();
    let values = out.values.get_mut(start..).unwrap_or_default();
    let outcome = if capacity < count {
        Err(TsdbError::truncated(WHAT, bytes.len() as u64, (count - capacity).div_ceil(4) as u64))
    } else {
        newer::run(Decoding { bytes, max_ms: range.max_ms, timestamps, values })
    };
    let (decoded, steps) = *outcome.as_ref().unwrap_or(&(0, None));
    out.timestamps_ms.truncate(start + decoded);
    out.values.truncate(start + decoded);
    drop_before(out, start, steps.is_some(), range.min_ms);
    outcome.map(|(_, steps)| steps)
}

/// Decodes until the slices are full or a sample is later than `max_ms`; gives the number of samples.
struct Decoding<'a> {
    bytes: &'a [u8],
    max_ms: i64,
    timestamps: &'a mut [i64],
    values: &'a mut [f64],
}

impl BitWork for Decoding<'_> {
    type Output = Result<(usize, Option<Steps>), TsdbError>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        decode(self.bytes, self.max_ms, self.timestamps, self.values)
    }
}

/// Of times within this and ordinary [`Steps`] no 65,535 samples overflow.
const ORDINARY_MS: i64 = 1 << 60;

#[inline(always)]
fn decode(
    bytes: &[u8],
    max_ms: i64,
    timestamps: &mut [i64],
    values: &mut [f64],
) -> Result<(usize, Option<Steps>), TsdbError> {
    let mut slots = timestamps.iter_mut().zip(values.iter_mut());
    let Some((timestamp, value)) = slots.next() else {
        return Ok((0, Some(Steps::NONE)));
    };
    let mut state = XorState::<XorReading>::first(bytes)?;
    if state.timestamp > max_ms {
        return Ok((0, Some(Steps::NONE)));
    }
    let is_ordinary = is_ordinary(state.timestamp);
    (*timestamp, *value) = (state.timestamp, state.value.value());
    let Some((timestamp, value)) = slots.next() else {
        return Ok((1, Some(Steps::NONE)));
    };
    state.second(bytes)?;
    let mut decoded = 1;
    if state.timestamp <= max_ms {
        (*timestamp, *value) = (state.timestamp, state.value.value());
        decoded = 2;
        for (timestamp, value) in slots {
            state.advance();
            if state.timestamp > max_ms {
                break;
            }
            (*timestamp, *value) = (state.timestamp, state.value.value());
            decoded += 1;
        }
    }
    state.check()?;
    Ok((decoded, state.steps().filter(|_| is_ordinary)))
}

/// Whether behind this first time [`XorState::steps`] says all about order.
pub(super) fn is_ordinary(first_ms: i64) -> bool {
    first_ms > -ORDINARY_MS && first_ms < ORDINARY_MS
}

/// Removes the samples before `min_ms` among those from index `start` on.
fn drop_before(out: &mut FloatColumn, start: usize, ascends: bool, min_ms: i64) {
    let added = out.timestamps_ms.get(start..).unwrap_or_default();
    if min_ms == i64::MIN || ascends && added.first().is_none_or(|first| *first >= min_ms) {
        return;
    }
    let mut kept = start;
    for index in start..out.len() {
        if out.timestamps_ms[index] >= min_ms {
            out.timestamps_ms[kept] = out.timestamps_ms[index];
            out.values[kept] = out.values[index];
            kept += 1;
        }
    }
    out.timestamps_ms.truncate(kept);
    out.values.truncate(kept);
}

/// The state between two samples.
#[derive(Clone, Debug)]
pub(super) struct XorState<'a, V> {
    pub(super) reader: BitReader<'a>,
    pub(super) timestamp: i64,
    delta: i64,
    pub(super) value: V,
    taken: Steps,
}

impl<'a, V: XorStep> XorState<'a, V> {
    /// The first sample: a varint and a raw float.
    #[inline]
    pub(super) fn first(bytes: &'a [u8]) -> Result<Self, TsdbError> {
        let mut cursor = Cursor::new(WHAT, bytes);
        cursor.skip(HEADER_SIZE_BYTES)?;
        let timestamp = cursor.varint64()?;
        let value = V::first(cursor.be_u64()?);
        let reader = BitReader::new(bytes, cursor.position());
        Ok(Self { reader, timestamp, delta: 0, value, taken: Steps::NONE })
    }

    /// The second sample: a uvarint, still aligned to a byte, and the first float that is stored as XOR.
    #[inline]
    pub(super) fn second(&mut self, bytes: &'a [u8]) -> Result<(), TsdbError> {
        let position = (self.reader.position_bits() / 8) as usize;
        let mut cursor = Cursor::at(WHAT, position as u64, bytes.get(position..).unwrap_or_default());
        self.delta = cursor.uvarint64()? as i64;
        self.taken = self.taken.and(self.delta);
        self.timestamp = self.timestamp.wrapping_add(self.delta);
        self.reader = BitReader::new(bytes, position + cursor.position());
        let window = self.reader.window();
        self.value.step(&mut self.reader, window, 0);
        Ok(())
    }

    /// Every further sample. Wraps on overflow, as Prometheus does.
    #[inline(always)]
    pub(super) fn advance(&mut self) {
        let window = self.reader.window();
        if window >> 63 == 0 {
            self.timestamp = self.timestamp.wrapping_add(self.delta);
            return self.value.step(&mut self.reader, window << 1, 1);
        }
        self.delta = self.delta.wrapping_add(read_delta_change(&mut self.reader, window));
        self.taken = self.taken.and(self.delta);
        self.timestamp = self.timestamp.wrapping_add(self.delta);
        let window = self.reader.window();
        self.value.step(&mut self.reader, window, 0);
    }

    /// The steps so far, if every one of them went forward, and not too far.
    #[inline]
    pub(super) fn steps(&self) -> Option<Steps> {
        self.taken.ascend().then_some(self.taken)
    }

    pub(super) fn check(&self) -> Result<(), TsdbError> {
        self.reader.check(WHAT)?;
        if self.value.reading().broken {
            return Err(TsdbError::corrupt(
                WHAT,
                self.reader.position_bits() / 8,
                "a value has more than 64 significant bits",
            ));
        }
        Ok(())
    }
}

/// Reads a delta of deltas that is not zero, from a window that is not consumed yet.
#[inline]
fn read_delta_change(reader: &mut BitReader<'_>, window: u64) -> i64 {
    let (prefix, size) = match window.leading_ones() {
        0 | 1 => (2, 14),
        2 => (3, 17),
        3 => (4, 20),
        _ => {
            reader.consume(4);
            return reader.read(64) as i64;
        }
    };
    reader.consume(prefix + size);
    top_signed(window << prefix, size)
}

/// Reads an XOR chunk sample by sample. Ends after the first error.
#[derive(Clone, Debug)]
pub struct XorReader<'a> {
    bytes: &'a [u8],
    total: usize,
    read: usize,
    state: Option<XorState<'a, XorReading>>,
}

impl<'a> XorReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Result<Self, TsdbError> {
        Ok(Self { bytes, total: sample_count(bytes)?, read: 0, state: None })
    }

    /// How many samples are still to come, if the chunk is whole.
    pub fn remaining(&self) -> usize {
        self.total - self.read
    }

    fn advance(&mut self) -> Result<(i64, f64), TsdbError> {
        let state = match &mut self.state {
            None => self.state.insert(XorState::first(self.bytes)?),
            Some(state) => {
                if self.read == 1 {
                    state.second(self.bytes)?;
                } else {
                    state.advance();
                }
                state.check()?;
                state
            }
        };
        Ok((state.timestamp, state.value.value()))
    }
}

impl Iterator for XorReader<'_> {
    type Item = Result<(i64, f64), TsdbError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.total {
            return None;
        }
        let sample = self.advance();
        self.read = if sample.is_ok() { self.read + 1 } else { self.total };
        Some(sample)
    }
}

/// Writes an XOR chunk, byte by byte what Prometheus writes for the same samples.
#[derive(Clone, Debug)]
pub struct XorAppender {
    writer: BitWriter,
    samples: u16,
    timestamp: i64,
    delta: i64,
    value: XorWriting,
}

impl Default for XorAppender {
    fn default() -> Self {
        Self::new()
    }
}

impl XorAppender {
    pub fn new() -> Self {
        Self {
            writer: BitWriter::new(vec![0; HEADER_SIZE_BYTES]),
            samples: 0,
            timestamp: 0,
            delta: 0,
            value: XorWriting::starting(0.0),
        }
    }

    pub fn sample_count(&self) -> usize {
        usize::from(self.samples)
    }

    /// The chunk so far; always whole.
    pub fn bytes(&self) -> &[u8] {
        self.writer.bytes()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.writer.into_bytes()
    }

    /// Appends a sample. Time may stand still (downsampled counters need it) but not go back.
    pub fn append(&mut self, timestamp_ms: i64, value: f64) -> Result<(), TsdbError> {
        if self.sample_count() == MAX_SAMPLES {
            return Err(TsdbError::invalid(WHAT, "it is full"));
        }
        if self.samples > 0 && timestamp_ms < self.timestamp {
            return Err(TsdbError::out_of_order(
                WHAT,
                format!("a sample at {timestamp_ms} ms follows one at {} ms", self.timestamp),
            ));
        }
        let mut delta = timestamp_ms.wrapping_sub(self.timestamp);
        match self.samples {
            0 => {
                let mut aligned = Vec::with_capacity(10);
                put_varint(&mut aligned, timestamp_ms);
                self.write_bytes(&aligned);
                delta = 0;
            }
            1 => {
                let mut aligned = Vec::with_capacity(10);
                put_uvarint(&mut aligned, delta as u64);
                self.write_bytes(&aligned);
            }
            _ => self.write_delta_change(delta.wrapping_sub(self.delta)),
        }
        if self.samples == 0 {
            self.writer.write(value.to_bits(), 64);
            self.value = XorWriting::starting(value);
        } else {
            self.value.append(&mut self.writer, value);
        }
        self.timestamp = timestamp_ms;
        self.delta = delta;
        self.samples += 1;
        self.writer.patch(0, &self.samples.to_be_bytes());
        Ok(())
    }

    fn write_bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.writer.write(u64::from(*byte), 8);
        }
    }

    fn write_delta_change(&mut self, change: i64) {
        let bits = change as u64;
        if change == 0 {
            self.writer.write_bit(false);
        } else if fits_signed(change, 14) {
            self.writer.write(0b10, 2);
            self.writer.write(bits, 14);
        } else if fits_signed(change, 17) {
            self.writer.write(0b110, 3);
            self.writer.write(bits, 17);
        } else if fits_signed(change, 20) {
            self.writer.write(0b1110, 4);
            self.writer.write(bits, 20);
        } else {
            self.writer.write(0b1111, 4);
            self.writer.write(bits, 64);
        }
    }
}
