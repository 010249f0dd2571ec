//! `info()`: adds the labels of info metrics (`target_info` by default) to the series of the same target.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use parallax_model::{Labels, LabelsBuilder, METRIC_NAME, Matcher};

use super::Context;
use super::binary::go_labels;
use super::map::merge_rows;
use super::row::Row;
use crate::engine::QueryError;

/// The metric that is asked for labels if none is named.
pub(crate) const TARGET_INFO: &str = "target_info";

/// The labels that tell which target a series is of. Fixed in Prometheus 3.9 too.
const IDENTIFYING_LABELS: [&str; 2] = ["instance", "job"];

/// Which info metrics to take, and which of their labels.
pub(crate) struct InfoCall {
    /// Matchers on the name of what is an info metric itself, and gets no labels.
    names: Vec<Matcher>,
    /// Whether the query asks for these names; else they are what is taken if nothing is asked.
    asks_names: bool,
    /// Matchers on its other labels: only these labels are copied; without any, all are.
    data: Vec<Matcher>,
}

impl InfoCall {
    /// With the matchers of the second argument, if there is one. As in Prometheus, an argument that names no metric makes none an info metric.
    pub fn new(asked: Option<&[Matcher]>) -> Self {
        let Some(asked) = asked else {
            let names = vec![Matcher::equal(METRIC_NAME, TARGET_INFO)];
            return Self { names, asks_names: false, data: Vec::new() };
        };
        let (names, data) = asked.iter().cloned().partition(|matcher| matcher.name() == METRIC_NAME);
        Self { names, asks_names: true, data }
    }

    /// `base` with labels of `infos`, whose values are the times of their samples in milliseconds.
    ///
    /// # Errors
    /// If info metrics contradict each other, or the query was interrupted.
    pub fn enrich(
        &self,
        base: Vec<Row>,
        infos: Vec<Row>,
        context: &Context<'_>,
    ) -> Result<Vec<Row>, QueryError> {
        let is_lost = self.loses_what_has_no_target(&base);
        let infos = Self::of_same_targets(&base, infos, |row| self.is_info(row));
        let mut by_target: HashMap<Labels, BTreeMap<&str, Vec<&Row>>> = HashMap::new();
        for info in &infos {
            context.spend(1)?;
            by_target
                .entry(info.labels.keeping(&IDENTIFYING_LABELS))
                .or_default()
                .entry(info.labels.value_of(METRIC_NAME))
                .or_default()
                .push(info);
        }
        let none = BTreeMap::new();
        let mut results = Vec::new();
        for row in base {
            context.spend(row.steps())?;
            if self.is_info(&row) {
                results.push(row);
                continue;
            }
            if is_lost {
                continue;
            }
            let target = row.labels.keeping(&IDENTIFYING_LABELS);
            self.enrich_row(&row, by_target.get(&target).unwrap_or(&none), &mut results)?;
        }
        merge_rows(results, context)
    }

    fn is_info(&self, row: &Row) -> bool {
        self.names.iter().any(|matcher| matcher.matches(row.labels.value_of(METRIC_NAME)))
    }

    /// Whether none of the rows has a target while a name is asked for: Prometheus then takes the name for a label that is not there, and keeps nothing.
    fn loses_what_has_no_target(&self, base: &[Row]) -> bool {
        let has_target = |row: &Row| IDENTIFYING_LABELS.iter().any(|name| row.labels.contains(name));
        self.asks_names
            && !self.names.iter().all(Matcher::matches_empty)
            && !base.iter().any(|row| !self.is_info(row) && has_target(row))
    }

    /// The info rows whose identifying labels occur among the base rows.
    fn of_same_targets(base: &[Row], infos: Vec<Row>, is_info: impl Fn(&Row) -> bool) -> Vec<Row> {
        let wanted: Vec<(&str, BTreeSet<&str>)> = IDENTIFYING_LABELS
            .iter()
            .map(|name| {
                let rows = base.iter().filter(|row| !is_info(row));
                (*name, rows.filter_map(|row| row.labels.get(name)).collect::<BTreeSet<_>>())
            })
            .filter(|(_, values)| !values.is_empty())
            .collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let fits = |row: &Row| wanted.iter().all(|(name, values)| values.contains(row.labels.value_of(name)));
        infos.into_iter().filter(fits).collect()
    }

    /// Different info series may hold at different steps: each choice of them makes a series of its own.
    fn enrich_row(
        &self,
        row: &Row,
        infos: &BTreeMap<&str, Vec<&Row>>,
        results: &mut Vec<Row>,
    ) -> Result<(), QueryError> {
        let mut choices: HashMap<Vec<*const Row>, Option<usize>> = HashMap::new();
        for step in row.occupied().ones() {
            let mut chosen = Vec::with_capacity(infos.len());
            for candidates in infos.values() {
                chosen.extend(newest(candidates, step)?);
            }
            let key: Vec<*const Row> = chosen.iter().map(|info| std::ptr::from_ref(*info)).collect();
            let at = match choices.get(&key) {
                Some(at) => *at,
                None => {
                    let at = self.labels(&row.labels, &chosen)?.map(|labels| {
                        results.push(Row::empty(labels, row.steps()));
                        results.len() - 1
                    });
                    choices.insert(key, at);
                    at
                }
            };
            if let (Some(result), Some(sample)) = (at.and_then(|at| results.get_mut(at)), row.sample(step)) {
                result.push_sample(step, sample);
            }
        }
        Ok(())
    }

    /// The labels of `base` and what `infos` add; `None` if a matcher asks for a label that is not there.
    fn labels(&self, base: &Labels, infos: &[&Row]) -> Result<Option<Labels>, QueryError> {
        let mut added = LabelsBuilder::new(&Labels::empty());
        for (name, value) in infos.iter().flat_map(|info| &info.labels) {
            let wanted = self.data.is_empty() || self.data.iter().any(|matcher| matcher.name() == name);
            if name == METRIC_NAME || !wanted {
                continue;
            }
            if added.get(name).is_some_and(|other| other != value) {
                return Err(QueryError::Execution(format!("conflicting label: {name}")));
            }
            if !base.contains(name) {
                added.set(name, value);
            }
        }
        let added = added.build();
        if added.is_empty() && !self.data.iter().all(Matcher::matches_empty) {
            return Ok(None);
        }
        Ok(Some(base.overlaid_with(&added)))
    }
}

/// The info row with the newest sample at `step`.
fn newest<'a>(candidates: &[&'a Row], step: usize) -> Result<Option<&'a Row>, QueryError> {
    let mut best: Option<(&Row, f64)> = None;
    for info in candidates {
        let Some(time_ms) = info.float(step) else { continue };
        match best {
            Some((known, known_ms)) if known_ms == time_ms => {
                return Err(QueryError::Execution(format!(
                    "found duplicate series for info metric: existing {} @ {known_ms}, new {} @ {time_ms}",
                    go_labels(&known.labels),
                    go_labels(&info.labels),
                )));
            }
            Some((_, known_ms)) if known_ms > time_ms => {}
            _ => best = Some((info, time_ms)),
        }
    }
    Ok(best.map(|(info, _)| info))
}
