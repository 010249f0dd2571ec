//! The identity rules: who may ask a server, and whose certificate answers for a cluster. Pure.
//!
//! Invariants: a rule is given a parsed identity, compares bytes, and says in its refusal which rule it was, who asked and what to do. Whether a
//! certificate is good at all has been settled by the handshake. Which labels an answer may carry is judged where answers are merged (the querier's
//! claims).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::identity::{MAX_NAME_BYTES, PeerIdentity, Role, check_dns_name, check_name};

/// A refusal by a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    #[error(
        "rule of allowed identities: the client's certificate carries no identity; give it one (parallax pki issue --observer), or allow one of its DNS names (dns:NAME)"
    )]
    NoIdentity,
    #[error(
        "rule of allowed identities: {0} is not on this server's list; if it may ask, add it there (--grpc-server-allowed-identity, or allowed_observers in the file)"
    )]
    NotAllowed(PeerIdentity),
    #[error(
        "rule of allowed identities: the ingress {0} forwards no client's certificate, and is not on this server's list itself; let it forward them, or add it (--grpc-server-allowed-identity, or allowed_observers in the file)"
    )]
    NotForwarded(PeerIdentity),
    #[error(
        "rule of label policies: no rule names {0}, so it may read nothing; if it may, add a rule whose who has it, or one for anybody"
    )]
    NoRule(String),
    #[error(
        "rule of cluster identities: {presented} answers for the cluster {expected:?}, which only that cluster's own certificate may; mend the address, or state the identity to expect (a hub over several clusters is declared by its own name, with these under delegated)"
    )]
    WrongCluster { presented: PeerIdentity, expected: String },
}

impl AccessDenied {
    /// A metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::NotAllowed(_) => "not_allowed",
            Self::NotForwarded(_) => "not_forwarded",
            Self::NoRule(_) => "no_rule",
            Self::WrongCluster { .. } => "wrong_cluster",
        }
    }
}

/// One entry of the list of who may ask.
///
/// Its text is `spiffe://mesh.example/observer/hub` (that identity), `observer/hub` or `hub` (that hub of the trust domain that the handshake takes), `observer/*`
/// or `*` (any observer), `ingress/eu-1`, `ingress/*`, or `dns:querier.example` (a certificate with that DNS name, for clients of other makes).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowedClient {
    Identity(PeerIdentity),
    /// `None`: every name of the role.
    Named(Role, Option<String>),
    Dns(String),
}

impl AllowedClient {
    /// Of a certificate's name, nothing is known here.
    pub(crate) fn covers(&self, identity: &PeerIdentity) -> bool {
        match self {
            Self::Identity(allowed) => allowed == identity,
            Self::Named(role, name) => {
                *role == identity.role() && name.as_ref().is_none_or(|name| name == identity.name())
            }
            Self::Dns(_) => false,
        }
    }
}

impl AllowedClient {
    /// Whether whoever `other` covers is covered by this as well, as far as their texts say.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Named(role, None), Self::Named(other, _)) => role == other,
            (Self::Named(..), Self::Identity(identity)) => self.covers(identity),
            _ => self == other,
        }
    }
}

impl FromStr for AllowedClient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.starts_with("spiffe:") {
            let identity: PeerIdentity = text.parse()?;
            return match identity.role() {
                Role::Observer | Role::Ingress => Ok(Self::Identity(identity)),
                Role::Observee => Err(not_asking(text)),
            };
        }
        if let Some(name) = text.strip_prefix("dns:") {
            check_dns_name(name)?;
            return Ok(Self::Dns(name.to_owned()));
        }
        let (role, name) = match text.split_once('/') {
            None => (Role::Observer, text),
            Some(("observer", name)) => (Role::Observer, name),
            Some(("ingress", name)) => (Role::Ingress, name),
            Some(_) => return Err(not_asking(text)),
        };
        if name == "*" {
            return Ok(Self::Named(role, None));
        }
        check_name("allowed identity", name, MAX_NAME_BYTES)?;
        Ok(Self::Named(role, Some(name.to_owned())))
    }
}

fn not_asking(text: &str) -> Error {
    Error::Name {
        what: "allowed identity",
        text: text.chars().take(120).collect(),
        reason: "only observers and ingresses ask: write it as observer/hub, ingress/eu-1, observer/* or dns:name",
    }
}

impl fmt::Display for AllowedClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => identity.fmt(f),
            Self::Named(role, name) => write!(f, "{role}/{}", name.as_deref().unwrap_or("*")),
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// Whom a server serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedClients {
    /// Whoever the handshake lets in, with an identity or without: as Thanos does.
    #[default]
    Anybody,
    /// These, and nobody else.
    Listed(BTreeSet<AllowedClient>),
}

impl AllowedClients {
    /// A1: may this client ask? `dns_names` are those of its certificate. What an ingress forwards is checked by [`crate::forwarded`] first, and then judged
    /// as if it had come directly.
    pub fn admit(
        &self,
        identity: Option<&PeerIdentity>,
        dns_names: impl FnOnce() -> Vec<String>,
    ) -> Result<(), AccessDenied> {
        let Self::Listed(entries) = self else { return Ok(()) };
        if identity.is_some_and(|identity| entries.iter().any(|entry| entry.covers(identity))) {
            return Ok(());
        }
        if entries.iter().any(|entry| matches!(entry, AllowedClient::Dns(_))) {
            let shown = dns_names();
            if entries.iter().any(|entry| matches!(entry, AllowedClient::Dns(name) if shown.contains(name))) {
                return Ok(());
            }
        }
        Err(match identity {
            None => AccessDenied::NoIdentity,
            Some(identity) if identity.role() == Role::Ingress => {
                AccessDenied::NotForwarded(identity.clone())
            }
            Some(identity) => AccessDenied::NotAllowed(identity.clone()),
        })
    }
}

/// A2: of the certificates that carry an identity, only `cluster`'s own answers for it.
pub fn check_endpoint(identity: &PeerIdentity, cluster: &str) -> Result<(), AccessDenied> {
    if identity.role() == Role::Observee && identity.name() == cluster {
        return Ok(());
    }
    Err(AccessDenied::WrongCluster { presented: identity.clone(), expected: cluster.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> PeerIdentity {
        text.parse().unwrap()
    }

    fn listed(entries: &[&str]) -> AllowedClients {
        AllowedClients::Listed(entries.iter().map(|entry| entry.parse().unwrap()).collect())
    }

    #[test]
    fn a_server_serves_those_on_its_list_and_nobody_else() {
        let hub = identity("spiffe://mesh.example/observer/hub");
        let other = identity("spiffe://mesh.example/observer/other");
        let elsewhere = identity("spiffe://other.example/observer/hub");
        let ingress = identity("spiffe://mesh.example/ingress/hub");
        let admits = |entries: &[&str], who: &PeerIdentity| {
            listed(entries).admit(Some(who), Vec::new).map_err(|denied| denied.reason())
        };
        for entries in
            [["hub"], ["observer/hub"], ["spiffe://mesh.example/observer/hub"], ["*"], ["observer/*"]]
        {
            assert_eq!(admits(&entries, &hub), Ok(()), "{entries:?}");
            assert_eq!(admits(&entries, &ingress), Err("not_forwarded"), "{entries:?}");
        }
        assert_eq!(admits(&["hub"], &other), Err("not_allowed"));
        assert_eq!(admits(&["hub", "other"], &other), Ok(()));
        assert_eq!(admits(&["spiffe://mesh.example/observer/hub"], &elsewhere), Err("not_allowed"));
        assert_eq!(admits(&["ingress/hub"], &ingress), Ok(()));
        assert_eq!(admits(&["ingress/*"], &hub), Err("not_allowed"));
        assert_eq!(listed(&["*"]).admit(None, Vec::new), Err(AccessDenied::NoIdentity));
        assert_eq!(listed(&[]).admit(Some(&hub), Vec::new).unwrap_err().reason(), "not_allowed");
        assert_eq!(AllowedClients::Anybody.admit(None, Vec::new), Ok(()));
    }

    #[test]
    fn a_client_of_another_make_is_known_by_a_name_in_its_certificate() {
        let rule = listed(&["dns:querier.example"]);
        let names = |name: &str| vec!["other.example".to_owned(), name.to_owned()];
        assert_eq!(rule.admit(None, || names("querier.example")), Ok(()));
        assert_eq!(rule.admit(None, || names("querier.example.org")), Err(AccessDenied::NoIdentity));
    }

    #[test]
    fn entries_print_what_they_were_read_from_and_nonsense_is_refused() {
        for text in ["spiffe://mesh.example/observer/hub", "observer/hub", "ingress/*", "dns:a.example"] {
            assert_eq!(text.parse::<AllowedClient>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "Hub",
            "observee/eu-1",
            "spiffe://m/observee/a",
            "observer/",
            "observer/a/b",
            "dns:",
            "dns:*",
            "a b",
            "hub*",
        ] {
            assert!(text.parse::<AllowedClient>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_cluster_answers_with_its_own_certificate() {
        assert_eq!(check_endpoint(&identity("spiffe://mesh.example/observee/eu-1"), "eu-1"), Ok(()));
        for wrong in ["spiffe://mesh.example/observee/us-1", "spiffe://mesh.example/observer/eu-1"] {
            let denied = check_endpoint(&identity(wrong), "eu-1").unwrap_err();
            assert!(denied.to_string().contains("eu-1") && denied.to_string().contains(wrong), "{denied}");
        }
    }
}
