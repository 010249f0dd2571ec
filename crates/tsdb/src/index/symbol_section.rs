//! Builds a symbols section text by text, for whoever merges the symbols of several indexes without holding them apart.

use bytes::Bytes;

use super::symbols::SymbolRef;
use crate::crc::crc32c;
use crate::cursor::put_uvarint;
use crate::error::TsdbError;

/// Length and count in front of the symbols.
const PREFIX_SIZE_BYTES: usize = 8;

/// A symbols section in the making. Texts come in strict order.
#[derive(Debug)]
pub struct SymbolSection {
    bytes: Vec<u8>,
    count: u32,
    /// Where the text of the last symbol begins.
    last_at: Option<usize>,
}

impl Default for SymbolSection {
    fn default() -> Self {
        Self::new()
    }
}

impl SymbolSection {
    pub fn new() -> Self {
        Self { bytes: vec![0; PREFIX_SIZE_BYTES], count: 0, last_at: None }
    }

    /// How many symbols there are so far: the ref of the next one.
    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a symbol behind the last one; gives its ref.
    ///
    /// # Errors
    /// A text that does not sort behind the last one, and more than the format's 4 GiB.
    pub fn push(&mut self, text: &str) -> Result<SymbolRef, TsdbError> {
        let last = self.last_at.and_then(|at| self.bytes.get(at..));
        if last.is_some_and(|last| last >= text.as_bytes()) {
            return Err(TsdbError::out_of_order("index", format!("symbol {text:?}")));
        }
        put_uvarint(&mut self.bytes, text.len() as u64);
        self.last_at = Some(self.bytes.len());
        self.bytes.extend_from_slice(text.as_bytes());
        let symbol = self.count;
        let too_large = || TsdbError::too_large("index", "its symbols take more than 4 GiB");
        if u32::try_from(self.bytes.len()).is_err() {
            return Err(too_large());
        }
        self.count = symbol.checked_add(1).ok_or_else(too_large)?;
        Ok(symbol)
    }

    /// The whole section, from its length to its checksum.
    pub fn finish(mut self) -> Result<Bytes, TsdbError> {
        let len = u32::try_from(self.bytes.len() - 4)
            .map_err(|_| TsdbError::too_large("index", "its symbols take more than 4 GiB"))?;
        if let Some(prefix) = self.bytes.first_chunk_mut::<PREFIX_SIZE_BYTES>() {
            let (length, count) = prefix.split_at_mut(4);
            length.copy_from_slice(&len.to_be_bytes());
            count.copy_from_slice(&self.count.to_be_bytes());
        }
        let crc = crc32c(self.bytes.get(4..).unwrap_or_default());
        self.bytes.extend(crc.to_be_bytes());
        Ok(self.bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Symbols;

    #[test]
    fn a_section_opens_with_its_texts_and_order_is_kept() {
        let mut section = SymbolSection::new();
        for (number, text) in (0..).zip(["", "a", "ab", "é"]) {
            assert_eq!(section.push(text).unwrap(), number);
        }
        assert!(section.push("b").is_err());
        let symbols = Symbols::open("index".into(), 5, &section.finish().unwrap(), 2).unwrap();
        assert_eq!(symbols.iter().collect::<Result<Vec<_>, _>>().unwrap(), ["", "a", "ab", "é"]);
    }
}
