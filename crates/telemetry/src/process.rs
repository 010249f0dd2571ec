//! `process_*` metrics, read from `/proc/self` when somebody scrapes.
//!
//! Invariant: a file that cannot be read or parsed leaves its metrics out; a scrape never fails for it. Names as in Prometheus' client libraries.
//! Source of the fields: proc_pid_stat(5), proc_pid_status(5).

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// `USER_HZ`: the kernel reports process times in hundredths of a second on every Linux platform we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let reading = Reading::take();
        if let Some(seconds) = reading.cpu_seconds {
            let counter = ConstCounter::new(seconds);
            let metric = encoder.encode_descriptor(
                "process_cpu_seconds",
                "Total user and system CPU time spent in seconds",
                None,
                prometheus_client::metrics::MetricType::Counter,
            )?;
            counter.encode(metric)?;
        }
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", reading.resident_memory_bytes),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", reading.virtual_memory_bytes),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds",
                reading.start_time_seconds,
            ),
            ("process_open_fds", "Number of open file descriptors", reading.open_files),
            ("process_max_fds", "Maximum number of open file descriptors", reading.max_files),
            ("process_threads", "Number of threads of the process", reading.threads),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let metric =
                encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

/// One look at `/proc`.
#[derive(Debug, Default)]
struct Reading {
    cpu_seconds: Option<f64>,
    resident_memory_bytes: Option<f64>,
    virtual_memory_bytes: Option<f64>,
    start_time_seconds: Option<f64>,
    open_files: Option<f64>,
    max_files: Option<f64>,
    threads: Option<f64>,
}

impl Reading {
    fn take() -> Self {
        let mut reading = Self::default();
        if let Ok(status) = fs::read_to_string("/proc/self/status") {
            reading.resident_memory_bytes = status_kib(&status, "VmRSS:");
            reading.virtual_memory_bytes = status_kib(&status, "VmSize:");
            reading.threads = status_number(&status, "Threads:");
        }
        if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
            // Counted after the name, which ends at the last ')': field 3 of the manual page is index 0 here.
            let fields: Vec<&str> =
                stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect());
            let ticks = |manual: usize| fields.get(manual - 3).and_then(|text| text.parse::<f64>().ok());
            if let (Some(user), Some(system)) = (ticks(14), ticks(15)) {
                reading.cpu_seconds = Some((user + system) / TICKS_PER_SECOND);
            }
            if let (Some(after_boot), Some(boot)) = (ticks(22), boot_time_seconds()) {
                reading.start_time_seconds = Some(boot + after_boot / TICKS_PER_SECOND);
            }
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            // One of the entries is the directory handle itself.
            let count = u32::try_from(entries.count().saturating_sub(1)).unwrap_or(u32::MAX);
            reading.open_files = Some(f64::from(count));
        }
        if let Ok(limits) = fs::read_to_string("/proc/self/limits") {
            let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
            reading.max_files =
                line.and_then(|rest| rest.split_whitespace().next()).and_then(|text| text.parse().ok());
        }
        reading
    }
}

fn status_number(status: &str, key: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn status_kib(status: &str, key: &str) -> Option<f64> {
    status_number(status, key).map(|kib| kib * 1024.0)
}

/// When the machine booted, in seconds since the epoch; constant, so that the start time does not wander between scrapes.
fn boot_time_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    status_number(&stat, "btime ")
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::Metrics;

    #[test]
    fn a_scrape_shows_the_process() {
        let text = Metrics::with_process().encode().unwrap();
        for name in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "process_start_time_seconds ",
            "process_open_fds ",
        ] {
            assert!(text.contains(name), "{name} is missing in {text}");
        }
        let started = Reading::take().start_time_seconds.unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(started <= now + 2.0 && started > now - 24.0 * 3600.0, "{started} against {now}");
    }
}
