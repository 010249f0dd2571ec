//! `compact`: runs of `parallax compact` and `thanos compact`, from start to end, over links to the same blocks.
//!
//! Before each run the blocks are put out of the page cache, so that what is read from the disk is counted. After each the blocks in the bucket are read: both
//! have to hold the same series, samples and windows, or the bench ends.

mod content;
mod job;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::data::{HOUR_MS, Uncompacted};
use crate::measure::{Table, median};
use content::Content;
use job::Cost;

/// What this part needs to know.
pub struct Options {
    /// Of each block.
    pub series: usize,
    pub rounds: usize,
    pub parallax: PathBuf,
    pub thanos: Option<PathBuf>,
    /// Where the data stays for the next run.
    pub dir: Option<PathBuf>,
}

/// One thing that is compared.
struct Scenario {
    name: String,
    bucket: PathBuf,
    flags: &'static [&'static str],
    /// How many times Thanos' time, memory and disk traffic are to be ours.
    wanted: Wanted,
}

#[derive(Clone, Copy)]
struct Wanted {
    time: f64,
    memory: Option<f64>,
    traffic: Option<f64>,
}

const PENALTY: &[&str] =
    &["--deduplication.replica-label=prometheus_replica", "--deduplication.func=penalty"];
const ONE_TO_ONE: &[&str] = &["--deduplication.replica-label=prometheus_replica"];

/// Memory of a merge of blocks with a hundred times the series may be so much more, and at most so much.
const WANTED_GROWTH: f64 = 1.5;
const WANTED_PEAK_MIB: f64 = 256.0;

pub fn run(options: &Options) -> anyhow::Result<()> {
    let temporary = tempfile::tempdir()?;
    // Links do not cross file systems: runs take place beside the data.
    let dir = options.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(dir)?;
    let mut table = Table::new(
        "Compaction",
        &[
            "what",
            "program",
            "s",
            "CPU s",
            "peak MiB",
            "MB read",
            "MB written",
            "times Parallax: s, CPU, peak, MB",
        ],
    );
    let mut targets = Table::new("Targets of compaction", &["target", "wanted", "measured", "met"]);
    for scenario in scenarios(options, dir)? {
        let ours = measure(options, &scenario, dir, &options.parallax)?;
        row(&mut table, &scenario.name, "Parallax", &ours.0, None);
        let Some(thanos) = &options.thanos else { continue };
        let theirs = measure(options, &scenario, dir, thanos)?;
        row(&mut table, &scenario.name, "Thanos", &theirs.0, Some(&ours.0));
        ensure!(ours.1 == theirs.1, "{}: Parallax made {:?}, Thanos {:?}", scenario.name, ours.1, theirs.1);
        compare(&mut targets, &scenario, &ours.0, &theirs.0);
    }
    growth(options, dir, &mut table, &mut targets)?;
    table.print();
    targets.print();
    Ok(())
}

fn scenarios(options: &Options, dir: &Path) -> anyhow::Result<Vec<Scenario>> {
    let series = options.series;
    let replicas =
        Uncompacted { series, replicas: 2, blocks: 3, length_ms: 2 * HOUR_MS, has_own_values: false };
    let two_days =
        Uncompacted { series: series / 10, replicas: 1, blocks: 1, length_ms: 48 * HOUR_MS, ..replicas };
    let merging = Wanted { time: 8.0, memory: Some(2.0), traffic: Some(2.0) };
    let bucket = replicas.bucket(dir)?;
    let what = format!("six blocks, two replicas of {series} series x 2 h");
    Ok(vec![
        Scenario {
            name: format!("{what}, penalty"),
            bucket: bucket.clone(),
            flags: PENALTY,
            wanted: merging,
        },
        Scenario {
            name: format!("{what}, one to one"),
            bucket,
            flags: ONE_TO_ONE,
            wanted: Wanted { memory: None, traffic: None, ..merging },
        },
        Scenario {
            name: format!("downsampling {} series x 2 d", two_days.series),
            bucket: two_days.bucket(dir)?,
            flags: &[],
            wanted: Wanted { time: 5.0, memory: None, traffic: None },
        },
    ])
}

/// The medians of some runs, and what they left in the bucket.
fn measure(
    options: &Options,
    scenario: &Scenario,
    dir: &Path,
    program: &Path,
) -> anyhow::Result<(Cost, Content)> {
    let mut costs = Vec::new();
    let mut content = None;
    for _ in 0..options.rounds {
        let workplace = tempfile::tempdir_in(dir)?;
        let bucket = workplace.path().join("bucket");
        job::link_cold(&scenario.bucket, &bucket)?;
        let mut command = Command::new(program);
        command.args(["compact", "--log.level=warn", "--http-address=127.0.0.1:0", "--consistency-delay=0s"]);
        command.args(scenario.flags);
        command.arg(format!("--data-dir={}", workplace.path().join("data").display()));
        let objstore = serde_json::json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
        command.arg(format!("--objstore.config={objstore}"));
        let what = || format!("{}, {}", scenario.name, program.display());
        costs.push(job::run(&mut command, &workplace.path().join("log")).with_context(what)?);
        let found = Content::of_made(&bucket).with_context(what)?;
        ensure!(content.is_none_or(|before| before == found), "{}: another outcome", what());
        content = Some(found);
    }
    let content = content.context("no round")?;
    let of = |field: fn(&Cost) -> f64| median(&costs.iter().map(field).collect::<Vec<_>>());
    let cost = Cost {
        wall_s: of(|cost| cost.wall_s),
        cpu_s: of(|cost| cost.cpu_s),
        peak_mib: of(|cost| cost.peak_mib),
        read_mb: of(|cost| cost.read_mb),
        written_mb: of(|cost| cost.written_mb),
    };
    Ok((cost, content))
}

fn row(table: &mut Table, what: &str, program: &str, cost: &Cost, ours: Option<&Cost>) {
    let ratios = ours.map_or_else(String::new, |ours| {
        format!(
            "{:.1}, {:.1}, {:.1}, {:.1}",
            cost.wall_s / ours.wall_s,
            cost.cpu_s / ours.cpu_s,
            cost.peak_mib / ours.peak_mib,
            cost.traffic_mb() / ours.traffic_mb()
        )
    });
    table.row(&[
        what.to_owned(),
        program.to_owned(),
        format!("{:.2}", cost.wall_s),
        format!("{:.2}", cost.cpu_s),
        format!("{:.0}", cost.peak_mib),
        format!("{:.0}", cost.read_mb),
        format!("{:.0}", cost.written_mb),
        ratios,
    ]);
}

fn compare(targets: &mut Table, scenario: &Scenario, ours: &Cost, theirs: &Cost) {
    let wanted = scenario.wanted;
    let measured = [
        ("time", Some(wanted.time), theirs.wall_s / ours.wall_s),
        ("peak memory", wanted.memory, theirs.peak_mib / ours.peak_mib),
        ("disk traffic", wanted.traffic, theirs.traffic_mb() / ours.traffic_mb()),
    ];
    for (what, wanted, measured) in measured {
        let Some(wanted) = wanted else { continue };
        target(
            targets,
            &format!("{what}: {}", scenario.name),
            &format!("{wanted}x"),
            measured,
            measured >= wanted,
        );
    }
}

fn target(targets: &mut Table, what: &str, wanted: &str, measured: f64, is_met: bool) {
    let met = if is_met { "yes" } else { "no" };
    targets.row(&[what.to_owned(), wanted.to_owned(), format!("{measured:.2}"), met.to_owned()]);
}

/// Ours alone: blocks with few samples of more and more series, which share their label values or do not.
fn growth(options: &Options, dir: &Path, table: &mut Table, targets: &mut Table) -> anyhow::Result<()> {
    for has_own_values in [false, true] {
        let with = if has_own_values { ", each with a value of its own" } else { "" };
        let mut peaks_mib = Vec::new();
        for series in [options.series / 10, options.series, options.series * 10] {
            let blocks =
                Uncompacted { series, replicas: 2, blocks: 1, length_ms: HOUR_MS / 6, has_own_values };
            let scenario = Scenario {
                name: format!("two blocks, two replicas of {series} series{with} x 10 min, penalty"),
                bucket: blocks.bucket(dir)?,
                flags: PENALTY,
                wanted: Wanted { time: 0.0, memory: None, traffic: None },
            };
            let (cost, _) = measure(options, &scenario, dir, &options.parallax)?;
            row(table, &scenario.name, "Parallax", &cost, None);
            peaks_mib.push(cost.peak_mib);
        }
        if let [few, .., many] = peaks_mib[..] {
            let series = format!("{} series per block{with}", options.series * 10);
            let what = format!("memory for {series}, over that for a hundredth of them");
            let wanted = format!("at most {WANTED_GROWTH}x");
            target(targets, &what, &wanted, many / few, many <= few * WANTED_GROWTH);
            let what = format!("peak memory for {series}");
            let wanted = format!("at most {WANTED_PEAK_MIB} MiB");
            target(targets, &what, &wanted, many, many <= WANTED_PEAK_MIB);
        }
    }
    Ok(())
}
