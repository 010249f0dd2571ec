//! The tests of clients and names in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod bulk;
mod compression;
mod discovery;
