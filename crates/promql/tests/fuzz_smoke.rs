//! The fuzz targets over mutated seeds: bounded and repeatable. `PARALLAX_SEED` asks for other mutations, `PARALLAX_FUZZ_RUNS` for more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

#[path = "../../../fuzz/targets.rs"]
mod targets;

const DEFAULT_SEED: u64 = 20_260_701;
const PARSE_RUNS: u64 = 20_000;
const SCRIPT_RUNS: u64 = 1_500;
/// What queries and scripts are made of, for insertions.
const PIECES: &[&str] = &[
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "[5m:",
    "offset ",
    "@",
    "end()",
    "by",
    "sum",
    "rate(",
    "\"",
    "'",
    "`",
    "\\",
    "x",
    "5m",
    "-",
    "^",
    "1e999",
    "0x",
    "NaN",
    "bool",
    "group_left",
    "on",
    "=~",
    "!",
    "#",
    "\n",
    "\n  ",
    "é",
    "\u{fffd}",
    "\0",
    "load 1m\n",
    "eval instant at 0 ",
    "expect ",
    "{{",
    "}}",
    "x100",
    "_",
    "stale",
    "schema:-53",
    "custom_values:[",
    "buckets:[",
    "count:",
    "9999999999999999999",
    "fill(",
    "step()",
    "smoothed",
];

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }

    fn mutated(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len() + 1);
            match self.below(7) {
                0 => drop(bytes.splice(at..at, PIECES[self.below(PIECES.len())].bytes())),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => drop(bytes.drain(at..(at + self.below(9)).min(bytes.len()))),
                3 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len() + 1);
                    let piece: Vec<u8> = other[from..].iter().take(1 + self.below(40)).copied().collect();
                    bytes.splice(at..at, piece);
                }
                4 => {
                    let piece: Vec<u8> = bytes[at..].iter().take(1 + self.below(12)).copied().collect();
                    (0..self.below(5)).for_each(|_| drop(bytes.splice(at..at, piece.iter().copied())));
                }
                5 => bytes.truncate(at),
                _ => bytes.insert(at, b" ()\"'[]{},0.:\n"[self.below(14)]),
            }
        }
        bytes
    }
}

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

fn run(folder: &str, runs: u64, target: fn(&[u8])) {
    let seeds = seeds(folder);
    seeds.iter().for_each(|seed| target(seed));
    let seed = number("PARALLAX_SEED").unwrap_or(DEFAULT_SEED);
    println!("{folder}: PARALLAX_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..number("PARALLAX_FUZZ_RUNS").unwrap_or(runs) {
        let input = random.mutated(&seeds);
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        assert!(outcome.is_ok(), "on {:?}", String::from_utf8_lossy(&input));
    }
}

#[test]
fn no_mutated_query_breaks_the_parser() {
    run("parse", PARSE_RUNS, targets::parse);
}

#[test]
fn no_mutated_script_breaks_the_runner() {
    run("script", SCRIPT_RUNS, targets::script);
}
