//! The two things that protobuf is made of: numbers, and bytes that begin with their length.
//!
//! Source: the protobuf encoding, <https://protobuf.dev/programming-guides/encoding/>. Every function gives `None` for bytes that are none of it.

/// A number of up to ten bytes, and what follows it.
#[inline]
pub fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    match bytes {
        // Nearly all keys and lengths.
        [byte, rest @ ..] if *byte < 0x80 => Some((u64::from(*byte), rest)),
        _ => long_varint(bytes),
    }
}

fn long_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        // The tenth byte has room for one bit.
        if index == 9 && *byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, bytes.get(index + 1..)?));
        }
    }
    None
}

/// Bytes that begin with their length, and what follows them.
#[inline]
pub fn delimited(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}
