//! Revoking leaves, and keeping revocation lists fresh.
//!
//! Invariant: within a hierarchy either every trusted generation has a list or none has: nginx and openssl, once they check lists, refuse whoever's
//! issuer has none.

use std::time::SystemTime;

use super::{Authority, Book, Change};
use crate::Error;
use crate::issuing::{LIST_LIFETIME, list_entry};
use crate::ledger::{Event, Leaf, RevocationReason};
use crate::profile::Hierarchy;

impl Authority {
    /// Revokes the leaves that `select` picks, current or replaced, and signs new lists. `what` names them in the error when there is none.
    pub fn revoke(
        &self,
        what: &str,
        select: impl Fn(&Leaf) -> bool,
        reason: RevocationReason,
        now: SystemTime,
    ) -> Result<Vec<Leaf>, Error> {
        self.change(now, |book, change| {
            let picked = |leaf: &&Leaf| {
                leaf.revoked.is_none() && SystemTime::from(leaf.record.not_after) > now && select(leaf)
            };
            let leaves: Vec<Leaf> = book.ledger.leaves.values().filter(picked).cloned().collect();
            if leaves.is_empty() {
                let state = self.directory().unwrap_or(std::path::Path::new("the authority")).to_owned();
                return Err(Error::Unknown { state, what: format!("valid leaf {what}") });
            }
            for leaf in &leaves {
                change.events.push(Event::Revoked {
                    hierarchy: leaf.record.hierarchy,
                    serial: leaf.record.serial.clone(),
                    reason,
                });
            }
            for hierarchy in Hierarchy::ALL {
                if leaves.iter().any(|leaf| leaf.record.hierarchy == hierarchy) {
                    self.sign_lists(book, change, hierarchy, &leaves, reason, now)?;
                }
            }
            Ok(leaves)
        })
    }

    /// Signs lists again that have less than half of their life left. Gives back how many.
    pub fn refresh_lists(&self, now: SystemTime) -> Result<usize, Error> {
        self.change(now, |book, change| {
            for hierarchy in Hierarchy::ALL {
                let old = book.trusted(hierarchy).into_iter().any(|number| {
                    let record = book.ledger.generations.get(&(hierarchy, number));
                    record
                        .and_then(|record| record.list)
                        .is_some_and(|(_, due)| SystemTime::from(due) < now + LIST_LIFETIME / 2)
                });
                if old {
                    self.sign_lists(book, change, hierarchy, &[], RevocationReason::Unspecified, now)?;
                }
            }
            Ok(change.lists.len())
        })
    }

    /// A new list for every trusted generation of `hierarchy`, with `more` on it.
    fn sign_lists(
        &self,
        book: &Book,
        change: &mut Change,
        hierarchy: Hierarchy,
        more: &[Leaf],
        reason: RevocationReason,
        now: SystemTime,
    ) -> Result<(), Error> {
        let time = super::timestamp(now)?;
        for number in book.trusted(hierarchy) {
            let Some(generation) = book.generations.get(&(hierarchy, number)) else { continue };
            let revoked = book.ledger.revoked(hierarchy, number, time);
            let mut entries: Vec<_> = revoked.into_iter().filter_map(list_entry).collect();
            let of = |leaf: &&Leaf| leaf.record.hierarchy == hierarchy && leaf.record.generation == number;
            entries.extend(more.iter().filter(of).map(|leaf| (leaf.record.serial.as_str(), now, reason)));
            let known = book.ledger.generations.get(&(hierarchy, number)).and_then(|record| record.list);
            let list_number = known.map_or(1, |(known, _)| known.saturating_add(1));
            let pem = generation.sign_list(list_number, &entries, now, self.unlock.as_ref())?;
            change.add_list((hierarchy, number), list_number, now + LIST_LIFETIME, pem)?;
        }
        Ok(())
    }
}
