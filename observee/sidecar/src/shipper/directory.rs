//! What Prometheus' data directory holds: finished blocks, and directories that should be blocks and are not.
//!
//! Prometheus writes a block beside its place and renames it when it is whole, and renames it again before it deletes it. So a directory that
//! is named like a block and has no `meta.json` is not on its way: it is damaged, or somebody copies it there by hand.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use parallax_block::meta::META_FILE_NAME;
use parallax_block::{BlockError, BlockId, BlockMeta};

use super::file_error;
use crate::SidecarError;

/// One look at the directory.
#[derive(Default)]
pub(super) struct Found {
    pub blocks: BTreeMap<BlockId, BlockMeta>,
    /// Their `meta.json` is not one.
    pub damaged: Vec<(BlockId, BlockError)>,
    /// They have none.
    pub without_meta: Vec<BlockId>,
    /// What could not be read just now; it may be later.
    pub unreadable: Option<SidecarError>,
}

impl Found {
    /// # Errors
    /// If the directory cannot be read.
    pub async fn look(directory: &Path) -> Result<Self, SidecarError> {
        let unreadable = |error: std::io::Error| file_error(directory, &error);
        let mut entries = tokio::fs::read_dir(directory).await.map_err(unreadable)?;
        let mut found = Self::default();
        while let Some(entry) = entries.next_entry().await.map_err(unreadable)? {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<BlockId>().ok()) else {
                continue;
            };
            if tokio::fs::metadata(entry.path()).await.is_ok_and(|metadata| metadata.is_dir()) {
                found.add(id, &entry.path()).await;
            }
        }
        Ok(found)
    }

    async fn add(&mut self, id: BlockId, block: &Path) {
        let path = block.join(META_FILE_NAME);
        match tokio::fs::read(&path).await {
            Ok(bytes) => match BlockMeta::parse_of(id, &bytes) {
                Ok(meta) => drop(self.blocks.insert(id, meta)),
                Err(error) => self.damaged.push((id, error)),
            },
            // Unless the block has just been deleted as a whole.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if block.exists() {
                    self.without_meta.push(id);
                }
            }
            Err(error) => self.unreadable = Some(file_error(&path, &error)),
        }
    }
}
