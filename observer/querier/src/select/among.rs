//! Which endpoints a selection is asked of, where another part of the query has the others.

use std::collections::BTreeSet;
use std::sync::Arc;

/// A request extension for the fan-out nearest to the question; it never travels.
#[derive(Clone, Debug)]
pub(crate) enum Among {
    /// These.
    Only(Arc<BTreeSet<String>>),
    /// All but these.
    Except(Arc<BTreeSet<String>>),
}

impl Among {
    pub fn has(&self, endpoint: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(endpoint),
            Self::Except(names) => !names.contains(endpoint),
        }
    }
}
