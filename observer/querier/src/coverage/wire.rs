//! Coverage as a hint of an answer, from querier to querier.
//!
//! It travels as the last frame of a Series answer, `SeriesResponse.hints`, and as `hints` of label answers. Thanos' queriers pass hints of answers on and skip
//! those they do not know; requests carry nothing of the kind. Type URL `type.googleapis.com/parallax.v1.Coverage`:
//!
//! ```text
//! message Coverage { repeated Part parts = 1; uint64 omitted = 2; }
//! message Part { string cluster = 1; string tier = 2; string store = 3; State state = 4; int64 min_time = 5; int64 max_time = 6; string reason = 7; }
//! enum State { UNSPECIFIED = 0; COMPLETE = 1; UNATTESTED = 2; PARTIAL = 3; LATE = 4; REFUSED = 5; MISSING = 6; }
//! ```

use parallax_storeapi::proto::Any;
use prost::Message;

use super::bounded;
use super::report::{Coverage, MAX_PARTS, Part, State};

const TYPE_URL: &str = "type.googleapis.com/parallax.v1.Coverage";
/// The largest report that is read.
const MAX_BYTES: usize = 8 << 20;

#[derive(Clone, PartialEq, Message)]
struct WireCoverage {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<WirePart>,
    #[prost(uint64, tag = "2")]
    omitted: u64,
}

#[derive(Clone, PartialEq, Message)]
struct WirePart {
    #[prost(string, tag = "1")]
    cluster: String,
    #[prost(string, tag = "2")]
    tier: String,
    #[prost(string, tag = "3")]
    store: String,
    #[prost(int32, tag = "4")]
    state: i32,
    #[prost(int64, tag = "5")]
    min_time: i64,
    #[prost(int64, tag = "6")]
    max_time: i64,
    #[prost(string, tag = "7")]
    reason: String,
}

const fn number_of(state: State) -> i32 {
    match state {
        State::Complete => 1,
        State::Unattested => 2,
        State::Partial => 3,
        State::Late => 4,
        State::Refused => 5,
        State::Missing => 6,
    }
}

/// A state that is not known here is not completeness.
fn state_of(number: i32) -> State {
    State::ALL.into_iter().find(|state| number_of(*state) == number).unwrap_or(State::Unattested)
}

pub(crate) fn to_hint(coverage: &Coverage) -> Any {
    let parts = coverage.parts().iter().map(|part| WirePart {
        cluster: part.cluster.clone(),
        tier: part.tier.clone(),
        store: part.store.clone(),
        state: number_of(part.state),
        min_time: part.min_time_ms,
        max_time: part.max_time_ms,
        reason: part.reason.clone(),
    });
    let wire = WireCoverage { parts: parts.collect(), omitted: coverage.omitted() };
    Any { type_url: TYPE_URL.to_owned(), value: wire.encode_to_vec() }
}

/// Begins the text of a report where there are only texts.
const TEXT_PREFIX: &str = "parallax-coverage:";

/// A report as a text, for an answer that has no hints.
pub(crate) fn to_text(coverage: &Coverage) -> String {
    use std::fmt::Write as _;
    let mut text = TEXT_PREFIX.to_owned();
    for byte in to_hint(coverage).value {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// `None` for any other text. A report that cannot be read vouches for nothing, and says so.
pub(crate) fn from_text(text: &str) -> Option<Result<Coverage, String>> {
    let digits = text.strip_prefix(TEXT_PREFIX)?;
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let value: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    let Some(value) = value else { return Some(Err("its coverage report cannot be read".to_owned())) };
    from_hint(&Any { type_url: TYPE_URL.to_owned(), value })
}

/// `None` for any other hint. A report that cannot be read vouches for nothing, and says so.
pub(crate) fn from_hint(hint: &Any) -> Option<Result<Coverage, String>> {
    if hint.type_url != TYPE_URL {
        return None;
    }
    let size_bytes = hint.value.len();
    if size_bytes > MAX_BYTES {
        return Some(Err(format!(
            "its coverage report has {size_bytes} bytes, and at most {MAX_BYTES} are read"
        )));
    }
    let wire = match WireCoverage::decode(hint.value.as_slice()) {
        Ok(wire) => wire,
        Err(error) => return Some(Err(format!("its coverage report cannot be read: {error}"))),
    };
    let beyond = u64::try_from(wire.parts.len().saturating_sub(MAX_PARTS)).unwrap_or(u64::MAX);
    let parts = wire.parts.into_iter().take(MAX_PARTS).map(|part| Part {
        cluster: bounded(part.cluster),
        tier: bounded(part.tier),
        store: bounded(part.store),
        state: state_of(part.state),
        min_time_ms: part.min_time,
        max_time_ms: part.max_time,
        reason: bounded(part.reason),
    });
    Some(Ok(Coverage::new(parts, wire.omitted.saturating_add(beyond))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_survives_as_a_hint() {
        let parts = State::ALL.map(|state| Part {
            cluster: state.as_str().to_owned(),
            tier: "sidecar".to_owned(),
            store: "a:1".to_owned(),
            state,
            min_time_ms: -5,
            max_time_ms: 7,
            reason: "why".to_owned(),
        });
        let coverage = Coverage::new(parts, 4);
        assert_eq!(from_hint(&to_hint(&coverage)), Some(Ok(coverage.clone())));
        assert_eq!(from_text(&to_text(&coverage)), Some(Ok(coverage)));
        assert_eq!(from_text("parallax: cluster"), None);
        assert!(from_text("parallax-coverage:zz").unwrap().is_err());
    }

    #[test]
    fn other_hints_are_none_and_broken_ones_vouch_for_nothing() {
        let hint = |url: &str, value: Vec<u8>| Any { type_url: url.to_owned(), value };
        assert_eq!(from_hint(&hint("hintspb.SeriesResponseHints", vec![])), None);
        assert!(from_hint(&hint(TYPE_URL, vec![0xff; 9])).unwrap().is_err());
        assert!(from_hint(&hint(TYPE_URL, vec![0; MAX_BYTES + 1])).unwrap().is_err());
        assert_eq!(state_of(77), State::Unattested);
    }
}
