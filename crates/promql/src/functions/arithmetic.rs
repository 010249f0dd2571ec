//! Binary operators on two samples.

use std::sync::Arc;

use parallax_model::{CounterResetHint, FloatHistogram};

use crate::annotations::HistogramOperation;
use crate::ast::{BinaryOp, PosRange};
use crate::exec::Context;
use crate::value::Sample;

pub(crate) const fn is_comparison(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Equal
            | BinaryOp::NotEqual
            | BinaryOp::Greater
            | BinaryOp::GreaterOrEqual
            | BinaryOp::Less
            | BinaryOp::LessOrEqual
    )
}

/// Whether the result is no longer the metric it was: arithmetic does that, filters and trims do not.
pub(crate) const fn changes_metric(op: BinaryOp) -> bool {
    matches!(
        op,
        BinaryOp::Add
            | BinaryOp::Sub
            | BinaryOp::Mul
            | BinaryOp::Div
            | BinaryOp::Mod
            | BinaryOp::Pow
            | BinaryOp::Atan2
    )
}

/// Arithmetic on floats; for operators that are none, the left one.
pub(crate) fn calculate(op: BinaryOp, left: f64, right: f64) -> f64 {
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Atan2 => left.atan2(right),
        _ => left,
    }
}

/// Whether a comparison holds; true for operators that are none.
pub(crate) fn holds(op: BinaryOp, left: f64, right: f64) -> bool {
    match op {
        BinaryOp::Equal => left == right,
        BinaryOp::NotEqual => left != right,
        BinaryOp::Greater => left > right,
        BinaryOp::GreaterOrEqual => left >= right,
        BinaryOp::Less => left < right,
        BinaryOp::LessOrEqual => left <= right,
        _ => true,
    }
}

/// Between two scalars: a comparison gives 0 or 1.
pub(crate) fn scalar_result(op: BinaryOp, left: f64, right: f64) -> f64 {
    if is_comparison(op) { f64::from(u8::from(holds(op, left, right))) } else { calculate(op, left, right) }
}

/// What two samples give.
pub(crate) struct Combined {
    /// The value, and whether a comparison holds. `None`, with a note, if the operator does not apply to them.
    pub value: Option<(Sample, bool)>,
    pub note: Option<PairNote>,
}

impl Combined {
    const fn of(value: Sample, holds: bool) -> Self {
        Self { value: Some((value, holds)), note: None }
    }

    const fn nothing(note: PairNote) -> Self {
        Self { value: None, note: Some(note) }
    }
}

/// What there is to say of two samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairNote {
    IncompatibleTypes { left: &'static str, right: &'static str },
    IncompatibleLayout,
    CounterResetsCollided(HistogramOperation),
    CustomBoundsReconciled(HistogramOperation),
}

impl PairNote {
    /// Annotates the operator `op` that stands at `at`.
    pub fn annotate(self, op: BinaryOp, at: PosRange, context: &Context<'_>) {
        context.annotate(|notes| match self {
            Self::IncompatibleTypes { left, right } => notes.incompatible_types(left, op.symbol(), right, at),
            Self::IncompatibleLayout => notes.incompatible_bucket_layout(op.symbol(), at),
            Self::CounterResetsCollided(operation) => notes.counter_resets_collided(operation, at),
            Self::CustomBoundsReconciled(operation) => notes.custom_bounds_reconciled(operation, at),
        });
    }
}

/// Applies the operator to two samples.
pub(crate) fn combine(op: BinaryOp, left: &Sample, right: &Sample) -> Combined {
    match (left, right) {
        (Sample::Float(left), Sample::Float(right)) if !is_trim(op) => {
            Combined::of(Sample::Float(calculate(op, *left, *right)), holds(op, *left, *right))
        }
        (Sample::Float(factor), Sample::Histogram(histogram)) if op == BinaryOp::Mul => {
            Combined::of(changed(histogram, |h| h.scale(*factor)), true)
        }
        (Sample::Histogram(histogram), Sample::Float(factor)) if op == BinaryOp::Mul => {
            Combined::of(changed(histogram, |h| h.scale(*factor)), true)
        }
        (Sample::Histogram(histogram), Sample::Float(divisor)) if op == BinaryOp::Div => {
            Combined::of(changed(histogram, |h| h.divide(*divisor)), true)
        }
        (Sample::Histogram(histogram), Sample::Float(bound)) if is_trim(op) => {
            Combined::of(changed(histogram, |h| h.trim(*bound, op == BinaryOp::TrimUpper)), true)
        }
        (Sample::Histogram(left), Sample::Histogram(right)) => combine_histograms(op, left, right),
        _ => Combined::nothing(PairNote::IncompatibleTypes { left: kind(left), right: kind(right) }),
    }
}

const fn is_trim(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

const fn kind(sample: &Sample) -> &'static str {
    match sample {
        Sample::Float(_) => "float",
        Sample::Histogram(_) => "histogram",
    }
}

fn changed(histogram: &FloatHistogram, change: impl FnOnce(&mut FloatHistogram)) -> Sample {
    let mut result = histogram.clone();
    change(&mut result);
    result.compact();
    Sample::Histogram(Arc::new(result))
}

fn combine_histograms(op: BinaryOp, left: &Arc<FloatHistogram>, right: &Arc<FloatHistogram>) -> Combined {
    let (operation, subtract) = match op {
        BinaryOp::Equal => return Combined::of(Sample::Histogram(left.clone()), left.same_data(right)),
        BinaryOp::NotEqual => return Combined::of(Sample::Histogram(left.clone()), !left.same_data(right)),
        BinaryOp::Add => (HistogramOperation::Addition, false),
        BinaryOp::Sub => (HistogramOperation::Subtraction, true),
        _ => {
            let (left, right) = ("histogram", "histogram");
            return Combined::nothing(PairNote::IncompatibleTypes { left, right });
        }
    };
    let mut result = (**left).clone();
    let combined = if subtract { result.sub(right) } else { result.add(right) };
    let Ok(reconciled) = combined else {
        return Combined::nothing(PairNote::IncompatibleLayout);
    };
    if reconciled.counter_resets_collided {
        // As Prometheus 3.9 has it, the element is then left out.
        return Combined::nothing(PairNote::CounterResetsCollided(operation));
    }
    if subtract {
        result.counter_reset_hint = CounterResetHint::Gauge;
    }
    result.compact();
    let note = reconciled.custom_bounds.then_some(PairNote::CustomBoundsReconciled(operation));
    Combined { note, ..Combined::of(Sample::Histogram(Arc::new(result)), true) }
}
