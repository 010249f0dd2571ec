//! Indexes and index-headers that the real Prometheus and Thanos wrote: read, queried, and written again byte for byte.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parallax_model::{Labels, MatchOp, Matcher};
use parallax_tsdb::index::{ChunkMeta, IndexReader, IndexWriter, SeriesEntry};
use parallax_tsdb::index_header::{IndexHeader, IndexHeaderPlan};
use parallax_tsdb::postings::{LabelValueIndex, PostingsPlan};

/// The recorded truth: the full one if it is there, else the small copy in the repository.
fn golden() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    [shared.join("golden"), workspace.join("tests/golden")]
        .into_iter()
        .find(|path| path.join("bucket-short").is_dir())
        .expect("golden data")
}

/// Every index of every golden bucket: (name of the block, bytes).
fn indexes() -> Vec<(String, Bytes)> {
    let mut found = Vec::new();
    for bucket in ["bucket-short", "bucket-long", "bucket-long-raw"] {
        let Ok(blocks) = std::fs::read_dir(golden().join(bucket)) else { continue };
        for block in blocks {
            let block = block.unwrap().path();
            if let Ok(bytes) = std::fs::read(block.join("index")) {
                found.push((block.file_name().unwrap().to_string_lossy().into_owned(), bytes.into()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn open(name: &str, bytes: &Bytes) -> IndexReader {
    IndexReader::open(name, bytes.clone()).unwrap()
}

fn all_series(index: &IndexReader) -> Vec<(u32, Labels, Vec<ChunkMeta>)> {
    let mut entry = SeriesEntry::default();
    let read = |series| {
        index.read_series(series, &mut entry).unwrap();
        (series, index.labels(&entry).unwrap(), entry.chunks.clone())
    };
    index.all_series().unwrap().map(read).collect()
}

#[test]
fn an_index_written_again_is_the_same_bytes() {
    for (name, bytes) in indexes() {
        let index = open(&name, &bytes);
        let symbols = index.symbols().iter().collect::<Result<Vec<_>, _>>().unwrap();
        let mut writer = IndexWriter::new(Vec::new(), symbols).unwrap();
        for (series, labels, chunks) in all_series(&index) {
            assert_eq!(writer.add_series(&labels, &chunks).unwrap(), series);
        }
        let (written, stats) = writer.finish().unwrap();
        assert_eq!(written, bytes, "{name}");
        assert_eq!(stats.size_bytes, index.size_bytes());
    }
}

#[test]
fn symbols_are_the_texts_of_all_labels_and_the_empty_text() {
    for (name, bytes) in indexes() {
        let index = open(&name, &bytes);
        let mut expected = BTreeSet::from([String::new()]);
        for (_, labels, _) in all_series(&index) {
            expected.extend(labels.iter().flat_map(|(name, value)| [name.to_owned(), value.to_owned()]));
        }
        let symbols: Vec<String> = index.symbols().iter().map(|symbol| symbol.unwrap().to_owned()).collect();
        assert_eq!(symbols, expected.into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn series_are_counted_as_in_meta_json() {
    for block in std::fs::read_dir(golden().join("bucket-short")).unwrap() {
        let block = block.unwrap().path();
        let meta: serde_json::Value =
            serde_json::from_slice(&std::fs::read(block.join("meta.json")).unwrap()).unwrap();
        let index = open("index", &std::fs::read(block.join("index")).unwrap().into());
        let series = all_series(&index);
        assert_eq!(series.len() as u64, meta["stats"]["numSeries"].as_u64().unwrap());
        let chunks: Vec<ChunkMeta> = series.into_iter().flat_map(|(_, _, chunks)| chunks).collect();
        assert_eq!(chunks.len() as u64, meta["stats"]["numChunks"].as_u64().unwrap());
        let (min, max) = (meta["minTime"].as_i64().unwrap(), meta["maxTime"].as_i64().unwrap());
        assert!(chunks.iter().all(|chunk| min <= chunk.min_time_ms && chunk.max_time_ms < max));
    }
}

#[test]
fn selection_finds_exactly_the_series_that_match() {
    let cases = [
        vec![(MatchOp::Equal, "__name__", "up")],
        vec![(MatchOp::Regex, "__name__", "http_.*"), (MatchOp::NotEqual, "code", "500")],
        vec![(MatchOp::Equal, "le", "")],
        vec![(MatchOp::NotEqual, "le", "")],
        vec![(MatchOp::Regex, "le", ".+"), (MatchOp::NotRegex, "le", "0.*|1")],
        vec![(MatchOp::Regex, "job", "api|batch|"), (MatchOp::Equal, "missing", "")],
        vec![(MatchOp::Regex, "method", "get|"), (MatchOp::Regex, "method", ".+")],
        vec![(MatchOp::Equal, "missing", "x")],
        vec![(MatchOp::NotRegex, "__name__", ".*")],
    ];
    for (name, bytes) in indexes() {
        let index = open(&name, &bytes);
        let series = all_series(&index);
        for case in &cases {
            let matchers: Vec<Matcher> =
                case.iter().map(|(op, name, value)| Matcher::new(*op, *name, *value).unwrap()).collect();
            let expected: Vec<u32> = series
                .iter()
                .filter(|(_, labels, _)| matchers.iter().all(|m| m.matches_labels(labels)))
                .map(|(series, ..)| *series)
                .collect();
            assert_eq!(index.select(&matchers).unwrap().collect::<Vec<_>>(), expected, "{name} {case:?}");
        }
    }
}

#[test]
fn label_names_and_values_are_those_of_the_series() {
    for (name, bytes) in indexes() {
        let index = open(&name, &bytes);
        let series = all_series(&index);
        let table = index.postings_table();
        let names: BTreeSet<&str> =
            series.iter().flat_map(|(_, labels, _)| labels.iter().map(|(name, _)| name)).collect();
        assert_eq!(table.label_names().collect::<Vec<_>>(), names.iter().copied().collect::<Vec<_>>());
        for label in names {
            let values: BTreeSet<&str> =
                series.iter().filter_map(|(_, labels, _)| labels.get(label)).collect();
            assert_eq!(
                table.label_values(label).unwrap(),
                values.iter().copied().collect::<Vec<_>>(),
                "{name} {label}"
            );
            for value in values {
                let found = index.postings(label, value).unwrap().count();
                assert_eq!(found, series.iter().filter(|(_, l, _)| l.get(label) == Some(value)).count());
            }
        }
    }
}

/// A header as a caller with a bucket makes it: four ranges of an index whose size is known.
fn header_of(index: &Bytes) -> Vec<u8> {
    let size = index.len() as u64;
    let read = |range: std::ops::Range<u64>| index.slice(range.start as usize..range.end as usize);
    let preamble = read(IndexHeaderPlan::preamble_range());
    let toc = read(IndexHeaderPlan::toc_range("index", size).unwrap());
    let plan = IndexHeaderPlan::new("index", size, &preamble, &toc).unwrap();
    let header =
        plan.assemble("index", &read(plan.symbols_range()), &read(plan.postings_table_range())).unwrap();
    assert_eq!(header.len() as u64, plan.header_size_bytes());
    header
}

#[test]
fn an_index_header_is_the_bytes_that_thanos_wrote() {
    let mut compared = 0;
    for file in std::fs::read_dir(golden().join("index-headers")).unwrap() {
        let file = file.unwrap().path();
        let block = file.file_stem().unwrap();
        let Ok(index) = std::fs::read(golden().join("bucket-short").join(block).join("index")) else {
            continue;
        };
        let thanos = std::fs::read(&file).unwrap();
        assert_eq!(header_of(&index.into()), thanos, "{}", file.display());
        let opened = IndexHeader::open_file(&file).unwrap();
        assert_eq!(opened.size_bytes(), thanos.len() as u64);
        compared += 1;
    }
    assert!(compared > 0);
}

#[test]
fn an_index_header_file_appears_complete() {
    let (name, index) = indexes().remove(0);
    let size = index.len() as u64;
    let read = |range: std::ops::Range<u64>| &index[range.start as usize..range.end as usize];
    let toc = read(IndexHeaderPlan::toc_range("index", size).unwrap());
    let plan = IndexHeaderPlan::new("index", size, read(IndexHeaderPlan::preamble_range()), toc).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(name);
    let (symbols, table) = (read(plan.symbols_range()), read(plan.postings_table_range()));
    assert!(plan.write_file(&path, &symbols[1..], table).is_err(), "a short read is noticed");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    plan.write_file(&path, symbols, table).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), header_of(&index));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn an_index_header_answers_as_the_index_does() {
    let matchers = [
        Matcher::new(MatchOp::Regex, "__name__", "n.+|h.+|up").unwrap(),
        Matcher::new(MatchOp::NotEqual, "job", "batch").unwrap(),
    ];
    for (name, bytes) in indexes() {
        let index = open(&name, &bytes);
        let header = IndexHeader::open("index-header", &header_of(&bytes).into()).unwrap();
        assert_eq!(header.index_toc(), index.toc());
        assert_eq!(header.index_size_bytes(), index.size_bytes());
        for symbol in 0..index.symbols().len() {
            assert_eq!(header.symbols().lookup(symbol).unwrap(), index.symbols().lookup(symbol).unwrap());
        }
        let plan = PostingsPlan::new(&header, &matchers).unwrap();
        assert_eq!(plan, PostingsPlan::new(&index, &matchers).unwrap());
        // Each list is whole within its range, with its length and checksum, and nothing else is.
        let mut visited = 0;
        for label in header.postings_table().label_names() {
            let check = &mut |value: &str, place: parallax_tsdb::index::PostingsRange| {
                let list = bytes.slice(place.start as usize..place.end as usize);
                let refs = parallax_tsdb::index::postings_list::decode("index", place.start, &list).unwrap();
                assert_eq!(place.size_bytes(), 12 + 4 * refs.len_bound() as u64);
                assert_eq!(place.without_frame().size_bytes(), 4 + 4 * refs.len_bound() as u64);
                assert!(refs.eq(index.postings(label, value).unwrap()));
                visited += 1;
            };
            header.visit_values(label, "", check).unwrap();
        }
        assert!(visited > 0);
    }
}
