//! Frames are written as prost writes them, byte by byte.

use bytes::Bytes;
use parallax_storeapi::codec::write_response;
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
}
