//! [`Digest`]: all that a block holds, as a few numbers.
//!
//! Of each series its labels and, for each chunk, times, encoding and bytes. What was handed to the writer is compared with what is read back: bytes that changed on
//! their way to the disk, a chunk under another series, a series that is missing, give another digest. The order of series is not in it (it is that of their labels, which are), so
//! that parts of a block can be read back beside each other. Not meant to be stored.

use parallax_tsdb::TsdbError;
use parallax_tsdb::block::BlockChunk;
use xxhash_rust::xxh64::xxh64;

use super::account::samples_of;
use crate::source::SymbolLabels;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub series: u64,
    pub chunks: u64,
    pub samples: u64,
    content: u64,
}

/// One series of a digest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeriesDigest {
    chunks: u64,
    samples: u64,
    content: u64,
}

impl SeriesDigest {
    pub(crate) fn of(labels: &SymbolLabels, chunks: &[BlockChunk]) -> Result<Self, TsdbError> {
        let mut content = 0;
        let mut samples = 0;
        for (name, value) in labels {
            content = mixed(content, u64::from(*name) << 32 | u64::from(*value));
        }
        for chunk in chunks {
            samples += samples_of(chunk)?;
            let parts = [
                chunk.min_time_ms.cast_unsigned(),
                chunk.max_time_ms.cast_unsigned(),
                u64::from(chunk.chunk.encoding.as_byte()),
                xxh64(&chunk.chunk.data, 0),
            ];
            content = parts.into_iter().fold(content, mixed);
        }
        Ok(Self { chunks: chunks.len() as u64, samples, content })
    }
}

impl Digest {
    /// Adds a series.
    pub(crate) fn add(&mut self, series: SeriesDigest) {
        self.series += 1;
        self.chunks += series.chunks;
        self.samples += series.samples;
        self.content = self.content.wrapping_add(mixed(1, series.content));
    }

    /// Adds what another part of the block holds.
    pub(crate) fn join(&mut self, other: Self) {
        self.series += other.series;
        self.chunks += other.chunks;
        self.samples += other.samples;
        self.content = self.content.wrapping_add(other.content);
    }
}

/// Depends on the order, and spreads every bit over all: the finaliser of splitmix64.
#[inline]
fn mixed(sum: u64, next: u64) -> u64 {
    let mut x = sum.rotate_left(29) ^ next.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
