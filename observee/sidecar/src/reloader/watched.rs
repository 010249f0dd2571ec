//! What a reloader watches: one file, and the files beneath some directories.
//!
//! Two looks at the same files. A *stamp* is what the file system says of them (names, sizes, times, inodes): cheap enough for every second, and
//! nothing has to be told us, so that it works on every file system. A *digest* is of names and contents, and decides. Blocking.
//!
//! Kubernetes swaps a mounted ConfigMap by a symbolic link named `..data`; names that begin with two dots are its own affair and are not followed,
//! the links beside them are.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::expand::MAX_FILE_BYTES;
use super::file_error;
use crate::SidecarError;

/// Files beneath all directories together.
const MAX_FILES: usize = 100_000;
/// How deep a directory may lie; a link that leads upwards ends here.
const MAX_DEPTH: usize = 16;
/// Extensions of files that hold YAML and nothing else.
const YAML_EXTENSIONS: [&str; 4] = ["yaml", "yml", "rules", "json"];

/// What the file system says of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    path: PathBuf,
    size_bytes: u64,
    modified_ns: (i64, i64),
    inode: u64,
}

/// Of names and contents.
pub(super) type Digest = [u8; 32];

/// A file that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotYaml {
    pub path: PathBuf,
    pub reason: String,
}

/// The files beneath `directories`, in order of their names.
///
/// # Errors
/// If a directory cannot be read, or holds too much.
pub(super) fn files_beneath(directories: &[PathBuf]) -> Result<Vec<PathBuf>, SidecarError> {
    let mut files = Vec::new();
    for directory in directories {
        collect(directory, 0, &mut files)?;
    }
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), SidecarError> {
    if depth > MAX_DEPTH {
        return Err(file_error(directory, &format!("it lies more than {MAX_DEPTH} directories deep")));
    }
    let unreadable = |error: std::io::Error| file_error(directory, &error);
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"..")) {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(found) if found.is_dir() => collect(&path, depth + 1, files)?,
            Ok(found) if found.is_file() => files.push(path),
            // Sockets and the like; a link that leads nowhere; gone since the directory was read.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(file_error(&path, &error)),
        }
        if files.len() > MAX_FILES {
            return Err(file_error(directory, &format!("there are more than {MAX_FILES} files")));
        }
    }
    Ok(())
}

/// What the file system says of `files`; a file that cannot be looked at counts as absent.
pub(super) fn stamps(files: &[PathBuf]) -> Vec<Stamp> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some(Stamp {
            path: path.clone(),
            size_bytes: found.len(),
            modified_ns: (found.mtime(), found.mtime_nsec()),
            inode: found.ino(),
        })
    };
    files.iter().filter_map(stamp).collect()
}

/// The digest of `files`, and those among them that should hold YAML and do not.
///
/// # Errors
/// If a file cannot be read, or is too large.
pub(super) fn read_all(files: &[PathBuf]) -> Result<(Digest, Vec<NotYaml>), SidecarError> {
    let mut digest = Sha256::new();
    let mut wrong = Vec::new();
    for path in files {
        let bytes = match read(path) {
            // Deleted since the directory was read: the next look sees a directory without it.
            Err(SidecarError::File { .. }) if !path.exists() => continue,
            read => read?,
        };
        add(&mut digest, path, &bytes);
        if path.extension().and_then(|e| e.to_str()).is_some_and(|e| YAML_EXTENSIONS.contains(&e))
            && let Err(reason) = check_yaml(&bytes)
        {
            wrong.push(NotYaml { path: path.clone(), reason });
        }
    }
    Ok((digest.finalize().into(), wrong))
}

/// The digest of one file.
pub(super) fn digest_of(path: &Path, bytes: &[u8]) -> Digest {
    let mut digest = Sha256::new();
    add(&mut digest, path, bytes);
    digest.finalize().into()
}

fn add(digest: &mut Sha256, path: &Path, bytes: &[u8]) {
    for part in [path.as_os_str().as_encoded_bytes(), bytes] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
}

/// # Errors
/// If the file cannot be read or is larger than [`MAX_FILE_BYTES`].
pub(super) fn read(path: &Path) -> Result<Vec<u8>, SidecarError> {
    let unreadable = |error: std::io::Error| file_error(path, &error);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(file_error(path, &format!("larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Whether `bytes` are YAML at all; what it says is Prometheus' business.
pub(super) fn check_yaml(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    match serde_saphyr::from_multiple::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        // One line is enough: the parser quotes the file.
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Digest and files that are not YAML.
    fn look(directory: &Path) -> (Digest, Vec<NotYaml>) {
        read_all(&files_beneath(&[directory.to_path_buf()]).unwrap()).unwrap()
    }

    #[test]
    fn the_digest_follows_names_and_contents_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        write(&at("a.yml"), "a: 1");
        write(&at("deep/b.yml"), "b: 1");
        let before = look(directory.path()).0;
        assert_eq!(look(directory.path()).0, before);
        write(&at("a.yml"), "a: 1");
        assert_eq!(look(directory.path()).0, before, "the same bytes, written again");
        for (name, text) in [("a.yml", "a: 2"), ("deep/b.yml", "b: 2"), ("c.yml", "")] {
            let before = look(directory.path()).0;
            write(&at(name), text);
            assert_ne!(look(directory.path()).0, before, "{name}");
        }
        let before = look(directory.path()).0;
        std::fs::rename(at("c.yml"), at("d.yml")).unwrap();
        assert_ne!(look(directory.path()).0, before, "renamed");
        let before = look(directory.path()).0;
        std::fs::remove_file(at("d.yml")).unwrap();
        assert_ne!(look(directory.path()).0, before, "removed");
    }

    #[test]
    fn a_config_map_that_is_swapped_is_seen_by_its_links() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let swap_to = |generation: &str, text: &str| {
            write(&at(generation).join("rules.yml"), text);
            std::os::unix::fs::symlink(generation, at("..new")).unwrap();
            std::fs::rename(at("..new"), at("..data")).unwrap();
        };
        swap_to("..2026_1", "groups: []");
        std::os::unix::fs::symlink("..data/rules.yml", at("rules.yml")).unwrap();
        let files = files_beneath(&[directory.path().to_path_buf()]).unwrap();
        assert_eq!(files, [at("rules.yml")]);
        let (stamp, digest) = (stamps(&files), look(directory.path()).0);
        swap_to("..2026_2", "groups: []");
        assert_ne!(stamps(&files), stamp);
        assert_eq!(look(directory.path()).0, digest, "the same rules in another generation");
        swap_to("..2026_3", "groups: [{}]");
        assert_ne!(look(directory.path()).0, digest);
    }

    #[test]
    fn files_that_should_be_yaml_are_named_with_their_reason() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        write(&at("good.yml"), "groups:\n- name: a\n  rules: [{record: a, expr: 'vector(1)'}]\n");
        write(&at("two.rules"), "a: 1\n---\nb: 2\n");
        write(&at("empty.yaml"), "");
        write(&at("readme.txt"), "{ not yaml");
        write(&at("bad.yml"), "groups:\n- name: [a\n");
        std::fs::write(at("binary.rules"), [0xff, 0xfe]).unwrap();
        let wrong = look(directory.path()).1;
        assert_eq!(
            wrong.iter().map(|w| w.path.clone()).collect::<Vec<_>>(),
            [at("bad.yml"), at("binary.rules")]
        );
        assert!(wrong.iter().all(|wrong| !wrong.reason.is_empty()), "{wrong:?}");
    }

    #[test]
    fn links_that_lead_nowhere_or_round_in_circles_do_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("nowhere", directory.path().join("dangling.yml")).unwrap();
        assert_eq!(files_beneath(&[directory.path().to_path_buf()]).unwrap(), Vec::<PathBuf>::new());
        std::os::unix::fs::symlink(".", directory.path().join("circle")).unwrap();
        let error = files_beneath(&[directory.path().to_path_buf()]).unwrap_err().to_string();
        assert!(error.contains("directories deep"), "{error}");
        assert!(files_beneath(&[directory.path().join("absent")]).is_err());
    }
}
