//! Chunks whose data a store keeps back, because the querier that asks would not look at it: of two replicas the penalty algorithm follows one, and the
//! other one's chunks would travel, be copied and be checked for nothing.
//!
//! A querier says from which time on samples count ([`WITHHOLD_HEADER`]); a store that knows the header may then send chunks with their times and their hash
//! but without data ([`is_withheld`]). It guesses, from when chunks begin and end and how many samples they hold. The querier does not guess: a series
//! for which it comes to look at such a chunk is asked for again, without the header. So nothing depends on the guess but time.
//!
//! Peers that do not know the header ignore it, and send everything.

use bytes::Bytes;
use tonic::Request;
use tonic::metadata::MetadataMap;

use crate::chunks::has_aggregates;
use crate::proto::thanos::{AggrChunk, Chunk, Series, chunk};

/// The gRPC metadata by which a querier says that it follows one replica by the penalty algorithm, and from which time on, in milliseconds since the epoch.
/// Proxies pass it on.
pub const WITHHOLD_HEADER: &str = "parallax-withhold-penalty";

/// How long the penalty algorithm leaves the second replica alone after the very first sample.
const INITIAL_PENALTY_MS: i64 = 5000;

/// Steps after which replicas that are scraped regularly have settled, or never will.
const STEPS: usize = 16;
/// So many of the last ones have to be steps along one replica.
const SETTLED_STEPS: usize = 4;

/// Of the time between samples, one part in this many may make no difference: scrapes are late by that.
const MARGIN_SHARE: i64 = 64;

/// Times and intervals beyond these are nobody's: with others nothing here overflows.
const ORDINARY_MS: i64 = 1 << 50;

/// Says that the caller follows one replica, from `from_ms` on.
pub fn ask_to_withhold<T>(request: &mut Request<T>, from_ms: i64) {
    request.metadata_mut().insert(WITHHOLD_HEADER, from_ms.into());
}

/// From which time on the caller follows one replica, if it said so.
pub fn withholds_from(metadata: &MetadataMap) -> Option<i64> {
    metadata.get(WITHHOLD_HEADER)?.to_str().ok()?.parse().ok()
}

/// Whether the data of a chunk was kept back: no chunk is without data, but this one has a hash.
pub fn is_withheld(chunk: &Chunk) -> bool {
    chunk.data.is_empty() && chunk.hash != 0
}

/// When a plain chunk of floats begins and ends, and how many samples it has.
pub(crate) type Span = (i64, i64, i64);

/// What matters here of a chunk of floats that has a hash; `None` for any other, which cannot do without its data.
pub(crate) fn span(
    min_time_ms: i64,
    max_time_ms: i64,
    encoding: i32,
    hash: u64,
    data: &[u8],
) -> Option<Span> {
    // Every encoding begins with the number of samples.
    let samples = data.first_chunk().map(|count| i64::from(u16::from_be_bytes(*count)))?;
    let is_plain = encoding == i32::from(chunk::Encoding::Xor) && hash != 0;
    is_plain.then_some((min_time_ms, max_time_ms, samples))
}

/// Keeps back what is not looked at of a decoded series whose chunks are all there and sorted, as [`crate::encoded::Joined::settle`] does of encoded ones.
pub fn withhold(series: &mut Series, from_ms: i64) {
    let span_of = |chunk: &AggrChunk| {
        let raw = chunk.raw.as_ref().filter(|_| !has_aggregates(chunk))?;
        span(chunk.min_time, chunk.max_time, raw.r#type, raw.hash, &raw.data)
    };
    let kept_back = kept_back(series.chunks.iter().map(span_of), from_ms).unwrap_or_default();
    for (chunk, _) in series.chunks.iter_mut().zip(kept_back).filter(|(_, is_kept_back)| *is_kept_back) {
        if let Some(raw) = &mut chunk.raw {
            raw.data = Bytes::new();
        }
    }
}

/// Whether the data of each chunk is kept back, of a series whose chunks are all there and sorted. `None` if none is: unless all are plain chunks of two
/// replicas that look regular, everything is sent.
pub(crate) fn kept_back(chunks: impl IntoIterator<Item = Option<Span>>, from_ms: i64) -> Option<Vec<bool>> {
    let chunks: Vec<Span> = chunks.into_iter().collect::<Option<_>>()?;
    let (mut replicas, places) = two_replicas(&chunks)?;
    let Settled { followed, looked_at_ms } = settle(&mut replicas, from_ms)?;
    let [left, right] = &replicas;
    let (used, other) = if followed == 0 { (left, right) } else { (right, left) };
    // Past the end of the one the other is looked at, if it goes on for longer than a gap.
    let goes_on = other.last_ms > used.last_ms.saturating_add(used.interval_ms + used.interval_ms / 2);
    if !used.is_regular || goes_on {
        return None;
    }
    // One sample to spare.
    let needed_ms = looked_at_ms.saturating_add(other.interval_ms);
    let is_kept_back = |((min_ms, _, _), place): (&Span, &usize)| {
        *place != followed && *min_ms != other.starts_ms && *min_ms > needed_ms
    };
    Some(chunks.iter().zip(&places).map(is_kept_back).collect())
}

/// One replica, as far as its chunks show without being decoded.
#[derive(Clone, Copy, Debug)]
struct Replica {
    /// Where its first chunk begins.
    starts_ms: i64,
    /// Its first sample that counts.
    first_ms: i64,
    last_ms: i64,
    /// Between samples, on average.
    interval_ms: i64,
    /// Whether no scrape seems to be missing.
    is_regular: bool,
}

impl Replica {
    /// Of chunks in order.
    fn of(chunks: &[Span]) -> Option<Self> {
        let ((starts_ms, _, _), (_, last_ms, _)) = (*chunks.first()?, *chunks.last()?);
        let samples: i64 = chunks.iter().map(|(_, _, samples)| samples).sum();
        let interval_ms = (last_ms - starts_ms).checked_div(samples - 1).filter(|interval| *interval > 0)?;
        // A scrape that is missing makes a chunk longer, or the way to the next.
        let is_full = |(min_ms, max_ms, samples): &Span| {
            max_ms - min_ms <= (samples - 1) * interval_ms + interval_ms / 2
        };
        let is_next = |pair: &[Span]| match pair {
            [(_, end_ms, _), (next_ms, _, _)] => next_ms - end_ms <= interval_ms + interval_ms / 2,
            _ => true,
        };
        let is_regular = chunks.iter().all(is_full) && chunks.windows(2).all(is_next);
        Some(Self { starts_ms, first_ms: starts_ms, last_ms, interval_ms, is_regular })
    }

    /// Leaves out what comes before `from_ms`; false if it is not sure what that is.
    fn begin_at(&mut self, from_ms: i64, margin_ms: i64) -> bool {
        let from_ms = from_ms.clamp(-ORDINARY_MS, ORDINARY_MS);
        let is_sure = self.is_sure_of(from_ms, margin_ms);
        self.first_ms = self.next_ms(from_ms);
        is_sure
    }

    /// The first sample at or after `time_ms`, if all come regularly.
    fn next_ms(&self, time_ms: i64) -> i64 {
        let behind_ms = time_ms - self.first_ms;
        if behind_ms <= 0 {
            return self.first_ms;
        }
        let steps = (behind_ms + self.interval_ms - 1) / self.interval_ms;
        self.first_ms + steps * self.interval_ms
    }

    /// Whether that is the same sample if each comes a little earlier or later.
    fn is_sure_of(&self, time_ms: i64, margin_ms: i64) -> bool {
        let past_ms = (time_ms - self.first_ms) % self.interval_ms;
        time_ms <= self.first_ms || past_ms >= margin_ms && self.interval_ms - past_ms >= margin_ms
    }
}

/// The replicas of chunks in order, and which of the two each chunk belongs to: the first one that has ended before it begins. `None` unless there are
/// two, none of whose chunks has the times of another: what is told apart by data cannot do without.
fn two_replicas(chunks: &[Span]) -> Option<([Replica; 2], Vec<usize>)> {
    let mut places = Vec::with_capacity(chunks.len());
    let mut parts: [Vec<Span>; 2] = Default::default();
    let mut before = None;
    for chunk in chunks {
        let (min_ms, max_ms, _) = *chunk;
        let is_ordinary = min_ms >= -ORDINARY_MS && min_ms <= max_ms && max_ms <= ORDINARY_MS;
        if !is_ordinary || before == Some((min_ms, max_ms)) {
            return None;
        }
        before = Some((min_ms, max_ms));
        let has_ended = |part: &Vec<Span>| part.last().is_none_or(|(_, end, _)| *end < min_ms);
        let place = parts.iter().position(has_ended)?;
        parts.get_mut(place)?.push(*chunk);
        places.push(place);
    }
    let [left, right] = &parts;
    Some(([Replica::of(left)?, Replica::of(right)?], places))
}

/// Where the penalty algorithm comes to rest.
#[derive(Debug, PartialEq)]
struct Settled {
    followed: usize,
    /// The last sample of the other replica that was looked at.
    looked_at_ms: i64,
}

/// Follows two replicas of regular samples for a few steps, from `from_ms` on. `None` if they come to no rest, or if one of the steps would be another were a
/// sample a little earlier or later, as samples are.
fn settle(replicas: &mut [Replica; 2], from_ms: i64) -> Option<Settled> {
    follow(replicas, from_ms, true)
}

/// The same; `concludes` says whether steps that are known to repeat are left out.
fn follow(replicas: &mut [Replica; 2], from_ms: i64, concludes: bool) -> Option<Settled> {
    let [left, right] = replicas;
    let margin_ms = left.interval_ms.min(right.interval_ms) / MARGIN_SHARE;
    if !left.begin_at(from_ms, margin_ms) || !right.begin_at(from_ms, margin_ms) {
        return None;
    }
    let (mut left_from_ms, mut right_from_ms) = (left.first_ms, right.first_ms);
    let mut last_ms = None;
    let mut settled = Settled { followed: 0, looked_at_ms: i64::MIN };
    let mut along = 0;
    for step in 0..STEPS {
        let (left_ms, right_ms) = (left.next_ms(left_from_ms), right.next_ms(right_from_ms));
        let used = usize::from(left_ms > right_ms);
        let now_ms = left_ms.min(right_ms);
        // The one that was not used is looked at if it could come first.
        let (other, other_from_ms) = match settled.followed {
            0 => (&*right, right_from_ms),
            _ => (&*left, left_from_ms),
        };
        let is_looked_at =
            last_ms.is_none() || used != settled.followed || now_ms + margin_ms >= other_from_ms;
        if is_looked_at {
            let is_close = last_ms.is_some() && (now_ms - other_from_ms).abs() < margin_ms;
            let is_sure = last_ms.is_none() || other.is_sure_of(other_from_ms, margin_ms);
            if (left_ms - right_ms).abs() < margin_ms || is_close || !is_sure {
                return None;
            }
            settled.looked_at_ms = settled.looked_at_ms.max(left_ms).max(right_ms);
            along = 0;
        }
        along += 1;
        settled.followed = used;
        // A step along one replica, of its interval: the next is the same, and the other one is left alone for twice as long. So it goes on.
        let interval_ms = if used == 0 { left.interval_ms } else { right.interval_ms };
        if concludes && !is_looked_at && last_ms.is_some_and(|last_ms| now_ms - last_ms == interval_ms) {
            along += STEPS - 1 - step;
            break;
        }
        let penalty_ms = last_ms.map_or(INITIAL_PENALTY_MS, |last_ms| 2 * (now_ms - last_ms));
        last_ms = Some(now_ms);
        (left_from_ms, right_from_ms) = match used {
            0 => (now_ms + 1, now_ms + 1 + penalty_ms),
            _ => (now_ms + 1 + penalty_ms, now_ms + 1),
        };
    }
    (along >= SETTLED_STEPS).then_some(settled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunks;

    proptest! {
        #[test]
        fn where_replicas_settle_is_known_before_all_steps_are_taken(
            starts_ms in (0i64..40_000, 0i64..40_000),
            intervals_ms in (1i64..40_000, 1i64..40_000),
            is_alike: bool,
            from_ms in -10_000i64..2_000_000,
        ) {
            let replica = |starts_ms, interval_ms| Replica {
                starts_ms, first_ms: starts_ms, last_ms: starts_ms + 1000 * interval_ms, interval_ms, is_regular: true,
            };
            let other_ms = if is_alike { intervals_ms.0 } else { intervals_ms.1 };
            let replicas = [replica(starts_ms.0, intervals_ms.0), replica(starts_ms.1, other_ms)];
            prop_assert_eq!(
                follow(&mut replicas.clone(), from_ms, true),
                follow(&mut replicas.clone(), from_ms, false)
            );
        }
    }

    /// Samples of which data only tells how many there are.
    fn chunk(min_ms: i64, max_ms: i64, samples: u16) -> AggrChunk {
        let data = Bytes::from([&samples.to_be_bytes()[..], b"more"].concat());
        chunks::raw(min_ms, max_ms, chunks::chunk(chunk::Encoding::Xor, data))
    }

    /// Four chunks of 120 samples each, from `start_ms` on.
    fn replica(start_ms: i64, interval_ms: i64) -> Vec<AggrChunk> {
        let chunk_ms = 120 * interval_ms;
        (0..4)
            .map(|at| start_ms + at * chunk_ms)
            .map(|min| chunk(min, min + chunk_ms - interval_ms, 120))
            .collect()
    }

    /// When the chunks begin whose data is kept back.
    fn withheld(replicas: &[Vec<AggrChunk>], from_ms: i64) -> Vec<i64> {
        let mut series = Series { labels: Vec::new(), chunks: replicas.concat() };
        series.chunks.sort_by(chunks::compare);
        withhold(&mut series, from_ms);
        let is_withheld = |chunk: &&AggrChunk| chunk.raw.as_ref().is_some_and(is_withheld);
        series.chunks.iter().filter(is_withheld).map(|chunk| chunk.min_time).collect()
    }

    #[test]
    fn of_two_regular_replicas_one_is_kept_back_but_for_its_first_chunk() {
        // 7 s apart at 15 s: the second sample is the other one's, which is followed from there on.
        let (left, right) = (replica(1_000_000, 15_000), replica(1_007_000, 15_000));
        let chunk_ms = 1_800_000;
        let of_left = [1, 2, 3].map(|at| 1_000_000 + at * chunk_ms);
        assert_eq!(withheld(&[left.clone(), right.clone()], 0), of_left);
        // 2 s apart the first one stays.
        let near = replica(1_002_000, 15_000);
        assert_eq!(withheld(&[left.clone(), near], 0), [1, 2, 3].map(|at| 1_002_000 + at * chunk_ms));
        // Where samples count only from the end of a chunk on, the next one is looked at, too.
        let late = withheld(&[left, right], 1_000_000 + chunk_ms - 20_000);
        assert_eq!(late, of_left[1..]);
    }

    #[test]
    fn what_hangs_on_a_moment_is_sent() {
        let left = replica(1_000_000, 15_000);
        let withheld = |apart_ms: i64, from_ms: i64| {
            withheld(&[left.clone(), replica(1_000_000 + apart_ms, 15_000)], from_ms)
        };
        // Both come first, or the second one just when it is given up being left alone.
        for (apart_ms, is_near) in
            [(1, true), (200, true), (500, false), (4_900, true), (5_100, true), (5_500, false)]
        {
            assert_eq!(withheld(apart_ms, 0).is_empty(), is_near, "{apart_ms} ms apart");
        }
        for (from_ms, is_near) in [(1_150_000, true), (1_149_900, true), (1_155_000, false)] {
            assert_eq!(withheld(7_000, from_ms).is_empty(), is_near, "from {from_ms} on");
        }
    }

    #[test]
    fn what_may_be_looked_at_is_sent() {
        let (left, right) = (replica(0, 15_000), replica(7_000, 15_000));
        let mut gap = right.clone();
        gap[2] = chunk(gap[2].min_time, gap[2].max_time, 117);
        let mut late = right.clone();
        late.truncate(2);
        let mut alike = right.clone();
        alike[1] = chunk(left[1].min_time, left[1].max_time, 120);
        let mut histograms = left.clone();
        histograms[3].raw.as_mut().unwrap().r#type = chunk::Encoding::Histogram.into();
        let mut unhashed = left.clone();
        unhashed[3].raw.as_mut().unwrap().hash = 0;
        for replicas in [
            vec![left.clone()],
            vec![left.clone(), right.clone(), replica(3_000, 15_000)],
            // The one that is followed has a gap, or ends early.
            vec![left.clone(), gap],
            vec![left.clone(), late],
            vec![left.clone(), alike],
            vec![histograms, right.clone()],
            vec![unhashed, right],
        ] {
            assert_eq!(withheld(&replicas, 0), [0; 0], "{replicas:?}");
        }
    }

    #[test]
    fn nothing_that_stores_send_overflows() {
        for (min_ms, max_ms, samples) in
            [(i64::MIN, i64::MAX, 2), (0, i64::MAX, 1), (0, 0, 0), (5, 5, 9), (ORDINARY_MS, ORDINARY_MS, 3)]
        {
            for from_ms in [i64::MIN, 0, i64::MAX] {
                withheld(&[vec![chunk(min_ms, max_ms, samples), chunk(min_ms, max_ms, 2)]], from_ms);
                withheld(&[vec![chunk(min_ms, max_ms, samples)], replica(-7, 1)], from_ms);
                withheld(&[replica(0, 1 << 40), replica(1, 1)], from_ms);
            }
        }
    }

    #[test]
    fn the_header_says_from_when_on() {
        let mut request = Request::new(());
        assert_eq!(withholds_from(request.metadata()), None);
        ask_to_withhold(&mut request, -5);
        assert_eq!(withholds_from(request.metadata()), Some(-5));
    }
}
