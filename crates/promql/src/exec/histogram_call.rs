//! `histogram_quantile` and `histogram_fraction`, of native and of classic histograms.
//!
//! The buckets of a classic histogram are rows that differ in `le` alone, so they begin with the same labels, as far as `le`. Where such rows come together, the histograms are whole once a
//! row begins otherwise: they are read at once, and their buckets go. A native histogram may have to be compared with the classic one of the same labels: from the first of them on everything
//! is kept to the end, as it is where nobody vouches for what comes together.

use std::collections::HashMap;

use parallax_model::{Labels, METRIC_NAME};

use super::leaf::LazyScalar;
use super::map::{drop_name, merge_rows};
use super::row::Row;
use super::{Batch, Bitmap, BoxedOperator, Context, Operator};
use crate::annotations::Annotations;
use crate::ast::PosRange;
use crate::engine::QueryError;
use crate::functions::histograms::{
    ClassicBucket, classic_fraction, classic_quantile, native_fraction, native_quantile,
};
use crate::parse::float;

/// The label that says what a bucket counts at most.
const BOUND: &str = "le";

/// What is read off histograms.
pub(crate) enum HistogramRead {
    Quantile(LazyScalar),
    Fraction(LazyScalar, LazyScalar),
}

/// The places that notes about a histogram function speak of.
#[derive(Clone, Copy)]
pub(crate) struct HistogramPlaces {
    /// The first argument.
    pub first: PosRange,
    /// The vector of histograms.
    pub vector: PosRange,
}

/// Reads all rows beneath it, and hands on one batch: native histograms first, each kind in the order in which it was first seen.
pub(crate) struct HistogramCall {
    pub input: BoxedOperator,
    pub read: HistogramRead,
    pub places: HistogramPlaces,
    /// Whether the arguments are numbers: those may be known before the rows are without anybody noticing.
    pub has_plain_arguments: bool,
    pub done: bool,
}

/// The arguments at each step.
struct Arguments {
    first: Vec<f64>,
    second: Option<Vec<f64>>,
}

/// The buckets of one classic histogram, whatever their order.
struct ClassicRows {
    /// Without `le`, with the metric's name.
    labels: Labels,
    buckets: Vec<(f64, Row)>,
}

/// What has been seen so far.
#[derive(Default)]
struct Seen {
    /// Rows with histograms.
    natives: Vec<Row>,
    /// What was read off classic histograms that were whole.
    read: Vec<Row>,
    /// Histograms that may not be whole yet, and where they are by their labels.
    open: Vec<ClassicRows>,
    by_labels: HashMap<Labels, usize>,
    /// The labels of one of the buckets in `open`.
    prefix: Labels,
    notes: Notes,
}

/// Said when all rows are there, for then all else has been said that comes first.
#[derive(Default)]
struct Notes {
    bad_bounds: Annotations,
    forced: Annotations,
}

impl Operator for HistogramCall {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let mut seen = Seen::default();
        let mut arguments = None;
        while let Some(batch) = self.input.next_batch(context)? {
            context.interrupt.check()?;
            let is_grouped = self.has_plain_arguments && self.input.keeps_prefixes_together();
            for row in batch {
                context.spend(row.steps())?;
                if is_grouped && seen.are_whole_before(&row) {
                    let arguments = match &arguments {
                        Some(known) => known,
                        None => arguments.insert(self.read.arguments(context)?),
                    };
                    seen.read_open(arguments, self.places, context)?;
                }
                seen.add(row, self.places, context);
            }
        }
        let arguments = match arguments {
            Some(known) => known,
            None => self.read.arguments(context)?,
        };
        if arguments.second.is_none() {
            for q in arguments.first.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
                context.annotate(|notes| notes.invalid_quantile(*q, self.places.first));
            }
        }
        seen.finish(&arguments, self.places, context).map(Some)
    }
}

impl HistogramRead {
    fn arguments(&mut self, context: &Context<'_>) -> Result<Arguments, QueryError> {
        Ok(match self {
            Self::Quantile(q) => Arguments { first: q.values(context)?.to_vec(), second: None },
            Self::Fraction(lower, upper) => {
                let first = lower.values(context)?.to_vec();
                Arguments { first, second: Some(upper.values(context)?.to_vec()) }
            }
        })
    }
}

impl Seen {
    /// Whether `row` shows that no bucket of a histogram seen so far is still to come, where rows that begin with the same labels come together.
    fn are_whole_before(&self, row: &Row) -> bool {
        let before_bound = self.prefix.iter().take_while(|(name, _)| *name < BOUND);
        !self.open.is_empty()
            && self.natives.is_empty()
            && row.histograms.is_empty()
            && !starts_with(&row.labels, before_bound)
    }

    /// Sorts a row in.
    fn add(&mut self, row: Row, places: HistogramPlaces, context: &Context<'_>) {
        if !row.histograms.is_empty() {
            self.natives.push(row.duplicate());
        }
        if !row.present.any() {
            return;
        }
        let bound = row.labels.value_of(BOUND);
        let Ok(upper) = float(bound) else {
            let metric = name_for_notes(&row.labels, context);
            self.notes.bad_bounds.bad_bucket_label(metric, bound, places.vector);
            return;
        };
        if self.open.is_empty() {
            self.prefix = row.labels.clone();
        }
        let labels = row.labels.without(&[BOUND]);
        let open = &mut self.open;
        let at = *self.by_labels.entry(labels.clone()).or_insert_with(|| {
            open.push(ClassicRows { labels, buckets: Vec::new() });
            open.len() - 1
        });
        if let Some(classic) = open.get_mut(at) {
            classic.buckets.push((upper, row));
        }
    }

    /// Reads the classic histograms that are open, whose rows go.
    fn read_open(
        &mut self,
        arguments: &Arguments,
        places: HistogramPlaces,
        context: &Context<'_>,
    ) -> Result<(), QueryError> {
        self.by_labels.clear();
        for classic in self.open.drain(..) {
            context.spend(classic.buckets.len().saturating_mul(arguments.first.len()))?;
            let row = read_classic(&classic, arguments, places, &mut self.notes.forced, context);
            drop(classic);
            self.read.push(row.charged(&context.budget)?);
        }
        Ok(())
    }

    /// The result, once all rows have been seen.
    fn finish(
        mut self,
        arguments: &Arguments,
        places: HistogramPlaces,
        context: &Context<'_>,
    ) -> Result<Batch, QueryError> {
        context.annotate(|notes| notes.append(std::mem::take(&mut self.notes.bad_bounds)));
        let mut results = Vec::new();
        for mut native in std::mem::take(&mut self.natives) {
            context.spend(native.weight())?;
            let mixed = self.by_labels.get(&native.labels).and_then(|at| self.open.get_mut(*at));
            if let Some(classic) = mixed {
                drop_mixed_steps(&mut native, classic, places, context);
            }
            results.push(read_native(&native, arguments, places, context));
        }
        self.read_open(arguments, places, context)?;
        context.annotate(|notes| notes.append(self.notes.forced));
        results.append(&mut self.read);
        results.iter_mut().for_each(|row| drop_name(row, context));
        results.retain(|row| !row.is_empty());
        let merged = merge_rows(results, context)?;
        merged.into_iter().map(|row| row.charged(&context.budget)).collect()
    }
}

/// Whether the first labels are `prefix`.
fn starts_with<'a>(labels: &Labels, prefix: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
    let mut first = labels.iter();
    prefix.into_iter().all(|label| first.next() == Some(label))
}

/// The metric's name as annotations mention it: only while names are still there.
fn name_for_notes<'a>(labels: &'a Labels, context: &Context<'_>) -> &'a str {
    if context.options.delayed_name_removal { labels.value_of(METRIC_NAME) } else { "" }
}

/// Where a classic and a native histogram of the same name meet, neither is evaluated.
fn drop_mixed_steps(
    native: &mut Row,
    classic: &mut ClassicRows,
    places: HistogramPlaces,
    context: &Context<'_>,
) {
    let mut mixed = Bitmap::empty(native.steps());
    let histogram_steps: Vec<usize> = native.histograms.iter().map(|(step, _)| *step).collect();
    histogram_steps.iter().for_each(|step| mixed.set(*step));
    let mut floats = Bitmap::empty(native.steps());
    classic.buckets.iter().for_each(|(_, row)| floats.union_with(&row.present));
    mixed.intersect_with(&floats);
    if mixed.any() {
        let metric = name_for_notes(&native.labels, context);
        context.annotate(|notes| notes.mixed_classic_native_histograms(metric, places.vector));
        native.remove(&mixed);
        classic.buckets.iter_mut().for_each(|(_, row)| row.remove(&mixed));
    }
}

fn read_native(native: &Row, arguments: &Arguments, places: HistogramPlaces, context: &Context<'_>) -> Row {
    let Arguments { first, second } = arguments;
    let mut result = Row::empty(native.labels.clone(), native.steps());
    let metric = name_for_notes(&native.labels, context);
    let mut notes = context.annotations.borrow_mut();
    for (step, histogram) in &native.histograms {
        let argument = |values: &[f64]| values.get(*step).copied().unwrap_or(f64::NAN);
        let value = match &second {
            None => native_quantile(argument(first), histogram, metric, places.first, &mut notes),
            Some(second) => {
                let (lower, upper) = (argument(first), argument(second));
                native_fraction(lower, upper, histogram, metric, places.first, &mut notes)
            }
        };
        result.set_float(*step, value);
    }
    result
}

fn read_classic(
    classic: &ClassicRows,
    arguments: &Arguments,
    places: HistogramPlaces,
    notes: &mut Annotations,
    context: &Context<'_>,
) -> Row {
    let Arguments { first, second } = arguments;
    let mut result = Row::empty(classic.labels.clone(), first.len());
    let mut buckets: Vec<ClassicBucket> = Vec::with_capacity(classic.buckets.len());
    let mut forced_any = false;
    for step in 0..first.len() {
        buckets.clear();
        buckets.extend(
            classic.buckets.iter().filter_map(|(upper, row)| {
                row.float(step).map(|count| ClassicBucket { upper: *upper, count })
            }),
        );
        if buckets.is_empty() {
            continue;
        }
        let argument = |values: &[f64]| values.get(step).copied().unwrap_or(f64::NAN);
        let value = match &second {
            None => {
                let (value, forced) = classic_quantile(argument(first), &mut buckets);
                forced_any |= forced;
                value
            }
            Some(second) => classic_fraction(argument(first), argument(second), &mut buckets),
        };
        result.set_float(step, value);
    }
    if forced_any {
        notes.forced_monotonicity(name_for_notes(&classic.labels, context), places.vector);
    }
    result
}
