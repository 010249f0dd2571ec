//! PromQL: parse, plan, execute; the `.test` script runner.
//!
//! The crate sees only `parallax_model`; data comes in through [`source::Source`].

pub mod annotations;
pub mod ast;
mod cut;
pub mod engine;
mod exec;
mod functions;
mod lex;
pub mod memory_source;
pub mod parse;
mod plan;
mod print;
pub mod script;
pub mod selectors;
pub mod series_notation;
pub mod signature;
pub mod source;
pub mod value;
