//! Columns whose memory is used again, from one series to the next: most series of a selection have about as many samples.

use parallax_model::FloatColumn;

/// As many as two replicas need, and who looks at the outcome.
const MOST_COLUMNS: usize = 3;
/// Larger ones are given back to the allocator.
const MOST_SAMPLES: usize = 1 << 16;

/// Memory for columns of floats.
#[derive(Debug, Default)]
pub struct Scratch(Vec<FloatColumn>);

impl Scratch {
    /// An empty column.
    pub(crate) fn take(&mut self) -> FloatColumn {
        self.0.pop().unwrap_or_default()
    }

    /// Leaves a column that is of no more use.
    pub fn give(&mut self, mut column: FloatColumn) {
        let room = column.timestamps_ms.capacity();
        if room > 0 && room <= MOST_SAMPLES && self.0.len() < MOST_COLUMNS {
            column.timestamps_ms.clear();
            column.values.clear();
            self.0.push(column);
        }
    }
}
