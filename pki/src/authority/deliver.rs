//! Bringing what the journal decided to where it is used: bundles, leaves' directories, the removal of destroyed keys.
//!
//! Invariant: everything here can be done again. A directory of a leaf that cannot be written is reported and tried again by the next change; it does
//! not keep the others from theirs.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::{Book, bundles};
use crate::Error;
use crate::disk::replace;
use crate::leaf_files::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, deliver};
use crate::ledger::Leaf;
use crate::profile::Hierarchy;
use crate::state::{State, generation_place, io, issued_place, read_bounded};

impl Book {
    /// Brings the derived files up to date.
    pub(super) fn derive(&mut self, state: &State) -> Result<(), Error> {
        bundles(self, state)?;
        self.remove_destroyed_keys(state)?;
        let mut undelivered = Vec::new();
        for serial in state.names(Path::new("pending"))? {
            if let Err(error) = self.deliver_pending(state, &serial) {
                undelivered.push(error.to_string());
            }
        }
        for leaf in self.ledger.current() {
            if let Err(error) = self.refresh_bundle(state, leaf) {
                undelivered.push(error.to_string());
            }
        }
        for text in undelivered.iter().filter(|text| !self.undelivered.contains(text)) {
            tracing::warn!(problem = text, "not delivered; the next pki command tries again");
        }
        self.undelivered = undelivered;
        Ok(())
    }

    fn remove_destroyed_keys(&self, state: &State) -> Result<(), Error> {
        for ((hierarchy, number), record) in &self.ledger.generations {
            let path = state.directory().join(generation_place(*hierarchy, *number)).join("ca.key");
            if record.key_destroyed && path.exists() {
                let removed = state.disk().remove_file(&path);
                removed.map_err(|source| state.unwritable("removing", &path, source))?;
            }
        }
        Ok(())
    }

    fn deliver_pending(&self, state: &State, serial: &str) -> Result<(), Error> {
        let pending = state.directory().join("pending").join(serial);
        let leaf = Hierarchy::ALL.iter().find_map(|of| self.ledger.leaves.get(&(*of, serial.to_owned())));
        let undelivered = leaf
            .filter(|leaf| leaf.is_current())
            .and_then(|leaf| Some((leaf, home_of(state, leaf)?)))
            .filter(|(leaf, home)| !is_delivered(state, leaf, home));
        if let Some((leaf, home)) = undelivered {
            let failed = |source| io("writing", &home, source);
            let cert = read_bounded(&pending.join(CERTIFICATE_FILE))?;
            if leaf.record.requested {
                replace(state.disk(), &home, cert.as_bytes()).map_err(failed)?;
            } else {
                let key = Zeroizing::new(read_bounded(&pending.join(KEY_FILE))?);
                let bundle = self.bundle(leaf.record.hierarchy.opposite());
                let files: [(&str, &[u8]); 3] = [
                    (CA_FILE, bundle.as_bytes()),
                    (KEY_FILE, key.as_bytes()),
                    (CERTIFICATE_FILE, cert.as_bytes()),
                ];
                deliver(state.disk(), &home, &files).map_err(failed)?;
            }
        }
        state.disk().remove_directory(&pending).map_err(|source| io("removing", &pending, source))
    }

    /// The bundle in a leaf's directory follows the rotation of the other hierarchy.
    fn refresh_bundle(&self, state: &State, leaf: &Leaf) -> Result<(), Error> {
        let Some(home) = home_of(state, leaf).filter(|_| !leaf.record.requested) else { return Ok(()) };
        // A directory that was moved away to the machine that uses it is not ours to make again.
        if !home.join(CERTIFICATE_FILE).exists() {
            return Ok(());
        }
        let path = home.join(CA_FILE);
        let bundle = self.bundle(leaf.record.hierarchy.opposite());
        if std::fs::read(&path).is_ok_and(|there| there == bundle.as_bytes()) {
            return Ok(());
        }
        replace(state.disk(), &path, bundle.as_bytes()).map_err(|source| io("writing", &path, source))
    }
}

/// The certificate goes last, so what is there with it is whole; then only the removal of the pending files was interrupted.
fn is_delivered(state: &State, leaf: &Leaf, home: &Path) -> bool {
    let there = if leaf.record.requested { home.to_owned() } else { home.join(CERTIFICATE_FILE) };
    let issued = state.text(&issued_place(leaf.record.hierarchy, &leaf.record.serial));
    matches!((issued, std::fs::read_to_string(there)), (Ok(issued), Ok(there)) if issued == there)
}

/// Where a leaf is delivered: absolute, or within the state. `None`: its issuer handed it over.
fn home_of(state: &State, leaf: &Leaf) -> Option<PathBuf> {
    leaf.record.home.as_ref().map(|home| state.directory().join(home))
}
