//! Log lines: logfmt as Go's kit writes it (`ts=… level=… msg=… key=value`), or the same keys as one JSON object per line.
//!
//! Invariant: one event is one line, whatever its fields hold: control characters are escaped, a bare value never contains a space, quote or `=`.
//! Fields of enclosing spans follow the event's own. Lines go to standard error. Filtering: our crates at the asked level, others at warn
//! (h2, hyper and rustls say too much below it), unless `PARALLAX_LOG` holds a filter in `tracing-subscriber`'s syntax.

use std::fmt;
use std::str::FromStr;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::Error;

/// The environment variable that overrides the filter.
const FILTER_VARIABLE: &str = "PARALLAX_LOG";

/// The least severe events that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

impl LogLevel {
    /// The word of the flag.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl FromStr for LogLevel {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            other => Err(Error::UnknownLevel(other.to_owned())),
        }
    }
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Logfmt,
    Json,
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            other => Err(Error::UnknownFormat(other.to_owned())),
        }
    }
}

/// Installs the process-wide subscriber. Errors: called twice, or `PARALLAX_LOG` does not parse.
pub fn init_logging(level: LogLevel, format: LogFormat) -> Result<(), Error> {
    let filter = filter(level)?;
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_env_filter(filter)
        .fmt_fields(PairFields)
        .event_format(LineFormat { format });
    subscriber.try_init().map_err(|_| Error::AlreadyInitialised)
}

fn filter(level: LogLevel) -> Result<EnvFilter, Error> {
    let text = match std::env::var(FILTER_VARIABLE) {
        Ok(text) if !text.is_empty() => text,
        _ => match level {
            LogLevel::Error => "error".to_owned(),
            other => format!("warn,parallax={}", other.as_str()),
        },
    };
    EnvFilter::try_new(&text).map_err(|error| Error::Filter { filter: text, reason: error.to_string() })
}

/// Writes one event as one line.
struct LineFormat {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        let mut line = Pairs::default();
        line.push("ts", timestamp());
        line.push("level", level_word(*event.metadata().level()).to_owned());
        line.push("msg", pairs.take("message").unwrap_or_default());
        line.0.append(&mut pairs.0);
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                    line.extend_from_encoded(fields.as_str());
                }
            }
        }
        match self.format {
            LogFormat::Logfmt => line.write_logfmt(&mut writer)?,
            LogFormat::Json => line.write_json(&mut writer)?,
        }
        writer.write_char('\n')
    }
}

/// Keeps a span's fields as `key\u{1f}value\u{1e}` so that either line format can take them up again.
struct PairFields;

impl<'a> FormatFields<'a> for PairFields {
    fn format_fields<R: tracing_subscriber::field::RecordFields>(
        &self,
        mut writer: Writer<'a>,
        fields: R,
    ) -> fmt::Result {
        let mut pairs = Pairs::default();
        fields.record(&mut pairs);
        for (key, value) in &pairs.0 {
            let value = value.replace([FIELD_END, KEY_END], " ");
            write!(writer, "{key}{KEY_END}{value}{FIELD_END}")?;
        }
        Ok(())
    }
}

const KEY_END: char = '\u{1f}';
const FIELD_END: char = '\u{1e}';

/// Field names and values in the order of their recording.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn push(&mut self, key: &str, value: String) {
        self.0.push((key.to_owned(), value));
    }

    fn take(&mut self, key: &str) -> Option<String> {
        let position = self.0.iter().position(|(name, _)| name == key)?;
        Some(self.0.remove(position).1)
    }

    fn extend_from_encoded(&mut self, encoded: &str) {
        for field in encoded.split(FIELD_END).filter(|field| !field.is_empty()) {
            if let Some((key, value)) = field.split_once(KEY_END) {
                self.push(key, value.to_owned());
            }
        }
    }

    fn write_logfmt(&self, writer: &mut impl fmt::Write) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            if index > 0 {
                writer.write_char(' ')?;
            }
            writer.write_str(key)?;
            writer.write_char('=')?;
            write_logfmt_value(writer, value)?;
        }
        Ok(())
    }

    fn write_json(&self, writer: &mut impl fmt::Write) -> fmt::Result {
        let mut seen: Vec<&str> = Vec::with_capacity(self.0.len());
        writer.write_char('{')?;
        for (key, value) in &self.0 {
            if seen.contains(&key.as_str()) {
                continue;
            }
            if !seen.is_empty() {
                writer.write_char(',')?;
            }
            seen.push(key);
            let key = serde_json::Value::from(key.as_str());
            let value = serde_json::Value::from(value.as_str());
            write!(writer, "{key}:{value}")?;
        }
        writer.write_char('}')
    }
}

impl Visit for Pairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        self.push(field.name(), text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field.name(), format!("{value:?}"));
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}

/// UTC with milliseconds, as in `2026-01-02T03:04:05.678Z`.
fn timestamp() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn write_logfmt_value(writer: &mut impl fmt::Write, value: &str) -> fmt::Result {
    let bare = !value.is_empty()
        && value.chars().all(|c| c > ' ' && c != '"' && c != '=' && c != '\\' && !c.is_control());
    if bare {
        return writer.write_str(value);
    }
    writer.write_char('"')?;
    for c in value.chars() {
        match c {
            '"' => writer.write_str("\\\"")?,
            '\\' => writer.write_str("\\\\")?,
            '\n' => writer.write_str("\\n")?,
            '\r' => writer.write_str("\\r")?,
            '\t' => writer.write_str("\\t")?,
            c if c.is_control() => write!(writer, "\\u{:04x}", u32::from(c))?,
            c => writer.write_char(c)?,
        }
    }
    writer.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn captured(format: LogFormat, body: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(PairFields)
            .event_format(LineFormat { format })
            .finish();
        tracing::subscriber::with_default(subscriber, body);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_logfmt_line_has_time_level_message_then_fields() {
        let line = captured(LogFormat::Logfmt, || {
            tracing::warn!(endpoint = "eu-1:10901", tries = 3, "store is late");
        });
        let rest = line.split_once(' ').unwrap();
        assert!(rest.0.starts_with("ts=20") && rest.0.ends_with('Z'), "{line}");
        assert_eq!(rest.1, "level=warn msg=\"store is late\" endpoint=eu-1:10901 tries=3\n");
    }

    #[test]
    fn awkward_values_stay_on_one_line_and_are_quoted() {
        let line = captured(LogFormat::Logfmt, || {
            tracing::info!(a = "x=y", b = "", c = "line\nbreak \"q\" \u{7}", "ok");
        });
        assert!(line.ends_with("msg=ok a=\"x=y\" b=\"\" c=\"line\\nbreak \\\"q\\\" \\u0007\"\n"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }

    #[test]
    fn fields_of_spans_follow_those_of_the_event() {
        let line = captured(LogFormat::Logfmt, || {
            let span = tracing::info_span!("querier", component = "query eu");
            let _entered = span.enter();
            tracing::info!(store = "s1", "added");
        });
        assert!(line.ends_with("msg=added store=s1 component=\"query eu\"\n"), "{line}");
    }

    #[test]
    fn json_lines_parse_and_hold_the_same_keys() {
        let line = captured(LogFormat::Json, || tracing::error!(path = "a\"b", "no\tgood"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "no\tgood");
        assert_eq!(value["path"], "a\"b");
        assert!(value["ts"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn levels_and_formats_are_parsed_strictly() {
        assert_eq!("warn".parse::<LogLevel>().unwrap(), LogLevel::Warn);
        assert!("WARN".parse::<LogLevel>().is_err());
        assert!("text".parse::<LogFormat>().is_err());
    }
}
