//! What the bucket tools ask of a bucket, and do to it: lists of its blocks, a check of them, and marks by hand.
//!
//! Cleaning, retention and downsampling by hand are [`crate::Compactor::chore`].

mod inventory;
mod marking;
mod replication;
mod rewriting;
mod verification;

pub use inventory::{BlockRow, Inventory, inventory};
pub use marking::{MarkKind, Marked, mark_by_hand, unmark_by_hand};
pub use replication::{Replicated, replicate_block};
pub use rewriting::{Rewritten, rewrite_block};
pub use verification::{Finding, Issue, Verification, verify_bucket};
