//! Child processes that end when the demo does: asked first, killed if they do not listen.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// How long a child may take to end after it was asked.
const GRACE: Duration = Duration::from_secs(5);

/// The children of a mesh, in the order of their start.
#[derive(Default)]
pub struct Children(Vec<Named>);

struct Named {
    name: String,
    child: Child,
}

impl Children {
    /// Starts a program; what it prints goes to `<name>.log` in `logs`. Gives its process number.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self, name: &str, mut command: Command, logs: &Path) -> anyhow::Result<u32> {
        let path = logs.join(format!("{name}.log"));
        let log = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
        let both = log.try_clone().with_context(|| path.display().to_string())?;
        // A group of its own: Ctrl-C reaches the demo, and the demo ends its children in order.
        command.stdin(Stdio::null()).stdout(log).stderr(both).kill_on_drop(true).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        let pid = child.id().with_context(|| format!("{name} ended at once"))?;
        self.0.push(Named { name: name.to_owned(), child });
        Ok(pid)
    }

    /// The first child that has ended, by name.
    pub fn ended(&mut self) -> Option<String> {
        self.0.iter_mut().find_map(|named| match named.child.try_wait() {
            Ok(Some(status)) => Some(format!("{} ended ({status})", named.name)),
            _ => None,
        })
    }

    /// Ends all children, the last started first.
    pub async fn stop(mut self) {
        for named in self.0.iter().rev() {
            ask(&named.child, Signal::TERM);
        }
        for named in self.0.iter_mut().rev() {
            if tokio::time::timeout(GRACE, named.child.wait()).await.is_err() {
                tracing::warn!(child = named.name, "child does not end, killing it");
                // The child is reaped by kill, so nothing is left to wait for.
                let _ = named.child.kill().await;
            }
        }
    }
}

fn ask(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment.
        let _ = kill_process(pid, signal);
    }
}
