//! Any text as a script: see `targets::script`.
#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each target needs one of them")]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::script(data));
