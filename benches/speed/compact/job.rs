//! A process that is run to its end, and what it cost.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::fs::{Advice, fadvise};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::measure::{cpu_ms, memory_mib};

/// How often the peak of memory is looked at, which is gone when the process is.
const POLL: Duration = Duration::from_millis(5);

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub wall_s: f64,
    /// User and system.
    pub cpu_s: f64,
    /// Of resident memory.
    pub peak_mib: f64,
    /// From and to the disk: what the page cache answers does not count, and what is deleted before it is written back does.
    pub read_mb: f64,
    pub written_mb: f64,
}

impl Cost {
    pub fn traffic_mb(&self) -> f64 {
        self.read_mb + self.written_mb
    }
}

/// Runs a command to its end; what it says goes to `log`.
pub fn run(command: &mut Command, log: &Path) -> anyhow::Result<Cost> {
    let file = File::create(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let started = Instant::now();
    let mut child = command.spawn()?;
    let id = child.id();
    let pid = Pid::from_raw(i32::try_from(id)?).context("a process id")?;
    // Until it is waited for, its times and counts can still be read.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let mut peak_mib = 0.0f64;
    while waitid(WaitId::Pid(pid), ended)?.is_none() {
        peak_mib = peak_mib.max(memory_mib(id, "VmHWM").unwrap_or(0.0));
        std::thread::sleep(POLL);
    }
    let wall_s = started.elapsed().as_secs_f64();
    let cpu_s = cpu_ms(id)? / 1e3;
    let (read_mb, written_mb) = disk_mb(id)?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}: {}", std::fs::read_to_string(log)?);
    Ok(Cost { wall_s, cpu_s, peak_mib, read_mb, written_mb })
}

fn disk_mb(process: u32) -> anyhow::Result<(f64, f64)> {
    let text = std::fs::read_to_string(format!("/proc/{process}/io"))?;
    let field = |name: &str| -> anyhow::Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(line.with_context(|| format!("/proc has no {name}"))?.parse::<f64>()? / 1e6)
    };
    Ok((field("read_bytes")?, field("write_bytes")?))
}

/// Makes `to` a bucket with links to the files of another, none of which is in the page cache.
pub fn link_cold(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            link_cold(&entry.path(), &target)?;
            continue;
        }
        std::fs::hard_link(entry.path(), &target)?;
        let file = File::open(&target)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
