//! Merging replicas that hold the same: every time that any of them has is kept once.

use std::cmp::Ordering;
use std::ops::Range;

use super::picked::Picked;
use super::samples::{SampleId, Samples};

/// Adds the samples of the next chunk, by first time: of several of one time the one of the earliest chunk stays.
pub(super) fn add(samples: &Samples, chunk: Range<SampleId>, picked: &mut Picked) {
    if chunk.is_empty() {
        return;
    }
    let begin_ms = samples.time_ms(chunk.start);
    let unsettled = picked.ids.get(picked.settled..).unwrap_or_default();
    picked.settled += unsettled.partition_point(|id| samples.time_ms(*id) < begin_ms);
    let Some(mut left) = picked.ids.get(picked.settled..).filter(|left| !left.is_empty()) else {
        picked.ids.extend(chunk);
        return;
    };
    let tail = &mut picked.tail;
    tail.clear();
    let mut right = chunk;
    while let ([first, rest @ ..], false) = (left, right.is_empty()) {
        match samples.time_ms(*first).cmp(&samples.time_ms(right.start)) {
            Ordering::Less => {
                tail.push(*first);
                left = rest;
            }
            Ordering::Equal => right.start += 1,
            Ordering::Greater => {
                tail.push(right.start);
                right.start += 1;
            }
        }
    }
    tail.extend_from_slice(left);
    tail.extend(right);
    picked.ids.truncate(picked.settled);
    picked.ids.append(tail);
}
