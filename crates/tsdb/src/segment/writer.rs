//! Writing segments: chunks of one series after the other, a new file when one is full.
//!
//! The writer is staged by ownership: segments are written in order, [`SegmentWriter::finish`] consumes the writer and makes
//! everything durable, and only then do the references that were handed out mean anything. A writer that is dropped leaves
//! files that no index points to; whoever writes a block does so in a directory that it removes.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{
    ChunkRef, MAX_CHUNK_DATA_SIZE_BYTES, SEGMENT_HEADER_SIZE_BYTES, SEGMENT_MAGIC, SEGMENT_VERSION,
    segment_name,
};
use crate::chunk::ChunkEncoding;
use crate::crc::{self, CRC_SIZE_BYTES};
use crate::cursor::{MAX_UVARINT32_BYTES, put_uvarint};
use crate::error::TsdbError;

const WRITE_BUFFER_SIZE_BYTES: usize = 1 << 20;

/// How segments are cut.
#[derive(Clone, Copy, Debug)]
pub struct SegmentConfig {
    /// The size that a segment does not exceed, unless its only chunk is larger.
    pub segment_size_bytes: u64,
    /// Whether what is finished has to outlive a crash of the machine. A block that is only on its way elsewhere need not.
    pub is_durable: bool,
}

impl SegmentConfig {
    /// Prometheus' size of a segment.
    pub const DEFAULT_SEGMENT_SIZE_BYTES: u64 = 512 << 20;
}

impl Default for SegmentConfig {
    fn default() -> Self {
        Self { segment_size_bytes: Self::DEFAULT_SEGMENT_SIZE_BYTES, is_durable: true }
    }
}

/// Writes the `chunks` directory of a block.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    config: SegmentConfig,
    /// How many segments have been begun.
    begun: u32,
    tail: Option<Tail>,
    /// Memory of what stands before a chunk.
    head: Vec<u8>,
}

/// The segment that is being written.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    file: BufWriter<File>,
    size_bytes: u64,
}

impl SegmentWriter {
    /// Makes `dir`, which must not hold segments yet.
    pub fn create(dir: &Path, config: SegmentConfig) -> Result<Self, TsdbError> {
        fs::create_dir_all(dir).map_err(TsdbError::io(dir))?;
        if config.segment_size_bytes > u64::from(u32::MAX) {
            return Err(TsdbError::invalid("segment", "references cannot point beyond 4 GiB"));
        }
        Ok(Self { dir: dir.to_owned(), config, begun: 0, tail: None, head: Vec::new() })
    }

    /// Writes the chunks of one series, in order, and gives their references.
    ///
    /// Segments are cut where Prometheus cuts them: before a chunk that might not fit if its length took five bytes.
    pub fn write_series(&mut self, chunks: &[(ChunkEncoding, &[u8])]) -> Result<Vec<ChunkRef>, TsdbError> {
        let header = SEGMENT_HEADER_SIZE_BYTES as u64;
        let mut refs = Vec::with_capacity(chunks.len());
        let mut planned = self.tail.as_ref().map_or(header, |tail| tail.size_bytes);
        for (encoding, data) in chunks {
            if *encoding == ChunkEncoding::None || data.len() > MAX_CHUNK_DATA_SIZE_BYTES {
                return Err(TsdbError::invalid(
                    "segment",
                    format!("a chunk of {} bytes, {encoding:?}", data.len()),
                ));
            }
            let most = (MAX_UVARINT32_BYTES + 1 + data.len() + CRC_SIZE_BYTES) as u64;
            let full = planned > header && planned + most > self.config.segment_size_bytes;
            if full || self.tail.is_none() {
                self.cut()?;
                planned = header;
            }
            planned += most;
            refs.push(self.write_entry(*encoding, data)?);
        }
        Ok(refs)
    }

    /// Makes everything durable, unless it need not be; gives the number of segments.
    pub fn finish(mut self) -> Result<u32, TsdbError> {
        self.close_tail()?;
        if !self.config.is_durable {
            return Ok(self.begun);
        }
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(TsdbError::io(&self.dir))?;
        Ok(self.begun)
    }

    fn write_entry(&mut self, encoding: ChunkEncoding, data: &[u8]) -> Result<ChunkRef, TsdbError> {
        let Some(tail) = &mut self.tail else {
            return Err(TsdbError::out_of_order("segment", "a chunk comes before the header"));
        };
        let offset = u32::try_from(tail.size_bytes)
            .map_err(|_| TsdbError::invalid("segment", "references cannot point beyond 4 GiB"))?;
        self.head.clear();
        put_uvarint(&mut self.head, data.len() as u64);
        self.head.push(encoding.as_byte());
        let crc = crc::append(crc::crc32c(&[encoding.as_byte()]), data);
        for part in [&self.head[..], data, &crc.to_be_bytes()] {
            tail.file.write_all(part).map_err(TsdbError::io(&tail.path))?;
            tail.size_bytes += part.len() as u64;
        }
        Ok(ChunkRef { segment: self.begun - 1, offset })
    }

    /// Ends the present segment and begins the next.
    fn cut(&mut self) -> Result<(), TsdbError> {
        self.close_tail()?;
        let path = self.dir.join(segment_name(self.begun));
        let file =
            OpenOptions::new().write(true).create_new(true).open(&path).map_err(TsdbError::io(&path))?;
        let mut file = BufWriter::with_capacity(WRITE_BUFFER_SIZE_BYTES, file);
        let mut header = [0; SEGMENT_HEADER_SIZE_BYTES];
        header[..4].copy_from_slice(&SEGMENT_MAGIC.to_be_bytes());
        header[4] = SEGMENT_VERSION;
        file.write_all(&header).map_err(TsdbError::io(&path))?;
        self.tail = Some(Tail { path, file, size_bytes: header.len() as u64 });
        self.begun += 1;
        Ok(())
    }

    fn close_tail(&mut self) -> Result<(), TsdbError> {
        let Some(Tail { path, mut file, .. }) = self.tail.take() else {
            return Ok(());
        };
        let is_durable = self.config.is_durable;
        let synced = file.flush().and_then(|()| if is_durable { file.get_ref().sync_all() } else { Ok(()) });
        synced.map_err(TsdbError::io(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::Segments;

    #[test]
    fn segments_are_cut_before_a_chunk_that_might_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let data = [7u8; 90];
        // An entry of 96 bytes is planned as 100: two fit beside the header of 8, of which the first is known to take 96 only
        // when the next series is planned.
        let mut writer = SegmentWriter::create(
            dir.path(),
            SegmentConfig { segment_size_bytes: 208, ..SegmentConfig::default() },
        )
        .unwrap();
        let chunk = (ChunkEncoding::Xor, &data[..]);
        let mut refs = writer.write_series(&[chunk, chunk, chunk]).unwrap();
        refs.extend(writer.write_series(&[chunk]).unwrap());
        refs.extend(writer.write_series(&[chunk]).unwrap());
        assert_eq!(writer.finish().unwrap(), 3);
        let places: Vec<_> = refs.iter().map(|at| (at.segment, at.offset)).collect();
        assert_eq!(places, [(0, 8), (0, 104), (1, 8), (1, 104), (2, 8)]);

        let segments = Segments::open_dir(dir.path()).unwrap();
        for at in refs {
            assert_eq!(segments.chunk(at).unwrap().data, &data[..]);
            assert_eq!(ChunkRef::from_u64(at.as_u64()), at);
        }
        let missing = segments.chunk(ChunkRef { segment: 3, offset: 8 }).unwrap_err();
        assert_eq!(missing.to_string(), "block has no segment 000004");
    }

    #[test]
    fn a_directory_with_segments_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("000001"), b"old").unwrap();
        let mut writer = SegmentWriter::create(dir.path(), SegmentConfig::default()).unwrap();
        let error = writer.write_series(&[(ChunkEncoding::Xor, b"x")]).unwrap_err();
        assert!(matches!(error, TsdbError::Io { .. }), "{error}");
    }
}
