//! The `tombstones` file of a block: which ranges of time of which series are deleted.
//!
//! Tombstones refer to series by their ref in the block's index. The format: `FORMAT-index.md`; source: Prometheus
//! tsdb/docs/format/tombstones.md and tsdb/tombstones/tombstones.go (which leaves the version byte out of the checksum).

use std::collections::BTreeMap;

use parallax_model::TimeRange;

use crate::crc::{CRC_SIZE_BYTES, crc32c, verify};
use crate::cursor::{Cursor, put_uvarint, put_varint};
use crate::error::TsdbError;

/// The name of the file in a block's directory.
pub const TOMBSTONES_FILE_NAME: &str = "tombstones";

pub const TOMBSTONES_MAGIC: u32 = 0x0130_BA30;
pub const TOMBSTONES_VERSION: u8 = 1;

/// Magic and version.
const PREAMBLE_SIZE_BYTES: usize = 5;

/// Deleted ranges by series. The ranges of one series are in order and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tombstones {
    /// Prometheus' refs have 64 bits here, though those of an index fit 32.
    by_series: BTreeMap<u64, Vec<TimeRange>>,
}

impl Tombstones {
    /// Reads a whole file. `what` names it in errors.
    pub fn decode(what: &str, bytes: &[u8]) -> Result<Self, TsdbError> {
        let mut cursor = Cursor::new(what, bytes);
        let magic = cursor.be_u32()?;
        if magic != TOMBSTONES_MAGIC {
            let reason = format!("{magic:08x} is not the magic number of tombstones");
            return Err(TsdbError::corrupt(what, 0, reason));
        }
        let version = cursor.u8()?;
        if version != TOMBSTONES_VERSION {
            return Err(TsdbError::unsupported(what, 4, "tombstones version", version));
        }
        let Some((covered, crc)) = cursor.rest().split_last_chunk::<CRC_SIZE_BYTES>() else {
            return Err(TsdbError::truncated(what, PREAMBLE_SIZE_BYTES as u64, CRC_SIZE_BYTES as u64));
        };
        verify(what, PREAMBLE_SIZE_BYTES as u64, covered, u32::from_be_bytes(*crc))?;
        let mut cursor = Cursor::at(what, PREAMBLE_SIZE_BYTES as u64, covered);
        let mut tombstones = Self::default();
        while !cursor.is_empty() {
            let (series, start) = (cursor.uvarint64()?, cursor.offset());
            let range = TimeRange::new(cursor.varint64()?, cursor.varint64()?);
            if range.is_empty() {
                return Err(TsdbError::corrupt(what, start, "a tombstone ends before it begins"));
            }
            tombstones.add(series, range);
        }
        Ok(tombstones)
    }

    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PREAMBLE_SIZE_BYTES + CRC_SIZE_BYTES + self.len() * 16);
        out.extend(TOMBSTONES_MAGIC.to_be_bytes());
        out.push(TOMBSTONES_VERSION);
        for (series, ranges) in &self.by_series {
            for range in ranges {
                put_uvarint(&mut out, *series);
                put_varint(&mut out, range.min_ms);
                put_varint(&mut out, range.max_ms);
            }
        }
        let crc = crc32c(&out[PREAMBLE_SIZE_BYTES..]);
        out.extend(crc.to_be_bytes());
        out
    }

    /// Deletes a closed range of a series, in addition to what is deleted of it. An empty range is nothing.
    pub fn add(&mut self, series: u64, range: TimeRange) {
        if range.is_empty() {
            return;
        }
        let ranges = self.by_series.entry(series).or_default();
        // Ranges that overlap or are neighbours by a millisecond become one.
        let first = ranges.partition_point(|old| old.max_ms < range.min_ms.saturating_sub(1));
        let behind = ranges.partition_point(|old| old.min_ms <= range.max_ms.saturating_add(1));
        let mut merged = range;
        if let Some(touched) = ranges.get(first..behind) {
            for old in touched {
                merged = TimeRange::new(merged.min_ms.min(old.min_ms), merged.max_ms.max(old.max_ms));
            }
        }
        ranges.splice(first..behind.max(first), [merged]);
    }

    /// What is deleted of a series, in order.
    pub fn ranges(&self, series: u64) -> &[TimeRange] {
        self.by_series.get(&series).map_or(&[], Vec::as_slice)
    }

    /// Every series of which something is deleted, with what is deleted.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[TimeRange])> {
        self.by_series.iter().map(|(series, ranges)| (*series, ranges.as_slice()))
    }

    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.by_series.values().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_series.is_empty()
    }

    /// Whether a sample of a series is deleted.
    pub fn contains(&self, series: u64, timestamp_ms: i64) -> bool {
        let ranges = self.ranges(series);
        let at = ranges.partition_point(|range| range.max_ms < timestamp_ms);
        ranges.get(at).is_some_and(|range| range.contains(timestamp_ms))
    }

    /// Whether all of a range of a series is deleted.
    pub fn covers(&self, series: u64, wanted: TimeRange) -> bool {
        let ranges = self.ranges(series);
        let at = ranges.partition_point(|range| range.max_ms < wanted.min_ms);
        ranges.get(at).is_some_and(|range| range.contains(wanted.min_ms) && range.contains(wanted.max_ms))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn tombstones() -> impl Strategy<Value = (Tombstones, BTreeSet<(u64, i64)>)> {
        prop::collection::vec((1u64..5, -20i64..20, 0i64..6), 0..20).prop_map(|added| {
            let mut tombstones = Tombstones::default();
            let mut model = BTreeSet::new();
            for (series, min_ms, length) in added {
                tombstones.add(series, TimeRange::new(min_ms, min_ms + length));
                model.extend((min_ms..=min_ms + length).map(|t| (series, t)));
            }
            (tombstones, model)
        })
    }

    proptest! {
        #[test]
        fn ranges_cover_exactly_what_was_added((tombstones, model) in tombstones()) {
            for series in 0..6 {
                for t in -25..35 {
                    prop_assert_eq!(tombstones.contains(series, t), model.contains(&(series, t)));
                }
                let ranges = tombstones.ranges(series);
                prop_assert!(ranges.windows(2).all(|pair| pair[0].max_ms + 1 < pair[1].min_ms));
                prop_assert!(ranges.iter().all(|range| tombstones.covers(series, *range)));
            }
            prop_assert_eq!(Tombstones::decode("tombstones", &tombstones.encode()).unwrap(), tombstones);
        }

        #[test]
        fn damage_is_refused((tombstones, _) in tombstones(), at: prop::sample::Index, bit in 0u32..8) {
            let mut bytes = tombstones.encode();
            let at = at.index(bytes.len());
            prop_assert!(Tombstones::decode("tombstones", &bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(Tombstones::decode("tombstones", &bytes).is_err());
        }

        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let mut framed = vec![0x01, 0x30, 0xba, 0x30, 1];
            framed.extend(&bytes);
            framed.extend(crc32c(&bytes).to_be_bytes());
            let _ = Tombstones::decode("tombstones", &framed);
        }
    }

    #[test]
    fn extreme_ranges_do_not_overflow() {
        let mut tombstones = Tombstones::default();
        tombstones.add(1, TimeRange::new(5, 6));
        tombstones.add(1, TimeRange::ALL);
        tombstones.add(1, TimeRange::new(i64::MAX, i64::MAX));
        assert_eq!(tombstones.ranges(1), [TimeRange::ALL]);
        assert_eq!(Tombstones::decode("tombstones", &tombstones.encode()).unwrap(), tombstones);
    }

    /// `go run` of Prometheus' encoder is not at hand, so the bytes are spelled out after its format page.
    #[test]
    fn bytes_are_as_the_format_says() {
        let mut tombstones = Tombstones::default();
        tombstones.add(300, TimeRange::new(-1, 2));
        let bytes = tombstones.encode();
        assert_eq!(bytes[..9], [0x01, 0x30, 0xba, 0x30, 1, 0xac, 0x02, 1, 4]);
        assert_eq!(bytes[9..], crc32c(&bytes[5..9]).to_be_bytes());
    }
}
