//! A source whose series are in memory: what the script runner loads, and what tests feed the engine.
//!
//! Selections answer in the order of labels, cut to the selection's range, as every source must.

use std::collections::BTreeMap;
use std::sync::Arc;

use parallax_model::{FloatHistogram, Labels, SeriesData};

use crate::source::{Delivered, Preparation, Selection, SeriesStream, Source, SourceError};

/// So many series are handed over at once: a batch of more than one, so that tests see several batches.
const BATCH_SERIES: usize = 64;

/// Series by their labels.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    series: BTreeMap<Labels, SeriesData>,
}

impl MemorySource {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a float sample. Samples of one series must be added in order of time; an older one, or a second
    /// one at the same time, is not taken, and `false` is returned.
    pub fn push_float(&mut self, labels: &Labels, timestamp_ms: i64, value: f64) -> bool {
        let Some(series) = self.series_after(labels, timestamp_ms) else { return false };
        series.floats.push(timestamp_ms, value);
        true
    }

    /// Adds a histogram sample, in order of time like [`Self::push_float`].
    pub fn push_histogram(&mut self, labels: &Labels, timestamp_ms: i64, value: Arc<FloatHistogram>) -> bool {
        let Some(series) = self.series_after(labels, timestamp_ms) else { return false };
        series.histograms.push(timestamp_ms, value);
        true
    }

    /// Adds a whole series, replacing one with the same labels.
    pub fn insert(&mut self, series: SeriesData) {
        self.series.insert(series.labels.clone(), series);
    }

    pub fn clear(&mut self) {
        self.series.clear();
    }

    pub fn len(&self) -> usize {
        self.series.len()
    }

    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// The series, if its last sample is older than `timestamp_ms`.
    fn series_after(&mut self, labels: &Labels, timestamp_ms: i64) -> Option<&mut SeriesData> {
        let series = self
            .series
            .entry(labels.clone())
            .or_insert_with(|| SeriesData { labels: labels.clone(), ..SeriesData::default() });
        let last_ms = series.floats.timestamps_ms.last().max(series.histograms.timestamps_ms.last());
        if last_ms.is_some_and(|last_ms| *last_ms >= timestamp_ms) {
            return None;
        }
        Some(series)
    }
}

impl Source for MemorySource {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        let wanted =
            |labels: &Labels| selection.matchers.iter().all(|matcher| matcher.matches_labels(labels));
        let selected: Vec<SeriesData> = self
            .series
            .values()
            .filter(|series| wanted(&series.labels))
            .map(|series| within(series, selection))
            .filter(|series| series.sample_count() > 0)
            .collect();
        let preparation = selection.preparation.clone();
        Ok(Box::new(MemoryStream { rest: selected.into_iter(), preparation }))
    }
}

/// The samples of `series` in the selection's range.
fn within(series: &SeriesData, selection: &Selection) -> SeriesData {
    let mut cut = SeriesData { labels: series.labels.clone(), ..SeriesData::default() };
    for (timestamp_ms, value) in series.floats.iter().filter(|(at, _)| selection.range.contains(*at)) {
        cut.floats.push(timestamp_ms, value);
    }
    for (timestamp_ms, value) in series.histograms.iter().filter(|(at, _)| selection.range.contains(*at)) {
        cut.histograms.push(timestamp_ms, value.clone());
    }
    cut
}

struct MemoryStream {
    rest: std::vec::IntoIter<SeriesData>,
    preparation: Option<Preparation>,
}

impl SeriesStream for MemoryStream {
    fn next_batch(&mut self) -> Result<Option<Vec<Delivered>>, SourceError> {
        let series = self.rest.by_ref().take(BATCH_SERIES);
        let batch: Vec<Delivered> = series
            .map(|series| Delivered::new(series, self.preparation.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok((!batch.is_empty()).then_some(batch))
    }
}

#[cfg(test)]
mod tests {
    use parallax_model::{Matcher, TimeRange};

    use super::*;

    fn selection(matchers: Vec<Matcher>, range: TimeRange) -> Selection {
        Selection {
            matchers,
            range,
            query_range: range,
            step_ms: 0,
            range_ms: 0,
            function: String::new(),
            grouping: Vec::new(),
            grouping_by: false,
            preparation: None,
            scope: Default::default(),
        }
    }

    #[test]
    fn selections_answer_in_label_order_within_their_range() {
        let mut source = MemorySource::new();
        for number in (0..100).rev() {
            let labels = Labels::from_pairs([("__name__", "m"), ("n", &format!("{number:02}"))]);
            for at in [10, 20, 30] {
                assert!(source.push_float(&labels, at, f64::from(number)));
            }
        }
        source.push_float(&Labels::from_pairs([("__name__", "other")]), 10, 1.0);
        let wanted = selection(vec![Matcher::equal("__name__", "m")], TimeRange::new(15, 25));
        let mut stream = source.select(&wanted).unwrap();
        let mut found = Vec::new();
        while let Some(batch) = stream.next_batch().unwrap() {
            found.extend(batch.into_iter().map(|one| match one {
                Delivered::Samples(series) => series,
                Delivered::Steps(_) => panic!("nothing was to be prepared"),
            }));
        }
        assert_eq!(found.len(), 100);
        assert!(found.windows(2).all(|pair| pair[0].labels < pair[1].labels));
        assert!(found.iter().all(|series| series.floats.timestamps_ms == [20]));
    }

    #[test]
    fn samples_out_of_order_are_not_taken() {
        let mut source = MemorySource::new();
        let labels = Labels::from_pairs([("__name__", "m")]);
        assert!(source.push_float(&labels, 10, 1.0));
        assert!(!source.push_float(&labels, 10, 2.0));
        assert!(!source.push_histogram(&labels, 9, Arc::default()));
        assert!(source.push_histogram(&labels, 11, Arc::default()));
        assert!(!source.push_float(&labels, 11, 2.0));
    }
}
