//! The merge algorithms against a slow model that walks iterators one sample at a time, as Thanos does.

#[path = "model/naive.rs"]
mod naive;

use std::sync::Arc;

use naive::NaiveSample;
use parallax_dedup::{
    Algorithm, Chunk, ChunkEncoding, Content, DecodedChunk, Dedup, Error, Samples, decode_replica, join,
    split_overlaps,
};
use parallax_model::{CounterResetHint, FloatColumn, FloatHistogram, HistogramColumn, TimeRange};
use parallax_tsdb::chunk::XorAppender;
use proptest::prelude::*;

/// Chunks of one replica: each a run of samples of one kind.
type Chunks = Vec<DecodedChunk>;

fn histogram(count: f64, hint: CounterResetHint) -> Arc<FloatHistogram> {
    Arc::new(FloatHistogram { count, counter_reset_hint: hint, ..FloatHistogram::default() })
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0u32..50).prop_map(f64::from),
        1 => Just(f64::NAN),
        1 => Just(parallax_model::float::stale_nan()),
        1 => Just(0.1),
    ]
}

fn hint() -> impl Strategy<Value = CounterResetHint> {
    prop_oneof![
        Just(CounterResetHint::Unknown),
        Just(CounterResetHint::Reset),
        Just(CounterResetHint::NotReset),
        Just(CounterResetHint::Gauge),
    ]
}

fn replica(allows_histograms: bool) -> impl Strategy<Value = Chunks> {
    let delta = prop_oneof![10 => 9_000i64..16_000, 2 => 1i64..4_000, 1 => 30_000i64..200_000];
    let chunk = (
        proptest::collection::vec((delta, value(), hint()), 0..8),
        if allows_histograms { any::<bool>().boxed() } else { Just(false).boxed() },
    );
    (0i64..30_000, proptest::collection::vec(chunk, 0..5)).prop_map(|(start_ms, chunks)| {
        let mut time_ms = start_ms + 1_000_000;
        chunks
            .into_iter()
            .map(|(samples, is_histogram)| {
                let mut floats = FloatColumn::default();
                let mut histograms = HistogramColumn::default();
                for (delta_ms, value, hint) in samples {
                    time_ms += delta_ms;
                    if is_histogram {
                        histograms.push(time_ms, histogram(value, hint));
                    } else {
                        floats.push(time_ms, value);
                    }
                }
                if is_histogram { DecodedChunk::Histograms(histograms) } else { DecodedChunk::Floats(floats) }
            })
            .collect()
    })
}

fn flat(samples: &Samples) -> Vec<NaiveSample> {
    let floats = samples.floats.iter().map(|(t, v)| NaiveSample::float(t, v));
    let histograms = samples.histograms.iter().map(|(t, h)| NaiveSample::histogram(t, h.clone()));
    let mut all: Vec<NaiveSample> = floats.chain(histograms).collect();
    all.sort_by_key(|sample| sample.time_ms);
    all
}

fn ours(
    replicas: &[Chunks],
    algorithm: Option<Algorithm>,
    function: &str,
    range: TimeRange,
) -> Vec<NaiveSample> {
    let dedup = Dedup::new(algorithm, function, range, TimeRange::ALL);
    let flattens = algorithm.is_some() && !function.is_empty();
    let replicas = replicas.iter().map(|chunks| join(chunks.clone(), range, flattens)).collect();
    flat(&dedup.merge(replicas))
}

/// Whether both are one sample, whatever is known of a reset before it.
fn is_alike(a: &NaiveSample, b: &NaiveSample) -> bool {
    match (&a.value, &b.value) {
        (naive::Value::Histogram(one), naive::Value::Histogram(other)) => {
            a.time_ms == b.time_ms && one.count.to_bits() == other.count.to_bits()
        }
        _ => a == b,
    }
}

/// A chunk of floats as it is stored; nothing of an empty one.
fn encoded(chunk: &DecodedChunk) -> Option<Chunk> {
    let DecodedChunk::Floats(floats) = chunk else { return None };
    let mut appender = XorAppender::new();
    for (time_ms, value) in floats.iter() {
        appender.append(time_ms, value).unwrap();
    }
    let (min_time_ms, max_time_ms) = (*floats.timestamps_ms.first()?, *floats.timestamps_ms.last()?);
    let data = appender.into_bytes().into();
    Some(Chunk { min_time_ms, max_time_ms, encoding: ChunkEncoding::Xor, data, content: Content::Raw })
}

fn range() -> impl Strategy<Value = TimeRange> {
    prop_oneof![
        Just(TimeRange::ALL),
        (1_000_000i64..1_100_000, 0i64..400_000).prop_map(|(min, length)| TimeRange::new(min, min + length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn penalty_of_gauges_is_that_of_the_model(
        replicas in proptest::collection::vec(replica(false), 1..5), range in range(),
    ) {
        prop_assert_eq!(
            ours(&replicas, Some(Algorithm::Penalty), "", range),
            naive::penalty(&replicas, false, false, range)
        );
    }

    #[test]
    fn penalty_of_counters_is_that_of_the_model(
        replicas in proptest::collection::vec(replica(false), 1..5), range in range(),
    ) {
        prop_assert_eq!(
            ours(&replicas, Some(Algorithm::Penalty), "rate", range),
            naive::penalty(&replicas, true, true, range)
        );
    }

    #[test]
    fn penalty_of_mixed_series_is_that_of_the_model(
        replicas in proptest::collection::vec(replica(true), 1..5), counter in any::<bool>(),
    ) {
        let function = if counter { "increase" } else { "" };
        prop_assert_eq!(
            ours(&replicas, Some(Algorithm::Penalty), function, TimeRange::ALL),
            naive::penalty(&replicas, counter, counter, TimeRange::ALL)
        );
    }

    #[test]
    fn extended_functions_flatten_but_do_not_raise(replicas in proptest::collection::vec(replica(false), 1..4)) {
        prop_assert_eq!(
            ours(&replicas, Some(Algorithm::Penalty), "xrate", TimeRange::ALL),
            naive::penalty(&replicas, true, false, TimeRange::ALL)
        );
    }

    /// One of the two replicas is decoded only where it is looked at.
    #[test]
    fn chunks_are_merged_as_if_all_were_decoded_first(
        replicas in proptest::collection::vec(replica(false), 2),
        function in prop_oneof![Just(""), Just("rate"), Just("xrate")],
        query in range(),
        output in range(),
    ) {
        let chunks: Vec<Chunk> = replicas.iter().flatten().filter_map(encoded).collect();
        let dedup = Dedup::new(Some(Algorithm::Penalty), function, query, output);
        let split = split_overlaps(&chunks).unwrap();
        let bounds = if split.len() == 1 { query.intersect(&output) } else { query };
        let decoded = split.iter().map(|chunks| decode_replica(chunks, bounds, !function.is_empty()).unwrap());
        let expected = dedup.merge(decoded.collect());
        prop_assert_eq!(flat(&dedup.series(&chunks).unwrap()), flat(&expected));
    }

    /// A store may keep back what is not looked at: whatever it keeps back, the outcome is the same, or that is missed.
    #[test]
    fn what_a_store_keeps_back_changes_nothing_or_is_missed(
        replicas in proptest::collection::vec(replica(false), 1..4),
        is_kept_back in proptest::collection::vec(proptest::bool::weighted(0.3), 24),
        has_twins in proptest::bool::weighted(0.1),
        function in prop_oneof![Just(""), Just("rate"), Just("xrate")],
        query in range(),
    ) {
        let mut chunks: Vec<Chunk> = replicas.iter().flatten().filter_map(encoded).collect();
        if has_twins {
            let twin = |chunk: &Chunk| Chunk { data: [&chunk.data[..], &[0]].concat().into(), ..chunk.clone() };
            let twins: Vec<Chunk> = chunks.iter().map(twin).collect();
            chunks.extend(twins);
        }
        let dedup = Dedup::new(Some(Algorithm::Penalty), function, query, TimeRange::ALL);
        let expected = flat(&dedup.series(&chunks).unwrap());
        for (chunk, _) in chunks.iter_mut().zip(is_kept_back).filter(|(_, is_kept_back)| *is_kept_back) {
            chunk.data.clear();
        }
        match dedup.series(&chunks) {
            Ok(samples) => prop_assert_eq!(flat(&samples), expected),
            Err(error) => prop_assert!(matches!(error, Error::Withheld { .. }), "{}", error),
        }
    }

    #[test]
    fn chain_gives_every_timestamp_once(replicas in proptest::collection::vec(replica(true), 1..5)) {
        let chained = ours(&replicas, Some(Algorithm::Chain), "", TimeRange::ALL);
        let times: Vec<i64> = chained.iter().map(|sample| sample.time_ms).collect();
        let mut expected: Vec<i64> = replicas
            .iter()
            .flat_map(|chunks| flat(&join(chunks.clone(), TimeRange::ALL, false)))
            .map(|sample| sample.time_ms)
            .collect();
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(times, expected);
    }

    #[test]
    fn without_dedup_one_replica_is_what_it_was(chunks in replica(true)) {
        prop_assert_eq!(
            ours(std::slice::from_ref(&chunks), None, "rate", TimeRange::ALL),
            flat(&join(chunks, TimeRange::ALL, false))
        );
    }

    #[test]
    fn output_is_cut_to_what_is_read(replicas in proptest::collection::vec(replica(true), 1..4), output in range()) {
        let all = Dedup::new(Some(Algorithm::Penalty), "", TimeRange::ALL, TimeRange::ALL);
        let cut = Dedup::new(Some(Algorithm::Penalty), "", TimeRange::ALL, output);
        let joined: Vec<Samples> =
            replicas.iter().map(|chunks| join(chunks.clone(), TimeRange::ALL, false)).collect();
        let mut expected = flat(&all.merge(joined.clone()));
        expected.retain(|sample| output.contains(sample.time_ms));
        prop_assert_eq!(flat(&cut.merge(joined)), expected);
    }

    #[test]
    fn gap_aware_gives_samples_of_replicas_in_order(
        replicas in proptest::collection::vec(replica(true), 1..5), counter in any::<bool>(), range in range(),
    ) {
        let function = if counter { "rate" } else { "" };
        let dedup = Dedup::new(Some(Algorithm::GapAware), function, range, TimeRange::ALL);
        let joined: Vec<Samples> = replicas.iter().map(|chunks| join(chunks.clone(), range, false)).collect();
        let given = flat(&dedup.merge(joined.clone()));
        prop_assert!(given.is_sorted_by(|a, b| a.time_ms < b.time_ms));
        let had: Vec<NaiveSample> = joined.iter().flat_map(flat).collect();
        for sample in &given {
            let is_had = |other: &NaiveSample| match counter {
                true => other.time_ms == sample.time_ms,
                false => is_alike(other, sample),
            };
            prop_assert!(had.iter().any(is_had), "{:?} is nobody's", sample);
        }
        let is_marker = |sample: &NaiveSample| match &sample.value {
            naive::Value::Float(value) => parallax_model::float::is_stale(*value),
            naive::Value::Histogram(histogram) => histogram.is_stale(),
        };
        prop_assert_eq!(given.is_empty(), joined.len() != 1 && had.iter().all(is_marker) || had.is_empty());
    }

    #[test]
    fn gap_aware_of_chunks_that_are_decoded_as_they_are_wanted_is_that_of_decoded_replicas(
        replicas in proptest::collection::vec(replica(false), 1..5), counter in any::<bool>(),
        query in range(), output in range(),
    ) {
        let function = if counter { "rate" } else { "" };
        let dedup = Dedup::new(Some(Algorithm::GapAware), function, query, output);
        let chunks: Vec<Chunk> = replicas.iter().flatten().filter_map(encoded).collect();
        let split = split_overlaps(&chunks).unwrap();
        let bounds = if split.len() == 1 { query.intersect(&output) } else { query };
        let decoded = split.iter().map(|chunks| decode_replica(chunks, bounds, false).unwrap());
        let expected = flat(&dedup.merge(decoded.clone().collect()));
        prop_assert_eq!(flat(&dedup.series(&chunks).unwrap()), expected.clone());
        let all = Dedup::new(Some(Algorithm::GapAware), function, query, TimeRange::ALL);
        let mut uncut = flat(&all.merge(decoded.collect()));
        uncut.retain(|sample| output.contains(sample.time_ms));
        prop_assert_eq!(expected, uncut);
    }
}
