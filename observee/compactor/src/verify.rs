//! Reading a staged block back before it is uploaded: all of it, as if somebody else had written it.
//!
//! Series and chunks go through [`SourceBlock`], which checks order, checksums and times; and their [`Digest`] must be that of what the merge handed to the writer, which
//! in turn was held against what went into the merge. Postings must name each label of each series once: both
//! sides are summed up as a number that does not depend on order, so that nothing is held in memory. A block of many series is read in two parts at once, and its postings
//! beside them: nothing else of a job is done meanwhile. Blocking.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parallax_block::BlockMeta;
use parallax_block::meta::INDEX_FILE_NAME;
use parallax_bucket::{Access, Bucket, BucketConfig};
use parallax_tsdb::cursor::Cursor;
use parallax_tsdb::index::toc::TOC_SIZE_BYTES;
use parallax_tsdb::index::{SymbolCursor, SymbolRef, SymbolStore, Toc};
use parallax_tsdb::postings::SeriesRef;
use parallax_tsdb::{TsdbError, crc};
use tokio::runtime::Handle;

use crate::merge::{Digest, SeriesDigest};
use crate::source::{Reading, SourceBlock, SymbolLabels, Window};
use crate::{CompactError, Remedy};

/// An entry of the postings table is first read with this many bytes.
const ENTRY_GUESS_BYTES: usize = 256;

/// The fixed head of a postings table, and of a list: length and count.
const TABLE_HEAD_BYTES: u64 = 8;

/// So much of a list of postings is looked at at once.
const LIST_PIECE_SERIES: usize = 4 << 10;

/// Blocks with fewer series are read as a whole.
pub(crate) const SPLIT_FROM_SERIES: u64 = 4096;

/// Verifies the block `meta.ulid` in the directory `staging`; `symbols` are those that it was written with, and `digest` is that of its series.
///
/// # Errors
/// [`CompactError::Output`] with the first thing that is wrong. What may go away by itself, such as trouble of the local disk, says nothing of the block, and is given as it is.
pub(crate) fn verify_staged(
    staging: &Path,
    runtime: &Handle,
    meta: &BlockMeta,
    symbols: &SymbolStore,
    digest: &Digest,
    split_from_series: u64,
) -> Result<(), CompactError> {
    verify(staging, runtime, meta, symbols, digest, split_from_series).map_err(|error| {
        let is_of_block = match &error {
            // Symbols that do not decode were written wrong.
            CompactError::Staging(source) => !matches!(source, TsdbError::Io { .. }),
            error => error.remedy() == Remedy::Quarantine,
        };
        if is_of_block { CompactError::Output { reason: error.to_string() } } else { error }
    })
}

fn verify(
    staging: &Path,
    runtime: &Handle,
    meta: &BlockMeta,
    symbols: &SymbolStore,
    digest: &Digest,
    split_from_series: u64,
) -> Result<(), CompactError> {
    let wrong = |reason: String| CompactError::Output { reason };
    let bucket = Bucket::open(&BucketConfig::filesystem(staging), Access::Read)
        .map_err(|source| CompactError::Bucket { block: meta.ulid, source })?;
    let reading = Reading::new(bucket, runtime.clone(), 1);
    let mut blocks = vec![open(&reading, meta, symbols)?];
    if meta.stats.num_series >= split_from_series.max(2)
        && let Some(whole) = blocks.first_mut()
    {
        let middle = middle_series(&reading, meta, whole.postings_at())?;
        let rest = SourceBlock::split(&reading, whole, middle)?;
        blocks.push(rest);
    }
    let defect = |_| Err(CompactError::Defect { what: "reading a new block back".to_owned() });
    let (parts, listed) = thread::scope(|scope| {
        let listed = scope.spawn(|| read_postings(&reading, meta, symbols));
        let parts: Vec<_> = blocks.into_iter().map(|block| scope.spawn(move || read_part(block))).collect();
        let parts: Vec<_> = parts.into_iter().map(|part| part.join().unwrap_or_else(defect)).collect();
        let listed = listed.join();
        (
            parts,
            listed.unwrap_or_else(|_| Err(CompactError::Defect { what: "reading postings back".to_owned() })),
        )
    });
    let mut whole = Part::default();
    for part in parts {
        whole.join(part?)?;
    }
    let Part { digest: found, uses, .. } = whole;
    let stats = &meta.stats;
    let counted = (stats.num_series, stats.num_chunks, stats.num_samples);
    if counted != (found.series, found.chunks, found.samples) {
        return Err(wrong(format!("it has {found:?}, and meta.json counts {counted:?}")));
    }
    if found != *digest {
        return Err(wrong(format!("what is read back is {found:?}, what was written is {digest:?}")));
    }
    let listed = listed?;
    if listed != uses {
        return Err(wrong(format!("postings name {listed:?} and series {uses:?}")));
    }
    Ok(())
}

/// Opens the block, whose symbols have to be those that were merged.
fn open(reading: &Reading, meta: &BlockMeta, symbols: &SymbolStore) -> Result<SourceBlock, CompactError> {
    let others = || CompactError::Output { reason: "the symbols are not those that were merged".to_owned() };
    let mut merged = symbols.cursor();
    let block = SourceBlock::open_alone(reading, Arc::new(meta.clone()), |text| {
        match merged.advance().map_err(CompactError::Staging)? {
            Some(expected) if expected == text => Ok(()),
            _ => Err(others()),
        }
    })?;
    match merged.advance().map_err(CompactError::Staging)? {
        None => Ok(block),
        Some(_) => Err(others()),
    }
}

/// What a part of a block holds.
#[derive(Debug, Default)]
struct Part {
    uses: Uses,
    digest: Digest,
    /// Labels of the first series and of the last one.
    ends: Option<(SymbolLabels, SymbolLabels)>,
}

impl Part {
    /// Adds the part that follows.
    fn join(&mut self, next: Self) -> Result<(), CompactError> {
        if let (Some((_, last)), Some((first, _))) = (&self.ends, &next.ends)
            && first <= last
        {
            return Err(CompactError::Output { reason: "two parts of it are not in order".to_owned() });
        }
        self.digest.join(next.digest);
        self.uses.count += next.uses.count;
        self.uses.sum = self.uses.sum.wrapping_add(next.uses.sum);
        self.ends = match (self.ends.take(), next.ends) {
            (Some((first, _)), Some((_, last))) => Some((first, last)),
            (one, other) => one.or(other),
        };
        Ok(())
    }
}

fn read_part(mut block: SourceBlock) -> Result<Part, CompactError> {
    let mut part = Part::default();
    while block.advance()? {
        let series = block.series_ref()?;
        // The list of all series stands under the empty name and value, which is the first symbol.
        part.uses.add(0, 0, series);
        for (name, value) in block.labels() {
            part.uses.add(*name, *value, series);
        }
        let chunks = block.chunks()?;
        part.digest.add(SeriesDigest::of(block.labels(), &chunks).map_err(block.damaged())?);
        match &mut part.ends {
            None => part.ends = Some((block.labels().clone(), block.labels().clone())),
            Some((_, last)) => last.clone_from(block.labels()),
        }
    }
    Ok(part)
}

/// The series in the middle of the list of all, which is the first of the lists.
fn middle_series(reading: &Reading, meta: &BlockMeta, lists_at: u64) -> Result<SeriesRef, CompactError> {
    let damaged = |source| CompactError::Damaged { block: meta.ulid, source };
    let mut lists = Window::open(reading, meta.ulid, INDEX_FILE_NAME, reading.index_window_bytes)?;
    let place = meta.stats.num_series / 2 * size_of::<SeriesRef>() as u64;
    let at = lists_at.next_multiple_of(4) + TABLE_HEAD_BYTES + place;
    let bytes = lists.at(at, size_of::<SeriesRef>())?;
    Cursor::at(INDEX_FILE_NAME, at, &bytes).be_u32().map_err(damaged)
}

/// Which series have which labels, summed up; all have the empty one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Uses {
    count: u64,
    sum: u64,
}

impl Uses {
    #[inline]
    fn add(&mut self, name: SymbolRef, value: SymbolRef, series: SeriesRef) {
        self.count += 1;
        let label = u64::from(name) << 32 | u64::from(value);
        self.sum = self.sum.wrapping_add(scrambled(scrambled(label) ^ u64::from(series)));
    }
}

/// Spreads every bit over all: the finaliser of splitmix64.
#[inline]
fn scrambled(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn read_postings(reading: &Reading, meta: &BlockMeta, symbols: &SymbolStore) -> Result<Uses, CompactError> {
    let block = meta.ulid;
    let damaged = |source| CompactError::Damaged { block, source };
    let open = || Window::open(reading, block, INDEX_FILE_NAME, reading.index_window_bytes);
    let (mut table, mut lists) = (open()?, open()?);
    let size_bytes = table.size_bytes();
    let tail = table.at(size_bytes.saturating_sub(TOC_SIZE_BYTES as u64), TOC_SIZE_BYTES)?;
    let toc = Toc::decode(INDEX_FILE_NAME, size_bytes, &tail).map_err(damaged)?;
    let (mut names, mut values) = (symbols.cursor(), symbols.cursor());
    let head = table.at(toc.postings_table, 8)?;
    let mut cursor = Cursor::at(INDEX_FILE_NAME, toc.postings_table, &head);
    let length = cursor.be_u32().map_err(damaged)?;
    let mut crc = crc::crc32c(cursor.clone().bytes(4).map_err(damaged)?);
    let count = cursor.be_u32().map_err(damaged)?;
    let mut position = toc.postings_table + TABLE_HEAD_BYTES;
    let mut uses = Uses::default();
    for _ in 0..count {
        let (entry, bytes) = read_entry(&mut table, meta, position)?;
        position += bytes.len() as u64;
        crc = crc::append(crc, &bytes);
        let number = |symbols: &mut SymbolCursor<'_>, text: &str| {
            let found = symbols.find(text).map_err(CompactError::Staging)?;
            let unknown = || format!("the postings of {text:?}, which is no symbol");
            found.ok_or_else(|| CompactError::Output { reason: unknown() })
        };
        let (name, value) = (number(&mut names, &entry.name)?, number(&mut values, &entry.value)?);
        read_list(&mut lists, meta, entry.list_offset, |series| uses.add(name, value, series))?;
    }
    if toc.postings_table + 4 + u64::from(length) != position {
        let reason = "the postings table has another length";
        return Err(damaged(TsdbError::corrupt(INDEX_FILE_NAME, position, reason)));
    }
    check_sum(&mut table, meta, position, crc)?;
    Ok(uses)
}

/// Hands out the series of a list, piece by piece: it may be as long as all series are many.
fn read_list(
    lists: &mut Window,
    meta: &BlockMeta,
    offset: u64,
    mut each: impl FnMut(SeriesRef),
) -> Result<(), CompactError> {
    let damaged = |source| CompactError::Damaged { block: meta.ulid, source };
    let corrupt = |at: u64, reason| damaged(TsdbError::corrupt(INDEX_FILE_NAME, at, reason));
    let head = lists.at(offset, TABLE_HEAD_BYTES as usize)?;
    let mut cursor = Cursor::at(INDEX_FILE_NAME, offset, &head);
    let length = cursor.be_u32().map_err(damaged)?;
    let mut computed = crc::crc32c(cursor.clone().bytes(4).map_err(damaged)?);
    let count = cursor.be_u32().map_err(damaged)?;
    if u64::from(length) != 4 + 4 * u64::from(count) {
        return Err(corrupt(offset, "a list differs in length from its count"));
    }
    let mut at = offset + TABLE_HEAD_BYTES;
    let mut left = count as usize;
    let mut last = None;
    while left > 0 {
        let wanted = 4 * left.min(LIST_PIECE_SERIES);
        let piece = lists.at(at, wanted)?;
        let piece = piece.get(..wanted).ok_or_else(|| corrupt(at, "a list reaches beyond its index"))?;
        computed = crc::append(computed, piece);
        for bytes in piece.as_chunks::<4>().0 {
            let series = u32::from_be_bytes(*bytes);
            if last.is_some_and(|last| last >= series) {
                return Err(corrupt(at, "a list is not in order"));
            }
            last = Some(series);
            each(series);
        }
        at += wanted as u64;
        left -= wanted / 4;
    }
    check_sum(lists, meta, at, computed)
}

/// Compares the checksum that stands at `at`.
fn check_sum(window: &mut Window, meta: &BlockMeta, at: u64, computed: u32) -> Result<(), CompactError> {
    let damaged = |source| CompactError::Damaged { block: meta.ulid, source };
    let tail = window.at(at, crc::CRC_SIZE_BYTES)?;
    let stored = Cursor::at(INDEX_FILE_NAME, at, &tail).be_u32().map_err(damaged)?;
    if stored == computed {
        return Ok(());
    }
    let what = INDEX_FILE_NAME.into();
    Err(damaged(TsdbError::Checksum { what, offset: at, stored, computed }))
}

struct Entry {
    name: String,
    value: String,
    list_offset: u64,
}

/// The entry at `position` and its bytes.
fn read_entry(table: &mut Window, meta: &BlockMeta, position: u64) -> Result<(Entry, Bytes), CompactError> {
    let mut wanted = ENTRY_GUESS_BYTES;
    loop {
        let bytes = table.at(position, wanted)?;
        let mut cursor = Cursor::at(INDEX_FILE_NAME, position, &bytes);
        match decode_entry(&mut cursor) {
            Ok(entry) => return Ok((entry, bytes.slice(..cursor.position()))),
            Err(TsdbError::Truncated { .. }) if bytes.len() >= wanted => wanted *= 4,
            Err(source) => return Err(CompactError::Damaged { block: meta.ulid, source }),
        }
    }
}

fn decode_entry(cursor: &mut Cursor<'_>) -> Result<Entry, TsdbError> {
    if cursor.u8()? != 2 {
        return Err(cursor.corrupt("an entry of the postings table has two keys"));
    }
    let name = cursor.uvarint_str()?.to_owned();
    let value = cursor.uvarint_str()?.to_owned();
    Ok(Entry { name, value, list_offset: cursor.uvarint64()? })
}

#[cfg(test)]
mod tests;
