//! What a message takes once it is decoded, told before it is: its bytes on the wire say little of that.
//!
//! An empty rule is two bytes on the wire and hundreds in memory, so that a message within its limit of bytes could decode to gigabytes. Here the
//! wire is walked once, without storing anything, and what each part will take is added up by a [`Shape`]: the parts that repeat, and how large each
//! is. The walk ends at the limit. Malformed bytes are left for the decoder to refuse.

use std::any::TypeId;
use std::mem::size_of;

use tonic::Status;

use crate::proto::thanos::info::{InfoResponse, TsdbInfo};
use crate::proto::thanos::{
    ActiveTarget, AggrChunk, AlertInstance, Chunk, DroppedTarget, Exemplar, ExemplarData, ExemplarsResponse,
    Label, LabelNamesResponse, LabelValuesResponse, Meta, MetricMetadataEntry, MetricMetadataResponse, Rule,
    RuleGroup, RulesResponse, Series, SeriesResponse, Statistic, TargetDiscovery, TargetsResponse,
    TsdbStatistics, TsdbStatisticsEntry, TsdbStatisticsResponse, ZLabelSet,
};
use crate::wire::varint;

/// What a text takes beside its bytes: its place in a list, and what the allocator adds.
const TEXT_BYTES: usize = size_of::<String>() + 16;

/// What a place in a map takes beside key and value.
const MAP_ENTRY_BYTES: usize = 32;

/// A message may always take so many times its own size, however large frames are allowed to be: data is most of a large frame and is not copied.
const ALWAYS_TIMES: usize = 2;

/// The parts of a message that can make it large.
struct Shape {
    fields: &'static [(u64, Part)],
}

enum Part {
    /// A message that takes so many bytes beside its own parts.
    Message(usize, &'static Shape),
    Text,
}

use Part::{Message, Text};

const fn shape(fields: &'static [(u64, Part)]) -> Shape {
    Shape { fields }
}

static NO_PARTS: Shape = shape(&[]);
static LABELS: Shape = shape(&[(1, Message(size_of::<Label>(), &NO_PARTS))]);
const LABEL_SET: Part = Message(size_of::<ZLabelSet>(), &LABELS);

static AGGR_CHUNK: Shape = shape(&[
    (4, Message(size_of::<Chunk>(), &NO_PARTS)),
    (5, Message(size_of::<Chunk>(), &NO_PARTS)),
    (6, Message(size_of::<Chunk>(), &NO_PARTS)),
    (7, Message(size_of::<Chunk>(), &NO_PARTS)),
    (8, Message(size_of::<Chunk>(), &NO_PARTS)),
]);
static SERIES: Shape =
    shape(&[(1, Message(size_of::<Label>(), &NO_PARTS)), (2, Message(size_of::<AggrChunk>(), &AGGR_CHUNK))]);
static BATCH: Shape = shape(&[(1, Message(size_of::<Series>(), &SERIES))]);
static SERIES_RESPONSE: Shape =
    shape(&[(1, Message(size_of::<Series>(), &SERIES)), (2, Text), (4, Message(0, &BATCH))]);

static TEXTS: Shape = shape(&[(1, Text), (2, Text)]);

static TSDB_INFO: Shape = shape(&[(1, LABEL_SET)]);
static STORE_INFO: Shape = shape(&[(6, Message(size_of::<TsdbInfo>(), &TSDB_INFO))]);
static INFO: Shape = shape(&[(1, LABEL_SET), (3, Message(0, &STORE_INFO))]);

static RECORDING: Shape = shape(&[(1, Text), (2, Text), (3, LABEL_SET), (4, Text), (5, Text)]);
static INSTANCE: Shape = shape(&[(1, LABEL_SET), (2, LABEL_SET), (5, Text)]);
static ALERT: Shape = shape(&[
    (2, Text),
    (3, Text),
    (5, LABEL_SET),
    (6, LABEL_SET),
    (7, Message(size_of::<AlertInstance>(), &INSTANCE)),
    (8, Text),
    (9, Text),
]);
static RULE: Shape = shape(&[(1, Message(0, &RECORDING)), (2, Message(0, &ALERT))]);
static GROUP: Shape = shape(&[(1, Text), (2, Text), (3, Message(size_of::<Rule>(), &RULE))]);
static RULES_RESPONSE: Shape = shape(&[(1, Message(size_of::<RuleGroup>(), &GROUP)), (2, Text)]);

static ACTIVE: Shape = shape(&[(1, LABEL_SET), (2, LABEL_SET), (3, Text), (4, Text), (5, Text), (6, Text)]);
static DROPPED: Shape = shape(&[(1, LABEL_SET)]);
static TARGETS: Shape = shape(&[
    (1, Message(size_of::<ActiveTarget>(), &ACTIVE)),
    (2, Message(size_of::<DroppedTarget>(), &DROPPED)),
]);
static TARGETS_RESPONSE: Shape = shape(&[(1, Message(size_of::<TargetDiscovery>(), &TARGETS)), (2, Text)]);

static META: Shape = shape(&[(1, Text), (2, Text), (3, Text)]);
static METAS: Shape = shape(&[(1, Message(size_of::<Meta>(), &META))]);
static METADATA_ENTRY: Shape = shape(&[(1, Text), (2, Message(size_of::<MetricMetadataEntry>(), &METAS))]);
static METADATA: Shape = shape(&[(1, Message(MAP_ENTRY_BYTES, &METADATA_ENTRY))]);
static METADATA_RESPONSE: Shape = shape(&[(1, Message(0, &METADATA)), (2, Text)]);

static EXEMPLAR: Shape = shape(&[(1, LABEL_SET)]);
static EXEMPLARS: Shape = shape(&[(1, LABEL_SET), (2, Message(size_of::<Exemplar>(), &EXEMPLAR))]);
static EXEMPLARS_RESPONSE: Shape = shape(&[(1, Message(size_of::<ExemplarData>(), &EXEMPLARS)), (2, Text)]);

static STATISTIC: Shape = shape(&[(1, Text)]);
const STATISTICS_LIST: Part = Message(size_of::<Statistic>(), &STATISTIC);
static STATISTICS: Shape =
    shape(&[(2, STATISTICS_LIST), (3, STATISTICS_LIST), (4, STATISTICS_LIST), (5, STATISTICS_LIST)]);
static STATISTICS_ENTRY: Shape =
    shape(&[(1, Text), (2, Message(size_of::<TsdbStatisticsEntry>(), &STATISTICS))]);
static STATISTICS_MAP: Shape = shape(&[(1, Message(MAP_ENTRY_BYTES, &STATISTICS_ENTRY))]);
static STATISTICS_RESPONSE: Shape =
    shape(&[(1, Message(size_of::<TsdbStatistics>(), &STATISTICS_MAP)), (2, Text)]);

/// What is known of the messages that somebody else sends in answers.
struct Known {
    what: &'static str,
    shape: &'static Shape,
    limit_bytes: usize,
}

/// Limits are four times those of the messages' bytes (see [`crate::MessageLimits`] and [`crate::SideService::max_message_bytes`]).
fn known<T: 'static>() -> Option<Known> {
    let is = |other| TypeId::of::<T>() == other;
    let known = |what, shape, limit_bytes| Some(Known { what, shape, limit_bytes });
    if is(TypeId::of::<SeriesResponse>()) {
        known("a frame of series", &SERIES_RESPONSE, 256 << 20)
    } else if is(TypeId::of::<LabelNamesResponse>()) || is(TypeId::of::<LabelValuesResponse>()) {
        known("an answer of labels", &TEXTS, 256 << 20)
    } else if is(TypeId::of::<InfoResponse>()) {
        known("an Info answer", &INFO, 32 << 20)
    } else if is(TypeId::of::<RulesResponse>()) {
        known("a group of rules", &RULES_RESPONSE, 64 << 20)
    } else if is(TypeId::of::<TargetsResponse>()) {
        known("a list of targets", &TARGETS_RESPONSE, 256 << 20)
    } else if is(TypeId::of::<MetricMetadataResponse>()) {
        known("metadata of metrics", &METADATA_RESPONSE, 32 << 20)
    } else if is(TypeId::of::<ExemplarsResponse>()) {
        known("exemplars", &EXEMPLARS_RESPONSE, 32 << 20)
    } else if is(TypeId::of::<TsdbStatisticsResponse>()) {
        known("statistics", &STATISTICS_RESPONSE, 16 << 20)
    } else {
        None
    }
}

/// # Errors
/// `ResourceExhausted` if `message`, decoded as `T`, would take more than is allowed for it.
pub(crate) fn check<T: 'static>(message: &[u8]) -> Result<(), Status> {
    let Some(Known { what, shape, limit_bytes }) = known::<T>() else { return Ok(()) };
    let limit_bytes = limit_bytes.max(message.len().saturating_mul(ALWAYS_TIMES));
    if most_of(message.len(), shape) <= limit_bytes || size_within(message, shape, limit_bytes).is_some() {
        return Ok(());
    }
    Err(Status::resource_exhausted(format!(
        "{what} has too many parts: its {} bytes would take more than the {limit_bytes} bytes of memory that are allowed for them; \
         ask for less at once",
        message.len()
    )))
}

/// What the decoded answer takes in memory, about.
pub(crate) fn size_of_message<T: prost::Message + 'static>(message: &T) -> usize {
    let size_bytes = message.encoded_len();
    match known::<T>() {
        None => size_bytes,
        Some(known) => {
            let encoded = message.encode_to_vec();
            size_within(&encoded, known.shape, usize::MAX).unwrap_or(usize::MAX).max(size_bytes)
        }
    }
}

/// The most that the parts of a message of so many bytes can take: nearly all are so short that nothing has to be walked.
fn most_of(message_bytes: usize, shape: &Shape) -> usize {
    // The key and the length of a part are two bytes at least, and texts do not overlap.
    (message_bytes / 2).saturating_mul(largest_part(shape)).saturating_add(message_bytes)
}

/// What the largest part takes, its own parts and its text not counted.
fn largest_part(shape: &Shape) -> usize {
    let size_bytes = |(_, part): &(u64, Part)| match part {
        Message(size_bytes, inner) => largest_part(inner).max(*size_bytes),
        Text => TEXT_BYTES,
    };
    shape.fields.iter().map(size_bytes).max().unwrap_or(0)
}

/// The bytes of memory that the parts of `message` take, unless they are more than `limit_bytes`.
fn size_within(message: &[u8], shape: &Shape, limit_bytes: usize) -> Option<usize> {
    let mut taken = 0_usize;
    add(message, shape, limit_bytes, &mut taken)?;
    Some(taken)
}

fn add(mut rest: &[u8], shape: &Shape, limit_bytes: usize, taken: &mut usize) -> Option<()> {
    while !rest.is_empty() {
        // From here on it is malformed: the decoder will say so.
        let Some((Field { number: field, value }, after)) = next_field(rest) else { return Some(()) };
        rest = after;
        let Some((_, part)) = shape.fields.iter().find(|(number, _)| *number == field) else { continue };
        let Some(value) = value else { continue };
        let own = match part {
            Message(size_bytes, _) => *size_bytes,
            Text => TEXT_BYTES.saturating_add(value.len()),
        };
        *taken = taken.saturating_add(own);
        if *taken > limit_bytes {
            return None;
        }
        if let Message(_, inner) = part {
            add(value, inner, limit_bytes, taken)?;
        }
    }
    Some(())
}

/// One field: its number, and its bytes if it has a length.
struct Field<'a> {
    number: u64,
    value: Option<&'a [u8]>,
}

/// The first field, and what follows it. Groups, which nothing here has, are walked through as if their fields
/// stood outside. Source: the protobuf encoding, <https://protobuf.dev/programming-guides/encoding/>.
fn next_field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (key, rest) = varint(bytes)?;
    let (value, rest) = match key & 7 {
        0 => (None, varint(rest)?.1),
        1 => (None, rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            (Some(value), rest)
        }
        3 | 4 => (None, rest),
        5 => (None, rest.get(4..)?),
        _ => return None,
    };
    Some((Field { number: key >> 3, value }, rest))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::thanos::{rules_response, series_response};

    fn repeated(tag: u8, times: usize) -> Vec<u8> {
        [tag << 3 | 2, 0].repeat(times)
    }

    /// A message whose field `tag` is `inner`.
    fn wrapped(tag: u8, inner: &[u8]) -> Vec<u8> {
        let mut message = vec![tag << 3 | 2];
        prost::encoding::encode_varint(inner.len() as u64, &mut message);
        message.extend_from_slice(inner);
        message
    }

    #[test]
    fn tiny_parts_are_refused_by_what_they_would_take() {
        // One megabyte of empty rules.
        let message = wrapped(1, &repeated(3, 1 << 19));
        let status = check::<RulesResponse>(&message).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(
            status.message().contains("a group of rules has too many parts: its 1048580 bytes"),
            "{status}"
        );
        let decoded = RulesResponse::decode(message.as_slice()).unwrap();
        let Some(rules_response::Result::Group(group)) = decoded.result else { panic!("a group") };
        assert!(group.rules.len() * size_of::<Rule>() > 64 << 20, "it would have taken that");

        // The same for labels of series, parts of targets and so on.
        let many = 1 << 23;
        let series = wrapped(1, &repeated(1, many));
        assert!(check::<SeriesResponse>(&series).is_err());
        assert!(check::<SeriesResponse>(&wrapped(4, &repeated(1, many))).is_err());
        assert!(check::<TargetsResponse>(&wrapped(1, &repeated(2, many * 2))).is_err());
        assert!(check::<LabelNamesResponse>(&repeated(1, many)).is_err());
        assert!(check::<InfoResponse>(&repeated(1, many)).is_err());
        assert!(check::<MetricMetadataResponse>(&wrapped(1, &repeated(1, many))).is_err());
        assert!(check::<ExemplarsResponse>(&wrapped(1, &repeated(2, many))).is_err());
        let entry = wrapped(1, &wrapped(1, &wrapped(2, &repeated(5, many))));
        assert!(check::<TsdbStatisticsResponse>(&entry).is_err());
    }

    #[test]
    fn no_message_takes_more_than_the_most_for_its_length() {
        let texts = wrapped(2, &[7; 100]).repeat(20);
        let chunks = wrapped(2, &wrapped(4, &[])).repeat(50);
        for message in
            [repeated(1, 1000), repeated(2, 1000), wrapped(4, &repeated(1, 1000)), wrapped(1, &chunks), texts]
        {
            let taken = size_within(&message, &SERIES_RESPONSE, usize::MAX).unwrap();
            assert!(taken <= most_of(message.len(), &SERIES_RESPONSE), "{taken} of {}", message.len());
        }
        let empty_chunks = wrapped(1, &repeated(2, 1000));
        let taken = size_within(&empty_chunks, &SERIES_RESPONSE, usize::MAX).unwrap();
        assert!(2 * taken > most_of(empty_chunks.len(), &SERIES_RESPONSE), "the bound is near what can be");
    }

    #[test]
    fn honest_messages_pass_however_much_data_they_carry() {
        let label = |name: &str, value: &str| Label {
            name: bytes::Bytes::copy_from_slice(name.as_bytes()),
            value: bytes::Bytes::copy_from_slice(value.as_bytes()),
        };
        let chunk = Chunk { data: vec![7; 400].into(), ..Chunk::default() };
        let chunk = AggrChunk { min_time: 1, max_time: 2, raw: Some(chunk), ..AggrChunk::default() };
        let series = Series { labels: vec![label("instance", "a:9100"); 12], chunks: vec![chunk; 100] };
        let batch = crate::proto::thanos::SeriesBatch { series: vec![series; 100] };
        let frame = SeriesResponse { result: Some(series_response::Result::Batch(batch)) };
        let encoded = frame.encode_to_vec();
        check::<SeriesResponse>(&encoded).unwrap();
        let taken = size_of_message(&frame);
        assert!(taken >= 100 * (12 * size_of::<Label>() + 100 * size_of::<AggrChunk>()), "{taken}");
        assert!(check::<prost_types::Any>(&[0xff; 40]).is_ok(), "nothing is known of others");
    }

    #[test]
    fn malformed_bytes_are_left_to_the_decoder() {
        for bytes in [&[0xff_u8; 40][..], &[0x0a, 0x7f], &[0x0a], &[0x0f, 1, 2], &[0x09, 1]] {
            check::<RulesResponse>(bytes).unwrap();
            assert!(RulesResponse::decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(varint(&[0x80; 11]), None);
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Some((u64::MAX, &[][..]))
        );
    }

    #[test]
    fn fields_after_a_group_are_still_seen() {
        let mut message = vec![0x7b, 0x7c];
        message.extend(wrapped(1, &repeated(3, 1 << 19)));
        assert!(check::<RulesResponse>(&message).is_err());
    }
}
