//! From an expression to a tree of operators.
//!
//! Planning settles everything that does not need data: durations, `@` and offsets, the times each selector
//! needs, what is evaluated once because it is the same at every step. It notes every selection, so that all
//! can be opened before the first is read, and identical ones are read once.

mod call;
mod duration;
mod narrow;
mod outline;
mod property;
mod push_down;

use std::sync::Arc;

use parallax_model::{Matcher, TimeRange};

use crate::annotations::quoted;
use crate::ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Expr, ExprKind, Grouping, MatrixSelector, PosRange,
    RangeExtension, Subquery, TimeModifiers, ValueType, VectorSelector,
};
use crate::engine::{EngineOptions, QueryError, QueryRange};
use crate::exec::aggregate::{CountValues, Fold, FoldPlaces, GroupKey};
use crate::exec::analyze::{CountRule, Counters, Measured, Tally};
use crate::exec::binary::{BinaryCall, between_vectors, with_scalar};
use crate::exec::gather::Gather;
use crate::exec::leaf::{Broadcast, LazyScalar, Values};
use crate::exec::map::{Map, drop_name};
use crate::exec::prepare::{Kernel, Preparation};
use crate::exec::range::RangeInput;
use crate::exec::row::Row;
use crate::exec::selector::{Lookback, Reference, Selector, SelectorOutput};
use crate::exec::set::set_operation;
use crate::exec::stream::{Reader, Selections};
use crate::exec::topk::Choice;
use crate::exec::windows::Windows;
use crate::exec::{BoxedOperator, Grid};
use crate::functions::arithmetic::{changes_metric, scalar_result};
use crate::functions::floats::has_arguments;
use crate::functions::range_function::RangeFunction;
use crate::source::{Scope, Selection, Source};
pub(crate) use narrow::narrowed;
pub(crate) use outline::{Outline, name_of};
use property::{has_one_name, is_step_invariant};

/// An expression without the parentheses around it.
pub(crate) fn strip_parens(expr: &Expr) -> &Expr {
    match &expr.kind {
        ExprKind::Paren(inner) => strip_parens(inner),
        _ => expr,
    }
}

/// What stands directly around a selector, as a hint for its source.
#[derive(Clone, Copy, Default)]
pub(crate) struct Around<'e> {
    function: &'e str,
    grouping: Option<&'e Grouping>,
    /// A function of a range and nothing else, directly around it.
    windows: Option<RangeFunction>,
    /// The selector's own range, 0 if it has none.
    range_ms: i64,
}

impl<'e> Around<'e> {
    fn call(function: &'e str) -> Self {
        Self { function, ..Self::default() }
    }

    /// A range function.
    fn range_call(name: &'e str, function: RangeFunction) -> Self {
        let windows = (!has_arguments(function)).then_some(function);
        Self { windows, ..Self::call(name) }
    }

    /// Around a selector of a range.
    fn over(self, range_ms: i64) -> Self {
        Self { range_ms, ..self }
    }

    /// The same function, but no longer directly.
    fn further(self) -> Self {
        Self { grouping: None, windows: None, range_ms: 0, ..self }
    }
}

/// Plans the operators of one query.
pub(crate) struct Planner<'e> {
    options: &'e EngineOptions,
    range: QueryRange,
    pub selections: Selections,
    detail: Detail,
    /// How the samples of selectors planned now count.
    count_rule: CountRule,
    /// The operators planned so far, if somebody wants to see them.
    outline: Option<Outline>,
    /// Who may offer to evaluate parts of the plan.
    source: Option<&'e dyn Source>,
    /// Whose series selectors planned now read.
    scope: Scope,
}

/// What of histograms the expressions around the planned one look at.
#[derive(Clone, Copy, Debug, Default)]
struct Detail {
    /// One of them only looks at count and sum.
    stats: bool,
    /// One of them looks at buckets, or is a subquery, which must compare them.
    buckets: bool,
}

/// Where a range selector or a subquery gets its samples from, and which of them a step sees.
pub(crate) struct PlannedRange {
    pub input: RangeInput,
    pub reference: Reference,
    pub range_ms: i64,
    pub extension: RangeExtension,
}

/// An operator without rows: there is no step to evaluate.
fn nothing() -> BoxedOperator {
    Box::new(Gather::new(Vec::new(), Box::new(|_, _| Ok(Vec::new()))))
}

impl<'e> Planner<'e> {
    pub fn new(options: &'e EngineOptions, range: QueryRange) -> Self {
        Self {
            options,
            range,
            selections: Selections::default(),
            detail: Detail::default(),
            count_rule: CountRule::EachStep,
            outline: None,
            source: None,
            scope: Scope::All,
        }
    }

    /// Lets `source` evaluate parts of the plan, if it offers that.
    pub fn over(mut self, source: &'e dyn Source) -> Self {
        self.source = Some(source);
        self
    }

    /// Notes the operators, and measures them when they run.
    pub fn with_outline(mut self) -> Self {
        self.outline = Some(Outline::default());
        self
    }

    pub fn outline(&self) -> Option<&Outline> {
        self.outline.as_ref()
    }

    /// Plans one operator, which is noted by its name and measured when it runs, if somebody wants that.
    fn measured(
        &mut self,
        name: impl FnOnce() -> String,
        build: impl FnOnce(&mut Self) -> Result<BoxedOperator, QueryError>,
    ) -> Result<BoxedOperator, QueryError> {
        let Some(outline) = &mut self.outline else { return build(self) };
        let counters = outline.begin(name());
        let inner = build(self);
        if let Some(outline) = &mut self.outline {
            outline.end();
        }
        Ok(Box::new(Measured { inner: inner?, counters }))
    }

    /// Plans a range vector that is the query's result: it has no operator, its caller counts what it gives.
    pub fn range_result(
        &mut self,
        expr: &'e Expr,
        grid: Grid,
    ) -> Result<(PlannedRange, Option<Arc<Counters>>), QueryError> {
        let counters = self.outline.as_mut().map(|outline| outline.begin(outline::name_of(expr)));
        // The inner steps of a subquery are no steps of the query: its samples count for the only one.
        self.count_rule = CountRule::Repeated(1);
        let planned = self.range_input(expr, grid, Around::default());
        if let Some(outline) = &mut self.outline {
            outline.end();
        }
        Ok((planned?, counters))
    }

    /// Where a selector planned now counts its samples.
    fn tally(&self) -> Tally {
        Tally { rule: self.count_rule, operator: self.outline.as_ref().and_then(Outline::current) }
    }

    /// The operator that evaluates `expr`, a scalar or an instant vector, at the steps of `grid`.
    pub fn plan(
        &mut self,
        expr: &'e Expr,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<BoxedOperator, QueryError> {
        if grid.steps == 0 {
            return Ok(nothing());
        }
        let constant = matches!(expr.kind, ExprKind::Number(_) | ExprKind::String(_));
        if grid.steps > 1 && !constant && is_step_invariant(expr) {
            return self
                .measured(|| "[stepInvariant]".to_owned(), |planner| planner.once(expr, grid, around));
        }
        match &expr.kind {
            ExprKind::Paren(inner) => self.plan(inner, grid, around),
            ExprKind::Unary { negate: false, operand } => self.plan(operand, grid, around.further()),
            _ => self.measured(|| outline::name_of(expr), |planner| planner.operator(expr, grid, around)),
        }
    }

    /// Evaluates at the first step, and repeats that for all others.
    fn once(&mut self, expr: &'e Expr, grid: Grid, around: Around<'e>) -> Result<BoxedOperator, QueryError> {
        let outer = self.count_rule;
        if outer == CountRule::EachStep {
            self.count_rule = CountRule::Repeated(grid.steps);
        }
        let input = self.plan(expr, grid.first_step(), around);
        self.count_rule = outer;
        Ok(Box::new(Broadcast { input: input?, steps: grid.steps }))
    }

    fn operator(
        &mut self,
        expr: &'e Expr,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<BoxedOperator, QueryError> {
        match &expr.kind {
            ExprKind::Number(value) => Ok(Box::new(Values::new(vec![*value; grid.steps]))),
            ExprKind::Vector(selector) => self.selector(selector, grid, around, SelectorOutput::Value),
            ExprKind::Unary { operand, .. } => self.negation(operand, grid, around.further()),
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, expr.pos, grid),
            ExprKind::Binary(binary) => {
                let outer = self.detail;
                self.detail.buckets |= matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
                let operator = self.binary(binary, expr.pos, grid);
                self.detail = outer;
                operator
            }
            ExprKind::Call(call) => {
                let outer = self.detail;
                match call.function.name {
                    "histogram_count" | "histogram_sum" | "histogram_avg" => self.detail.stats = true,
                    "histogram_quantile" | "histogram_fraction" => self.detail.buckets = true,
                    _ => {}
                }
                let operator = self.call(call, grid);
                self.detail = outer;
                operator
            }
            ExprKind::Paren(_) | ExprKind::String(_) | ExprKind::Matrix(_) | ExprKind::Subquery(_) => {
                // The parser lets these stand only where the planner looks for them.
                Err(QueryError::Execution(format!(
                    "unexpected {} in an expression",
                    expr.value_type().documented()
                )))
            }
        }
    }

    /// Whether a selector planned now may leave out the buckets of histograms.
    fn stats_only(&self) -> bool {
        self.detail.stats && !self.detail.buckets
    }

    /// A scalar argument, evaluated when it is needed.
    fn scalar(&mut self, expr: &'e Expr, grid: Grid) -> Result<LazyScalar, QueryError> {
        Ok(LazyScalar::new(self.plan(expr, grid, Around::default())?))
    }

    fn reference(&self, modifiers: &TimeModifiers) -> Result<Reference, QueryError> {
        let offset_ms = match &modifiers.offset {
            Some(offset) => duration::offset_ms(offset, self.range)?,
            None => 0,
        };
        let at_ms = modifiers.at.map(|at| match at {
            At::TimestampMs(at_ms) => at_ms,
            At::Start => self.range.start_ms,
            At::End => self.range.end_ms,
        });
        Ok(Reference { at_ms, offset_ms })
    }

    /// Notes a selection of the samples from `before_ms` before the first to `after_ms` after the last time
    /// that `reference` means, the earliest excluded.
    fn reader(
        &mut self,
        matchers: &[Matcher],
        grid: Grid,
        reference: Reference,
        (before_ms, after_ms): (i64, i64),
        around: Around<'_>,
        kernel: Option<Kernel>,
    ) -> Reader {
        let first_ms = reference.time_ms(&grid, 0);
        let last_ms = reference.time_ms(&grid, grid.steps.saturating_sub(1));
        let range = TimeRange {
            min_ms: first_ms.saturating_sub(before_ms).saturating_add(1),
            max_ms: last_ms.saturating_add(after_ms),
        };
        let (grouping, grouping_by) = match around.grouping {
            Some(Grouping::By(names)) => (names.clone(), true),
            Some(Grouping::Without(names)) => (names.clone(), false),
            None => (Vec::new(), false),
        };
        // Where samples are counted for each step they have to be seen.
        let kernel = kernel.filter(|_| !self.options.stats.per_step);
        self.selections.reader(Selection {
            matchers: matchers.to_vec(),
            range,
            query_range: range,
            step_ms: if self.range.is_instant() && grid.steps <= 1 { 0 } else { grid.step_ms },
            range_ms: around.range_ms,
            function: around.function.to_owned(),
            grouping,
            grouping_by,
            preparation: kernel.map(Preparation::new),
            scope: self.scope,
        })
    }

    fn selector(
        &mut self,
        selector: &'e VectorSelector,
        grid: Grid,
        around: Around<'e>,
        output: SelectorOutput,
    ) -> Result<BoxedOperator, QueryError> {
        let reference = self.reference(&selector.modifiers)?;
        let lookback_ms = self.options.lookback_ms;
        let smoothed = selector.extension == RangeExtension::Smoothed;
        let margins = (lookback_ms, if smoothed { lookback_ms } else { 0 });
        let output =
            if smoothed && output == SelectorOutput::Value { SelectorOutput::Smoothed } else { output };
        let stats_only = self.stats_only();
        let tally = self.tally();
        let (seen, lookback_ms) = match reference.at_ms {
            // Prometheus reads what `@` and `offset` say, but then looks up the time of `@` without the offset.
            Some(_) if output == SelectorOutput::TimestampSeconds => {
                let offset_ms = reference.offset_ms;
                let lookback_ms = lookback_ms.saturating_sub(offset_ms.saturating_abs()).max(0);
                (Reference { offset_ms: offset_ms.max(0), ..reference }, lookback_ms)
            }
            _ => (reference, lookback_ms),
        };
        let lookback = Lookback { grid, reference: seen, lookback_ms, output };
        let kernel = lookback.is_plain().then_some(Kernel::Lookback(lookback));
        let reader = self.reader(&selector.matchers, grid, reference, margins, around, kernel);
        Ok(Box::new(Selector { reader, lookback, stats_only, tally }))
    }

    /// The source of a range function's samples.
    pub fn range_input(
        &mut self,
        expr: &'e Expr,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<PlannedRange, QueryError> {
        let expr = strip_parens(expr);
        match &expr.kind {
            ExprKind::Matrix(matrix) => self.matrix(matrix, grid, around),
            ExprKind::Subquery(subquery) => self.subquery(subquery, grid, around),
            _ => Err(QueryError::Execution(format!(
                "expected a range vector, got {}",
                expr.value_type().documented()
            ))),
        }
    }

    fn matrix(
        &mut self,
        matrix: &'e MatrixSelector,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<PlannedRange, QueryError> {
        let selector = &matrix.selector;
        let reference = self.reference(&selector.modifiers)?;
        let range_ms = duration::positive_ms(&matrix.range, self.range)?;
        let lookback_ms = self.options.lookback_ms;
        let margins = match selector.extension {
            RangeExtension::None => (range_ms, 0),
            RangeExtension::Anchored => (range_ms.saturating_add(lookback_ms), 0),
            RangeExtension::Smoothed => (range_ms.saturating_add(lookback_ms), lookback_ms),
        };
        let windows = around.windows.filter(|_| selector.extension == RangeExtension::None);
        let kernel = windows.map(|function| Kernel::Windows(Windows { function, grid, reference, range_ms }));
        let reader = self.reader(
            &selector.matchers,
            grid,
            reference,
            margins,
            around.further().over(range_ms),
            kernel,
        );
        Ok(PlannedRange {
            input: RangeInput::Series(reader),
            reference,
            range_ms,
            extension: selector.extension,
        })
    }

    /// The inner steps are multiples of the inner step, whatever the outer ones are.
    fn subquery(
        &mut self,
        subquery: &'e Subquery,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<PlannedRange, QueryError> {
        let reference = self.reference(&subquery.modifiers)?;
        // Of several that are wrong the first of offset, step and range is named.
        let step_ms = match &subquery.step {
            Some(step) => duration::positive_ms(step, self.range)?,
            None => self.options.default_subquery_step_ms,
        };
        let range_ms = duration::positive_ms(&subquery.range, self.range)?;
        let step_ms = if step_ms > 0 { step_ms } else { self.options.default_subquery_step_ms.max(1) };
        let before_ms = reference.time_ms(&grid, 0).saturating_sub(range_ms);
        let first_ms = (before_ms.div_euclid(step_ms) + 1).saturating_mul(step_ms);
        let last_ms = reference.time_ms(&grid, grid.steps.saturating_sub(1));
        let inner = Grid::new(first_ms, last_ms, step_ms);
        // Rows are as wide as there are inner steps: refuse what no budget would ever allow.
        if inner.steps > self.options.max_samples {
            return Err(QueryError::TooManySamples);
        }
        let outer = self.detail;
        self.detail.buckets = true;
        let operator = self.plan(&subquery.operand, inner, around.further());
        self.detail = outer;
        let operator = operator?;
        Ok(PlannedRange {
            input: RangeInput::Subquery(operator, inner),
            reference,
            range_ms,
            extension: RangeExtension::None,
        })
    }

    fn negation(
        &mut self,
        operand: &'e Expr,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<BoxedOperator, QueryError> {
        let input = self.plan(operand, grid, around)?;
        let merge = !has_one_name(operand);
        let negate = |mut row: Row| {
            row.map_floats(|value| -value);
            for (_, histogram) in &mut row.histograms {
                std::sync::Arc::make_mut(histogram).scale(-1.0);
            }
            row
        };
        Ok(Box::new(Map {
            input,
            function: Box::new(move |row, context| {
                let mut row = negate(row);
                drop_name(&mut row, context);
                Ok(Some(row))
            }),
            merge,
        }))
    }

    fn aggregate(
        &mut self,
        aggregate: &'e Aggregate,
        position: PosRange,
        grid: Grid,
    ) -> Result<BoxedOperator, QueryError> {
        let operand = strip_parens(&aggregate.operand);
        let grouping = Some(&aggregate.grouping);
        let around = Around { function: aggregate.op.name(), grouping, ..Around::default() };
        let key = GroupKey::new(&aggregate.grouping);
        let parameter = aggregate.parameter.as_deref().map(strip_parens);
        let parameter_position = parameter.map(|parameter| parameter.pos).unwrap_or_default();
        let steps = grid.steps;
        match aggregate.op {
            AggregateOp::CountValues => {
                let label = match parameter.map(|parameter| &parameter.kind) {
                    Some(ExprKind::String(label)) => label.clone(),
                    _ => String::new(),
                };
                if !call::is_label_name(&label) {
                    return Err(QueryError::Execution(format!("invalid label name {}", quoted(&label))));
                }
                let input = self.plan(operand, grid, around)?;
                Ok(Box::new(CountValues { key: key.and_label(&label), label, input, steps, done: false }))
            }
            AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio => {
                let Some(parameter) = parameter else { return Ok(nothing()) };
                let parameter = self.scalar(parameter, grid)?;
                let input = self.plan(operand, grid, around)?;
                let choice = Choice { op: aggregate.op, key, parameter, position, parameter_position, steps };
                Ok(Box::new(Gather::new(
                    vec![input],
                    Box::new(move |sides, context| {
                        choice.choose(sides.into_iter().flatten().collect(), context)
                    }),
                )))
            }
            op => {
                let parameter = match parameter {
                    Some(parameter) => Some(self.scalar(parameter, grid)?),
                    None => None,
                };
                let partials = self.partials(aggregate, position, grid, around)?;
                let input = match &partials {
                    Some((_, rest)) => self.scoped(*rest, operand, grid, around)?,
                    None => self.plan(operand, grid, around)?,
                };
                let places = FoldPlaces { operand: operand.pos, parameter: parameter_position };
                let fold = Fold::new(op, key, input, parameter, places, steps);
                Ok(Box::new(fold.with_partials(partials.map(|(partials, _)| partials))))
            }
        }
    }

    fn binary(
        &mut self,
        binary: &'e Binary,
        position: PosRange,
        grid: Grid,
    ) -> Result<BoxedOperator, QueryError> {
        let call = BinaryCall { op: binary.op, return_bool: binary.return_bool, position };
        let is_scalar = |expr: &Expr| expr.value_type() == ValueType::Scalar;
        let (left_scalar, right_scalar) = (is_scalar(&binary.left), is_scalar(&binary.right));
        let left = self.plan(&binary.left, grid, Around::default())?;
        let right = self.plan(&binary.right, grid, Around::default())?;
        if left_scalar && right_scalar {
            return Ok(between_scalars(binary.op, left, right));
        }
        if left_scalar || right_scalar {
            let (vector, input, scalar) =
                if left_scalar { (&binary.right, right, left) } else { (&binary.left, left, right) };
            let merge = (changes_metric(binary.op) || binary.return_bool) && !has_one_name(vector);
            let function = with_scalar(call, LazyScalar::new(scalar), left_scalar);
            return Ok(Box::new(Map { input, function, merge }));
        }
        let matching = binary.matching.clone().unwrap_or(crate::ast::VectorMatching {
            cardinality: crate::ast::Cardinality::OneToOne,
            labels: Vec::new(),
            on: false,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        });
        let is_set = matches!(binary.op, BinaryOp::And | BinaryOp::Or | BinaryOp::Unless);
        Ok(Box::new(Gather::new(
            vec![left, right],
            Box::new(move |sides, context| {
                let mut sides = sides.into_iter();
                let (left, right) = (sides.next().unwrap_or_default(), sides.next().unwrap_or_default());
                if is_set {
                    set_operation(call.op, &matching, left, right, context)
                } else {
                    between_vectors(call, &matching, left, right, context)
                }
            }),
        )))
    }
}

fn between_scalars(op: BinaryOp, left: BoxedOperator, right: BoxedOperator) -> BoxedOperator {
    let mut right = LazyScalar::new(right);
    Box::new(Map {
        input: left,
        function: Box::new(move |mut row, context| {
            let values = right.values(context)?;
            row.floats
                .iter_mut()
                .zip(values)
                .for_each(|(left, right)| *left = scalar_result(op, *left, *right));
            Ok(Some(row))
        }),
        merge: false,
    })
}
