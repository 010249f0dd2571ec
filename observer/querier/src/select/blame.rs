//! What becomes of series that turn out to be unreadable when they are decoded, long after they were merged.
//!
//! Invariant: where a partial answer is allowed, they are left out and a gap names the series and the endpoint that may have sent it; otherwise, and where only
//! what is required can have sent it, the query fails with that text. The rest of the answer stands.

use std::fmt;
use std::sync::Arc;

use parallax_model::Labels;
use parallax_promql::source::SourceError;

use crate::coverage::{Gap, GapKind, bounded};

/// Malformed series that are told one by one; further ones are only counted.
const MAX_TOLD: u64 = 10;

/// Knows whose series are whose.
pub trait Blame: fmt::Debug + Send + Sync {
    /// The gap that a malformed series leaves; counted.
    fn blame(&self, labels: &Labels, reason: String) -> Gap;

    /// Whether nobody can have sent the series but endpoints without all of which there is no answer.
    fn is_required(&self, labels: &Labels) -> bool;
}

/// What one selection leaves out.
pub(super) struct Containment {
    blame: Option<Arc<dyn Blame>>,
    partial_response: bool,
    left_out: u64,
}

impl Containment {
    pub fn new(blame: Option<Arc<dyn Blame>>, partial_response: bool) -> Self {
        Self { blame, partial_response, left_out: 0 }
    }

    /// Leaves something of the series `labels` out; a warning, if it is to be told.
    ///
    /// # Errors
    /// Where no partial answer is allowed, or none without this series.
    pub fn leave_out(&mut self, labels: &Labels, reason: &str) -> Result<Option<String>, SourceError> {
        self.left_out += 1;
        let is_allowed =
            self.partial_response && !self.blame.as_ref().is_some_and(|blame| blame.is_required(labels));
        if self.left_out > MAX_TOLD && is_allowed {
            return Ok(None);
        }
        let reason = format!("series {labels}: {reason}; it is left out");
        let gap = match &self.blame {
            Some(blame) => blame.blame(labels, reason),
            None => Gap {
                cluster: labels.get("cluster").unwrap_or("unknown").to_owned(),
                kind: GapKind::Partial,
                endpoint: "stores".to_owned(),
                reason: bounded(reason),
            },
        };
        if is_allowed { Ok(Some(gap.to_string())) } else { Err(SourceError::Storage(gap.to_string())) }
    }

    /// What was left out without being told, once everything has been read.
    pub fn summary(&self) -> Option<String> {
        (self.left_out > MAX_TOLD).then(|| {
            format!("stores sent {} series or chunks that are malformed; they are left out", self.left_out)
        })
    }
}
