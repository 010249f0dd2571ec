//! Targets: what replicas scrape alike is shown once, in the state that needs looking at.
//!
//! Source of the semantics: Thanos `pkg/targets`. Targets are told apart by URL, pool and labels without replica labels; of equal ones one that is down
//! comes before one that is up, then the one scraped last.

use std::cmp::Ordering;

use parallax_storeapi::labels;
use parallax_storeapi::proto::thanos::{ActiveTarget, DroppedTarget, Label, TargetDiscovery, ZLabelSet};

use super::rules::time;

/// Joins answers, without `replica_labels`, and keeps one of each target; sorted.
pub(crate) fn merge(parts: Vec<TargetDiscovery>, replica_labels: &[String]) -> TargetDiscovery {
    let mut all = TargetDiscovery::default();
    for mut part in parts {
        all.active_targets.append(&mut part.active_targets);
        all.dropped_targets.append(&mut part.dropped_targets);
    }
    let clean = |set: &mut Option<ZLabelSet>| {
        if let Some(set) = set {
            labels::remove(&mut set.labels, replica_labels);
            set.labels.sort_by(|a, b| a.name.cmp(&b.name));
        }
    };
    for target in &mut all.active_targets {
        clean(&mut target.discovered_labels);
        clean(&mut target.labels);
    }
    all.dropped_targets.iter_mut().for_each(|target| clean(&mut target.discovered_labels));
    // The first of equal ones stays.
    all.active_targets.sort_by(|a, b| identity(a, b).then_with(|| preference(a, b)));
    all.active_targets.dedup_by(|later, earlier| identity(earlier, later).is_eq());
    let dropped = |a: &DroppedTarget, b: &DroppedTarget| {
        labels::compare(of(&a.discovered_labels), of(&b.discovered_labels))
    };
    all.dropped_targets.sort_by(dropped);
    all.dropped_targets.dedup_by(|later, earlier| dropped(earlier, later).is_eq());
    all
}

fn identity(a: &ActiveTarget, b: &ActiveTarget) -> Ordering {
    a.scrape_url
        .cmp(&b.scrape_url)
        .then_with(|| a.scrape_pool.cmp(&b.scrape_pool))
        .then_with(|| labels::compare(of(&a.discovered_labels), of(&b.discovered_labels)))
        .then_with(|| labels::compare(of(&a.labels), of(&b.labels)))
}

fn preference(a: &ActiveTarget, b: &ActiveTarget) -> Ordering {
    a.health.cmp(&b.health).then_with(|| time(&b.last_scrape).cmp(&time(&a.last_scrape)))
}

fn of(set: &Option<ZLabelSet>) -> &[Label] {
    set.as_ref().map_or(&[], |set| &set.labels)
}

#[cfg(test)]
mod tests {
    use parallax_model::Labels;
    use parallax_storeapi::proto::thanos::TargetHealth;
    use prost_types::Timestamp;

    use super::*;

    fn set(replica: &str) -> Option<ZLabelSet> {
        Some(labels::set_to_wire(&Labels::from_pairs([("job", "a"), ("replica", replica)])))
    }

    fn active(replica: &str, health: TargetHealth, scraped: i64) -> TargetDiscovery {
        let target = ActiveTarget {
            discovered_labels: set(replica),
            labels: set(replica),
            scrape_url: "http://a".to_owned(),
            last_scrape: Some(Timestamp { seconds: scraped, nanos: 0 }),
            health: health.into(),
            ..ActiveTarget::default()
        };
        let dropped = DroppedTarget { discovered_labels: set(replica) };
        TargetDiscovery { active_targets: vec![target], dropped_targets: vec![dropped] }
    }

    #[test]
    fn of_two_replicas_the_one_that_is_down_and_then_the_later_scrape_stays() {
        use TargetHealth::{Down, Up};
        let scraped = |parts: [TargetDiscovery; 2]| {
            let merged = merge(parts.to_vec(), &["replica".to_owned()]);
            assert_eq!((merged.active_targets.len(), merged.dropped_targets.len()), (1, 1));
            merged.active_targets[0].last_scrape.unwrap().seconds
        };
        assert_eq!(scraped([active("0", Up, 5), active("1", Down, 3)]), 3);
        assert_eq!(scraped([active("0", Up, 5), active("1", Up, 9)]), 9);
        let both = merge(vec![active("0", Up, 5), active("1", Up, 9)], &[]);
        assert_eq!((both.active_targets.len(), both.dropped_targets.len()), (2, 2));
    }
}
