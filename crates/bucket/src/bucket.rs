//! [`Bucket`]: the operations on a bucket that blocks need, each bounded, counted and retried.
//!
//! Object names are relative to the bucket's prefix and checked (`path`). A read that the caller cannot bound is a read that a
//! bad bucket can make arbitrarily large, so [`Bucket::get`] takes a limit. An object appears whole or not at all, and what is read is
//! as long as the store announced or an error. Reading, writing and listing have a file each.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use object_store::path::Path;
use object_store::{Attributes, ObjectMeta, ObjectStore};

use crate::caching::BucketCaches;
use crate::hedge::Hedge;
use crate::metrics::{BucketMetrics, Operation, Outcome};
use crate::path::beneath;
use crate::provider::{Environment, Opened};
use crate::{BucketConfig, BucketError, Provider, RetryPolicy};

mod cached;
mod list;
mod page_cache;
mod read;
mod write;

pub use list::Listing;
pub use write::Revision;

/// Files up to this size go up in one request, larger ones in parts of this size, unless the configuration says otherwise.
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

fn hash_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A bucket; a clone is the same bucket.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    name: Arc<str>,
    /// Where the bucket is, as a hash: buckets of one name at two providers must not share what is cached of them.
    origin: u64,
    /// Of a FILESYSTEM bucket: a directory that vanishes must not look like an empty bucket.
    directory: Option<Arc<PathBuf>>,
    /// Written with every object.
    attributes: Attributes,
    part_size_bytes: usize,
    metrics: BucketMetrics,
    retry: RetryPolicy,
    hedge: Option<Arc<Hedge>>,
    caches: BucketCaches,
}

/// Not what the store says of itself: some show their credentials.
impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.name)
            .field("prefix", &self.prefix.as_ref())
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Opens a bucket with the credentials that its configuration and this process' environment give. Nothing is asked of a cloud yet.
    ///
    /// # Errors
    /// [`BucketError::MissingDirectory`] or [`BucketError::Directory`], naming the directory; [`BucketError::Config`] for files,
    /// keys and values that cannot be used.
    pub fn open(config: &BucketConfig, access: Access) -> Result<Self, BucketError> {
        Self::open_in(config, access, &Environment::process())
    }

    /// As [`Self::open`], with other variables than those of the process.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_in(
        config: &BucketConfig,
        access: Access,
        environment: &Environment,
    ) -> Result<Self, BucketError> {
        let opened = match &config.provider {
            Provider::Filesystem { directory } => return Self::open_directory(config, directory, access),
            Provider::S3(s3) => crate::provider::s3::open(s3, environment)?,
            Provider::Gcs(gcs) => crate::provider::gcs::open(gcs, environment)?,
            Provider::Azure(azure) => crate::provider::azure::open(azure, environment)?,
        };
        let Opened { store, name, attributes, part_size_bytes } = opened;
        // A cloud's requests are repeated one by one beneath, within the bucket's budget.
        let mut bucket = Self::new(store, &config.prefix, &name)?.with_retry(RetryPolicy::NEVER);
        bucket.attributes = attributes;
        bucket.origin = hash_of(&format!("{:?}", config.provider));
        bucket.part_size_bytes = part_size_bytes;
        bucket.hedge = config.hedging.map(|hedging| Arc::new(Hedge::new(hedging)));
        Ok(bucket)
    }

    fn open_directory(
        config: &BucketConfig,
        directory: &FilePath,
        access: Access,
    ) -> Result<Self, BucketError> {
        let failed = |source| BucketError::Directory { directory: directory.to_path_buf(), source };
        if access == Access::Write {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        check_directory(directory)?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(directory)
            .map_err(|error| failed(std::io::Error::other(error)))?
            .with_fsync(access == Access::Write)
            // A directory without objects is no directory of a bucket.
            .with_automatic_cleanup(true);
        let name = format!("fs: {}", directory.display());
        let mut bucket = Self::new(Arc::new(store), &config.prefix, &name)?;
        bucket.directory = Some(Arc::new(directory.to_path_buf()));
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
            origin: 0,
            directory: None,
            attributes: Attributes::new(),
            part_size_bytes: UPLOAD_PART_BYTES,
            metrics: BucketMetrics::default(),
            retry: RetryPolicy::default(),
            hedge: None,
            caches: BucketCaches::default(),
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

    /// Reads through `caches` from now on. For readers: what is written here does not leave the caches.
    #[must_use]
    pub fn with_caches(mut self, caches: BucketCaches) -> Self {
        self.caches = caches;
        self
    }

    /// As Thanos names it: `fs: <directory>`, or the bucket's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, object: &str) -> Result<Path, BucketError> {
        beneath(&self.prefix, object)
    }

    fn failed<'a>(
        &'a self,
        operation: Operation,
        object: &'a str,
    ) -> impl Fn(object_store::Error) -> BucketError + use<'a> {
        crate::explain::failed(&self.name, operation.name(), object)
    }

    fn info(&self, meta: &ObjectMeta) -> ObjectInfo {
        ObjectInfo {
            name: self.relative(&meta.location),
            size_bytes: meta.size,
            last_modified: meta.last_modified.into(),
        }
    }

    /// A path's name beneath the prefix.
    fn relative(&self, path: &Path) -> String {
        match path.prefix_match(&self.prefix) {
            Some(parts) => parts.collect::<Path>().to_string(),
            None => path.to_string(),
        }
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
        self.run_with(self.retry, operation, object, attempt).await
    }

    async fn run_with<T, F>(
        &self,
        retry: RetryPolicy,
        operation: Operation,
        object: &str,
        attempt: impl FnMut() -> F,
    ) -> Result<T, BucketError>
    where
        F: Future<Output = Result<T, BucketError>>,
    {
        let started = Instant::now();
        let result = retry.run(attempt).await;
        let outcome = match &result {
            Ok(_) => Outcome::Done { took: started.elapsed() },
            // Expected answers, not failures of the bucket.
            Err(error) if error.is_not_found() || error.is_condition() => Outcome::Expected,
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
