//! What the gap-aware algorithm gives out: runs of one replica after the other, copied when the next one begins.
//!
//! A replica that is followed from the beginning to the end is not copied at all.

use std::ops::Range;

use super::counter::Rising;
use super::side::Side;
use super::track::{Track, Value};
use super::{Counters, Pick};
use crate::Samples;
use crate::chain::forget_reset;

#[derive(Default)]
pub(super) struct Given {
    samples: Samples,
    /// Positions of one replica that are not copied yet.
    pub run: Option<(usize, Range<usize>)>,
    pub rising: Rising,
}

impl Given {
    /// Adds `pick` if it directly follows what was given last.
    pub(super) fn goes_on(&mut self, pick: Pick) -> bool {
        match &mut self.run {
            Some((side, run)) if *side == pick.side && run.end == pick.at => {
                run.end += 1;
                true
            }
            _ => false,
        }
    }

    pub(super) fn extend(&mut self, samples: usize) {
        if let Some((_, run)) = &mut self.run {
            run.end += samples;
        }
    }

    pub(super) fn flush<T: Track>(&mut self, sides: &[Side<T>], counters: Counters) {
        let Some((index, run)) = self.run.take() else { return };
        let Some(side) = sides.get(index) else { return };
        let (is_first, histograms) = (self.samples.is_empty(), self.samples.histograms.len());
        let begins_with_histogram = matches!(side.track.value(run.start), Some(Value::Histogram(_)));
        if counters != Counters::No {
            self.rising.give(side, run, &mut self.samples);
        } else {
            side.track.copy(run, &mut self.samples);
        }
        // What it says of a reset is about the sample before it in its own replica.
        if begins_with_histogram
            && !is_first
            && let Some(first) = self.samples.histograms.values.get_mut(histograms)
        {
            forget_reset(first);
        }
    }

    pub(super) fn finish<T: Track>(mut self, mut sides: Vec<Side<T>>, counters: Counters) -> Samples {
        match self.run.take() {
            // Nothing was lifted: there was no switch.
            Some((index, run)) if self.samples.is_empty() && index < sides.len() => {
                sides.swap_remove(index).track.into_samples(run)
            }
            run => {
                self.run = run;
                self.flush(&sides, counters);
                self.samples
            }
        }
    }
}
