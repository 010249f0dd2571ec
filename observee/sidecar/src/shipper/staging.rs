//! `thanos/upload/<block>`: hard links to the files of a block while they go up, for Prometheus may delete the block meanwhile.
//!
//! Blocking. A staging directory is removed when it is dropped; what a killed process left behind is removed at the next start.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use parallax_block::BlockId;

use super::file_error;
use crate::SidecarError;

/// Beneath Prometheus' directory, so that links are possible.
const DIRECTORY: [&str; 2] = ["thanos", "upload"];
/// What of a block is linked, besides `chunks`. Tombstones stay behind.
const FILES: [&str; 2] = ["index", "meta.json"];

/// A directory of links.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    /// Whether there are links; else it is the block's own directory.
    is_linked: bool,
}

impl Staged {
    /// Links the files of `block`; `None` if Prometheus has deleted it.
    ///
    /// # Errors
    /// If links cannot be made.
    pub fn new(tsdb_path: &Path, block: BlockId) -> Result<Option<Self>, SidecarError> {
        let source = tsdb_path.join(block.to_string());
        let staged = Self { path: root(tsdb_path).join(block.to_string()), is_linked: true };
        // What an interrupted round left behind may be incomplete.
        remove(&staged.path)?;
        match staged.link(&source) {
            Ok(true) => Ok(Some(staged)),
            // Prometheus renames a block before it deletes it, so it goes as a whole.
            _ if !source.exists() => Ok(None),
            // Verification will say what a missing file means.
            Ok(false) => Ok(Some(staged)),
            // Links take room for names. Without, the upload fails should Prometheus delete the block meanwhile, and harms nothing.
            Err(LinkError { is_full: true, error }) => {
                tracing::warn!(
                    block = block.to_string(),
                    error = error.to_string(),
                    "disk is full, uploading without links"
                );
                Ok(Some(Self { path: source, is_linked: false }))
            }
            Err(LinkError { error, .. }) => Err(error),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether everything was there.
    fn link(&self, source: &Path) -> Result<bool, LinkError> {
        create(&self.path)?;
        let mut complete = true;
        for name in FILES {
            complete &= link(&source.join(name), &self.path.join(name))?;
        }
        let (from, to) = (source.join("chunks"), self.path.join("chunks"));
        create(&to)?;
        let entries = match std::fs::read_dir(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            entries => entries.map_err(|error| LinkError::new(&from, &error, ""))?,
        };
        for entry in entries {
            let name = entry.map_err(|error| LinkError::new(&from, &error, ""))?.file_name();
            complete &= link(&from.join(&name), &to.join(&name))?;
        }
        Ok(complete)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_linked
            && let Err(error) = remove(&self.path)
        {
            tracing::debug!(error = error.to_string(), "cannot remove links");
        }
    }
}

/// Removes what a process that was killed left behind.
///
/// # Errors
/// If it cannot be removed.
pub(super) fn remove_leftovers(tsdb_path: &Path) -> Result<(), SidecarError> {
    let root = root(tsdb_path);
    let entries = match std::fs::read_dir(&root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| file_error(&root, &error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| file_error(&root, &error))?;
        // Nothing that is not ours.
        if entry.file_name().to_str().is_some_and(|name| name.parse::<BlockId>().is_ok()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn root(tsdb_path: &Path) -> PathBuf {
    DIRECTORY.iter().fold(tsdb_path.to_path_buf(), |path, part| path.join(part))
}

/// Why a link could not be made.
struct LinkError {
    is_full: bool,
    error: SidecarError,
}

impl LinkError {
    fn new(path: &Path, error: &std::io::Error, hint: &str) -> Self {
        let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        Self { is_full, error: file_error(path, &format!("{error}{hint}")) }
    }
}

fn create(directory: &Path) -> Result<(), LinkError> {
    std::fs::create_dir_all(directory).map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::ReadOnlyFilesystem => "; the sidecar needs to write to Prometheus' data directory",
            _ => "",
        };
        LinkError::new(directory, &error, hint)
    })
}

fn remove(directory: &Path) -> Result<(), SidecarError> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(file_error(directory, &error)),
        _ => Ok(()),
    }
}

/// Whether the file was there.
fn link(from: &Path, to: &Path) -> Result<bool, LinkError> {
    match std::fs::hard_link(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::CrossesDevices => "; both have to lie on one filesystem",
                ErrorKind::Unsupported | ErrorKind::PermissionDenied => {
                    "; the filesystem has to allow hard links"
                }
                ErrorKind::ReadOnlyFilesystem => "; the sidecar needs to write to Prometheus' data directory",
                _ => "",
            };
            let hint = format!(" (linking to {}){hint}", to.display());
            Err(LinkError::new(from, &error, &hint))
        }
    }
}
