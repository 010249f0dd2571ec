//! The client certificate that an ingress saw, as it passes it on in a header, read strictly.
//!
//! Invariants: a header counts only from a peer whose own certificate has the ingress role, else it is a refusal, never ignored; there is exactly one
//! header with exactly one element; a certificate in it is verified again as a handshake would; without one, the identity is the ingress's word.
//!
//! Formats: Envoy's `x-forwarded-client-cert` (`Hash=…;URI=…;Cert="…"`), nginx's `$ssl_client_escaped_cert` (percent-encoded PEM; ingress-nginx writes it
//! under a name of its own), Traefik's `X-Forwarded-Tls-Client-Cert` (base64 of the DER, PEM without its frame).
//!
//! Each format has one header name: an ingress replaces the header that it knows, and whatever a client sends under another name passes through it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls_pki_types::CertificateDer;

use crate::certificate::{Facts, parse_bundle};
use crate::identity::{PeerIdentity, Role};
use crate::verify::identity_of;

/// Longest header that is read, in bytes.
pub const MAX_HEADER_BYTES: usize = 32 << 10;

/// Who wrote the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFormat {
    Envoy,
    Nginx,
    /// Kubernetes' ingress-nginx, with `auth-tls-pass-certificate-to-upstream`.
    IngressNginx,
    Traefik,
}

impl HeaderFormat {
    pub const ALL: [Self; 4] = [Self::Envoy, Self::Nginx, Self::IngressNginx, Self::Traefik];
}

impl std::str::FromStr for HeaderFormat {
    type Err = crate::Error;

    fn from_str(text: &str) -> Result<Self, crate::Error> {
        match text {
            "xfcc" | "envoy" => Ok(Self::Envoy),
            "nginx" => Ok(Self::Nginx),
            "ingress-nginx" => Ok(Self::IngressNginx),
            "traefik" => Ok(Self::Traefik),
            _ => Err(crate::Error::Name {
                what: "ingress header",
                text: text.to_owned(),
                reason: "it is none of xfcc, nginx, ingress-nginx, traefik",
            }),
        }
    }
}

impl HeaderFormat {
    /// The header's name, lower case. nginx has none of its own; this is what our examples set. That of ingress-nginx is in its template `nginx.tmpl`.
    pub fn header_name(self) -> &'static str {
        match self {
            Self::Envoy => "x-forwarded-client-cert",
            Self::Nginx => "x-ssl-client-cert",
            Self::IngressNginx => "ssl-client-cert",
            Self::Traefik => "x-forwarded-tls-client-cert",
        }
    }
}

/// Why a header is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    #[error(
        "a forwarded certificate came from {0}, which is no ingress: give the proxy a leaf of its own (pki issue --ingress)"
    )]
    NotFromAnIngress(String),
    #[error(
        "the ingress sent {0} forwarded certificates; exactly one is allowed: let it replace the header, not add to it"
    )]
    Several(usize),
    #[error(
        "the forwarded certificate is longer than {MAX_HEADER_BYTES} bytes; let the ingress forward the leaf alone"
    )]
    TooLong,
    #[error(
        "the forwarded certificate cannot be read: {0}; set the header as that kind of ingress writes it (pki export)"
    )]
    Malformed(String),
    #[error(
        "the forwarded certificate carries no identity of ours; give the client one (pki issue --observer)"
    )]
    NoIdentity,
    #[error(
        "the forwarded certificate is of {certificate}, the header says {stated}; let the ingress replace what clients send"
    )]
    Contradiction { certificate: String, stated: String },
    #[error("the forwarded certificate is refused: {0}")]
    Unverified(String),
    #[error(
        "the forwarded certificate is of {0}; an ingress forwards those of observers of its own trust domain: let one of these ask"
    )]
    NotAnObserver(PeerIdentity),
}

impl ForwardedError {
    /// A metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFromAnIngress(_) => "not_from_an_ingress",
            Self::Several(_) => "several",
            Self::TooLong => "too_long",
            Self::Malformed(_) => "malformed",
            Self::NoIdentity => "no_identity",
            Self::Contradiction { .. } => "contradiction",
            Self::Unverified(_) => "unverified",
            Self::NotAnObserver(_) => "not_an_observer",
        }
    }
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded {
    pub identity: PeerIdentity,
    /// Leaf first. Empty: the header has the identity only.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Judges the headers of a request. `Ok(None)`: there is none. `verify` is what a handshake with the chain would say
/// (`Material::recheck_client`).
pub fn accept(
    peer: Option<&PeerIdentity>,
    headers: &[&[u8]],
    format: HeaderFormat,
    verify: impl FnOnce(&[CertificateDer<'static>]) -> Result<(), String>,
) -> Result<Option<Forwarded>, ForwardedError> {
    let header = match headers {
        [] => return Ok(None),
        [header] => *header,
        more => return Err(ForwardedError::Several(more.len())),
    };
    let ingress = match peer {
        Some(identity) if identity.role() == Role::Ingress => identity,
        other => {
            let name = other.map_or_else(|| "a peer without identity".to_owned(), ToString::to_string);
            return Err(ForwardedError::NotFromAnIngress(name));
        }
    };
    let forwarded = parse(header, format)?;
    let identity = &forwarded.identity;
    if identity.role() != Role::Observer || identity.trust_domain() != ingress.trust_domain() {
        return Err(ForwardedError::NotAnObserver(forwarded.identity));
    }
    if !forwarded.chain.is_empty() {
        verify(&forwarded.chain).map_err(ForwardedError::Unverified)?;
    }
    Ok(Some(forwarded))
}

/// Reads one header.
pub fn parse(header: &[u8], format: HeaderFormat) -> Result<Forwarded, ForwardedError> {
    if header.len() > MAX_HEADER_BYTES {
        return Err(ForwardedError::TooLong);
    }
    let text = std::str::from_utf8(header).map_err(|_| malformed("it is not text"))?;
    match format {
        HeaderFormat::Envoy => parse_envoy(text),
        HeaderFormat::Nginx | HeaderFormat::IngressNginx => from_chain(parse_pem(&percent_decoded(text)?)?),
        HeaderFormat::Traefik => {
            if text.contains(',') {
                return Err(malformed("it holds several certificates"));
            }
            let der = BASE64.decode(text.trim()).map_err(|error| malformed(error.to_string()))?;
            from_chain(vec![CertificateDer::from(der)])
        }
    }
}

fn malformed(reason: impl Into<String>) -> ForwardedError {
    ForwardedError::Malformed(reason.into())
}

fn parse_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, ForwardedError> {
    parse_bundle("it", pem).map_err(|error| malformed(error.to_string()))
}

fn from_chain(chain: Vec<CertificateDer<'static>>) -> Result<Forwarded, ForwardedError> {
    let leaf = chain.first().ok_or_else(|| malformed("it is empty"))?;
    let facts = Facts::read(leaf).map_err(malformed)?;
    let identity = identity_of(&facts).map_err(|reason| malformed(reason.to_string()))?;
    Ok(Forwarded { identity: identity.ok_or(ForwardedError::NoIdentity)?, chain })
}

fn parse_envoy(text: &str) -> Result<Forwarded, ForwardedError> {
    let pairs = envoy_pairs(text)?;
    let values = |key: &str| -> Vec<&String> {
        pairs.iter().filter(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, value)| value).collect()
    };
    let stated = match values("URI").as_slice() {
        [] => None,
        [uri] => Some(uri.parse::<PeerIdentity>().map_err(|error| malformed(error.to_string()))?),
        _ => return Err(malformed("it has several URIs")),
    };
    let cert = match (values("Chain").as_slice(), values("Cert").as_slice()) {
        ([], []) => None,
        ([chain], _) => Some(*chain),
        ([], [cert]) => Some(*cert),
        _ => return Err(malformed("it has several certificates")),
    };
    let Some(cert) = cert else {
        return Ok(Forwarded { identity: stated.ok_or(ForwardedError::NoIdentity)?, chain: Vec::new() });
    };
    let forwarded = from_chain(parse_pem(&percent_decoded(cert)?)?)?;
    match stated {
        Some(stated) if stated != forwarded.identity => Err(ForwardedError::Contradiction {
            certificate: forwarded.identity.to_string(),
            stated: stated.to_string(),
        }),
        _ => Ok(forwarded),
    }
}

/// The pairs of the one element. Values may be quoted, with `\"` inside; a comma outside quotes begins another element, which is refused.
fn envoy_pairs(text: &str) -> Result<Vec<(String, String)>, ForwardedError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| malformed("a key has no value"))?;
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(malformed("a key has odd characters"));
        }
        let (value, after) = envoy_value(after)?;
        pairs.push((key.to_owned(), value));
        rest = match after.as_bytes().first() {
            None => "",
            Some(b';') => after.get(1..).unwrap_or_default(),
            Some(b',') => return Err(ForwardedError::Several(2)),
            Some(_) => return Err(malformed("something follows a quoted value")),
        };
    }
    if pairs.is_empty() {
        return Err(malformed("it is empty"));
    }
    Ok(pairs)
}

fn envoy_value(text: &str) -> Result<(String, &str), ForwardedError> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ',']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        if value.contains('"') {
            return Err(malformed("a quote stands in the middle of a value"));
        }
        return Ok((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Ok((value, quoted.get(index + 1..).unwrap_or_default())),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                _ => return Err(malformed("an escape is not known")),
            },
            other => value.push(other),
        }
    }
    Err(malformed("a quoted value does not end"))
}

fn percent_decoded(text: &str) -> Result<String, ForwardedError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit =
            |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(malformed("a percent escape is broken")),
        }
    }
    String::from_utf8(bytes).map_err(|_| malformed("it is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &str = "spiffe://mesh.example/observer/hub";

    fn envoy(text: &str) -> Result<Forwarded, ForwardedError> {
        parse(text.as_bytes(), HeaderFormat::Envoy)
    }

    #[test]
    fn envoys_header_gives_the_one_identity() {
        let text = format!("By=spiffe://mesh.example/ingress/eu-1;Hash=ab;URI={HUB}");
        assert_eq!(envoy(&text).unwrap().identity.to_string(), HUB);
        let quoted = format!("Subject=\"CN=a,O=\\\"b;c\\\"\";URI={HUB}");
        assert_eq!(envoy(&quoted).unwrap().identity.to_string(), HUB);
    }

    #[test]
    fn doubled_and_odd_headers_are_refused() {
        for text in [
            String::new(),
            format!("URI={HUB},URI={HUB}"),
            format!("Hash=ab;URI={HUB},Hash=cd;URI={HUB}"),
            format!("URI={HUB};URI={HUB}"),
            format!("Subject=\"a\"b;URI={HUB}"),
            format!("Subject=\"a;URI={HUB}"),
            format!("Subject=a\"b;URI={HUB}"),
            format!("U RI={HUB}"),
            "URI=spiffe://mesh.example/observer/../hub".to_owned(),
            "URI=spiffe://mesh.example/observer/hub%2f".to_owned(),
            "Hash=ab".to_owned(),
            "URI".to_owned(),
        ] {
            assert!(envoy(&text).is_err(), "{text:?} was accepted");
        }
        let long = format!("Hash={};URI={HUB}", "a".repeat(MAX_HEADER_BYTES));
        assert_eq!(envoy(&long), Err(ForwardedError::TooLong));
    }

    #[test]
    fn a_header_counts_only_from_an_ingress_and_only_once() {
        let header = format!("URI={HUB}");
        let header = header.as_bytes();
        let judge = |peer: Option<&str>, headers: &[&[u8]]| {
            let peer = peer.map(|peer| peer.parse::<PeerIdentity>().unwrap());
            accept(peer.as_ref(), headers, HeaderFormat::Envoy, |_| Ok(()))
        };
        let ingress = Some("spiffe://mesh.example/ingress/eu-1");
        assert!(judge(ingress, &[header]).unwrap().is_some());
        assert_eq!(judge(ingress, &[header, header]), Err(ForwardedError::Several(2)));
        assert_eq!(judge(Some(HUB), &[]), Ok(None));
        for peer in [None, Some(HUB), Some("spiffe://mesh.example/observee/eu-1")] {
            let refused = judge(peer, &[header]).unwrap_err();
            assert_eq!(refused.reason(), "not_from_an_ingress");
        }
        for other in ["mesh.example/observee/eu-1", "mesh.example/ingress/eu-1", "other.example/observer/hub"]
        {
            let header = format!("URI=spiffe://{other}");
            assert_eq!(
                judge(ingress, &[header.as_bytes()]).unwrap_err().reason(),
                "not_an_observer",
                "{other}"
            );
        }
    }
}
