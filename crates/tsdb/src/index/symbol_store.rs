//! [`SymbolStore`]: a symbols section that was just made, of any size, in bounded memory.
//!
//! The texts lie in a spool (a file beyond a bound) and are read piece by piece through a [`SymbolCursor`], which is quick where what is asked for ascends. In memory are
//! some of the texts, evenly spread, so that a text is found with one reading; the more texts there are, the further these lie apart.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use super::spool::Spooled;
use super::symbols::SymbolRef;
use crate::crc;
use crate::cursor::Cursor;
use crate::error::TsdbError;

/// Names the section in errors.
const WHAT: &str = "symbols";

/// What is read of the symbols at once.
const PIECE_BYTES: usize = 16 << 10;

/// At first one text in so many is held.
const FIRST_STRIDE: u32 = 16;

/// What the texts that are held may take.
const MOST_SAMPLED_BYTES: usize = 256 << 10;

/// One symbol in `stride`, with the places where they begin.
#[derive(Debug)]
pub(super) struct SymbolSamples {
    stride: u32,
    most_bytes: usize,
    texts: String,
    /// Where each text ends in `texts`, and where its entry begins among the symbols.
    places: Vec<(u32, u32)>,
}

impl Default for SymbolSamples {
    fn default() -> Self {
        Self::holding(MOST_SAMPLED_BYTES)
    }
}

impl SymbolSamples {
    pub(super) fn holding(most_bytes: usize) -> Self {
        Self { stride: FIRST_STRIDE, most_bytes, texts: String::new(), places: Vec::new() }
    }

    /// Symbols come in order, each of them; `start` is where the entry begins.
    pub(super) fn note(&mut self, symbol: SymbolRef, text: &str, start: u32) {
        if !symbol.is_multiple_of(self.stride) {
            return;
        }
        self.texts.push_str(text);
        // The texts are part of a section, which is shorter than 4 GiB.
        self.places.push((self.texts.len() as u32, start));
        while self.size_bytes() > self.most_bytes && self.places.len() > 1 {
            self.thin();
        }
    }

    fn size_bytes(&self) -> usize {
        self.texts.len() + self.places.len() * size_of::<(u32, u32)>()
    }

    /// Lets go of every other text.
    fn thin(&mut self) {
        let mut thinned = Self { stride: self.stride.saturating_mul(2), ..Self::holding(self.most_bytes) };
        for (place, (_, start)) in self.places.iter().enumerate().step_by(2) {
            thinned.texts.push_str(self.text(place));
            thinned.places.push((thinned.texts.len() as u32, *start));
        }
        *self = thinned;
    }

    fn text(&self, place: usize) -> &str {
        let end_of = |place: usize| self.places.get(place).map_or(0, |(end, _)| *end as usize);
        let start = place.checked_sub(1).map_or(0, end_of);
        self.texts.get(start..end_of(place)).unwrap_or_default()
    }

    /// The place of the last text that is not behind `text`.
    fn before(&self, text: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.places.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.text(middle) <= text {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1)
    }
}

/// See the module.
#[derive(Debug)]
pub struct SymbolStore {
    /// Where the file was made, for messages.
    dir: PathBuf,
    symbols: Spooled,
    count: u32,
    /// Of the symbols.
    crc: u32,
    samples: SymbolSamples,
}

impl SymbolStore {
    pub(super) fn new(dir: PathBuf, symbols: Spooled, count: u32, crc: u32, samples: SymbolSamples) -> Self {
        Self { dir, symbols, count, crc, samples }
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// For reading many texts.
    pub fn cursor(&self) -> SymbolCursor<'_> {
        SymbolCursor { store: self, piece: Vec::new(), piece_at: 0, next_at: 0, next: 0, current: None }
    }

    /// One text.
    ///
    /// # Errors
    /// As [`SymbolCursor::text`].
    pub fn text(&self, symbol: SymbolRef) -> Result<String, TsdbError> {
        self.cursor().text(symbol).map(str::to_owned)
    }

    /// Labels as PromQL writes them, as far as the symbols exist; for messages.
    pub fn show(&self, labels: &[(SymbolRef, SymbolRef)]) -> String {
        let text = |symbol| self.text(symbol).unwrap_or_else(|_| "?".to_owned());
        let pairs: Vec<String> =
            labels.iter().map(|(name, value)| format!("{}={:?}", text(*name), text(*value))).collect();
        format!("{{{}}}", pairs.join(", "))
    }

    /// Hands out the section as it is stored, from its length to its checksum, piece by piece.
    pub(super) fn visit<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let count = self.count.to_be_bytes();
        let size_bytes = self.symbols.size_bytes();
        // Checked by whoever made the section.
        let len = (size_bytes + count.len() as u64) as u32;
        each(&len.to_be_bytes())?;
        each(&count)?;
        self.symbols.visit(&mut each)?;
        each(&crc::combine(crc::crc32c(&count), self.crc, size_bytes).to_be_bytes())
    }
}

/// A place in the symbols.
#[derive(Debug)]
pub struct SymbolCursor<'a> {
    store: &'a SymbolStore,
    /// Some of the symbols.
    piece: Vec<u8>,
    /// Where among them it begins.
    piece_at: u64,
    /// The symbol that comes next, and where in the piece it begins.
    next: SymbolRef,
    next_at: usize,
    /// Where in the piece the text before `next` lies, if it was read.
    current: Option<Range<usize>>,
}

impl SymbolCursor<'_> {
    /// The text of a symbol.
    ///
    /// # Errors
    /// A symbol that does not exist; failures to read.
    pub fn text(&mut self, symbol: SymbolRef) -> Result<&str, TsdbError> {
        let store = self.store;
        if symbol >= store.count {
            return Err(TsdbError::not_found(WHAT, format!("number {symbol}, of {}", store.count)));
        }
        if self.current.is_none() || symbol.checked_add(1) != Some(self.next) {
            let sample = symbol / store.samples.stride;
            if symbol < self.next || self.next < sample * store.samples.stride {
                self.jump(sample as usize);
            }
            while self.next <= symbol {
                self.step()?;
            }
        }
        let text = std::str::from_utf8(self.current_bytes());
        text.map_err(|_| TsdbError::corrupt(WHAT, self.piece_at, "text is not UTF-8"))
    }

    /// The text behind the one that was read last, or the first; `None` behind the last.
    ///
    /// # Errors
    /// Failures to read.
    pub fn advance(&mut self) -> Result<Option<&str>, TsdbError> {
        if self.next >= self.store.count { Ok(None) } else { self.text(self.next).map(Some) }
    }

    /// The number of a text, if it is a symbol.
    ///
    /// # Errors
    /// Failures to read.
    pub fn find(&mut self, text: &str) -> Result<Option<SymbolRef>, TsdbError> {
        let store = self.store;
        let Some(sample) = store.samples.before(text) else { return Ok(None) };
        let stride = u64::from(store.samples.stride);
        let from = sample as u64 * stride;
        let end = (from + stride).min(u64::from(store.count));
        let is_on_its_way = u64::from(self.next) > from
            && u64::from(self.next) <= end
            && self.current.is_some()
            && self.current_bytes() <= text.as_bytes();
        if !is_on_its_way {
            self.jump(sample);
        }
        loop {
            if self.current.is_some() {
                match self.current_bytes().cmp(text.as_bytes()) {
                    std::cmp::Ordering::Less => {}
                    std::cmp::Ordering::Equal => return Ok(self.next.checked_sub(1)),
                    std::cmp::Ordering::Greater => return Ok(None),
                }
            }
            if u64::from(self.next) >= end {
                return Ok(None);
            }
            self.step()?;
        }
    }

    fn current_bytes(&self) -> &[u8] {
        self.current.clone().and_then(|range| self.piece.get(range)).unwrap_or_default()
    }

    /// Goes to a symbol that is held.
    fn jump(&mut self, sample: usize) {
        let samples = &self.store.samples;
        let start = samples.places.get(sample).map_or(0, |(_, start)| u64::from(*start));
        // A sample is a symbol, whose number fits.
        self.next = (sample as u32).saturating_mul(samples.stride);
        self.current = None;
        let at = start.checked_sub(self.piece_at).and_then(|at| usize::try_from(at).ok());
        match at.filter(|at| *at <= self.piece.len()) {
            Some(at) => self.next_at = at,
            None => {
                self.piece.clear();
                (self.piece_at, self.next_at) = (start, 0);
            }
        }
    }

    /// Reads the next symbol, of which there is one.
    fn step(&mut self) -> Result<(), TsdbError> {
        self.current = None;
        loop {
            let rest = self.piece.get(self.next_at..).unwrap_or_default();
            let held = rest.len();
            let mut cursor = Cursor::at(WHAT, self.piece_at + self.next_at as u64, rest);
            match cursor.uvarint_bytes() {
                Ok(text) => {
                    let end = self.next_at + cursor.position();
                    self.current = Some(end - text.len()..end);
                    self.next_at = end;
                    self.next = self.next.saturating_add(1);
                    return Ok(());
                }
                Err(error) => {
                    let TsdbError::Truncated { missing_bytes, .. } = &error else { return Err(error) };
                    let wanted = held.saturating_add(usize::try_from(*missing_bytes).unwrap_or(usize::MAX));
                    self.load(PIECE_BYTES.max(wanted))?;
                    if self.piece.len() <= held {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Reads so many bytes from the next symbol on, or as many as there are.
    fn load(&mut self, len: usize) -> Result<(), TsdbError> {
        self.piece_at += self.next_at as u64;
        self.next_at = 0;
        let read = self.store.symbols.read(self.piece_at, len, &mut self.piece);
        read.map_err(TsdbError::io(&self.store.dir))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::index::spool::Spool;
    use crate::index::symbols::encode_section;
    use crate::index::{SymbolSection, Symbols};

    fn section(store: &SymbolStore) -> Bytes {
        let mut bytes = Vec::new();
        store
            .visit(|piece| -> io::Result<()> {
                bytes.extend_from_slice(piece);
                Ok(())
            })
            .unwrap();
        bytes.into()
    }

    /// A store that holds few texts in memory, and few samples.
    fn squeezed(texts: &BTreeSet<String>, most_held: usize, most_sampled: usize) -> SymbolStore {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::holding(dir.path(), most_held);
        let mut samples = SymbolSamples { stride: 1, ..SymbolSamples::holding(most_sampled) };
        let mut sum = crc::crc32c(&[]);
        for (symbol, text) in (0..).zip(texts) {
            let mut entry = Vec::new();
            crate::cursor::put_uvarint(&mut entry, text.len() as u64);
            entry.extend_from_slice(text.as_bytes());
            samples.note(symbol, text, spool.size_bytes() as u32);
            sum = crc::append(sum, &entry);
            spool.write(&entry).unwrap();
        }
        let spooled = spool.finish().unwrap();
        SymbolStore::new(dir.path().to_owned(), spooled, texts.len() as u32, sum, samples)
    }

    proptest! {
        #[test]
        fn texts_are_found_by_number_and_number_by_text(
            texts in prop::collection::btree_set("[a-c]{0,5}", 0..200),
            most_held in 0usize..300,
            most_sampled in 0usize..300,
            asked in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            absent in "[a-d]{1,6}",
        ) {
            let store = squeezed(&texts, most_held, most_sampled);
            let sorted: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(&section(&store)[..], &encode_section(&sorted).unwrap()[..]);
            let mut cursor = store.cursor();
            for text in &sorted {
                prop_assert_eq!(cursor.advance().unwrap(), Some(*text));
            }
            prop_assert_eq!(cursor.advance().unwrap(), None);
            prop_assert!(cursor.text(store.len()).is_err());
            for place in asked.iter().filter(|_| !sorted.is_empty()).map(|at| at.index(sorted.len())) {
                prop_assert_eq!(cursor.text(place as u32).unwrap(), sorted[place]);
                let other = sorted[(place * 7 + 3) % sorted.len()];
                prop_assert_eq!(cursor.find(other).unwrap(), sorted.binary_search(&other).ok().map(|at| at as u32));
                let expected = sorted.binary_search(&absent.as_str()).ok().map(|at| at as u32);
                prop_assert_eq!(cursor.find(&absent).unwrap(), expected);
            }
            // In order, as a table of postings has them.
            let mut cursor = store.cursor();
            for (symbol, text) in (0..).zip(&sorted) {
                prop_assert_eq!(cursor.find(text).unwrap(), Some(symbol));
            }
        }
    }

    #[test]
    fn a_section_opens_with_its_texts_and_order_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut section_of = SymbolSection::new(dir.path());
        // One is longer than what is read at once.
        let long = "c".repeat(3 * PIECE_BYTES);
        let texts = ["", "a", "ab", &long, "é"];
        for (number, text) in (0..).zip(texts) {
            assert_eq!(section_of.push(text).unwrap(), number);
        }
        assert!(section_of.push("é").is_err() && section_of.push("b").is_err());
        let store = section_of.finish().unwrap();
        let symbols = Symbols::open("index".into(), 5, &section(&store), 2).unwrap();
        assert_eq!(symbols.iter().collect::<Result<Vec<_>, _>>().unwrap(), texts);
        for symbol in [4, 0, 3, 1] {
            assert_eq!(store.text(symbol).unwrap(), texts[symbol as usize]);
        }
    }

    #[test]
    fn what_is_held_of_many_symbols_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut section = SymbolSection::new(dir.path());
        let text = |number: u32| format!("the-name-of-something-that-is-there-once-{number:08}");
        for number in 0..200_000 {
            section.push(&text(number)).unwrap();
        }
        let store = section.finish().unwrap();
        assert!(store.samples.size_bytes() <= MOST_SAMPLED_BYTES);
        let mut cursor = store.cursor();
        for number in (0..200_000).step_by(997) {
            assert_eq!(cursor.find(&text(number)).unwrap(), Some(number));
            assert_eq!(cursor.text(199_999 - number).unwrap(), text(199_999 - number));
        }
        assert!(cursor.piece.len() <= 2 * PIECE_BYTES);
    }
}
