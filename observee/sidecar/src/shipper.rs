//! Ships finished blocks to the bucket, oldest first.
//!
//! Order of one block, safe to stop at any point: hard links into `thanos/upload/<block>` (`staging`), verification, a look for others who ship
//! under our labels (`rivals`), `chunks/*`, `index`, the same look again, `meta.json`, then the journal (`journal`). A block is in the bucket once its
//! `meta.json` is; the journal only saves asking. What fails is tried again in the next round, and holds back what is newer. A block whose bytes
//! are damaged is reported, counted and passed over; the rest goes on. One process ships from a directory at a time (`lock`).

mod directory;
pub(crate) mod journal;
mod lag;
mod lock;
mod overlap;
mod rivals;
mod staging;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parallax_block::{BlockError, BlockId, BlockMeta, UploadOptions, upload_data, verify_block};
use parallax_model::Labels;
use parallax_tsdb::error::TsdbError;
use tokio::sync::watch;

pub use lag::Shipping;

use crate::metrics::SidecarMetrics;
use crate::prometheus::{Flags, Prometheus};
use crate::state::State;
use crate::{ShipperConfig, SidecarError};
use directory::Found;
use journal::Journal;
pub(crate) use lag::Lag;
use lock::DirectoryLock;
use rivals::Rivals;
use staging::Staged;

/// The component that uploads, in `meta.json`.
const SOURCE: &str = "sidecar";
/// How often the lag is measured while a round is under way.
const LAG_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) struct Shipper {
    config: ShipperConfig,
    prometheus: Prometheus,
    state: watch::Receiver<Option<State>>,
    metrics: SidecarMetrics,
    lag: Arc<Lag>,
    rivals: Rivals,
    /// Whether Prometheus was seen with flags that leave blocks alone.
    flags_are_right: AtomicBool,
    seen: Mutex<Seen>,
}

/// What was seen of blocks that are not shipped, so that it is said once.
#[derive(Default)]
struct Seen {
    /// They could not be read, and are not tried again until a restart.
    damaged: BTreeSet<BlockId>,
    /// They had no `meta.json` in the last round; `true` once that was said.
    without_meta: std::collections::BTreeMap<BlockId, bool>,
    empty: BTreeSet<BlockId>,
    /// They are in the bucket, and the journal could not be told.
    unwritten: BTreeSet<BlockId>,
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
        let lag = Arc::new(Lag::new(metrics.clone()));
        let (rivals, flags_are_right, seen) = (Rivals::default(), AtomicBool::new(false), Mutex::default());
        Self { config, prometheus, state, metrics, lag, rivals, flags_are_right, seen }
    }

    pub fn lag(&self) -> Arc<Lag> {
        Arc::clone(&self.lag)
    }

    /// Ships until it is dropped. Trouble is logged when it changes, not in every round.
    pub async fn run(mut self) {
        let mut reported = String::new();
        let _lock = loop {
            match DirectoryLock::take(&self.config.tsdb_path) {
                Ok(lock) => break lock,
                Err(error) => self.report_round(Err(error), &mut reported),
            }
            tokio::time::sleep(self.config.interval).await;
        };
        if let Err(error) = staging::remove_leftovers(&self.config.tsdb_path) {
            tracing::warn!(error = error.to_string(), "cannot remove what an earlier process left behind");
        }
        loop {
            let Ok(labels) = self.external_labels().await else { return };
            let finished = self.round_with_lag(&labels).await.map(drop);
            self.report_round(finished, &mut reported);
            tokio::time::sleep(self.config.interval).await;
        }
    }

    fn report_round(&self, round: Result<(), SidecarError>, reported: &mut String) {
        let trouble = match round {
            Ok(()) => {
                self.metrics.rounds.inc();
                String::new()
            }
            Err(error) => {
                self.metrics.failed_rounds.inc();
                error.to_string()
            }
        };
        if trouble != *reported && !trouble.is_empty() {
            tracing::error!(error = trouble, "shipping blocks failed; trying again");
        }
        *reported = trouble;
    }

    async fn round_with_lag(&self, labels: &Labels) -> Result<Round, SidecarError> {
        let round = self.round(labels);
        tokio::pin!(round);
        loop {
            tokio::select! {
                finished = &mut round => return finished,
                () = tokio::time::sleep(LAG_INTERVAL) => self.lag.refresh(now_ms()),
            }
        }
    }

    async fn external_labels(&mut self) -> Result<Labels, watch::error::RecvError> {
        let state = self.state.wait_for(Option::is_some).await?;
        Ok(state.as_ref().map(|state| state.external_labels.clone()).unwrap_or_default())
    }

    fn journal_path(&self) -> PathBuf {
        self.config.tsdb_path.join(&self.config.journal_name)
    }

    /// Uploads what is finished and not in the bucket yet.
    ///
    /// # Errors
    /// The first failure, after everything was tried that it does not hold back.
    pub async fn round(&self, external_labels: &Labels) -> Result<Round, SidecarError> {
        let found = Found::look(&self.config.tsdb_path).await?;
        self.report_unshippable(&found);
        let (mut journal, mut failure) = match Journal::read(&self.journal_path()) {
            Ok(journal) => (journal, None),
            // The bucket knows better what it has.
            Err(error) => (Journal::unusable(), Some(error)),
        };
        self.seen().unwritten.iter().for_each(|id| journal.add(*id));
        let own = own_blocks(&found, &journal);
        journal.retain(|id| found.blocks.contains_key(id));
        let mut left: VecDeque<(BlockId, BlockMeta)> = found
            .blocks
            .into_iter()
            .filter(|(id, meta)| !journal.contains(id) && self.wanted(*id, meta))
            .collect();
        left.make_contiguous().sort_by_key(|(id, meta)| (meta.min_time_ms, *id));
        failure = failure.or(found.unreadable);
        self.lag.waiting(left.iter().map(|(_, meta)| meta), now_ms());
        self.learn_retention(!left.is_empty()).await;
        self.check_flags().await?;
        let mut round = Round::default();
        let mut failed = VecDeque::new();
        while let Some((id, meta)) = left.pop_front() {
            match self.ship(id, meta.clone(), external_labels, &own).await {
                Ok(Shipped::Damaged | Shipped::Gone) => {}
                Ok(shipped) => {
                    journal.add(id);
                    failure = self.save(&mut journal).err().or(failure);
                    if shipped == Shipped::Uploaded {
                        round.uploaded.push(id);
                    }
                }
                Err(error) => {
                    self.metrics.upload_failures.inc();
                    failure.get_or_insert(error);
                    failed.push_back((id, meta));
                    if !self.config.allow_out_of_order {
                        break;
                    }
                }
            }
            self.lag.waiting(failed.iter().chain(&left).map(|(_, meta)| meta), now_ms());
        }
        round.waiting = failed.len() + left.len();
        failure = self.save(&mut journal).err().or(failure);
        let all_there = self.config.upload_compacted && round.waiting == 0 && failure.is_none();
        self.metrics.compacted_done.set(i64::from(all_there));
        failure.map_or(Ok(round), Err)
    }

    /// Writes the journal. Where that fails (a full disk) shipping goes on, and what the journal misses is kept in mind.
    fn save(&self, journal: &mut Journal) -> Result<(), SidecarError> {
        let written = journal.write(&self.journal_path());
        let mut seen = self.seen();
        seen.unwritten = if written.is_ok() { BTreeSet::new() } else { journal.ids().clone() };
        written
    }

    /// How long Prometheus keeps what is not in the bucket.
    async fn learn_retention(&self, something_waits: bool) {
        if something_waits && let Ok(info) = self.prometheus.runtime_info().await {
            self.lag.retention(info.retention());
            self.lag.refresh(now_ms());
        }
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
        let right = self.waits_for_us(&flags) || flags.min_block_duration == flags.max_block_duration;
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

    /// Whether Prometheus reads our journal and leaves alone what is not in it. It may see its directory under another name than we do.
    fn waits_for_us(&self, flags: &Flags) -> bool {
        let file = Path::new(&flags.delay_compact_file);
        let name = Path::new(&self.config.journal_name);
        !flags.delay_compact_file.is_empty()
            && (file == self.journal_path()
                || (!flags.data_directory.is_empty() && file == Path::new(&flags.data_directory).join(name)))
    }

    fn wanted(&self, id: BlockId, meta: &BlockMeta) -> bool {
        !self.seen().damaged.contains(&id)
            && meta.stats.num_samples > 0
            && (self.config.upload_compacted || meta.compaction.level <= 1)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names each block that cannot be shipped, once.
    fn report_unshippable(&self, found: &Found) {
        for (id, error) in &found.damaged {
            self.corrupted(*id, error);
        }
        let mut guard = self.seen();
        let seen = &mut *guard;
        let before = std::mem::take(&mut seen.without_meta);
        for id in &found.without_meta {
            // One that somebody copies here by hand may have its `meta.json` by the next round.
            let said = match before.get(id) {
                None => false,
                Some(false) => {
                    self.metrics.corrupted_blocks.inc();
                    tracing::error!(block = id.to_string(), "block has no meta.json, it is not uploaded");
                    true
                }
                Some(true) => true,
            };
            seen.without_meta.insert(*id, said);
        }
        for (id, _) in found.blocks.iter().filter(|(_, meta)| meta.stats.num_samples == 0) {
            if seen.empty.insert(*id) {
                self.metrics.skipped_blocks.get_or_create(&[("reason".to_owned(), "empty".to_owned())]).inc();
                tracing::warn!(block = id.to_string(), "block has no samples, it is not uploaded");
            }
        }
        seen.empty.retain(|id| found.blocks.contains_key(id));
    }

    fn corrupted(&self, id: BlockId, error: &dyn std::fmt::Display) {
        if !self.seen().damaged.insert(id) {
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
        own: &BTreeSet<BlockId>,
    ) -> Result<Shipped, SidecarError> {
        let block_error = |reason: String| SidecarError::Block { block: id.to_string(), reason };
        let bucket = &self.config.bucket;
        let exists =
            bucket.exists(&id.meta_object()).await.map_err(|error| block_error(error.to_string()))?;
        if exists {
            return Ok(Shipped::WasThere);
        }
        self.check_bucket(&meta, external_labels, own).await?;
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
            concurrency: self.config.upload_concurrency,
        };
        let uploaded = upload_data(bucket, staged.path(), meta.clone(), &options)
            .await
            .map_err(|error| block_error(error.to_string()))?;
        // The bucket may have changed while the data went up, and nobody sees it before what comes now.
        self.check_bucket(&meta, external_labels, own).await?;
        uploaded.publish(bucket, &options).await.map_err(|error| block_error(error.to_string()))?;
        self.metrics.uploads.inc();
        self.lag.uploaded(now_ms());
        tracing::info!(block = id.to_string(), "block uploaded");
        Ok(Shipped::Uploaded)
    }

    /// Whether the block would lie on top of another one in the bucket.
    async fn check_bucket(
        &self,
        meta: &BlockMeta,
        external_labels: &Labels,
        own: &BTreeSet<BlockId>,
    ) -> Result<(), SidecarError> {
        let bucket = &self.config.bucket;
        if self.config.allow_out_of_order {
            Ok(())
        } else if meta.compaction.level > 1 {
            overlap::check(bucket, meta, external_labels).await
        } else {
            self.rivals.check(bucket, meta, external_labels, |id| own.contains(id)).await
        }
    }
}

/// The blocks of this directory, those included that Prometheus has merged into others.
fn own_blocks(found: &Found, journal: &Journal) -> BTreeSet<BlockId> {
    let merged = found.blocks.values().flat_map(|meta| meta.compaction.sources.iter().copied());
    let there = found.blocks.keys().chain(&found.without_meta).chain(found.damaged.iter().map(|(id, _)| id));
    there.chain(journal.ids()).copied().chain(merged).collect()
}

/// Whether reading the block again would find the same: its bytes are wrong or missing, not just out of reach.
fn is_damage(error: &BlockError) -> bool {
    match error {
        BlockError::File { source, .. }
        | BlockError::Damaged { source: TsdbError::Io { source, .. }, .. } => {
            // A file of no bytes cannot be mapped, which is an invalid input.
            matches!(
                source.kind(),
                ErrorKind::NotFound
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::InvalidData
                    | ErrorKind::InvalidInput
            )
        }
        BlockError::Damaged { .. } | BlockError::Meta { .. } => true,
        _ => false,
    }
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> SidecarError {
    SidecarError::File { path: path.to_path_buf(), reason: error.to_string() }
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
