//! The tests of dedup in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod encoded;
mod gap_aware;
mod generated;
mod model;
mod penalty;
