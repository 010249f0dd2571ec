//! The values of one component's flags, layered, typed on reading; refused flags are found here.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;
use config::{Config, Environment, File, FileFormat};

use super::{Fate, Flag, Kind, SETTINGS_FLAG};

/// The prefix of environment variables that set flags.
const ENVIRONMENT_PREFIX: &str = "PARALLAX";

/// The settled values of one component's flags.
pub struct Values {
    flags: Vec<Flag>,
    layered: Config,
    /// Given flags, in the order of the command line (lists keep all their values).
    given: Vec<(&'static str, Vec<String>)>,
}

impl Values {
    /// # Errors
    /// If a refused flag was set, a value does not have its flag's form, or the settings file cannot be read
    /// or names a flag that does not exist.
    pub fn settle(flags: Vec<Flag>, matches: &ArgMatches) -> anyhow::Result<Self> {
        let mut given: Vec<(&'static str, Vec<String>)> = flags
            .iter()
            .filter_map(|flag| given_values(flag, matches).map(|values| (flag.name, values)))
            .collect();
        // The file lies beneath the environment, which may all the same name it.
        if !given.iter().any(|(name, _)| *name == SETTINGS_FLAG)
            && let Ok(path) = std::env::var(format!("{ENVIRONMENT_PREFIX}_SETTINGS_FILE"))
        {
            given.push((SETTINGS_FLAG, vec![path]));
        }
        let mut builder = Config::builder();
        if let Some((_, paths)) = given.iter().find(|(name, _)| *name == SETTINGS_FLAG)
            && let Some(path) = paths.last()
        {
            builder = builder.add_source(File::new(path, FileFormat::Yaml));
        }
        let layered = builder
            .add_source(Environment::with_prefix(ENVIRONMENT_PREFIX).prefix_separator("_"))
            .build()
            .context("reading the settings file and the environment")?;
        let values = Self { flags, layered, given };
        values.check_settings_names()?;
        for flag in &values.flags {
            values.judge(flag)?;
        }
        Ok(values)
    }

    fn check_settings_names(&self) -> anyhow::Result<()> {
        let Some((_, paths)) = self.given.iter().find(|(name, _)| *name == SETTINGS_FLAG) else {
            return Ok(());
        };
        let Some(path) = paths.last() else { return Ok(()) };
        let file = Config::builder().add_source(File::new(path, FileFormat::Yaml)).build()?;
        let table: std::collections::HashMap<String, config::Value> = file.try_deserialize()?;
        for key in table.keys() {
            if !self.flags.iter().any(|flag| settings_key(flag.name) == *key) {
                bail!(
                    "settings file {path}: unknown key {key:?}; keys are flag names with '_' for '-' and '.'"
                );
            }
        }
        Ok(())
    }

    /// Logs each flag that was set and that has no effect. Call it once logging is up.
    pub fn report_flags_without_effect(&self) {
        for flag in self.flags.iter().filter(|flag| self.is_changed(flag)) {
            if let Fate::NoEffect(reason) = flag.fate {
                tracing::warn!(flag = flag.name, reason, "flag accepted, it has no effect here");
            }
        }
    }

    fn is_changed(&self, flag: &Flag) -> bool {
        let values = self.raw(flag.name);
        !(values.is_empty() || (values.len() == 1 && values[0] == flag.default))
    }

    /// Refuses a flag, and checks the form of its value.
    fn judge(&self, flag: &Flag) -> anyhow::Result<()> {
        for value in self.raw(flag.name) {
            check(flag, &value).with_context(|| format!("flag --{}", flag.name))?;
        }
        if !self.is_changed(flag) {
            return Ok(());
        }
        match flag.fate {
            Fate::Used => Ok(()),
            Fate::NoEffect(_) => Ok(()),
            Fate::Refused(instead) => Err(anyhow!("flag --{} is not supported: {instead}", flag.name)),
        }
    }

    /// All values as written: those of the flag, else of the settings, else the default; empty if unset.
    fn raw(&self, name: &str) -> Vec<String> {
        if let Some((_, values)) = self.given.iter().find(|(given, _)| *given == name) {
            return values.clone();
        }
        let key = settings_key(name);
        if let Ok(list) = self.layered.get_array(&key) {
            return list.into_iter().filter_map(|value| value.into_string().ok()).collect();
        }
        if let Ok(value) = self.layered.get_string(&key) {
            return vec![value];
        }
        let default = self.flag(name).default;
        if default.is_empty() { Vec::new() } else { vec![default.to_owned()] }
    }

    fn flag(&self, name: &str) -> &Flag {
        // A name that is not in the table is a slip in this program, which the tests of each component show.
        self.flags
            .iter()
            .find(|flag| flag.name == name)
            .unwrap_or_else(|| panic!("no flag --{name} in the table"))
    }

    /// Whether the component has this flag: code that several share may ask.
    pub fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.name == name)
    }

    /// Every flag with the values it has.
    pub fn all(&self) -> Vec<(&'static str, Vec<String>)> {
        self.flags.iter().map(|flag| (flag.name, self.raw(flag.name))).collect()
    }

    /// The last value, if there is a non-empty one.
    pub fn text(&self, name: &str) -> Option<String> {
        self.raw(name).pop().filter(|value| !value.is_empty())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    pub fn list(&self, name: &str) -> Vec<String> {
        let split = |value: &String| value.split(',').map(|v| v.trim().to_owned()).collect::<Vec<_>>();
        self.raw(name).iter().flat_map(split).filter(|value| !value.is_empty()).collect()
    }

    /// All values of a repeated flag, commas kept.
    pub fn repeated(&self, name: &str) -> Vec<String> {
        self.raw(name).into_iter().filter(|value| !value.is_empty()).collect()
    }

    pub fn switch(&self, name: &str) -> bool {
        self.text(name).is_some_and(|value| value == "true")
    }

    pub fn number(&self, name: &str) -> u64 {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    pub fn decimal(&self, name: &str) -> f64 {
        self.text(name).and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    pub fn bytes(&self, name: &str) -> u64 {
        self.text(name).and_then(|value| parse_bytes(&value).ok()).unwrap_or(0)
    }

    pub fn duration(&self, name: &str) -> Duration {
        self.text(name).and_then(|value| parse_duration(&value).ok()).unwrap_or_default()
    }

    pub fn time_ms(&self, name: &str) -> Option<i64> {
        self.text(name).and_then(|value| parse_time_ms(&value).ok())
    }

    /// The text of a `--x` flag or of the file that `--x-file` names; both at once is an error.
    pub fn text_or_file(&self, name: &str) -> anyhow::Result<Option<String>> {
        let file_flag = format!("{name}-file");
        match (self.text(name), self.path(&file_flag)) {
            (Some(_), Some(_)) => bail!("--{name} and --{file_flag} are both set; give one of them"),
            (Some(text), None) => Ok(Some(text)),
            (None, Some(path)) => std::fs::read_to_string(&path)
                .with_context(|| format!("reading {} (--{file_flag})", path.display()))
                .map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// `--no-x` for the switch `--x`. The names live as long as the program: there is one per switch.
pub(super) fn negative_name(name: &'static str) -> &'static str {
    Box::leak(format!("no-{name}").into_boxed_str())
}

fn given_values(flag: &Flag, matches: &ArgMatches) -> Option<Vec<String>> {
    if flag.kind == Kind::Switch {
        if matches.get_flag(flag.name) {
            return Some(vec!["true".to_owned()]);
        }
        return matches.get_flag(&format!("no-{}", flag.name)).then(|| vec!["false".to_owned()]);
    }
    if matches.value_source(flag.name) != Some(ValueSource::CommandLine) {
        return None;
    }
    matches.get_many::<String>(flag.name).map(|values| values.cloned().collect())
}

fn settings_key(name: &str) -> String {
    name.replace(['-', '.'], "_")
}

/// Whether `value` has the form of `flag`; the empty value means unset.
pub(super) fn check(flag: &Flag, value: &str) -> anyhow::Result<()> {
    if value.is_empty() {
        return Ok(());
    }
    match flag.kind {
        Kind::Text | Kind::List => Ok(()),
        Kind::Switch => match value {
            "true" | "false" => Ok(()),
            _ => Err(anyhow!("{value:?} is neither true nor false")),
        },
        Kind::Number => {
            value.parse::<u64>().map(drop).map_err(|_| anyhow!("{value:?} is not a whole number"))
        }
        Kind::Decimal => value.parse::<f64>().map(drop).map_err(|_| anyhow!("{value:?} is not a number")),
        Kind::Duration => parse_duration(value).map(drop),
        Kind::Bytes => parse_bytes(value).map(drop),
        Kind::Time => parse_time_ms(value).map(drop),
    }
}

/// `5m`, `1h30m`: Prometheus' durations, `0s` included.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let millis = parallax_model::parse_duration_ms(text)
        .ok_or_else(|| anyhow!("{text:?} is not a duration; write it like 30s, 5m or 1h30m"))?;
    Ok(Duration::from_millis(u64::try_from(millis)?))
}

/// `250MB`, `2GiB`: as kingpin's `Bytes`, where both spellings are powers of 1024.
pub fn parse_bytes(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "B" => 1,
        "KB" | "KiB" => 1 << 10,
        "MB" | "MiB" => 1 << 20,
        "GB" | "GiB" => 1 << 30,
        "TB" | "TiB" => 1 << 40,
        unit => bail!("{text:?}: unknown unit {unit:?}; use B, KB, MB, GB or TB"),
    };
    let amount: u64 = digits.parse().map_err(|_| anyhow!("{text:?} is not a size; write it like 250MB"))?;
    amount.checked_mul(factor).ok_or_else(|| anyhow!("{text:?} is too large"))
}

/// RFC 3339, or a duration relative to now (`-2w`). Years before 1 and after 9999 do not occur.
pub fn parse_time_ms(text: &str) -> anyhow::Result<i64> {
    // Thanos' defaults for "always" lie outside what other programs call a date.
    match text {
        "0000-01-01T00:00:00Z" => return Ok(i64::MIN),
        "9999-12-31T23:59:59Z" => return Ok(i64::MAX),
        _ => {}
    }
    let (sign, duration) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    if let Some(millis) = parallax_model::parse_duration_ms(duration) {
        return Ok(jiff::Timestamp::now().as_millisecond().saturating_add(sign * millis));
    }
    text.parse::<jiff::Timestamp>()
        .map(|time| time.as_millisecond())
        .map_err(|_| anyhow!("{text:?} is not a time; write it like 2026-07-01T00:00:00Z or -2w"))
}

#[cfg(test)]
mod tests {
    use super::super::{COMPONENTS, command};
    use super::*;

    fn settle(line: &[&str]) -> anyhow::Result<Values> {
        let component = COMPONENTS.iter().find(|component| component.name == line[0]).unwrap();
        let matches = command(component).try_get_matches_from(line).map_err(|error| anyhow!("{error}"))?;
        Values::settle((component.flags)(), &matches)
    }

    #[test]
    fn kingpin_forms_are_understood() {
        let values = settle(&[
            "query",
            "--endpoint=a:1",
            "--endpoint",
            "b:2",
            "--query.replica-label=r1,r2",
            "--no-query.partial-response",
            "--query.timeout=90s",
        ])
        .unwrap();
        assert_eq!(values.repeated("endpoint"), ["a:1", "b:2"]);
        assert_eq!(values.list("query.replica-label"), ["r1", "r2"]);
        assert!(!values.switch("query.partial-response"));
        assert_eq!(values.duration("query.timeout"), Duration::from_secs(90));
        assert!(settle(&["query"]).unwrap().switch("query.partial-response"));
    }

    #[test]
    fn bad_values_and_refused_flags_are_named() {
        let text = |line: &[&str]| format!("{:#}", settle(line).err().unwrap());
        assert!(text(&["query", "--query.timeout=soon"]).contains("--query.timeout"));
        assert!(text(&["query", "--query.enable-x-functions"]).contains("--query.enable-x-functions"));
        assert!(text(&["query", "--querry.timeout=5m"]).contains("--querry.timeout"));
        assert!(
            text(&["store", "--objstore.config=a", "--chunk-pool-size=lots"]).contains("--chunk-pool-size")
        );
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(parse_time_ms("1970-01-01T00:00:01Z").unwrap(), 1000);
        assert!(parse_time_ms("-2w").unwrap() < jiff::Timestamp::now().as_millisecond() - 13 * 86_400_000);
        assert_eq!(parse_time_ms("9999-12-31T23:59:59Z").unwrap(), i64::MAX);
        assert_eq!(parse_bytes("2GB").unwrap(), 2 << 30);
        assert!(parse_bytes("2PB").is_err());
    }
}
