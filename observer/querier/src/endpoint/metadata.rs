//! What an endpoint says of itself in Info, read once.

use std::collections::HashMap;

use parallax_model::{Labels, TimeRange};
use parallax_storeapi::proto::thanos::info::{InfoResponse, TsdbInfo as WireTsdbInfo};
use parallax_storeapi::{Error, SideService, labels};

/// What Thanos' components, and ours, are called that have the Store API whenever they can read what they hold. A ruler may do without.
const STORES_BY_NATURE: [&str; 4] = ["sidecar", "store", "receive", "query"];

/// A readable Info answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    /// `sidecar`, `store`, `query`…
    pub component: String,
    /// Sets of external labels held; none means that anything may be held.
    pub label_sets: Vec<Labels>,
    /// The time held; all of it for an endpoint without the Store API.
    pub range: TimeRange,
    /// Whether it serves the Store API at all.
    pub has_store: bool,
    pub supports_sharding: bool,
    pub supports_without_replica_labels: bool,
    pub tsdb_infos: Vec<TsdbInfo>,
    /// The services it offers beside the Store API.
    pub side: Vec<SideService>,
    /// Whether it evaluates PromQL for others.
    pub has_query: bool,
    /// The time of its exemplars; all of it where it does not say.
    pub exemplars_range: TimeRange,
    /// Whether these cover everything that it holds, each with its labels: so a peer of ours says, and nobody else.
    pub tsdb_infos_cover: bool,
    /// By which words it claims to be another cluster than it is declared as, see [`crate::Claim`]; those label sets are not in `label_sets`.
    pub foreign: Option<String>,
    /// Label sets that it advertises and that are not chosen, see [`crate::LabelSetRules`].
    pub left_out: Vec<Labels>,
}

/// A TSDB or group of blocks behind an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct TsdbInfo {
    pub labels: Labels,
    pub range: TimeRange,
}

impl Metadata {
    /// # Errors
    /// If a label is not UTF-8.
    pub fn from_info(info: InfoResponse) -> Result<Self, Error> {
        let label_sets = info.label_sets.iter().map(labels::set_from_wire).collect::<Result<Vec<_>, _>>()?;
        let has_store = info.store.is_some();
        let range = info
            .store
            .as_ref()
            .map_or(TimeRange::ALL, |store| TimeRange::new(store.min_time, store.max_time));
        let side = SideService::ALL.into_iter().filter(|service| service.is_offered(&info)).collect();
        let has_query = info.query.is_some();
        let exemplars = info.exemplars.as_ref().map(|held| TimeRange::new(held.min_time, held.max_time));
        let store = info.store.unwrap_or_default();
        Ok(Self {
            component: info.component_type,
            label_sets,
            range,
            has_store,
            supports_sharding: store.supports_sharding,
            supports_without_replica_labels: store.supports_without_replica_labels,
            tsdb_infos: store.tsdb_infos.iter().map(tsdb_info).collect::<Result<_, _>>()?,
            tsdb_infos_cover: false,
            side,
            has_query,
            // Thanos' components leave both ends at 0.
            exemplars_range: exemplars.filter(|held| *held != TimeRange::new(0, 0)).unwrap_or(TimeRange::ALL),
            foreign: None,
            left_out: Vec::new(),
        })
    }

    /// Whether what it is has the Store API, also where it says that it has none.
    pub(crate) fn is_store_by_nature(&self) -> bool {
        STORES_BY_NATURE.contains(&self.component.as_str())
    }

    /// Whether all that it advertises is another cluster's.
    pub fn is_all_foreign(&self) -> bool {
        self.foreign.is_some() && self.label_sets.is_empty()
    }

    /// Whether none of what it advertises is chosen.
    pub fn is_left_out(&self) -> bool {
        !self.left_out.is_empty() && self.label_sets.is_empty() && self.foreign.is_none()
    }

    /// Whether it says of no time in `range` that it holds series of which `may_match` says that they may be wanted. Only what says everything can say so.
    pub(crate) fn rules_out(
        &self,
        range: TimeRange,
        now_ms: i64,
        silence_ms: i64,
        may_match: impl Fn(&[Labels]) -> bool,
    ) -> bool {
        let held = |info: &TsdbInfo| {
            let labels = std::slice::from_ref(&info.labels);
            info.grown(now_ms, silence_ms).overlaps(&range) && (info.labels.is_empty() || may_match(labels))
        };
        self.tsdb_infos_cover && !self.tsdb_infos.is_empty() && !self.tsdb_infos.iter().any(held)
    }

    /// Whether all that `former` said it holds is still said.
    pub(crate) fn has_all_of(&self, former: &Self) -> bool {
        if self.tsdb_infos == former.tsdb_infos {
            return true;
        }
        let mut now: HashMap<&Labels, Vec<TimeRange>> = HashMap::new();
        self.tsdb_infos.iter().for_each(|info| now.entry(&info.labels).or_default().push(info.range));
        former.tsdb_infos.iter().all(|one| {
            let has_it = |now: &TimeRange| now.min_ms <= one.range.min_ms && now.max_ms >= one.range.max_ms;
            now.get(&one.labels).is_some_and(|ranges| ranges.iter().any(has_it))
        })
    }
}

/// What ends no longer ago than this is still being written, or uploaded: it has no end.
const STILL_GROWING_MS: i64 = 24 * 60 * 60 * 1000;

impl TsdbInfo {
    /// The time that may be held by now, if this was said `silence_ms` ago.
    fn grown(&self, now_ms: i64, silence_ms: i64) -> TimeRange {
        let is_growing =
            self.range.max_ms >= now_ms.saturating_sub(silence_ms).saturating_sub(STILL_GROWING_MS);
        let end_ms = if is_growing { i64::MAX } else { self.range.max_ms.saturating_add(silence_ms) };
        TimeRange::new(self.range.min_ms, end_ms)
    }
}

fn tsdb_info(info: &WireTsdbInfo) -> Result<TsdbInfo, Error> {
    let labels = info.labels.as_ref().map(labels::set_from_wire).transpose()?.unwrap_or_default();
    Ok(TsdbInfo { labels, range: TimeRange::new(info.min_time, info.max_time) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 60 * 60 * 1000;
    const NOW_MS: i64 = 1000 * HOUR_MS;

    fn saying(infos: &[(&str, i64, i64)]) -> Metadata {
        let info = |(cluster, min_ms, max_ms): &(&str, i64, i64)| TsdbInfo {
            labels: Labels::from_pairs(
                [("cluster", *cluster)].into_iter().filter(|(_, value)| !value.is_empty()),
            ),
            range: TimeRange::new(*min_ms, *max_ms),
        };
        let mut metadata = Metadata::from_info(InfoResponse::default()).unwrap();
        (metadata.tsdb_infos, metadata.tsdb_infos_cover) = (infos.iter().map(info).collect(), true);
        metadata
    }

    #[test]
    fn only_a_time_that_is_long_over_rules_anything_out() {
        let rules_out = |infos: &[(&str, i64, i64)], from_hour: i64, to_hour: i64, silence_ms: i64| {
            let is_a = |sets: &[Labels]| sets.iter().any(|set| set.get("cluster") == Some("a"));
            let asked = TimeRange::new(from_hour * HOUR_MS, to_hour * HOUR_MS);
            saying(infos).rules_out(asked, NOW_MS, silence_ms, is_a)
        };
        let old = ("a", 100 * HOUR_MS, 200 * HOUR_MS);
        let other = ("b", 0, i64::MAX);
        assert!(rules_out(&[old, other], 300, 400, 0));
        assert!(!rules_out(&[old, other], 150, 400, 0) && !rules_out(&[old], 200, 400, 0));
        assert!(rules_out(&[old], 0, 50, 0));
        assert!(!rules_out(&[], 300, 400, 0), "nothing is said");
        assert!(!rules_out(&[old, ("", 0, i64::MAX)], 300, 400, 0), "it may be anybody's");
        // What ended a day ago may have gone on since.
        assert!(!rules_out(&[("a", 0, 977 * HOUR_MS)], 990, 1000, 0));
        assert!(rules_out(&[("a", 0, 970 * HOUR_MS)], 990, 1000, 0));
        assert!(
            !rules_out(&[("a", 0, 970 * HOUR_MS)], 990, 1000, 30 * HOUR_MS),
            "it was not heard of for long"
        );
        let mut unsaid = saying(&[old]);
        unsaid.tsdb_infos_cover = false;
        assert!(!unsaid.rules_out(TimeRange::new(0, 1), NOW_MS, 0, |_| false), "not a peer of ours");
    }

    #[test]
    fn what_is_said_no_longer_is_noticed() {
        let both = saying(&[("a", 0, 10), ("b", 0, 10)]);
        assert!(both.has_all_of(&both) && saying(&[("a", 0, 20), ("b", 0, 10)]).has_all_of(&both));
        assert!(
            !saying(&[("a", 0, 9), ("b", 0, 10)]).has_all_of(&both)
                && !saying(&[("a", 0, 10)]).has_all_of(&both)
        );
    }
}
