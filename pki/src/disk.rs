//! The few ways in which the authority's state touches the file system, behind a trait so that tests can make each of them fail.
//!
//! Invariants: what is made here is 0600 (files) or 0700 (directories) whatever the umask; a write has reached the disk when it returns. Names never
//! come from outside unchecked: callers build them from parsed identities, serial numbers and counters.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Writes. Reading is done with `std::fs`: it changes nothing.
pub trait Disk: Send + Sync + Debug {
    /// Makes `path` and its parents; `path` is 0700, also if it was there before.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Writes a file that must not exist, 0600, and syncs it.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Appends to a file that exists, and syncs it.
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to `len_bytes`, and syncs it.
    fn truncate(&self, path: &Path, len_bytes: u64) -> io::Result<()>;
    /// Renames over `to`, and syncs the directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes each of two directories take the other's name, in one step. Unsupported on some file systems.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;
    /// Removes a file; fine if there is none.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and what is in it; fine if there is none.
    fn remove_directory(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn truncate(&self, path: &Path, len_bytes: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(len_bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_parent(to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?;
        sync_parent(one)?;
        sync_parent(other)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_file(path))
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(path))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Writes `bytes` to `path` beside its place, then renames: a reader sees the old file or the new one.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let sibling = path.with_file_name(name);
    // A leftover of a killed process may have any mode: start from nothing.
    disk.remove_file(&sibling)?;
    let written = disk.write_new(&sibling, bytes).and_then(|()| disk.rename(&sibling, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = disk.remove_file(&sibling);
    }
    written
}
