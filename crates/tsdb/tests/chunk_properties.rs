//! What holds for all chunks: they give back what was put in, and no bytes make a decoder panic or claim memory.

use std::collections::BTreeMap;

use parallax_model::float::{STALE_NAN_BITS, stale_nan};
use parallax_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use parallax_model::{
    CounterResetHint, FloatColumn, FloatHistogram, Histogram, HistogramColumn, Span, TimeRange,
};
use parallax_tsdb::TsdbError;
use parallax_tsdb::chunk::{
    Appended, ChunkEncoding, FloatHistogramAppender, FloatHistogramReader, HistogramAppender,
    HistogramReader, MAX_SAMPLES, XorAppender, XorReader, decode_chunk, decode_xor,
};
use proptest::prelude::*;

const ENCODINGS: [ChunkEncoding; 3] =
    [ChunkEncoding::Xor, ChunkEncoding::Histogram, ChunkEncoding::FloatHistogram];

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<u64>().prop_map(f64::from_bits),
        any::<i16>().prop_map(f64::from),
        Just(stale_nan()),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(-0.0),
        Just(1.0),
    ]
}

/// Timestamps that increase by steps of very different sizes, the extremes of `i64` included.
fn times(count: usize) -> impl Strategy<Value = Vec<i64>> {
    let time = prop_oneof![
        any::<i64>(),
        -100_000i64..100_000,
        (1_700_000_000_000i64..1_700_000_100_000).prop_map(|time| time / 15_000 * 15_000),
        Just(i64::MIN),
        Just(i64::MAX),
    ];
    prop::collection::btree_set(time, 0..count).prop_map(|times| times.into_iter().collect())
}

fn column_bits(column: &FloatColumn) -> Vec<(i64, u64)> {
    column.iter().map(|(time, value)| (time, value.to_bits())).collect()
}

fn xor_chunk(samples: &[(i64, f64)]) -> Vec<u8> {
    let mut appender = XorAppender::new();
    for (time, value) in samples {
        appender.append(*time, *value).unwrap();
    }
    appender.into_bytes()
}

fn decode_any(encoding: ChunkEncoding, bytes: &[u8], range: TimeRange) -> Result<usize, TsdbError> {
    let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
    let outcome = decode_chunk(encoding, bytes, range, &mut floats, &mut histograms);
    assert_eq!(floats.timestamps_ms.len(), floats.values.len());
    assert!(floats.timestamps_ms.iter().chain(&histograms.timestamps_ms).all(|time| range.contains(*time)));
    for (_, histogram) in histograms.iter() {
        let lengths = |spans: &[Span]| spans.iter().map(|span| span.length as usize).sum::<usize>();
        assert_eq!(lengths(&histogram.positive_spans), histogram.positive_buckets.len());
        assert_eq!(lengths(&histogram.negative_spans), histogram.negative_buckets.len());
    }
    if outcome.is_err() {
        assert!(floats.is_empty() && histograms.is_empty(), "an error leaves the columns as they were");
    }
    outcome.map(|_| floats.len() + histograms.len())
}

/// What a histogram says, whatever its spans look like: buckets that are not empty, by index.
#[derive(Debug, PartialEq)]
struct Meaning {
    schema: i32,
    threshold: u64,
    counts: [u64; 3],
    positive: BTreeMap<i64, u64>,
    negative: BTreeMap<i64, u64>,
    custom_values: Vec<u64>,
}

fn meaning(histogram: &FloatHistogram) -> Meaning {
    let buckets = |spans: &[Span], counts: &[f64]| {
        let mut next = 0i64;
        let mut indexes = Vec::new();
        for span in spans {
            next += i64::from(span.offset);
            for _ in 0..span.length {
                indexes.push(next);
                next += 1;
            }
        }
        let filled = indexes.into_iter().zip(counts).filter(|(_, count)| **count != 0.0);
        filled.map(|(index, count)| (index, count.to_bits())).collect()
    };
    if histogram.is_stale() {
        return meaning(&FloatHistogram::default()).stale();
    }
    Meaning {
        schema: histogram.schema,
        threshold: histogram.zero_threshold.to_bits(),
        counts: [histogram.count.to_bits(), histogram.zero_count.to_bits(), histogram.sum.to_bits()],
        positive: buckets(&histogram.positive_spans, &histogram.positive_buckets),
        negative: buckets(&histogram.negative_spans, &histogram.negative_buckets),
        custom_values: histogram.custom_values.iter().map(|bound| bound.to_bits()).collect(),
    }
}

impl Meaning {
    fn stale(mut self) -> Self {
        self.counts[2] = STALE_NAN_BITS;
        self
    }
}

/// One step in the life of a histogram.
#[derive(Clone, Debug)]
enum Step {
    Observe(BTreeMap<i8, u8>, BTreeMap<i8, u8>),
    Restart,
    Stale,
    Schema(i32),
    Gauge(bool),
    Bounds(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let buckets = || prop::collection::btree_map(any::<i8>().prop_map(|index| index % 12), 1u8.., 0..5);
    prop_oneof![
        8 => (buckets(), buckets()).prop_map(|(positive, negative)| Step::Observe(positive, negative)),
        1 => Just(Step::Restart),
        1 => Just(Step::Stale),
        1 => (-4i32..=8).prop_map(Step::Schema),
        1 => any::<bool>().prop_map(Step::Gauge),
        1 => (12u8..15).prop_map(Step::Bounds),
    ]
}

fn histograms(steps: &[Step]) -> Vec<Histogram> {
    let (mut positive, mut negative) = (BTreeMap::<i32, u64>::new(), BTreeMap::<i32, u64>::new());
    let (mut schema, mut gauge, mut bounds) = (0, false, Vec::<f64>::new());
    let mut all = Vec::new();
    for step in steps {
        match step {
            Step::Observe(more_positive, more_negative) => {
                if gauge {
                    positive.clear();
                    negative.clear();
                }
                for (index, count) in more_positive {
                    // Custom buckets have no negative indexes.
                    let index = if bounds.is_empty() { *index } else { index.abs() };
                    *positive.entry(i32::from(index)).or_default() += u64::from(*count);
                }
                for (index, count) in more_negative.iter().filter(|_| bounds.is_empty()) {
                    *negative.entry(i32::from(*index)).or_default() += u64::from(*count);
                }
            }
            Step::Restart => positive = BTreeMap::new(),
            Step::Stale => all.push(Histogram { sum: stale_nan(), ..Histogram::default() }),
            Step::Gauge(on) => gauge = *on,
            Step::Schema(new) => {
                (schema, bounds, positive) = (*new, Vec::new(), BTreeMap::new());
            }
            Step::Bounds(count) => {
                schema = CUSTOM_BUCKETS_SCHEMA;
                bounds = (0..*count).map(|bound| f64::from(bound) * 0.7).collect();
                (positive, negative) = (BTreeMap::new(), BTreeMap::new());
            }
        }
        let (positive_spans, positive_deltas) = spans_and_deltas(&positive);
        let (negative_spans, negative_deltas) = spans_and_deltas(&negative);
        all.push(Histogram {
            counter_reset_hint: if gauge { CounterResetHint::Gauge } else { CounterResetHint::Unknown },
            schema,
            zero_threshold: if bounds.is_empty() { 0.001 } else { 0.0 },
            zero_count: 0,
            count: positive.values().chain(negative.values()).sum(),
            sum: positive.values().map(|count| *count as f64 * 1.5).sum(),
            positive_spans,
            negative_spans,
            positive_deltas,
            negative_deltas,
            custom_values: bounds.clone().into(),
        });
    }
    all
}

fn spans_and_deltas(buckets: &BTreeMap<i32, u64>) -> (Vec<Span>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<Span>::new(), Vec::new());
    let (mut end, mut last) = (0, 0);
    for (index, count) in buckets {
        match spans.last_mut() {
            Some(span) if end == *index => span.length += 1,
            _ => spans.push(Span { offset: index - end, length: 1 }),
        }
        end = index + 1;
        deltas.push(*count as i64 - last);
        last = *count as i64;
    }
    (spans, deltas)
}

/// Appends all with the rule that each sample is in the present chunk or the first of the next; gives the chunks.
macro_rules! append_all {
    ($appender:ty, $samples:expr) => {{
        let mut appender = <$appender>::new();
        let mut chunks = Vec::new();
        let mut in_chunk = 0;
        for (time, histogram) in $samples {
            match appender.append(time, &histogram).unwrap() {
                Appended::InPlace | Appended::Recoded => in_chunk += 1,
                Appended::NewChunk { finished } => {
                    chunks.push(finished);
                    in_chunk = 1;
                }
            }
            assert_eq!(appender.sample_count(), in_chunk);
        }
        chunks.push(appender.into_bytes());
        chunks
    }};
}

proptest! {
    #[test]
    fn floats_come_back_bit_by_bit(times in times(60), values in prop::collection::vec(value(), 60)) {
        let samples: Vec<_> = times.into_iter().zip(values).collect();
        let bytes = xor_chunk(&samples);
        let mut column = FloatColumn::default();
        decode_xor(&bytes, &mut column).unwrap();
        let wanted: Vec<_> = samples.iter().map(|(time, value)| (*time, value.to_bits())).collect();
        prop_assert_eq!(column_bits(&column), wanted.clone());
        let streamed: Vec<_> =
            XorReader::new(&bytes).unwrap().map(|sample| sample.map(|(time, value)| (time, value.to_bits())).unwrap()).collect();
        prop_assert_eq!(streamed, wanted);
    }

    #[test]
    fn histograms_come_back_in_one_chunk_or_several(
        steps in prop::collection::vec(step(), 1..40),
        times in times(80).prop_filter("enough", |times| times.len() >= 2),
    ) {
        let samples: Vec<_> = times.into_iter().zip(histograms(&steps)).collect();
        let floats: Vec<_> = samples.iter().map(|(time, histogram)| (*time, histogram.to_float())).collect();
        let wanted: Vec<_> = floats.iter().map(|(time, histogram)| (*time, meaning(histogram))).collect();

        let mut read = Vec::new();
        for chunk in append_all!(HistogramAppender, samples.clone()) {
            for sample in HistogramReader::new(&chunk).unwrap() {
                let (time, histogram) = sample.unwrap();
                read.push((time, meaning(&histogram.to_float())));
            }
        }
        prop_assert_eq!(&read, &wanted);

        let mut column = HistogramColumn::default();
        for chunk in append_all!(FloatHistogramAppender, floats) {
            decode_chunk(ChunkEncoding::FloatHistogram, &chunk, TimeRange::ALL, &mut FloatColumn::default(), &mut column).unwrap();
            prop_assert_eq!(FloatHistogramReader::new(&chunk).unwrap().filter(Result::is_err).count(), 0);
        }
        let read: Vec<_> = column.iter().map(|(time, histogram)| (time, meaning(histogram))).collect();
        prop_assert_eq!(&read, &wanted);
    }

    #[test]
    fn random_bytes_never_panic(mut bytes: Vec<u8>, count in 0u16..300, min_ms: i64, max_ms: i64) {
        for range in [TimeRange::ALL, TimeRange::new(min_ms, max_ms)] {
            for encoding in ENCODINGS {
                let _ = decode_any(encoding, &bytes, range);
            }
            // Mostly the count that random bytes begin with is far too large.
            if let Some(header) = bytes.first_chunk_mut::<2>() {
                *header = count.to_be_bytes();
            }
        }
        if let Ok(reader) = XorReader::new(&bytes) {
            prop_assert!(reader.count() <= usize::from(u16::MAX));
        }
    }

    #[test]
    fn damaged_chunks_never_panic(
        steps in prop::collection::vec(step(), 1..20),
        values in prop::collection::vec(value(), 1..40),
        place: prop::sample::Index,
    ) {
        let times = (0i64..).map(|index| index * 15_000);
        let samples: Vec<_> = times.clone().zip(histograms(&steps)).collect();
        let floats = samples.iter().map(|(time, histogram)| (*time, histogram.to_float()));
        let xor = xor_chunk(&times.zip(values).collect::<Vec<_>>());
        let integer = append_all!(HistogramAppender, samples.clone()).remove(0);
        let float = append_all!(FloatHistogramAppender, floats).remove(0);
        for (encoding, chunk) in ENCODINGS.into_iter().zip([xor, integer, float]) {
            prop_assert!(decode_any(encoding, &chunk, TimeRange::ALL).is_ok());
            let mut flipped = chunk.clone();
            let bit = place.index(flipped.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = decode_any(encoding, &flipped, TimeRange::ALL);
            let _ = decode_any(encoding, &flipped, TimeRange::new(10_000, 100_000));
            let error = decode_any(encoding, &chunk[..place.index(chunk.len())], TimeRange::ALL).unwrap_err();
            prop_assert!(matches!(error, TsdbError::Truncated { .. }), "{}", error);
        }
    }
}

fn counter(count: u64) -> Histogram {
    Histogram {
        count,
        positive_spans: vec![Span { offset: 0, length: 1 }],
        positive_deltas: vec![count as i64],
        ..Histogram::default()
    }
}

#[test]
fn a_counter_reset_begins_a_chunk_that_says_so() {
    let mut appender = HistogramAppender::new();
    assert_eq!(appender.append(0, &counter(5)).unwrap(), Appended::InPlace);
    assert!(matches!(appender.append(1, &counter(4)).unwrap(), Appended::NewChunk { .. }));
    assert_eq!(appender.header(), CounterResetHint::Reset);
    let other_schema = Histogram { schema: 3, ..counter(9) };
    assert!(matches!(appender.append(2, &other_schema).unwrap(), Appended::NewChunk { .. }));
    assert_eq!(appender.header(), CounterResetHint::Unknown);
}

#[test]
fn a_chunk_that_follows_another_knows_whether_there_was_a_reset() {
    let mut first = HistogramAppender::new();
    first.append(0, &counter(5)).unwrap();
    for (count, header) in [(6, CounterResetHint::NotReset), (4, CounterResetHint::Reset)] {
        let mut second = HistogramAppender::following(&first);
        second.append(1, &counter(count)).unwrap();
        assert_eq!(second.header(), header);
    }
}

#[test]
fn new_buckets_recode_the_chunk_and_lost_empty_ones_do_not() {
    let spans = |length| vec![Span { offset: 0, length }];
    let wide = Histogram { positive_spans: spans(2), positive_deltas: vec![5, -5], ..counter(5) };
    let mut appender = HistogramAppender::new();
    appender.append(0, &counter(5)).unwrap();
    assert_eq!(appender.append(1, &wide).unwrap(), Appended::Recoded);
    assert_eq!(appender.append(2, &counter(6)).unwrap(), Appended::InPlace);
    let read: Vec<_> =
        HistogramReader::new(appender.bytes()).unwrap().map(|sample| sample.unwrap().1).collect();
    assert_eq!(read[0].positive_deltas, [5, -5]);
    assert_eq!(read[2].positive_deltas, [6, -6]);
    let hints: Vec<_> = read.iter().map(|histogram| histogram.counter_reset_hint).collect();
    assert_eq!(hints, [CounterResetHint::Unknown, CounterResetHint::NotReset, CounterResetHint::NotReset]);
}

#[test]
fn writers_refuse_bad_order_full_chunks_and_nonsense() {
    let mut xor = XorAppender::new();
    xor.append(10, 1.0).unwrap();
    assert!(matches!(xor.append(9, 1.0), Err(TsdbError::OutOfOrder { .. })));
    xor.append(10, 2.0).unwrap();
    for time in 11..11 + MAX_SAMPLES as i64 - 2 {
        xor.append(time, 2.0).unwrap();
    }
    assert!(matches!(xor.append(i64::MAX, 1.0), Err(TsdbError::Invalid { .. })));
    let mut column = FloatColumn::default();
    decode_xor(xor.bytes(), &mut column).unwrap();
    assert_eq!(column.len(), MAX_SAMPLES);

    let mut histograms = HistogramAppender::new();
    let nonsense = Histogram { positive_deltas: vec![1, 2], ..counter(3) };
    assert!(matches!(histograms.append(0, &nonsense), Err(TsdbError::Invalid { .. })));
    assert!(matches!(
        histograms.append(0, &Histogram { schema: 9, ..counter(1) }),
        Err(TsdbError::Invalid { .. })
    ));
    assert_eq!(histograms.sample_count(), 0);
}

#[test]
fn a_count_that_the_bytes_cannot_hold_claims_no_memory() {
    let mut column = FloatColumn::default();
    let error = decode_xor(&[0xff, 0xff, 0], &mut column).unwrap_err();
    assert!(error.is_corruption());
    assert!(column.timestamps_ms.capacity() < 100);
}
