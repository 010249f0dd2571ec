//! The tests of identity and its tools in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod authority;
mod credentials;
mod faults;
mod fuzz_smoke;
mod guarded_state;
mod hostile_peers;
mod interop;
mod lifecycle;
mod phases;
mod proof;
mod refusals;
mod requests;
mod rotation_model;
mod verify;
