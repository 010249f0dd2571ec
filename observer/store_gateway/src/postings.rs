//! Which series of a block match: postings lists by ranges of the index, combined off the I/O threads. Lists and outcomes may come from the index cache.
//!
//! Lists that cost more than the series they would rule out are not fetched: their matchers are held against the labels of each series instead (Thanos'
//! lazy expanded postings). What a cache gives is believed as far as its checksums go; beyond that the index decides.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parallax_model::{MatchOp, Matcher};
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::{PostingsRange, SERIES_ALIGNMENT_BYTES, postings_list};
use parallax_tsdb::index_header::IndexHeader;
use parallax_tsdb::postings::{PostingsPlan, SeriesRef};

use crate::IndexCache;
use crate::block::Block;
use crate::config::LazyPostings;
use crate::error::BlockFailure;
use crate::fetch::{Fetch, Part, join, tail_from};
use crate::index_cache::Item;
use crate::limits::{Data, Usage};

/// Ranges of one block's index fetched at a time.
const PARTS_AT_A_TIME: usize = 8;

/// The series of a block that may match.
#[derive(Debug, Default)]
pub struct Selected {
    /// In order.
    pub refs: Vec<SeriesRef>,
    /// What is still to be held against the labels of each.
    pub deferred: Vec<Matcher>,
}

/// Lists by where they start, and which of them the index itself gave.
struct Lists {
    by_start: HashMap<u64, Bytes>,
    fresh: Vec<(u64, Bytes)>,
}

/// Selects in one block for one call.
pub struct Selector<'a> {
    pub fetch: &'a Fetch,
    pub usage: &'a Usage,
    pub block: &'a Block,
    pub header: &'a Arc<IndexHeader>,
    pub lazy: LazyPostings,
}

impl Selector<'_> {
    /// The series that all `matchers` match; without matchers, all series.
    pub async fn select(&self, matchers: &Arc<[Matcher]>) -> Result<Selected, BlockFailure> {
        let id = self.block.id();
        let cache = self.fetch.index_cache.as_deref();
        if let Some(cache) = cache
            && let Some(refs) = cache.expanded(id, matchers).await
        {
            if self.are_inside(&refs) {
                return Ok(Selected { refs, deferred: Vec::new() });
            }
            cache.damaged(Item::ExpandedPostings);
        }
        let damaged = |source: TsdbError| BlockFailure::Damaged { block: id, source };
        let (index, wanted) = (Arc::clone(self.header), Arc::clone(matchers));
        // To look up a value is quick; an expression is held against all of them.
        let is_quick = wanted.iter().all(|matcher| matcher.op() == MatchOp::Equal);
        let planning = move || plan(&index, &wanted);
        let plan = if is_quick { planning() } else { self.fetch.compute(id, planning).await? };
        let mut plan = plan.map_err(damaged)?;
        if plan.is_empty() {
            return Ok(Selected::default());
        }
        let deferred = self.defer(&mut plan, matchers);
        let refs = self.expand(Arc::new(plan)).await?;
        // A part of the matchers is not what the key stands for.
        if let Some(cache) = cache.filter(|_| deferred.is_empty()) {
            cache.set_expanded(id, matchers, &refs);
        }
        Ok(Selected { refs, deferred })
    }

    /// Keeps the series that all `matchers` were found to match where the postings alone had not told.
    pub fn remember(&self, matchers: &[Matcher], mut refs: Vec<SeriesRef>) {
        if let Some(cache) = self.fetch.index_cache.as_deref() {
            refs.sort_unstable();
            cache.set_expanded(self.block.id(), matchers, &refs);
        }
    }

    fn are_inside(&self, refs: &[SeriesRef]) -> bool {
        let end = self.header.index_toc().series_end();
        refs.last().is_none_or(|last| u64::from(*last) * SERIES_ALIGNMENT_BYTES < end)
    }

    /// Takes those matchers out of the plan that are cheaper to check series by series.
    fn defer(&self, plan: &mut PostingsPlan<PostingsRange>, matchers: &[Matcher]) -> Vec<Matcher> {
        if !self.lazy.is_enabled {
            return Vec::new();
        }
        let series_bytes = self.block.series_guess_bytes();
        let ratio = self.lazy.max_lists_per_series;
        let deferred = plan.defer_costly(PostingsRange::size_bytes, series_bytes, ratio);
        deferred.into_iter().filter_map(|index| matchers.get(index).cloned()).collect()
    }

    async fn expand(&self, plan: Arc<PostingsPlan<PostingsRange>>) -> Result<Vec<SeriesRef>, BlockFailure> {
        let mut places: Vec<PostingsRange> = plan.places().copied().collect();
        places.sort_unstable();
        places.dedup();
        let cache = self.fetch.index_cache.as_deref();
        let lists = self.fetch_lists(&places, cache).await?;
        let known = cache.filter(|_| lists.by_start.len() > lists.fresh.len());
        match (self.combine(&plan, lists, cache).await, known) {
            // What the cache gave may be to blame: then what the index gives takes its place.
            (Err(BlockFailure::Damaged { .. }), Some(known)) => {
                let lists = self.fetch_lists(&places, None).await?;
                let refs = self.combine(&plan, lists, cache).await?;
                known.damaged(Item::Postings);
                Ok(refs)
            }
            (refs, _) => refs,
        }
    }

    /// The refs that a plan leaves. Lists from the index are remembered once they have proved sound.
    async fn combine(
        &self,
        plan: &Arc<PostingsPlan<PostingsRange>>,
        lists: Lists,
        cache: Option<&IndexCache>,
    ) -> Result<Vec<SeriesRef>, BlockFailure> {
        let (id, what, plan) = (self.block.id(), self.block.index_object(), Arc::clone(plan));
        let Lists { by_start, fresh } = lists;
        let size_bytes = by_start.values().map(Bytes::len).sum();
        let combined = self.fetch.compute_over(id, size_bytes, move || {
            let load = |place: &PostingsRange| {
                let bytes = by_start.get(&place.start).cloned().unwrap_or_default();
                postings_list::decode(&what, place.start, &bytes)
            };
            Ok(plan.combine(load)?.collect())
        });
        let refs =
            combined.await?.map_err(|source: TsdbError| BlockFailure::Damaged { block: id, source })?;
        if let Some(cache) = cache {
            fresh.iter().for_each(|(start, list)| cache.set_postings(id, *start, list));
        }
        Ok(refs)
    }

    /// The bytes of each list, from the cache where that is given and has it.
    async fn fetch_lists(
        &self,
        places: &[PostingsRange],
        cache: Option<&IndexCache>,
    ) -> Result<Lists, BlockFailure> {
        let (fetch, usage, block) = (self.fetch, self.usage, self.block);
        let wanted_bytes: u64 = places.iter().map(PostingsRange::size_bytes).sum();
        usage.touched(Data::Postings, places.len(), usize::try_from(wanted_bytes).unwrap_or(usize::MAX));
        let mut by_start = match cache {
            Some(cache) => cache.postings(block.id(), places).await,
            None => HashMap::new(),
        };
        let missing: Vec<PostingsRange> =
            places.iter().filter(|place| !by_start.contains_key(&place.start)).copied().collect();
        let ranges: Vec<Range<u64>> = missing.iter().map(|place| place.start..place.end).collect();
        let parts = join(&ranges, fetch.max_gap_bytes);
        let (object, charge) = (block.index_object(), (usage, Data::Postings));
        let fetched = fetch.parts(block.id(), &object, parts, charge, PARTS_AT_A_TIME).await?;
        let lists_of = |(part, bytes): (Part, Bytes)| {
            let cut = move |place: &PostingsRange| {
                let tail = tail_from(&bytes, part.range.start, place.start);
                let size_bytes = usize::try_from(place.size_bytes()).unwrap_or(usize::MAX);
                let list = tail.get(..size_bytes).unwrap_or(tail);
                (place.start, bytes.slice_ref(list))
            };
            missing.get(part.items).unwrap_or_default().iter().map(cut).collect::<Vec<_>>()
        };
        let fresh: Vec<(u64, Bytes)> = fetched.into_iter().flat_map(lists_of).collect();
        by_start.extend(fresh.iter().cloned());
        Ok(Lists { by_start, fresh })
    }
}

fn plan(header: &IndexHeader, matchers: &[Matcher]) -> Result<PostingsPlan<PostingsRange>, TsdbError> {
    if matchers.is_empty() {
        // The key of the list of all series.
        return PostingsPlan::new(header, &[Matcher::equal("", "")]);
    }
    PostingsPlan::new(header, matchers)
}
