//! A leaf as its holder gets it: `tls.crt`, `tls.key`, `ca.crt` in one directory (the names of a Kubernetes TLS secret), and private files in general.
//!
//! Invariants: the directory is 0700 and each file 0600 whatever the umask; a file is written beside its place, synced, then renamed, so that a
//! reader sees the old one or the new one. The three renames are not one: a reader in between sees a mixed set, which
//! [`crate::credentials`] refuses and reads again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;

use crate::Error;
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
    /// Writes the three files into `directory`, which is made if need be. The bundle goes first and the certificate last: a new certificate is
    /// never there without its key.
    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        create_private_directory(directory)?;
        write_private(&directory.join(CA_FILE), self.ca_pem.as_bytes())?;
        write_private(&directory.join(KEY_FILE), self.key_pem.as_bytes())?;
        write_private(&directory.join(CERTIFICATE_FILE), self.cert_pem.as_bytes())
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

/// Makes `directory` and its parents; `directory` itself is 0700, also if it was there before.
pub(crate) fn create_private_directory(directory: &Path) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "creating", path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Writes `bytes` to `path` with mode 0600, through a sibling and a rename.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |source| Error::Io { action: "writing", path: path.to_owned(), source };
    let mut sibling_name = path.file_name().unwrap_or_default().to_owned();
    sibling_name.push(format!(".{}.tmp", std::process::id()));
    let sibling = path.with_file_name(sibling_name);
    let written = (|| {
        // A leftover of a killed process may have any mode: start from nothing.
        match fs::remove_file(&sibling) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&sibling)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&sibling, path)
    })();
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&sibling);
    }
    written.map_err(failed)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)?;
    }
    Ok(())
}
