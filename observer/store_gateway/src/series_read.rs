//! Series entries of a block: which labels, which chunks in the asked time.
//!
//! An entry's length is known only from its first bytes, so a guess is fetched, and again what turns out to be missing. An entry that
//! does not decode is reported and left out; the others of the block go on. What does not decode out of a cache is read from the index first.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use parallax_model::Matcher;
use parallax_storeapi::ShardMatcher;
use parallax_storeapi::encoded::label_texts;
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::{ChunkMeta, Piece, SERIES_ALIGNMENT_BYTES, SeriesEntry};
use parallax_tsdb::index_header::IndexHeader;
use parallax_tsdb::postings::SeriesRef;

use crate::block::Block;
use crate::error::BlockFailure;
use crate::fetch::{Fetch, Part, join, tail_from};
use crate::index_cache::Item;
use crate::label_fields::{LabelFields, Written};
use crate::limits::{Data, Usage};
use crate::postings::Selected;
use crate::select::SelectRequest;

/// Ranges of one block's index fetched at a time.
const PARTS_AT_A_TIME: usize = 4;

/// An entry may be read this often: out of a cache, for its length, for the rest, and once to spare.
const MAX_ROUNDS: usize = 4;

/// What an entry and the text of its labels are about.
const TYPICAL_ENTRY_BYTES: usize = 512;

/// What the series of a window share: their labels, as they are answered, and where their chunks are.
#[derive(Debug, Default)]
struct Content {
    labels: Vec<u8>,
    chunks: Vec<ChunkMeta>,
}

/// A series that matches, with the chunks that overlap the asked time.
#[derive(Clone, Debug)]
pub struct PendingSeries {
    content: Arc<Content>,
    place: Place,
}

#[derive(Clone, Debug)]
struct Place {
    labels: Written,
    chunks: Range<usize>,
}

impl PendingSeries {
    /// The labels that it is answered with, as fields of the wire.
    pub fn labels(&self) -> &[u8] {
        self.text(&self.place.labels.labels)
    }

    /// What sorts at or below everything that its block still has; `None` if that is not known.
    pub fn bound(&self) -> Option<&[u8]> {
        self.place.labels.bound.as_ref().map(|bound| self.text(bound))
    }

    /// Whether the bound is the labels themselves.
    pub fn is_own_bound(&self) -> bool {
        self.place.labels.bound.as_ref() == Some(&self.place.labels.labels)
    }

    pub fn chunks(&self) -> &[ChunkMeta] {
        self.content.chunks.get(self.place.chunks.clone()).unwrap_or_default()
    }

    fn text(&self, range: &Range<usize>) -> &[u8] {
        self.content.labels.get(range.clone()).unwrap_or_default()
    }
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
    request: Arc<SelectRequest>,
    shard: ShardMatcher,
    /// Matchers that the postings have not decided.
    deferred: Vec<Matcher>,
    fields: LabelFields,
    /// Of the window that is being read.
    content: Content,
    /// Whether there is a cache for entries.
    remembers: bool,
    /// The labels of a series in its block, for deferred matchers.
    own: Vec<u8>,
    entry: SeriesEntry,
    /// How long the entry was that was decoded last, if it was whole and sound.
    whole_bytes: Option<usize>,
}

/// An entry that could not be decoded from the bytes at hand, or what came of it.
enum Decoded {
    Series(Place),
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
    /// For about so many `series`.
    pub fn new(
        fetch: Fetch,
        usage: Arc<Usage>,
        block: Arc<Block>,
        header: Arc<IndexHeader>,
        request: Arc<SelectRequest>,
        selected: &Selected,
    ) -> Self {
        let series_end = header.index_toc().series_end();
        let (without, series) = (&request.without_replica_labels, selected.refs.len());
        let decoder = Decoder {
            what: block.index_object(),
            fields: LabelFields::new(header, block.external(), without, series),
            deferred: selected.deferred.clone(),
            shard: request.shard.clone(),
            request,
            content: Content::default(),
            remembers: fetch.index_cache.as_ref().is_some_and(|cache| cache.keeps_series()),
            own: Vec::new(),
            entry: SeriesEntry::default(),
            whole_bytes: None,
        };
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
        let mut found: Vec<Option<Place>> = vec![None; refs.len()];
        for round in 1.. {
            if pending.is_empty() {
                break;
            }
            let from_cache = round == 1;
            let decoded = self.decode(&pending, from_cache).await?;
            let asked = std::mem::take(&mut pending);
            for ((index, range), outcome) in asked.into_iter().zip(decoded) {
                match outcome {
                    Decoded::Series(place) => {
                        window.matched.extend(refs.get(index));
                        if let Some(slot) = found.get_mut(index) {
                            *slot = Some(place);
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
        let content = Arc::new(std::mem::take(&mut self.decoder().content));
        let pending = |place| PendingSeries { content: Arc::clone(&content), place };
        window.series = found.into_iter().flatten().map(pending).collect();
        Ok(window)
    }

    fn decoder(&self) -> MutexGuard<'_, Decoder> {
        self.decoder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches and decodes the entries at `wanted`, in order; from the cache only where that may be.
    async fn decode(
        &self,
        wanted: &[(usize, Range<u64>)],
        from_cache: bool,
    ) -> Result<Vec<Decoded>, BlockFailure> {
        let id = self.block.id();
        let known = match &self.fetch.index_cache {
            Some(cache) if from_cache && cache.keeps_series() => {
                let offsets: Vec<u64> = wanted.iter().map(|(_, range)| range.start).collect();
                cache.series(id, &offsets).await
            }
            _ => Vec::new(),
        };
        let is_missing = |(index, (_, range)): (usize, &(usize, Range<u64>))| {
            known.get(index).is_none_or(Option::is_none).then(|| range.clone())
        };
        let ranges: Vec<Range<u64>> = wanted.iter().enumerate().filter_map(is_missing).collect();
        let parts = join(&ranges, self.fetch.max_gap_bytes);
        let object = self.block.index_object();
        let charge = (&*self.usage, Data::Series);
        let fetched = self.fetch.parts(id, &object, parts, charge, PARTS_AT_A_TIME).await?;
        let entries =
            Entries { offsets: wanted.iter().map(|(_, range)| range.start).collect(), known, fetched };
        let cache = self.fetch.index_cache.clone();
        let (decoder, usage) = (Arc::clone(&self.decoder), Arc::clone(&self.usage));
        let guessed_bytes = wanted.len().saturating_mul(TYPICAL_ENTRY_BYTES);
        let decode = move || {
            let mut decoder = decoder.lock().unwrap_or_else(PoisonError::into_inner);
            decoder.decode_all(
                &entries,
                |is_known, offset, decoded, whole| match (&cache, whole) {
                    (Some(cache), Some(whole)) if !is_known => {
                        cache.set_series(id, offset, &whole);
                        decoded
                    }
                    (Some(cache), _)
                        if is_known && matches!(decoded, Decoded::Damaged(_) | Decoded::Cut { .. }) =>
                    {
                        cache.damaged(Item::Series);
                        Decoded::Stale
                    }
                    _ => decoded,
                },
                &usage,
            )
        };
        self.fetch.compute_over(id, guessed_bytes, decode).await
    }
}

/// Entries to be decoded, in order: some out of a cache, the others in what was fetched.
struct Entries {
    offsets: Vec<u64>,
    /// By entry; shorter where nothing is known.
    known: Vec<Option<Bytes>>,
    /// Parts with the numbers of the entries in them, counted among those that are not known.
    fetched: Vec<(Part, Bytes)>,
}

impl Decoder {
    /// Decodes all entries; `conclude` is told of each whether it is known, where it lies, what came of it, and its bytes if it is whole and sound.
    fn decode_all(
        &mut self,
        entries: &Entries,
        conclude: impl Fn(bool, u64, Decoded, Option<Bytes>) -> Decoded,
        usage: &Usage,
    ) -> Vec<Decoded> {
        let (mut all, mut touched_bytes, mut touched) = (Vec::with_capacity(entries.offsets.len()), 0, 0);
        let (mut parts, mut missing) = (entries.fetched.iter().peekable(), 0);
        for (index, offset) in entries.offsets.iter().enumerate() {
            let known = entries.known.get(index).and_then(Option::as_ref);
            let (bytes, tail) = match known {
                Some(bytes) => (Some(bytes), bytes.as_ref()),
                None => {
                    while parts.next_if(|(part, _)| part.items.end <= missing).is_some() {}
                    missing += 1;
                    let fetched = parts
                        .peek()
                        .map(|(part, bytes)| (bytes, tail_from(bytes, part.range.start, *offset)));
                    fetched.map_or((None, &[][..]), |(bytes, tail)| (Some(bytes), tail))
                }
            };
            let decoded = self.decode(*offset, tail);
            let whole = self.whole_bytes.and_then(|size_bytes| tail.get(..size_bytes));
            if let Some(whole) = whole {
                touched += 1;
                touched_bytes += whole.len();
            }
            // Nothing is shared but what is remembered.
            let whole =
                bytes.zip(whole).filter(|_| self.remembers).map(|(bytes, whole)| bytes.slice_ref(whole));
            all.push(conclude(known.is_some(), *offset, decoded, whole));
        }
        usage.touched(Data::Series, touched, touched_bytes);
        all
    }

    fn decode(&mut self, offset: u64, bytes: &[u8]) -> Decoded {
        self.whole_bytes = None;
        match self.entry.decode(&self.what, offset, bytes) {
            Ok(Piece::Whole(size_bytes)) => self.whole_bytes = Some(size_bytes),
            Ok(Piece::Cut { needed_bytes }) => return Decoded::Cut { needed_bytes },
            Err(error) => return Decoded::Damaged(error),
        }
        let range = self.request.range;
        let overlaps = |chunk: &&ChunkMeta| chunk.time_range().overlaps(&range);
        let is_wanted = self.entry.chunks.iter().any(|chunk| overlaps(&chunk));
        if !self.deferred.is_empty() {
            self.own.clear();
            if let Err(error) = self.fields.write_own(&self.entry.labels, &mut self.own) {
                return Decoded::Damaged(error);
            }
            if !self.deferred.iter().all(|matcher| matches(matcher, &self.own)) {
                return Decoded::NotMatched;
            }
        }
        if !is_wanted {
            return Decoded::NotWanted;
        }
        let before = self.content.labels.len();
        let labels = match self.fields.write(&self.entry.labels, &mut self.content.labels) {
            Ok(labels) => labels,
            Err(error) => {
                self.content.labels.truncate(before);
                return Decoded::Damaged(error);
            }
        };
        if self.shard.is_sharded() && !self.is_in_shard(&labels) {
            self.content.labels.truncate(before);
            return Decoded::NotWanted;
        }
        let start = self.content.chunks.len();
        if !self.request.skip_chunks {
            self.content.chunks.extend(self.entry.chunks.iter().filter(overlaps));
        }
        Decoded::Series(Place { labels, chunks: start..self.content.chunks.len() })
    }

    /// Shards are of the labels that the series is answered with.
    fn is_in_shard(&mut self, labels: &Written) -> bool {
        let answered = self.content.labels.get(labels.labels.clone()).unwrap_or_default();
        self.shard.matches_texts(label_texts(answered))
    }
}

/// A label that a series lacks has the empty value.
fn matches(matcher: &Matcher, own: &[u8]) -> bool {
    let mut labels = label_texts(own);
    let value =
        labels.find(|(name, _)| *name == matcher.name().as_bytes()).map_or(&[][..], |(_, value)| value);
    // Symbols are UTF-8.
    std::str::from_utf8(value).is_ok_and(|value| matcher.matches(value))
}
