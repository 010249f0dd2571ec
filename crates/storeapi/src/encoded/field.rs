//! Fields of a series, as bytes: writing chunks fast, and looking at what was written.

use super::splice::ChunkBytes;
use crate::chunks;
use crate::codec::write::{aggregates_length, write_chunk, write_head};
use crate::proto::thanos::AggrChunk;
use crate::wire::{delimited, varint};

/// The keys that are looked at here: the field's number and its wire type.
mod key {
    pub const TIMES_MIN: u64 = 1 << 3;
    pub const TIMES_MAX: u64 = 2 << 3;
    pub const DATA: u64 = 2 << 3 | 2;
    pub const CHUNK: u8 = 2 << 3 | 2;
    pub const RAW: u8 = 3 << 3 | 2;
    pub const ENCODING: u64 = 1 << 3;
    pub const HASH: u64 = 3 << 3;
}

/// Appends a number as `encode_varint` would, eight bytes at a time.
///
/// The number's groups of seven bits are moved apart by halves: into two words of 28 bits, four of 14, eight of 7.
#[inline]
fn put_varint(number: u64, output: &mut Vec<u8>) {
    const LOW_BITS: u64 = (1 << 56) - 1;
    const GOES_ON: u64 = 0x8080_8080_8080_8080;
    let low = number & LOW_BITS;
    let apart = (low & 0x0fff_ffff) | ((low & 0x00ff_ffff_f000_0000) << 4);
    let apart = (apart & 0x0000_3fff_0000_3fff) | ((apart & 0x0fff_c000_0fff_c000) << 2);
    let apart = (apart & 0x007f_007f_007f_007f) | ((apart & 0x3f80_3f80_3f80_3f80) << 1);
    if number > LOW_BITS {
        output.extend_from_slice(&(apart | GOES_ON).to_le_bytes());
        let high = (number >> 56) as u8;
        if high < 0x80 {
            output.push(high);
        } else {
            output.extend_from_slice(&[high, 1]);
        }
        return;
    }
    let size_bytes = (64 - (number | 1).leading_zeros()).div_ceil(7);
    let goes_on = GOES_ON & ((1 << (8 * (size_bytes - 1))) - 1);
    let end = output.len() + size_bytes as usize;
    output.extend_from_slice(&(apart | goes_on).to_le_bytes());
    output.truncate(end);
}

impl ChunkBytes<'_> {
    /// Appends the chunk as a field of a series.
    pub fn append(&self, output: &mut Vec<u8>) {
        let (raw_length, length) = self.lengths();
        output.push(key::CHUNK);
        put_varint(length as u64, output);
        put_number(1, self.min_time_ms as u64, output);
        put_number(2, self.max_time_ms as u64, output);
        output.push(key::RAW);
        put_varint(raw_length as u64, output);
        put_number(1, self.encoding as i64 as u64, output);
        if !self.data.is_empty() {
            output.push(key::DATA as u8);
            put_varint(self.data.len() as u64, output);
            output.extend_from_slice(self.data);
        }
        put_number(3, self.hash, output);
    }
}

/// A field that is a number, left out if it is zero.
#[inline]
fn put_number(tag: u8, number: u64, output: &mut Vec<u8>) {
    if number != 0 {
        output.push(tag << 3);
        put_varint(number, output);
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

/// Fields with a length, one after the other: each whole, and its content.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn of(fields: &'a [u8]) -> Self {
        Self(fields)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (_, after_key) = varint(self.0)?;
        let (body, rest) = delimited(after_key)?;
        let field = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some((field, body))
    }
}

/// The times of the first and the last sample of a chunk, which are written first. What is zero is not written.
pub(super) fn times(chunk: &[u8]) -> (i64, i64) {
    let (mut times, mut rest) = ((0, 0), chunk);
    while let Some((key, after)) = varint(rest)
        && (key == key::TIMES_MIN || key == key::TIMES_MAX)
        && let Some((number, after)) = varint(after)
    {
        *(if key == key::TIMES_MIN { &mut times.0 } else { &mut times.1 }) = number as i64;
        rest = after;
    }
    times
}

/// Bytes of the data of a chunk, of all its aggregates together.
pub(super) fn data_bytes(chunk: &[u8]) -> u64 {
    let mut rest = chunk;
    let mut size_bytes = 0;
    while let Some((key, after)) = varint(rest) {
        if key & 7 == 0 {
            let Some((_, after)) = varint(after) else { break };
            rest = after;
            continue;
        }
        let Some((part, after)) = delimited(after) else { break };
        size_bytes += data_of(part);
        rest = after;
    }
    size_bytes
}

fn data_of(mut part: &[u8]) -> u64 {
    while let Some((key, after)) = varint(part) {
        if key == key::DATA {
            return delimited(after).map_or(0, |(data, _)| data.len() as u64);
        }
        let Some((_, after)) = varint(after) else { break };
        part = after;
    }
    0
}

/// A chunk that has raw data and nothing else.
pub(super) fn raw(chunk: &[u8]) -> Option<ChunkBytes<'_>> {
    let mut found =
        ChunkBytes { min_time_ms: 0, max_time_ms: 0, encoding: 0, hash: 0, data: Default::default() };
    let (mut rest, mut part) = (chunk, None);
    while let Some((key, after)) = varint(rest) {
        rest = match key {
            key::TIMES_MIN | key::TIMES_MAX => {
                let (number, after) = varint(after)?;
                *(if key == key::TIMES_MIN { &mut found.min_time_ms } else { &mut found.max_time_ms }) =
                    number as i64;
                after
            }
            key if key == u64::from(key::RAW) && part.is_none() => {
                let (body, after) = delimited(after)?;
                part = Some(body);
                after
            }
            _ => return None,
        };
    }
    let mut rest = part?;
    while let Some((key, after)) = varint(rest) {
        rest = match key {
            key::DATA => {
                let (data, after) = delimited(after)?;
                found.data = data;
                after
            }
            key::ENCODING => {
                let (encoding, after) = varint(after)?;
                found.encoding = i32::try_from(encoding).ok()?;
                after
            }
            key::HASH => {
                let (hash, after) = varint(after)?;
                found.hash = hash;
                after
            }
            _ => return None,
        };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_written_as_by_prost(number: u64, bits in 0u32..64) {
            for number in [number, number >> bits, 1 << bits, (1 << bits) - 1] {
                let (mut written, mut expected) = (vec![7], vec![7]);
                put_varint(number, &mut written);
                prost::encoding::encode_varint(number, &mut expected);
                prop_assert_eq!(written, expected);
            }
        }
    }
}
