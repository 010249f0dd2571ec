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

fn symbols() -> Arc<SymbolStore> {
    let dir = tempfile::tempdir().unwrap();
    let mut section = SymbolSection::new(dir.path());
    for text in ["", "__name__", "a", "b"] {
        section.push(text).unwrap();
    }
    Arc::new(section.finish().unwrap())
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
    // As a whole, and in two parts.
    let verify =
        |split_from| verify_staged(dir.path(), runtime.handle(), &meta, &symbols(), &digest, split_from);
    let (whole, parts) = (verify(u64::MAX), verify(0));
    assert_eq!(whole.as_ref().err().map(ToString::to_string), parts.as_ref().err().map(ToString::to_string));
    parts
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

/// A block of `count` series of one label each, one chunk each; gives its meta, its symbols and its digest.
fn stage_many(staging: &Path, count: u32) -> (BlockMeta, Arc<SymbolStore>, Digest) {
    let mut section = SymbolSection::new(staging);
    for text in ["", "__name__"] {
        section.push(text).unwrap();
    }
    for number in 0..count {
        section.push(&format!("metric_{number:05}")).unwrap();
    }
    let symbols = Arc::new(section.finish().unwrap());
    let config = SegmentConfig { is_durable: false, ..SegmentConfig::default() };
    let mut writer = SymbolBlockWriter::create(&staging.join(ID), &symbols, config).unwrap();
    let mut digest = Digest::default();
    for number in 0..count {
        let samples = [(1, f64::from(number)), (2, 1.0)];
        let data = encode_xor(&samples).unwrap().into();
        let chunk = BlockChunk {
            min_time_ms: 1,
            max_time_ms: 2,
            chunk: Chunk { encoding: ChunkEncoding::Xor, data },
        };
        // Every other series has another length.
        let labels =
            if number % 2 == 0 { vec![(1, number + 2)] } else { vec![(1, number + 2), (number + 2, 2)] };
        writer.add_series(&labels, std::slice::from_ref(&chunk)).unwrap();
        digest.add(SeriesDigest::of(&labels, &[chunk]).unwrap());
    }
    writer.seal().unwrap().publish().unwrap();
    let json = format!(
        r#"{{"ulid":"{ID}","minTime":0,"maxTime":10,"version":1,
            "stats":{{"numSamples":{},"numSeries":{count},"numChunks":{count}}}}}"#,
        2 * count
    );
    (BlockMeta::parse("test", json.as_bytes()).unwrap(), symbols, digest)
}

#[test]
fn both_parts_of_a_block_are_read_to_their_ends() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for count in [2, 3, 501] {
        let dir = tempfile::tempdir().unwrap();
        let (meta, symbols, digest) = stage_many(dir.path(), count);
        let verify = || verify_staged(dir.path(), runtime.handle(), &meta, &symbols, &digest, 0);
        verify().unwrap();
        // A bit of the first chunk, of one in the middle, of the last one; and of postings and what follows them.
        let block = dir.path().join(ID);
        for (file, places) in [("chunks/000001", &[0.01, 0.5, 0.99][..]), ("index", &[0.7, 0.9])] {
            let path = block.join(file);
            let sound = std::fs::read(&path).unwrap();
            for place in places {
                let mut bytes = sound.clone();
                let at = ((bytes.len() as f64 * place) as usize).max(8);
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                assert!(verify().is_err(), "{count} series: {file} at {at} was changed");
            }
            std::fs::write(&path, sound).unwrap();
        }
        verify().unwrap();
    }
}

#[test]
fn trouble_of_the_disk_is_not_taken_for_a_fault_of_the_block() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (meta, digest) = stage(dir.path(), 2.0);
    let verify = || verify_staged(dir.path(), runtime.handle(), &meta, &symbols(), &digest, u64::MAX);
    let path = dir.path().join(ID).join("chunks/000001");
    let sound = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let gone = verify().unwrap_err();
    assert!(matches!(&gone, CompactError::Output { .. }), "{gone}");
    // A link to itself is there, and cannot be opened.
    std::os::unix::fs::symlink(&path, &path).unwrap();
    let error = verify().unwrap_err();
    assert!(matches!(&error, CompactError::Bucket { .. }), "{error}");
    assert_eq!(error.remedy(), Remedy::Retry);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, sound).unwrap();
    verify().unwrap();
}
