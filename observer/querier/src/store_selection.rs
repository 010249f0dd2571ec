//! Which endpoints a query has to ask, and which it would have had to ask but cannot.
//!
//! An endpoint is asked if its time overlaps the query's and one of its label sets contradicts no matcher. A peer of ours also says exactly which labels it has for which
//! time (`TSDBInfo`, which of Thanos' components may say less than there is), and is not asked for what it cannot have. One that cannot be asked and would
//! have been, by what it last said or by the cluster it is expected to hold, is a gap. So is the cluster of one that has lost the Store API. The time of one that
//! fails grows with its silence: it would have gone on to hold what came since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use parallax_model::{Labels, Matcher, TimeRange};
use parallax_storeapi::SideService;
use parallax_storeapi::matchers::may_match;

use crate::claim::ForeignLabels;
use crate::coverage::{Gap, GapKind};
use crate::endpoint::{Endpoint, EndpointSet, Metadata, Snapshot};

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
    /// Whether it was well then, and advertised all that it is expected to hold.
    pub was_as_expected: bool,
}

impl Selected {
    pub(crate) fn at(endpoint: &Arc<Endpoint>, now: Instant) -> Self {
        Self::as_in(endpoint, endpoint.snapshot(now))
    }

    fn as_in(endpoint: &Arc<Endpoint>, snapshot: Snapshot<'_>) -> Self {
        let was_as_expected = snapshot.is_as_expected();
        Self { endpoint: Arc::clone(endpoint), metadata: snapshot.metadata, was_as_expected }
    }

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

    fn is_covered_by(&self, snapshot: &Snapshot<'_>, known: &Metadata) -> bool {
        let held = match self.side {
            None => known.range,
            Some(SideService::Exemplars) => known.exemplars_range,
            Some(_) => TimeRange::ALL,
        };
        snapshot.grown(held).overlaps(&self.range) && self.may_match(&known.label_sets)
    }

    /// Whether a declared endpoint that says something else now said that it has this, a short while ago: what it flaps about is asked for, so that its
    /// cluster does not vanish without a word.
    fn was_covered_by(&self, snapshot: &Snapshot<'_>, known: &Metadata) -> bool {
        self.side.is_none()
            && !snapshot.endpoint.expected().is_empty()
            && snapshot.held_lately.is_some_and(|held| held.overlaps(&self.range))
            && self.may_match(&known.label_sets)
    }

    /// Whether the endpoint says exactly what it holds, and that nothing of it is wanted; and has not said otherwise a short while ago.
    fn is_ruled_out_by(&self, snapshot: &Snapshot<'_>, known: &Metadata) -> bool {
        let (now_ms, silence_ms) = (jiff::Timestamp::now().as_millisecond(), snapshot.silence_ms());
        self.side.is_none()
            && known.rules_out(self.range, now_ms, silence_ms, |sets| self.may_match(sets))
            && !snapshot.said_less_lately
    }

    fn wants(&self, endpoint: &Endpoint, cluster: &str) -> bool {
        self.may_match(&[endpoint.labels_of(cluster)])
    }

    /// Whether the endpoint may have something that is wanted.
    fn concerns(&self, snapshot: &Snapshot<'_>) -> bool {
        let endpoint = snapshot.endpoint;
        match &snapshot.metadata {
            Some(known) => {
                !known.is_all_foreign()
                    && !known.is_left_out()
                    && (self.is_answered_by(known) && self.is_covered_by(snapshot, known)
                        || self.was_covered_by(snapshot, known))
                    && self.may_concern(endpoint, known)
                    && !self.is_ruled_out_by(snapshot, known)
            }
            // Nothing is known: only the expected clusters can rule it out.
            None => {
                endpoint.expected().is_empty() || snapshot.expected().any(|name| self.wants(endpoint, name))
            }
        }
    }

    /// The expected clusters that are wanted and that the endpoint does not advertise. Who offers no rules does not miss those of the expected cluster.
    fn missed<'e>(&self, snapshot: &Snapshot<'e>) -> Vec<&'e str> {
        let could = |known: &Arc<Metadata>| self.side.is_none() || self.is_answered_by(known);
        if !snapshot.metadata.as_ref().is_some_and(could) {
            return Vec::new();
        }
        let mut names = snapshot.not_advertised();
        names.retain(|name| self.wants(snapshot.endpoint, name));
        names
    }

    /// The expected clusters that are wanted and that the endpoint advertises, while it has lost the Store API and there is nothing to ask it for.
    fn lost<'e>(&self, snapshot: &Snapshot<'e>) -> Vec<&'e str> {
        let could = |known: &Arc<Metadata>| {
            self.side.is_none()
                && self.may_match(&known.label_sets)
                && self.may_concern(snapshot.endpoint, known)
        };
        if !snapshot.has_lost_store() || !snapshot.metadata.as_ref().is_some_and(could) {
            return Vec::new();
        }
        let missed: BTreeSet<&str> = snapshot.not_advertised().into_iter().collect();
        let advertised = snapshot.expected().filter(|name| !missed.contains(name));
        advertised.filter(|name| self.wants(snapshot.endpoint, name)).collect()
    }
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
        let snapshot = endpoint.snapshot(now);
        if !is_wanted(&snapshot, store_matchers) {
            continue;
        }
        let gaps_before = selection.gaps.len();
        if is_asked(&snapshot, question, &mut selection.gaps) {
            selection.ask.push(Selected::as_in(endpoint, snapshot));
        }
        if endpoint.declared().required && selection.gaps.len() > gaps_before {
            selection.required.insert(endpoint.name().to_owned());
        }
    }
    selection
}

/// Whether one endpoint has to be asked; what cannot be, and what it does not have, are added to `gaps`.
fn is_asked(snapshot: &Snapshot<'_>, question: &Question<'_>, gaps: &mut Vec<Gap>) -> bool {
    let endpoint = snapshot.endpoint;
    if let Some(reason) = refused(snapshot, question) {
        gaps.extend(missing(snapshot, question, &[], GapKind::Refused, &reason));
        return false;
    }
    let missed = question.missed(snapshot);
    for cluster in &missed {
        let reason = absent_reason(snapshot);
        gaps.push(endpoint.gap_of((*cluster).to_owned(), GapKind::Missing, reason));
    }
    if !question.concerns(snapshot) {
        for cluster in question.lost(snapshot) {
            let said = || "it is up but says that it has no Store API now".to_owned();
            let reason = snapshot.last_error.clone().unwrap_or_else(said);
            gaps.push(endpoint.gap_of(cluster.to_owned(), GapKind::Missing, reason));
        }
        return false;
    }
    match &snapshot.why_not_now {
        Some((kind, reason)) => gaps.extend(missing(snapshot, question, &missed, *kind, reason)),
        None => return true,
    }
    false
}

/// What is missing of an endpoint that is not asked, but for the clusters that are `told` already: each of its clusters that is wanted, those it is declared as or else those
/// it last advertised, or whatever it stands for.
fn missing(
    snapshot: &Snapshot<'_>,
    question: &Question<'_>,
    told: &[&str],
    kind: GapKind,
    reason: &str,
) -> Vec<Gap> {
    let wanted = snapshot.clusters_where(|set| question.may_match(std::slice::from_ref(set)));
    if wanted.is_empty() {
        return vec![snapshot.gap(kind, reason)];
    }
    let untold = wanted.into_iter().filter(|cluster| !told.contains(&cluster.as_str()));
    untold.map(|cluster| snapshot.endpoint.gap_of(cluster, kind, reason)).collect()
}

fn absent_reason(snapshot: &Snapshot<'_>) -> String {
    let foreign = || snapshot.metadata.as_ref()?.foreign.clone();
    let absent = || "it is up but does not advertise this cluster".to_owned();
    snapshot.last_error.clone().or_else(foreign).unwrap_or_else(absent)
}

/// Why nothing of the endpoint is believed, where the question could have concerned its declared cluster.
fn refused(snapshot: &Snapshot<'_>, question: &Question<'_>) -> Option<String> {
    let claim = snapshot.endpoint.claim().filter(|claim| claim.mode() == ForeignLabels::Refuse)?;
    let reason = snapshot.metadata.as_ref()?.foreign.clone()?;
    question.may_match(&claim.own_sets()).then(|| format!("{reason}; nothing of it is believed"))
}

fn is_wanted(snapshot: &Snapshot<'_>, store_matchers: &StoreMatchers) -> bool {
    if store_matchers.is_empty() {
        return true;
    }
    let (endpoint, metadata) = (snapshot.endpoint, snapshot.metadata.as_deref());
    let mut label_sets = metadata.map(|known| known.label_sets.clone()).unwrap_or_default();
    // No set at all says that it may hold anything, the expected cluster included, unless it never spoke.
    let may_hold_anything = metadata
        .is_some_and(|known| known.label_sets.is_empty() && known.foreign.is_none() && !known.is_left_out());
    if !may_hold_anything {
        label_sets.extend(snapshot.not_advertised().into_iter().map(|cluster| endpoint.labels_of(cluster)));
    }
    store_matchers.iter().any(|all| {
        let (address, labels): (Vec<Matcher>, Vec<Matcher>) =
            all.iter().cloned().partition(|matcher| matcher.name() == ADDRESS_LABEL);
        address.iter().all(|matcher| matcher.matches(endpoint.name())) && may_match(&labels, &label_sets)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use parallax_model::MatchOp;
    use parallax_net::Context;
    use parallax_storeapi::labels::set_to_wire;
    use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};

    use super::*;
    use crate::coverage::CoverageBook;
    use crate::endpoint::{Connection, Declared, EndpointConfig, EndpointOptions};

    /// An endpoint of `cluster`, which says nothing by itself.
    fn silent(cluster: &str) -> EndpointConfig {
        let nobody = Connection::Unusable("nobody answers here".to_owned());
        EndpointConfig::new("store:10901", nobody).with_cluster(cluster)
    }

    fn saying(cluster: &str, store: Option<StoreInfo>) -> InfoResponse {
        let label_sets = vec![set_to_wire(&Labels::from_pairs([("cluster", cluster)]))];
        InfoResponse { label_sets, store, ..InfoResponse::default() }
    }

    /// Polled once, and then hardly ever; no failure is slow, however busy the machine is.
    async fn polled(config: EndpointConfig, context: &Context) -> Arc<EndpointSet> {
        let hour = Duration::from_secs(60 * 60);
        let options =
            EndpointOptions { info_interval: hour, slow_failure: hour, ..EndpointOptions::default() };
        let set =
            EndpointSet::start(vec![config], options, &context.metrics, context.shutdown.clone()).unwrap();
        set.polled_once().await;
        set
    }

    fn says(set: &EndpointSet, info: InfoResponse) {
        let endpoint = &set.endpoints()[0];
        endpoint.shared().polled(Instant::now(), Ok(endpoint.read_info(info).unwrap()));
    }

    fn held() -> Option<StoreInfo> {
        Some(StoreInfo { min_time: 0, max_time: 1000, ..StoreInfo::default() })
    }

    /// Who is asked for series of `cluster` within a time that is held, and whose part is missing.
    fn asked_and_missing(set: &EndpointSet, cluster: &str) -> (usize, Vec<String>) {
        let selection = select(set, TimeRange::new(0, 1000), &[Matcher::equal("cluster", cluster)], &[]);
        assert_eq!(selection.fatal(), selection.gaps.first(), "it is required");
        assert!(selection.gaps.iter().all(|gap| gap.kind == GapKind::Missing), "{:?}", selection.gaps);
        let said = selection.gaps.into_iter().map(|gap| format!("{}: {}", gap.cluster, gap.reason));
        (selection.ask.len(), said.collect())
    }

    #[tokio::test]
    async fn a_declared_endpoint_that_says_it_has_no_store_api_is_missing() {
        let context = Context::for_test();
        let required = Declared { required: true, ..Declared::default() };
        let lost = || vec!["us-1: it is up but says that it has no Store API now".to_owned()];
        let cases = [
            ("sidecar", false, true),
            ("store", false, true),
            ("receive", false, true),
            ("query", false, true),
            // It may have no TSDB of its own.
            ("rule", false, false),
            ("rule", true, true),
            ("of another make", false, false),
            ("of another make", true, true),
        ];
        for (component, had_store, is_missing) in cases {
            let set = polled(silent("us-1").with_declared(required.clone()), &context).await;
            if had_store {
                says(&set, saying("us-1", held()));
                assert_eq!(asked_and_missing(&set, "us-1"), (1, vec![]), "{component}");
                says(&set, saying("us-1", None));
                assert_eq!(asked_and_missing(&set, "us-1"), (1, vec![]), "{component} may flap");
            }
            says(&set, InfoResponse { component_type: component.to_owned(), ..saying("us-1", None) });
            // A while later.
            set.endpoints()[0].shared().write().lately = Default::default();
            let expected = if is_missing { lost() } else { Vec::new() };
            assert_eq!(asked_and_missing(&set, "us-1"), (0, expected), "{component}, {had_store}");
            assert_eq!(asked_and_missing(&set, "eu-1"), (0, vec![]), "{component}, {had_store}");
            let rules = Question { side: Some(SideService::Rules), range: TimeRange::ALL, selectors: &[] };
            assert!(choose(&set, &rules, &[]).gaps.is_empty(), "it never offered rules");

            assert_eq!(set.missing_clusters().len(), usize::from(is_missing), "{component}, {had_store}");
            let book = CoverageBook::new(&context.metrics);
            book.sample(1000, &[Arc::clone(&set)]);
            let up = book.samples(0, 1000)["us-1"][0].up;
            assert_eq!(up, if is_missing { 0.0 } else { 1.0 }, "{component}, {had_store}");

            says(&set, saying("us-1", held()));
            assert_eq!(asked_and_missing(&set, "us-1"), (1, vec![]), "{component}, {had_store}");
        }
        context.shutdown.cancel();
    }

    #[tokio::test]
    async fn who_has_lost_the_store_api_misses_what_is_wanted_of_its_clusters() {
        let context = Context::for_test();
        let delegated = ["ap-1", "eu-1", "us-1"].map(str::to_owned);
        let hub = silent("hub").with_delegated(&delegated);
        let set = polled(hub, &context).await;
        let mut info = saying("us-1", None);
        info.label_sets.extend(saying("eu-1", None).label_sets);
        info.component_type = "query".to_owned();
        says(&set, info);
        let missing = |matchers: &[Matcher]| {
            let selection = select(&set, TimeRange::new(0, 1000), matchers, &[]);
            assert!(selection.ask.is_empty());
            selection.gaps.into_iter().map(|gap| (gap.cluster, gap.reason)).collect::<Vec<_>>()
        };
        let of = |cluster: &str| missing(&[Matcher::equal("cluster", cluster)]);
        let said = |cluster: &str, reason: &str| (cluster.to_owned(), format!("it is up but {reason}"));
        let (never, lost) = ("does not advertise this cluster", "says that it has no Store API now");
        assert_eq!(missing(&[]), [said("ap-1", never), said("eu-1", lost), said("us-1", lost)], "each once");
        assert_eq!(of("eu-1"), [said("eu-1", lost)]);
        assert_eq!(of("ap-1"), [said("ap-1", never)]);
        assert_eq!(of("af-1"), []);
        set.endpoints()[0].shared().polled(Instant::now(), Err("connection refused".to_owned()));
        assert_eq!(of("eu-1"), [("eu-1".to_owned(), "connection refused".to_owned())]);
        context.shutdown.cancel();
    }

    #[tokio::test]
    async fn who_replaces_an_endpoint_that_is_down_is_asked_for_what_came_since() {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let context = Context::for_test();
        let set = polled(silent("us-1"), &context).await;
        says(&set, saying("us-1", held()));
        let former = Arc::clone(&set.endpoints()[0]);
        former.shared().polled(Instant::now(), Err("connection refused".to_owned()));
        let later = Instant::now() + 3 * HOUR;
        let (matchers, hour_ms) = ([vec![Matcher::equal("__name__", "up")]], 60 * 60 * 1000);
        let question = |range| Question { side: None, range, selectors: &matchers };
        let is_asked_at = |from_hour: i64| {
            let endpoint = Arc::clone(&set.endpoints()[0]);
            let range = TimeRange::new(from_hour * hour_ms, i64::MAX);
            let mut gaps = Vec::new();
            let is_asked = is_asked(&endpoint.snapshot(later), &question(range), &mut gaps);
            assert!(gaps.is_empty(), "{gaps:?}");
            is_asked
        };
        assert!(is_asked_at(2));
        set.replace(vec![silent("us-1").with_revision("other members")], Vec::new());
        // Its first poll has not begun: nothing was waited for.
        assert!(!Arc::ptr_eq(&former, &set.endpoints()[0]) && set.status()[0].last_check.is_none());
        assert!(is_asked_at(2) && !is_asked_at(100), "as the one before");
        assert_eq!(set.status()[0].last_error.as_deref(), Some("connection refused"));
        context.shutdown.cancel();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_changes_while_it_is_looked_at_is_asked_or_missing() {
        let context = Context::for_test();
        let set = EndpointSet::start(
            vec![silent("us-1")],
            EndpointOptions::default(),
            &context.metrics,
            context.shutdown.clone(),
        );
        let set = set.unwrap();
        set.polled_once().await;
        let endpoint = Arc::clone(&set.endpoints()[0]);
        let held = || Some(StoreInfo { min_time: 0, max_time: 1000, ..StoreInfo::default() });
        let says = |info| endpoint.shared().polled(Instant::now(), Ok(endpoint.read_info(info).unwrap()));
        says(saying("us-1", held()));
        let matchers = [Matcher::new(MatchOp::Equal, "__name__", "up").unwrap()];
        let is_done = AtomicBool::new(false);
        let (mut asked, mut missing) = (0_u32, 0_u32);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    // Neither alone is silent: of the first the cluster is missing, the second is asked for what it held a moment ago.
                    says(saying("eu-1", held()));
                    says(saying("us-1", None));
                }
            });
            let began = Instant::now();
            let mut questions = 0;
            while (questions < 50_000 || asked == 0 || missing == 0) && began.elapsed().as_secs() < 60 {
                questions += 1;
                let selection = select(&set, TimeRange::new(0, 1000), &matchers, &[]);
                asked += u32::try_from(selection.ask.len()).unwrap();
                missing += u32::try_from(selection.gaps.len()).unwrap();
                if asked + missing < questions {
                    break;
                }
            }
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(asked + missing, questions, "one was answered without a word");
        });
        assert!(asked > 0 && missing > 0, "{asked} asked, {missing} missing");
        context.shutdown.cancel();
    }
}
