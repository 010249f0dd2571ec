//! `pki observe`: what running peers trust and show, for `rotate`.
//!
//! Two ways of looking: a handshake with a server (its leaf, and the CAs whose clients it takes: works with any TLS server, Thanos and nginx included),
//! and the metrics of our own processes (what their clients trust, which leaf they show, whose leaves are on their connections).

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgMatches, Command};
use parallax_net::{HttpClient, HttpClientConfig, probe_server};
use parallax_pki::certificate::Facts;
use parallax_pki::observations::{Observations, PeerObservation, unix_millis};
use parallax_pki::rotation::Seen;
use parallax_pki::{Authority, Hierarchy, PeerIdentity, Role};
use serde::Deserialize;
use serde_json::json;

use super::status::PEER_TIMEOUT;
use super::{columns, open, print, state_arg, text};

/// Largest answer of a metrics endpoint, in bytes.
const MAX_METRICS_BYTES: usize = 32 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PeersFile {
    peers: Vec<Peer>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    /// `observee/eu-1`, `observer/hub` or `ingress/eu-1`.
    identity: String,
    /// `host:port` of its TLS server; a list, where several servers have the identity: all of them have to be seen.
    #[serde(default)]
    connect: Addresses,
    server_name: Option<String>,
    /// URLs of its metrics, one per process.
    #[serde(default)]
    metrics: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Addresses {
    fn all(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Several(addresses) => addresses,
        }
    }
}

pub(super) fn peers_arg() -> Arg {
    Arg::new("peers").long("peers").value_name("FILE").help(
        "YAML file: peers: [{identity: observee/eu-1, connect: [host:port], server_name: name, metrics: [url]}]; every server and process that has the identity",
    )
}

pub(super) fn observe_cli() -> Command {
    Command::new("observe")
        .about("Look at running peers: which CAs they trust, which leaf they show")
        .args([state_arg(), peers_arg().required(true)])
}

pub(super) fn observe(matches: &ArgMatches) -> anyhow::Result<u8> {
    let authority = open(matches)?;
    let file = text(matches, "peers").unwrap_or_default();
    let (observations, problems) = look(&authority, &file)?;
    let rows: Vec<Vec<String>> = observations
        .peers
        .iter()
        .map(|(identity, seen)| {
            let numbers = |set: &BTreeMap<Hierarchy, Seen<BTreeSet<u32>>>| {
                let of = set.iter().map(|(hierarchy, seen)| {
                    let generations: Vec<String> =
                        seen.what.iter().map(|number| format!("g{number}")).collect();
                    format!("{} {}", hierarchy.as_str(), generations.join("+"))
                });
                of.collect::<Vec<_>>().join(", ")
            };
            let shows =
                seen.shows.as_ref().map(|shows| shows.what.iter().cloned().collect::<Vec<_>>().join(" "));
            vec![
                identity.clone(),
                numbers(&seen.trusts),
                shows.unwrap_or_default(),
                numbers(&seen.connections),
            ]
        })
        .collect();
    let printed = json!({"peers": observations.peers, "problems": problems});
    print(matches, &printed, || {
        let mut text = columns(&["PEER", "TRUSTS", "SHOWS", "CONNECTIONS FROM"], &rows);
        for problem in &problems {
            text.push_str(&format!("\nnot seen: {problem}"));
        }
        text
    })?;
    Ok(0)
}

/// Looks at every peer of the file and remembers what was seen. A peer that cannot be reached is a problem in words, not an error.
pub(super) fn look(authority: &Authority, file: &str) -> anyhow::Result<(Observations, Vec<String>)> {
    let yaml = parallax_pki::read_bounded(std::path::Path::new(file))?;
    let peers: PeersFile = serde_saphyr::from_str(&yaml).with_context(|| format!("--peers={file}"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // An identity may stand there several times, once for each replica: then all of them together are the peer, and none may be left unseen.
    let mut seen: BTreeMap<String, Option<PeerObservation>> = BTreeMap::new();
    let mut problems = Vec::new();
    for peer in &peers.peers {
        let identity: PeerIdentity = format!("spiffe://{}/{}", authority.trust_domain(), peer.identity)
            .parse()
            .with_context(|| format!("--peers={file}"))?;
        if peer.connect.all().is_empty() && peer.metrics.is_empty() {
            bail!("--peers={file}: {} has neither connect nor metrics", peer.identity);
        }
        match runtime.block_on(look_at(authority, &identity, peer)) {
            Ok(observation) => {
                seen.entry(identity.to_string())
                    .and_modify(|former| {
                        *former =
                            former.take().and_then(|former| together(vec![former, observation.clone()]));
                    })
                    .or_insert(Some(observation));
            }
            Err(error) => {
                seen.insert(identity.to_string(), None);
                problems.push(format!("{}: {error:#}", peer.identity));
            }
        }
    }
    let seen = seen.into_iter().filter_map(|(identity, observation)| Some((identity, observation?)));
    Ok((authority.observe(seen.collect())?, problems))
}

async fn look_at(
    authority: &Authority,
    identity: &PeerIdentity,
    peer: &Peer,
) -> anyhow::Result<PeerObservation> {
    // What is connected to may be another process than those that tell of themselves: an ingress in front of them.
    let mut processes = Vec::new();
    for address in peer.connect.all() {
        processes.push(look_at_server(authority, identity, address, peer.server_name.as_deref()).await?);
    }
    for url in &peer.metrics {
        processes.push(look_at_metrics(authority, identity, url).await?);
    }
    Ok(together(processes).unwrap_or_default())
}

async fn look_at_server(
    authority: &Authority,
    identity: &PeerIdentity,
    address: &str,
    server_name: Option<&str>,
) -> anyhow::Result<PeerObservation> {
    if identity.role() != Role::Observee {
        bail!("only observees have a server to connect to; give metrics");
    }
    let probe = probe_server(address, server_name, None, PEER_TIMEOUT).await?;
    let at_ms = unix_millis(SystemTime::now());
    let mut observation = PeerObservation::default();
    if let Some(leaf) = probe.chain.first() {
        let facts = Facts::read(leaf).map_err(|reason| anyhow::anyhow!("its certificate: {reason}"))?;
        if facts.uris != [identity.to_string()] {
            bail!("{address} shows a certificate of {:?}, not of {identity}", facts.uris);
        }
        observation.shows = Some(Seen { at_ms, what: BTreeSet::from([facts.serial]) });
    }
    match probe.client_cas {
        Some(names) => {
            let what = authority.generations_named(Hierarchy::Observers, &names);
            observation.trusts.insert(Hierarchy::Observers, Seen { at_ms, what });
        }
        None => bail!("{address} asks for no client certificate: whoever reaches it may ask it"),
    }
    Ok(observation)
}

async fn look_at_metrics(
    authority: &Authority,
    identity: &PeerIdentity,
    url: &str,
) -> anyhow::Result<PeerObservation> {
    // A client asks for paths beneath a base URL; this one is whole.
    let host = url.find("://").map_or(0, |at| at + "://".len());
    let path = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| host + at);
    let (base, path) = url.split_at(path);
    let client = HttpClient::new(HttpClientConfig::new(base))?;
    let response = client.get(path, &[]).await?;
    if !response.status().is_success() {
        bail!("{url}: {}", response.status());
    }
    let bytes = response.bytes(MAX_METRICS_BYTES).await?;
    let at_ms = unix_millis(SystemTime::now());
    Ok(from_metrics(authority, identity, &String::from_utf8_lossy(&bytes), at_ms))
}

/// What a process says of the sets of credentials that carry `identity`.
fn from_metrics(authority: &Authority, identity: &PeerIdentity, text: &str, at_ms: u64) -> PeerObservation {
    let samples: Vec<Sample<'_>> = text.lines().filter_map(Sample::parse).collect();
    let named = |metric: &'static str| samples.iter().filter(move |sample| sample.name == metric);
    let identity_text = identity.to_string();
    let mut observation = PeerObservation::default();
    let own: Vec<&Sample<'_>> = named("parallax_tls_certificate_info")
        .filter(|sample| sample.label("identity") == Some(&identity_text))
        .collect();
    let verified = Hierarchy::of(identity.role()).opposite();
    for sample in &own {
        let serial = sample.label("serial").cloned().unwrap_or_default();
        observation.shows.get_or_insert_with(|| Seen { at_ms, what: BTreeSet::new() }).what.insert(serial);
        let set = sample.label("name");
        let anchors: BTreeSet<String> = named("parallax_tls_trust_anchor_not_after_timestamp_seconds")
            .filter(|anchor| anchor.label("name") == set)
            .filter_map(|anchor| anchor.label("serial").cloned())
            .collect();
        let trusted = authority.generations_with_serials(verified, &anchors);
        observation
            .trusts
            .entry(verified)
            .and_modify(|seen| seen.what.retain(|number| trusted.contains(number)))
            .or_insert(Seen { at_ms, what: trusted });
    }
    if !own.is_empty() {
        let names = authority.generation_names(verified);
        let sets: Vec<_> = own.iter().filter_map(|sample| sample.label("name")).collect();
        let open: BTreeSet<u32> = named("parallax_tls_connections_by_issuer")
            .filter(|sample| {
                sample.value > 0.0 && sample.label("name").is_some_and(|name| sets.contains(&name))
            })
            .filter_map(|sample| names.get(sample.label("issuer")?).copied())
            .collect();
        observation.connections.insert(verified, Seen { at_ms, what: open });
    }
    observation
}

/// Several processes of one identity: trusted is what all trust, shown and connected what any has.
fn together(processes: Vec<PeerObservation>) -> Option<PeerObservation> {
    let mut all = processes.into_iter();
    let mut first = all.next()?;
    for other in all {
        for (hierarchy, seen) in &mut first.trusts {
            let also = other.trusts.get(hierarchy);
            seen.what.retain(|number| also.is_some_and(|also| also.what.contains(number)));
        }
        first.shows = match (first.shows, other.shows) {
            (Some(mut seen), Some(also)) => {
                seen.what.extend(also.what);
                Some(seen)
            }
            // One that shows nothing has not been seen with the leaf.
            _ => None,
        };
        for (hierarchy, also) in other.connections {
            first
                .connections
                .entry(hierarchy)
                .and_modify(|seen| seen.what.extend(&also.what))
                .or_insert(also);
        }
    }
    Some(first)
}

/// One line of Prometheus' text format.
struct Sample<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: f64,
}

impl<'t> Sample<'t> {
    /// `None`: a comment, or not a sample that we can read.
    fn parse(line: &'t str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let Some((name, rest)) = line.split_once('{') else {
            let (name, value) = line.split_once(' ')?;
            return Some(Self { name, labels: Vec::new(), value: value.trim().parse().ok()? });
        };
        let mut labels = Vec::new();
        let mut rest = rest;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                let value = after.trim().split(' ').next()?.parse().ok()?;
                return Some(Self { name, labels, value });
            }
            let (label, after) = rest.split_once("=\"")?;
            let mut text = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next()? {
                    (index, '"') => break index,
                    (_, '\\') => match characters.next()?.1 {
                        'n' => text.push('\n'),
                        other => text.push(other),
                    },
                    (_, other) => text.push(other),
                }
            };
            labels.push((label, text));
            rest = after.get(end + 1..)?;
        }
    }

    fn label(&self, name: &str) -> Option<&String> {
        self.labels.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_processes_the_peer_trusts_what_all_trust_and_shows_what_any_shows() {
        let process = |trusts: &[u32], serial: &str, connections: Option<&[u32]>| {
            let numbers = |what: &[u32]| Seen { at_ms: 1, what: what.iter().copied().collect() };
            let of = |what| BTreeMap::from([(Hierarchy::Observers, numbers(what))]);
            PeerObservation {
                trusts: of(trusts),
                shows: Some(Seen { at_ms: 1, what: BTreeSet::from([serial.to_owned()]) }),
                connections: connections.map(of).unwrap_or_default(),
            }
        };
        let all = together(vec![process(&[1, 2], "a", None), process(&[1], "b", Some(&[1]))]).unwrap();
        assert_eq!(all.trusts[&Hierarchy::Observers].what, BTreeSet::from([1]), "one knows g1 alone");
        assert_eq!(all.shows.unwrap().what.len(), 2);
        assert_eq!(all.connections[&Hierarchy::Observers].what, BTreeSet::from([1]));
        let blind = PeerObservation { shows: None, ..process(&[1, 2], "a", None) };
        assert!(together(vec![process(&[1, 2], "a", None), blind]).unwrap().shows.is_none());
    }

    #[test]
    fn a_peer_has_one_server_or_several() {
        let file: PeersFile = serde_saphyr::from_str(
            "peers: [{identity: a/b, connect: 'h:1'}, {identity: a/b, connect: ['h:1', 'h:2']}, {identity: a/b}]",
        )
        .unwrap();
        let counts: Vec<usize> = file.peers.iter().map(|peer| peer.connect.all().len()).collect();
        assert_eq!(counts, [1, 2, 0]);
    }

    #[test]
    fn samples_of_the_text_format_are_read_and_the_rest_is_left() {
        let sample = Sample::parse(r#"a_b{name="x",issuer="CN=\"q\\\", O=a}b"} 2 1234"#).unwrap();
        assert_eq!((sample.name, sample.value), ("a_b", 2.0));
        assert_eq!(sample.label("issuer").unwrap(), r#"CN="q\", O=a}b"#);
        assert!(Sample::parse("up 1").is_some());
        for odd in ["# HELP a b", "", "a{", "a{b=\"c", "a{b=\"c\"} x", "a{b}", "a{b=\"c\\"] {
            assert!(Sample::parse(odd).is_none(), "{odd:?}");
        }
    }
}
