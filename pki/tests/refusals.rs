//! Every refusal says which rule it was, whose identity it is about, and what to do. Each kind of refusal has its row here: a new one does not compile without.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parallax_pki::access::{AccessDenied, check_endpoint};
use parallax_pki::authority::Home;
use parallax_pki::certificate::parse_bundle;
use parallax_pki::csr::CertificateRequest;
use parallax_pki::forwarded::ForwardedError;
use parallax_pki::rotation::Gate;
use parallax_pki::{
    AllowedClients, Authority, AuthorityOptions, ExpectedServer, FailureReason, Hierarchy, LeafFiles,
    LeafRequest, Material, PeerIdentity, PeerRejection, RevocationReason, Side, TrustDomain, explain,
    explain_to,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::{AlertDescription, CertificateError, OtherError};
use rustls_pki_types::{CertificateDer, ServerName};

const HUB: &str = "spiffe://mesh.example/observer/hub";
const EU: &str = "spiffe://mesh.example/observee/eu-1";
const DAY: Duration = Duration::from_secs(86_400);

fn identity(text: &str) -> PeerIdentity {
    text.parse().unwrap()
}

/// The rule, the identity, and words of what to do: in this text.
#[track_caller]
fn tells(text: &str, who: &str, what_to_do: &str) {
    assert!(text.contains("rule of "), "no rule: {text}");
    assert!(text.contains(who), "not who ({who}): {text}");
    assert!(text.contains(what_to_do), "not what to do ({what_to_do}): {text}");
}

#[test]
fn refusals_of_calls_and_endpoints() {
    let eu = identity(EU);
    for (denied, who) in [
        (AccessDenied::NoIdentity, "carries no identity"),
        (AccessDenied::NotAllowed(identity(HUB)), HUB),
        (
            AccessDenied::NotForwarded(identity("spiffe://mesh.example/ingress/eu-1")),
            "spiffe://mesh.example/ingress/eu-1",
        ),
        (AccessDenied::NoRule(HUB.to_owned()), HUB),
        (AccessDenied::WrongCluster { presented: eu.clone(), expected: "us-1".to_owned() }, EU),
    ] {
        let what_to_do = match denied {
            AccessDenied::NoIdentity => "give it one (pki issue",
            AccessDenied::NotAllowed(_) => "add it there (--grpc-server-allowed-identity",
            AccessDenied::NotForwarded(_) => "let it forward them, or add it",
            AccessDenied::NoRule(_) => "add a rule whose who has it",
            AccessDenied::WrongCluster { .. } => "mend the address, or state the identity",
        };
        tells(&denied.to_string(), who, &what_to_do.replace("(pki", "(parallax pki"));
    }
    let nobody = AllowedClients::Listed(Default::default());
    tells(&nobody.admit(Some(&identity(HUB)), Vec::new).unwrap_err().to_string(), HUB, "add it there");
    tells(&check_endpoint(&eu, "us-1").unwrap_err().to_string(), EU, "under delegated");
}

#[test]
fn refusals_of_forwarded_certificates() {
    use ForwardedError as F;
    // Rule, header and the ingress stand before them (crates/net/tests/connections/access.rs).
    for error in [
        F::NotFromAnIngress(HUB.to_owned()),
        F::Several(2),
        F::TooLong,
        F::Malformed("it is empty".to_owned()),
        F::NoIdentity,
        F::Contradiction { certificate: HUB.to_owned(), stated: EU.to_owned() },
        F::Unverified("rule of revocation: if its holder may go on".to_owned()),
        F::NotAnObserver(identity(EU)),
    ] {
        let what_to_do = match error {
            F::NotFromAnIngress(_) => "give the proxy a leaf of its own (pki issue --ingress)",
            F::Several(_) => "let it replace the header",
            F::TooLong => "let the ingress forward the leaf alone",
            F::Malformed(_) => "set the header as that kind of ingress writes it",
            F::NoIdentity => "give the client one (pki issue --observer)",
            F::Contradiction { .. } => "let the ingress replace what clients send",
            F::Unverified(_) => "if its holder may go on",
            F::NotAnObserver(_) => "let one of these ask",
        };
        assert!(error.to_string().contains(what_to_do), "{error}");
    }
}

#[test]
fn refusals_by_what_stands_in_a_certificate() {
    use PeerRejection as P;
    let mesh = TrustDomain::new("mesh.example").unwrap();
    let foreign = identity("spiffe://other.example/observer/hub");
    for rejection in [
        P::Unreadable("it breaks off".to_owned()),
        P::NoUsage("client"),
        P::WrongUsage("client"),
        P::NoName,
        P::SeveralIdentities(2),
        P::BadIdentity("identity \"spiffe://A\" is not valid".to_owned()),
        P::WrongRole { identity: identity(EU), role: identity(EU).role(), side: "client" },
        P::WrongTrustDomain { identity: foreign, expected: mesh },
        P::WrongIdentity { presented: EU.to_owned(), expected: identity(HUB) },
        P::WrongCluster(check_endpoint(&identity(EU), "us-1").unwrap_err()),
        P::AnchorsExpired,
    ] {
        let what_to_do = match rejection {
            P::Unreadable(_) | P::NoName | P::SeveralIdentities(_) | P::BadIdentity(_) => "issue it anew",
            P::NoUsage(_) | P::WrongUsage(_) | P::WrongRole { .. } => "a client shows a leaf of pki issue",
            P::WrongTrustDomain { .. } => "give it one of ours",
            P::WrongIdentity { .. } => "mend the address, or the identity that is stated",
            P::WrongCluster(_) => "mend the address, or state the identity",
            P::AnchorsExpired => "rotate the CA",
        };
        let error = CertificateError::Other(OtherError(Arc::new(rejection)));
        let explained = explain(&rustls::Error::InvalidCertificate(error), Side::Server);
        tells(&explained.text, "the client's certificate", what_to_do);
    }
}

#[test]
fn refusals_that_a_peer_tells_by_an_alert_name_our_own_identity() {
    for (alert, reason, what_to_do) in [
        (AlertDescription::UnknownCA, FailureReason::WrongCa, "put its CA into the bundle"),
        (AlertDescription::DecryptError, FailureReason::WrongCa, "put its CA into the bundle"),
        (AlertDescription::CertificateExpired, FailureReason::Expired, "renew it (pki renew)"),
        (AlertDescription::CertificateRevoked, FailureReason::Revoked, "issue another certificate"),
        (AlertDescription::UnsupportedCertificate, FailureReason::WrongRole, "a client shows a leaf"),
        (AlertDescription::BadCertificate, FailureReason::BadCertificate, "issue it anew"),
        (AlertDescription::CertificateUnknown, FailureReason::BadCertificate, "issue it anew"),
        (AlertDescription::AccessDenied, FailureReason::BadCertificate, "issue it anew"),
    ] {
        let explained = explain_to(&rustls::Error::AlertReceived(alert), Side::Client, Some(HUB));
        assert_eq!(explained.reason, reason, "{alert:?}");
        tells(&explained.text, HUB, what_to_do);
    }
    let none =
        explain(&rustls::Error::AlertReceived(AlertDescription::CertificateRequired), Side::Client).text;
    tells(&none, "none was given", "give the client one");
    tells(
        &explain(&rustls::Error::NoCertificatesPresented, Side::Server).text,
        "no certificate",
        "give the client one",
    );
}

#[test]
fn every_gate_of_a_rotation_has_a_rule_that_says_what_to_do() {
    for gate in Gate::ALL {
        let what_to_do = match gate {
            Gate::OneAtATime => "finish the open one",
            Gate::TrustObserved => "bring these peers the new bundle",
            Gate::Reissued => "run pki renew --all",
            Gate::LeafObserved => "let these peers read their new files",
            Gate::ConnectionsDrained => "wait until these peers have moved",
            Gate::EvidenceOfThisPhase => "look at the peers again",
            Gate::ReissueBeforeAbort => "run pki renew --all",
        };
        tells(gate.rule(), "", what_to_do);
    }
}

struct World {
    mesh: Authority,
    other: Authority,
}

impl World {
    fn new() -> Self {
        let authority = |start: SystemTime| {
            let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
            Authority::in_memory(&options, start).unwrap()
        };
        let long_ago = SystemTime::now() - 100 * DAY;
        Self { mesh: authority(long_ago), other: authority(long_ago) }
    }

    fn leaf(&self, text: &str, at: SystemTime) -> LeafFiles {
        self.mesh.issue_at(&LeafRequest::new(identity(text)), at).unwrap()
    }
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    parse_bundle("leaf", pem).unwrap()
}

/// What a verifier of both hierarchies says of a client: the least that stands in its way.
fn as_client(world: &World, pem: &str) -> (FailureReason, String) {
    let bundle = format!(
        "{}{}",
        world.mesh.bundle_pem(Hierarchy::Observers),
        world.mesh.bundle_pem(Hierarchy::Observees)
    );
    let judged = Material::judge_client(&bundle, &chain(pem), SystemTime::now()).unwrap();
    let refused = judged.unwrap_err();
    (refused.reason, refused.text)
}

#[test]
fn a_verifier_says_whose_certificate_it_refuses() {
    let (world, now) = (World::new(), SystemTime::now());
    let revoked = world.leaf("spiffe://mesh.example/observer/stolen", now);
    let picked = |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == revoked.serial;
    world.mesh.revoke("stolen", picked, RevocationReason::KeyCompromise, now).unwrap();
    let stranger = world.other.issue_observer("stranger").unwrap();
    let rows: BTreeMap<&str, (String, FailureReason, &str)> = BTreeMap::from([
        (
            "observer/late",
            (
                world.leaf("spiffe://mesh.example/observer/late", now - 90 * DAY).cert_pem,
                FailureReason::Expired,
                "renew it",
            ),
        ),
        (
            "observer/early",
            (
                world.leaf("spiffe://mesh.example/observer/early", now + 3 * DAY).cert_pem,
                FailureReason::NotYetValid,
                "compare the clocks",
            ),
        ),
        ("observer/stolen", (revoked.cert_pem.clone(), FailureReason::Revoked, "issue another certificate")),
        ("observer/stranger", (stranger.cert_pem, FailureReason::WrongCa, "put its CA into the bundle")),
        (
            "observee/eu-1",
            (world.leaf(EU, now).cert_pem, FailureReason::WrongRole, "a client shows a leaf of"),
        ),
    ]);
    for (who, (pem, reason, what_to_do)) in rows {
        let (found, text) = as_client(&world, &pem);
        assert_eq!(found, reason, "{text}");
        tells(&text, &format!("[spiffe://mesh.example/{who}]"), what_to_do);
    }
    // A server, by its name, its cluster and its identity.
    let (server, bundle) = (world.leaf(EU, now), world.mesh.bundle_pem(Hierarchy::Observees));
    for (name, expected, what_to_do) in [
        ("us-1.example", ExpectedServer::Name, "issue it with the name (pki issue --dns)"),
        (
            "eu-1.mesh.example",
            ExpectedServer::NameOfCluster("us-1".to_owned()),
            "mend the address, or state the identity",
        ),
        (
            "eu-1.mesh.example",
            ExpectedServer::Identity(identity("spiffe://mesh.example/observee/us-1")),
            "mend the address, or the identity",
        ),
    ] {
        let name = ServerName::try_from(name).unwrap();
        let judged =
            Material::judge_server(&bundle, &chain(&server.cert_pem), &name, &expected, now).unwrap();
        tells(&judged.unwrap_err().text, EU, what_to_do);
    }
}

#[test]
fn refusals_to_sign() {
    let world = World::new();
    let granted = LeafRequest::new(identity(EU));
    let request = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["other.example".to_owned()]).unwrap();
        change(&mut params);
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let request = CertificateRequest::parse("request", pem.as_bytes()).unwrap();
        let signed = world.mesh.sign_request(&request, &granted, &Home::Caller, false, SystemTime::now());
        signed.unwrap_err().to_string()
    };
    tells(&request(|_| {}), EU, "grant names with --dns");
    tells(&request(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), EU, "--drop-extra");
    let refused = |request: LeafRequest| world.mesh.issue(&request).unwrap_err().to_string();
    tells(&refused(LeafRequest::new(identity(EU)).lifetime(Duration::ZERO)), EU, "give at least");
    tells(&refused(LeafRequest::new(identity(EU)).lifetime(Duration::MAX)), EU, "give fewer");
    let foreign = "spiffe://other.example/observer/hub";
    tells(&refused(LeafRequest::new(identity(foreign))), foreign, "use the state of the other mesh");
    let late = world.mesh.issue_at(&LeafRequest::new(identity(EU)), SystemTime::now() + 900 * DAY);
    tells(&late.unwrap_err().to_string(), EU, "replace it (pki rotate ca observees)");
}
