//! Scripts that load series, ask queries and state the answers: Prometheus' `.test` files.
//!
//! The notation is that of Prometheus 3.9 `promql/promqltest` (its README): `load`, `load_with_nhcb`, `clear`,
//! `eval instant`, `eval range`, `expect …`, and the older `eval_fail`, `eval_warn`, `eval_info`, `eval_ordered`.
//! A script is read as a whole (`read`), then run command by command; an `eval` that fails does not stop the
//! script. As in Prometheus every instant query is also asked as a range query, and with its time pinned by
//! `@` at several other times (`variants`). Time starts at the epoch.

mod compare;
mod expect;
mod load;
mod read;
mod variants;

use crate::engine::{Engine, Interrupt, QueryOutcome, QueryRange};
use crate::memory_source::MemorySource;
use crate::parse::{ParserOptions, parse};
use crate::value::QueryValue;
use expect::Expectations;
use load::Load;
use variants::Variant;

/// A script that was read.
#[derive(Debug)]
pub struct Script {
    commands: Vec<Command>,
}

/// A script that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ScriptError {
    /// From one.
    pub line: usize,
    pub reason: String,
}

#[derive(Debug)]
enum Command {
    Clear,
    Load(Load),
    Eval(Box<Eval>),
}

#[derive(Debug)]
struct Eval {
    line: usize,
    query: String,
    range: QueryRange,
    expected: Expectations,
}

/// What came out of running a script.
#[derive(Debug, Default)]
pub struct Report {
    /// How many `eval` commands held.
    pub passed: usize,
    pub failures: Vec<Failure>,
}

/// A command that did not do what the script states.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {query}: {reason}")]
pub struct Failure {
    pub line: usize,
    /// The query, or empty for a `load`.
    pub query: String,
    pub reason: String,
}

impl Script {
    /// # Errors
    /// If a line is no command, or belongs to none.
    pub fn read(text: &str) -> Result<Self, ScriptError> {
        read::commands(text).map(|commands| Self { commands })
    }

    /// How many `eval` commands the script has.
    pub fn eval_count(&self) -> usize {
        self.commands.iter().filter(|command| matches!(command, Command::Eval(_))).count()
    }

    /// Runs the script from empty storage.
    pub fn run(&self, engine: &Engine, options: &ParserOptions) -> Report {
        let mut source = MemorySource::new();
        let mut report = Report::default();
        for command in &self.commands {
            match command {
                Command::Clear => source.clear(),
                Command::Load(load) => {
                    if let Err(reason) = load.run(&mut source) {
                        report.failures.push(Failure { line: load.line, query: String::new(), reason });
                    }
                }
                Command::Eval(eval) => match eval.run(engine, options, &source) {
                    Ok(()) => report.passed += 1,
                    Err(reason) => {
                        let query = eval.query.clone();
                        report.failures.push(Failure { line: eval.line, query, reason });
                    }
                },
            }
        }
        report
    }
}

impl Eval {
    fn run(&self, engine: &Engine, options: &ParserOptions, source: &MemorySource) -> Result<(), String> {
        let expr = match parse(&self.query, options) {
            Ok(expr) => expr,
            Err(error) if self.expected.fails() => return self.expected.check_failure(&error.to_string()),
            Err(error) => return Err(error.to_string()),
        };
        let run = Run { engine, source, expected: &self.expected };
        if !self.range.is_instant() {
            return run.check(&Variant { text: self.query.clone(), expr, at_ms: 0 }, self.range).map(drop);
        }
        let at_ms = self.range.start_ms;
        let pinned = variants::pinned(&expr, at_ms);
        let original = Variant { text: self.query.clone(), expr, at_ms };
        for variant in std::iter::once(original).chain(pinned) {
            let is_original = variant.text == self.query && variant.at_ms == at_ms;
            run.check_instant(&variant).map_err(|reason| {
                if is_original {
                    return reason;
                }
                format!("{reason} (asked as `{}` at {} ms)", variant.text, variant.at_ms)
            })?;
        }
        Ok(())
    }
}

/// What one `eval` runs against.
struct Run<'a> {
    engine: &'a Engine,
    source: &'a MemorySource,
    expected: &'a Expectations,
}

const MINUTE_MS: i64 = 60_000;

impl Run<'_> {
    fn ask(&self, variant: &Variant, range: QueryRange) -> Result<QueryOutcome, String> {
        self.engine
            .query_text(self.source, &variant.text, &variant.expr, range, &Interrupt::none())
            .map_err(|error| error.to_string())
    }

    /// The value of the query, which is as expected; `None` if it failed, as expected.
    fn check(&self, variant: &Variant, range: QueryRange) -> Result<Option<QueryValue>, String> {
        let outcome = match self.ask(variant, range) {
            Err(error) if self.expected.fails() => {
                return self.expected.check_failure(&error).map(|()| None);
            }
            Err(error) => return Err(format!("evaluation failed: {error}")),
            Ok(_) if self.expected.fails() => return Err("expected a failure, but there was none".to_owned()),
            Ok(outcome) => outcome,
        };
        self.expected.check_annotations(&outcome.warnings, &outcome.infos)?;
        self.expected.check_value(&outcome.value, range)?;
        Ok(Some(outcome.value))
    }

    /// Asks the query at one time, and then as the middle step of a range.
    fn check_instant(&self, variant: &Variant) -> Result<(), String> {
        let Some(value) = self.check(variant, QueryRange::instant(variant.at_ms))? else { return Ok(()) };
        if !self.expected.holds_in_ranges() {
            return Ok(());
        }
        let start_ms = variant.at_ms.saturating_sub(MINUTE_MS);
        let end_ms = variant.at_ms.saturating_add(MINUTE_MS);
        let range = QueryRange { start_ms, end_ms, step_ms: MINUTE_MS };
        let in_range_mode = |reason: String| format!("{reason} (in range mode)");
        let outcome = self.ask(variant, range).map_err(in_range_mode)?;
        // The series of a matrix are in the order of their labels, whatever the query asks for.
        if self.expected.is_ordered() {
            return Ok(());
        }
        let middle = compare::step_of(&outcome.value, variant.at_ms, &value)?;
        self.expected.check_value(&middle, QueryRange::instant(variant.at_ms)).map_err(in_range_mode)
    }
}
