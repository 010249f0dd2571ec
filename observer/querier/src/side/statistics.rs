//! Statistics of TSDB heads, added up.
//!
//! Source of the semantics: Thanos `pkg/status`: counts add up, replicas included; the values of a label count once, since most are the same everywhere.

use std::collections::BTreeMap;

use parallax_storeapi::proto::thanos::{HeadStatistics, Statistic, TsdbStatistics, TsdbStatisticsEntry};

/// By tenant; each list sorted, the largest first, and by name where that is the same.
pub(crate) type Merged = BTreeMap<String, TsdbStatisticsEntry>;

pub(crate) fn merge(parts: impl IntoIterator<Item = TsdbStatistics>) -> Merged {
    let mut merged = Merged::new();
    for (tenant, entry) in parts.into_iter().flat_map(|part| part.statistics) {
        add(merged.entry(tenant).or_default(), entry);
    }
    merged
}

/// All tenants together.
pub(crate) fn total(merged: Merged) -> TsdbStatisticsEntry {
    let mut total = TsdbStatisticsEntry::default();
    merged.into_values().for_each(|entry| add(&mut total, entry));
    total
}

fn add(to: &mut TsdbStatisticsEntry, entry: TsdbStatisticsEntry) {
    if let Some(more) = entry.head_statistics {
        let head = to.head_statistics.get_or_insert_default();
        *head = HeadStatistics {
            num_series: head.num_series.saturating_add(more.num_series),
            num_label_pairs: head.num_label_pairs.saturating_add(more.num_label_pairs),
            chunk_count: head.chunk_count.saturating_add(more.chunk_count),
            min_time: if head.min_time <= 0 { more.min_time } else { head.min_time.min(more.min_time) },
            max_time: head.max_time.max(more.max_time),
        };
    }
    let sum = u64::saturating_add;
    add_all(&mut to.series_count_by_metric_name, entry.series_count_by_metric_name, sum);
    add_all(&mut to.label_value_count_by_label_name, entry.label_value_count_by_label_name, u64::max);
    add_all(&mut to.memory_in_bytes_by_label_name, entry.memory_in_bytes_by_label_name, sum);
    add_all(&mut to.series_count_by_label_value_pair, entry.series_count_by_label_value_pair, sum);
}

fn add_all(to: &mut Vec<Statistic>, more: Vec<Statistic>, join: impl Fn(u64, u64) -> u64) {
    let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
    for Statistic { name, value } in to.drain(..).chain(more) {
        by_name.entry(name).and_modify(|known| *known = join(*known, value)).or_insert(value);
    }
    to.extend(by_name.into_iter().map(|(name, value)| Statistic { name, value }));
    to.sort_by_key(|entry| std::cmp::Reverse(entry.value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(tenant: &str, min_time: i64, list: &[(&str, u64)]) -> TsdbStatistics {
        let list: Vec<_> =
            list.iter().map(|(name, value)| Statistic { name: (*name).to_owned(), value: *value }).collect();
        let entry = TsdbStatisticsEntry {
            head_statistics: Some(HeadStatistics {
                num_series: u64::MAX / 2,
                min_time,
                max_time: min_time + 10,
                ..HeadStatistics::default()
            }),
            series_count_by_metric_name: list.clone(),
            label_value_count_by_label_name: list,
            ..TsdbStatisticsEntry::default()
        };
        TsdbStatistics { statistics: [(tenant.to_owned(), entry)].into() }
    }

    #[test]
    fn counts_add_up_values_of_labels_do_not_and_nothing_overflows() {
        let parts = [
            entry("a", 0, &[("x", 5), ("y", 1)]),
            entry("a", 20, &[("y", 7)]),
            entry("b", 10, &[("z", 6), ("y", 1)]),
        ];
        let merged = merge(parts);
        assert_eq!(merged.keys().collect::<Vec<_>>(), ["a", "b"]);
        let total = total(merged);
        let head = total.head_statistics.unwrap();
        assert_eq!((head.num_series, head.min_time, head.max_time), (u64::MAX, 10, 30));
        let shown =
            |list: &[Statistic]| list.iter().map(|one| (one.name.clone(), one.value)).collect::<Vec<_>>();
        let named = |list: &[(&str, u64)]| {
            list.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect::<Vec<_>>()
        };
        assert_eq!(shown(&total.series_count_by_metric_name), named(&[("y", 9), ("z", 6), ("x", 5)]));
        assert_eq!(shown(&total.label_value_count_by_label_name), named(&[("y", 7), ("z", 6), ("x", 5)]));
    }
}
