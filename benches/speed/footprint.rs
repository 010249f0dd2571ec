//! What it costs to have it around: idle memory, the size of the binary, and how soon the demo mesh answers.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Options;
use crate::component::Component;
use crate::measure::{Table, memory_mib};
use crate::peer::Peer;

/// How long a process is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(3);
/// What `parallax demo` says when all parts answer.
const DEMO_IS_READY: &str = "the mesh is ready";

pub async fn run(options: &Options, bucket: &Path) -> anyhow::Result<()> {
    let mut table = Table::new("Footprint", &["what", "value"]);
    let our_store = Component::store(&options.parallax, bucket, &[]).await?;
    let our_querier = Component::query(&options.parallax, &[&our_store.grpc], &[]).await?;
    let (their_store, address) = Peer::store(&options.peers, bucket)?;
    let their_querier = Peer::query(&options.peers, &[&address])?;
    let mut idle = vec![
        ("Parallax store", our_store.id()),
        ("Parallax query", our_querier.id()),
        ("Thanos store (peers)", their_store.id()),
        ("Thanos query (peers)", their_querier.id()),
    ];
    let mut real = Vec::new();
    if let Some(thanos) = &options.thanos {
        let store = Component::store(thanos, bucket, &[]).await?;
        let querier = Component::query(thanos, &[&store.grpc], &[]).await?;
        idle.push(("Thanos store (binary)", store.id()));
        idle.push(("Thanos query (binary)", querier.id()));
        real.extend([store, querier]);
    }
    tokio::time::sleep(IDLE).await;
    for (name, process) in idle {
        table.row(&[format!("{name}, idle memory"), format!("{:.1} MiB", memory_mib(process, "VmRSS")?)]);
    }
    drop(real);
    table.row(&["Parallax binary, stripped".to_owned(), size(&options.parallax)?]);
    if let Some(thanos) = &options.thanos {
        table.row(&["Thanos binary, stripped".to_owned(), size(thanos)?]);
    }
    for (name, more) in [
        ("built-in stand-ins", ["--prometheus=none", "--nginx=none"]),
        ("auto", ["--prometheus=auto", "--nginx=auto"]),
    ] {
        let value = match demo(options, &more)? {
            Some(took) => format!("{:.1} s", took.as_secs_f64()),
            None => "not ready".to_owned(),
        };
        table.row(&[format!("`parallax demo --smoke` until the mesh is ready, {name}"), value]);
    }
    table.print();
    Ok(())
}

/// The size of a stripped copy.
fn size(binary: &Path) -> anyhow::Result<String> {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("stripped");
    let stripped =
        Command::new("strip").arg("-o").arg(&copy).arg(binary).status().is_ok_and(|status| status.success());
    let bytes = std::fs::metadata(if stripped { &copy } else { binary })?.len();
    let note = if stripped { "" } else { " (not stripped: no `strip` here)" };
    Ok(format!("{:.1} MB{note}", bytes as f64 / 1e6))
}

/// How long the demo takes until it says that it is ready; `None` if it ends without.
fn demo(options: &Options, more: &[&str]) -> anyhow::Result<Option<Duration>> {
    let started = Instant::now();
    let mut child = Command::new(&options.parallax)
        .args(["demo", "--smoke"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut ready = None;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            if line?.contains(DEMO_IS_READY) && ready.is_none() {
                ready = Some(started.elapsed());
            }
        }
    }
    child.wait()?;
    Ok(ready)
}
