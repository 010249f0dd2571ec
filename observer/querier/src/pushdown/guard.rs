//! The series that are read beside what is evaluated elsewhere, looked at so that none counts twice.

use std::sync::Arc;

use parallax_model::Labels;
use parallax_promql::source::{Delivered, Scope, SeriesStream, SourceError};

use super::{CutState, QueryPushdown};
use crate::select::Among;

/// A part of a selection that is read here.
pub(crate) struct Part {
    pub among: Among,
    pub(super) state: Arc<CutState>,
    pub(super) scope: Scope,
    pub(super) query: Arc<QueryPushdown>,
}

impl Part {
    /// Looks at the labels of all series.
    pub fn guarding(self, inner: Box<dyn SeriesStream>) -> Guarded {
        Guarded { part: self, inner }
    }

    /// Whether a series is where it belongs: those of an endpoint that declined among its own, and those of an endpoint that was asked nowhere else.
    fn belongs(&self, labels: &Labels) -> bool {
        match self.scope {
            Scope::All => true,
            Scope::Rest(_) => !self.state.sets.has(labels),
            Scope::Declined(_) => {
                let declined = self.state.declined();
                declined
                    .iter()
                    .filter_map(|index| self.state.targets.get(*index))
                    .any(|target| target.sets.has(labels))
            }
        }
    }
}

/// See [`Part::guarding`].
pub(crate) struct Guarded {
    part: Part,
    inner: Box<dyn SeriesStream>,
}

impl SeriesStream for Guarded {
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        let Some(batch) = self.inner.next_batch()? else { return Ok(None) };
        match batch.iter().map(Delivered::labels).find(|labels| !self.part.belongs(labels)) {
            None => Ok(Some(batch)),
            Some(labels) => {
                self.part.query.mixed();
                Err(SourceError::Storage(format!(
                    "{labels} is held by several endpoints, one of which evaluates it"
                )))
            }
        }
    }

    fn take_warnings(&mut self) -> Vec<String> {
        self.inner.take_warnings()
    }
}
