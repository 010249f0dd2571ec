//! Lines into commands.
//!
//! A command's block ends with an empty line; a line of comment counts as empty.

use parallax_model::parse_duration_ms;

use super::expect::{Expectations, Kind, Matching};
use super::load::Load;
use super::{Command, Eval, ScriptError};
use crate::engine::QueryRange;
use crate::lex::quoting::unquote;
use crate::parse::number;
use crate::series_notation::{SequenceValue, SeriesDescription, parse_series};

/// Longer scripts are refused.
const MAX_LINES: usize = 100_000;

pub(super) fn commands(text: &str) -> Result<Vec<Command>, ScriptError> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).map(|line| if line.starts_with('#') { "" } else { line }).collect();
    if lines.len() > MAX_LINES {
        return Err(ScriptError { line: MAX_LINES, reason: format!("more than {MAX_LINES} lines") });
    }
    let mut reader = Reader { lines, at: 0 };
    let mut commands = Vec::new();
    while let Some(line) = reader.lines.get(reader.at).copied() {
        reader.at += 1;
        if line.is_empty() {
            continue;
        }
        commands.push(reader.command(line)?);
    }
    Ok(commands)
}

struct Reader<'a> {
    lines: Vec<&'a str>,
    /// The next line to read, so that it is also the number of the line read last.
    at: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: impl Into<String>) -> ScriptError {
        ScriptError { line: self.at, reason: reason.into() }
    }

    /// The next line of the block.
    fn block_line(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.at).copied().filter(|line| !line.is_empty())?;
        self.at += 1;
        Some(line)
    }

    fn command(&mut self, line: &'a str) -> Result<Command, ScriptError> {
        let (word, rest) = split_word(line);
        match word {
            "clear" => Ok(Command::Clear),
            "load" => self.load(rest, false),
            "load_with_nhcb" => self.load(rest, true),
            "eval" => self.eval(rest, None),
            "eval_ordered" => self.eval(rest, Some(Kind::Ordered)),
            "eval_fail" => self.eval(rest, Some(Kind::Fail)),
            "eval_warn" => self.eval(rest, Some(Kind::Warn)),
            "eval_info" => self.eval(rest, Some(Kind::Info)),
            _ => Err(self.error(format!("invalid command {line:?}"))),
        }
    }

    fn duration(&self, text: &str) -> Result<i64, ScriptError> {
        parse_duration_ms(text).ok_or_else(|| self.error(format!("invalid duration {text:?}")))
    }

    fn series(&self, line: &str) -> Result<SeriesDescription, ScriptError> {
        parse_series(line).map_err(|error| self.error(error.to_string()))
    }

    fn load(&mut self, step: &str, with_nhcb: bool) -> Result<Command, ScriptError> {
        let (line, step_ms) = (self.at, self.duration(step)?);
        let mut series = Vec::new();
        while let Some(description) = self.block_line() {
            series.push(self.series(description)?);
        }
        Ok(Command::Load(Load { line, step_ms, series, with_nhcb }))
    }

    fn eval(&mut self, rest: &'a str, mode: Option<Kind>) -> Result<Command, ScriptError> {
        let line = self.at;
        let (kind, rest) = split_word(rest);
        let (range, query) = match kind {
            "instant" => {
                let (at, query) = self.labelled(rest, "at")?;
                (QueryRange::instant(at), query)
            }
            "range" => {
                let (start_ms, rest) = self.labelled(rest, "from")?;
                let (end_ms, rest) = self.labelled(rest, "to")?;
                let (step_ms, query) = self.labelled(rest, "step")?;
                if end_ms < start_ms {
                    return Err(self.error("the end is before the start"));
                }
                if step_ms <= 0 {
                    return Err(self.error("the step is not positive"));
                }
                (QueryRange { start_ms, end_ms, step_ms }, query)
            }
            _ => return Err(self.error("an eval is `instant` or `range`")),
        };
        let mut expected = Expectations::default();
        if let Some(kind) = mode {
            expected.add(kind, Matching::Anything).map_err(|reason| self.error(reason))?;
        }
        self.expectations(&mut expected, range.is_instant())?;
        Ok(Command::Eval(Box::new(Eval { line, query: query.to_owned(), range, expected })))
    }

    /// `word duration …`
    fn labelled(&self, text: &'a str, word: &str) -> Result<(i64, &'a str), ScriptError> {
        let (found, rest) = split_word(text);
        if found != word {
            return Err(self.error(format!("expected {word:?}, found {found:?}")));
        }
        let (duration, rest) = split_word(rest);
        Ok((self.duration(duration)?, rest))
    }

    fn expectations(&mut self, expected: &mut Expectations, is_instant: bool) -> Result<(), ScriptError> {
        while let Some(line) = self.block_line() {
            if let Some(message) = line.strip_prefix("expected_fail_message") {
                expected.replace_failure(Matching::Exactly(message.trim().to_owned()));
                continue;
            }
            if let Some(pattern) = line.strip_prefix("expected_fail_regexp") {
                let matching = Matching::pattern(pattern.trim()).map_err(|reason| self.error(reason))?;
                expected.replace_failure(matching);
                continue;
            }
            let (word, rest) = split_word(line);
            if word == "expect" {
                self.expect(rest, expected)?;
            } else if let Ok(value) = number(line) {
                expected.scalar = Some(value);
            } else if let Some(value) = signed(line) {
                expected.scalar = Some(value);
            } else {
                let SeriesDescription { labels, values } = self.series(line)?;
                if values.len() > 1 && is_instant && expected.matrix_times.is_none() {
                    return Err(
                        self.error("an instant query gives one value, or needs `expect range vector`")
                    );
                }
                let values = if values.is_empty() { vec![SequenceValue::Omitted] } else { values };
                expected.series.push((labels, values));
            }
        }
        Ok(())
    }

    fn expect(&mut self, text: &str, expected: &mut Expectations) -> Result<(), ScriptError> {
        let (word, rest) = split_word(text);
        match word {
            "range" => {
                let (_, rest) = split_word(rest);
                let (start_ms, rest) = self.labelled(rest, "from")?;
                let (end_ms, rest) = self.labelled(rest, "to")?;
                let (step_ms, _) = self.labelled(rest, "step")?;
                expected.matrix_times = Some(QueryRange { start_ms, end_ms, step_ms });
                return Ok(());
            }
            "string" => {
                let text = unquote(rest).ok_or_else(|| self.error("expected a quoted string"))?;
                expected.string = Some(text);
                return Ok(());
            }
            _ => {}
        }
        let kind = Kind::named(word).ok_or_else(|| self.error(format!("nothing to expect: {word:?}")))?;
        let matching = match rest.split_once(':') {
            None if rest.is_empty() => Matching::Anything,
            Some(("msg", message)) => Matching::Exactly(message.trim().to_owned()),
            Some(("regex", pattern)) => {
                Matching::pattern(pattern.trim()).map_err(|reason| self.error(reason))?
            }
            _ => return Err(self.error(format!("invalid expect statement {text:?}"))),
        };
        expected.add(kind, matching).map_err(|reason| self.error(reason))
    }
}

/// The first word, and what follows the blanks behind it.
fn split_word(text: &str) -> (&str, &str) {
    match text.split_once([' ', '\t']) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

fn signed(text: &str) -> Option<f64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, text.strip_prefix('+')?),
    };
    number(digits).ok().map(|value| sign * value)
}
