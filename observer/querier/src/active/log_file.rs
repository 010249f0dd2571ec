//! `queries.active`: the queries that run, in places of fixed size, so that after a crash the next process can tell which they were.
//!
//! The file has Prometheus' form: `[`, then per place a JSON object, zeros and a comma at the end; free places are zeros. Writing is one positioned write into the kernel's cache,
//! which a crash of the process, though not of the machine, survives. Source: Prometheus `promql/query_logger.go`.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::shortened;

const FILE_NAME: &str = "queries.active";
const PLACE_BYTES: usize = 1000;
/// Most places, and so the largest file that is read.
const MAX_PLACES: usize = 10_000;

#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    path: PathBuf,
    free: Mutex<Vec<usize>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    query: String,
    timestamp_sec: i64,
}

impl LogFile {
    /// Tells what the file of a process before this one has, and begins a new one.
    pub fn open(directory: &Path, max: usize) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(FILE_NAME);
        let places = max.clamp(1, MAX_PLACES);
        for entry in unfinished(&path)? {
            tracing::warn!(
                query = entry.query,
                started = entry.timestamp_sec,
                "this query had not ended when the process before this one did"
            );
        }
        let file = File::options().create(true).write(true).truncate(true).open(&path)?;
        file.set_len(u64::try_from(1 + places * PLACE_BYTES).unwrap_or(u64::MAX))?;
        file.write_all_at(b"[", 0)?;
        Ok(Self { file, path, free: Mutex::new((0..places).rev().collect()) })
    }

    /// Writes a query into a free place; `None` if there is none, or it cannot be written.
    pub fn write(self: &Arc<Self>, text: &str, started_seconds: i64) -> Option<Place> {
        let number = self.free().pop()?;
        let place = Place { log: Arc::clone(self), number };
        match self.put(number, &content(text, started_seconds)) {
            Ok(()) => Some(place),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "a running query cannot be logged");
                None
            }
        }
    }

    fn put(&self, number: usize, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, u64::try_from(1 + number * PLACE_BYTES).unwrap_or(u64::MAX))
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a query stands in the file, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    log: Arc<LogFile>,
    number: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.log.put(self.number, &[0; PLACE_BYTES]) {
            tracing::error!(path = %self.log.path.display(), %error, "a query that has ended cannot be taken off the log");
        }
        self.log.free().push(self.number);
    }
}

/// A place with a query; its text is cut until it fits.
fn content(text: &str, started_seconds: i64) -> Vec<u8> {
    let mut room = PLACE_BYTES;
    loop {
        let entry = Entry { query: shortened(text, room).to_owned(), timestamp_sec: started_seconds };
        // Of two fields that any JSON can have.
        let mut bytes = serde_json::to_vec(&entry).unwrap_or_default();
        if bytes.len() < PLACE_BYTES || room == 0 {
            bytes.resize(PLACE_BYTES - 1, 0);
            bytes.push(b',');
            return bytes;
        }
        room = room.saturating_sub((bytes.len() + 1 - PLACE_BYTES).div_ceil(6).max(1));
    }
}

/// The queries in a file that its process has left behind. What cannot be read is said in the log, once.
fn unfinished(path: &Path) -> io::Result<Vec<Entry>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(u64::try_from(1 + MAX_PLACES * PLACE_BYTES).unwrap_or(u64::MAX))
            .read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    bytes.retain(|byte| *byte != 0);
    let text = String::from_utf8_lossy(&bytes);
    let list = text.trim_start_matches('[').trim_end_matches(',');
    serde_json::from_str(&format!("[{list}]")).or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "the log of running queries that was left behind cannot be read");
        Ok(Vec::new())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queries(directory: &Path) -> Vec<String> {
        unfinished(&directory.join(FILE_NAME)).unwrap().into_iter().map(|entry| entry.query).collect()
    }

    #[test]
    fn what_runs_stands_in_the_file_and_what_has_ended_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below");
        let log = Arc::new(LogFile::open(&path, 2).unwrap());
        let first = log.write("up{a=\"\\\\\"}", 7).unwrap();
        let second = log.write("down", 8).unwrap();
        assert!(log.write("one too many", 9).is_none());
        assert_eq!(queries(&path), ["up{a=\"\\\\\"}", "down"]);
        drop(first);
        assert_eq!(queries(&path), ["down"]);
        let third = log.write("third", 9).unwrap();
        assert_eq!(queries(&path), ["third", "down"]);
        drop((second, third));
        assert_eq!(queries(&path), [""; 0]);
    }

    #[test]
    fn a_new_process_begins_with_an_empty_file_of_the_same_form() {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(LogFile::open(directory.path(), 3).unwrap());
        let place = log.write("up", 7).unwrap();
        std::mem::forget(place);
        let again = LogFile::open(directory.path(), 1).unwrap();
        assert_eq!(queries(directory.path()), [""; 0]);
        let bytes = std::fs::read(&again.path).unwrap();
        assert!(bytes.len() == 1 + PLACE_BYTES && bytes[0] == b'[', "{}", bytes.len());
    }

    #[test]
    fn long_queries_are_cut_and_nonsense_is_left_behind() {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(LogFile::open(directory.path(), 2).unwrap());
        let texts = ["\u{1}".repeat(5000), "é".repeat(5000)];
        let _places: Vec<Place> = texts.iter().map(|text| log.write(text, 1).unwrap()).collect();
        let found = queries(directory.path());
        assert!(found.len() == 2 && texts[0].starts_with(&found[0]) && texts[1].starts_with(&found[1]));
        assert!(found[0].len() > 100 && found[1].len() > 900, "{} {}", found[0].len(), found[1].len());
        std::fs::write(directory.path().join(FILE_NAME), b"[{]\xff").unwrap();
        assert!(queries(directory.path()).is_empty());
        LogFile::open(directory.path(), 2).unwrap();
    }

    proptest::proptest! {
        #[test]
        fn every_text_fits_into_its_place(text in ".{0,1500}") {
            let bytes = content(&text, i64::MIN);
            proptest::prop_assert_eq!(bytes.len(), PLACE_BYTES);
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(PLACE_BYTES - 1);
            let entry: Entry = serde_json::from_slice(&bytes[..end]).unwrap();
            proptest::prop_assert!(text.starts_with(&entry.query));
        }
    }
}
