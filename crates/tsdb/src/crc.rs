//! CRC32 with the Castagnoli polynomial: the checksum of every part of a block, always stored big-endian.

use crate::error::TsdbError;

/// The size of a stored checksum.
pub const CRC_SIZE_BYTES: usize = 4;

/// The CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// Continues a CRC32C with more bytes: `append(crc32c(a), b)` is the checksum of `a` followed by `b`.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// The CRC32C of one text followed by another, from those of both and the length of the second.
pub fn combine(first: u32, second: u32, second_size_bytes: u64) -> u32 {
    crc32c::crc32c_combine(first, second, second_size_bytes as usize)
}

/// Compares the checksum of `covered` with `stored`; `offset` is where in `what` the covered bytes start.
pub fn verify(what: &str, offset: u64, covered: &[u8], stored: u32) -> Result<(), TsdbError> {
    let computed = crc32c(covered);
    if computed == stored {
        return Ok(());
    }
    Err(TsdbError::Checksum { what: what.into(), offset, stored, computed })
}
