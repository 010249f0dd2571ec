//! The queries that run or wait now, for whoever looks at a busy querier, and the log of them that outlives a crash.
//!
//! Invariants: a query is listed from when it is taken until its evaluation has ended, whatever becomes of its caller; the list is as long as there are places, and no entry is longer than
//! [`MAX_TEXT_BYTES`]. A log that cannot be written is an error in the process' log, never one of a query.

mod log_file;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use parallax_promql::engine::QueryRange;
use parallax_storeapi::Caller;

use crate::Error;
use crate::received::ReceivedLog;
use log_file::{LogFile, Place};

/// Of the text of a query, what is kept.
pub(crate) const MAX_TEXT_BYTES: usize = 1000;

/// The queries of one querier. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveQueries {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    queries: Mutex<BTreeMap<u64, Known>>,
    log: Option<Arc<LogFile>>,
}

#[derive(Clone, Debug)]
struct Known {
    text: String,
    range: QueryRange,
    started: jiff::Timestamp,
    began: Instant,
    /// `None` while it waits for a slot.
    received: Option<ReceivedLog>,
    caller: Caller,
}

/// What is shown of one.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub id: u64,
    pub text: String,
    pub range: QueryRange,
    pub started: jiff::Timestamp,
    pub elapsed: Duration,
    /// What it has read so far; `None` while it waits for a slot.
    pub received: Option<ReceivedLog>,
    pub caller: Caller,
}

impl ActiveQueries {
    /// Logs those that run to `queries.active` in `directory`, after telling which of them a process before this one did not end. `max` may run at a time.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn logged(directory: &Path, max: usize) -> Result<Self, Error> {
        let log = LogFile::open(directory, max).map_err(|error| Error::ActiveQueries {
            path: directory.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { inner: Arc::new(Inner { log: Some(Arc::new(log)), ..Inner::default() }) })
    }

    /// Lists a query until what this gives is dropped.
    pub fn enter(&self, text: &str, range: QueryRange, caller: &Caller) -> ActiveQuery {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let known = Known {
            text: shortened(text, MAX_TEXT_BYTES).to_owned(),
            range,
            started: jiff::Timestamp::now(),
            began: Instant::now(),
            received: None,
            caller: caller.clone(),
        };
        self.queries().insert(id, known);
        ActiveQuery { active: self.clone(), id, place: None }
    }

    /// Those that `caller` may see: all, or those that were asked by the same.
    pub fn seen_by(&self, caller: &Caller) -> Vec<Shown> {
        let is_seen = |known: &Known| caller.hold.is_everything() || known.caller == *caller;
        let shown = |(id, known): (&u64, &Known)| Shown {
            id: *id,
            text: known.text.clone(),
            range: known.range,
            started: known.started,
            elapsed: known.began.elapsed(),
            received: known.received.clone(),
            caller: known.caller.clone(),
        };
        self.queries().iter().filter(|(_, known)| is_seen(known)).map(shown).collect()
    }

    fn queries(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Known>> {
        self.inner.queries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One query on the list.
#[derive(Debug)]
pub(crate) struct ActiveQuery {
    active: ActiveQueries,
    id: u64,
    /// In the log, once it runs.
    place: Option<Place>,
}

impl ActiveQuery {
    /// It has a slot; `received` is what comes for it.
    pub fn runs(&mut self, received: &ReceivedLog) {
        let mut queries = self.active.queries();
        let Some(known) = queries.get_mut(&self.id) else { return };
        known.received = Some(received.clone());
        let (text, started) = (known.text.clone(), known.started);
        drop(queries);
        self.place = self.active.inner.log.as_ref().and_then(|log| log.write(&text, started.as_second()));
    }
}

impl Drop for ActiveQuery {
    fn drop(&mut self) {
        self.active.queries().remove(&self.id);
    }
}

/// The beginning of `text`, cut between characters.
fn shortened(text: &str, max_bytes: usize) -> &str {
    let mut end = text.len().min(max_bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use parallax_model::Matcher;
    use parallax_storeapi::Hold;

    use super::*;

    #[test]
    fn a_query_is_listed_until_it_ends_and_only_for_those_who_may_see_it() {
        let active = ActiveQueries::default();
        let team = |name: &str| Caller {
            hold: Hold::new(vec![Matcher::equal("team", name)]),
            identity: Some(name.into()),
            ..Caller::default()
        };
        let mut first = active.enter("up", QueryRange::instant(1), &team("a"));
        let second = active.enter(&"é".repeat(2 * MAX_TEXT_BYTES), QueryRange::instant(1), &team("b"));
        let all = active.seen_by(&Caller::default());
        assert_eq!(all.iter().map(|one| one.id).collect::<Vec<_>>(), [0, 1]);
        assert!(all[0].received.is_none() && all[1].text.len() <= MAX_TEXT_BYTES);
        first.runs(&ReceivedLog::default());
        let own = active.seen_by(&team("a"));
        assert!(own.len() == 1 && own[0].text == "up" && own[0].received.is_some());
        drop((first, second));
        assert!(active.seen_by(&Caller::default()).is_empty());
    }
}
