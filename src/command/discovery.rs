//! Where a querier's endpoints come from: flags, `--endpoint.sd-config`, and names that are looked up again and again.
//!
//! Invariants:
//! - What once worked stays in use: a file that turns bad and a name that no longer resolves leave what was known, and show as a problem in `/api/v1/stores`
//!   and in metrics until they are well again.
//! - An entry that cannot be used is an endpoint that is down, with the reason; a name that never resolved is one, too. Nothing is only logged.

mod credentials;
mod entries;
mod names;
mod target_files;
mod watched_file;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parallax_net::discovery::{DnsName, LookupMetrics, Target};
use parallax_net::{ClientTls, Compression, Context, GrpcTarget, watch_credentials};
use parallax_pki::CredentialSource;
use parallax_querier::{Connection, EndpointConfig, EndpointSet, Problem};

use super::tls;
use crate::flags::Values;
use credentials::Credentials;
use entries::{ClientConfig, EndpointEntry};
use names::Names;
use target_files::TargetFiles;
use watched_file::WatchedFile;

/// How often the file is looked at, and names whose time has come are looked up.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How soon entries are tried again whose certificates could not be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// See the module.
pub struct Discovery {
    context: Context,
    given: Vec<EndpointEntry>,
    file: Option<WatchedFile>,
    target_files: TargetFiles,
    names: Names,
    credentials: Credentials,
    /// Of `--grpc-client-*`, for entries that say nothing of their own.
    global: GlobalClient,
    has_unusable: bool,
}

struct GlobalClient {
    credentials: Option<CredentialSource>,
    server_name: Option<String>,
    compression: Option<Compression>,
}

impl Discovery {
    /// # Errors
    /// If the file is none at the start, or a flag is wrong.
    pub fn from_flags(values: &Values, context: &Context) -> anyhow::Result<Self> {
        let credentials = tls::grpc_client(values)?;
        if let Some(source) = &credentials {
            watch_credentials(&context.metrics, "grpc_client", source);
        }
        let given = given(values)?;
        let path = values.path("endpoint.sd-config-file");
        let file = values
            .text_or_file("endpoint.sd-config")?
            .map(|text| WatchedFile::new(path, text).context("--endpoint.sd-config"))
            .transpose()?;
        let mut discovery = Self {
            context: context.clone(),
            given: Vec::new(),
            file,
            target_files: TargetFiles::new(&values.list("store.sd-files")).context("--store.sd-files")?,
            names: Names::new(
                values.duration("store.sd-dns-interval"),
                LookupMetrics::register(&context.metrics),
            ),
            credentials: Credentials::default(),
            global: GlobalClient {
                credentials,
                server_name: values.text("grpc-client-server-name"),
                compression: compression(values.text("grpc-compression").as_deref())
                    .context("--grpc-compression")?,
            },
            has_unusable: false,
        };
        for entry in given.iter().filter(|entry| dns_name(entry).is_none()) {
            // What is wrong with a flag is said at once.
            discovery.connections(entry, None).with_context(|| format!("endpoint {:?}", entry.address))?;
        }
        discovery.given = given;
        Ok(discovery)
    }

    /// The endpoints now.
    pub async fn look(&mut self) -> (Vec<EndpointConfig>, Vec<Problem>) {
        self.look_up().await;
        self.assemble()
    }

    /// Goes on looking until the context shuts down, if there is anything that may change.
    pub async fn follow(mut self, set: Arc<EndpointSet>) {
        let follows_file =
            self.target_files.is_used() || self.file.as_ref().is_some_and(WatchedFile::may_change);
        if !follows_file
            && !self.entries().iter().any(|(entry, _)| dns_name(entry).is_some())
            && !self.has_unusable
        {
            return;
        }
        let shutdown = self.context.shutdown.clone();
        let following = async {
            let mut assembled = Instant::now();
            let mut ticks = tokio::time::interval(LOOK_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let file_changed = match &mut self.file {
                    Some(file) => file.look().await,
                    None => false,
                };
                let file_changed = self.target_files.look().await || file_changed;
                let names_changed = self.look_up().await;
                let tries_again = self.has_unusable && assembled.elapsed() >= RETRY_INTERVAL;
                if file_changed || names_changed || tries_again {
                    let (configs, problems) = self.assemble();
                    set.replace(configs, problems);
                    assembled = Instant::now();
                }
            }
        };
        shutdown.run_until_cancelled(following).await;
    }

    /// All entries, each with the file's default for clients.
    fn entries(&self) -> Vec<(EndpointEntry, Option<ClientConfig>)> {
        let given = self.given.iter().map(|entry| (entry.clone(), None));
        let file = self.file.iter().flat_map(|file| {
            let default = Some(&file.good().default_client_config);
            let default = default.filter(|config| **config != ClientConfig::default());
            file.good().endpoints.iter().map(move |entry| (entry.clone(), default.cloned()))
        });
        let listed = self.target_files.entries().into_iter().map(|entry| (entry, None));
        given.chain(file).chain(listed).collect()
    }

    async fn look_up(&mut self) -> bool {
        let wanted: BTreeSet<DnsName> =
            self.entries().iter().filter_map(|(entry, _)| dns_name(entry)?.ok()).collect();
        self.names.look_up(wanted).await
    }

    fn assemble(&mut self) -> (Vec<EndpointConfig>, Vec<Problem>) {
        let mut problems: Vec<Problem> = self.file.iter().filter_map(WatchedFile::problem).collect();
        problems.extend(self.target_files.problems());
        problems.extend(self.names.problems());
        let mut configs: Vec<EndpointConfig> = Vec::new();
        for (entry, default) in self.entries() {
            for config in self.configs(&entry, default.as_ref()) {
                let known = configs.iter().find(|known| known.name == config.name);
                match known {
                    None => configs.push(config),
                    // Two names may stand for one server: that is no mistake of anybody.
                    Some(known)
                        if dns_name(&entry).is_some()
                            && (&known.cluster, &known.delegated) == (&config.cluster, &config.delegated)
                            && known.declared == config.declared
                            && known.limits == config.limits => {}
                    Some(_) => {
                        let error = "this endpoint is given twice; its first entry is used".to_owned();
                        problems.push(Problem { source: config.name, error });
                    }
                }
            }
        }
        self.has_unusable = configs.iter().any(|config| matches!(config.connection, Connection::Unusable(_)));
        (configs, problems)
    }

    /// The endpoints of one entry: several for a name that stands for several servers.
    fn configs(&mut self, entry: &EndpointEntry, default: Option<&ClientConfig>) -> Vec<EndpointConfig> {
        match self.connections(entry, default) {
            Ok(connections) => connections
                .into_iter()
                .map(|(name, revision, connection)| configured(entry, name, revision, connection))
                .collect(),
            Err(error) => {
                let reason = format!("{error:#}");
                let name = if entry.address.is_empty() { "(no address)" } else { &entry.address };
                vec![configured(entry, name.to_owned(), reason.clone(), Connection::Unusable(reason))]
            }
        }
    }

    fn connections(
        &mut self,
        entry: &EndpointEntry,
        default: Option<&ClientConfig>,
    ) -> anyhow::Result<Vec<(String, String, Connection)>> {
        if let Some(defect) = entry.defect() {
            bail!(defect);
        }
        let client = entry.client_config.as_ref().or(default);
        let found = match dns_name(entry) {
            None => {
                let host = entry.address.rsplit_once(':').map_or("", |(host, _)| host);
                vec![Target { address: entry.address.clone(), host: host.to_owned() }]
            }
            Some(name) => self.names.known(&name?).map_err(anyhow::Error::msg)?,
        };
        let targets = found
            .iter()
            .map(|found| self.target(entry, client, found))
            .collect::<anyhow::Result<Vec<GrpcTarget>>>()?;
        let how = format!("{client:?} {:?} {:?}", entry.authority, entry.identity);
        if entry.group {
            let members: Vec<&str> = found.iter().map(|found| found.address.as_str()).collect();
            let revision = format!("{how} {}", members.join(" "));
            return Ok(vec![(entry.address.clone(), revision, Connection::Group(targets))]);
        }
        let one = |target: GrpcTarget| (target.address.clone(), how.clone(), Connection::Remote(target));
        Ok(targets.into_iter().map(one).collect())
    }

    fn target(
        &mut self,
        entry: &EndpointEntry,
        client: Option<&ClientConfig>,
        found: &Target,
    ) -> anyhow::Result<GrpcTarget> {
        let (credentials, server_name, compression) = match client {
            None => {
                (self.global.credentials.clone(), self.global.server_name.clone(), self.global.compression)
            }
            Some(client) => {
                let tls = client.tls_config.as_ref().filter(|tls| tls.is_enabled());
                let source = tls.map(|tls| self.credentials.of(tls, &self.context)).transpose()?;
                (source, client.server_name.clone(), compression(client.compression.as_deref())?)
            }
        };
        // What was found under a name has a certificate for that name, not for an address.
        let is_by_name = dns_name(entry).is_some();
        let server_name =
            server_name.filter(|name| !name.is_empty()).or_else(|| is_by_name.then(|| found.host.clone()));
        let expected = tls::expected_server(entry.identity.as_deref(), entry.cluster.as_deref())?;
        ensure!(
            credentials.is_some() || entry.identity.is_none(),
            "an identity is given, but the connection would be plain text: give its tls_config"
        );
        let target = GrpcTarget {
            tls: credentials.map(|source| ClientTls { source, server_name, expected }),
            authority: entry.authority.clone(),
            compression,
            ..GrpcTarget::plain(found.address.as_str())
        };
        // Connects when it is used, and is not: this only says whether it could be.
        parallax_net::connect(&target)?;
        Ok(target)
    }
}

fn configured(
    entry: &EndpointEntry,
    name: String,
    revision: String,
    connection: Connection,
) -> EndpointConfig {
    EndpointConfig {
        cluster: entry.cluster.clone().filter(|cluster| !cluster.is_empty()),
        delegated: entry.delegated.clone().unwrap_or_default(),
        foreign_labels: entry.foreign_labels,
        strict: entry.strict,
        group: entry.group,
        declared: entry.declared(),
        limits: entry.limits(),
        revision,
        ..EndpointConfig::new(name, connection)
    }
}

pub fn compression(name: Option<&str>) -> anyhow::Result<Option<Compression>> {
    match name {
        None | Some("" | "none") => Ok(None),
        Some("snappy") => Ok(Some(Compression::Snappy)),
        Some("zstd") => Ok(Some(Compression::Zstd)),
        Some(other) => bail!("compression {other:?}: use none, snappy or zstd"),
    }
}

/// What an entry says to look up: a name with a scheme, or the host of a group.
fn dns_name(entry: &EndpointEntry) -> Option<Result<DnsName, parallax_net::Error>> {
    if entry.is_dns() {
        return Some(entry.address.parse());
    }
    let is_ip = entry.address.parse::<std::net::SocketAddr>().is_ok();
    (entry.group && !is_ip).then(|| format!("dns+{}", entry.address).parse())
}

/// The entries of the flags.
fn given(values: &Values) -> anyhow::Result<Vec<EndpointEntry>> {
    let mut entries: Vec<EndpointEntry> = Vec::new();
    for (flag, strict, group) in [
        ("endpoint", false, false),
        ("store", false, false),
        ("endpoint-group", false, true),
        ("endpoint-strict", true, false),
        ("store-strict", true, false),
        ("endpoint-group-strict", true, true),
    ] {
        for address in values.list(flag) {
            if entries.iter().any(|entry| entry.address == address) {
                bail!("--{flag}={address}: this endpoint is given twice");
            }
            let entry = EndpointEntry { address, strict, group, ..EndpointEntry::default() };
            if let Some(defect) = entry.defect() {
                bail!("--{flag}={}: {defect}", entry.address);
            }
            if let Some(Err(error)) = dns_name(&entry) {
                bail!("--{flag}: {error}");
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}
