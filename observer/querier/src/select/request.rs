//! A selection in the words of the StoreAPI.

use parallax_model::{MatchOp, Matcher};
use parallax_promql::source::Selection;
use parallax_storeapi::proto::thanos::{
    Aggr, Func, Grouping, LabelMatcher, PartialResponseStrategy, QueryHints, Range, SeriesRequest,
    label_matcher,
};

use super::SelectOptions;
use crate::resolution;

/// Series to ask for in one frame, as Thanos queriers do.
const SERIES_PER_FRAME: i64 = 64;

/// The request extension by which `storeMatch[]` reaches the fan-out in this process; it never travels.
#[derive(Clone, Debug)]
pub struct StoreMatchers(pub Vec<Vec<Matcher>>);

pub(super) fn series_request(selection: &Selection, options: &SelectOptions) -> SeriesRequest {
    SeriesRequest {
        min_time: selection.range.min_ms,
        max_time: selection.range.max_ms,
        matchers: wire_matchers(&selection.matchers),
        max_resolution_window: resolution::for_selector(
            options.max_resolution_ms,
            &selection.function,
            selection.range_ms,
        ),
        aggregates: aggregates(&selection.function).iter().map(|aggregate| i32::from(*aggregate)).collect(),
        partial_response_disabled: !options.partial_response,
        partial_response_strategy: strategy(options.partial_response).into(),
        step: selection.step_ms,
        range: selection.range_ms,
        query_hints: Some(QueryHints {
            step_millis: selection.step_ms,
            func: (!selection.function.is_empty()).then(|| Func { name: selection.function.clone() }),
            grouping: (!selection.grouping.is_empty())
                .then(|| Grouping { by: selection.grouping_by, labels: selection.grouping.clone() }),
            range: (selection.range_ms > 0).then_some(Range { millis: selection.range_ms }),
            ..QueryHints::default()
        }),
        shard_info: options.shard.clone(),
        without_replica_labels: options.replica_labels.clone(),
        response_batch_size: SERIES_PER_FRAME,
        ..SeriesRequest::default()
    }
}

pub(crate) fn strategy(partial_response: bool) -> PartialResponseStrategy {
    if partial_response { PartialResponseStrategy::Warn } else { PartialResponseStrategy::Abort }
}

pub fn wire_matchers(matchers: &[Matcher]) -> Vec<LabelMatcher> {
    matchers
        .iter()
        .map(|matcher| {
            let op = match matcher.op() {
                MatchOp::Equal => label_matcher::Type::Eq,
                MatchOp::NotEqual => label_matcher::Type::Neq,
                MatchOp::Regex => label_matcher::Type::Re,
                MatchOp::NotRegex => label_matcher::Type::Nre,
            };
            LabelMatcher {
                r#type: op.into(),
                name: matcher.name().to_owned(),
                value: matcher.value().to_owned(),
            }
        })
        .collect()
}

/// Which aggregates of downsampled data `function` can use, as Thanos asks for them: one, or counts and sums for the average.
pub(super) fn aggregates(function: &str) -> &'static [Aggr] {
    match function {
        "min" => &[Aggr::Min],
        "max" => &[Aggr::Max],
        "count" => &[Aggr::Count],
        "increase" | "rate" | "irate" | "resets" | "xincrease" | "xrate" => &[Aggr::Counter],
        _ if function.starts_with("min_") => &[Aggr::Min],
        _ if function.starts_with("max_") => &[Aggr::Max],
        _ if function.starts_with("count_") => &[Aggr::Count],
        _ if function.starts_with("sum_") => &[Aggr::Sum],
        _ => &[Aggr::Count, Aggr::Sum],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregates_follow_the_function() {
        assert_eq!(aggregates("rate"), [Aggr::Counter]);
        assert_eq!(aggregates("max_over_time"), [Aggr::Max]);
        assert_eq!(aggregates("count_values"), [Aggr::Count]);
        assert_eq!(aggregates("sum"), [Aggr::Count, Aggr::Sum]);
        assert_eq!(aggregates("sum_over_time"), [Aggr::Sum]);
        assert_eq!(aggregates(""), [Aggr::Count, Aggr::Sum]);
    }
}
