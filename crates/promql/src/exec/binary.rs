//! Arithmetic and comparisons: between a vector and a scalar, and between two vectors.

use std::collections::{BTreeMap, HashMap};

use parallax_model::{Labels, LabelsBuilder, METRIC_NAME};

use super::leaf::LazyScalar;
use super::map::{RowFunction, drop_name, merge_rows};
use super::row::{Row, without_metadata};
use super::{Bitmap, Context};
use crate::ast::{BinaryOp, Cardinality, PosRange, VectorMatching};
use crate::engine::QueryError;
use crate::functions::arithmetic::{PairNote, calculate, changes_metric, combine, holds, is_comparison};
use crate::value::Sample;

/// A binary operator and how it is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BinaryCall {
    pub op: BinaryOp,
    pub return_bool: bool,
    pub position: PosRange,
}

/// Applies the operator to each row and the scalar; `swapped` if the scalar stands on the left.
pub(crate) fn with_scalar(call: BinaryCall, mut scalar: LazyScalar, swapped: bool) -> RowFunction {
    Box::new(move |mut row, context| {
        let values = scalar.values(context)?;
        let mut result = Row::empty(row.labels.clone(), row.steps());
        result.drop_name = row.drop_name;
        floats_with_scalar(call, &row, values, swapped, &mut result);
        for (step, histogram) in std::mem::take(&mut row.histograms) {
            let scalar = Sample::Float(values.get(step).copied().unwrap_or(f64::NAN));
            let vector = Sample::Histogram(histogram);
            let (left, right) = if swapped { (&scalar, &vector) } else { (&vector, &scalar) };
            let combined = combine(call.op, left, right);
            if let Some(note) = combined.note {
                note.annotate(call.op, call.position, context);
            }
            let Some((value, kept)) = combined.value else { continue };
            if call.return_bool {
                result.set_float(step, f64::from(u8::from(kept)));
            } else if kept {
                result.push_sample(step, value);
            }
        }
        result.charge = row.charge;
        if changes_metric(call.op) || call.return_bool {
            drop_name(&mut result, context);
        }
        Ok(Some(result))
    })
}

fn floats_with_scalar(call: BinaryCall, row: &Row, scalars: &[f64], swapped: bool, result: &mut Row) {
    let pairs = row
        .floats
        .iter()
        .zip(scalars)
        .map(|(vector, scalar)| if swapped { (*scalar, *vector) } else { (*vector, *scalar) });
    result.present = row.present.clone();
    if !is_comparison(call.op) {
        result.floats.iter_mut().zip(pairs).for_each(|(slot, (l, r))| *slot = calculate(call.op, l, r));
    } else if call.return_bool {
        result
            .floats
            .iter_mut()
            .zip(pairs)
            .for_each(|(slot, (l, r))| *slot = f64::from(u8::from(holds(call.op, l, r))));
    } else {
        for (step, (left, right)) in pairs.enumerate() {
            if !holds(call.op, left, right) {
                result.present.unset(step);
            }
        }
        result.floats.copy_from_slice(&row.floats);
    }
}

/// What of a series' labels must be equal on both sides.
pub(crate) struct Signature {
    on: bool,
    /// With `on`: the labels that count; else those that do not, the name among them.
    names: Vec<String>,
}

impl Signature {
    pub fn new(matching: &VectorMatching) -> Self {
        let mut names = matching.labels.clone();
        if !matching.on {
            names.push(METRIC_NAME.to_owned());
        }
        Self { on: matching.on, names }
    }

    pub fn of(&self, labels: &Labels) -> Labels {
        if self.on { labels.keeping(&self.names) } else { labels.without(&self.names) }
    }
}

/// The rows of the "one" side with one signature, and what was matched with them so far.
struct Match {
    ones: Vec<usize>,
    /// One-to-one: the steps at which a partner was found.
    matched: Option<Bitmap>,
    /// Many-to-one: the steps at which each result has a partner.
    results: HashMap<Labels, Bitmap>,
    /// The steps at which any row of the "many" side is there.
    many: Option<Bitmap>,
}

/// The operator between two vectors, set operators excepted.
///
/// # Errors
/// If the matching is not what it says it is, or the query was interrupted.
pub(crate) fn between_vectors(
    call: BinaryCall,
    matching: &VectorMatching,
    left: Vec<Row>,
    right: Vec<Row>,
    context: &Context<'_>,
) -> Result<Vec<Row>, QueryError> {
    let swapped = matching.cardinality == Cardinality::OneToMany;
    let (many, ones) = if swapped { (right, left) } else { (left, right) };
    let signature = Signature::new(matching);
    let mut matches: HashMap<Labels, Match> = HashMap::new();
    for (at, row) in ones.iter().enumerate() {
        context.spend(1)?;
        let known = matches.entry(signature.of(&row.labels)).or_insert_with(|| Match {
            ones: Vec::new(),
            matched: None,
            results: HashMap::new(),
            many: None,
        });
        known.ones.push(at);
    }
    check_one_side(&matches, &ones, &many, swapped, context)?;
    let mut joiner = Joiner { call, matching, swapped, context, notes: BTreeMap::new() };
    let mut results = Vec::new();
    for row in &many {
        context.spend(row.steps())?;
        let key = signature.of(&row.labels);
        let Some(found) = matches.get_mut(&key) else {
            if let Some(result) = joiner.filled_one(row) {
                results.push(result);
            }
            continue;
        };
        let mut partnered = Bitmap::empty(row.steps());
        for at in found.ones.clone() {
            let Some(one) = ones.get(at) else { continue };
            context.spend(row.weight())?;
            let (result, partners) = joiner.join(row, one);
            partnered.union_with(&row.occupied().and(&one.occupied()));
            joiner.check_unique(found, &result, partners)?;
            results.push(result);
        }
        if joiner.fill_of_one().is_some() {
            let mut alone = row.duplicate();
            alone.remove(&partnered);
            results.extend(joiner.filled_one(&alone));
        }
        if joiner.fill_of_many().is_some() {
            let occupied = row.occupied();
            match &mut found.many {
                Some(many) => many.union_with(&occupied),
                none => *none = Some(occupied),
            }
        }
    }
    if joiner.fill_of_many().is_some() {
        for found in matches.values() {
            for one in found.ones.iter().filter_map(|at| ones.get(*at)) {
                context.spend(one.steps())?;
                let mut alone = one.duplicate();
                if let Some(many) = &found.many {
                    alone.remove(many);
                }
                results.extend(joiner.filled_many(&alone));
            }
        }
    }
    for note in joiner.notes.into_values() {
        note.annotate(call.op, call.position, context);
    }
    results.retain(|row| !row.is_empty());
    merge_rows(results, context)
}

struct Joiner<'a, 'q> {
    call: BinaryCall,
    matching: &'a VectorMatching,
    swapped: bool,
    context: &'a Context<'q>,
    /// What there is to say of each step: as in Prometheus, only of the last pair that gives cause.
    notes: BTreeMap<usize, PairNote>,
}

impl Joiner<'_, '_> {
    /// The result of two rows, and the steps at which both took part, whether or not a filter keeps them.
    fn join(&mut self, many: &Row, one: &Row) -> (Row, Bitmap) {
        let call = self.call;
        let mut result = Row::empty(self.labels(&many.labels, &one.labels), many.steps());
        result.drop_name = call.return_bool;
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        let mut partners = left.present.and(&right.present);
        let pairs = left.floats.iter().zip(&right.floats);
        if call.return_bool {
            let truths = pairs.map(|(l, r)| f64::from(u8::from(holds(call.op, *l, *r))));
            result.floats.iter_mut().zip(truths).for_each(|(slot, truth)| *slot = truth);
        } else {
            let values = pairs.map(|(l, r)| calculate(call.op, *l, *r));
            result.floats.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
        }
        result.present = partners.clone();
        if !call.return_bool && is_comparison(call.op) {
            for step in partners.ones() {
                let value = |row: &Row| row.floats.get(step).copied().unwrap_or(f64::NAN);
                if !holds(call.op, value(left), value(right)) {
                    result.present.unset(step);
                }
            }
        }
        if !left.histograms.is_empty() || !right.histograms.is_empty() {
            self.join_histograms(left, right, &mut result, &mut partners);
        }
        (result, partners)
    }

    /// The steps at which at least one side has a histogram.
    fn join_histograms(&mut self, left: &Row, right: &Row, result: &mut Row, partners: &mut Bitmap) {
        let mut steps = left.occupied().and(&right.occupied());
        steps.subtract(&left.present.and(&right.present));
        for step in steps.ones() {
            let (Some(left), Some(right)) = (left.sample(step), right.sample(step)) else { continue };
            let combined = combine(self.call.op, &left, &right);
            if let Some(note) = combined.note {
                self.notes.insert(step, note);
            }
            let Some((value, kept)) = combined.value else { continue };
            partners.set(step);
            if self.call.return_bool {
                result.set_float(step, f64::from(u8::from(kept)));
            } else if kept {
                result.push_sample(step, value);
            }
        }
    }

    /// The labels of a result: those of the "many" side, with what the matching takes away or copies.
    fn labels(&self, many: &Labels, one: &Labels) -> Labels {
        let matching = self.matching;
        let mut labels = if changes_metric(self.call.op) { without_metadata(many) } else { many.clone() };
        if matching.cardinality == Cardinality::OneToOne {
            labels =
                if matching.on { labels.keeping(&matching.labels) } else { labels.without(&matching.labels) };
        }
        if !matching.include.is_empty() {
            let mut builder = LabelsBuilder::new(&labels);
            for name in &matching.include {
                builder.set(name, one.value_of(name));
            }
            labels = builder.build();
        }
        if self.call.return_bool && !self.context.options.delayed_name_removal {
            labels = without_metadata(&labels);
        }
        labels
    }

    fn check_unique(&self, found: &mut Match, result: &Row, partners: Bitmap) -> Result<(), QueryError> {
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        let known = if one_to_one { found.matched.as_mut() } else { found.results.get_mut(&result.labels) };
        match known {
            Some(known) if known.first_common(&partners).is_some() => {
                let rule = if one_to_one {
                    "many-to-one matching must be explicit (group_left/group_right)"
                } else {
                    "grouping labels must ensure unique matches"
                };
                Err(QueryError::Execution(format!("multiple matches for labels: {rule}")))
            }
            Some(known) => {
                known.union_with(&partners);
                Ok(())
            }
            None if one_to_one => {
                found.matched = Some(partners);
                Ok(())
            }
            None => {
                found.results.insert(result.labels.clone(), partners);
                Ok(())
            }
        }
    }

    /// What stands in for a missing row of the "one" side: `fill_right`, whichever side of the operator that is
    /// (so Prometheus has it since fills exist).
    fn fill_of_one(&self) -> Option<f64> {
        self.matching.fill_right
    }

    fn fill_of_many(&self) -> Option<f64> {
        self.matching.fill_left
    }

    fn filled_one(&mut self, many: &Row) -> Option<Row> {
        let fill = Row::scalar(vec![self.fill_of_one()?; many.steps()]);
        Some(self.join(many, &fill).0)
    }

    fn filled_many(&mut self, one: &Row) -> Option<Row> {
        let mut fill = Row::scalar(vec![self.fill_of_many()?; one.steps()]);
        fill.labels = Signature::new(self.matching).of(&one.labels);
        Some(self.join(&fill, one).0)
    }
}

/// Refuses two rows of the "one" side with the same signature at the same step, if there is anything on the
/// other side then. Reports what is met first, step by step.
fn check_one_side(
    matches: &HashMap<Labels, Match>,
    ones: &[Row],
    many: &[Row],
    swapped: bool,
    context: &Context<'_>,
) -> Result<(), QueryError> {
    if matches.values().all(|found| found.ones.len() < 2) {
        return Ok(());
    }
    let Some(steps) = many.first().map(Row::steps) else { return Ok(()) };
    let mut any_many = Bitmap::empty(steps);
    for row in many {
        context.spend(row.steps())?;
        any_many.union_with(&row.occupied());
    }
    // (step, later row, earlier row, signature)
    let mut worst: Option<(usize, usize, usize, &Labels)> = None;
    for (signature, found) in matches.iter().filter(|(_, found)| found.ones.len() > 1) {
        let mut taken = Bitmap::empty(steps);
        for later in &found.ones {
            let Some(row) = ones.get(*later) else { continue };
            context.spend(row.steps())?;
            let occupied = row.occupied().and(&any_many);
            if let Some(step) = taken.first_common(&occupied)
                && worst.is_none_or(|(at, row, ..)| (step, *later) < (at, row))
            {
                let holds_step = |at: &&usize| ones.get(**at).is_some_and(|row| row.occupied().get(step));
                // Of the rows before, the last one that is there.
                let earlier = found.ones.iter().take_while(|at| *at != later).filter(holds_step).last();
                worst = Some((step, *later, earlier.copied().unwrap_or(*later), signature));
            }
            taken.union_with(&occupied);
        }
    }
    let Some((_, later, earlier, signature)) = worst else { return Ok(()) };
    let text = |at: usize| ones.get(at).map(|row| go_labels(&row.labels)).unwrap_or_default();
    let side = if swapped { "left" } else { "right" };
    Err(QueryError::Execution(format!(
        "found duplicate series for the match group {} on the {side} hand-side of the operation: [{}, {}];\
         many-to-many matching not allowed: matching labels must be unique on one side",
        go_labels(signature),
        text(later),
        text(earlier),
    )))
}

/// Labels as Prometheus' errors print them: the name among the others.
pub(crate) fn go_labels(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let plain = !name.is_empty()
                && !name.starts_with(|c: char| c.is_ascii_digit())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let name = if plain { name.to_owned() } else { crate::annotations::quoted(name) };
            format!("{name}={}", crate::annotations::quoted(value))
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}
