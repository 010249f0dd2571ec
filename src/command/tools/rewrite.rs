//! `tools bucket rewrite`: blocks written anew without some samples.
//!
//! The file of `--rewrite.to-delete-config` is Thanos':
//!
//! ```yaml
//! - matchers: '{__name__="up", job=~"old.*"}'
//!   intervals: [{mint: 1782864000000, maxt: 1782950400000}]   # milliseconds, both included; without any, all of the series
//! ```

use std::sync::Arc;

use anyhow::{Context as _, anyhow, ensure};
use parallax_block::mark::place_mark;
use parallax_block::{BlockMeta, DeletionMark};
use parallax_bucket::{Access, Bucket};
use parallax_compactor::tools::{Rewritten, rewrite_block};
use parallax_compactor::{Clock, Deletion, Job, JobConfig};
use parallax_model::TimeRange;
use parallax_net::Context;
use serde::Deserialize;

use super::table::{self, Form, Table};
use super::{bucket, ids, now_ms};
use crate::command::compact::hash_function;
use crate::flags::Values;
use crate::process::Failure;

/// No `meta.json` is larger.
const MAX_META_BYTES: u64 = 64 << 20;

/// No file has more requests.
const MAX_DELETIONS: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeletionSection {
    matchers: String,
    #[serde(default)]
    intervals: Vec<IntervalSection>,
    /// For people.
    #[serde(rename = "request_id", default)]
    _request_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IntervalSection {
    mint: i64,
    maxt: i64,
}

pub async fn rewrite(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let dry_run = values.switch("dry-run");
    let blocks = ids(values).map_err(Failure::usage)?;
    let checked = || -> anyhow::Result<Vec<Deletion>> {
        ensure!(!blocks.is_empty(), "no block: give --id");
        let yaml = values.text_or_file("rewrite.to-delete-config")?;
        deletions(&yaml.context("nothing to delete: give --rewrite.to-delete-config or its -file")?)
            .context("--rewrite.to-delete-config")
    };
    let deletions = checked().map_err(Failure::usage)?;
    let bucket = bucket(values, if dry_run { Access::Read } else { Access::Write }, context)?;
    let job = job(values, bucket.clone(), context).map_err(Failure::usage)?;
    let mut rewritten = Vec::new();
    for block in blocks {
        let in_bucket = || format!("block {block}");
        let json = bucket.get(&block.meta_object(), MAX_META_BYTES).await.with_context(in_bucket)?;
        let meta = Arc::new(BlockMeta::parse_of(block, &json).with_context(in_bucket)?);
        let outcome =
            rewrite_block(&job, &meta, &deletions, now_ms(), dry_run).await.with_context(in_bucket)?;
        if !dry_run && values.switch("delete-blocks") {
            delete(&bucket, &outcome).await.with_context(in_bucket)?;
        }
        rewritten.push(outcome);
    }
    print(&rewritten, form, dry_run)
}

fn deletions(yaml: &str) -> anyhow::Result<Vec<Deletion>> {
    let sections: Vec<DeletionSection> = serde_saphyr::from_str(yaml).map_err(|error| anyhow!("{error}"))?;
    ensure!(!sections.is_empty(), "it asks for nothing");
    ensure!(sections.len() <= MAX_DELETIONS, "it has more than {MAX_DELETIONS} requests");
    let deletion = |(place, section): (usize, DeletionSection)| -> anyhow::Result<Deletion> {
        let what = || format!("request {} ({})", place + 1, section.matchers);
        let matchers = parallax_promql::parse::parse_selector(&section.matchers).with_context(what)?;
        ensure!(!matchers.is_empty(), "{}: without a matcher it would delete everything", what());
        let mut ranges = Vec::with_capacity(section.intervals.len());
        for IntervalSection { mint, maxt } in &section.intervals {
            ensure!(mint <= maxt, "{}: mint {mint} lies after maxt {maxt}", what());
            ranges.push(TimeRange::new(*mint, *maxt));
        }
        Ok(Deletion { matchers, ranges })
    };
    sections.into_iter().enumerate().map(deletion).collect()
}

fn job(values: &Values, bucket: Bucket, context: &Context) -> anyhow::Result<Job> {
    let dir = values.path("tmp.dir").context("--tmp.dir is empty")?;
    Ok(Job::new(JobConfig {
        bucket,
        staging_dir: dir,
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        hash: hash_function(values.text("hash-func").as_deref())?,
        max_index_size_bytes: u64::MAX,
        clock: Clock::system(),
        cancelled: context.shutdown.clone(),
    }))
}

/// Marks what was rewritten; of what nothing is left, too.
async fn delete(bucket: &Bucket, rewritten: &Rewritten) -> anyhow::Result<()> {
    let Rewritten { block, new, samples_left, .. } = rewritten;
    let details = match new {
        Some(new) => format!("rewritten as {new}"),
        None if *samples_left == 0 => "rewritten: nothing is left".to_owned(),
        None => return Ok(()),
    };
    let mark = DeletionMark { id: *block, version: 1, details, deletion_time_s: now_ms() / 1000 };
    place_mark(bucket, *block, &mark).await?;
    Ok(())
}

fn print(rewritten: &[Rewritten], form: Form, dry_run: bool) -> Result<(), Failure> {
    if form == Form::Json {
        table::print_json(&rewritten)?;
        return Ok(());
    }
    let mut table = Table::new(&["ULID", "NEW", "#SERIES", "LEFT", "#SAMPLES", "LEFT"]);
    for row in rewritten {
        let is_unchanged = (row.series, row.samples) == (row.series_left, row.samples_left);
        let new = match row.new {
            Some(new) => new.to_string(),
            None if is_unchanged => "unchanged".to_owned(),
            None if row.samples_left == 0 => "nothing left".to_owned(),
            None if dry_run => "(dry run)".to_owned(),
            None => String::new(),
        };
        let numbers = [row.series, row.series_left, row.samples, row.samples_left];
        let numbers = numbers.map(|number| number.to_string());
        table.push([vec![row.block.to_string(), new], numbers.to_vec()].concat());
    }
    table.print(form);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_mistakes_named() {
        let read = deletions(
            "- matchers: '{__name__=\"up\"}'\n  intervals: [{mint: 1, maxt: 2}]\n- {matchers: 'up', request_id: x}",
        )
        .unwrap();
        assert_eq!(read[0].ranges, [TimeRange::new(1, 2)]);
        assert!(read[1].ranges.is_empty() && read[1].matchers.len() == 1);
        for (yaml, complaint) in [
            ("[]", "nothing"),
            ("- {matchers: '{}'}", "everything"),
            ("- {matchers: '{a=}'}", "request 1"),
            ("- {matchers: up, intervals: [{mint: 3, maxt: 2}]}", "mint 3"),
            ("- {matchers: up, until: 3}", "until"),
        ] {
            let error = format!("{:#}", deletions(yaml).unwrap_err());
            assert!(error.contains(complaint), "{error}");
        }
    }
}
