//! The whole mesh in one table: authorities, leaves, where each lies, when it ends, what it trusts.
//!
//! Invariant: built from the journal and the leaves' directories; nothing is asked over the network, so that it is fast and works anywhere.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::authority::{Authority, RenewPolicy, renew_at};
use crate::bundle::digest_text;
use crate::certificate::format_time;
use crate::leaf_files::CA_FILE;
use crate::ledger::Leaf;
use crate::observations::PeerObservation;
use crate::profile::Hierarchy;

/// How urgent a row is. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    #[default]
    Fine,
    /// It ends within the warning time, or is due for renewal.
    Due,
    /// It ends within the critical time, or has ended.
    Critical,
}

/// From when on an end is near.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub warn: Duration,
    pub critical: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { warn: Duration::from_secs(7 * 86_400), critical: Duration::from_secs(2 * 86_400) }
    }
}

/// A generation of an authority.
#[derive(Clone, Debug, Serialize)]
pub struct AuthorityRow {
    pub hierarchy: Hierarchy,
    pub generation: u32,
    /// `signing`, `trusted`, or `retired`.
    pub status: &'static str,
    pub not_after: String,
    pub days_left: i64,
    pub key: &'static str,
    pub imported: bool,
    /// Number of the revocation list and when the next is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation_list: Option<(u64, String)>,
    pub urgency: Urgency,
}

/// A current leaf.
#[derive(Clone, Debug, Serialize)]
pub struct LeafRow {
    pub identity: String,
    pub role: &'static str,
    pub name: String,
    pub serial: String,
    pub generation: u32,
    pub not_after: String,
    pub days_left: i64,
    pub renew_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The bundle in the leaf's directory: `current`, `old`, or why it is not known.
    pub bundle: &'static str,
    /// When the peer was last seen, and whether it showed this leaf.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// Which CAs it was last seen to trust, such as `observers g1+g2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusts: Option<String>,
    pub urgency: Urgency,
}

/// Where a rotation stands.
#[derive(Clone, Debug, Serialize)]
pub struct RotationRow {
    pub hierarchy: Hierarchy,
    pub phase: String,
    /// The value of `parallax_pki_rotation_phase`.
    pub number: u8,
    pub since: String,
    /// SHA-256 of the published bundle.
    pub bundle_sha256: String,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    pub trust_domain: String,
    pub authorities: Vec<AuthorityRow>,
    pub rotations: Vec<RotationRow>,
    pub leaves: Vec<LeafRow>,
    pub undelivered: Vec<String>,
    /// SHA-256 of the journal's last line.
    pub journal_head: String,
    pub urgency: Urgency,
}

impl Inventory {
    /// The state of `authority` at `now`.
    pub fn of(authority: &Authority, thresholds: Thresholds, now: SystemTime) -> Result<Self, crate::Error> {
        let ledger = authority.ledger();
        let observations = authority.observations()?;
        let mut authorities = Vec::new();
        for ((hierarchy, number), record) in &ledger.generations {
            let phase = ledger.phase(*hierarchy);
            let signing = phase.is_some_and(|phase| phase.signing() == *number);
            let trusted = phase.is_some_and(|phase| phase.trusted().contains(number));
            let end = SystemTime::from(record.not_after);
            authorities.push(AuthorityRow {
                hierarchy: *hierarchy,
                generation: *number,
                status: match (signing, trusted) {
                    (true, _) => "signing",
                    (false, true) => "trusted",
                    (false, false) => "retired",
                },
                not_after: format_time(end),
                days_left: days_left(end, now),
                key: match (record.key_destroyed, record.encrypted) {
                    (true, _) => "destroyed",
                    (false, true) => "encrypted",
                    (false, false) => "plain",
                },
                imported: record.imported,
                revocation_list: record.list.map(|(number, due)| (number, format_time(due.into()))),
                urgency: if trusted { urgency(end, now, thresholds) } else { Urgency::Fine },
            });
        }
        let rotations = ledger.rotations.iter().map(|(hierarchy, rotation)| RotationRow {
            hierarchy: *hierarchy,
            phase: rotation.phase.to_string(),
            number: rotation.phase.number(),
            since: format_time(rotation.since.into()),
            bundle_sha256: digest_text(&authority.bundle_pem(*hierarchy)),
        });
        let rotations: Vec<RotationRow> = rotations.collect();
        let bundles = Hierarchy::ALL.map(|hierarchy| (hierarchy, authority.bundle_pem(hierarchy)));
        let leaves: Vec<LeafRow> = ledger
            .current()
            .into_iter()
            .map(|leaf| {
                let opposite = leaf.record.hierarchy.opposite();
                let bundle = bundles.iter().find(|(hierarchy, _)| *hierarchy == opposite);
                let mut row = leaf_row(authority, leaf, bundle.map_or("", |(_, text)| text), thresholds, now);
                let peer = observations.peers.get(&leaf.record.identity);
                row.trusts = peer.and_then(trusts_text);
                row.seen = peer.and_then(|seen| {
                    let shows = seen.shows.as_ref()?;
                    let this = if shows.what.contains(&leaf.record.serial) {
                        "with this leaf"
                    } else {
                        "with another leaf"
                    };
                    Some(format!(
                        "{} {this}",
                        format_time(SystemTime::UNIX_EPOCH + Duration::from_millis(shows.at_ms))
                    ))
                });
                row
            })
            .collect();
        let urgency = authorities
            .iter()
            .map(|row| row.urgency)
            .chain(leaves.iter().map(|row| row.urgency))
            .max()
            .unwrap_or_default();
        Ok(Self {
            trust_domain: authority.trust_domain().to_string(),
            authorities,
            rotations,
            leaves,
            undelivered: authority.undelivered(),
            journal_head: authority.journal_head(),
            urgency,
        })
    }
}

fn leaf_row(
    authority: &Authority,
    leaf: &Leaf,
    bundle: &str,
    thresholds: Thresholds,
    now: SystemTime,
) -> LeafRow {
    let record = &leaf.record;
    let end = SystemTime::from(record.not_after);
    let due = renew_at(record, RenewPolicy::default());
    let by_end = urgency(end, now, thresholds);
    LeafRow {
        identity: record.identity.clone(),
        role: leaf.identity.role().as_str(),
        name: leaf.identity.name().to_owned(),
        serial: record.serial.clone(),
        generation: record.generation,
        not_after: format_time(end),
        days_left: days_left(end, now),
        renew_at: format_time(due),
        home: record.home.clone(),
        bundle: match (&record.home, authority.directory()) {
            (Some(home), Some(state)) if !record.requested => {
                match std::fs::read_to_string(state.join(home).join(CA_FILE)) {
                    Ok(there) if there == bundle => "current",
                    Ok(_) => "old",
                    Err(_) => "gone",
                }
            }
            _ => "elsewhere",
        },
        seen: None,
        trusts: None,
        urgency: if due <= now { by_end.max(Urgency::Due) } else { by_end },
    }
}

/// Of each hierarchy the generations that a peer was seen to trust; `None`: it was never looked at.
fn trusts_text(peer: &PeerObservation) -> Option<String> {
    let of = peer.trusts.iter().map(|(hierarchy, seen)| {
        let numbers: Vec<String> = seen.what.iter().map(|number| format!("g{number}")).collect();
        let numbers = if numbers.is_empty() { "none of ours".to_owned() } else { numbers.join("+") };
        format!("{} {numbers}", hierarchy.as_str())
    });
    let all: Vec<String> = of.collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn urgency(end: SystemTime, now: SystemTime, thresholds: Thresholds) -> Urgency {
    if end <= now + thresholds.critical {
        Urgency::Critical
    } else if end <= now + thresholds.warn {
        Urgency::Due
    } else {
        Urgency::Fine
    }
}

/// Whole days; negative after the end.
fn days_left(end: SystemTime, now: SystemTime) -> i64 {
    let days = |duration: Duration| i64::try_from(duration.as_secs() / 86_400).unwrap_or(i64::MAX);
    match end.duration_since(now) {
        Ok(left) => days(left),
        Err(over) => -days(over.duration()) - 1,
    }
}
