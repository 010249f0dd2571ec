//! Which endpoints a query has to ask, and which it would have had to ask but cannot.
//!
//! An endpoint is asked if its time overlaps the query's and one of its label sets contradicts no matcher. A peer of ours also says exactly which labels it has for which
//! time (`TSDBInfo`, which of Thanos' components may say less than there is), and is not asked for what it cannot have. One that cannot be asked and would
//! have been, by what it last said or by the cluster it is expected to hold, is a gap. The time of one that fails grows with its silence: it
//! would have gone on to hold what came since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::SideService;
use parallax_storeapi::matchers::may_match;

use crate::claim::ForeignLabels;
use crate::coverage::{Gap, GapKind};
use crate::endpoint::{Endpoint, EndpointSet, Metadata};

/// What the caller of a query may narrow endpoints by, beside the query itself: Thanos' `storeMatch[]`. Each element is a list of
/// matchers on `__address__` and external labels; one of the lists has to match.
pub type StoreMatchers = [Vec<Matcher>];

const ADDRESS_LABEL: &str = "__address__";

/// What a query has to ask.
#[derive(Debug, Default)]
pub struct Selection {
    pub ask: Vec<Selected>,
    pub gaps: Vec<Gap>,
    /// Names of the endpoints that left a gap and are required.
    pub required: BTreeSet<String>,
}

impl Selection {
    /// A gap that fails the question, whatever is allowed.
    pub fn fatal(&self) -> Option<&Gap> {
        self.gaps.iter().find(|gap| self.required.contains(&gap.endpoint))
    }
}

/// An endpoint to ask, with what it said when it was selected.
#[derive(Clone, Debug)]
pub struct Selected {
    pub endpoint: Arc<Endpoint>,
    /// `None` if it never answered Info.
    pub metadata: Option<Arc<Metadata>>,
}

impl Selected {
    pub fn supports_sharding(&self) -> bool {
        self.metadata.as_ref().is_some_and(|known| known.supports_sharding)
    }

    pub fn supports_without_replica_labels(&self) -> bool {
        self.metadata.as_ref().is_some_and(|known| known.supports_without_replica_labels)
    }

    /// Whether it said that it offers `service`.
    pub fn offers(&self, service: SideService) -> bool {
        self.metadata.as_ref().is_some_and(|known| known.side.contains(&service))
    }
}

/// What decides who has to be asked.
#[derive(Debug)]
pub struct Question<'a> {
    /// `None` for the Store API.
    pub side: Option<SideService>,
    /// For series and exemplars.
    pub range: TimeRange,
    /// What is wanted matches one of these; without any, everything is.
    pub selectors: &'a [Vec<Matcher>],
}

impl Question<'_> {
    fn may_match(&self, label_sets: &[Labels]) -> bool {
        self.selectors.is_empty() || self.selectors.iter().any(|matchers| may_match(matchers, label_sets))
    }

    fn is_answered_by(&self, known: &Metadata) -> bool {
        match self.side {
            None => known.has_store,
            Some(service) => known.side.contains(&service),
        }
    }

    /// Whether what is declared of the endpoint's cluster leaves room for it.
    fn may_concern(&self, endpoint: &Endpoint, known: &Metadata) -> bool {
        let declared = endpoint.declared();
        declared.labels.is_empty() || self.may_match(&declared.complete(&known.label_sets))
    }

    fn is_covered_by(&self, known: &Metadata, silence: Duration) -> bool {
        let held = match self.side {
            None => known.range,
            Some(SideService::Exemplars) => known.exemplars_range,
            Some(_) => TimeRange::ALL,
        };
        let held = TimeRange::new(held.min_ms, held.max_ms.saturating_add(millis(silence)));
        held.overlaps(&self.range) && self.may_match(&known.label_sets)
    }

    /// Whether a declared endpoint that says something else now said that it has this, a short while ago: what it flaps about is asked for, so that its
    /// cluster does not vanish without a word.
    fn was_covered_by(&self, endpoint: &Endpoint, known: &Metadata) -> bool {
        self.side.is_none()
            && !endpoint.expected().is_empty()
            && endpoint.held_lately().is_some_and(|held| held.overlaps(&self.range))
            && self.may_match(&known.label_sets)
    }

    /// Whether the endpoint says exactly what it holds, and that nothing of it is wanted; and has not said otherwise a short while ago.
    fn is_ruled_out_by(&self, endpoint: &Endpoint, known: &Metadata, now: Instant) -> bool {
        let (now_ms, silence_ms) =
            (jiff::Timestamp::now().as_millisecond(), millis(endpoint.silent_for(now)));
        self.side.is_none()
            && known.rules_out(self.range, now_ms, silence_ms, |sets| self.may_match(sets))
            && !endpoint.said_less_lately(now)
    }

    /// The expected clusters that are wanted.
    fn wanted<'e>(&self, endpoint: &'e Endpoint) -> Vec<&'e str> {
        let names = endpoint.expected().iter().map(String::as_str);
        let is_chosen = |name: &&str| !endpoint.leaves_out(name);
        names.filter(is_chosen).filter(|name| self.may_match(&[endpoint.labels_of(name)])).collect()
    }

    /// Those of them that the endpoint does not advertise.
    fn missed<'e>(&self, endpoint: &'e Endpoint) -> Vec<&'e str> {
        let names = endpoint.not_advertised().into_iter();
        names.filter(|name| self.may_match(&[endpoint.labels_of(name)])).collect()
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Chooses endpoints for a query of series over `range` with `matchers`.
pub fn select(
    set: &EndpointSet,
    range: TimeRange,
    matchers: &[Matcher],
    store_matchers: &StoreMatchers,
) -> Selection {
    choose(set, &Question { side: None, range, selectors: &[matchers.to_vec()] }, store_matchers)
}

/// Chooses endpoints for `question`.
pub fn choose(set: &EndpointSet, question: &Question<'_>, store_matchers: &StoreMatchers) -> Selection {
    let now = Instant::now();
    let mut selection = Selection::default();
    for endpoint in set.endpoints().iter() {
        endpoint.refresh_if_local();
        if !is_wanted(endpoint, endpoint.metadata().as_deref(), store_matchers) {
            continue;
        }
        let gaps_before = selection.gaps.len();
        consider(endpoint, question, now, &mut selection);
        if endpoint.declared().required && selection.gaps.len() > gaps_before {
            selection.required.insert(endpoint.name().to_owned());
        }
    }
    selection
}

/// Adds what `question` has to do with one endpoint.
fn consider(endpoint: &Arc<Endpoint>, question: &Question<'_>, now: Instant, selection: &mut Selection) {
    let metadata = endpoint.metadata();
    let relevant = match &metadata {
        Some(known) => {
            !known.is_all_foreign()
                && !known.is_left_out()
                && (question.is_answered_by(known) && question.is_covered_by(known, endpoint.silent_for(now))
                    || question.was_covered_by(endpoint, known))
                && question.may_concern(endpoint, known)
                && !question.is_ruled_out_by(endpoint, known, now)
        }
        // Nothing is known: only the expected clusters can rule it out.
        None => endpoint.expected().is_empty() || !question.wanted(endpoint).is_empty(),
    };
    if let Some(reason) = refused(endpoint, metadata.as_deref(), question) {
        selection.gaps.extend(gaps(endpoint, question, &[], GapKind::Refused, &reason));
        return;
    }
    // Who offers no rules does not miss those of the expected cluster.
    let could =
        metadata.as_ref().is_some_and(|known| question.side.is_none() || question.is_answered_by(known));
    let missed = if could { question.missed(endpoint) } else { Vec::new() };
    for cluster in &missed {
        let reason = absent_reason(endpoint);
        selection.gaps.push(endpoint.gap_of((*cluster).to_owned(), GapKind::Missing, reason));
    }
    if !relevant {
        return;
    }
    match endpoint.why_not_now(now) {
        Some((kind, reason)) => {
            selection.gaps.extend(gaps(endpoint, question, &missed, kind, &reason));
        }
        None => selection.ask.push(Selected { endpoint: Arc::clone(endpoint), metadata }),
    }
}

/// What is missing of an endpoint that is not asked, but for the clusters that are `told` already: each of its clusters that is wanted, those it is declared as or else those
/// it last advertised, or whatever it stands for.
fn gaps(
    endpoint: &Endpoint,
    question: &Question<'_>,
    told: &[&str],
    kind: GapKind,
    reason: &str,
) -> Vec<Gap> {
    let wanted = endpoint.clusters_where(|set| question.may_match(std::slice::from_ref(set)));
    if wanted.is_empty() {
        return vec![endpoint.gap(kind, reason)];
    }
    let untold = wanted.into_iter().filter(|cluster| !told.contains(&cluster.as_str()));
    untold.map(|cluster| endpoint.gap_of(cluster, kind, reason)).collect()
}

fn absent_reason(endpoint: &Endpoint) -> String {
    let foreign = || endpoint.metadata().and_then(|known| known.foreign.clone());
    let absent = || "it is up but does not advertise this cluster".to_owned();
    endpoint.status().last_error.or_else(foreign).unwrap_or_else(absent)
}

/// Why nothing of the endpoint is believed, where the question could have concerned its declared cluster.
fn refused(endpoint: &Endpoint, metadata: Option<&Metadata>, question: &Question<'_>) -> Option<String> {
    let claim = endpoint.claim().filter(|claim| claim.mode() == ForeignLabels::Refuse)?;
    let reason = metadata?.foreign.clone()?;
    question.may_match(&claim.own_sets()).then(|| format!("{reason}; nothing of it is believed"))
}

fn is_wanted(endpoint: &Endpoint, metadata: Option<&Metadata>, store_matchers: &StoreMatchers) -> bool {
    if store_matchers.is_empty() {
        return true;
    }
    let mut label_sets = metadata.map(|known| known.label_sets.clone()).unwrap_or_default();
    // No set at all says that it may hold anything, the expected cluster included, unless it never spoke.
    let may_hold_anything = metadata
        .is_some_and(|known| known.label_sets.is_empty() && known.foreign.is_none() && !known.is_left_out());
    if !may_hold_anything {
        label_sets.extend(endpoint.not_advertised().into_iter().map(|cluster| endpoint.labels_of(cluster)));
    }
    store_matchers.iter().any(|all| {
        let (address, labels): (Vec<Matcher>, Vec<Matcher>) =
            all.iter().cloned().partition(|matcher| matcher.name() == ADDRESS_LABEL);
        address.iter().all(|matcher| matcher.matches(endpoint.name())) && may_match(&labels, &label_sets)
    })
}
