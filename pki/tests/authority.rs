//! The authority on disk and in memory: what it writes, what it refuses, and that its leaves are what the profile says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use parallax_pki::certificate::{Facts, Usage, parse_bundle};
use parallax_pki::{Authority, AuthorityOptions, Error, Hierarchy, LeafRequest, PeerIdentity, TrustDomain};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn options() -> AuthorityOptions {
    AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap())
}

fn facts(pem: &str) -> Facts {
    Facts::read(&parse_bundle("test", pem).unwrap()[0]).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_leaf_is_what_its_role_allows_and_no_more() {
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    let server = authority.issue_observee("eu-1", &["eu-1.example", "127.0.0.1"]).unwrap();
    let leaf = facts(&server.cert_pem);
    assert_eq!(leaf.uris, ["spiffe://mesh.example/observee/eu-1"]);
    assert_eq!(leaf.dns_names, ["eu-1.mesh.example", "eu-1.example"]);
    assert_eq!(leaf.addresses.len(), 1);
    assert_eq!(leaf.usage, Some(Usage { client: false, server: true }));
    assert_eq!(leaf.serial.len(), 32);
    assert!(leaf.key_identifier.is_some());
    let client = facts(&authority.issue_observer("hub").unwrap().cert_pem);
    assert_eq!(client.usage, Some(Usage { client: true, server: false }));
    assert_eq!(client.uris, ["spiffe://mesh.example/observer/hub"]);
}

#[test]
fn a_leaf_comes_with_the_bundle_of_the_other_direction() {
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    let server = authority.issue_observee("eu-1", &[]).unwrap();
    let client = authority.issue_observer("hub").unwrap();
    assert_eq!(server.ca_pem, authority.bundle_pem(Hierarchy::Observers));
    assert_eq!(client.ca_pem, authority.bundle_pem(Hierarchy::Observees));
    assert_ne!(server.ca_pem, client.ca_pem);
}

#[test]
fn authorities_have_names_of_their_own() {
    let subject = |authority: &Authority, hierarchy| facts(&authority.bundle_pem(hierarchy)).subject;
    let first = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    let second = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    assert_ne!(subject(&first, Hierarchy::Observers), subject(&first, Hierarchy::Observees));
    assert_ne!(subject(&first, Hierarchy::Observers), subject(&second, Hierarchy::Observers));
    let name = facts(&first.bundle_pem(Hierarchy::Observers)).common_name.unwrap();
    assert!(name.starts_with("parallax mesh.example observers g1 "), "{name}");
    let long = TrustDomain::new(&format!("{}.example", "a".repeat(60))).unwrap();
    let long = Authority::in_memory(&AuthorityOptions::new(long), SystemTime::now()).unwrap();
    assert!(facts(&long.bundle_pem(Hierarchy::Observees)).common_name.unwrap().len() <= 64);
}

#[test]
fn a_leaf_is_backdated_and_ends_no_later_than_its_authority() {
    let now = SystemTime::now();
    let short = AuthorityOptions { lifetime: 10 * DAY, ..options() };
    let authority = Authority::in_memory(&short, now).unwrap();
    let leaf = authority.issue_observee("eu-1", &[]).unwrap();
    assert_eq!(leaf.not_after, authority.not_after(Hierarchy::Observees));
    assert!(facts(&leaf.cert_pem).not_before <= now - Duration::from_secs(299));
    let identity = PeerIdentity::observee(authority.trust_domain(), "eu-1").unwrap();
    let after_the_end = authority.issue_at(&LeafRequest::new(identity.clone()), now + 11 * DAY);
    assert!(matches!(after_the_end, Err(Error::Refused { .. })), "{after_the_end:?}");
    let nothing = authority.issue(&LeafRequest::new(identity.clone()).lifetime(Duration::ZERO));
    assert!(matches!(nothing, Err(Error::Refused { .. })));
    let ages = authority.issue(&LeafRequest::new(identity).lifetime(Duration::MAX));
    assert!(matches!(ages, Err(Error::Refused { .. })));
}

#[test]
fn a_certificate_of_the_next_century_half_is_read_back_right() {
    let far = AuthorityOptions { lifetime: 19 * 365 * DAY, ..options() };
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(2_200_000_000); // 2039
    let authority = Authority::in_memory(&far, start).unwrap();
    assert_eq!(authority.not_after(Hierarchy::Observers), start + far.lifetime);
}

#[test]
fn names_that_are_no_host_names_are_refused() {
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    for name in ["*.example", "a b", "", "ex ample", "EU.example", "-a.example", "a..b"] {
        assert!(authority.issue_observee("eu-1", &[name]).is_err(), "{name:?} was accepted");
    }
    let other = TrustDomain::new("other.example").unwrap();
    let foreign = LeafRequest::new(PeerIdentity::observer(&other, "hub").unwrap());
    assert!(matches!(authority.issue(&foreign), Err(Error::Refused { .. })));
}

#[test]
fn a_stored_authority_is_private_and_signs_again_after_opening() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("deep/state");
    let made = Authority::init(&state, &options()).unwrap();
    assert_eq!(mode(&state), 0o700);
    for file in ["pki.json", "ca/observers/g1/ca.key", "ca/observees/g1/ca.key", "bundles/observers.pem"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    let opened = Authority::open(&state).unwrap();
    assert_eq!(opened.bundle_pem(Hierarchy::Observees), made.bundle_pem(Hierarchy::Observees));
    let leaf = opened.issue_observee("eu-1", &["eu-1.example"]).unwrap();
    assert!(state.join("issued/observees").join(format!("{}.crt", leaf.serial)).exists());
    let left: Vec<_> = fs::read_dir(state.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "something was left beside the state");
    chain_verifies(&leaf.cert_pem, &opened.bundle_pem(Hierarchy::Observees));
}

/// Verifies with webpki, as the handshake does.
fn chain_verifies(leaf: &str, bundle: &str) {
    use rustls::server::ParsedCertificate;
    let mut roots = rustls::RootCertStore::empty();
    for anchor in parse_bundle("bundle", bundle).unwrap() {
        roots.add(anchor).unwrap();
    }
    let leaf = parse_bundle("leaf", leaf).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(&leaf[0]).unwrap(),
        &roots,
        &[],
        rustls_pki_types::UnixTime::now(),
        parallax_pki::provider().signature_verification_algorithms.all,
    )
    .unwrap();
}

#[test]
fn init_never_touches_what_is_there() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    Authority::init(&state, &options()).unwrap();
    let key = fs::read(state.join("ca/observers/g1/ca.key")).unwrap();
    assert!(matches!(Authority::init(&state, &options()), Err(Error::StateExists(_))));
    assert_eq!(fs::read(state.join("ca/observers/g1/ca.key")).unwrap(), key);
    let used = home.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("notes"), "mine").unwrap();
    assert!(matches!(Authority::init(&used, &options()), Err(Error::StateExists(_))));
    let empty = home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    Authority::init(&empty, &options()).unwrap();
}

#[test]
fn damage_is_named() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(Authority::open(home.path()), Err(Error::StateMissing(_))));
    let state = home.path().join("state");
    Authority::init(&state, &options()).unwrap();
    let key = state.join("ca/observers/g1/ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Authority::open(&state).unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::copy(state.join("ca/observees/g1/ca.key"), &key).unwrap();
    let mixed = Authority::open(&state).unwrap().issue_observer("hub");
    assert!(matches!(mixed, Err(Error::KeyMismatch { .. })), "{mixed:?}");
    fs::write(state.join("pki.json"), "{").unwrap();
    assert!(matches!(Authority::open(&state), Err(Error::StateDamaged { .. })));
}

#[test]
fn two_commands_at_once_do_not_write_together() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let authority = Authority::init(&state, &options()).unwrap();
    let held = fs::File::open(state.join("LOCK")).unwrap();
    held.lock().unwrap();
    assert!(matches!(authority.issue_observer("hub"), Err(Error::StateLocked(_))));
    held.unlock().unwrap();
    authority.issue_observer("hub").unwrap();
}

#[test]
fn a_written_leaf_is_private_and_replaces_the_former() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    let out = home.path().join("out");
    for _ in 0..2 {
        let leaf = authority.issue_observer("hub").unwrap();
        leaf.write(&out).unwrap();
        assert_eq!(fs::read_to_string(out.join("tls.crt")).unwrap(), leaf.cert_pem);
        assert_eq!(fs::read_to_string(out.join("tls.key")).unwrap(), leaf.key_pem);
        assert_eq!(fs::read_to_string(out.join("ca.crt")).unwrap(), leaf.ca_pem);
    }
    assert_eq!(mode(&out), 0o700);
    for entry in fs::read_dir(&out).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
    let leaf = authority.issue_observer("hub").unwrap();
    assert!(!format!("{leaf:?}").contains("PRIVATE KEY"));
}

#[test]
fn openssl_accepts_what_we_sign() {
    let Ok(version) = std::process::Command::new("openssl").arg("version").output() else {
        println!("left out: openssl is not installed");
        return;
    };
    assert!(version.status.success());
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::in_memory(&options(), SystemTime::now()).unwrap();
    for (leaf, hierarchy, purpose) in [
        (authority.issue_observee("eu-1", &["eu-1.example"]).unwrap(), Hierarchy::Observees, "sslserver"),
        (authority.issue_observer("hub").unwrap(), Hierarchy::Observers, "sslclient"),
    ] {
        let (cert, bundle) = (home.path().join("leaf.pem"), home.path().join("bundle.pem"));
        fs::write(&cert, &leaf.cert_pem).unwrap();
        fs::write(&bundle, authority.bundle_pem(hierarchy)).unwrap();
        let output = std::process::Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .args([&bundle, &cert])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
