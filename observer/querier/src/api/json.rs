//! JSON straight into a buffer: answers can be large, and a tree of values would be larger.
//!
//! Source of the shapes: Prometheus `web/api/v1/json_codec.go`.

use parallax_model::{Labels, SeriesData};
use parallax_promql::value::{QueryValue, Sample, VectorSample};

use super::float::{write_float, write_seconds};
use super::histogram::write_histogram;

/// Appends `text` as a JSON string.
pub(super) fn write_string(output: &mut Vec<u8>, text: &str) {
    output.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(special) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
        let (plain, tail) = rest.split_at(special);
        output.extend_from_slice(plain);
        match tail.first() {
            Some(b'"') => output.extend_from_slice(b"\\\""),
            Some(b'\\') => output.extend_from_slice(b"\\\\"),
            Some(b'\n') => output.extend_from_slice(b"\\n"),
            Some(b'\r') => output.extend_from_slice(b"\\r"),
            Some(b'\t') => output.extend_from_slice(b"\\t"),
            Some(control) => output.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
            None => {}
        }
        rest = tail.get(1..).unwrap_or_default();
    }
    output.extend_from_slice(rest);
    output.push(b'"');
}

/// Appends `items` in brackets.
pub(super) fn write_list<I: IntoIterator>(
    output: &mut Vec<u8>,
    items: I,
    mut write: impl FnMut(&mut Vec<u8>, I::Item),
) {
    output.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        write(output, item);
    }
    output.push(b']');
}

pub(super) fn write_strings<S: AsRef<str>>(output: &mut Vec<u8>, texts: impl IntoIterator<Item = S>) {
    write_list(output, texts, |output, text| write_string(output, text.as_ref()));
}

/// Appends `{"name":"value",…}`.
pub(super) fn write_labels(output: &mut Vec<u8>, labels: &Labels) {
    output.push(b'{');
    for (index, (name, value)) in labels.iter().enumerate() {
        if index > 0 {
            output.push(b',');
        }
        write_string(output, name);
        output.push(b':');
        write_string(output, value);
    }
    output.push(b'}');
}

/// Appends `"resultType":…,"result":…`, the members of an answer's `data`.
pub(super) fn write_value(output: &mut Vec<u8>, value: &QueryValue) {
    output.extend_from_slice(b"\"resultType\":");
    write_string(output, value.type_name());
    output.extend_from_slice(b",\"result\":");
    match value {
        QueryValue::Scalar { timestamp_ms, value } => write_point(output, *timestamp_ms, *value),
        QueryValue::String { timestamp_ms, value } => {
            output.push(b'[');
            write_seconds(output, *timestamp_ms);
            output.push(b',');
            write_string(output, value);
            output.push(b']');
        }
        QueryValue::Vector(samples) => write_list(output, samples, write_vector_sample),
        QueryValue::Matrix(series) => write_list(output, series, write_series),
    }
}

/// The series of a matrix, written piece by piece: an answer is as long as a few hundred megabytes, and need never be in memory as a whole.
pub(super) struct MatrixPieces {
    rest: std::vec::IntoIter<SeriesData>,
    is_first: bool,
}

impl MatrixPieces {
    /// Pieces are about so long, and no shorter but for the last one.
    const PIECE_BYTES: usize = 64 << 10;
    /// Fewer samples are written at once.
    const MIN_SAMPLES: usize = 4096;

    /// Whether a matrix is worth more than one piece.
    pub(super) fn are_worth(series: &[SeriesData]) -> bool {
        series.iter().map(SeriesData::sample_count).sum::<usize>() >= Self::MIN_SAMPLES
    }

    pub(super) fn new(series: Vec<SeriesData>) -> Self {
        Self { rest: series.into_iter(), is_first: true }
    }
}

/// The elements of the list, with the commas between them and without its brackets.
impl Iterator for MatrixPieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut output = Vec::with_capacity(2 * Self::PIECE_BYTES);
        while output.len() < Self::PIECE_BYTES
            && let Some(series) = self.rest.next()
        {
            if !std::mem::take(&mut self.is_first) {
                output.push(b',');
            }
            write_series(&mut output, &series);
        }
        (!output.is_empty()).then_some(output)
    }
}

fn write_point(output: &mut Vec<u8>, timestamp_ms: i64, value: f64) {
    output.push(b'[');
    write_seconds(output, timestamp_ms);
    output.extend_from_slice(b",\"");
    write_float(output, value);
    output.extend_from_slice(b"\"]");
}

fn write_vector_sample(output: &mut Vec<u8>, element: &VectorSample) {
    output.extend_from_slice(b"{\"metric\":");
    write_labels(output, &element.labels);
    match &element.sample {
        Sample::Float(value) => {
            output.extend_from_slice(b",\"value\":");
            write_point(output, element.timestamp_ms, *value);
        }
        Sample::Histogram(histogram) => {
            output.extend_from_slice(b",\"histogram\":[");
            write_seconds(output, element.timestamp_ms);
            output.push(b',');
            write_histogram(output, histogram);
            output.push(b']');
        }
    }
    output.push(b'}');
}

fn write_series(output: &mut Vec<u8>, series: &SeriesData) {
    output.extend_from_slice(b"{\"metric\":");
    write_labels(output, &series.labels);
    if !series.floats.is_empty() {
        output.extend_from_slice(b",\"values\":");
        write_list(output, series.floats.iter(), |output, (time_ms, value)| {
            write_point(output, time_ms, value)
        });
    }
    if !series.histograms.is_empty() {
        output.extend_from_slice(b",\"histograms\":");
        write_list(output, series.histograms.iter(), |output, (time_ms, histogram)| {
            output.push(b'[');
            write_seconds(output, time_ms);
            output.push(b',');
            write_histogram(output, histogram);
            output.push(b']');
        });
    }
    output.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        let mut output = Vec::new();
        write_string(&mut output, "a\"b\\c\nd\u{1}имя");
        assert_eq!(String::from_utf8(output).unwrap(), r#""a\"b\\c\nd\u0001имя""#);
    }

    #[test]
    fn a_matrix_in_pieces_is_the_same_matrix() {
        let series = |number: i64| {
            let labels = Labels::from_pairs([("n", number.to_string())]);
            let mut series = SeriesData { labels, ..SeriesData::default() };
            (0..500).for_each(|at| series.floats.push(at * 1_000, number as f64));
            series
        };
        let all: Vec<SeriesData> = (0..40).map(series).collect();
        assert!(MatrixPieces::are_worth(&all) && !MatrixPieces::are_worth(&all[..8]));
        let mut whole = Vec::new();
        write_value(&mut whole, &QueryValue::Matrix(all.clone()));
        let pieces: Vec<Vec<u8>> = MatrixPieces::new(all).collect();
        assert!(pieces.len() > 2, "only {} pieces", pieces.len());
        let joined = [&b"\"resultType\":\"matrix\",\"result\":["[..], &pieces.concat(), b"]"].concat();
        assert_eq!(String::from_utf8(joined), String::from_utf8(whole));
        assert_eq!(MatrixPieces::new(Vec::new()).count(), 0);
    }

    #[test]
    fn a_matrix_has_a_list_per_kind_of_sample() {
        let mut series =
            SeriesData { labels: Labels::from_pairs([("__name__", "up")]), ..SeriesData::default() };
        series.floats.push(1_500, 1.0);
        series.floats.push(2_000, f64::INFINITY);
        let mut output = Vec::new();
        write_value(&mut output, &QueryValue::Matrix(vec![series]));
        assert_eq!(
            String::from_utf8(output).unwrap(),
            r#""resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[1.500,"1"],[2,"+Inf"]]}]"#
        );
    }
}
