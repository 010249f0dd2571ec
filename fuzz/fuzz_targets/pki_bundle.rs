//! See `pki_targets::bundle`.
#![no_main]

#[path = "../pki_targets.rs"]
#[allow(dead_code, reason = "each target needs one of them")]
mod pki_targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pki_targets::bundle(data));
