//! What a querier says of itself, so that another can be stacked on it: all that its endpoints said.
//!
//! Invariant: its TSDBInfos cover all that may be beneath it, whoever is there, and it says so where Thanos' are not known to (`ShippingResponse`).
//!
//! An endpoint that is down counts with what it last said, or with the cluster it is expected to hold: the querier above has to keep asking
//! for that cluster, or nobody would hear that it is missing. An endpoint that may hold anything is advertised as an empty label set.

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
    let mut label_sets = BTreeSet::new();
    let mut range: Option<TimeRange> = None;
    let mut tsdb_infos = Vec::new();
    let now = Instant::now();
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
        exemplars: Some(exemplars(endpoints)),
        status: Some(StatusInfo {}),
        query: None,
    }
}

/// The time of all exemplars, or all time if some endpoint did not say what it has.
fn exemplars(endpoints: &EndpointSet) -> ExemplarsInfo {
    let mut range: Option<TimeRange> = None;
    for endpoint in endpoints.endpoints().iter() {
        let held = match endpoint.metadata() {
            None => TimeRange::ALL,
            Some(known) if known.side.contains(&SideService::Exemplars) => known.exemplars_range,
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
    let mut infos: Vec<_> = known.tsdb_infos.iter().map(|info| (info.labels.clone(), info.range)).collect();
    if known.tsdb_infos_cover && known.range == covered {
        return infos;
    }
    let said: HashSet<&Labels> =
        known.tsdb_infos.iter().filter(|info| info.range == covered).map(|info| &info.labels).collect();
    infos.extend(sets.iter().filter(|set| !said.contains(set)).map(|set| (set.clone(), covered)));
    infos
}

/// The label sets and the time of one endpoint; `None` if it has no Store API.
fn part_of(snapshot: &Snapshot<'_>) -> Option<(Vec<Labels>, TimeRange)> {
    let missing = snapshot.not_advertised().into_iter();
    let missing: Vec<Labels> = missing.map(|cluster| snapshot.endpoint.labels_of(cluster)).collect();
    let (mut sets, mut range) = match &snapshot.metadata {
        Some(known) if !known.has_store || known.is_left_out() => return None,
        // A store of blocks before its first block.
        Some(known) if missing.is_empty() && known.label_sets.is_empty() && known.range.is_empty() => {
            return None;
        }
        Some(known) => (known.label_sets.clone(), known.range),
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
