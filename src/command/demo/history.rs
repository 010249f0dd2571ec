//! Which time the demo's history covers, and writing it into the Prometheus directories.

use parallax_model::TimeRange;
use parallax_simulate::history::{self, BLOCK_RANGE_MS};

use super::layout::{HISTORY_HOURS, Layout};

const HOUR_MS: i64 = 3_600_000;

/// The blocks that were finished by `now_ms`: whole ranges, as many as fit into the history.
pub fn range(now_ms: i64) -> TimeRange {
    let end_ms = now_ms.div_euclid(BLOCK_RANGE_MS) * BLOCK_RANGE_MS;
    TimeRange::new(end_ms - HISTORY_HOURS * HOUR_MS, end_ms - 1)
}

/// Writes the history of every replica.
pub fn write(layout: &Layout, range: TimeRange) -> anyhow::Result<()> {
    for cluster in &layout.clusters {
        for fleet in cluster.fleets() {
            let directory = cluster.data(layout, fleet.replica);
            std::fs::create_dir_all(&directory)?;
            history::write(&fleet, range, &directory)?;
        }
    }
    Ok(())
}
