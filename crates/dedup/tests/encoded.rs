//! Encoded chunks: replicas told apart and decoded, and bytes that are no chunk.

use bytes::Bytes;
use parallax_dedup::{Algorithm, Chunk, ChunkEncoding, Content, Dedup, Error};
use parallax_model::TimeRange;
use parallax_tsdb::chunk::XorAppender;
use proptest::prelude::*;

fn encode(samples: &[(i64, f64)]) -> Bytes {
    let mut appender = XorAppender::new();
    for (time_ms, value) in samples {
        appender.append(*time_ms, *value).unwrap();
    }
    Bytes::from(appender.into_bytes())
}

fn chunk(samples: &[(i64, f64)]) -> Chunk {
    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    Chunk {
        min_time_ms: first.0,
        max_time_ms: last.0,
        encoding: ChunkEncoding::Xor,
        data: encode(samples),
        content: Content::Raw,
    }
}

fn series(dedup: &Dedup, chunks: Vec<Chunk>) -> Vec<(i64, f64)> {
    dedup.series(&chunks).unwrap().floats.iter().collect()
}

fn penalty(function: &str, query_range: TimeRange, output_range: TimeRange) -> Dedup {
    Dedup::new(Some(Algorithm::Penalty), function, query_range, output_range)
}

const EVERYTHING: TimeRange = TimeRange::ALL;

#[test]
fn replicas_are_told_apart_by_their_overlap() {
    let left = [chunk(&[(10_000, 1.0), (20_000, 1.0)]), chunk(&[(30_000, 1.0), (40_000, 1.0)])];
    let right = [chunk(&[(11_000, 2.0), (21_000, 2.0)]), chunk(&[(31_000, 2.0), (41_000, 2.0)])];
    let chunks = left.iter().chain(&right).cloned().collect();
    assert_eq!(
        series(&penalty("", EVERYTHING, EVERYTHING), chunks),
        [(10_000, 1.0), (20_000, 1.0), (30_000, 1.0), (40_000, 1.0)]
    );
}

#[test]
fn a_counter_counts_from_the_first_chunk_that_was_returned() {
    // The reset at 20 s lies before the query, but in a chunk that reaches into it: it lifts what follows.
    let chunks = vec![chunk(&[(10_000, 100.0), (20_000, 5.0), (30_000, 10.0), (40_000, 20.0)])];
    let range = TimeRange::new(30_000, 40_000);
    assert_eq!(series(&penalty("rate", range, range), chunks.clone()), [(30_000, 110.0), (40_000, 120.0)]);
    assert_eq!(series(&penalty("", range, range), chunks), [(30_000, 10.0), (40_000, 20.0)]);
}

#[test]
fn merging_starts_with_the_query_and_output_with_the_selector() {
    let chunks =
        vec![chunk(&[(10_000, 1.0), (60_000, 1.0)]), chunk(&[(12_000, 2.0), (22_000, 2.0), (32_000, 2.0)])];
    // The right side fills the gap of the left one. What the query does not reach does not count.
    let selector = TimeRange::new(32_000, 60_000);
    assert_eq!(
        series(&penalty("", TimeRange::new(10_000, 60_000), selector), chunks.clone()),
        [(32_000, 2.0), (60_000, 1.0)]
    );
    assert_eq!(series(&penalty("", TimeRange::new(33_000, 60_000), selector), chunks), [(60_000, 1.0)]);
}

#[test]
fn without_dedup_overlapping_chunks_are_chained() {
    let dedup = Dedup::new(None, "rate", EVERYTHING, EVERYTHING);
    let chunks = vec![chunk(&[(10, 9.0), (30, 1.0)]), chunk(&[(20, 5.0), (40, 2.0)])];
    assert_eq!(series(&dedup, chunks), [(10, 9.0), (20, 5.0), (30, 1.0), (40, 2.0)]);
}

#[test]
fn broken_bytes_name_the_chunk() {
    let mut broken = chunk(&[(10, 1.0), (20, 2.0)]);
    broken.data = broken.data.slice(..4);
    let error = penalty("", EVERYTHING, EVERYTHING).series(&[broken]).unwrap_err();
    assert!(error.to_string().starts_with("decode Xor chunk [10, 20]: "), "{error}");
}

proptest! {
    #[test]
    fn any_bytes_are_an_error_or_sorted_samples(
        data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..5),
        encoding in 0u8..3,
        counter in any::<bool>(),
    ) {
        let encoding = [ChunkEncoding::Xor, ChunkEncoding::Histogram, ChunkEncoding::FloatHistogram][usize::from(encoding)];
        let chunks: Vec<Chunk> = data
            .into_iter()
            .map(|data| Chunk { min_time_ms: 0, max_time_ms: 1_000, encoding, data: Bytes::from(data), content: Content::Raw })
            .collect();
        let dedup = penalty(if counter { "rate" } else { "" }, EVERYTHING, EVERYTHING);
        if let Ok(samples) = dedup.series(&chunks) {
            prop_assert!(samples.floats.timestamps_ms.is_sorted_by(|a, b| a < b));
            prop_assert!(samples.histograms.timestamps_ms.is_sorted_by(|a, b| a < b));
        }
    }
}

#[test]
fn sums_are_divided_by_counts() {
    let mut sums = chunk(&[(300_000, 10.0), (600_000, 9.0), (900_000, 4.0)]);
    sums.content = Content::Sums { counts: encode(&[(300_000, 5.0), (600_000, 2.0), (900_000, 4.0)]) };
    let raw = chunk(&[(905_000, 7.0)]);
    assert_eq!(
        series(&penalty("", EVERYTHING, EVERYTHING), vec![raw, sums.clone()]),
        [(300_000, 2.0), (600_000, 4.5), (900_000, 1.0), (905_000, 7.0)]
    );
    let later = TimeRange::new(600_000, 600_000);
    assert_eq!(series(&penalty("", later, later), vec![sums]), [(600_000, 4.5)]);
}

#[test]
fn sums_and_counts_of_different_windows_are_refused() {
    for counts in [&[(300_000, 5.0)][..], &[(300_000, 5.0), (700_000, 2.0)]] {
        let mut sums = chunk(&[(300_000, 10.0), (600_000, 9.0)]);
        sums.content = Content::Sums { counts: encode(counts) };
        let error = penalty("", EVERYTHING, EVERYTHING).series(&[sums]).unwrap_err();
        assert!(matches!(error, Error::Misaligned { min_time_ms: 300_000, max_time_ms: 600_000 }), "{error}");
    }
}

/// The last sample of a counter aggregate repeats its timestamp with the true value, which tells whether the next
/// chunk begins with a reset.
#[test]
fn a_counter_aggregate_is_flattened_with_and_without_dedup() {
    let counter = |samples: &[(i64, f64)]| Chunk { content: Content::Counter, ..chunk(samples) };
    let chunks = vec![
        counter(&[(10_000, 5.0), (300_000, 50.0), (600_000, 80.0), (600_000, 20.0)]),
        counter(&[(610_000, 25.0), (900_000, 40.0), (900_000, 40.0)]),
    ];
    let expected = [(10_000, 5.0), (300_000, 50.0), (600_000, 80.0), (610_000, 85.0), (900_000, 100.0)];
    assert_eq!(series(&penalty("rate", EVERYTHING, EVERYTHING), chunks.clone()), expected);
    assert_eq!(series(&Dedup::new(None, "rate", EVERYTHING, EVERYTHING), chunks), expected);
}

#[test]
fn of_a_replica_that_is_not_followed_only_the_beginning_is_needed() {
    let samples =
        |start_ms: i64| (0..20).map(move |at| (start_ms + at * 15_000, at as f64)).collect::<Vec<_>>();
    let replica = |start_ms: i64| samples(start_ms).chunks(5).map(chunk).collect::<Vec<_>>();
    let (left, right) = (replica(0), replica(7_000));
    let all = [left, right].concat();
    for function in ["", "rate"] {
        let dedup = penalty(function, EVERYTHING, EVERYTHING);
        let expected = series(&dedup, all.clone());
        // The right one is followed from its first sample on.
        for (kept_back, is_missed) in [(1..4, false), (0..1, true), (5..6, true), (7..8, true)] {
            let mut partly = all.clone();
            partly[kept_back.clone()].iter_mut().for_each(|chunk| chunk.data.clear());
            match dedup.series(&partly) {
                Ok(samples) => assert_eq!(samples.floats.iter().collect::<Vec<_>>(), expected),
                Err(error) => {
                    assert!(is_missed && matches!(error, Error::Withheld { .. }), "{kept_back:?}: {error}")
                }
            }
            assert_eq!(dedup.series(&partly).is_err(), is_missed, "{kept_back:?}");
        }
    }
}

#[test]
fn chunks_that_only_their_data_tells_apart_are_not_told_apart_without_it() {
    let times = |value: f64| chunk(&[(10_000, value), (20_000, value)]);
    let mut both = vec![times(1.0), times(2.0)];
    for at in [0, 1] {
        both[at].data.clear();
        let error = penalty("", EVERYTHING, EVERYTHING).series(&both).unwrap_err();
        assert!(matches!(error, Error::Withheld { min_time_ms: 10_000, max_time_ms: 20_000 }), "{error}");
    }
}
