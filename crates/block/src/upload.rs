//! Uploading a block: `chunks/*` (several at once, if asked to), then `index`, then `meta.json`.
//!
//! The order is the contract: a directory without `meta.json` is partial and invisible to every reader, so a block appears whole
//! or not at all. A failed upload leaves a partial block, which the next attempt completes; objects are replaced as they were.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use parallax_bucket::Bucket;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use crate::meta::{CHUNKS_DIRECTORY, FileHash, INDEX_FILE_NAME, META_FILE_NAME, MetaFile, ThanosMeta};
use crate::{BlockError, BlockId, BlockMeta};

/// How the files of a block are hashed into `meta.json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    #[default]
    None,
    Sha256,
}

/// What `meta.json` says beyond what the block itself tells.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// What every series carries besides its own labels; must not be empty.
    pub external_labels: BTreeMap<String, String>,
    /// The component that uploads, such as `sidecar`.
    pub source: String,
    pub hash: HashFunction,
    /// Milliseconds since the epoch: when the upload is said to have happened.
    pub now_ms: i64,
    /// How many files of chunks go up at once; 0 is 1, and at most [`MAX_CONCURRENCY`].
    pub concurrency: usize,
}

/// Most files that go up at once.
pub const MAX_CONCURRENCY: usize = 64;

/// A block has at most this many segment files: each holds up to 512 MiB.
const MAX_SEGMENTS: usize = 100_000;

const HASH_BUFFER_BYTES: usize = 256 << 10;

/// A block whose chunks and index are in the bucket. Until it is published nobody sees it.
#[derive(Debug)]
#[must_use = "a block without meta.json is a partial upload"]
pub struct UploadedData {
    meta: BlockMeta,
    segments: Vec<String>,
    files: Vec<MetaFile>,
}

/// Uploads the block in `directory`, whose `meta.json` was read as `meta`; returns the meta as uploaded.
///
/// Files other than `index` and `chunks/*` (tombstones among them) stay behind, as with Thanos.
///
/// # Errors
/// [`BlockError::NoExternalLabels`]; [`BlockError::Directory`] or [`BlockError::File`] for a directory that is no block;
/// [`BlockError::Bucket`].
pub async fn upload_block(
    bucket: &Bucket,
    directory: &Path,
    meta: BlockMeta,
    options: &UploadOptions,
) -> Result<BlockMeta, BlockError> {
    upload_data(bucket, directory, meta, options).await?.publish(bucket, options).await
}

/// Uploads chunks and index only, for a caller that wants to look around once more before the block becomes visible.
///
/// # Errors
/// As [`upload_block`].
pub async fn upload_data(
    bucket: &Bucket,
    directory: &Path,
    meta: BlockMeta,
    options: &UploadOptions,
) -> Result<UploadedData, BlockError> {
    put_data(bucket, directory, meta, options, Files::Stay).await
}

/// As [`upload_data`], of files that the caller needs no more: into a bucket that is a directory of the same file system they are moved.
///
/// # Errors
/// As [`upload_block`].
pub async fn move_data(
    bucket: &Bucket,
    directory: &Path,
    meta: BlockMeta,
    options: &UploadOptions,
) -> Result<UploadedData, BlockError> {
    put_data(bucket, directory, meta, options, Files::Go).await
}

/// What becomes of the files that are uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    Stay,
    Go,
}

async fn put_data(
    bucket: &Bucket,
    directory: &Path,
    meta: BlockMeta,
    options: &UploadOptions,
    local: Files,
) -> Result<UploadedData, BlockError> {
    let block = meta.ulid;
    if options.external_labels.is_empty() {
        return Err(BlockError::NoExternalLabels { block });
    }
    let segments = segment_names(directory).await?;
    let paths: Vec<String> = segments
        .iter()
        .map(|name| format!("{CHUNKS_DIRECTORY}/{name}"))
        .chain([INDEX_FILE_NAME.to_owned()])
        .collect();
    let mut files = Vec::with_capacity(paths.len() + 1);
    for rel_path in &paths {
        files.push(describe(directory, rel_path, options.hash).await?);
    }
    files.push(MetaFile { rel_path: META_FILE_NAME.to_owned(), ..MetaFile::default() });
    files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    let in_bucket = |source| BlockError::Bucket { block, source };
    let put = |rel_path: String| {
        let (object, file) = (block.object(&rel_path), directory.join(&rel_path));
        async move {
            let put = match local {
                Files::Stay => bucket.upload_file(&object, &file).await,
                Files::Go => bucket.move_file(&object, &file).await,
            };
            put.map(drop).map_err(in_bucket)
        }
    };
    let chunks = segments.iter().map(|name| format!("{CHUNKS_DIRECTORY}/{name}"));
    let concurrency = options.concurrency.clamp(1, MAX_CONCURRENCY);
    futures::stream::iter(chunks.collect::<Vec<_>>())
        .map(put)
        .buffer_unordered(concurrency)
        .try_for_each(|()| std::future::ready(Ok(())))
        .await?;
    put(INDEX_FILE_NAME.to_owned()).await?;
    Ok(UploadedData { meta, segments, files })
}

impl UploadedData {
    pub fn block(&self) -> BlockId {
        self.meta.ulid
    }

    /// Writes `meta.json`; returns the meta as uploaded.
    ///
    /// # Errors
    /// [`BlockError::Bucket`]; the block may be visible all the same.
    pub async fn publish(self, bucket: &Bucket, options: &UploadOptions) -> Result<BlockMeta, BlockError> {
        let block = self.block();
        let meta = with_thanos(self.meta, self.segments, self.files, options)?;
        let put = bucket.put(&block.meta_object(), Bytes::from(meta.to_json()?)).await;
        put.map_err(|source| BlockError::Bucket { block, source })?;
        Ok(meta)
    }
}

fn with_thanos(
    mut meta: BlockMeta,
    segment_files: Vec<String>,
    files: Vec<MetaFile>,
    options: &UploadOptions,
) -> Result<BlockMeta, BlockError> {
    let uploaded = jiff::Timestamp::from_millisecond(options.now_ms)
        .map_err(|error| BlockError::Meta { block: meta.ulid.to_string(), reason: error.to_string() })?;
    let thanos = meta.thanos.get_or_insert_default();
    *thanos = ThanosMeta {
        version: 1,
        labels: Some(options.external_labels.clone()),
        source: options.source.clone(),
        segment_files,
        files,
        index_stats: Some(thanos.index_stats.take().unwrap_or_default()),
        upload_time: Some(uploaded.to_string()),
        ..std::mem::take(thanos)
    };
    Ok(meta)
}

/// The names of the files in `chunks/`, sorted.
async fn segment_names(directory: &Path) -> Result<Vec<String>, BlockError> {
    let chunks = directory.join(CHUNKS_DIRECTORY);
    let unreadable = |source| BlockError::File { path: chunks.clone(), source };
    let mut entries = tokio::fs::read_dir(&chunks).await.map_err(unreadable)?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
        let name = entry.file_name().into_string().unwrap_or_default();
        let is_segment = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
        if !is_segment || names.len() >= MAX_SEGMENTS {
            let reason = format!("{:?} is no segment of chunks", entry.file_name());
            return Err(BlockError::Directory { directory: directory.to_path_buf(), reason });
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(names)
}

async fn describe(directory: &Path, rel_path: &str, hash: HashFunction) -> Result<MetaFile, BlockError> {
    let path = directory.join(rel_path);
    let unreadable = |source| BlockError::File { path: path.clone(), source };
    let metadata = tokio::fs::metadata(&path).await.map_err(unreadable)?;
    let hash = match hash {
        HashFunction::None => None,
        HashFunction::Sha256 => {
            Some(FileHash { function: "SHA256".to_owned(), value: sha256(&path).await.map_err(unreadable)? })
        }
    };
    Ok(MetaFile {
        rel_path: rel_path.to_owned(),
        size_bytes: Some(metadata.len()),
        hash,
        ..MetaFile::default()
    })
}

async fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer).await?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else { break };
        digest.update(piece);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
