//! Replacing an authority without anybody noticing: the states, the steps between them, and the gates that hold each step until it is safe.
//!
//! ```text
//! steady gN ─prepare─► prepared gN→gM ─activate─► activated gN→gM ─drain─► draining gN→gM ─retire─► steady gM
//!                        │ abort                    │ abort                  │ abort
//!                        ▼                          └──► activated gM→gN ◄───┘   (goes on to steady gN by drain and retire)
//!                      steady gN
//! ```
//!
//! Until `retire` every bundle holds both generations. `activate` makes the new one sign; leaves are then reissued. The gates ask for what was *seen* of
//! every peer since the state was entered: what it trusts, which leaf it shows, whose leaves are on its open connections. Elapsed time is no gate.
//!
//! Invariant (I1): at every instant, for every pair, the holder's leaf is issued by a generation that the verifier trusts. `tests/rotation_model.rs`
//! tries all interleavings of these steps with peers that load files late, and shows that each gate is needed.
//!
//! This file is pure: time, inventory and observations are arguments. Why gates by observation and not by time (as SPIRE, cert-manager): a peer
//! that was down, or reads its bundle only at start (Thanos), breaks any schedule.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Oldest observation that a gate takes, in milliseconds.
pub const EVIDENCE_MAX_AGE_MS: u64 = 15 * 60 * 1000;

/// Where the rotation of one hierarchy stands. Numbers are generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// One generation signs and is trusted.
    Steady { signing: u32 },
    /// Both are trusted (as far as bundles have arrived), the old one signs.
    Prepared { from: u32, to: u32 },
    /// Both are trusted, the new one signs.
    Activated { from: u32, to: u32 },
    /// As before, and every holder was seen with a leaf of the new one.
    Draining { from: u32, to: u32 },
}

impl Phase {
    /// The generation that signs leaves.
    pub fn signing(self) -> u32 {
        match self {
            Self::Steady { signing } => signing,
            Self::Prepared { from, .. } => from,
            Self::Activated { to, .. } | Self::Draining { to, .. } => to,
        }
    }

    /// The generations in the published bundle, the one that signs first.
    pub fn trusted(self) -> Vec<u32> {
        match self {
            Self::Steady { signing } => vec![signing],
            Self::Prepared { from, to } => vec![from, to],
            Self::Activated { from, to } | Self::Draining { from, to } => vec![to, from],
        }
    }

    /// The word for texts and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady { .. } => "steady",
            Self::Prepared { .. } => "prepared",
            Self::Activated { .. } => "activated",
            Self::Draining { .. } => "draining",
        }
    }

    /// The value of the metric `parallax_pki_rotation_phase`.
    pub fn number(self) -> u8 {
        match self {
            Self::Steady { .. } => 0,
            Self::Prepared { .. } => 1,
            Self::Activated { .. } => 2,
            Self::Draining { .. } => 3,
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Steady { signing } => write!(f, "steady g{signing}"),
            Self::Prepared { from, to } | Self::Activated { from, to } | Self::Draining { from, to } => {
                write!(f, "{} g{from} -> g{to}", self.as_str())
            }
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish a new generation beside the one in use.
    Prepare {
        /// Its number, never used before.
        to: u32,
    },
    Activate,
    Drain,
    Retire,
    /// Go back: at once before activation, by way of reissuing after it.
    Abort,
    /// A key is known to others: stop trusting the generation now, whatever breaks.
    Compromised {
        generation: u32,
        /// A fresh generation, for the case that no other is left.
        fresh: u32,
    },
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepare { .. } => "prepare",
            Self::Activate => "activate",
            Self::Drain => "drain",
            Self::Retire => "retire",
            Self::Abort => "abort",
            Self::Compromised { .. } => "compromised",
        }
    }
}

/// One thing that must hold before a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// `prepare` only where no rotation is open: a third generation would push the first out of the bundles.
    OneAtATime,
    /// `activate`: every verifier was seen to trust the new generation.
    TrustObserved,
    /// `drain`: the current leaf of every holder is of the new generation.
    Reissued,
    /// `drain`: every holder was seen to show its current leaf, not an older one.
    LeafObserved,
    /// `retire`: no verifier has an open connection that was made with a leaf of the old generation.
    ConnectionsDrained,
    /// All: an observation counts if it was made since the state was entered, and is recent.
    EvidenceOfThisPhase,
    /// `abort` once the new generation has signed: reissue first, then take it out of the bundles.
    ReissueBeforeAbort,
}

impl Gate {
    /// The rule, and what to do about it.
    pub fn rule(self) -> &'static str {
        match self {
            Self::OneAtATime => {
                "rule of one rotation at a time: finish the open one (drain, retire), or abort it"
            }
            Self::TrustObserved => {
                "rule of observed trust: bring these peers the new bundle (pki bundle), list them in --peers, or answer for them (--accept-missing ROLE/NAME --reason TEXT)"
            }
            Self::Reissued => "rule of new leaves: run pki renew --all",
            Self::LeafObserved => {
                "rule of observed leaves: let these peers read their new files, list them in --peers, or answer for them (--accept-missing ROLE/NAME --reason TEXT)"
            }
            Self::ConnectionsDrained => {
                "rule of drained connections: wait until these peers have moved, list them in --peers, or answer for them (--accept-missing ROLE/NAME --reason TEXT)"
            }
            Self::EvidenceOfThisPhase => "rule of fresh evidence: look at the peers again (--peers)",
            Self::ReissueBeforeAbort => {
                "rule of going back: run pki renew --all, then drain and retire the other way"
            }
        }
    }

    pub const ALL: [Self; 7] = [
        Self::OneAtATime,
        Self::TrustObserved,
        Self::Reissued,
        Self::LeafObserved,
        Self::ConnectionsDrained,
        Self::EvidenceOfThisPhase,
        Self::ReissueBeforeAbort,
    ];
}

/// The gates that are in force. There is one set for use, [`Gates::ALL`]; the model checker takes one out to see that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gates {
    left_out: Option<Gate>,
}

impl Gates {
    pub const ALL: Self = Self { left_out: None };

    /// All but one, for showing that it is needed.
    pub fn without(gate: Gate) -> Self {
        Self { left_out: Some(gate) }
    }

    fn hold(self, gate: Gate) -> bool {
        self.left_out != Some(gate)
    }
}

/// Something seen of a peer, and when (milliseconds since 1970).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Seen<T> {
    pub at_ms: u64,
    pub what: T,
}

/// A leaf, as far as gates care.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeafSeen {
    pub generation: u32,
    pub serial: String,
}

/// All that is known of one peer in one hierarchy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerEvidence {
    /// Verifies leaves of this hierarchy.
    pub verifies: bool,
    /// Holds leaves of this hierarchy: its current one, by the inventory.
    pub holds: Option<LeafSeen>,
    /// The generations it was seen to trust.
    pub trusts: Option<Seen<BTreeSet<u32>>>,
    /// The leaf it was seen to show to its peers.
    pub shows: Option<Seen<LeafSeen>>,
    /// As a verifier: the generations of the leaves on its open connections.
    pub connections: Option<Seen<BTreeSet<u32>>>,
    /// The operator answers for it: no gate waits for this peer.
    pub waived: bool,
}

/// What a step is judged by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub now_ms: u64,
    /// When the phase was entered.
    pub phase_since_ms: u64,
    /// Every peer of the inventory, seen or not, by name.
    pub peers: BTreeMap<String, PeerEvidence>,
}

/// Why a step may not be taken now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    pub gate: Gate,
    /// `None`: it is about the order of steps.
    pub peer: Option<String>,
    pub reason: String,
}

/// A step that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The phase has no such step. The text says which there are.
    WrongPhase(String),
    /// Gates that are not met, all of them.
    Unmet(Vec<Unmet>),
}

/// Judges a step. Total: every phase and action gives the next phase or says why not. A step whose goal is reached already gives the phase it is in,
/// so that a command that is repeated does no harm.
pub fn decide(phase: Phase, action: Action, evidence: &Evidence, gates: Gates) -> Result<Phase, Blocked> {
    let judge = Judge { evidence, gates };
    match (phase, action) {
        (Phase::Steady { signing }, Action::Prepare { to }) => fresh(phase, to, signing),
        (Phase::Prepared { .. }, Action::Prepare { .. }) if gates.hold(Gate::OneAtATime) => Ok(phase),
        (_, Action::Prepare { .. }) if gates.hold(Gate::OneAtATime) => Err(Blocked::Unmet(vec![Unmet {
            gate: Gate::OneAtATime,
            peer: None,
            reason: format!("a rotation is open ({phase}); finish it with drain and retire, or abort it"),
        }])),
        (_, Action::Prepare { to }) => fresh(phase, to, phase.signing()),
        (Phase::Prepared { from, to }, Action::Activate) => {
            judge.trust(to).pass(Phase::Activated { from, to })
        }
        (Phase::Activated { .. }, Action::Activate) => Ok(phase),
        (Phase::Activated { from, to }, Action::Drain) => judge.leaves(to).pass(Phase::Draining { from, to }),
        (Phase::Draining { .. }, Action::Drain) => Ok(phase),
        (Phase::Draining { from, to }, Action::Retire) => {
            judge.connections(from).pass(Phase::Steady { signing: to })
        }
        (Phase::Prepared { from, .. }, Action::Abort) => Ok(Phase::Steady { signing: from }),
        (Phase::Activated { from, to } | Phase::Draining { from, to }, Action::Abort) => {
            if gates.hold(Gate::ReissueBeforeAbort) {
                Ok(Phase::Activated { from: to, to: from })
            } else {
                Ok(Phase::Steady { signing: from })
            }
        }
        (_, Action::Compromised { generation, fresh }) => Ok(compromised(phase, generation, fresh)),
        (phase, action) => Err(Blocked::WrongPhase(format!(
            "`{}` does not follow {phase}; possible now: {}",
            action.as_str(),
            possible(phase)
        ))),
    }
}

/// The steps that a phase has, for texts.
pub fn possible(phase: Phase) -> &'static str {
    match phase {
        Phase::Steady { .. } => "prepare",
        Phase::Prepared { .. } => "activate, abort",
        Phase::Activated { .. } => "drain, abort",
        Phase::Draining { .. } => "retire, abort",
    }
}

fn fresh(phase: Phase, to: u32, from: u32) -> Result<Phase, Blocked> {
    if phase.trusted().iter().any(|known| *known >= to) {
        return Err(Blocked::WrongPhase(format!("g{to} is not a new generation")));
    }
    Ok(Phase::Prepared { from, to })
}

/// The generation leaves the bundles at once; whatever else is trusted takes over, or a fresh one.
fn compromised(phase: Phase, generation: u32, fresh: u32) -> Phase {
    let mut left = phase.trusted().into_iter().filter(|trusted| *trusted != generation);
    match (left.next(), left.next()) {
        // Another generation was compromised: it is not in any bundle.
        (Some(_), Some(_)) => phase,
        (Some(signing), None) => Phase::Steady { signing },
        (None, _) => Phase::Steady { signing: fresh },
    }
}

struct Judge<'a> {
    evidence: &'a Evidence,
    gates: Gates,
}

struct Verdict(Vec<Unmet>);

impl Verdict {
    fn pass(self, next: Phase) -> Result<Phase, Blocked> {
        if self.0.is_empty() { Ok(next) } else { Err(Blocked::Unmet(self.0)) }
    }
}

impl Judge<'_> {
    /// Every verifier trusts `to`.
    fn trust(&self, to: u32) -> Verdict {
        self.each(|peer| {
            if !peer.verifies || !self.gates.hold(Gate::TrustObserved) {
                return vec![];
            }
            match self.recent(peer.trusts.as_ref()) {
                Ok(trusted) if trusted.contains(&to) => vec![],
                Ok(_) => vec![(Gate::TrustObserved, format!("it was seen not to trust g{to} yet"))],
                Err(reason) => vec![(Gate::TrustObserved, format!("what it trusts {reason}"))],
            }
        })
    }

    /// Every holder has a leaf of `to`, and shows it.
    fn leaves(&self, to: u32) -> Verdict {
        self.each(|peer| {
            let Some(current) = &peer.holds else { return vec![] };
            let mut unmet = Vec::new();
            if self.gates.hold(Gate::Reissued) && current.generation != to {
                let reason = format!("its leaf is still of g{}; run `pki renew`", current.generation);
                unmet.push((Gate::Reissued, reason));
            }
            if self.gates.hold(Gate::LeafObserved) {
                match self.recent(peer.shows.as_ref()) {
                    Ok(seen) if seen.serial == current.serial => {}
                    Ok(seen) => unmet.push((
                        Gate::LeafObserved,
                        format!("it still shows the leaf {} of g{}", seen.serial, seen.generation),
                    )),
                    Err(reason) => unmet.push((Gate::LeafObserved, format!("the leaf it shows {reason}"))),
                }
            }
            unmet
        })
    }

    /// No verifier has a connection of `from`.
    fn connections(&self, from: u32) -> Verdict {
        self.each(|peer| {
            if !peer.verifies || !self.gates.hold(Gate::ConnectionsDrained) {
                return vec![];
            }
            match self.recent(peer.connections.as_ref()) {
                Ok(seen) if !seen.contains(&from) => vec![],
                Ok(_) => vec![(
                    Gate::ConnectionsDrained,
                    format!("it has open connections that were made with leaves of g{from}"),
                )],
                Err(reason) => {
                    vec![(Gate::ConnectionsDrained, format!("whose connections it has {reason}"))]
                }
            }
        })
    }

    fn each(&self, judge: impl Fn(&PeerEvidence) -> Vec<(Gate, String)>) -> Verdict {
        let peers = self.evidence.peers.iter().filter(|(_, peer)| !peer.waived);
        let unmet = peers.flat_map(|(name, peer)| {
            judge(peer)
                .into_iter()
                .map(|(gate, reason)| Unmet { gate, peer: Some(name.clone()), reason })
                .collect::<Vec<_>>()
        });
        Verdict(unmet.collect())
    }

    fn recent<'s, T>(&self, seen: Option<&'s Seen<T>>) -> Result<&'s T, &'static str> {
        let seen = seen.ok_or("was not seen")?;
        if self.gates.hold(Gate::EvidenceOfThisPhase) {
            if seen.at_ms <= self.evidence.phase_since_ms {
                return Err("was not seen since the last step");
            }
            if seen.at_ms.saturating_add(EVIDENCE_MAX_AGE_MS) < self.evidence.now_ms {
                return Err("was last seen more than 15 minutes ago");
            }
        }
        Ok(&seen.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(peers: &[(&str, PeerEvidence)]) -> Evidence {
        Evidence {
            now_ms: 10_000,
            phase_since_ms: 9_000,
            peers: peers.iter().map(|(name, peer)| ((*name).to_owned(), peer.clone())).collect(),
        }
    }

    fn verifier(at_ms: u64, generations: &[u32]) -> PeerEvidence {
        let what: BTreeSet<u32> = generations.iter().copied().collect();
        PeerEvidence { verifies: true, trusts: Some(Seen { at_ms, what }), ..PeerEvidence::default() }
    }

    fn activate(peers: &[(&str, PeerEvidence)]) -> Result<Phase, Blocked> {
        decide(Phase::Prepared { from: 1, to: 2 }, Action::Activate, &evidence(peers), Gates::ALL)
    }

    #[test]
    fn activation_waits_for_every_verifier_and_names_the_ones_it_waits_for() {
        assert!(activate(&[("a", verifier(9_500, &[1, 2]))]).is_ok());
        let Err(Blocked::Unmet(unmet)) = activate(&[
            ("a", verifier(9_500, &[1, 2])),
            ("b", verifier(9_500, &[1])),
            ("c", verifier(8_000, &[1, 2])),
            ("d", PeerEvidence { verifies: true, ..PeerEvidence::default() }),
        ]) else {
            panic!("activated")
        };
        let waiting: Vec<_> = unmet.iter().filter_map(|unmet| unmet.peer.as_deref()).collect();
        assert_eq!(waiting, ["b", "c", "d"]);
        let waived = PeerEvidence { verifies: true, waived: true, ..PeerEvidence::default() };
        assert!(activate(&[("d", waived)]).is_ok());
    }

    #[test]
    fn old_evidence_is_none() {
        let mut stale = evidence(&[("a", verifier(9_050, &[1, 2]))]);
        stale.now_ms = 9_050 + EVIDENCE_MAX_AGE_MS;
        let step = |evidence: &Evidence| {
            decide(Phase::Prepared { from: 1, to: 2 }, Action::Activate, evidence, Gates::ALL)
        };
        assert!(step(&stale).is_ok());
        stale.now_ms += 1;
        assert!(step(&stale).is_err());
    }

    #[test]
    fn every_phase_answers_every_action_and_repeats_do_nothing() {
        let phases = [
            Phase::Steady { signing: 1 },
            Phase::Prepared { from: 1, to: 2 },
            Phase::Activated { from: 1, to: 2 },
            Phase::Draining { from: 1, to: 2 },
        ];
        let actions =
            [Action::Prepare { to: 3 }, Action::Activate, Action::Drain, Action::Retire, Action::Abort];
        let empty = Evidence::default();
        let mut taken = Vec::new();
        for phase in phases {
            for action in actions {
                match decide(phase, action, &empty, Gates::ALL) {
                    Ok(next) => taken.push(format!("{phase} {} {next}", action.as_str())),
                    Err(Blocked::WrongPhase(text)) => assert!(text.contains("possible now"), "{text}"),
                    Err(Blocked::Unmet(unmet)) => assert_eq!(unmet[0].gate, Gate::OneAtATime),
                }
            }
        }
        assert_eq!(
            taken,
            [
                "steady g1 prepare prepared g1 -> g3",
                "prepared g1 -> g2 prepare prepared g1 -> g2",
                "prepared g1 -> g2 activate activated g1 -> g2",
                "prepared g1 -> g2 abort steady g1",
                "activated g1 -> g2 activate activated g1 -> g2",
                "activated g1 -> g2 drain draining g1 -> g2",
                "activated g1 -> g2 abort activated g2 -> g1",
                "draining g1 -> g2 drain draining g1 -> g2",
                "draining g1 -> g2 retire steady g2",
                "draining g1 -> g2 abort activated g2 -> g1",
            ]
        );
    }

    #[test]
    fn a_compromised_generation_is_trusted_by_nobody_from_then_on() {
        let phases = [
            Phase::Steady { signing: 1 },
            Phase::Prepared { from: 1, to: 2 },
            Phase::Activated { from: 1, to: 2 },
            Phase::Draining { from: 2, to: 1 },
        ];
        for phase in phases {
            for generation in phase.trusted() {
                let action = Action::Compromised { generation, fresh: 9 };
                let next = decide(phase, action, &Evidence::default(), Gates::ALL).unwrap();
                assert!(!next.trusted().contains(&generation), "{phase} -> {next}");
                assert_eq!(next.trusted(), [next.signing()]);
            }
        }
    }
}
