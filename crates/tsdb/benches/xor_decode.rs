//! How fast XOR chunks are decoded, in samples per second on one core.
//!
//!     cargo bench -p parallax-tsdb --bench xor_decode [-- --set NAME] [--dump FILE | --once]
//!
//! Every set is decoded chunk by chunk into one reused column; the rate is the median of several
//! runs, the time in brackets that of the best, which other work on the machine disturbs least. `--dump` writes the
//! chunks of all selected sets (each a big-endian `u32` length and the bytes) instead, so that another program can decode the
//! same: the sets one after the other, and their names and sizes on standard output. `--once` decodes every set into columns just once, for an instruction counter such as callgrind.

use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parallax_model::FloatColumn;
use parallax_tsdb::chunk::{ChunkEncoding, XorAppender, XorReader, decode_xor, sample_count};
use parallax_tsdb::segment::Segments;

const SAMPLES_PER_CHUNK: usize = 120;
const CHUNKS_PER_SET: usize = 2_000;
const RUNS: usize = 15;
const RUN_TIME: Duration = Duration::from_millis(100);

struct Set {
    name: &'static str,
    chunks: Vec<Vec<u8>>,
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut dump, mut wanted, mut once) = (None, None, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--dump" => dump = arguments.next(),
            "--once" => once = true,
            "--set" => wanted = arguments.next(),
            other => panic!("unknown argument {other}"),
        }
    }
    let mut sets = generated();
    sets.extend(golden());
    sets.retain(|set| wanted.as_deref().is_none_or(|wanted| wanted == set.name));
    match dump {
        Some(path) => write_dump(Path::new(&path), &sets),
        None if once => sets.iter().for_each(decode_columns),
        None => sets.iter().for_each(measure),
    }
}

/// The next value of a series after the last one.
type Step = Box<dyn FnMut(&mut Random, f64) -> f64>;

/// Shapes of real series: timestamps every 15 s, some a few milliseconds off.
fn generated() -> Vec<Set> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let jitter = |random: &mut Random| if random.below(10) == 0 { random.below(7) as i64 - 3 } else { 0 };
    let mut set = |name, mut next: Step, jittered: bool| {
        let mut chunks = Vec::with_capacity(CHUNKS_PER_SET);
        for _ in 0..CHUNKS_PER_SET {
            let mut appender = XorAppender::new();
            let mut value = random.below(1_000_000) as f64;
            for index in 0..SAMPLES_PER_CHUNK {
                let late = if jittered { jitter(&mut random) } else { 0 };
                value = next(&mut random, value);
                appender.append(1_780_000_000_000 + index as i64 * 15_000 + late, value).expect("in order");
            }
            chunks.push(appender.into_bytes());
        }
        Set { name, chunks }
    };
    vec![
        set("constant", Box::new(|_, value| value), false),
        set("counter", Box::new(|random, value| value + random.below(300) as f64), false),
        set("counter-jitter", Box::new(|random, value| value + random.below(300) as f64), true),
        set(
            "slow-counter",
            Box::new(|random, value| value + if random.below(4) == 0 { 1.0 } else { 0.0 }),
            false,
        ),
        set("gauge", Box::new(|random, value| value + random.below(2_001) as f64 - 1_000.0), false),
        set(
            "gauge-fraction",
            Box::new(|random, value| value * (0.99 + random.below(2_000) as f64 / 1e5)),
            false,
        ),
    ]
}

/// The chunks that Prometheus wrote, if the recorded blocks are there.
fn golden() -> Option<Set> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let shared = std::env::var_os("PARALLAX_SHARED").map_or(workspace.join("../shared"), PathBuf::from);
    let bucket = [shared.join("golden/bucket-short"), workspace.join("tests/golden/bucket-short")]
        .into_iter()
        .find(|path| path.is_dir())?;
    let mut chunks = Vec::new();
    for block in std::fs::read_dir(bucket).ok()?.flatten() {
        for segment in Segments::open_dir(&block.path().join("chunks")).ok()?.iter() {
            let xor = segment.chunks().flatten().filter(|(_, chunk)| chunk.encoding == ChunkEncoding::Xor);
            chunks.extend(xor.map(|(_, chunk)| chunk.data.to_vec()));
        }
    }
    Some(Set { name: "golden", chunks })
}

fn decode_columns(set: &Set) {
    let mut column = FloatColumn::default();
    for chunk in &set.chunks {
        column.timestamps_ms.clear();
        column.values.clear();
        decode_xor(chunk, &mut column).expect("a whole chunk");
        black_box(&column);
    }
}

fn measure(set: &Set) {
    let samples: usize = set.chunks.iter().map(|chunk| sample_count(chunk).unwrap_or(0)).sum();
    let bytes: usize = set.chunks.iter().map(Vec::len).sum();
    let (columns, best_columns) = rates(samples, || decode_columns(set));
    let (streamed, best_streamed) = rates(samples, || {
        for chunk in &set.chunks {
            for sample in XorReader::new(chunk).expect("a whole chunk") {
                black_box(sample.is_ok());
            }
        }
    });
    println!(
        "{:>16}: {:4.1} bits/sample, columns {:6.1} Msamples/s ({:5.2} ns), streamed {:6.1} Msamples/s ({:5.2} ns)",
        set.name,
        bytes as f64 * 8.0 / samples as f64,
        columns / 1e6,
        1e9 / best_columns,
        streamed / 1e6,
        1e9 / best_streamed,
    );
}

/// Samples per second: the median and the best of several runs.
fn rates(samples: usize, mut pass: impl FnMut()) -> (f64, f64) {
    pass();
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let mut passes = 0;
            while start.elapsed() < RUN_TIME {
                pass();
                passes += 1;
            }
            (passes * samples) as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    (rates[RUNS / 2], rates[RUNS - 1])
}

fn write_dump(path: &Path, sets: &[Set]) {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("the dump can be created"));
    for set in sets {
        println!("{} {}", set.name, set.chunks.len());
        for chunk in &set.chunks {
            file.write_all(&(chunk.len() as u32).to_be_bytes()).expect("the dump can be written");
            file.write_all(chunk).expect("the dump can be written");
        }
    }
    file.flush().expect("the dump can be written");
}

/// xorshift64*: the same data in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % bound
    }
}
