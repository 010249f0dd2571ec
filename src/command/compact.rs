//! `parallax compact`.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_block::{HashFunction, Selector};
use parallax_bucket::Access;
use parallax_compactor::plan::RANGES_MS;
use parallax_compactor::{
    Compactor, CompactorConfig, LeaseConfig, MergeMode, PlanConfig, Progress, Retention, Shard,
};
use parallax_model::TimeRange;
use parallax_net::Context;

use super::{objstore, retention_policy};
use crate::flags::Values;
use crate::process::{self, Failure};
use crate::serve;

/// Characters of the bar that shows progress.
const BAR_WIDTH: u64 = 20;

/// A lease that must be renewed more often than this costs more than it saves.
const LEAST_LEASE: Duration = Duration::from_secs(15);

pub fn run(values: Values) -> Result<(), Failure> {
    process::run(|context| async move {
        let config = config(&values, &context).map_err(Failure::usage)?;
        let address = values.text("http-address").unwrap_or_default();
        let http = serve::bind_http(&address, values.path("http.config"), &context).await?;
        let compactor = Compactor::new(config, &context).map_err(Failure::usage)?;
        let router = compactor.router();
        let running = compactor.start();
        if std::io::stderr().is_terminal() {
            tokio::spawn(show_progress(Arc::clone(&compactor), context.clone()));
        }
        tokio::select! {
            served = serve::serve_http(http, &context, router) => served?,
            ended = running => ended.context("compact")?.context("compact")?,
        }
        Ok(())
    })
}

/// One line on the terminal that is written over every second.
async fn show_progress(compactor: Arc<Compactor>, context: Context) {
    let mut shown = String::new();
    while tokio::time::timeout(Duration::from_secs(1), context.shutdown.cancelled()).await.is_err() {
        let line = progress_line(&compactor.progress());
        if line != shown {
            eprint!("\r\x1b[K{line}");
            shown = line;
        }
    }
    eprintln!();
}

fn progress_line(progress: &Progress) -> String {
    let done = progress.done_compactions + progress.done_downsamples;
    let left = (progress.compactions + progress.downsample_blocks) as u64;
    let filled = done.saturating_mul(BAR_WIDTH).checked_div(done + left).unwrap_or(BAR_WIDTH);
    let bar: String = (0..BAR_WIDTH).map(|place| if place < filled { '#' } else { '.' }).collect();
    let eta = progress.eta_seconds.map_or_else(|| "?".to_owned(), |seconds| format!("{seconds}s"));
    format!(
        "[{bar}] {} compactions ({} blocks, {} MiB) and {} blocks to downsample left, {} to retire, about {eta}",
        progress.compactions,
        progress.compaction_blocks,
        progress.compaction_bytes >> 20,
        progress.downsample_blocks,
        progress.deletion_blocks
    )
}

fn config(values: &Values, context: &Context) -> anyhow::Result<CompactorConfig> {
    let bucket = objstore::bucket(values, Access::Write, context)?
        .context("no bucket: give --objstore.config or --objstore.config-file")?;
    let data_dir = values.path("data-dir").context("--data-dir is empty")?;
    let count = |name: &str| usize::try_from(values.number(name)).unwrap_or(usize::MAX).max(1);
    let min_ms = values.time_ms("min-time").unwrap_or(i64::MIN);
    let max_ms = values.time_ms("max-time").unwrap_or(i64::MAX);
    ensure!(min_ms <= max_ms, "--min-time lies after --max-time");
    let replica_labels = values.list("deduplication.replica-label");
    let mode = merge_mode(values.text("deduplication.func").as_deref(), &replica_labels)?;
    let levels = values.number("debug.max-compaction-level");
    let most = RANGES_MS.len() as u64 - 1;
    ensure!(levels <= most, "--debug.max-compaction-level={levels}: there are {most}");
    let ranges_ms = RANGES_MS.iter().take(usize::try_from(levels)? + 1).copied().collect();
    Ok(CompactorConfig {
        plan: PlanConfig {
            ranges_ms,
            vertical: values.switch("compact.enable-vertical-compaction"),
            max_index_size_bytes: values.bytes("compact.block-max-index-size"),
        },
        mode,
        replica_labels,
        consistency_delay: values.duration("consistency-delay"),
        delete_delay: values.duration("delete-delay"),
        retention: Retention {
            raw: values.duration("retention.resolution-raw"),
            five_minutes: values.duration("retention.resolution-5m"),
            one_hour: values.duration("retention.resolution-1h"),
        },
        retention_rules: match values.text("retention.policy-file") {
            Some(path) => retention_policy::read(&path).context("--retention.policy-file")?,
            None => Vec::new(),
        },
        retention_dry_run: values.switch("retention.dry-run"),
        downsampling: !values.switch("downsampling.disable"),
        time_range: TimeRange::new(min_ms, max_ms),
        skip_out_of_order: values.switch("compact.skip-block-with-out-of-order-chunks"),
        group_concurrency: count("compact.concurrency"),
        downsample_concurrency: count("downsample.concurrency"),
        fetch_concurrency: count("block-meta-fetch-concurrency"),
        sharing: match values.switch("compact.shared") {
            true => {
                Some(sharing(values.duration("compact.lease-duration")).context("--compact.lease-duration")?)
            }
            false => None,
        },
        shard: shard(values.text("shard").as_deref()).context("--shard")?,
        selector: selector(&values.text_or_file("selector.relabel-config")?.unwrap_or_default())
            .context("--selector.relabel-config")?,
        hash: hash_function(values.text("hash-func").as_deref())?,
        wait_interval: values.switch("wait").then(|| values.duration("wait-interval")),
        ..CompactorConfig::new(bucket, data_dir)
    })
}

/// `function` as Thanos names it; penalty needs to know which labels tell replicas apart.
pub fn merge_mode(function: Option<&str>, replica_labels: &[String]) -> anyhow::Result<MergeMode> {
    match function.unwrap_or_default() {
        "" => Ok(MergeMode::OneToOne),
        "penalty" => {
            ensure!(
                !replica_labels.is_empty(),
                "penalty deduplication needs at least one replica label (--deduplication.replica-label)"
            );
            Ok(MergeMode::Penalty)
        }
        other => bail!("--deduplication.func={other}: only penalty is supported"),
    }
}

/// Leases that last so long. Who this worker is is told by the name of the machine, which in Kubernetes is the pod's.
pub fn sharing(lasts: Duration) -> anyhow::Result<LeaseConfig> {
    ensure!(lasts >= LEAST_LEASE, "a lease of less than {}s costs more than it saves", LEAST_LEASE.as_secs());
    let host = std::env::var("HOSTNAME").unwrap_or_default();
    let worker = format!("{host} pid {}", std::process::id());
    Ok(LeaseConfig { worker: worker.trim().to_owned(), lasts, ..LeaseConfig::default() })
}

pub fn shard(text: Option<&str>) -> anyhow::Result<Option<Shard>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|reason: String| anyhow::anyhow!(reason))
}

/// Relabel rules that choose what is compacted.
pub fn selector(yaml: &str) -> anyhow::Result<Selector> {
    let selector = Selector::from_yaml(yaml)?;
    ensure!(
        !selector.looks_at_block_id(),
        "a rule looks at __block_id: a block that is made would belong to another compactor than its sources; \
         choose by external labels, or use --shard"
    );
    Ok(selector)
}

pub fn hash_function(name: Option<&str>) -> anyhow::Result<HashFunction> {
    match name {
        None => Ok(HashFunction::None),
        Some("SHA256") => Ok(HashFunction::Sha256),
        Some(other) => bail!("--hash-func={other}: only SHA256 is supported"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compactors_share_a_bucket_by_labels_and_not_by_names_of_blocks() {
        assert!(selector("[{action: keep, source_labels: [cluster], regex: eu.*}]").is_ok());
        let error = selector("[{action: keep, source_labels: [__block_id], regex: a.*}]").unwrap_err();
        assert!(error.to_string().contains("external labels"), "{error}");
        assert!(selector("[{action: replace, source_labels: [cluster]}]").is_err());
    }

    #[test]
    fn the_bar_fills_as_work_gets_done() {
        let progress =
            |compactions, done_compactions| Progress { compactions, done_compactions, ..Progress::default() };
        assert!(progress_line(&progress(0, 0)).starts_with("[####################]"));
        assert!(progress_line(&progress(4, 0)).starts_with("[....................] 4 compactions"));
        let half = Progress { eta_seconds: Some(90), ..progress(3, 3) };
        assert!(
            progress_line(&half).starts_with("[##########..........]")
                && progress_line(&half).ends_with("about 90s")
        );
    }
}
