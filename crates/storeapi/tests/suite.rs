//! The tests of the StoreAPI in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod codec;
mod generated;
mod golden;
mod held;
mod packed;
