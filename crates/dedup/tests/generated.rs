//! Generated replicas of a counter whose truth is known: what the algorithms leave out and what they make up.
//!
//! Each seed is a world of its own; `DEDUP_SEED` runs one only.

#[path = "generated/world.rs"]
mod world;

use std::sync::Arc;

use parallax_dedup::{Algorithm, Chunk, ChunkEncoding, Content, Dedup, Samples};
use parallax_model::float::is_stale;
use parallax_model::{CounterResetHint, FloatHistogram, HistogramColumn, Span, TimeRange};
use parallax_tsdb::chunk::XorAppender;
use world::{FINE, LENGTH_MS, MAX_RATE, Random, START_MS, Weather, World};

const SEEDS: u64 = 60;
/// Chunks are cut there, as at the ends of blocks: replicas are told apart anew.
const CUT_MS: i64 = 1_800_000;
const CHUNK_SAMPLES: usize = 120;

fn seeds() -> Vec<u64> {
    match std::env::var("DEDUP_SEED") {
        Ok(text) => vec![text.parse().expect("DEDUP_SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    }
}

/// Chunks as Prometheus cuts them.
fn chunks(samples: &[(i64, f64)]) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    for part in samples.chunk_by(|a, b| a.0 / CUT_MS == b.0 / CUT_MS) {
        for samples in part.chunks(CHUNK_SAMPLES) {
            let mut appender = XorAppender::new();
            for (time_ms, value) in samples {
                appender.append(*time_ms, *value).unwrap();
            }
            chunks.push(Chunk {
                min_time_ms: samples[0].0,
                max_time_ms: samples[samples.len() - 1].0,
                encoding: ChunkEncoding::Xor,
                data: appender.into_bytes().into(),
                content: Content::Raw,
            });
        }
    }
    chunks
}

fn merged(world: &World, algorithm: Algorithm, function: &str) -> Vec<(i64, f64)> {
    let all: Vec<Chunk> = world.replicas.iter().flat_map(|samples| chunks(samples)).collect();
    let dedup = Dedup::new(Some(algorithm), function, TimeRange::ALL, TimeRange::ALL);
    let samples = dedup.series(&all).unwrap();
    assert!(samples.histograms.is_empty());
    samples.floats.iter().collect()
}

fn numbers(samples: &[(i64, f64)]) -> Vec<(i64, f64)> {
    samples.iter().copied().filter(|(_, value)| !is_stale(*value)).collect()
}

fn times(samples: &[(i64, f64)]) -> Vec<i64> {
    samples.iter().map(|(time_ms, _)| *time_ms).collect()
}

/// What a series adds up to, and its faults.
#[derive(Debug, Default)]
struct Faults {
    holes_ms: i64,
    /// Rises that did not happen, beyond what was counted.
    made_up: f64,
    /// Rises that are steeper than any can be.
    spikes: usize,
    /// By how much the sum of all rises is wrong.
    sum_off: f64,
}

impl Faults {
    fn of(world: &World, samples: &[(i64, f64)]) -> Self {
        let samples = numbers(samples);
        let mut faults = Self { holes_ms: world.holes_ms(&times(&samples)), ..Self::default() };
        let mut sum = 0.0;
        for pair in samples.windows(2) {
            let ((from_ms, from), (to_ms, to)) = (pair[0], pair[1]);
            let rise = if to < from { to } else { to - from };
            sum += rise;
            faults.made_up += (rise - world.most_between(from_ms, to_ms) - 1e-6).max(0.0);
            // Two clocks that are wrong either way, over as little as there may be between two samples.
            let near_ms = world.weather.interval_ms.min(world.weather.later_interval_ms) as f64 * 0.38;
            let steepest = MAX_RATE * (1.0 + 2.0 * world.weather.skew_ms as f64 / near_ms);
            faults.spikes += usize::from(rise / (to_ms - from_ms) as f64 > steepest * 1.01);
        }
        if let (Some(first), Some(last)) = (samples.first(), samples.last()) {
            faults.sum_off = sum - (world.total_at(last.0) - world.total_at(first.0));
        }
        faults
    }

    fn add(&mut self, other: &Self) {
        self.holes_ms += other.holes_ms;
        self.made_up += other.made_up;
        self.spikes += other.spikes;
        self.sum_off += other.sum_off.abs();
    }
}

/// The faults of all seeds: of gap-aware, which are looked at one by one, and of penalty.
fn faults_of(name: &str, weather: Weather, look: impl Fn(&World, &Faults, &Faults)) -> (Faults, Faults) {
    let (mut ours, mut theirs) = (Faults::default(), Faults::default());
    for seed in seeds() {
        let world = World::new(weather, seed);
        let gap_aware = merged(&world, Algorithm::GapAware, "rate");
        assert!(gap_aware.is_sorted_by(|a, b| a.0 < b.0), "{name}, seed {seed}: out of order");
        let (one, other) =
            (Faults::of(&world, &gap_aware), Faults::of(&world, &merged(&world, Algorithm::Penalty, "rate")));
        look(&world, &one, &other);
        ours.add(&one);
        theirs.add(&other);
    }
    println!("{name}: gap-aware {ours:?}, penalty {theirs:?}");
    (ours, theirs)
}

fn nothing_is_made_up(name: &'static str) -> impl Fn(&World, &Faults, &Faults) {
    move |world, ours, _| {
        let seed = world.seed;
        assert_eq!(ours.spikes, 0, "{name}, seed {seed}: {ours:?}");
        // A counter that goes on at another level takes a share of what its replica saw, by time: that is right but for how the rate changed.
        let share = if world.weather.restarts > 0 {
            MAX_RATE * world.weather.interval_ms as f64 / 50.0
        } else {
            1e-3
        };
        assert!(ours.made_up < share, "{name}, seed {seed}: {ours:?}, at most {share}");
    }
}

#[test]
fn replicas_without_fault_give_one_of_them() {
    for interval_ms in [1_000, 15_000, 60_000, 300_000] {
        let weather = Weather { interval_ms, later_interval_ms: interval_ms, ..FINE };
        for seed in seeds() {
            let mut world = World::new(weather, seed);
            // Chunks that are never cut together.
            world.replicas.iter_mut().for_each(|replica| replica.truncate(CHUNK_SAMPLES));
            world.replicas.iter_mut().for_each(|replica| replica.retain(|s| s.0 < START_MS + CUT_MS));
            let found = merged(&world, Algorithm::GapAware, "");
            assert!(world.replicas.contains(&found), "seed {seed}, every {interval_ms} ms");
        }
    }
}

#[test]
fn a_missed_scrape_is_filled_and_nothing_is_made_up() {
    let weather = Weather { missed: 20, jitter_ms: 200, ..FINE };
    let (ours, theirs) = faults_of("missed scrapes", weather, nothing_is_made_up("missed scrapes"));
    assert!(theirs.holes_ms > 0, "{theirs:?}");
    assert!(ours.holes_ms * 20 < theirs.holes_ms, "{ours:?} {theirs:?}");
}

#[test]
fn a_scrape_that_failed_is_filled_although_it_left_a_marker() {
    let weather = Weather { missed: 20, marks: true, jitter_ms: 200, ..FINE };
    for seed in seeds() {
        let world = World::new(weather, seed);
        let alone = |samples: &[(i64, f64)]| samples.iter().filter(|(_, value)| is_stale(*value)).count();
        let (ours, theirs) =
            (merged(&world, Algorithm::GapAware, ""), merged(&world, Algorithm::Penalty, ""));
        assert!(alone(&ours) * 5 < alone(&theirs), "seed {seed}: {} of {}", alone(&ours), alone(&theirs));
    }
}

#[test]
fn outages_phases_and_jitter_leave_fewer_holes_and_no_spikes() {
    for interval_ms in [10_000, 15_000, 60_000] {
        let weather = Weather {
            interval_ms,
            later_interval_ms: interval_ms,
            outages: 4,
            missed: 50,
            jitter_ms: interval_ms / 20,
            ..FINE
        };
        let (ours, theirs) = faults_of("outages", weather, nothing_is_made_up("outages"));
        assert!(ours.holes_ms * 10 < theirs.holes_ms, "every {interval_ms} ms: {ours:?} {theirs:?}");
    }
}

#[test]
fn clocks_that_differ_make_no_spikes() {
    let weather = Weather { outages: 6, missed: 15, skew_ms: 4_000, jitter_ms: 300, ..FINE };
    let (ours, theirs) = faults_of("skew", weather, |world, ours, _| {
        nothing_is_made_up("skew")(world, ours, ours);
        // What a change of replica adds another one takes off again.
        let most = MAX_RATE * 4.0 * world.weather.skew_ms as f64;
        assert!(ours.sum_off.abs() <= most, "seed {}: {ours:?}, at most {most}", world.seed);
    });
    assert!(ours.holes_ms * 10 < theirs.holes_ms, "{ours:?} {theirs:?}");
}

#[test]
fn restarts_of_the_target_are_counted_once() {
    let weather = Weather { outages: 5, missed: 30, restarts: 6, jitter_ms: 300, ..FINE };
    let (ours, theirs) = faults_of("restarts", weather, nothing_is_made_up("restarts"));
    assert!(theirs.spikes > 0 && theirs.made_up > 0.0, "penalty makes something up here: {theirs:?}");
    // What nobody scraped before a restart is missing from both.
    assert!(ours.sum_off * 3.0 < theirs.sum_off, "{ours:?} {theirs:?}");
}

#[test]
fn restarts_under_clocks_that_differ_make_no_spikes() {
    let weather = Weather { outages: 5, missed: 20, restarts: 6, skew_ms: 3_000, jitter_ms: 300, ..FINE };
    let name = "restarts and skew";
    let (ours, theirs) = faults_of(name, weather, nothing_is_made_up(name));
    assert!(ours.holes_ms * 10 < theirs.holes_ms, "{ours:?} {theirs:?}");
}

#[test]
fn a_changed_interval_is_learned() {
    for (before_ms, after_ms) in [(15_000, 60_000), (60_000, 15_000), (30_000, 20_000)] {
        let weather = Weather {
            interval_ms: before_ms,
            later_interval_ms: after_ms,
            outages: 3,
            missed: 30,
            jitter_ms: 200,
            ..FINE
        };
        let (ours, theirs) = faults_of("interval", weather, nothing_is_made_up("interval"));
        assert!(ours.holes_ms * 5 < theirs.holes_ms, "{before_ms} to {after_ms}: {ours:?} {theirs:?}");
    }
}

#[test]
fn a_slow_replica_is_not_stayed_with() {
    let weather = Weather { slow: true, outages: 2, missed: 40, jitter_ms: 200, ..FINE };
    for seed in seeds() {
        let world = World::new(weather, seed);
        let fast = numbers(&world.replicas[0]).len();
        let found = numbers(&merged(&world, Algorithm::GapAware, "")).len();
        assert!(found + 2 >= fast, "seed {seed}: {found} of the fast replica's {fast}");
    }
}

#[test]
fn when_all_are_away_nothing_is_invented() {
    let weather = Weather { blackout: true, outages: 2, missed: 30, ..FINE };
    let (ours, theirs) = faults_of("blackout", weather, nothing_is_made_up("blackout"));
    assert!(ours.holes_ms * 5 < theirs.holes_ms, "{ours:?} {theirs:?}");
}

#[test]
fn three_replicas_are_as_good_as_two() {
    let weather = Weather { replicas: 3, outages: 6, missed: 10, skew_ms: 2_000, jitter_ms: 300, ..FINE };
    let (ours, theirs) = faults_of("three replicas", weather, nothing_is_made_up("three replicas"));
    assert!(ours.holes_ms * 10 < theirs.holes_ms, "{ours:?} {theirs:?}");
}

#[test]
fn every_sample_of_a_gauge_is_one_that_a_replica_had() {
    let weather = Weather {
        outages: 6,
        missed: 10,
        marks: true,
        restarts: 3,
        skew_ms: 3_000,
        jitter_ms: 2_000,
        replicas: 3,
        later_interval_ms: 40_000,
        ..FINE
    };
    for seed in seeds() {
        let world = World::new(weather, seed);
        let found = merged(&world, Algorithm::GapAware, "");
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "seed {seed}");
        for (time_ms, value) in &found {
            let is_of = |replica: &Vec<(i64, f64)>| {
                replica.iter().any(|(at_ms, had)| at_ms == time_ms && had.to_bits() == value.to_bits())
            };
            assert!(world.replicas.iter().any(is_of), "seed {seed}: {value} at {time_ms}");
        }
        let shortest_ms = numbers(&found).windows(2).map(|pair| pair[1].0 - pair[0].0).min().unwrap();
        assert!(shortest_ms >= 15_000 * 2 / 5 - 2_000, "seed {seed}: {shortest_ms} ms apart");
    }
}

/// Samples of native histograms: two buckets, three parts of the counts in the first one.
fn histograms(samples: &[(i64, f64)]) -> Samples {
    let mut column = HistogramColumn::default();
    let mut before: Option<f64> = None;
    for (time_ms, value) in samples {
        let hint = match before {
            None => CounterResetHint::Unknown,
            Some(before) if *value < before => CounterResetHint::Reset,
            Some(_) => CounterResetHint::NotReset,
        };
        let buckets = vec![value * 0.75, value * 0.25];
        let spans = vec![Span { offset: 0, length: 2 }];
        column.push(
            *time_ms,
            Arc::new(FloatHistogram {
                counter_reset_hint: hint,
                count: *value,
                sum: *value,
                positive_spans: spans,
                positive_buckets: buckets,
                ..FloatHistogram::default()
            }),
        );
        before = Some(*value);
    }
    Samples { histograms: column, ..Samples::default() }
}

/// How much the counts rise that never happened, as `rate` sees resets.
fn made_up_counts(world: &World, samples: &Samples) -> f64 {
    let all: Vec<_> = samples.histograms.iter().collect();
    let mut made_up = 0.0;
    for pair in all.windows(2) {
        let ((from_ms, from), (to_ms, to)) = (&pair[0], &pair[1]);
        let rise = if to.detect_reset(from) { to.count } else { to.count - from.count };
        made_up += (rise - world.most_between(*from_ms, *to_ms) - 1e-6).max(0.0);
    }
    made_up
}

#[test]
fn histograms_have_fewer_holes_and_no_spikes() {
    let weather = Weather { outages: 5, missed: 15, restarts: 3, skew_ms: 5_000, jitter_ms: 300, ..FINE };
    let (mut ours, mut theirs) = ((0, 0.0), (0, 0.0));
    for seed in seeds() {
        let world = World::new(weather, seed);
        let replicas: Vec<Samples> = world.replicas.iter().map(|samples| histograms(samples)).collect();
        for (algorithm, sum) in [(Algorithm::GapAware, &mut ours), (Algorithm::Penalty, &mut theirs)] {
            let dedup = Dedup::new(Some(algorithm), "rate", TimeRange::ALL, TimeRange::ALL);
            let samples = dedup.merge(replicas.clone());
            let times_ms = &samples.histograms.timestamps_ms;
            assert!(times_ms.is_sorted_by(|a, b| a < b));
            let made_up = made_up_counts(&world, &samples);
            if algorithm == Algorithm::GapAware {
                assert!(made_up < 1e-3, "seed {seed}: {made_up} made up");
            }
            sum.0 += world.holes_ms(times_ms);
            sum.1 += made_up;
        }
    }
    println!("histograms, holes in ms and what is made up: gap-aware {ours:?}, penalty {theirs:?}");
    assert!(ours.0 * 5 < theirs.0, "holes: {} and {}", ours.0, theirs.0);
    assert!(theirs.1 > 0.0, "penalty makes something up here");
}

#[test]
fn counters_that_were_flattened_go_on_where_they_were() {
    // The compactor takes resets out; what a replica missed of one, it lacks for good.
    let weather = Weather { interval_ms: 300_000, later_interval_ms: 300_000, jitter_ms: 2_000, ..FINE };
    for seed in seeds() {
        let mut world = World::new(weather, seed);
        let mut random = Random::new(seed);
        let missing = MAX_RATE * random.below(LENGTH_MS) as f64;
        world.replicas[1].iter_mut().for_each(|(_, value)| *value -= missing.min(9_000.0));
        let away = START_MS + 3_600_000..START_MS + 5_400_000;
        world.replicas[0].retain(|(time_ms, _)| !away.contains(time_ms));
        let away = START_MS + 7_200_000..START_MS + 9_000_000;
        world.replicas[1].retain(|(time_ms, _)| !away.contains(time_ms));
        let dedup = Dedup::new(Some(Algorithm::GapAware), "increase", TimeRange::ALL, TimeRange::ALL);
        let floats = |samples: &Vec<(i64, f64)>| {
            let mut all = Samples::default();
            samples.iter().for_each(|(time_ms, value)| all.floats.push(*time_ms, *value));
            all
        };
        let found: Vec<(i64, f64)> =
            dedup.merge(world.replicas.iter().map(floats).collect()).floats.iter().collect();
        let faults = Faults::of(&world, &found);
        assert!(found.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "seed {seed}: it falls");
        let interval = MAX_RATE * 300_000.0;
        assert!(faults.sum_off.abs() < 3.0 * interval, "seed {seed}: {faults:?}, {interval} per interval");
    }
}
