//! Series joined as bytes are what joining the decoded ones gives.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use parallax_model::Labels;
use parallax_storeapi::codec::write_response;
use parallax_storeapi::encoded::{
    Joined, JoinedFrame, Packed, Pieces, WireFrame, compare, decoded, label_texts,
};
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{AggrChunk, Chunk, Series, SeriesBatch, SeriesResponse, chunk};
use parallax_storeapi::withhold::is_withheld;
use parallax_storeapi::{chunks, labels};
use proptest::prelude::*;

fn part() -> impl Strategy<Value = Chunk> {
    (0i32..3, proptest::collection::vec(any::<u8>(), 0..3), 0u64..3).prop_map(|(kind, data, hash)| Chunk {
        r#type: kind,
        // Two that are equal but for their hashes are not written by anybody.
        hash: if hash == 0 { 0 } else { chunks::hash(&data) },
        data: Bytes::from(data),
    })
}

/// Few times and little data, so that many are alike.
fn any_chunk() -> impl Strategy<Value = AggrChunk> {
    let aggregate = || proptest::option::weighted(0.2, part().prop_map(Box::new));
    (-2i64..4, 0i64..3, proptest::option::weighted(0.9, part()), aggregate(), aggregate()).prop_map(
        |(min_time, length, raw, count, counter)| AggrChunk {
            min_time,
            max_time: min_time + length,
            raw,
            count,
            counter,
            ..AggrChunk::default()
        },
    )
}

fn hashed(mut chunk: AggrChunk) -> AggrChunk {
    let others = [&mut chunk.count, &mut chunk.counter].into_iter().filter_map(Option::as_deref_mut);
    chunk.raw.iter_mut().chain(others).for_each(|part| part.hash = chunks::hash(&part.data));
    chunk
}

/// What several sources have of one series, each in order as a block has it, but for one in five.
fn sources() -> impl Strategy<Value = Vec<Vec<AggrChunk>>> {
    let source = (proptest::collection::vec(any_chunk().prop_map(hashed), 0..5), 0u8..5).prop_map(
        |(mut all, order)| {
            if order > 0 {
                all.sort_by(chunks::compare);
            }
            all
        },
    );
    proptest::collection::vec(source, 1..5)
}

fn of_labels(labels: &Labels, chunks: Vec<AggrChunk>) -> Series {
    Series { labels: labels::to_wire(labels), chunks }
}

/// Series of as many sources as `parts`, joined.
fn joined(labels: &Labels, parts: &[Vec<AggrChunk>], withholds_from_ms: Option<i64>) -> Joined {
    let mut pieces = parts.iter().map(|chunks| {
        let packed: Packed =
            [of_labels(&Labels::empty(), vec![]), of_labels(labels, chunks.clone())].into_iter().collect();
        Pieces::from(Arc::new(packed)).nth(1).unwrap()
    });
    let mut joined = Joined::from(pieces.next().unwrap());
    pieces.for_each(|piece| joined.push(piece));
    joined.settle(withholds_from_ms);
    joined
}

fn model(labels: &Labels, parts: &[Vec<AggrChunk>]) -> Series {
    let mut all: Vec<AggrChunk> = parts.concat();
    if parts.iter().skip(1).any(|part| !part.is_empty()) {
        all.sort_by(chunks::compare);
        all.dedup_by(|a, b| chunks::compare(a, b) == Ordering::Equal);
    }
    of_labels(labels, all)
}

/// The chunks of a series of two replicas that are scraped every 15 s, 7 s apart, each from a source of its own.
fn of_two_replicas(encoding: chunk::Encoding, withholds_from_ms: Option<i64>) -> Vec<AggrChunk> {
    const CHUNK_MS: i64 = 120 * 15_000;
    let replica = |start_ms: i64| -> Vec<AggrChunk> {
        let starts_ms = (0..4).map(|at| start_ms + at * CHUNK_MS);
        // Samples of which data only tells how many there are.
        let data =
            |start_ms: i64| Bytes::from([&120_u16.to_be_bytes()[..], &start_ms.to_be_bytes()].concat());
        let raw = |start_ms| chunks::chunk(encoding, data(start_ms));
        starts_ms.map(|start_ms| chunks::raw(start_ms, start_ms + CHUNK_MS - 15_000, raw(start_ms))).collect()
    };
    let labels = Labels::from_pairs([("__name__", "up")]);
    let parts = [replica(1_000_000), replica(1_007_000)];
    let mut frame = JoinedFrame::new(false);
    let series = joined(&labels, &parts, withholds_from_ms);
    let size_bytes = series.data_bytes();
    frame.push(series);
    let stream = decoded(Box::pin(futures::stream::iter([Ok(WireFrame::Joined(frame))])));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let messages: Vec<SeriesResponse> = runtime.block_on(stream.map(Result::unwrap).collect());
    let Some(Frame::Series(series)) = messages.into_iter().next().and_then(|message| message.result) else {
        panic!("a series")
    };
    let data = series.chunks.iter().filter_map(|chunk| chunk.raw.as_ref()).map(|raw| raw.data.len() as u64);
    assert_eq!(size_bytes, data.sum::<u64>());
    series.chunks
}

#[test]
fn of_two_replicas_the_data_of_one_is_kept_back_where_that_is_asked_for() {
    let whole = of_two_replicas(chunk::Encoding::Xor, None);
    let mut expected = whole.clone();
    // The second sample is the other replica's, which is followed from there on.
    for chunk in expected.iter_mut().skip(2).step_by(2) {
        chunk.raw.as_mut().unwrap().data = Bytes::new();
    }
    assert_eq!(of_two_replicas(chunk::Encoding::Xor, Some(0)), expected);
    assert!(
        expected.iter().filter_map(|chunk| chunk.raw.as_ref()).filter(|raw| is_withheld(raw)).count() == 3
    );
    let histograms = of_two_replicas(chunk::Encoding::Histogram, None);
    assert_eq!(of_two_replicas(chunk::Encoding::Histogram, Some(0)), histograms);
}

proptest! {
    #[test]
    fn joined_series_are_written_and_read_as_the_decoded_ones_joined(
        all in proptest::collection::vec(sources(), 1..4),
        is_batch: bool,
    ) {
        let all = if is_batch { all } else { all[..1].to_vec() };
        let (mut frame, mut expected) = (JoinedFrame::new(is_batch), Vec::new());
        for (number, parts) in all.iter().enumerate() {
            let labels = Labels::from_pairs([("__name__", "up"), ("n", ["", "one", "two", "three"][number])]);
            let (series, model) = (joined(&labels, parts, None), model(&labels, parts));
            prop_assert_eq!(series.chunks(), model.chunks.len());
            let data = |chunk: &AggrChunk| chunks::parts(chunk).map(|(_, part)| part.data.len() as u64).sum::<u64>();
            prop_assert_eq!(series.data_bytes(), model.chunks.iter().map(data).sum::<u64>());
            frame.push(series);
            expected.push(model);
        }
        let result = match is_batch {
            true => Frame::Batch(SeriesBatch { series: expected }),
            false => Frame::Series(expected.remove(0)),
        };
        let expected = SeriesResponse { result: Some(result) };
        let mut written = Vec::new();
        write_response(&expected, &mut written);
        let frame = WireFrame::Joined(frame);
        prop_assert_eq!(frame.to_bytes(), written);
        let stream = decoded(Box::pin(futures::stream::iter([Ok(frame)])));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let messages: Vec<SeriesResponse> = runtime.block_on(stream.map(Result::unwrap).collect());
        prop_assert_eq!(messages, [expected]);
    }

    #[test]
    fn encoded_labels_sort_and_read_as_decoded_ones(
        sets in proptest::collection::vec(proptest::collection::btree_map("[ab]{0,2}", "[ab]{0,2}", 0..4), 2..6),
    ) {
        let sets: Vec<Labels> = sets.iter().map(Labels::from_pairs).collect();
        let packed: Packed = sets.iter().map(|labels| of_labels(labels, vec![])).collect();
        for (one, left) in sets.iter().enumerate() {
            let bytes = packed.labels(one).unwrap();
            let texts: Vec<(&str, &str)> = label_texts(bytes)
                .map(|(name, value)| (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value).unwrap()))
                .collect();
            prop_assert_eq!(texts, left.iter().collect::<Vec<_>>());
            for (other, right) in sets.iter().enumerate() {
                prop_assert_eq!(compare(bytes, packed.labels(other).unwrap()), left.cmp(right));
            }
        }
    }
}
