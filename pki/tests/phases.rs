//! T7 and T9: files that change under whoever reads them, and peers that start again in the middle of a rotation.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::SystemTime;

use parallax_pki::authority::{Home, RenewPolicy, RequestedAction, RotationRequest};
use parallax_pki::ledger::Ledger;
use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialSource, ExpectedServer, Hierarchy, LeafFiles,
    LeafRequest, PeerIdentity, Purpose, TrustDomain,
};
use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

const CLIENT: Purpose = Purpose::Client { skip_verify: false };

/// A handshake of these two, both certificates verified.
fn shake(client: &CredentialSource, server: &CredentialSource) -> Result<(), String> {
    let name = ServerName::try_from("eu-1.mesh.example").unwrap();
    let config = client.current().client_config(&ExpectedServer::Name).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut server = ServerConnection::new(server.current().server_config().unwrap()).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let (mut said, mut answer) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut said).unwrap();
        }
        let mut reader = said.as_slice();
        while !reader.is_empty() {
            server.read_tls(&mut reader).unwrap();
            server.process_new_packets().map_err(|error| format!("server: {error}"))?;
        }
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        let mut reader = answer.as_slice();
        while !reader.is_empty() {
            client.read_tls(&mut reader).unwrap();
            client.process_new_packets().map_err(|error| format!("client: {error}"))?;
        }
    }
    Ok(())
}

struct Mesh {
    authority: Authority,
    home: tempfile::TempDir,
}

/// A server and a client as they were loaded at one moment.
struct Loaded {
    server: CredentialSource,
    client: CredentialSource,
}

impl Mesh {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
        let authority = Authority::init(&home.path().join("pki"), &options).unwrap();
        for identity in ["observee/eu-1", "observer/hub"] {
            let identity: PeerIdentity = format!("spiffe://mesh.example/{identity}").parse().unwrap();
            authority.issue_to(&LeafRequest::new(identity), &Home::State, SystemTime::now()).unwrap();
        }
        Self { authority, home }
    }

    /// What processes that start now read.
    fn load(&self) -> Loaded {
        let files =
            |leaf: &str| CredentialFiles::in_directory(&self.home.path().join("pki/leaves").join(leaf));
        Loaded {
            server: CredentialSource::from_files(files("observee/eu-1"), Purpose::Server).unwrap(),
            client: CredentialSource::from_files(files("observer/hub"), CLIENT).unwrap(),
        }
    }

    fn step(&self, hierarchy: Hierarchy, action: RequestedAction) {
        let now = SystemTime::now();
        let observations = self.authority.observations().unwrap();
        let waived: BTreeSet<String> =
            ["observee/eu-1", "observer/hub"].map(|peer| format!("spiffe://mesh.example/{peer}")).into();
        let request =
            RotationRequest { reason: Some("a test".to_owned()), ..RotationRequest::new(hierarchy, action) };
        let evidence = |ledger: &Ledger| observations.evidence(ledger, hierarchy, &waived, now);
        self.authority.rotate(&request, evidence, None, now).unwrap();
    }
}

/// Whoever has not read since the step before, and whoever starts now, understand each other in every pairing.
fn everybody_talks(former: &Loaded, now: &Loaded, moment: &str) {
    for (who, client, server) in [
        ("nobody started again", former, former),
        ("the hub started again", now, former),
        ("the observee started again", former, now),
        ("both started again", now, now),
    ] {
        shake(&client.client, &server.server).unwrap_or_else(|error| panic!("{moment}: {who}: {error}"));
    }
}

#[test]
fn t9_any_node_may_start_again_in_any_phase_of_a_rotation() {
    use RequestedAction as A;
    let mesh = Mesh::new();
    let mut former = mesh.load();
    for hierarchy in Hierarchy::ALL {
        let there = [A::Prepare, A::Activate, A::Drain, A::Retire];
        // Once there; and once there, back again, and to the end of that.
        let and_back = [A::Prepare, A::Activate, A::Drain, A::Abort, A::Drain, A::Retire];
        for action in there.into_iter().chain(and_back) {
            let moment = format!("{} {action:?}", hierarchy.as_str());
            if matches!(action, A::Drain) {
                mesh.authority.renew(|_| true, RenewPolicy::default(), SystemTime::now()).unwrap();
                let renewed = mesh.load();
                everybody_talks(&former, &renewed, &format!("{moment}, renewed"));
                former = renewed;
            }
            mesh.step(hierarchy, action);
            let now = mesh.load();
            everybody_talks(&former, &now, &moment);
            former = now;
        }
    }
}

/// As Kubernetes mounts a secret: names that lead through `..data`, which is swapped as a whole.
struct Mount<'a> {
    directory: &'a Path,
    version: u32,
}

impl Mount<'_> {
    fn swap(&mut self, leaf: &LeafFiles) {
        self.version += 1;
        let name = format!("..v{}", self.version);
        let files = self.directory.join(&name);
        fs::create_dir(&files).unwrap();
        for (file, text) in
            [("tls.crt", &leaf.cert_pem), ("tls.key", &leaf.key_pem), ("ca.crt", &leaf.ca_pem)]
        {
            fs::write(files.join(file), text).unwrap();
            let link = self.directory.join(file);
            if self.version == 1 {
                symlink(Path::new("..data").join(file), link).unwrap();
            }
        }
        symlink(&name, self.directory.join("..next")).unwrap();
        fs::rename(self.directory.join("..next"), self.directory.join("..data")).unwrap();
        if self.version > 1 {
            fs::remove_dir_all(self.directory.join(format!("..v{}", self.version - 1))).unwrap();
        }
    }
}

#[test]
fn t7_a_thousand_swaps_of_a_mounted_secret_fail_no_handshake() {
    let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
    let authority = Authority::in_memory(&options, SystemTime::now()).unwrap();
    let hub = authority.issue_observer("hub").unwrap();
    let client = CredentialSource::from_pem(hub.credentials(), CLIENT).unwrap();
    let leaves = [(); 2].map(|()| authority.issue_observee("eu-1", &[]).unwrap());
    let home = tempfile::tempdir().unwrap();
    let mut mount = Mount { directory: home.path(), version: 0 };
    mount.swap(&leaves[0]);
    let files = CredentialFiles::in_directory(home.path());
    let server = CredentialSource::from_files(files, Purpose::Server).unwrap();
    for number in 1..=1000 {
        let leaf = &leaves[number % 2];
        mount.swap(leaf);
        assert!(server.reload().unwrap(), "swap {number} was not seen");
        assert_eq!(server.current().leaf().unwrap().serial, leaf.serial);
        shake(&client, &server).unwrap_or_else(|error| panic!("swap {number}: {error}"));
    }
}

#[test]
fn t7_whatever_replaces_good_files_the_last_good_set_goes_on() {
    let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
    let authority = Authority::in_memory(&options, SystemTime::now()).unwrap();
    let other = Authority::in_memory(&options, SystemTime::now()).unwrap();
    let client = CredentialSource::from_pem(authority.issue_observer("hub").unwrap().credentials(), CLIENT);
    let (client, leaf) = (client.unwrap(), authority.issue_observee("eu-1", &[]).unwrap());
    let home = tempfile::tempdir().unwrap();
    leaf.write(home.path()).unwrap();
    let files = CredentialFiles::in_directory(home.path());
    let server = CredentialSource::from_files(files, Purpose::Server).unwrap();
    let foreign = other.issue_observee("eu-1", &[]).unwrap();
    let half = &leaf.cert_pem[..leaf.cert_pem.len() / 2];
    for (file, text, what) in [
        ("tls.crt", foreign.cert_pem.as_str(), "half a pair"),
        ("tls.crt", half, "truncated"),
        ("tls.crt", "", "empty"),
        ("tls.key", "garbage", "garbage"),
        ("tls.key", foreign.key_pem.as_str(), "another's key"),
        ("ca.crt", "", "no CA"),
        ("ca.crt", leaf.key_pem.as_str(), "a key in place of CAs"),
        ("ca.crt", half, "half a CA"),
    ] {
        fs::write(home.path().join(file), text).unwrap();
        assert!(server.reload().is_err(), "{what} was taken");
        assert!(server.status().last_error.is_some(), "{what} is not told");
        shake(&client, &server).unwrap_or_else(|error| panic!("{what}: {error}"));
        leaf.write(home.path()).unwrap();
        // The same set as before: nothing has changed.
        let _ = server.reload().unwrap_or_else(|error| panic!("after {what}: {error}"));
    }
    fs::remove_file(home.path().join("ca.crt")).unwrap();
    assert!(server.reload().is_err(), "a CA file that is gone is not no CA");
    shake(&client, &server).unwrap();
    // Another mesh's CA is a good file: whoever holds a leaf of ours is out then, as the file says.
    leaf.write(home.path()).unwrap();
    fs::write(home.path().join("ca.crt"), other.bundle_pem(Hierarchy::Observers)).unwrap();
    assert!(server.reload().unwrap());
    assert!(shake(&client, &server).is_err());
}
