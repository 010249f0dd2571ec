//! Medians, memory of processes, and tables.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The median of some measurements; zero of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// How long `work` takes, in milliseconds, and what it returns.
pub async fn timed_ms<T>(work: impl Future<Output = T>) -> (f64, T) {
    let started = Instant::now();
    let result = work.await;
    (millis(started.elapsed()), result)
}

pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A size from `/proc/PID/status` in MiB: `VmHWM` is the peak of resident memory, `VmRSS` what it is now.
pub fn memory_mib(process: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0").parse()?;
    Ok(kib / 1024.0)
}

/// A table in Markdown.
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(title: &str, columns: &[&str]) -> Self {
        let text = format!("### {title}\n\n| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        Self { text }
    }

    pub fn row(&mut self, cells: &[String]) {
        // Writing to a text does not fail.
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    pub fn print(self) {
        println!("{}", self.text);
    }
}
