//! How a value lies in a remote cache: `"PX1"`, CRC-32C of key and value (big endian, 4 bytes), length of the value (big endian, 4 bytes), value.

use bytes::{BufMut as _, Bytes, BytesMut};

const MAGIC: &[u8] = b"PX1";
const HEAD_BYTES: usize = 11;

/// Beside the value itself.
pub(super) const OVERHEAD_BYTES: u64 = HEAD_BYTES as u64;

pub(super) fn seal(key: &str, value: &Bytes) -> Bytes {
    let mut sealed = BytesMut::with_capacity(HEAD_BYTES + value.len());
    sealed.put_slice(MAGIC);
    sealed.put_u32(checksum(key, value));
    // Values are bounded far below; a length that does not fit makes a value that does not open.
    sealed.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    sealed.put_slice(value);
    sealed.freeze()
}

/// The value, if this is one, whole, and of this key.
pub(super) fn open(key: &str, sealed: &Bytes) -> Option<Bytes> {
    let rest = sealed.strip_prefix(MAGIC)?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let value = sealed.slice(HEAD_BYTES..);
    let whole = u32::from_be_bytes(*length) as usize == value.len();
    (whole && u32::from_be_bytes(*sum) == checksum(key, &value)).then_some(value)
}

fn checksum(key: &str, value: &Bytes) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_whole_value_of_the_key_opens() {
        let value = Bytes::from_static(b"value");
        let sealed = seal("key", &value);
        assert_eq!(sealed.len(), value.len() + HEAD_BYTES);
        assert_eq!(open("key", &sealed), Some(value));
        assert_eq!(open("other", &sealed), None);
        for cut in 0..sealed.len() {
            assert_eq!(open("key", &sealed.slice(..cut)), None, "{cut}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(open("key", &changed.into()), None, "{at}");
        }
        assert_eq!(open("", &seal("", &Bytes::new())), Some(Bytes::new()));
    }

    proptest! {
        #[test]
        fn any_bytes_open_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(open("key", &bytes.into()), None);
        }
    }
}
