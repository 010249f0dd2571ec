//! Who is on the other end of a connection that a server accepted.

use std::net::SocketAddr;
use std::str::FromStr;

use parallax_pki::PeerIdentity;
use parallax_pki::certificate::Facts;
use parallax_pki::verify::identity_of;
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::Error;

/// In the extensions of each request, of gRPC and of HTTP: `request.extensions().get::<PeerInfo>()`.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    pub address: SocketAddr,
    /// From the verified client certificate, or from the one that the ingress forwarded; `None` without mTLS, or if the certificate carries no SPIFFE
    /// name.
    pub identity: Option<PeerIdentity>,
    /// The verified client certificate: of the connection, or the one that the ingress forwarded; `None` if it forwarded a name only.
    pub certificate: Option<CertificateDer<'static>>,
    /// The ingress that holds the connection, if it forwarded the client's certificate.
    pub forwarded_by: Option<PeerIdentity>,
}

/// A field of a certificate's subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectField {
    Organization,
    OrganizationalUnit,
    CommonName,
}

impl SubjectField {
    /// As Thanos writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::OrganizationalUnit => "organizationalUnit",
            Self::CommonName => "commonName",
        }
    }
}

impl FromStr for SubjectField {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Organization, Self::OrganizationalUnit, Self::CommonName]
            .into_iter()
            .find(|field| field.as_str() == text)
            .ok_or_else(|| Error::SubjectField { text: text.to_owned() })
    }
}

impl PeerInfo {
    /// Of a connection in plain text, which shows nothing but its address.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self { address, identity: None, certificate: None, forwarded_by: None }
    }

    /// Of a connection whose handshake is done.
    pub(crate) fn of_tls(address: SocketAddr, stream: &TlsStream<TcpStream>) -> Self {
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
        // The verifier refused what does not parse; without one there is no certificate.
        let identity = certificate
            .as_deref()
            .and_then(|der| Facts::read(der).ok())
            .and_then(|facts| identity_of(&facts).ok().flatten());
        let certificate = certificate.map(CertificateDer::into_owned);
        Self { address, identity, certificate, forwarded_by: None }
    }

    /// The first value of `field` in the subject of the client's certificate.
    pub fn subject(&self, field: SubjectField) -> Option<String> {
        let facts = self.facts()?;
        match field {
            SubjectField::Organization => facts.organization,
            SubjectField::OrganizationalUnit => facts.organizational_unit,
            SubjectField::CommonName => facts.common_name,
        }
    }

    /// The DNS names in the client's certificate.
    pub fn dns_names(&self) -> Vec<String> {
        self.facts().map(|facts| facts.dns_names).unwrap_or_default()
    }

    fn facts(&self) -> Option<Facts> {
        self.certificate.as_ref().and_then(|der| Facts::read(der).ok())
    }
}
