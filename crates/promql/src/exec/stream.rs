//! Selections, opened once and read by every operator that asks for the same one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use parallax_model::{SeriesData, TimeRange};

use super::Context;
use super::prepare::Prepared;
use super::pushed::SharedPushed;
use super::row::Charge;
use crate::engine::{Interrupt, QueryError};
use crate::source::{Delivered, Scope, Selection, SeriesStream, Source};

/// Series of one selection, counted against the query's budget while somebody still reads them.
pub(crate) struct DecodedBatch {
    series: Vec<Delivered>,
    charge: Charge,
}

/// One of them.
pub(crate) enum Piece<'a> {
    Samples(&'a SeriesData),
    Steps(Prepared),
}

impl DecodedBatch {
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Hands out the series one by one, without a copy if nobody else reads this batch.
    pub fn each(
        self: Rc<Self>,
        mut take: impl FnMut(Piece<'_>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        match Rc::try_unwrap(self) {
            Ok(Self { series, charge }) => {
                let is_raw = series.iter().any(|one| matches!(one, Delivered::Samples(_)));
                // Rows of steps are charged where they go.
                let _charge = is_raw.then_some(charge);
                series.into_iter().try_for_each(|one| match one {
                    Delivered::Samples(samples) => take(Piece::Samples(&samples)),
                    Delivered::Steps(prepared) => take(Piece::Steps(prepared)),
                })
            }
            Err(shared) => shared.series.iter().try_for_each(|one| match one {
                Delivered::Samples(samples) => take(Piece::Samples(samples)),
                Delivered::Steps(prepared) => take(Piece::Steps(prepared.clone())),
            }),
        }
    }
}

/// One selection of the query and its readers. A batch goes when the last reader has passed it.
struct SharedStream {
    selection: Selection,
    /// Whether it is still to be opened, by who reads it first.
    is_deferred: bool,
    stream: Option<Box<dyn SeriesStream>>,
    batches: VecDeque<Rc<DecodedBatch>>,
    /// How many batches have gone already.
    passed: usize,
    /// The next batch of each reader, counted from the beginning.
    positions: Vec<usize>,
}

/// All selections of a query: gathered while planning, opened together before the first is read.
#[derive(Default)]
pub(crate) struct Selections {
    all: Vec<Rc<RefCell<SharedStream>>>,
    pushed: Vec<SharedPushed>,
}

impl Selections {
    /// A reader of `selection`; the same stream as before if it was asked for before.
    pub fn reader(&mut self, selection: Selection) -> Reader {
        let known = self.all.iter().find(|shared| shared.borrow().selection == selection);
        let shared = match known {
            Some(shared) => shared.clone(),
            None => {
                let shared = Rc::new(RefCell::new(SharedStream {
                    is_deferred: matches!(selection.scope, Scope::Declined(_)),
                    selection,
                    stream: None,
                    batches: VecDeque::new(),
                    passed: 0,
                    positions: Vec::new(),
                }));
                self.all.push(shared.clone());
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

    /// Notes what is to be started with the selections.
    pub fn push_down(&mut self, pushed: SharedPushed) {
        self.pushed.push(pushed);
    }

    /// Starts reading every selection, and what is pushed down.
    pub fn open(&self, source: &dyn Source, interrupt: &Interrupt) -> Result<(), QueryError> {
        let query_range = self.settle(interrupt);
        self.pushed.iter().for_each(|pushed| pushed.borrow_mut().start(query_range));
        for shared in &self.all {
            let mut shared = shared.borrow_mut();
            if !shared.is_deferred {
                shared.stream = Some(source.select(&shared.selection)?);
            }
        }
        Ok(())
    }

    /// As a source would be asked for them.
    pub fn settled(&self, interrupt: &Interrupt) -> Vec<Selection> {
        self.settle(interrupt);
        self.all.iter().map(|shared| shared.borrow().selection.clone()).collect()
    }

    /// Completes every selection by what only all of them tell; gives the range of them together.
    fn settle(&self, interrupt: &Interrupt) -> TimeRange {
        let ranges = || self.all.iter().map(|shared| shared.borrow().selection.range);
        let query_range = TimeRange {
            min_ms: ranges().map(|range| range.min_ms).min().unwrap_or(0),
            max_ms: ranges().map(|range| range.max_ms).max().unwrap_or(0),
        };
        for shared in &self.all {
            let selection = &mut shared.borrow_mut().selection;
            selection.query_range = query_range;
            if let Some(preparation) = &mut selection.preparation {
                preparation.set_interrupt(interrupt);
            }
        }
        query_range
    }

    /// Hands over the warnings of streams that were not read to their end.
    pub fn finish(&self, context: &Context<'_>) {
        for shared in &self.all {
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
        if std::mem::take(&mut self.is_deferred) {
            self.stream = context.source.map(|source| source.select(&self.selection)).transpose()?;
        }
        let Some(stream) = &mut self.stream else { return Ok(None) };
        let next = stream.next_batch();
        if !matches!(next, Ok(Some(_))) {
            context.source_warnings(stream.take_warnings());
            self.stream = None;
        }
        let Some(series) = next? else { return Ok(None) };
        let weight = |one: &Delivered| match one {
            Delivered::Samples(samples) => {
                let weights = samples.histograms.values.iter().map(|h| h.sample_weight());
                samples.floats.len() + weights.sum::<usize>()
            }
            Delivered::Steps(prepared) => prepared.len(),
        };
        let charge = context.budget.charge(series.iter().map(weight).sum())?;
        let batch = Rc::new(DecodedBatch { series, charge });
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
