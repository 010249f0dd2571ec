//! What a reader finds before and after a compaction: for any matchers and any range of time the same samples.
//!
//! Blocks are read as a store reads them: by postings, by the times that the index gives for chunks, by the offsets of chunks. So a block that holds everything, and says of a chunk
//! that it begins too late, or leaves a series out of a list, does not pass.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parallax_compactor::{MergeMode, group_blocks};
use parallax_model::{FloatColumn, FloatHistogram, HistogramColumn, Labels, MatchOp, Matcher, TimeRange};
use parallax_tsdb::block::BlockReader;
use parallax_tsdb::chunk::decode_chunk;
use proptest::prelude::*;

use super::fixture::{Content, SeriesSpec, TestBucket, Value, id};

const BLOCK_MS: i64 = 10_000;

/// By name from where, how far apart, how many, and how they are cut. Of a name all series are of one kind, so that blocks that overlap hold the same.
type Shape = BTreeMap<(String, String), (i64, i64, usize, usize)>;

fn shape() -> impl Strategy<Value = Shape> {
    let series = (0i64..4_000, 1i64..60, 1usize..300, 1usize..150);
    prop::collection::btree_map(("[a-d]", "[x-z]{0,2}"), series, 0..6)
}

fn specs(shape: &Shape, begins_ms: i64) -> Vec<SeriesSpec> {
    let specs = shape.iter().map(|((name, value), (from, step, count, chunk_samples))| {
        let times = (0..*count as i64).map(|n| from + n * step).filter(|time| *time < BLOCK_MS);
        SeriesSpec {
            labels: Labels::from_pairs([("__name__", name.as_str()), ("v", value.as_str())]),
            seed: i64::from(name.as_bytes()[0]),
            histograms: name.as_str() > "b",
            times_ms: times.map(|time| begins_ms + time).collect(),
            chunk_samples: *chunk_samples,
        }
    });
    specs.filter(|spec| !spec.times_ms.is_empty()).collect()
}

fn matchers() -> impl Strategy<Value = Vec<Matcher>> {
    let value = prop_oneof![Just(""), Just("x"), Just("y"), Just("xy"), Just("a"), Just("c")];
    let regex = prop_oneof![Just("[ab]"), Just("x.*"), Just(".+"), Just("|z"), Just("c|d|")];
    let name = || prop_oneof![Just("__name__"), Just("v"), Just("absent")];
    let matcher = prop_oneof![
        (name(), value, any::<bool>()).prop_map(|(name, value, is_equal)| {
            let op = if is_equal { MatchOp::Equal } else { MatchOp::NotEqual };
            Matcher::new(op, name, value).unwrap()
        }),
        (name(), regex, any::<bool>()).prop_map(|(name, regex, is_equal)| {
            let op = if is_equal { MatchOp::Regex } else { MatchOp::NotRegex };
            Matcher::new(op, name, regex).unwrap()
        }),
    ];
    prop::collection::vec(matcher, 1..3)
}

/// The samples that some blocks give for a question.
fn answer(blocks: &[PathBuf], matchers: &[Matcher], range: TimeRange) -> Content {
    let mut content = Content::new();
    for block in blocks {
        let reader = BlockReader::open(block).unwrap();
        for series in reader.series(matchers, range).unwrap() {
            let series = series.unwrap();
            for meta in &series.chunks {
                let chunk = reader.chunk(meta).unwrap();
                let (mut floats, mut histograms) = (FloatColumn::default(), HistogramColumn::default());
                decode_chunk(chunk.encoding, &chunk.data, range, &mut floats, &mut histograms).unwrap();
                let floats = floats.iter().map(|(time_ms, value)| (time_ms, Value::Float(value.to_bits())));
                let histograms =
                    histograms.timestamps_ms.iter().zip(&histograms.values).map(|(time_ms, value)| {
                        let mut value = FloatHistogram::clone(value);
                        value.counter_reset_hint = Default::default();
                        (*time_ms, Value::Histogram(Box::new(value)))
                    });
                let samples: Vec<_> = floats.chain(histograms).collect();
                if !samples.is_empty() {
                    content.entry(series.labels.clone()).or_default().extend(samples);
                }
            }
        }
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn any_question_has_the_same_answer_before_and_after(
        blocks in prop::collection::vec((0i64..3, shape()), 1..6),
        questions in prop::collection::vec((matchers(), -100i64..30_100, 0i64..12_000), 1..12),
        penalty in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let bucket = TestBucket::new();
        let mut metas = Vec::new();
        let mut times = std::collections::BTreeSet::new();
        for (number, (place, shape)) in (1..).zip(&blocks) {
            let begins_ms = place * BLOCK_MS;
            // Penalty deduplication leaves samples out where blocks overlap: those are for the other mode.
            if penalty && !times.insert(begins_ms) {
                continue;
            }
            let range = (begins_ms, begins_ms + BLOCK_MS);
            metas.push(bucket.add(id(number), range, &number.to_string(), &specs(shape, begins_ms)));
        }
        let path = |meta: &parallax_block::BlockMeta| bucket.path().join(meta.ulid.to_string());
        let before: Vec<PathBuf> = metas.iter().map(|meta| path(meta)).collect();
        let group = group_blocks(&metas, &["replica".to_owned()]).pop_first().unwrap().1;
        let mode = if penalty { MergeMode::Penalty } else { MergeMode::OneToOne };
        let made = runtime.block_on(bucket.job().compact(&group, &group.blocks, mode, 1)).unwrap().made();
        let after: Vec<PathBuf> = made.iter().map(|new| path(&new.meta)).collect();
        let everything = (vec![Matcher::new(MatchOp::NotEqual, "__name__", "").unwrap()], 0, 100_000);
        for (matchers, from_ms, length_ms) in questions.into_iter().chain([everything]) {
            let range = TimeRange::new(from_ms, from_ms + length_ms);
            let (expected, found) = (answer(&before, &matchers, range), answer(&after, &matchers, range));
            prop_assert!(found == expected, "{:?} over {:?}: {:?}, not {:?}", matchers, range, found, expected);
        }
    }
}
