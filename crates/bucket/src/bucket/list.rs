//! Listing: blocks, one directory, or everything beneath one.

use futures::StreamExt as _;
use object_store::path::Path;

use super::{Bucket, ObjectInfo, check_directory};
use crate::metrics::Operation;
use crate::path::is_block_id;
use crate::{BucketError, RetryPolicy};

/// What lies directly in a directory; both lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Names beneath the bucket's prefix, without a slash at the end.
    pub directories: Vec<String>,
    pub objects: Vec<ObjectInfo>,
}

impl Bucket {
    /// The directories of the root whose names are ULIDs, sorted: blocks, whole or partial.
    pub async fn list_blocks(&self) -> Result<Vec<String>, BucketError> {
        match &self.caches.metas {
            Some(cache) => self.cached_blocks(cache).await,
            None => self.list_uncached_blocks().await,
        }
    }

    pub(super) async fn list_uncached_blocks(&self) -> Result<Vec<String>, BucketError> {
        let mut names = self.list_directory("").await?.directories;
        names.retain(|name| is_block_id(name));
        Ok(names)
    }

    /// What lies directly in `directory` (the root if empty).
    ///
    /// # Errors
    /// [`BucketError::MissingDirectory`] if a FILESYSTEM bucket has vanished; a directory of a bucket that is not there is empty.
    pub async fn list_directory(&self, directory: &str) -> Result<Listing, BucketError> {
        let path = self.directory_path(directory)?;
        self.run(Operation::Iter, directory, || async {
            self.check()?;
            let prefix = (!path.as_ref().is_empty()).then_some(&path);
            let found = self
                .store
                .list_with_delimiter(prefix)
                .await
                .map_err(self.failed(Operation::Iter, directory))?;
            let mut directories: Vec<String> =
                found.common_prefixes.iter().map(|path| self.relative(path)).collect();
            directories.sort_unstable();
            let mut objects: Vec<ObjectInfo> = found.objects.iter().map(|meta| self.info(meta)).collect();
            objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(Listing { directories, objects })
        })
        .await
    }

    /// Every object beneath the directory `directory` (all of the bucket if empty), sorted by name.
    ///
    /// # Errors
    /// [`BucketError::TooLarge`] (with counts for sizes) if there are more than `max_objects`.
    pub async fn list(&self, directory: &str, max_objects: usize) -> Result<Vec<ObjectInfo>, BucketError> {
        let path = self.directory_path(directory)?;
        self.run(Operation::Iter, directory, || async {
            self.check()?;
            let prefix = (!path.as_ref().is_empty()).then_some(&path);
            let mut stream = self.store.list(prefix);
            let mut objects = Vec::new();
            while let Some(meta) = stream.next().await {
                let meta = meta.map_err(self.failed(Operation::Iter, directory))?;
                if objects.len() >= max_objects {
                    return Err(BucketError::TooLarge {
                        object: directory.to_owned(),
                        size_bytes: objects.len() as u64 + 1,
                        limit_bytes: max_objects as u64,
                    });
                }
                objects.push(self.info(&meta));
            }
            objects.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(objects)
        })
        .await
    }

    /// Shows every object of the bucket whose name sorts behind `after` (every one, if empty), in no particular order; returns how many. Costs a request
    /// for a thousand objects.
    ///
    /// # Errors
    /// If a page of the list cannot be had: then what was shown is not all. Nothing is repeated here, but pages are, beneath.
    pub async fn scan(&self, after: &str, visit: impl FnMut(ObjectInfo)) -> Result<u64, BucketError> {
        let offset = if after.is_empty() { None } else { Some(self.path(after)?) };
        let (mut visit, offset) = (Some(visit), offset.as_ref());
        self.run_with(RetryPolicy::NEVER, Operation::Iter, after, move || {
            let visit = visit.take();
            async move {
                self.check()?;
                let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
                let mut stream = match offset {
                    None => self.store.list(prefix),
                    Some(offset) => self.store.list_with_offset(prefix, offset),
                };
                let Some(mut visit) = visit else { return Ok(0) };
                let mut seen = 0;
                while let Some(meta) = stream.next().await {
                    let info = self.info(&meta.map_err(self.failed(Operation::Iter, after))?);
                    // Not every store that is asked to begin somewhere does.
                    if info.name.as_str() > after {
                        visit(info);
                        seen += 1;
                    }
                }
                Ok(seen)
            }
        })
        .await
    }

    fn directory_path(&self, directory: &str) -> Result<Path, BucketError> {
        if directory.is_empty() { Ok(self.prefix.clone()) } else { self.path(directory) }
    }

    fn check(&self) -> Result<(), BucketError> {
        self.directory.as_ref().map_or(Ok(()), |directory| check_directory(directory))
    }
}
