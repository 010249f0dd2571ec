//! Writes a block from symbol refs: what [`super::BlockWriter`] does from labels, for whoever merges blocks.
//!
//! Series come in the order of their refs, which is that of their labels. Sealing and publishing are the same.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::Arc;

use super::writer::{
    BlockChunk, BlockFile, BlockStats, INDEX_BUFFER_BYTES, NOT_WRITTEN, SampleCounts, SealedBlock,
    UnfinishedDir, segment_files,
};
use super::{CHUNKS_DIR_NAME, INDEX_FILE_NAME};
use crate::error::TsdbError;
use crate::index::{ChunkMeta, SymbolIndexWriter, SymbolRef, SymbolStore};
use crate::segment::{SegmentConfig, SegmentWriter};

/// A block that is being written.
#[derive(Debug)]
pub struct SymbolBlockWriter {
    dir: UnfinishedDir,
    index: SymbolIndexWriter<BufWriter<File>>,
    segments: SegmentWriter,
    metas: Vec<ChunkMeta>,
    stats: BlockStats,
    is_durable: bool,
}

impl SymbolBlockWriter {
    /// Begins the block that is to be `target`, a path that does not exist yet in a directory that does.
    ///
    /// `symbols` are all that series will refer to ([`crate::index::SymbolSection`]).
    pub fn create(
        target: &Path,
        symbols: &Arc<SymbolStore>,
        config: SegmentConfig,
    ) -> Result<Self, TsdbError> {
        let dir = UnfinishedDir::create(target)?;
        let segments = SegmentWriter::create(&dir.path.join(CHUNKS_DIR_NAME), config)?;
        let path = dir.path.join(INDEX_FILE_NAME);
        let file = File::create_new(&path).map_err(TsdbError::io(&path))?;
        let sink = BufWriter::with_capacity(INDEX_BUFFER_BYTES, file);
        let index =
            SymbolIndexWriter::new(sink, symbols, &dir.path).map_err(|error| dir.index_error(error))?;
        let is_durable = config.is_durable;
        Ok(Self { dir, index, segments, metas: Vec::new(), stats: BlockStats::default(), is_durable })
    }

    /// The size in bytes that the index must not exceed ([`TsdbError::TooLarge`]), besides what the format allows.
    pub fn limit_index(&mut self, limit_bytes: u64) {
        self.index.limit(limit_bytes);
    }

    /// What was written so far.
    pub fn stats(&self) -> &BlockStats {
        &self.stats
    }

    /// Adds a series behind the last one, with its chunks in order of time.
    ///
    /// # Errors
    /// A series without chunks, and what [`SymbolIndexWriter::check`] refuses; and failures to write.
    pub fn add_series(
        &mut self,
        labels: &[(SymbolRef, SymbolRef)],
        chunks: &[BlockChunk],
    ) -> Result<(), TsdbError> {
        if chunks.is_empty() {
            return Err(TsdbError::invalid("block", "a series without chunks"));
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

    /// Completes chunks and index; syncs them if they are to be durable.
    pub fn seal(mut self) -> Result<SealedBlock, TsdbError> {
        self.segments.finish()?;
        let (sink, index) = self.index.finish().map_err(|error| self.dir.index_error(error))?;
        let path = self.dir.path.join(INDEX_FILE_NAME);
        let file = sink.into_inner().map_err(|error| TsdbError::io(&path)(error.into_error()))?;
        if self.is_durable {
            file.sync_all().map_err(TsdbError::io(&path))?;
        }
        self.stats.series_max_size_bytes = index.series_max_size_bytes;
        self.stats
            .files
            .push(BlockFile { relative_path: INDEX_FILE_NAME.into(), size_bytes: index.size_bytes });
        self.stats.files.extend(segment_files(&self.dir.path)?);
        self.stats.files.sort();
        Ok(SealedBlock { dir: self.dir, stats: self.stats, is_durable: self.is_durable })
    }
}
