//! Copying blocks from one bucket to another: chunks, index and tombstones, then `meta.json`, so that a copy is whole or invisible.
//!
//! A block that is there already, with the same `meta.json`, is not copied again; one whose `meta.json` is another is left alone, and said. Marks stay behind: what is
//! to be deleted or left alone is a matter of each bucket.

use std::path::Path;

use bytes::Bytes;
use parallax_block::meta::{CHUNKS_DIRECTORY, INDEX_FILE_NAME};
use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::{Bucket, ObjectInfo};
use parallax_tsdb::tombstones::TOMBSTONES_FILE_NAME;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;

use crate::CompactError;
use crate::garbage::check_whole;

/// Objects are read in pieces of this size; one that is larger goes through a file.
const PIECE_BYTES: u64 = 8 << 20;

/// No `meta.json` is larger.
const MAX_META_BYTES: u64 = 64 << 20;

/// A block has at most this many objects.
const MAX_OBJECTS: usize = 200_000;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replicated {
    Copied,
    ThereAlready,
    /// A block of this name is there, with another `meta.json`.
    Differs,
}

/// Copies a block, as a dry run only looks whether it would; gives how many bytes are copied. `staging` is a directory for files on their way.
///
/// # Errors
/// [`CompactError::Contradicts`] for a block that is not whole, before or after; [`CompactError::Bucket`] and [`CompactError::File`]. A block that was not copied to
/// its end is invisible, and copied anew the next time.
pub async fn replicate_block(
    from: &Bucket,
    to: &Bucket,
    meta: &BlockMeta,
    staging: &Path,
    dry_run: bool,
) -> Result<(Replicated, u64), CompactError> {
    let block = meta.ulid;
    let in_bucket = |source| CompactError::Bucket { block, source };
    let json = from.get(&block.meta_object(), MAX_META_BYTES).await.map_err(in_bucket)?;
    match to.get(&block.meta_object(), MAX_META_BYTES).await {
        Ok(there) if there == json => return Ok((Replicated::ThereAlready, 0)),
        Ok(_) => return Ok((Replicated::Differs, 0)),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(in_bucket(error)),
    }
    check_whole(from, meta).await?;
    let objects = data_objects(from, block).await?;
    let size_bytes = objects.iter().map(|object| object.size_bytes).sum::<u64>() + json.len() as u64;
    if dry_run {
        return Ok((Replicated::Copied, size_bytes));
    }
    for object in &objects {
        copy_object(from, to, block, object, staging).await?;
    }
    check_whole_but_meta(to, meta).await?;
    to.put(&block.meta_object(), json).await.map_err(in_bucket)?;
    Ok((Replicated::Copied, size_bytes))
}

/// What the meta lists, but for itself: it is not there yet.
async fn check_whole_but_meta(to: &Bucket, meta: &BlockMeta) -> Result<(), CompactError> {
    let mut listed = meta.clone();
    if let Some(thanos) = &mut listed.thanos {
        thanos.files.retain(|file| file.rel_path != parallax_block::meta::META_FILE_NAME);
    }
    check_whole(to, &listed).await
}

/// Chunks first, then the index, as an upload has it.
async fn data_objects(from: &Bucket, block: BlockId) -> Result<Vec<ObjectInfo>, CompactError> {
    let listed = from.list(&block.to_string(), MAX_OBJECTS).await;
    let mut objects = listed.map_err(|source| CompactError::Bucket { block, source })?;
    let chunks = block.object(&format!("{CHUNKS_DIRECTORY}/"));
    let others = [block.object(TOMBSTONES_FILE_NAME), block.object(INDEX_FILE_NAME)];
    objects.retain(|object| object.name.starts_with(&chunks) || others.contains(&object.name));
    objects.sort_by_key(|object| (!object.name.starts_with(&chunks), object.name.clone()));
    Ok(objects)
}

async fn copy_object(
    from: &Bucket,
    to: &Bucket,
    block: BlockId,
    object: &ObjectInfo,
    staging: &Path,
) -> Result<(), CompactError> {
    let in_bucket = |source| CompactError::Bucket { block, source };
    let ObjectInfo { name, size_bytes, .. } = object;
    if *size_bytes == 0 {
        return to.put(name, Bytes::new()).await.map_err(in_bucket);
    }
    if *size_bytes <= PIECE_BYTES {
        let bytes = from.get_range(name, 0..*size_bytes).await.map_err(in_bucket)?;
        return to.put(name, bytes).await.map_err(in_bucket);
    }
    let path = staging.join(format!("{block}.part"));
    let unusable = |source| CompactError::File { path: path.clone(), source };
    tokio::fs::create_dir_all(staging).await.map_err(unusable)?;
    let mut file = tokio::fs::File::create(&path).await.map_err(unusable)?;
    let mut at = 0;
    while at < *size_bytes {
        let end = (at + PIECE_BYTES).min(*size_bytes);
        let bytes = from.get_range(name, at..end).await.map_err(in_bucket)?;
        file.write_all(&bytes).await.map_err(unusable)?;
        at = end;
    }
    file.flush().await.map_err(unusable)?;
    drop(file);
    let moved = to.move_file(name, &path).await.map_err(in_bucket);
    // Where it was moved there is no file any more.
    let _ = tokio::fs::remove_file(&path).await;
    moved.map(drop)
}
