//! Builds a symbols section text by text, for whoever merges the symbols of several indexes without holding them apart.

use std::path::{Path, PathBuf};

use super::spool::Spool;
use super::symbol_store::{SymbolSamples, SymbolStore};
use super::symbols::{PREFIX_SIZE_BYTES, SymbolRef};
use crate::crc;
use crate::cursor::put_uvarint;
use crate::error::TsdbError;

/// A symbols section in the making. Texts come in strict order.
#[derive(Debug)]
pub struct SymbolSection {
    dir: PathBuf,
    spool: Spool,
    /// Of the symbols, without the count in front of them.
    crc: u32,
    count: u32,
    last: String,
    samples: SymbolSamples,
    entry: Vec<u8>,
}

impl SymbolSection {
    /// `dir` takes an unnamed file, if there is more than a small section.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            spool: Spool::new(dir),
            crc: crc::crc32c(&[]),
            count: 0,
            last: String::new(),
            samples: SymbolSamples::default(),
            entry: Vec::new(),
        }
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
    /// A text that does not sort behind the last one, and more than the format's 4 GiB; failures to write.
    pub fn push(&mut self, text: &str) -> Result<SymbolRef, TsdbError> {
        if self.count > 0 && text <= self.last.as_str() {
            return Err(TsdbError::out_of_order("index", format!("symbol {text:?}")));
        }
        self.entry.clear();
        put_uvarint(&mut self.entry, text.len() as u64);
        self.entry.extend_from_slice(text.as_bytes());
        let too_large = || TsdbError::too_large("index", "its symbols take more than 4 GiB");
        let start = u32::try_from(self.spool.size_bytes()).map_err(|_| too_large())?;
        let section_bytes = self.spool.size_bytes() + (self.entry.len() + PREFIX_SIZE_BYTES) as u64;
        if section_bytes > u64::from(u32::MAX) {
            return Err(too_large());
        }
        let symbol = self.count;
        self.count = symbol.checked_add(1).ok_or_else(too_large)?;
        self.spool.write(&self.entry).map_err(TsdbError::io(&self.dir))?;
        self.crc = crc::append(self.crc, &self.entry);
        self.samples.note(symbol, text, start);
        self.last.clear();
        self.last.push_str(text);
        Ok(symbol)
    }

    /// The whole section.
    ///
    /// # Errors
    /// Failures to write.
    pub fn finish(self) -> Result<SymbolStore, TsdbError> {
        let spooled = self.spool.finish().map_err(TsdbError::io(&self.dir))?;
        Ok(SymbolStore::new(self.dir, spooled, self.count, self.crc, self.samples))
    }
}
