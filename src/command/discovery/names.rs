//! Names of services, looked up when the last answer is over.
//!
//! Invariant: an answer that fails, or has no server in it, leaves the servers that were known; they are asked as before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use parallax_net::discovery::{DnsName, Found, LookupMetrics, Resolver, Target};
use parallax_querier::Problem;

/// An answer is taken to hold for at least so long, whatever its TTL.
const SHORTEST_TTL: Duration = Duration::from_secs(1);
/// How soon a name is looked up again that did not resolve.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Names looked up at once.
const MAX_LOOKUPS: usize = 64;

pub struct Names {
    /// Longest that an answer is taken to hold.
    longest_ttl: Duration,
    /// Made when there is something to look up.
    resolver: Option<Resolver>,
    metrics: LookupMetrics,
    names: BTreeMap<DnsName, Name>,
}

#[derive(Default)]
struct Name {
    /// Of the last answer that had servers in it.
    known: Vec<Target>,
    error: Option<String>,
    /// `None` if it was never looked up.
    due: Option<Instant>,
}

impl Names {
    pub fn new(longest_ttl: Duration, metrics: LookupMetrics) -> Self {
        let longest_ttl = longest_ttl.max(SHORTEST_TTL);
        Self { longest_ttl, resolver: None, metrics, names: BTreeMap::new() }
    }

    /// Looks up those of `wanted` whose time has come, and forgets others; whether anything changed.
    pub async fn look_up(&mut self, wanted: BTreeSet<DnsName>) -> bool {
        self.names.retain(|name, _| {
            let stays = wanted.contains(name);
            if !stays {
                self.metrics.forget(name);
            }
            stays
        });
        let now = Instant::now();
        let is_due =
            |name: &DnsName| self.names.get(name).and_then(|known| known.due).is_none_or(|due| due <= now);
        let due: Vec<DnsName> = wanted.into_iter().filter(is_due).collect();
        if due.is_empty() {
            return false;
        }
        let resolver = match &self.resolver {
            Some(resolver) => Ok(resolver.clone()),
            None => Resolver::system().map_err(|error| error.to_string()),
        };
        self.resolver = resolver.as_ref().ok().cloned();
        let answers = futures::stream::iter(due).map(|name| {
            let resolver = resolver.clone();
            async move {
                let answer = match resolver {
                    Ok(resolver) => resolver.look_up(&name).await,
                    Err(error) => Err(error),
                };
                (name, answer)
            }
        });
        let answers: Vec<_> = answers.buffer_unordered(MAX_LOOKUPS).collect().await;
        let mut changed = false;
        for (name, answer) in answers {
            self.metrics.looked_up(&name, answer.as_ref());
            changed |= self.names.entry(name).or_default().take(answer, self.longest_ttl);
        }
        changed
    }

    /// The servers behind `name`.
    ///
    /// # Errors
    /// If none was ever found.
    pub fn known(&self, name: &DnsName) -> Result<Vec<Target>, String> {
        let not_yet = || "it was not looked up yet".to_owned();
        let known = self.names.get(name).ok_or_else(not_yet)?;
        match &known.error {
            Some(error) if known.known.is_empty() => Err(error.clone()),
            _ if known.known.is_empty() => Err(not_yet()),
            _ => Ok(known.known.clone()),
        }
    }

    /// Names that do not resolve now, though their servers are still in use.
    pub fn problems(&self) -> Vec<Problem> {
        let stale = self.names.iter().filter(|(_, one)| !one.known.is_empty());
        stale
            .filter_map(|(name, one)| {
                let error = format!("{}; the servers of its last answer stay in use", one.error.as_ref()?);
                Some(Problem { source: name.to_string(), error })
            })
            .collect()
    }
}

impl Name {
    fn take(&mut self, answer: Result<Found, String>, longest_ttl: Duration) -> bool {
        let now = Instant::now();
        match answer {
            Ok(found) => {
                let holds = found.valid_until.saturating_duration_since(now);
                self.due = Some(now + holds.clamp(SHORTEST_TTL, longest_ttl));
                let changed = self.known != found.targets || self.error.is_some();
                self.known = found.targets;
                self.error = None;
                changed
            }
            Err(error) => {
                self.due = Some(now + RETRY_INTERVAL);
                let changed = self.error.as_ref() != Some(&error);
                if changed {
                    tracing::warn!(error, "a name of endpoints does not resolve");
                }
                self.error = Some(error);
                changed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str], ttl: Duration) -> Result<Found, String> {
        let target = |address: &&str| Target { address: (*address).to_owned(), host: "a".to_owned() };
        Ok(Found { targets: addresses.iter().map(target).collect(), valid_until: Instant::now() + ttl })
    }

    #[test]
    fn an_answer_that_fails_leaves_the_servers_that_were_known() {
        let mut name = Name::default();
        assert!(name.take(Err("no such name".to_owned()), Duration::from_secs(30)));
        assert!(!name.take(Err("no such name".to_owned()), Duration::from_secs(30)));
        assert!(name.take(found(&["10.0.0.1:1"], Duration::ZERO), Duration::from_secs(30)));
        assert!(!name.take(found(&["10.0.0.1:1"], Duration::ZERO), Duration::from_secs(30)));
        assert!(name.take(Err("no answer".to_owned()), Duration::from_secs(30)));
        assert_eq!((name.known.len(), name.error.as_deref()), (1, Some("no answer")));
        assert!(
            name.take(found(&["10.0.0.1:1"], Duration::ZERO), Duration::from_secs(30)),
            "it is well again"
        );
    }

    #[test]
    fn answers_hold_as_long_as_their_ttl_within_bounds() {
        let mut name = Name::default();
        let mut holds = |ttl, longest| {
            name.take(found(&["10.0.0.1:1"], ttl), longest);
            name.due.unwrap().saturating_duration_since(Instant::now())
        };
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert!(holds(Duration::ZERO, minute) > second / 2, "not all the time");
        assert!(holds(10 * minute, minute) <= minute);
        let some = holds(10 * second, minute);
        assert!(some > 8 * second && some <= 10 * second, "{some:?}");
    }
}
