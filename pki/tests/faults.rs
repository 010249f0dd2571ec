//! Every write of every command fails, in every way, once: the next command finds a state that is whole.
//!
//! Each command runs on a copy of a state through a disk that fails at its n-th write, for every n: before the write, in the middle of it, after it, and
//! with the process dying at each of these (then nothing else is written, clean-up included). Afterwards the real disk is used again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use parallax_pki::authority::{Home, RenewPolicy, RequestedAction, RotationRequest};
use parallax_pki::disk::{Disk, RealDisk};
use parallax_pki::rotation::Evidence;
use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialSource, Hierarchy, LeafRequest, OpenOptions,
    PeerIdentity, Purpose, RevocationReason, TrustDomain,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing is written, and an error told.
    Before,
    /// Half is written (of what can be halved), and an error told.
    Half,
    /// All is written, and an error told.
    After,
    DiesBefore,
    DiesHalf,
    DiesAfter,
}

const FAULTS: [Fault; 6] =
    [Fault::Before, Fault::Half, Fault::After, Fault::DiesBefore, Fault::DiesHalf, Fault::DiesAfter];

#[derive(Debug, Default)]
struct Plan {
    fault: Option<(usize, Fault)>,
    writes: usize,
    dead: bool,
}

/// Counts writes, and fails at one.
#[derive(Debug, Default)]
struct FaultyDisk {
    plan: Mutex<Plan>,
}

impl FaultyDisk {
    fn failing_at(write: usize, fault: Fault) -> Arc<Self> {
        Arc::new(Self { plan: Mutex::new(Plan { fault: Some((write, fault)), ..Plan::default() }) })
    }

    fn act(
        &self,
        half: impl FnOnce() -> io::Result<()>,
        whole: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        if plan.dead {
            return Err(io::Error::other("the process is dead"));
        }
        let number = plan.writes;
        plan.writes += 1;
        let Some((_, fault)) = plan.fault.filter(|(at, _)| *at == number) else { return whole() };
        match fault {
            Fault::Before | Fault::DiesBefore => {}
            Fault::Half | Fault::DiesHalf => half()?,
            Fault::After | Fault::DiesAfter => whole()?,
        }
        plan.dead = matches!(fault, Fault::DiesBefore | Fault::DiesHalf | Fault::DiesAfter);
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }
}

impl Disk for FaultyDisk {
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.act(|| Ok(()), || RealDisk.create_directory(path))
    }

    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let half = &bytes[..bytes.len() / 2];
        self.act(|| RealDisk.write_new(path, half), || RealDisk.write_new(path, bytes))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let half = &bytes[..bytes.len() / 2];
        self.act(|| RealDisk.append(path, half), || RealDisk.append(path, bytes))
    }

    fn truncate(&self, path: &Path, len_bytes: u64) -> io::Result<()> {
        self.act(|| Ok(()), || RealDisk.truncate(path, len_bytes))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.act(|| Ok(()), || RealDisk.rename(from, to))
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.act(|| Ok(()), || RealDisk.exchange(one, other))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.act(|| Ok(()), || RealDisk.remove_file(path))
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        // Half: one of the entries.
        let half = || match fs::read_dir(path).ok().and_then(|mut entries| entries.next()) {
            Some(entry) => RealDisk.remove_file(&entry?.path()),
            None => Ok(()),
        };
        self.act(half, || RealDisk.remove_directory(path))
    }
}

/// A memory file system, if there is one: thousands of syncs.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::new("mesh.example").unwrap()
}

fn identity(cluster: &str) -> PeerIdentity {
    PeerIdentity::observee(&domain(), cluster).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
}

fn open(root: &Path, disk: Arc<dyn Disk>) -> Authority {
    Authority::open_with(&root.join("state"), OpenOptions { disk, ..OpenOptions::default() }).unwrap()
}

/// Leaves are within the state, so that a copy of it is on its own.
fn home(root: &Path, cluster: &str) -> PathBuf {
    root.join("state/leaves/observee").join(cluster)
}

fn loads(directory: &Path) -> Result<(), parallax_pki::Error> {
    CredentialSource::from_files(CredentialFiles::in_directory(directory), Purpose::Server).map(|_| ())
}

/// What has to hold after the command that follows a fault.
fn check_whole(root: &Path, what: &str) {
    let authority = open(root, Arc::new(RealDisk));
    authority.repair().unwrap_or_else(|error| panic!("{what}: {error}"));
    let state = root.join("state");
    let ledger = authority.ledger();
    assert!(authority.undelivered().is_empty(), "{what}: {:?}", authority.undelivered());
    let names = |place: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(state.join(place)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(names("pending").is_empty(), "{what}: something is pending");
    for hierarchy in Hierarchy::ALL {
        let issued: BTreeSet<String> = ledger
            .leaves
            .keys()
            .filter(|(of, _)| *of == hierarchy)
            .map(|(_, serial)| format!("{serial}.crt"))
            .collect();
        assert_eq!(
            names(&format!("issued/{}", hierarchy.as_str())),
            issued,
            "{what}: lost or left certificates"
        );
        let published =
            fs::read_to_string(state.join(format!("bundles/{}.pem", hierarchy.as_str()))).unwrap();
        assert_eq!(published, authority.bundle_pem(hierarchy), "{what}: the bundle is old");
        let generations: BTreeSet<String> = ledger
            .generations
            .keys()
            .filter(|(of, _)| *of == hierarchy)
            .map(|(_, number)| format!("g{number}"))
            .collect();
        assert_eq!(names(&format!("ca/{}", hierarchy.as_str())), generations, "{what}");
    }
    for leaf in ledger.current() {
        let Some(place) = &leaf.record.home else { continue };
        let directory = state.join(place);
        loads(&directory).unwrap_or_else(|error| panic!("{what}: {}: {error}", directory.display()));
        let cert = fs::read_to_string(directory.join("tls.crt")).unwrap();
        let issued = format!("issued/{}/{}.crt", leaf.record.hierarchy.as_str(), leaf.record.serial);
        assert_eq!(cert, fs::read_to_string(state.join(issued)).unwrap(), "{what}: not the newest leaf");
    }
    check_modes(&state, what);
    // And it goes on.
    let after = authority.issue_to(&LeafRequest::new(identity("after")), &Home::State, SystemTime::now());
    after.unwrap_or_else(|error| panic!("{what}: {error}"));
}

fn check_modes(path: &Path, what: &str) {
    let metadata = fs::metadata(path).unwrap();
    let wanted = if metadata.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(metadata.permissions().mode() & 0o777, wanted, "{what}: {}", path.display());
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| check_modes(&entry.unwrap().path(), what));
    }
}

/// Runs `command` on copies of `base`, once per write and fault.
fn try_all(name: &str, base: &Path, command: impl Fn(&Authority) -> Result<(), parallax_pki::Error>) {
    let work = scratch();
    let counted = work.path().join("counted");
    copy(base, &counted);
    let disk = Arc::new(FaultyDisk::default());
    command(&open(&counted, Arc::<FaultyDisk>::clone(&disk))).unwrap();
    let writes = disk.plan.lock().unwrap().writes;
    assert!(writes >= 1, "{name} writes {writes} times: the check is empty");
    println!("{name}: {writes} writes");
    check_whole(&counted, name);
    let had_leaf = home(base, "eu-1").exists();
    for write in 0..writes {
        for fault in FAULTS {
            let what = format!("{name}, write {write}, {fault:?}");
            let root = work.path().join("run");
            let _ = fs::remove_dir_all(&root);
            copy(base, &root);
            let disk = FaultyDisk::failing_at(write, fault);
            // It may succeed: what cannot be delivered is kept for later.
            let _ = command(&open(&root, Arc::<FaultyDisk>::clone(&disk)));
            let plan = disk.plan.lock().unwrap();
            assert!(plan.writes > write, "{what}: the write was never reached");
            if had_leaf {
                // A server that starts at this very moment.
                loads(&home(&root, "eu-1")).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            check_whole(&root, &what);
        }
    }
}

fn base(root: &Path) -> Authority {
    let authority = Authority::init(&root.join("state"), &AuthorityOptions::new(domain())).unwrap();
    authority.issue_to(&LeafRequest::new(identity("eu-1")), &Home::State, SystemTime::now()).unwrap();
    authority
}

const FORCED: RenewPolicy = RenewPolicy { at: 0.66, jitter: 0.05, force: true, keep_key: false };

fn rotate(authority: &Authority, action: RequestedAction) -> Result<(), parallax_pki::Error> {
    let request = RotationRequest {
        reason: Some("test".to_owned()),
        ..RotationRequest::new(Hierarchy::Observees, action)
    };
    authority.rotate(&request, |_| Evidence::default(), None, SystemTime::now()).map(|_| ())
}

#[test]
fn an_interrupted_issue_is_undone_or_finished() {
    let root = scratch();
    base(root.path());
    try_all("issue", root.path(), |authority| {
        authority.issue_to(&LeafRequest::new(identity("us-1")), &Home::State, SystemTime::now()).map(|_| ())
    });
}

#[test]
fn an_interrupted_renewal_leaves_a_pair_that_fits_at_every_moment() {
    let root = scratch();
    base(root.path());
    try_all("renew", root.path(), |authority| {
        authority.renew(|_| true, FORCED, SystemTime::now()).map(|_| ())
    });
}

#[test]
fn an_interrupted_revocation_is_undone_or_finished() {
    let root = scratch();
    let authority = base(root.path());
    authority.issue_to(&LeafRequest::new(identity("us-1")), &Home::State, SystemTime::now()).unwrap();
    try_all("revoke", root.path(), |authority| {
        let picked = |leaf: &parallax_pki::ledger::Leaf| leaf.identity.name() == "us-1";
        authority.revoke("us-1", picked, RevocationReason::KeyCompromise, SystemTime::now()).map(|_| ())
    });
}

#[test]
fn an_interrupted_rotation_is_undone_or_finished_at_every_step() {
    let root = scratch();
    let authority = base(root.path());
    for action in
        [RequestedAction::Prepare, RequestedAction::Activate, RequestedAction::Drain, RequestedAction::Retire]
    {
        try_all(&format!("{action:?}"), root.path(), |authority| rotate(authority, action));
        rotate(&authority, action).unwrap();
        authority
            .renew(|_| true, RenewPolicy::default(), SystemTime::now() + Duration::from_secs(1))
            .unwrap();
    }
    rotate(&authority, RequestedAction::Prepare).unwrap();
    try_all("abort", root.path(), |authority| rotate(authority, RequestedAction::Abort));
    try_all("compromised", root.path(), |authority| rotate(authority, RequestedAction::Compromised(None)));
}

#[test]
fn an_interrupted_init_leaves_a_whole_state_or_none() {
    let work = scratch();
    let count = Arc::new(FaultyDisk::default());
    let options = |disk: Arc<dyn Disk>| AuthorityOptions { disk, ..AuthorityOptions::new(domain()) };
    let counted = work.path().join("counted/state");
    Authority::init(&counted, &options(Arc::<FaultyDisk>::clone(&count))).unwrap();
    let writes = count.plan.lock().unwrap().writes;
    assert!(writes > 10, "{writes}");
    for write in 0..writes {
        for fault in FAULTS {
            let what = format!("init, write {write}, {fault:?}");
            let root = work.path().join("run");
            let _ = fs::remove_dir_all(&root);
            let state = root.join("state");
            let made = Authority::init(&state, &options(FaultyDisk::failing_at(write, fault)));
            assert!(made.is_err(), "{what}: it did not notice");
            if Authority::open(&state).is_err() {
                Authority::init(&state, &options(Arc::new(RealDisk)))
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            check_whole(&root, &what);
        }
    }
}
