//! An endpoint at one moment.
//!
//! Invariant: whoever decides by what an endpoint said decides by one snapshot. Two polls may say two things each of which is accounted for, and what is read half of the one and half of the
//! other may be neither: a cluster that the first did not hold and that the second does not miss would be missing without a word.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_model::{Labels, TimeRange};

use super::{Endpoint, Metadata};
use crate::coverage::{Gap, GapKind};

/// What was known of an endpoint when it was taken.
#[derive(Debug)]
pub(crate) struct Snapshot<'a> {
    pub endpoint: &'a Endpoint,
    /// What it last said of itself, or `None` if it never did.
    pub metadata: Option<Arc<Metadata>>,
    /// Whether the last Info poll succeeded.
    pub is_healthy: bool,
    /// Of the last poll, if it failed: until the first one, of whom it replaced.
    pub last_error: Option<String>,
    /// How long it has been since it last said what it holds, if its last Info poll failed; nothing while it is well.
    pub silent_for: Duration,
    /// The time that it said it holds, at any poll of the last while; `None` if it had no Store API.
    pub held_lately: Option<TimeRange>,
    /// Whether it ever said that it has the Store API.
    had_store: bool,
    /// Whether it said less of what it holds than before, a short while ago.
    pub said_less_lately: bool,
    /// Why it would be no use to ask now, or `None` to ask it.
    pub why_not_now: Option<(GapKind, String)>,
}

impl Endpoint {
    pub(crate) fn snapshot(&self, now: Instant) -> Snapshot<'_> {
        let state = self.shared.read();
        Snapshot {
            endpoint: self,
            metadata: state.metadata.clone(),
            is_healthy: state.is_healthy(),
            last_error: state.last_error.clone(),
            silent_for: state.silent_for(now),
            held_lately: state.lately.range(),
            had_store: state.had_store,
            said_less_lately: state.said_less_lately(now),
            why_not_now: state.why_not_now(now, &self.options),
        }
    }
}

impl<'a> Snapshot<'a> {
    fn cluster_of<'l>(&self, set: &'l Labels) -> Option<&'l str> {
        set.get(&self.endpoint.options.cluster_label)
    }

    fn label_sets(&self) -> &[Labels] {
        self.metadata.as_deref().map_or(&[], |known| &known.label_sets)
    }

    fn left_out(&self) -> &[Labels] {
        self.metadata.as_deref().map_or(&[], |known| &known.left_out)
    }

    /// Whether all that it advertises of `cluster` is not chosen.
    pub fn leaves_out(&self, cluster: &str) -> bool {
        let is_of_it = |set: &Labels| self.cluster_of(set) == Some(cluster);
        self.left_out().iter().any(is_of_it) && !self.label_sets().iter().any(is_of_it)
    }

    /// Those of the expected clusters that it did not advertise last: none if it holds nothing yet and may.
    pub fn not_advertised(&self) -> Vec<&'a str> {
        let endpoint = self.endpoint;
        if endpoint.expected.is_empty() {
            return Vec::new();
        }
        let sets = self.label_sets();
        let is_empty = sets.is_empty()
            && self.metadata.as_deref().is_some_and(|known| known.has_store && known.range.is_empty());
        if endpoint.may_be_empty && self.is_healthy && is_empty {
            return Vec::new();
        }
        let advertised: BTreeSet<&str> =
            sets.iter().chain(self.left_out()).filter_map(|set| self.cluster_of(set)).collect();
        endpoint.expected.iter().map(String::as_str).filter(|cluster| !advertised.contains(cluster)).collect()
    }

    /// Whether it is declared as a cluster and says that it has no Store API, though it has had it, or has it by its nature. A sidecar of Thanos says so while its
    /// Prometheus is down.
    pub fn has_lost_store(&self) -> bool {
        let has_lost = |known: &Metadata| !known.has_store && (self.had_store || known.is_store_by_nature());
        !self.endpoint.expected.is_empty() && self.metadata.as_deref().is_some_and(has_lost)
    }

    /// Those of the expected clusters of which it has no series to give now.
    pub fn absent(&self) -> Vec<&'a str> {
        match self.has_lost_store() {
            true => self.expected().collect(),
            false => self.not_advertised(),
        }
    }

    /// How long it has been silent.
    pub fn silence_ms(&self) -> i64 {
        i64::try_from(self.silent_for.as_millis()).unwrap_or(i64::MAX)
    }

    /// The time that it may hold by now, if `held` is what it last said: it would have gone on to hold what came since. What holds nothing yet stays empty.
    pub fn grown(&self, held: TimeRange) -> TimeRange {
        match held.is_empty() {
            true => held,
            false => TimeRange::new(held.min_ms, held.max_ms.saturating_add(self.silence_ms())),
        }
    }

    /// Whether it is well, could be asked, and advertises all that it is expected to hold.
    pub fn is_as_expected(&self) -> bool {
        self.is_healthy && self.why_not_now.is_none() && self.not_advertised().is_empty()
    }

    /// The clusters it is expected to hold, but for those of which nothing is chosen.
    pub fn expected(&self) -> impl Iterator<Item = &'a str> {
        let endpoint = self.endpoint;
        endpoint.expected.iter().map(String::as_str).filter(|cluster| !self.leaves_out(cluster))
    }

    /// The clusters it last advertised.
    fn advertised(&self) -> BTreeSet<String> {
        self.label_sets().iter().filter_map(|set| self.cluster_of(set)).map(str::to_owned).collect()
    }

    /// The only one of them.
    pub fn advertises_only(&self) -> Option<String> {
        let mut advertised = self.advertised();
        (advertised.len() == 1).then(|| advertised.pop_first())?
    }

    /// The clusters it is expected to hold, or last advertised.
    pub fn clusters(&self) -> BTreeSet<String> {
        match self.endpoint.expected.is_empty() {
            true => self.advertised(),
            false => self.expected().map(str::to_owned).collect(),
        }
    }

    /// Those of its clusters that are wanted: of the ones that it is expected to hold, or else of those that it last advertised.
    pub fn clusters_where(&self, is_wanted: impl Fn(&Labels) -> bool) -> BTreeSet<String> {
        if !self.endpoint.expected.is_empty() {
            let is_wanted = |cluster: &&str| is_wanted(&self.endpoint.labels_of(cluster));
            return self.expected().filter(is_wanted).map(str::to_owned).collect();
        }
        let wanted = self.label_sets().iter().filter(|set| is_wanted(set));
        wanted.filter_map(|set| self.cluster_of(set).map(str::to_owned)).collect()
    }

    /// The one cluster it stands for, or its own name.
    pub fn cluster_name(&self) -> String {
        let declared = self.endpoint.cluster.clone();
        declared.or_else(|| self.advertises_only()).unwrap_or_else(|| self.endpoint.name.clone())
    }

    /// A gap in an answer because of this endpoint.
    pub fn gap(&self, kind: GapKind, reason: impl Into<String>) -> Gap {
        self.endpoint.gap_of(self.cluster_name(), kind, reason)
    }
}
