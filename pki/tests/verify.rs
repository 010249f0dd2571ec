//! The checks of a peer's leaf beyond its path, on certificates that our own authority would never sign.

use parallax_pki::verify::{PeerRejection, PeerSide, check_leaf};
use parallax_pki::{TrustDomain, certificate};
use proptest::prelude::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, SanType};

struct Leaf {
    uris: Vec<&'static str>,
    dns: Vec<&'static str>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    fn client(uris: &[&'static str]) -> Self {
        Self { uris: uris.to_vec(), dns: vec![], usages: vec![ExtendedKeyUsagePurpose::ClientAuth] }
    }

    fn der(&self) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        let uri = |text: &&str| SanType::URI((*text).to_owned().try_into().unwrap());
        params.subject_alt_names.extend(self.uris.iter().map(uri));
        params
            .subject_alt_names
            .extend(self.dns.iter().map(|text| SanType::DnsName((*text).to_owned().try_into().unwrap())));
        params.extended_key_usages = self.usages.clone();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn check(&self, side: PeerSide) -> Result<Option<String>, PeerRejection> {
        let ours = TrustDomain::new("mesh.example").unwrap();
        check_leaf(&self.der(), side, Some(&ours))
            .map(|identity| identity.map(|identity| identity.to_string()))
    }
}

#[test]
fn a_client_needs_a_stated_usage_and_a_name() {
    let hub = "spiffe://mesh.example/observer/hub";
    assert_eq!(Leaf::client(&[hub]).check(PeerSide::Client).unwrap().as_deref(), Some(hub));
    let unstated = Leaf { usages: vec![], ..Leaf::client(&[hub]) };
    assert_eq!(unstated.check(PeerSide::Client), Err(PeerRejection::NoUsage("client")));
    assert_eq!(Leaf::client(&[]).check(PeerSide::Client), Err(PeerRejection::NoName));
    assert_eq!(Leaf::client(&[hub]).check(PeerSide::Server), Err(PeerRejection::WrongUsage("server")));
}

#[test]
fn a_role_fits_one_direction_only_even_with_both_usages() {
    let both = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = |uri| Leaf { uris: vec![uri], dns: vec![], usages: both.clone() };
    let observee = leaf("spiffe://mesh.example/observee/eu-1");
    assert!(observee.check(PeerSide::Server).is_ok());
    assert!(matches!(observee.check(PeerSide::Client), Err(PeerRejection::WrongRole { .. })));
    for client in ["spiffe://mesh.example/observer/hub", "spiffe://mesh.example/ingress/edge"] {
        assert!(leaf(client).check(PeerSide::Client).is_ok());
        assert!(matches!(leaf(client).check(PeerSide::Server), Err(PeerRejection::WrongRole { .. })));
    }
}

#[test]
fn spiffe_names_are_one_ours_and_canonical() {
    let two = ["spiffe://mesh.example/observer/a", "spiffe://mesh.example/observer/b"];
    assert_eq!(Leaf::client(&two).check(PeerSide::Client), Err(PeerRejection::SeveralIdentities(2)));
    let foreign = Leaf::client(&["spiffe://other.example/observer/hub"]).check(PeerSide::Client);
    assert!(matches!(foreign, Err(PeerRejection::WrongTrustDomain { .. })));
    for odd in [
        "spiffe://mesh.example/observer/hub/",
        "spiffe://Mesh.example/observer/hub",
        "SPIFFE://mesh.example/observer/hub",
        "spiffe://mesh.example:1/observer/hub",
        "spiffe://mesh.example/observer/%68ub",
        "spiffe:observer",
    ] {
        let result = Leaf::client(&[odd]).check(PeerSide::Client);
        assert!(matches!(result, Err(PeerRejection::BadIdentity(_))), "{odd}: {result:?}");
    }
}

#[test]
fn a_name_or_an_unrelated_uri_is_no_identity() {
    let leaf =
        Leaf { dns: vec!["eu-1.mesh.example"], ..Leaf::client(&["https://mesh.example/observer/hub"]) };
    assert_eq!(leaf.check(PeerSide::Client), Ok(None));
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = check_leaf(&bytes, PeerSide::Client, None);
        let _ = certificate::parse_bundle("bytes", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_flipped_bit_makes_the_reader_panic(position in 0_usize..4000, bit in 0_u8..8) {
        let mut der = Leaf::client(&["spiffe://mesh.example/observer/hub"]).der();
        let index = position % der.len();
        der[index] ^= 1 << bit;
        let _ = check_leaf(&der, PeerSide::Client, None);
        let _ = check_leaf(&der[..index], PeerSide::Server, None);
    }
}
