//! Several sets of endpoints that may be exchanged while they are looked at: those of the local queriers beneath a global one.

use std::sync::{Arc, PoisonError, RwLock};

use super::EndpointSet;

/// Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct EndpointSets {
    sets: Arc<RwLock<Arc<[Arc<EndpointSet>]>>>,
}

impl EndpointSets {
    pub fn new(sets: Vec<Arc<EndpointSet>>) -> Self {
        Self { sets: Arc::new(RwLock::new(sets.into())) }
    }

    pub fn replace(&self, sets: Vec<Arc<EndpointSet>>) {
        *self.sets.write().unwrap_or_else(PoisonError::into_inner) = sets.into();
    }

    /// Those that there are now.
    pub fn all(&self) -> Arc<[Arc<EndpointSet>]> {
        Arc::clone(&self.sets.read().unwrap_or_else(PoisonError::into_inner))
    }
}
