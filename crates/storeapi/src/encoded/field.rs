//! Fields of a series, as bytes: writing chunks fast, and looking at what was written.

use super::splice::ChunkBytes;
use crate::chunks;
use crate::codec::write::{aggregates_length, write_chunk, write_head};
use crate::proto::thanos::AggrChunk;
use crate::wire::{delimited, varint};

/// The keys that are written here: the field's number and its wire type.
mod key {
    pub const DATA: u8 = 2 << 3 | 2;
    pub const CHUNK: u8 = 2 << 3 | 2;
    pub const RAW: u8 = 3 << 3 | 2;
}

/// Some fields without data, put together where there is room for all of them.
struct Head {
    bytes: [u8; Self::ROOM_BYTES],
    size: usize,
}

impl Head {
    /// Seven numbers of at most ten bytes, each with its key, and what the last one may write beyond its end.
    const ROOM_BYTES: usize = 7 * 11 + 8;

    fn new() -> Self {
        Self { bytes: [0; Self::ROOM_BYTES], size: 0 }
    }

    fn written(&self) -> &[u8] {
        self.bytes.get(..self.size).unwrap_or_default()
    }

    #[inline(always)]
    fn put<const SIZE: usize>(&mut self, bytes: [u8; SIZE]) {
        if let Some(slot) = self.bytes.get_mut(self.size..self.size + SIZE) {
            slot.copy_from_slice(&bytes);
        }
    }

    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        self.put([byte]);
        self.size += 1;
    }

    /// A number as `encode_varint` would write it, eight bytes at a time.
    ///
    /// The number's groups of seven bits are moved apart by halves: into two words of 28 bits, four of 14, eight of 7.
    #[inline(always)]
    fn varint(&mut self, number: u64) {
        const LOW_BITS: u64 = (1 << 56) - 1;
        const GOES_ON: u64 = 0x8080_8080_8080_8080;
        let low = number & LOW_BITS;
        let apart = (low & 0x0fff_ffff) | ((low & 0x00ff_ffff_f000_0000) << 4);
        let apart = (apart & 0x0000_3fff_0000_3fff) | ((apart & 0x0fff_c000_0fff_c000) << 2);
        let apart = (apart & 0x007f_007f_007f_007f) | ((apart & 0x3f80_3f80_3f80_3f80) << 1);
        if number > LOW_BITS {
            self.put((apart | GOES_ON).to_le_bytes());
            self.size += 8;
            let high = (number >> 56) as u8;
            self.put([high, 1]);
            self.size += 1 + usize::from(high >= 0x80);
            return;
        }
        let size_bytes = (64 - (number | 1).leading_zeros()).div_ceil(7);
        let goes_on = GOES_ON & ((1 << (8 * (size_bytes - 1))) - 1);
        self.put((apart | goes_on).to_le_bytes());
        self.size += size_bytes as usize;
    }

    /// A field that is a number, left out if it is zero.
    #[inline(always)]
    fn number(&mut self, tag: u8, number: u64) {
        if number != 0 {
            self.byte(tag << 3);
            self.varint(number);
        }
    }
}

impl ChunkBytes<'_> {
    /// Appends the chunk as a field of a series.
    pub fn append(&self, output: &mut Vec<u8>) {
        let (raw_length, length) = self.lengths();
        let mut head = Head::new();
        head.byte(key::CHUNK);
        head.varint(length as u64);
        head.number(1, self.min_time_ms as u64);
        head.number(2, self.max_time_ms as u64);
        head.byte(key::RAW);
        head.varint(raw_length as u64);
        head.number(1, self.encoding as i64 as u64);
        let mut tail = Head::new();
        tail.number(3, self.hash);
        output.reserve(Head::ROOM_BYTES + self.data.len() + Head::ROOM_BYTES);
        if self.data.is_empty() {
            output.extend_from_slice(head.written());
        } else {
            head.byte(key::DATA);
            head.varint(self.data.len() as u64);
            output.extend_from_slice(head.written());
            output.extend_from_slice(self.data);
        }
        output.extend_from_slice(tail.written());
    }
}

/// Appends any chunk as a field of a series.
pub fn append_aggregates(chunk: &AggrChunk, output: &mut Vec<u8>) {
    match &chunk.raw {
        Some(raw) if !chunks::has_aggregates(chunk) => ChunkBytes {
            min_time_ms: chunk.min_time,
            max_time_ms: chunk.max_time,
            encoding: raw.r#type,
            hash: raw.hash,
            data: &raw.data,
        }
        .append(output),
        _ => {
            write_head(2, aggregates_length(chunk), output);
            write_chunk(chunk, output);
        }
    }
}

/// What is in a field that has a length.
pub(super) fn body(field: &[u8]) -> &[u8] {
    let body = varint(field).and_then(|(_, after_key)| delimited(after_key));
    body.map_or(&[], |(body, _)| body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_written_as_by_prost(number: u64, bits in 0u32..64) {
            for number in [number, number >> bits, 1 << bits, (1 << bits) - 1] {
                let (mut head, mut expected) = (Head::new(), vec![7]);
                head.byte(7);
                head.varint(number);
                prost::encoding::encode_varint(number, &mut expected);
                prop_assert_eq!(head.written(), expected);
            }
        }
    }
}
