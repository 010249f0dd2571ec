//! Every recorded StoreAPI call of the real store gateway is answered with the same content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parallax_model::Matcher;
use parallax_storeapi::proto::thanos::info::{InfoResponse, TsdbInfo};
use parallax_storeapi::proto::thanos::{
    AggrChunk, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, Series,
    SeriesRequest, SeriesResponse, ZLabelSet, series_response,
};
use parallax_storeapi::withhold::{ask_to_withhold, is_withheld};
use parallax_storeapi::{Store, chunks, frames, labels, matchers};
use prost::Message;
use tonic::Request;

use crate::fixture::{Fixture, find_golden, golden, series};

/// Per series, its chunks: time, aggregate, encoding, data. The order of chunks within a series is not compared.
type Content = BTreeMap<String, BTreeSet<(i64, i64, i32, i32, Vec<u8>)>>;

fn content(series: &[Series]) -> Content {
    let mut content = Content::new();
    for one in series {
        let of_series = content.entry(labels::display(&one.labels)).or_default();
        for chunk in &one.chunks {
            of_series.extend(parts(chunk));
        }
    }
    content
}

fn parts(chunk: &AggrChunk) -> impl Iterator<Item = (i64, i64, i32, i32, Vec<u8>)> {
    chunks::parts(chunk).map(|(aggregate, part)| {
        assert_eq!(part.hash, chunks::hash(&part.data), "hash of a chunk");
        (chunk.min_time, chunk.max_time, aggregate as i32, part.r#type, part.data.to_vec())
    })
}

/// Frames that each follow their length as a uvarint.
fn recorded(path: &Path) -> Vec<Series> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    let mut series = Vec::new();
    while !rest.is_empty() {
        match SeriesResponse::decode_length_delimited(&mut rest).unwrap().result.unwrap() {
            series_response::Result::Series(one) => series.push(one),
            series_response::Result::Batch(batch) => series.extend(batch.series),
            other => panic!("recorded frame {other:?}"),
        }
    }
    series
}

fn captures(directory: &Path) -> Vec<(String, PathBuf)> {
    let mut captures: Vec<(String, PathBuf)> = std::fs::read_dir(directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".series.request.pb")?.to_owned();
            Some((name, path))
        })
        .collect();
    captures.sort();
    captures
}

/// Asks every captured request; returns how many were answered as recorded.
async fn replay(directory: &Path, fixture: &Fixture) -> usize {
    let mut wrong = Vec::new();
    let captures = captures(directory);
    for (name, path) in &captures {
        let request = SeriesRequest::decode(std::fs::read(path).unwrap().as_slice()).unwrap();
        let expected = recorded(&directory.join(format!("{name}.series.responses.pb")));
        let answer = fixture.series(request.clone()).await.unwrap();
        assert_eq!(answer.warnings, Vec::<String>::new(), "{name}");
        let in_order = answer.series.windows(2).all(|pair| {
            let order = labels::compare(&pair[0].labels, &pair[1].labels);
            order.is_le()
        });
        assert!(in_order, "{name} is not in order");
        let (got, expected) = (content(&answer.series), content(&expected));
        if got != expected {
            let missing: Vec<_> = expected.keys().filter(|key| !got.contains_key(*key)).take(3).collect();
            let extra: Vec<_> = got.keys().filter(|key| !expected.contains_key(*key)).take(3).collect();
            wrong.push(format!(
                "{name}: {} series, recorded {}; missing {missing:?}, extra {extra:?}; request {request:?}",
                got.len(),
                expected.len()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    captures.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_capture_of_the_short_bucket_is_answered_as_recorded() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let answered = replay(&golden("storeapi/short"), &fixture).await;
    println!("{answered} captures of storeapi/short");
    assert_eq!(answered, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_capture_of_downsampled_blocks_is_answered_as_recorded() {
    // The long bucket is not part of the small copy in the repository.
    let (Some(bucket), Some(captures)) = (find_golden("bucket-long"), find_golden("storeapi/long")) else {
        println!("no long bucket here: 0 captures of storeapi/long");
        return;
    };
    // Some blocks were marked for deletion when this was recorded, and served all the same.
    let fixture = Fixture::with(&bucket, |config| config.ignore_deletion_marks_delay = Duration::MAX).await;
    let answered = replay(&captures, &fixture).await;
    println!("{answered} captures of storeapi/long");
    assert_eq!(answered, 6);
}

async fn names(fixture: &Fixture) -> Vec<String> {
    // As it was recorded: a querier with a replica label asked.
    let without_replica_labels = vec!["prometheus_replica".to_owned()];
    let request =
        LabelNamesRequest { start: 0, end: i64::MAX, without_replica_labels, ..LabelNamesRequest::default() };
    fixture.gateway.label_names(Request::new(request)).await.unwrap().names
}

/// As it was recorded: of the series of one job.
async fn values(fixture: &Fixture, label: &str) -> Vec<String> {
    let request = LabelValuesRequest {
        label: label.to_owned(),
        start: 0,
        end: i64::MAX,
        matchers: matchers::to_wire(&[Matcher::equal("job", "api")]),
        ..LabelValuesRequest::default()
    };
    fixture.gateway.label_values(Request::new(request)).await.unwrap().values
}

#[tokio::test(flavor = "multi_thread")]
async fn label_names_and_values_are_those_recorded() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let directory = golden("storeapi/short");
    let bytes = std::fs::read(directory.join("label-names.response.pb")).unwrap();
    let expected = LabelNamesResponse::decode(bytes.as_slice()).unwrap().names;
    assert_eq!(names(&fixture).await, expected);

    let bytes = std::fs::read(directory.join("label-values.response.pb")).unwrap();
    let expected = LabelValuesResponse::decode(bytes.as_slice()).unwrap().values;
    assert_eq!(values(&fixture, "__name__").await, expected);
}

/// Label sets, and the stretches of time per set; their order is not compared.
fn info_content(info: &InfoResponse) -> (BTreeSet<String>, BTreeSet<(String, i64, i64)>) {
    let text = |set: &ZLabelSet| labels::display(&set.labels);
    let tsdb = |info: &TsdbInfo| (text(info.labels.as_ref().unwrap()), info.min_time, info.max_time);
    let store = info.store.as_ref().unwrap();
    (info.label_sets.iter().map(text).collect(), store.tsdb_infos.iter().map(tsdb).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn info_is_what_was_recorded() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let bytes = std::fs::read(golden("storeapi/short").join("info.response.pb")).unwrap();
    let expected = InfoResponse::decode(bytes.as_slice()).unwrap();
    let got = fixture.gateway.info().await.unwrap();
    assert_eq!(info_content(&got), info_content(&expected));
    assert_eq!(got.component_type, expected.component_type);
    let (got, expected) = (got.store.unwrap(), expected.store.unwrap());
    assert_eq!((got.min_time, got.max_time), (expected.min_time, expected.max_time));
    assert!(got.supports_sharding && got.supports_without_replica_labels);
}

#[tokio::test(flavor = "multi_thread")]
async fn index_headers_are_those_that_thanos_builds_and_serve_a_restart() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let before = fixture.series(crate::fixture::everything()).await.unwrap();
    let directory = golden("index-headers");
    let mut compared = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        let block = entry.file_name().into_string().unwrap();
        let block = block.split('.').next().unwrap();
        let recorded = if entry.path().is_dir() { entry.path().join("index-header") } else { entry.path() };
        let ours = fixture.data_dir().join(block).join("index-header");
        assert!(std::fs::read(&ours).unwrap() == std::fs::read(recorded).unwrap(), "{}", ours.display());
        compared += 1;
    }
    println!("{compared} index-headers");
    assert!(compared >= 4);
    let restarted = fixture.restarted().await;
    let after = series(&*restarted, crate::fixture::everything()).await.unwrap();
    assert_eq!(content(&before.series), content(&after.series));
    let _: frames::Collected = after;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_everything_has_every_chunk_that_the_metas_count() {
    for bucket in ["bucket-short", "bucket-long-raw"] {
        // The long bucket is not part of the small copy in the repository.
        let Some(bucket) = find_golden(bucket) else { continue };
        let (mut blocks, mut expected) = (0, 0);
        for entry in std::fs::read_dir(&bucket).unwrap() {
            let json = std::fs::read(entry.unwrap().path().join("meta.json")).unwrap();
            expected += parallax_block::BlockMeta::parse("golden", &json).unwrap().stats.num_chunks;
            blocks += 1;
        }
        let fixture = Fixture::new(&bucket).await;
        let answer = fixture.series(crate::fixture::everything()).await.unwrap();
        assert!(answer.warnings.is_empty());
        let chunks: usize = answer.series.iter().map(|series| series.chunks.len()).sum();
        println!("{chunks} chunks of {blocks} blocks");
        assert_eq!(u64::try_from(chunks).unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_back_has_its_times_and_its_hash_and_nothing_else_changes() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let request = SeriesRequest {
        min_time: 0,
        max_time: i64::MAX,
        matchers: matchers::to_wire(&[Matcher::equal("cluster", "eu-1")]),
        without_replica_labels: vec!["prometheus_replica".to_owned()],
        ..SeriesRequest::default()
    };
    let whole = fixture.series(request.clone()).await.unwrap().series;
    let mut asking = Request::new(request);
    ask_to_withhold(&mut asking, 0);
    let answer = fixture.gateway.series(asking).await.unwrap();
    let mut partly = frames::collect(answer).await.unwrap().series;
    let (mut kept_back, mut chunks) = (0, 0);
    for (one, part) in whole.iter().zip(&mut partly) {
        for (chunk, part) in one.chunks.iter().zip(&mut part.chunks) {
            chunks += 1;
            let (raw, part) = (chunk.raw.as_ref().unwrap(), part.raw.as_mut().unwrap());
            if is_withheld(part) {
                kept_back += 1;
                part.data = raw.data.clone();
            }
        }
    }
    assert_eq!(partly, whole);
    println!("{kept_back} of {chunks} chunks were kept back");
    assert!(chunks > 1000 && kept_back < chunks / 2, "{kept_back} of {chunks}");
}
