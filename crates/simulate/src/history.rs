//! A fleet's past as real blocks of two hours, as its Prometheus would have left them in its data directory.

use std::path::Path;

use bytes::Bytes;
use parallax_block::{BlockId, BlockMeta, BlockStats, Compaction};
use parallax_model::TimeRange;
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender};
use parallax_tsdb::error::TsdbError;
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::{Fleet, SimulateError, SimulatedSeries};

/// The range of one block, as Prometheus cuts its head.
pub const BLOCK_RANGE_MS: i64 = 7_200_000;
/// Samples of one chunk, as Prometheus cuts them.
const SAMPLES_PER_CHUNK: usize = 120;

/// Writes every aligned two-hour block that lies whole within `range` into `directory`, oldest first; says which.
///
/// The same fleet and block range give the same block, byte for byte and by name, whatever else is written with it; blocks of
/// different clusters or replicas have different names, so that they may share a bucket.
///
/// # Errors
/// If a file cannot be written.
pub fn write(fleet: &Fleet, range: TimeRange, directory: &Path) -> Result<Vec<BlockId>, SimulateError> {
    let first =
        range.min_ms.div_euclid(BLOCK_RANGE_MS) + i64::from(range.min_ms.rem_euclid(BLOCK_RANGE_MS) != 0);
    let end = range.max_ms.saturating_add(1).div_euclid(BLOCK_RANGE_MS);
    (first..end)
        .map(|number| {
            let start_ms = number * BLOCK_RANGE_MS;
            let id = name(fleet, start_ms);
            write_block(fleet, id, start_ms, directory)
                .map(|()| id)
                .map_err(|source| SimulateError::Block { directory: directory.join(id.to_string()), source })
        })
        .collect()
}

/// A ULID of the moment that Prometheus would have cut the block.
fn name(fleet: &Fleet, start_ms: i64) -> BlockId {
    let mut seed = [0; 32];
    let parts = fleet.seed.to_le_bytes().into_iter().chain(fleet.replica.to_le_bytes());
    let parts =
        parts.chain(crc32c::crc32c(fleet.cluster.as_bytes()).to_le_bytes()).chain(start_ms.to_le_bytes());
    seed.iter_mut().zip(parts).for_each(|(byte, part)| *byte = part);
    BlockId::generate(start_ms + BLOCK_RANGE_MS, &mut StdRng::from_seed(seed))
}

fn write_block(fleet: &Fleet, id: BlockId, start_ms: i64, directory: &Path) -> Result<(), TsdbError> {
    let all = fleet.series();
    let symbols = symbols_of(all.iter().map(|series| &series.labels));
    let mut writer = BlockWriter::create(&directory.join(id.to_string()), symbols, SegmentConfig::default())?;
    let timestamps: Vec<i64> =
        fleet.scrapes(TimeRange::new(start_ms, start_ms + BLOCK_RANGE_MS - 1)).collect();
    for series in &all {
        writer.add_series(&series.labels, &chunks(series, &timestamps)?)?;
    }
    let sealed = writer.seal()?;
    let stats = sealed.stats();
    let meta = BlockMeta {
        ulid: id,
        min_time_ms: start_ms,
        max_time_ms: start_ms + BLOCK_RANGE_MS,
        stats: BlockStats {
            num_samples: stats.sample_count,
            num_series: stats.series_count,
            num_chunks: stats.chunk_count,
            ..BlockStats::default()
        },
        compaction: Compaction { level: 1, sources: vec![id], ..Compaction::default() },
        version: 1,
        thanos: None,
        unknown: serde_json::Map::new(),
    };
    let json = meta.to_json().map_err(|error| TsdbError::corrupt("meta.json", 0, error.to_string()))?;
    sealed.add_file("meta.json", &json)?;
    sealed.publish().map(drop)
}

fn chunks(series: &SimulatedSeries, timestamps: &[i64]) -> Result<Vec<BlockChunk>, TsdbError> {
    timestamps
        .chunks(SAMPLES_PER_CHUNK)
        .map(|part| {
            let mut appender = XorAppender::new();
            for timestamp_ms in part {
                appender.append(*timestamp_ms, series.value_at(*timestamp_ms))?;
            }
            Ok(BlockChunk {
                min_time_ms: part[0],
                max_time_ms: part[part.len() - 1],
                chunk: Chunk { encoding: ChunkEncoding::Xor, data: Bytes::from(appender.into_bytes()) },
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use parallax_block::verify_block;

    use super::*;

    #[test]
    fn blocks_are_sound_whole_and_repeatable() {
        let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 2, seed: 3 };
        // Starts and ends inside a block: only the two whole ones are written.
        let range = TimeRange::new(BLOCK_RANGE_MS / 2, BLOCK_RANGE_MS * 7 / 2);
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ids = write(&fleet, range, first.path()).unwrap();
        assert_eq!(ids.len(), 2);
        assert_eq!(write(&fleet, range, second.path()).unwrap(), ids);
        for id in ids {
            let report = verify_block(&first.path().join(id.to_string())).unwrap();
            assert_eq!(report.series, fleet.series().len() as u64);
            for file in ["index", "chunks/000001", "meta.json"] {
                let read = |root: &Path| std::fs::read(root.join(id.to_string()).join(file)).unwrap();
                assert_eq!(read(first.path()), read(second.path()), "{file}");
            }
        }
    }
    #[test]
    fn names_depend_on_fleet_and_time_and_not_on_the_call() {
        let fleet =
            |cluster: &str, replica| Fleet { cluster: cluster.to_owned(), replica, instances: 1, seed: 3 };
        let written = |fleet: &Fleet, first: i64, last: i64| {
            let directory = tempfile::tempdir().unwrap();
            write(
                fleet,
                TimeRange::new(first * BLOCK_RANGE_MS, (last + 1) * BLOCK_RANGE_MS - 1),
                directory.path(),
            )
            .unwrap()
        };
        let all = written(&fleet("eu-1", 0), 0, 2);
        assert_eq!(written(&fleet("eu-1", 0), 1, 2), all[1..]);
        for other in [fleet("eu-1", 1), fleet("us-1", 0)] {
            assert!(written(&other, 0, 2).iter().all(|id| !all.contains(id)));
        }
    }
}
