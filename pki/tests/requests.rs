//! Certificate requests, good and bad: only the key and the granted names survive.

use std::time::{Duration, SystemTime};

use parallax_pki::authority::Home;
use parallax_pki::certificate::{Facts, Usage, parse_bundle};
use parallax_pki::csr::CertificateRequest;
use parallax_pki::{Authority, AuthorityOptions, Error, LeafRequest, PeerIdentity, TrustDomain};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, KeyUsagePurpose, SanType};

const OWN: &str = "spiffe://mesh.example/observee/eu-1";

fn authority() -> Authority {
    let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
    Authority::in_memory(&options, SystemTime::now()).unwrap()
}

fn granted(authority: &Authority) -> LeafRequest {
    LeafRequest::new(PeerIdentity::observee(authority.trust_domain(), "eu-1").unwrap()).dns("eu-1.example")
}

fn request(uris: &[&str], dns: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
    params.subject_alt_names.extend(uris.iter().map(uri));
    let name = |name: &&str| SanType::DnsName((*name).try_into().unwrap());
    params.subject_alt_names.extend(dns.iter().map(name));
    change(&mut params);
    params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
}

fn sign(bytes: &[u8], drop_extra: bool) -> Result<parallax_pki::authority::SignedRequest, Error> {
    let authority = authority();
    let request = CertificateRequest::parse("request.pem", bytes)?;
    let granted = granted(&authority);
    authority.sign_request(&request, &granted, &Home::Caller, drop_extra, SystemTime::now())
}

fn refusal(bytes: &[u8]) -> String {
    sign(bytes, false).unwrap_err().to_string()
}

#[test]
fn a_request_gets_its_key_signed_with_the_granted_names() {
    let signed = sign(&request(&[OWN], &["eu-1.example"], |_| {}), false).unwrap();
    assert!(signed.dropped.is_empty());
    let leaf = Facts::read(&parse_bundle("leaf", &signed.cert_pem).unwrap()[0]).unwrap();
    assert_eq!(leaf.uris, [OWN]);
    assert_eq!(leaf.dns_names, ["eu-1.mesh.example", "eu-1.example"]);
    assert_eq!(leaf.usage, Some(Usage { client: false, server: true }));
    assert!(!leaf.is_authority);
    // One that asks for nothing gets what is granted.
    let bare = sign(&request(&[], &[], |_| {}), false).unwrap();
    assert_eq!(Facts::read(&parse_bundle("leaf", &bare.cert_pem).unwrap()[0]).unwrap().uris, [OWN]);
}

#[test]
fn bad_input_05_a_request_for_more_than_is_granted_is_refused() {
    let authority_asked = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    for (what, bytes, word) in [
        ("a CA", request(&[OWN], &[], authority_asked), "to be a CA"),
        ("another name", request(&[OWN], &["us-1.example"], |_| {}), "us-1.example"),
        ("a wildcard", request(&[OWN], &["*.example"], |_| {}), "*.example"),
        ("two identities", request(&[OWN, "spiffe://mesh.example/observee/us-1"], &[], |_| {}), "us-1"),
        ("another cluster", request(&["spiffe://mesh.example/observee/us-1"], &[], |_| {}), "us-1"),
        ("another role", request(&["spiffe://mesh.example/observer/eu-1"], &[], |_| {}), "observer/eu-1"),
        (
            "signing",
            request(&[OWN], &[], |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
            "to sign certificates",
        ),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(word) && message.contains("refused"), "{what}: {message}");
    }
}

#[test]
fn what_is_dropped_on_request_does_not_reach_the_certificate() {
    let bytes = request(&[OWN], &["us-1.example", "*.example"], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let signed = sign(&bytes, true).unwrap();
    assert_eq!(signed.dropped.len(), 3, "{:?}", signed.dropped);
    let leaf = Facts::read(&parse_bundle("leaf", &signed.cert_pem).unwrap()[0]).unwrap();
    assert!(!leaf.is_authority);
    assert_eq!(leaf.dns_names, ["eu-1.mesh.example", "eu-1.example"]);
    // Somebody else's identity is no slip.
    let other = request(&["spiffe://mesh.example/observee/us-1"], &[], |_| {});
    assert!(matches!(sign(&other, true), Err(Error::Refused { .. })));
}

#[test]
fn bad_input_06_a_request_that_is_forged_or_of_an_odd_kind_is_refused() {
    let good = request(&[OWN], &[], |_| {});
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(&good).unwrap().to_vec();
    let mut forged = der.clone();
    // A byte of the identity: the signature no longer fits.
    let place = forged.windows(4).position(|window| window == b"eu-1").unwrap();
    forged[place] = b'f';
    assert!(refusal(&forged).contains("signature"), "{}", refusal(&forged));
    let critical = request(&[OWN], &[], |params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions.push(extension);
    });
    assert!(refusal(&critical).contains("1.2.3.4"), "{}", refusal(&critical));
    for garbage in [&b""[..], b"text", b"\x30\x00", &der[..der.len() - 1], &[der.as_slice(), b"x"].concat()] {
        assert!(CertificateRequest::parse("request", garbage).is_err());
    }
    let huge = vec![b'a'; parallax_pki::csr::MAX_REQUEST_BYTES + 1];
    assert!(matches!(CertificateRequest::parse("request", &huge), Err(Error::TooLarge { .. })));
}

#[test]
fn bad_input_06_keys_that_peers_refuse_are_refused_here() {
    for (kind, arguments) in
        [("P-224", vec!["ec", "-pkeyopt", "ec_paramgen_curve:P-224"]), ("RSA-1024", vec!["rsa:1024"])]
    {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("request.pem");
        let made = std::process::Command::new("openssl")
            .args(["req", "-new", "-nodes", "-subj", "/CN=eu-1", "-keyout", "/dev/null", "-newkey"])
            .args(&arguments)
            .arg("-out")
            .arg(&out)
            .output();
        let Ok(made) = made else {
            println!("left out: openssl is not installed");
            return;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let error = CertificateRequest::parse("request", &std::fs::read(&out).unwrap()).unwrap_err();
        assert!(error.to_string().contains("key"), "{kind}: {error}");
    }
}

#[test]
fn a_requested_leaf_is_renewed_for_the_same_key() {
    let home = tempfile::tempdir().unwrap();
    let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
    let authority = Authority::init(&home.path().join("state"), &options).unwrap();
    let request = CertificateRequest::parse("request", &request(&[OWN], &[], |_| {})).unwrap();
    let out = home.path().join("eu-1.crt");
    let place = Home::Place(out.clone());
    let signed =
        authority.sign_request(&request, &granted(&authority), &place, false, SystemTime::now()).unwrap();
    assert_eq!(std::fs::read_to_string(&out).unwrap(), signed.cert_pem);
    let policy = parallax_pki::authority::RenewPolicy { force: true, ..Default::default() };
    let renewed = authority.renew(|_| true, policy, SystemTime::now() + Duration::from_secs(2)).unwrap();
    assert_eq!(renewed.len(), 1);
    let now = std::fs::read_to_string(&out).unwrap();
    let facts = |pem: &str| Facts::read(&parse_bundle("leaf", pem).unwrap()[0]).unwrap();
    assert_eq!(facts(&now).serial, renewed[0].serial);
    assert_ne!(facts(&now).serial, signed.serial);
    assert_eq!(facts(&now).public_key, facts(&signed.cert_pem).public_key);
}

use rustls_pki_types::pem::PemObject as _;

proptest! {
    #[test]
    fn no_flipped_bit_makes_the_reader_panic(position in 0_usize..4000, bit in 0_u8..8, cut in any::<bool>()) {
        let pem = request(&[OWN], &["eu-1.example"], |_| {});
        let mut der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(&pem).unwrap().to_vec();
        let index = position % der.len();
        der[index] ^= 1 << bit;
        if cut {
            der.truncate(index);
        }
        let _ = CertificateRequest::parse("request", &der);
    }
}
