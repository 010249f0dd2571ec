//! One cluster of the observer's file: what it has to say, whether that makes sense, and the endpoint that comes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_model::Labels;
use parallax_net::{ClientTls, GrpcTarget};
use parallax_pki::CredentialSource;
use parallax_querier::{
    Alternatives, Connection, Declared, EndpointConfig, ForeignLabels, Hedge, delegation_defect,
};
use serde::{Deserialize, Deserializer};

use super::file::ObserverFile;
use crate::command::discovery;
use crate::command::side_file::{self, DurationText, SizeText};
use crate::command::tls::{self, TlsFiles};

/// Most endpoints that serve the same cluster.
const MAX_ENDPOINTS: usize = 8;
/// Of the time that a cluster may be silent, a second endpoint is asked before one part in this many is over.
const HEDGE_SHARE: u32 = 4;

/// One expected cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// The value of the `cluster` label of its series.
    pub name: String,
    /// Of a hub over several clusters, whose name is `name`: those that it may answer for, and no others.
    pub delegated: Option<Vec<String>>,
    /// Where it is, for people: shown in `/api/v1/stores`.
    region: Option<String>,
    /// Labels that all its series carry beside `cluster`: a query that contradicts them does not concern it.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Whether an answer that lacks any of it is an error, even where partial answers are allowed.
    #[serde(default)]
    required: bool,
    /// Longest time that one call waits for it, however long the query may take.
    budget: Option<DurationText>,
    /// host:port of its ingress; none for a cluster that is no more, whose history is still asked for.
    address: Option<String>,
    /// Further endpoints that serve the same data, in the order of preference.
    #[serde(default)]
    endpoints: Vec<OtherEndpoint>,
    /// After which silence the next endpoint is asked, too, instead of what 95 of the last hundred answers took to begin.
    hedge_delay: Option<DurationText>,
    /// The name to expect in the ingress' certificate, if it is not the host of the address.
    server_name: Option<String>,
    /// The identity to expect there, such as `spiffe://mesh.example/observee/eu-1`, whatever names the certificate has; or `dns`, for a certificate with the
    /// name whoever it identifies. By default the name, and no other cluster's identity.
    identity: Option<String>,
    /// Of calls to it: `none`, `snappy`, or `zstd` where it is one of ours.
    compression: Option<String>,
    /// As that of the file, for this cluster.
    foreign_labels: Option<ForeignLabels>,
    /// What the ingress routes by, if it is not the address.
    authority: Option<String>,
    pub tls: Option<TlsFiles>,
    /// Set for a cluster that speaks plain text; otherwise a cluster without certificates is an error.
    #[serde(default)]
    pub plaintext: bool,
    /// Largest frame of series taken from it, if not as from all (`max_frame_size` of the file).
    max_frame_size: Option<SizeText>,
    /// Most bytes of series taken from it in one answer, instead of 16 GiB; 0 is no limit.
    max_response_size: Option<SizeText>,
    /// Thanos' objstore YAML of the cluster's bucket.
    bucket: Option<serde_json::Value>,
    /// The same as a file, for a document that holds keys.
    bucket_file: Option<PathBuf>,
}

/// `host:port`, or with a server name and an authority of its own; without them, the cluster's.
#[derive(Clone, Debug, PartialEq)]
struct OtherEndpoint {
    address: String,
    server_name: Option<String>,
    authority: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointSection {
    address: String,
    server_name: Option<String>,
    authority: Option<String>,
}

impl<'de> Deserialize<'de> for OtherEndpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if let serde_json::Value::String(address) = value {
            return Ok(Self { address, server_name: None, authority: None });
        }
        let section: EndpointSection = serde_json::from_value(value)
            .map_err(|error| serde::de::Error::custom(format!("endpoints: {error}")))?;
        let EndpointSection { address, server_name, authority } = section;
        Ok(Self { address, server_name, authority })
    }
}

impl ClusterSection {
    /// Whether it makes sense, in `file`. Errors name the key.
    pub fn check(&self, file: &ObserverFile) -> anyhow::Result<()> {
        let name = &self.name;
        ensure!(
            !name.contains(['/', '\\', '\0']) && name != "." && name != "..",
            "the name {name:?} is no valid one"
        );
        let buckets = usize::from(self.bucket.is_some()) + usize::from(self.bucket_file.is_some());
        ensure!(buckets < 2, "give bucket or bucket_file, not both");
        ensure!(
            self.is_reached() || buckets > 0,
            "give its address, or its bucket if only its history is left"
        );
        if let Some(delegated) = &self.delegated {
            ensure!(!delegated.is_empty(), "delegated is empty: list the clusters that it may answer for");
            let mode = self.foreign_labels.unwrap_or(file.foreign_labels);
            if let Some(defect) = delegation_defect(delegated, mode) {
                bail!("{defect}");
            }
        }
        tls::expected_server(self.identity.as_deref(), None)?;
        ensure!(
            self.identity.is_none() || !self.plaintext,
            "an identity is given, but plaintext: true has no certificate to find it in"
        );
        ensure!(
            self.tls.is_some() || file.tls.is_some() || self.plaintext || !self.is_reached(),
            "no certificates; set tls (for all clusters, or this one), or plaintext: true"
        );
        discovery::compression(self.compression.as_deref()).context("compression")?;
        self.check_declared(file)?;
        self.check_endpoints(file)
    }

    fn check_declared(&self, file: &ObserverFile) -> anyhow::Result<()> {
        ensure!(self.region.as_deref() != Some(""), "region is empty: leave it out");
        ensure!(
            self.max_frame_size.is_none_or(|size| size.0 > 0),
            "max_frame_size is 0: no series would be small enough"
        );
        for (label, value) in &self.labels {
            ensure!(!label.is_empty() && label != "__name__", "labels: {label:?} is no label of a cluster");
            ensure!(!value.is_empty(), "labels: {label} is empty, which is the same as not to have it");
            ensure!(
                *label != file.cluster_label,
                "labels: {label} is what tells clusters apart, and name says it"
            );
            ensure!(
                !file.replica_labels.contains(label),
                "labels: {label} is one of replica_labels, which are not the same in all series of a cluster"
            );
        }
        if let Some(DurationText(budget)) = self.budget {
            ensure!(!budget.is_zero(), "budget is 0: there would be no time to answer");
            let timeout = file.query_timeout();
            ensure!(
                budget <= timeout,
                "budget: {budget:?} is longer than query_timeout ({timeout:?}), and would not count"
            );
        }
        Ok(())
    }

    fn check_endpoints(&self, file: &ObserverFile) -> anyhow::Result<()> {
        let all = self.all_endpoints();
        ensure!(
            all.len() <= MAX_ENDPOINTS,
            "endpoints: {} with address, and at most {MAX_ENDPOINTS} are used",
            all.len()
        );
        for (index, endpoint) in all.iter().enumerate() {
            ensure!(!endpoint.address.is_empty(), "endpoints: an address is empty");
            let is_double = all.iter().take(index).any(|other| other == endpoint);
            ensure!(!is_double, "endpoints: {} stands there twice (address counts, too)", endpoint.address);
        }
        if let Some(DurationText(delay)) = self.hedge_delay {
            ensure!(all.len() > 1, "hedge_delay: there is one endpoint, and no other to ask");
            let silence = self.silence(file);
            ensure!(
                delay < silence,
                "hedge_delay: {delay:?} is no shorter than the {silence:?} after which the cluster is given up (budget, response_timeout)"
            );
        }
        Ok(())
    }

    /// Whether there is anything to dial.
    pub fn is_reached(&self) -> bool {
        self.address.is_some() || !self.endpoints.is_empty()
    }

    /// How long it may be silent.
    fn silence(&self, file: &ObserverFile) -> Duration {
        let budget = self.budget.map_or(Duration::MAX, |budget| budget.0);
        file.response_timeout().min(budget)
    }

    /// Its endpoints, the preferred one first.
    fn all_endpoints(&self) -> Vec<OtherEndpoint> {
        let own = |address: &String| OtherEndpoint {
            address: address.clone(),
            server_name: self.server_name.clone(),
            authority: self.authority.clone(),
        };
        let others = self.endpoints.iter().map(|other| OtherEndpoint {
            address: other.address.clone(),
            server_name: other.server_name.clone().or_else(|| self.server_name.clone()),
            authority: other.authority.clone().or_else(|| self.authority.clone()),
        });
        self.address.iter().map(own).chain(others).collect()
    }

    /// The clusters whose labels it has to carry.
    pub fn expected(&self) -> Vec<String> {
        self.delegated.clone().unwrap_or_else(|| vec![self.name.clone()])
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

    /// `endpoint` held to what this section says.
    pub fn declare(&self, endpoint: EndpointConfig) -> EndpointConfig {
        endpoint
            .with_cluster(self.name.as_str())
            .with_delegated(self.delegated.as_deref().unwrap_or_default())
            .with_foreign_labels(self.foreign_labels)
            .with_declared(self.declared())
    }

    /// The querier of the cluster, in this process: what may take long is beneath it, and the budget is kept there.
    pub fn declare_querier(&self, endpoint: EndpointConfig) -> EndpointConfig {
        let endpoint = self.declare(endpoint);
        let declared = Declared { budget: None, ..self.declared() };
        endpoint.with_declared(declared)
    }

    /// The objstore document, wherever it stands.
    pub fn bucket_yaml(&self) -> anyhow::Result<Option<String>> {
        match (&self.bucket, &self.bucket_file) {
            (Some(section), _) => Ok(Some(section.to_string())),
            (None, Some(path)) => {
                std::fs::read_to_string(path).with_context(|| path.display().to_string()).map(Some)
            }
            (None, None) => Ok(None),
        }
    }

    /// What to dial, the preferred endpoint first; `source` are the certificates to show.
    pub fn targets(&self, source: Option<&CredentialSource>) -> anyhow::Result<Vec<GrpcTarget>> {
        let source = source.filter(|_| !self.plaintext);
        let target = |endpoint: OtherEndpoint| {
            let expected = tls::expected_server(self.identity.as_deref(), Some(&self.name))?;
            let tls = source.map(|source| ClientTls {
                source: source.clone(),
                server_name: endpoint.server_name,
                expected,
            });
            Ok(GrpcTarget {
                tls,
                authority: endpoint.authority,
                compression: discovery::compression(self.compression.as_deref())?,
                ..GrpcTarget::plain(endpoint.address)
            })
        };
        self.all_endpoints().into_iter().map(target).collect()
    }

    /// The endpoint of its querier; `None` for a cluster of which only the history is left. `own_or_hub` are the files of `source`.
    pub fn remote(
        &self,
        file: &ObserverFile,
        source: Option<&CredentialSource>,
        own_or_hub: Option<&TlsFiles>,
    ) -> anyhow::Result<Option<EndpointConfig>> {
        let mut targets = self.targets(source)?;
        for target in &targets {
            // Connects when it is used: this only says whether it could be.
            parallax_net::connect(target)?;
        }
        let name = targets.iter().map(|target| target.address.as_str()).collect::<Vec<_>>().join(",");
        let share = self.silence(file) / HEDGE_SHARE;
        let given = self.hedge_delay.map(|delay| delay.0);
        let delay = given.or(file.hedge_delay.map(|delay| delay.0.min(share)));
        // One that is given for the cluster may be as late as it says.
        let hedge = Hedge { delay, max_delay: given.map_or(share, |given| given.max(share)) };
        let connection = match targets.len() {
            0 => return Ok(None),
            1 => Connection::Remote(targets.remove(0)),
            _ => {
                let member = |target: GrpcTarget| (target.address.clone(), Connection::Remote(target));
                let members = targets.into_iter().map(member).collect();
                Connection::Alternatives(Alternatives { members, hedge })
            }
        };
        let (endpoints, files) = (self.all_endpoints(), own_or_hub.filter(|_| !self.plaintext));
        let (identity, compression) = (&self.identity, &self.compression);
        let how = format!("{endpoints:?} {files:?} {identity:?} {compression:?} {hedge:?}");
        let limits = side_file::endpoint_limits(self.max_frame_size, self.max_response_size);
        Ok(Some(self.declare(EndpointConfig::new(name, connection)).with_limits(limits).with_revision(how)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cluster: &str) -> String {
        let text = format!("replica_labels: [r]\nclusters: [{{name: eu-1, plaintext: true, {cluster}}}]");
        let file: ObserverFile = serde_saphyr::from_str(&text).unwrap();
        format!("{:#}", file.check().unwrap_err())
    }

    #[test]
    fn what_contradicts_itself_is_refused_by_cluster_and_key() {
        for (cluster, part) in [
            ("address: 'a:1', region: ''", "region is empty"),
            ("address: 'a:1', labels: {cluster: x}", "labels: cluster is what tells clusters apart"),
            ("address: 'a:1', labels: {r: x}", "labels: r is one of replica_labels"),
            ("address: 'a:1', labels: {env: ''}", "labels: env is empty"),
            ("address: 'a:1', budget: 0s", "budget is 0"),
            ("address: 'a:1', max_frame_size: 0B", "max_frame_size is 0"),
            ("address: 'a:1', budget: 5m", "budget: 300s is longer than query_timeout"),
            ("address: 'a:1', endpoints: ['a:1']", "a:1 stands there twice"),
            ("endpoints: ['b:1', {address: 'b:1'}]", "b:1 stands there twice"),
            ("endpoints: ['']", "an address is empty"),
            ("address: 'a:1', hedge_delay: 1s", "hedge_delay: there is one endpoint"),
            (
                "endpoints: ['a:1', 'b:1'], hedge_delay: 2s, budget: 1s",
                "hedge_delay: 2s is no shorter than the 1s",
            ),
            ("endpoints: ['1:1','2:1','3:1','4:1','5:1','6:1','7:1','8:1','9:1']", "at most 8 are used"),
            ("address: 'a:1', compression: lz4", "lz4"),
            ("required: true", "give its address"),
        ] {
            let said = refusal(cluster);
            assert!(said.starts_with("cluster eu-1: ") && said.contains(part), "{cluster}: {said}");
        }
    }

    #[test]
    fn endpoints_take_names_from_the_cluster_unless_they_have_their_own() {
        let text = "clusters: [{name: eu-1, plaintext: true, address: 'a:1', server_name: n, authority: x,
            endpoints: ['b:1', {address: 'b:1', authority: z}]}]";
        let file: ObserverFile = serde_saphyr::from_str(text).unwrap();
        file.check().unwrap();
        let all = file.clusters[0].all_endpoints();
        let authority = |index: usize| all[index].authority.as_deref().unwrap();
        assert_eq!([authority(0), authority(1), authority(2)], ["x", "x", "z"]);
        assert!(all.iter().all(|endpoint| endpoint.server_name.as_deref() == Some("n")));
        let unknown = serde_saphyr::from_str::<ObserverFile>(
            "clusters: [{name: eu-1, endpoints: [{address: 'b:1', autority: z}]}]",
        );
        assert!(unknown.unwrap_err().to_string().contains("autority"));
    }

    #[tokio::test]
    async fn whatever_changes_how_a_cluster_is_reached_changes_its_revision() {
        let revision = |cluster: &str| {
            let text = format!("clusters: [{{name: eu-1, plaintext: true, {cluster}}}]");
            let file: ObserverFile = serde_saphyr::from_str(&text).unwrap();
            let remote = file.clusters[0].remote(&file, None, None).unwrap().unwrap();
            (remote.name, remote.revision, remote.declared, remote.limits)
        };
        let plain = revision("address: 'a:1'");
        assert_eq!(plain, revision("address: 'a:1'"));
        for other in [
            "address: 'b:1'",
            "address: 'a:1', endpoints: ['b:1']",
            "address: 'a:1', authority: x",
            "address: 'a:1', server_name: x",
            "address: 'a:1', compression: snappy",
            "address: 'a:1', budget: 1s",
            "address: 'a:1', required: true",
            "address: 'a:1', max_frame_size: 1MB",
            "address: 'a:1', max_response_size: 1MB",
            "address: 'a:1', region: eu",
            "address: 'a:1', labels: {env: prod}",
        ] {
            assert_ne!(plain, revision(other), "{other}");
        }
        assert_eq!(revision("endpoints: ['a:1', 'b:1']").0, "a:1,b:1");
    }
}
