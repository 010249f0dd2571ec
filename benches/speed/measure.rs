//! Medians, memory of processes, and tables.

use std::fmt::Write as _;
use std::time::Duration;

/// The median of some measurements; zero of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
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

/// Forgets the peak of a process' resident memory (`VmHWM`). Without the right to do so the peak is that since its start.
pub fn reset_peak(process: u32) {
    let _ = std::fs::write(format!("/proc/{process}/clear_refs"), "5");
}

/// How much CPU time a process has used, in milliseconds, to about ten of them.
pub fn cpu_ms(process: u32) -> anyhow::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which is in parentheses and may hold anything, user and system time are the 12th and 13th fields.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND * 1e3)
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
