//! Verifying a local block directory: every series entry and postings list, every chunk's checksum, and the counts of `meta.json`.
//!
//! Blocking, and linear in the block's size: for use before an upload or in tools, not on the way of a query.

use std::path::Path;

use bytes::Bytes;
use parallax_model::Labels;
use parallax_tsdb::error::TsdbError;
use parallax_tsdb::index::{IndexReader, SeriesEntry};
use parallax_tsdb::mapped;
use parallax_tsdb::segment::Segments;

use crate::meta::{CHUNKS_DIRECTORY, INDEX_FILE_NAME, META_FILE_NAME};
use crate::{BlockError, BlockMeta};

/// What a sound block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub series: u64,
    pub chunks: u64,
}

/// Reads all of the block in `directory`.
///
/// # Errors
/// The first thing that is wrong: [`BlockError::File`], [`BlockError::Meta`], or [`BlockError::Damaged`] with the file and the
/// offset. Numbers of series and chunks that differ from `meta.json` (where it has them) are wrong too.
pub fn verify_block(directory: &Path) -> Result<VerifyReport, BlockError> {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let meta = BlockMeta::parse(&name, &read(&directory.join(META_FILE_NAME))?)?;
    let block = meta.ulid.to_string();
    let index = map(&directory.join(INDEX_FILE_NAME))?;
    let report = verify_contents(directory, &meta, index)
        .map_err(|source| BlockError::Damaged { block: block.clone(), source })?;
    for (what, found, expected) in
        [("series", report.series, meta.stats.num_series), ("chunks", report.chunks, meta.stats.num_chunks)]
    {
        if expected != 0 && found != expected {
            let reason = format!("it counts {expected} {what}, the block has {found}");
            return Err(BlockError::Meta { block, reason });
        }
    }
    Ok(report)
}

fn verify_contents(directory: &Path, meta: &BlockMeta, index: Bytes) -> Result<VerifyReport, TsdbError> {
    let index = IndexReader::open(INDEX_FILE_NAME, index)?;
    let segments = Segments::open_dir(&directory.join(CHUNKS_DIRECTORY))?;
    let mut report = VerifyReport::default();
    let mut entry = SeriesEntry::default();
    let mut last: Option<Labels> = None;
    let mut label_pairs = 0;
    for series in index.all_series()? {
        let place = u64::from(series) * parallax_tsdb::index::SERIES_ALIGNMENT_BYTES;
        index.read_series(series, &mut entry)?;
        let labels = index.labels(&entry)?;
        if last.as_ref().is_some_and(|last| *last >= labels) {
            return Err(TsdbError::corrupt(INDEX_FILE_NAME, place, "series are not in order"));
        }
        label_pairs += labels.len();
        last = Some(labels);
        for chunk in &entry.chunks {
            let at = chunk.chunk_ref;
            segments.chunk(at)?;
            if chunk.min_time_ms < meta.min_time_ms || chunk.max_time_ms >= meta.max_time_ms {
                let reason = format!("chunk {at} lies outside the block's time");
                return Err(TsdbError::corrupt(INDEX_FILE_NAME, place, reason));
            }
            report.chunks += 1;
        }
        report.series += 1;
    }
    verify_postings(&index, label_pairs)?;
    Ok(report)
}

/// Every list must be readable, and together they must name each label of each series once.
fn verify_postings(index: &IndexReader, label_pairs: usize) -> Result<(), TsdbError> {
    let table = index.postings_table();
    let mut listed = 0;
    for name in table.label_names() {
        for value in table.label_values(name)? {
            listed += index.postings(name, &value)?.count();
        }
    }
    if listed == label_pairs {
        return Ok(());
    }
    let reason = format!("postings name {listed} labels, series have {label_pairs}");
    Err(TsdbError::corrupt(INDEX_FILE_NAME, index.toc().postings, reason))
}

/// The file without holding it: an index may take gigabytes, and is read once.
fn map(path: &Path) -> Result<Bytes, BlockError> {
    mapped::open(path).map_err(|error| match error {
        TsdbError::Io { path, source } => BlockError::File { path, source },
        source => BlockError::Damaged { block: path.display().to_string(), source },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, BlockError> {
    std::fs::read(path).map_err(|source| BlockError::File { path: path.to_path_buf(), source })
}
