//! Taking the steps that [`crate::rotation`] allows.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{Authority, Book, Change, MAX_LIFETIME};
use crate::Error;
use crate::issuing::{Generation, LIST_LIFETIME};
use crate::ledger::Event;
use crate::profile::{AUTHORITY_LIFETIME, Hierarchy, KeyKind};
use crate::rotation::{Action, Blocked, Evidence, Gate, Gates, Phase, decide};

/// A step that is asked for.
#[derive(Clone, Debug)]
pub struct RotationRequest {
    pub hierarchy: Hierarchy,
    pub action: RequestedAction,
    /// For the journal; needed where peers are waived.
    pub reason: Option<String>,
    /// The validity and kind of a new generation.
    pub lifetime: std::time::Duration,
    pub key: KeyKind,
}

/// An [`Action`] without the numbers that the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedAction {
    Prepare,
    Activate,
    Drain,
    Retire,
    Abort,
    /// Give up the generation that signs, or the one named.
    Compromised(Option<u32>),
}

impl RotationRequest {
    pub fn new(hierarchy: Hierarchy, action: RequestedAction) -> Self {
        Self { hierarchy, action, reason: None, lifetime: AUTHORITY_LIFETIME, key: KeyKind::default() }
    }
}

/// What a step led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotationResult {
    pub before: Phase,
    pub after: Phase,
}

impl Authority {
    /// Takes a step, if its gates are met by `evidence`; `evidence_sha256` names the observations in the journal.
    pub fn rotate(
        &self,
        request: &RotationRequest,
        evidence: impl FnOnce(&crate::ledger::Ledger) -> Evidence,
        evidence_sha256: Option<String>,
        now: SystemTime,
    ) -> Result<RotationResult, Error> {
        self.change(now, |book, change| {
            let hierarchy = request.hierarchy;
            let before = book.ledger.phase(hierarchy).ok_or_else(|| Error::Signing {
                subject: format!("with the {} authority", hierarchy.as_str()),
                reason: "there is none".to_owned(),
            })?;
            let fresh = book.ledger.fresh_generation(hierarchy);
            let action = match request.action {
                RequestedAction::Prepare => Action::Prepare { to: fresh },
                RequestedAction::Activate => Action::Activate,
                RequestedAction::Drain => Action::Drain,
                RequestedAction::Retire => Action::Retire,
                RequestedAction::Abort => Action::Abort,
                RequestedAction::Compromised(generation) => {
                    Action::Compromised { generation: generation.unwrap_or(before.signing()), fresh }
                }
            };
            let evidence = evidence(&book.ledger);
            let after = decide(before, action, &evidence, Gates::ALL)
                .map_err(|blocked| not_met(hierarchy, blocked))?;
            if after == before {
                return Ok(RotationResult { before, after });
            }
            let waived: Vec<String> =
                evidence.peers.iter().filter(|(_, peer)| peer.waived).map(|(name, _)| name.clone()).collect();
            if !waived.is_empty() && request.reason.is_none() {
                let unmet = vec!["peers are waived without a --reason".to_owned()];
                return Err(Error::GateNotMet { hierarchy: hierarchy.as_str(), unmet });
            }
            self.add_missing(book, change, request, after, now)?;
            change.events.push(Event::RotationMoved {
                hierarchy,
                action: action.as_str().to_owned(),
                to: after,
                waived,
                reason: request.reason.clone(),
                evidence_sha256,
            });
            destroy_untrusted(book, change, hierarchy, after);
            Ok(RotationResult { before, after })
        })
    }

    /// Makes the generation that `after` needs and that is not there yet.
    fn add_missing(
        &self,
        book: &Book,
        change: &mut Change,
        request: &RotationRequest,
        after: Phase,
        now: SystemTime,
    ) -> Result<(), Error> {
        let hierarchy = request.hierarchy;
        let known = |number: &u32| book.generations.contains_key(&(hierarchy, *number));
        let Some(number) = after.trusted().into_iter().find(|number| !known(number)) else { return Ok(()) };
        if request.lifetime.is_zero() || request.lifetime > MAX_LIFETIME {
            return Err(Error::Signing {
                subject: format!("{} g{number}", hierarchy.as_str()),
                reason: "its lifetime must be above zero and at most 20 years".to_owned(),
            });
        }
        let passphrase = match &self.unlock {
            Some(unlock) => unlock()?,
            None => None,
        };
        let encrypted = book.ledger.generations.values().any(|record| record.encrypted);
        if encrypted && passphrase.is_none() {
            return Err(Error::PassphraseNeeded {
                subject: format!("the key of {} g{number}", hierarchy.as_str()),
            });
        }
        if encrypted {
            // A wrong passphrase must not seal a key that nobody can open later: it has to open the one in use.
            book.signing_or_error(hierarchy)?.key(self.unlock.as_ref())?;
        }
        let generation =
            Generation::generate(&self.trust_domain, hierarchy, number, request.key, request.lifetime, now)?;
        let sealed_with = if encrypted { passphrase.as_ref() } else { None };
        let has_lists =
            book.trusted(hierarchy).iter().any(|known| book.lists.contains_key(&(hierarchy, *known)));
        let name = (hierarchy, number);
        let list = if has_lists { Some(generation.sign_list(1, &[], now, None)?) } else { None };
        change.add_generation(generation, sealed_with)?;
        if let Some(pem) = list {
            change.add_list(name, 1, now + LIST_LIFETIME, pem)?;
        }
        Ok(())
    }
}

/// Keys of generations that nobody trusts any more go.
fn destroy_untrusted(book: &Book, change: &mut Change, hierarchy: Hierarchy, after: Phase) {
    let trusted = after.trusted();
    for ((of, number), record) in &book.ledger.generations {
        if *of == hierarchy && !record.key_destroyed && !trusted.contains(number) {
            change.events.push(Event::KeyDestroyed { hierarchy, generation: *number });
        }
    }
}

fn not_met(hierarchy: Hierarchy, blocked: Blocked) -> Error {
    let unmet = match blocked {
        Blocked::WrongPhase(text) => vec![format!("rule of the order of steps: {text}")],
        Blocked::Unmet(unmet) => {
            let rules: BTreeSet<Gate> = unmet.iter().map(|unmet| unmet.gate).collect();
            let unmet = unmet.into_iter().map(|unmet| match unmet.peer {
                Some(peer) => format!("{peer}: {}", unmet.reason),
                None => unmet.reason,
            });
            unmet.chain(rules.into_iter().map(|gate| gate.rule().to_owned())).collect()
        }
    };
    Error::GateNotMet { hierarchy: hierarchy.as_str(), unmet }
}
