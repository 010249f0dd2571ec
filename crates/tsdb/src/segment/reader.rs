//! Reading whole segments, from memory or mapped from files.

use std::fs::File;
use std::path::Path;

use bytes::Bytes;

use super::{
    Chunk, ChunkRef, ParsedEntry, SEGMENT_HEADER_SIZE_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION, parse_entry,
    segment_name,
};
use crate::cursor::Cursor;
use crate::error::TsdbError;
use crate::mapped;

/// One segment whose header was right.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The path or key, for errors.
    name: Box<str>,
    bytes: Bytes,
}

impl Segment {
    /// Maps a file. The chunks that are read from it keep the mapping alive.
    pub fn open(path: &Path) -> Result<Self, TsdbError> {
        Self::from_bytes(&path.display().to_string(), mapped::open(path)?)
    }

    /// Takes a segment in memory; `name` stands in errors.
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self, TsdbError> {
        let mut cursor = Cursor::new(name, &bytes);
        if cursor.be_u32()? != SEGMENT_MAGIC {
            return Err(TsdbError::corrupt(name, 0, "it does not start with the magic number of a segment"));
        }
        let version = cursor.u8()?;
        if version != SEGMENT_VERSION {
            return Err(TsdbError::unsupported(name, 4, "segment version", version));
        }
        cursor.skip(SEGMENT_HEADER_SIZE_BYTES - cursor.position())?;
        Ok(Self { name: name.into(), bytes })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The chunk whose entry starts at `offset`.
    pub fn chunk(&self, offset: u32) -> Result<Chunk, TsdbError> {
        self.entry(offset as usize).map(|(chunk, _)| chunk)
    }

    /// All chunks in the order of the file, each with the offset of its entry. Ends after the first error.
    pub fn chunks(&self) -> SegmentChunks<'_> {
        SegmentChunks { segment: self, next: SEGMENT_HEADER_SIZE_BYTES }
    }

    /// The chunk at `offset` and the offset after it.
    fn entry(&self, offset: usize) -> Result<(Chunk, usize), TsdbError> {
        let rest = self.bytes.get(offset..).unwrap_or_default();
        if rest.is_empty() || offset < SEGMENT_HEADER_SIZE_BYTES {
            return Err(TsdbError::not_found(&self.name, format!("chunk at byte {offset}")));
        }
        match parse_entry(&self.name, offset as u64, rest)? {
            ParsedEntry::Whole { encoding, data, size_bytes } => {
                Ok((Chunk { encoding, data: self.bytes.slice_ref(data) }, offset + size_bytes))
            }
            ParsedEntry::NeedMore { total_bytes } => {
                Err(TsdbError::truncated(&self.name, offset as u64, (total_bytes - rest.len()) as u64))
            }
        }
    }
}

/// The chunks of a segment, in order.
#[derive(Clone, Debug)]
pub struct SegmentChunks<'a> {
    segment: &'a Segment,
    next: usize,
}

impl Iterator for SegmentChunks<'_> {
    type Item = Result<(u32, Chunk), TsdbError>;

    fn next(&mut self) -> Option<Self::Item> {
        let size_bytes = self.segment.bytes.len();
        if self.next >= size_bytes {
            return None;
        }
        let outcome = self.segment.entry(self.next).and_then(|(chunk, after)| {
            let offset = u32::try_from(self.next).map_err(|_| {
                TsdbError::corrupt(&self.segment.name, self.next as u64, "a chunk beyond 4 GiB")
            })?;
            self.next = after;
            Ok((offset, chunk))
        });
        if outcome.is_err() {
            self.next = size_bytes;
        }
        Some(outcome)
    }
}

/// All segments of a block, by their index.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    segments: Vec<Segment>,
}

impl Segments {
    /// Maps the files `000001`, `000002` and so on of a `chunks` directory, up to the first name that is not there.
    pub fn open_dir(dir: &Path) -> Result<Self, TsdbError> {
        let mut segments = Vec::new();
        for index in 0..u32::MAX {
            let path = dir.join(segment_name(index));
            match File::open(&path) {
                Ok(_) => segments.push(Segment::open(&path)?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(TsdbError::io(&path)(error)),
            }
        }
        Ok(Self { segments })
    }

    /// Takes segments in their order.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter()
    }

    /// The chunk that a reference of the index points to.
    pub fn chunk(&self, at: ChunkRef) -> Result<Chunk, TsdbError> {
        let segment = self.segments.get(at.segment as usize);
        segment
            .ok_or_else(|| TsdbError::not_found("block", format!("segment {}", at.segment_name())))?
            .chunk(at.offset)
    }
}
