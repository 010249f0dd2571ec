//! Two replicas into one series, on one core: from chunks to columns, by algorithm, and what each leaves out of it.
//!
//! Each pass decodes and merges everything anew; the best pass counts, as for decoding.

use std::hint::black_box;
use std::time::Instant;

use parallax_dedup::{Algorithm, Chunk, ChunkEncoding, Content, Dedup};
use parallax_model::TimeRange;
use parallax_tsdb::chunk::XorAppender;

use crate::measure::Table;

const SERIES: u64 = 500;
/// Six hours.
const SCRAPES: i64 = 1440;
const SCRAPE_MS: i64 = 15_000;
const SAMPLES_PER_CHUNK: usize = 120;
const START_MS: i64 = 1_782_864_000_000;

/// One scrape in so many is missed, at random; 0 for none.
const MISSED: [u64; 3] = [0, 200, 10];

pub fn run(rounds: usize) -> anyhow::Result<()> {
    let mut table = Table::new(
        "Two replicas, one core",
        &[
            "missed scrapes",
            "function",
            "algorithm",
            "Msamples/s of both replicas",
            "samples given of those scraped by one at least",
        ],
    );
    for missed in MISSED {
        let (all, scraped) = series(missed)?;
        let samples: usize = all.iter().map(|(_, samples)| samples).sum();
        for function in ["", "rate"] {
            for algorithm in Algorithm::ALL {
                let dedup = Dedup::new(Some(algorithm), function, TimeRange::ALL, TimeRange::ALL);
                let (mut best, mut given) = (0.0_f64, 0);
                for _ in 0..rounds.max(3) {
                    given = 0;
                    let started = Instant::now();
                    for (chunks, _) in &all {
                        given += black_box(dedup.series(chunks)?).len();
                    }
                    best = best.max(samples as f64 / started.elapsed().as_secs_f64() / 1e6);
                }
                table.row(&[
                    if missed == 0 { "none".to_owned() } else { format!("one in {missed}") },
                    if function.is_empty() { "none".to_owned() } else { function.to_owned() },
                    algorithm.to_string(),
                    format!("{best:.0}"),
                    format!("{:.3}", given as f64 / scraped as f64),
                ]);
            }
        }
    }
    table.print();
    Ok(())
}

/// A series' chunks, and how many samples they hold.
type Replicas = (Vec<Chunk>, usize);

/// All series, and how many scrapes at least one replica has.
fn series(missed: u64) -> anyhow::Result<(Vec<Replicas>, usize)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut all, mut scraped) = (Vec::new(), 0);
    for _ in 0..SERIES {
        let mut replicas = [Vec::new(), Vec::new()];
        let phases_ms = [0, 4_000 + i64::try_from(random(7_000))?];
        let mut value = random(100_000) as f64;
        for scrape in 0..SCRAPES {
            let mut is_there = false;
            for (replica, phase_ms) in replicas.iter_mut().zip(phases_ms) {
                value += random(150) as f64;
                if missed == 0 || random(missed) > 0 {
                    replica.push((START_MS + scrape * SCRAPE_MS + phase_ms, value));
                    is_there = true;
                }
            }
            scraped += usize::from(is_there);
        }
        let samples = replicas.iter().map(Vec::len).sum();
        let mut chunks = Vec::new();
        for part in replicas.iter().flat_map(|replica| replica.chunks(SAMPLES_PER_CHUNK)) {
            chunks.push(chunk(part)?);
        }
        all.push((chunks, samples));
    }
    Ok((all, scraped))
}

fn chunk(samples: &[(i64, f64)]) -> anyhow::Result<Chunk> {
    let mut appender = XorAppender::new();
    for (time_ms, value) in samples {
        appender.append(*time_ms, *value)?;
    }
    let time_of = |sample: Option<&(i64, f64)>| sample.map_or(0, |(time_ms, _)| *time_ms);
    Ok(Chunk {
        min_time_ms: time_of(samples.first()),
        max_time_ms: time_of(samples.last()),
        encoding: ChunkEncoding::Xor,
        data: appender.into_bytes().into(),
        content: Content::Raw,
    })
}
