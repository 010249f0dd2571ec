//! What openssl makes and we take, and the other way round: a CA as Terraform's tls provider makes it, encrypted keys, revocation lists.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use parallax_pki::authority::{RenewPolicy, RequestedAction, RotationRequest};
use parallax_pki::certificate::{Facts, parse_bundle};
use parallax_pki::rotation::{Evidence, Phase};
use parallax_pki::{
    Authority, AuthorityOptions, Error, Hierarchy, ImportedAuthority, LeafRequest, OpenOptions, Passphrase,
    PeerIdentity, RevocationReason, TrustDomain,
};

fn domain() -> TrustDomain {
    TrustDomain::new("mesh.example").unwrap()
}

/// False: openssl is not installed.
fn has_openssl() -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        println!("left out: openssl is not installed");
    }
    found
}

fn openssl(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("openssl").current_dir(directory).args(arguments).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(text) } else { Err(text) }
}

/// A SEC1 P-384 key and a CA of it without key identifier, its name in several attributes: as Terraform's `tls_self_signed_cert`.
fn terraform_ca(directory: &Path) -> (String, String) {
    openssl(directory, &["ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", "ca.key"]).unwrap();
    let config = "[req]\ndistinguished_name=name\nx509_extensions=ca\nprompt=no\n[name]\nO=Example Corp\nCN=mesh ca\n\
                  [ca]\nbasicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign,digitalSignature\nsubjectKeyIdentifier=none\n";
    fs::write(directory.join("ca.cnf"), config).unwrap();
    openssl(
        directory,
        &[
            "req", "-x509", "-new", "-sha384", "-key", "ca.key", "-days", "365", "-config", "ca.cnf", "-out",
            "ca.crt",
        ],
    )
    .unwrap();
    let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap();
    (read("ca.crt"), read("ca.key"))
}

fn importing(cert: &str, key: &str) -> AuthorityOptions {
    let imported = Hierarchy::ALL.map(|hierarchy| ImportedAuthority {
        hierarchy,
        subject: "the imported CA".to_owned(),
        cert_pem: cert.to_owned(),
        key_pem: key.to_owned().into(),
        passphrase: None,
    });
    AuthorityOptions { imported: imported.to_vec(), ..AuthorityOptions::new(domain()) }
}

fn verify(directory: &Path, leaf: &str, bundle: &str, more: &[&str]) -> Result<String, String> {
    fs::write(directory.join("leaf.pem"), leaf).unwrap();
    fs::write(directory.join("bundle.pem"), bundle).unwrap();
    openssl(directory, &[&["verify"], more, &["-CAfile", "bundle.pem", "leaf.pem"]].concat())
}

#[test]
fn a_ca_of_terraforms_tls_provider_imports_signs_and_rotates() {
    if !has_openssl() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = terraform_ca(home.path());
    assert!(key.contains("BEGIN EC PRIVATE KEY"));
    let imported = Facts::read(&parse_bundle("ca", &cert).unwrap()[0]).unwrap();
    assert_eq!(imported.key_identifier, None);
    let state = home.path().join("state");
    Authority::init(&state, &importing(&cert, &key)).unwrap();
    let authority = Authority::open(&state).unwrap();
    let old = authority.issue_observee("eu-1", &["eu-1.example"]).unwrap();
    assert_eq!(authority.bundle_pem(Hierarchy::Observees), cert);
    verify(home.path(), &old.cert_pem, &cert, &["-purpose", "sslserver"]).unwrap();

    let step = |action| {
        let request = RotationRequest::new(Hierarchy::Observees, action);
        authority.rotate(&request, |_| Evidence::default(), None, SystemTime::now()).unwrap().after
    };
    assert_eq!(step(RequestedAction::Prepare), Phase::Prepared { from: 1, to: 2 });
    step(RequestedAction::Activate);
    let new = authority.issue_observee("eu-1", &["eu-1.example"]).unwrap();
    let both = authority.bundle_pem(Hierarchy::Observees);
    for leaf in [&old, &new] {
        verify(home.path(), &leaf.cert_pem, &both, &["-purpose", "sslserver"]).unwrap();
    }
    step(RequestedAction::Drain);
    assert_eq!(step(RequestedAction::Retire), Phase::Steady { signing: 2 });
    let last = authority.bundle_pem(Hierarchy::Observees);
    verify(home.path(), &new.cert_pem, &last, &["-x509_strict", "-purpose", "sslserver"]).unwrap();
    verify(home.path(), &old.cert_pem, &last, &[]).unwrap_err();
    assert!(!state.join("ca/observees/g1/ca.key").exists(), "the retired key is still there");
    assert!(state.join("ca/observers/g1/ca.key").exists());
}

#[test]
fn what_is_no_authority_or_not_its_key_is_not_imported() {
    if !has_openssl() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (cert, key) = terraform_ca(home.path());
    let authority = Authority::in_memory(&importing(&cert, &key), SystemTime::now()).unwrap();
    let leaf = authority.issue_observer("hub").unwrap();
    let refused =
        |cert: &str, key: &str| Authority::in_memory(&importing(cert, key), SystemTime::now()).unwrap_err();
    assert!(refused(&leaf.cert_pem, &leaf.key_pem).to_string().contains("not a CA"));
    assert!(matches!(refused(&cert, &leaf.key_pem), Error::KeyMismatch { .. }));
    assert!(matches!(refused("", &key), Error::Malformed { .. }));
    assert!(matches!(refused(&cert, "text"), Error::Malformed { .. }));
    let expired =
        Authority::in_memory(&importing(&cert, &key), SystemTime::now() + Duration::from_secs(400 * 86_400));
    assert!(expired.unwrap_err().to_string().contains("expired"));
}

#[test]
fn openssl_opens_our_encrypted_keys_and_we_open_its() {
    if !has_openssl() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("state");
    let passphrase = Passphrase::new("correct horse battery").unwrap();
    let options =
        AuthorityOptions { passphrase: Some(passphrase.clone()), ..AuthorityOptions::new(domain()) };
    Authority::init(&state, &options).unwrap();
    for file in ["ca/observers/g1/ca.key", "ca/observees/g1/ca.key"] {
        let path = state.join(file);
        assert!(fs::read_to_string(&path).unwrap().contains("ENCRYPTED PRIVATE KEY"));
        let path = path.display().to_string();
        openssl(home.path(), &["pkey", "-in", &path, "-passin", "pass:correct horse battery", "-noout"])
            .unwrap();
        openssl(home.path(), &["pkey", "-in", &path, "-passin", "pass:wrong", "-noout"]).unwrap_err();
    }
    // Reading needs no passphrase, signing does, and a wrong one is said to be wrong.
    let closed = Authority::open(&state).unwrap();
    assert!(!closed.bundle_pem(Hierarchy::Observers).is_empty());
    assert!(matches!(closed.issue_observer("hub"), Err(Error::PassphraseNeeded { .. })));
    let wrong = OpenOptions::with_passphrase(Passphrase::new("incorrect horse").unwrap());
    let wrong = Authority::open_with(&state, wrong).unwrap();
    assert!(matches!(wrong.issue_observer("hub"), Err(Error::WrongPassphrase { .. })));
    let request = RotationRequest::new(Hierarchy::Observers, RequestedAction::Prepare);
    let refused = wrong.rotate(&request, |_| Evidence::default(), None, SystemTime::now());
    assert!(matches!(refused, Err(Error::WrongPassphrase { .. })), "{refused:?}");
    let opened = Authority::open_with(&state, OpenOptions::with_passphrase(passphrase)).unwrap();
    opened.issue_observer("hub").unwrap();
    opened.rotate(&request, |_| Evidence::default(), None, SystemTime::now()).unwrap();
    let key = fs::read_to_string(state.join("ca/observers/g2/ca.key")).unwrap();
    assert!(key.contains("ENCRYPTED"), "a later generation is not encrypted");

    for cipher in [vec!["-v2", "aes-256-cbc"], vec!["-scrypt"]] {
        openssl(home.path(), &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "plain.key"])
            .unwrap();
        let conversion =
            [&["pkcs8", "-topk8", "-in", "plain.key", "-passout", "pass:theirs"], &*cipher].concat();
        let theirs = openssl(home.path(), &conversion).unwrap();
        let theirs = &theirs[theirs.find("-----BEGIN").unwrap()..];
        let passphrase = Passphrase::new("theirs").unwrap();
        parallax_pki::key_file::read_key("theirs", theirs, Some(&passphrase)).unwrap();
    }
}

#[test]
fn openssl_reads_our_revocation_lists() {
    if !has_openssl() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::in_memory(&AuthorityOptions::new(domain()), SystemTime::now()).unwrap();
    let (stolen, honest) =
        (authority.issue_observer("hub").unwrap(), authority.issue_observer("hub").unwrap());
    let serial = stolen.serial.clone();
    let picked = move |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == serial;
    authority.revoke("stolen", picked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    let bundle = authority.bundle_pem(Hierarchy::Observers);
    fs::write(home.path().join("list.pem"), authority.revocation_list(Hierarchy::Observers, 1).unwrap())
        .unwrap();
    let check = ["-crl_check", "-CRLfile", "list.pem"];
    verify(home.path(), &honest.cert_pem, &bundle, &check).unwrap();
    let refused = verify(home.path(), &stolen.cert_pem, &bundle, &check).unwrap_err();
    assert!(refused.contains("revoked"), "{refused}");
    let text = openssl(home.path(), &["crl", "-in", "list.pem", "-CAfile", "bundle.pem", "-text"]).unwrap();
    assert!(text.contains("verify OK") && text.contains("Key Compromise"), "{text}");
    // A list is only signed where there is something to revoke; from then on every generation has one.
    let step = |action| {
        let request = RotationRequest::new(Hierarchy::Observers, action);
        authority.rotate(&request, |_| Evidence::default(), None, SystemTime::now()).unwrap();
    };
    step(RequestedAction::Prepare);
    step(RequestedAction::Activate);
    let new = authority.issue_observer("hub").unwrap();
    let both = authority.bundle_pem(Hierarchy::Observers);
    assert_eq!(both.matches("BEGIN X509 CRL").count(), 2);
    fs::write(home.path().join("list.pem"), &both).unwrap();
    for leaf in [&honest, &new] {
        verify(home.path(), &leaf.cert_pem, &both, &check).unwrap();
    }
    verify(home.path(), &stolen.cert_pem, &both, &check).unwrap_err();
}

#[test]
fn five_hundred_leaves_that_end_together_are_due_one_after_the_other() {
    let authority = Authority::in_memory(&AuthorityOptions::new(domain()), SystemTime::now()).unwrap();
    let now = SystemTime::now();
    for number in 0..500 {
        let identity = PeerIdentity::observee(&domain(), &format!("c{number}")).unwrap();
        authority.issue_at(&LeafRequest::new(identity), now).unwrap();
    }
    let ledger = authority.ledger();
    let mut due: Vec<SystemTime> = ledger
        .current()
        .iter()
        .map(|leaf| parallax_pki::authority::renew_at(&leaf.record, RenewPolicy::default()))
        .collect();
    due.sort();
    let spread = due[499].duration_since(due[0]).unwrap();
    // A tenth of 30 days.
    assert!(
        spread > Duration::from_secs(60 * 3600) && spread <= Duration::from_secs(73 * 3600),
        "{spread:?}"
    );
    let busiest = due.windows(50).map(|of| of[49].duration_since(of[0]).unwrap()).min().unwrap();
    assert!(busiest > Duration::from_secs(2 * 3600), "50 leaves within {busiest:?}");
}
