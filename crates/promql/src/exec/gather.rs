//! Operators that need all rows of their inputs before they can give any.

use std::collections::HashMap;

use parallax_model::{Labels, METRIC_NAME};

use super::leaf::LazyScalar;
use super::map::{drop_name, merge_rows};
use super::row::Row;
use super::{Batch, Bitmap, BoxedOperator, Context, Operator, drain};
use crate::ast::PosRange;
use crate::engine::QueryError;
use crate::functions::histograms::{
    ClassicBucket, classic_fraction, classic_quantile, native_fraction, native_quantile,
};

/// What makes rows of all rows of all inputs, in the order of the inputs.
pub(crate) type GatherFunction = Box<dyn FnOnce(Vec<Vec<Row>>, &Context<'_>) -> Result<Vec<Row>, QueryError>>;

/// Reads all inputs, one after the other, and hands on one batch.
pub(crate) struct Gather {
    inputs: Vec<BoxedOperator>,
    function: Option<GatherFunction>,
}

impl Gather {
    pub fn new(inputs: Vec<BoxedOperator>, function: GatherFunction) -> Self {
        Self { inputs, function: Some(function) }
    }
}

impl Operator for Gather {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        let Some(function) = self.function.take() else { return Ok(None) };
        let mut sides = Vec::with_capacity(self.inputs.len());
        for input in &mut self.inputs {
            sides.push(drain(input.as_mut(), context)?);
        }
        let rows = function(sides, context)?;
        let charged = |row: Row| row.charged(&context.budget);
        rows.into_iter().filter(|row| !row.is_empty()).map(charged).collect::<Result<Batch, _>>().map(Some)
    }
}

/// `absent`: 1 at the steps where no row has a sample.
///
/// # Errors
/// If the query was interrupted.
pub(crate) fn absent(
    rows: &[Row],
    labels: Labels,
    steps: usize,
    context: &Context<'_>,
) -> Result<Row, QueryError> {
    let mut missing = Bitmap::full(steps);
    for row in rows {
        context.spend(row.steps())?;
        missing.subtract(&row.occupied());
    }
    let mut row = Row::empty(labels, steps);
    row.floats.fill(1.0);
    row.present = missing;
    Ok(row)
}

/// What is read off histograms by [`histogram_function`].
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

/// The buckets of one classic histogram, whatever their order.
struct ClassicRows {
    /// Without `le`, with the metric's name.
    labels: Labels,
    buckets: Vec<(f64, Row)>,
}

/// `histogram_quantile` and `histogram_fraction`, of native and classic histograms alike.
pub(crate) fn histogram_function(
    mut read: HistogramRead,
    rows: Vec<Row>,
    places: HistogramPlaces,
    context: &Context<'_>,
) -> Result<Vec<Row>, QueryError> {
    let (first, second) = match &mut read {
        HistogramRead::Quantile(q) => (q.values(context)?.to_vec(), None),
        HistogramRead::Fraction(lower, upper) => {
            (lower.values(context)?.to_vec(), Some(upper.values(context)?.to_vec()))
        }
    };
    if second.is_none() {
        for q in first.iter().filter(|q| !(0.0..=1.0).contains(*q)) {
            context.annotate(|notes| notes.invalid_quantile(*q, places.first));
        }
    }
    let (natives, mut classics, by_labels) = split(rows, places, context)?;
    let mut results = Vec::new();
    for mut native in natives {
        context.spend(native.weight())?;
        let mixed = by_labels.get(&native.labels).and_then(|at| classics.get_mut(*at));
        if let Some(classic) = mixed {
            drop_mixed_steps(&mut native, classic, places, context);
        }
        results.push(read_native(&native, &first, second.as_deref(), places, context));
    }
    for classic in &classics {
        context.spend(classic.buckets.len().saturating_mul(first.len()))?;
        results.push(read_classic(classic, &first, second.as_deref(), places, context));
    }
    results.iter_mut().for_each(|row| drop_name(row, context));
    results.retain(|row| !row.is_empty());
    merge_rows(results, context)
}

/// The metric's name as annotations mention it: only while names are still there.
fn name_for_notes<'a>(labels: &'a Labels, context: &Context<'_>) -> &'a str {
    if context.options.delayed_name_removal { labels.value_of(METRIC_NAME) } else { "" }
}

/// Rows with histograms, the floats as buckets of classic histograms, and where those are by their labels.
type Split = (Vec<Row>, Vec<ClassicRows>, HashMap<Labels, usize>);

fn split(rows: Vec<Row>, places: HistogramPlaces, context: &Context<'_>) -> Result<Split, QueryError> {
    let mut natives = Vec::new();
    let mut classics: Vec<ClassicRows> = Vec::new();
    let mut by_labels: HashMap<Labels, usize> = HashMap::new();
    for row in rows {
        context.spend(row.steps())?;
        if !row.histograms.is_empty() {
            natives.push(row.duplicate());
        }
        if !row.present.any() {
            continue;
        }
        let le = row.labels.value_of("le");
        let Some(upper) = parse_bound(le) else {
            let metric = name_for_notes(&row.labels, context);
            context.annotate(|notes| notes.bad_bucket_label(metric, le, places.vector));
            continue;
        };
        let labels = row.labels.without(&["le"]);
        let at = *by_labels.entry(labels.clone()).or_insert_with(|| {
            classics.push(ClassicRows { labels, buckets: Vec::new() });
            classics.len() - 1
        });
        if let Some(classic) = classics.get_mut(at) {
            classic.buckets.push((upper, row));
        }
    }
    Ok((natives, classics, by_labels))
}

/// A bucket's bound as Prometheus reads it: a float in Go's notation.
fn parse_bound(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" | "inf" | "+inf" => Some(f64::INFINITY),
        "-Inf" | "-inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
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

fn read_native(
    native: &Row,
    first: &[f64],
    second: Option<&[f64]>,
    places: HistogramPlaces,
    context: &Context<'_>,
) -> Row {
    let mut result = Row::empty(native.labels.clone(), native.steps());
    let metric = name_for_notes(&native.labels, context);
    let mut notes = context.annotations.borrow_mut();
    for (step, histogram) in &native.histograms {
        let argument = |values: &[f64]| values.get(*step).copied().unwrap_or(f64::NAN);
        let value = match second {
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
    first: &[f64],
    second: Option<&[f64]>,
    places: HistogramPlaces,
    context: &Context<'_>,
) -> Row {
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
        let value = match second {
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
        let metric = name_for_notes(&classic.labels, context);
        context.annotate(|notes| notes.forced_monotonicity(metric, places.vector));
    }
    result
}
