//! What a querier says of itself, so that another can be stacked on it: all that its endpoints said.
//!
//! Invariant: its TSDBInfos cover all that may be beneath it, whoever is there, and it says so where Thanos' are not known to (`ShippingResponse`).
//!
//! An endpoint that is down counts with what it last said, grown by its silence, or with the cluster it is expected to hold, and so does one that has lost the
//! Store API: the querier above has to keep asking for that cluster, or nobody would hear that it is missing. An endpoint that may hold anything is advertised as an empty label set.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use parallax_model::{Labels, TimeRange};
use parallax_storeapi::SideService;
use parallax_storeapi::labels::set_to_wire;
use parallax_storeapi::proto::thanos::info::{
    ExemplarsInfo, InfoResponse, MetricMetadataInfo, RulesInfo, StatusInfo, StoreInfo, TargetsInfo, TsdbInfo,
};

use super::QUERIER;
use crate::endpoint::{EndpointSet, Snapshot};

pub(super) fn aggregate(endpoints: &EndpointSet, selector_labels: &Labels) -> InfoResponse {
    aggregate_at(endpoints, selector_labels, Instant::now())
}

fn aggregate_at(endpoints: &EndpointSet, selector_labels: &Labels, now: Instant) -> InfoResponse {
    let mut label_sets = BTreeSet::new();
    let mut range: Option<TimeRange> = None;
    let mut tsdb_infos = Vec::new();
    for endpoint in endpoints.endpoints().iter() {
        endpoint.refresh_if_local();
        let snapshot = endpoint.snapshot(now);
        let Some((sets, covered)) = part_of(&snapshot) else { continue };
        label_sets.extend(sets.iter().map(|set| set.overlaid_with(selector_labels)));
        range = Some(match range {
            None => covered,
            Some(range) => TimeRange::new(range.min_ms.min(covered.min_ms), range.max_ms.max(covered.max_ms)),
        });
        tsdb_infos.extend(infos_of(&snapshot, &sets, covered).into_iter().map(|(labels, range)| TsdbInfo {
            labels: Some(set_to_wire(&labels.overlaid_with(selector_labels))),
            min_time: range.min_ms,
            max_time: range.max_ms,
        }));
    }
    if label_sets.is_empty() && !selector_labels.is_empty() {
        label_sets.insert(selector_labels.clone());
    }
    let range = range.unwrap_or(TimeRange::ALL);
    InfoResponse {
        label_sets: label_sets.iter().map(set_to_wire).collect(),
        component_type: QUERIER.to_owned(),
        store: Some(StoreInfo {
            min_time: range.min_ms,
            max_time: range.max_ms,
            supports_sharding: true,
            supports_without_replica_labels: true,
            tsdb_infos,
            supports_projections: false,
        }),
        // All are offered whatever is known of the endpoints: one that never answered may have rules, and has to be reported missing.
        rules: Some(RulesInfo {}),
        metric_metadata: Some(MetricMetadataInfo {}),
        targets: Some(TargetsInfo {}),
        exemplars: Some(exemplars(endpoints, now)),
        status: Some(StatusInfo {}),
        query: None,
    }
}

/// The time of all exemplars, or all time if some endpoint did not say what it has.
fn exemplars(endpoints: &EndpointSet, now: Instant) -> ExemplarsInfo {
    let mut range: Option<TimeRange> = None;
    for endpoint in endpoints.endpoints().iter() {
        let snapshot = endpoint.snapshot(now);
        let held = match &snapshot.metadata {
            None => TimeRange::ALL,
            Some(known) if known.side.contains(&SideService::Exemplars) => {
                snapshot.grown(known.exemplars_range)
            }
            Some(_) => continue,
        };
        range = Some(range.map_or(held, |range| {
            TimeRange::new(range.min_ms.min(held.min_ms), range.max_ms.max(held.max_ms))
        }));
    }
    let range = range.unwrap_or(TimeRange::ALL);
    ExemplarsInfo { min_time: range.min_ms, max_time: range.max_ms }
}

/// What covers everything that one endpoint may hold: its own word if that does, else what it says beside all of `sets` for all of the time that is `covered`.
fn infos_of(snapshot: &Snapshot<'_>, sets: &[Labels], covered: TimeRange) -> Vec<(Labels, TimeRange)> {
    let Some(known) = &snapshot.metadata else {
        return sets.iter().map(|set| (set.clone(), covered)).collect();
    };
    // What is silent may have gone on: without an end, it says the same from poll to poll.
    let open = |range: TimeRange| match snapshot.silent_for.is_zero() || range.is_empty() {
        true => range,
        false => TimeRange::new(range.min_ms, i64::MAX),
    };
    let said = || known.tsdb_infos.iter().map(|info| (&info.labels, open(info.range)));
    let mut infos: Vec<_> = said().map(|(labels, range)| (labels.clone(), range)).collect();
    // Who says none rules nothing out.
    if known.tsdb_infos_cover && !infos.is_empty() && snapshot.grown(known.range) == covered {
        return infos;
    }
    let covered = open(covered);
    let said: HashSet<&Labels> =
        said().filter(|(_, range)| *range == covered).map(|(labels, _)| labels).collect();
    infos.extend(sets.iter().filter(|set| !said.contains(set)).map(|set| (set.clone(), covered)));
    infos
}

/// The label sets and the time of one endpoint; `None` if it has no Store API, and need not have it.
fn part_of(snapshot: &Snapshot<'_>) -> Option<(Vec<Labels>, TimeRange)> {
    let missing = snapshot.not_advertised().into_iter();
    let missing: Vec<Labels> = missing.map(|cluster| snapshot.endpoint.labels_of(cluster)).collect();
    let (mut sets, mut range) = match &snapshot.metadata {
        Some(known) if known.is_left_out() || !known.has_store && !snapshot.has_lost_store() => return None,
        // A store of blocks before its first block.
        Some(known) if missing.is_empty() && known.label_sets.is_empty() && known.range.is_empty() => {
            return None;
        }
        Some(known) => (known.label_sets.clone(), snapshot.grown(known.range)),
        None => (Vec::new(), TimeRange::ALL),
    };
    if !missing.is_empty() {
        sets.extend(missing);
        range = TimeRange::ALL;
    } else if sets.is_empty() {
        sets.push(Labels::empty());
    }
    Some((sets, range))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use parallax_model::Matcher;
    use parallax_net::Context;
    use parallax_storeapi::labels::set_from_wire;

    use super::*;
    use crate::endpoint::{Connection, EndpointConfig, EndpointOptions};
    use crate::store_selection::select;

    const HOUR_MS: i64 = 60 * 60 * 1000;
    const SILENCE: Duration = Duration::from_secs(3 * 60 * 60);

    /// Endpoints that say nothing by themselves: one declared as each of `clusters`, and one that is not declared where the name is empty.
    async fn endpoints(clusters: &[&str], context: &Context) -> Arc<EndpointSet> {
        let config = |cluster: &&str| {
            let nobody = Connection::Unusable("nobody answers here".to_owned());
            let config = EndpointConfig::new(format!("store-{cluster}:10901"), nobody);
            if cluster.is_empty() { config } else { config.with_cluster(*cluster) }
        };
        let options =
            EndpointOptions { info_interval: Duration::from_secs(3600), ..EndpointOptions::default() };
        let configs = clusters.iter().map(config).collect();
        let set = EndpointSet::start(configs, options, &context.metrics, context.shutdown.clone()).unwrap();
        set.polled_once().await;
        set
    }

    fn says(set: &EndpointSet, index: usize, info: InfoResponse, covers: bool) {
        let endpoint = &set.endpoints()[index];
        endpoint.shared().polled(Instant::now(), Ok(endpoint.read_info(info).unwrap()));
        endpoint.shared().write().covers(covers);
    }

    fn goes_down(set: &EndpointSet, index: usize) {
        set.endpoints()[index].shared().polled(Instant::now(), Err("connection refused".to_owned()));
    }

    fn of(cluster: &str) -> Labels {
        Labels::from_pairs([("cluster", cluster)])
    }

    /// A store of blocks of `cluster`, with the one TSDBInfo that covers them.
    fn blocks(cluster: &str, range: TimeRange) -> InfoResponse {
        let (labels, min_time, max_time) = (set_to_wire(&of(cluster)), range.min_ms, range.max_ms);
        let tsdb_infos = vec![TsdbInfo { labels: Some(labels.clone()), min_time, max_time }];
        InfoResponse {
            label_sets: vec![labels],
            component_type: "store".to_owned(),
            store: Some(StoreInfo { min_time, max_time, tsdb_infos, ..StoreInfo::default() }),
            exemplars: Some(ExemplarsInfo { min_time, max_time }),
            ..InfoResponse::default()
        }
    }

    fn without_store(cluster: &str, component: &str) -> InfoResponse {
        let component_type = component.to_owned();
        InfoResponse {
            label_sets: vec![set_to_wire(&of(cluster))],
            component_type,
            ..InfoResponse::default()
        }
    }

    fn infos(info: &InfoResponse) -> Vec<(Labels, TimeRange)> {
        let read = |one: &TsdbInfo| {
            let labels = set_from_wire(one.labels.as_ref().unwrap()).unwrap();
            (labels, TimeRange::new(one.min_time, one.max_time))
        };
        info.store.as_ref().unwrap().tsdb_infos.iter().map(read).collect()
    }

    fn range(info: &InfoResponse) -> TimeRange {
        let store = info.store.as_ref().unwrap();
        TimeRange::new(store.min_time, store.max_time)
    }

    /// Whether a querier above that is told `info` asks for series of `cluster` from `from_ms` on.
    async fn asks_above(info: InfoResponse, cluster: &str, from_ms: i64, context: &Context) -> bool {
        let above = endpoints(&[""], context).await;
        says(&above, 0, info, true);
        let matchers = [Matcher::equal("cluster", cluster)];
        !select(&above, TimeRange::new(from_ms, i64::MAX), &matchers, &[]).ask.is_empty()
    }

    #[tokio::test]
    async fn what_is_silent_beneath_grows_for_the_querier_above_too() {
        let context = Context::for_test();
        let held = TimeRange::new(HOUR_MS, 2 * HOUR_MS);
        for covers in [true, false] {
            let set = endpoints(&["us-1"], &context).await;
            says(&set, 0, blocks("us-1", held), covers);
            let at = |now| aggregate_at(&set, &Labels::empty(), now);
            let well = at(Instant::now() + SILENCE);
            assert_eq!((range(&well), infos(&well)), (held, vec![(of("us-1"), held)]));
            assert!(!asks_above(well, "us-1", 4 * HOUR_MS, &context).await);

            goes_down(&set, 0);
            let silent = at(Instant::now() + SILENCE);
            let grown = range(&silent);
            assert!(grown.min_ms == held.min_ms && grown.max_ms >= 5 * HOUR_MS, "{grown:?}");
            assert_eq!(infos(&silent), [(of("us-1"), TimeRange::new(held.min_ms, i64::MAX))]);
            assert!(silent.exemplars.as_ref().unwrap().max_time >= 5 * HOUR_MS);
            assert!(asks_above(silent.clone(), "us-1", 4 * HOUR_MS, &context).await);
            assert!(!asks_above(silent, "eu-1", 4 * HOUR_MS, &context).await);
        }
        context.shutdown.cancel();
    }

    #[tokio::test]
    async fn neither_what_is_empty_nor_what_has_no_end_grows() {
        let context = Context::for_test();
        for held in [TimeRange::new(i64::MAX, i64::MIN), TimeRange::new(10, 5), TimeRange::new(0, i64::MAX)] {
            let set = endpoints(&["us-1"], &context).await;
            says(&set, 0, blocks("us-1", held), true);
            goes_down(&set, 0);
            let info = aggregate_at(&set, &Labels::empty(), Instant::now() + SILENCE);
            assert_eq!((range(&info), infos(&info)), (held, vec![(of("us-1"), held)]));
        }
        context.shutdown.cancel();
    }

    #[tokio::test]
    async fn who_has_lost_the_store_api_is_asked_for_by_the_querier_above() {
        let context = Context::for_test();
        let past = TimeRange::new(0, HOUR_MS);
        for (component, counts) in [("sidecar", true), ("rule", false)] {
            let set = endpoints(&["eu-1", "us-1"], &context).await;
            says(&set, 0, blocks("eu-1", past), true);
            says(&set, 1, without_store("us-1", component), true);
            let info = aggregate_at(&set, &Labels::empty(), Instant::now());
            let mut expected = vec![(of("eu-1"), past)];
            expected.extend(counts.then(|| (of("us-1"), TimeRange::ALL)));
            assert_eq!(infos(&info), expected, "{component}");
            assert_eq!(info.label_sets.len(), expected.len());
            assert_eq!(asks_above(info, "us-1", 4 * HOUR_MS, &context).await, counts, "{component}");
        }
        context.shutdown.cancel();
    }
}
