//! Chunks: runs of samples of one series, encoded. Decoders into columns, streaming readers, and appenders that write what
//! Prometheus writes, bit by bit.
//!
//! All bytes are untrusted: no decoder panics, and memory is bounded by the size of the input. Samples are given exactly as
//! they are stored, staleness markers included; whether their timestamps increase is for the caller to see. Files of chunks
//! are [`crate::segment`]'s. `FORMAT-chunks.md` has the byte boxes.

pub mod aggregate;
mod appender;
mod float_histogram;
mod histogram;
mod inserts;
mod integer_histogram;
mod kind;
mod layout;
mod newer;
mod resolution;
mod steps;
mod varbit;
mod xor;
mod xor_encode;
mod xor_splice;
mod xor_times;

use parallax_model::{CounterResetHint, FloatColumn, HistogramColumn, TimeRange};

pub use appender::{Appended, Appender, FloatHistogramAppender, HistogramAppender};
pub use histogram::{
    FloatHistogramReader, HistogramReader, SampleReader, decode_float_histogram, decode_histogram,
};
pub use steps::Steps;
pub use varbit::XorWindow;
pub use xor::{XorAppender, XorReader, decode_xor, decode_xor_range};
pub use xor_encode::{encode_xor, encode_xor_in};
pub use xor_splice::{XorRun, XorSplicer, XorTrace, decode_xor_traced};
pub use xor_times::{XorTimes, decode_xor_times, ends_exactly};

use crate::cursor::Cursor;
use crate::error::TsdbError;

/// The most samples that a chunk can count.
pub const MAX_SAMPLES: usize = u16::MAX as usize;

/// The byte after the sample count of a histogram chunk, whose two highest bits say how its counters began.
const HISTOGRAM_FLAGS_AT: usize = 2;

/// Sample count and flags of a histogram chunk.
const HISTOGRAM_HEADER_SIZE_BYTES: usize = 3;

/// How the bytes of a chunk are to be read: the byte that stands before them in segment files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChunkEncoding {
    /// Of no chunk.
    None = 0,
    /// Float samples.
    Xor = 1,
    /// Histograms with integer counts.
    Histogram = 2,
    /// Histograms with float counts.
    FloatHistogram = 3,
    /// Five chunks in one, as Thanos' downsampling writes them (count, sum, min, max, counter). Not decoded here.
    Aggregate = 0xff,
}

impl ChunkEncoding {
    /// The encoding with this number, if we know it.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::Xor),
            2 => Some(Self::Histogram),
            3 => Some(Self::FloatHistogram),
            0xff => Some(Self::Aggregate),
            _ => None,
        }
    }

    pub const fn as_byte(self) -> u8 {
        self as u8
    }

    /// Whether the chunk holds histograms of either kind.
    pub const fn is_histogram(self) -> bool {
        matches!(self, Self::Histogram | Self::FloatHistogram)
    }
}

/// What decoding has shown of the times of a chunk's samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Each is later than the one before.
    Ascending,
    /// Nothing: most often they ascend all the same.
    Unknown,
}

/// The number of samples in an XOR, histogram or float histogram chunk, from its header alone.
pub fn sample_count(bytes: &[u8]) -> Result<usize, TsdbError> {
    Cursor::new("chunk header", bytes).be_u16().map(usize::from)
}

/// What the header of a histogram or float histogram chunk says about its first sample's predecessor.
pub fn counter_reset_header(bytes: &[u8]) -> Result<CounterResetHint, TsdbError> {
    let mut cursor = Cursor::new("histogram chunk header", bytes);
    cursor.skip(HISTOGRAM_FLAGS_AT)?;
    Ok(match cursor.u8()? >> 6 {
        0b00 => CounterResetHint::Unknown,
        0b01 => CounterResetHint::NotReset,
        0b10 => CounterResetHint::Reset,
        _ => CounterResetHint::Gauge,
    })
}

/// Appends the samples of a chunk that lie in `range` to the column of their kind. On an error both are left as they were.
///
/// Gives how far apart they are, if they are floats and decoding has shown that each is later than the one before.
///
/// Aggregate chunks are not chunks of samples; they and `None` are [`TsdbError::Unsupported`].
pub fn decode_chunk(
    encoding: ChunkEncoding,
    bytes: &[u8],
    range: TimeRange,
    floats: &mut FloatColumn,
    histograms: &mut HistogramColumn,
) -> Result<Option<Steps>, TsdbError> {
    match encoding {
        ChunkEncoding::Xor => decode_xor_range(bytes, range, floats),
        ChunkEncoding::Histogram => decode_histogram(bytes, range, histograms).map(|()| None),
        ChunkEncoding::FloatHistogram => decode_float_histogram(bytes, range, histograms).map(|()| None),
        ChunkEncoding::None | ChunkEncoding::Aggregate => {
            Err(TsdbError::unsupported("chunk", 0, "encoding", encoding.as_byte()))
        }
    }
}
