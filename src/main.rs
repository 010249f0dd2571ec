//! `parallax`: flags and configuration files become one component's `Config`, which is started and served.
//!
//! Composition only: what a component does stands in its own crate. Exit codes: 0 after an orderly stop, 1 when a
//! component failed, 2 for a command line or a configuration that is wrong.

#![forbid(unsafe_code)]

mod cli;
mod command;
mod flags;
mod process;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = match cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => error.exit(),
    };
    match cli::dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("parallax: {:#}", failure.error);
            ExitCode::from(failure.exit_code)
        }
    }
}
