//! What is asked of one partition, and what may be made of its answer.
//!
//! Invariant: a text is only asked if it parses back to what it was made of. An answer counts as a whole or not at all.

use std::collections::{BTreeSet, HashMap, HashSet};

use parallax_model::float::is_stale;
use parallax_model::{FloatColumn, Labels, METRIC_NAME, Matcher, SeriesData};

use super::Times;
use crate::ast::{Aggregate, AggregateOp, Call, Expr, ExprKind, Grouping, PosRange};
use crate::exec::row::Steps;
use crate::parse::{ParserOptions, parse};
use crate::signature;

/// Tells the counts from the sums in one answer for an average.
const MARK: &str = "parallax_partial";
const COUNT: &str = "count";

const INFO_PREFIX: &str = "PromQL info: ";
/// What a note of the engine begins with.
const NOTE_PREFIX: &str = "PromQL ";

/// See the module.
#[derive(Clone, Debug)]
pub struct Question {
    text: String,
    op: AggregateOp,
    /// By which labels the answer is grouped.
    grouping: Grouping,
    times: Times,
    /// Places in the text, and those in the query that they stand for.
    places: HashMap<usize, usize>,
}

/// An answer that has passed.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    pub(crate) rows: Vec<PartialRow>,
    /// What there is to say about the query, with the place in it.
    pub(crate) infos: Vec<(Option<usize>, String)>,
}

/// One group of one partition.
#[derive(Clone, Debug)]
pub(crate) struct PartialRow {
    pub labels: Labels,
    pub values: Steps,
    /// Of an average, whose `values` are sums: how many samples each is made of.
    pub counts: Option<Steps>,
}

impl Partition {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Question {
    pub(super) fn new(
        aggregate: &Aggregate,
        position: usize,
        times: Times,
        partition: &[&str],
        own: &[Matcher],
    ) -> Option<Self> {
        let grouping = keeping(&aggregate.grouping, partition);
        let mut asked = Aggregate { grouping: grouping.clone(), ..aggregate.clone() };
        add_matchers(&mut asked.operand, own);
        let whole = |op: AggregateOp| unplaced(ExprKind::Aggregate(Aggregate { op, ..asked.clone() }));
        let (expr, parts) = match aggregate.op {
            AggregateOp::Avg if uses_mark(&grouping) => return None,
            AggregateOp::Avg => (sums_and_counts(whole(AggregateOp::Sum), whole(AggregateOp::Count))?, 2),
            op => (whole(op), 1),
        };
        let text = expr.to_string();
        let parsed = parse(&text, &ParserOptions::all_features()).ok()?;
        if parsed.to_string() != text {
            return None;
        }
        let here = places_of(aggregate, position);
        let there = asked_aggregates(&parsed);
        if there.len() != parts {
            return None;
        }
        let mut places = HashMap::new();
        for (aggregate, position) in there {
            let there = places_of(aggregate, position);
            if there.len() != here.len() {
                return None;
            }
            there.into_iter().zip(&here).for_each(|(there, here)| {
                places.entry(there).or_insert(*here);
            });
        }
        Some(Self { text, op: aggregate.op, grouping, times, places })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn times(&self) -> Times {
        self.times
    }

    /// Takes an answer, if it can be one, with the notes of the engine that made it.
    ///
    /// # Errors
    /// Says why the partition has to be read instead.
    pub fn check(&self, series: Vec<SeriesData>, notes: &[String]) -> Result<Partition, String> {
        let mut seen = HashSet::with_capacity(series.len());
        let mut rows: Vec<PartialRow> = Vec::new();
        let mut counts: HashMap<Labels, Steps> = HashMap::new();
        for one in series {
            if !one.histograms.is_empty() {
                return Err("it has histograms".to_owned());
            }
            if !seen.insert(one.labels.clone()) {
                return Err(format!("it has {} twice", one.labels));
            }
            let steps = self.steps(&one.floats)?;
            let is_average = self.op == AggregateOp::Avg;
            if is_average && one.labels.get(MARK) == Some(COUNT) {
                counts.insert(self.of_group(one.labels.without(&[MARK]))?, steps);
                continue;
            }
            self.check_values(&one.floats)?;
            rows.push(PartialRow { labels: self.of_group(one.labels)?, values: steps, counts: None });
        }
        if self.op == AggregateOp::Avg {
            pair(&mut rows, counts)?;
        }
        let infos = notes.iter().map(|note| self.info(note)).collect::<Result<_, _>>()?;
        Ok(Partition { rows, infos })
    }

    /// Labels that a group of the answer can have.
    fn of_group(&self, labels: Labels) -> Result<Labels, String> {
        let is_foreign = |name: &str| match &self.grouping {
            Grouping::By(names) => !names.iter().any(|known| known == name),
            Grouping::Without(names) => name == METRIC_NAME || names.iter().any(|gone| gone == name),
        };
        match labels.iter().find(|(name, _)| is_foreign(name)) {
            Some((name, _)) => Err(format!("it was not to be grouped by {name}")),
            None => Ok(labels),
        }
    }

    fn steps(&self, floats: &FloatColumn) -> Result<Steps, String> {
        let Times { start_ms, step_ms, steps: count, .. } = self.times;
        let mut steps = Steps::empty(count);
        let mut filled = steps.as_mut();
        let mut before: Option<usize> = None;
        for (time_ms, value) in floats.iter() {
            let after_ms = time_ms.checked_sub(start_ms).filter(|after_ms| after_ms % step_ms == 0);
            let step = after_ms.and_then(|after_ms| usize::try_from(after_ms / step_ms).ok());
            let Some(step) = step.filter(|step| *step < count && before.is_none_or(|before| before < *step))
            else {
                return Err(format!("it has a sample at {time_ms}, where no step was asked for"));
            };
            if is_stale(value) {
                return Err("it has a staleness marker".to_owned());
            }
            before = Some(step);
            filled.set_float(step, value);
        }
        Ok(steps)
    }

    fn check_values(&self, floats: &FloatColumn) -> Result<(), String> {
        let is_wrong = |value: &f64| match self.op {
            AggregateOp::Sum => value.is_infinite(),
            AggregateOp::Avg => !value.is_finite(),
            AggregateOp::Count => !is_count(*value),
            AggregateOp::Group => *value != 1.0,
            _ => false,
        };
        match floats.values.iter().find(|value| is_wrong(value)) {
            Some(value) => Err(format!("it has {value}, of which nothing can be made")),
            None => Ok(()),
        }
    }

    /// An info with its place in the query. Other notes decline the answer: what they say may concern other partitions, too.
    fn info(&self, note: &str) -> Result<(Option<usize>, String), String> {
        if !note.starts_with(INFO_PREFIX) || note.matches(NOTE_PREFIX).count() > 1 {
            return Err(format!("it says: {note}"));
        }
        let placed = note.rsplit_once(" (1:").and_then(|(text, end)| {
            let column: usize = end.strip_suffix(')')?.parse().ok()?;
            Some((text, column.checked_sub(1)?))
        });
        Ok(match placed {
            Some((text, at)) => {
                let known = self.places.get(&at).copied();
                (known, if known.is_some() { text.to_owned() } else { note.to_owned() })
            }
            None => (None, note.to_owned()),
        })
    }

    /// Whether `warning` is a note of the engine, and not about where the data comes from.
    pub fn is_note(warning: &str) -> bool {
        warning.contains(NOTE_PREFIX)
    }
}

/// Whole and positive, and so small that sums of many are exact.
fn is_count(value: f64) -> bool {
    (1.0..=4_503_599_627_370_496.0).contains(&value) && value.fract() == 0.0
}

/// Gives each sum its counts.
fn pair(rows: &mut [PartialRow], mut counts: HashMap<Labels, Steps>) -> Result<(), String> {
    for row in rows.iter_mut() {
        let own = counts.remove(&row.labels).ok_or_else(|| format!("it has no counts for {}", row.labels))?;
        let is_same = own.present == row.values.present;
        if !is_same || !own.present.ones().all(|step| own.floats.get(step).copied().is_some_and(is_count)) {
            return Err(format!("its counts for {} do not fit its sums", row.labels));
        }
        row.counts = Some(own);
    }
    if counts.is_empty() { Ok(()) } else { Err("it has counts without sums".to_owned()) }
}

/// The same groups, told apart by the labels of the partition, too.
fn keeping(grouping: &Grouping, partition: &[&str]) -> Grouping {
    match grouping {
        Grouping::By(names) => {
            let all: BTreeSet<&str> =
                names.iter().map(String::as_str).chain(partition.iter().copied()).collect();
            Grouping::By(all.into_iter().map(str::to_owned).collect())
        }
        Grouping::Without(names) => {
            let others = names.iter().filter(|name| !partition.contains(&name.as_str()));
            Grouping::Without(others.cloned().collect())
        }
    }
}

fn uses_mark(grouping: &Grouping) -> bool {
    let (Grouping::By(names) | Grouping::Without(names)) = grouping;
    names.iter().any(|name| name == MARK)
}

fn unplaced(kind: ExprKind) -> Expr {
    Expr { pos: PosRange::default(), kind }
}

/// Both in one answer, so that they are of the same samples.
fn sums_and_counts(sums: Expr, counts: Expr) -> Option<Expr> {
    use crate::ast::{Binary, BinaryOp, Cardinality, VectorMatching};
    let text = |text: &str| unplaced(ExprKind::String(text.to_owned()));
    let marked = Call {
        function: signature::lookup("label_replace")?,
        arguments: vec![counts, text(MARK), text(COUNT), text(""), text("")],
    };
    let matching = VectorMatching {
        cardinality: Cardinality::ManyToMany,
        labels: Vec::new(),
        on: false,
        include: Vec::new(),
        fill_left: None,
        fill_right: None,
    };
    Some(unplaced(ExprKind::Binary(Box::new(Binary {
        op: BinaryOp::Or,
        left: sums,
        right: unplaced(ExprKind::Call(marked)),
        return_bool: false,
        matching: Some(matching),
    }))))
}

/// The aggregations of a question, with their places.
fn asked_aggregates(expr: &Expr) -> Vec<(&Aggregate, usize)> {
    match &expr.kind {
        ExprKind::Aggregate(aggregate) => vec![(aggregate, expr.pos.start)],
        ExprKind::Binary(binary) => {
            [asked_aggregates(&binary.left), asked_aggregates(&binary.right)].concat()
        }
        ExprKind::Call(call) => call.arguments.first().map(asked_aggregates).unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Narrows every selector.
fn add_matchers(expr: &mut Expr, own: &[Matcher]) {
    let add = |matchers: &mut Vec<Matcher>| {
        for matcher in own {
            if !matchers.contains(matcher) {
                matchers.push(matcher.clone());
            }
        }
    };
    match &mut expr.kind {
        ExprKind::Vector(selector) => add(&mut selector.matchers),
        ExprKind::Matrix(matrix) => add(&mut matrix.selector.matchers),
        ExprKind::Paren(inner) | ExprKind::Unary { operand: inner, .. } => add_matchers(inner, own),
        ExprKind::Call(call) => call.arguments.iter_mut().for_each(|argument| add_matchers(argument, own)),
        ExprKind::Binary(binary) => {
            add_matchers(&mut binary.left, own);
            add_matchers(&mut binary.right, own);
        }
        ExprKind::Aggregate(aggregate) => add_matchers(&mut aggregate.operand, own),
        ExprKind::Subquery(subquery) => add_matchers(&mut subquery.operand, own),
        ExprKind::Number(_) | ExprKind::String(_) => {}
    }
}

/// Where the parts of an aggregation stand, always in the same order.
fn places_of(aggregate: &Aggregate, position: usize) -> Vec<usize> {
    fn collect(expr: &Expr, places: &mut Vec<usize>) {
        places.push(expr.pos.start);
        match &expr.kind {
            ExprKind::Matrix(matrix) => places.push(matrix.selector_pos.start),
            ExprKind::Paren(inner) | ExprKind::Unary { operand: inner, .. } => collect(inner, places),
            ExprKind::Call(call) => call.arguments.iter().for_each(|argument| collect(argument, places)),
            ExprKind::Binary(binary) => {
                collect(&binary.left, places);
                collect(&binary.right, places);
            }
            ExprKind::Aggregate(aggregate) => collect(&aggregate.operand, places),
            ExprKind::Subquery(subquery) => collect(&subquery.operand, places),
            ExprKind::Vector(_) | ExprKind::Number(_) | ExprKind::String(_) => {}
        }
    }
    let mut places = vec![position];
    collect(&aggregate.operand, &mut places);
    places
}
