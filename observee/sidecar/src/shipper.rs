//! Ships finished blocks to the bucket, oldest first.
//!
//! Order of one block, safe to stop at any point: hard links into `thanos/upload/<block>` (`staging`), verification,
//! `chunks/*`, `index`, `meta.json`, then the journal (`journal`). A block is in the bucket once its `meta.json` is; the
//! journal only saves asking. What fails is tried again in the next round. A block whose bytes are damaged is reported,
//! counted and passed over; the rest goes on.

pub(crate) mod journal;
mod overlap;
mod staging;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use parallax_block::{BlockError, BlockId, BlockMeta, UploadOptions, upload_block, verify_block};
use parallax_model::Labels;
use parallax_tsdb::error::TsdbError;
use tokio::sync::watch;

use crate::metrics::SidecarMetrics;
use crate::prometheus::Prometheus;
use crate::state::State;
use crate::{ShipperConfig, SidecarError};
use journal::Journal;
use staging::Staged;

/// The component that uploads, in `meta.json`.
const SOURCE: &str = "sidecar";

pub(crate) struct Shipper {
    config: ShipperConfig,
    prometheus: Prometheus,
    state: watch::Receiver<Option<State>>,
    metrics: SidecarMetrics,
    /// Whether Prometheus was seen with flags that leave blocks alone.
    flags_are_right: AtomicBool,
    /// Blocks that could not be read: reported once, and not tried again until a restart.
    damaged: Mutex<BTreeSet<BlockId>>,
}

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shipped {
    Uploaded,
    WasThere,
    Damaged,
    /// Prometheus deleted it meanwhile.
    Gone,
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
        let (flags_are_right, damaged) = (AtomicBool::new(false), Mutex::default());
        Self { config, prometheus, state, metrics, flags_are_right, damaged }
    }

    /// Ships until it is dropped. Trouble is logged when it changes, not in every round.
    pub async fn run(mut self) {
        let mut reported = String::new();
        if let Err(error) = staging::remove_leftovers(&self.config.tsdb_path) {
            tracing::warn!(error = error.to_string(), "cannot remove what an earlier process left behind");
        }
        loop {
            let Ok(labels) = self.external_labels().await else { return };
            let trouble = match self.round(&labels).await {
                Ok(_) => {
                    self.metrics.rounds.inc();
                    String::new()
                }
                Err(error) => {
                    self.metrics.failed_rounds.inc();
                    error.to_string()
                }
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
                Ok(Shipped::Damaged | Shipped::Gone) => round.waiting -= 1,
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

    /// Prometheus must not compact blocks before they are uploaded. One that has stopped does not compact either.
    async fn check_flags(&self) -> Result<(), SidecarError> {
        if self.config.ignore_unequal_block_size {
            return Ok(());
        }
        let flags = match self.prometheus.flags().await {
            Err(SidecarError::Unreachable { .. }) if self.flags_are_right.load(Ordering::Relaxed) => {
                return Ok(());
            }
            flags => flags?,
        };
        let delayed = !flags.delay_compact_file.is_empty()
            && Path::new(&flags.delay_compact_file) == self.config.tsdb_path.join(&self.config.journal_name);
        let right = delayed || flags.min_block_duration == flags.max_block_duration;
        self.flags_are_right.store(right, Ordering::Relaxed);
        if right {
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
        if meta.compaction.level > 1 && !self.config.allow_out_of_order {
            overlap::check(bucket, &meta, external_labels).await?;
        }
        let directory = self.config.tsdb_path.clone();
        let sound = tokio::task::spawn_blocking(move || {
            let staged = Staged::new(&directory, id)?;
            let verified = staged.as_ref().map(|staged| verify_block(staged.path()));
            Ok((staged, verified))
        });
        let staged = match sound.await.map_err(|error| block_error(error.to_string()))?? {
            (Some(staged), Some(Ok(_))) => staged,
            (_, Some(Err(error))) if is_damage(&error) => {
                self.corrupted(id, &error);
                return Ok(Shipped::Damaged);
            }
            (_, Some(Err(error))) => return Err(block_error(error.to_string())),
            _ => return Ok(Shipped::Gone),
        };
        let options = UploadOptions {
            external_labels: external_labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            source: SOURCE.to_owned(),
            hash: self.config.hash,
            now_ms: now_ms(),
        };
        upload_block(bucket, staged.path(), meta, &options)
            .await
            .map_err(|error| block_error(error.to_string()))?;
        self.metrics.uploads.inc();
        self.metrics.last_upload_seconds.set(now_ms() as f64 / 1000.0);
        tracing::info!(block = id.to_string(), "block uploaded");
        Ok(Shipped::Uploaded)
    }
}

/// Whether reading the block again would find the same: its bytes are wrong or missing, not just out of reach.
fn is_damage(error: &BlockError) -> bool {
    match error {
        BlockError::File { source, .. }
        | BlockError::Damaged { source: TsdbError::Io { source, .. }, .. } => {
            matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
        }
        BlockError::Damaged { .. } | BlockError::Meta { .. } => true,
        _ => false,
    }
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> SidecarError {
    SidecarError::File { path: path.to_path_buf(), reason: error.to_string() }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
