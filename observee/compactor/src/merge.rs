//! Several blocks into one: series by series in the order of their labels, chunk by chunk in the order of time.
//!
//! A chunk that overlaps no other is copied as it is. Chunks that overlap are decoded, merged sample by sample (one to one, or with the offline
//! penalty), and written anew with at most 120 samples each, as Prometheus does. The output never depends on how the work was spread over threads.

pub(crate) mod account;
mod digest;
pub(crate) mod encoder;
mod gate;
mod heap;
mod one_to_one;
mod overlap;
mod penalty;
mod picked;
pub(crate) mod pipeline;
pub(crate) mod samples;

pub use digest::Digest;
pub(crate) use digest::SeriesDigest;
pub use overlap::{MergeFailure, MergeMode, Scratch, merge_series};
pub use pipeline::{ReadTotals, Transform, Written, write_block};
