//! [`Spool`]: bytes that are written from front to back and read afterwards; few stay in memory, more go to an unnamed file.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// What is held in memory before there is a file.
const MOST_HELD_BYTES: usize = 1 << 20;

/// What is collected for the file, and read from it at once.
const PIECE_BYTES: usize = 64 << 10;

/// So many names are tried. One that is taken belongs to who is just about to remove it, or to a process that died then.
const MAX_NAMES: usize = 10_000;

/// A file in `dir` without a name: it goes away with the process, however that ends.
pub(super) fn unnamed_file(dir: &Path) -> io::Result<File> {
    for number in 0..MAX_NAMES {
        let path = dir.join(format!("spool-{number}.tmp"));
        match File::options().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Bytes in the making.
#[derive(Debug)]
pub(super) struct Spool {
    dir: PathBuf,
    most_held: usize,
    /// What is not in the file.
    held: Vec<u8>,
    file: Option<File>,
    size_bytes: u64,
}

impl Spool {
    /// `dir` takes the file, if there is one.
    pub(super) fn new(dir: &Path) -> Self {
        Self::holding(dir, MOST_HELD_BYTES)
    }

    /// As [`Self::new`], with another bound.
    pub(super) fn holding(dir: &Path, most_held: usize) -> Self {
        Self { dir: dir.to_owned(), most_held, held: Vec::new(), file: None, size_bytes: 0 }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.held.len() + bytes.len() > self.most_held {
            self.flush()?;
        }
        self.held.extend_from_slice(bytes);
        self.size_bytes += bytes.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(unnamed_file(&self.dir)?),
        };
        file.write_all(&self.held)?;
        // From here on this is no more than a buffer.
        self.most_held = self.most_held.min(PIECE_BYTES);
        self.held.clear();
        self.held.shrink_to(PIECE_BYTES);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Spooled> {
        if self.file.is_some() {
            self.flush()?;
        }
        Ok(Spooled { held: self.held, file: self.file, size_bytes: self.size_bytes })
    }
}

/// Bytes that are written.
#[derive(Debug)]
pub(super) struct Spooled {
    /// All of them, if there is no file.
    held: Vec<u8>,
    file: Option<File>,
    size_bytes: u64,
}

impl Spooled {
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Replaces the content of `out` by the bytes from `at` on: `len` of them, or as many as there are.
    pub(super) fn read(&self, at: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        out.clear();
        let left = self.size_bytes.saturating_sub(at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        match &self.file {
            None => {
                let from = usize::try_from(at).unwrap_or(usize::MAX);
                out.extend_from_slice(
                    self.held.get(from..).unwrap_or_default().get(..len).unwrap_or_default(),
                );
                Ok(())
            }
            Some(file) => {
                out.resize(len, 0);
                file.read_exact_at(out, at)
            }
        }
    }

    /// Hands out all bytes, piece by piece.
    pub(super) fn visit<E: From<io::Error>>(
        &self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = Vec::new();
        let mut at = 0;
        while at < self.size_bytes {
            self.read(at, PIECE_BYTES, &mut piece)?;
            at += piece.len() as u64;
            each(&piece)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn held_or_in_a_file_bytes_are_the_same(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..30),
            most_held in 0usize..400,
            at in 0u64..1500,
            len in 0usize..300,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut spool = Spool::holding(dir.path(), most_held);
            parts.iter().for_each(|part| spool.write(part).unwrap());
            let all = parts.concat();
            prop_assert_eq!(spool.size_bytes(), all.len() as u64);
            let spooled = spool.finish().unwrap();
            prop_assert_eq!(spooled.file.is_some(), all.len() > most_held);
            let mut found = Vec::new();
            spooled.visit(|piece| -> io::Result<()> { found.extend_from_slice(piece); Ok(()) }).unwrap();
            prop_assert_eq!(&found, &all);
            spooled.read(at, len, &mut found).unwrap();
            let expected: Vec<u8> = all.iter().skip(at as usize).take(len).copied().collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "files have no names");
        }
    }

    #[test]
    fn a_name_that_a_dead_process_left_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("spool-0.tmp"), b"old").unwrap();
        let mut file = unnamed_file(dir.path()).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join("spool-0.tmp")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
