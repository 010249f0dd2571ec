//! The tests of lists of blocks in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod golden_bucket;
mod sync_calls;
