//! Damaged indexes and index-headers: always an error, never a panic and never another answer.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bytes::Bytes;
use parallax_model::{Labels, MatchOp, Matcher};
use parallax_tsdb::TsdbError;
use parallax_tsdb::crc::crc32c;
use parallax_tsdb::index::{
    ChunkMeta, IndexReader, IndexWriter, PostingsRange, SERIES_ALIGNMENT_BYTES, SeriesEntry, Toc,
};
use parallax_tsdb::index_header::{IndexHeader, IndexHeaderPlan};
use parallax_tsdb::postings::LabelValueIndex;
use parallax_tsdb::segment::ChunkRef;
use proptest::prelude::*;

/// The smallest golden index (a real one), and one of ours with enough values that the table is sampled.
static INDEXES: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let golden = [shared.join("golden"), workspace.join("tests/golden")]
        .into_iter()
        .map(|path| path.join("bucket-short"))
        .find(|path| path.is_dir())
        .expect("golden data");
    let indexes = std::fs::read_dir(golden).unwrap().map(|block| block.unwrap().path().join("index"));
    let real = indexes.map(|path| std::fs::read(path).unwrap()).min_by_key(Vec::len).unwrap();
    [real.into(), many_values()]
});

fn many_values() -> Bytes {
    let pods: Vec<String> = (0..80).map(|pod| format!("pod-{pod:03}")).collect();
    let mut symbols = vec!["", "__name__", "a", "b", "pod", "up"];
    symbols.splice(5..5, pods.iter().map(String::as_str));
    let mut writer = IndexWriter::new(Vec::new(), symbols).unwrap();
    for (at, pod) in (0i64..).zip(&pods) {
        let labels = Labels::from_pairs([("__name__", "up"), ("pod", pod)]);
        let chunk_ref = ChunkRef::from_u64(8 + at.unsigned_abs() * 40);
        let chunk = ChunkMeta { chunk_ref, min_time_ms: at, max_time_ms: 1000 + at };
        writer.add_series(&labels, &[chunk]).unwrap();
    }
    writer.finish().unwrap().0.into()
}

/// All that an index can tell.
type Answers = (Vec<(u32, Labels, Vec<ChunkMeta>)>, Vec<(String, String, Vec<u32>)>, Vec<u32>);

fn ask(bytes: Bytes) -> Result<Answers, TsdbError> {
    let index = IndexReader::open("index", bytes)?;
    let mut entry = SeriesEntry::default();
    let mut series = Vec::new();
    for series_ref in index.all_series()? {
        index.read_series(series_ref, &mut entry)?;
        series.push((series_ref, index.labels(&entry)?, entry.chunks.clone()));
    }
    let mut lists = Vec::new();
    for name in index.postings_table().label_names() {
        for value in index.postings_table().label_values(name)? {
            let refs = index.postings(name, &value)?.collect();
            lists.push((name.to_owned(), value, refs));
        }
    }
    let matchers = [Matcher::new(MatchOp::NotRegex, "pod", "pod-0.*").unwrap()];
    let selected = index.select(&matchers)?.collect();
    Ok((series, lists, selected))
}

type HeaderAnswers = (Vec<String>, Vec<(String, String, PostingsRange)>, Toc);

fn ask_header(bytes: &Bytes) -> Result<HeaderAnswers, TsdbError> {
    let header = IndexHeader::open("index-header", bytes)?;
    let symbols =
        (0..header.symbols().len()).map(|symbol| header.symbols().lookup(symbol).map(str::to_owned));
    let symbols = symbols.collect::<Result<_, _>>()?;
    let mut places = Vec::new();
    for name in header.postings_table().label_names() {
        header.visit_values(name, "", &mut |value, place| {
            places.push((name.to_owned(), value.to_owned(), place));
        })?;
    }
    Ok((symbols, places, *header.index_toc()))
}

fn header_of(index: &Bytes) -> Bytes {
    let size = index.len() as u64;
    let read = |range: std::ops::Range<u64>| index.slice(range.start as usize..range.end as usize);
    let toc = read(IndexHeaderPlan::toc_range("index", size).unwrap());
    let plan = IndexHeaderPlan::new("index", size, &read(IndexHeaderPlan::preamble_range()), &toc).unwrap();
    plan.assemble("index", &read(plan.symbols_range()), &read(plan.postings_table_range())).unwrap().into()
}

fn flipped(bytes: &Bytes, at: usize, bit: usize) -> Bytes {
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << bit;
    damaged.into()
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    for index in &*INDEXES {
        let truth = ask(index.clone()).unwrap();
        let mut harmless = 0;
        for at in 0..index.len() {
            if let Ok(answers) = ask(flipped(index, at, at % 8)) {
                assert_eq!(answers, truth, "byte {at}");
                harmless += 1;
            }
        }
        // Only the padding is not covered by a checksum.
        assert!(harmless < truth.0.len() * SERIES_ALIGNMENT_BYTES as usize, "{harmless}");
    }
}

#[test]
fn a_flipped_bit_in_an_index_header_is_an_error() {
    for index in &*INDEXES {
        let header = header_of(index);
        ask_header(&header).unwrap();
        for at in 0..header.len() {
            assert!(ask_header(&flipped(&header, at, at % 8)).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_truncated_file_is_an_error() {
    for index in &*INDEXES {
        let header = header_of(index);
        for len in 0..index.len() {
            assert!(IndexReader::open("index", index.slice(..len)).is_err(), "{len}");
        }
        for len in 0..header.len() {
            assert!(IndexHeader::open("index-header", &header.slice(..len)).is_err(), "{len}");
        }
    }
}

#[test]
fn version_1_is_refused_by_name() {
    let [index, _] = &*INDEXES;
    let mut old = index.to_vec();
    old[4] = 1;
    let error = IndexReader::open("index", old.into()).unwrap_err();
    assert_eq!(error.to_string(), "index at byte 4: index version 1 is not supported");
    let mut old = header_of(index).to_vec();
    old[5] = 1;
    let error = IndexHeader::open("index-header", &old.into()).unwrap_err();
    assert_eq!(error.to_string(), "index-header at byte 5: index version 1 is not supported");
}

/// Recomputes the checksum of a section that begins with its length.
fn seal(bytes: &mut [u8], section: u64) {
    let start = section as usize;
    let Some(len) = bytes.get(start..start + 4) else { return };
    let len = u32::from_be_bytes(len.try_into().unwrap()) as usize;
    let Some(content) = bytes.get(start + 4..start + 4 + len) else { return };
    let crc = crc32c(content).to_be_bytes();
    if let Some(stored) = bytes.get_mut(start + 4 + len..start + 8 + len) {
        stored.copy_from_slice(&crc);
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, preamble: bool) {
        let mut index = if preamble { vec![0xba, 0xaa, 0xd7, 0x00, 2] } else { Vec::new() };
        index.extend(&bytes);
        let _ = ask(index.into());
        let mut header = if preamble { vec![0xba, 0xaa, 0xd7, 0x92, 1, 2] } else { Vec::new() };
        header.extend(&bytes);
        let _ = ask_header(&header.into());
    }

    /// Checksums that are right do not make the content right: whoever writes garbage can seal it too.
    #[test]
    fn sealed_garbage_never_panics(
        which in 0usize..2,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        symbols: bool,
    ) {
        let original = INDEXES[which].clone();
        let toc = *IndexReader::open("index", original.clone()).unwrap().toc();
        let mut index = original.to_vec();
        let (start, end) = if symbols { (toc.symbols, toc.series) } else { (toc.postings_table, original.len() as u64 - 52) };
        for (at, byte) in changes {
            // Behind the length of the section, which the seal needs.
            let at = start as usize + 4 + at.index((end - start) as usize - 4);
            index[at] = byte;
        }
        seal(&mut index, start);
        let index = Bytes::from(index);
        let _ = ask_header(&header_of(&index));
        let _ = ask(index);
    }

    #[test]
    fn a_table_of_contents_that_lies_never_panics(which in 0usize..2, field in 0usize..6, value in prop_oneof![any::<u64>(), 0u64..8000]) {
        let mut index = INDEXES[which].to_vec();
        let toc = index.len() - 52;
        index[toc + 8 * field..toc + 8 * field + 8].copy_from_slice(&value.to_be_bytes());
        let crc = crc32c(&index[toc..toc + 48]);
        index[toc + 48..].copy_from_slice(&crc.to_be_bytes());
        let _ = ask(index.into());
    }
}
