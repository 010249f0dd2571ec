//! One counter and its replicas, from a seed: what truly happened, and what each Prometheus saw of it.

use std::f64::consts::TAU;

use parallax_model::float::stale_nan;

/// What may go wrong, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub interval_ms: i64,
    /// From the middle on.
    pub later_interval_ms: i64,
    /// Scrapes are up to so much late.
    pub jitter_ms: i64,
    /// Clocks are up to so much fast or slow.
    pub skew_ms: i64,
    /// One scrape in this many is missed, by itself; 0 for none.
    pub missed: u64,
    /// Whether a missed scrape leaves a staleness marker.
    pub marks: bool,
    /// How often each replica is down for a while.
    pub outages: u64,
    /// How often the target restarts.
    pub restarts: u64,
    /// Whether the second replica scrapes at four times the interval.
    pub slow: bool,
    /// Whether all replicas have a long outage together.
    pub blackout: bool,
    pub replicas: u64,
}

pub const FINE: Weather = Weather {
    interval_ms: 15_000,
    later_interval_ms: 15_000,
    jitter_ms: 0,
    skew_ms: 0,
    missed: 0,
    marks: false,
    outages: 0,
    restarts: 0,
    slow: false,
    blackout: false,
    replicas: 2,
};

pub const START_MS: i64 = 1_782_864_000_000;
pub const LENGTH_MS: i64 = 3 * 3_600_000;
const PERIOD_MS: f64 = 1_300_000.0;
/// Per millisecond.
const MEAN_RATE: f64 = 0.02;
pub const MAX_RATE: f64 = MEAN_RATE * 1.5;

pub struct World {
    pub weather: Weather,
    pub seed: u64,
    restarts_ms: Vec<i64>,
    pub replicas: Vec<Vec<(i64, f64)>>,
}

/// Numbers from a seed (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: i64) -> i64 {
        (self.next() % bound.max(1).unsigned_abs()) as i64
    }
}

impl World {
    pub fn new(weather: Weather, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut restarts_ms: Vec<i64> =
            (0..weather.restarts).map(|_| START_MS + random.below(LENGTH_MS)).collect();
        restarts_ms.sort_unstable();
        let mut world = Self { weather, seed, restarts_ms, replicas: Vec::new() };
        let blackout = weather.blackout.then(|| {
            let start = START_MS + LENGTH_MS / 4 + random.below(LENGTH_MS / 8);
            (start, start + 600_000 + random.below(1_200_000))
        });
        for number in 0..weather.replicas {
            let replica = world.scraped(number, blackout, &mut random);
            world.replicas.push(replica);
        }
        world
    }

    fn scraped(&self, number: u64, blackout: Option<(i64, i64)>, random: &mut Random) -> Vec<(i64, f64)> {
        let Weather { jitter_ms, skew_ms, missed, marks, outages, slow, .. } = self.weather;
        let skew_ms = random.below(2 * skew_ms + 1) - skew_ms;
        let mut away: Vec<(i64, i64)> = (0..outages)
            .map(|_| {
                let start = START_MS + random.below(LENGTH_MS);
                (start, start + 20_000 + random.below(900_000))
            })
            .collect();
        away.extend(blackout);
        let factor = if slow && number == 1 { 4 } else { 1 };
        let phase_ms = random.below(self.weather.interval_ms);
        let (mut samples, mut was_missed) = (Vec::new(), false);
        let mut due_ms = START_MS + phase_ms;
        while due_ms < START_MS + LENGTH_MS {
            let at_ms = due_ms + random.below(jitter_ms + 1);
            let is_away = away.iter().any(|(start, end)| (*start..*end).contains(&due_ms));
            let is_missed = missed > 0 && random.next().is_multiple_of(missed);
            if is_missed && marks && !is_away && !was_missed && !samples.is_empty() {
                samples.push((at_ms + skew_ms, stale_nan()));
            } else if !is_missed && !is_away {
                samples.push((at_ms + skew_ms, self.value_at(at_ms)));
            }
            was_missed = is_missed || is_away;
            due_ms += self.interval_at(due_ms) * factor;
        }
        samples
    }

    pub fn interval_at(&self, time_ms: i64) -> i64 {
        let is_later = time_ms >= START_MS + LENGTH_MS / 2;
        if is_later { self.weather.later_interval_ms } else { self.weather.interval_ms }
    }

    /// All that was counted until then, restarts or not.
    pub fn total_at(&self, time_ms: i64) -> f64 {
        let at = (time_ms - START_MS) as f64;
        MEAN_RATE * (at - 0.5 * PERIOD_MS / TAU * ((at * TAU / PERIOD_MS).cos() - 1.0)) + 10_000.0
    }

    /// What the target shows then.
    pub fn value_at(&self, time_ms: i64) -> f64 {
        let restarted = self.restarts_ms.iter().rev().find(|restart| **restart <= time_ms);
        self.total_at(time_ms) - restarted.map_or(0.0, |restart| self.total_at(*restart))
    }

    /// The most that a counter can have risen between two samples: their times are those of clocks that go wrong.
    pub fn most_between(&self, from_ms: i64, to_ms: i64) -> f64 {
        let wrong_ms = self.weather.skew_ms;
        self.total_at(to_ms + wrong_ms) - self.total_at(from_ms - wrong_ms)
    }

    fn numbers(&self) -> Vec<(i64, f64)> {
        self.replicas.iter().flatten().copied().filter(|(_, value)| !value.is_nan()).collect()
    }

    /// Milliseconds in which `times_ms` has nothing for one and a half intervals though some replica has.
    pub fn holes_ms(&self, times_ms: &[i64]) -> i64 {
        let mut all_ms: Vec<i64> = self.numbers().iter().map(|(time_ms, _)| *time_ms).collect();
        all_ms.sort_unstable();
        const STEP_MS: i64 = 500;
        let has = |times_ms: &[i64], at_ms: i64| {
            let reach_ms = self.interval_at(at_ms) * 3 / 2 + 2 * self.weather.jitter_ms;
            let until = times_ms.partition_point(|time_ms| *time_ms <= at_ms);
            until > 0 && at_ms - times_ms[until - 1] <= reach_ms
        };
        let moments = (START_MS / STEP_MS..(START_MS + LENGTH_MS) / STEP_MS).map(|at| at * STEP_MS);
        moments.filter(|at_ms| has(&all_ms, *at_ms) && !has(times_ms, *at_ms)).count() as i64 * STEP_MS
    }
}
