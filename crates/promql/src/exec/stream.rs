//! Selections, opened once and read by every operator that asks for the same one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use parallax_model::{SeriesData, TimeRange};

use super::Context;
use super::row::Charge;
use crate::engine::QueryError;
use crate::source::{Selection, SeriesStream, Source};

/// Decoded series, counted against the query's budget while somebody still reads them.
pub(crate) struct DecodedBatch {
    pub series: Vec<SeriesData>,
    _charge: Charge,
}

/// One selection of the query and its readers. A batch goes when the last reader has passed it.
struct SharedStream {
    selection: Selection,
    stream: Option<Box<dyn SeriesStream>>,
    batches: VecDeque<Rc<DecodedBatch>>,
    /// How many batches have gone already.
    passed: usize,
    /// The next batch of each reader, counted from the beginning.
    positions: Vec<usize>,
}

/// All selections of a query: gathered while planning, opened together before the first is read.
#[derive(Default)]
pub(crate) struct Selections(Vec<Rc<RefCell<SharedStream>>>);

impl Selections {
    /// A reader of `selection`; the same stream as before if it was asked for before.
    pub fn reader(&mut self, selection: Selection) -> Reader {
        let known = self.0.iter().find(|shared| shared.borrow().selection == selection);
        let shared = match known {
            Some(shared) => shared.clone(),
            None => {
                let shared = Rc::new(RefCell::new(SharedStream {
                    selection,
                    stream: None,
                    batches: VecDeque::new(),
                    passed: 0,
                    positions: Vec::new(),
                }));
                self.0.push(shared.clone());
                shared
            }
        };
        let id = {
            let mut shared = shared.borrow_mut();
            shared.positions.push(0);
            shared.positions.len() - 1
        };
        Reader { shared, id }
    }

    /// Starts reading every selection.
    pub fn open(&self, source: &dyn Source) -> Result<(), QueryError> {
        let ranges = || self.0.iter().map(|shared| shared.borrow().selection.range);
        let query_range = TimeRange {
            min_ms: ranges().map(|range| range.min_ms).min().unwrap_or(0),
            max_ms: ranges().map(|range| range.max_ms).max().unwrap_or(0),
        };
        for shared in &self.0 {
            let mut shared = shared.borrow_mut();
            shared.selection.query_range = query_range;
            let stream = source.select(&shared.selection)?;
            shared.stream = Some(stream);
        }
        Ok(())
    }

    /// Hands over the warnings of streams that were not read to their end.
    pub fn finish(&self, context: &Context<'_>) {
        for shared in &self.0 {
            if let Some(mut stream) = shared.borrow_mut().stream.take() {
                context.source_warnings(stream.take_warnings());
            }
        }
    }
}

/// One operator's view of a selection.
pub(crate) struct Reader {
    shared: Rc<RefCell<SharedStream>>,
    id: usize,
}

impl Reader {
    /// The next series; `None` at the end.
    pub fn next(&mut self, context: &Context<'_>) -> Result<Option<Rc<DecodedBatch>>, QueryError> {
        context.interrupt.check()?;
        let mut shared = self.shared.borrow_mut();
        let position = shared.positions.get(self.id).copied().unwrap_or_default();
        let ahead = position.saturating_sub(shared.passed);
        let batch = match shared.batches.get(ahead) {
            Some(batch) => batch.clone(),
            None => match shared.read(context)? {
                Some(batch) => batch,
                None => return Ok(None),
            },
        };
        if let Some(next) = shared.positions.get_mut(self.id) {
            *next += 1;
        }
        shared.drop_passed();
        Ok(Some(batch))
    }
}

impl SharedStream {
    fn read(&mut self, context: &Context<'_>) -> Result<Option<Rc<DecodedBatch>>, QueryError> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let next = stream.next_batch();
        if !matches!(next, Ok(Some(_))) {
            context.source_warnings(stream.take_warnings());
            self.stream = None;
        }
        let Some(series) = next? else { return Ok(None) };
        let samples = series
            .iter()
            .map(|s| {
                let weights = s.histograms.values.iter().map(|h| h.sample_weight());
                s.floats.len() + weights.sum::<usize>()
            })
            .sum();
        let batch = Rc::new(DecodedBatch { series, _charge: context.budget.charge(samples)? });
        self.batches.push_back(batch.clone());
        Ok(Some(batch))
    }

    fn drop_passed(&mut self) {
        let slowest = self.positions.iter().copied().min().unwrap_or(self.passed);
        while self.passed < slowest && self.batches.pop_front().is_some() {
            self.passed += 1;
        }
    }
}
