//! Encoded series in the order of their final labels, ready to be cut into frames.
//!
//! The rule is that of [`crate::Resorter`], for labels that are only added: of each series there is a lower bound of all that come after it from a source in
//! order, and what sorts at or below the bound may go. What may not go yet lies, sorted, at the end of the bytes, where it nearly always is in its place.
//!
//! A source in order makes at most as many series wait as one has labels, and parts of one; more than [`MAX_HELD`] are taken for disorder.

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::BytesMut;

use super::splice::{ChunkBytes, compare, display};
use super::{EncodedSeries, WireFrame};
use crate::Error;
use crate::codec::write::write_head;
use crate::frames::{MAX_BATCH_BYTES, MAX_BATCH_SERIES};

/// Most series that wait for their place.
const MAX_HELD: usize = 1024;
/// Room that is made at once.
const ROOM_BYTES: usize = 256 << 10;
/// Most that the head of a series' field takes.
const MAX_HEAD_BYTES: usize = 11;

/// Takes series in order of their own labels, gives frames of them in order of their final ones.
#[derive(Debug)]
pub struct Outbox {
    /// Fields of series: those that may go, then those that may not.
    bytes: BytesMut,
    /// Sizes of the ones that may go.
    free: VecDeque<usize>,
    free_bytes: usize,
    /// Sorted, and lying one after the other behind those that may go.
    held: Vec<Held>,
    /// Of the last one that may go.
    last_labels: Vec<u8>,
    /// Series in a frame; 1 for frames of single series.
    batch: usize,
    is_batched: bool,
    /// How many may still go, if there is a limit.
    left: Option<usize>,
    /// Where heads of fields are put together.
    head: Vec<u8>,
}

/// Places of a field, counted from the first held one.
#[derive(Clone, Copy, Debug)]
struct Held {
    start: usize,
    labels: (usize, usize),
    end: usize,
}

impl Outbox {
    /// `batch_size` and `limit` as a request has them: 0 and less is none of either.
    pub fn new(batch_size: i64, limit: i64) -> Self {
        let batch = usize::try_from(batch_size).unwrap_or(0);
        Self {
            bytes: BytesMut::new(),
            free: VecDeque::new(),
            free_bytes: 0,
            held: Vec::new(),
            last_labels: Vec::new(),
            batch: batch.clamp(1, MAX_BATCH_SERIES),
            is_batched: batch > 1,
            left: usize::try_from(limit).ok().filter(|limit| *limit > 0),
            head: Vec::new(),
        }
    }

    /// Takes the next series: its labels and how much of them is the bound, both as [`super::Splice::end`] gives them.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] if the source is not sorted.
    pub fn push(&mut self, labels: &[u8], bound: usize, chunks: &[ChunkBytes<'_>]) -> Result<(), Error> {
        let bound = labels.get(..bound).unwrap_or(labels);
        self.release(self.held_up_to(bound))?;
        if self.is_full() {
            return Ok(());
        }
        let place = self.insert(labels, chunks);
        if bound.len() == labels.len() {
            // All below it have gone.
            self.release(place + 1)?;
        }
        if self.held.len() > MAX_HELD {
            return Err(Error::OutOfOrder { labels: display(labels) });
        }
        Ok(())
    }

    /// No more series will come: all may go.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn finish(&mut self) -> Result<(), Error> {
        self.release(self.held.len())
    }

    /// Whether as many have gone as were asked for. Nothing more is to be pushed then.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// The next frame. One that could hold more is given only if `now` says that what comes next has to be waited for.
    pub fn frame(&mut self, now: bool) -> Option<WireFrame> {
        let is_whole = self.free.len() >= self.batch || self.free_bytes >= MAX_BATCH_BYTES;
        if self.free.is_empty() || !(now || is_whole) {
            return None;
        }
        let (mut count, mut size) = (0, 0);
        while count < self.batch
            && size < MAX_BATCH_BYTES
            && let Some(next) = self.free.pop_front()
        {
            (count, size) = (count + 1, size + next);
        }
        self.free_bytes -= size;
        let fields = self.bytes.split_to(size).freeze();
        Some(WireFrame::Series(EncodedSeries { fields, is_batch: self.is_batched }))
    }

    /// How many of those that are held sort at or below `labels`.
    fn held_up_to(&self, labels: &[u8]) -> usize {
        self.held.partition_point(|held| compare(self.labels_of(held), labels) != Ordering::Greater)
    }

    fn labels_of(&self, held: &Held) -> &[u8] {
        let (from, to) = held.labels;
        self.bytes.get(self.free_bytes + from..self.free_bytes + to).unwrap_or_default()
    }

    /// Lets the first `count` of the held ones go.
    fn release(&mut self, count: usize) -> Result<(), Error> {
        let mut size = 0;
        for index in 0..count {
            let Some(held) = self.held.get(index).copied() else { break };
            let labels = self.labels_of(&held);
            if compare(labels, &self.last_labels) == Ordering::Less {
                return Err(Error::OutOfOrder { labels: display(labels) });
            }
            let (from, to) = held.labels;
            self.last_labels.clear();
            self.last_labels.extend_from_slice(
                self.bytes.get(self.free_bytes + from..self.free_bytes + to).unwrap_or_default(),
            );
            self.free.push_back(held.end - held.start);
            size = held.end;
            self.left = self.left.map(|left| left.saturating_sub(1));
            if self.is_full() {
                self.held.clear();
                self.free_bytes += size;
                self.bytes.truncate(self.free_bytes);
                return Ok(());
            }
        }
        self.held.drain(..count.min(self.held.len()));
        self.free_bytes += size;
        for held in &mut self.held {
            let Held { start, labels: (from, to), end } = *held;
            *held = Held { start: start - size, labels: (from - size, to - size), end: end - size };
        }
        Ok(())
    }

    /// Puts a series among those that are held; says where.
    fn insert(&mut self, labels: &[u8], chunks: &[ChunkBytes<'_>]) -> usize {
        let place = self.held_up_to(labels);
        let start = self.held.get(place).map_or(self.bytes.len() - self.free_bytes, |next| next.start);
        let before = self.bytes.len();
        let length = labels.len() + chunks.iter().map(ChunkBytes::field_length).sum::<usize>();
        if self.bytes.capacity() - before < length + MAX_HEAD_BYTES {
            self.bytes.reserve((length + MAX_HEAD_BYTES).max(ROOM_BYTES));
        }
        let head = self.write(|head| write_head(1, length, head));
        self.bytes.extend_from_slice(labels);
        for chunk in chunks {
            self.write(|head| chunk.write_before(head));
            self.bytes.extend_from_slice(chunk.data);
            self.write(|head| chunk.write_after(head));
        }
        let size = self.bytes.len() - before;
        if let Some(tail) = self.bytes.get_mut(self.free_bytes + start..).filter(|tail| tail.len() > size) {
            tail.rotate_right(size);
        }
        for Held { start, labels: (from, to), end } in self.held.iter_mut().skip(place) {
            (*start, *from, *to, *end) = (*start + size, *from + size, *to + size, *end + size);
        }
        let labels = (start + head, start + head + labels.len());
        self.held.insert(place, Held { start, labels, end: start + size });
        place
    }

    /// Appends what `write` writes; gives its size.
    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        self.head.clear();
        write(&mut self.head);
        self.bytes.extend_from_slice(&self.head);
        self.head.len()
    }
}
