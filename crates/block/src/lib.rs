//! Blocks in a bucket: `meta.json`, marks, fetching and filtering the list of blocks, upload and verification.
//!
//! Invariants: a block is visible only with its `meta.json`, which goes up last; every block that is not served has a named
//! reason; one bad block never hides another. What the bytes of a block mean is the tsdb crate's.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod delete;
pub mod error;
pub mod fetcher;
pub mod filter;
pub mod id;
pub mod kept;
pub mod mark;
pub mod marks;
pub mod meta;
pub mod metrics;
pub mod upload;
pub mod verify;

pub use catalog::{Catalog, CatalogEntry};
pub use delete::{PartialBlock, delete_block};
pub use error::BlockError;
pub use fetcher::{FULL_LIST_INTERVAL, Fetcher, FetcherConfig, Problem, SyncedBlocks};
pub use filter::{BlockState, Filter, Selector};
pub use id::BlockId;
pub use kept::{BlockSummary, KeptMeta, Shared};
pub use mark::{DeletionMark, NoCompactMark, NoDownsampleMark};
pub use marks::{BlockMarks, read_marks};
pub use meta::{BlockMeta, BlockStats, Compaction, MetaFile, ThanosMeta};
pub use metrics::FetcherMetrics;
pub use upload::{HashFunction, UploadOptions, UploadedData, move_data, upload_block, upload_data};
pub use verify::{VerifyReport, verify_block};
