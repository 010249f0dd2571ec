//! The desk of an operator: a directory with an authority in it, and `parallax pki` run there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::program::{Finished, command, finish};

const PASSPHRASE: &str = "correct horse battery staple";

/// A directory with a state `pki` in it, and commands run there.
pub struct Desk {
    home: tempfile::TempDir,
}

impl Desk {
    pub fn empty() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    pub fn new() -> Self {
        let desk = Self::empty();
        desk.ok("init --state file:pki --trust-domain mesh.example");
        desk
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// `parallax pki` with these words, not started yet.
    pub fn command(&self, words: &str) -> Command {
        let mut command = command(std::iter::once("pki").chain(words.split_whitespace()));
        command.current_dir(self.home.path()).env("PARALLAX_PKI_PASSPHRASE", PASSPHRASE);
        command
    }

    /// Runs `parallax pki` with these words.
    pub fn pki(&self, words: &str) -> Finished {
        finish(&mut self.command(words))
    }

    pub fn ok(&self, words: &str) -> String {
        let finished = self.pki(words);
        assert_eq!(finished.code, Some(0), "pki {words}: {finished:?}");
        finished.stdout
    }

    pub fn json(&self, words: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{words} --output json"))).unwrap()
    }

    pub fn code(&self, words: &str, code: i32) -> String {
        let finished = self.pki(words);
        assert_eq!(finished.code, Some(code), "pki {words}: {finished:?}");
        format!("{}{}", finished.stdout, finished.stderr)
    }
}
