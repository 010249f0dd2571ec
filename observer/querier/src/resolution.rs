//! How coarse the data of a query may be: what the caller allows, what a function can bear, and how far back to look.
//!
//! Blocks are downsampled to one sample per 5 minutes and per hour. A request states the coarsest resolution that it takes; the
//! store gateway answers with the coarsest blocks within it, and fills the rest from finer ones. Rules as Thanos has them
//! (`pkg/query/querier.go`, `cmd/thanos/query.go`).

use parallax_model::Resolution;

/// Functions that give nothing for a range with a single sample in it.
const NEED_TWO_SAMPLES: [&str; 9] = [
    "rate",
    "irate",
    "increase",
    "delta",
    "idelta",
    "deriv",
    "predict_linear",
    "holt_winters",
    "double_exponential_smoothing",
];

/// The coarsest resolution for one selector: where `function` needs two samples, its range must hold two.
pub(crate) fn for_selector(max_resolution_ms: i64, function: &str, range_ms: i64) -> i64 {
    if range_ms > 0 && NEED_TWO_SAMPLES.contains(&function) {
        max_resolution_ms.min(range_ms / 2)
    } else {
        max_resolution_ms
    }
}

/// The lookback delta for a query that allows `max_resolution_ms`: at least the distance of two samples of the coarsest
/// resolution that can be met.
pub(crate) fn lookback_ms(configured_ms: i64, max_resolution_ms: i64) -> i64 {
    let levels = [Resolution::Raw, Resolution::FiveMinutes, Resolution::OneHour].map(Resolution::millis);
    // From the coarsest on: a level can be met if the one below it, or the lookback that there is, is finer than what is allowed.
    for pair in levels.windows(2).rev() {
        let [finer_ms, level_ms] = pair else { continue };
        if (*finer_ms).max(configured_ms) < max_resolution_ms {
            return configured_ms.max(*level_ms);
        }
    }
    configured_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn a_range_that_needs_two_samples_caps_the_resolution_at_half_of_it() {
        assert_eq!(for_selector(60 * MINUTE_MS, "rate", 30 * MINUTE_MS), 15 * MINUTE_MS);
        assert_eq!(for_selector(5 * MINUTE_MS, "rate", 30 * MINUTE_MS), 5 * MINUTE_MS);
        assert_eq!(for_selector(60 * MINUTE_MS, "max_over_time", 30 * MINUTE_MS), 60 * MINUTE_MS);
        assert_eq!(for_selector(60 * MINUTE_MS, "rate", 0), 60 * MINUTE_MS);
    }

    #[test]
    fn the_lookback_reaches_over_a_window_of_the_coarsest_data_allowed() {
        let lookback = |configured: i64, allowed: i64| {
            lookback_ms(configured * MINUTE_MS, allowed * MINUTE_MS) / MINUTE_MS
        };
        assert_eq!(lookback(5, 0), 5);
        assert_eq!(lookback(5, 5), 5);
        // What is more than 5 m counts as leave for 1 h.
        assert_eq!(lookback(5, 6), 60);
        assert_eq!(lookback(1, 2), 5);
        assert_eq!(lookback(90, 60), 90);
        assert_eq!(lookback(30, 20), 30);
    }
}
