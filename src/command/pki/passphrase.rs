//! Where the passphrase of an authority comes from: a file, the environment, or the terminal.
//!
//! Invariant: it is never an argument (those are seen in the list of processes), never echoed, never printed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::bail;
use clap::{Arg, ArgMatches};
use parallax_pki::{Error, Passphrase};

const VARIABLE: &str = "PARALLAX_PKI_PASSPHRASE";

pub(super) fn file_arg() -> Arg {
    Arg::new("passphrase-file")
        .long("passphrase-file")
        .value_name("FILE")
        .help("File with the passphrase of the CA keys (else $PARALLAX_PKI_PASSPHRASE, else it is asked for)")
}

/// From the file or the environment.
pub(super) fn given(matches: &ArgMatches) -> Result<Option<String>, Error> {
    read(super::text(matches, "passphrase-file").as_deref())
}

fn read(file: Option<&str>) -> Result<Option<String>, Error> {
    match file {
        Some(file) => parallax_pki::read_bounded(Path::new(file)).map(Some),
        None => Ok(std::env::var(VARIABLE).ok()),
    }
}

/// For a key that is there.
pub(super) fn for_existing(file: Option<&str>) -> Result<Option<Passphrase>, Error> {
    if let Some(text) = read(file)? {
        return Passphrase::new(&text).map(Some);
    }
    if !std::io::stdin().is_terminal() {
        return Ok(None);
    }
    let text = ask("passphrase of the CA keys: ").map_err(|source| Error::Io {
        action: "reading the passphrase from",
        path: "the terminal".into(),
        source,
    })?;
    Passphrase::new(&text).map(Some)
}

/// Twice, so that a slip does not lock the keys for ever.
pub(super) fn ask_for_new() -> anyhow::Result<Passphrase> {
    if !std::io::stdin().is_terminal() {
        bail!(
            "the CA keys are encrypted: give a passphrase with --passphrase-file or ${VARIABLE} (or --no-encrypt, for tests)"
        );
    }
    let first = ask("new passphrase for the CA keys: ")?;
    let second = ask("once more: ")?;
    if first != second {
        bail!("the two passphrases differ; nothing was made");
    }
    Ok(Passphrase::for_new_authority(&first)?)
}

fn ask(prompt: &str) -> std::io::Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let mut stderr = std::io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    let before = tcgetattr(&stdin)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before)?;
    writeln!(stderr)?;
    read.map(|_| line)
}
