//! Captures of a real Thanos store gateway: they decode, encode to the same bytes, and keep the rules we rely on.

use std::path::{Path, PathBuf};

use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{
    LabelNamesResponse, LabelValuesResponse, Series, SeriesRequest, SeriesResponse,
};
use parallax_storeapi::{ShardMatcher, chunks, labels, matchers};
use prost::Message;

/// Folders of captures: all that were recorded, or the small copy that lives in the repository.
fn capture_dirs() -> Vec<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let full = shared.join("golden/storeapi");
    let root = if full.is_dir() { full } else { workspace.join("tests/golden/storeapi") };
    std::fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect()
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for dir in capture_dirs() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.push((name, std::fs::read(&path).unwrap()));
        }
    }
    assert!(files.len() > 10, "captures are missing");
    files
}

/// Series requests with the frames that answered them.
fn answers() -> Vec<(String, SeriesRequest, Vec<SeriesResponse>)> {
    let mut answers = Vec::new();
    for dir in capture_dirs() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let Some(case) = name.strip_suffix(".series.request.pb") else { continue };
            let request = SeriesRequest::decode(&*std::fs::read(&path).unwrap()).unwrap();
            let responses = std::fs::read(dir.join(format!("{case}.series.responses.pb"))).unwrap();
            answers.push((case.to_owned(), request, decode_frames(&responses)));
        }
    }
    answers
}

fn decode_frames(mut bytes: &[u8]) -> Vec<SeriesResponse> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        frames.push(SeriesResponse::decode_length_delimited(&mut bytes).unwrap());
    }
    frames
}

fn series(frames: &[SeriesResponse]) -> Vec<&Series> {
    frames
        .iter()
        .flat_map(|frame| match &frame.result {
            Some(Frame::Series(series)) => std::slice::from_ref(series),
            Some(Frame::Batch(batch)) => &batch.series,
            _ => &[],
        })
        .collect()
}

#[test]
fn captures_encode_to_the_bytes_they_came_from() {
    for (name, bytes) in files() {
        let again = if name.ends_with(".series.request.pb") {
            SeriesRequest::decode(&*bytes).unwrap().encode_to_vec()
        } else if name.ends_with(".series.responses.pb") {
            decode_frames(&bytes).iter().flat_map(SeriesResponse::encode_length_delimited_to_vec).collect()
        } else if name.starts_with("info") {
            InfoResponse::decode(&*bytes).unwrap().encode_to_vec()
        } else if name.starts_with("label-names") {
            LabelNamesResponse::decode(&*bytes).unwrap().encode_to_vec()
        } else if name.starts_with("label-values") {
            LabelValuesResponse::decode(&*bytes).unwrap().encode_to_vec()
        } else {
            panic!("a capture of unknown kind: {name}");
        };
        assert!(again == bytes, "{name} encodes to other bytes");
    }
}

#[test]
fn answers_are_sorted_and_their_series_match() {
    let mut count = 0;
    for (case, request, frames) in answers() {
        let matchers = matchers::from_wire(&request.matchers).unwrap();
        let series = series(&frames);
        for pair in series.windows(2) {
            assert!(labels::compare(&pair[0].labels, &pair[1].labels).is_le(), "{case}");
        }
        // A removed label cannot be matched any more.
        let checked =
            matchers.iter().filter(|m| !request.without_replica_labels.iter().any(|name| name == m.name()));
        for matcher in checked {
            for one in &series {
                let set = labels::from_wire(&one.labels).unwrap();
                assert!(matcher.matches_labels(&set), "{case}: {set} does not match {matcher}");
            }
        }
        count += series.len();
    }
    assert!(count > 100, "only {count} series in the captures");
}

#[test]
fn hashes_and_shards_are_ours() {
    let (mut hashed, mut sharded) = (0, 0);
    for (case, request, frames) in answers() {
        let mut shard = ShardMatcher::new(request.shard_info.as_ref()).unwrap();
        for one in series(&frames) {
            assert!(shard.matches(&one.labels), "{case}: {}", labels::display(&one.labels));
            sharded += usize::from(shard.is_sharded());
            for (_, part) in one.chunks.iter().flat_map(chunks::parts) {
                assert_eq!(part.hash, chunks::hash(&part.data), "{case}");
                hashed += 1;
            }
        }
    }
    assert!(hashed > 100 && sharded > 10, "{hashed} hashes, {sharded} sharded series in the captures");
}
