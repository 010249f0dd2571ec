//! Looking for what is wrong with the blocks of a bucket. Nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use parallax_block::{BlockId, BlockMeta};
use parallax_bucket::Bucket;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::CompactError;
use crate::garbage::check_whole;
use crate::group::group_blocks;
use crate::source::{Reading, SourceBlock};

/// What to look for, under Thanos' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Issue {
    /// Blocks of one group that overlap in time.
    OverlappedBlocks,
    /// Everything that reading a block as a whole shows: order, checksums, times, counts, files.
    IndexKnownIssues,
    /// Blocks of one group that hold the same sources.
    DuplicatedCompaction,
}

impl Issue {
    pub const ALL: [Self; 3] = [Self::OverlappedBlocks, Self::IndexKnownIssues, Self::DuplicatedCompaction];

    pub const fn name(self) -> &'static str {
        match self {
            Self::OverlappedBlocks => "overlapped_blocks",
            Self::IndexKnownIssues => "index_known_issues",
            Self::DuplicatedCompaction => "duplicated_compaction",
        }
    }
}

impl FromStr for Issue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|issue| issue.name() == text);
        found.ok_or_else(|| {
            format!("{text:?} is nothing to look for: there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub issue: Issue,
    pub block: BlockId,
    pub message: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    pub blocks: usize,
    pub series: u64,
    pub chunks: u64,
    pub findings: Vec<Finding>,
}

/// Looks for issues among blocks; one block is read at a time.
///
/// # Errors
/// If the bucket did not answer; what is wrong with a block is a finding.
pub async fn verify_bucket(
    bucket: &Bucket,
    blocks: &[Arc<BlockMeta>],
    issues: &BTreeSet<Issue>,
) -> Result<Verification, CompactError> {
    let mut found = Verification { blocks: blocks.len(), ..Verification::default() };
    for group in group_blocks(blocks, &[]).values() {
        if issues.contains(&Issue::OverlappedBlocks)
            && let Some((first, second)) = group.overlap()
        {
            let message = format!("it overlaps block {first} of the same group in time");
            found.findings.push(Finding { issue: Issue::OverlappedBlocks, block: second, message });
        }
        if issues.contains(&Issue::DuplicatedCompaction) {
            let mut by_sources: BTreeMap<BTreeSet<BlockId>, BlockId> = BTreeMap::new();
            for meta in &group.blocks {
                let sources: BTreeSet<BlockId> = meta.compaction.sources.iter().copied().collect();
                if let Some(first) = by_sources.insert(sources, meta.ulid) {
                    let message = format!("it holds the same sources as block {first}");
                    found.findings.push(Finding {
                        issue: Issue::DuplicatedCompaction,
                        block: meta.ulid,
                        message,
                    });
                }
            }
        }
    }
    if !issues.contains(&Issue::IndexKnownIssues) {
        return Ok(found);
    }
    for meta in blocks {
        let outcome = match check_whole(bucket, meta).await {
            Ok(()) => read_whole(bucket.clone(), Arc::clone(meta)).await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok((series, chunks)) => {
                found.series += series;
                found.chunks += chunks;
            }
            Err(error) if error.remedy() == crate::Remedy::Quarantine => {
                let message = error.to_string();
                let issue = Issue::IndexKnownIssues;
                found.findings.push(Finding { issue, block: meta.ulid, message });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Reads a block as a merge would; gives the numbers of its series and chunks.
async fn read_whole(bucket: Bucket, meta: Arc<BlockMeta>) -> Result<(u64, u64), CompactError> {
    let runtime = Handle::current();
    let read = tokio::task::spawn_blocking(move || {
        let reading = Reading::new(bucket, runtime, 1);
        let mut block = SourceBlock::open_alone(&reading, meta, |_| Ok(()))?;
        let (mut series, mut chunks) = (0, 0);
        while block.advance()? {
            series += 1;
            chunks += block.chunks()?.len() as u64;
        }
        Ok((series, chunks))
    });
    read.await.unwrap_or_else(|_| Err(CompactError::Defect { what: "reading a block".to_owned() }))
}
