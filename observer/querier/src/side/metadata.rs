//! Metadata of metrics: per metric, each type, help and unit that anybody reports, once.

use std::collections::BTreeMap;

use parallax_storeapi::proto::thanos::{Meta, MetricMetadata, MetricMetadataEntry};

/// Metrics in one message of an answer.
const MESSAGE_METRICS: usize = 1000;

/// By name of the metric; what one metric has is in the order in which it came.
pub(crate) type Merged = BTreeMap<String, Vec<Meta>>;

pub(crate) fn merge(parts: impl IntoIterator<Item = MetricMetadata>) -> Merged {
    let mut merged = Merged::new();
    for (name, entry) in parts.into_iter().flat_map(|part| part.metadata) {
        let known = merged.entry(name).or_default();
        for meta in entry.metas {
            if !known.contains(&meta) {
                known.push(meta);
            }
        }
    }
    merged
}

/// The first `limit` metrics, in messages of a bounded size.
pub(crate) fn to_wire(merged: Merged, limit: Option<usize>) -> Vec<MetricMetadata> {
    let mut messages = Vec::new();
    let mut metrics = merged.into_iter().take(limit.unwrap_or(usize::MAX)).peekable();
    while metrics.peek().is_some() {
        let part = metrics.by_ref().take(MESSAGE_METRICS);
        let metadata = part.map(|(name, metas)| (name, MetricMetadataEntry { metas })).collect();
        messages.push(MetricMetadata { metadata });
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(metrics: &[(&str, &str)]) -> MetricMetadata {
        let mut metadata = MetricMetadata::default();
        for (name, help) in metrics {
            let meta = Meta { help: (*help).to_owned(), ..Meta::default() };
            metadata.metadata.entry((*name).to_owned()).or_default().metas.push(meta);
        }
        metadata
    }

    #[test]
    fn what_two_replicas_say_alike_is_there_once() {
        let merged = merge([part(&[("up", "a"), ("b", "x")]), part(&[("up", "a"), ("up", "b")])]);
        let shown: Vec<(&str, Vec<&str>)> = merged
            .iter()
            .map(|(name, metas)| (name.as_str(), metas.iter().map(|meta| meta.help.as_str()).collect()))
            .collect();
        assert_eq!(shown, [("b", vec!["x"]), ("up", vec!["a", "b"])]);
    }

    #[test]
    fn a_limit_takes_the_first_metrics_and_messages_stay_small() {
        let many: Vec<String> = (0..2500).map(|i| format!("m{i:04}")).collect();
        let merged = || merge([part(&many.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>())]);
        let sizes = |limit| to_wire(merged(), limit).iter().map(|one| one.metadata.len()).collect::<Vec<_>>();
        assert_eq!(sizes(None), [1000, 1000, 500]);
        assert_eq!(sizes(Some(1001)), [1000, 1]);
        assert!(sizes(Some(0)).is_empty());
        assert!(to_wire(merged(), Some(1))[0].metadata.contains_key("m0000"));
    }
}
