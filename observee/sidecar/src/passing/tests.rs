//! Series that pass are what they would be if they were decoded, put into order and encoded again.

use futures::StreamExt as _;
use parallax_storeapi::proto::prometheus::Chunk;
use parallax_storeapi::proto::thanos::{Label, Series, SeriesResponse};
use parallax_storeapi::{Resorter, SeriesStream, frames, resort};
use proptest::prelude::*;

use super::*;
use crate::prometheus::remote_read::decode_frame;

/// Names that own labels have, and names that external ones have, each between others of the kind.
const OWN_NAMES: [&str; 7] = ["A", "__name__", "b", "job", "m", "zone", "é"];
const EXTERNAL_NAMES: [&str; 5] = ["B", "a", "cluster", "replica", "zz"];

#[derive(Clone, Debug)]
struct Case {
    /// Messages of frames.
    messages: Vec<Vec<u8>>,
    external: Labels,
    without: Vec<String>,
    request: SeriesRequest,
}

impl Case {
    fn removed(&self) -> Vec<String> {
        self.external.iter().map(|(name, _)| name.to_owned()).chain(self.without.iter().cloned()).collect()
    }

    /// As [`crate::store`] answers what is not passed.
    fn decoded(&self) -> Result<Vec<Series>, String> {
        let mut all = Vec::new();
        for message in &self.messages {
            for series in decode_frame(Bytes::from(message.clone()), &self.removed())? {
                let chunks = series.chunks.into_iter().map(|chunk| {
                    let data = chunks::chunk(encoding(chunk.encoding), chunk.data);
                    chunks::raw(chunk.min_time_ms, chunk.max_time_ms, data)
                });
                all.push(Ok(frames::series(Series { labels: series.labels, chunks: chunks.collect() })));
            }
        }
        let sorted = resort(frames::from_vec(all), Resorter::adding(&self.external, &self.without));
        collect(frames::respond(sorted, &self.request))
    }

    /// Frames are taken when they are full, and where `pauses` says that nothing more has come.
    fn passed(&self, mut pauses: impl FnMut() -> bool) -> Result<Vec<WireFrame>, String> {
        let mut passage = Passage::new(self.removed(), &self.external.without(&self.without), &self.request);
        let mut sent = Vec::new();
        for message in &self.messages {
            passage.take(message).map_err(|refusal| format!("{refusal:?}"))?;
            if passage.outbox.is_full() {
                break;
            }
            let now = pauses();
            while let Some(frame) = passage.outbox.frame(now) {
                sent.push(frame);
            }
        }
        passage.outbox.finish().map_err(|error| error.to_string())?;
        while let Some(frame) = passage.outbox.frame(true) {
            sent.push(frame);
        }
        Ok(sent)
    }
}

fn collect(stream: SeriesStream) -> Result<Vec<Series>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let collected = runtime.block_on(frames::collect(stream));
    collected.map(|all| all.series).map_err(|status| status.to_string())
}

/// What a receiver reads.
fn received(sent: &[WireFrame]) -> Vec<Series> {
    let stream = futures::stream::iter(sent.to_vec()).map(Ok);
    collect(parallax_storeapi::encoded::decoded(Box::pin(stream))).unwrap()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[12]",
        1 => Just("ü".to_owned()),
        // Lengths that take two bytes.
        1 => (100usize..300).prop_map(|length| "x".repeat(length)),
    ]
}

fn label_set(names: &'static [&'static str]) -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(prop::sample::select(names), text(), 0..names.len())
        .prop_map(Labels::from_pairs)
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let time = prop_oneof![Just(0i64), -5i64..5, 1_700_000_000_000i64..1_700_000_100_000];
    (time, 0i64..100_000, 1i32..4, prop::collection::vec(any::<u8>(), 0..200)).prop_map(
        |(min_time_ms, length, kind, data)| Chunk {
            min_time_ms,
            max_time_ms: min_time_ms + length,
            r#type: kind,
            data: data.into(),
        },
    )
}

/// A source in order: series with their parts, some of them several to a frame.
fn case() -> impl Strategy<Value = Case> {
    let parts = prop::collection::vec(prop::collection::vec(chunk(), 0..4), 1..4);
    let series = prop::collection::btree_map(label_set(&OWN_NAMES), parts, 0..20);
    let without = prop::collection::vec(prop::sample::select(&EXTERNAL_NAMES[..]), 0..3);
    (series, label_set(&EXTERNAL_NAMES), without, 1usize..4, -1i64..10, prop_oneof![Just(0i64), 1i64..15])
        .prop_map(|(series, external, without, in_frame, response_batch_size, limit)| {
            let parts = series.into_iter().flat_map(|(own, parts)| {
                // The real one puts external labels onto what it has sorted without them.
                let labels: Vec<Label> = labels::to_wire(&external.overlaid_with(&own));
                parts.into_iter().map(move |chunks| ChunkedSeries { labels: labels.clone(), chunks })
            });
            let parts: Vec<ChunkedSeries> = parts.collect();
            let messages = parts.chunks(in_frame).map(|chunked_series| {
                ChunkedReadResponse { chunked_series: chunked_series.to_vec(), query_index: 0 }
                    .encode_to_vec()
            });
            Case {
                messages: messages.collect(),
                external,
                without: without.into_iter().map(str::to_owned).collect(),
                request: SeriesRequest { response_batch_size, limit, ..SeriesRequest::default() },
            }
        })
}

proptest! {
    #[test]
    fn what_passes_is_what_would_be_decoded_and_encoded_again(
        case in case(),
        pauses in prop::collection::vec(any::<bool>(), 1..8),
    ) {
        let mut pauses = pauses.into_iter().cycle();
        let sent = case.passed(|| pauses.next().unwrap()).unwrap();
        prop_assert_eq!(received(&sent), case.decoded().unwrap());
        let batch = usize::try_from(case.request.response_batch_size).unwrap_or(0);
        for frame in sent {
            let bytes = Bytes::from(frame.to_bytes());
            let read = SeriesResponse::decode(bytes.clone()).unwrap();
            prop_assert_eq!(&bytes, &read.encode_to_vec(), "not as prost writes it");
            let series = collect(frames::from_vec(vec![Ok(read)])).unwrap().len();
            prop_assert!((1..=batch.max(1)).contains(&series));
        }
    }

    #[test]
    fn damage_is_seen_as_it_is_by_who_decodes(
        case in case(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut case = case;
        // A limit may end an answer before its damage; with nothing to add the order is not looked at.
        case.request.limit = 0;
        prop_assume!(!case.messages.is_empty() && !case.external.without(&case.without).is_empty());
        for (message, at, byte) in changes {
            let index = message.index(case.messages.len());
            if let Some(message) = case.messages.get_mut(index).filter(|message| !message.is_empty()) {
                let at = at.index(message.len());
                message[at] = byte;
            }
        }
        match (case.passed(|| true), case.decoded()) {
            (Ok(sent), Ok(expected)) => prop_assert_eq!(received(&sent), expected),
            (passed, decoded) => prop_assert_eq!(passed.is_ok(), decoded.is_ok(), "{:?} {:?}", passed.err(), decoded.err()),
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic(message in prop::collection::vec(any::<u8>(), 0..300)) {
        let case = Case {
            messages: vec![message],
            external: Labels::from_pairs([("cluster", "eu-1")]),
            without: Vec::new(),
            request: SeriesRequest::default(),
        };
        prop_assert_eq!(case.passed(|| true).is_ok(), case.decoded().is_ok());
    }
}

#[test]
fn a_source_without_order_is_an_error_and_never_a_wrong_order() {
    let series = |own: &[(&str, &str)]| {
        let labels = labels::to_wire(&Labels::from_pairs(own.iter().copied()));
        let series = ChunkedSeries { labels, chunks: Vec::new() };
        ChunkedReadResponse { chunked_series: vec![series], query_index: 0 }.encode_to_vec()
    };
    let case = |messages: Vec<Vec<u8>>| Case {
        messages,
        external: Labels::from_pairs([("cluster", "eu-1")]),
        without: Vec::new(),
        request: SeriesRequest::default(),
    };
    let error = case(vec![series(&[("job", "b")]), series(&[("job", "a")])]).passed(|| true).unwrap_err();
    assert!(error.contains("OutOfOrder"), "{error}");
    // Ever more that has to wait is disorder, too: the labels after `cluster` come in falling order.
    let falling = (0..2000).map(|i| series(&[("a", &format!("{:05}", 5000 - i))])).collect();
    let error = case(falling).passed(|| true).unwrap_err();
    assert!(error.contains("OutOfOrder"), "{error}");
}

#[test]
fn a_series_goes_out_before_the_next_one_where_nothing_can_come_between() {
    let series = |instance: &str| {
        let own = Labels::from_pairs([("__name__", "up"), ("instance", instance), ("job", "x")]);
        let series = ChunkedSeries { labels: labels::to_wire(&own), chunks: Vec::new() };
        ChunkedReadResponse { chunked_series: vec![series], query_index: 0 }.encode_to_vec()
    };
    let external = |name| Labels::from_pairs([(name, "1")]);
    for (name, expected) in [("cluster", 1), ("replica", 0)] {
        let mut passage = Passage::new(vec![name.to_owned()], &external(name), &SeriesRequest::default());
        passage.take(&series("a")).unwrap();
        assert_eq!(usize::from(passage.outbox.frame(true).is_some()), expected, "{name}");
        passage.take(&series("b")).unwrap();
        assert!(passage.outbox.frame(true).is_some(), "{name}");
    }
}
