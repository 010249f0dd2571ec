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
//! - A source is marked for deletion only after the block made from it was read back (its structure: series, chunks, postings; not every sample) and its
//!   files are whole in the bucket.
//! - What is wrong with a group stays with the group: it is set aside with its reason, and tried again when its blocks change ([`quarantine`]).
//! - Memory is bounded by windows, batches and symbols, but for chunks that overlap: a run of them, which for interleaved replicas may be a whole
//!   series of a block, is decoded at once, and so is a series that is downsampled.
//! - A crash leaves a partial upload, which is invisible, or a whole block beside its sources, which the next pass recognises as covered.

#![forbid(unsafe_code)]

mod api;
pub mod compaction;
pub mod compactor;
pub mod config;
pub mod downsample;
pub mod error;
pub mod garbage;
pub mod group;
pub mod merge;
pub mod metrics;
pub mod pass;
pub mod plan;
pub mod quarantine;
mod source;
mod verify;
mod view;

pub use compaction::{Job, JobConfig, NewBlock};
pub use compactor::Compactor;
pub use config::{CompactorConfig, Retention};
pub use error::{CompactError, Remedy};
pub use group::{Group, group_blocks, group_key};
pub use merge::MergeMode;
pub use metrics::CompactorMetrics;
pub use pass::{PassReport, Progress};
pub use plan::{Plan, PlanConfig, plan};
pub use quarantine::{BlockSetAside, Quarantine, SetAside};
