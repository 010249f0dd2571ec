//! Aggregations that fold: batch after batch goes into one accumulator per group and step.

use std::collections::HashMap;
use std::sync::Arc;

use parallax_model::float_histogram::format_g;
use parallax_model::{Labels, LabelsBuilder, METRIC_NAME};

use super::leaf::LazyScalar;
use super::pushed::Partials;
use super::row::{Charge, Row};
use super::{Batch, Bitmap, BoxedOperator, Context, Operator};
use crate::annotations::HistogramOperation;
use crate::ast::{AggregateOp, Grouping, PosRange};
use crate::cut::PartialRow;
use crate::engine::QueryError;
use crate::functions::kahan::{KahanMean, KahanSum};
use crate::functions::math::{larger, smaller};
use crate::functions::mixed::HistogramFold;
use crate::functions::quantile::quantile;

/// Which labels make a group.
#[derive(Clone, Debug)]
pub(crate) struct GroupKey {
    by: bool,
    names: Vec<String>,
}

impl GroupKey {
    pub fn new(grouping: &Grouping) -> Self {
        match grouping {
            Grouping::By(names) => Self { by: true, names: names.clone() },
            Grouping::Without(names) => {
                let mut names = names.clone();
                names.push(METRIC_NAME.to_owned());
                Self { by: false, names }
            }
        }
    }

    /// With one more label that counts.
    pub fn and_label(mut self, name: &str) -> Self {
        if self.by {
            self.names.push(name.to_owned());
        }
        self
    }

    /// The labels of the group that `labels` belong to.
    pub fn of(&self, labels: &Labels) -> Labels {
        if !self.by {
            labels.without(&self.names)
        } else if self.names.is_empty() {
            Labels::empty()
        } else {
            labels.keeping(&self.names)
        }
    }
}

/// `sum`, `avg`, `min`, `max`, `count`, `group`, `stddev`, `stdvar`, `quantile`.
pub(crate) struct Fold {
    op: AggregateOp,
    key: GroupKey,
    input: BoxedOperator,
    /// What is not in `input` because it is aggregated elsewhere.
    partials: Option<Partials>,
    parameter: Option<LazyScalar>,
    places: FoldPlaces,
    steps: usize,
    done: bool,
}

/// The places that notes speak of: the aggregated vector, and the parameter.
#[derive(Clone, Copy)]
pub(crate) struct FoldPlaces {
    pub operand: PosRange,
    pub parameter: PosRange,
}

impl Fold {
    pub fn new(
        op: AggregateOp,
        key: GroupKey,
        input: BoxedOperator,
        parameter: Option<LazyScalar>,
        places: FoldPlaces,
        steps: usize,
    ) -> Self {
        Self { op, key, input, partials: None, parameter, places, steps, done: false }
    }

    pub fn with_partials(self, partials: Option<Partials>) -> Self {
        Self { partials, ..self }
    }
}

impl Operator for Fold {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let quantiles = match &mut self.parameter {
            Some(parameter) => parameter.values(context)?.to_vec(),
            None => Vec::new(),
        };
        for q in worst_quantiles(&quantiles) {
            context.annotate(|notes| notes.invalid_quantile(q, self.places.parameter));
        }
        let (op, operand) = (self.op, self.places.operand);
        let mut groups = Groups::new(op, self.key.clone(), self.steps);
        groups.fold(self.input.as_mut(), operand, context)?;
        if let Some(partials) = &mut self.partials {
            while let Some(rows) = partials.next_rows(context)? {
                for row in &rows {
                    context.spend(row.values.present.count())?;
                    groups.of(&row.labels, context)?.iter_mut().for_each(|group| group.add_partial(row, op));
                }
            }
            if partials.has_declined() {
                groups.fold(partials.declined.as_mut(), operand, context)?;
            }
        }
        let mut batch = Vec::with_capacity(groups.list.len());
        for group in groups.list {
            context.spend(group.held())?;
            let row = group.finish(op, &quantiles, operand, context);
            if !row.is_empty() {
                batch.push(row.charged(&context.budget)?);
            }
        }
        Ok(Some(batch))
    }
}

/// Of the parameters at all steps those that are warned of: NaN, the largest if it is too large, and the smallest if it is too small. NaN hides the other two, unless they are
/// infinite.
fn worst_quantiles(quantiles: &[f64]) -> impl Iterator<Item = f64> {
    let nan = quantiles.iter().copied().find(|q| q.is_nan());
    let largest = quantiles.iter().copied().reduce(larger).filter(|q| *q > 1.0);
    let smallest = quantiles.iter().copied().reduce(smaller).filter(|q| *q < 0.0);
    [nan, largest, smallest].into_iter().flatten()
}

/// All groups of one aggregation, in the order in which they were first seen.
struct Groups {
    op: AggregateOp,
    key: GroupKey,
    steps: usize,
    list: Vec<Group>,
    by_labels: HashMap<Labels, usize>,
}

impl Groups {
    fn new(op: AggregateOp, key: GroupKey, steps: usize) -> Self {
        Self { op, key, steps, list: Vec::new(), by_labels: HashMap::new() }
    }

    /// The group of a series with these labels.
    fn of(&mut self, labels: &Labels, context: &Context<'_>) -> Result<Option<&mut Group>, QueryError> {
        let labels = self.key.of(labels);
        let at = match self.by_labels.get(&labels) {
            Some(at) => *at,
            None => {
                let charge = context.budget.charge(self.steps)?;
                self.list.push(Group::new(self.op, labels.clone(), self.steps, charge));
                self.by_labels.insert(labels, self.list.len() - 1);
                self.list.len() - 1
            }
        };
        Ok(self.list.get_mut(at))
    }

    fn fold(
        &mut self,
        input: &mut dyn Operator,
        operand: PosRange,
        context: &Context<'_>,
    ) -> Result<(), QueryError> {
        let op = self.op;
        while let Some(batch) = input.next_batch(context)? {
            context.interrupt.check()?;
            for row in batch {
                context.spend(row.weight())?;
                if let Some(group) = self.of(&row.labels, context)? {
                    group.add(&row, op, operand, context)?;
                }
            }
        }
        Ok(())
    }
}

/// One group's accumulators, one per step.
struct Group {
    labels: Labels,
    drop_name: bool,
    /// The steps at which a float was seen.
    seen: Bitmap,
    floats: Floats,
    histograms: Option<Vec<HistogramCell>>,
    charges: Vec<Charge>,
}

enum Floats {
    Sums(Vec<KahanSum>),
    Means(Vec<KahanMean>),
    /// Extrema, counts.
    Values(Vec<f64>),
    Moments(Vec<Moments>),
    /// All values, for quantiles.
    Lists(Vec<Vec<f64>>),
}

/// Welford's running variance.
#[derive(Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

/// What became of the histograms of one step.
#[derive(Clone, Default)]
struct HistogramCell {
    fold: HistogramFold,
    seen: bool,
    incompatible: bool,
}

impl Group {
    fn new(op: AggregateOp, labels: Labels, steps: usize, charge: Charge) -> Self {
        let floats = match op {
            AggregateOp::Sum => Floats::Sums(vec![KahanSum::default(); steps]),
            AggregateOp::Avg => Floats::Means(vec![KahanMean::default(); steps]),
            AggregateOp::Stddev | AggregateOp::Stdvar => Floats::Moments(vec![Moments::default(); steps]),
            AggregateOp::Quantile => Floats::Lists(vec![Vec::new(); steps]),
            _ => Floats::Values(vec![0.0; steps]),
        };
        Self {
            labels,
            drop_name: false,
            seen: Bitmap::empty(steps),
            floats,
            histograms: None,
            charges: vec![charge],
        }
    }

    fn add(
        &mut self,
        row: &Row,
        op: AggregateOp,
        at: PosRange,
        context: &Context<'_>,
    ) -> Result<(), QueryError> {
        self.drop_name |= row.drop_name;
        if matches!(self.floats, Floats::Lists(_)) {
            self.charges.push(context.budget.charge(row.present.count())?);
        }
        self.add_floats(&row.present, &row.floats, op);
        self.seen.union_with(&row.present);
        if !row.histograms.is_empty() {
            self.add_histograms(row, op, at, context);
        }
        Ok(())
    }

    /// Adds what was made of some of the group's series elsewhere.
    fn add_partial(&mut self, row: &PartialRow, op: AggregateOp) {
        let (present, values) = (&row.values.present, &row.values.floats);
        match (&mut self.floats, op) {
            (Floats::Values(kept), AggregateOp::Count) => {
                each_present(present, values, kept, |count, value| *count += value);
            }
            (Floats::Means(means), _) => {
                let counts = row.counts.as_ref().map_or(&[][..], |counts| &counts.floats);
                for step in present.ones() {
                    if let (Some(mean), Some(sum), Some(count)) =
                        (means.get_mut(step), values.get(step), counts.get(step))
                    {
                        mean.add_partial(*sum, *count);
                    }
                }
            }
            _ => self.add_floats(present, values, op),
        }
        self.seen.union_with(present);
    }

    fn add_floats(&mut self, present: &Bitmap, values: &[f64], op: AggregateOp) {
        match &mut self.floats {
            Floats::Sums(sums) => each_present(present, values, sums, |sum, value| sum.add(value)),
            Floats::Means(means) => each_present(present, values, means, |mean, value| mean.add(value)),
            Floats::Moments(moments) => each_present(present, values, moments, Moments::add),
            Floats::Lists(lists) => each_present(present, values, lists, |list, value| list.push(value)),
            Floats::Values(kept) => match op {
                AggregateOp::Count => each_present(present, values, kept, |count, _| *count += 1.0),
                AggregateOp::Group => each_present(present, values, kept, |one, _| *one = 1.0),
                _ => {
                    let is_max = op == AggregateOp::Max;
                    for step in present.ones() {
                        let (Some(kept), Some(value)) = (kept.get_mut(step), values.get(step)) else {
                            continue;
                        };
                        let better = if is_max { *kept < *value } else { *kept > *value };
                        if better || kept.is_nan() || !self.seen.get(step) {
                            *kept = *value;
                        }
                    }
                }
            },
        }
    }

    fn add_histograms(&mut self, row: &Row, op: AggregateOp, at: PosRange, context: &Context<'_>) {
        let ignored_by = match op {
            AggregateOp::Min => Some("min"),
            AggregateOp::Max => Some("max"),
            AggregateOp::Stddev => Some("stddev"),
            AggregateOp::Stdvar => Some("stdvar"),
            AggregateOp::Quantile => Some("quantile"),
            _ => None,
        };
        if let Some(name) = ignored_by {
            context.annotate(|notes| notes.histogram_ignored_in_aggregation(name, at));
            return;
        }
        if let Floats::Values(values) = &mut self.floats {
            for (step, _) in &row.histograms {
                let Some(value) = values.get_mut(*step) else { continue };
                *value = if op == AggregateOp::Count { *value + 1.0 } else { 1.0 };
                self.seen.set(*step);
            }
            return;
        }
        let steps = row.steps();
        let cells = self.histograms.get_or_insert_with(|| vec![HistogramCell::default(); steps]);
        for (step, histogram) in &row.histograms {
            let Some(cell) = cells.get_mut(*step) else { continue };
            cell.seen = true;
            if cell.incompatible {
                continue;
            }
            let added = if op == AggregateOp::Avg {
                cell.fold.add_to_mean(histogram)
            } else {
                cell.fold.add_to_sum(histogram)
            };
            if added.is_err() {
                cell.incompatible = true;
                let metric = row.labels.value_of(METRIC_NAME);
                context.annotate(|notes| notes.mixed_exponential_custom(metric, at));
            }
        }
    }

    fn finish(self, op: AggregateOp, quantiles: &[f64], at: PosRange, context: &Context<'_>) -> Row {
        let steps = self.steps();
        let mut row = Row::empty(self.labels, steps);
        row.drop_name = self.drop_name;
        row.present = self.seen;
        row.floats = match self.floats {
            Floats::Sums(sums) => sums.into_iter().map(KahanSum::value).collect(),
            Floats::Means(means) => means.into_iter().map(KahanMean::value).collect(),
            Floats::Values(values) => values,
            Floats::Moments(moments) if op == AggregateOp::Stddev => {
                moments.into_iter().map(|moments| moments.variance().sqrt()).collect()
            }
            Floats::Moments(moments) => moments.into_iter().map(Moments::variance).collect(),
            Floats::Lists(lists) => {
                let each = lists.into_iter().zip(quantiles);
                each.map(|(mut values, q)| quantile(*q, &mut values)).collect()
            }
        };
        for (step, cell) in self.histograms.into_iter().flatten().enumerate() {
            if !cell.seen {
                continue;
            }
            if row.present.get(step) {
                // Floats and histograms do not add up.
                context.annotate(|notes| notes.mixed_floats_histograms_in_aggregation(at));
                row.present.unset(step);
            } else if let Some(mut histogram) = finished(&cell, at, context) {
                histogram.compact();
                row.histograms.push((step, Arc::new(histogram)));
            }
        }
        row
    }

    /// Values it has to look at to finish.
    fn held(&self) -> usize {
        match &self.floats {
            Floats::Lists(lists) => lists.iter().map(Vec::len).sum(),
            _ => self.steps(),
        }
    }

    fn steps(&self) -> usize {
        match &self.floats {
            Floats::Sums(cells) => cells.len(),
            Floats::Means(cells) => cells.len(),
            Floats::Values(cells) => cells.len(),
            Floats::Moments(cells) => cells.len(),
            Floats::Lists(cells) => cells.len(),
        }
    }
}

fn finished(
    cell: &HistogramCell,
    at: PosRange,
    context: &Context<'_>,
) -> Option<parallax_model::FloatHistogram> {
    if cell.fold.bounds_reconciled {
        context.annotate(|notes| notes.custom_bounds_reconciled(HistogramOperation::Aggregation, at));
    }
    if cell.incompatible {
        return None;
    }
    if cell.fold.hints_collide() {
        context.annotate(|notes| notes.counter_resets_collided(HistogramOperation::Aggregation, at));
    }
    cell.fold.value.clone()
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.mean = value;
            self.squares = if value.is_finite() { 0.0 } else { f64::NAN };
            return;
        }
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    fn variance(self) -> f64 {
        self.squares / self.count
    }
}

/// Calls `add` for every step that has a value. Most rows have one at every step.
fn each_present<T>(present: &Bitmap, values: &[f64], cells: &mut [T], mut add: impl FnMut(&mut T, f64)) {
    if present.is_full() {
        cells.iter_mut().zip(values).for_each(|(cell, value)| add(cell, *value));
        return;
    }
    for step in present.ones() {
        if let (Some(cell), Some(value)) = (cells.get_mut(step), values.get(step)) {
            add(cell, *value);
        }
    }
}

/// `count_values`: how often each value occurs in each group, with the value as a label.
pub(crate) struct CountValues {
    pub key: GroupKey,
    pub label: String,
    pub input: BoxedOperator,
    pub steps: usize,
    pub done: bool,
}

impl Operator for CountValues {
    fn next_batch(&mut self, context: &Context<'_>) -> Result<Option<Batch>, QueryError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let mut counts: Vec<Row> = Vec::new();
        let mut by_labels: HashMap<Labels, usize> = HashMap::new();
        while let Some(batch) = self.input.next_batch(context)? {
            context.interrupt.check()?;
            for row in batch {
                context.spend(row.weight())?;
                // Most series repeat few values: the labels of each are made once.
                let mut of_value: HashMap<String, usize> = HashMap::new();
                for step in row.occupied().ones() {
                    let text = match (row.float(step), row.histogram(step)) {
                        (Some(value), _) => decimal(value),
                        (None, Some(histogram)) => histogram.to_string(),
                        (None, None) => continue,
                    };
                    let at = match of_value.get(&text) {
                        Some(at) => *at,
                        None => {
                            let at = self.row_of(&row.labels, &text, &mut counts, &mut by_labels, context)?;
                            of_value.insert(text, at);
                            at
                        }
                    };
                    if let Some(count) = counts.get_mut(at) {
                        let value = count.float(step).unwrap_or(0.0) + 1.0;
                        count.set_float(step, value);
                    }
                }
            }
        }
        Ok(Some(counts))
    }
}

impl CountValues {
    fn row_of(
        &self,
        labels: &Labels,
        value: &str,
        counts: &mut Vec<Row>,
        by_labels: &mut HashMap<Labels, usize>,
        context: &Context<'_>,
    ) -> Result<usize, QueryError> {
        let mut builder = LabelsBuilder::new(labels);
        builder.set(&self.label, value);
        let labels = self.key.of(&builder.build());
        if let Some(at) = by_labels.get(&labels) {
            return Ok(*at);
        }
        let mut row = Row::empty(labels.clone(), self.steps);
        row.charge = context.budget.charge(self.steps)?;
        counts.push(row);
        by_labels.insert(labels, counts.len() - 1);
        Ok(counts.len() - 1)
    }
}

/// A float in decimal notation without an exponent, as short as tells it apart.
fn decimal(value: f64) -> String {
    if value.is_finite() { format!("{value}") } else { format_g(value) }
}
