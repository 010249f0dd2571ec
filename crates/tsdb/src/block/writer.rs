//! Writes a block: series in the order of their labels, each with all its chunks, into a directory of another name.
//!
//! Order on disk: chunks and index are written and synced ([`BlockWriter::seal`]); then the caller may add files, such as
//! `meta.json`; then [`SealedBlock::publish`] syncs the directories and renames. A crash before the rename leaves a directory
//! with [`UNFINISHED_SUFFIX`], which nobody reads. Whatever is dropped unpublished is removed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use parallax_model::{Labels, TimeRange};

use super::{CHUNKS_DIR_NAME, INDEX_FILE_NAME, UNFINISHED_SUFFIX};
use crate::chunk::{ChunkEncoding, sample_count};
use crate::crc::CRC_SIZE_BYTES;
use crate::cursor::{Cursor, uvarint_size_bytes};
use crate::error::TsdbError;
use crate::index::ChunkMeta;
use crate::index::writer::{IndexWriter, WriteError};
use crate::segment::{Chunk, ChunkRef, SegmentConfig, SegmentWriter};

/// Stands for the places of chunks that are not written yet: it is behind all others.
pub(super) const NOT_WRITTEN: ChunkRef = ChunkRef { segment: u32::MAX, offset: u32::MAX };

/// How much of the index is collected before it is written.
pub(super) const INDEX_BUFFER_BYTES: usize = 1 << 20;

/// One chunk to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockChunk {
    /// The time of the first sample.
    pub min_time_ms: i64,
    /// The time of the last sample.
    pub max_time_ms: i64,
    pub chunk: Chunk,
}

/// A file of a block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockFile {
    /// With `/` between its parts.
    pub relative_path: String,
    pub size_bytes: u64,
}

/// What a block holds: the numbers of `meta.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockStats {
    pub series_count: u64,
    pub chunk_count: u64,
    /// Of an aggregate chunk its windows are counted, and counted here only.
    pub sample_count: u64,
    pub float_sample_count: u64,
    pub histogram_sample_count: u64,
    /// From the first sample to the last, closed. `None` without any sample. (`maxTime` of `meta.json` is a millisecond more.)
    pub time_range: Option<TimeRange>,
    /// The longest series entry with its padding: `index_stats.series_max_size`.
    pub series_max_size_bytes: u64,
    /// The longest chunk as it lies in a segment: `index_stats.chunk_max_size`.
    pub chunk_max_size_bytes: u64,
    /// Segments and index, sorted by path.
    pub files: Vec<BlockFile>,
}

impl BlockStats {
    /// Adds a series that was written.
    pub(super) fn count(&mut self, chunks: &[BlockChunk], counts: &SampleCounts) {
        let stats = self;
        stats.series_count += 1;
        stats.chunk_count += chunks.len() as u64;
        stats.sample_count += counts.floats + counts.histograms + counts.windows;
        stats.float_sample_count += counts.floats;
        stats.histogram_sample_count += counts.histograms;
        for chunk in chunks {
            let known = stats.time_range.unwrap_or(TimeRange::new(chunk.min_time_ms, chunk.max_time_ms));
            stats.time_range = Some(TimeRange::new(
                known.min_ms.min(chunk.min_time_ms),
                known.max_ms.max(chunk.max_time_ms),
            ));
            let len = chunk.chunk.data.len() as u64;
            let framed = uvarint_size_bytes(len) as u64 + 1 + len + CRC_SIZE_BYTES as u64;
            stats.chunk_max_size_bytes = stats.chunk_max_size_bytes.max(framed);
        }
    }
}

/// A block that is being written.
#[derive(Debug)]
pub struct BlockWriter {
    dir: UnfinishedDir,
    index: IndexWriter<BufWriter<File>>,
    segments: SegmentWriter,
    metas: Vec<ChunkMeta>,
    stats: BlockStats,
}

impl BlockWriter {
    /// Begins the block that is to be `target`, a path that does not exist yet in a directory that does.
    ///
    /// `symbols` are all texts of all labels, in strict order ([`super::symbols_of`]). The empty text is added.
    pub fn create<'a>(
        target: &Path,
        symbols: impl IntoIterator<Item = &'a str>,
        config: SegmentConfig,
    ) -> Result<Self, TsdbError> {
        let dir = UnfinishedDir::create(target)?;
        let segments = SegmentWriter::create(&dir.path.join(CHUNKS_DIR_NAME), config)?;
        let path = dir.path.join(INDEX_FILE_NAME);
        let file = File::create_new(&path).map_err(TsdbError::io(&path))?;
        let symbols = std::iter::once("").chain(symbols.into_iter().skip_while(|symbol| symbol.is_empty()));
        let index = IndexWriter::new(BufWriter::with_capacity(INDEX_BUFFER_BYTES, file), symbols)
            .map_err(|error| dir.index_error(error))?;
        Ok(Self { dir, index, segments, metas: Vec::new(), stats: BlockStats::default() })
    }

    /// Adds a series behind the last one, with its chunks in order of time.
    ///
    /// # Errors
    /// A series without chunks, and what [`IndexWriter::add_series`] refuses, which leaves the writer as it was; and failures to write, which do not.
    pub fn add_series(&mut self, labels: &Labels, chunks: &[BlockChunk]) -> Result<(), TsdbError> {
        if chunks.is_empty() {
            return Err(TsdbError::invalid("block", format!("series {labels} has no chunks")));
        }
        let mut counts = SampleCounts::default();
        self.metas.clear();
        for chunk in chunks {
            counts.add(chunk)?;
            let (min_time_ms, max_time_ms) = (chunk.min_time_ms, chunk.max_time_ms);
            self.metas.push(ChunkMeta { chunk_ref: NOT_WRITTEN, min_time_ms, max_time_ms });
        }
        self.index.check(labels, &self.metas)?;
        let bytes: Vec<_> = chunks.iter().map(|chunk| (chunk.chunk.encoding, &*chunk.chunk.data)).collect();
        let refs = self.segments.write_series(&bytes)?;
        for (meta, chunk_ref) in self.metas.iter_mut().zip(refs) {
            meta.chunk_ref = chunk_ref;
        }
        self.index.add_series(labels, &self.metas).map_err(|error| self.dir.index_error(error))?;
        self.stats.count(chunks, &counts);
        Ok(())
    }

    /// Completes and syncs chunks and index.
    pub fn seal(mut self) -> Result<SealedBlock, TsdbError> {
        self.segments.finish()?;
        let (sink, index) = self.index.finish().map_err(|error| self.dir.index_error(error))?;
        let path = self.dir.path.join(INDEX_FILE_NAME);
        let file = sink.into_inner().map_err(|error| TsdbError::io(&path)(error.into_error()))?;
        file.sync_all().map_err(TsdbError::io(&path))?;
        self.stats.series_max_size_bytes = index.series_max_size_bytes;
        self.stats
            .files
            .push(BlockFile { relative_path: INDEX_FILE_NAME.into(), size_bytes: index.size_bytes });
        self.stats.files.extend(segment_files(&self.dir.path)?);
        self.stats.files.sort();
        Ok(SealedBlock { dir: self.dir, stats: self.stats, is_durable: true })
    }
}

/// A block whose chunks and index are complete, still under its unfinished name.
#[derive(Debug)]
pub struct SealedBlock {
    pub(super) dir: UnfinishedDir,
    pub(super) stats: BlockStats,
    /// Whether it has to outlive a crash of the machine.
    pub(super) is_durable: bool,
}

impl SealedBlock {
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }

    /// Where the files are for now.
    pub fn dir(&self) -> &Path {
        &self.dir.path
    }

    /// Adds a file, such as `meta.json`, and syncs it.
    pub fn add_file(&self, name: &str, content: &[u8]) -> Result<(), TsdbError> {
        let path = self.dir.path.join(name);
        let mut file = File::create_new(&path).map_err(TsdbError::io(&path))?;
        file.write_all(content).and_then(|()| file.sync_all()).map_err(TsdbError::io(&path))
    }

    /// Gives the block its name: from here on it exists.
    pub fn publish(mut self) -> Result<BlockStats, TsdbError> {
        if self.is_durable {
            sync_dir(&self.dir.path.join(CHUNKS_DIR_NAME))?;
            sync_dir(&self.dir.path)?;
        }
        self.dir.rename_to_target()?;
        if self.is_durable {
            self.dir.sync_parent()?;
        }
        Ok(self.stats)
    }
}

/// The directory of a block before it has its name; removed on drop.
#[derive(Debug)]
pub(super) struct UnfinishedDir {
    pub(super) path: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl UnfinishedDir {
    /// What an earlier attempt left behind is removed.
    pub(super) fn create(target: &Path) -> Result<Self, TsdbError> {
        let Some(name) = target.file_name() else {
            return Err(TsdbError::invalid(&target.to_string_lossy(), "a block needs a name"));
        };
        if target.exists() {
            return Err(TsdbError::io(target)(std::io::ErrorKind::AlreadyExists.into()));
        }
        let mut unfinished = name.to_owned();
        unfinished.push(UNFINISHED_SUFFIX);
        let path = target.with_file_name(unfinished);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(TsdbError::io(&path))?;
        }
        fs::create_dir(&path).map_err(TsdbError::io(&path))?;
        Ok(Self { path, target: target.to_owned(), is_published: false })
    }

    fn rename_to_target(&mut self) -> Result<(), TsdbError> {
        fs::rename(&self.path, &self.target).map_err(TsdbError::io(&self.target))?;
        self.is_published = true;
        Ok(())
    }

    fn sync_parent(&self) -> Result<(), TsdbError> {
        match self.target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => sync_dir(Path::new(".")),
        }
    }

    pub(super) fn index_error(&self, error: WriteError) -> TsdbError {
        match error {
            WriteError::Refused(error) => error,
            WriteError::Sink(error) => TsdbError::io(&self.path.join(INDEX_FILE_NAME))(error),
        }
    }
}

impl Drop for UnfinishedDir {
    fn drop(&mut self) {
        if !self.is_published {
            // What cannot be removed now is removed by the next attempt, or by whoever cleans up unfinished blocks.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes names in a directory durable.
fn sync_dir(path: &Path) -> Result<(), TsdbError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(TsdbError::io(path))
}

pub(super) fn segment_files(dir: &Path) -> Result<Vec<BlockFile>, TsdbError> {
    let path = dir.join(CHUNKS_DIR_NAME);
    let mut files = Vec::new();
    for entry in fs::read_dir(&path).map_err(TsdbError::io(&path))? {
        let entry = entry.map_err(TsdbError::io(&path))?;
        let size_bytes = entry.metadata().map_err(TsdbError::io(&path))?.len();
        let relative_path = format!("{CHUNKS_DIR_NAME}/{}", entry.file_name().to_string_lossy());
        files.push(BlockFile { relative_path, size_bytes });
    }
    Ok(files)
}

/// How many samples the chunks of a series have, by kind.
#[derive(Default)]
pub(super) struct SampleCounts {
    floats: u64,
    histograms: u64,
    windows: u64,
}

impl SampleCounts {
    pub(super) fn add(&mut self, chunk: &BlockChunk) -> Result<(), TsdbError> {
        let data = &chunk.chunk.data;
        match chunk.chunk.encoding {
            ChunkEncoding::Xor => self.floats += sample_count(data)? as u64,
            ChunkEncoding::Histogram | ChunkEncoding::FloatHistogram => {
                self.histograms += sample_count(data)? as u64;
            }
            ChunkEncoding::Aggregate => self.windows += window_count(data)?,
            ChunkEncoding::None => return Err(TsdbError::invalid("block", "a chunk without an encoding")),
        }
        Ok(())
    }
}

/// The samples of an aggregate chunk's first part, the counts: a length, an encoding byte, and a chunk.
fn window_count(aggregate: &[u8]) -> Result<u64, TsdbError> {
    let mut cursor = Cursor::new("aggregate chunk", aggregate);
    if cursor.uvarint64()? == 0 {
        return Ok(0);
    }
    cursor.skip(1)?;
    Ok(sample_count(cursor.rest())? as u64)
}
