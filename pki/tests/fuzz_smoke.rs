//! The fuzz targets of `fuzz/pki_targets.rs` for a bounded time, over mutated seeds. `PARALLAX_SEED` asks for other mutations.

#[path = "../../fuzz/pki_targets.rs"]
mod pki_targets;

use std::time::SystemTime;

use parallax_pki::{Authority, AuthorityOptions, Hierarchy, RevocationReason, TrustDomain};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const DEFAULT_SEED: u64 = 1;
const ROUNDS: usize = 3000;

/// Bits flipped, pieces cut, doubled and put elsewhere.
fn mutated(random: &mut StdRng, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random.random_range(1..6) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => {
                let end = (at + random.random_range(1..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.random_range(1..64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let place = random.random_range(0..=bytes.len());
                bytes.splice(place..place, piece);
            }
            _ => bytes[at] = random.random(),
        }
    }
    bytes
}

fn run(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let seed = std::env::var("PARALLAX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SEED);
    println!("PARALLAX_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    seeds.iter().for_each(|seed| target(seed));
    for round in 0..ROUNDS {
        target(&mutated(&mut random, &seeds[round % seeds.len()]));
    }
}

/// PEM and, of its first block, DER.
fn both(pem: &str) -> [Vec<u8>; 2] {
    use rustls_pki_types::pem::{PemObject as _, SectionKind};
    let der = <(SectionKind, Vec<u8>)>::from_pem_slice(pem.as_bytes()).unwrap().1;
    [pem.as_bytes().to_vec(), der]
}

fn authority() -> Authority {
    let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
    let authority = Authority::in_memory(&options, SystemTime::now()).unwrap();
    authority.issue_observer("hub").unwrap();
    authority.revoke("all", |_| true, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    authority
}

#[test]
fn requests_never_panic() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params =
        rcgen::CertificateParams::new(vec!["eu-1.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(1));
    let uri = rcgen::SanType::URI("spiffe://mesh.example/observee/eu-1".try_into().unwrap());
    params.subject_alt_names.push(uri);
    let seeds = both(&params.serialize_request(&key).unwrap().pem().unwrap());
    run(pki_targets::request, &seeds);
}

#[test]
fn bundles_lists_and_keys_never_panic() {
    let authority = authority();
    let leaf = authority.issue_observer("hub").unwrap();
    let mut seeds = Vec::new();
    let list = authority.revocation_list(Hierarchy::Observers, 1).unwrap();
    for pem in [authority.bundle_pem(Hierarchy::Observers), leaf.cert_pem, leaf.key_pem, list] {
        seeds.extend(both(&pem));
    }
    run(pki_targets::bundle, &seeds);
}

#[test]
fn forwarded_headers_never_panic() {
    let leaf = authority().issue_observer("hub").unwrap();
    let escaped: String = leaf.cert_pem.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let base64: String = leaf.cert_pem.lines().filter(|line| !line.starts_with('-')).collect();
    let seeds = [
        format!(
            "By=spiffe://mesh.example/ingress/eu-1;Hash=ab;Subject=\"CN=\\\"a;b\\\"\";URI={}",
            leaf.identity
        ),
        format!("Hash=ab;Cert=\"{escaped}\";URI={}", leaf.identity),
        escaped,
        base64,
    ];
    run(pki_targets::forwarded, &seeds.map(String::into_bytes));
}
