//! The symbols of several indexes as one sorted set, and for each index the way from its numbers to those of the set.
//!
//! The sections are read front to back and never held, nor is the new one ([`SymbolStore`]); of each index stays a bit for each symbol of the set.

use std::path::Path;
use std::sync::Arc;

use parallax_block::BlockId;
use parallax_tsdb::TsdbError;
use parallax_tsdb::crc;
use parallax_tsdb::cursor::{Cursor, MAX_UVARINT32_BYTES};
use parallax_tsdb::index::{SymbolSection, SymbolStore};

use super::symbol_map::{Chosen, SymbolMap};
use super::window::Window;
use crate::CompactError;

/// Length and count in front of the symbols.
const PREFIX_SIZE_BYTES: usize = 8;

/// No symbol is longer: bounds what a damaged length can make us fetch.
const MAX_SYMBOL_BYTES: usize = 16 << 20;

/// Merged symbols.
#[derive(Debug)]
pub(super) struct MergedSymbols {
    pub(super) symbols: Arc<SymbolStore>,
    /// For each index.
    pub(super) maps: Vec<SymbolMap>,
}

/// Merges the symbols of indexes, each given as a stream. `spill_dir` takes an unnamed file if they are many.
pub(super) fn merge(
    mut streams: Vec<SymbolStream<'_>>,
    spill_dir: &Path,
) -> Result<MergedSymbols, CompactError> {
    let mut section = SymbolSection::new(spill_dir);
    let mut maps: Vec<Chosen> = streams.iter().map(|_| Chosen::default()).collect();
    for stream in &mut streams {
        stream.advance()?;
    }
    // The empty text is a symbol, as Prometheus has it, whether or not an index lists it.
    let mut least = String::new();
    loop {
        section.push(&least).map_err(CompactError::Staging)?;
        for (stream, map) in streams.iter_mut().zip(&mut maps) {
            let has = stream.current() == Some(least.as_str());
            map.push(has);
            if has {
                stream.advance()?;
            }
        }
        match streams.iter().filter_map(|stream| stream.current()).min() {
            Some(next) => {
                least.clear();
                least.push_str(next);
            }
            None => break,
        }
    }
    let symbols = Arc::new(section.finish().map_err(CompactError::Staging)?);
    Ok(MergedSymbols { symbols, maps: maps.into_iter().map(Chosen::finish).collect() })
}

/// Reads one symbols section from front to back, checking order and checksum.
pub(super) struct SymbolStream<'a> {
    window: &'a mut Window,
    block: BlockId,
    position: u64,
    /// Where the checksum begins.
    end: u64,
    left: u32,
    crc: u32,
    current: Option<String>,
    /// The memory of `current` when it is `None`.
    spare: String,
}

impl<'a> SymbolStream<'a> {
    /// `start` is where the section begins and `limit` where the next one does.
    pub(super) fn open(
        window: &'a mut Window,
        block: BlockId,
        start: u64,
        limit: u64,
    ) -> Result<Self, CompactError> {
        let head = window.at(start, PREFIX_SIZE_BYTES)?;
        let damaged = |source| CompactError::Damaged { block, source };
        let mut cursor = Cursor::at(window.object(), start, &head);
        let length = u64::from(cursor.be_u32().map_err(damaged)?);
        let left = cursor.be_u32().map_err(damaged)?;
        let end = start + 4 + length;
        if length < 4 || end + crc::CRC_SIZE_BYTES as u64 > limit || u64::from(left) > length {
            let reason = "the symbols do not fit their place";
            return Err(damaged(TsdbError::corrupt(window.object(), start, reason)));
        }
        let crc = crc::crc32c(head.get(4..PREFIX_SIZE_BYTES).unwrap_or_default());
        let position = start + PREFIX_SIZE_BYTES as u64;
        Ok(Self { window, block, position, end, left, crc, current: None, spare: String::new() })
    }

    /// The present symbol; `None` before the first and behind the last.
    pub(super) fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Moves on to the next symbol; after the last one the checksum is compared.
    pub(super) fn advance(&mut self) -> Result<(), CompactError> {
        if self.left == 0 {
            if self.current.take().is_some() || self.position != u64::MAX {
                self.check_end()?;
            }
            return Ok(());
        }
        let mut wanted = MAX_UVARINT32_BYTES;
        let bytes = loop {
            let bytes = self.window.at(self.position, wanted)?;
            let mut cursor = Cursor::at(self.window.object(), self.position, &bytes);
            let length =
                cursor.uvarint32().map_err(|source| CompactError::Damaged { block: self.block, source })?;
            let needed = cursor.position() + length as usize;
            if length as usize > MAX_SYMBOL_BYTES || self.position + needed as u64 > self.end {
                return Err(self.corrupt("a symbol does not fit its section"));
            }
            if needed <= bytes.len() {
                break bytes.slice(..needed);
            }
            if wanted >= needed {
                return Err(self.corrupt("the index ends within its symbols"));
            }
            wanted = needed;
        };
        let text_at = bytes.len() - text_len(&bytes);
        let text = std::str::from_utf8(bytes.get(text_at..).unwrap_or_default())
            .map_err(|_| self.corrupt("a symbol is not UTF-8"))?;
        if self.current.as_deref().is_some_and(|last| last >= text) {
            return Err(self.corrupt("symbols are not in order"));
        }
        let mut next = self.current.take().unwrap_or_else(|| std::mem::take(&mut self.spare));
        next.clear();
        next.push_str(text);
        self.current = Some(next);
        self.crc = crc::append(self.crc, &bytes);
        self.position += bytes.len() as u64;
        self.left -= 1;
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), CompactError> {
        if self.position == u64::MAX {
            return Ok(());
        }
        if self.position != self.end {
            return Err(self.corrupt("bytes follow the last symbol"));
        }
        let tail = self.window.at(self.end, crc::CRC_SIZE_BYTES)?;
        let damaged = |source| CompactError::Damaged { block: self.block, source };
        let stored = Cursor::at(self.window.object(), self.end, &tail).be_u32().map_err(damaged)?;
        if stored != self.crc {
            return Err(damaged(TsdbError::Checksum {
                what: self.window.object().into(),
                offset: self.end,
                stored,
                computed: self.crc,
            }));
        }
        self.position = u64::MAX;
        Ok(())
    }

    fn corrupt(&self, reason: &'static str) -> CompactError {
        let source = TsdbError::corrupt(self.window.object(), self.position, reason);
        CompactError::Damaged { block: self.block, source }
    }
}

/// The length of the text in an entry that is whole.
fn text_len(entry: &[u8]) -> usize {
    Cursor::new("symbol", entry).uvarint_bytes().map_or(0, <[u8]>::len)
}
