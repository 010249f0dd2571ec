//! Whose series a malformed one is, told by its labels: after the merge, nothing else is left to tell it by.

use std::fmt;
use std::sync::Arc;

use parallax_model::Labels;

use super::{Proxy, without_exception};
use crate::coverage::{Gap, GapKind, bounded};
use crate::endpoint::Endpoint;
use crate::select::Blame;

/// Endpoints that are named for one series.
const MAX_NAMED: usize = 4;

impl Blame for Proxy {
    /// Names the endpoints that advertise a label set of which the series may be, in the order of their configuration.
    fn blame(&self, labels: &Labels, reason: String) -> Gap {
        let all = self.inner.endpoints.endpoints();
        let suspects: Vec<&Arc<Endpoint>> =
            all.iter().filter(|endpoint| may_hold(endpoint, labels)).collect();
        let gap = match suspects.first() {
            None => Gap {
                cluster: labels
                    .get(&self.inner.endpoints.options().cluster_label)
                    .unwrap_or("unknown")
                    .to_owned(),
                kind: GapKind::Partial,
                endpoint: "unknown endpoint".to_owned(),
                reason: bounded(reason),
            },
            Some(endpoint) => {
                let mut gap = endpoint.gap(GapKind::Partial, reason);
                let cluster = labels.get(&self.inner.endpoints.options().cluster_label);
                gap.cluster = cluster.map_or(gap.cluster, str::to_owned);
                let named: Vec<&str> =
                    suspects.iter().take(MAX_NAMED).map(|endpoint| endpoint.name()).collect();
                gap.endpoint = named.join(" or ");
                match are_required(suspects) {
                    true => without_exception(gap),
                    false => gap,
                }
            }
        };
        self.count_always(&gap);
        gap
    }

    fn is_required(&self, labels: &Labels) -> bool {
        let all = self.inner.endpoints.endpoints();
        // Of most meshes nothing is required, and of a series that is malformed there may be many.
        all.iter().any(|endpoint| endpoint.declared().required)
            && are_required(all.iter().filter(|endpoint| may_hold(endpoint, labels)))
    }
}

/// Whether there are any, and an answer can do without none of them. Where one of several may have sent a series, it does not say that the others lack any.
fn are_required<'a>(suspects: impl IntoIterator<Item = &'a Arc<Endpoint>>) -> bool {
    let mut suspects = suspects.into_iter().peekable();
    suspects.peek().is_some() && suspects.all(|endpoint| endpoint.declared().required)
}

/// Whether a label set of the endpoint contradicts none of the series' labels. Replica labels may have been taken off the series.
fn may_hold(endpoint: &Endpoint, labels: &Labels) -> bool {
    endpoint.metadata().is_some_and(|known| {
        (known.label_sets.is_empty() && !known.is_left_out())
            || known.label_sets.iter().any(|set| {
                set.iter().all(|(name, value)| labels.get(name).is_none_or(|found| found == value))
            })
    })
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("endpoints", &self.inner.endpoints).finish_non_exhaustive()
    }
}
