//! Which series of a block match: postings lists by ranges of the index, combined off the I/O threads. Lists and outcomes may come from the index cache.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use parallax_model::{MatchOp, Matcher};
use parallax_tsdb::TsdbError;
use parallax_tsdb::index::{PostingsRange, postings_list};
use parallax_tsdb::index_header::IndexHeader;
use parallax_tsdb::postings::{PostingsPlan, SeriesRef};

use crate::block::Block;
use crate::error::BlockFailure;
use crate::fetch::{Fetch, join, tail_from};
use crate::limits::{Data, Usage};

/// Ranges of one block's index fetched at a time.
const PARTS_AT_A_TIME: usize = 8;

/// The refs of the series that all `matchers` match, in order; without matchers, of all series.
pub async fn select(
    fetch: &Fetch,
    usage: &Usage,
    block: &Block,
    header: &Arc<IndexHeader>,
    matchers: &Arc<[Matcher]>,
) -> Result<Vec<SeriesRef>, BlockFailure> {
    let id = block.id();
    let cache = fetch.index_cache.as_deref();
    if let Some(cache) = cache
        && let Some(refs) = cache.expanded(id, matchers).await
    {
        return Ok(refs);
    }
    let damaged = |source: TsdbError| BlockFailure::Damaged { block: id, source };
    let (index, wanted) = (Arc::clone(header), Arc::clone(matchers));
    // To look up a value is quick; an expression is held against all of them.
    let is_quick = wanted.iter().all(|matcher| matcher.op() == MatchOp::Equal);
    let planning = move || plan(&index, &wanted);
    let plan = if is_quick { planning() } else { fetch.compute(id, planning).await? }.map_err(damaged)?;
    if plan.is_empty() {
        return Ok(Vec::new());
    }
    let mut places: Vec<PostingsRange> = plan.places().copied().collect();
    places.sort_unstable();
    places.dedup();
    let lists = fetch_lists(fetch, usage, block, &places).await?;
    let what = block.index_object.clone();
    let size_bytes = lists.values().map(Bytes::len).sum();
    let combined = fetch.compute_over(id, size_bytes, move || {
        let load = |place: &PostingsRange| {
            let bytes = lists.get(&place.start).cloned().unwrap_or_default();
            postings_list::decode(&what, place.start, &bytes)
        };
        Ok(plan.combine(load)?.collect())
    });
    let refs: Vec<SeriesRef> = combined.await?.map_err(damaged)?;
    if let Some(cache) = cache {
        cache.set_expanded(id, matchers, &refs);
    }
    Ok(refs)
}

fn plan(header: &IndexHeader, matchers: &[Matcher]) -> Result<PostingsPlan<PostingsRange>, TsdbError> {
    if matchers.is_empty() {
        // The key of the list of all series.
        return PostingsPlan::new(header, &[Matcher::equal("", "")]);
    }
    PostingsPlan::new(header, matchers)
}

/// The bytes of each list, by where it starts.
async fn fetch_lists(
    fetch: &Fetch,
    usage: &Usage,
    block: &Block,
    places: &[PostingsRange],
) -> Result<HashMap<u64, Bytes>, BlockFailure> {
    let wanted_bytes: u64 = places.iter().map(PostingsRange::size_bytes).sum();
    usage.touched(Data::Postings, places.len(), usize::try_from(wanted_bytes).unwrap_or(usize::MAX));
    let cache = fetch.index_cache.as_deref();
    let mut lists = match cache {
        Some(cache) => cache.postings(block.id(), places).await,
        None => HashMap::new(),
    };
    let missing: Vec<PostingsRange> =
        places.iter().filter(|place| !lists.contains_key(&place.start)).copied().collect();
    let ranges: Vec<Range<u64>> = missing.iter().map(|place| place.start..place.end).collect();
    let parts = join(&ranges, fetch.max_gap_bytes);
    let missing = missing.as_slice();
    let fetched: Vec<Vec<(u64, Bytes)>> = futures::stream::iter(parts)
        .map(|part| async move {
            let at = part.range.start;
            let bytes = fetch
                .range(block.id(), &block.index_object, part.range, Some((usage, Data::Postings)))
                .await?;
            let of_part = missing.get(part.items).unwrap_or_default();
            let tail = |start| bytes.slice_ref(tail_from(&bytes, at, start));
            Ok(of_part.iter().map(|place| (place.start, tail(place.start))).collect())
        })
        .buffer_unordered(PARTS_AT_A_TIME)
        .try_collect()
        .await?;
    if let Some(cache) = cache {
        let sizes: HashMap<u64, u64> =
            missing.iter().map(|place| (place.start, place.size_bytes())).collect();
        for (start, bytes) in fetched.iter().flatten() {
            let size = sizes.get(start).and_then(|size| usize::try_from(*size).ok()).unwrap_or(bytes.len());
            cache.set_postings(block.id(), *start, &bytes.slice(..size.min(bytes.len())));
        }
    }
    lists.extend(fetched.into_iter().flatten());
    Ok(lists)
}
