//! What an answer is made of, as JSON: `"coverage":{"state":…,"clusters":[…]}` beside `data`.
//!
//! A cluster that is complete is named, with its region where one is declared; one that is not has its parts, too: tier, store, state, the time in milliseconds and the reason.

use std::collections::BTreeMap;

use super::json::{write_list, write_string};
use crate::coverage::{Coverage, Part, State};

/// Most parts that are spelled out; the others are counted.
const MAX_SHOWN_PARTS: usize = 1000;

/// Where clusters are, as far as it is declared.
pub(super) type Regions = BTreeMap<String, String>;

/// What an answer is made of, and what is declared of that.
pub(super) struct Covered {
    pub coverage: Coverage,
    pub regions: Regions,
}

pub(super) fn write_coverage(data: &mut Vec<u8>, Covered { coverage, regions }: &Covered) {
    data.extend_from_slice(b"{\"state\":");
    write_string(data, coverage.state().as_str());
    data.extend_from_slice(b",\"clusters\":");
    let mut left = MAX_SHOWN_PARTS;
    let mut omitted = coverage.omitted();
    write_list(data, coverage.clusters(), |data, (cluster, state)| {
        data.extend_from_slice(b"{\"cluster\":");
        write_string(data, cluster);
        if let Some(region) = regions.get(cluster) {
            data.extend_from_slice(b",\"region\":");
            write_string(data, region);
        }
        data.extend_from_slice(b",\"state\":");
        write_string(data, state.as_str());
        if state != State::Complete {
            let parts: Vec<&Part> = coverage.parts().iter().filter(|part| part.cluster == cluster).collect();
            let shown = parts.len().min(left);
            left -= shown;
            omitted += u64::try_from(parts.len() - shown).unwrap_or(u64::MAX);
            data.extend_from_slice(b",\"parts\":");
            write_list(data, parts.into_iter().take(shown), write_part);
        }
        data.push(b'}');
    });
    if omitted > 0 {
        data.extend_from_slice(format!(",\"omitted\":{omitted}").as_bytes());
    }
    data.push(b'}');
}

fn write_part(data: &mut Vec<u8>, part: &Part) {
    for (before, text) in [
        ("{\"tier\":", part.tier.as_str()),
        (",\"store\":", part.store.as_str()),
        (",\"state\":", part.state.as_str()),
    ] {
        data.extend_from_slice(before.as_bytes());
        write_string(data, text);
    }
    let range = format!(",\"minTime\":{},\"maxTime\":{}", part.min_time_ms, part.max_time_ms);
    data.extend_from_slice(range.as_bytes());
    if !part.reason.is_empty() {
        data.extend_from_slice(b",\"reason\":");
        write_string(data, &part.reason);
    }
    data.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(cluster: &str, store: &str, state: State) -> Part {
        let reason = if state == State::Complete { "" } else { "why" };
        Part {
            cluster: cluster.to_owned(),
            tier: "sidecar".to_owned(),
            store: store.to_owned(),
            state,
            min_time_ms: 1,
            max_time_ms: 2,
            reason: reason.to_owned(),
        }
    }

    fn shown(coverage: Coverage) -> serde_json::Value {
        let mut data = Vec::new();
        let regions =
            Regions::from([("us-1", "america"), ("ap-1", "asia")].map(|(a, b)| (a.to_owned(), b.to_owned())));
        write_coverage(&mut data, &Covered { coverage, regions });
        serde_json::from_slice(&data).unwrap()
    }

    #[test]
    fn complete_clusters_are_named_and_others_explained() {
        let parts = [
            part("eu-1", "a", State::Complete),
            part("us-1", "b", State::Complete),
            part("us-1", "c", State::Late),
        ];
        let expected = serde_json::json!({
            "state": "partial",
            "clusters": [
                {"cluster": "eu-1", "state": "complete"},
                {"cluster": "us-1", "region": "america", "state": "partial", "parts": [
                    {"tier": "sidecar", "store": "b", "state": "complete", "minTime": 1, "maxTime": 2},
                    {"tier": "sidecar", "store": "c", "state": "late", "minTime": 1, "maxTime": 2, "reason": "why"},
                ]},
            ],
        });
        assert_eq!(shown(Coverage::new(parts, 0)), expected);
        assert_eq!(shown(Coverage::default()), serde_json::json!({"state": "complete", "clusters": []}));
    }

    #[test]
    fn parts_beyond_the_bound_are_counted() {
        let parts = (0..MAX_SHOWN_PARTS + 5).map(|number| part("a", &format!("{number}"), State::Missing));
        let shown = shown(Coverage::new(parts, 2));
        assert_eq!(shown["omitted"], 7);
        assert_eq!(shown["clusters"][0]["parts"].as_array().unwrap().len(), MAX_SHOWN_PARTS);
    }
}
