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
//! - A source is marked for deletion only after the block that holds all its samples was verified and is whole in the bucket.
//! - What is wrong with a group stays with the group: it is set aside with its reason, and tried again when its blocks change ([`quarantine`]).
//! - Memory is bounded by windows, batches and symbols; nothing is held per sample of a block.
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
