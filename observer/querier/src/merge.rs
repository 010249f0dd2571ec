//! Sorted streams of many stores into one: a k-way merge that holds one series per store and the one it is putting together.
//!
//! Invariants: output is sorted; a label set comes once, with the chunks of all stores, sorted, identical ones once. Whatever is not a
//! series passes at once. A store that is slow holds the merge up (order demands it), one that is done does not. Look-ahead and
//! back-pressure are the bounded queues that stores deliver into; deadlines are kept by whoever fills them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use parallax_storeapi::proto::Any;
use parallax_storeapi::proto::thanos::{AggrChunk, Series};
use parallax_storeapi::{chunks, labels};
use tokio::sync::mpsc;

use crate::coverage::Gap;
use crate::proxy::Ahead;

/// What a store's task puts into its queue. `Done` or `Failed` is the last.
#[derive(Debug)]
pub enum Delivery {
    /// Sorted, and after everything delivered before; with what they take of the look-ahead.
    Series(Vec<Series>, Option<Ahead>),
    Warning(String),
    Hints(Any),
    /// Something is missing, and more follows.
    Gap(Gap),
    Failed(Gap),
    Done,
}

/// What the merge gives.
#[derive(Debug, PartialEq)]
pub enum Merged {
    Series(Series),
    Warning(String),
    Hints(Any),
    Gap(Gap),
    /// The queue of this source ended without saying why, and the gap that leaves.
    Lost(usize, Gap),
}

/// One store's queue.
#[derive(Debug)]
pub struct Source {
    queue: mpsc::Receiver<Delivery>,
    ready: std::vec::IntoIter<Series>,
    /// Of the series in `ready`; given back when the last of them is taken.
    ahead: Option<Ahead>,
    /// What to report if the queue ends without saying why.
    lost: Gap,
}

impl Source {
    pub fn new(queue: mpsc::Receiver<Delivery>, lost: Gap) -> Self {
        Self { queue, ready: Vec::new().into_iter(), ahead: None, lost }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(series) = self.ready.next() {
                return Poll::Ready(Next::Head(series));
            }
            self.ahead = None;
            return Poll::Ready(match futures::ready!(self.queue.poll_recv(context)) {
                Some(Delivery::Series(series, ahead)) => {
                    self.ready = series.into_iter();
                    self.ahead = ahead;
                    continue;
                }
                Some(Delivery::Gap(gap)) => Next::Aside(Merged::Gap(gap)),
                Some(Delivery::Warning(text)) => Next::Aside(Merged::Warning(text)),
                Some(Delivery::Hints(hints)) => Next::Aside(Merged::Hints(hints)),
                Some(Delivery::Failed(gap)) => Next::End(Some(gap)),
                Some(Delivery::Done) => Next::End(None),
                None => Next::Lost(self.lost.clone()),
            });
        }
    }
}

enum Next {
    Head(Series),
    Aside(Merged),
    End(Option<Gap>),
    Lost(Gap),
}

/// The merged stream.
#[derive(Debug)]
pub struct Merge {
    sources: Vec<Source>,
    /// The next series of every source that has one ready.
    heads: BinaryHeap<Reverse<Head>>,
    /// Sources whose next series is not known yet.
    waiting: Vec<usize>,
    /// The series being put together.
    open: Option<Series>,
}

#[derive(Debug)]
struct Head {
    series: Series,
    source: usize,
}

impl Merge {
    pub fn new(sources: Vec<Source>) -> Self {
        let waiting = (0..sources.len()).collect();
        Self { sources, heads: BinaryHeap::new(), waiting, open: None }
    }

    /// Asks the sources that owe a head. `Ready(None)` once all that live have one.
    fn poll_heads(&mut self, context: &mut Context<'_>) -> Poll<Option<Merged>> {
        let mut index = 0;
        while let Some(source) = self.waiting.get(index).copied() {
            let next = match self.sources.get_mut(source) {
                Some(source) => source.poll_next(context),
                None => Poll::Ready(Next::End(None)),
            };
            match next {
                Poll::Pending => index += 1,
                Poll::Ready(Next::Aside(aside)) => return Poll::Ready(Some(aside)),
                Poll::Ready(Next::Head(series)) => {
                    self.waiting.swap_remove(index);
                    self.heads.push(Reverse(Head { series, source }));
                }
                Poll::Ready(Next::End(gap)) => {
                    self.waiting.swap_remove(index);
                    if let Some(gap) = gap {
                        return Poll::Ready(Some(Merged::Gap(gap)));
                    }
                }
                Poll::Ready(Next::Lost(gap)) => {
                    self.waiting.swap_remove(index);
                    return Poll::Ready(Some(Merged::Lost(source, gap)));
                }
            }
        }
        if self.waiting.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }

    fn take_open(&mut self) -> Option<Merged> {
        let mut series = self.open.take()?;
        tidy_chunks(&mut series.chunks);
        Some(Merged::Series(series))
    }
}

impl Stream for Merge {
    type Item = Merged;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(aside) = futures::ready!(this.poll_heads(context)) {
                return Poll::Ready(Some(aside));
            }
            let Some(Reverse(Head { series, source })) = this.heads.pop() else {
                return Poll::Ready(this.take_open());
            };
            this.waiting.push(source);
            match &mut this.open {
                Some(open) if open.labels == series.labels => open.chunks.extend(series.chunks),
                _ => {
                    let whole = this.take_open();
                    this.open = Some(series);
                    if whole.is_some() {
                        return Poll::Ready(whole);
                    }
                }
            }
        }
    }
}

/// Sorts chunks and drops identical ones. Chunks that follow each other in time, the usual case, stay untouched.
fn tidy_chunks(chunks: &mut Vec<AggrChunk>) {
    if !chunks.is_sorted_by(|a, b| a.min_time < b.min_time) {
        chunks.sort_by(chunks::compare);
        chunks.dedup_by(|a, b| is_same(a, b));
    }
}

/// Two chunks are one if they hold the same data; hashes spare most comparisons.
fn is_same(a: &AggrChunk, b: &AggrChunk) -> bool {
    let differ = |a: u64, b: u64| a != 0 && b != 0 && a != b;
    if let (Some(raw_a), Some(raw_b)) = (&a.raw, &b.raw)
        && differ(raw_a.hash, raw_b.hash)
    {
        return false;
    }
    chunks::compare(a, b) == Ordering::Equal
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        labels::compare(&self.series.labels, &other.series.labels)
            .then_with(|| self.source.cmp(&other.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coverage::GapKind;
    use futures::StreamExt;
    use parallax_model::Labels;
    use parallax_storeapi::proto::thanos::chunk::Encoding;

    fn series(name: &str, chunk_times: &[i64]) -> Series {
        Series {
            labels: labels::to_wire(&Labels::from_pairs([("__name__", name)])),
            chunks: chunk_times
                .iter()
                .map(|time| {
                    let data = time.to_be_bytes().to_vec();
                    chunks::raw(*time, time + 9, chunks::chunk(Encoding::Xor, data.into()))
                })
                .collect(),
        }
    }

    fn delivery(series: Vec<Series>) -> Delivery {
        Delivery::Series(series, None)
    }

    fn lost() -> Gap {
        Gap {
            cluster: "x".to_owned(),
            kind: GapKind::Partial,
            endpoint: "e".to_owned(),
            reason: "lost".to_owned(),
        }
    }

    fn source(deliveries: Vec<Delivery>) -> Source {
        let (sender, queue) = mpsc::channel(deliveries.len().max(1));
        for delivery in deliveries {
            sender.try_send(delivery).unwrap();
        }
        Source::new(queue, lost())
    }

    async fn merge(sources: Vec<Source>) -> Vec<Merged> {
        Merge::new(sources).collect().await
    }

    #[tokio::test]
    async fn equal_series_become_one_and_identical_chunks_stay_once() {
        let merged = merge(vec![
            source(vec![
                delivery(vec![series("a", &[0, 10]), series("c", &[0])]),
                delivery(vec![series("d", &[5])]),
                Delivery::Done,
            ]),
            source(vec![
                delivery(vec![series("a", &[10, 20]), series("b", &[0]), series("d", &[1])]),
                Delivery::Done,
            ]),
            source(vec![Delivery::Done]),
        ])
        .await;
        let expected =
            [series("a", &[0, 10, 20]), series("b", &[0]), series("c", &[0]), series("d", &[1, 5])];
        assert_eq!(merged, expected.map(Merged::Series));
    }

    #[tokio::test]
    async fn a_series_that_comes_in_parts_is_put_together() {
        let merged = merge(vec![source(vec![
            delivery(vec![series("a", &[0])]),
            delivery(vec![series("a", &[10])]),
            Delivery::Done,
        ])])
        .await;
        assert_eq!(merged, [Merged::Series(series("a", &[0, 10]))]);
    }

    #[tokio::test]
    async fn asides_pass_and_a_queue_that_breaks_off_is_a_gap() {
        let merged = merge(vec![
            source(vec![Delivery::Warning("careful".to_owned()), delivery(vec![series("b", &[0])])]),
            source(vec![delivery(vec![series("a", &[0])]), Delivery::Done]),
        ])
        .await;
        assert_eq!(
            merged,
            [
                Merged::Warning("careful".to_owned()),
                Merged::Series(series("a", &[0])),
                Merged::Lost(0, lost()),
                Merged::Series(series("b", &[0])),
            ]
        );
    }
}
