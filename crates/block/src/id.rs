//! [`BlockId`]: a block's ULID, whose first 48 bits are the milliseconds of its making.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

use crate::BlockError;

/// The name of a block, unique for ever. Orders by time of making.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId(Ulid);

/// 80 random bits.
const RANDOM_MASK: u128 = (1 << 80) - 1;

impl BlockId {
    /// A new name, made at `time_ms` (milliseconds since the epoch; negative counts as 0).
    pub fn generate(time_ms: i64, random: &mut impl Rng) -> Self {
        let time = u64::try_from(time_ms).unwrap_or(0);
        Self(Ulid::from_parts(time, random.random::<u128>() & RANDOM_MASK))
    }

    /// The first of all names made at `time_ms` (milliseconds since the epoch; negative counts as 0).
    pub fn first_of(time_ms: i64) -> Self {
        Self(Ulid::from_parts(u64::try_from(time_ms).unwrap_or(0), 0))
    }

    /// The name that sorts next behind this one; the last of all has none and stays.
    pub fn successor(self) -> Self {
        Self(Ulid(self.0.0.saturating_add(1)))
    }

    /// When the name was made, in milliseconds since the epoch.
    pub fn time_ms(self) -> i64 {
        // 48 bits always fit.
        i64::try_from(self.0.timestamp_ms()).unwrap_or(i64::MAX)
    }

    /// The name of one of this block's objects: `<ulid>/<file>`.
    pub fn object(self, file: &str) -> String {
        format!("{self}/{file}")
    }

    pub fn meta_object(self) -> String {
        self.object(crate::meta::META_FILE_NAME)
    }
}

impl FromStr for BlockId {
    type Err = BlockError;

    /// Only the canonical form, upper case: what directories of a bucket are called.
    fn from_str(text: &str) -> Result<Self, BlockError> {
        if !parallax_bucket::is_block_id(text) {
            return Err(BlockError::NoBlockId { text: text.chars().take(64).collect() });
        }
        Ulid::from_string(text).map(Self).map_err(|_| BlockError::NoBlockId { text: text.to_owned() })
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BlockId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_id_is_the_text_of_a_directory() {
        let text = "01M7ZT2XAE94D33BEGH3SZ0N19";
        let id: BlockId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.object("index"), format!("{text}/index"));
        for bad in ["", "01m7zt2xae94d33begh3sz0n19", "../../etc/passwd", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ"] {
            assert!(bad.parse::<BlockId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn generated_ids_carry_their_time_and_order_by_it() {
        let mut random = rand::rng();
        let early = BlockId::generate(1_000, &mut random);
        let late = BlockId::generate(2_000, &mut random);
        assert_eq!((early.time_ms(), late.time_ms()), (1_000, 2_000));
        assert!(early < late);
        assert_ne!(late, BlockId::generate(2_000, &mut random));
    }
}
