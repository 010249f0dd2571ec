//! The store gateway: a bucket of blocks behind one StoreAPI.
//!
//! A question goes: choose blocks by external labels and time (`blocks`); per block, find series by postings, read their entries and
//! then their chunks, all by ranges of objects (`select`); merge the blocks' sorted streams (`merge`). Chunk bytes go from the
//! bucket to the wire unread but for their checksum. What cannot be read of one block is a warning that names block, object and
//! offset, and the rest of the answer goes on; where partial answers are not allowed, it is the status `Aborted`. A block that leaves the bucket meanwhile is
//! read on from the block that took its place (`block_list`).
//!
//! Waiting is tokio's, work on more than a few kilobytes runs on a bounded CPU pool, and everything held per request is bounded.

#![forbid(unsafe_code)]

mod aggregate;
mod answer;
mod block;
mod block_list;
mod blocks;
mod buffers;
mod chunk_fields;
mod chunk_read;
mod chunk_sizes;
mod config;
mod error;
mod fetch;
mod gate;
mod gateway;
mod header;
mod hints;
mod index_cache;
mod info;
mod label_calls;
mod label_fields;
mod limits;
mod merge;
mod metrics;
mod order;
mod postings;
mod select;
mod series_call;
mod series_read;

pub use config::{Caches, LazyPostings, Limits, StoreGatewayConfig};
pub use error::Error;
pub use gateway::{Loaded, StoreGateway};
pub use index_cache::{IndexCache, IndexCacheConfig};
