//! Writing: small objects, files in parts, conditional writes, deletions.

use std::fs::File;
use std::path::{Path as FilePath, PathBuf};

use bytes::{Bytes, BytesMut};
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, UpdateVersion,
};
use tokio::io::AsyncReadExt as _;

use super::Bucket;
use crate::metrics::Operation;
use crate::{BucketError, RetryPolicy};

/// A state of an object, to be demanded of a later write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(pub(super) UpdateVersion);

/// Moves a file within a file system, so that it is there, and whole, after a crash; gives its size. On an error it is where it was.
fn move_synced(from: &FilePath, to: &FilePath) -> std::io::Result<u64> {
    let file = File::open(from)?;
    file.sync_all()?;
    let size_bytes = file.metadata()?.len();
    let parent = to.parent().unwrap_or(FilePath::new("/"));
    std::fs::create_dir_all(parent)?;
    std::fs::rename(from, to)?;
    for directory in [Some(parent), parent.parent()].into_iter().flatten() {
        // The object is there; a directory that cannot be synced is one that a crash may lose.
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        if let Err(error) = synced {
            tracing::warn!(directory = %directory.display(), %error, "a directory of the bucket was not synced");
        }
    }
    Ok(size_bytes)
}

impl Bucket {
    /// Writes a small object, replacing one of the same name.
    pub async fn put(&self, object: &str, bytes: Bytes) -> Result<(), BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Upload, object, || {
            self.put_once(&path, object, bytes.clone(), PutMode::Overwrite)
        })
        .await?;
        Ok(())
    }

    /// Writes a small object unless there is one of this name. Of several writers exactly one succeeds. It is never repeated once the store
    /// may have seen it, so that a refusal is never of a write of our own.
    ///
    /// # Errors
    /// [`BucketError::Condition`] if it exists; [`BucketError::Uncertain`] if nobody knows whether it was written;
    /// [`BucketError::Unconditional`] if the store cannot do this.
    pub async fn put_if_absent(&self, object: &str, bytes: Bytes) -> Result<Revision, BucketError> {
        let path = self.path(object)?;
        self.run_with(RetryPolicy::NEVER, Operation::Upload, object, || {
            self.put_once(&path, object, bytes.clone(), PutMode::Create)
        })
        .await
    }

    /// Replaces an object that is still as it was when `revision` was taken. As [`Self::put_if_absent`], one of several writers succeeds.
    ///
    /// # Errors
    /// [`BucketError::Condition`] if it has changed; [`BucketError::Uncertain`] if nobody knows whether it was written;
    /// [`BucketError::Unconditional`] if the store cannot do this (FILESYSTEM cannot).
    pub async fn put_if_unchanged(
        &self,
        object: &str,
        bytes: Bytes,
        revision: &Revision,
    ) -> Result<Revision, BucketError> {
        let path = self.path(object)?;
        self.run_with(RetryPolicy::NEVER, Operation::Upload, object, || {
            self.put_once(&path, object, bytes.clone(), PutMode::Update(revision.0.clone()))
        })
        .await
    }

    async fn put_once(
        &self,
        path: &Path,
        object: &str,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<Revision, BucketError> {
        let is_conditional = !matches!(mode, PutMode::Overwrite);
        let what = match &mode {
            PutMode::Overwrite => "write an object",
            PutMode::Create => "write an object only if there is none",
            PutMode::Update(_) => "replace an object only if it is unchanged",
        };
        let options = PutOptions { mode, attributes: self.attributes.clone(), ..PutOptions::default() };
        match self.store.put_opts(path, PutPayload::from_bytes(bytes), options).await {
            Ok(put) => Ok(Revision(put.into())),
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                Err(BucketError::Unconditional { bucket: self.name.to_string(), what })
            }
            Err(error) => {
                let may_have_acted = is_conditional && crate::client::may_have_acted(&error);
                match self.failed(Operation::Upload, object)(error) {
                    BucketError::Store { source, .. } if may_have_acted => {
                        let reason = crate::explain::brief(&source);
                        Err(BucketError::Uncertain { object: object.to_owned(), reason })
                    }
                    BucketError::Store { source, .. } if is_conditional && says_not_implemented(&source) => {
                        Err(BucketError::Unconditional { bucket: self.name.to_string(), what })
                    }
                    error => Err(error),
                }
            }
        }
    }

    /// Uploads a local file, a part at a time; returns its size. A failed upload leaves no object.
    ///
    /// # Errors
    /// [`BucketError::LocalFile`] if the file cannot be read, else as [`Self::put`].
    pub async fn upload_file(&self, object: &str, file: &FilePath) -> Result<u64, BucketError> {
        let path = self.path(object)?;
        self.run(Operation::Upload, object, || self.upload_once(object, &path, file)).await
    }

    /// As [`Self::upload_file`], of a file that the caller needs no more: into a directory of the same file system it is moved, and not copied.
    ///
    /// # Errors
    /// As [`Self::upload_file`].
    pub async fn move_file(&self, object: &str, file: &FilePath) -> Result<u64, BucketError> {
        let path = self.path(object)?;
        let Some(target) = self.local_path(&path) else { return self.upload_file(object, file).await };
        self.run(Operation::Upload, object, || async {
            let (from, to) = (file.to_owned(), target.clone());
            let moved = tokio::task::spawn_blocking(move || move_synced(&from, &to)).await;
            match moved {
                Ok(Ok(size_bytes)) => Ok(size_bytes),
                // Another file system, or no file: whoever copies says what is wrong.
                _ => self.upload_once(object, &path, file).await,
            }
        })
        .await
    }

    /// Whether it is a directory, into which files can be moved.
    pub fn is_directory(&self) -> bool {
        self.directory.is_some()
    }

    /// The file of an object, if it is sure which one it is.
    fn local_path(&self, path: &Path) -> Option<PathBuf> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        let directory = self.directory.as_ref()?;
        path.as_ref().chars().all(is_plain).then(|| directory.join(path.as_ref()))
    }

    async fn upload_once(&self, object: &str, path: &Path, file: &FilePath) -> Result<u64, BucketError> {
        let unreadable = |source| BucketError::LocalFile { path: file.to_path_buf(), source };
        let part_bytes = self.part_size_bytes;
        let mut reader = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let first = read_part(&mut reader, part_bytes).await.map_err(unreadable)?;
        if first.len() < part_bytes {
            let size_bytes = first.len() as u64;
            self.put_once(path, object, first, PutMode::Overwrite).await?;
            return Ok(size_bytes);
        }
        let options =
            PutMultipartOptions { attributes: self.attributes.clone(), ..PutMultipartOptions::default() };
        let mut upload = self
            .store
            .put_multipart_opts(path, options)
            .await
            .map_err(self.failed(Operation::Upload, object))?;
        let parts = Parts { reader, part_bytes, file };
        let result = self.upload_parts(upload.as_mut(), first, parts, object).await;
        if result.is_err() {
            // The first error is the one to report; what abort leaves behind is the store's to collect.
            let _ = upload.abort().await;
        }
        result
    }

    async fn upload_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        first: Bytes,
        mut parts: Parts<'_>,
        object: &str,
    ) -> Result<u64, BucketError> {
        let mut size_bytes = 0;
        let mut part = first;
        while !part.is_empty() {
            size_bytes += part.len() as u64;
            upload
                .put_part(PutPayload::from_bytes(part))
                .await
                .map_err(self.failed(Operation::Upload, object))?;
            part = parts.next().await?;
        }
        upload.complete().await.map_err(self.failed(Operation::Upload, object))?;
        Ok(size_bytes)
    }

    /// Deletes an object; one that does not exist is no error.
    pub async fn delete(&self, object: &str) -> Result<(), BucketError> {
        let path = self.path(object)?;
        let result = self
            .run(Operation::Delete, object, || async {
                self.store.delete(&path).await.map_err(self.failed(Operation::Delete, object))
            })
            .await;
        match result {
            Err(error) if error.is_not_found() => Ok(()),
            result => result,
        }
    }
}

/// A cloud that answers a conditional write with 501.
fn says_not_implemented(error: &object_store::Error) -> bool {
    crate::client::chain(error).contains("status code: 501")
}

/// What is left of a file.
struct Parts<'f> {
    reader: tokio::fs::File,
    part_bytes: usize,
    file: &'f FilePath,
}

impl Parts<'_> {
    async fn next(&mut self) -> Result<Bytes, BucketError> {
        read_part(&mut self.reader, self.part_bytes)
            .await
            .map_err(|source| BucketError::LocalFile { path: self.file.to_path_buf(), source })
    }
}

/// The next part of a file: full unless the file ends.
async fn read_part(reader: &mut tokio::fs::File, part_bytes: usize) -> std::io::Result<Bytes> {
    let mut part = BytesMut::new();
    let mut limited = reader.take(part_bytes as u64);
    while limited.read_buf(&mut part).await? > 0 {}
    Ok(part.freeze())
}
