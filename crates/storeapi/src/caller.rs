//! Who asks, and what they are held to: matchers that whatever they read has to satisfy.
//!
//! Invariant: a caller that is held sees nothing that its matchers do not admit, whatever it asks, and whichever service it asks. What that means for each of them
//! is in `held.rs`.
//!
//! Who a caller is, is settled by a [`Guard`] from what came with the request: the identity of its connection, and headers. Certificates and files of rules are not known here.

use std::fmt;
use std::sync::Arc;

use parallax_model::{Labels, Matcher};
use tonic::codegen::http::HeaderMap;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Extensions, Request, Status};

use crate::held::Held;
use crate::proto::thanos::{Label, LabelMatcher, ZLabelSet};
use crate::{Store, labels, matchers};

/// The gRPC metadata that carries a tenant through queriers. Source: Thanos, `pkg/tenancy`.
pub const TENANT_HEADER: &str = "thanos-tenant";

/// Matchers that all have to match. By default there are none, and everything may be seen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hold {
    matchers: Arc<[Matcher]>,
    /// How many of them, from the first on, do not depend on what a request says: those that are not a tenant's.
    standing: usize,
    /// Of a hold that is a tenant's and nothing else.
    tenant: Option<Arc<str>>,
}

impl Hold {
    pub fn new(matchers: Vec<Matcher>) -> Self {
        Self { standing: matchers.len(), matchers: matchers.into(), tenant: None }
    }

    /// To the series whose `label` is `tenant`.
    pub fn of_tenant(label: &str, tenant: &str) -> Self {
        let matchers = Arc::new([Matcher::equal(label, tenant)]);
        Self { matchers, standing: 0, tenant: Some(tenant.into()) }
    }

    /// To both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        if self.is_everything() {
            return other.clone();
        }
        if other.is_everything() {
            return self.clone();
        }
        let (standing, tenants) = (self.standing().iter().chain(other.standing()), self.of_tenants());
        let matchers = standing.chain(tenants).chain(other.of_tenants()).cloned().collect();
        Self { matchers, standing: self.standing + other.standing, tenant: None }
    }

    fn standing(&self) -> &[Matcher] {
        self.matchers.get(..self.standing).unwrap_or_default()
    }

    fn of_tenants(&self) -> &[Matcher] {
        self.matchers.get(self.standing..).unwrap_or_default()
    }

    /// Whether nothing is held back.
    pub fn is_everything(&self) -> bool {
        self.matchers.is_empty()
    }

    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    pub(crate) fn to_wire(&self) -> Vec<LabelMatcher> {
        matchers::to_wire(&self.matchers)
    }

    /// Whether what has these labels, in any order, may be seen. Of a name that stands there twice both values have to match, and what is no text is admitted by nobody.
    pub fn admits(&self, labels: &[Label]) -> bool {
        self.matchers.iter().all(|matcher| {
            let mut values = labels.iter().filter(|label| label.name == matcher.name().as_bytes()).peekable();
            if values.peek().is_none() {
                return matcher.matches("");
            }
            values.all(|label| std::str::from_utf8(&label.value).is_ok_and(|value| matcher.matches(value)))
        })
    }

    /// The same, of labels that may be absent as a whole.
    pub(crate) fn admits_set(&self, set: Option<&ZLabelSet>) -> bool {
        self.admits(set.map_or(&[], |set| &set.labels))
    }

    /// Whether `value` is one that `label` can have in what may be seen.
    pub(crate) fn admits_value(&self, label: &str, value: &str) -> bool {
        self.matchers.iter().filter(|matcher| matcher.name() == label).all(|matcher| matcher.matches(value))
    }

    /// Whether a store with these external labels may hold something that is seen.
    pub fn may_be_in(&self, external: &Labels) -> bool {
        !matchers::contradicts(&self.matchers, external)
    }

    /// Whether the caller may know that there is a store with these external labels. Who polls a querier does so for all its tenants.
    pub(crate) fn may_know_of(&self, set: &ZLabelSet) -> bool {
        labels::set_from_wire(set).is_ok_and(|set| !matchers::contradicts(self.standing(), &set))
    }

    /// Takes the labels out of `names` that it has matchers on.
    pub(crate) fn take_named(&self, names: &mut Vec<String>) -> Vec<String> {
        let is_named = |name: &String| self.matchers.iter().any(|matcher| matcher.name() == name);
        let (named, others) = std::mem::take(names).into_iter().partition(is_named);
        *names = others;
        named
    }
}

/// Whoever sent a request. By default nobody in particular, who may see everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Caller {
    pub hold: Hold,
    /// Passed on to the stores beneath.
    pub tenant: Option<Arc<str>>,
    /// Its verified name, for whoever looks at what runs.
    pub identity: Option<Arc<str>>,
}

impl Caller {
    /// `store` as this caller sees it.
    pub fn over(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        if self.hold.is_everything() && self.tenant.is_none() {
            return store;
        }
        Arc::new(Held::new(store, self.clone()))
    }

    /// Says in `request` who asks: in its metadata to those beneath, in its extensions to those of this process.
    pub fn sign<T>(&self, request: &mut Request<T>) {
        // A tenant that no header can carry is still held to its own.
        if let Some(value) =
            self.tenant.as_deref().and_then(|tenant| AsciiMetadataValue::try_from(tenant).ok())
        {
            request.metadata_mut().insert(TENANT_HEADER, value);
        }
        request.extensions_mut().insert(self.clone());
    }
}

/// Settles who sent a request.
pub trait Guard: fmt::Debug + Send + Sync + 'static {
    /// From its headers, and what the server knows of its connection.
    ///
    /// # Errors
    /// `PermissionDenied` for one who may see nothing at all, `InvalidArgument` for a tenant that cannot be one.
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status>;
}

/// A store with a guard at its door.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub store: Arc<dyn Store>,
    pub guard: Option<Arc<dyn Guard>>,
}

impl Entrance {
    /// The store as whoever sent `request` sees it.
    pub fn admit<T>(&self, request: &mut Request<T>) -> Result<Arc<dyn Store>, Status> {
        let Some(guard) = &self.guard else { return Ok(Arc::clone(&self.store)) };
        let caller = guard.caller(request.metadata().as_ref(), request.extensions())?;
        caller.sign(request);
        Ok(caller.over(Arc::clone(&self.store)))
    }
}

#[cfg(test)]
mod tests {
    use parallax_model::MatchOp;

    use super::*;

    fn wire(pairs: &[(&'static str, &'static str)]) -> Vec<Label> {
        pairs.iter().map(|(name, value)| Label { name: (*name).into(), value: (*value).into() }).collect()
    }

    #[test]
    fn what_is_absent_counts_as_empty_and_what_is_there_twice_has_to_match_twice() {
        let hold = Hold::new(vec![
            Matcher::equal("team", "a"),
            Matcher::new(MatchOp::NotEqual, "secret", "yes").unwrap(),
        ]);
        assert!(hold.admits(&wire(&[("team", "a")])));
        assert!(hold.admits(&wire(&[("secret", "no"), ("team", "a")])));
        for refused in [
            wire(&[]),
            wire(&[("team", "b")]),
            wire(&[("secret", "yes"), ("team", "a")]),
            wire(&[("team", "a"), ("team", "b")]),
            wire(&[("team", "b"), ("team", "a")]),
            vec![Label { name: "team".into(), value: bytes::Bytes::from_static(b"\xff") }],
        ] {
            assert!(!hold.admits(&refused), "{refused:?}");
        }
        assert!(Hold::default().admits(&wire(&[("team", "b")])));
    }

    #[test]
    fn a_hold_of_two_is_of_both_and_no_longer_a_tenants_alone() {
        let (tenant, policy) =
            (Hold::of_tenant("tenant_id", "t"), Hold::new(vec![Matcher::equal("team", "a")]));
        let both = policy.and(&tenant);
        assert!(both.admits(&wire(&[("team", "a"), ("tenant_id", "t")])));
        assert!(!both.admits(&wire(&[("team", "a")])) && !both.admits(&wire(&[("tenant_id", "t")])));
        assert_eq!((tenant.tenant(), both.tenant()), (Some("t"), None));
        for (hold, known) in [(&tenant, true), (&tenant.and(&policy), false), (&both, false)] {
            let set = ZLabelSet { labels: wire(&[("team", "b"), ("tenant_id", "other")]) };
            assert_eq!(hold.may_know_of(&set), known, "{hold:?}");
        }
        assert_eq!(Hold::default().and(&tenant), tenant);
        assert_eq!(tenant.and(&Hold::default()), tenant);
    }
}
