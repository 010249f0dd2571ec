//! The compactor: a bucket's blocks into fewer, larger, coarser ones. It never stops for one bad group, and never loses a sample.
//!
//! How data goes:
//!
//! ```text
//!     bucket ─► BlockList (metas, marks) ─► groups (resolution, external labels) ─► plan (which blocks become one)
//!                                                                                      │
//!     SourceBlock × n ◄─ windows of index and chunks, by ranges ◄──────────────────────┘
//!       └─► symbols merged once: labels are pairs of numbers from here on
//!       └─► k-way by labels ─► workers: clusters of overlapping chunks merged, or windows aggregated ─► writer
//!                                                                                      │
//!     staged block (local) ─► read back and verified ─► uploaded, meta.json last ─► sources marked for deletion
//! ```
//!
//! Invariants:
//!
//! - A source is marked for deletion only after the block made from it was read back and its files are whole in the bucket. Read back means: every sample that went in is in
//!   the new block or was left out on purpose (the number of each series', from chunk headers), and every byte of its chunks is the one that was handed to the writer.
//! - What is wrong with a group stays with the group: it is set aside with its reason, and tried again when its blocks change ([`quarantine`]).
//! - Memory is bounded by windows, symbols, 32 MiB of chunks on their way between threads, and per thread: the encoded chunks of one series in all blocks of a job, 8192 decoded
//!   samples, and what overlaps at one time. Of a series that is downsampled 262,144 floats or 4096 histograms are held; a longer one is decoded twice.
//! - A crash leaves a partial upload, which is invisible, or a whole block beside its sources, which the next pass recognises as covered.

#![forbid(unsafe_code)]

mod api;
pub mod clock;
pub mod compaction;
pub mod compactor;
pub mod config;
pub mod downsample;
pub mod error;
pub mod garbage;
pub mod group;
pub mod lease;
pub mod merge;
pub mod metrics;
pub mod pass;
pub mod plan;
pub mod quarantine;
pub mod shard;
mod source;
pub mod tools;
mod verify;
mod view;

pub use clock::Clock;
pub use compaction::{Job, JobConfig, NewBlock, Outcome};
pub use compactor::Compactor;
pub use config::{CompactorConfig, Retention, RetentionRule};
pub use error::{CompactError, Remedy};
pub use group::{Group, group_blocks, group_key};
pub use lease::LeaseConfig;
pub use merge::{MergeMode, ReadTotals};
pub use metrics::CompactorMetrics;
pub use pass::{Action, Chore, GroupProgress, PassReport, Planned, Progress};
pub use plan::{Outlook, Plan, PlanConfig, plan};
pub use quarantine::{BlockSetAside, Quarantine, SetAside};
pub use shard::Shard;
pub use source::Deletion;
