//! `tools bucket replicate` and `upload-blocks`: blocks from another bucket, or from a directory, into one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, ensure};
use parallax_block::{BlockId, BlockMeta, HashFunction, UploadOptions, upload_block, verify_block};
use parallax_bucket::{Access, Bucket};
use parallax_compactor::tools::{BlockRow, Replicated, replicate_block};
use parallax_net::Context;
use serde::Serialize;

use super::table::{self, Form, Table};
use super::{bucket, chosen, ids, now_ms};
use crate::command::objstore;
use crate::flags::{Values, parse_duration};
use crate::process::Failure;

/// The component that an uploaded block names: Thanos' word.
const UPLOAD_SOURCE: &str = "bucket.upload";

/// No local `meta.json` is larger.
const MAX_META_BYTES: u64 = 64 << 20;

/// What became of a block.
#[derive(Debug, Serialize)]
struct Copied {
    block: BlockId,
    /// `None` if it was left out, or could not be copied: then there is a reason.
    outcome: Option<Replicated>,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip)]
    has_failed: bool,
}

impl Copied {
    fn new<E: std::fmt::Display>(block: BlockId, copied: Result<(Replicated, u64), E>) -> Self {
        match copied {
            Ok((outcome, size_bytes)) => {
                let has_failed = outcome == Replicated::Differs;
                Self { block, outcome: Some(outcome), size_bytes, reason: None, has_failed }
            }
            Err(error) => Self { has_failed: true, ..Self::left_out(block, format!("{error:#}")) },
        }
    }

    fn left_out(block: BlockId, reason: String) -> Self {
        Self { block, outcome: None, size_bytes: 0, reason: Some(reason), has_failed: false }
    }
}

pub async fn replicate(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let dry_run = values.switch("dry-run");
    let from = bucket(values, Access::Read, context)?;
    let to = target(values, if dry_run { Access::Read } else { Access::Write }, context)?;
    let wanted = ids(values).map_err(Failure::usage)?;
    let choice = Choice::read(values).map_err(Failure::usage)?;
    let staging = values.path("data-dir").context("--data-dir is empty").map_err(Failure::usage)?;
    let staging = staging.join("tools").join("replicate");
    let found = chosen(values, &from, context).await?;
    if let Some(missing) = wanted.iter().find(|block| !found.blocks.contains_key(block)) {
        return Err(anyhow!("block {missing} is not in the bucket, or is left out by other flags").into());
    }
    let mut copied = Vec::new();
    for (block, (meta, row)) in &found.blocks {
        let is_wanted = if wanted.is_empty() { choice.takes(row) } else { wanted.contains(block) };
        if is_wanted {
            copied.push(Copied::new(*block, replicate_block(&from, &to, meta, &staging, dry_run).await));
        }
    }
    print(&copied, form, dry_run)
}

fn target(values: &Values, access: Access, context: &Context) -> Result<Bucket, Failure> {
    let opened = || -> anyhow::Result<Bucket> {
        let yaml = values.text_or_file("objstore-to.config")?;
        let yaml =
            yaml.context("no bucket to copy to: give --objstore-to.config or --objstore-to.config-file")?;
        objstore::open(&yaml, access, context).context("--objstore-to.config")
    };
    opened().map_err(Failure::usage)
}

/// Which blocks are copied, unless they are named.
struct Choice {
    resolutions_ms: Vec<i64>,
    levels: Vec<u32>,
    least_level: u64,
    most_level: u64,
    leaves_marked: bool,
}

impl Choice {
    fn read(values: &Values) -> anyhow::Result<Self> {
        let resolutions_ms = values.list("resolution").into_iter().map(|text| {
            let length = parse_duration(&text).map_err(|error| anyhow!("--resolution={text}: {error}"))?;
            Ok(i64::try_from(length.as_millis())?)
        });
        let levels = values
            .list("compaction")
            .into_iter()
            .map(|text| text.parse().with_context(|| format!("--compaction={text}: a number is wanted")));
        let (least_level, most_level) = (values.number("compaction-min"), values.number("compaction-max"));
        ensure!(least_level <= most_level, "--compaction-min is more than --compaction-max");
        Ok(Self {
            resolutions_ms: resolutions_ms.collect::<anyhow::Result<_>>()?,
            levels: levels.collect::<anyhow::Result<_>>()?,
            least_level,
            most_level,
            leaves_marked: values.switch("ignore-marked-for-deletion"),
        })
    }

    fn takes(&self, row: &BlockRow) -> bool {
        let is_of_level = if self.levels.is_empty() {
            (self.least_level..=self.most_level).contains(&u64::from(row.level))
        } else {
            self.levels.contains(&row.level)
        };
        is_of_level
            && self.resolutions_ms.contains(&row.resolution_ms)
            && !(self.leaves_marked && row.marks.contains_key("deletion"))
    }
}

pub async fn upload_blocks(values: &Values, form: Form, context: &Context) -> Result<(), Failure> {
    let dry_run = values.switch("dry-run");
    let path = values.path("path").context("--path is empty").map_err(Failure::usage)?;
    let labels = external_labels(values).map_err(Failure::usage)?;
    let to = bucket(values, if dry_run { Access::Read } else { Access::Write }, context)?;
    // None: nothing is uploaded.
    let concurrency = (!dry_run)
        .then(|| usize::try_from(values.number("shipper.upload-concurrency")).unwrap_or(usize::MAX));
    let mut copied = Vec::new();
    for (dir, meta) in local_blocks(&path)? {
        let block = meta.ulid;
        if meta.compaction.level > 1 && !values.switch("shipper.upload-compacted") {
            let reason = "it is compacted, and --shipper.upload-compacted is not given".to_owned();
            copied.push(Copied::left_out(block, reason));
            continue;
        }
        copied.push(Copied::new(block, upload(&to, &dir, meta, &labels, concurrency).await));
    }
    print(&copied, form, dry_run)
}

async fn upload(
    to: &Bucket,
    dir: &Path,
    meta: BlockMeta,
    labels: &BTreeMap<String, String>,
    concurrency: Option<usize>,
) -> anyhow::Result<(Replicated, u64)> {
    if to.exists(&meta.ulid.meta_object()).await? {
        return Ok((Replicated::ThereAlready, 0));
    }
    let verified = dir.to_owned();
    tokio::task::spawn_blocking(move || verify_block(&verified)).await??;
    let external = meta.thanos.as_ref().and_then(|thanos| thanos.labels.clone()).unwrap_or_default();
    let external_labels: BTreeMap<String, String> = external.into_iter().chain(labels.clone()).collect();
    ensure!(!external_labels.is_empty(), "it has no external labels: give --label");
    let size_bytes = size_of(dir)?;
    if let Some(concurrency) = concurrency {
        let source = UPLOAD_SOURCE.to_owned();
        let hash = HashFunction::None;
        let options = UploadOptions { external_labels, source, hash, now_ms: now_ms(), concurrency };
        upload_block(to, dir, meta, &options).await?;
    }
    Ok((Replicated::Copied, size_bytes))
}

/// The blocks in a directory; others of its entries are not looked at.
fn local_blocks(path: &Path) -> anyhow::Result<Vec<(PathBuf, BlockMeta)>> {
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let dir = entry?.path();
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = dir.join("meta.json");
        let Ok(block) = name.parse::<BlockId>() else { continue };
        let size_bytes = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
        ensure!(size_bytes <= MAX_META_BYTES, "{}: it has {size_bytes} bytes", file.display());
        let json = std::fs::read(&file).with_context(|| file.display().to_string())?;
        blocks.push((dir, BlockMeta::parse_of(block, &json)?));
    }
    blocks.sort_by_key(|(_, meta)| meta.ulid);
    Ok(blocks)
}

fn size_of(dir: &Path) -> anyhow::Result<u64> {
    let mut size_bytes = 0;
    for dir in [dir.to_owned(), dir.join("chunks")] {
        for entry in std::fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let metadata = entry?.metadata()?;
            size_bytes += if metadata.is_file() { metadata.len() } else { 0 };
        }
    }
    Ok(size_bytes)
}

/// `key="value"`, as often as given.
fn external_labels(values: &Values) -> anyhow::Result<BTreeMap<String, String>> {
    let label = |text: String| {
        let wrong = || format!("--label={text}: write name=\"value\"");
        let (name, value) = text.split_once('=').with_context(wrong)?;
        let value = serde_json::from_str(value).with_context(wrong)?;
        Ok((name.to_owned(), value))
    };
    values.repeated("label").into_iter().map(label).collect()
}

fn print(copied: &[Copied], form: Form, dry_run: bool) -> Result<(), Failure> {
    if form == Form::Json {
        table::print_json(&copied)?;
    } else {
        let mut table = Table::new(&["ULID", "OUTCOME", "BYTES", "REASON"]);
        for row in copied {
            let otherwise = if row.has_failed { "Failed" } else { "LeftOut" };
            let outcome = row.outcome.map_or_else(|| otherwise.to_owned(), |outcome| format!("{outcome:?}"));
            let outcome = format!("{outcome}{}", if dry_run { " (dry run)" } else { "" });
            let reason = row.reason.clone().unwrap_or_default();
            table.push(vec![row.block.to_string(), outcome, row.size_bytes.to_string(), reason]);
        }
        table.print(form);
    }
    match copied.iter().filter(|row| row.has_failed).count() {
        0 => Ok(()),
        left => Err(anyhow!("{left} of {} blocks were not copied", copied.len()).into()),
    }
}
