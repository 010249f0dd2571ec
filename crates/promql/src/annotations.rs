//! Warnings and infos of a query, in Prometheus' words and with the place in the query they speak of.
//!
//! The texts are those of Prometheus 3.9 (`util/annotations`): dashboards and alerts match on them. An
//! annotation is kept once per text; of two places with the same text the later one stays.

use std::collections::HashMap;

use parallax_model::float_histogram::format_g;

use crate::ast::PosRange;

/// A query that says more different things than this has said enough.
const MAX_ANNOTATIONS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Warning,
    Info,
}

#[derive(Clone, Debug)]
struct Annotation {
    level: Level,
    /// Where in the query; `None` for what the source said.
    position: Option<usize>,
    text: String,
}

/// What there is to say about a query, collected while it runs.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    list: Vec<Annotation>,
    by_text: HashMap<String, usize>,
}

/// The arithmetic a note about histograms speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistogramOperation {
    Addition,
    Subtraction,
    Aggregation,
}

impl HistogramOperation {
    const fn word(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

impl Annotations {
    /// A warning of the source, kept word by word.
    pub fn source_warning(&mut self, text: String) {
        self.add(Level::Warning, None, text);
    }

    /// An info of another engine, in whole words, with its place in this query if that is known.
    pub fn passed_on(&mut self, position: Option<usize>, text: String) {
        self.add(Level::Info, position, text);
    }

    fn warn(&mut self, position: PosRange, text: String) {
        self.add(Level::Warning, Some(position.start), format!("PromQL warning: {text}"));
    }

    fn inform(&mut self, position: PosRange, text: String) {
        self.add(Level::Info, Some(position.start), format!("PromQL info: {text}"));
    }

    fn add(&mut self, level: Level, position: Option<usize>, text: String) {
        if let Some(known) = self.by_text.get(&text).and_then(|index| self.list.get_mut(*index)) {
            known.position = position;
            return;
        }
        if self.list.len() < MAX_ANNOTATIONS {
            self.by_text.insert(text.clone(), self.list.len());
            self.list.push(Annotation { level, position, text });
        }
    }

    /// Says all that `others` say, after what has been said already.
    pub fn append(&mut self, others: Self) {
        others.list.into_iter().for_each(|one| self.add(one.level, one.position, one.text));
    }

    /// Warnings and infos as texts. `query` turns places into `(line:column)`; without it, one line is
    /// assumed; with an empty one there are no places.
    pub fn render(&self, query: Option<&str>) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for annotation in &self.list {
            let text = match (annotation.position, query) {
                (None, _) | (_, Some("")) => annotation.text.clone(),
                (Some(at), query) => format!("{} ({})", annotation.text, place(query.unwrap_or(""), at)),
            };
            match annotation.level {
                Level::Warning => warnings.push(text),
                Level::Info => infos.push(text),
            }
        }
        (warnings, infos)
    }

    pub fn invalid_quantile(&mut self, quantile: f64, at: PosRange) {
        let got = format_g(quantile);
        self.warn(at, format!("quantile value should be between 0 and 1, got {got}"));
    }

    pub fn invalid_ratio(&mut self, ratio: f64, capped_to: f64, at: PosRange) {
        let (got, to) = (format_g(ratio), format_g(capped_to));
        self.warn(at, format!("ratio value should be between -1 and 1, got {got}, capping to {to}"));
    }

    pub fn bad_bucket_label(&mut self, metric: &str, value: &str, at: PosRange) {
        let text = format!("bucket label \"le\" is missing or has a malformed value of {}", quoted(value));
        self.warn(at, text + &for_metric(metric));
    }

    pub fn mixed_floats_histograms(&mut self, metric: &str, at: PosRange) {
        let metric = quoted(metric);
        self.warn(at, format!("encountered a mix of histograms and floats for metric name {metric}"));
    }

    pub fn mixed_floats_histograms_in_aggregation(&mut self, at: PosRange) {
        self.warn(at, "encountered a mix of histograms and floats for aggregation".to_owned());
    }

    pub fn mixed_classic_native_histograms(&mut self, metric: &str, at: PosRange) {
        let text = "vector contains a mix of classic and native histograms".to_owned();
        self.warn(at, text + &for_metric(metric));
    }

    pub fn native_histogram_not_counter(&mut self, metric: &str, at: PosRange) {
        self.warn(at, format!("this native histogram metric is not a counter: {}", quoted(metric)));
    }

    pub fn native_histogram_not_gauge(&mut self, metric: &str, at: PosRange) {
        self.warn(at, format!("this native histogram metric is not a gauge: {}", quoted(metric)));
    }

    pub fn mixed_exponential_custom(&mut self, metric: &str, at: PosRange) {
        let metric = quoted(metric);
        self.warn(
            at,
            format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas \
                 for metric name {metric}"
            ),
        );
    }

    pub fn incompatible_bucket_layout(&mut self, operator: &str, at: PosRange) {
        self.warn(at, format!("incompatible bucket layout encountered for binary operator {operator}"));
    }

    pub fn possible_non_counter(&mut self, metric: &str, at: PosRange) {
        let metric = quoted(metric);
        self.inform(
            at,
            format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric}"
            ),
        );
    }

    pub fn possible_non_counter_type(&mut self, metric: &str, kind: &str, at: PosRange) {
        let (metric, kind) = (quoted(metric), quoted(kind));
        self.inform(
            at,
            format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \
                 \"histogram\", got {kind}: {metric}"
            ),
        );
    }

    pub fn forced_monotonicity(&mut self, metric: &str, at: PosRange) {
        let text = "input to histogram_quantile needed to be fixed for monotonicity (see \
                    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)"
            .to_owned();
        self.inform(at, text + &for_metric(metric));
    }

    pub fn incompatible_types(&mut self, left: &str, operator: &str, right: &str, at: PosRange) {
        self.inform(
            at,
            format!(
                "incompatible sample types encountered for binary operator \"{operator}\": \
                 {left} {operator} {right}"
            ),
        );
    }

    pub fn histogram_ignored_in_aggregation(&mut self, aggregation: &str, at: PosRange) {
        self.inform(at, format!("ignored histogram in {aggregation} aggregation"));
    }

    pub fn histogram_ignored_in_mixed_range(&mut self, metric: &str, at: PosRange) {
        let metric = quoted(metric);
        self.inform(
            at,
            format!(
                "ignored histograms in a range containing both floats and histograms for metric name {metric}"
            ),
        );
    }

    pub fn quantile_is_nan(&mut self, metric: &str, at: PosRange) {
        let text = "input to histogram_quantile has NaN observations, result is NaN".to_owned();
        self.inform(at, text + &for_metric(metric));
    }

    pub fn quantile_is_skewed(&mut self, metric: &str, at: PosRange) {
        let text = "input to histogram_quantile has NaN observations, result is skewed higher".to_owned();
        self.inform(at, text + &for_metric(metric));
    }

    pub fn fraction_excludes_nan(&mut self, metric: &str, at: PosRange) {
        let text = "input to histogram_fraction has NaN observations, which are excluded from all fractions"
            .to_owned();
        self.inform(at, text + &for_metric(metric));
    }

    pub fn counter_resets_collided(&mut self, operation: HistogramOperation, at: PosRange) {
        self.warn(at, format!("conflicting counter resets during histogram {}", operation.word()));
    }

    pub fn custom_bounds_reconciled(&mut self, operation: HistogramOperation, at: PosRange) {
        self.inform(at, format!("mismatched custom buckets were reconciled during {}", operation.word()));
    }
}

fn for_metric(metric: &str) -> String {
    if metric.is_empty() { String::new() } else { format!(" for metric name {}", quoted(metric)) }
}

/// As Go's `%q`, for the characters that occur in label values.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => quoted.push_str(&format!("\\x{:02x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `line:column`, both from 1; columns count bytes.
fn place(query: &str, at: usize) -> String {
    let before = query.as_bytes().get(..at).unwrap_or(&[]);
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    let column = match before.iter().rposition(|byte| *byte == b'\n') {
        Some(last_break) => at - last_break,
        None => at + 1,
    };
    format!("{line}:{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_bytes() {
        assert_eq!(place("rate(x[5m])", 5), "1:6");
        assert_eq!(place("sum(\n  x)", 7), "2:3");
        assert_eq!(place("", 4), "1:5");
    }

    #[test]
    fn a_text_is_kept_once() {
        let mut annotations = Annotations::default();
        annotations.possible_non_counter("x", PosRange { start: 1, end: 2 });
        annotations.possible_non_counter("x", PosRange { start: 5, end: 6 });
        annotations.invalid_quantile(1.5, PosRange::default());
        let (warnings, infos) = annotations.render(None);
        assert_eq!(
            infos,
            ["PromQL info: metric might not be a counter, name does not end in \
              _total/_sum/_count/_bucket: \"x\" (1:6)"]
        );
        assert_eq!(warnings, ["PromQL warning: quantile value should be between 0 and 1, got 1.5 (1:1)"]);
    }
}
