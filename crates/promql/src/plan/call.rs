//! Function calls: from a name and arguments to an operator.

use std::cmp::Ordering;

use parallax_model::{FloatHistogram, GoRegex, Labels, LabelsBuilder, METRIC_NAME, MatchOp, Matcher};

use super::outline::name_of;
use super::property::has_one_name;
use super::{Around, PlannedRange, Planner, nothing, strip_parens};
use crate::ast::{Call, Expr, ExprKind, PosRange, RangeExtension, ValueType};
use crate::engine::QueryError;
use crate::exec::analyze::CountRule;
use crate::exec::gather::{Gather, absent};
use crate::exec::histogram_call::{HistogramCall, HistogramPlaces, HistogramRead};
use crate::exec::info::{InfoCall, TARGET_INFO};
use crate::exec::leaf::Values;
use crate::exec::map::{Map, RowFunction, drop_name};
use crate::exec::range::{RangeCall, RangeState};
use crate::exec::row::Row;
use crate::exec::selector::{Lookback, Reference, Selector, SelectorOutput};
use crate::exec::sort::sort_by;
use crate::exec::topk::compare;
use crate::exec::windows::Windows;
use crate::exec::{BoxedOperator, Grid};
use crate::functions::range_function::RangeFunction;
use crate::functions::{calendar, histograms, math, natural};

/// The functions that `anchored` and `smoothed` selectors may stand in.
const ANCHORED_FUNCTIONS: [&str; 5] = ["changes", "delta", "increase", "rate", "resets"];
const SMOOTHED_FUNCTIONS: [&str; 3] = ["delta", "increase", "rate"];

impl<'e> Planner<'e> {
    pub(super) fn call(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let name = call.function.name;
        if let Some(function) = RangeFunction::by_name(name) {
            return self.range_call(function, call, grid);
        }
        if let Some(function) = math::by_name(name) {
            return self.float_map(call, grid, function);
        }
        if let Some(function) = calendar::by_name(name) {
            if call.arguments.is_empty() {
                // Cut towards zero, also before the epoch.
                let at = |step| function((grid.time_ms(step) / 1000) as f64);
                return Ok(Box::new(Values::new((0..grid.steps).map(at).collect())));
            }
            return self.float_map(call, grid, function);
        }
        match name {
            "time" => {
                let seconds = |step| grid.time_ms(step) as f64 / 1000.0;
                Ok(Box::new(Values::new((0..grid.steps).map(seconds).collect())))
            }
            "pi" => Ok(Box::new(Values::new(vec![std::f64::consts::PI; grid.steps]))),
            "vector" => self.plan(argument(call, 0)?, grid, Around::default()),
            "scalar" => self.scalar_call(call, grid),
            "round" | "clamp" | "clamp_min" | "clamp_max" => self.limited(call, grid),
            "timestamp" => self.timestamp(call, grid),
            "absent" => self.absent(call, grid),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => self.sort(call, grid),
            "label_replace" => self.label_replace(call, grid),
            "label_join" => self.label_join(call, grid),
            "histogram_count" => self.histogram_map(call, grid, |h| h.count),
            "histogram_sum" => self.histogram_map(call, grid, |h| h.sum),
            "histogram_avg" => self.histogram_map(call, grid, |h| h.sum / h.count),
            "histogram_stdvar" => self.histogram_map(call, grid, histograms::variance),
            "histogram_stddev" => self.histogram_map(call, grid, |h| histograms::variance(h).sqrt()),
            "histogram_quantile" | "histogram_fraction" => self.histogram_read(call, grid),
            "info" => self.info(call, grid),
            _ => Err(QueryError::Execution(format!("unknown function with name {name:?}"))),
        }
    }

    /// An argument that is an instant vector.
    fn vector(&mut self, call: &'e Call, index: usize, grid: Grid) -> Result<BoxedOperator, QueryError> {
        self.plan(argument(call, index)?, grid, Around::call(call.function.name))
    }

    fn map(
        &mut self,
        call: &'e Call,
        index: usize,
        grid: Grid,
        function: RowFunction,
    ) -> Result<BoxedOperator, QueryError> {
        let merge = !has_one_name(argument(call, index)?) && !self.options.delayed_name_removal;
        Ok(Box::new(Map { input: self.vector(call, index, grid)?, function, merge }))
    }

    /// Functions of each float; histograms go.
    fn float_map(
        &mut self,
        call: &'e Call,
        grid: Grid,
        function: fn(f64) -> f64,
    ) -> Result<BoxedOperator, QueryError> {
        let function: RowFunction = Box::new(move |mut row, context| {
            row.histograms.clear();
            row.map_floats(function);
            drop_name(&mut row, context);
            Ok(Some(row))
        });
        self.map(call, 0, grid, function)
    }

    /// Functions of each histogram; floats go.
    fn histogram_map(
        &mut self,
        call: &'e Call,
        grid: Grid,
        read: fn(&FloatHistogram) -> f64,
    ) -> Result<BoxedOperator, QueryError> {
        let function: RowFunction = Box::new(move |row, context| {
            let mut result = Row::empty(row.labels.clone(), row.steps());
            for (step, histogram) in &row.histograms {
                result.set_float(*step, read(histogram));
            }
            result.charge = row.charge;
            drop_name(&mut result, context);
            Ok(Some(result))
        });
        self.map(call, 0, grid, function)
    }

    /// `round` and `clamp`, whose limits may differ from step to step.
    fn limited(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let mut limits = Vec::new();
        for index in 1..call.arguments.len() {
            limits.push(self.scalar(argument(call, index)?, grid)?);
        }
        let name = call.function.name;
        let function: RowFunction = Box::new(move |mut row, context| {
            row.histograms.clear();
            let mut values = Vec::with_capacity(limits.len());
            for limit in &mut limits {
                values.push(limit.values(context)?);
            }
            for step in 0..row.steps() {
                let limit = |index: usize| values.get(index).and_then(|v| v.get(step)).copied();
                let (min, max) = match name {
                    "clamp" => (limit(0), limit(1)),
                    "clamp_min" => (limit(0), Some(f64::INFINITY)),
                    _ => (Some(f64::NEG_INFINITY), limit(0)),
                };
                let (min, max) = (min.unwrap_or(f64::NAN), max.unwrap_or(f64::NAN));
                if name != "round" && max < min {
                    row.present.unset(step);
                }
                let Some(slot) = row.floats.get_mut(step) else { continue };
                *slot = if name == "round" {
                    math::round(*slot, limit(0).unwrap_or(1.0))
                } else {
                    math::clamp(*slot, min, max)
                };
            }
            drop_name(&mut row, context);
            Ok(Some(row))
        });
        self.map(call, 0, grid, function)
    }

    fn scalar_call(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let input = self.vector(call, 0, grid)?;
        Ok(Box::new(Gather::new(
            vec![input],
            Box::new(move |sides, context| {
                let mut found: Vec<Option<f64>> = vec![None; grid.steps];
                for row in sides.iter().flatten() {
                    context.spend(row.steps())?;
                    for step in row.present.ones() {
                        let Some(slot) = found.get_mut(step) else { continue };
                        // A second float makes the scalar NaN.
                        *slot =
                            Some(if slot.is_some() { f64::NAN } else { row.float(step).unwrap_or(f64::NAN) });
                    }
                }
                let values = found.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect();
                Ok(vec![Row::scalar(values)])
            }),
        )))
    }

    fn timestamp(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let vector = argument(call, 0)?;
        let merge = !has_one_name(vector) && !self.options.delayed_name_removal;
        let of_sample = matches!(vector.kind, ExprKind::Vector(_));
        let input = match &vector.kind {
            ExprKind::Vector(selector) => self.measured(
                || name_of(vector),
                |planner| {
                    let around = Around::call(call.function.name);
                    planner.selector(selector, grid, around, SelectorOutput::TimestampSeconds)
                },
            )?,
            _ => self.vector(call, 0, grid)?,
        };
        let function: RowFunction = Box::new(move |row, context| {
            let mut result = row;
            if !of_sample {
                result.present = result.occupied();
                result.histograms.clear();
                let seconds = (0..grid.steps).map(|step| grid.time_ms(step) as f64 / 1000.0);
                result.floats.iter_mut().zip(seconds).for_each(|(slot, seconds)| *slot = seconds);
            }
            drop_name(&mut result, context);
            Ok(Some(result))
        });
        Ok(Box::new(Map { input, function, merge }))
    }

    fn absent(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let labels = absent_labels(argument(call, 0)?);
        let input = self.vector(call, 0, grid)?;
        Ok(Box::new(Gather::new(
            vec![input],
            Box::new(move |sides, context| {
                let rows: Vec<Row> = sides.into_iter().flatten().collect();
                absent(&rows, labels, grid.steps, context).map(|row| vec![row])
            }),
        )))
    }

    fn sort(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let by: Vec<String> = strings(call, 1)?;
        let input = self.vector(call, 0, grid)?;
        let name = call.function.name;
        Ok(Box::new(Gather::new(
            vec![input],
            Box::new(move |sides, context| {
                let mut rows: Vec<Row> = sides.into_iter().flatten().collect();
                let by_value = matches!(name, "sort" | "sort_desc");
                if by_value {
                    rows.iter_mut().for_each(|row| row.histograms.clear());
                    rows.retain(|row| !row.is_empty());
                }
                // Over a range there is no order to keep.
                if grid.steps != 1 {
                    return Ok(rows);
                }
                let value = |row: &Row| row.float(0).unwrap_or(f64::NAN);
                let by_labels = |a: &Row, b: &Row| label_order(&by, &a.labels, &b.labels);
                sort_by(rows, context, |a, b| match name {
                    "sort" => compare(value(a), value(b), false),
                    "sort_desc" => compare(value(a), value(b), true),
                    "sort_by_label" => by_labels(a, b),
                    _ => by_labels(b, a),
                })
            }),
        )))
    }

    fn label_replace(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let texts = strings(call, 1)?;
        let [target, replacement, source, pattern] = texts.as_slice() else {
            return Err(QueryError::Execution("label_replace needs four strings".to_owned()));
        };
        let Ok(regex) = GoRegex::new(&format!("^(?s:{pattern})$")) else {
            return Err(QueryError::Execution(format!(
                "invalid regular expression in label_replace(): {pattern}"
            )));
        };
        if !is_label_name(target) {
            return Err(QueryError::Execution(format!(
                "invalid destination label name in label_replace(): {target}"
            )));
        }
        let (target, template, source) = (target.clone(), regex.template(replacement), source.clone());
        let function: RowFunction = Box::new(move |mut row, _| {
            let Some(value) = regex.expanded(row.labels.value_of(&source), &template) else {
                return Ok(Some(row));
            };
            let mut builder = LabelsBuilder::new(&row.labels);
            builder.set(&target, &value);
            row.labels = builder.build();
            if target == METRIC_NAME {
                row.drop_name = false;
            }
            Ok(Some(row))
        });
        Ok(Box::new(Map { input: self.vector(call, 0, grid)?, function, merge: true }))
    }

    fn label_join(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let texts = strings(call, 1)?;
        let [target, separator, sources @ ..] = texts.as_slice() else {
            return Err(QueryError::Execution("label_join needs at least two strings".to_owned()));
        };
        if let Some(source) = sources.iter().find(|source| !is_label_name(source)) {
            return Err(QueryError::Execution(format!(
                "invalid source label name in label_join(): {source}"
            )));
        }
        if !is_label_name(target) {
            return Err(QueryError::Execution(format!(
                "invalid destination label name in label_join(): {target}"
            )));
        }
        let (target, separator, sources) = (target.clone(), separator.clone(), sources.to_vec());
        let function: RowFunction = Box::new(move |mut row, _| {
            let values: Vec<&str> = sources.iter().map(|source| row.labels.value_of(source)).collect();
            let value = values.join(&separator);
            let mut builder = LabelsBuilder::new(&row.labels);
            builder.set(&target, &value);
            row.labels = builder.build();
            if target == METRIC_NAME {
                row.drop_name = false;
            }
            Ok(Some(row))
        });
        Ok(Box::new(Map { input: self.vector(call, 0, grid)?, function, merge: true }))
    }

    fn histogram_read(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let first = self.scalar(argument(call, 0)?, grid)?;
        let (read, vector) = if call.function.name == "histogram_quantile" {
            (HistogramRead::Quantile(first), 1)
        } else {
            (HistogramRead::Fraction(first, self.scalar(argument(call, 1)?, grid)?), 2)
        };
        let places = HistogramPlaces { first: argument(call, 0)?.pos, vector: argument(call, vector)?.pos };
        let is_number = |expr: &Expr| matches!(strip_parens(expr).kind, ExprKind::Number(_));
        let has_plain_arguments = call.arguments.iter().take(vector).all(is_number);
        let input = self.vector(call, vector, grid)?;
        Ok(Box::new(HistogramCall { input, read, places, has_plain_arguments, done: false }))
    }

    fn info(&mut self, call: &'e Call, grid: Grid) -> Result<BoxedOperator, QueryError> {
        let base = self.vector(call, 0, grid)?;
        let asked = match call.arguments.get(1).map(strip_parens).map(|expr| &expr.kind) {
            Some(ExprKind::Vector(selector)) => Some(&selector.matchers),
            _ => None,
        };
        let mut matchers = asked.cloned().unwrap_or_default();
        if !matchers.iter().any(|matcher| matcher.name() == METRIC_NAME) {
            matchers.insert(0, Matcher::equal(METRIC_NAME, TARGET_INFO));
        }
        let info = InfoCall::new(asked.map(Vec::as_slice));
        let reference = first_selector(argument(call, 0)?)
            .map(|selector| self.reference(&selector.modifiers))
            .transpose()?
            .unwrap_or_default();
        let lookback_ms = self.options.lookback_ms;
        // Samples are looked up at the step's own time, whatever the base's offset is.
        let lookup = Reference { at_ms: reference.at_ms, offset_ms: 0 };
        let reader =
            self.reader(&matchers, grid, lookup, (lookback_ms, 0), Around::call(call.function.name), None);
        let infos = self.measured(
            || "[vectorSelector] of info metrics".to_owned(),
            |planner| {
                let tally = planner.tally();
                let output = SelectorOutput::TimestampMs;
                let lookback = Lookback { grid, reference: lookup, lookback_ms, output };
                Ok(Box::new(Selector { reader, lookback, stats_only: false, tally }))
            },
        )?;
        Ok(Box::new(Gather::new(
            vec![base, infos],
            Box::new(move |sides, context| {
                let mut sides = sides.into_iter();
                let base = sides.next().unwrap_or_default();
                info.enrich(base, sides.next().unwrap_or_default(), context)
            }),
        )))
    }

    fn range_call(
        &mut self,
        function: RangeFunction,
        call: &'e Call,
        grid: Grid,
    ) -> Result<BoxedOperator, QueryError> {
        let name = call.function.name;
        let is_range = |expr: &Expr| expr.value_type() == ValueType::Matrix;
        let Some(range_argument) = call.arguments.iter().map(strip_parens).find(|expr| is_range(expr)) else {
            return Ok(nothing());
        };
        // What the selectors of a subquery look at does not count, but what the function then takes in.
        let outer_rule = std::mem::replace(&mut self.count_rule, CountRule::Never);
        let planned = self.range_input(range_argument, grid, Around::range_call(name, function));
        self.count_rule = outer_rule;
        let PlannedRange { input, reference, range_ms, extension } = planned?;
        check_extension(extension, name)?;
        let mut scalars = Vec::new();
        for scalar in call.arguments.iter().map(strip_parens).filter(|expr| !is_range(expr)) {
            scalars.push(self.plan(scalar, grid, Around::default())?);
        }
        let first = argument(call, 0)?;
        // Prometheus evaluates a subquery into a selector that stands nowhere.
        let is_subquery = matches!(first.kind, ExprKind::Subquery(_));
        let position = if is_subquery { PosRange::default() } else { first.pos };
        let operator = Box::new(RangeCall {
            windows: Windows { function, grid, reference, range_ms },
            input,
            extension,
            has_one_name: has_one_name(range_argument),
            scalars,
            stats_only: self.stats_only(),
            position,
            tally: self.tally(),
            state: RangeState::default(),
        });
        if function != RangeFunction::AbsentOverTime {
            return Ok(operator);
        }
        let labels = absent_labels(range_argument);
        Ok(Box::new(Gather::new(
            vec![operator],
            Box::new(move |sides, context| {
                let rows: Vec<Row> = sides.into_iter().flatten().collect();
                absent(&rows, labels, grid.steps, context).map(|row| vec![row])
            }),
        )))
    }
}

/// Any UTF-8 names a label. Escaped bytes that are none become U+FFFD when the text is parsed.
pub(super) fn is_label_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::REPLACEMENT_CHARACTER)
}

/// An argument without its parentheses.
fn argument(call: &Call, index: usize) -> Result<&Expr, QueryError> {
    call.arguments
        .get(index)
        .map(strip_parens)
        .ok_or_else(|| QueryError::Execution(format!("{} lacks an argument", call.function.name)))
}

/// The string arguments from `first` on.
fn strings(call: &Call, first: usize) -> Result<Vec<String>, QueryError> {
    let text = |expr: &Expr| match &strip_parens(expr).kind {
        ExprKind::String(text) => Ok(text.clone()),
        _ => Err(QueryError::Execution(format!("{} expects a string", call.function.name))),
    };
    call.arguments.iter().skip(first).map(text).collect()
}

fn check_extension(extension: RangeExtension, function: &str) -> Result<(), QueryError> {
    let (modifier, allowed) = match extension {
        RangeExtension::None => return Ok(()),
        RangeExtension::Anchored => ("anchored", ANCHORED_FUNCTIONS.as_slice()),
        RangeExtension::Smoothed => ("smoothed", SMOOTHED_FUNCTIONS.as_slice()),
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    Err(QueryError::Execution(format!(
        "{modifier} modifier can only be used with: {} - not with {function}",
        allowed.join(", ")
    )))
}

/// The labels that whatever is absent would surely have: those of its selector's only equality matchers.
fn absent_labels(expr: &Expr) -> Labels {
    let matchers = match &expr.kind {
        ExprKind::Vector(selector) => &selector.matchers,
        ExprKind::Matrix(matrix) => &matrix.selector.matchers,
        _ => return Labels::empty(),
    };
    let mut builder = LabelsBuilder::new(&Labels::empty());
    let mut seen: Vec<&str> = Vec::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name() != METRIC_NAME) {
        if matcher.op() == MatchOp::Equal && !seen.contains(&matcher.name()) {
            builder.set(matcher.name(), matcher.value());
            seen.push(matcher.name());
        } else {
            builder.remove(matcher.name());
        }
    }
    builder.build()
}

/// The first selector of an expression, in the order of the text.
fn first_selector(expr: &Expr) -> Option<&crate::ast::VectorSelector> {
    match &expr.kind {
        ExprKind::Number(_) | ExprKind::String(_) => None,
        ExprKind::Vector(selector) => Some(selector),
        ExprKind::Matrix(matrix) => Some(&matrix.selector),
        ExprKind::Subquery(subquery) => first_selector(&subquery.operand),
        ExprKind::Aggregate(aggregate) => first_selector(&aggregate.operand)
            .or_else(|| aggregate.parameter.as_deref().and_then(first_selector)),
        ExprKind::Binary(binary) => first_selector(&binary.left).or_else(|| first_selector(&binary.right)),
        ExprKind::Unary { operand, .. } | ExprKind::Paren(operand) => first_selector(operand),
        ExprKind::Call(call) => call.arguments.iter().find_map(first_selector),
    }
}

/// Natural order of the labels in `by`; where they are all equal, the order of all labels.
fn label_order(by: &[String], a: &Labels, b: &Labels) -> Ordering {
    by.iter()
        .map(|name| (a.value_of(name), b.value_of(name)))
        .filter(|(a, b)| a != b)
        .map(|(a, b)| natural::compare(a, b))
        .find(|order| *order != Ordering::Equal)
        .unwrap_or_else(|| a.cmp(b))
}
