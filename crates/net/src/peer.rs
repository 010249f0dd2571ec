//! Who is on the other end of a connection that a server accepted.

use std::net::SocketAddr;

use parallax_pki::PeerIdentity;
use rustls_pki_types::CertificateDer;

/// In the extensions of each request: `request.extensions().get::<PeerInfo>()`.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub address: SocketAddr,
    /// From the verified client certificate, or from the one that the ingress forwarded; `None` without mTLS, or if the certificate carries no SPIFFE
    /// name.
    pub identity: Option<PeerIdentity>,
    /// The verified client certificate of the connection.
    pub certificate: Option<CertificateDer<'static>>,
    /// The ingress that holds the connection, if it forwarded the client's certificate.
    pub forwarded_by: Option<PeerIdentity>,
}
