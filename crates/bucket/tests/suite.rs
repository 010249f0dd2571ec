//! The tests of buckets in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod caching;
mod faults;
mod filesystem;
