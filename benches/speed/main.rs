//! The speed harness: the same questions to Parallax and to the real Thanos and Prometheus, in the same run.
//!
//!     cargo bench --bench speed                        everything
//!     cargo bench --bench speed -- decode store        some parts: decode, dedup, store, query, targets, footprint, sidecar, growth, compact,
//!                                                      hub, gateway, merge
//!
//! The real ones are the Go program tests/peers (Thanos' store gateway, its StoreAPI client and querier, Prometheus' engine), which
//! `PARALLAX_PEERS` names; `tests/run` builds it, and so does `cd tests/peers && go build -tags slicelabels -o FILE .`.
//! Environment:
//!
//! - `SPEED_SERIES` (20000), `SPEED_HOURS` (6, in blocks of 2 h), `SPEED_ROUNDS` (7): the size of the data and how often each thing is measured
//! - `SPEED_SIDECAR_SERIES` (100000): what is read through a sidecar, over two hours
//! - `SPEED_PLOT` (growth.svg in the target directory): where `growth` draws its plot; it measures sizes of its own
//! - `SPEED_COMPACT_SERIES` (100000): series of each block that is compacted
//! - `SPEED_SERIES` is of each of two replicas in `merge`, and `SPEED_ROUNDS` is 3 there
//! - `SPEED_CLUSTERS` (100), `SPEED_HUB_SERIES` (10000): clusters under one hub, and series of each of the ten whose results cross the border
//! - `SPEED_GATEWAY_SERIES` (100000): series of each of six blocks that are read through a store gateway; `SPEED_ROUNDS` is 3 there
//! - `SPEED_DIR`: a folder in which the data stays for the next run; otherwise it is temporary
//! - `THANOS_BIN`: a real `thanos`, asked as `thanos store` and `thanos query` (with both of its engines) instead of the stand-in
//! - `PROMETHEUS_BIN`: a real `prometheus`, asked over HTTP on the same blocks instead of the stand-in
//! - `PARALLAX_BIN`: the binary to measure instead of the one that cargo built for this bench
//!
//! Who is asked first alternates by round, and nobody is asked before all others are idle; a question that is answered in a few milliseconds is asked again and
//! again in its turn. A number is the median of all answers. Tables are printed as they stand in BENCHMARKS.md.

mod compact;
#[allow(dead_code, reason = "shared with tests/peers.rs, which uses the rest")]
#[path = "../../tests/peers_support/component.rs"]
mod component;
mod contender;
mod data;
mod decode;
mod dedup;
mod footprint;
mod gateway;
mod growth;
mod hub;
mod measure;
mod merge;
#[allow(dead_code, reason = "shared with tests/peers.rs, which uses the rest")]
#[path = "../../tests/peers_support/peer.rs"]
mod peer;
mod plot;
mod query;
mod sidecar;
mod stop;
mod store;
mod targets;

use std::path::PathBuf;

use anyhow::Context as _;
use data::Shape;

/// What was asked for.
pub struct Options {
    pub shape: Shape,
    pub rounds: usize,
    /// The Go program.
    pub peers: PathBuf,
    pub parallax: PathBuf,
    pub thanos: Option<PathBuf>,
    pub prometheus: Option<PathBuf>,
}

const PARTS: [&str; 12] = [
    "decode",
    DEDUP,
    "store",
    "query",
    "targets",
    "footprint",
    "sidecar",
    "growth",
    COMPACT,
    HUB,
    GATEWAY,
    MERGE,
];

const DEDUP: &str = "dedup";
const COMPACT: &str = "compact";
const HUB: &str = "hub";
const GATEWAY: &str = "gateway";
const MERGE: &str = "merge";

fn main() -> anyhow::Result<()> {
    let number = |name: &str, default: usize| {
        std::env::var(name)
            .ok()
            .map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
    };
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(&part.as_str())) {
        anyhow::bail!("there is no part {unknown}; there are {PARTS:?}");
    }
    if wanted.is_empty() && !std::env::args().any(|argument| argument == "--bench") {
        println!(
            "left out: the speed harness measures under `cargo bench`, or when parts are named: {PARTS:?}"
        );
        return Ok(());
    }
    let rounds = number("SPEED_ROUNDS", 7)?.max(1);
    if wanted.is_empty() || wanted.iter().any(|part| part == DEDUP) {
        dedup::run(rounds)?;
    }
    if wanted.is_empty() || wanted.iter().any(|part| part == COMPACT) {
        compact::run(&compact::Options {
            series: number("SPEED_COMPACT_SERIES", 100_000)?.max(10),
            rounds: number("SPEED_ROUNDS", 1)?.max(1),
            parallax: component::parallax(),
            thanos: real("THANOS_BIN")?,
            dir: std::env::var_os("SPEED_DIR").map(PathBuf::from),
        })?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if wanted.is_empty() || wanted.iter().any(|part| part == HUB) {
        runtime.block_on(hub::run(&hub::Options {
            parallax: component::parallax(),
            clusters: number("SPEED_CLUSTERS", 100)?,
            series: number("SPEED_HUB_SERIES", 10_000)?,
            rounds: number("SPEED_ROUNDS", 3)?.max(1),
        }))?;
    }
    if wanted.is_empty() || wanted.iter().any(|part| part == GATEWAY) {
        let options = gateway::Options {
            series: number("SPEED_GATEWAY_SERIES", 100_000)?.max(1000),
            rounds: number("SPEED_ROUNDS", 3)?.max(1),
            parallax: component::parallax(),
            thanos: real("THANOS_BIN")?,
        };
        let temporary = tempfile::tempdir()?;
        let dir = std::env::var_os("SPEED_DIR").map(PathBuf::from);
        runtime.block_on(gateway::run(&options, dir.as_deref().unwrap_or(temporary.path())))?;
    }
    if wanted.is_empty() || wanted.iter().any(|part| part == MERGE) {
        let options = merge::Options {
            series: number("SPEED_SERIES", 20_000)?.max(1000),
            rounds: number("SPEED_ROUNDS", 3)?.max(1),
            parallax: component::parallax(),
            thanos: real("THANOS_BIN")?,
        };
        let temporary = tempfile::tempdir()?;
        let dir = std::env::var_os("SPEED_DIR").map(PathBuf::from);
        runtime.block_on(merge::run(&options, dir.as_deref().unwrap_or(temporary.path())))?;
    }
    // Sidecar, compactor, gateway and querier are compared with real programs only; the hub is measured against its targets, dedup against itself.
    let is_real = |part: &String| ["sidecar", DEDUP, COMPACT, HUB, GATEWAY, MERGE].contains(&part.as_str());
    let needs_peers = wanted.is_empty() || !wanted.iter().all(is_real);
    let peers =
        if needs_peers { peer::program_or_leave_out("the speed harness") } else { Some(PathBuf::new()) };
    let Some(peers) = peers else { return Ok(()) };
    let options = Options {
        shape: Shape { series: number("SPEED_SERIES", 20_000)?, hours: number("SPEED_HOURS", 6)? },
        rounds,
        peers,
        parallax: component::parallax(),
        thanos: real("THANOS_BIN")?,
        prometheus: real("PROMETHEUS_BIN")?,
    };
    runtime.block_on(run(&options, number("SPEED_SIDECAR_SERIES", 100_000)?, &wanted))
}

async fn run(options: &Options, sidecar_series: usize, wanted: &[String]) -> anyhow::Result<()> {
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == part);
    let temporary = tempfile::tempdir()?;
    let kept = std::env::var_os("SPEED_DIR").map(PathBuf::from);
    let dir = kept.as_deref().unwrap_or(temporary.path());
    let mut decoded = Vec::new();
    if is_wanted("decode") {
        decoded = decode::run(options, temporary.path())?;
    }
    if is_wanted("store") {
        store::run(options, &data::bucket(options.shape, 1, dir)?).await?;
    }
    if is_wanted("query") {
        query::run(options, &data::bucket(options.shape, 1, dir)?).await?;
    }
    if is_wanted("footprint") {
        footprint::run(options, &data::bucket(options.shape, 1, dir)?).await?;
    }
    if is_wanted("sidecar") {
        sidecar::run(options, sidecar_series, dir).await?;
    }
    if is_wanted("targets") {
        targets::run(options, dir, &decoded).await?;
    }
    // Not among everything: it takes longer than all of that.
    if wanted.iter().any(|part| part == "growth") {
        let plot =
            std::env::var_os("SPEED_PLOT").map_or_else(|| target_dir().join("growth.svg"), PathBuf::from);
        growth::run(options, dir, &plot).await?;
    }
    Ok(())
}

/// Where cargo builds.
fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from)
}

/// A real program that a variable names.
fn real(variable: &str) -> anyhow::Result<Option<PathBuf>> {
    let Some(program) = std::env::var_os(variable).map(PathBuf::from) else { return Ok(None) };
    anyhow::ensure!(program.is_file(), "{variable}={}: there is no such file", program.display());
    Ok(Some(program))
}
