//! Reading: whole objects up to a limit, ranges joined when near, sizes.

use std::ops::Range;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectMeta, ObjectStoreExt as _, UpdateVersion,
};

use super::{Bucket, ObjectInfo, Revision, page_cache};
use crate::BucketError;
use crate::metrics::Operation;
use crate::ranges;

/// Wanted ranges at most this far apart become one request (Thanos' number).
const GAP_BYTES: u64 = 512 << 10;
/// A joined range is at most this long, so that far-reaching ones are fetched side by side.
const JOINED_BYTES: u64 = 16 << 20;
/// Requests at a time for the ranges of one call.
const PARALLEL_RANGES: usize = 8;
/// A range of a local file longer than this is cut to the file before it is read.
const FAR_BYTES: u64 = 64 << 20;
/// Announced sizes up to this are believed when reserving memory; beyond it memory grows with what comes.
const RESERVED_BYTES: u64 = 4 << 20;

impl Bucket {
    /// A whole object.
    ///
    /// # Errors
    /// [`BucketError::NotFound`]; [`BucketError::TooLarge`] if it has more than `limit_bytes`.
    pub async fn get(&self, object: &str, limit_bytes: u64) -> Result<Bytes, BucketError> {
        match self.caches.of_meta(object) {
            Some(cache) => self.get_cached_meta(cache, object, limit_bytes).await,
            None => self.get_uncached(object, limit_bytes).await,
        }
    }

    pub(super) async fn get_uncached(&self, object: &str, limit_bytes: u64) -> Result<Bytes, BucketError> {
        Ok(self.get_with_revision(object, limit_bytes).await?.0)
    }

    /// A whole object and what to demand of it when writing it again; never from a cache.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_with_revision(
        &self,
        object: &str,
        limit_bytes: u64,
    ) -> Result<(Bytes, Revision), BucketError> {
        let path = self.path(object)?;
        let path = &path;
        let found = self
            .run(Operation::Get, object, || {
                self.hedged(move || async move {
                    let result = self
                        .store
                        .get_opts(path, GetOptions::default())
                        .await
                        .map_err(self.failed(Operation::Get, object))?;
                    let size_bytes = result.meta.size;
                    if size_bytes > limit_bytes {
                        return Err(BucketError::TooLarge {
                            object: object.to_owned(),
                            size_bytes,
                            limit_bytes,
                        });
                    }
                    let revision = revision_of(&result.meta);
                    Ok((self.collect(result, Operation::Get, object, size_bytes).await?, revision))
                })
            })
            .await?;
        self.metrics.fetched(&self.name, Operation::Get, found.0.len());
        Ok(found)
    }

    /// As [`Self::get_with_revision`], unless the object still is as it was when `known` was taken: then `None`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_if_changed(
        &self,
        object: &str,
        limit_bytes: u64,
        known: Option<&Revision>,
    ) -> Result<Option<(Bytes, Revision)>, BucketError> {
        let Some(tag) = known.and_then(|revision| revision.0.e_tag.clone()) else {
            return self.get_with_revision(object, limit_bytes).await.map(Some);
        };
        let path = self.path(object)?;
        let (path, tag) = (&path, &tag);
        self.run(Operation::Get, object, || async move {
            let options = GetOptions { if_none_match: Some(tag.clone()), ..GetOptions::default() };
            let result = match self.store.get_opts(path, options).await {
                Err(object_store::Error::NotModified { .. }) => return Ok(None),
                result => result.map_err(self.failed(Operation::Get, object))?,
            };
            let (size_bytes, revision) = (result.meta.size, revision_of(&result.meta));
            if size_bytes > limit_bytes {
                return Err(BucketError::TooLarge { object: object.to_owned(), size_bytes, limit_bytes });
            }
            let bytes = self.collect(result, Operation::Get, object, size_bytes).await?;
            self.metrics.fetched(&self.name, Operation::Get, bytes.len());
            Ok(Some((bytes, revision)))
        })
        .await
    }

    /// The bytes `range` of an object; fewer if the object ends before the range does.
    ///
    /// # Errors
    /// [`BucketError::NotFound`]; [`BucketError::Range`] if the range is empty or begins at or after the object's end.
    pub async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let mut all = self.get_ranges(object, std::slice::from_ref(&range)).await?;
        Ok(all.pop().unwrap_or_default())
    }

    /// Several ranges of one object, in the order asked; each as [`Self::get_range`]. Near ranges are fetched as one.
    pub async fn get_ranges(&self, object: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BucketError> {
        match self.caches.of_ranges(object) {
            Some(cache) => self.get_cached_ranges(cache, object, ranges).await,
            None => self.get_uncached_ranges(object, ranges).await,
        }
    }

    pub(super) async fn get_uncached_ranges(
        &self,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BucketError> {
        let path = self.path(object)?;
        if let Some(empty) = ranges.iter().find(|range| range.start >= range.end) {
            let (start, end) = (empty.start, empty.end);
            return Err(BucketError::Range { object: object.to_owned(), start, end, size_bytes: 0 });
        }
        if self.directory.is_some() {
            return self.get_local_ranges(&path, object, ranges).await;
        }
        let joined = ranges::merge(ranges, GAP_BYTES, JOINED_BYTES);
        let read = futures::stream::iter(joined.iter().cloned())
            .map(|range| self.read_joined(&path, object, range))
            .buffered(PARALLEL_RANGES);
        let parts = match read.try_collect::<Vec<Bytes>>().await {
            Ok(parts) => parts,
            // Stores differ in what they say of a range that begins after an object's end: ask for its size, and decide here.
            Err(error @ BucketError::Store { .. }) => {
                let Ok(info) = self.head(object).await else { return Err(error) };
                within(object, ranges, info.size_bytes)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        ranges.iter().map(|range| cut(object, range, &joined, &parts)).collect()
    }

    /// Ranges of a local file: opened once, nothing joined.
    async fn get_local_ranges(
        &self,
        path: &Path,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BucketError> {
        // The store reserves what is asked for before it looks at the file.
        let far = ranges.iter().any(|range| range.end - range.start > FAR_BYTES);
        let cut = if far { within(object, ranges, self.head(object).await?.size_bytes)? } else { None };
        let ranges = cut.as_deref().unwrap_or(ranges);
        let parts = match self.read_local(path, object, ranges).await {
            Err(error @ BucketError::Store { .. }) => {
                let Ok(info) = self.head(object).await else { return Err(error) };
                let within = within(object, ranges, info.size_bytes)?.ok_or(error)?;
                self.read_local(path, object, &within).await?
            }
            result => result?,
        };
        self.metrics.fetched(&self.name, Operation::GetRange, parts.iter().map(Bytes::len).sum());
        Ok(parts)
    }

    async fn read_local(
        &self,
        path: &Path,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BucketError> {
        let file = self.file_of(path);
        self.run(Operation::GetRange, object, || async {
            if let Some(parts) = file.as_deref().and_then(|file| page_cache::read(file, ranges)) {
                return Ok(parts);
            }
            self.store.get_ranges(path, ranges).await.map_err(self.failed(Operation::GetRange, object))
        })
        .await
    }

    /// The file of an object in a directory, if its name is the same there.
    fn file_of(&self, path: &Path) -> Option<PathBuf> {
        let is_plain = |part: &str| {
            !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        let name = path.as_ref();
        name.split('/').all(is_plain).then(|| self.directory.as_ref().map(|root| root.join(name)))?
    }

    /// One request. Shorter than asked only if the object ends before.
    async fn read_joined(&self, path: &Path, object: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let range = &range;
        let bytes = self
            .run(Operation::GetRange, object, || {
                self.hedged(move || async move {
                    let options =
                        GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
                    let result = self
                        .store
                        .get_opts(path, options)
                        .await
                        .map_err(self.failed(Operation::GetRange, object))?;
                    let size_bytes = result.meta.size;
                    if range.start >= size_bytes {
                        let (start, end) = (range.start, range.end);
                        return Err(BucketError::Range { object: object.to_owned(), start, end, size_bytes });
                    }
                    let wanted_bytes = range.end.min(size_bytes) - range.start;
                    self.collect(result, Operation::GetRange, object, wanted_bytes).await
                })
            })
            .await?;
        self.metrics.fetched(&self.name, Operation::GetRange, bytes.len());
        Ok(bytes)
    }

    /// A read, and a second one if it takes long and the bucket is configured so.
    async fn hedged<T, F>(&self, read: impl FnMut() -> F) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let mut read = read;
        let Some(hedge) = &self.hedge else { return read().await };
        let hedged = hedge.run(read).await;
        self.metrics.hedged(&self.name, hedged.further, hedged.won);
        hedged.result
    }

    /// The body of an answer: exactly `wanted_bytes`, or an error.
    async fn collect(
        &self,
        result: GetResult,
        operation: Operation,
        object: &str,
        wanted_bytes: u64,
    ) -> Result<Bytes, BucketError> {
        let wrong = |got_bytes: usize| BucketError::WrongLength {
            object: object.to_owned(),
            wanted_bytes,
            got_bytes: got_bytes as u64,
        };
        let is_file = !matches!(result.payload, GetResultPayload::Stream(_));
        if is_file {
            let bytes = result.bytes().await.map_err(self.failed(operation, object))?;
            return if bytes.len() as u64 == wanted_bytes { Ok(bytes) } else { Err(wrong(bytes.len())) };
        }
        let mut stream = result.into_stream();
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(self.failed(operation, object))?;
            let so_far = first.len() + all.len() + piece.len();
            if so_far as u64 > wanted_bytes {
                return Err(wrong(so_far));
            }
            if first.is_empty() && all.is_empty() {
                first = piece;
                continue;
            }
            if all.is_empty() {
                all.reserve(usize::try_from(wanted_bytes.min(RESERVED_BYTES)).unwrap_or_default());
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&piece);
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        if bytes.len() as u64 == wanted_bytes { Ok(bytes) } else { Err(wrong(bytes.len())) }
    }

    /// An object's size and time.
    pub async fn head(&self, object: &str) -> Result<ObjectInfo, BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Attributes, object, || async {
            let meta = self.store.head(&path).await.map_err(self.failed(Operation::Attributes, object))?;
            Ok(self.info(&meta))
        })
        .await
    }

    pub async fn exists(&self, object: &str) -> Result<bool, BucketError> {
        match self.caches.of_meta(object) {
            Some(cache) => self.cached_exists(cache, object).await,
            None => self.exists_uncached(object).await,
        }
    }

    pub(super) async fn exists_uncached(&self, object: &str) -> Result<bool, BucketError> {
        let path = self.path(object)?;
        let result = self
            .run(Operation::Exists, object, || async {
                self.store.head(&path).await.map_err(self.failed(Operation::Exists, object))
            })
            .await;
        match result {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn revision_of(meta: &ObjectMeta) -> Revision {
    Revision(UpdateVersion { e_tag: meta.e_tag.clone(), version: meta.version.clone() })
}

/// `ranges` cut to an object's size; `None` if none passes its end, so that cutting changes nothing.
fn within(
    object: &str,
    ranges: &[Range<u64>],
    size_bytes: u64,
) -> Result<Option<Vec<Range<u64>>>, BucketError> {
    if let Some(range) = ranges.iter().find(|range| range.start >= size_bytes) {
        let (start, end) = (range.start, range.end);
        return Err(BucketError::Range { object: object.to_owned(), start, end, size_bytes });
    }
    let passes = ranges.iter().any(|range| range.end > size_bytes);
    Ok(passes.then(|| ranges.iter().map(|range| range.start..range.end.min(size_bytes)).collect()))
}

/// The bytes of a wanted range, out of the joined one that covers it.
fn cut(
    object: &str,
    range: &Range<u64>,
    joined: &[Range<u64>],
    parts: &[Bytes],
) -> Result<Bytes, BucketError> {
    let place = ranges::covering(joined, range.start);
    let found = place.and_then(|place| Some((joined.get(place)?.start, parts.get(place)?)));
    let (start_of_part, part) = found.ok_or_else(|| BucketError::WrongLength {
        object: object.to_owned(),
        wanted_bytes: range.end - range.start,
        got_bytes: 0,
    })?;
    let offset = |at: u64| usize::try_from(at - start_of_part).unwrap_or(usize::MAX).min(part.len());
    let (start, end) = (offset(range.start), offset(range.end));
    if start == end {
        // Only where the object ends may a part be shorter than asked.
        let size_bytes = start_of_part + part.len() as u64;
        let (start, end) = (range.start, range.end);
        return Err(BucketError::Range { object: object.to_owned(), start, end, size_bytes });
    }
    Ok(part.slice(start..end))
}
