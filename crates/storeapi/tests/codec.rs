//! Frames are written as prost writes them, byte by byte, and read as prost reads them.

use bytes::Bytes;
use parallax_storeapi::codec::{read_response, write_response};
use parallax_storeapi::frames;
use parallax_storeapi::proto::thanos::series_response::Result as Frame;
use parallax_storeapi::proto::thanos::{AggrChunk, Chunk, Label, Series, SeriesBatch, SeriesResponse};
use proptest::prelude::*;
use prost::Message;

fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), any::<i64>(), 1_700_000_000_000i64..1_800_000_000_000]
}

fn chunk() -> impl Strategy<Value = Chunk> {
    (-1i32..4, bytes(300), number()).prop_map(|(kind, data, hash)| Chunk {
        r#type: kind,
        data,
        hash: hash as u64,
    })
}

fn aggregates() -> impl Strategy<Value = AggrChunk> {
    let part = || proptest::option::of(chunk().prop_map(Box::new));
    (number(), number(), proptest::option::of(chunk()), (part(), part(), part(), part(), part())).prop_map(
        |(min_time, max_time, raw, (count, sum, min, max, counter))| AggrChunk {
            min_time,
            max_time,
            raw,
            count,
            sum,
            min,
            max,
            counter,
        },
    )
}

fn series() -> impl Strategy<Value = Series> {
    let label = (bytes(20), bytes(200)).prop_map(|(name, value)| Label { name, value });
    (proptest::collection::vec(label, 0..5), proptest::collection::vec(aggregates(), 0..5))
        .prop_map(|(labels, chunks)| Series { labels, chunks })
}

proptest! {
    #[test]
    fn a_frame_is_what_prost_makes_of_it(batch in proptest::collection::vec(series(), 0..5), one in series()) {
        let batch = SeriesResponse { result: Some(Frame::Batch(SeriesBatch { series: batch })) };
        for frame in [batch, frames::series(one), frames::warning("careful"), SeriesResponse { result: None }] {
            let mut written = b"before".to_vec();
            write_response(&frame, &mut written);
            prop_assert_eq!(&written[6..], &frame.encode_to_vec()[..]);
        }
    }

    #[test]
    fn frames_of_chunks_without_data_are_what_prost_makes_of_them(
        parts in proptest::collection::vec((number(), proptest::bool::ANY, proptest::array::uniform5(proptest::bool::ANY)), 0..6),
    ) {
        let bare = |number: i64| Chunk { r#type: -1, data: Bytes::new(), hash: number as u64 };
        let chunks = parts.into_iter().map(|(number, has_raw, others)| {
            let part = |index: usize| others[index].then(|| Box::new(bare(number)));
            AggrChunk {
                min_time: number.wrapping_abs().wrapping_neg(),
                max_time: number,
                raw: has_raw.then(|| bare(number)),
                count: part(0),
                sum: part(1),
                min: part(2),
                max: part(3),
                counter: part(4),
            }
        });
        let frame = frames::series(Series { labels: vec![Label::default(); 3], chunks: chunks.collect() });
        let mut written = Vec::new();
        write_response(&frame, &mut written);
        prop_assert_eq!(written, frame.encode_to_vec());
    }

    #[test]
    fn what_is_written_is_read_as_it_was(batch in proptest::collection::vec(series(), 0..5), one in series()) {
        let batch = SeriesResponse { result: Some(Frame::Batch(SeriesBatch { series: batch })) };
        for frame in [batch, frames::series(one)] {
            prop_assert_eq!(read_response(&frame.encode_to_vec().into()), Some(frame));
        }
        prop_assert_eq!(read_response(&frames::warning("careful").encode_to_vec().into()), None);
    }

    #[test]
    fn what_is_read_of_damaged_frames_is_what_prost_reads(
        batch in proptest::collection::vec(series(), 0..3),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let frame = SeriesResponse { result: Some(Frame::Batch(SeriesBatch { series: batch })) };
        let mut bytes = frame.encode_to_vec();
        for (index, byte) in changes {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let bytes = Bytes::from(bytes);
        if let Some(read) = read_response(&bytes) {
            prop_assert_eq!(SeriesResponse::decode(bytes), Ok(read));
        }
    }
}

/// Messages made of few, small fields: more of them are whole than of random damage.
#[test]
fn every_small_frame_is_read_as_prost_reads_it_or_left_to_it() {
    let tokens: &[&[u8]] = &[
        &[0x0a, 0],
        &[0x12, 0],
        &[0x0a, 2, 0x0a, 0],
        &[0x08, 5],
        &[0x1a, 2, 8, 1],
        &[0x2a, 0],
        &[0x18, 0x80, 1],
        &[0x4a, 0],
    ];
    let (mut read, mut left) = (0, 0);
    for code in 0..tokens.len().pow(4) {
        let body: Vec<u8> =
            (0..4).flat_map(|place| tokens[code / tokens.len().pow(place) % tokens.len()]).copied().collect();
        let series = [&[0x0a, body.len() as u8], &body[..]].concat();
        let chunk = [&[0x0a, body.len() as u8 + 2, 0x12, body.len() as u8], &body[..]].concat();
        for frame in [series, chunk].map(Bytes::from) {
            match read_response(&frame) {
                Some(response) => {
                    assert_eq!(SeriesResponse::decode(frame), Ok(response));
                    read += 1;
                }
                None => left += 1,
            }
        }
    }
    assert!(read > 50 && left > 50, "{read} read, {left} left");
}
