//! Reads a block from its directory: which series match, and the bytes of their chunks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use parallax_model::{Labels, Matcher, TimeRange};

use super::{CHUNKS_DIR_NAME, INDEX_FILE_NAME};
use crate::error::TsdbError;
use crate::index::{ChunkMeta, IndexReader, SeriesEntry};
use crate::postings::{Postings, SeriesRef};
use crate::segment::{Chunk, Segments};
use crate::tombstones::{TOMBSTONES_FILE_NAME, Tombstones};

/// An open block. Its files are mapped, not read.
#[derive(Debug)]
pub struct BlockReader {
    dir: PathBuf,
    index: IndexReader,
    segments: Segments,
    tombstones: Tombstones,
}

/// A series of a block and its chunks that overlap the range that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockSeries {
    pub series: SeriesRef,
    pub labels: Labels,
    /// In order of time. Chunks that are deleted altogether are left out.
    pub chunks: Vec<ChunkMeta>,
    /// What is deleted of this series, in order. Samples in these ranges are to be dropped by whoever decodes the chunks.
    pub deleted: Vec<TimeRange>,
}

impl BlockReader {
    /// Opens the block in `dir`. Its index and tombstones are checked; chunks are, one by one, when they are read.
    pub fn open(dir: &Path) -> Result<Self, TsdbError> {
        let index = IndexReader::open_file(&dir.join(INDEX_FILE_NAME))?;
        let segments = Segments::open_dir(&dir.join(CHUNKS_DIR_NAME))?;
        let tombstones = read_tombstones(&dir.join(TOMBSTONES_FILE_NAME))?;
        Ok(Self { dir: dir.to_owned(), index, segments, tombstones })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn index(&self) -> &IndexReader {
        &self.index
    }

    pub fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }

    /// The series that all `matchers` match and that have a chunk which overlaps `range`, in the order of their labels.
    ///
    /// Series are read as the iterator is advanced; it goes on after an error, which concerns one series.
    pub fn series<'a>(
        &'a self,
        matchers: &[Matcher],
        range: TimeRange,
    ) -> Result<impl Iterator<Item = Result<BlockSeries, TsdbError>> + use<'a>, TsdbError> {
        Ok(self.read_each(self.index.select(matchers)?, range))
    }

    /// Every series that has a chunk which overlaps `range`.
    pub fn all_series(
        &self,
        range: TimeRange,
    ) -> Result<impl Iterator<Item = Result<BlockSeries, TsdbError>>, TsdbError> {
        Ok(self.read_each(self.index.all_series()?, range))
    }

    /// A chunk, whose checksum is verified here. Its bytes are not copied.
    pub fn chunk(&self, meta: &ChunkMeta) -> Result<Chunk, TsdbError> {
        self.segments.chunk(meta.chunk_ref)
    }

    fn read_each(
        &self,
        postings: Postings,
        range: TimeRange,
    ) -> impl Iterator<Item = Result<BlockSeries, TsdbError>> {
        let mut entry = SeriesEntry::default();
        postings.filter_map(move |series| self.read_one(series, range, &mut entry).transpose())
    }

    fn read_one(
        &self,
        series: SeriesRef,
        range: TimeRange,
        entry: &mut SeriesEntry,
    ) -> Result<Option<BlockSeries>, TsdbError> {
        self.index.read_series(series, entry)?;
        let tombstone_ref = u64::from(series);
        let is_wanted = |chunk: &&ChunkMeta| {
            let chunk_range = chunk.time_range();
            chunk_range.overlaps(&range) && !self.tombstones.covers(tombstone_ref, chunk_range)
        };
        let chunks: Vec<ChunkMeta> = entry.chunks.iter().filter(is_wanted).copied().collect();
        if chunks.is_empty() {
            return Ok(None);
        }
        let deleted = self.tombstones.ranges(tombstone_ref).to_vec();
        Ok(Some(BlockSeries { series, labels: self.index.labels(entry)?, chunks, deleted }))
    }
}

/// A block without the file has no tombstones.
fn read_tombstones(path: &Path) -> Result<Tombstones, TsdbError> {
    match std::fs::read(path) {
        Ok(bytes) => Tombstones::decode(&path.to_string_lossy(), &bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Tombstones::default()),
        Err(error) => Err(TsdbError::io(path)(error)),
    }
}
