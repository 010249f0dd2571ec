//! Reading through the caches of a bucket. What a cache does not have, or has wrong, comes from the bucket.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::Bucket;
use crate::BucketError;
use crate::caching::{MetaCache, RangeCache};

/// Pieces of one read at most; larger reads pass the cache by.
const MAX_PIECES: u64 = 4096;
/// The first byte of a remembered meta: the object does not exist, or it follows.
const ABSENT: u8 = 0;
const PRESENT: u8 = 1;

impl Bucket {
    /// Ranges in pieces of a fixed size, from the cache where it has them.
    pub(super) async fn get_cached_ranges(
        &self,
        cache: &RangeCache,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BucketError> {
        let size_bytes = self.cached_size(cache, object).await?;
        let unit = cache.subrange_bytes.max(1);
        let inside = ranges.iter().all(|range| range.start < range.end && range.start < size_bytes);
        let pieces = wanted_pieces(ranges, unit, size_bytes).filter(|_| inside);
        let Some(pieces) = pieces else { return self.get_uncached_ranges(object, ranges).await };
        let extent = |piece: u64| piece * unit..(piece * unit + unit).min(size_bytes);
        let keys: Vec<String> =
            pieces.iter().map(|piece| self.piece_key(object, piece * unit, unit)).collect();
        let mut found = cache.cache.get_multi(&keys).await;
        found.resize(pieces.len(), None);
        for (piece, value) in pieces.iter().zip(&mut found) {
            let extent = extent(*piece);
            if value.as_ref().is_some_and(|value| value.len() as u64 != extent.end - extent.start) {
                cache.metrics.wrong(cache.label);
                *value = None;
            }
        }
        let from_cache: u64 = found.iter().flatten().map(|value| value.len() as u64).sum();
        cache.metrics.pieces(cache.label, pieces.len(), found.iter().flatten().count());
        let missing: Vec<u64> =
            pieces.iter().zip(&found).filter(|(_, value)| value.is_none()).map(|(piece, _)| *piece).collect();
        let runs: Vec<Range<u64>> = runs(&missing, cache.max_requests)
            .into_iter()
            .map(|run| extent(run.start).start..extent(run.end - 1).end)
            .collect();
        let parts = match runs.as_slice() {
            [] => Vec::new(),
            runs => match self.get_uncached_ranges(object, runs).await {
                Ok(parts) => parts,
                // Pieces reach further than ranges: what was asked for decides.
                Err(_) => return self.get_uncached_ranges(object, ranges).await,
            },
        };
        for ((piece, key), value) in
            pieces.iter().zip(&keys).zip(&mut found).filter(|(_, value)| value.is_none())
        {
            let fetched = slice_of(&runs, &parts, &extent(*piece));
            if let Some(fetched) = &fetched {
                cache.cache.set(key, fetched, cache.ttl);
            }
            *value = fetched;
        }
        let requested = ranges.iter().map(|range| range.end.min(size_bytes) - range.start).sum();
        let from_bucket = parts.iter().map(|part| part.len() as u64).sum();
        cache.metrics.bytes(cache.label, requested, from_cache, from_bucket);
        let assembled: Option<Vec<Bytes>> =
            ranges.iter().map(|range| assemble(range, unit, size_bytes, &pieces, &found)).collect();
        match assembled {
            Some(parts) => Ok(parts),
            // The object is shorter than the cache said: the bucket decides.
            None => self.get_uncached_ranges(object, ranges).await,
        }
    }

    /// Whether [`Bucket::get_range`] of this object goes through a cache.
    pub fn caches_ranges_of(&self, object: &str) -> bool {
        self.caches.of_ranges(object).is_some()
    }

    /// As [`Bucket::get_range`], but from the bucket itself: for who has found that what a cache gave cannot be right. What comes takes the place of what was
    /// remembered; where that was something else, it is counted.
    ///
    /// # Errors
    /// As [`Bucket::get_range`].
    pub async fn get_range_again(&self, object: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let Some(cache) = self.caches.of_ranges(object) else { return self.get_range(object, range).await };
        let size_bytes = self.head(object).await?.size_bytes;
        self.remember_size(cache, object, size_bytes).await;
        let unit = cache.subrange_bytes.max(1);
        // Whole pieces, so that they can be remembered.
        let start = range.start / unit * unit;
        let end = range.end.min(size_bytes).div_ceil(unit).saturating_mul(unit).min(size_bytes);
        let inside = range.start < range.end && range.start < size_bytes;
        if !inside || (end - start).div_ceil(unit) > MAX_PIECES {
            return self.get_uncached_range(object, range).await;
        }
        let bytes = self.get_uncached_range(object, start..end).await?;
        let mut at = start;
        let mut pieces = Vec::new();
        for piece in bytes.chunks(usize::try_from(unit).unwrap_or(usize::MAX)) {
            let is_whole = piece.len() as u64 == unit.min(size_bytes.saturating_sub(at));
            if is_whole {
                pieces.push((self.piece_key(object, at, unit), bytes.slice_ref(piece)));
            }
            at += piece.len() as u64;
        }
        put_right(cache, pieces).await;
        let cut = |at: u64| usize::try_from(at.min(end) - start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(bytes.slice(cut(range.start)..cut(range.end)))
    }

    async fn get_uncached_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let mut all = self.get_uncached_ranges(object, std::slice::from_ref(&range)).await?;
        Ok(all.pop().unwrap_or_default())
    }

    fn piece_key(&self, object: &str, start: u64, unit: u64) -> String {
        format!("subrange:{}:{object}:{start}:{unit}", self.cache_scope())
    }

    async fn remember_size(&self, cache: &RangeCache, object: &str, size_bytes: u64) {
        let key = format!("attrs:{}:{object}", self.cache_scope());
        let value = Bytes::copy_from_slice(&size_bytes.to_be_bytes());
        let known = cache.cache.get_multi(std::slice::from_ref(&key)).await.pop().flatten();
        if known.is_some_and(|known| known != value) {
            cache.metrics.wrong(cache.label);
        }
        cache.cache.set(&key, &value, cache.attrs_ttl);
    }

    async fn cached_size(&self, cache: &RangeCache, object: &str) -> Result<u64, BucketError> {
        let key = format!("attrs:{}:{object}", self.cache_scope());
        let found = cache.cache.get_multi(std::slice::from_ref(&key)).await.pop().flatten();
        let known = found.and_then(|value| value.as_ref().try_into().ok().map(u64::from_be_bytes));
        cache.metrics.requested(cache.label, "attributes", known.is_some());
        if let Some(size_bytes) = known {
            return Ok(size_bytes);
        }
        let size_bytes = self.head(object).await?.size_bytes;
        let value = Bytes::copy_from_slice(&size_bytes.to_be_bytes());
        cache.cache.set(&key, &value, cache.attrs_ttl);
        Ok(size_bytes)
    }

    /// A meta or a mark; that there is none is remembered too.
    pub(super) async fn get_cached_meta(
        &self,
        cache: &MetaCache,
        object: &str,
        limit_bytes: u64,
    ) -> Result<Bytes, BucketError> {
        let key = format!("content:{}:{object}", self.cache_scope());
        let found = cache.cache.get_multi(std::slice::from_ref(&key)).await.pop().flatten();
        let known = found.as_ref().and_then(|value| value.split_first());
        let is_hit = known.is_some_and(|(tag, rest)| *tag == PRESENT || (*tag == ABSENT && rest.is_empty()));
        cache.metrics.requested("meta.jsons", "get", is_hit);
        match (known, &found) {
            (Some((&ABSENT, [])), _) => return Err(BucketError::NotFound { object: object.to_owned() }),
            (Some((&PRESENT, content)), Some(value)) => {
                let size_bytes = content.len() as u64;
                if size_bytes > limit_bytes {
                    return Err(BucketError::TooLarge { object: object.to_owned(), size_bytes, limit_bytes });
                }
                return Ok(value.slice(1..));
            }
            (Some(_), _) => cache.metrics.wrong("meta.jsons"),
            (None, _) => {}
        }
        self.get_and_remember_meta(cache, object, limit_bytes).await
    }

    async fn get_and_remember_meta(
        &self,
        cache: &MetaCache,
        object: &str,
        limit_bytes: u64,
    ) -> Result<Bytes, BucketError> {
        let key = format!("content:{}:{object}", self.cache_scope());
        let result = self.get_uncached(object, limit_bytes).await;
        match &result {
            Ok(content) if content.len() as u64 <= cache.config.metafile_max_bytes => {
                let value = [&[PRESENT], content.as_ref()].concat();
                cache.cache.set(&key, &value.into(), cache.config.metafile_content_ttl);
            }
            Err(error) if error.is_not_found() => {
                cache.cache.set(&key, &Bytes::from_static(&[ABSENT]), cache.config.metafile_absent_ttl);
            }
            _ => {}
        }
        result
    }

    /// As [`Bucket::get`] of a meta or a mark, but from the bucket itself: for who has found that what a cache gave cannot be right. `None` if no cache was
    /// between. What comes takes the place of what was remembered.
    ///
    /// # Errors
    /// As [`Bucket::get`].
    pub async fn get_again(&self, object: &str, limit_bytes: u64) -> Result<Option<Bytes>, BucketError> {
        let Some(cache) = self.caches.of_meta(object) else { return Ok(None) };
        let known = self.get_cached_meta(cache, object, limit_bytes).await.ok();
        let content = self.get_and_remember_meta(cache, object, limit_bytes).await?;
        if known.is_some_and(|known| known != content) {
            cache.metrics.wrong("meta.jsons");
        }
        Ok(Some(content))
    }

    /// Whether a meta or a mark exists.
    pub(super) async fn cached_exists(&self, cache: &MetaCache, object: &str) -> Result<bool, BucketError> {
        let key = format!("exists:{}:{object}", self.cache_scope());
        let found = cache.cache.get_multi(std::slice::from_ref(&key)).await.pop().flatten();
        let known = match found.as_deref() {
            Some([PRESENT]) => Some(true),
            Some([ABSENT]) => Some(false),
            Some(_) => {
                cache.metrics.wrong("meta.jsons");
                None
            }
            None => None,
        };
        cache.metrics.requested("meta.jsons", "exists", known.is_some());
        if let Some(exists) = known {
            return Ok(exists);
        }
        let exists = self.exists_uncached(object).await?;
        let (value, ttl) = match exists {
            true => (PRESENT, cache.config.metafile_exists_ttl),
            false => (ABSENT, cache.config.metafile_absent_ttl),
        };
        cache.cache.set(&key, &Bytes::copy_from_slice(&[value]), ttl);
        Ok(exists)
    }

    /// The blocks of the root, one per line.
    pub(super) async fn cached_blocks(&self, cache: &MetaCache) -> Result<Vec<String>, BucketError> {
        let key = format!("iter:{}", self.cache_scope());
        let found = cache.cache.get_multi(std::slice::from_ref(&key)).await.pop().flatten();
        let names = found.as_ref().and_then(|value| std::str::from_utf8(value).ok());
        let names: Option<Vec<String>> = names.map(|text| text.lines().map(str::to_owned).collect());
        let names = names.filter(|names| names.iter().all(|name| crate::is_block_id(name)));
        cache.metrics.requested("blocks-iter", "iter", names.is_some());
        if let Some(names) = names {
            return Ok(names);
        }
        let names = self.list_uncached_blocks().await?;
        cache.cache.set(&key, &names.join("\n").into(), cache.config.blocks_iter_ttl);
        Ok(names)
    }

    /// Tells this bucket's keys from those of others in the same cache.
    fn cache_scope(&self) -> String {
        format!("{:016x}/{}/{}", self.origin, self.name, self.prefix)
    }
}

/// Remembers pieces instead of what was remembered, and counts those that were something else.
async fn put_right(cache: &RangeCache, pieces: Vec<(String, Bytes)>) {
    let (keys, values): (Vec<String>, Vec<Bytes>) = pieces.into_iter().unzip();
    let known = cache.cache.get_multi(&keys).await;
    for (index, (key, value)) in keys.iter().zip(&values).enumerate() {
        if known.get(index).and_then(Option::as_ref).is_some_and(|known| known != value) {
            cache.metrics.wrong(cache.label);
        }
        cache.cache.set(key, value, cache.ttl);
    }
}

/// The pieces that ranges touch, sorted, each once; `None` if there are too many.
fn wanted_pieces(ranges: &[Range<u64>], unit: u64, size_bytes: u64) -> Option<Vec<u64>> {
    let mut pieces = Vec::new();
    for range in ranges {
        let end = range.end.min(size_bytes);
        if end <= range.start {
            return None;
        }
        let (first, last) = (range.start / unit, (end - 1) / unit);
        if last - first >= MAX_PIECES || pieces.len() as u64 > MAX_PIECES {
            return None;
        }
        pieces.extend(first..=last);
    }
    pieces.sort_unstable();
    pieces.dedup();
    (pieces.len() as u64 <= MAX_PIECES).then_some(pieces)
}

/// Stretches that cover the missing pieces, at most `max_runs`: the smallest gaps are closed first.
fn runs(missing: &[u64], max_runs: usize) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for piece in missing {
        match runs.last_mut() {
            Some(last) if last.end == *piece => last.end += 1,
            _ => runs.push(*piece..*piece + 1),
        }
    }
    let surplus = runs.len().saturating_sub(max_runs.max(1));
    if surplus == 0 {
        return runs;
    }
    let mut gaps: Vec<(u64, u64)> =
        runs.iter().zip(runs.iter().skip(1)).map(|(one, next)| (next.start - one.end, next.start)).collect();
    gaps.sort_unstable();
    gaps.truncate(surplus);
    let closed: std::collections::HashSet<u64> = gaps.into_iter().map(|(_, start)| start).collect();
    let mut joined: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if closed.contains(&run.start) => last.end = run.end,
            _ => joined.push(run),
        }
    }
    joined
}

fn slice_of(runs: &[Range<u64>], parts: &[Bytes], extent: &Range<u64>) -> Option<Bytes> {
    let index = crate::ranges::covering(runs, extent.start)?;
    let (run, part) = (runs.get(index)?, parts.get(index)?);
    let start = usize::try_from(extent.start - run.start).ok()?;
    let end = usize::try_from(extent.end - run.start).ok()?;
    (end <= part.len()).then(|| part.slice(start..end))
}

/// A range out of its pieces; `None` if one is missing.
fn assemble(
    range: &Range<u64>,
    unit: u64,
    size_bytes: u64,
    pieces: &[u64],
    found: &[Option<Bytes>],
) -> Option<Bytes> {
    let end = range.end.min(size_bytes);
    let (first, last) = (range.start / unit, (end - 1) / unit);
    let at = pieces.binary_search(&first).ok()?;
    let mut whole = BytesMut::new();
    for (piece, value) in (first..=last).zip(found.get(at..)?) {
        let value = value.as_ref()?;
        let start = usize::try_from(range.start.saturating_sub(piece * unit)).ok()?;
        let stop = usize::try_from(end - piece * unit).ok()?.min(value.len());
        if start > stop {
            return None;
        }
        if first == last {
            return Some(value.slice(start..stop));
        }
        whole.extend_from_slice(value.get(start..stop)?);
    }
    (whole.len() as u64 == end - range.start).then(|| whole.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_pieces_become_few_requests() {
        assert_eq!(runs(&[1, 2, 3, 7, 20], 10), vec![1..4, 7..8, 20..21]);
        assert_eq!(runs(&[1, 2, 3, 7, 20], 2), vec![1..8, 20..21]);
        assert_eq!(runs(&[1, 2, 3, 7, 20], 1), vec![1..21]);
        assert!(runs(&[], 3).is_empty());
    }

    #[test]
    fn pieces_cover_ranges_and_are_bounded() {
        assert_eq!(wanted_pieces(&[5..25, 0..1, 95..200], 10, 100), Some(vec![0, 1, 2, 9]));
        assert_eq!(wanted_pieces(&[5..25, 100..101], 10, 100), None);
        assert_eq!(wanted_pieces(&[5..25, 0..u64::MAX], 10, u64::MAX), None);
    }

    #[test]
    fn buckets_of_one_name_at_two_endpoints_do_not_share_keys() {
        let scope = |endpoint: &str| {
            let yaml = format!(
                "type: S3\nconfig: {{bucket: thanos, endpoint: {endpoint}, access_key: a, secret_key: b, insecure: true}}"
            );
            let config = crate::BucketConfig::from_yaml(&yaml).unwrap();
            Bucket::open(&config, crate::Access::Read).unwrap().cache_scope()
        };
        assert_ne!(scope("minio.eu:9000"), scope("minio.us:9000"));
        assert_eq!(scope("minio.eu:9000"), scope("minio.eu:9000"));
    }
}
