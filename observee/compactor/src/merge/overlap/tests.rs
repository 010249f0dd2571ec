//! Merging piece by piece against merging at once.

use parallax_model::{Histogram, Span};
use parallax_tsdb::chunk::{Appended, ChunkEncoding, HistogramAppender, encode_xor};
use parallax_tsdb::segment::Chunk;
use proptest::prelude::*;

use super::*;

fn chunk(times: &[i64], encoding: ChunkEncoding, data: Vec<u8>) -> BlockChunk {
    let (min_time_ms, max_time_ms) = (times[0], *times.last().unwrap());
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding, data: data.into() } }
}

fn floats(times: &[i64]) -> BlockChunk {
    let samples: Vec<(i64, f64)> = times.iter().map(|time| (*time, *time as f64 / 3.0)).collect();
    chunk(times, ChunkEncoding::Xor, encode_xor(&samples).unwrap())
}

/// Whether floats are those that [`floats`] gives.
fn has_values(chunk: &BlockChunk) -> bool {
    let mut column = parallax_model::FloatColumn::default();
    if chunk.chunk.encoding == ChunkEncoding::Xor {
        parallax_tsdb::chunk::decode_xor(&chunk.chunk.data, &mut column).unwrap();
    }
    column.iter().all(|(time, value)| value == time as f64 / 3.0)
}

/// Histograms whose count falls now and then, which ends a chunk.
fn histograms(times: &[i64]) -> Vec<BlockChunk> {
    let mut appender = HistogramAppender::new();
    let (mut chunks, mut begun) = (Vec::new(), 0);
    for (at, time) in times.iter().enumerate() {
        let count = (time % 97).unsigned_abs();
        let histogram = Histogram {
            count: 2 * count + 3,
            sum: *time as f64,
            schema: 1,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_deltas: vec![count as i64 + 1, 1],
            ..Histogram::default()
        };
        if let Appended::NewChunk { finished } = appender.append(*time, &histogram).unwrap() {
            chunks.push(chunk(&times[begun..at], ChunkEncoding::Histogram, finished));
            begun = at;
        }
    }
    chunks.push(chunk(&times[begun..], ChunkEncoding::Histogram, appender.into_bytes()));
    chunks
}

/// The chunks of one block, none of which overlaps the next.
fn source() -> impl Strategy<Value = Vec<BlockChunk>> {
    let piece = (any::<bool>(), prop::collection::vec(prop_oneof![9 => 5i64..20, 1 => 200i64..900], 1..40));
    (0i64..50, prop::collection::vec(piece, 1..30)).prop_map(|(from, pieces)| {
        let mut time = from;
        let mut chunks = Vec::new();
        for (is_histogram, distances) in pieces {
            let times: Vec<i64> = distances
                .iter()
                .map(|distance| {
                    time += distance;
                    time
                })
                .collect();
            if is_histogram {
                chunks.extend(histograms(&times));
            } else {
                chunks.push(floats(&times));
            }
        }
        chunks
    })
}

/// All chunks as one cluster, of which at most so many samples are held before what is settled is written.
fn merged(sources: &[Vec<BlockChunk>], mode: MergeMode, most_held: usize) -> (Vec<BlockChunk>, usize) {
    try_merged(sources, mode, most_held).unwrap()
}

/// As one cluster, of whose blocks it is not known where they end.
fn try_merged(
    sources: &[Vec<BlockChunk>],
    mode: MergeMode,
    most_held: usize,
) -> Result<(Vec<BlockChunk>, usize), MergeFailure> {
    let members = sources.iter().flat_map(|source| {
        source.iter().enumerate().map(|(at, chunk)| {
            let until_ms = source.get(at + 1).map_or(i64::MAX, |next| next.min_time_ms);
            Member { chunk: chunk.clone(), until_ms }
        })
    });
    let mut cluster: Vec<Member> = members.collect();
    cluster.sort_by_key(|member| (member.chunk.min_time_ms, member.chunk.max_time_ms));
    let mut scratch = Scratch { cluster, ..Scratch::default() };
    let mut out = Vec::new();
    scratch.merge_cluster(mode, most_held, &mut out)?;
    Ok((out, scratch.samples.len()))
}

proptest! {
    #[test]
    fn a_cluster_gives_the_same_chunks_however_little_of_it_is_held(sources in prop::collection::vec(source(), 1..5)) {
        for mode in [MergeMode::OneToOne, MergeMode::Penalty] {
            let (at_once, _) = merged(&sources, mode, usize::MAX);
            let (piece_by_piece, _) = merged(&sources, mode, 0);
            prop_assert!(at_once == piece_by_piece, "{:?}", mode);
            prop_assert!(at_once.iter().all(has_values), "{:?}", mode);
        }
    }
}

#[test]
fn of_interleaved_replicas_little_is_held_however_long_they_are() {
    let replica = |offset: i64| -> Vec<BlockChunk> {
        let times: Vec<i64> = (0..200_000).map(|n| offset + n * 15_000).collect();
        times.chunks(120).map(floats).collect()
    };
    for mode in [MergeMode::OneToOne, MergeMode::Penalty] {
        let (out, held) = merged(&[replica(0), replica(7_000)], mode, 1000);
        let (at_once, all) = merged(&[replica(0), replica(7_000)], mode, usize::MAX);
        assert!(out == at_once && all == 400_000);
        assert!(held < 2000, "{held} samples are still held");
    }
}

/// Series of chunks of 120 samples, as Prometheus cuts them, and of some that begin or end elsewhere.
fn cut_like_prometheus() -> impl Strategy<Value = Vec<BlockChunk>> {
    let sizes = prop::collection::vec(prop_oneof![6 => Just(120usize), 1 => 1usize..240], 1..6);
    let gaps = prop::collection::vec((0usize..700, 1i64..60), 0..4);
    (0i64..90, sizes, gaps).prop_map(|(offset, sizes, gaps)| {
        let mut chunks = Vec::new();
        let mut scrape = 0;
        for size in sizes {
            let times: Vec<i64> = (scrape..scrape + size)
                .map(|scrape| {
                    let missed: i64 = gaps.iter().filter(|gap| gap.0 <= scrape).map(|gap| gap.1).sum();
                    offset + (scrape as i64 + missed) * 15
                })
                .collect();
            scrape += size;
            chunks.push(floats(&times));
        }
        chunks
    })
}

/// As if nothing was copied: every sample that comes out, encoded anew.
fn written_anew(chunks: &[BlockChunk]) -> Vec<BlockChunk> {
    let mut column = parallax_model::FloatColumn::default();
    for chunk in chunks {
        parallax_tsdb::chunk::decode_xor(&chunk.chunk.data, &mut column).unwrap();
    }
    let samples: Vec<(i64, f64)> = column.iter().collect();
    samples
        .chunks(crate::merge::encoder::MAX_CHUNK_SAMPLES)
        .map(|samples| {
            let times: Vec<i64> = samples.iter().map(|sample| sample.0).collect();
            chunk(&times, ChunkEncoding::Xor, encode_xor(samples).unwrap())
        })
        .collect()
}

proptest! {
    #[test]
    fn what_is_copied_out_of_chunks_is_what_would_have_been_written(
        sources in prop::collection::vec(cut_like_prometheus(), 2..4),
    ) {
        for mode in [MergeMode::OneToOne, MergeMode::Penalty] {
            for most_held in [usize::MAX, 0] {
                let (out, _) = merged(&sources, mode, most_held);
                prop_assert!(out == written_anew(&out), "{:?}, {}", mode, most_held);
                // A sample is one of those that went in, with its value.
                prop_assert!(out.iter().all(has_values));
            }
        }
    }
}

#[test]
fn a_chunk_that_is_there_twice_is_accounted_for() {
    let times: Vec<i64> = (1..50).map(|n| n * 10).collect();
    let sources = vec![vec![floats(&times)], vec![floats(&times)]];
    let mut out = Vec::new();
    let mut scratch = Scratch::default();
    let job = SeriesJob { sources, ..SeriesJob::default() };
    merge_series(job, MergeMode::OneToOne, &mut scratch, &mut out).unwrap();
    assert_eq!((out.len(), scratch.left_out), (1, 49));
}

/// Thanos drops what is of another kind than the first chunk.
#[test]
fn a_replica_of_another_kind_fills_the_gap_of_the_one_that_is_followed() {
    let followed: Vec<i64> = (0..20).map(|n| n * 15_000).collect();
    let other: Vec<i64> = (10..60).map(|n| 3_000 + n * 15_000).collect();
    let mut appender = HistogramAppender::new();
    for (count, time) in other.iter().enumerate() {
        let histogram = Histogram {
            count: 2 * count as u64 + 3,
            sum: count as f64,
            schema: 1,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_deltas: vec![count as i64 + 1, 1],
            ..Histogram::default()
        };
        assert_eq!(appender.append(*time, &histogram).unwrap(), Appended::InPlace);
    }
    let histograms = chunk(&other, ChunkEncoding::Histogram, appender.into_bytes());
    let sources = [vec![floats(&followed)], vec![histograms]];
    let (out, _) = merged(&sources, MergeMode::Penalty, MAX_HELD_SAMPLES);
    let of = |encoding: ChunkEncoding| -> u64 {
        let of_kind = out.iter().filter(|chunk| chunk.chunk.encoding == encoding);
        of_kind.map(|chunk| samples_of(chunk).unwrap()).sum()
    };
    assert_eq!(of(ChunkEncoding::Xor), 20, "the first is followed to its end");
    // Then the other goes on, twice the last distance later.
    let (first_ms, last_ms) = (285_000 + 1 + 30_000, *other.last().unwrap());
    let expected = other.iter().filter(|time| **time >= first_ms).count() as u64;
    assert_eq!((of(ChunkEncoding::Histogram), expected), (expected, 39));
    assert_eq!(out.last().unwrap().max_time_ms, last_ms);
}

/// Damage that checksums do not show.
#[test]
fn a_chunk_that_turns_out_to_be_damaged_when_it_is_needed_is_blamed() {
    // The first is followed; then it has a gap, which the others fill.
    let first: Vec<i64> = (0..60).chain(90..150).map(|n| n * 15_000).collect();
    let second: Vec<i64> = (0..150).map(|n| 1_000 + n * 15_000).collect();
    let damaged = |times: &[i64]| {
        let mut chunk = floats(times);
        let mut data = chunk.chunk.data.to_vec();
        let half = data.len() / 2;
        data.truncate(half);
        chunk.chunk.data = data.into();
        chunk
    };
    for (sources, at_fault) in [
        (vec![vec![damaged(&first)], vec![floats(&second)]], &first),
        (vec![vec![floats(&first)], vec![damaged(&second)]], &second),
    ] {
        let job = SeriesJob { sources, ..SeriesJob::default() };
        let mut out = Vec::new();
        let failure = merge_series(job, MergeMode::Penalty, &mut Scratch::default(), &mut out).unwrap_err();
        let MergeFailure::Chunk { min_time_ms, max_time_ms, .. } = failure else { panic!("{failure:?}") };
        assert_eq!((min_time_ms, max_time_ms), (at_fault[0], *at_fault.last().unwrap()));
    }
}

fn seconds(times: impl IntoIterator<Item = i64>) -> Vec<i64> {
    times.into_iter().map(|time| time * 1000).collect()
}

fn every_15(times: std::ops::Range<i64>) -> impl Iterator<Item = i64> {
    times.step_by(15)
}

/// A chunk that goes on behind where the index says that it ends.
fn ends_early(times: &[i64], said_ms: i64) -> BlockChunk {
    BlockChunk { max_time_ms: said_ms, ..floats(times) }
}

fn is_blamed(failure: &MergeFailure, chunk: &BlockChunk) -> bool {
    matches!(failure, MergeFailure::Chunk { min_time_ms, max_time_ms, .. }
        if (*min_time_ms, *max_time_ms) == (chunk.min_time_ms, chunk.max_time_ms))
}

#[test]
fn a_chunk_that_ends_later_than_the_index_says_is_not_lost_in_a_gap() {
    let end_ms = 300_000;
    let other = ends_early(&seconds(every_15(5..505)), end_ms);
    let sound = floats(&seconds(every_15(5..305)));
    let before = || every_15(0..406);
    let followed = [
        // A gap in a chunk, behind one that ends, before the end of all.
        vec![floats(&seconds(before().chain(every_15(900..1200))))],
        vec![floats(&seconds(before())), floats(&seconds(every_15(900..1200)))],
        vec![floats(&seconds(before()))],
        // Behind the first sample of a chunk.
        vec![floats(&seconds(before())), floats(&seconds([420].into_iter().chain(every_15(900..1200))))],
    ];
    for source in followed {
        for (sources, is_sound) in [
            (vec![source.clone(), vec![other.clone()]], false),
            (vec![vec![other.clone()], source.clone()], false),
            (vec![source.clone(), vec![sound.clone()]], true),
        ] {
            let check = |outcome: Result<(), MergeFailure>| match outcome {
                Ok(()) => assert!(is_sound, "{sources:?}"),
                Err(failure) => assert!(!is_sound && is_blamed(&failure, &other), "{failure:?}"),
            };
            let job = SeriesJob { sources: sources.clone(), ..SeriesJob::default() };
            let (mut scratch, mut out) = (Scratch::default(), Vec::new());
            check(merge_series(job, MergeMode::Penalty, &mut scratch, &mut out));
            // In one cluster, of which much or nothing is held.
            for most_held in [usize::MAX, 0] {
                check(try_merged(&sources, MergeMode::Penalty, most_held).map(|_| ()));
            }
        }
    }
}

#[test]
fn a_chunk_that_ends_later_than_the_index_says_is_not_lost_after_it_was_let_go() {
    // Long after it was left out nothing follows it in its block, and what was followed has a gap.
    let end_ms = 300_000;
    let other = ends_early(&seconds(every_15(5..9005)), end_ms);
    let chunks: Vec<BlockChunk> =
        seconds(every_15(0..6000).chain(every_15(8000..9000))).chunks(40).map(floats).collect();
    for most_held in [usize::MAX, 0] {
        let sources = [chunks.clone(), vec![other.clone()]];
        let failure = try_merged(&sources, MergeMode::Penalty, most_held).unwrap_err();
        assert!(is_blamed(&failure, &other), "{failure:?}");
    }
}

#[test]
fn the_end_of_a_chunk_without_room_behind_it_is_not_read() {
    let followed: Vec<i64> = seconds(every_15(0..406));
    let times: Vec<i64> = seconds(every_15(5..396));
    let mut other = floats(&times);
    let half = other.chunk.data.len() / 2;
    other.chunk.data.truncate(half);
    // Whoever reads it finds that the half is missing.
    for (end_s, is_read) in [(400, false), (1200, true)] {
        let job = SeriesJob {
            sources: vec![vec![floats(&followed)], vec![other.clone()]],
            ends_ms: vec![end_s * 1000; 2],
            ..SeriesJob::default()
        };
        let mut out = Vec::new();
        let outcome = merge_series(job, MergeMode::Penalty, &mut Scratch::default(), &mut out);
        assert_eq!(outcome.is_err(), is_read, "{outcome:?}");
    }
}
