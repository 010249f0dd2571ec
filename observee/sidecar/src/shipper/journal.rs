//! `thanos.shipper.json`: which blocks of Prometheus' directory are in the bucket.
//!
//! Format (Thanos `pkg/shipper`): `{"version":1,"uploaded":["<ULID>", …]}`, only blocks that are still on disk. Prometheus reads it
//! too, where its `delay-compact-file` names it. Written to a temporary file and renamed, so it is whole or absent; an unreadable
//! one counts as empty, for the bucket knows better.

use std::collections::BTreeSet;
use std::path::Path;

use parallax_block::BlockId;
use serde::{Deserialize, Serialize};

use super::file_error;
use crate::SidecarError;

const VERSION: u32 = 1;

/// The journal of one Prometheus directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Journal {
    uploaded: BTreeSet<BlockId>,
    /// As last read or written, so that nothing is rewritten for nothing.
    on_disk: Option<BTreeSet<BlockId>>,
    /// The file is not ours to write.
    unusable: bool,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    uploaded: Option<Vec<BlockId>>,
}

impl Journal {
    /// # Errors
    /// If the file is there and cannot be read, or has a version we do not know.
    pub fn read(path: &Path) -> Result<Self, SidecarError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(file_error(path, &error)),
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.version == VERSION => {
                let uploaded: BTreeSet<BlockId> = file.uploaded.unwrap_or_default().into_iter().collect();
                Ok(Self { on_disk: Some(uploaded.clone()), uploaded, unusable: false })
            }
            Ok(file) => Err(file_error(path, &format!("version {} is not supported", file.version))),
            Err(error) => {
                tracing::warn!(file = %path.display(), error = error.to_string(), "journal is unreadable, asking the bucket");
                Ok(Self::default())
            }
        }
    }

    /// In place of one that cannot be read: it knows nothing, and is never written.
    pub fn unusable() -> Self {
        Self { unusable: true, ..Self::default() }
    }

    pub fn ids(&self) -> &BTreeSet<BlockId> {
        &self.uploaded
    }

    pub fn contains(&self, id: &BlockId) -> bool {
        self.uploaded.contains(id)
    }

    pub fn add(&mut self, id: BlockId) {
        self.uploaded.insert(id);
    }

    pub fn retain(&mut self, keep: impl Fn(&BlockId) -> bool) {
        self.uploaded.retain(keep);
    }

    /// Writes the journal if it changed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&mut self, path: &Path) -> Result<(), SidecarError> {
        if self.unusable || self.on_disk.as_ref() == Some(&self.uploaded) {
            return Ok(());
        }
        let file = File { version: VERSION, uploaded: Some(self.uploaded.iter().copied().collect()) };
        let json = serde_json::to_vec_pretty(&file).map_err(|error| file_error(path, &error))?;
        let temporary = path.with_extension("json.tmp");
        let written = std::fs::write(&temporary, json)
            .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
            .and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|error| file_error(path, &error))?;
        self.on_disk = Some(self.uploaded.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_survives_and_a_broken_one_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("thanos.shipper.json");
        let id: BlockId = "01M7ZT2XAE94D33BEGH3SZ0N19".parse().unwrap();
        let mut journal = Journal::read(&path).unwrap();
        journal.add(id);
        journal.write(&path).unwrap();
        assert!(Journal::read(&path).unwrap().contains(&id));

        std::fs::write(&path, "{\"version\":1,\"uploaded\":null}").unwrap();
        assert!(!Journal::read(&path).unwrap().contains(&id));
        std::fs::write(&path, "{").unwrap();
        assert!(!Journal::read(&path).unwrap().contains(&id));
        std::fs::write(&path, "{\"version\":2,\"uploaded\":[]}").unwrap();
        assert!(Journal::read(&path).unwrap_err().to_string().contains("version 2"));
    }
}
