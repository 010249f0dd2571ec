//! Every chunk that the real Prometheus and Thanos wrote is read, and written again with the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parallax_model::{CounterResetHint, FloatColumn, HistogramColumn, TimeRange};
use parallax_tsdb::chunk::{
    Appended, ChunkEncoding, FloatHistogramAppender, FloatHistogramReader, HistogramAppender,
    HistogramReader, XorAppender, XorReader, counter_reset_header, decode_chunk, decode_xor, sample_count,
};
use parallax_tsdb::cursor::Cursor;
use parallax_tsdb::segment::{Segment, SegmentConfig, SegmentWriter, Segments};

/// The recorded data: the shared folder, or the small copy in the repository.
fn golden() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    [shared.join("golden"), workspace.join("tests/golden")]
        .into_iter()
        .find(|path| path.join("bucket-short").is_dir())
        .expect("golden data")
}

/// The directories of all golden blocks.
fn blocks() -> Vec<PathBuf> {
    let mut blocks = Vec::new();
    for bucket in ["bucket-short", "bucket-long", "bucket-long-raw"] {
        let Ok(entries) = std::fs::read_dir(golden().join(bucket)) else { continue };
        blocks
            .extend(entries.map(|entry| entry.unwrap().path()).filter(|block| block.join("chunks").is_dir()));
    }
    blocks.sort();
    blocks
}

/// A chunk of the golden buckets; of aggregates, each of the five.
struct Golden {
    place: String,
    encoding: ChunkEncoding,
    bytes: Vec<u8>,
}

fn chunks() -> Vec<Golden> {
    let mut all = Vec::new();
    for block in blocks() {
        let segments = Segments::open_dir(&block.join("chunks")).unwrap();
        for segment in segments.iter() {
            for entry in segment.chunks() {
                let (offset, chunk) = entry.unwrap();
                let place = format!("{}@{offset}", segment.name());
                if chunk.encoding == ChunkEncoding::Aggregate {
                    all.extend(aggregates(&place, &chunk.data));
                } else {
                    all.push(Golden { place, encoding: chunk.encoding, bytes: chunk.data.to_vec() });
                }
            }
        }
    }
    assert!(!all.is_empty());
    all
}

/// The parts of a downsampled chunk: each a length, an encoding and that many bytes; a length of zero stands alone.
fn aggregates(place: &str, data: &[u8]) -> Vec<Golden> {
    let mut cursor = Cursor::new(place, data);
    let mut parts = Vec::new();
    for part in ["count", "sum", "min", "max", "counter"] {
        let len = cursor.uvarint32().unwrap() as usize;
        if len > 0 {
            let encoding = ChunkEncoding::from_byte(cursor.u8().unwrap()).unwrap();
            let bytes = cursor.bytes(len).unwrap().to_vec();
            parts.push(Golden { place: format!("{place}/{part}"), encoding, bytes });
        }
    }
    assert!(cursor.is_empty(), "{place}");
    parts
}

#[test]
fn every_block_has_the_samples_that_its_meta_counts() {
    for block in blocks() {
        let meta: serde_json::Value =
            serde_json::from_slice(&std::fs::read(block.join("meta.json")).unwrap()).unwrap();
        let (mut chunks, mut samples) = (0, 0);
        for segment in Segments::open_dir(&block.join("chunks")).unwrap().iter() {
            for entry in segment.chunks() {
                let (_, chunk) = entry.unwrap();
                chunks += 1;
                let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
                if chunk.encoding == ChunkEncoding::Aggregate {
                    continue;
                }
                decode_chunk(chunk.encoding, &chunk.data, TimeRange::ALL, &mut floats, &mut histograms)
                    .unwrap();
                assert_eq!(floats.len() + histograms.len(), sample_count(&chunk.data).unwrap());
                let times = if floats.is_empty() { &histograms.timestamps_ms } else { &floats.timestamps_ms };
                assert!(times.is_sorted_by(|early, late| early < late));
                samples += times.len() as u64;
            }
        }
        assert_eq!(meta["stats"]["numChunks"].as_u64().unwrap(), chunks, "{}", block.display());
        if meta["thanos"]["downsample"]["resolution"].as_u64() == Some(0) {
            assert_eq!(meta["stats"]["numSamples"].as_u64().unwrap(), samples, "{}", block.display());
        }
    }
}

#[test]
fn every_chunk_is_written_again_byte_by_byte() {
    let mut seen = BTreeMap::<_, usize>::new();
    for Golden { place, encoding, bytes } in chunks() {
        *seen.entry(encoding).or_default() += 1;
        let mut written = match encoding {
            ChunkEncoding::Xor => rewrite_xor(&bytes),
            ChunkEncoding::Histogram => {
                let mut appender = HistogramAppender::new();
                for sample in HistogramReader::new(&bytes).unwrap() {
                    let (timestamp_ms, histogram) = sample.unwrap();
                    assert_eq!(
                        appender.append(timestamp_ms, &histogram).unwrap(),
                        Appended::InPlace,
                        "{place}"
                    );
                }
                appender.into_bytes()
            }
            ChunkEncoding::FloatHistogram => {
                let mut appender = FloatHistogramAppender::new();
                for sample in FloatHistogramReader::new(&bytes).unwrap() {
                    let (timestamp_ms, histogram) = sample.unwrap();
                    assert_eq!(
                        appender.append(timestamp_ms, &histogram).unwrap(),
                        Appended::InPlace,
                        "{place}"
                    );
                }
                appender.into_bytes()
            }
            other => panic!("{place}: {other:?}"),
        };
        if encoding.is_histogram() {
            // The chunk before is not at hand, so that the header cannot be known.
            let gauge = counter_reset_header(&bytes).unwrap() == CounterResetHint::Gauge;
            assert_eq!(counter_reset_header(&written).unwrap() == CounterResetHint::Gauge, gauge, "{place}");
            written[2] = bytes[2];
        }
        assert_eq!(written, bytes, "{place}");
    }
    assert!(seen.len() == 3, "the golden data has chunks of all kinds: {seen:?}");
}

fn rewrite_xor(bytes: &[u8]) -> Vec<u8> {
    let mut column = FloatColumn::default();
    decode_xor(bytes, &mut column).unwrap();
    let mut appender = XorAppender::new();
    for (sample, (timestamp_ms, value)) in XorReader::new(bytes).unwrap().zip(column.iter()) {
        let (same_timestamp, same_value) = sample.unwrap();
        assert_eq!((same_timestamp, same_value.to_bits()), (timestamp_ms, value.to_bits()));
        appender.append(timestamp_ms, value).unwrap();
    }
    appender.into_bytes()
}

#[test]
fn integer_and_float_readings_of_a_histogram_agree() {
    for Golden { place, bytes, .. } in
        chunks().iter().filter(|chunk| chunk.encoding == ChunkEncoding::Histogram)
    {
        let mut column = HistogramColumn::default();
        decode_chunk(
            ChunkEncoding::Histogram,
            bytes,
            TimeRange::ALL,
            &mut FloatColumn::default(),
            &mut column,
        )
        .unwrap();
        for (sample, (timestamp_ms, float)) in HistogramReader::new(bytes).unwrap().zip(column.iter()) {
            let (same_timestamp, integer) = sample.unwrap();
            assert_eq!(same_timestamp, timestamp_ms);
            if float.is_stale() {
                assert!(integer.is_stale());
            } else if !float.sum.is_nan() {
                assert_eq!(integer.to_float(), **float, "{place}");
            }
        }
    }
}

#[test]
fn a_time_range_keeps_what_lies_in_it() {
    for Golden { place, encoding, bytes } in chunks() {
        let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
        decode_chunk(encoding, &bytes, TimeRange::ALL, &mut floats, &mut histograms).unwrap();
        let times =
            if encoding == ChunkEncoding::Xor { &floats.timestamps_ms } else { &histograms.timestamps_ms };
        let (Some(first), Some(last)) = (times.first(), times.last()) else { continue };
        let span = last - first;
        for range in [
            TimeRange::new(first + span / 3, last - span / 3),
            TimeRange::new(first + 1, *last),
            TimeRange::new(*first, last - 1),
            TimeRange::new(last + 1, last + 2),
            TimeRange::new(first - 2, first - 1),
        ] {
            let wanted: Vec<i64> = times.iter().copied().filter(|time| range.contains(*time)).collect();
            let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
            floats.push(7, 7.0);
            decode_chunk(encoding, &bytes, range, &mut floats, &mut histograms).unwrap();
            let kept = if encoding == ChunkEncoding::Xor {
                &floats.timestamps_ms[1..]
            } else {
                &histograms.timestamps_ms
            };
            assert_eq!(kept, wanted, "{place}");
            assert_eq!(floats.timestamps_ms.len(), floats.values.len());
        }
    }
}

#[test]
fn segments_are_written_again_byte_by_byte() {
    for block in blocks() {
        for segment in Segments::open_dir(&block.join("chunks")).unwrap().iter() {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = SegmentWriter::create(dir.path(), SegmentConfig::default()).unwrap();
            for entry in segment.chunks() {
                let (offset, chunk) = entry.unwrap();
                let refs = writer.write_series(&[(chunk.encoding, &chunk.data)]).unwrap();
                assert_eq!(refs[0].offset, offset);
            }
            assert_eq!(writer.finish().unwrap(), 1);
            let written = std::fs::read(dir.path().join("000001")).unwrap();
            assert!(written == std::fs::read(segment.name()).unwrap(), "{}", segment.name());
        }
    }
}

#[test]
fn a_damaged_segment_is_an_error_that_names_the_file_and_the_place() {
    let block = blocks().remove(0);
    let bytes = std::fs::read(block.join("chunks/000001")).unwrap();
    let whole = Segment::from_bytes("a/000001", bytes.clone().into()).unwrap();
    let offsets: Vec<u32> = whole.chunks().map(|entry| entry.unwrap().0).collect();
    let last = *offsets.last().unwrap() as usize;

    for cut in [last + 1, last + 10, bytes.len() - 1] {
        let cut_segment = Segment::from_bytes("a/000001", bytes[..cut].to_vec().into()).unwrap();
        let error = cut_segment.chunks().find_map(Result::err).unwrap();
        assert!(error.to_string().starts_with("a/000001 is truncated"), "{error}");
        assert!(error.to_string().ends_with(&format!("byte {last}")), "{error}");
    }
    let mut flipped = bytes.clone();
    flipped[last + 5] ^= 1;
    let error = Segment::from_bytes("a/000001", flipped.into()).unwrap().chunk(last as u32).unwrap_err();
    assert!(error.is_corruption() && error.to_string().starts_with("a/000001"), "{error}");
    for (at, text) in [(0, "magic number"), (4, "segment version")] {
        let mut other = bytes.clone();
        other[at] ^= 2;
        let error = Segment::from_bytes("a/000001", other.into()).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(Segment::from_bytes("a/000001", bytes[..7].to_vec().into()).is_err());
}
