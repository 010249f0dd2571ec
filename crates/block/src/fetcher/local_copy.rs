//! The fetcher's own copy of the catalog, in a directory: what a new process begins with. One of summaries has a name of its own.

use std::path::{Path, PathBuf};

use crate::catalog::MAX_CATALOG_BYTES;
use crate::{BlockMeta, Catalog, KeptMeta, Shared};

/// The copy in `directory`, if there is one that can be read.
pub(super) async fn read<M: KeptMeta>(directory: &Path, shared: Shared) -> Option<Catalog<M>> {
    // A copy of whole metas does as well: that of an earlier version, or of who keeps all.
    let paths = [M::COPY_NAME, BlockMeta::COPY_NAME].map(|name| directory.join(name));
    let read = move || {
        let path = paths.into_iter().find(|path| path.is_file())?;
        let size_bytes = std::fs::metadata(&path).ok()?.len();
        let bytes = if size_bytes > MAX_CATALOG_BYTES { return None } else { std::fs::read(&path).ok()? };
        match Catalog::decode_keeping(&bytes, &shared) {
            Ok(catalog) => Some(catalog),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the copy is not used; the bucket is read instead");
                None
            }
        }
    };
    tokio::task::spawn_blocking(read).await.ok().flatten()
}

/// Replaces the copy: a crash leaves the old one. That it cannot be written costs the next start, so it is logged and no more.
pub(super) async fn write<M: KeptMeta>(directory: PathBuf, catalog: Catalog<M>) -> bool {
    let path = directory.join(M::COPY_NAME);
    let staged = path.with_extension("tmp");
    let shown = path.display().to_string();
    let write = move || {
        let bytes = catalog.encode().map_err(std::io::Error::other)?;
        std::fs::create_dir_all(&directory)?;
        std::fs::write(&staged, bytes)?;
        std::fs::rename(&staged, &path)
    };
    let result =
        tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other).and_then(|done| done);
    if let Err(error) = &result {
        tracing::warn!(path = shown, %error, "the list of blocks is not kept on disk");
    }
    result.is_ok()
}
