//! Who may call: lists of identities, and certificates that an ingress forwards.

use std::time::SystemTime;

use parallax_net::{GrpcServer, GrpcServerConfig, GrpcTarget, ServerAccess, SubjectField, connect};
use parallax_pki::forwarded::HeaderFormat;
use parallax_pki::{
    AllowedClients, CredentialSource, LeafFiles, LeafRequest, PeerIdentity, RevocationReason,
};
use parallax_telemetry::Metrics;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fixture::{CLIENT, Mesh, TestServer, ask, with_ca};

const NGINX_HEADER: &str = "x-ssl-client-cert";

fn allowing(entries: &[&str]) -> ServerAccess {
    let entries = entries.iter().map(|entry| entry.parse().unwrap());
    ServerAccess { allowed: AllowedClients::Listed(entries.collect()), forwarded: None }
}

async fn serve(mesh: &Mesh, access: ServerAccess) -> TestServer {
    TestServer::start_with(Some(mesh.server_source()), |config| config.access = access).await
}

fn source(leaf: &LeafFiles) -> CredentialSource {
    CredentialSource::from_pem(leaf.credentials(), CLIENT).unwrap()
}

fn ingress(mesh: &Mesh) -> LeafFiles {
    let identity = PeerIdentity::ingress(mesh.authority.trust_domain(), "eu-1").unwrap();
    mesh.authority.issue_at(&LeafRequest::new(identity), SystemTime::now()).unwrap()
}

/// As nginx writes `$ssl_client_escaped_cert`.
fn escaped(pem: &str) -> MetadataValue<Ascii> {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    pem.bytes().map(escape).collect::<String>().parse().unwrap()
}

/// A health check with these headers.
async fn ask_with(
    server: &TestServer,
    source: &CredentialSource,
    headers: &[MetadataValue<Ascii>],
) -> Result<(), Status> {
    ask_under(NGINX_HEADER, server, source, headers).await
}

/// The same under another name.
async fn ask_under(
    name: &'static str,
    server: &TestServer,
    source: &CredentialSource,
    headers: &[MetadataValue<Ascii>],
) -> Result<(), Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    for header in headers {
        request.metadata_mut().append(name, header.clone());
    }
    HealthClient::new(server.channel(source)).check(request).await.map(|_| ())
}

fn refused(server: &TestServer, reason: &str) -> bool {
    let text = server.metrics.encode().unwrap();
    text.contains(&format!(
        "parallax_server_calls_refused_total{{protocol=\"grpc\",reason=\"{reason}\"}} 1\n"
    ))
}

#[tokio::test]
async fn only_those_on_the_list_may_call_and_the_others_are_told_the_rule_and_what_to_do() {
    let mesh = Mesh::new();
    let server = serve(&mesh, allowing(&["hub", "dns:querier.example"])).await;
    ask(&server.channel(&mesh.client_source())).await.unwrap();

    let other = mesh.authority.issue_observer("other").unwrap();
    let status = ask(&server.channel(&source(&other))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    for part in [
        "rule of allowed identities",
        "spiffe://mesh.example/observer/other",
        "--grpc-server-allowed-identity",
    ] {
        assert!(status.message().contains(part), "{part}: {status:?}");
    }
    assert!(refused(&server, "not_allowed"), "{}", server.metrics.encode().unwrap());

    // By a name in its certificate, whatever its identity.
    let identity = PeerIdentity::observer(mesh.authority.trust_domain(), "third").unwrap();
    let named = LeafRequest::new(identity).dns("querier.example");
    let named = mesh.authority.issue_at(&named, SystemTime::now()).unwrap();
    ask(&server.channel(&source(&named))).await.unwrap();
}

#[tokio::test]
async fn a_list_is_refused_where_no_client_shows_who_it_is() {
    let config = GrpcServerConfig { access: allowing(&["hub"]), ..GrpcServerConfig::new("127.0.0.1:0") };
    let error = GrpcServer::bind(config, &Metrics::new()).await.err().unwrap().to_string();
    assert!(error.contains("client CA"), "{error}");
}

#[tokio::test]
async fn an_ingress_speaks_for_the_client_whose_certificate_it_forwards() {
    let mesh = Mesh::new();
    let access = ServerAccess { forwarded: Some(HeaderFormat::Nginx), ..allowing(&["hub"]) };
    let server = serve(&mesh, access).await;
    let through = source(&ingress(&mesh));
    let hub = escaped(&mesh.client_leaf().cert_pem);
    ask_with(&server, &through, std::slice::from_ref(&hub)).await.unwrap();
    let peer = server.last_peer();
    assert_eq!(peer.identity.as_ref().unwrap().to_string(), "spiffe://mesh.example/observer/hub");
    assert_eq!(
        peer.subject(SubjectField::CommonName).as_deref(),
        Some("hub"),
        "of the client's, not the ingress'"
    );
    assert_eq!(peer.forwarded_by.unwrap().to_string(), "spiffe://mesh.example/ingress/eu-1");

    let other = escaped(&mesh.authority.issue_observer("other").unwrap().cert_pem);
    let stranger = escaped(&Mesh::new().client_leaf().cert_pem);
    for (headers, reason, part) in [
        (vec![], "not_forwarded", "ingress/eu-1 forwards no client's certificate"),
        (vec![other], "not_allowed", "observer/other is not on this server's list"),
        (vec![hub.clone(), hub.clone()], "several", "exactly one"),
        (vec![stranger], "unverified", "not signed by a CA"),
        (vec!["nonsense".parse().unwrap()], "malformed", "cannot be read"),
    ] {
        let status = ask_with(&server, &through, &headers).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains(part), "{part}: {status:?}");
        assert!(status.message().contains("rule of "), "{status:?}");
        assert!(status.message().contains("spiffe://mesh.example/"), "whose it is: {status:?}");
        assert!(refused(&server, reason), "{reason}: {}", server.metrics.encode().unwrap());
    }
    // The same header from anybody else is a lie, even from one who may ask.
    let status = ask_with(&server, &mesh.client_source(), &[hub]).await.unwrap_err();
    assert!(status.message().contains("which is no ingress"), "{status:?}");
    ask(&server.channel(&mesh.client_source())).await.unwrap();
}

/// The other name is one that this ingress passes on as the client sent it.
#[tokio::test]
async fn the_certificate_is_read_from_the_header_that_the_kind_of_ingress_writes_and_from_no_other() {
    const NAMES: [(HeaderFormat, &str); 2] =
        [(HeaderFormat::Nginx, "x-ssl-client-cert"), (HeaderFormat::IngressNginx, "ssl-client-cert")];
    let mesh = Mesh::new();
    let through = source(&ingress(&mesh));
    let hub = [escaped(&mesh.client_leaf().cert_pem)];
    for (format, own) in NAMES {
        assert_eq!(format.header_name(), own);
        let access = ServerAccess { forwarded: Some(format), ..allowing(&["hub"]) };
        let server = serve(&mesh, access).await;
        for (_, name) in NAMES {
            let answer = ask_under(name, &server, &through, &hub).await;
            assert_eq!(answer.is_ok(), name == own, "{name} where {format:?} is read: {answer:?}");
        }
        assert!(refused(&server, "not_forwarded"));
    }
}

#[tokio::test]
async fn a_forwarded_certificate_that_is_revoked_is_refused_from_the_next_call_on() {
    let mesh = Mesh::new();
    let access = ServerAccess { forwarded: Some(HeaderFormat::Nginx), ..ServerAccess::default() };
    let tls = mesh.server_source();
    let server = TestServer::start_with(Some(tls.clone()), |config| config.access = access).await;
    let through = source(&ingress(&mesh));
    let leaf = mesh.client_leaf();
    let header = [escaped(&leaf.cert_pem)];
    ask_with(&server, &through, &header).await.unwrap();
    let revoked = |known: &parallax_pki::ledger::Leaf| known.record.serial == leaf.serial;
    mesh.authority.revoke("hub", revoked, RevocationReason::KeyCompromise, SystemTime::now()).unwrap();
    let bundle = mesh.bundle(parallax_pki::Hierarchy::Observers);
    tls.swap(&with_ca(&mesh.server_leaf(), bundle)).unwrap();
    let status = ask_with(&server, &through, &header).await.unwrap_err();
    assert!(status.message().contains("revoked"), "{status:?}");
}

#[tokio::test]
async fn where_forwarding_is_off_the_header_is_no_more_than_text() {
    let mesh = Mesh::new();
    let server = serve(&mesh, allowing(&["ingress/eu-1"])).await;
    let header = [escaped(&mesh.client_leaf().cert_pem)];
    ask_with(&server, &source(&ingress(&mesh)), &header).await.unwrap();
    let peer = server.last_peer();
    assert_eq!(peer.identity.unwrap().to_string(), "spiffe://mesh.example/ingress/eu-1");
    let by_hub = ask_with(&server, &mesh.client_source(), &header).await.unwrap_err();
    assert_eq!(by_hub.code(), Code::PermissionDenied, "who it claims to be plays no part");
    let plain = connect(&GrpcTarget::plain(server.localhost())).unwrap();
    assert_eq!(ask(&plain).await.unwrap_err().code(), Code::Unavailable);
}
