//! Chunks that are put together against chunks that are encoded.

use proptest::prelude::*;

use super::*;
use crate::chunk::{XorAppender, decode_xor, encode_xor};

type Sample = (i64, f64);

/// Samples of a counter, of a gauge that stands still now and then, or of any bits at all; steps of time of all lengths, most of them alike.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let value = (any::<u64>(), 0u32..64, 0u32..64, 0u64..40);
    let step = prop_oneof![
        12 => Just(15_000u64),
        4 => 14_990u64..15_010,
        1 => 1u64..100_000_000,
        1 => any::<u64>().prop_map(|step| step >> 20),
    ];
    (0u8..4, prop::collection::vec((step, value), 1..260)).prop_map(|(kind, steps)| {
        let (mut time_ms, mut value) = (1_700_000_000_000i64, 0.0f64);
        let mut samples = Vec::new();
        for (step, (bits, high, low, increase)) in steps {
            value = match kind {
                0 => value + increase as f64,
                1 => (increase / 13) as f64 * 0.1,
                2 => f64::from_bits(bits >> high << low),
                _ => 7.0,
            };
            samples.push((time_ms, value));
            time_ms = time_ms.checked_add_unsigned(step).unwrap_or(time_ms);
        }
        samples.dedup_by_key(|sample| sample.0);
        samples
    })
}

struct Source {
    bytes: Vec<u8>,
    column: FloatColumn,
    trace: XorTrace,
}

impl Source {
    fn new(bytes: Vec<u8>) -> Self {
        let (mut column, mut trace) = (FloatColumn::default(), XorTrace::default());
        decode_xor_traced(&bytes, usize::MAX, &mut column, &mut trace).unwrap();
        Self { bytes, column, trace }
    }

    /// Samples of the chunk; the first `gone` of them are not held any more.
    fn run(&self, from: usize, to: usize, gone: usize) -> XorRun<'_> {
        let gone = gone.min(from);
        XorRun {
            bytes: &self.bytes,
            times_ms: &self.column.timestamps_ms[gone..],
            values: &self.column.values[gone..],
            ends: &self.trace.ends[gone..],
            windows: &self.trace.windows[gone..],
            is_whole: gone == 0,
            from: from - gone,
            to: to - gone,
        }
    }
}

/// By their bits.
fn bits(samples: impl IntoIterator<Item = Sample>) -> Vec<(i64, u64)> {
    samples.into_iter().map(|(time_ms, value)| (time_ms, value.to_bits())).collect()
}

fn decoded(bytes: &[u8]) -> Vec<(i64, u64)> {
    let mut column = FloatColumn::default();
    decode_xor(bytes, &mut column).unwrap();
    bits(column.iter())
}

/// Cuts samples into chunks of `size` samples, and puts chunks of other sizes together from those.
fn recut(samples: &[Sample], sources: &[Source], size: usize, pieces: &[usize], gone: usize) -> Vec<Vec<u8>> {
    // Of each sample its source and its place there.
    let mut places = samples
        .chunks(size)
        .enumerate()
        .flat_map(|(source, samples)| (0..samples.len()).map(move |at| (source, at)));
    let mut chunks = Vec::new();
    let mut rest = samples.len();
    for piece in pieces.iter().copied().cycle() {
        let of_chunk: Vec<(usize, usize)> = places.by_ref().take(piece.min(rest)).collect();
        rest -= of_chunk.len();
        if of_chunk.is_empty() {
            return chunks;
        }
        let mut splicer = XorSplicer::new();
        for run in of_chunk.chunk_by(|a, b| a.0 == b.0) {
            let (source, from) = run[0];
            splicer.push_run(&sources[source].run(from, from + run.len(), gone)).unwrap();
        }
        chunks.push(splicer.into_bytes().unwrap());
    }
    chunks
}

proptest! {
    #[test]
    fn chunks_that_are_cut_anew_are_those_that_would_be_encoded(
        samples in samples(),
        size in 1usize..130,
        pieces in prop::collection::vec(1usize..130, 1..4),
        gone in 0usize..5,
    ) {
        let sources: Vec<Source> =
            samples.chunks(size).map(|samples| Source::new(encode_xor(samples).unwrap())).collect();
        let mut expected = Vec::new();
        let mut rest = &samples[..];
        for piece in pieces.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(piece.min(rest.len()));
            expected.push(encode_xor(now).unwrap());
            rest = later;
        }
        prop_assert_eq!(recut(&samples, &sources, size, &pieces, gone), expected);
    }

    /// Of two chunks, in an order of their times, any parts: what comes out decodes to these samples, whoever wrote the chunks.
    #[test]
    fn parts_of_two_chunks_give_their_samples(
        a in samples(),
        b in samples(),
        runs in prop::collection::vec((any::<bool>(), 0usize..30, 1usize..90), 1..8),
        damaged_window in any::<bool>(),
    ) {
        let of = |samples: &[Sample]| {
            let mut appender = XorAppender::new();
            for (time_ms, value) in samples {
                appender.append(*time_ms, *value).unwrap();
            }
            appender.into_bytes()
        };
        let sources = [Source::new(of(&a)), Source::new(of(&b))];
        let mut at = [0, 0];
        let mut splicer = XorSplicer::new();
        let mut expected: Vec<Sample> = Vec::new();
        if damaged_window {
            // A sample before, which leaves another window.
            splicer.push(0, 1.5).unwrap();
            splicer.push(1, f64::MIN_POSITIVE).unwrap();
            expected = vec![(0, 1.5), (1, f64::MIN_POSITIVE)];
        }
        for (which, skipped, length) in runs {
            let which = usize::from(which);
            let samples = if which == 0 { &a } else { &b };
            let last_ms = expected.last().map_or(i64::MIN, |last| last.0);
            let from = (at[which] + skipped).max(samples.partition_point(|sample| sample.0 <= last_ms));
            let to = (from + length).min(samples.len());
            if from >= to || expected.len() + to - from > 600 {
                continue;
            }
            splicer.push_run(&sources[which].run(from, to, 0)).unwrap();
            expected.extend(&samples[from..to]);
            at[which] = to;
        }
        let bytes = splicer.into_bytes().unwrap();
        prop_assert_eq!(decoded(&bytes), bits(expected.iter().copied()));
        prop_assert_eq!(bytes, encode_xor(&expected).unwrap());
    }

    #[test]
    fn a_trace_changes_nothing_about_decoding(mut bytes: Vec<u8>, count in 0u16..300, samples in samples(), at: prop::sample::Index, bit in 0u32..8) {
        let mut damaged = encode_xor(&samples).unwrap();
        let at = at.index(damaged.len());
        damaged[at] ^= 1 << bit;
        if let Some(header) = bytes.first_chunk_mut::<2>() {
            *header = count.to_be_bytes();
        }
        for bytes in [&damaged[..], &damaged[..at], &bytes[..], &encode_xor(&samples).unwrap()[..]] {
            let (mut plain, mut traced, mut trace) =
                (FloatColumn::default(), FloatColumn::default(), XorTrace::default());
            let expected = decode_xor(bytes, &mut plain).map_err(|error| error.to_string());
            let found = decode_xor_traced(bytes, usize::MAX, &mut traced, &mut trace).map_err(|error| error.to_string());
            prop_assert_eq!(found, expected);
            prop_assert_eq!(bits(traced.iter()), bits(plain.iter()));
            prop_assert_eq!(trace.ends.len(), trace.windows.len());
            prop_assert!(trace.ends.len() >= plain.len());
        }
        // Of a part of the samples the same.
        let whole = encode_xor(&samples).unwrap();
        let most = usize::from(count);
        let (mut part, mut trace) = (FloatColumn::default(), XorTrace::default());
        decode_xor_traced(&whole, most, &mut part, &mut trace).unwrap();
        let all = Source::new(whole);
        let len = most.min(samples.len());
        prop_assert_eq!(bits(part.iter()), bits(samples[..len].iter().copied()));
        prop_assert_eq!((&trace.ends[..], &trace.windows[..]), (&all.trace.ends[..len], &all.trace.windows[..len]));
    }
}

/// A chunk whose encoder did not know the window of an earlier one (a Prometheus that went on with a chunk after a restart writes such): its samples are kept.
#[test]
fn a_chunk_that_was_written_otherwise_keeps_its_samples() {
    let samples: Vec<Sample> = (0..200).map(|n| (n * 15_000, f64::from((n / 9) as i32) * 0.3)).collect();
    let mut bits_of_other = Bits::new(vec![0, 200]);
    put_varint(&mut bits_of_other.bytes, samples[0].0);
    bits_of_other.bytes.extend(samples[0].1.to_bits().to_be_bytes());
    let mut last = samples[0].1.to_bits();
    for (at, (_, value)) in samples.iter().enumerate().skip(1) {
        if at == 1 {
            put_uvarint(&mut bits_of_other.bytes, 15_000);
        } else {
            bits_of_other.push(0, 1);
        }
        // All 64 bits, in a window of that width, again and again.
        let difference = last ^ value.to_bits();
        last = value.to_bits();
        if difference == 0 {
            bits_of_other.push(0, 1);
        } else {
            bits_of_other.push(0b11 << 11, 13);
            bits_of_other.push(difference, 64);
        }
    }
    let source = Source::new(bits_of_other.finish());
    assert_eq!(decoded(&source.bytes), bits(samples.iter().copied()));
    for (from, to) in [(0, 200), (0, 120), (1, 121), (57, 177), (199, 200)] {
        let mut splicer = XorSplicer::new();
        splicer.push_run(&source.run(from, to, 0)).unwrap();
        assert_eq!(decoded(&splicer.into_bytes().unwrap()), bits(samples[from..to].iter().copied()));
    }
}

#[test]
fn samples_out_of_order_and_runs_beyond_their_chunk_are_refused() {
    let source = Source::new(encode_xor(&[(1, 1.0), (2, 2.0)]).unwrap());
    let mut splicer = XorSplicer::new();
    splicer.push(5, 1.0).unwrap();
    assert!(splicer.push_run(&source.run(0, 2, 0)).is_err());
    assert!(XorSplicer::new().push_run(&source.run(0, 3, 0)).is_err());
    assert!(XorSplicer::new().push_run(&source.run(1, 3, 0)).is_err());
}
