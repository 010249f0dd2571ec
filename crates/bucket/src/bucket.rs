//! [`Bucket`]: the operations on a bucket that blocks need, each bounded, counted and retried.
//!
//! Object names are relative to the bucket's prefix and checked (`path`). A read that the caller cannot bound is a read that a
//! bad bucket can make arbitrarily large, so [`Bucket::get`] takes a limit. An object appears whole or not at all.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::io::AsyncReadExt;

use crate::metrics::{BucketMetrics, Operation, Outcome};
use crate::path::{beneath, is_block_id};
use crate::{BucketConfig, BucketError, Provider, RetryPolicy};

/// Files up to this size go up in one request, larger ones in parts of this size.
const UPLOAD_PART_BYTES: usize = 8 << 20;

/// What the opener wants to do with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A directory that does not exist is an error.
    Read,
    /// A directory that does not exist is made.
    Write,
}

/// One object of a listing, by its name beneath the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    pub name: String,
    pub size_bytes: u64,
    pub last_modified: SystemTime,
}

/// A bucket; a clone is the same bucket.
#[derive(Clone, Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: Arc<str>,
    /// Of a FILESYSTEM bucket: a directory that vanishes must not look like an empty bucket.
    directory: Option<Arc<PathBuf>>,
    metrics: BucketMetrics,
    retry: RetryPolicy,
}

impl Bucket {
    /// # Errors
    /// [`BucketError::MissingDirectory`] or [`BucketError::Directory`], naming the directory.
    pub fn open(config: &BucketConfig, access: Access) -> Result<Self, BucketError> {
        let Provider::Filesystem { directory } = &config.provider;
        let failed = |source| BucketError::Directory { directory: directory.clone(), source };
        if access == Access::Write {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        check_directory(directory)?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| failed(std::io::Error::other(error)))?
            .with_fsync(access == Access::Write);
        let name = format!("fs: {}", directory.display());
        let mut bucket = Self::new(Arc::new(store), &config.prefix, &name)?;
        bucket.directory = Some(Arc::new(directory.clone()));
        Ok(bucket)
    }

    /// A bucket over any store, for decorated and in-memory ones. `name` is what messages and metrics call it.
    ///
    /// # Errors
    /// [`BucketError::InvalidName`] for a prefix that is no path.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, name: &str) -> Result<Self, BucketError> {
        Ok(Self {
            store,
            prefix: crate::path::prefix(prefix)?,
            name: name.into(),
            directory: None,
            metrics: BucketMetrics::default(),
            retry: RetryPolicy::default(),
        })
    }

    /// Counts into `metrics` from now on.
    #[must_use]
    pub fn with_metrics(mut self, metrics: BucketMetrics) -> Self {
        metrics.begin(&self.name);
        self.metrics = metrics;
        self
    }

    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// As Thanos names it: `fs: <directory>`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directories of the root whose names are ULIDs, sorted: blocks, whole or partial.
    pub async fn list_blocks(&self) -> Result<Vec<String>, BucketError> {
        self.run(Operation::Iter, "", || async {
            if let Some(directory) = &self.directory {
                check_directory(directory)?;
            }
            let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
            let listing =
                self.store.list_with_delimiter(prefix).await.map_err(failed(Operation::Iter, ""))?;
            let mut blocks: Vec<String> = listing
                .common_prefixes
                .iter()
                .filter_map(Path::filename)
                .filter(|name| is_block_id(name))
                .map(str::to_owned)
                .collect();
            blocks.sort_unstable();
            Ok(blocks)
        })
        .await
    }

    /// Every object beneath the directory `directory` (all of the bucket if empty), sorted by name.
    ///
    /// # Errors
    /// [`BucketError::TooLarge`] (with counts for sizes) if there are more than `max_objects`.
    pub async fn list(&self, directory: &str, max_objects: usize) -> Result<Vec<ObjectInfo>, BucketError> {
        let path = if directory.is_empty() { self.prefix.clone() } else { self.path(directory)? };
        self.run(Operation::Iter, directory, || async {
            let prefix = (!path.as_ref().is_empty()).then_some(&path);
            let mut stream = self.store.list(prefix);
            let mut objects = Vec::new();
            while let Some(meta) = stream.next().await {
                let meta = meta.map_err(failed(Operation::Iter, directory))?;
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

    /// A whole object.
    ///
    /// # Errors
    /// [`BucketError::NotFound`]; [`BucketError::TooLarge`] if it has more than `limit_bytes`.
    pub async fn get(&self, object: &str, limit_bytes: u64) -> Result<Bytes, BucketError> {
        let path = self.path(object)?;
        let bytes = self
            .run(Operation::Get, object, || async {
                let result = self.store.get(&path).await.map_err(failed(Operation::Get, object))?;
                let size_bytes = result.meta.size;
                if size_bytes > limit_bytes {
                    return Err(BucketError::TooLarge { object: object.to_owned(), size_bytes, limit_bytes });
                }
                result.bytes().await.map_err(failed(Operation::Get, object))
            })
            .await?;
        self.metrics.fetched(&self.name, Operation::Get, bytes.len());
        Ok(bytes)
    }

    /// The bytes `range` of an object; fewer if the object ends before the range does.
    ///
    /// # Errors
    /// [`BucketError::NotFound`]; [`BucketError::Range`] if the range is empty or begins at or after the object's end.
    pub async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, BucketError> {
        let mut all = self.get_ranges(object, std::slice::from_ref(&range)).await?;
        Ok(all.pop().unwrap_or_default())
    }

    /// Several ranges of one object, in the order asked; each as [`Self::get_range`]. The store may join near ranges.
    pub async fn get_ranges(&self, object: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BucketError> {
        let path = self.path(object)?;
        if let Some(empty) = ranges.iter().find(|range| range.start >= range.end) {
            let (start, end) = (empty.start, empty.end);
            return Err(BucketError::Range { object: object.to_owned(), start, end, size_bytes: 0 });
        }
        let parts = match self.read_ranges(&path, object, ranges).await {
            Err(error @ BucketError::Store { .. }) => {
                // Stores differ about ranges that pass an object's end: ask for its size, and decide here.
                let Ok(info) = self.head(object).await else { return Err(error) };
                let within = within(object, ranges, info.size_bytes)?.ok_or(error)?;
                self.read_ranges(&path, object, &within).await?
            }
            result => result?,
        };
        self.metrics.fetched(&self.name, Operation::GetRange, parts.iter().map(Bytes::len).sum());
        Ok(parts)
    }

    async fn read_ranges(
        &self,
        path: &Path,
        object: &str,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, BucketError> {
        self.run(Operation::GetRange, object, || async {
            self.store.get_ranges(path, ranges).await.map_err(failed(Operation::GetRange, object))
        })
        .await
    }

    /// An object's size and time.
    pub async fn head(&self, object: &str) -> Result<ObjectInfo, BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Attributes, object, || async {
            let meta = self.store.head(&path).await.map_err(failed(Operation::Attributes, object))?;
            Ok(self.info(&meta))
        })
        .await
    }

    pub async fn exists(&self, object: &str) -> Result<bool, BucketError> {
        let path = self.path(object)?;
        let result = self
            .run(Operation::Exists, object, || async {
                self.store.head(&path).await.map_err(failed(Operation::Exists, object))
            })
            .await;
        match result {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a small object, replacing one of the same name.
    pub async fn put(&self, object: &str, bytes: Bytes) -> Result<(), BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Upload, object, || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.store.put(&path, payload).await.map_err(failed(Operation::Upload, object))?;
            Ok(())
        })
        .await
    }

    /// Uploads a local file, a part at a time; returns its size. A failed upload leaves no object.
    ///
    /// # Errors
    /// [`BucketError::LocalFile`] if the file cannot be read, else as [`Self::put`].
    pub async fn upload_file(&self, object: &str, file: &FilePath) -> Result<u64, BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Upload, object, || self.upload_once(object, &path, file)).await
    }

    async fn upload_once(&self, object: &str, path: &Path, file: &FilePath) -> Result<u64, BucketError> {
        let unreadable = |source| BucketError::LocalFile { path: file.to_path_buf(), source };
        let mut reader = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let first = read_part(&mut reader).await.map_err(unreadable)?;
        if first.len() < UPLOAD_PART_BYTES {
            let size_bytes = first.len() as u64;
            let payload = PutPayload::from_bytes(first);
            self.store.put(path, payload).await.map_err(failed(Operation::Upload, object))?;
            return Ok(size_bytes);
        }
        let mut upload = self.store.put_multipart(path).await.map_err(failed(Operation::Upload, object))?;
        let result = upload_parts(upload.as_mut(), first, &mut reader, object, file).await;
        if result.is_err() {
            // The first error is the one to report; what abort leaves behind is the store's to collect.
            let _ = upload.abort().await;
        }
        result
    }

    /// Deletes an object; one that does not exist is no error.
    pub async fn delete(&self, object: &str) -> Result<(), BucketError> {
        let path = self.path(object)?;
        let result = self
            .run(Operation::Delete, object, || async {
                self.store.delete(&path).await.map_err(failed(Operation::Delete, object))
            })
            .await;
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }

    fn path(&self, object: &str) -> Result<Path, BucketError> {
        beneath(&self.prefix, object)
    }

    fn info(&self, meta: &ObjectMeta) -> ObjectInfo {
        let name = match meta.location.prefix_match(&self.prefix) {
            Some(parts) => parts.collect::<Path>().to_string(),
            None => meta.location.to_string(),
        };
        ObjectInfo { name, size_bytes: meta.size, last_modified: meta.last_modified.into() }
    }

    /// Retries and counts: one operation, however many attempts it took.
    async fn run<T, F>(
        &self,
        operation: Operation,
        object: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let started = Instant::now();
        let result = self.retry.run(attempt).await;
        let outcome = match &result {
            Ok(_) => Outcome::Done { took: started.elapsed() },
            Err(error) if error.is_not_found() => Outcome::Missing,
            Err(error) => {
                tracing::debug!(bucket = %self.name, operation = operation.name(), object, %error, "failed");
                Outcome::Failed
            }
        };
        self.metrics.finished(&self.name, operation, outcome);
        result
    }
}

fn check_directory(directory: &FilePath) -> Result<(), BucketError> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(BucketError::Directory {
            directory: directory.to_path_buf(),
            source: std::io::Error::from(std::io::ErrorKind::NotADirectory),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(BucketError::MissingDirectory { directory: directory.to_path_buf() })
        }
        Err(source) => Err(BucketError::Directory { directory: directory.to_path_buf(), source }),
    }
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

fn failed(operation: Operation, object: &str) -> impl Fn(object_store::Error) -> BucketError {
    move |source| match source {
        object_store::Error::NotFound { .. } => BucketError::NotFound { object: object.to_owned() },
        source => BucketError::Store {
            operation: operation.name(),
            object: object.to_owned(),
            source: Box::new(source),
        },
    }
}

async fn upload_parts(
    upload: &mut dyn MultipartUpload,
    first: Bytes,
    reader: &mut tokio::fs::File,
    object: &str,
    file: &FilePath,
) -> Result<u64, BucketError> {
    let mut size_bytes = 0;
    let mut part = first;
    while !part.is_empty() {
        size_bytes += part.len() as u64;
        upload.put_part(PutPayload::from_bytes(part)).await.map_err(failed(Operation::Upload, object))?;
        part = read_part(reader)
            .await
            .map_err(|source| BucketError::LocalFile { path: file.to_path_buf(), source })?;
    }
    upload.complete().await.map_err(failed(Operation::Upload, object))?;
    Ok(size_bytes)
}

/// The next part of a file: full unless the file ends.
async fn read_part(reader: &mut tokio::fs::File) -> std::io::Result<Bytes> {
    let mut part = BytesMut::new();
    let mut limited = reader.take(UPLOAD_PART_BYTES as u64);
    while limited.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}
