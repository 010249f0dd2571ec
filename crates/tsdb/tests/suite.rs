//! The tests of blocks on disk in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod block_golden;
mod chunk_properties;
mod golden_chunks;
mod index_damage;
mod index_golden;
