//! JSON straight into a buffer: answers can be large, and a tree of values would be larger.
//!
//! Source of the shapes: Prometheus `web/api/v1/json_codec.go`.

use parallax_model::{FloatColumn, Labels, SeriesData};
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
        QueryValue::Matrix(series) => {
            let mut stamps = Stamps::default();
            write_list(output, series, |output, series| write_series(output, series, &mut stamps));
        }
    }
}

/// The series of a matrix, written piece by piece: an answer is as long as a few hundred megabytes, and need never be in memory as a whole.
pub(super) struct MatrixPieces {
    rest: std::vec::IntoIter<SeriesData>,
    stamps: Stamps,
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

/// The beginnings of points (`[1782870000,"`), for the series of an answer nearly all have the same times.
#[derive(Default)]
struct Stamps(Vec<Stamp>);

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
}

impl Stamps {
    /// More times than an answer may have points are not kept.
    const MAX: usize = 16 << 10;

    /// Appends a list of points.
    fn write(&mut self, output: &mut Vec<u8>, floats: &FloatColumn) {
        if floats.len() > self.0.len() && floats.len() <= Self::MAX {
            self.0 = floats.timestamps_ms.iter().map(|time_ms| Stamp::new(*time_ms)).collect();
        }
        output.push(b'[');
        let mut known = self.0.iter();
        for (time_ms, value) in floats.iter() {
            match known.find(|stamp| stamp.time_ms >= time_ms) {
                Some(stamp) if stamp.time_ms == time_ms => {
                    // All of it, for that is one move.
                    let end = output.len() + stamp.size;
                    output.extend_from_slice(&stamp.text);
                    output.truncate(end);
                }
                _ => write_stamp(output, time_ms),
            }
            write_float(output, value);
            output.extend_from_slice(b"\"],");
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

fn write_series(output: &mut Vec<u8>, series: &SeriesData, stamps: &mut Stamps) {
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

    proptest! {
        #[test]
        fn points_are_written_as_one_by_one(
            all in prop::collection::vec(prop::collection::btree_set(-20i64..20, 0..20), 0..6),
            step_ms in prop::sample::select(vec![1, 500, 1000, 60_000, i64::MAX / 40]),
        ) {
            let mut stamps = Stamps::default();
            for times in all {
                let mut floats = FloatColumn::default();
                times.iter().for_each(|time| floats.push(time * step_ms, *time as f64 / 2.0));
                let (mut together, mut single) = (b"x".to_vec(), b"x".to_vec());
                stamps.write(&mut together, &floats);
                write_list(&mut single, floats.iter(), |output, (time_ms, value)| {
                    write_point(output, time_ms, value);
                });
                prop_assert_eq!(String::from_utf8(together), String::from_utf8(single));
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
