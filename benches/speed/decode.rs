//! XOR chunks: samples decoded per second on one core, ours into columns and Prometheus' iterator sample by sample.
//!
//! A loop this short is disturbed by nothing but other work on the machine: the best pass counts, on both sides.

use std::hint::black_box;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::ensure;
use parallax_model::FloatColumn;
use parallax_tsdb::chunk::{XorAppender, decode_xor, sample_count};
use serde_json::Value;

use crate::Options;
use crate::measure::Table;

const CHUNKS: u64 = 5_000;
const SAMPLES_PER_CHUNK: i64 = 120;
/// Over all chunks, in each round; as many as the peer makes.
const PASSES: usize = 9;

/// The next value of a series from the last one and some random bits.
type Step = fn(f64, u64) -> f64;

const SETS: [(&str, Step); 4] = [
    ("constant", |value, _| value),
    ("counter, whole steps", |value, random| value + (random % 300) as f64),
    ("slow counter", |value, random| value + f64::from(u8::from(random % 4 == 0))),
    ("gauge, all bits", |value, random| value * (0.99 + (random % 2_000) as f64 / 1e5)),
];

/// Millions of samples per second, for one kind of chunks.
pub struct Decoded {
    pub set: &'static str,
    pub ours: f64,
    pub theirs: f64,
}

pub fn run(options: &Options, dir: &Path) -> anyhow::Result<Vec<Decoded>> {
    let mut table = Table::new(
        "XOR decoding, one core",
        &["chunks", "bits per sample", "Parallax Msamples/s", "Prometheus Msamples/s", "ratio"],
    );
    let mut all = Vec::with_capacity(SETS.len());
    for (name, step) in SETS {
        let chunks = chunks(step)?;
        let file = dir.join("chunks");
        dump(&file, &chunks)?;
        let samples: usize = chunks.iter().map(|chunk| sample_count(chunk).unwrap_or(0)).sum();
        let bytes: usize = chunks.iter().map(Vec::len).sum();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            for _ in 0..PASSES {
                let started = Instant::now();
                decode(&chunks)?;
                ours.push(samples as f64 / started.elapsed().as_secs_f64() / 1e6);
            }
            theirs.push(decode_as_prometheus(options, &file)? / 1e6);
        }
        let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
        let (ours, theirs) = (best(&ours), best(&theirs));
        table.row(&[
            name.to_owned(),
            format!("{:.1}", bytes as f64 * 8.0 / samples as f64),
            format!("{ours:.0}"),
            format!("{theirs:.0}"),
            format!("{:.2}", ours / theirs),
        ]);
        all.push(Decoded { set: name, ours, theirs });
    }
    table.print();
    Ok(all)
}

fn decode(chunks: &[Vec<u8>]) -> anyhow::Result<()> {
    let mut column = FloatColumn::default();
    for chunk in chunks {
        column.timestamps_ms.clear();
        column.values.clear();
        decode_xor(chunk, &mut column)?;
        black_box(&column);
    }
    Ok(())
}

/// The best pass over the file, in samples per second.
fn decode_as_prometheus(options: &Options, file: &Path) -> anyhow::Result<f64> {
    let output = Command::new(&options.peers).arg("xor").arg(file).output()?;
    ensure!(output.status.success(), "peers xor: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["samples_per_second"].as_f64().unwrap_or(f64::NAN))
}

fn chunks(step: Step) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..CHUNKS)
        .map(|number| {
            let mut appender = XorAppender::new();
            let mut value = (number * 977) as f64;
            for scrape in 0..SAMPLES_PER_CHUNK {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value = step(value, state >> 33);
                let late_ms = if state >> 20 & 15 == 0 { (state >> 25 & 3) as i64 } else { 0 };
                appender.append(1_782_864_000_000 + scrape * 15_000 + late_ms, value)?;
            }
            Ok(appender.into_bytes())
        })
        .collect()
}

fn dump(path: &Path, chunks: &[Vec<u8>]) -> anyhow::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for chunk in chunks {
        file.write_all(&u32::try_from(chunk.len())?.to_be_bytes())?;
        file.write_all(chunk)?;
    }
    Ok(file.flush()?)
}
