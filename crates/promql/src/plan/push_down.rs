//! Aggregations that the source has evaluated elsewhere, in parts.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Around, Planner, strip_parens};
use crate::ast::{Aggregate, Expr, PosRange};
use crate::cut::Cut;
use crate::engine::QueryError;
use crate::exec::pushed::Partials;
use crate::exec::{BoxedOperator, Grid};
use crate::source::Scope;

impl<'e> Planner<'e> {
    /// What of an aggregation is evaluated elsewhere, and the scope of the rest; `None` if all of it is evaluated here.
    pub(super) fn partials(
        &mut self,
        aggregate: &'e Aggregate,
        position: PosRange,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<Option<(Partials, Scope)>, QueryError> {
        let Some(source) = self.source.filter(|_| self.scope == Scope::All) else { return Ok(None) };
        let Some(cut) = Cut::of(aggregate, position.start, grid, self.options) else { return Ok(None) };
        let Some(pushed) = source.push_down(&cut) else { return Ok(None) };
        let number = pushed.number();
        let counters = match &mut self.outline {
            None => Vec::new(),
            Some(outline) => {
                let questions = pushed.questions();
                let begin = |question: String| {
                    let counters = outline.begin(super::outline::shortened(format!("[remote] {question}")));
                    outline.end();
                    counters
                };
                questions.into_iter().map(begin).collect()
            }
        };
        let operand = strip_parens(&aggregate.operand);
        let declined = self.measured(
            || "[remote] those that decline".to_owned(),
            |planner| planner.scoped(Scope::Declined(number), operand, grid, around),
        )?;
        let pushed = Rc::new(RefCell::new(pushed));
        self.selections.push_down(pushed.clone());
        Ok(Some((Partials { pushed, declined, counters }, Scope::Rest(number))))
    }

    /// Plans `operand` over a part of the series.
    pub(super) fn scoped(
        &mut self,
        scope: Scope,
        operand: &'e Expr,
        grid: Grid,
        around: Around<'e>,
    ) -> Result<BoxedOperator, QueryError> {
        let outer = std::mem::replace(&mut self.scope, scope);
        let planned = self.plan(operand, grid, around);
        self.scope = outer;
        planned
    }
}
