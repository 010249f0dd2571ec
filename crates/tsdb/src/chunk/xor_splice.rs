//! XOR chunks put together from parts of others: most of their bits are moved, not made anew.
//!
//! How a sample is written depends on the one before, on the step of time before it, and on the window of bits in use. Where a chunk in the making has come to the same three as the
//! chunk that its samples come from, all further bits of that chunk are what an encoder would write. Until then (the window may differ for some samples) they are encoded. So of a
//! source that was written by a Prometheus the bytes are those of [`super::encode_xor`]; of any other the samples are the same.

use parallax_model::FloatColumn;

use super::newer::{self, BitWork};
use super::varbit::{XorTracing, XorWindow};
use super::xor::{HEADER_SIZE_BYTES, WHAT, XorState, is_ordinary};
use super::xor_encode::{Bits, Xored};
use super::{MAX_SAMPLES, Order, Steps, sample_count};
use crate::cursor::{put_uvarint, put_varint};
use crate::error::TsdbError;

/// Of each sample of a column where it ends in its chunk, and the window in use behind it. May be longer than the column: what stands there means nothing.
#[derive(Clone, Debug, Default)]
pub struct XorTrace {
    /// In bits, from the beginning of the chunk.
    pub ends: Vec<u32>,
    pub windows: Vec<XorWindow>,
}

impl XorTrace {
    /// Makes room for so many samples, if there is less.
    pub fn reach(&mut self, len: usize) {
        if self.ends.len() < len {
            self.ends.resize(len, 0);
            self.windows.resize(len, XorWindow::NONE);
        }
    }

    /// Forgets the first samples.
    pub fn let_go(&mut self, count: usize) {
        self.ends.drain(..count.min(self.ends.len()));
        self.windows.drain(..count.min(self.windows.len()));
    }
}

/// As [`super::decode_xor`], with a trace, which is at least as long as the column afterwards; of the first `most` samples, behind which damage goes unseen.
pub fn decode_xor_traced(
    bytes: &[u8],
    most: usize,
    out: &mut FloatColumn,
    trace: &mut XorTrace,
) -> Result<Order, TsdbError> {
    let count = sample_count(bytes)?.min(most);
    // As without a trace: a count that the bytes cannot hold must not claim memory.
    let capacity = count.min(bytes.len() * 4);
    if capacity < count {
        let missing = (count - capacity).div_ceil(4) as u64;
        return Err(TsdbError::truncated(WHAT, bytes.len() as u64, missing));
    }
    if u32::try_from(bytes.len().saturating_mul(8)).is_err() {
        return Err(TsdbError::invalid(WHAT, "it takes more than 512 MiB"));
    }
    let start = out.len();
    let end = start + count;
    out.timestamps_ms.resize(end, 0);
    out.values.resize(end, 0.0);
    trace.reach(end);
    let slots = Slots {
        times: out.timestamps_ms.get_mut(start..).unwrap_or_default(),
        values: out.values.get_mut(start..).unwrap_or_default(),
        ends: trace.ends.get_mut(start..end).unwrap_or_default(),
        windows: trace.windows.get_mut(start..end).unwrap_or_default(),
    };
    let outcome = newer::run(Decoding { bytes, slots });
    if outcome.is_err() {
        out.timestamps_ms.truncate(start);
        out.values.truncate(start);
    }
    outcome
}

/// Where the samples of one chunk go; all of one length.
struct Slots<'a> {
    times: &'a mut [i64],
    values: &'a mut [f64],
    ends: &'a mut [u32],
    windows: &'a mut [XorWindow],
}

/// Decodes until the slots are full.
struct Decoding<'a> {
    bytes: &'a [u8],
    slots: Slots<'a>,
}

impl BitWork for Decoding<'_> {
    type Output = Result<Order, TsdbError>;

    #[inline(always)]
    fn run(self) -> Self::Output {
        decode(self.bytes, self.slots)
    }
}

#[inline(always)]
fn decode(bytes: &[u8], slots: Slots<'_>) -> Result<Order, TsdbError> {
    let Slots { times, values, ends, windows } = slots;
    let samples = times.iter_mut().zip(values.iter_mut());
    let mut slots = samples.zip(ends.iter_mut().zip(windows.iter_mut()));
    let Some(((time, value), (end, window))) = slots.next() else { return Ok(Order::Ascending) };
    let mut state = XorState::<XorTracing>::first(bytes)?;
    let is_ordinary = is_ordinary(state.timestamp);
    (*time, *value) = (state.timestamp, state.value.value());
    (*end, *window) = (position(&state), state.value.window());
    if let Some(((time, value), (end, window))) = slots.next() {
        state.second(bytes)?;
        (*time, *value) = (state.timestamp, state.value.value());
        (*end, *window) = (position(&state), state.value.window());
    }
    for ((time, value), (end, window)) in slots {
        state.advance();
        (*time, *value) = (state.timestamp, state.value.value());
        (*end, *window) = (position(&state), state.value.window());
    }
    state.check()?;
    Ok(Steps::order(state.steps().filter(|_| is_ordinary)))
}

/// What is beyond 32 bits is an overrun, and refused at the end.
#[inline(always)]
fn position(state: &XorState<'_, XorTracing>) -> u32 {
    state.reader.position_bits() as u32
}

/// Samples that stand in a chunk one behind the other, and those to be taken: `from..to`, by their places in the slices.
///
/// The slices are of one length, and may begin behind the first sample of the chunk.
#[derive(Clone, Copy, Debug)]
pub struct XorRun<'a> {
    pub bytes: &'a [u8],
    pub times_ms: &'a [i64],
    pub values: &'a [f64],
    pub ends: &'a [u32],
    pub windows: &'a [XorWindow],
    /// Whether the slices begin with the first sample of the chunk.
    pub is_whole: bool,
    pub from: usize,
    pub to: usize,
}

/// A sample of a run, and how it is written.
struct Traced {
    time_ms: i64,
    value: f64,
    end: u32,
    window: XorWindow,
}

impl XorRun<'_> {
    fn at(&self, place: usize) -> Option<Traced> {
        Some(Traced {
            time_ms: *self.times_ms.get(place)?,
            value: *self.values.get(place)?,
            end: *self.ends.get(place)?,
            window: *self.windows.get(place)?,
        })
    }

    /// The step of time to a sample.
    fn step_to(&self, place: usize) -> i64 {
        match self.times_ms.get(place.saturating_sub(1)..=place) {
            Some([before, now]) => now.wrapping_sub(*before),
            _ => 0,
        }
    }
}

/// An XOR chunk in the making.
#[derive(Debug)]
pub struct XorSplicer {
    bits: Bits,
    count: usize,
    last_ms: i64,
    last_step_ms: i64,
    value: Xored,
}

impl Default for XorSplicer {
    fn default() -> Self {
        Self::new()
    }
}

impl XorSplicer {
    pub fn new() -> Self {
        /// Of a chunk of 120 samples that compresses as most do.
        const USUAL_SIZE_BYTES: usize = 384;
        Self::reusing(Vec::with_capacity(USUAL_SIZE_BYTES))
    }

    /// As [`Self::new`], in the memory of some bytes that are not needed any more.
    pub fn reusing(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.extend([0; HEADER_SIZE_BYTES]);
        let value = Xored::behind(0, XorWindow::NONE);
        Self { bits: Bits::new(bytes), count: 0, last_ms: 0, last_step_ms: 0, value }
    }

    /// Appends samples of another chunk, whose times ascend.
    ///
    /// # Errors
    /// A first sample that lies before the last one, and a run beyond its slices.
    pub fn push_run(&mut self, run: &XorRun<'_>) -> Result<(), TsdbError> {
        let beyond = || TsdbError::invalid(WHAT, "a run reaches beyond its chunk");
        for place in run.from..run.to {
            let copied_from = if self.count == 0 && place == 0 && run.is_whole {
                Some(HEADER_SIZE_BYTES as u32 * 8)
            } else {
                self.rejoins(run, place)
            };
            if let Some(from) = copied_from {
                let last = run.at(run.to - 1).ok_or_else(beyond)?;
                self.bits.copy(run.bytes, from, last.end);
                self.count += run.to - place;
                self.last_ms = last.time_ms;
                self.last_step_ms = if self.count > 1 { run.step_to(run.to - 1) } else { 0 };
                self.value = Xored::behind(last.value.to_bits(), last.window);
                return Ok(());
            }
            let sample = run.at(place).ok_or_else(beyond)?;
            self.push(sample.time_ms, sample.value)?;
        }
        Ok(())
    }

    /// Where in the chunk of a run the sample at `place` begins, if it stands there as it would be written here.
    #[inline]
    fn rejoins(&self, run: &XorRun<'_>, place: usize) -> Option<u32> {
        let before = run.at(place.checked_sub(1).filter(|before| *before > 0 && self.count > 1)?)?;
        let is_same = before.window == self.value.window()
            && before.value.to_bits() == self.value.bits
            && before.time_ms == self.last_ms
            && run.step_to(place - 1) == self.last_step_ms;
        is_same.then_some(before.end)
    }

    /// Appends a sample.
    ///
    /// # Errors
    /// If it lies before the last one.
    pub fn push(&mut self, time_ms: i64, value: f64) -> Result<(), TsdbError> {
        if self.count > 0 && time_ms < self.last_ms {
            let reason = format!("a sample at {time_ms} ms follows one at {} ms", self.last_ms);
            return Err(TsdbError::out_of_order(WHAT, reason));
        }
        let step_ms = if self.count > 0 { time_ms.wrapping_sub(self.last_ms) } else { 0 };
        match self.count {
            0 => {
                put_varint(&mut self.bits.bytes, time_ms);
                self.bits.bytes.extend(value.to_bits().to_be_bytes());
                self.value = Xored::behind(value.to_bits(), XorWindow::NONE);
            }
            1 => {
                put_uvarint(&mut self.bits.bytes, step_ms.cast_unsigned());
                self.value.push(&mut self.bits, value.to_bits());
            }
            _ => {
                self.bits.push_delta_change(step_ms.wrapping_sub(self.last_step_ms));
                self.value.push(&mut self.bits, value.to_bits());
            }
        }
        self.count += 1;
        self.last_ms = time_ms;
        self.last_step_ms = step_ms;
        Ok(())
    }

    /// The chunk.
    ///
    /// # Errors
    /// More samples than a chunk can count.
    pub fn into_bytes(self) -> Result<Vec<u8>, TsdbError> {
        let count = u16::try_from(self.count)
            .map_err(|_| TsdbError::invalid(WHAT, format!("it holds at most {MAX_SAMPLES} samples")))?;
        let mut bytes = self.bits.finish();
        if let Some(header) = bytes.first_chunk_mut::<HEADER_SIZE_BYTES>() {
            *header = count.to_be_bytes();
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests;
