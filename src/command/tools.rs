//! `parallax tools bucket …`: looking at the blocks of a bucket, and doing by hand what the compactor does.

mod rewrite;
mod table;
mod transfer;
mod web;

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use clap::{ArgMatches, Command};
use parallax_block::{BlockId, BlockMeta, Fetcher, FetcherConfig, FetcherMetrics, Filter};
use parallax_bucket::{Access, Bucket};
use parallax_compactor::tools::{
    BlockRow, Inventory, Issue, MarkKind, inventory, mark_by_hand, unmark_by_hand, verify_bucket,
};
use parallax_compactor::{Chore, Compactor, CompactorConfig, PassReport, Retention};
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_net::Context;

use super::compact::hash_function;
use super::{objstore, retention_policy};
use crate::flags::{self, BUCKET_TOOLS, Values};
use crate::process::{self, Failure};
use table::{Form, Table};

pub fn cli() -> Command {
    let mut bucket = Command::new("bucket")
        .about("Look at the blocks of a bucket, and mark, clean, retire, downsample, copy or rewrite them")
        .subcommand_required(true)
        .arg_required_else_help(true);
    for tool in BUCKET_TOOLS {
        let mut command = flags::command(tool);
        if (tool.flags)().iter().any(|flag| flag.name == "output") {
            command = command.mut_arg("output", |arg| arg.short('o'));
        }
        if (tool.flags)().iter().any(|flag| flag.name == "selector") {
            command = command.mut_arg("selector", |arg| arg.short('l'));
        }
        bucket = bucket.subcommand(command);
    }
    Command::new("tools")
        .about("Tools for buckets")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(bucket)
}

pub fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let leaf = matches.subcommand().and_then(|(_, bucket)| bucket.subcommand());
    let found = leaf.and_then(|(name, matches)| {
        BUCKET_TOOLS.iter().find(|tool| tool.name == name).map(|tool| (tool, matches))
    });
    let Some((tool, matches)) = found else {
        return Err(Failure::usage(anyhow!("no such tool; see parallax tools bucket --help")));
    };
    let values = Values::settle((tool.flags)(), matches).map_err(Failure::usage)?;
    let text = |name: &str| values.text(name).unwrap_or_default();
    process::start_logging(&text("log.level"), &text("log.format")).map_err(Failure::usage)?;
    values.report_flags_without_effect();
    let name = tool.name;
    process::run(|context| async move {
        let form = if values.has("output") { values.text("output") } else { None };
        let form: Form = form.unwrap_or_default().parse().map_err(Failure::usage)?;
        match name {
            "ls" => ls(&values, form, &context).await,
            "inspect" => inspect(&values, form, &context).await,
            "verify" => verify(&values, form, &context).await,
            "mark" => mark(&values, form, &context).await,
            "replicate" => transfer::replicate(&values, form, &context).await,
            "upload-blocks" => transfer::upload_blocks(&values, form, &context).await,
            "rewrite" => rewrite::rewrite(&values, form, &context).await,
            "web" => web::web(&values, &context).await,
            "cleanup" => chore(&values, form, &context, Chore::Cleanup).await,
            "retention" => chore(&values, form, &context, Chore::Retention).await,
            _ => chore(&values, form, &context, Chore::Downsampling).await,
        }
    })
}

fn bucket(values: &Values, access: Access, context: &Context) -> Result<Bucket, Failure> {
    objstore::bucket(values, access, context)
        .and_then(|bucket| bucket.context("no bucket: give --objstore.config or --objstore.config-file"))
        .map_err(Failure::usage)
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn concurrency(values: &Values) -> usize {
    usize::try_from(values.number("block-sync-concurrency")).unwrap_or(usize::MAX).clamp(1, 1000)
}

/// The blocks of the bucket that the flags choose, and what is wrong with others.
async fn chosen(values: &Values, bucket: &Bucket, context: &Context) -> Result<Inventory, Failure> {
    chosen_by(&fetcher(values, bucket, context)?, values, bucket).await
}

/// Reads the list of the blocks that the flags choose by time.
fn fetcher(values: &Values, bucket: &Bucket, context: &Context) -> Result<Fetcher, Failure> {
    let filters = match (values.time_ms("min-time"), values.time_ms("max-time")) {
        (Some(min_ms), Some(max_ms)) if min_ms <= max_ms => {
            vec![Filter::Time(TimeRange::new(min_ms, max_ms))]
        }
        _ => return Err(Failure::usage(anyhow!("--min-time lies after --max-time"))),
    };
    let config = FetcherConfig { concurrency: concurrency(values), cache_dir: None, filters };
    Ok(Fetcher::new(bucket.clone(), config, FetcherMetrics::register(&context.metrics)))
}

async fn chosen_by(fetcher: &Fetcher, values: &Values, bucket: &Bucket) -> Result<Inventory, Failure> {
    let read = inventory(fetcher, bucket, concurrency(values), now_ms()).await;
    let mut found = read.context("reading the bucket")?;
    for (block, problem) in &found.problems {
        tracing::warn!(%block, problem, "block or mark cannot be understood");
    }
    // Thanos calls it a matcher where blocks are copied.
    let names = ["selector", "matcher"].into_iter().filter(|name| values.has(name));
    let selectors: Vec<String> = names.flat_map(|name| values.repeated(name)).collect();
    let matchers = selector(&selectors).map_err(Failure::usage)?;
    found.blocks.retain(|_, (meta, _)| {
        let labels: Labels = meta.external_labels();
        matchers.iter().all(|matcher| matcher.matches_labels(&labels))
    });
    Ok(found)
}

/// `key="value"`, as often as given.
fn selector(texts: &[String]) -> anyhow::Result<Vec<Matcher>> {
    let mut matchers = Vec::new();
    for text in texts {
        let parsed = parallax_promql::parse::parse_selector(&format!("{{{text}}}"));
        matchers.extend(parsed.with_context(|| format!("--selector={text}"))?);
    }
    Ok(matchers)
}

async fn ls(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let bucket = bucket(values, Access::Read, context)?;
    let mut found = chosen(values, &bucket, context).await?;
    if values.switch("exclude-delete") {
        found.blocks.retain(|_, (_, row)| !row.marks.contains_key("deletion"));
    }
    match form {
        // As Thanos: one meta.json after the other.
        Form::Json => {
            for (meta, _) in found.blocks.values() {
                table::print(&String::from_utf8_lossy(&meta.to_json().context("meta.json")?));
            }
        }
        Form::Plain => found.blocks.keys().for_each(|block| table::print(&format!("{block}\n"))),
        form => {
            let rows = found.blocks.into_values().map(|(_, row)| row).collect();
            blocks_table(rows, &[])?.print(form);
        }
    }
    Ok(())
}

async fn inspect(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let bucket = bucket(values, Access::Read, context)?;
    let found = chosen(values, &bucket, context).await?;
    let rows: Vec<BlockRow> = found.blocks.into_values().map(|(_, row)| row).collect();
    if form == Form::Json {
        table::print_json(&rows)?;
        return Ok(());
    }
    let mut sort_by = values.list("sort-by");
    if sort_by.is_empty() {
        sort_by.push("FROM".to_owned());
    }
    blocks_table(rows, &sort_by)?.print(form);
    Ok(())
}

/// Thanos' columns, and the marks.
fn blocks_table(rows: Vec<BlockRow>, sort_by: &[String]) -> Result<Table, Failure> {
    let mut table = Table::new(&[
        "ULID",
        "FROM",
        "UNTIL",
        "RANGE",
        "#SERIES",
        "#SAMPLES",
        "#CHUNKS",
        "COMP-LEVEL",
        "COMP-FAILED",
        "LABELS",
        "RESOLUTION",
        "SOURCE",
        "MARKS",
    ]);
    for row in rows {
        let labels: Vec<String> = row.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let marks: Vec<String> = row.marks.iter().map(|(kind, why)| format!("{kind} ({why})")).collect();
        table.push(vec![
            row.ulid.to_string(),
            table::time(row.min_time_ms),
            table::time(row.max_time_ms),
            table::duration(row.max_time_ms.saturating_sub(row.min_time_ms)),
            row.series.to_string(),
            row.samples.to_string(),
            row.chunks.to_string(),
            row.level.to_string(),
            row.failed.to_string(),
            labels.join(","),
            table::duration(row.resolution_ms),
            row.source,
            marks.join(", "),
        ]);
    }
    table.sort_by(sort_by).map_err(Failure::usage)?;
    Ok(table)
}

fn ids(values: &Values) -> anyhow::Result<Vec<BlockId>> {
    values.list("id").iter().map(|text| text.parse().with_context(|| format!("--id={text}"))).collect()
}

async fn verify(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let bucket = bucket(values, Access::Read, context)?;
    let wanted = ids(values).map_err(Failure::usage)?;
    let issues: Result<BTreeSet<Issue>, String> =
        values.list("issues").iter().map(|text| text.parse()).collect();
    let issues = issues.map_err(|error| Failure::usage(anyhow!("--issues: {error}")))?;
    let concurrency = concurrency(values);
    let config = FetcherConfig { concurrency, ..FetcherConfig::default() };
    let fetcher = Fetcher::new(bucket.clone(), config, FetcherMetrics::register(&context.metrics));
    let found = inventory(&fetcher, &bucket, concurrency, now_ms()).await.context("reading the bucket")?;
    if let Some(missing) = wanted.iter().find(|block| !found.blocks.contains_key(block)) {
        return Err(anyhow!("block {missing} is not in the bucket, or has no meta.json").into());
    }
    let blocks: Vec<Arc<BlockMeta>> = found
        .blocks
        .into_iter()
        .filter(|(block, _)| wanted.is_empty() || wanted.contains(block))
        .map(|(_, (meta, _))| meta)
        .collect();
    let verification = verify_bucket(&bucket, &blocks, &issues).await.context("reading the bucket")?;
    if form == Form::Json {
        table::print_json(&verification)?;
    } else {
        let mut table = Table::new(&["ULID", "ISSUE", "MESSAGE"]);
        for finding in &verification.findings {
            table.push(vec![
                finding.block.to_string(),
                finding.issue.name().to_owned(),
                finding.message.clone(),
            ]);
        }
        for (block, problem) in &found.problems {
            table.push(vec![block.to_string(), "meta_or_mark".to_owned(), problem.clone()]);
        }
        table.print(form);
    }
    let wrong = verification.findings.len() + found.problems.len();
    if wrong == 0 { Ok(()) } else { Err(anyhow!("{wrong} issues in {} blocks", verification.blocks).into()) }
}

async fn mark(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let blocks = ids(values).map_err(Failure::usage)?;
    let checked = || -> anyhow::Result<MarkKind> {
        ensure!(!blocks.is_empty(), "no block: give --id");
        let marker = values.text("marker").context("no mark: give --marker")?;
        let kind: MarkKind = marker.parse().map_err(|error: String| anyhow!("--marker: {error}"))?;
        ensure!(values.switch("remove") || values.text("details").is_some(), "say why, in --details");
        Ok(kind)
    };
    let kind = checked().map_err(Failure::usage)?;
    let (details, dry_run) = (values.text("details").unwrap_or_default(), values.switch("dry-run"));
    let bucket = bucket(values, if dry_run { Access::Read } else { Access::Write }, context)?;
    let mut outcomes = Vec::new();
    for block in blocks {
        let outcome = if values.switch("remove") {
            unmark_by_hand(&bucket, block, kind, dry_run).await
        } else {
            mark_by_hand(&bucket, block, kind, &details, now_ms(), dry_run).await
        };
        outcomes.push((block, outcome.context("marking")?));
    }
    if form == Form::Json {
        table::print_json(&outcomes)?;
        return Ok(());
    }
    let mut table = Table::new(&["ULID", "MARK", "OUTCOME"]);
    for (block, outcome) in outcomes {
        let outcome = format!("{outcome:?}{}", if dry_run { " (dry run)" } else { "" });
        table.push(vec![block.to_string(), kind.file_name().to_owned(), outcome]);
    }
    table.print(form);
    Ok(())
}

async fn chore(values: &Values, form: Form, context: &Context, chore: Chore) -> Result<(), Failure> {
    let dry_run = values.switch("dry-run");
    let bucket = bucket(values, if dry_run { Access::Read } else { Access::Write }, context)?;
    let config = chore_config(values, bucket, chore).map_err(Failure::usage)?;
    let compactor = Compactor::new(config, context).map_err(Failure::usage)?;
    let report = compactor.chore(chore, now_ms()).await.context("the bucket")?;
    let aside = compactor.quarantine().list_blocks();
    print_report(&report, form, dry_run)?;
    match aside.first() {
        None if report.retries == 0 => Ok(()),
        None => Err(anyhow!("{} things could not be done; see the log", report.retries).into()),
        Some(block) => Err(anyhow!("block {}: {}", block.block, block.reason).into()),
    }
}

fn chore_config(values: &Values, bucket: Bucket, chore: Chore) -> anyhow::Result<CompactorConfig> {
    let data_dir = values.path("data-dir").context("--data-dir is empty")?;
    let mut config = CompactorConfig {
        consistency_delay: values.duration("consistency-delay"),
        delete_delay: values.duration("delete-delay"),
        replica_labels: values.list("deduplication.replica-label"),
        fetch_concurrency: concurrency(values),
        dry_run: values.switch("dry-run"),
        // Its own, so that a compactor beside it keeps what it has staged.
        ..CompactorConfig::new(bucket, data_dir.join("tools"))
    };
    match chore {
        Chore::Cleanup => {}
        Chore::Retention => {
            config.downsampling = !values.switch("downsampling.disable");
            config.retention = Retention {
                raw: values.duration("retention.resolution-raw"),
                five_minutes: values.duration("retention.resolution-5m"),
                one_hour: values.duration("retention.resolution-1h"),
            };
            if let Some(path) = values.text("retention.policy-file") {
                config.retention_rules = retention_policy::read(&path).context("--retention.policy-file")?;
            }
        }
        Chore::Downsampling => {
            config.downsample_concurrency =
                usize::try_from(values.number("downsample.concurrency")).unwrap_or(1).max(1);
            config.hash = hash_function(values.text("hash-func").as_deref())?;
        }
    }
    Ok(config)
}

fn print_report(report: &PassReport, form: Form, dry_run: bool) -> Result<(), Failure> {
    if form == Form::Json {
        table::print_json(report)?;
        return Ok(());
    }
    if dry_run {
        let mut table = Table::new(&["ULID", "WOULD", "REASON"]);
        for planned in &report.planned {
            let (action, reason) = (planned.action.name().to_owned(), planned.reason.clone());
            table.push(vec![planned.block.to_string(), action, reason]);
        }
        table.print(form);
        return Ok(());
    }
    let mut table = Table::new(&["DELETED", "COVERED", "RETIRED", "DOWNSAMPLED", "FAILED"]);
    let numbers =
        [report.deleted, report.garbage_collected, report.retired, report.downsamples, report.retries];
    table.push(numbers.map(|number| number.to_string()).to_vec());
    table.print(form);
    Ok(())
}
