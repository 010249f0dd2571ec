//! Which endpoints a selection is asked of, where another part of the query has the others.
//!
//! Invariant: what was chosen for one part of a query is asked or accounted for, though discovery replaces endpoints meanwhile. So nothing is looked for again by its name: what
//! was chosen is kept, and what has come in its place is another endpoint, unless it stands for the same. Whatever comes from two sides by that is noticed (`pushdown/guard.rs`).

use std::sync::Arc;
use std::time::Instant;

use parallax_model::{Labels, Matcher};
use parallax_storeapi::matchers::may_match;

use crate::coverage::{Gap, GapKind};
use crate::store_selection::{Selected, Selection};

/// A request extension for the fan-out nearest to the question; it never travels.
#[derive(Clone, Debug)]
pub(crate) enum Among {
    /// These, as they were selected.
    Only(Arc<[Selected]>),
    /// All but these.
    Except(Arc<[Selected]>),
}

impl Among {
    /// Whom to ask for what matches, and what is missing; `select` looks at all endpoints.
    pub fn selection(&self, matchers: &[Matcher], select: impl FnOnce() -> Selection) -> Selection {
        match self {
            Self::Only(chosen) => still(chosen, matchers),
            Self::Except(others) => without(others, select()),
        }
    }
}

/// Endpoints that were selected before. What became of them since is a gap, and not their absence.
fn still(chosen: &[Selected], matchers: &[Matcher]) -> Selection {
    let now = Instant::now();
    let is_wanted = |set: &Labels| may_match(matchers, std::slice::from_ref(set));
    let mut selection = Selection::default();
    for selected in chosen {
        let endpoint = &selected.endpoint;
        let snapshot = endpoint.snapshot(now);
        let gaps_before = selection.gaps.len();
        let mut lost = snapshot.not_advertised();
        lost.retain(|cluster| is_wanted(&endpoint.labels_of(cluster)));
        let gone = "it does not advertise this cluster any more";
        let gap = |cluster: &&str| endpoint.gap_of((*cluster).to_owned(), GapKind::Missing, gone);
        selection.gaps.extend(lost.iter().map(gap));
        match &snapshot.why_not_now {
            None => selection.ask.push(selected.clone()),
            Some((kind, reason)) => {
                let wanted = snapshot.clusters_where(is_wanted);
                if wanted.is_empty() {
                    selection.gaps.push(snapshot.gap(*kind, reason));
                }
                let untold = wanted.into_iter().filter(|cluster| !lost.contains(&cluster.as_str()));
                selection.gaps.extend(untold.map(|cluster| endpoint.gap_of(cluster, *kind, reason)));
            }
        }
        if endpoint.declared().required && selection.gaps.len() > gaps_before {
            selection.required.insert(endpoint.name().to_owned());
        }
    }
    selection
}

/// What is selected now, but for what `others` stand for.
fn without(others: &[Selected], mut selection: Selection) -> Selection {
    let now = Instant::now();
    selection.ask.retain(|selected| !others.iter().any(|other| is_same(other, selected)));
    let is_theirs = |gap: &Gap| {
        let of_its_name = others.iter().filter(|other| other.endpoint.name() == gap.endpoint);
        of_its_name.map(|other| other.endpoint.snapshot(now)).any(|snapshot| {
            snapshot.clusters().contains(&gap.cluster) || snapshot.cluster_name() == gap.cluster
        })
    };
    selection.gaps.retain(|gap| !is_theirs(gap));
    let Selection { gaps, required, .. } = &mut selection;
    required.retain(|endpoint| gaps.iter().any(|gap| gap.endpoint == *endpoint));
    selection
}

/// Whether it is the same endpoint, or one in its place that says it holds the same.
fn is_same(one: &Selected, other: &Selected) -> bool {
    let holds_the_same = || {
        let (one, other) = (one.metadata.as_deref(), other.metadata.as_deref());
        one.map(|known| &known.label_sets) == other.map(|known| &known.label_sets)
    };
    Arc::ptr_eq(&one.endpoint, &other.endpoint)
        || one.endpoint.name() == other.endpoint.name() && holds_the_same()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use parallax_model::TimeRange;
    use parallax_net::Context;
    use parallax_storeapi::labels::set_to_wire;
    use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};

    use super::*;
    use crate::endpoint::{Connection, Declared, Endpoint, EndpointConfig, EndpointOptions, EndpointSet};
    use crate::store_selection;

    struct Mesh {
        set: Arc<EndpointSet>,
        context: Context,
    }

    impl Drop for Mesh {
        fn drop(&mut self) {
            self.context.shutdown.cancel();
        }
    }

    type Found = (Vec<Arc<Endpoint>>, Vec<(String, GapKind)>);

    /// `hub`, to which these clusters are delegated.
    fn config(clusters: &[&str], revision: &str) -> EndpointConfig {
        let nobody = Connection::Unusable("nobody answers here".to_owned());
        let clusters: Vec<String> = clusters.iter().map(|name| (*name).to_owned()).collect();
        let mut config = EndpointConfig::new("hub", nobody).with_cluster("hub").with_delegated(&clusters);
        config.revision = revision.to_owned();
        config
    }

    impl Mesh {
        async fn of(config: EndpointConfig) -> Self {
            let context = Context::for_test();
            // However busy the machine is, a poll that fails says nothing of the next call.
            let slow_failure = Duration::MAX;
            let info_interval = Duration::from_secs(3600);
            let options = EndpointOptions { info_interval, slow_failure, ..EndpointOptions::default() };
            let shutdown = context.shutdown.clone();
            let set = EndpointSet::start(vec![config], options, &context.metrics, shutdown).unwrap();
            set.polled_once().await;
            Self { set, context }
        }

        async fn replace(&self, config: EndpointConfig) {
            self.set.replace(vec![config], Vec::new());
            self.set.polled_once().await;
        }

        /// The endpoint, once it has said that it holds these.
        fn saying(&self, clusters: &[&str]) -> Arc<Endpoint> {
            let endpoint = Arc::clone(&self.set.endpoints()[0]);
            let label_set = |name: &&str| set_to_wire(&Labels::from_pairs([("cluster", *name)]));
            let info = InfoResponse {
                label_sets: clusters.iter().map(label_set).collect(),
                store: Some(StoreInfo { max_time: i64::MAX, ..StoreInfo::default() }),
                ..InfoResponse::default()
            };
            endpoint.shared().polled(Instant::now(), Ok(endpoint.read_info(info).unwrap()));
            endpoint
        }

        /// Who is asked, and of whom something is missing.
        fn found(&self, among: &Among, matchers: &[Matcher]) -> Found {
            let range = TimeRange::new(0, 1000);
            let select = || store_selection::select(&self.set, range, matchers, &[]);
            let Selection { ask, gaps, required } = among.selection(matchers, select);
            assert_eq!(required.is_empty(), gaps.is_empty(), "it is required");
            let ask = ask.into_iter().map(|selected| selected.endpoint).collect();
            (ask, gaps.into_iter().map(|gap| (gap.cluster, gap.kind)).collect())
        }
    }

    fn required(config: EndpointConfig) -> EndpointConfig {
        config.with_declared(Declared { required: true, ..Declared::default() })
    }

    fn these(endpoint: &Arc<Endpoint>) -> Arc<[Selected]> {
        [Selected::at(endpoint, Instant::now())].into()
    }

    fn is(found: &[Arc<Endpoint>], expected: &Arc<Endpoint>) -> bool {
        matches!(found, [only] if Arc::ptr_eq(only, expected))
    }

    fn nothing((ask, gaps): Found) -> bool {
        ask.is_empty() && gaps.is_empty()
    }

    #[tokio::test]
    async fn what_was_chosen_is_asked_or_missing_though_it_is_there_no_longer() {
        let mesh = Mesh::of(required(config(&["us-1", "us-2"], "1"))).await;
        let former = mesh.saying(&["us-1", "us-2"]);
        let only = Among::Only(these(&former));
        mesh.replace(required(config(&["ap-1"], "2"))).await;
        let (all, us_2) = (Matcher::equal("__name__", "up"), Matcher::equal("cluster", "us-2"));
        let (ask, gaps) = mesh.found(&only, std::slice::from_ref(&all));
        assert!(is(&ask, &former) && gaps.is_empty(), "{gaps:?}");
        former.hung("nothing came");
        for (matcher, clusters) in [(&all, &["us-1", "us-2"][..]), (&us_2, &["us-2"])] {
            let (ask, gaps) = mesh.found(&only, std::slice::from_ref(matcher));
            let expected: Vec<_> = clusters.iter().map(|name| ((*name).to_owned(), GapKind::Late)).collect();
            assert!(ask.is_empty() && gaps == expected, "{ask:?} {gaps:?}");
        }
    }

    #[tokio::test]
    async fn of_what_was_chosen_that_is_missing_which_it_holds_no_longer() {
        let mesh = Mesh::of(required(config(&["us-1", "us-2"], "1"))).await;
        let only = Among::Only(these(&mesh.saying(&["us-1", "us-2"])));
        let endpoint = mesh.saying(&["us-1"]);
        let (ask, gaps) = mesh.found(&only, &[Matcher::equal("__name__", "up")]);
        assert!(is(&ask, &endpoint));
        assert_eq!(gaps, [("us-2".to_owned(), GapKind::Missing)]);
    }

    #[tokio::test]
    async fn what_comes_in_the_place_of_another_part_is_asked_unless_it_holds_the_same() {
        let mesh = Mesh::of(required(config(&["us-1"], "1"))).await;
        let former = mesh.saying(&["us-1"]);
        let except = Among::Except(these(&former));
        let up = [Matcher::equal("__name__", "up")];
        assert!(nothing(mesh.found(&except, &up)));
        // A new connection.
        mesh.replace(required(config(&["us-1"], "2"))).await;
        assert!(nothing(mesh.found(&except, &up)));
        mesh.saying(&["us-1"]).hung("nothing came");
        assert!(nothing(mesh.found(&except, &up)), "the other part has it");
        // Another cluster by the same name.
        mesh.replace(required(config(&["us-2"], "3"))).await;
        let missing = vec![("us-2".to_owned(), GapKind::Missing)];
        assert_eq!(mesh.found(&except, &up).1, missing, "it has not said that it has it");
        let other = mesh.saying(&["us-2"]);
        let (ask, gaps) = mesh.found(&except, &up);
        assert!(is(&ask, &other) && gaps.is_empty(), "{gaps:?}");
        other.hung("nothing came");
        let (ask, gaps) = mesh.found(&except, &up);
        assert!(ask.is_empty() && gaps == [("us-2".to_owned(), GapKind::Late)], "{ask:?} {gaps:?}");
    }
}
