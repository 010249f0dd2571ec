//! Tables on standard output: aligned, as CSV or as TSV; and JSON.

use std::io::Write as _;
use std::str::FromStr;

use anyhow::{Context as _, anyhow};
use serde::Serialize;

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Whatever is shortest.
    Plain,
    Table,
    Csv,
    Tsv,
    Json,
}

impl FromStr for Form {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "" => Ok(Self::Plain),
            "table" | "wide" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "json" => Ok(Self::Json),
            _ => Err(anyhow!("--output={text}: there are table, wide, csv, tsv and json (no templates)")),
        }
    }
}

/// Rows under a head.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// Sorts by columns, numbers by size.
    ///
    /// # Errors
    /// A column that does not exist.
    pub fn sort_by(&mut self, columns: &[String]) -> anyhow::Result<()> {
        let mut places = Vec::with_capacity(columns.len());
        for column in columns {
            let place = self.head.iter().position(|head| head.eq_ignore_ascii_case(column));
            let columns = || format!("--sort-by={column}: there are {}", self.head.join(", "));
            places.push(place.with_context(columns)?);
        }
        let key = |row: &Vec<String>| -> Vec<(Option<u64>, String)> {
            let cells = places.iter().filter_map(|place| row.get(*place));
            cells.map(|cell| (cell.parse().ok(), cell.clone())).collect()
        };
        self.rows.sort_by_cached_key(key);
        Ok(())
    }

    pub fn print(&self, form: Form) {
        print(&match form {
            Form::Csv => self.separated(','),
            Form::Tsv => self.separated('\t'),
            _ => self.aligned(),
        });
    }

    fn lines(&self) -> impl Iterator<Item = Vec<&str>> {
        let rows = self.rows.iter().map(|row| row.iter().map(String::as_str).collect());
        std::iter::once(self.head.clone()).chain(rows)
    }

    fn aligned(&self) -> String {
        let width =
            |place: usize| self.lines().filter_map(|line| Some(line.get(place)?.chars().count())).max();
        let widths: Vec<usize> = (0..self.head.len()).map(|place| width(place).unwrap_or(0)).collect();
        let mut text = String::new();
        for line in self.lines() {
            let mut row = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                row.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    /// Cells with a separator, a quote or a line break in them are quoted, as RFC 4180 has it.
    fn separated(&self, separator: char) -> String {
        let quoted = |cell: &str| {
            if cell.contains([separator, '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.to_owned()
            }
        };
        let mut text = String::new();
        for line in self.lines() {
            let cells: Vec<String> = line.into_iter().map(quoted).collect();
            text.push_str(&cells.join(&separator.to_string()));
            text.push('\n');
        }
        text
    }
}

/// Writes to standard output; whoever reads it may have seen enough.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Milliseconds since the epoch as a date.
pub fn time(time_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(time_ms).map_or_else(|_| time_ms.to_string(), |time| time.to_string())
}

/// `1h59m58.001s`, `0s`.
pub fn duration(length_ms: i64) -> String {
    let (seconds, millis) = (length_ms / 1000, length_ms % 1000);
    let mut text = String::new();
    for (unit, size) in [("h", 3600), ("m", 60)] {
        let count = seconds / size % if size == 60 { 60 } else { i64::MAX };
        if count > 0 || !text.is_empty() {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let rest = seconds % 60;
    if millis == 0 { text + &format!("{rest}s") } else { text + &format!("{rest}.{millis:03}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "COUNT"]);
        for (name, count) in [("a,b", "10"), ("long \"one\"", "9"), ("c", "9")] {
            table.push(vec![name.to_owned(), count.to_owned()]);
        }
        table
    }

    #[test]
    fn cells_stand_beneath_each_other_or_are_quoted() {
        let mut table = table();
        assert_eq!(table.aligned().lines().next(), Some("NAME        COUNT"));
        assert_eq!(table.aligned().lines().nth(2), Some("long \"one\"  9"));
        assert_eq!(table.separated(','), "NAME,COUNT\n\"a,b\",10\n\"long \"\"one\"\"\",9\nc,9\n");
        table.sort_by(&["count".to_owned(), "NAME".to_owned()]).unwrap();
        let names: Vec<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["c", "long \"one\"", "a,b"]);
        let error = table.sort_by(&["SIZE".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("NAME, COUNT"), "{error}");
    }

    #[test]
    fn times_and_lengths_are_written_for_people() {
        assert_eq!(time(1_781_740_800_011), "2026-06-18T00:00:00.011Z");
        assert_eq!(
            [0, 7_198_001, 7_200_000, 300_000].map(duration),
            ["0s", "1h59m58.001s", "2h0m0s", "5m0s"]
        );
    }
}
