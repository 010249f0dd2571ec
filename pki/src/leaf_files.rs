//! A leaf as its holder gets it: `tls.crt`, `tls.key`, `ca.crt` in one directory (the names of a Kubernetes TLS secret).
//!
//! Invariants: the directory is 0700 and each file 0600 whatever the umask. The three change together: a whole new directory takes the place of the old
//! one in one step, so that a reader that starts at any moment, also after a crash, finds a pair that fits. Where that is not possible (the
//! directory holds other things, is a mount point or a symbolic link, or the file system cannot exchange names) the files are replaced one by one, the
//! certificate last; a reader in between sees a mixed set, which [`crate::credentials`] refuses and reads again.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::Error;
use crate::disk::{Disk, RealDisk, replace};
use crate::identity::PeerIdentity;
use crate::material::CredentialPem;

/// The file name of the certificate chain.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// The file name of the private key (PKCS#8).
pub const KEY_FILE: &str = "tls.key";
/// The file name of the bundle that verifies the peers.
pub const CA_FILE: &str = "ca.crt";

/// An issued leaf with its key and the bundle that verifies the peers of its holder. All three are PEM.
#[derive(Clone)]
pub struct LeafFiles {
    pub identity: PeerIdentity,
    /// Lower-case hexadecimal.
    pub serial: String,
    pub not_after: SystemTime,
    pub cert_pem: String,
    pub key_pem: String,
    /// The authorities of the other direction: an observee gets those that sign observers.
    pub ca_pem: String,
}

impl std::fmt::Debug for LeafFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeafFiles")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl LeafFiles {
    /// Writes the three files into `directory`, which is made if need be.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        self.write_with(&RealDisk, directory)
    }

    pub(crate) fn write_with(&self, disk: &dyn Disk, directory: &Path) -> Result<(), Error> {
        deliver(disk, directory, &self.files()).map_err(|source| Error::Io {
            action: "writing",
            path: directory.to_owned(),
            source,
        })
    }

    /// Names and contents, in the order in which they are written one by one: a new certificate is never there without its key.
    pub(crate) fn files(&self) -> [(&'static str, &[u8]); 3] {
        [
            (CA_FILE, self.ca_pem.as_bytes()),
            (KEY_FILE, self.key_pem.as_bytes()),
            (CERTIFICATE_FILE, self.cert_pem.as_bytes()),
        ]
    }

    /// The same as in-memory credentials.
    pub fn credentials(&self) -> CredentialPem {
        CredentialPem {
            cert: Some(self.cert_pem.clone()),
            key: Some(self.key_pem.clone()),
            ca: Some(self.ca_pem.clone()),
        }
    }
}

/// Puts `files`, and nothing else, into `directory`.
pub(crate) fn deliver(disk: &dyn Disk, directory: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    let Some(name) = directory.file_name() else { return one_by_one(disk, directory, files) };
    let mut sibling_name = std::ffi::OsString::from(".");
    sibling_name.push(name);
    sibling_name.push(".new");
    let sibling = directory.with_file_name(sibling_name);
    // What a killed process left behind; after an exchange that is the former leaf.
    disk.remove_directory(&sibling)?;
    let found = Found::look(directory, files)?;
    if found == Found::Other {
        return one_by_one(disk, directory, files);
    }
    let built = disk
        .create_directory(&sibling)
        .and_then(|()| files.iter().try_for_each(|(name, bytes)| disk.write_new(&sibling.join(name), bytes)));
    let placed = built.and_then(|()| match found {
        Found::Nothing => disk.rename(&sibling, directory),
        _ => disk.exchange(&sibling, directory),
    });
    let removed = disk.remove_directory(&sibling);
    match placed {
        Ok(()) => removed,
        Err(error) if found == Found::Former && cannot_exchange(&error) => one_by_one(disk, directory, files),
        Err(error) => Err(error),
    }
}

/// What is at the place of a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Files of the same names and no others.
    Former,
    Other,
}

impl Found {
    fn look(directory: &Path, files: &[(&str, &[u8])]) -> io::Result<Self> {
        match std::fs::symlink_metadata(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error),
            Ok(metadata) if !metadata.is_dir() => return Ok(Self::Other),
            Ok(_) => {}
        }
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let known = files.iter().any(|(name, _)| entry.file_name() == *name);
            if !known || !entry.file_type()?.is_file() {
                return Ok(Self::Other);
            }
        }
        Ok(Self::Former)
    }
}

fn cannot_exchange(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::Unsupported | K::InvalidInput | K::ResourceBusy | K::CrossesDevices | K::PermissionDenied
    )
}

fn one_by_one(disk: &dyn Disk, directory: &Path, files: &[(&str, &[u8])]) -> io::Result<()> {
    disk.create_directory(directory)?;
    files.iter().try_for_each(|(name, bytes)| replace(disk, &directory.join(name), bytes))
}
