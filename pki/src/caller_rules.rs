//! Rules by which the callers of a server are told apart: an ordered list, of which the first that names the caller counts. Pure.
//!
//! Invariant: who is named by no rule is refused; a rule that can never count is an error when the list is made. What a rule grants is the business of whoever made it.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::access::{AccessDenied, AllowedClient};
use crate::identity::PeerIdentity;

/// Most rules of one list, and most callers that one of them names.
pub const MAX_RULES: usize = 1000;

/// Whom a rule names.
///
/// Its text is that of an [`AllowedClient`], or `anybody`: also those who show no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedCaller {
    Anybody,
    Client(AllowedClient),
}

impl NamedCaller {
    /// Whether nobody is left for `other`.
    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anybody, _) => true,
            (Self::Client(own), Self::Client(other)) => own.includes(other),
            (Self::Client(_), Self::Anybody) => false,
        }
    }
}

impl FromStr for NamedCaller {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "anybody" => Ok(Self::Anybody),
            _ => text.parse().map(Self::Client),
        }
    }
}

impl fmt::Display for NamedCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Client(client) => client.fmt(f),
        }
    }
}

/// What a rule grants, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerRule<T> {
    pub who: Vec<NamedCaller>,
    pub grants: T,
}

/// Why a list of rules cannot be used. Rules are counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallerRulesError {
    #[error("there is no rule: nobody could read anything; add one, such as for anybody")]
    Empty,
    #[error("there are more than {MAX_RULES} rules")]
    TooMany,
    #[error("rule {0} names nobody: list in who whom it is for")]
    NamesNobody(usize),
    #[error("rule {0} names more than {MAX_RULES} callers")]
    NamesTooMany(usize),
    #[error(
        "rule {rule} names {caller} after rule {earlier} did, which is the one that counts: take one of them out"
    )]
    NeverCounts { rule: usize, caller: String, earlier: usize },
}

/// The rules of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerRules<T> {
    rules: Vec<CallerRule<T>>,
}

impl<T> CallerRules<T> {
    /// # Errors
    /// If a rule can never count, or there is none.
    pub fn new(rules: Vec<CallerRule<T>>) -> Result<Self, CallerRulesError> {
        if rules.is_empty() {
            return Err(CallerRulesError::Empty);
        }
        if rules.len() > MAX_RULES {
            return Err(CallerRulesError::TooMany);
        }
        for (index, rule) in rules.iter().enumerate() {
            if rule.who.is_empty() {
                return Err(CallerRulesError::NamesNobody(index + 1));
            }
            if rule.who.len() > MAX_RULES {
                return Err(CallerRulesError::NamesTooMany(index + 1));
            }
        }
        let mut earlier: Vec<(usize, &NamedCaller)> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            for caller in &rule.who {
                if let Some((known, _)) = earlier.iter().find(|(_, known)| known.includes(caller)) {
                    let caller = caller.to_string();
                    return Err(CallerRulesError::NeverCounts { rule: index + 1, caller, earlier: *known });
                }
            }
            earlier.extend(rule.who.iter().map(|caller| (index + 1, caller)));
        }
        Ok(Self { rules })
    }

    /// What the first rule grants that names a caller with this identity; `dns_names` are those of its own certificate.
    ///
    /// # Errors
    /// If none does.
    pub fn of(
        &self,
        identity: Option<&PeerIdentity>,
        dns_names: impl FnOnce() -> Vec<String>,
    ) -> Result<&T, AccessDenied> {
        let mut dns_names = Some(dns_names);
        let mut known: Option<Vec<String>> = None;
        for rule in &self.rules {
            for caller in &rule.who {
                let is_named = match caller {
                    NamedCaller::Anybody => true,
                    NamedCaller::Client(AllowedClient::Dns(name)) => {
                        let shown = known
                            .get_or_insert_with(|| dns_names.take().map_or_else(Vec::new, |read| read()));
                        shown.contains(name)
                    }
                    NamedCaller::Client(client) => identity.is_some_and(|identity| client.covers(identity)),
                };
                if is_named {
                    return Ok(&rule.grants);
                }
            }
        }
        let who = identity.map_or_else(|| "a caller without identity".to_owned(), ToString::to_string);
        Err(AccessDenied::NoRule(who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(all: &[&[&str]]) -> Result<CallerRules<usize>, CallerRulesError> {
        let rule = |(index, who): (usize, &&[&str])| CallerRule {
            who: who.iter().map(|text| text.parse().unwrap()).collect(),
            grants: index + 1,
        };
        CallerRules::new(all.iter().enumerate().map(rule).collect())
    }

    #[test]
    fn the_first_rule_that_names_a_caller_counts() {
        let all = rules(&[&["observer/a", "dns:grafana.example"], &["observer/*"], &["anybody"]]).unwrap();
        let of = |identity: Option<&str>, dns: &[&str]| {
            let identity = identity.map(|text| text.parse::<PeerIdentity>().unwrap());
            let dns: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
            *all.of(identity.as_ref(), || dns).unwrap()
        };
        assert_eq!(of(Some("spiffe://mesh.example/observer/a"), &[]), 1);
        assert_eq!(of(Some("spiffe://mesh.example/observer/b"), &[]), 2);
        assert_eq!(of(Some("spiffe://mesh.example/ingress/a"), &[]), 3);
        assert_eq!(of(None, &["other.example", "grafana.example"]), 1);
        assert_eq!(of(None, &[]), 3);
    }

    #[test]
    fn who_is_named_by_no_rule_is_refused_by_name() {
        let all = rules(&[&["observer/a"]]).unwrap();
        let other: PeerIdentity = "spiffe://mesh.example/observer/b".parse().unwrap();
        let denied = all.of(Some(&other), Vec::new).unwrap_err();
        assert!(denied.to_string().contains("spiffe://mesh.example/observer/b"), "{denied}");
        assert_eq!(denied.reason(), "no_rule");
        assert!(all.of(None, Vec::new).unwrap_err().to_string().contains("without identity"));
    }

    #[test]
    fn lists_that_say_less_than_they_seem_to_are_errors() {
        use CallerRulesError::{Empty, NamesNobody, NeverCounts};
        let never = |rule: usize, caller: &str, earlier: usize| NeverCounts {
            rule,
            caller: caller.to_owned(),
            earlier,
        };
        assert_eq!(rules(&[]), Err(Empty));
        assert_eq!(rules(&[&["anybody"], &[]]), Err(NamesNobody(2)));
        assert_eq!(rules(&[&["anybody"], &["observer/a"]]), Err(never(2, "observer/a", 1)));
        assert_eq!(rules(&[&["a"], &["b"], &["observer/a"]]), Err(never(3, "observer/a", 1)));
        assert!(
            "observee/eu-1".parse::<NamedCaller>().is_err()
                && "everybody else".parse::<NamedCaller>().is_err()
        );
    }
}
