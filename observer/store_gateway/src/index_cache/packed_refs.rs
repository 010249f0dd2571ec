//! Sets of refs, packed: how many, then the differences from one to the next, each as a LEB128 number, then a CRC32C of all that, big-endian.

use parallax_tsdb::crc::{CRC_SIZE_BYTES, crc32c};
use parallax_tsdb::postings::SeriesRef;

pub(super) fn encode(refs: &[SeriesRef]) -> Vec<u8> {
    let mut packed = Vec::with_capacity(8 + refs.len() * 2);
    push(&mut packed, refs.len() as u64);
    let mut last = 0;
    for series in refs {
        push(&mut packed, u64::from(series.wrapping_sub(last)));
        last = *series;
    }
    seal(packed)
}

fn seal(mut packed: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c(&packed);
    packed.extend_from_slice(&checksum.to_be_bytes());
    packed
}

/// `None` for what [`encode`] did not write of refs in order.
pub(super) fn decode(sealed: &[u8]) -> Option<Vec<SeriesRef>> {
    let (mut packed, checksum) = sealed.split_last_chunk::<CRC_SIZE_BYTES>()?;
    if crc32c(packed) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let count = usize::try_from(take(&mut packed)?).ok()?;
    // A difference takes a byte at least.
    if count > packed.len() {
        return None;
    }
    let mut refs: Vec<SeriesRef> = Vec::with_capacity(count);
    for _ in 0..count {
        let step = SeriesRef::try_from(take(&mut packed)?).ok()?;
        let next = refs.last().copied().unwrap_or(0).checked_add(step)?;
        if step == 0 && !refs.is_empty() {
            return None;
        }
        refs.push(next);
    }
    packed.is_empty().then_some(refs)
}

fn push(packed: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        packed.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    packed.push((number & 0x7f) as u8);
}

fn take(packed: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = packed.split_first()?;
        *packed = rest;
        number |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_packed_comes_back(refs: BTreeSet<SeriesRef>) {
            let refs: Vec<SeriesRef> = refs.into_iter().collect();
            prop_assert_eq!(decode(&encode(&refs)), Some(refs));
        }

        #[test]
        fn other_bytes_are_refused_or_in_order(bytes: Vec<u8>) {
            prop_assert!(bytes.is_empty() || decode(&bytes).is_none());
            if let Some(refs) = decode(&seal(bytes)) {
                prop_assert!(refs.is_sorted_by(|a, b| a < b));
            }
        }
    }

    #[test]
    fn a_count_that_is_not_there_takes_no_memory() {
        assert_eq!(decode(&seal(vec![0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1])), None);
        assert_eq!(decode(&encode(&[3, 9])[..2]), None);
        assert_eq!(decode(&seal(vec![1, 2, 3])), None);
    }
}
