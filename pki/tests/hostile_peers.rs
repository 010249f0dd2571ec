//! Peers with certificates that they should not have, against real handshakes of both sides, in memory. T2 and several of the twenty bad inputs of the design.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parallax_pki::{
    Authority, AuthorityOptions, CredentialPem, CredentialSource, ExpectedServer, FailureReason, Hierarchy,
    LeafFiles, Material, Purpose, RevocationReason, Side, TrustDomain, explain,
};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType, SerialNumber};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use time::OffsetDateTime;

const CLIENT: Purpose = Purpose::Client { skip_verify: false };
const HUB: &str = "spiffe://mesh.example/observer/hub";
const EU: &str = "spiffe://mesh.example/observee/eu-1";

/// A pair as it is presented.
#[derive(Clone)]
struct Presented {
    cert: String,
    key: String,
}

/// An authority whose keys a thief has.
struct Mesh {
    authority: Authority,
    home: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = AuthorityOptions::new(TrustDomain::new("mesh.example").unwrap());
        Self { authority: Authority::init(&home.path().join("pki"), &options).unwrap(), home }
    }

    fn ca(&self, hierarchy: Hierarchy) -> Presented {
        let read = |name: &str| {
            let path = format!("pki/ca/{}/g1/{name}", hierarchy.as_str());
            fs::read_to_string(self.home.path().join(path)).unwrap()
        };
        Presented { cert: read("ca.crt"), key: read("ca.key") }
    }

    /// Signs what the authority never would.
    fn forge(&self, hierarchy: Hierarchy, change: impl FnOnce(&mut CertificateParams)) -> Presented {
        let ca = self.ca(hierarchy);
        let issuer = Issuer::from_ca_cert_pem(&ca.cert, KeyPair::from_pem(&ca.key).unwrap()).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        let now = OffsetDateTime::from(SystemTime::now());
        (params.not_before, params.not_after) = (now - time::Duration::HOUR, now + time::Duration::DAY);
        params.extended_key_usages = vec![match hierarchy {
            Hierarchy::Observers => ExtendedKeyUsagePurpose::ClientAuth,
            Hierarchy::Observees => ExtendedKeyUsagePurpose::ServerAuth,
        }];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Presented { cert: params.signed_by(&key, &issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn server(&self) -> LeafFiles {
        self.authority.issue_observee("eu-1", &["localhost"]).unwrap()
    }

    /// What our server does with a client: `None` if it takes it.
    fn server_says(&self, client: Option<&Presented>) -> Option<(FailureReason, String)> {
        let own = self.server();
        let source = CredentialSource::from_pem(own.credentials(), Purpose::Server).unwrap();
        let config = source.current().server_config().unwrap();
        let client = raw_client(&self.authority.bundle_pem(Hierarchy::Observees), client);
        told(shake(client, ServerConnection::new(config).unwrap()), Side::Server)
    }

    /// What our client, which wants the cluster eu-1, does with a server.
    fn client_says(&self, server: &Presented) -> Option<(FailureReason, String)> {
        let own = self.authority.issue_observer("hub").unwrap();
        let source = CredentialSource::from_pem(own.credentials(), CLIENT).unwrap();
        let expected = ExpectedServer::NameOfCluster("eu-1".to_owned());
        let config = source.current().client_config(&expected).unwrap();
        let client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
        told(shake(client, raw_server(server)), Side::Client)
    }
}

/// Without the bounds that our own files have.
fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A client that shows whatever it has.
fn raw_client(bundle: &str, presented: Option<&Presented>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for anchor in chain(bundle) {
        roots.add(anchor).unwrap();
    }
    let config = ClientConfig::builder_with_provider(parallax_pki::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let provider = parallax_pki::provider();
    let mut config = match presented {
        Some(pair) => {
            // Whatever is in it: rustls would look first.
            let key = provider.key_provider.load_private_key(key(&pair.key)).unwrap();
            let certified = CertifiedKey::new(chain(&pair.cert), key);
            config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap()
}

fn raw_server(pair: &Presented) -> ServerConnection {
    let mut config = ServerConfig::builder_with_provider(parallax_pki::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(&pair.cert), key(&pair.key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    ServerConnection::new(Arc::new(config)).unwrap()
}

/// Carries bytes between the two until both are done; else who failed, and why.
fn shake(mut client: ClientConnection, mut server: ServerConnection) -> Result<(), (Side, rustls::Error)> {
    while client.is_handshaking() || server.is_handshaking() {
        let mut said = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut said).unwrap();
        }
        let mut reader = said.as_slice();
        while !reader.is_empty() {
            let full = |error: std::io::Error| (Side::Server, rustls::Error::General(error.to_string()));
            server.read_tls(&mut reader).map_err(full)?;
            server.process_new_packets().map_err(|error| (Side::Server, error))?;
        }
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        let mut reader = answer.as_slice();
        while !reader.is_empty() {
            client.read_tls(&mut reader).unwrap();
            client.process_new_packets().map_err(|error| (Side::Client, error))?;
        }
    }
    Ok(())
}

fn told(shaken: Result<(), (Side, rustls::Error)>, ours: Side) -> Option<(FailureReason, String)> {
    let (side, error) = shaken.err()?;
    assert_eq!(side, ours, "the other side failed: {error}");
    let explained = explain(&error, ours);
    assert!(explained.text.contains("rule of "), "{}", explained.text);
    Some((explained.reason, explained.text))
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn named(names: Vec<SanType>) -> impl FnOnce(&mut CertificateParams) {
    move |params| params.subject_alt_names = names
}

/// Moves the validity by so many days.
fn at_days(days: i64, names: Vec<SanType>) -> impl FnOnce(&mut CertificateParams) {
    move |params| {
        params.subject_alt_names = names;
        params.not_before += time::Duration::days(days);
        params.not_after += time::Duration::days(days);
    }
}

#[test]
fn t2_each_wrong_client_is_refused_by_a_server_with_the_cause() {
    use FailureReason as R;
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let ees = Hierarchy::Observers;
    let good = mesh.forge(ees, named(vec![uri(HUB)]));
    assert_eq!(mesh.server_says(Some(&good)), None, "one like ours is taken");
    for (what, client, reason, part) in [
        ("wrong CA", other.forge(ees, named(vec![uri(HUB)])), R::WrongCa, "not signed by a CA in our bundle"),
        (
            "the CA of servers",
            mesh.forge(Hierarchy::Observees, |params| {
                params.subject_alt_names = vec![uri(HUB)];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            R::WrongCa,
            HUB,
        ),
        ("expired", mesh.forge(ees, at_days(-10, vec![uri(HUB)])), R::Expired, "expired at"),
        ("not yet valid", mesh.forge(ees, at_days(10, vec![uri(HUB)])), R::NotYetValid, "is a clock wrong?"),
        ("wrong role", mesh.forge(ees, named(vec![uri(EU)])), R::WrongRole, "may not act as a client"),
        (
            "wrong usage",
            mesh.forge(ees, |params| {
                params.subject_alt_names = vec![uri(HUB)];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            R::WrongRole,
            HUB,
        ),
        (
            "no usage",
            mesh.forge(ees, |params| {
                params.subject_alt_names = vec![uri(HUB)];
                params.extended_key_usages = vec![];
            }),
            R::WrongRole,
            HUB,
        ),
        (
            "wrong trust domain",
            mesh.forge(ees, named(vec![uri("spiffe://other.example/observer/hub")])),
            R::WrongName,
            "not of the trust domain mesh.example",
        ),
        (
            "two identities",
            mesh.forge(ees, named(vec![uri(HUB), uri("spiffe://mesh.example/observer/b")])),
            R::BadCertificate,
            "2 SPIFFE names",
        ),
        ("no name", mesh.forge(ees, named(vec![])), R::BadCertificate, "no alternative name"),
        ("a CA as a leaf", mesh.ca(ees), R::BadCertificate, "refused"),
    ] {
        let (found, text) = mesh.server_says(Some(&client)).unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(found, reason, "{what}: {text}");
        assert!(text.contains(part), "{what}: {text}");
    }
    let (reason, text) = mesh.server_says(None).unwrap();
    assert_eq!(reason, R::MissingCertificate, "{text}");

    let stolen = mesh.authority.issue_observer("stolen").unwrap();
    let picked = |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == stolen.serial;
    mesh.authority.revoke("stolen", picked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    let stolen = Presented { cert: stolen.cert_pem, key: stolen.key_pem };
    let (reason, text) = mesh.server_says(Some(&stolen)).unwrap();
    assert_eq!(reason, R::Revoked, "{text}");
    assert!(text.contains("spiffe://mesh.example/observer/stolen"), "{text}");
    assert_eq!(mesh.server_says(Some(&good)), None, "the others go on");
}

#[test]
fn t2_each_wrong_server_is_refused_by_a_client_with_the_cause() {
    use FailureReason as R;
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let ees = Hierarchy::Observees;
    let names = |identity: &str| vec![uri(identity), dns("localhost")];
    let good = mesh.forge(ees, named(names(EU)));
    assert_eq!(mesh.client_says(&good), None, "one like ours is taken");
    for (what, server, reason, part) in [
        ("wrong CA", other.forge(ees, named(names(EU))), R::WrongCa, EU),
        (
            "the CA of clients",
            mesh.forge(Hierarchy::Observers, |params| {
                params.subject_alt_names = vec![uri(EU), dns("localhost")];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            R::WrongCa,
            EU,
        ),
        ("expired", mesh.forge(ees, at_days(-10, names(EU))), R::Expired, "expired at"),
        ("not yet valid", mesh.forge(ees, at_days(10, names(EU))), R::NotYetValid, "is a clock wrong?"),
        ("wrong role", mesh.forge(ees, named(names(HUB))), R::WrongRole, "may not act as a server"),
        (
            "wrong usage",
            mesh.forge(ees, |params| {
                params.subject_alt_names = vec![uri(EU), dns("localhost")];
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }),
            R::WrongRole,
            EU,
        ),
        (
            "wrong cluster",
            mesh.forge(ees, named(names("spiffe://mesh.example/observee/us-1"))),
            R::WrongName,
            "rule of cluster identities",
        ),
        (
            "wrong trust domain",
            mesh.forge(ees, named(names("spiffe://other.example/observee/eu-1"))),
            R::WrongName,
            "not of the trust domain",
        ),
        (
            "wrong name",
            mesh.forge(ees, named(vec![uri(EU), dns("us-1.example")])),
            R::WrongName,
            "us-1.example",
        ),
        (
            "two identities",
            mesh.forge(ees, named([names(EU), vec![uri(HUB)]].concat())),
            R::BadCertificate,
            "2 SPIFFE names",
        ),
        ("a CA as a leaf", mesh.ca(ees), R::BadCertificate, "refused"),
    ] {
        let (found, text) = mesh.client_says(&server).unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(found, reason, "{what}: {text}");
        assert!(text.contains(part), "{what}: {text}");
    }
}

#[test]
fn bad_input_08_identities_in_odd_spellings_are_refused_in_a_handshake() {
    let mesh = Mesh::new();
    for odd in [
        "spiffe://mesh.example/observer/hub/",
        "spiffe://mesh.example//observer/hub",
        "spiffe://mesh.example/observer/../hub",
        "spiffe://mesh.example/observer/h%75b",
        "spiffe://MESH.example/observer/hub",
        "spiffe://mesh.example:443/observer/hub",
        "spiffe://mesh.example/observer/hub?a=b",
        "spiffe://mesh.example/observer/hub#a",
        "spiffe://user@mesh.example/observer/hub",
        "SPIFFE://mesh.example/observer/hub",
        "spiffe://mesh.example/observer/",
        "spiffe://mesh.example/admin/hub",
    ] {
        let client = mesh.forge(Hierarchy::Observers, named(vec![uri(odd)]));
        let (reason, text) = mesh.server_says(Some(&client)).unwrap_or_else(|| panic!("{odd} was taken"));
        assert_eq!(reason, FailureReason::BadCertificate, "{odd}: {text}");
    }
}

#[test]
fn bad_input_09_the_name_of_the_right_cluster_beside_the_identity_of_another_counts_for_nothing() {
    let mesh = Mesh::new();
    let server = mesh.forge(Hierarchy::Observees, |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, "eu-1");
        params.subject_alt_names =
            vec![uri("spiffe://mesh.example/observee/us-1"), dns("localhost"), dns("eu-1.mesh.example")];
    });
    let (reason, text) = mesh.client_says(&server).unwrap();
    assert_eq!(reason, FailureReason::WrongName);
    assert!(text.contains("observee/us-1 answers for the cluster \"eu-1\""), "{text}");
}

#[test]
fn bad_input_04_a_chain_with_the_root_in_it_works_and_one_that_begins_with_it_is_refused() {
    let mesh = Mesh::new();
    let (own, root) = (mesh.server(), mesh.ca(Hierarchy::Observees).cert);
    let with_root = Presented { cert: format!("{}{root}", own.cert_pem), key: own.key_pem.clone() };
    assert_eq!(mesh.client_says(&with_root), None);
    let loaded = |cert: String| {
        CredentialSource::from_pem(CredentialPem { cert: Some(cert), ..own.credentials() }, Purpose::Server)
    };
    loaded(with_root.cert).unwrap();
    let error = loaded(format!("{root}{}", own.cert_pem)).unwrap_err().to_string();
    assert!(error.contains("does not belong") || error.contains("cannot be used"), "{error}");
}

#[test]
fn bad_input_17_a_chain_of_a_hundred_and_a_name_of_a_megabyte_end_in_a_word_and_not_in_a_wait() {
    let mesh = Mesh::new();
    let hub = mesh.forge(Hierarchy::Observers, named(vec![uri(HUB)]));
    // Each could be the issuer of the next: what a search for a path would try.
    let more: String = (0..100).map(|_| mesh.ca(Hierarchy::Observees).cert).collect();
    let long = Presented { cert: format!("{}{more}", hub.cert), ..hub.clone() };
    // Whatever it says: it says it.
    let _ = mesh.server_says_anything(&long);
    let wide = mesh.forge(Hierarchy::Observers, |params| {
        params.subject_alt_names = vec![uri(HUB)];
        params.subject_alt_names.extend((0..4000).map(|number| dns(&format!("{number:0250}.example"))));
    });
    assert!(wide.cert.len() > 1 << 20);
    assert!(mesh.server_says_anything(&wide).is_err(), "a certificate of a megabyte was read");
    assert_eq!(mesh.server_says(Some(&hub)), None);
}

impl Mesh {
    fn server_says_anything(&self, client: &Presented) -> Result<(), rustls::Error> {
        let own = self.server();
        let source = CredentialSource::from_pem(own.credentials(), Purpose::Server).unwrap();
        let config = source.current().server_config().unwrap();
        let client = raw_client(&self.authority.bundle_pem(Hierarchy::Observees), Some(client));
        shake(client, ServerConnection::new(config).unwrap()).map_err(|(_, error)| error)
    }
}

#[test]
fn bad_input_13_of_two_leaves_with_one_serial_number_only_the_revoked_one_is_refused() {
    let (mesh, other) = (Mesh::new(), Mesh::new());
    let revoked = mesh.authority.issue_observer("hub").unwrap();
    let picked = |leaf: &parallax_pki::ledger::Leaf| leaf.record.serial == revoked.serial;
    mesh.authority.revoke("hub", picked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    let digits = revoked.serial.as_bytes().chunks(2);
    let serial: Vec<u8> =
        digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let twin = other.forge(Hierarchy::Observers, |params| {
        params.subject_alt_names = vec![uri(HUB)];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
    });
    let bundle = format!(
        "{}{}",
        mesh.authority.bundle_pem(Hierarchy::Observers),
        other.authority.bundle_pem(Hierarchy::Observers)
    );
    let judged = |pem: &str| Material::judge_client(&bundle, &chain(pem), SystemTime::now()).unwrap();
    assert_eq!(judged(&revoked.cert_pem).unwrap_err().reason, FailureReason::Revoked);
    judged(&twin.cert).unwrap();
}

#[test]
fn t12_and_bad_input_14_clocks_that_differ_by_minutes_do_not_matter_and_by_more_are_told() {
    let mesh = Mesh::new();
    let leaf = mesh.authority.issue_observer("hub").unwrap();
    let bundle = mesh.authority.bundle_pem(Hierarchy::Observers);
    let at = |time: SystemTime| Material::judge_client(&bundle, &chain(&leaf.cert_pem), time);
    let (now, minutes) = (SystemTime::now(), |count: u64| Duration::from_secs(60 * count));
    for near in [now - minutes(4), now, now + minutes(4)] {
        at(near).unwrap().unwrap();
    }
    // A server an hour behind: to it the CAs are not valid yet either, and the leaf is not.
    match at(now - minutes(60)) {
        Ok(judged) => {
            let refused = judged.unwrap_err();
            assert_eq!(refused.reason, FailureReason::NotYetValid);
            assert!(refused.text.contains("clock"), "{}", refused.text);
        }
        Err(error) => assert!(error.to_string().contains("not valid"), "{error}"),
    }
    let years = Duration::from_secs(10 * 365 * 86_400);
    match at(now + years) {
        Ok(judged) => assert!(judged.is_err()),
        Err(error) => assert!(error.to_string().contains("outside its validity"), "{error}"),
    }
}
