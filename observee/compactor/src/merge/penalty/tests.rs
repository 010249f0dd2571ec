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

/// What folding gives; with `let_go` what is settled is given out and forgotten after each chunk.
fn folded_by(chunks: &[Vec<i64>], let_go: bool) -> Vec<Sample> {
    let mut samples = Samples::default();
    let mut picked = Picked::default();
    let mut places = Vec::new();
    let mut out = Vec::new();
    for (place, times) in chunks.iter().enumerate() {
        let range = samples.decode(&chunk_of(times), Noted::Samples).unwrap();
        places.extend(times.iter().map(|_| place));
        add(&samples, &range, &mut picked);
        if let_go {
            out.extend(picked.written().iter().map(|id| (samples.time_ms(*id), places[*id as usize])));
            picked.forget();
            samples.let_go(picked.ids.iter().copied().min().unwrap_or(0));
        }
    }
    out.extend(picked.ids.iter().map(|id| (samples.time_ms(*id), places[*id as usize])));
    out
}

fn folded(chunks: &[Vec<i64>]) -> Vec<Sample> {
    folded_by(chunks, false)
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
        prop_assert_eq!(&folded(&chunks), &expected);
        prop_assert_eq!(folded_by(&chunks, true), expected);
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
