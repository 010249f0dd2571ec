use parallax_tsdb::block::{BlockChunk, SymbolBlockWriter};
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::index::SymbolSection;
use parallax_tsdb::segment::{Chunk, SegmentConfig};

use super::*;
use crate::source::SymbolLabels;

const ID: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

/// Two series of a block; the value of the last sample of the second one is given.
fn series(last: f64) -> Vec<(SymbolLabels, Vec<BlockChunk>)> {
    let chunk = |samples: &[(i64, f64)]| BlockChunk {
        min_time_ms: samples[0].0,
        max_time_ms: samples[samples.len() - 1].0,
        chunk: Chunk { encoding: ChunkEncoding::Xor, data: encode_xor(samples).unwrap().into() },
    };
    let first = chunk(&[(1, 1.0), (2, 2.0)]);
    let second = chunk(&[(1, 1.0), (2, last)]);
    vec![(vec![(1, 2)], vec![first]), (vec![(1, 3)], vec![second])]
}

fn symbols() -> Bytes {
    let mut section = SymbolSection::new();
    for text in ["", "__name__", "a", "b"] {
        section.push(text).unwrap();
    }
    section.finish().unwrap()
}

/// Stages a block; gives its meta and its digest.
fn stage(staging: &Path, last: f64) -> (BlockMeta, Digest) {
    let mut writer =
        SymbolBlockWriter::create(&staging.join(ID), &symbols(), SegmentConfig::default()).unwrap();
    let mut digest = Digest::default();
    for (labels, chunks) in series(last) {
        writer.add_series(&labels, &chunks).unwrap();
        digest.add(SeriesDigest::of(&labels, &chunks).unwrap());
    }
    writer.seal().unwrap().publish().unwrap();
    let json = format!(
        r#"{{"ulid":"{ID}","minTime":0,"maxTime":10,"version":1,"stats":{{"numSamples":4,"numSeries":2,"numChunks":2}}}}"#
    );
    (BlockMeta::parse("test", json.as_bytes()).unwrap(), digest)
}

fn verified(written: f64, expected: f64) -> Result<(), CompactError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (meta, _) = stage(dir.path(), written);
    let (_, digest) = stage(other.path(), expected);
    verify_staged(dir.path(), runtime.handle(), &meta, &symbols(), &digest)
}

#[test]
fn a_block_that_is_sound_but_holds_another_value_is_not_what_was_written() {
    verified(2.0, 2.0).unwrap();
    // Checksums, times and counts of both are right.
    let error = verified(3.0, 2.0).unwrap_err();
    assert!(
        matches!(&error, CompactError::Output { reason } if reason.contains("what was written")),
        "{error}"
    );
}
