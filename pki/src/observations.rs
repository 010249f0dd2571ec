//! What was seen of each peer, and what that says about a rotation.
//!
//! Invariants: an observation is of a running process (a handshake with it, or what it reports of itself), never of a file beside it; it keeps the time
//! at which it was made. Every current leaf of the inventory is a peer, seen or not, so that nobody is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::authority::Authority;
use crate::bundle::digest_text;
use crate::certificate::{Facts, parse_bundle};
use crate::ledger::{Leaf, Ledger};
use crate::profile::Hierarchy;
use crate::rotation::{Evidence, LeafSeen, PeerEvidence, Seen};

const OBSERVATIONS_FILE: &str = "observations.json";

/// By identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observations {
    pub peers: BTreeMap<String, PeerObservation>,
}

/// What was last seen of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerObservation {
    /// The generations of each hierarchy that it trusts.
    #[serde(default)]
    pub trusts: BTreeMap<Hierarchy, Seen<BTreeSet<u32>>>,
    /// Serial numbers of the leaves that it shows.
    #[serde(default)]
    pub shows: Option<Seen<BTreeSet<String>>>,
    /// Generations of the leaves on the connections that are open to it.
    #[serde(default)]
    pub connections: BTreeMap<Hierarchy, Seen<BTreeSet<u32>>>,
}

impl PeerObservation {
    /// Takes what `newer` saw, and keeps the rest.
    pub fn update(&mut self, newer: Self) {
        self.trusts.extend(newer.trusts);
        self.connections.extend(newer.connections);
        if newer.shows.is_some() {
            self.shows = newer.shows;
        }
    }
}

impl Observations {
    /// Judged by `ledger`, for a rotation of `hierarchy` at `now`. `waived`: identities that no gate shall wait for.
    pub fn evidence(
        &self,
        ledger: &Ledger,
        hierarchy: Hierarchy,
        waived: &BTreeSet<String>,
        now: SystemTime,
    ) -> Evidence {
        let mut peers: BTreeMap<String, PeerEvidence> = BTreeMap::new();
        for leaf in ledger.current() {
            // Nobody accepts it any more, whatever is rotated.
            if SystemTime::from(leaf.record.not_after) < now {
                continue;
            }
            let identity = leaf.record.identity.clone();
            let seen = self.peers.get(&identity);
            let name = match &leaf.record.home {
                Some(home) if leaf.record.hierarchy == hierarchy => format!("{identity} ({home})"),
                _ => identity.clone(),
            };
            let evidence = peers.entry(name).or_default();
            evidence.waived = waived.contains(&identity);
            if leaf.record.hierarchy == hierarchy {
                evidence.holds =
                    Some(LeafSeen { generation: leaf.record.generation, serial: leaf.record.serial.clone() });
                evidence.shows = seen.and_then(|seen| shown(ledger, leaf, seen));
            } else {
                evidence.verifies = true;
                evidence.trusts = seen.and_then(|seen| seen.trusts.get(&hierarchy)).cloned();
                evidence.connections = seen.and_then(|seen| seen.connections.get(&hierarchy)).cloned();
            }
        }
        let since = ledger.rotations.get(&hierarchy).map(|rotation| SystemTime::from(rotation.since));
        Evidence {
            now_ms: unix_millis(now),
            phase_since_ms: since.map(unix_millis).unwrap_or_default(),
            peers,
        }
    }

    /// SHA-256 of the observations, for the journal.
    pub fn digest(&self) -> String {
        digest_text(&serde_json::to_string(self).unwrap_or_default())
    }
}

/// Which of the leaves that a peer shows speaks for `leaf`: one that nobody should show any more, if there is one (several processes may hold copies);
/// else itself.
fn shown(ledger: &Ledger, leaf: &Leaf, seen: &PeerObservation) -> Option<Seen<LeafSeen>> {
    let shows = seen.shows.as_ref()?;
    let find = |serial: &String| ledger.leaves.get(&(leaf.record.hierarchy, serial.clone()));
    let outdated = shows.what.iter().find(|serial| !find(serial).is_some_and(Leaf::is_current));
    let own = shows.what.contains(&leaf.record.serial).then_some(&leaf.record.serial);
    let serial = outdated.or(own).or(shows.what.first())?;
    let generation = find(serial).map(|known| known.record.generation).unwrap_or_default();
    Some(Seen { at_ms: shows.at_ms, what: LeafSeen { generation, serial: serial.clone() } })
}

impl Authority {
    /// What was last seen of peers. Errors: the file cannot be read; a missing one is empty.
    pub fn observations(&self) -> Result<Observations, Error> {
        let Some(state) = self.state() else { return Ok(Observations::default()) };
        let place = Path::new(OBSERVATIONS_FILE);
        if !state.directory().join(place).exists() {
            return Ok(Observations::default());
        }
        let text = state.text(place)?;
        // Derived: what cannot be read is seen again.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Remembers what was seen, beside what was seen before.
    pub fn observe(&self, seen: BTreeMap<String, PeerObservation>) -> Result<Observations, Error> {
        let mut all = self.observations()?;
        for (identity, observation) in seen {
            all.peers.entry(identity).or_default().update(observation);
        }
        if let Some(state) = self.state() {
            let _lock = state.lock()?;
            let text = serde_json::to_string_pretty(&all).map_err(|error| Error::Malformed {
                subject: OBSERVATIONS_FILE.to_owned(),
                reason: error.to_string(),
            })?;
            state.derive(Path::new(OBSERVATIONS_FILE), &text)?;
        }
        Ok(all)
    }

    /// The generations of `hierarchy` whose names (DER) are among `subjects`: what a server that asks for certificates of these CAs trusts. Every
    /// generation has a name of its own.
    pub fn generations_named(&self, hierarchy: Hierarchy, subjects: &[Vec<u8>]) -> BTreeSet<u32> {
        self.generations_where(hierarchy, |facts| subjects.contains(&facts.subject_raw))
    }

    /// The generations of `hierarchy` whose certificates have one of these serial numbers: what a peer that reports its trust anchors trusts.
    pub fn generations_with_serials(
        &self,
        hierarchy: Hierarchy,
        serials: &BTreeSet<String>,
    ) -> BTreeSet<u32> {
        self.generations_where(hierarchy, |facts| serials.contains(&facts.serial))
    }

    /// The generations of `hierarchy` by the text of their names.
    pub fn generation_names(&self, hierarchy: Hierarchy) -> BTreeMap<String, u32> {
        let certificates = self.generation_certificates(hierarchy);
        let named = certificates.into_iter().filter_map(|(number, pem)| {
            let all = parse_bundle("ca.crt", &pem).ok()?;
            Some((Facts::read(all.first()?).ok()?.subject, number))
        });
        named.collect()
    }

    fn generations_where(&self, hierarchy: Hierarchy, holds: impl Fn(&Facts) -> bool) -> BTreeSet<u32> {
        let mut numbers = BTreeSet::new();
        for (number, pem) in self.generation_certificates(hierarchy) {
            let facts = parse_bundle("ca.crt", &pem).ok().and_then(|all| Facts::read(all.first()?).ok());
            if facts.is_some_and(|facts| holds(&facts)) {
                numbers.insert(number);
            }
        }
        numbers
    }
}

/// Milliseconds since 1970.
pub fn unix_millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
