//! JSON straight into a buffer: answers can be large, and a tree of values would be larger.
//!
//! Source of the shapes: Prometheus `web/api/v1/json_codec.go`.

use std::sync::Arc;

use parallax_model::Labels;
use parallax_promql::value::{MatrixSeries, Points, QueryValue, Sample, VectorSample};

use super::float::{write_all_digits, write_float, write_float_and, write_seconds};
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
        QueryValue::Scalar { timestamp_ms, value } => {
            write_stamp(output, *timestamp_ms);
            write_all_digits(output, *value);
            output.extend_from_slice(b"\"]");
        }
        QueryValue::String { timestamp_ms, value } => {
            output.push(b'[');
            write_seconds(output, *timestamp_ms);
            output.push(b',');
            write_string(output, value);
            output.push(b']');
        }
        QueryValue::Vector(samples) => write_list(output, samples, write_vector_sample),
        QueryValue::Matrix(series) => {
            let mut stamps = Stamps::default();
            write_list(output, series, |output, series| write_series(output, series, &mut stamps));
        }
    }
}

/// The series of a matrix, written piece by piece: an answer is as long as a few hundred megabytes, and need never be in memory as a whole.
pub(super) struct MatrixPieces {
    rest: std::vec::IntoIter<MatrixSeries>,
    stamps: Stamps,
    is_first: bool,
}

impl MatrixPieces {
    /// Pieces are about so long, and no shorter but for the last one.
    const PIECE_BYTES: usize = 64 << 10;
    /// Fewer samples are written at once.
    const MIN_SAMPLES: usize = 4096;

    /// Whether a matrix is worth more than one piece.
    pub(super) fn are_worth(series: &[MatrixSeries]) -> bool {
        series.iter().map(MatrixSeries::sample_count).sum::<usize>() >= Self::MIN_SAMPLES
    }

    pub(super) fn new(series: Vec<MatrixSeries>) -> Self {
        Self { rest: series.into_iter(), stamps: Stamps::default(), is_first: true }
    }
}

/// The elements of the list, with the commas between them and without its brackets.
impl Iterator for MatrixPieces {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        // Room for one series more; not so large that the allocator would ask the system for each.
        let mut output = Vec::with_capacity(Self::PIECE_BYTES + Self::PIECE_BYTES / 2);
        while output.len() < Self::PIECE_BYTES
            && let Some(series) = self.rest.next()
        {
            if !std::mem::take(&mut self.is_first) {
                output.push(b',');
            }
            write_series(&mut output, &series, &mut self.stamps);
        }
        (!output.is_empty()).then_some(output)
    }
}

/// The beginnings of points (`[1782870000,"`) at the times of the series before: nearly all series of an answer have the same ones.
#[derive(Default)]
struct Stamps {
    times_ms: Arc<[i64]>,
    stamps: Vec<Stamp>,
}

struct Stamp {
    time_ms: i64,
    text: [u8; Self::MAX_BYTES],
    size: usize,
}

impl Stamp {
    /// The bracket, the sign, 16 digits, the point and 3 digits, the comma and the quote.
    const MAX_BYTES: usize = 24;

    fn new(time_ms: i64) -> Self {
        let mut text = Vec::with_capacity(Self::MAX_BYTES);
        write_stamp(&mut text, time_ms);
        let size = text.len().min(Self::MAX_BYTES);
        text.resize(Self::MAX_BYTES, 0);
        let mut stamp = Self { time_ms, text: [0; Self::MAX_BYTES], size };
        stamp.text.copy_from_slice(&text);
        stamp
    }

    /// Appends all of it, for that is one move, and takes off what is too much.
    #[inline]
    fn write(&self, output: &mut Vec<u8>) {
        let end = output.len() + self.size;
        output.extend_from_slice(&self.text);
        output.truncate(end);
    }
}

impl Stamps {
    /// More times than an answer may have points are not kept.
    const MAX: usize = 16 << 10;
    /// What follows the value of each point but the last.
    const END: [u8; 3] = *b"\"],";

    /// Appends a list of points.
    fn write(&mut self, output: &mut Vec<u8>, points: &Points) {
        if points.len() > self.stamps.len() && points.len() <= Self::MAX {
            self.times_ms = points.timestamps_ms.clone();
            self.stamps = points.timestamps_ms.iter().map(|time_ms| Stamp::new(*time_ms)).collect();
        }
        output.push(b'[');
        if Arc::ptr_eq(&self.times_ms, &points.timestamps_ms) {
            for (stamp, value) in self.stamps.iter().zip(&points.values) {
                stamp.write(output);
                write_float_and(output, *value, Self::END);
            }
        } else {
            let mut known = self.stamps.iter();
            for (time_ms, value) in points.iter() {
                match known.find(|stamp| stamp.time_ms >= time_ms) {
                    Some(stamp) if stamp.time_ms == time_ms => stamp.write(output),
                    _ => write_stamp(output, time_ms),
                }
                write_float_and(output, value, Self::END);
            }
        }
        // The last comma, if there is a point.
        output.pop_if(|last| *last == b',');
        output.push(b']');
    }
}

fn write_stamp(output: &mut Vec<u8>, time_ms: i64) {
    output.push(b'[');
    write_seconds(output, time_ms);
    output.extend_from_slice(b",\"");
}

fn write_point(output: &mut Vec<u8>, timestamp_ms: i64, value: f64) {
    write_stamp(output, timestamp_ms);
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

fn write_series(output: &mut Vec<u8>, series: &MatrixSeries, stamps: &mut Stamps) {
    output.extend_from_slice(b"{\"metric\":");
    write_labels(output, &series.labels);
    if !series.floats.is_empty() {
        output.extend_from_slice(b",\"values\":");
        stamps.write(output, &series.floats);
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
    use proptest::prelude::*;

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
            let values = vec![number as f64; 500];
            let floats = Points { timestamps_ms: (0..500).map(|at| at * 1_000).collect(), values };
            MatrixSeries { labels, floats, ..MatrixSeries::default() }
        };
        let all: Vec<MatrixSeries> = (0..40).map(series).collect();
        assert!(MatrixPieces::are_worth(&all) && !MatrixPieces::are_worth(&all[..8]));
        let mut whole = Vec::new();
        write_value(&mut whole, &QueryValue::Matrix(all.clone()));
        let pieces: Vec<Vec<u8>> = MatrixPieces::new(all).collect();
        assert!(pieces.len() > 2, "only {} pieces", pieces.len());
        let joined = [&b"\"resultType\":\"matrix\",\"result\":["[..], &pieces.concat(), b"]"].concat();
        assert_eq!(String::from_utf8(joined), String::from_utf8(whole));
        assert_eq!(MatrixPieces::new(Vec::new()).count(), 0);
    }

    proptest! {
        #[test]
        fn points_are_written_as_one_by_one(
            all in prop::collection::vec(prop::collection::btree_set(-20i64..20, 0..20), 0..6),
            step_ms in prop::sample::select(vec![1, 500, 1000, 60_000, i64::MAX / 40]),
        ) {
            let mut stamps = Stamps::default();
            for times in all {
                let (timestamps_ms, values) =
                    times.iter().map(|time| (time * step_ms, *time as f64 / 2.0)).unzip::<_, _, Vec<_>, _>();
                let points = Points { timestamps_ms: timestamps_ms.into(), values };
                let mut single = b"x".to_vec();
                write_list(&mut single, points.iter(), |output, (time_ms, value)| {
                    write_point(output, time_ms, value);
                });
                // The second time its times are known.
                for _ in 0..2 {
                    let mut together = b"x".to_vec();
                    stamps.write(&mut together, &points);
                    prop_assert_eq!(String::from_utf8_lossy(&together), String::from_utf8_lossy(&single));
                }
            }
        }
    }

    #[test]
    fn the_longest_stamp_has_its_room() {
        for time_ms in [i64::MIN, i64::MAX, 0, -1] {
            let (stamp, mut text) = (Stamp::new(time_ms), Vec::new());
            write_stamp(&mut text, time_ms);
            assert_eq!(&stamp.text[..stamp.size], &text[..]);
        }
    }

    #[test]
    fn a_matrix_has_a_list_per_kind_of_sample() {
        let series = MatrixSeries {
            labels: Labels::from_pairs([("__name__", "up")]),
            floats: Points { timestamps_ms: [1_500, 2_000].into(), values: vec![1.0, f64::INFINITY] },
            ..MatrixSeries::default()
        };
        let mut output = Vec::new();
        write_value(&mut output, &QueryValue::Matrix(vec![series]));
        assert_eq!(
            String::from_utf8(output).unwrap(),
            r#""resultType":"matrix","result":[{"metric":{"__name__":"up"},"values":[[1.500,"1"],[2,"+Inf"]]}]"#
        );
    }
}
