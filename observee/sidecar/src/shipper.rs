//! Ships finished blocks to the bucket, oldest first.
//!
//! Order of one block, safe to stop at any point: hard links into `thanos/upload/<block>` (Prometheus may delete the block
//! meanwhile), verification, `chunks/*`, `index`, `meta.json`, then the journal. A block is in the bucket once its
//! `meta.json` is; the journal only saves asking. What fails is tried again in the next round. A block whose bytes are
//! damaged is reported, counted and passed over; the rest goes on.

pub(crate) mod journal;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use parallax_block::{BlockId, BlockMeta, UploadOptions, upload_block, verify_block};
use parallax_model::Labels;
use tokio::sync::watch;

use crate::metrics::SidecarMetrics;
use crate::prometheus::Prometheus;
use crate::state::State;
use crate::{ShipperConfig, SidecarError};
use journal::Journal;

/// The component that uploads, in `meta.json`.
const SOURCE: &str = "sidecar";
/// Where blocks are linked while they go up.
const UPLOAD_DIRECTORY: [&str; 2] = ["thanos", "upload"];

pub(crate) struct Shipper {
    config: ShipperConfig,
    prometheus: Prometheus,
    state: watch::Receiver<Option<State>>,
    metrics: SidecarMetrics,
    /// Blocks that could not be read: reported once, and not tried again until a restart.
    damaged: Mutex<BTreeSet<BlockId>>,
}

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shipped {
    Uploaded,
    WasThere,
    Damaged,
}

/// What a round came to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Round {
    pub uploaded: Vec<BlockId>,
    /// Not in the bucket, and to be tried again.
    pub waiting: usize,
}

impl Shipper {
    pub fn new(
        config: ShipperConfig,
        prometheus: Prometheus,
        state: watch::Receiver<Option<State>>,
        metrics: SidecarMetrics,
    ) -> Self {
        Self { config, prometheus, state, metrics, damaged: Mutex::default() }
    }

    /// Ships until it is dropped. Trouble is logged when it changes, not in every round.
    pub async fn run(mut self) {
        let mut reported = String::new();
        loop {
            let Ok(labels) = self.external_labels().await else { return };
            let trouble = match self.round(&labels).await {
                Ok(_) => String::new(),
                Err(error) => error.to_string(),
            };
            if trouble != reported && !trouble.is_empty() {
                tracing::error!(error = trouble, "shipping blocks failed; trying again");
            }
            reported = trouble;
            tokio::time::sleep(self.config.interval).await;
        }
    }

    async fn external_labels(&mut self) -> Result<Labels, watch::error::RecvError> {
        let state = self.state.wait_for(Option::is_some).await?;
        Ok(state.as_ref().map(|state| state.external_labels.clone()).unwrap_or_default())
    }

    /// Uploads what is finished and not in the bucket yet.
    ///
    /// # Errors
    /// The first failure; with `allow_out_of_order`, after the newer blocks were tried too.
    pub async fn round(&self, external_labels: &Labels) -> Result<Round, SidecarError> {
        self.check_flags().await?;
        let journal_path = self.config.tsdb_path.join(&self.config.journal_name);
        let mut journal = Journal::read(&journal_path)?;
        let blocks = self.finished_blocks().await?;
        journal.retain(|id| blocks.contains_key(id));
        let mut pending: Vec<(&BlockId, &BlockMeta)> =
            blocks.iter().filter(|(id, meta)| !journal.contains(id) && self.wanted(**id, meta)).collect();
        pending.sort_by_key(|(id, meta)| (meta.min_time_ms, **id));
        let mut round = Round { uploaded: Vec::new(), waiting: pending.len() };
        let mut failure = None;
        for (id, meta) in pending {
            self.metrics.blocks_waiting.set(i64::try_from(round.waiting).unwrap_or(i64::MAX));
            match self.ship(*id, meta.clone(), external_labels).await {
                Ok(Shipped::Damaged) => {}
                Ok(shipped) => {
                    round.waiting -= 1;
                    journal.add(*id);
                    journal.write(&journal_path)?;
                    if shipped == Shipped::Uploaded {
                        round.uploaded.push(*id);
                    }
                }
                Err(error) => {
                    self.metrics.upload_failures.inc();
                    failure.get_or_insert(error);
                    if !self.config.allow_out_of_order {
                        break;
                    }
                }
            }
        }
        self.metrics.blocks_waiting.set(i64::try_from(round.waiting).unwrap_or(i64::MAX));
        journal.write(&journal_path)?;
        failure.map_or(Ok(round), Err)
    }

    /// Prometheus must not compact blocks before they are uploaded.
    async fn check_flags(&self) -> Result<(), SidecarError> {
        if self.config.ignore_unequal_block_size {
            return Ok(());
        }
        let flags = self.prometheus.flags().await?;
        let delayed = !flags.delay_compact_file.is_empty()
            && Path::new(&flags.delay_compact_file) == self.config.tsdb_path.join(&self.config.journal_name);
        if flags.min_block_duration == flags.max_block_duration || delayed {
            return Ok(());
        }
        Err(SidecarError::UnequalBlockDurations {
            url: self.prometheus.url().to_owned(),
            min: flags.min_block_duration,
            max: flags.max_block_duration,
        })
    }

    fn wanted(&self, id: BlockId, meta: &BlockMeta) -> bool {
        !self.is_damaged(id)
            && meta.stats.num_samples > 0
            && (self.config.upload_compacted || meta.compaction.level <= 1)
    }

    /// The blocks in Prometheus' directory. One without a readable `meta.json` is not finished, or damaged: it is reported.
    async fn finished_blocks(&self) -> Result<BTreeMap<BlockId, BlockMeta>, SidecarError> {
        let directory = self.config.tsdb_path.clone();
        let unreadable = |error: std::io::Error| file_error(&directory, &error);
        let mut entries = tokio::fs::read_dir(&directory).await.map_err(unreadable)?;
        let mut found = BTreeMap::new();
        while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<BlockId>().ok()) else {
                continue;
            };
            let path = entry.path().join(parallax_block::meta::META_FILE_NAME);
            let bytes = match tokio::fs::read(&path).await {
                Ok(bytes) => bytes,
                // Not written yet, or deleted a moment ago.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(file_error(&path, &error)),
            };
            match BlockMeta::parse_of(id, &bytes) {
                Ok(meta) => {
                    found.insert(id, meta);
                }
                Err(error) => self.corrupted(id, &error),
            }
        }
        Ok(found)
    }

    fn is_damaged(&self, id: BlockId) -> bool {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn corrupted(&self, id: BlockId, error: &dyn std::fmt::Display) {
        if !self.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return;
        }
        self.metrics.corrupted_blocks.inc();
        tracing::error!(
            block = id.to_string(),
            error = error.to_string(),
            "block is damaged, it is not uploaded"
        );
    }

    /// Puts one block into the bucket.
    async fn ship(
        &self,
        id: BlockId,
        meta: BlockMeta,
        external_labels: &Labels,
    ) -> Result<Shipped, SidecarError> {
        let block_error = |reason: String| SidecarError::Block { block: id.to_string(), reason };
        let bucket = &self.config.bucket;
        let exists =
            bucket.exists(&id.meta_object()).await.map_err(|error| block_error(error.to_string()))?;
        if exists {
            return Ok(Shipped::WasThere);
        }
        let staged = self.stage(id)?;
        let verified = {
            let staged = staged.0.clone();
            tokio::task::spawn_blocking(move || verify_block(&staged)).await
        };
        match verified {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                self.corrupted(id, &error);
                return Ok(Shipped::Damaged);
            }
            Err(error) => return Err(block_error(error.to_string())),
        }
        let options = UploadOptions {
            external_labels: external_labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            source: SOURCE.to_owned(),
            hash: self.config.hash,
            now_ms: now_ms(),
        };
        upload_block(bucket, &staged.0, meta, &options)
            .await
            .map_err(|error| block_error(error.to_string()))?;
        self.metrics.uploads.inc();
        self.metrics.last_upload_seconds.set(now_ms() as f64 / 1000.0);
        tracing::info!(block = id.to_string(), "block uploaded");
        Ok(Shipped::Uploaded)
    }

    /// Links the block's files to where Prometheus does not delete them.
    fn stage(&self, id: BlockId) -> Result<Staged, SidecarError> {
        let source = self.config.tsdb_path.join(id.to_string());
        let target = UPLOAD_DIRECTORY
            .iter()
            .fold(self.config.tsdb_path.clone(), |path, part| path.join(part))
            .join(id.to_string());
        // What an interrupted round left behind may be incomplete.
        match std::fs::remove_dir_all(&target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error(&target, &error));
            }
            _ => {}
        }
        let staged = Staged(target);
        link_tree(&source, &staged.0, &["index", "meta.json"])?;
        link_tree(&source.join("chunks"), &staged.0.join("chunks"), &[])?;
        Ok(staged)
    }
}

/// A directory of links, removed when it is dropped.
struct Staged(PathBuf);

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(directory = %self.0.display(), error = error.to_string(), "cannot remove links");
        }
    }
}

/// Links the files called `names` (all, if there are none) of `source` into the new directory `target`.
fn link_tree(source: &Path, target: &Path, names: &[&str]) -> Result<(), SidecarError> {
    std::fs::create_dir_all(target).map_err(|error| file_error(target, &error))?;
    let entries = std::fs::read_dir(source).map_err(|error| file_error(source, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| file_error(source, &error))?;
        let name = entry.file_name();
        if names.is_empty() || names.iter().any(|wanted| name.to_str() == Some(wanted)) {
            std::fs::hard_link(entry.path(), target.join(&name))
                .map_err(|error| file_error(&entry.path(), &error))?;
        }
    }
    Ok(())
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> SidecarError {
    SidecarError::File { path: path.to_path_buf(), reason: error.to_string() }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
