//! Series of one block in the order of the labels they are answered with, which is not always that of its own.
//!
//! Each series comes with a lower bound of all that come after it (see `parallax_storeapi::Resorter`); what sorts at or below the bound may go. So one or two are held
//! at a time, but for series that are answered without labels of their own: of those, all of one metric.

use std::cmp::Ordering;
use std::collections::VecDeque;

use parallax_storeapi::Error;
use parallax_storeapi::encoded::{compare, display};

use crate::series_read::PendingSeries;

/// Takes series in the order of the block, gives them in order.
#[derive(Default)]
pub struct Order {
    /// Sorted, unless that is yet to be done. None sorts below what has gone.
    held: VecDeque<PendingSeries>,
    is_unsorted: bool,
    /// Of the series that had one of its own last.
    bound: Vec<u8>,
    /// Labels of the last series that was handed over.
    last: Vec<u8>,
}

impl Order {
    /// Takes the next series, and appends those that nothing still to come can precede to `ready`, which takes them from one call to the next until
    /// [`Self::hand_over`].
    ///
    /// # Errors
    /// If a series came too late for its place, because the block is not sorted.
    pub fn push(&mut self, series: PendingSeries, ready: &mut Vec<PendingSeries>) -> Result<(), Error> {
        let mut has_released = false;
        // Within a metric whose series are held the bound stays, and nothing can go.
        if let Some(bound) = series.bound().filter(|bound| *bound != self.bound) {
            self.bound.clear();
            self.bound.extend_from_slice(bound);
            self.sort();
            while let Some(next) = self.held.front()
                && compare(next.labels(), &self.bound) != Ordering::Greater
                && let Some(next) = self.held.pop_front()
            {
                ready.push(next);
                has_released = true;
            }
        }
        // What has gone by the bound sorts at or below it, and no series sorts below its bound.
        if !has_released {
            self.check(&series, ready)?;
        }
        if self.held.is_empty() && series.is_own_bound() {
            ready.push(series);
            return Ok(());
        }
        self.is_unsorted |= self.held.back().is_some_and(|back| by_labels(&series, back) == Ordering::Less);
        self.held.push_back(series);
        Ok(())
    }

    /// No more series will come: all may go.
    pub fn finish(&mut self, ready: &mut Vec<PendingSeries>) {
        self.sort();
        ready.extend(std::mem::take(&mut self.held));
    }

    /// Parts of one series stay in their order.
    fn sort(&mut self) {
        if std::mem::take(&mut self.is_unsorted) {
            self.held.make_contiguous().sort_by(by_labels);
        }
    }

    fn check(&self, series: &PendingSeries, ready: &[PendingSeries]) -> Result<(), Error> {
        let last = ready.last().map_or(self.last.as_slice(), PendingSeries::labels);
        if compare(series.labels(), last) == Ordering::Less {
            return Err(Error::OutOfOrder { labels: display(series.labels()) });
        }
        Ok(())
    }

    /// Takes the series out of `ready`, and remembers where they end.
    pub fn hand_over(&mut self, ready: &mut Vec<PendingSeries>) -> Vec<PendingSeries> {
        if let Some(last) = ready.last() {
            self.last.clear();
            self.last.extend_from_slice(last.labels());
        }
        std::mem::take(ready)
    }
}

fn by_labels(left: &PendingSeries, right: &PendingSeries) -> Ordering {
    compare(left.labels(), right.labels())
}
