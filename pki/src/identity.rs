//! Who a peer is: `spiffe://<trust domain>/observer|observee|ingress/<name>`, and the only parser of it.
//!
//! Invariant: an identity that exists is canonical: lower case, compared byte by byte, no escapes, no port, no query, no empty segment. The text form
//! of a parsed identity is the text that was parsed. Source: SPIFFE-ID and X509-SVID, narrowed (`_` and upper case are not allowed here).

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// Longest cluster, hub or ingress name, in bytes: one DNS label's length.
pub const MAX_NAME_BYTES: usize = 63;
/// Longest trust domain, in bytes: a DNS name's length.
pub const MAX_TRUST_DOMAIN_BYTES: usize = 253;

const SCHEME: &str = "spiffe://";

/// The domain within which names are unique and one pair of authorities signs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a lower-case DNS name such as `mesh.example`.
    pub fn new(text: &str) -> Result<Self, Error> {
        check_name("trust domain", text, MAX_TRUST_DOMAIN_BYTES)?;
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

/// What a peer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A hub that asks: holds client certificates.
    Observer,
    /// A cluster that answers: holds server certificates.
    Observee,
    /// A proxy in front of an observee: a client towards it.
    Ingress,
}

impl Role {
    /// The path segment.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observer => "observer",
            Self::Observee => "observee",
            Self::Ingress => "ingress",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role and a name within a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerIdentity {
    trust_domain: TrustDomain,
    role: Role,
    name: String,
}

impl PeerIdentity {
    /// Checks `name` (`[a-z0-9.-]`, at most [`MAX_NAME_BYTES`], each dot-separated label begins and ends with a letter or digit).
    pub fn new(trust_domain: &TrustDomain, role: Role, name: &str) -> Result<Self, Error> {
        let what = match role {
            Role::Observer => "hub name",
            Role::Observee => "cluster name",
            Role::Ingress => "ingress name",
        };
        check_name(what, name, MAX_NAME_BYTES)?;
        Ok(Self { trust_domain: trust_domain.clone(), role, name: name.to_owned() })
    }

    /// The identity of the hub `hub`.
    pub fn observer(trust_domain: &TrustDomain, hub: &str) -> Result<Self, Error> {
        Self::new(trust_domain, Role::Observer, hub)
    }

    /// The identity of the cluster `cluster`.
    pub fn observee(trust_domain: &TrustDomain, cluster: &str) -> Result<Self, Error> {
        Self::new(trust_domain, Role::Observee, cluster)
    }

    /// The identity of the proxy `name`.
    pub fn ingress(trust_domain: &TrustDomain, name: &str) -> Result<Self, Error> {
        Self::new(trust_domain, Role::Ingress, name)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn role(&self) -> Role {
        self.role
    }

    /// The cluster, hub or ingress.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.trust_domain, self.role, self.name)
    }
}

impl FromStr for PeerIdentity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::Name { what: "identity", text: shortened(text), reason };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| refuse("it does not begin with spiffe://"))?;
        let mut segments = rest.split('/');
        let (Some(domain), Some(role), Some(name), None) =
            (segments.next(), segments.next(), segments.next(), segments.next())
        else {
            return Err(refuse("it is not spiffe://<trust domain>/<role>/<name>"));
        };
        let role = match role {
            "observer" => Role::Observer,
            "observee" => Role::Observee,
            "ingress" => Role::Ingress,
            _ => return Err(refuse("its role is none of observer, observee, ingress")),
        };
        Self::new(&TrustDomain::new(domain)?, role, name)
    }
}

pub(crate) fn check_name(what: &'static str, text: &str, limit_bytes: usize) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Name { what, text: shortened(text), reason });
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > limit_bytes {
        return refuse("it is too long");
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-') {
        return refuse("only a-z, 0-9, '.' and '-' are allowed");
    }
    for label in text.split('.') {
        if label.is_empty() {
            return refuse("it has an empty label (a dot at an end, or two in a row)");
        }
        if label.len() > 63 {
            return refuse("one of its labels is longer than 63 bytes");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("one of its labels begins or ends with '-'");
        }
    }
    Ok(())
}

/// What an error shows of a text that may be huge.
fn shortened(text: &str) -> String {
    const SHOWN_CHARS: usize = 120;
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// True for a host name that may stand in a certificate: a DNS name without wildcard, at most 253 bytes.
pub(crate) fn check_dns_name(text: &str) -> Result<(), Error> {
    check_name("DNS name", text, MAX_TRUST_DOMAIN_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn identities_of_each_role_round_trip() {
        for text in [
            "spiffe://mesh.example/observer/hub",
            "spiffe://mesh.example/observee/eu-1",
            "spiffe://m/ingress/edge.eu-1",
        ] {
            assert_eq!(text.parse::<PeerIdentity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn odd_spellings_of_an_identity_are_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://mesh.example",
            "spiffe://mesh.example/observee",
            "spiffe://mesh.example/observee/",
            "spiffe://mesh.example/observee/eu-1/",
            "spiffe://mesh.example//observee/eu-1",
            "spiffe://mesh.example/observee//eu-1",
            "spiffe://mesh.example/observee/../eu-1",
            "spiffe://mesh.example/observee/..",
            "spiffe://mesh.example/observee/eu%2d1",
            "spiffe://Mesh.example/observee/eu-1",
            "spiffe://mesh.example:443/observee/eu-1",
            "spiffe://user@mesh.example/observee/eu-1",
            "spiffe://mesh.example/observee/eu-1?x=y",
            "spiffe://mesh.example/observee/eu-1#f",
            "spiffe://mesh.example/admin/eu-1",
            "spiffe://mesh.example./observee/eu-1",
            "SPIFFE://mesh.example/observee/eu-1",
            "https://mesh.example/observee/eu-1",
            " spiffe://mesh.example/observee/eu-1",
        ] {
            assert!(text.parse::<PeerIdentity>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn names_that_could_leave_a_directory_or_look_alike_are_refused() {
        let domain = TrustDomain::new("mesh.example").unwrap();
        let long = "a".repeat(64);
        for name in [
            "", "../x", "..", ".", "A", "a/b", "a%2fb", "eu-1.", ".eu", "-a", "a-", "eu_1", "é", "еu", "a b",
            &long,
        ] {
            assert!(PeerIdentity::observee(&domain, name).is_err(), "{name:?} was accepted");
        }
        assert!(PeerIdentity::observee(&domain, &"a".repeat(63)).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_itself(text in "(spiffe://)?[a-zA-Z0-9./%:_-]{0,60}") {
            if let Ok(identity) = text.parse::<PeerIdentity>() {
                prop_assert_eq!(identity.to_string(), text);
            }
        }
    }
}
