//! Loading credentials, replacing them, and what must never be taken up.

use std::fs;
use std::time::{Duration, SystemTime};

use parallax_pki::{
    Authority, AuthorityOptions, CredentialFiles, CredentialPem, CredentialSource, Error, LeafFiles,
    LeafRequest, PeerIdentity, Purpose, TrustDomain,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority() -> Authority {
    authority_at(SystemTime::now())
}

fn authority_at(now: SystemTime) -> Authority {
    Authority::in_memory(&AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap()), now).unwrap()
}

fn server_leaf(authority: &Authority) -> LeafFiles {
    authority.issue_observee("eu-1", &["localhost"]).unwrap()
}

fn error_of(pem: CredentialPem, purpose: Purpose) -> Error {
    CredentialSource::from_pem(pem, purpose).unwrap_err()
}

const CLIENT: Purpose = Purpose::Client { skip_verify: false };

#[test]
fn a_server_without_ca_is_tls_only_and_with_one_demands_certificates() {
    let leaf = server_leaf(&authority());
    let with_ca = CredentialSource::from_pem(leaf.credentials(), Purpose::Server).unwrap();
    assert!(with_ca.current().requires_client_certificate());
    assert_eq!(with_ca.current().identity(), Some(&leaf.identity));
    let without = CredentialPem { ca: None, ..leaf.credentials() };
    let without = CredentialSource::from_pem(without, Purpose::Server).unwrap();
    assert!(!without.current().requires_client_certificate());
}

#[test]
fn sets_that_lack_a_part_are_refused_by_its_name() {
    let leaf = server_leaf(&authority());
    let missing = |cert: bool, key: bool| CredentialPem {
        cert: cert.then(|| leaf.cert_pem.clone()),
        key: key.then(|| leaf.key_pem.clone()),
        ca: Some(leaf.ca_pem.clone()),
    };
    for (cert, key) in [(true, false), (false, true), (false, false)] {
        assert!(matches!(error_of(missing(cert, key), Purpose::Server), Error::Incomplete { .. }));
    }
    assert!(matches!(error_of(CredentialPem::default(), CLIENT), Error::NoTrust));
    CredentialSource::from_pem(CredentialPem::default(), Purpose::Client { skip_verify: true }).unwrap();
}

#[test]
fn a_ca_file_without_a_certificate_is_never_taken_as_no_ca() {
    let leaf = server_leaf(&authority());
    for ca in ["", "not pem", &leaf.key_pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        for purpose in [Purpose::Server, CLIENT] {
            let mut pem = leaf.credentials();
            if purpose == CLIENT {
                pem = CredentialPem::default();
            }
            let error = error_of(CredentialPem { ca: Some(ca.to_owned()), ..pem }, purpose);
            assert!(matches!(error, Error::Malformed { .. }), "{ca:?}: {error}");
        }
    }
}

#[test]
fn one_broken_block_among_good_ones_is_refused_by_number() {
    let leaf = server_leaf(&authority());
    let broken = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    let unended = "-----BEGIN CERTIFICATE-----\nMIIB\n";
    for ca in [format!("{}{broken}", leaf.ca_pem), format!("{}{unended}", leaf.ca_pem)] {
        let error =
            error_of(CredentialPem { ca: Some(ca), ..leaf.credentials() }, Purpose::Server).to_string();
        assert!(error.contains("of 2"), "{error}");
    }
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = authority();
    let (one, other) = (server_leaf(&authority), server_leaf(&authority));
    let mixed = CredentialPem { key: Some(other.key_pem), ..one.credentials() };
    assert!(matches!(error_of(mixed, Purpose::Server), Error::KeyMismatch { .. }));
}

#[test]
fn an_encrypted_key_is_named_as_such() {
    let leaf = server_leaf(&authority());
    let key = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned();
    let error = error_of(CredentialPem { key: Some(key), ..leaf.credentials() }, Purpose::Server).to_string();
    assert!(error.contains("encrypted"), "{error}");
}

#[test]
fn a_leaf_of_the_other_direction_is_refused_at_loading() {
    let authority = authority();
    let (server, client) = (server_leaf(&authority), authority.issue_observer("hub").unwrap());
    assert!(matches!(error_of(client.credentials(), Purpose::Server), Error::WrongPurpose { .. }));
    assert!(matches!(error_of(server.credentials(), CLIENT), Error::WrongPurpose { .. }));
}

#[test]
fn expired_authorities_are_not_trusted() {
    let long_ago = SystemTime::now() - 800 * DAY;
    let expired = authority_at(long_ago);
    let now = authority();
    let leaf = server_leaf(&now);
    let expired_ca = expired.bundle_pem(parallax_pki::Hierarchy::Observers);
    let only = CredentialPem { ca: Some(expired_ca.clone()), ..leaf.credentials() };
    assert!(matches!(error_of(only, Purpose::Server), Error::AnchorsExpired { .. }));
    let both = CredentialPem { ca: Some(format!("{expired_ca}{}", leaf.ca_pem)), ..leaf.credentials() };
    CredentialSource::from_pem(both, Purpose::Server).unwrap();
}

#[test]
fn a_swap_is_seen_by_all_holders_and_a_bad_one_by_none() {
    let authority = authority();
    let source = CredentialSource::from_pem(server_leaf(&authority).credentials(), Purpose::Server).unwrap();
    let (other_holder, mut watcher) = (source.clone(), source.subscribe());
    let first = source.current().digest().to_owned();
    source.swap(&server_leaf(&authority).credentials()).unwrap();
    assert!(watcher.has_changed().unwrap());
    let second = watcher.borrow_and_update().digest().to_owned();
    assert_ne!(first, second);
    assert_eq!(other_holder.current().digest(), second);

    let bad = CredentialPem { ca: Some(String::new()), ..server_leaf(&authority).credentials() };
    assert!(source.swap(&bad).is_err());
    assert!(!watcher.has_changed().unwrap());
    assert_eq!(source.current().digest(), second);
    let status = source.status();
    assert_eq!((status.successes, status.failures), (2, 1));
    assert!(status.last_error.is_some());
}

#[test]
fn an_expired_leaf_does_not_replace_a_valid_one() {
    let now = SystemTime::now();
    let authority = authority_at(now - 100 * DAY);
    let source = CredentialSource::from_pem(server_leaf(&authority).credentials(), Purpose::Server).unwrap();
    let request = LeafRequest::new(PeerIdentity::observee(authority.trust_domain(), "eu-1").unwrap());
    for issued_at in [now - 60 * DAY, now + 2 * DAY] {
        let leaf = authority.issue_at(&request, issued_at).unwrap();
        assert!(matches!(source.swap(&leaf.credentials()), Err(Error::NotValidNow { .. })));
    }
    let expired = authority.issue_at(&request, now - 60 * DAY).unwrap();
    let started_late = CredentialSource::from_pem(expired.credentials(), Purpose::Server).unwrap();
    started_late.swap(&server_leaf(&authority).credentials()).unwrap();
}

#[test]
fn half_written_files_keep_the_old_set_until_they_are_whole() {
    let home = tempfile::tempdir().unwrap();
    let authority = authority();
    server_leaf(&authority).write(home.path()).unwrap();
    let source =
        CredentialSource::from_files(CredentialFiles::in_directory(home.path()), Purpose::Server).unwrap();
    assert!(!source.reload().unwrap(), "nothing has changed");
    let before = source.current().digest().to_owned();

    let next = server_leaf(&authority);
    fs::write(home.path().join("tls.crt"), &next.cert_pem).unwrap();
    assert!(matches!(source.reload(), Err(Error::KeyMismatch { .. })));
    fs::write(home.path().join("tls.key"), &next.key_pem[..40]).unwrap();
    assert!(source.reload().is_err());
    fs::write(home.path().join("ca.crt"), "").unwrap();
    assert!(source.reload().is_err());
    fs::remove_file(home.path().join("tls.key")).unwrap();
    assert!(matches!(source.reload(), Err(Error::Io { .. })));
    assert_eq!(source.current().digest(), before);
    let failures = source.status().failures;
    assert!(source.reload().is_err());
    assert_eq!(source.status().failures, failures, "the same fault was counted twice");

    next.write(home.path()).unwrap();
    assert!(source.reload().unwrap());
    assert_ne!(source.current().digest(), before);
    assert_eq!(source.status().last_error, None);
}

#[test]
fn t6_a_mounted_key_that_everybody_may_read_is_taken_with_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    server_leaf(&authority()).write(home.path()).unwrap();
    let files = CredentialFiles::in_directory(home.path());
    assert_eq!(files.key_exposure(), None);
    let key = home.path().join("tls.key");
    // As Kubernetes mounts a secret unless it is told otherwise.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let warning = files.key_exposure().unwrap();
    assert!(warning.contains("0644") && warning.contains("chmod 600") && warning.contains("defaultMode"));
    CredentialSource::from_files(files.clone(), Purpose::Server).unwrap();
    // A group's, as fsGroup makes it, is the group's business.
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(files.key_exposure(), None);
}

#[tokio::test]
async fn files_are_polled_while_somebody_holds_the_source() {
    let home = tempfile::tempdir().unwrap();
    let authority = authority();
    server_leaf(&authority).write(home.path()).unwrap();
    let source = CredentialSource::from_files(CredentialFiles::in_directory(home.path()), Purpose::Server)
        .unwrap()
        .poll_every(Duration::from_millis(10));
    let mut watcher = source.subscribe();
    server_leaf(&authority).write(home.path()).unwrap();
    watcher.changed().await.unwrap();
    drop(source);
    // The poll task lets go, and with it the last sender.
    while watcher.changed().await.is_ok() {}
}
