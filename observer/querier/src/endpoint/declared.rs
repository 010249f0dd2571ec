//! What is declared of an endpoint's cluster beside its name: where it is, which labels its series carry, how long it may take, and whether an answer may do
//! without it.
//!
//! Invariant: a declaration narrows who is asked, and never widens what is believed. Where an endpoint advertises another value for a declared label, its own word
//! decides, and the contradiction shows in its status: nothing is left out because a file is wrong.

use std::time::Duration;

use parallax_model::Labels;

/// See the module. The default declares nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// Where it is, for people: shown, and not used to choose.
    pub region: Option<String>,
    /// Labels that all its series carry, beside the label of the cluster: a question that contradicts them does not concern it.
    pub labels: Labels,
    /// Longest time that one call waits for it, all frames together, whatever else the call has.
    pub budget: Option<Duration>,
    /// Whether an answer that lacks any of it is an error, even where partial answers are allowed.
    pub required: bool,
}

impl Declared {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What it advertises, with what is declared where it says nothing. No set at all may be anything that is declared.
    pub(crate) fn complete(&self, advertised: &[Labels]) -> Vec<Labels> {
        if advertised.is_empty() {
            return vec![self.labels.clone()];
        }
        advertised.iter().map(|set| self.labels.overlaid_with(set)).collect()
    }

    /// The first advertised label that is declared otherwise.
    pub(crate) fn contradiction(&self, advertised: &[Labels]) -> Option<String> {
        advertised.iter().find_map(|set| {
            self.labels.iter().find_map(|(name, declared)| {
                let found = set.get(name).filter(|found| *found != declared)?;
                Some(format!("it advertises {name}={found:?}, and is declared with {name}={declared:?}"))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_advertised_wins_and_a_contradiction_is_said() {
        let declared = Declared { labels: Labels::from_pairs([("env", "prod")]), ..Declared::default() };
        let silent = Labels::from_pairs([("cluster", "eu-1")]);
        let other = Labels::from_pairs([("cluster", "eu-1"), ("env", "dev")]);
        let sets = declared.complete(&[silent.clone(), other.clone()]);
        assert_eq!(sets, [Labels::from_pairs([("cluster", "eu-1"), ("env", "prod")]), other.clone()]);
        assert_eq!(declared.complete(&[]), std::slice::from_ref(&declared.labels));
        assert_eq!(declared.contradiction(&[silent]), None);
        let said = declared.contradiction(&[other]).unwrap();
        assert!(said.contains("env=\"dev\"") && said.contains("env=\"prod\""), "{said}");
        assert!(!declared.is_empty() && Declared::default().is_empty());
    }
}
