//! Who may see what: `--label-policy.config`, `label_policy` in a side's file, and the tenancy of a querier, as the guard at the doors of a component.
//!
//! A policy is a list of rules in order. The first that names a caller, by the identity or a DNS name of its verified certificate (or of the one that an ingress forwarded), says which series it
//! may read; one that no rule names is refused. A mistake anywhere in it keeps the component from starting: a policy that is half applied would be a leak.

use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, ensure};
use http::{Extensions, HeaderMap};
use parallax_net::PeerInfo;
use parallax_pki::{CallerRule, CallerRules, NamedCaller};
use parallax_promql::parse::parse_selector;
use parallax_querier::tenancy::{Hop, TenancyOptions, together};
use parallax_storeapi::{Caller, Guard, Hold};
use serde::Deserialize;
use tonic::Status;

use crate::flags::Values;

/// A policy as it is written.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    rules: Vec<RuleSection>,
}

/// One rule.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    /// `observer/hub`, `observer/*`, a whole SPIFFE name, `dns:name`, or `anybody`.
    who: Vec<String>,
    /// A selector of series; `{}` for all.
    may_read: String,
}

/// The label policy of one component.
#[derive(Clone, Debug)]
pub struct LabelPolicy(Arc<CallerRules<Hold>>);

impl LabelPolicy {
    /// From YAML, or JSON.
    ///
    /// # Errors
    /// Names the rule and what is wrong with it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: PolicyFile = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
        let read = |(index, section): (usize, &RuleSection)| {
            section.rule().with_context(|| format!("rule {}", index + 1))
        };
        let rules: Vec<CallerRule<Hold>> =
            file.rules.iter().enumerate().map(read).collect::<anyhow::Result<_>>()?;
        Ok(Self(Arc::new(CallerRules::new(rules)?)))
    }

    /// `--label-policy.config` and its file, if either is given.
    pub fn from_flags(values: &Values) -> anyhow::Result<Option<Self>> {
        let text = values.text_or_file("label-policy.config")?;
        text.map(|text| Self::parse(&text)).transpose().context("--label-policy.config")
    }

    /// `label_policy` of a side's file.
    pub fn from_section(section: Option<&serde_json::Value>) -> anyhow::Result<Option<Self>> {
        // JSON is YAML.
        section.map(|section| Self::parse(&section.to_string())).transpose().context("label_policy")
    }

    fn caller(&self, extensions: &Extensions) -> Result<Caller, Status> {
        let peer = extensions.get::<PeerInfo>();
        let identity = peer.and_then(|peer| peer.identity.as_ref());
        let dns_names = || peer.map(PeerInfo::dns_names).unwrap_or_default();
        let hold = self.0.of(identity, dns_names).map_err(|denied| {
            tracing::debug!(reason = denied.reason(), %denied, "a call is refused");
            Status::permission_denied(denied.to_string())
        })?;
        Ok(Caller { hold: hold.clone(), ..Caller::default() })
    }
}

impl RuleSection {
    fn rule(&self) -> anyhow::Result<CallerRule<Hold>> {
        let who: Vec<NamedCaller> =
            self.who.iter().map(|text| Ok(text.parse()?)).collect::<anyhow::Result<_>>().context("who")?;
        let selector = self.may_read.trim();
        if selector == "{}" {
            return Ok(CallerRule { who, grants: Hold::default() });
        }
        let matchers = parse_selector(selector)
            .map_err(|error| anyhow::anyhow!("may_read {selector:?}: {error}; write a selector such as {{team=\"a\"}}, or {{}} for all series"))?;
        ensure!(!matchers.is_empty(), "may_read {selector:?} names no label; write {{}} for all series");
        Ok(CallerRule { who, grants: Hold::new(matchers) })
    }
}

/// What stands at one door.
#[derive(Debug)]
struct Door {
    policy: Option<LabelPolicy>,
    tenancy: Option<(TenancyOptions, Hop)>,
}

impl Guard for Door {
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        let identity = extensions.get::<PeerInfo>().and_then(|peer| peer.identity.as_ref());
        let identity = identity.map(|identity| Arc::from(identity.to_string()));
        let mut caller = Caller { identity, ..Caller::default() };
        if let Some(policy) = &self.policy {
            caller = together(caller, policy.caller(extensions)?);
        }
        if let Some((tenancy, hop)) = &self.tenancy {
            caller = together(caller, tenancy.caller(*hop, headers, extensions)?);
        }
        Ok(caller)
    }
}

/// Of the StoreAPI, and of the HTTP API.
pub type Guards = (Arc<dyn Guard>, Arc<dyn Guard>);

/// The guards of a querier.
pub fn of_querier(policy: Option<LabelPolicy>, tenancy: TenancyOptions) -> Guards {
    let door = |hop| Door { policy: policy.clone(), tenancy: Some((tenancy.clone(), hop)) };
    (Arc::new(door(Hop::Grpc)), Arc::new(door(Hop::Http)))
}

/// A guard that may be exchanged while it stands. A call that has begun keeps what it was granted.
#[derive(Debug, Default)]
pub struct ChangingGuard(RwLock<Option<Arc<dyn Guard>>>);

impl ChangingGuard {
    /// `None` lets everybody see everything.
    pub fn set(&self, guard: Option<Arc<dyn Guard>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = guard;
    }
}

impl Guard for ChangingGuard {
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        let now = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        now.map_or_else(|| Ok(Caller::default()), |guard| guard.caller(headers, extensions))
    }
}

/// The guards of a querier whose rules may change.
#[derive(Clone, Debug, Default)]
pub struct ChangingGuards {
    pub grpc: Arc<ChangingGuard>,
    pub http: Arc<ChangingGuard>,
}

impl ChangingGuards {
    pub fn set(&self, guards: Option<Guards>) {
        let (grpc, http) = guards.unzip();
        self.grpc.set(grpc);
        self.http.set(http);
    }
}

/// The guard of a component whose HTTP API has no series.
pub fn of_store(policy: Option<LabelPolicy>) -> Option<Arc<dyn Guard>> {
    let policy = policy?;
    Some(Arc::new(Door { policy: Some(policy), tenancy: None }))
}

/// Whose queries are whose: the flags `--query.tenant-…`, or `tenancy` of an observer's file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenancySection {
    tenant_header: Option<String>,
    default_tenant_id: Option<String>,
    tenant_label_name: Option<String>,
    /// `organization`, `organizationalUnit` or `commonName`.
    tenant_certificate_field: Option<String>,
    enforce: bool,
}

impl TenancySection {
    pub fn from_flags(values: &Values) -> Self {
        Self {
            tenant_header: values.text("query.tenant-header"),
            default_tenant_id: values.text("query.default-tenant-id"),
            tenant_label_name: values.text("query.tenant-label-name"),
            tenant_certificate_field: values.text("query.tenant-certificate-field"),
            enforce: values.switch("query.enforce-tenancy"),
        }
    }

    /// # Errors
    /// Names the value that cannot be used.
    pub fn options(&self) -> anyhow::Result<TenancyOptions> {
        let defaults = TenancyOptions::default();
        let header = match &self.tenant_header {
            None => defaults.header,
            Some(name) => {
                name.parse().with_context(|| format!("tenant-header {name:?}: no name of a header"))?
            }
        };
        let label = self.tenant_label_name.clone().unwrap_or(defaults.label);
        ensure!(
            !label.is_empty() && label != "__name__",
            "tenant-label-name {label:?}: it has to be a label that says whose a series is"
        );
        let field = self.tenant_certificate_field.as_deref().filter(|field| !field.is_empty());
        let field = field.map(str::parse).transpose().context("tenant-certificate-field")?;
        Ok(TenancyOptions {
            header,
            default_tenant: self.default_tenant_id.clone().unwrap_or(defaults.default_tenant),
            label,
            certificate_field: field,
            enforce: self.enforce,
        })
    }
}

#[cfg(test)]
mod tests {
    use parallax_pki::PeerIdentity;

    use super::*;

    #[test]
    fn a_policy_grants_what_its_first_fitting_rule_says() {
        let policy = LabelPolicy::parse(
            "rules:\n- who: [observer/hub]\n  may_read: '{}'\n- who: ['observer/*', 'dns:grafana.example']\n  may_read: '{team=\"a\",secret!~\"y.*\"}'\n",
        )
        .unwrap();
        let hub = "spiffe://mesh.test/observer/hub".parse().unwrap();
        let other = "spiffe://mesh.test/observer/other".parse().unwrap();
        assert!(policy.0.of(Some(&hub), Vec::new).unwrap().is_everything());
        assert_eq!(policy.0.of(Some(&other), Vec::new).unwrap().matchers().len(), 2);
        let refused = Door { policy: Some(policy), tenancy: None }
            .caller(&HeaderMap::new(), &Extensions::new())
            .unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().contains("rule of label policies"), "{refused}");
    }

    #[test]
    fn who_comes_through_an_ingress_is_held_as_if_it_came_itself() {
        let policy = LabelPolicy::parse(
            "rules: [{who: [observer/a], may_read: '{team=\"a\"}'}, {who: [ingress/eu-1], may_read: '{team=\"none\"}'}]",
        )
        .unwrap();
        let door = Door { policy: Some(policy), tenancy: None };
        let address = "127.0.0.1:1".parse().unwrap();
        let identity = |text: &str| text.parse::<PeerIdentity>().unwrap();
        let observer = identity("spiffe://mesh.test/observer/a");
        let ingress = identity("spiffe://mesh.test/ingress/eu-1");
        let seen = |identity: &PeerIdentity, forwarded_by: Option<&PeerIdentity>| {
            let mut extensions = Extensions::new();
            let (identity, forwarded_by) = (Some(identity.clone()), forwarded_by.cloned());
            extensions.insert(PeerInfo { address, identity, certificate: None, forwarded_by });
            let caller = door.caller(&HeaderMap::new(), &extensions).unwrap();
            (caller.hold.matchers()[0].value().to_owned(), caller.identity.unwrap().to_string())
        };
        assert_eq!(
            seen(&observer, Some(&ingress)),
            ("a".to_owned(), "spiffe://mesh.test/observer/a".to_owned())
        );
        assert_eq!(seen(&ingress, None).0, "none");
    }

    #[test]
    fn mistakes_are_named_with_their_rule() {
        for (text, parts) in [
            ("rules: []", vec!["no rule"]),
            ("rule: []", vec!["rule"]),
            ("rules: [{who: [], may_read: '{}'}]", vec!["rule 1", "nobody"]),
            ("rules: [{who: [anybody], may_read: 'team=a'}]", vec!["rule 1", "may_read"]),
            ("rules: [{who: [anybody], may_read: ''}]", vec!["rule 1", "may_read"]),
            ("rules: [{who: [anybody], may_read: '{team=~\"(\"}'}]", vec!["rule 1", "may_read"]),
            (
                "rules: [{who: [anybody], may_read: '{}'}, {who: [hub], may_read: '{}'}]",
                vec!["rule 2", "hub", "rule 1"],
            ),
            ("rules: [{who: [observee/eu-1], may_read: '{}'}]", vec!["rule 1", "who", "observee/eu-1"]),
            ("rules: [{who: [anybody], may_read: '{}', may_write: '{}'}]", vec!["may_write"]),
        ] {
            let told = format!("{:#}", LabelPolicy::parse(text).unwrap_err());
            for part in parts {
                assert!(told.contains(part), "{text}: {told}");
            }
        }
    }
}
