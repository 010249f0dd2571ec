//! What the journal says, added up: generations, leaves, revocations, where each rotation stands.
//!
//! Invariants: the ledger is a function of the journal alone; every prefix of a journal gives a ledger, and an event that does not fit what went before
//! is an error, never a guess. A leaf is *current* until one for the same identity and place replaces it, or it is revoked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{PeerIdentity, TrustDomain};
use crate::journal::Entry;
use crate::profile::Hierarchy;
use crate::rotation::Phase;

/// Most leaves that one state remembers.
const MAX_LEAVES: usize = 1 << 20;

/// A change of the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    Initialised {
        trust_domain: String,
    },
    AuthorityAdded {
        hierarchy: Hierarchy,
        generation: u32,
        /// SHA-256 of the certificate's PEM file.
        certificate_sha256: String,
        not_before: Timestamp,
        not_after: Timestamp,
        imported: bool,
        encrypted: bool,
    },
    LeafIssued(Box<LeafRecord>),
    Revoked {
        hierarchy: Hierarchy,
        serial: String,
        reason: RevocationReason,
    },
    ListSigned {
        hierarchy: Hierarchy,
        generation: u32,
        number: u64,
        next_update: Timestamp,
    },
    RotationMoved {
        hierarchy: Hierarchy,
        /// The operator's word for the step.
        action: String,
        to: Phase,
        /// Peers that no gate waited for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waived: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// SHA-256 of the observations that the gates were judged by.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence_sha256: Option<String>,
    },
    KeyDestroyed {
        hierarchy: Hierarchy,
        generation: u32,
    },
}

/// A leaf as it was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeafRecord {
    pub hierarchy: Hierarchy,
    pub generation: u32,
    /// Lower-case hexadecimal.
    pub serial: String,
    /// The SPIFFE text form.
    pub identity: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// Names beyond those that the identity brings.
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub lifetime_s: u64,
    /// The holder made the key and sent a request; we never had it.
    pub requested: bool,
    /// The directory (or, for requested ones, the file) that the leaf was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
}

/// Why a leaf is revoked: the reasons of RFC 5280 that an operator has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationReason {
    #[default]
    Unspecified,
    KeyCompromise,
    Superseded,
    CessationOfOperation,
}

impl RevocationReason {
    pub const ALL: [Self; 4] =
        [Self::Unspecified, Self::KeyCompromise, Self::Superseded, Self::CessationOfOperation];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key_compromise",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation_of_operation",
        }
    }
}

/// A generation of an authority.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRecord {
    pub certificate_sha256: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub imported: bool,
    pub encrypted: bool,
    pub key_destroyed: bool,
    /// The newest revocation list: its number and when the next is due.
    pub list: Option<(u64, Timestamp)>,
}

/// A leaf and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    pub record: LeafRecord,
    pub identity: PeerIdentity,
    pub issued: Timestamp,
    pub revoked: Option<(Timestamp, RevocationReason)>,
    /// The serial number of the leaf that took its place.
    pub replaced_by: Option<String>,
}

impl Leaf {
    /// Neither replaced nor revoked.
    pub fn is_current(&self) -> bool {
        self.revoked.is_none() && self.replaced_by.is_none()
    }
}

/// Where the rotation of a hierarchy stands, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    pub phase: Phase,
    pub since: Timestamp,
}

/// The sum of a journal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    trust_domain: Option<TrustDomain>,
    pub generations: BTreeMap<(Hierarchy, u32), GenerationRecord>,
    pub leaves: BTreeMap<(Hierarchy, String), Leaf>,
    pub rotations: BTreeMap<Hierarchy, Rotation>,
    /// The newest leaf of each identity and place.
    newest: BTreeMap<(PeerIdentity, Option<String>), (Hierarchy, String)>,
    /// When the last entry was written.
    pub last_time: Option<Timestamp>,
}

impl Ledger {
    /// Adds up `entries`. The error names the entry.
    pub fn replay(entries: &[Entry]) -> Result<Self, String> {
        let mut ledger = Self::default();
        for entry in entries {
            ledger.apply(entry)?;
        }
        Ok(ledger)
    }

    /// Adds one entry; on an error the ledger is half changed and must be dropped.
    pub fn apply(&mut self, entry: &Entry) -> Result<(), String> {
        for event in &entry.events {
            self.apply_event(event, entry.time)
                .map_err(|reason| format!("entry {}: {reason}", entry.sequence))?;
        }
        self.last_time = Some(entry.time);
        Ok(())
    }

    /// The trust domain. `None` only before the first event.
    pub fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// Where the rotation of `hierarchy` stands.
    pub fn phase(&self, hierarchy: Hierarchy) -> Option<Phase> {
        self.rotations.get(&hierarchy).map(|rotation| rotation.phase)
    }

    /// A number that no generation of `hierarchy` had.
    pub fn fresh_generation(&self, hierarchy: Hierarchy) -> u32 {
        let last =
            self.generations.keys().filter(|(of, _)| *of == hierarchy).map(|(_, number)| *number).max();
        last.unwrap_or(0).saturating_add(1)
    }

    /// Leaves that are in use as far as the inventory knows, in order of identity.
    pub fn current(&self) -> Vec<&Leaf> {
        self.newest.values().filter_map(|key| self.leaves.get(key)).filter(|leaf| leaf.is_current()).collect()
    }

    /// Revoked leaves of a generation that have not ended yet: what its list names.
    pub fn revoked(&self, hierarchy: Hierarchy, generation: u32, now: Timestamp) -> Vec<&Leaf> {
        let of = |leaf: &&Leaf| {
            leaf.record.hierarchy == hierarchy
                && leaf.record.generation == generation
                && leaf.revoked.is_some()
                && leaf.record.not_after >= now
        };
        self.leaves.values().filter(of).collect()
    }

    fn apply_event(&mut self, event: &Event, time: Timestamp) -> Result<(), String> {
        match event {
            Event::Initialised { trust_domain } => {
                if self.trust_domain.is_some() {
                    return Err("it initialises a second time".to_owned());
                }
                self.trust_domain = Some(TrustDomain::new(trust_domain).map_err(|error| error.to_string())?);
                Ok(())
            }
            Event::AuthorityAdded { hierarchy, generation, .. } => {
                self.add_authority(event, *hierarchy, *generation, time)
            }
            Event::LeafIssued(record) => self.add_leaf(record, time),
            Event::Revoked { hierarchy, serial, reason } => {
                let leaf = self
                    .leaves
                    .get_mut(&(*hierarchy, serial.clone()))
                    .ok_or_else(|| format!("it revokes {serial}, which was not issued"))?;
                leaf.revoked.get_or_insert((time, *reason));
                Ok(())
            }
            Event::ListSigned { hierarchy, generation, number, next_update } => {
                let record = self.generation(*hierarchy, *generation)?;
                if record.list.is_some_and(|(known, _)| known >= *number) {
                    return Err(format!("revocation list {number} of g{generation} is not newer"));
                }
                record.list = Some((*number, *next_update));
                Ok(())
            }
            Event::RotationMoved { hierarchy, to, .. } => {
                for generation in to.trusted() {
                    self.generation(*hierarchy, generation)?;
                }
                self.rotations.insert(*hierarchy, Rotation { phase: *to, since: time });
                Ok(())
            }
            Event::KeyDestroyed { hierarchy, generation } => {
                self.generation(*hierarchy, *generation)?.key_destroyed = true;
                Ok(())
            }
        }
    }

    fn generation(&mut self, hierarchy: Hierarchy, number: u32) -> Result<&mut GenerationRecord, String> {
        self.generations
            .get_mut(&(hierarchy, number))
            .ok_or_else(|| format!("there is no g{number} of {}", hierarchy.as_str()))
    }

    /// The first generation of a hierarchy is steady at once.
    fn add_authority(
        &mut self,
        event: &Event,
        hierarchy: Hierarchy,
        generation: u32,
        time: Timestamp,
    ) -> Result<(), String> {
        let Event::AuthorityAdded { certificate_sha256, not_before, not_after, imported, encrypted, .. } =
            event
        else {
            return Ok(());
        };
        if generation != self.fresh_generation(hierarchy) {
            return Err(format!("g{generation} of {} does not follow the last one", hierarchy.as_str()));
        }
        let record = GenerationRecord {
            certificate_sha256: certificate_sha256.clone(),
            not_before: *not_before,
            not_after: *not_after,
            imported: *imported,
            encrypted: *encrypted,
            key_destroyed: false,
            list: None,
        };
        self.generations.insert((hierarchy, generation), record);
        let steady = Rotation { phase: Phase::Steady { signing: generation }, since: time };
        self.rotations.entry(hierarchy).or_insert(steady);
        Ok(())
    }

    fn add_leaf(&mut self, record: &LeafRecord, time: Timestamp) -> Result<(), String> {
        if self.leaves.len() >= MAX_LEAVES {
            return Err(format!("more than {MAX_LEAVES} leaves"));
        }
        let identity: PeerIdentity =
            record.identity.parse().map_err(|error: crate::Error| error.to_string())?;
        self.generation(record.hierarchy, record.generation)?;
        if self.trust_domain.as_ref() != Some(identity.trust_domain())
            || Hierarchy::of(identity.role()) != record.hierarchy
        {
            return Err(format!("{identity} is not of this authority"));
        }
        let key = (record.hierarchy, record.serial.clone());
        if self.leaves.contains_key(&key) {
            return Err(format!("the serial number {} was issued before", record.serial));
        }
        let place = (identity.clone(), record.home.clone());
        let former = self.newest.insert(place, key.clone()).and_then(|former| self.leaves.get_mut(&former));
        if let Some(former) = former {
            former.replaced_by = Some(record.serial.clone());
        }
        let leaf = Leaf { record: record.clone(), identity, issued: time, revoked: None, replaced_by: None };
        self.leaves.insert(key, leaf);
        Ok(())
    }
}
