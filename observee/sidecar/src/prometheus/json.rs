//! Parts that several of Prometheus' JSON answers have.

use std::collections::BTreeMap;

use parallax_model::Labels;
use parallax_storeapi::labels::set_to_wire;
use parallax_storeapi::proto::thanos::ZLabelSet;
use prost_types::Timestamp;
use serde::{Deserialize, Deserializer};

/// Labels as an object; nothing at all where Prometheus says `null`.
#[derive(Default, Deserialize)]
pub(super) struct LabelMap(Option<BTreeMap<String, String>>);

impl LabelMap {
    /// On the wire, with `external` labels laid over them.
    pub(super) fn with(self, external: &Labels) -> ZLabelSet {
        set_to_wire(&Labels::from_pairs(self.0.unwrap_or_default()).overlaid_with(external))
    }
}

/// A time in RFC 3339. Go's zero time, the first moment of the year 1, is kept as such.
#[derive(Default)]
pub(super) struct Moment(pub(super) Option<Timestamp>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time: jiff::Timestamp =
            text.parse().map_err(|_| serde::de::Error::custom(format!("{text:?} is no time in RFC 3339")))?;
        let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
        // Before 1970 the fraction counts backwards here, and forwards on the wire.
        if nanos < 0 {
            seconds -= 1;
            nanos += 1_000_000_000;
        }
        Ok(Self(Some(Timestamp { seconds, nanos })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Result<Timestamp, String> {
        let json = serde_json::to_string(text).unwrap();
        let moment = serde_json::from_str::<Moment>(&json).map_err(|error| error.to_string())?;
        Ok(moment.0.unwrap())
    }

    #[test]
    fn times_of_any_zone_are_moments() {
        let expected = Timestamp { seconds: 1_782_864_000, nanos: 500_000_000 };
        assert_eq!(moment("2026-07-01T00:00:00.5Z"), Ok(expected));
        assert_eq!(moment("2026-07-01T02:00:00.5+02:00"), Ok(expected));
        assert_eq!(moment("0001-01-01T00:00:00Z"), Ok(Timestamp { seconds: -62_135_596_800, nanos: 0 }));
        assert_eq!(moment("1969-12-31T23:59:59.75Z"), Ok(Timestamp { seconds: -1, nanos: 750_000_000 }));
        assert!(moment("yesterday").unwrap_err().starts_with("\"yesterday\" is no time in RFC 3339"));
    }

    #[test]
    fn labels_may_be_null() {
        let labels: LabelMap = serde_json::from_str("null").unwrap();
        let external = Labels::from_pairs([("cluster", "eu-1")]);
        assert_eq!(labels.with(&external), set_to_wire(&external));
    }
}
