//! The tests of PromQL in one program: each program is linked with all that the crate stands on, and that takes longer than most of its tests.

mod engine;
mod fuzz_smoke;
mod golden_queries;
mod histogram_calls;
mod interrupts;
mod narrowing;
mod parse;
mod parse_properties;
mod pushdown;
mod scripts;
mod statistics;
