//! Reading the blocks that are to be merged: in order, by ranges, without a copy on disk.
//!
//! Of each block there are two windows in memory, one on its index and one on its chunks, each with the next piece on its way. Labels are never text:
//! the symbols of all blocks are merged first ([`symbols`]), and from then on a label is a pair of numbers whose order is that of the texts.

mod block;
mod deleted;
mod deletion;
mod segments;
mod symbol_map;
mod symbols;
mod window;

pub use block::SourceBlock;
pub use deletion::Deletion;
pub use window::{Reading, Window};

use parallax_block::BlockId;
use parallax_tsdb::block::BlockChunk;
use parallax_tsdb::index::{ChunkMeta, SymbolRef};

/// The labels of a series, as merged symbols: sorted, with the order of label sets.
pub type SymbolLabels = Vec<(SymbolRef, SymbolRef)>;

/// A series and its chunks in each block that has it.
#[derive(Debug, Default)]
pub struct SeriesJob {
    pub labels: SymbolLabels,
    /// Not empty, and none of them is; in order of time each.
    pub sources: Vec<Vec<BlockChunk>>,
    /// Where the block of each of them ends: it has no samples from then on. Not known if it is missing.
    pub ends_ms: Vec<i64>,
    /// Where the series stands in each of the sources, for messages.
    pub origins: Vec<Origin>,
}

/// A series of a block, and the places of its chunks.
#[derive(Clone, Debug)]
pub struct Origin {
    pub block: BlockId,
    pub chunks: Vec<ChunkMeta>,
}
