//! The authority's state on disk: where things lie, the lock, how a change is committed, and how an interrupted one is finished or undone.
//!
//! ```text
//! DIR/                           0700; every file 0600
//!   pki.json                     {"version":2}
//!   LOCK                         held while a command changes the state
//!   journal.jsonl                the truth: see `journal` and `ledger`
//!   ca/<hierarchy>/g<N>/         ca.crt, ca.key (PKCS#8, encrypted unless asked otherwise)
//!   crl/<hierarchy>-g<N>.<number>.crl
//!   issued/<hierarchy>/<serial>.crt
//!   pending/<serial>/            a leaf on its way to its holder's directory, and `home` that names it
//!   leaves/<role>/<name>/        leaves that were issued without a directory of their own
//!   bundles/<hierarchy>.pem      what verifies the leaves of a hierarchy: derived, written again when it differs
//!   observations.json            what was last seen of peers: derived
//! ```
//!
//! **A change** stages its files under names that nothing refers to yet, then commits by appending one line to the journal, then brings the derived files
//! up to date. A process that dies before the commit leaves orphans, which the next change removes; one that dies after it leaves derived files
//! and deliveries, which the next change finishes. `init` builds a whole state beside `DIR` and renames it there.
//!
//! Invariants: a private key that others may read is damage, not a warning; readers change nothing; only the owner of a state changes it, so that every file
//! in it stays the owner's; within a state no symbolic link is followed, because what it leads to may be anybody's. `DIR` itself may be reached by one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::certificate::MAX_PEM_BYTES;
use crate::disk::{Disk, replace};
use crate::journal::{Entry, Journal, MAX_JOURNAL_BYTES};
use crate::ledger::{Event, Ledger};
use crate::profile::Hierarchy;

const MANIFEST_FILE: &str = "pki.json";
const LOCK_FILE: &str = "LOCK";
const JOURNAL_FILE: &str = "journal.jsonl";
const VERSION: u32 = 2;
/// Below the state's own.
const DIRECTORIES: [&str; 6] = ["ca", "crl", "issued", "pending", "leaves", "bundles"];

/// A state directory.
#[derive(Clone, Debug)]
pub(crate) struct State {
    directory: PathBuf,
    disk: Arc<dyn Disk>,
}

/// A file that a change adds: its place within the state, and what is in it.
pub(crate) struct Staged {
    pub place: PathBuf,
    pub bytes: zeroize::Zeroizing<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
}

#[derive(Deserialize)]
struct AnyManifest {
    version: u32,
}

/// Holds the lock until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

/// Given back at once, not when the last copy of the file is closed: a program that is started at this moment by another thread has one until it runs.
impl Drop for Lock {
    fn drop(&mut self) {
        // Closing it gives it back as well, if later.
        let _ = self.file.unlock();
    }
}

impl State {
    /// Writes a new state with `files`, committed by `events`. Refuses a directory with anything in it.
    pub(crate) fn create(
        directory: &Path,
        disk: Arc<dyn Disk>,
        files: &[Staged],
        (time, who, events): (Timestamp, &str, Vec<Event>),
    ) -> Result<(Self, Journal), Error> {
        if directory_has_entries(directory)? {
            return Err(Error::StateExists(directory.to_owned()));
        }
        if let Some(target) = link_target(directory) {
            let reason = format!(
                "it is a symbolic link, and a new state takes a name of its own: give --state=file:{}",
                target.display()
            );
            return Err(damaged(directory, reason));
        }
        let mut building_name = directory.file_name().unwrap_or_default().to_owned();
        building_name.push(".new");
        let building = directory.with_file_name(building_name);
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|source| io("creating", parent, source))?;
        }
        disk.remove_directory(&building).map_err(|source| io("removing", &building, source))?;
        let fresh = Self { directory: building.clone(), disk: Arc::clone(&disk) };
        let built = fresh.fill(files, (time, who, events)).and_then(|journal| {
            disk.rename(&building, directory).map_err(|source| match source.kind() {
                io::ErrorKind::DirectoryNotEmpty => Error::StateExists(directory.to_owned()),
                _ => io("creating", directory, source),
            })?;
            Ok(journal)
        });
        if built.is_err() {
            // The first error is the one to report.
            let _ = disk.remove_directory(&building);
        }
        Ok((Self { directory: directory.to_owned(), disk }, built?))
    }

    fn fill(
        &self,
        files: &[Staged],
        (time, who, events): (Timestamp, &str, Vec<Event>),
    ) -> Result<Journal, Error> {
        let create =
            |path: &Path| self.disk.create_directory(path).map_err(|source| io("creating", path, source));
        create(&self.directory)?;
        for name in DIRECTORIES {
            create(&self.directory.join(name))?;
        }
        let write = |name: &str, bytes: &[u8]| {
            let path = self.directory.join(name);
            self.disk.write_new(&path, bytes).map_err(|source| io("writing", &path, source))
        };
        write(LOCK_FILE, b"")?;
        self.stage(files)?;
        let mut journal = Journal::default();
        let (entry, line) = self.next_line(&journal, time, who, events)?;
        write(JOURNAL_FILE, line.as_bytes())?;
        journal.push(entry, &line);
        write(MANIFEST_FILE, format!("{{\"version\":{VERSION}}}").as_bytes())?;
        Ok(journal)
    }

    /// Opens a state: its journal and what it adds up to. Changes nothing.
    pub(crate) fn open(directory: &Path, disk: Arc<dyn Disk>) -> Result<(Self, Journal, Ledger), Error> {
        let path = directory.join(MANIFEST_FILE);
        let exists = path.try_exists().or_else(|source| {
            // Whose it is says more than that it cannot be read.
            check_directory(directory)?;
            Err(io("reading", &path, source))
        });
        if !exists? {
            return Err(Error::StateMissing(directory.to_owned()));
        }
        check_directory(directory)?;
        for name in [MANIFEST_FILE, JOURNAL_FILE, LOCK_FILE].iter().chain(&DIRECTORIES) {
            check_no_link(&directory.join(name))?;
        }
        let text = read_bounded(&path)?;
        let any: AnyManifest =
            serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        match any.version {
            VERSION => {}
            1 => {
                let reason = "it was made by an earlier version, without a journal; take its CAs over into a new state: \
                     `pki init --import-ca-cert ca/<hierarchy>/g1/ca.crt --import-ca-key ca/<hierarchy>/g1/ca.key`";
                return Err(damaged(&path, reason.to_owned()));
            }
            version => return Err(damaged(&path, format!("version {version} is not known here"))),
        }
        let _: Manifest = serde_json::from_str(&text).map_err(|error| damaged(&path, error.to_string()))?;
        let state = Self { directory: directory.to_owned(), disk };
        let (journal, ledger) = state.read()?;
        Ok((state, journal, ledger))
    }

    /// Reads the journal and adds it up.
    pub(crate) fn read(&self) -> Result<(Journal, Ledger), Error> {
        let path = self.directory.join(JOURNAL_FILE);
        let mut text = Vec::new();
        let file = File::open(&path).map_err(|source| io("reading", &path, source))?;
        file.take(MAX_JOURNAL_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|source| io("reading", &path, source))?;
        if text.len() as u64 > MAX_JOURNAL_BYTES {
            return Err(Error::TooLarge {
                subject: path.display().to_string(),
                limit_bytes: MAX_JOURNAL_BYTES,
            });
        }
        let repair = |reason: String| {
            damaged(&path, format!("{reason}; restore the state from a backup, keys included"))
        };
        let journal = Journal::parse(&text).map_err(repair)?;
        let ledger = Ledger::replay(&journal.entries).map_err(repair)?;
        if ledger.trust_domain().is_none() {
            return Err(repair("it says nothing".to_owned()));
        }
        Ok((journal, ledger))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Takes the lock, or says that somebody holds it, or that nothing may be changed here.
    pub(crate) fn lock(&self) -> Result<Lock, Error> {
        self.check_owner()?;
        let path = self.directory.join(LOCK_FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|source| self.unwritable("opening", &path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::StateLocked(self.directory.clone())),
            Err(fs::TryLockError::Error(source)) => Err(io("locking", &path, source)),
        }
    }

    /// The superuser may read any state. What it writes into somebody's, the owner could not read any more.
    fn check_owner(&self) -> Result<(), Error> {
        let directory = &self.directory;
        let owner = fs::metadata(directory).map_err(|source| io("reading", directory, source))?.uid();
        let own = rustix::process::geteuid().as_raw();
        if owner == own {
            return Ok(());
        }
        let reason = format!(
            "it belongs to uid {owner}, this is uid {own}, whose files its owner could not read; run this as its owner"
        );
        Err(damaged(directory, reason))
    }

    /// What a write failed with; where nothing can be written at all, what to do about it.
    pub(crate) fn unwritable(&self, action: &'static str, path: &Path, source: io::Error) -> Error {
        let directory = self.directory.display();
        let advice = match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                format!("mount the file system of {directory} for writing; until then it can only be read")
            }
            io::ErrorKind::PermissionDenied => {
                format!("until its owner runs chmod -R u+rwX {directory}, it can only be read")
            }
            _ => return io(action, path, source),
        };
        damaged(path, format!("{action} it failed: {source}; {advice}"))
    }

    /// Writes files that nothing refers to yet. What an interrupted command left at the same place goes.
    pub(crate) fn stage(&self, files: &[Staged]) -> Result<(), Error> {
        for file in files {
            let path = self.directory.join(&file.place);
            let failed = |source| self.unwritable("writing", &path, source);
            if let Some(parent) = path.parent() {
                self.disk.create_directory(parent).map_err(failed)?;
            }
            self.disk.remove_file(&path).map_err(failed)?;
            self.disk.write_new(&path, &file.bytes).map_err(failed)?;
        }
        Ok(())
    }

    /// The commit: one line at the end of the journal.
    pub(crate) fn commit(
        &self,
        _lock: &Lock,
        journal: &mut Journal,
        (time, who, events): (Timestamp, &str, Vec<Event>),
    ) -> Result<(), Error> {
        let path = self.directory.join(JOURNAL_FILE);
        let (entry, line) = self.next_line(journal, time, who, events)?;
        if let Err(source) = self.disk.append(&path, line.as_bytes()) {
            // Part of the line, or all of it, may be there. If it cannot be taken back now, the next command ignores a part, and takes a
            // whole line for the commit that it is.
            let _ = self.disk.truncate(&path, journal.len_bytes);
            return Err(self.unwritable("writing", &path, source));
        }
        journal.push(entry, &line);
        Ok(())
    }

    fn next_line(
        &self,
        journal: &Journal,
        time: Timestamp,
        who: &str,
        events: Vec<Event>,
    ) -> Result<(Entry, String), Error> {
        journal
            .next_line(time, who, events)
            .map_err(|reason| damaged(&self.directory.join(JOURNAL_FILE), reason))
    }

    /// Removes what a command that died before its commit left behind.
    pub(crate) fn remove_orphans(
        &self,
        _lock: &Lock,
        journal: &mut Journal,
        ledger: &Ledger,
    ) -> Result<(), Error> {
        if journal.torn_bytes > 0 {
            let path = self.directory.join(JOURNAL_FILE);
            self.disk
                .truncate(&path, journal.len_bytes)
                .map_err(|source| self.unwritable("writing", &path, source))?;
            journal.torn_bytes = 0;
        }
        for hierarchy in Hierarchy::ALL {
            let known: BTreeSet<String> = ledger
                .generations
                .keys()
                .filter(|(of, _)| *of == hierarchy)
                .map(|(_, number)| format!("g{number}"))
                .collect();
            self.keep_only(&Path::new("ca").join(hierarchy.as_str()), |name| known.contains(name))?;
            self.keep_only(&Path::new("issued").join(hierarchy.as_str()), |name| {
                name.strip_suffix(".crt")
                    .is_some_and(|serial| ledger.leaves.contains_key(&(hierarchy, serial.to_owned())))
            })?;
        }
        let lists: BTreeSet<String> = ledger
            .generations
            .iter()
            .filter_map(|((hierarchy, number), record)| Some(list_name(*hierarchy, *number, record.list?.0)))
            .collect();
        self.keep_only(Path::new("crl"), |name| lists.contains(name))?;
        self.keep_only(Path::new("pending"), |serial| {
            Hierarchy::ALL
                .iter()
                .any(|hierarchy| ledger.leaves.contains_key(&(*hierarchy, serial.to_owned())))
        })
    }

    fn keep_only(&self, place: &Path, known: impl Fn(&str) -> bool) -> Result<(), Error> {
        let directory = self.directory.join(place);
        for name in self.names(place)? {
            if known(&name) {
                continue;
            }
            let path = directory.join(&name);
            let is_directory = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
            let removed =
                if is_directory { self.disk.remove_directory(&path) } else { self.disk.remove_file(&path) };
            removed.map_err(|source| self.unwritable("removing", &path, source))?;
        }
        Ok(())
    }

    /// The names in a directory of the state, sorted; none if it is not there.
    pub(crate) fn names(&self, place: &Path) -> Result<Vec<String>, Error> {
        let directory = self.directory.join(place);
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| io("reading", &directory, source))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| io("reading", &directory, source))?;
            names.extend(entry.file_name().to_str().map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// Writes a derived file, if it differs.
    pub(crate) fn derive(&self, place: &Path, text: &str) -> Result<(), Error> {
        let path = self.directory.join(place);
        if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
            return Ok(());
        }
        replace(&*self.disk, &path, text.as_bytes())
            .map_err(|source| self.unwritable("writing", &path, source))
    }

    /// Reads a text file of the state.
    pub(crate) fn text(&self, place: &Path) -> Result<String, Error> {
        read_bounded(&self.directory.join(place))
    }
}

/// The directory of a generation within the state.
pub(crate) fn generation_place(hierarchy: Hierarchy, number: u32) -> PathBuf {
    Path::new("ca").join(hierarchy.as_str()).join(format!("g{number}"))
}

/// The revocation list of a generation within the state.
pub(crate) fn list_place(hierarchy: Hierarchy, generation: u32, number: u64) -> PathBuf {
    Path::new("crl").join(list_name(hierarchy, generation, number))
}

fn list_name(hierarchy: Hierarchy, generation: u32, number: u64) -> String {
    format!("{}-g{generation}.{number}.crl", hierarchy.as_str())
}

/// A leaf's certificate within the state.
pub(crate) fn issued_place(hierarchy: Hierarchy, serial: &str) -> PathBuf {
    Path::new("issued").join(hierarchy.as_str()).join(format!("{serial}.crt"))
}

/// What verifies the leaves of `hierarchy`, within the state.
pub(crate) fn bundle_place(hierarchy: Hierarchy) -> PathBuf {
    Path::new("bundles").join(format!("{}.pem", hierarchy.as_str()))
}

fn directory_has_entries(directory: &Path) -> Result<bool, Error> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io("reading", directory, source)),
    }
}

/// Whoever can write here can sign: nobody else may, and it must be ours.
fn check_directory(directory: &Path) -> Result<(), Error> {
    let metadata = fs::metadata(directory).map_err(|source| io("reading", directory, source))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        let reason = format!("mode {mode:04o} lets others change it; run: chmod 700 {}", directory.display());
        return Err(damaged(directory, reason));
    }
    let own = rustix::process::geteuid().as_raw();
    if own != 0 && metadata.uid() != own {
        let reason =
            format!("it belongs to uid {}, this is uid {own}; run this as its owner", metadata.uid());
        return Err(damaged(directory, reason));
    }
    // Whoever has the link may lead it to another state.
    let link = fs::symlink_metadata(directory).map_err(|source| io("reading", directory, source))?;
    if ![0, own, metadata.uid()].contains(&link.uid()) {
        let target = link_target(directory).unwrap_or_default();
        let reason = format!(
            "the symbolic link belongs to uid {}; give the directory itself: --state=file:{}",
            link.uid(),
            target.display()
        );
        return Err(damaged(directory, reason));
    }
    Ok(())
}

/// Where a symbolic link leads, if `path` is one.
fn link_target(path: &Path) -> Option<PathBuf> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    is_link.then(|| fs::read_link(path).unwrap_or_default())
}

/// Refuses a symbolic link within the state.
pub(crate) fn check_no_link(path: &Path) -> Result<(), Error> {
    let Some(target) = link_target(path) else { return Ok(()) };
    let reason = format!(
        "it is a symbolic link to {}, and a state holds none; put what it leads to in its place",
        target.display()
    );
    Err(damaged(path, reason))
}

/// Refuses a key that others may read, or replace.
pub(crate) fn check_private(path: &Path) -> Result<(), Error> {
    check_no_link(path)?;
    let metadata = fs::metadata(path).map_err(|source| io("reading", path, source))?;
    if let Some(parent) = path.parent() {
        let owner = fs::metadata(parent).map_err(|source| io("reading", parent, source))?.uid();
        if metadata.uid() != owner {
            let reason = format!(
                "the key belongs to uid {}, its directory to uid {owner}; restore it from a backup, or run: chown {owner} {}",
                metadata.uid(),
                path.display()
            );
            return Err(damaged(path, reason));
        }
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let reason = format!("mode {mode:04o} lets others read the key; run: chmod 600 {}", path.display());
        return Err(damaged(path, reason));
    }
    Ok(())
}

/// Reads a text file of at most [`MAX_PEM_BYTES`].
pub fn read_bounded(path: &Path) -> Result<String, Error> {
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

pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_owned(), source }
}

pub(crate) fn damaged(path: &Path, reason: String) -> Error {
    Error::StateDamaged { path: path.to_owned(), reason }
}
