//! The identity rules: who may ask, who may answer for a cluster, and which labels an answer may carry. Pure.
//!
//! Invariants: a rule is given a parsed identity, compares bytes, and says in its refusal which rule it was, who asked and what to do. Whether a
//! certificate is good at all has been settled by the handshake.

use std::collections::BTreeSet;

use crate::identity::{PeerIdentity, Role};

/// A refusal by a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessDenied {
    #[error("the client's certificate carries no identity; observers need one (pki issue --observer)")]
    NoIdentity,
    #[error("{0} is an {role}; only observers may ask here", role = .0.role())]
    NotAnObserver(PeerIdentity),
    #[error("{0} is not among the observers that this observee allows")]
    NotAllowed(PeerIdentity),
    #[error("{presented} answers for the cluster {expected:?}, which only its own certificate may")]
    WrongCluster { presented: String, expected: String },
    #[error("the series carries {name}={value:?}, but the endpoint speaks for {allowed}")]
    ForeignLabel { name: String, value: String, allowed: String },
    #[error("the series carries the label {name} {count} times")]
    RepeatedLabel { name: String, count: usize },
    #[error("the series carries no label {name}")]
    MissingLabel { name: String },
}

impl AccessDenied {
    /// A metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::NotAnObserver(_) => "not_an_observer",
            Self::NotAllowed(_) => "not_allowed",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::ForeignLabel { .. } => "foreign_label",
            Self::RepeatedLabel { .. } => "repeated_label",
            Self::MissingLabel { .. } => "missing_label",
        }
    }
}

/// Whom an observee serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedObservers {
    /// Whoever the CA vouches for, with an identity or without: as Thanos does.
    #[default]
    Anybody,
    /// Every observer of the trust domain.
    Observers,
    /// These hubs.
    Named(BTreeSet<String>),
}

impl AllowedObservers {
    /// A1: may this client ask? An ingress passes on what an observer asks; it is checked by [`crate::forwarded`] first.
    pub fn admit(&self, identity: Option<&PeerIdentity>) -> Result<(), AccessDenied> {
        if *self == Self::Anybody {
            return Ok(());
        }
        let identity = identity.ok_or(AccessDenied::NoIdentity)?;
        if identity.role() != Role::Observer {
            return Err(AccessDenied::NotAnObserver(identity.clone()));
        }
        match self {
            Self::Named(hubs) if !hubs.contains(identity.name()) => {
                Err(AccessDenied::NotAllowed(identity.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// A2: an endpoint of `cluster` shows that cluster's certificate. For what is not settled by an expected identity in the handshake.
pub fn check_endpoint(identity: Option<&PeerIdentity>, cluster: &str) -> Result<(), AccessDenied> {
    match identity {
        Some(identity) if identity.role() == Role::Observee && identity.name() == cluster => Ok(()),
        presented => Err(AccessDenied::WrongCluster {
            presented: presented.map_or_else(|| "a server without identity".to_owned(), ToString::to_string),
            expected: cluster.to_owned(),
        }),
    }
}

/// A3: what an endpoint may say. A hub that stands for several clusters is allowed each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelRule {
    /// Name of the label that tells clusters apart.
    pub label: Vec<u8>,
    /// Values that the endpoint may use.
    pub clusters: BTreeSet<Vec<u8>>,
}

impl LabelRule {
    /// Judges one label set: the label is there exactly once, with an allowed value, byte for byte.
    pub fn check<'l>(
        &self,
        labels: impl IntoIterator<Item = (&'l [u8], &'l [u8])>,
    ) -> Result<(), AccessDenied> {
        let name = || String::from_utf8_lossy(&self.label).into_owned();
        let mut values = labels.into_iter().filter(|(label, _)| *label == self.label).map(|(_, value)| value);
        // An empty value is the same as no label.
        let Some(value) = values.next().filter(|value| !value.is_empty()) else {
            return Err(AccessDenied::MissingLabel { name: name() });
        };
        let more = values.count();
        if more > 0 {
            return Err(AccessDenied::RepeatedLabel { name: name(), count: more + 1 });
        }
        if self.clusters.contains(value) {
            return Ok(());
        }
        let allowed: Vec<_> = self.clusters.iter().map(|cluster| String::from_utf8_lossy(cluster)).collect();
        Err(AccessDenied::ForeignLabel {
            name: name(),
            value: String::from_utf8_lossy(value).chars().take(120).collect(),
            allowed: allowed.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> PeerIdentity {
        text.parse().unwrap()
    }

    #[test]
    fn an_observee_serves_the_observers_it_allows_and_nobody_else() {
        let hub = identity("spiffe://mesh.example/observer/hub");
        let other = identity("spiffe://mesh.example/observer/other");
        let observee = identity("spiffe://mesh.example/observee/hub");
        let named = AllowedObservers::Named(["hub".to_owned()].into());
        assert_eq!(named.admit(Some(&hub)), Ok(()));
        assert_eq!(named.admit(Some(&other)).unwrap_err().reason(), "not_allowed");
        for rule in [&named, &AllowedObservers::Observers] {
            assert_eq!(rule.admit(None), Err(AccessDenied::NoIdentity));
            assert_eq!(rule.admit(Some(&observee)).unwrap_err().reason(), "not_an_observer");
        }
        assert_eq!(AllowedObservers::Observers.admit(Some(&other)), Ok(()));
        assert_eq!(AllowedObservers::Anybody.admit(None), Ok(()));
    }

    #[test]
    fn a_cluster_answers_with_its_own_certificate() {
        let own = identity("spiffe://mesh.example/observee/eu-1");
        assert_eq!(check_endpoint(Some(&own), "eu-1"), Ok(()));
        for wrong in [
            None,
            Some(identity("spiffe://mesh.example/observee/us-1")),
            Some(identity("spiffe://mesh.example/observer/eu-1")),
        ] {
            let denied = check_endpoint(wrong.as_ref(), "eu-1").unwrap_err();
            assert!(denied.to_string().contains("eu-1"), "{denied}");
        }
    }

    #[test]
    fn labels_of_another_cluster_are_told_apart_byte_by_byte() {
        let rule = LabelRule { label: b"cluster".to_vec(), clusters: [b"eu-1".to_vec()].into() };
        let check = |labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            rule.check(labels).map_err(|denied| denied.reason())
        };
        assert_eq!(check(&[("__name__", "up"), ("cluster", "eu-1")]), Ok(()));
        for spoofed in ["us-1", "EU-1", "eu-1 ", "eu\u{2010}1", "\u{435}u-1"] {
            assert_eq!(check(&[("cluster", spoofed)]), Err("foreign_label"), "{spoofed:?}");
        }
        assert_eq!(check(&[("cluster", "")]), Err("missing_label"));
        assert_eq!(check(&[("Cluster", "eu-1")]), Err("missing_label"));
        assert_eq!(check(&[("cluster", "eu-1"), ("cluster", "us-1")]), Err("repeated_label"));
    }
}
