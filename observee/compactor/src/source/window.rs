//! A window on an object that is read from front to back: one piece in memory, the next on its way.
//!
//! Reading elsewhere is allowed, and costs a request. Blocking: for the threads of a merge, which are not the runtime's.

use bytes::Bytes;
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

/// Of a bucket in a directory: there a request takes no time of its own.
const MAX_LOCAL_CHUNK_WINDOW_BYTES: u64 = 512 << 10;
const MAX_LOCAL_INDEX_WINDOW_BYTES: u64 = 128 << 10;

/// A piece stays in memory for the sake of what is kept of it if it is not larger than this many times that.
const PINNED_PER_KEPT_BYTE: usize = 16;

impl Reading {
    /// Windows for a merge of so many blocks.
    pub fn new(bucket: Bucket, runtime: Handle, blocks: usize) -> Self {
        let share = |all: u64, most: u64| (all / blocks.max(1) as u64).clamp(MIN_WINDOW_BYTES, most);
        let (most_of_index, most_of_chunks) = if bucket.is_directory() {
            (MAX_LOCAL_INDEX_WINDOW_BYTES, MAX_LOCAL_CHUNK_WINDOW_BYTES)
        } else {
            (MAX_INDEX_WINDOW_BYTES, MAX_CHUNK_WINDOW_BYTES)
        };
        Self {
            index_window_bytes: share(INDEX_WINDOWS_BYTES, most_of_index),
            chunk_window_bytes: share(CHUNK_WINDOWS_BYTES, most_of_chunks),
            bucket,
            runtime,
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
    /// Of `memory` so much was kept by others.
    kept_bytes: usize,
    /// Begins where `bytes` end, once it is there.
    following: Option<Bytes>,
    /// Will be `following`.
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
            kept_bytes: 0,
            following: None,
            ahead: None,
        })
    }

    pub fn object(&self) -> &str {
        &self.object
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes from `offset` on: at least `len` of them unless the object ends, and perhaps more.
    pub fn at(&mut self, offset: u64, len: usize) -> Result<Bytes, CompactError> {
        if let Some(found) = self.held(offset, len) {
            return Ok(found);
        }
        if offset >= self.start && offset <= self.end().saturating_add(self.step_bytes) {
            if offset >= self.end() && self.load_following()? {
                self.step();
                if let Some(found) = self.held(offset, len) {
                    return Ok(found);
                }
            }
            if offset < self.end()
                && self.load_following()?
                && let Some(found) = self.across(offset, len)
            {
                return Ok(found);
            }
        }
        // Elsewhere, or longer than two pieces.
        self.jump(offset, len)?;
        Ok(self.held(offset, 0).unwrap_or_default())
    }

    /// Where `bytes` end.
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// Counts references to what is handed out from here on by themselves. Where pieces are let go by other threads, one count for all would wander between their processors,
    /// once for each piece.
    pub fn count_anew(&mut self) {
        self.bytes = Bytes::from_owner(self.memory.clone());
    }

    /// A part of what [`Self::at`] gave last, for those who keep it while the window goes on.
    ///
    /// A slice has its whole piece stay in memory, of which its holder knows nothing. So the first few parts of a piece are copies: slices are only given once so much of it was
    /// kept that it is worth its size.
    pub fn keep(&mut self, found: &Bytes, part: &[u8]) -> Bytes {
        // What stood across two pieces is a copy of its own.
        if !self.memory.as_ptr_range().contains(&found.as_ptr()) {
            return found.slice_ref(part);
        }
        self.kept_bytes = self.kept_bytes.saturating_add(part.len());
        if self.kept_bytes.saturating_mul(PINNED_PER_KEPT_BYTE) < self.memory.len() {
            Bytes::copy_from_slice(part)
        } else {
            found.slice_ref(part)
        }
    }

    fn hold(&mut self, bytes: Bytes) {
        self.memory.clone_from(&bytes);
        self.bytes = bytes;
        self.kept_bytes = 0;
    }

    fn held(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let rest = self.bytes.len().checked_sub(from)?;
        let is_all = self.start + self.bytes.len() as u64 >= self.size_bytes;
        (rest >= len.max(1) || is_all && !self.bytes.is_empty()).then(|| self.bytes.slice(from..))
    }

    /// Waits for the piece behind this one; false if there is none.
    fn load_following(&mut self) -> Result<bool, CompactError> {
        if self.following.is_none()
            && let Some(ahead) = self.ahead.take()
        {
            let next = self.runtime.block_on(ahead).map_err(|_| CompactError::Interrupted)?;
            let next = next.map_err(|source| CompactError::Bucket { block: self.block, source })?;
            self.following = Some(next);
        }
        Ok(self.following.is_some())
    }

    /// Goes on with the next piece.
    fn step(&mut self) {
        if let Some(next) = self.following.take() {
            self.start = self.end();
            self.hold(next);
            self.read_ahead();
        }
    }

    /// What begins in this piece and ends in the next one, which alone is copied.
    fn across(&self, offset: u64, len: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let (head, next) = (self.bytes.get(from..)?, self.following.as_ref()?);
        let missing = len.saturating_sub(head.len());
        let is_all = self.end() + next.len() as u64 >= self.size_bytes;
        if next.len() < missing && !is_all {
            return None;
        }
        let tail = next.get(..missing.min(next.len()))?;
        Some(Bytes::from([head, tail].concat()))
    }

    fn jump(&mut self, offset: u64, len: usize) -> Result<(), CompactError> {
        if let Some(ahead) = self.ahead.take() {
            ahead.abort();
        }
        self.start = offset;
        self.following = None;
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;
    use proptest::prelude::*;

    use super::*;

    const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

    proptest! {
        #[test]
        fn what_is_read_is_what_stands_there_however_it_is_cut(
            size in 0usize..400,
            step_bytes in 1u64..60,
            // Most reads follow each other, with a gap now and then; some lie elsewhere; some are longer than a piece.
            reads in prop::collection::vec(
                (prop_oneof![8 => Just(None), 1 => (0u64..450).prop_map(Some)], 0u64..4, prop_oneof![9 => 1usize..30, 1 => 1usize..200]),
                1..60,
            ),
        ) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let bucket = Bucket::new(Arc::new(InMemory::new()), "", "memory").unwrap();
            let block: BlockId = BLOCK.parse().unwrap();
            let content: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            runtime.block_on(bucket.put(&block.object("index"), content.clone().into())).unwrap();
            let reading = Reading { index_window_bytes: step_bytes, ..Reading::new(bucket, runtime.handle().clone(), 1) };
            let mut window = Window::open(&reading, block, "index", reading.index_window_bytes).unwrap();
            prop_assert_eq!(window.size_bytes(), size as u64);
            let mut position = 0;
            for (elsewhere, gap, len) in reads {
                let offset = elsewhere.unwrap_or(position + gap);
                let expected = content.get(offset as usize..).unwrap_or_default();
                let found = window.at(offset, len).unwrap();
                prop_assert!(found.len() >= len.min(expected.len()), "{} bytes at {}, not {}", found.len(), offset, len);
                prop_assert!(expected.starts_with(&found), "at {}", offset);
                if offset % 3 == 0 {
                    window.count_anew();
                }
                position = offset + len as u64;
            }
        }
    }

    #[test]
    fn a_piece_is_pinned_only_once_enough_of_it_is_kept() {
        const PIECE_BYTES: usize = 1600;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let bucket = Bucket::new(Arc::new(InMemory::new()), "", "memory").unwrap();
        let block: BlockId = BLOCK.parse().unwrap();
        let content: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
        runtime.block_on(bucket.put(&block.object("index"), content.clone().into())).unwrap();
        let reading = Reading::new(bucket, runtime.handle().clone(), 1);
        let mut window = Window::open(&reading, block, "index", PIECE_BYTES as u64).unwrap();
        // Whether a part is a slice of the piece that the window is on.
        let mut keep = |at: usize, len: usize| {
            let found = window.at(at as u64, len).unwrap();
            let kept = window.keep(&found, &found[..len]);
            assert_eq!(kept, content[at..at + len]);
            window.memory.as_ptr_range().contains(&kept.as_ptr())
        };
        assert_eq!([0, 40, 80, 120].map(|at| keep(at, 40)), [false, false, true, true], "of 100 bytes on");
        // A copy of its own, which says nothing of either piece.
        assert!(!keep(PIECE_BYTES - 100, 200));
        // The next piece is counted by itself, and one that is read again from another place too.
        assert_eq!([0, 40, 80].map(|at| keep(PIECE_BYTES + at, 40)), [false, false, true]);
        assert!(!keep(0, 40));
        assert!(keep(PIECE_BYTES + 200, 100), "enough at once");
    }
}
