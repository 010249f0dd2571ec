//! What other places made of their shares of an aggregation, on its way into the groups.
//!
//! Invariant: each partition comes in once: by its answer, or, if it declined, by its series.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::analyze::Counters;
use super::{BoxedOperator, Context};
use crate::cut::PartialRow;
use crate::engine::QueryError;
use crate::source::{Pushed, PushedAnswer};

/// One cut's partitions, shared with whoever starts them.
pub(crate) type SharedPushed = Rc<RefCell<Box<dyn Pushed>>>;

/// See the module.
pub(crate) struct Partials {
    pub pushed: SharedPushed,
    /// The series of those that declined.
    pub declined: BoxedOperator,
    /// One per question, if somebody wants to see them.
    pub counters: Vec<Arc<Counters>>,
}

impl Partials {
    /// The rows of the next answer; `None` once there are no more. Says what there is to say about them.
    pub fn next_rows(&mut self, context: &Context<'_>) -> Result<Option<Vec<PartialRow>>, QueryError> {
        context.interrupt.check()?;
        let began = Instant::now();
        let Some(answer) = self.pushed.borrow_mut().next_answer()? else { return Ok(None) };
        let PushedAnswer { question, partition, warnings } = answer;
        context.source_warnings(warnings);
        context.annotate(|notes| {
            partition.infos.into_iter().for_each(|(position, text)| notes.passed_on(position, text));
        });
        if let Some(counters) = self.counters.get(question) {
            let samples: usize = partition.rows.iter().map(|row| row.values.present.count()).sum();
            let size_bytes = partition.rows.iter().map(|row| row.labels.size_bytes()).sum::<usize>();
            counters.add_busy(began.elapsed());
            counters.add_batch(partition.rows.len(), samples, size_bytes + samples * size_of::<(i64, f64)>());
        }
        Ok(Some(partition.rows))
    }

    pub fn has_declined(&self) -> bool {
        self.pushed.borrow().has_declined()
    }
}
