//! Adding external labels to a sorted stream of series, and removing labels from it, without holding the stream.
//!
//! Input sorted by a store's own labels; output sorted by the labels that the store answers with. Adding a label can disorder series
//! only locally: for the next input `N` there is a lower bound of all outputs still to come, and whatever sorts at or below the bound may go.
//! With external labels in order `e1 < e2 < …`, the bound is the output of `N` cut off
//! - at the end of `N`, if external labels are still to be inserted after it (a longer series may follow, whose next label sorts before them);
//! - after an external label that replaced one of `N`'s own (values that only differ there may be followed by anything).
//!
//! So a series with a label of its own after the last external one is released at once. Removing a label that series have of their own
//! disorders all series of a metric, and those are held until the next metric begins.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use parallax_model::{Labels, METRIC_NAME};
use tonic::Status;

use crate::proto::thanos::series_response::Result as Frame;
use crate::proto::thanos::{Label, Series, SeriesResponse};
use crate::{Error, SeriesStream, frames, labels};

/// Takes series in order of their own labels, gives them in order of their final ones.
#[derive(Debug)]
pub struct Resorter {
    /// External labels that stay, sorted.
    added: Vec<Label>,
    removed: Vec<String>,
    /// Whether order is known only metric by metric.
    whole_metrics: bool,
    held: BinaryHeap<Reverse<Held>>,
    /// Everything still to come sorts at or above it; `None` until there is a bound at all.
    bound: Option<Vec<Label>>,
    /// The only one held is its own bound: it may go.
    only_is_free: bool,
    finished: bool,
    /// Keeps parts of one series in their order.
    next_sequence: u64,
    /// Of the last series that was given out with those before the present ones.
    last_released: Option<Vec<Label>>,
}

#[derive(Debug)]
struct Held {
    series: Series,
    sequence: u64,
}

impl Resorter {
    /// `external` overrides labels of the same name; `without` is removed after that, from either.
    pub fn new(external: &Labels, without: &[String]) -> Self {
        Self {
            added: labels::to_wire(&external.without(without)),
            removed: without.to_vec(),
            whole_metrics: !without.is_empty(),
            held: BinaryHeap::new(),
            bound: None,
            only_is_free: false,
            finished: false,
            next_sequence: 0,
            last_released: None,
        }
    }

    /// Like [`Resorter::new`] for a source whose series are known to have none of the removed labels themselves.
    pub fn adding(external: &Labels, without: &[String]) -> Self {
        Self { removed: Vec::new(), whole_metrics: false, ..Self::new(external, without) }
    }

    /// Like [`Resorter::new`] for a source that is sorted by metric, and within a metric in no order to rely on.
    pub fn holding_metrics(external: &Labels, without: &[String]) -> Self {
        Self { whole_metrics: true, ..Self::new(external, without) }
    }

    /// Takes the next series, in order of its own labels.
    pub fn push(&mut self, mut series: Series) {
        // Nearly always: then the bound need not be written out.
        self.only_is_free = self.held.is_empty() && self.is_own_bound(&series.labels);
        if !self.only_is_free {
            self.bound = self.bound_of(&series.labels);
        }
        labels::remove(&mut series.labels, &self.removed);
        series.labels = labels::overlay(series.labels, &self.added);
        self.held.push(Reverse(Held { series, sequence: self.next_sequence }));
        self.next_sequence += 1;
    }

    /// No more series will come.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Appends the series that nothing still to come can precede to `ready`, which takes them from one call to the next until
    /// [`Resorter::hand_over`].
    ///
    /// # Errors
    /// If a series came too late for its place, because the input was not sorted (or, where labels are removed, because
    /// a series without a metric name followed one that has it).
    pub fn release(&mut self, ready: &mut Vec<Series>) -> Result<(), Error> {
        while let Some(Reverse(next)) = self.held.peek() {
            let free = self.finished
                || std::mem::take(&mut self.only_is_free)
                || self
                    .bound
                    .as_ref()
                    .is_some_and(|bound| labels::compare(&next.series.labels, bound).is_le());
            if !free {
                break;
            }
            let Some(Reverse(Held { series, .. })) = self.held.pop() else { break };
            let last = ready.last().map(|last| &last.labels).or(self.last_released.as_ref());
            if last.is_some_and(|last| labels::compare(&series.labels, last).is_lt()) {
                return Err(Error::OutOfOrder { labels: labels::display(&series.labels) });
            }
            ready.push(series);
        }
        Ok(())
    }

    /// Takes the series out of `ready`, and remembers where they end: a clone of labels for each series would cost more than the check it is for.
    pub fn hand_over(&mut self, ready: &mut Vec<Series>) -> Vec<Series> {
        if let Some(last) = ready.last() {
            self.last_released = Some(last.labels.clone());
        }
        std::mem::take(ready)
    }

    /// Series held back now.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether [`Self::bound_of`] these labels is what they become: they go on after the last external one, and none replaces one of them.
    fn is_own_bound(&self, own: &[Label]) -> bool {
        let (Some(last), Some(last_added)) = (own.last(), self.added.last()) else { return false };
        !self.whole_metrics
            && self.removed.is_empty()
            && last.name > last_added.name
            && !self.added.iter().any(|added| own.iter().any(|label| label.name == added.name))
    }

    /// The lower bound of the outputs of `own` and of every input that sorts above it.
    fn bound_of(&self, own: &[Label]) -> Option<Vec<Label>> {
        let own = if !self.whole_metrics {
            own
        } else {
            // Without the removed label anything may follow within the metric, so the bound ends with the metric's name.
            let name = own.iter().position(|label| label.name == METRIC_NAME)?;
            let unsafe_before =
                self.removed.iter().any(|removed| removed.as_str() <= METRIC_NAME) && name > 0;
            if unsafe_before {
                return None;
            }
            &own[..=name]
        };
        Some(bound_with(own, &self.added))
    }
}

fn bound_with(own: &[Label], added: &[Label]) -> Vec<Label> {
    let mut bound = Vec::with_capacity(own.len() + added.len());
    let mut own = own.iter().peekable();
    for external in added {
        while let Some(label) = own.next_if(|label| label.name < external.name) {
            bound.push(label.clone());
        }
        let Some(next) = own.peek() else { return bound };
        bound.push(external.clone());
        if next.name == external.name {
            return bound;
        }
    }
    bound.extend(own.cloned());
    bound
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        labels::compare(&self.series.labels, &other.series.labels)
            .then_with(|| self.sequence.cmp(&other.sequence))
    }
}

/// Runs a stream through a [`Resorter`]. Frames that are not series pass at once; batches are taken apart.
pub fn resort(stream: SeriesStream, resorter: Resorter) -> SeriesStream {
    if resorter.added.is_empty() && resorter.removed.is_empty() {
        return stream;
    }
    Box::pin(Resorted { stream: Some(frames::unbatched(stream)), resorter, ready: VecDeque::new() })
}

struct Resorted {
    /// `None` once it has ended.
    stream: Option<SeriesStream>,
    resorter: Resorter,
    ready: VecDeque<Result<SeriesResponse, Status>>,
}

impl Resorted {
    fn collect_ready(&mut self) {
        let mut ready = Vec::new();
        let outcome = self.resorter.release(&mut ready);
        self.ready.extend(self.resorter.hand_over(&mut ready).into_iter().map(|one| Ok(frames::series(one))));
        if let Err(error) = outcome {
            self.stream = None;
            self.resorter.held.clear();
            self.ready.push_back(Err(error.into()));
        }
    }
}

impl Stream for Resorted {
    type Item = Result<SeriesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(frame));
            }
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match futures::ready!(stream.as_mut().poll_next(context)) {
                Some(Ok(SeriesResponse { result: Some(Frame::Series(series)) })) => {
                    self.resorter.push(series);
                    self.collect_ready();
                }
                Some(Ok(other)) => return Poll::Ready(Some(Ok(other))),
                Some(Err(status)) => {
                    // What was read before the error is in order and stays.
                    self.stream = None;
                    self.resorter.finish();
                    self.collect_ready();
                    self.ready.push_back(Err(status));
                }
                None => {
                    self.stream = None;
                    self.resorter.finish();
                    self.collect_ready();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    fn labels_of(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied())
    }

    /// Pushes sorted input, pops as it goes; returns the output and the most series ever held after popping.
    fn run(mut input: Vec<Labels>, mut resorter: Resorter) -> (Vec<Labels>, usize) {
        input.sort();
        let (mut output, mut most_held) = (Vec::new(), 0);
        for own in input {
            resorter.push(Series { labels: labels::to_wire(&own), chunks: vec![] });
            drain(&mut resorter, &mut output);
            most_held = most_held.max(resorter.held());
        }
        resorter.finish();
        drain(&mut resorter, &mut output);
        (output, most_held)
    }

    fn drain(resorter: &mut Resorter, output: &mut Vec<Labels>) {
        let mut ready = Vec::new();
        resorter.release(&mut ready).unwrap();
        let ready = resorter.hand_over(&mut ready);
        output.extend(ready.iter().map(|series| labels::from_wire(&series.labels).unwrap()));
    }

    /// Every label set over small alphabets of names and values.
    fn universe(names: &[&str], values: &[&str]) -> Vec<Labels> {
        let mut sets = vec![vec![]];
        for name in names {
            let mut wider = Vec::new();
            for set in &sets {
                for value in values {
                    let mut with: Vec<(&str, &str)> = set.clone();
                    with.push((name, value));
                    wider.push(with);
                }
            }
            sets.extend(wider);
        }
        sets.into_iter().map(Labels::from_pairs).collect()
    }

    #[test]
    fn output_is_sorted_for_every_place_of_the_external_labels() {
        let input = universe(&["a", "c", "e", "g"], &["1", "2"]);
        for external in universe(&["B", "a", "b", "c", "d", "f", "g", "h"], &["1"]) {
            let (output, _) = run(input.clone(), Resorter::new(&external, &[]));
            let mut expected: Vec<Labels> = input.iter().map(|own| own.overlaid_with(&external)).collect();
            expected.sort();
            assert_eq!(output, expected, "external labels {external:?}");
        }
    }

    #[test]
    fn output_is_sorted_when_labels_are_removed() {
        let input: Vec<Labels> = universe(&["a", "c", "replica"], &["1", "2"])
            .into_iter()
            .flat_map(|own| ["m1", "m2"].map(|name| own.overlaid_with(&labels_of(&[("__name__", name)]))))
            .collect();
        for external in universe(&["a", "b", "replica", "z"], &["1"]) {
            for without in [vec!["replica".to_owned()], vec!["c".to_owned(), "b".to_owned()]] {
                let (output, most_held) = run(input.clone(), Resorter::new(&external, &without));
                let mut expected: Vec<Labels> =
                    input.iter().map(|own| own.overlaid_with(&external).without(&without)).collect();
                expected.sort();
                assert_eq!(output, expected, "external labels {external:?} without {without:?}");
                assert!(most_held <= input.len() / 2, "only one metric may be held");
            }
        }
    }

    #[test]
    fn a_source_in_disorder_within_its_metrics_is_sorted_and_held_metric_by_metric() {
        let metrics = ["m1", "m2", "m3"];
        for external in universe(&["a", "b", "replica", "z"], &["9"]) {
            let (mut input, mut expected) = (Vec::new(), Vec::new());
            for name in metrics {
                let own = universe(&["a", "replica"], &["1", "2"]).into_iter().rev();
                input.extend(own.map(|set| set.overlaid_with(&labels_of(&[("__name__", name)]))));
            }
            let without = ["replica".to_owned()];
            expected.extend(input.iter().map(|own| own.overlaid_with(&external).without(&without)));
            expected.sort();
            let mut resorter = Resorter::holding_metrics(&external, &without);
            let (mut output, mut most_held) = (Vec::new(), 0);
            for own in &input {
                resorter.push(Series { labels: labels::to_wire(own), chunks: vec![] });
                drain(&mut resorter, &mut output);
                most_held = most_held.max(resorter.held());
            }
            resorter.finish();
            drain(&mut resorter, &mut output);
            assert_eq!(output, expected, "external labels {external:?}");
            assert!(most_held <= input.len() / metrics.len(), "only one metric may be held, not {most_held}");
        }
    }

    #[test]
    fn series_with_a_label_after_the_external_ones_are_not_held() {
        let input: Vec<Labels> = (0..100)
            .map(|i| labels_of(&[("__name__", "up"), ("instance", &i.to_string()), ("job", "x")]))
            .collect();
        let external = labels_of(&[("cluster", "eu-1")]);
        let (output, most_held) = run(input, Resorter::new(&external, &[]));
        assert_eq!((output.len(), most_held), (100, 0));
    }

    #[test]
    fn input_that_is_not_sorted_is_an_error_and_not_a_wrong_order() {
        for hands_over in [false, true] {
            let mut resorter = Resorter::new(&labels_of(&[("cluster", "eu-1")]), &[]);
            let mut ready = Vec::new();
            let series =
                |job| Series { labels: labels::to_wire(&labels_of(&[("job", job)])), chunks: vec![] };
            resorter.push(series("b"));
            resorter.release(&mut ready).unwrap();
            assert_eq!(ready.len(), 1);
            if hands_over {
                resorter.hand_over(&mut ready);
            }
            resorter.push(series("a"));
            assert!(matches!(resorter.release(&mut ready), Err(Error::OutOfOrder { .. })));
        }
    }

    #[tokio::test]
    async fn an_error_in_the_stream_comes_after_the_series_before_it() {
        let series = Series { labels: labels::to_wire(&labels_of(&[("a", "1")])), chunks: vec![] };
        let stream = frames::from_vec(vec![Ok(frames::series(series)), Err(Status::unavailable("gone"))]);
        let external = labels_of(&[("z", "1")]);
        let items: Vec<_> =
            resort(stream, Resorter::new(&external, &[])).map(|item| item.is_ok()).collect().await;
        assert_eq!(items, [true, false]);
    }
}
