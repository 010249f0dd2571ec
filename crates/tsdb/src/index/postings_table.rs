//! The postings offset table: every label name and value, in order, and where the list of its series lies.
//!
//! Held in memory: every name, and of each name's values one in [`SAMPLE_EVERY`] together with the first and the last. The
//! rest is read from the bytes of the table, at most that many entries per lookup. The whole table is checked when
//! it is opened: checksum, UTF-8, strict order of (name, value), and lists that lie in the same order.

use std::sync::Arc;

use bytes::Bytes;

use super::{SAMPLE_EVERY, checked_section};
use crate::cursor::{Cursor, put_uvarint};
use crate::error::TsdbError;
use crate::postings::LabelValueIndex;

/// Each entry has two keys, name and value.
const KEYS_PER_ENTRY: u64 = 2;

/// Where a postings list lies in its index: from its length up to where the next list begins.
///
/// The list with its checksum fills this range, unless it is the last one of an old index, which has unused sections behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PostingsRange {
    pub start: u64,
    pub end: u64,
}

impl PostingsRange {
    pub fn size_bytes(&self) -> u64 {
        self.end - self.start
    }

    /// The range as Thanos' index-header gives it, and its caches hold it: count and refs, without length and checksum.
    pub fn without_frame(&self) -> Self {
        Self { start: self.start + 4, end: (self.end - 4).max(self.start + 4) }
    }
}

/// The table of one index, sampled.
#[derive(Clone, Debug)]
pub struct PostingsTable {
    what: Arc<str>,
    /// Where the entries begin in `what`.
    offset: u64,
    entries: Bytes,
    /// Where the last list ends, at the latest.
    lists_end: u64,
    /// Sorted by name. The first is the empty name, if there are any series.
    names: Vec<NameEntries>,
}

#[derive(Clone, Debug)]
struct NameEntries {
    name: Box<str>,
    value_count: usize,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    value: Box<str>,
    /// Where its entry begins in the entries.
    entry_at: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    name: &'a str,
    value: &'a str,
    list_offset: u64,
}

impl PostingsTable {
    /// Opens a table that begins (with its length) at the start of `bytes`, `offset` bytes into `what`.
    ///
    /// The lists themselves must lie within `lists`, a range of the index.
    pub fn open(what: Arc<str>, offset: u64, bytes: &Bytes, lists: PostingsRange) -> Result<Self, TsdbError> {
        let content = checked_section(&what, offset, bytes)?;
        let mut cursor = Cursor::at(&what, offset + 4, content);
        let count = cursor.be_u32()?;
        let entries = bytes.slice_ref(cursor.rest());
        let offset = cursor.offset();
        let mut sampler = Sampler::default();
        let mut cursor = Cursor::at(&what, offset, &entries);
        let mut last_list: Option<u64> = None;
        for _ in 0..count {
            let entry_at = u32::try_from(cursor.position())
                .map_err(|_| cursor.corrupt("the table takes more than 4 GiB"))?;
            let entry_offset = cursor.offset();
            let entry = read_entry(&mut cursor)?;
            let follows = last_list.is_none_or(|last| last < entry.list_offset);
            if !follows || entry.list_offset < lists.start || entry.list_offset >= lists.end {
                return Err(TsdbError::corrupt(&what, entry_offset, "a postings list lies out of place"));
            }
            last_list = Some(entry.list_offset);
            if !sampler.add(entry, entry_at) {
                return Err(TsdbError::corrupt(&what, entry_offset, "the postings table is not in order"));
            }
        }
        if !cursor.is_empty() {
            return Err(cursor.corrupt("bytes follow the last entry of the postings table"));
        }
        let names = sampler.finish();
        Ok(Self { what, offset, entries, lists_end: lists.end, names })
    }

    /// The names of all labels, in order.
    pub fn label_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|entry| &*entry.name).filter(|name| !name.is_empty())
    }

    /// How many values a label has.
    pub fn value_count(&self, name: &str) -> usize {
        if name.is_empty() { 0 } else { self.entries_of(name).map_or(0, |entries| entries.value_count) }
    }

    /// All values of a label, in order.
    pub fn label_values(&self, name: &str) -> Result<Vec<String>, TsdbError> {
        self.values(name, "").map(|found| found.map(|(value, _)| value.to_owned())).collect()
    }

    /// The values of a label that begin with `prefix`, in order, and where their lists lie. Read as the iterator is advanced.
    pub fn values(&self, name: &str, prefix: &str) -> Values<'_> {
        let of_name = self.entries_of(name).filter(|_| !name.is_empty());
        let cursor = of_name.and_then(|of_name| {
            let first = || of_name.samples.first().and_then(|first| self.cursor_at(first));
            self.cursor_before(of_name, prefix).or_else(first)
        });
        let name = of_name.map_or("", |of_name| &of_name.name);
        Values { name, prefix: prefix.into(), cursor, current: None, lists_end: self.lists_end }
    }

    /// The list of one label pair. The empty name and value give the list of all series.
    pub fn find(&self, name: &str, value: &str) -> Result<Option<PostingsRange>, TsdbError> {
        let Some(of_name) = self.entries_of(name) else { return Ok(None) };
        if of_name.samples.last().is_none_or(|last| *last.value < *value) {
            return Ok(None);
        }
        let Some(mut cursor) = self.cursor_before(of_name, value) else { return Ok(None) };
        loop {
            let entry = read_entry(&mut cursor)?;
            if entry.name != name || entry.value > value {
                return Ok(None);
            }
            if entry.value == value {
                let end = self.next_list(&cursor)?;
                return Ok(Some(PostingsRange { start: entry.list_offset, end }));
            }
        }
    }

    fn entries_of(&self, name: &str) -> Option<&NameEntries> {
        let found = self.names.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        self.names.get(found)
    }

    /// Reads from the last sample that is not above `value`; `None` if `value` is below all of them.
    fn cursor_before(&self, of_name: &NameEntries, value: &str) -> Option<Cursor<'_>> {
        let above = of_name.samples.partition_point(|sample| *sample.value <= *value);
        self.cursor_at(of_name.samples.get(above.checked_sub(1)?)?)
    }

    fn cursor_at(&self, sample: &Sample) -> Option<Cursor<'_>> {
        let at = sample.entry_at;
        let bytes = self.entries.get(at as usize..)?;
        Some(Cursor::at(&self.what, self.offset + u64::from(at), bytes))
    }

    /// Where the list of the entry at the cursor begins, which is where the one before ends.
    fn next_list(&self, cursor: &Cursor<'_>) -> Result<u64, TsdbError> {
        if cursor.is_empty() {
            return Ok(self.lists_end);
        }
        read_entry(&mut cursor.clone()).map(|entry| entry.list_offset)
    }
}

impl LabelValueIndex for PostingsTable {
    type Place = PostingsRange;
    type Error = TsdbError;

    fn all_series_place(&self) -> Result<Option<PostingsRange>, TsdbError> {
        self.find("", "")
    }

    fn value_place(&self, name: &str, value: &str) -> Result<Option<PostingsRange>, TsdbError> {
        if name.is_empty() { Ok(None) } else { self.find(name, value) }
    }

    fn visit_values(
        &self,
        name: &str,
        prefix: &str,
        visit: &mut dyn FnMut(&str, PostingsRange),
    ) -> Result<(), TsdbError> {
        for found in self.values(name, prefix) {
            let (value, place) = found?;
            visit(value, place);
        }
        Ok(())
    }
}

/// See [`PostingsTable::values`].
#[derive(Clone, Debug)]
pub struct Values<'a> {
    name: &'a str,
    prefix: Box<str>,
    /// Behind `current`; `None` at the end.
    cursor: Option<Cursor<'a>>,
    current: Option<Entry<'a>>,
    lists_end: u64,
}

impl<'a> Values<'a> {
    /// The next value with the prefix. A list ends where the next one begins, so one entry is read ahead.
    fn step(&mut self) -> Result<Option<(&'a str, PostingsRange)>, TsdbError> {
        while let Some(mut cursor) = self.cursor.take() {
            let current = match self.current.take() {
                Some(current) => current,
                None => read_entry(&mut cursor)?,
            };
            let next = if cursor.is_empty() { None } else { Some(read_entry(&mut cursor)?) };
            let end = next.map_or(self.lists_end, |next| next.list_offset);
            if next.is_some_and(|next| next.name == self.name) {
                self.current = next;
                self.cursor = Some(cursor);
            }
            if current.value.starts_with(&*self.prefix) {
                return Ok(Some((current.value, PostingsRange { start: current.list_offset, end })));
            }
            if current.value > &*self.prefix {
                self.cursor = None;
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Result<(&'a str, PostingsRange), TsdbError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

fn read_entry<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>, TsdbError> {
    let keys = cursor.uvarint64()?;
    if keys != KEYS_PER_ENTRY {
        return Err(cursor.corrupt(format!("an entry of the postings table has {keys} keys")));
    }
    Ok(Entry { name: cursor.uvarint_str()?, value: cursor.uvarint_str()?, list_offset: cursor.uvarint64()? })
}

/// Appends one entry.
pub(super) fn put_entry(out: &mut Vec<u8>, name: &str, value: &str, list_offset: u64) {
    put_uvarint(out, KEYS_PER_ENTRY);
    for text in [name, value] {
        put_uvarint(out, text.len() as u64);
        out.extend(text.as_bytes());
    }
    put_uvarint(out, list_offset);
}

/// Picks the entries to be held in memory, and checks their order.
#[derive(Default)]
struct Sampler<'a> {
    names: Vec<NameEntries>,
    last: Option<(Entry<'a>, u32)>,
}

impl<'a> Sampler<'a> {
    /// False if the entry does not sort behind the one before.
    fn add(&mut self, entry: Entry<'a>, entry_at: u32) -> bool {
        let last_name = self.last.map(|(last, _)| last.name);
        match self.last {
            Some((last, _)) if (last.name, last.value) >= (entry.name, entry.value) => return false,
            _ => {}
        }
        if last_name != Some(entry.name) {
            self.close_name();
            self.names.push(NameEntries { name: entry.name.into(), value_count: 0, samples: Vec::new() });
        }
        if let Some(of_name) = self.names.last_mut() {
            if of_name.value_count.is_multiple_of(SAMPLE_EVERY) {
                of_name.samples.push(Sample { value: entry.value.into(), entry_at });
            }
            of_name.value_count += 1;
        }
        self.last = Some((entry, entry_at));
        true
    }

    /// The last value of a name is always held.
    fn close_name(&mut self) {
        if let (Some(of_name), Some((last, entry_at))) = (self.names.last_mut(), self.last) {
            if of_name.samples.last().is_none_or(|sample| sample.entry_at != entry_at) {
                of_name.samples.push(Sample { value: last.value.into(), entry_at });
            }
            of_name.samples.shrink_to_fit();
        }
    }

    fn finish(mut self) -> Vec<NameEntries> {
        self.close_name();
        self.names
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::crc::crc32c;

    /// The bytes of a table whose lists are 16 bytes long each, from 100 on.
    fn table_of(pairs: &BTreeSet<(String, String)>) -> Vec<u8> {
        let mut content = (pairs.len() as u32).to_be_bytes().to_vec();
        for ((name, value), list) in pairs.iter().zip(0u64..) {
            put_entry(&mut content, name, value, 100 + 16 * list);
        }
        let crc = crc32c(&content);
        [&(content.len() as u32).to_be_bytes()[..], &content, &crc.to_be_bytes()].concat()
    }

    fn pairs() -> impl Strategy<Value = BTreeSet<(String, String)>> {
        // Few names with many values, so that there is something between the samples.
        prop::collection::btree_set(("[ab]{1,2}", "[a-c]{1,5}"), 0..300)
    }

    proptest! {
        #[test]
        fn a_sampled_table_answers_as_the_whole(pairs in pairs(), prefix in "[a-d]{0,3}", absent in "[a-d]{1,5}") {
            let lists = PostingsRange { start: 100, end: 100 + 16 * pairs.len() as u64 };
            let table = PostingsTable::open("index".into(), 50, &table_of(&pairs).into(), lists).unwrap();
            let mut by_name: BTreeMap<&str, Vec<(&str, PostingsRange)>> = BTreeMap::new();
            for ((name, value), list) in pairs.iter().zip(0u64..) {
                let place = PostingsRange { start: 100 + 16 * list, end: 116 + 16 * list };
                by_name.entry(name).or_default().push((value, place));
                prop_assert_eq!(table.find(name, value).unwrap(), Some(place));
                let expected = pairs.contains(&(name.clone(), absent.clone()));
                prop_assert_eq!(table.find(name, &absent).unwrap().is_some(), expected);
            }
            prop_assert_eq!(table.label_names().collect::<Vec<_>>(), by_name.keys().copied().collect::<Vec<_>>());
            for (name, values) in by_name {
                prop_assert_eq!(table.value_count(name), values.len());
                let found: Vec<_> = table.values(name, &prefix).map(Result::unwrap).collect();
                let expected: Vec<_> = values.into_iter().filter(|(value, _)| value.starts_with(&prefix)).collect();
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(table.values("nowhere", "").count(), 0);
        }
    }

    #[test]
    fn lists_out_of_place_and_names_out_of_order_are_corrupt() {
        let open = |entries: &[(&str, &str, u64)]| {
            let mut content = (entries.len() as u32).to_be_bytes().to_vec();
            entries.iter().for_each(|(name, value, list)| put_entry(&mut content, name, value, *list));
            let crc = crc32c(&content);
            let bytes = [&(content.len() as u32).to_be_bytes()[..], &content, &crc.to_be_bytes()].concat();
            PostingsTable::open("index".into(), 0, &bytes.into(), PostingsRange { start: 10, end: 90 })
        };
        assert!(open(&[("", "", 10), ("a", "b", 30), ("a", "c", 50)]).is_ok());
        for bad in [
            [("a", "b", 30), ("a", "b", 50)],
            [("b", "a", 30), ("a", "b", 50)],
            [("a", "b", 50), ("a", "c", 30)],
            [("a", "b", 9), ("a", "c", 30)],
            [("a", "b", 30), ("a", "c", 90)],
        ] {
            assert!(open(&bad).unwrap_err().is_corruption(), "{bad:?}");
        }
    }
}
