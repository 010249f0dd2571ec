//! The fold against a literal model of the nested iterators that it replaces: each asks the ones beneath it, sample by sample.

use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::chunk::{ChunkEncoding, encode_xor};
use parallax_tsdb::segment::Chunk;
use proptest::prelude::*;

use super::*;
use crate::merge::samples::Noted;

/// A sample's time and the place of its chunk.
type Sample = (i64, usize);

trait Source {
    /// Moves on; false at the end.
    fn next(&mut self) -> bool;
    fn at(&self) -> Sample;

    /// Moves on until the time is at least this, but not back.
    fn seek(&mut self, from: i64) -> bool {
        while self.at().0 < from {
            if !self.next() {
                return false;
            }
        }
        true
    }
}

struct Plain {
    samples: Vec<Sample>,
    read: usize,
}

impl Source for Plain {
    fn next(&mut self) -> bool {
        self.read += 1;
        self.read <= self.samples.len()
    }

    fn at(&self) -> Sample {
        self.samples[(self.read - 1).min(self.samples.len() - 1)]
    }
}

struct Pair {
    a: Box<dyn Source>,
    b: Box<dyn Source>,
    a_lives: bool,
    b_lives: bool,
    last: i64,
    penalty_a: i64,
    penalty_b: i64,
    use_a: bool,
}

impl Pair {
    fn new(mut a: Box<dyn Source>, mut b: Box<dyn Source>) -> Self {
        let (a_lives, b_lives) = (a.next(), b.next());
        Self { a, b, a_lives, b_lives, last: i64::MIN, penalty_a: 0, penalty_b: 0, use_a: true }
    }
}

impl Source for Pair {
    fn next(&mut self) -> bool {
        self.a_lives = self.a_lives && self.a.seek(self.last + 1 + self.penalty_a);
        self.b_lives = self.b_lives && self.b.seek(self.last + 1 + self.penalty_b);
        if !self.a_lives {
            self.use_a = false;
            if self.b_lives {
                self.last = self.b.at().0;
                self.penalty_b = 0;
            }
            return self.b_lives;
        }
        if !self.b_lives {
            self.use_a = true;
            self.last = self.a.at().0;
            self.penalty_a = 0;
            return true;
        }
        let (ta, tb) = (self.a.at().0, self.b.at().0);
        self.use_a = ta <= tb;
        let now = ta.min(tb);
        let other = if self.last == i64::MIN { 5000 } else { 2 * (now - self.last) };
        (self.penalty_a, self.penalty_b) = if self.use_a { (0, other) } else { (other, 0) };
        self.last = now;
        true
    }

    fn at(&self) -> Sample {
        if self.use_a { self.a.at() } else { self.b.at() }
    }
}

/// What the nested iterators give.
fn model(chunks: &[Vec<i64>]) -> Vec<Sample> {
    let plain = |(place, times): (usize, &Vec<i64>)| -> Box<dyn Source> {
        Box::new(Plain { samples: times.iter().map(|time| (*time, place)).collect(), read: 0 })
    };
    let mut sources = chunks.iter().enumerate().map(plain);
    let base = sources.next().unwrap();
    let mut all = sources.fold(base, |all, next| Box::new(Pair::new(all, next)));
    let mut out = Vec::new();
    while all.next() {
        out.push(all.at());
    }
    out
}

fn chunk_of(times: &[i64]) -> BlockChunk {
    let samples: Vec<(i64, f64)> = times.iter().map(|time| (*time, 0.0)).collect();
    let (min_time_ms, max_time_ms) = (times[0], *times.last().unwrap());
    let data = encode_xor(&samples).unwrap().into();
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding: ChunkEncoding::Xor, data } }
}

/// How much is read of chunks before somebody asks for more.
#[derive(Clone, Copy, Debug)]
enum Reading {
    All,
    Beginnings,
    AsNoted,
}

/// What folding gives; with `let_go` what is settled is given out and forgotten after each chunk.
fn folded_by(chunks: &[Vec<i64>], let_go: bool, reading: Reading) -> Vec<Sample> {
    let mut samples = Samples::default();
    let mut picked = Picked::default();
    let mut places = Vec::new();
    let mut out = Vec::new();
    for (place, times) in chunks.iter().enumerate() {
        let chunk = chunk_of(times);
        let noted = match reading {
            Reading::All => Noted::Samples,
            Reading::Beginnings => Noted::Beginning,
            Reading::AsNoted => noted(&mut samples, &chunk, &mut picked).unwrap(),
        };
        let range = samples.decode(&chunk, noted).unwrap();
        places.extend(times.iter().map(|_| place));
        add(&mut samples, &range, &mut picked).unwrap();
        if let_go {
            let sample = |id: &SampleId| (samples.known_ms(*id).unwrap(), places[*id as usize]);
            out.extend(picked.written().iter().map(sample));
            picked.forget();
            samples.let_go(picked.ids.iter().copied().min().unwrap_or(0));
        }
    }
    samples.read_all().unwrap();
    out.extend(picked.ids.iter().map(|id| (samples.known_ms(*id).unwrap(), places[*id as usize])));
    out
}

fn folded(chunks: &[Vec<i64>]) -> Vec<Sample> {
    folded_by(chunks, false, Reading::All)
}

/// A chunk: where it begins, and the distances of its samples, some of which are gaps.
fn chunk() -> impl Strategy<Value = Vec<i64>> {
    let distance = prop_oneof![8 => 10_000i64..16_000, 2 => 1i64..5_000, 1 => 60_000i64..400_000];
    (0i64..900_000, prop::collection::vec(distance, 0..40)).prop_map(|(from, distances)| {
        std::iter::once(from)
            .chain(distances.iter().scan(from, |time, distance| {
                *time += distance;
                Some(*time)
            }))
            .collect()
    })
}

proptest! {
    #[test]
    fn the_fold_gives_what_nested_iterators_give(mut chunks in prop::collection::vec(chunk(), 1..9)) {
        // The heap hands chunks over by their first times, then by their last.
        chunks.sort_by_key(|times| (times[0], *times.last().unwrap()));
        let expected = model(&chunks);
        for reading in [Reading::All, Reading::Beginnings, Reading::AsNoted] {
            for let_go in [false, true] {
                prop_assert_eq!(&folded_by(&chunks, let_go, reading), &expected, "{:?}, {}", reading, let_go);
            }
        }
    }
}

#[test]
fn one_replica_is_followed_and_its_gap_is_filled() {
    let a: Vec<i64> = [0, 15, 30, 45, 150, 165].iter().map(|s| s * 1000).collect();
    let b: Vec<i64> = (0..12).map(|n| (4 + 15 * n) * 1000).collect();
    let picked = folded(&[a, b]);
    let times: Vec<i64> = picked.iter().map(|(time, _)| time / 1000).collect();
    let places: Vec<usize> = picked.iter().map(|(_, place)| *place).collect();
    assert_eq!(times, [0, 15, 30, 45, 79, 94, 109, 124, 139, 154, 169]);
    assert_eq!(places, [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn of_a_replica_that_is_left_for_another_only_the_beginning_is_read() {
    let a: Vec<i64> = (0..100).map(|n| n * 15_000).collect();
    let b: Vec<i64> = a.iter().map(|time| time + 7_000).collect();
    let mut samples = Samples::default();
    let mut picked = Picked::default();
    for times in [&a, &b] {
        let chunk = chunk_of(times);
        let noted = noted(&mut samples, &chunk, &mut picked).unwrap();
        let range = samples.decode(&chunk, noted).unwrap();
        add(&mut samples, &range, &mut picked).unwrap();
    }
    assert!(picked.ids.iter().copied().eq(std::iter::once(0).chain(100..200)));
    assert_eq!(samples.known_ms(50), Err(Unread(50)));
    assert_eq!((samples.known_ms(1), samples.known_ms(99)), (Ok(15_000), Ok(99 * 15_000)));
}

#[test]
fn a_sample_at_the_least_time_there_is_is_known() {
    let times = [i64::MIN, 5, 10, 15, 20, 25];
    let mut samples = Samples::default();
    samples.decode(&chunk_of(&times), Noted::Beginning).unwrap();
    assert_eq!(samples.known_ms(0), Ok(i64::MIN));
    assert_eq!(samples.known_ms(4), Err(Unread(4)));
    samples.read_all().unwrap();
    assert_eq!(samples.times_ms(&(0..6)), times);
}
