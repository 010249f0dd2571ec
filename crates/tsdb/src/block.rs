//! A block's directory: `index`, `chunks/000001` and on, and perhaps `tombstones`. (`meta.json` is the block crate's.)
//!
//! A block never changes once it has its name: [`BlockWriter`] builds it under another one, and a rename publishes it.

pub mod reader;
pub mod symbol_writer;
pub mod writer;

use std::collections::BTreeSet;

use parallax_model::Labels;

pub use reader::{BlockReader, BlockSeries};
pub use symbol_writer::SymbolBlockWriter;
pub use writer::{BlockChunk, BlockFile, BlockStats, BlockWriter, SealedBlock};

/// The name of the index in a block's directory.
pub const INDEX_FILE_NAME: &str = "index";

/// The name of the directory of segment files.
pub const CHUNKS_DIR_NAME: &str = "chunks";

/// Stands behind the name of a block that is being written, as Prometheus has it: it removes what is left of such names.
pub const UNFINISHED_SUFFIX: &str = ".tmp-for-creation";

/// Every text of these labels, in order, and the empty text, which Prometheus lists too.
pub fn symbols_of<'a>(series: impl IntoIterator<Item = &'a Labels>) -> BTreeSet<&'a str> {
    let mut symbols = BTreeSet::from([""]);
    for labels in series {
        symbols.extend(labels.iter().flat_map(|(name, value)| [name, value]));
    }
    symbols
}
