//! One shipper for one directory: two would pull each other's links away and upload everything twice.
//!
//! The lock is the kernel's, on an open file, so that it ends with the process, however that ends.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use super::file_error;
use crate::SidecarError;

/// Beneath Prometheus' directory, beside the links.
const FILE: [&str; 2] = ["thanos", "parallax-shipper.lock"];

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: Option<File>,
}

impl DirectoryLock {
    /// # Errors
    /// [`SidecarError::ShippedByAnother`] while another process holds it; if the file cannot be made.
    pub fn take(tsdb_path: &Path) -> Result<Self, SidecarError> {
        let path = FILE.iter().fold(tsdb_path.to_path_buf(), |path: PathBuf, part| path.join(part));
        let unwritable = |error: std::io::Error| {
            file_error(&path, &format!("{error}; the sidecar needs to write to Prometheus' data directory"))
        };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(unwritable)?;
        }
        let file = File::options().create(true).append(true).open(&path).map_err(unwritable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { file: Some(file) }),
            Err(TryLockError::WouldBlock) => {
                Err(SidecarError::ShippedByAnother { path: tsdb_path.to_path_buf() })
            }
            // Some network file systems have no locks. Whoever uses one has to see to it.
            Err(TryLockError::Error(error)) => {
                tracing::warn!(file = %path.display(), error = error.to_string(), "file cannot be locked, shipping without");
                Ok(Self { file: None })
            }
        }
    }
}

/// Given back at once, not when the last copy of the file is closed: a program that is started at this moment by another thread has one until it runs.
impl Drop for DirectoryLock {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            // Closing it gives it back as well, if later.
            let _ = file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let error = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(error.contains("another process ships"), "{error}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
