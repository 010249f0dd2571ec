//! The authority's state on disk: where things lie, their modes, and the lock.
//!
//! ```text
//! DIR/                      0700
//!   pki.json                {"version":1,"trust_domain":"mesh.example"}
//!   LOCK                    held while a command changes the state
//!   ca/<hierarchy>/g<N>/    ca.crt, ca.key (PKCS#8 PEM, not yet encrypted)
//!   bundles/<hierarchy>.pem every authority that peers of the hierarchy's leaves shall trust
//!   issued/<hierarchy>/<serial>.crt
//! ```
//!
//! Invariants: `init` builds a whole state beside `DIR` and renames it there, so a state exists completely or not at all. A private key that others may
//! read is damage, not a warning.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::certificate::MAX_PEM_BYTES;
use crate::leaf_files::{create_private_directory, write_private};
use crate::profile::Hierarchy;

const MANIFEST_FILE: &str = "pki.json";
const LOCK_FILE: &str = "LOCK";
const VERSION: u32 = 1;

/// One authority as it is stored.
pub(crate) struct StoredAuthority {
    pub hierarchy: Hierarchy,
    pub generation: u32,
    pub cert_pem: String,
    pub key_pem: String,
}

/// A state directory.
#[derive(Debug)]
pub(crate) struct State {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    trust_domain: String,
}

/// Holds the lock until dropped.
pub(crate) struct Lock {
    _file: File,
}

impl State {
    /// Writes a new state. Refuses a directory with anything in it.
    pub(crate) fn create(
        directory: &Path,
        trust_domain: &str,
        authorities: &[StoredAuthority],
    ) -> Result<Self, Error> {
        if directory_has_entries(directory)? {
            return Err(Error::StateExists(directory.to_owned()));
        }
        let mut building_name = directory.file_name().unwrap_or_default().to_owned();
        building_name.push(format!(".{}.tmp", std::process::id()));
        let building = directory.with_file_name(building_name);
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|source| io("creating", parent, source))?;
        }
        let result = Self::fill(&building, trust_domain, authorities).and_then(|()| {
            fs::rename(&building, directory).map_err(|source| match source.kind() {
                std::io::ErrorKind::DirectoryNotEmpty => Error::StateExists(directory.to_owned()),
                _ => io("creating", directory, source),
            })
        });
        if result.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&building);
        }
        result.map(|()| Self { directory: directory.to_owned() })
    }

    fn fill(directory: &Path, trust_domain: &str, authorities: &[StoredAuthority]) -> Result<(), Error> {
        match fs::remove_dir_all(directory) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(io("removing", directory, source));
            }
            _ => create_private_directory(directory)?,
        }
        let bundles = directory.join("bundles");
        create_private_directory(&bundles)?;
        for authority in authorities {
            let home = authority_directory(directory, authority.hierarchy, authority.generation);
            create_private_directory(&home)?;
            write_private(&home.join("ca.key"), authority.key_pem.as_bytes())?;
            write_private(&home.join("ca.crt"), authority.cert_pem.as_bytes())?;
            let bundle = bundles.join(format!("{}.pem", authority.hierarchy.as_str()));
            write_private(&bundle, authority.cert_pem.as_bytes())?;
            create_private_directory(&directory.join("issued").join(authority.hierarchy.as_str()))?;
        }
        let manifest = Manifest { version: VERSION, trust_domain: trust_domain.to_owned() };
        let text = serde_json::to_string(&manifest).map_err(|error| damaged(directory, error.to_string()))?;
        write_private(&directory.join(LOCK_FILE), b"")?;
        write_private(&directory.join(MANIFEST_FILE), text.as_bytes())
    }

    /// Opens a state and gives back its trust domain.
    pub(crate) fn open(directory: &Path) -> Result<(Self, String), Error> {
        let path = directory.join(MANIFEST_FILE);
        if !path.try_exists().map_err(|source| io("reading", &path, source))? {
            return Err(Error::StateMissing(directory.to_owned()));
        }
        let text = read_bounded(&path)?;
        let manifest: Manifest =
            serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        if manifest.version != VERSION {
            return Err(damaged(&path, format!("version {} is not known here", manifest.version)));
        }
        Ok((Self { directory: directory.to_owned() }, manifest.trust_domain))
    }

    /// Takes the lock, or says that somebody holds it.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        let path = self.directory.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| io("opening", &path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::StateLocked(self.directory.clone())),
            Err(fs::TryLockError::Error(source)) => Err(io("locking", &path, source)),
        }
    }

    /// The authority of the newest generation of `hierarchy`.
    pub(crate) fn newest_authority(&self, hierarchy: Hierarchy) -> Result<StoredAuthority, Error> {
        let parent = self.directory.join("ca").join(hierarchy.as_str());
        let mut newest = None;
        for entry in fs::read_dir(&parent).map_err(|source| io("reading", &parent, source))? {
            let entry = entry.map_err(|source| io("reading", &parent, source))?;
            let generation =
                entry.file_name().to_str().and_then(|name| name.strip_prefix('g')?.parse::<u32>().ok());
            newest = newest.max(generation);
        }
        let generation = newest.ok_or_else(|| damaged(&parent, "it holds no generation".to_owned()))?;
        let home = authority_directory(&self.directory, hierarchy, generation);
        let key_path = home.join("ca.key");
        check_private(&key_path)?;
        Ok(StoredAuthority {
            hierarchy,
            generation,
            cert_pem: read_bounded(&home.join("ca.crt"))?,
            key_pem: read_bounded(&key_path)?,
        })
    }

    /// What verifies the leaves of `hierarchy`, with the name of the file.
    pub(crate) fn bundle(&self, hierarchy: Hierarchy) -> Result<(String, String), Error> {
        let path = self.directory.join("bundles").join(format!("{}.pem", hierarchy.as_str()));
        Ok((path.display().to_string(), read_bounded(&path)?))
    }

    /// Remembers a leaf. Fails if the serial number is taken.
    pub(crate) fn record_leaf(
        &self,
        hierarchy: Hierarchy,
        serial: &str,
        cert_pem: &str,
    ) -> Result<(), Error> {
        let directory = self.directory.join("issued").join(hierarchy.as_str());
        let path = directory.join(format!("{serial}.crt"));
        if path.try_exists().map_err(|source| io("reading", &path, source))? {
            return Err(damaged(&path, "this serial number was issued before".to_owned()));
        }
        write_private(&path, cert_pem.as_bytes())
    }
}

fn authority_directory(directory: &Path, hierarchy: Hierarchy, generation: u32) -> PathBuf {
    directory.join("ca").join(hierarchy.as_str()).join(format!("g{generation}"))
}

fn directory_has_entries(directory: &Path) -> Result<bool, Error> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io("reading", directory, source)),
    }
}

fn check_private(path: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|source| io("reading", path, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let reason = format!("mode {mode:04o} lets others read the key; run: chmod 600 {}", path.display());
        return Err(damaged(path, reason));
    }
    Ok(())
}

/// Reads a text file of at most [`MAX_PEM_BYTES`].
pub(crate) fn read_bounded(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let file = File::open(path).map_err(|source| io("reading", path, source))?;
    let read = file
        .take(MAX_PEM_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|source| io("reading", path, source))?;
    if read as u64 > MAX_PEM_BYTES {
        return Err(Error::TooLarge { subject: path.display().to_string(), limit_bytes: MAX_PEM_BYTES });
    }
    Ok(text)
}

fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

fn damaged(path: &Path, reason: String) -> Error {
    Error::StateDamaged { path: path.to_owned(), reason }
}
