//! What time an endpoint said it holds, at any poll of the last while.
//!
//! Invariant: what was said counts for at least [`COUNTS_FOR`] after something else was said. So a declared endpoint that says something else at each poll is asked for all of
//! it, and its answer shows what there is; one that really holds less is asked in vain for a minute or two.

use std::time::{Duration, Instant};

use parallax_model::TimeRange;

/// How long what was said counts at least; at most, it is twice that.
pub(super) const COUNTS_FOR: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lately {
    began: Option<Instant>,
    now: Option<TimeRange>,
    before: Option<TimeRange>,
}

impl Lately {
    /// It says that it holds `range`; `None` if it says that it has no Store API.
    pub fn said(&mut self, range: Option<TimeRange>, now: Instant) {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= COUNTS_FOR) {
            self.before = self.now.take();
            self.began = Some(now);
        }
        self.now = together(self.now, range.filter(|range| !range.is_empty()));
    }

    /// All that it said it holds, from the first to the last moment.
    pub fn range(&self) -> Option<TimeRange> {
        together(self.now, self.before)
    }
}

fn together(a: Option<TimeRange>, b: Option<TimeRange>) -> Option<TimeRange> {
    match (a, b) {
        (Some(a), Some(b)) => Some(TimeRange::new(a.min_ms.min(b.min_ms), a.max_ms.max(b.max_ms))),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_counts_for_a_while_and_then_no_more() {
        let (mut lately, began) = (Lately::default(), Instant::now());
        assert_eq!(lately.range(), None);
        lately.said(Some(TimeRange::new(100, 200)), began);
        lately.said(Some(TimeRange::new(i64::MAX, i64::MIN)), began);
        lately.said(None, began + COUNTS_FOR / 2);
        assert_eq!(lately.range(), Some(TimeRange::new(100, 200)));
        lately.said(Some(TimeRange::new(150, 300)), began + COUNTS_FOR);
        assert_eq!(lately.range(), Some(TimeRange::new(100, 300)));
        lately.said(Some(TimeRange::new(150, 300)), began + COUNTS_FOR * 2);
        assert_eq!(lately.range(), Some(TimeRange::new(150, 300)));
    }
}
