//! All marks of some blocks, read at once.

use std::collections::BTreeMap;

use futures::StreamExt;
use parallax_bucket::Bucket;

use crate::mark::{Mark, read_mark};
use crate::{BlockError, BlockId, DeletionMark, NoCompactMark, NoDownsampleMark};

/// The marks of one block.
#[derive(Debug, Default)]
pub struct BlockMarks {
    pub deletion: Option<DeletionMark>,
    pub no_compact: Option<NoCompactMark>,
    pub no_downsample: Option<NoDownsampleMark>,
    /// Marks that could not be read, or are of a version that we do not know. Whoever changes blocks leaves such a block alone.
    pub problems: Vec<BlockError>,
}

/// Reads the marks of `blocks`, a bounded number at a time.
pub async fn read_marks(
    bucket: &Bucket,
    blocks: impl IntoIterator<Item = BlockId>,
    concurrency: usize,
) -> BTreeMap<BlockId, BlockMarks> {
    futures::stream::iter(blocks)
        .map(|block| async move {
            let mut marks = BlockMarks::default();
            let problems = &mut marks.problems;
            marks.deletion = read(bucket, block, problems).await;
            marks.no_compact = read(bucket, block, problems).await;
            marks.no_downsample = read(bucket, block, problems).await;
            (block, marks)
        })
        .buffer_unordered(concurrency.max(1))
        .collect()
        .await
}

async fn read<M: Mark>(bucket: &Bucket, block: BlockId, problems: &mut Vec<BlockError>) -> Option<M> {
    read_mark(bucket, block).await.unwrap_or_else(|error| {
        problems.push(error);
        None
    })
}
