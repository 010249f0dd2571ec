//! Blocks that we wrote, read by Prometheus' own reader.

use std::collections::BTreeMap;
use std::path::Path;

use parallax_model::{Histogram, Labels, Span, TimeRange};
use parallax_simulate::{Fleet, history};
use parallax_tsdb::block::{BlockChunk, BlockWriter, symbols_of};
use parallax_tsdb::chunk::{Appended, ChunkEncoding, FloatHistogramAppender, HistogramAppender, XorAppender};
use parallax_tsdb::segment::{Chunk, SegmentConfig};
use serde_json::{Value, json};

use crate::peer::{Peer, program_or_leave_out};
use crate::question::Question;

/// 2026-07-01T00:00:00Z.
const START_MS: i64 = 1_782_864_000_000;
const RANGE_MS: i64 = 4 * 3_600_000;

type Samples = BTreeMap<Labels, Vec<(i64, u64)>>;

/// Every sample of every series, as Prometheus reads them: milliseconds, and the bits of the value.
fn read_by_prometheus(peers: &Path, blocks: &Path) -> Samples {
    let mut prometheus = Peer::promql(peers, &[blocks]).expect("Prometheus' engine");
    let query = format!("{{__name__=~\".+\"}}[{RANGE_MS}ms]");
    // A range selector is open on its left side.
    let answer = Question::instant(&query, START_MS + RANGE_MS - 1, false).ask_peer(&mut prometheus);
    assert_eq!(answer.status, 200, "{}", answer.response);
    let result = answer.response["data"]["result"].as_array().expect("series").clone();
    result.iter().map(|series| (labels(&series["metric"]), points(&series["values"]))).collect()
}

fn labels(metric: &Value) -> Labels {
    let pairs = metric.as_object().expect("labels").iter();
    Labels::from_pairs(pairs.map(|(name, value)| (name.as_str(), value.as_str().expect("text"))))
}

fn points(values: &Value) -> Vec<(i64, u64)> {
    let point = |point: &Value| {
        let seconds = point[0].as_f64().expect("a time");
        let value: f64 = point[1].as_str().and_then(|text| text.parse().ok()).expect("a value");
        ((seconds * 1000.0).round() as i64, value.to_bits())
    };
    values.as_array().expect("values").iter().map(point).collect()
}

#[test]
fn prometheus_reads_every_sample_of_our_blocks() {
    let Some(peers) = program_or_leave_out("our blocks under Prometheus") else { return };
    let blocks = tempfile::tempdir().expect("a directory");
    let fleet = Fleet { cluster: "eu-1".to_owned(), replica: 0, instances: 20, seed: 7 };
    let range = TimeRange::new(START_MS, START_MS + RANGE_MS - 1);
    let written = history::write(&fleet, range, blocks.path()).expect("blocks");
    assert_eq!(written.len(), 2);
    let scrapes: Vec<i64> = fleet.scrapes(range).collect();
    let wanted: Samples = fleet
        .series()
        .into_iter()
        .map(|series| {
            let samples = scrapes.iter().map(|at_ms| (*at_ms, series.value_at(*at_ms).to_bits())).collect();
            (series.labels, samples)
        })
        .collect();
    let found = read_by_prometheus(&peers, blocks.path());
    assert_eq!(found.len(), wanted.len());
    for (labels, samples) in &wanted {
        assert_eq!(found.get(labels), Some(samples), "{labels}");
    }
}

/// Values at the edges of what a float is, and of what XOR encoding has to do.
const ODD_VALUES: [f64; 12] = [
    0.0,
    -0.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    f64::NAN,
    f64::MAX,
    f64::MIN_POSITIVE,
    5e-324,
    -1.000_000_000_000_000_2,
    0.1,
    1e300,
];

/// Far from regular: steps of every width that a delta of deltas is written in.
const STEPS_MS: [i64; 12] = [1, 1, 15_000, 14_999, 70_000, 2, 3_000_000, 1, 15_000, 600_000, 15_003, 1];

fn histogram(number: u64) -> Histogram {
    Histogram {
        schema: 1,
        zero_threshold: 0.001,
        zero_count: number,
        count: number + 3 * (number + 1) + (number + 2),
        sum: number as f64 * 1.5 - 2.0,
        positive_spans: vec![Span { offset: -1, length: 2 }, Span { offset: 3, length: 1 }],
        positive_deltas: vec![number as i64 + 1, 0, 0],
        negative_spans: vec![Span { offset: 0, length: 1 }],
        negative_deltas: vec![number as i64 + 2],
        ..Histogram::default()
    }
}

fn write_block(target: &Path, series: &[(Labels, BlockChunk)]) -> anyhow::Result<()> {
    let symbols = symbols_of(series.iter().map(|(labels, _)| labels));
    let mut writer = BlockWriter::create(target, symbols, SegmentConfig::default())?;
    for (labels, chunk) in series {
        writer.add_series(labels, std::slice::from_ref(chunk))?;
    }
    let sealed = writer.seal()?;
    let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let meta = json!({
        "ulid": name, "minTime": START_MS, "maxTime": START_MS + RANGE_MS, "version": 1,
        "stats": {"numSamples": sealed.stats().sample_count, "numSeries": sealed.stats().series_count},
        "compaction": {"level": 1, "sources": [name]},
    });
    sealed.add_file("meta.json", meta.to_string().as_bytes())?;
    sealed.publish()?;
    Ok(())
}

fn chunk(encoding: ChunkEncoding, times_ms: &[i64], data: Vec<u8>) -> BlockChunk {
    let (min_time_ms, max_time_ms) = (times_ms[0], times_ms[times_ms.len() - 1]);
    BlockChunk { min_time_ms, max_time_ms, chunk: Chunk { encoding, data: data.into() } }
}

/// A histogram as the HTTP API writes it, buckets with their bounds left out.
fn counts(histogram: &Value) -> Vec<f64> {
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).expect("a number");
    let buckets = histogram["buckets"].as_array().into_iter().flatten();
    [&histogram["count"], &histogram["sum"]]
        .into_iter()
        .map(number)
        .chain(buckets.map(|bucket| number(&bucket[3])))
        .collect()
}

#[test]
fn prometheus_reads_our_histograms_and_odd_floats() {
    let Some(peers) = program_or_leave_out("our histograms under Prometheus") else { return };
    let times_ms: Vec<i64> = STEPS_MS
        .iter()
        .scan(START_MS, |at_ms, step_ms| {
            *at_ms += step_ms;
            Some(*at_ms)
        })
        .collect();
    let (mut floats, mut integers, mut fractions) =
        (XorAppender::new(), HistogramAppender::new(), FloatHistogramAppender::new());
    for (number, at_ms) in times_ms.iter().enumerate() {
        floats.append(*at_ms, ODD_VALUES[number]).expect("in order");
        let histogram = histogram(number as u64);
        assert_eq!(integers.append(*at_ms, &histogram).expect("in order"), Appended::InPlace);
        assert_eq!(fractions.append(*at_ms, &histogram.to_float()).expect("in order"), Appended::InPlace);
    }
    let name = |name: &str| Labels::from_pairs([("__name__", name), ("имя", "значение")]);
    let blocks = tempfile::tempdir().expect("a directory");
    let series = [
        (name("floats"), chunk(ChunkEncoding::Xor, &times_ms, floats.into_bytes())),
        (name("fractions"), chunk(ChunkEncoding::FloatHistogram, &times_ms, fractions.into_bytes())),
        (name("integers"), chunk(ChunkEncoding::Histogram, &times_ms, integers.into_bytes())),
    ];
    write_block(&blocks.path().join("01M7ZT2XAE94D33BEGH3SZ0N19"), &series).expect("a block");

    let mut prometheus = Peer::promql(&peers, &[blocks.path()]).expect("Prometheus' engine");
    let mut read = |name: &str| {
        let query = format!("{name}[{RANGE_MS}ms]");
        let answer = Question::instant(&query, START_MS + RANGE_MS, false).ask_peer(&mut prometheus);
        let result = answer.response["data"]["result"].as_array().expect("series").clone();
        assert_eq!(result.len(), 1, "{name}: {}", answer.response);
        result[0].clone()
    };
    let nan_is_nan = |bits: u64| if f64::from_bits(bits).is_nan() { f64::NAN.to_bits() } else { bits };
    let found = points(&read("floats")["values"]);
    let found: Vec<(i64, u64)> = found.into_iter().map(|(at_ms, bits)| (at_ms, nan_is_nan(bits))).collect();
    let wanted = times_ms.iter().zip(ODD_VALUES).map(|(at_ms, value)| (*at_ms, nan_is_nan(value.to_bits())));
    assert_eq!(found, wanted.collect::<Vec<_>>());
    for name in ["integers", "fractions"] {
        let found = read(name);
        for (number, point) in found["histograms"].as_array().expect("histograms").iter().enumerate() {
            let number = number as f64;
            let (zero, positive, negative) = (number, number + 1.0, number + 2.0);
            let mut wanted = vec![
                number + 3.0 * positive + negative,
                number * 1.5 - 2.0,
                negative,
                zero,
                positive,
                positive,
                positive,
            ];
            if zero == 0.0 {
                // Empty buckets are not written.
                wanted.remove(3);
            }
            assert_eq!(counts(&point[1]), wanted, "{name}: {point}");
        }
        assert_eq!(found["histograms"].as_array().map(Vec::len), Some(times_ms.len()));
    }
}
