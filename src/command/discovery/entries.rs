//! The entries of `--endpoint.sd-config`: Thanos' YAML, with `cluster`, `delegated`, `identity`, `authority`, `foreign_labels`, `region`, `labels`,
//! `budget`, `required`, `max_frame_size` and `max_response_size` beside it.
//!
//! A file that is no such YAML is an error as a whole. An entry that is wrong is kept with the reason: it becomes an endpoint that is down and says why.
//! Source of the format: the Thanos documentation of `endpoint.sd-config`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parallax_model::Labels;
use parallax_querier::{Declared, EndpointLimits, ForeignLabels, delegation_defect};
use serde::Deserialize;

use crate::command::side_file::{self, DurationText, SizeText};

/// Most bytes of a file.
pub const MAX_FILE_BYTES: u64 = 16 << 20;

/// The file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointFile {
    pub default_client_config: ClientConfig,
    pub endpoints: Vec<EndpointEntry>,
}

/// One endpoint, group or name to look up.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointEntry {
    pub address: String,
    pub strict: bool,
    pub group: bool,
    pub service_config: String,
    /// Instead of the default as a whole.
    pub client_config: Option<ClientConfig>,
    /// The cluster that it is declared as.
    pub cluster: Option<String>,
    /// Of a hub over several clusters, whose name `cluster` then is: those that it may answer for, and no others.
    pub delegated: Option<Vec<String>>,
    /// What a proxy in front of it routes by.
    pub authority: Option<String>,
    /// The identity to expect in its certificate, or `dns`; by default no other cluster's than the declared one's.
    pub identity: Option<String>,
    /// What becomes of labels by which it claims to be another cluster: `drop`, `inject` or `refuse`; else as for all endpoints.
    pub foreign_labels: Option<ForeignLabels>,
    /// Where it is, for people: shown in `/api/v1/stores`.
    pub region: Option<String>,
    /// Labels that all its series carry: a query that contradicts them does not concern it.
    pub labels: BTreeMap<String, String>,
    /// Longest time that one call waits for it, however long the query may take.
    pub budget: Option<DurationText>,
    /// Whether an answer that lacks any of it is an error, even where partial answers are allowed.
    pub required: bool,
    /// Largest frame of series taken from it, if not as from all.
    pub max_frame_size: Option<SizeText>,
    /// Most bytes of series taken from it in one answer, if not as from all; 0 is no limit.
    pub max_response_size: Option<SizeText>,
}

/// How to speak to an endpoint.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct ClientConfig {
    pub tls_config: Option<TlsConfig>,
    pub server_name: Option<String>,
    pub compression: Option<String>,
}

/// Setting any of these means TLS, unless `enabled` says otherwise.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    pub enabled: Option<bool>,
    pub insecure_skip_verify: bool,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub min_version: Option<String>,
}

impl TlsConfig {
    pub fn is_enabled(&self) -> bool {
        let is_set = *self != Self { enabled: self.enabled, ..Self::default() };
        self.enabled.unwrap_or(is_set)
    }
}

/// # Errors
/// What is no such YAML, with its place.
pub fn parse(text: &str) -> anyhow::Result<EndpointFile> {
    if text.trim().is_empty() {
        return Ok(EndpointFile::default());
    }
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))
}

impl EndpointEntry {
    pub fn is_dns(&self) -> bool {
        self.address.split_once('+').is_some_and(|(scheme, _)| scheme.starts_with("dns"))
    }

    pub fn declared(&self) -> Declared {
        let pairs = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Declared {
            region: self.region.clone(),
            labels: Labels::from_pairs(pairs),
            budget: self.budget.map(|budget| budget.0),
            required: self.required,
        }
    }

    pub fn limits(&self) -> EndpointLimits {
        side_file::endpoint_limits(self.max_frame_size, self.max_response_size)
    }

    /// What makes the entry unusable, whatever the world is like.
    pub fn defect(&self) -> Option<String> {
        if self.address.is_empty() {
            return Some("the address is empty".to_owned());
        }
        if self.strict && self.is_dns() {
            return Some(
                "strict is for addresses that are given, not for names to look up; every name is expected anyway"
                    .to_owned(),
            );
        }
        if let Some(delegated) = &self.delegated {
            if delegated.is_empty() {
                return Some("delegated is empty: list the clusters that it may answer for".to_owned());
            }
            if self.cluster.as_deref().unwrap_or_default().is_empty() {
                return Some(
                    "delegated needs cluster: the hub's own name, as it stands in its certificate".to_owned(),
                );
            }
            let defect = delegation_defect(delegated, self.foreign_labels.unwrap_or_default());
            if defect.is_some() {
                return defect;
            }
        }
        if let Some((name, _)) = self.labels.iter().find(|(name, value)| name.is_empty() || value.is_empty())
        {
            return Some(format!("labels: {name:?} needs a name and a value"));
        }
        if self.budget.is_some_and(|budget| budget.0.is_zero()) {
            return Some("budget is 0: there would be no time to answer".to_owned());
        }
        if self.max_frame_size.is_some_and(|size| size.0 == 0) {
            return Some("max_frame_size is 0: no series would be small enough".to_owned());
        }
        if !self.service_config.is_empty() && !self.group {
            return Some("service_config is for groups only".to_owned());
        }
        let compression = self.client_config.as_ref().and_then(|config| config.compression.as_deref());
        match compression {
            None | Some("" | "none" | "snappy" | "zstd") => None,
            Some(other) => Some(format!("compression {other:?}: use none, snappy or zstd")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thanos_yaml_is_read_with_defaults_and_overrides() {
        let file = parse(
            r#"
default_client_config:
  tls_config:
    ca_file: ca.pem
endpoints:
  - address: eu.example:10901
    strict: true
    cluster: eu-1
    delegated: [eu-1, eu-2]
    identity: spiffe://mesh.example/observee/eu-1
    foreign_labels: refuse
    region: europe
    labels: {env: prod}
    budget: 1500ms
    required: true
    max_frame_size: 1MB
    max_response_size: "0"
  - address: dns+us.example:10901
    client_config:
      tls_config:
        cert_file: a.pem
        key_file: a.key
        min_version: "1.2"
      server_name: us.internal
      compression: snappy
  - address: ap.example:10901
    group: true
    service_config: '{"loadBalancingPolicy": "round_robin"}'
    client_config: {}
"#,
        )
        .unwrap();
        assert!(file.default_client_config.tls_config.unwrap().is_enabled());
        let [eu, us, ap] = &file.endpoints[..] else { panic!("three") };
        assert!(eu.strict && eu.client_config.is_none() && eu.defect().is_none());
        assert_eq!(eu.cluster.as_deref(), Some("eu-1"));
        assert_eq!(eu.delegated.as_deref().unwrap(), ["eu-1", "eu-2"]);
        assert_eq!((eu.foreign_labels, us.foreign_labels), (Some(ForeignLabels::Refuse), None));
        assert_eq!(eu.identity.as_deref(), Some("spiffe://mesh.example/observee/eu-1"));
        let declared = eu.declared();
        assert_eq!((declared.region.as_deref(), declared.required), (Some("europe"), true));
        assert_eq!(declared.labels.value_of("env"), "prod");
        assert_eq!(declared.budget, Some(std::time::Duration::from_millis(1500)));
        assert!(us.declared().is_empty());
        let limits = EndpointLimits { frame_bytes: Some(1 << 20), response_bytes: Some(0) };
        assert_eq!((eu.limits(), us.limits()), (limits, EndpointLimits::default()));
        let config = us.client_config.as_ref().unwrap();
        assert!(us.is_dns() && config.tls_config.as_ref().unwrap().is_enabled());
        assert_eq!(config.tls_config.as_ref().unwrap().min_version.as_deref(), Some("1.2"));
        assert!(ap.group && ap.client_config.as_ref().unwrap().tls_config.is_none());
        assert!(parse("").unwrap().endpoints.is_empty());
    }

    #[test]
    fn tls_is_meant_where_anything_of_it_is_set_unless_it_is_switched_off() {
        let tls = |text: &str| parse(text).unwrap().default_client_config.tls_config.unwrap().is_enabled();
        assert!(tls("default_client_config: {tls_config: {insecure_skip_verify: true}}"));
        assert!(tls("default_client_config: {tls_config: {enabled: true}}"));
        assert!(!tls("default_client_config: {tls_config: {enabled: false, ca_file: ca.pem}}"));
        assert!(!tls("default_client_config: {tls_config: {}}"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = parse("endpoints:\n  - adress: a:1\n").unwrap_err().to_string();
        assert!(error.contains("adress"), "{error}");
        let defect = |text: &str| parse(text).unwrap().endpoints[0].defect().unwrap();
        assert!(defect("endpoints: [{address: ''}]").contains("empty"));
        assert!(defect("endpoints: [{address: dns+a:1, strict: true}]").contains("strict"));
        assert!(
            defect("endpoints: [{address: a:1, cluster: eu, delegated: []}]").contains("list the clusters")
        );
        assert!(defect("endpoints: [{address: a:1, delegated: [eu-1]}]").contains("the hub's own name"));
        assert!(
            defect("endpoints: [{address: a:1, cluster: eu, delegated: [a, b], foreign_labels: inject}]")
                .contains("drop or refuse")
        );
        assert!(defect("endpoints: [{address: a:1, labels: {env: ''}}]").contains("env"));
        assert!(defect("endpoints: [{address: a:1, budget: 0s}]").contains("budget"));
        assert!(defect("endpoints: [{address: a:1, max_frame_size: 0B}]").contains("max_frame_size"));
        assert!(defect("endpoints: [{address: a:1, service_config: x}]").contains("groups"));
        assert!(defect("endpoints: [{address: a:1, client_config: {compression: lz4}}]").contains("lz4"));
    }
}
