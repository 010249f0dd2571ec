//! The fold against a literal model of the nested iterators that it replaces: each asks the ones beneath it, sample by sample.

use proptest::prelude::*;

use super::*;

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

fn folded(chunks: &[Vec<i64>]) -> Vec<Sample> {
    let mut times = Vec::new();
    let mut places = Vec::new();
    let mut ranges: Vec<Range<SampleId>> = Vec::new();
    for (place, chunk) in chunks.iter().enumerate() {
        let start = times.len() as u32;
        times.extend(chunk);
        places.extend(chunk.iter().map(|_| place));
        ranges.push(start..times.len() as u32);
    }
    let mut picked: Vec<SampleId> = ranges[0].clone().collect();
    let mut penalty = Penalty::default();
    let mut settled = 0;
    for range in &ranges[1..] {
        penalty.fold(&times, &mut picked, &mut settled, range);
    }
    picked.iter().map(|id| (times[*id as usize], places[*id as usize])).collect()
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
        prop_assert_eq!(folded(&chunks), model(&chunks));
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
