//! What is fuzzed of `pki`, and what has to hold: no bytes make a reader panic, and what is accepted keeps its promises. The fuzz targets call it, and so
//! does a bounded test among the ordinary ones (`pki/tests/fuzz_smoke.rs`).

use parallax_pki::TrustBundle;
use parallax_pki::certificate::{Facts, parse_bundle};
use parallax_pki::crl::RevocationList;
use parallax_pki::csr::CertificateRequest;
use parallax_pki::forwarded::{HeaderFormat, parse};
use parallax_pki::identity::PeerIdentity;
use parallax_pki::journal::Journal;
use parallax_pki::key_file::read_key;

/// Any bytes as a certificate request, PEM or DER.
pub fn request(data: &[u8]) {
    if let Ok(request) = CertificateRequest::parse("fuzz", data) {
        let granted: PeerIdentity = "spiffe://mesh.example/observee/eu-1".parse().expect("a good identity");
        let other = request.other_identity(&granted).is_some();
        let beyond = request.beyond(&parallax_pki::LeafRequest::new(granted));
        assert!(!other || !beyond.is_empty(), "another identity is beyond what is granted");
    }
}

/// Any text as a bundle with revocation lists; any bytes as a certificate, a list, a key.
pub fn bundle(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(bundle) = TrustBundle::parse("fuzz", &text) {
        assert_eq!(bundle.anchors.len(), text.matches("-----BEGIN CERTIFICATE-----").count());
        assert_eq!(bundle.lists.len(), text.matches("-----BEGIN X509 CRL-----").count());
        for anchor in &bundle.anchors {
            let _ = bundle.revoking_list([anchor.as_ref()]);
        }
    }
    let _ = Facts::read(data);
    let _ = read_key("fuzz", &text, None);
    let anchors = parse_bundle("fuzz", &text).unwrap_or_default();
    let _ = RevocationList::read("fuzz", data, &anchors);
    let _ = Journal::parse(data);
}

/// Any bytes as a forwarded certificate: what is accepted has one canonical identity.
pub fn forwarded(data: &[u8]) {
    for format in HeaderFormat::ALL {
        if let Ok(forwarded) = parse(data, format) {
            let text = forwarded.identity.to_string();
            assert_eq!(text.parse::<PeerIdentity>().ok(), Some(forwarded.identity));
        }
    }
}
