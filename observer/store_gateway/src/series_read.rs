//! Series entries of a block: which labels, which chunks in the asked time.
//!
//! An entry's length is known only from its first bytes, so a guess is fetched, and again what turns out to be missing. An entry that
//! does not decode is reported and left out; the others of the block go on. What does not decode out of a cache is read from the index first.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parallax_model::Matcher;
use parallax_storeapi::labels;
use parallax_storeapi::proto::thanos::Label;
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::{ChunkMeta, Piece, SERIES_ALIGNMENT_BYTES, SeriesEntry};
use parallax_tsdb::index_header::IndexHeader;
use parallax_tsdb::postings::SeriesRef;

use crate::block::Block;
use crate::error::BlockFailure;
use crate::fetch::{Fetch, join, tail_from};
use crate::index_cache::Item;
use crate::limits::{Data, Usage};
use crate::select::SelectRequest;

/// Ranges of one block's index fetched at a time.
const PARTS_AT_A_TIME: usize = 4;

/// An entry may be read this often: out of a cache, for its length, for the rest, and once to spare.
const MAX_ROUNDS: usize = 4;

/// What an entry and the text of its labels are about.
const TYPICAL_ENTRY_BYTES: usize = 512;

/// Symbols kept as text at a time, by one block of one call.
const MAX_CACHED_SYMBOLS: usize = 4096;

/// A series that matches, with the chunks that overlap the asked time.
#[derive(Debug)]
pub struct PendingSeries {
    /// Its own, sorted.
    pub labels: Vec<Label>,
    pub chunks: Vec<ChunkMeta>,
}

/// What some refs gave.
#[derive(Debug, Default)]
pub struct Window {
    pub series: Vec<PendingSeries>,
    pub damages: Vec<TsdbError>,
    /// Series that all matchers match, in the asked time or not.
    pub matched: Vec<SeriesRef>,
}

/// Reads entries of one block for one call.
pub struct SeriesReader {
    fetch: Fetch,
    usage: Arc<Usage>,
    block: Arc<Block>,
    decoder: Arc<Mutex<Decoder>>,
    series_end: u64,
}

/// What decoding needs, handed to the CPU pool and back.
struct Decoder {
    what: String,
    header: Arc<IndexHeader>,
    request: Arc<SelectRequest>,
    external: Vec<Label>,
    /// Matchers that the postings have not decided.
    deferred: Vec<Matcher>,
    symbols: SymbolCache,
    entry: SeriesEntry,
    /// How long the entry was that was decoded last, if it was whole and sound.
    whole_bytes: Option<usize>,
}

/// An entry that could not be decoded from the bytes at hand, or what came of it.
enum Decoded {
    Series(PendingSeries),
    /// No chunk of it overlaps the asked time, or it is another shard's.
    NotWanted,
    NotMatched,
    Cut {
        needed_bytes: usize,
    },
    Damaged(TsdbError),
    /// What a cache gave is no entry: the index decides.
    Stale,
}

impl SeriesReader {
    pub fn new(
        fetch: Fetch,
        usage: Arc<Usage>,
        block: Arc<Block>,
        header: Arc<IndexHeader>,
        request: Arc<SelectRequest>,
        deferred: Vec<Matcher>,
    ) -> Self {
        let decoder = Decoder {
            what: block.index_object(),
            symbols: SymbolCache::new(header.symbols().len()),
            external: labels::to_wire(block.external()),
            deferred,
            request,
            entry: SeriesEntry::default(),
            whole_bytes: None,
            header: Arc::clone(&header),
        };
        let series_end = header.index_toc().series_end();
        Self { fetch, usage, block, decoder: Arc::new(Mutex::new(decoder)), series_end }
    }

    /// The entries of `refs`, which are in order.
    pub async fn read(&self, refs: &[SeriesRef]) -> Result<Window, BlockFailure> {
        let guess = self.block.series_guess_bytes();
        let mut pending: Vec<(usize, Range<u64>)> = Vec::with_capacity(refs.len());
        let mut window = Window::default();
        for (index, series) in refs.iter().enumerate() {
            let offset = u64::from(*series) * SERIES_ALIGNMENT_BYTES;
            if offset >= self.series_end {
                let reason = "a postings list refers to a series beyond the series";
                window.damages.push(TsdbError::corrupt(&self.block.index_object(), offset, reason));
                continue;
            }
            pending.push((index, offset..offset.saturating_add(guess).min(self.series_end)));
        }
        let mut found: Vec<Option<PendingSeries>> = Vec::new();
        found.resize_with(refs.len(), || None);
        for round in 1.. {
            if pending.is_empty() {
                break;
            }
            let from_cache = round == 1;
            let decoded = self.decode(&pending, from_cache).await?;
            let asked = std::mem::take(&mut pending);
            for ((index, range), outcome) in asked.into_iter().zip(decoded) {
                match outcome {
                    Decoded::Series(series) => {
                        window.matched.extend(refs.get(index));
                        if let Some(slot) = found.get_mut(index) {
                            *slot = Some(series);
                        }
                    }
                    Decoded::NotWanted => window.matched.extend(refs.get(index)),
                    Decoded::NotMatched => {}
                    Decoded::Stale => pending.push((index, range)),
                    Decoded::Damaged(error) => window.damages.push(error),
                    Decoded::Cut { needed_bytes } => {
                        let end = range.start.saturating_add(needed_bytes as u64);
                        if end > self.series_end || end <= range.end && round > 1 || round == MAX_ROUNDS {
                            let missing = end.saturating_sub(range.end).max(1);
                            let what = self.block.index_object();
                            window.damages.push(TsdbError::truncated(&what, range.start, missing));
                        } else {
                            pending.push((index, range.start..end));
                        }
                    }
                }
            }
        }
        window.series = found.into_iter().flatten().collect();
        Ok(window)
    }

    /// Fetches and decodes the entries at `wanted`, in order; from the cache only where that may be.
    async fn decode(
        &self,
        wanted: &[(usize, Range<u64>)],
        from_cache: bool,
    ) -> Result<Vec<Decoded>, BlockFailure> {
        let id = self.block.id();
        let offsets: Vec<u64> = wanted.iter().map(|(_, range)| range.start).collect();
        let known = match &self.fetch.index_cache {
            Some(cache) if from_cache => cache.series(id, &offsets).await,
            _ => vec![None; offsets.len()],
        };
        let is_missing = |((_, range), known): (&(usize, Range<u64>), &Option<Bytes>)| {
            known.is_none().then(|| range.clone())
        };
        let ranges: Vec<Range<u64>> = wanted.iter().zip(&known).filter_map(is_missing).collect();
        let parts = join(&ranges, self.fetch.max_gap_bytes);
        let (ranges, object) = (&ranges, self.block.index_object());
        let object = object.as_str();
        let fetched: Vec<Vec<(u64, Bytes)>> = futures::stream::iter(parts)
            .map(|part| async move {
                let at = part.range.start;
                let charge = Some((&*self.usage, Data::Series));
                let bytes = self.fetch.range(id, object, part.range, charge).await?;
                let of_part = ranges.get(part.items).unwrap_or_default();
                let tail =
                    |range: &Range<u64>| (range.start, bytes.slice_ref(tail_from(&bytes, at, range.start)));
                Ok(of_part.iter().map(tail).collect())
            })
            .buffered(PARTS_AT_A_TIME)
            .try_collect()
            .await?;
        let mut fetched = fetched.into_iter().flatten();
        // Of what is not known the entry itself goes to the cache.
        let pieces: Vec<(u64, Bytes, bool)> = offsets
            .into_iter()
            .zip(known)
            .filter_map(|(offset, known)| match known {
                Some(bytes) => Some((offset, bytes, false)),
                None => fetched.next().map(|(offset, bytes)| (offset, bytes, true)),
            })
            .collect();
        let cache = self.fetch.index_cache.clone();
        let (decoder, usage) = (Arc::clone(&self.decoder), Arc::clone(&self.usage));
        let guessed_bytes = pieces.len().saturating_mul(TYPICAL_ENTRY_BYTES);
        let decode = move || {
            let mut decoder = decoder.lock().unwrap_or_else(PoisonError::into_inner);
            let decode = |(offset, bytes, is_new): &(u64, Bytes, bool)| {
                let decoded = decoder.decode(*offset, bytes, &usage);
                if let (Some(cache), true, Some(size)) = (&cache, *is_new, decoder.whole_bytes) {
                    cache.set_series(id, *offset, &bytes.slice(..size.min(bytes.len())));
                }
                match (decoded, &cache) {
                    (Decoded::Damaged(_) | Decoded::Cut { .. }, Some(cache)) if !is_new => {
                        cache.damaged(Item::Series);
                        Decoded::Stale
                    }
                    (decoded, _) => decoded,
                }
            };
            pieces.iter().map(decode).collect()
        };
        self.fetch.compute_over(id, guessed_bytes, decode).await
    }
}

impl Decoder {
    fn decode(&mut self, offset: u64, bytes: &[u8], usage: &Usage) -> Decoded {
        self.whole_bytes = None;
        match self.entry.decode(&self.what, offset, bytes) {
            Ok(Piece::Whole(size_bytes)) => {
                self.whole_bytes = Some(size_bytes);
                usage.touched(Data::Series, 1, size_bytes);
            }
            Ok(Piece::Cut { needed_bytes }) => return Decoded::Cut { needed_bytes },
            Err(error) => return Decoded::Damaged(error),
        }
        let range = self.request.range;
        let overlaps = |chunk: &&ChunkMeta| chunk.time_range().overlaps(&range);
        let wanted = self.entry.chunks.iter().filter(overlaps).count();
        if wanted == 0 && self.deferred.is_empty() {
            return Decoded::NotWanted;
        }
        // With room for the labels that are added later.
        let mut own = Vec::with_capacity(self.entry.labels.len() + self.external.len());
        for (name, value) in &self.entry.labels {
            let text = |cache: &mut SymbolCache, symbol| cache.text(symbol, &self.header);
            match (text(&mut self.symbols, *name), text(&mut self.symbols, *value)) {
                (Ok(name), Ok(value)) => own.push(Label { name, value }),
                (Err(error), _) | (_, Err(error)) => return Decoded::Damaged(error),
            }
        }
        if !self.deferred.iter().all(|matcher| matches(matcher, &own)) {
            return Decoded::NotMatched;
        }
        if wanted == 0 || self.request.shard.is_sharded() && !self.is_in_shard(&own) {
            return Decoded::NotWanted;
        }
        let mut chunks = Vec::new();
        if !self.request.skip_chunks {
            chunks.reserve_exact(wanted);
            chunks.extend(self.entry.chunks.iter().filter(overlaps));
        }
        Decoded::Series(PendingSeries { labels: own, chunks })
    }

    /// Shards are of the labels that the series is answered with.
    fn is_in_shard(&self, own: &[Label]) -> bool {
        let answered = self.request.answered(own, &self.external);
        self.request.shard.clone().matches(&answered)
    }
}

/// A label that a series lacks has the empty value.
fn matches(matcher: &Matcher, own: &[Label]) -> bool {
    // Symbols are UTF-8.
    std::str::from_utf8(labels::value_of(own, matcher.name())).is_ok_and(|value| matcher.matches(value))
}

/// The text of symbols, by number: names and common values come again and again.
struct SymbolCache {
    slots: Vec<Option<(u32, Bytes)>>,
}

impl SymbolCache {
    fn new(symbols: u32) -> Self {
        let slots = (symbols as usize).clamp(1, MAX_CACHED_SYMBOLS).next_power_of_two();
        Self { slots: vec![None; slots] }
    }

    fn text(&mut self, symbol: u32, header: &IndexHeader) -> Result<Bytes, TsdbError> {
        let at = symbol as usize & (self.slots.len() - 1);
        if let Some(Some((cached, text))) = self.slots.get(at)
            && *cached == symbol
        {
            return Ok(text.clone());
        }
        let text = Bytes::copy_from_slice(header.symbols().lookup(symbol)?.as_bytes());
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some((symbol, text.clone()));
        }
        Ok(text)
    }
}
