//! Who is on the other end of a connection that a server accepted.

use std::net::SocketAddr;

use parallax_pki::PeerIdentity;
use rustls_pki_types::CertificateDer;

/// In the extensions of each request: `request.extensions().get::<PeerInfo>()`.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub address: SocketAddr,
    /// From the verified client certificate; `None` without mTLS, or if the certificate carries no SPIFFE name.
    pub identity: Option<PeerIdentity>,
    /// The verified client certificate.
    pub certificate: Option<CertificateDer<'static>>,
}
