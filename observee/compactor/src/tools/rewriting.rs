//! Writing a block anew without some of its samples, as `thanos tools bucket rewrite` does.
//!
//! The new block has itself as its only source, so that nothing takes one for the other, and `thanos.rewrites` says what it was made of and what was left out.
//! The old one stays until somebody marks it.

use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta};
use parallax_model::{MatchOp, Matcher};
use parallax_tsdb::block::BlockChunk;
use serde::Serialize;
use serde_json::{Value, json};

use crate::CompactError;
use crate::compaction::{Job, Outcome, new_id};
use crate::merge::{MergeFailure, Scratch, Transform};
use crate::source::{Deletion, SeriesJob};

/// The component that a rewritten block names: Thanos' word.
const SOURCE: &str = "bucket.rewrite";

/// What became of a block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewritten {
    pub block: BlockId,
    /// `None` in a dry run, where nothing would be left, and where nothing would change.
    pub new: Option<BlockId>,
    pub series: u64,
    pub samples: u64,
    pub series_left: u64,
    pub samples_left: u64,
}

/// Writes `meta`'s block anew without what `deletions` ask for; a dry run only counts.
///
/// # Errors
/// As [`Job::compact`].
pub async fn rewrite_block(
    job: &Job,
    meta: &Arc<BlockMeta>,
    deletions: &[Deletion],
    now_ms: i64,
    dry_run: bool,
) -> Result<Rewritten, CompactError> {
    let rewrite: Arc<dyn Transform + Send + Sync> = Arc::new(Rewrite { deletions: deletions.to_vec() });
    let counted = job.count(meta, Arc::clone(&rewrite)).await?;
    let stats = &meta.stats;
    let mut rewritten = Rewritten {
        block: meta.ulid,
        new: None,
        series: stats.num_series,
        samples: stats.num_samples,
        series_left: counted.num_series,
        samples_left: counted.num_samples,
    };
    let is_unchanged = (counted.num_series, counted.num_samples) == (stats.num_series, stats.num_samples);
    if dry_run || is_unchanged || counted.num_samples == 0 {
        return Ok(rewritten);
    }
    let new = rewritten_meta(meta, deletions, now_ms);
    let prepared = job.run(new, vec![Arc::clone(meta)], rewrite, now_ms).await?;
    if let Outcome::Made(made) = job.finish(prepared).await? {
        rewritten.new = Some(made.meta.ulid);
    }
    Ok(rewritten)
}

fn rewritten_meta(meta: &BlockMeta, deletions: &[Deletion], now_ms: i64) -> BlockMeta {
    let mut new = BlockMeta::clone(meta);
    new.ulid = new_id(now_ms);
    new.compaction.sources = vec![new.ulid];
    let applied = json!({
        "sources": meta.compaction.sources,
        "deletions_applied": deletions.iter().map(deletion_json).collect::<Vec<_>>(),
    });
    let thanos = new.thanos.get_or_insert_default();
    match &mut thanos.rewrites {
        Some(Value::Array(rewrites)) => rewrites.push(applied),
        rewrites => *rewrites = Some(Value::Array(vec![applied])),
    }
    new
}

/// As Go writes Thanos' `DeletionRequest`.
fn deletion_json(deletion: &Deletion) -> Value {
    let matcher = |matcher: &Matcher| {
        let operation = match matcher.op() {
            MatchOp::Equal => 0,
            MatchOp::NotEqual => 1,
            MatchOp::Regex => 2,
            MatchOp::NotRegex => 3,
        };
        json!({"Type": operation, "Name": matcher.name(), "Value": matcher.value()})
    };
    json!({
        "matchers": deletion.matchers.iter().map(matcher).collect::<Vec<_>>(),
        "intervals": deletion.ranges.iter().map(|range| json!({"Mint": range.min_ms, "Maxt": range.max_ms})).collect::<Vec<_>>(),
    })
}

/// Leaves out what is to be deleted, and nothing else.
struct Rewrite {
    deletions: Vec<Deletion>,
}

impl Transform for Rewrite {
    fn apply(
        &self,
        job: SeriesJob,
        _scratch: &mut Scratch,
        out: &mut Vec<BlockChunk>,
    ) -> Result<(), MergeFailure> {
        out.extend(job.sources.into_iter().flatten());
        Ok(())
    }

    fn deletions(&self) -> &[Deletion] {
        &self.deletions
    }

    fn component(&self) -> &'static str {
        SOURCE
    }
}
