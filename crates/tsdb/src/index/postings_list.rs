//! One postings list as it is stored: length, count, refs, checksum.

use bytes::Bytes;

use super::checked_section;
use crate::crc::{self, crc32c};
use crate::error::TsdbError;
use crate::postings::{Postings, SeriesRef};

/// What a stored list takes besides its refs: length, count and checksum.
pub const LIST_OVERHEAD_BYTES: usize = 12;

/// Decodes the list that begins, with its length, at the start of `bytes`, which lie at `offset` in `what`.
///
/// What follows the list is ignored. The refs are not copied.
///
/// # Errors
/// [`TsdbError::Truncated`] says how many bytes are missing; also a wrong checksum, and a count or an order that is wrong.
pub fn decode(what: &str, offset: u64, bytes: &Bytes) -> Result<Postings, TsdbError> {
    let content = checked_section(what, offset, bytes)?;
    let corrupt = |reason: &'static str| TsdbError::corrupt(what, offset, reason);
    let Some((count, refs)) = content.split_first_chunk() else {
        return Err(corrupt("a postings list is too short for its count"));
    };
    if u32::from_be_bytes(*count) as usize != refs.len() / 4 {
        return Err(corrupt("a postings list differs in length from its count"));
    }
    Postings::from_encoded(bytes.slice_ref(refs))
        .ok_or_else(|| corrupt("the refs of a postings list are not in order"))
}

/// Appends a list as it is stored. Fails only for lists beyond the format's 4 GiB.
pub(super) fn encode(refs: &[SeriesRef], out: &mut Vec<u8>) -> Result<(), TsdbError> {
    let too_long = || TsdbError::invalid("index", "a postings list takes more than 4 GiB");
    let len = u32::try_from(4 + refs.len() * 4).map_err(|_| too_long())?;
    out.extend(len.to_be_bytes());
    let start = out.len();
    out.extend(((len - 4) / 4).to_be_bytes());
    for series_ref in refs {
        out.extend(series_ref.to_be_bytes());
    }
    let crc = crc32c(&out[start..]);
    out.extend(crc.to_be_bytes());
    Ok(())
}

/// A list that is written piece by piece.
#[derive(Debug, Default)]
pub(super) struct ListInPieces {
    crc: u32,
}

impl ListInPieces {
    /// Begins a list of so many refs; gives its first bytes.
    ///
    /// # Errors
    /// Lists beyond the format's 4 GiB.
    pub(super) fn begin(&mut self, count: u64, out: &mut Vec<u8>) -> Result<(), TsdbError> {
        let len = count.checked_mul(4).and_then(|len| u32::try_from(len.checked_add(4)?).ok());
        let len = len.ok_or_else(|| TsdbError::invalid("index", "a postings list takes more than 4 GiB"))?;
        let count = ((len - 4) / 4).to_be_bytes();
        out.extend(len.to_be_bytes());
        out.extend(count);
        self.crc = crc32c(&count);
        Ok(())
    }

    /// Appends the next refs.
    pub(super) fn push(&mut self, refs: &[SeriesRef], out: &mut Vec<u8>) {
        let start = out.len();
        for series_ref in refs {
            out.extend(series_ref.to_be_bytes());
        }
        self.crc = crc::append(self.crc, out.get(start..).unwrap_or_default());
    }

    /// Appends the checksum.
    pub(super) fn end(&self, out: &mut Vec<u8>) {
        out.extend(self.crc.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_comes_back_and_damage_does_not(refs in prop::collection::btree_set(any::<u32>(), 0..50), at: prop::sample::Index, bit in 0u32..8) {
            let refs: Vec<u32> = refs.into_iter().collect();
            let mut bytes = Vec::new();
            encode(&refs, &mut bytes).unwrap();
            prop_assert_eq!(bytes.len(), LIST_OVERHEAD_BYTES + refs.len() * 4);
            let (mut list, mut in_pieces) = (ListInPieces::default(), Vec::new());
            list.begin(refs.len() as u64, &mut in_pieces).unwrap();
            refs.chunks(7).for_each(|refs| list.push(refs, &mut in_pieces));
            list.end(&mut in_pieces);
            prop_assert_eq!(&in_pieces, &bytes);
            let mut longer = bytes.clone();
            longer.extend([9; 7]);
            prop_assert_eq!(decode("index", 0, &longer.into()).unwrap().collect::<Vec<_>>(), refs);
            let at = at.index(bytes.len());
            let cut = decode("index", 0, &Bytes::copy_from_slice(&bytes[..at]));
            let is_truncated = matches!(cut, Err(TsdbError::Truncated { .. }));
            prop_assert!(is_truncated);
            bytes[at] ^= 1 << bit;
            prop_assert!(decode("index", 0, &bytes.into()).is_err());
        }
    }

    #[test]
    fn a_list_out_of_order_is_refused_although_its_checksum_is_right() {
        let mut bytes = Vec::new();
        encode(&[2, 1], &mut bytes).unwrap();
        assert!(decode("index", 64, &bytes.into()).unwrap_err().is_corruption());
    }
}
