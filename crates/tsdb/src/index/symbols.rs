//! The symbols section: every text that occurs in labels, once, in order. Series refer to a symbol by its number.
//!
//! The text stays in the section's bytes; in memory there is only where each n-th symbol begins. All of it
//! is checked when it is opened (checksum, UTF-8, strict order), so that the order of refs is the order of texts.

use std::sync::Arc;

use bytes::Bytes;

use super::checked_section;
use crate::cursor::{Cursor, put_uvarint};
use crate::error::TsdbError;

/// The number of a symbol: 0 is the first.
pub type SymbolRef = u32;

/// Length and count in front of the symbols.
pub(super) const PREFIX_SIZE_BYTES: usize = 8;

/// The symbols of one index.
#[derive(Clone, Debug)]
pub struct Symbols {
    what: Arc<str>,
    /// Where `section` begins in `what`.
    offset: u64,
    /// From the length on, up to where the checksum begins.
    section: Bytes,
    count: u32,
    /// Of every `stride`-th symbol, where it begins in `section`.
    starts: Box<[u32]>,
    stride: usize,
}

impl Symbols {
    /// Opens a section that begins (with its length) at the start of `bytes`; what follows it there is ignored.
    ///
    /// A lookup reads up to `stride` symbols; memory is four bytes per `stride` symbols. `offset` is where in `what` the
    /// section lies.
    pub fn open(what: Arc<str>, offset: u64, bytes: &Bytes, stride: usize) -> Result<Self, TsdbError> {
        let content = checked_section(&what, offset, bytes)?;
        let section = bytes.slice(..4 + content.len());
        let stride = stride.max(1);
        let mut cursor = Cursor::at(&what, offset + 4, content);
        let count = cursor.be_u32()?;
        // A symbol takes at least one byte, so a count from a damaged file cannot make us reserve more than the file's size.
        let sane_count = (count as usize).min(content.len());
        let mut starts = Vec::with_capacity(sane_count.div_ceil(stride));
        let mut last: Option<&str> = None;
        for index in 0..count as usize {
            if index.is_multiple_of(stride) {
                starts.push(section_position(&cursor)?);
            }
            let start = cursor.offset();
            let symbol = cursor.uvarint_str()?;
            if last.is_some_and(|last| last >= symbol) {
                return Err(TsdbError::corrupt(&what, start, "symbols are not in order"));
            }
            last = Some(symbol);
        }
        if !cursor.is_empty() {
            return Err(cursor.corrupt("bytes follow the last symbol"));
        }
        Ok(Self { what, offset, section, count, starts: starts.into(), stride })
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The text of a symbol. A ref beyond the last is corruption, since refs come from the file.
    pub fn lookup(&self, symbol: SymbolRef) -> Result<&str, TsdbError> {
        let index = symbol as usize;
        if symbol >= self.count {
            let reason = format!("symbol {symbol} is referred to, of {}", self.count);
            return Err(TsdbError::corrupt(&self.what, self.offset, reason));
        }
        let mut cursor = self.cursor_at_start(index / self.stride)?;
        for _ in 0..index % self.stride {
            cursor.uvarint_bytes()?;
        }
        cursor.uvarint_str()
    }

    /// The number of the symbol with this text, if there is one.
    pub fn find(&self, text: &str) -> Result<Option<SymbolRef>, TsdbError> {
        let (mut low, mut high) = (0, self.starts.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.cursor_at_start(middle)?.uvarint_str()? <= text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(block) = low.checked_sub(1) else { return Ok(None) };
        let mut cursor = self.cursor_at_start(block)?;
        for index in block * self.stride..((block + 1) * self.stride).min(self.count as usize) {
            match cursor.uvarint_str()?.cmp(text) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(u32::try_from(index).ok()),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// All symbols, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<&str, TsdbError>> {
        let bytes = self.section.get(PREFIX_SIZE_BYTES..).unwrap_or_default();
        let mut cursor = Cursor::at(&self.what, self.offset + PREFIX_SIZE_BYTES as u64, bytes);
        (0..self.count).map(move |_| cursor.uvarint_str())
    }

    fn cursor_at_start(&self, block: usize) -> Result<Cursor<'_>, TsdbError> {
        let start = self.starts.get(block).map(|start| *start as usize);
        let Some((start, bytes)) = start.and_then(|at| self.section.get(at..).map(|bytes| (at, bytes)))
        else {
            return Err(TsdbError::not_found(&self.what, format!("block {block} of symbols")));
        };
        Ok(Cursor::at(&self.what, self.offset + start as u64, bytes))
    }
}

/// Where the cursor, which reads the content of a section, is in the section with its length in front.
fn section_position(cursor: &Cursor<'_>) -> Result<u32, TsdbError> {
    u32::try_from(cursor.position() + 4).map_err(|_| cursor.corrupt("the symbols take more than 4 GiB"))
}

/// A whole symbols section for symbols that the caller has sorted; the writer checks the order.
pub(super) fn encode_section(symbols: &[&str]) -> Result<Vec<u8>, TsdbError> {
    let mut section = vec![0; PREFIX_SIZE_BYTES];
    for symbol in symbols {
        put_uvarint(&mut section, symbol.len() as u64);
        section.extend(symbol.as_bytes());
    }
    let too_large = || TsdbError::invalid("index", "the symbols take more than 4 GiB");
    let len = u32::try_from(section.len() - 4).map_err(|_| too_large())?;
    let count = u32::try_from(symbols.len()).map_err(|_| too_large())?;
    section[..4].copy_from_slice(&len.to_be_bytes());
    section[4..PREFIX_SIZE_BYTES].copy_from_slice(&count.to_be_bytes());
    let crc = crate::crc::crc32c(&section[4..]);
    section.extend(crc.to_be_bytes());
    Ok(section)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn symbols_are_found_by_number_and_by_text(texts in prop::collection::btree_set(".{0,6}", 0..120), stride in 1usize..40, absent in ".{0,4}") {
            let sorted: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut bytes = encode_section(&sorted).unwrap();
            bytes.extend(b"what follows");
            let symbols = Symbols::open("index".into(), 5, &bytes.into(), stride).unwrap();
            prop_assert_eq!(symbols.len() as usize, sorted.len());
            for (number, text) in (0..).zip(&sorted) {
                prop_assert_eq!(symbols.lookup(number).unwrap(), *text);
                prop_assert_eq!(symbols.find(text).unwrap(), Some(number));
            }
            prop_assert!(symbols.lookup(symbols.len()).is_err());
            prop_assert_eq!(symbols.find(&absent).unwrap().is_some(), texts.contains(&absent));
            prop_assert_eq!(symbols.iter().collect::<Result<Vec<_>, _>>().unwrap(), sorted);
        }

        #[test]
        fn a_damaged_section_is_refused(texts in prop::collection::btree_set("[a-z]{0,6}", 0..20), at: prop::sample::Index, bit in 0u32..8) {
            let texts: BTreeSet<String> = texts;
            let sorted: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut bytes = encode_section(&sorted).unwrap();
            let at = at.index(bytes.len());
            prop_assert!(Symbols::open("index".into(), 5, &Bytes::copy_from_slice(&bytes[..at]), 32).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Symbols::open("index".into(), 5, &bytes.into(), 32).is_err());
        }
    }

    #[test]
    fn symbols_out_of_order_are_corrupt() {
        let bytes = encode_section(&["b", "a"]).unwrap();
        let error = Symbols::open("index".into(), 5, &bytes.into(), 32).unwrap_err();
        assert_eq!(error.to_string(), "index is corrupt at byte 15: symbols are not in order");
    }
}
