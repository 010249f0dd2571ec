//! Bad input 15: states that cannot be written, that are somebody else's, or in which a link leads elsewhere. Each is one message with the path and what to do.
//!
//! What needs another user, or a directory without permission to write, is shown by processes (`tests/pki.rs`).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parallax_pki::disk::{Disk, RealDisk};
use parallax_pki::{
    Authority, AuthorityOptions, Error, Hierarchy, OpenOptions, RevocationReason, TrustDomain,
};

fn options() -> AuthorityOptions {
    AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap())
}

/// What is wrong with the state at `path`, which the text has to name.
fn damage(result: Result<impl Sized, Error>, path: &Path) -> String {
    let Err(error) = result else { panic!("{} was taken", path.display()) };
    assert!(matches!(error, Error::StateDamaged { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()) && !text.contains('\n'), "{text}");
    text
}

#[test]
fn bad_input_15_a_link_within_a_state_is_refused_by_its_name() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    Authority::init(&state, &options()).unwrap();
    for name in [
        "ca/observers/g1/ca.key",
        "ca/observers/g1",
        "ca/observees",
        "ca",
        "issued",
        "journal.jsonl",
        "pki.json",
        "LOCK",
    ] {
        let (path, elsewhere) = (state.join(name), home.path().join("elsewhere"));
        fs::rename(&path, &elsewhere).unwrap();
        // The same file, and one that is gone.
        for target in [&elsewhere, &home.path().join("gone")] {
            symlink(target, &path).unwrap();
            let missing = name == "pki.json" && target != &elsewhere;
            if missing {
                assert!(matches!(Authority::open(&state), Err(Error::StateMissing(_))));
            } else {
                let text = damage(Authority::open(&state), &path);
                assert!(
                    text.contains(&target.display().to_string()) && text.contains("in its place"),
                    "{text}"
                );
            }
            fs::remove_file(&path).unwrap();
        }
        fs::rename(&elsewhere, &path).unwrap();
        Authority::open(&state).unwrap().issue_observer("hub").unwrap();
    }
}

#[test]
fn bad_input_15_a_link_to_a_state_leads_to_that_state_and_takes_no_new_one() {
    let home = tempfile::tempdir().unwrap();
    let (state, link) = (home.path().join("state"), home.path().join("link"));
    Authority::init(&state, &options()).unwrap();
    symlink(&state, &link).unwrap();
    let through = Authority::open(&link).unwrap();
    through.issue_observer("hub").unwrap();
    assert_eq!(through.journal_head(), Authority::open(&state).unwrap().journal_head());
    // One lock, whichever way it is reached.
    let held = fs::File::open(state.join("LOCK")).unwrap();
    held.lock().unwrap();
    assert!(matches!(through.issue_observer("other"), Err(Error::StateLocked(_))));
    assert!(matches!(Authority::init(&link, &options()), Err(Error::StateExists(_))));

    let (empty, link) = (home.path().join("empty"), home.path().join("link-to-empty"));
    fs::create_dir(&empty).unwrap();
    symlink(&empty, &link).unwrap();
    assert!(matches!(Authority::open(&link), Err(Error::StateMissing(_))));
    let text = damage(Authority::init(&link, &options()), &link);
    assert!(text.contains(&format!("--state=file:{}", empty.display())), "{text}");
    assert!(fs::read_dir(&empty).unwrap().next().is_none());
    Authority::init(&empty, &options()).unwrap();
}

/// As a disk that was mounted for reading, or whose directories may not be written.
#[derive(Debug)]
struct Unwritable(io::ErrorKind);

impl Disk for Unwritable {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }

    fn write_new(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(self.0.into())
    }

    fn append(&self, _: &Path, _: &[u8]) -> io::Result<()> {
        Err(self.0.into())
    }

    fn truncate(&self, _: &Path, _: u64) -> io::Result<()> {
        Err(self.0.into())
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }

    fn exchange(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }

    fn remove_file(&self, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }

    fn remove_directory(&self, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }
}

fn files_beneath(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_beneath(&path));
        } else {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn bad_input_15_a_state_that_cannot_be_written_is_read_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    Authority::init(&state, &options()).unwrap().issue_observer("hub").unwrap();
    let before = files_beneath(&state);
    for (kind, advice) in [
        (
            io::ErrorKind::ReadOnlyFilesystem,
            format!("mount the file system of {} for writing", state.display()),
        ),
        (io::ErrorKind::PermissionDenied, format!("chmod -R u+rwX {}", state.display())),
    ] {
        let disk: Arc<dyn Disk> = Arc::new(Unwritable(kind));
        let authority = Authority::open_with(&state, OpenOptions { disk, ..OpenOptions::default() }).unwrap();
        assert_eq!(authority.ledger().current().len(), 1, "it is read");
        assert!(authority.bundle_pem(Hierarchy::Observers).contains("BEGIN CERTIFICATE"));
        for result in [
            authority.issue_observer("other").map(|_| ()),
            authority.revoke("hub", |_| true, RevocationReason::Unspecified, SystemTime::now()).map(|_| ()),
        ] {
            let text = damage(result, &state);
            assert!(text.contains(&advice), "{text}");
        }
        assert!(files_beneath(&state) == before, "something was written");
    }
    // A disk that is only full is no damage.
    let full =
        OpenOptions { disk: Arc::new(Unwritable(io::ErrorKind::StorageFull)), ..OpenOptions::default() };
    let error = Authority::open_with(&state, full).unwrap().issue_observer("other").unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    let real = OpenOptions { disk: Arc::new(RealDisk), ..OpenOptions::default() };
    Authority::open_with(&state, real).unwrap().issue_observer("other").unwrap();
}
