//! A run that is decoded twice against one that is held.

use parallax_model::float::STALE_NAN_BITS;
use parallax_model::{CounterResetHint, FloatHistogram, Span};
use parallax_tsdb::chunk::{Appended, FloatHistogramAppender, encode_xor};
use parallax_tsdb::segment::Chunk;
use proptest::prelude::*;

use super::*;

fn chunk(times: &[i64], encoding: ChunkEncoding, data: Vec<u8>) -> BlockChunk {
    let (min_time_ms, max_time_ms) = (times[0], *times.last().unwrap());
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding, data: data.into() } }
}

fn floats(samples: &[(i64, f64)]) -> BlockChunk {
    let times: Vec<i64> = samples.iter().map(|sample| sample.0).collect();
    chunk(&times, ChunkEncoding::Xor, encode_xor(samples).unwrap())
}

fn histogram(time_ms: i64, custom: bool, stale: bool) -> FloatHistogram {
    let value = (time_ms / 1000 % 50) as f64;
    FloatHistogram {
        counter_reset_hint: CounterResetHint::Unknown,
        schema: if custom { -53 } else { 1 },
        custom_values: if custom { vec![1.0, 2.0] } else { Vec::new() }.into(),
        count: 2.0 * value + 1.0,
        sum: if stale { f64::from_bits(STALE_NAN_BITS) } else { value },
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![value, value + 1.0],
        ..FloatHistogram::default()
    }
}

fn histograms(samples: &[(i64, bool)], custom: bool) -> Vec<BlockChunk> {
    let times: Vec<i64> = samples.iter().map(|sample| sample.0).collect();
    let mut appender = FloatHistogramAppender::new();
    let (mut chunks, mut begun) = (Vec::new(), 0);
    for (at, (time_ms, stale)) in samples.iter().enumerate() {
        if let Appended::NewChunk { finished } =
            appender.append(*time_ms, &histogram(*time_ms, custom, *stale)).unwrap()
        {
            chunks.push(chunk(&times[begun..at], ChunkEncoding::FloatHistogram, finished));
            begun = at;
        }
    }
    chunks.push(chunk(&times[begun..], ChunkEncoding::FloatHistogram, appender.into_bytes()));
    chunks
}

/// Chunks of floats, of histograms and of histograms with custom buckets, with gaps, staleness markers and NaN.
fn series() -> impl Strategy<Value = Vec<BlockChunk>> {
    let sample = (prop_oneof![8 => 10_000i64..90_000, 1 => 400_000i64..4_000_000], 0u8..20);
    let piece =
        (prop_oneof![4 => Just(0u8), 1 => Just(1), 1 => Just(2)], prop::collection::vec(sample, 1..60));
    prop::collection::vec(piece, 1..20).prop_map(|pieces| {
        let mut time_ms = 1_000;
        let mut chunks = Vec::new();
        for (kind, samples) in pieces {
            let samples: Vec<(i64, u8)> = samples
                .into_iter()
                .map(|(distance, kind)| {
                    time_ms += distance;
                    (time_ms, kind)
                })
                .collect();
            if kind == 0 {
                let value = |(time_ms, kind): &(i64, u8)| match kind {
                    0 => (*time_ms, f64::from_bits(STALE_NAN_BITS)),
                    1 => (*time_ms, f64::NAN),
                    _ => (*time_ms, *time_ms as f64),
                };
                chunks.push(floats(&samples.iter().map(value).collect::<Vec<_>>()));
            } else {
                let samples: Vec<(i64, bool)> =
                    samples.iter().map(|(time, kind)| (*time, *kind == 0)).collect();
                chunks.extend(histograms(&samples, kind == 2));
            }
        }
        chunks
    })
}

fn downsampled(chunks: &[BlockChunk], most: u64) -> (Vec<BlockChunk>, u64) {
    let mut out = Vec::new();
    let most = MaxHeld { floats: most, histograms: most };
    let left_out = downsample_runs(chunks, 300_000, most, &mut out).unwrap();
    (out, left_out)
}

proptest! {
    #[test]
    fn a_run_that_is_decoded_twice_gives_the_same_chunks(chunks in series()) {
        prop_assert!(downsampled(&chunks, u64::MAX) == downsampled(&chunks, 0));
    }
}

#[test]
fn a_long_series_is_cut_into_batches_either_way() {
    let samples: Vec<(i64, f64)> = (0..100_000).map(|n| (n * 15_000, n as f64)).collect();
    let chunks: Vec<BlockChunk> = samples.chunks(120).map(floats).collect();
    let (out, left_out) = downsampled(&chunks, 0);
    assert!(out.len() > 20, "{} chunks", out.len());
    assert!((out, left_out) == downsampled(&chunks, u64::MAX));
    assert_eq!(left_out, 0);
}

/// Where Thanos panics: histograms with custom and with exponential buckets within one window.
#[test]
fn a_window_that_mixes_kinds_of_buckets_is_split_and_nothing_is_lost() {
    use parallax_tsdb::chunk::aggregate::{Aggregate, Parts};

    // Three of each in turn, a sample every 20 s: within five minutes the kind changes again and again.
    let times: Vec<i64> = (0..60).map(|n| 1_000 + n * 20_000).collect();
    let mut chunks = Vec::new();
    for (place, times) in times.chunks(3).enumerate() {
        let samples: Vec<(i64, bool)> = times.iter().map(|time_ms| (*time_ms, false)).collect();
        chunks.extend(histograms(&samples, place % 2 == 1));
    }
    let (out, left_out) = downsampled(&chunks, u64::MAX);
    assert_eq!(left_out, 0);
    let (mut counted, mut summed) = (0.0, 0.0);
    let mut kinds = Vec::new();
    for (before, after) in out.iter().zip(out.iter().skip(1)) {
        assert!(before.max_time_ms < after.min_time_ms, "chunks overlap");
    }
    for chunk in &out {
        let parts = Parts::decode(&chunk.chunk.data).unwrap();
        let part = |which| parts.get(which).unwrap().1;
        let (mut counts, mut sums, mut counters) = (Vec::new(), Vec::new(), Vec::new());
        read_floats(part(Aggregate::Count), &mut counts).unwrap();
        read_histograms(part(Aggregate::Sum), &mut sums).unwrap();
        read_histograms(part(Aggregate::Counter), &mut counters).unwrap();
        assert_eq!((counts.len(), sums.len()), (counters.len(), counters.len()));
        counted += counts.iter().map(|(_, count)| count).sum::<f64>();
        summed += sums.iter().map(|(_, histogram)| histogram.sum).sum::<f64>();
        let is_custom = counters[0].1.uses_custom_buckets();
        assert!(
            counters.iter().chain(&sums).all(|(_, histogram)| histogram.uses_custom_buckets() == is_custom)
        );
        kinds.push(is_custom);
    }
    assert!(kinds.chunk_by(|a, b| a == b).count() == 20, "{kinds:?}");
    assert_eq!(counted, 60.0);
    assert_eq!(summed, times.iter().map(|time_ms| (time_ms / 1000 % 50) as f64).sum::<f64>());
    // And on, to an hour, where windows of both kinds meet again.
    let mut coarser = Vec::new();
    crate::downsample::downsample_series(&out, 300_000, 3_600_000, &mut coarser).unwrap();
    let mut counts = Vec::new();
    for chunk in &coarser {
        read_floats(Parts::decode(&chunk.chunk.data).unwrap().get(Aggregate::Count).unwrap().1, &mut counts)
            .unwrap();
    }
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<f64>(), 60.0);
}
