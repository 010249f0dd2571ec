//! A window on an object that is read from front to back: one piece in memory, the next on its way.
//!
//! Reading elsewhere is allowed, and costs a request. Blocking: for the threads of a merge, which are not the runtime's.

use bytes::{Bytes, BytesMut};
use parallax_block::BlockId;
use parallax_bucket::{Bucket, BucketError};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::CompactError;

/// How the blocks of one merge are read.
#[derive(Clone, Debug)]
pub struct Reading {
    pub bucket: Bucket,
    /// Where requests run.
    pub runtime: Handle,
    pub index_window_bytes: u64,
    pub chunk_window_bytes: u64,
}

/// What all windows of one merge may take together, each counted once (the next piece and what is being worked on come on top).
const CHUNK_WINDOWS_BYTES: u64 = 16 << 20;
const INDEX_WINDOWS_BYTES: u64 = 4 << 20;

const MIN_WINDOW_BYTES: u64 = 64 << 10;
const MAX_CHUNK_WINDOW_BYTES: u64 = 2 << 20;
const MAX_INDEX_WINDOW_BYTES: u64 = 512 << 10;

impl Reading {
    /// Windows for a merge of so many blocks.
    pub fn new(bucket: Bucket, runtime: Handle, blocks: usize) -> Self {
        let share = |all: u64, most: u64| (all / blocks.max(1) as u64).clamp(MIN_WINDOW_BYTES, most);
        Self {
            bucket,
            runtime,
            index_window_bytes: share(INDEX_WINDOWS_BYTES, MAX_INDEX_WINDOW_BYTES),
            chunk_window_bytes: share(CHUNK_WINDOWS_BYTES, MAX_CHUNK_WINDOW_BYTES),
        }
    }
}

/// A window on one object of a block.
#[derive(Debug)]
pub struct Window {
    bucket: Bucket,
    runtime: Handle,
    block: BlockId,
    object: String,
    size_bytes: u64,
    step_bytes: u64,
    start: u64,
    bytes: Bytes,
    /// What `bytes` are, or stand for.
    memory: Bytes,
    /// Begins where `bytes` end.
    ahead: Option<JoinHandle<Result<Bytes, BucketError>>>,
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            ahead.abort();
        }
    }
}

impl Window {
    /// Asks for the object's size; reads nothing yet.
    pub fn open(
        reading: &Reading,
        block: BlockId,
        rel_path: &str,
        step_bytes: u64,
    ) -> Result<Self, CompactError> {
        let object = block.object(rel_path);
        let info = reading.runtime.block_on(reading.bucket.head(&object));
        let size_bytes = info.map_err(|source| CompactError::Bucket { block, source })?.size_bytes;
        Ok(Self {
            bucket: reading.bucket.clone(),
            runtime: reading.runtime.clone(),
            block,
            object,
            size_bytes,
            step_bytes: step_bytes.max(1),
            start: 0,
            bytes: Bytes::new(),
            memory: Bytes::new(),
            ahead: None,
        })
    }

    pub fn object(&self) -> &str {
        &self.object
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes from `offset` on: at least `len` of them unless the object ends, and what else is there.
    pub fn at(&mut self, offset: u64, len: usize) -> Result<Bytes, CompactError> {
        if let Some(found) = self.held(offset, len) {
            return Ok(found);
        }
        let end = self.start + self.bytes.len() as u64;
        if offset >= self.start && offset <= end {
            self.go_on(offset)?;
            if let Some(found) = self.held(offset, len) {
                return Ok(found);
            }
        }
        self.jump(offset, len)?;
        Ok(self.held(offset, 0).unwrap_or_default())
    }

    /// Counts references to what is handed out from here on by themselves. Where pieces are let go by other threads, one count for all would wander between their processors,
    /// once for each piece.
    pub fn count_anew(&mut self) {
        self.bytes = Bytes::from_owner(self.memory.clone());
    }

    fn hold(&mut self, bytes: Bytes) {
        self.memory.clone_from(&bytes);
        self.bytes = bytes;
    }

    fn held(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let rest = self.bytes.len().checked_sub(from)?;
        let is_all = self.start + self.bytes.len() as u64 >= self.size_bytes;
        (rest >= len.max(1) || is_all && !self.bytes.is_empty()).then(|| self.bytes.slice(from..))
    }

    /// Appends the next piece, and drops what lies before `offset`.
    fn go_on(&mut self, offset: u64) -> Result<(), CompactError> {
        let Some(ahead) = self.ahead.take() else { return Ok(()) };
        let next = match self.runtime.block_on(ahead) {
            Ok(next) => next.map_err(|source| CompactError::Bucket { block: self.block, source })?,
            Err(_) => return Err(CompactError::Interrupted),
        };
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let kept = self.bytes.slice(from..);
        self.start = offset;
        if kept.is_empty() {
            self.hold(next);
        } else {
            let mut joined = BytesMut::with_capacity(kept.len() + next.len());
            joined.extend_from_slice(&kept);
            joined.extend_from_slice(&next);
            self.hold(joined.freeze());
        }
        self.read_ahead();
        Ok(())
    }

    fn jump(&mut self, offset: u64, len: usize) -> Result<(), CompactError> {
        if let Some(ahead) = self.ahead.take() {
            ahead.abort();
        }
        self.start = offset;
        self.hold(Bytes::new());
        let end = offset.saturating_add(self.step_bytes.max(len as u64)).min(self.size_bytes);
        if offset < end {
            let read = self.bucket.get_range(&self.object, offset..end);
            let read = self.runtime.block_on(read);
            self.hold(read.map_err(|source| CompactError::Bucket { block: self.block, source })?);
            self.read_ahead();
        }
        Ok(())
    }

    fn read_ahead(&mut self) {
        let from = self.start + self.bytes.len() as u64;
        let end = from.saturating_add(self.step_bytes).min(self.size_bytes);
        if from >= end || self.bytes.is_empty() {
            return;
        }
        let (bucket, object) = (self.bucket.clone(), self.object.clone());
        self.ahead = Some(self.runtime.spawn(async move { bucket.get_range(&object, from..end).await }));
    }
}
