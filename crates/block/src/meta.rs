//! `meta.json`: what a block is, and the bytes that Thanos and Prometheus would write for it.
//!
//! The round trip is lossless: keys that this version does not know are kept and written back behind the known ones, and what Go
//! writes comes out byte for byte (tab-indented, HTML characters escaped, final newline).
//! Sources: Prometheus `tsdb/block.go` (BlockMeta), Thanos `pkg/block/metadata/meta.go`.

use std::collections::BTreeMap;

use parallax_model::{Labels, Resolution, TimeRange};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{BlockError, BlockId};

pub const META_FILE_NAME: &str = "meta.json";
pub const INDEX_FILE_NAME: &str = "index";
pub const CHUNKS_DIRECTORY: &str = "chunks";

/// No `meta.json` is larger: one of a block with ten thousand sources has well under a megabyte.
pub const MAX_META_BYTES: u64 = 16 << 20;

/// The one version of `meta.json`, both of the block and of Thanos' section.
pub(crate) const META_VERSION: u32 = 1;

/// A block's `meta.json`. A block covers `[min_time_ms, max_time_ms)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockMeta {
    pub ulid: BlockId,
    #[serde(rename = "minTime")]
    pub min_time_ms: i64,
    /// Exclusive.
    #[serde(rename = "maxTime")]
    pub max_time_ms: i64,
    #[serde(default)]
    pub stats: BlockStats,
    #[serde(default)]
    pub compaction: Compaction,
    pub version: u32,
    /// Absent in a block that Prometheus made and nobody shipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<ThanosMeta>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockStats {
    #[serde(skip_serializing_if = "is_zero")]
    pub num_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_float_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_histogram_samples: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_series: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_chunks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// How the block came to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// 1 for a block straight from a head; each compaction adds one.
    pub level: u32,
    /// The level-1 blocks whose samples this block holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<BlockId>,
    #[serde(skip_serializing_if = "is_false")]
    pub deletable: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<Parent>,
    #[serde(skip_serializing_if = "is_false")]
    pub failed: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A block that was directly compacted into this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    pub ulid: BlockId,
    #[serde(rename = "minTime")]
    pub min_time_ms: i64,
    #[serde(rename = "maxTime")]
    pub max_time_ms: i64,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Thanos' section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThanosMeta {
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub version: u32,
    pub labels: Option<BTreeMap<String, String>>,
    pub downsample: Downsample,
    /// Which component made the block: `sidecar`, `compactor`, `bucket.upload` and so on.
    pub source: String,
    /// Names of the files in `chunks/`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segment_files: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<MetaFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrites: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index_stats: Option<IndexStats>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Value>,
    /// RFC 3339; see [`BlockMeta::upload_time_ms`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_time: Option<String>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Downsample {
    #[serde(rename = "resolution", default)]
    pub resolution_ms: i64,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Sizes that let a reader fetch the right amount at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexStats {
    #[serde(rename = "series_max_size", skip_serializing_if = "is_zero")]
    pub series_max_size_bytes: u64,
    #[serde(rename = "chunk_max_size", skip_serializing_if = "is_zero")]
    pub chunk_max_size_bytes: u64,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A file of the block, by its path within it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetaFile {
    pub rel_path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<FileHash>,
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileHash {
    #[serde(rename = "hashFunc")]
    pub function: String,
    /// In lower-case hexadecimal.
    pub value: String,
}

impl BlockMeta {
    /// Reads a `meta.json`.
    ///
    /// # Errors
    /// [`BlockError::Meta`], naming `block` (which is whatever the caller knows the block by), for text that does not parse,
    /// an unknown version, or a range of time that is inverted.
    pub fn parse(block: &str, json: &[u8]) -> Result<Self, BlockError> {
        let error = |reason: String| BlockError::Meta { block: block.to_owned(), reason };
        let meta: Self = serde_json::from_slice(json).map_err(|e| error(e.to_string()))?;
        if meta.version != META_VERSION {
            return Err(error(format!("version {} is not supported", meta.version)));
        }
        match meta.thanos.as_ref().map_or(0, |thanos| thanos.version) {
            0 | META_VERSION => {}
            version => return Err(error(format!("thanos version {version} is not supported"))),
        }
        if meta.min_time_ms > meta.max_time_ms {
            return Err(error(format!(
                "minTime {} lies behind maxTime {}",
                meta.min_time_ms, meta.max_time_ms
            )));
        }
        Ok(meta)
    }

    /// Reads the `meta.json` of the block that is known as `id`: the two must agree.
    pub fn parse_of(id: BlockId, json: &[u8]) -> Result<Self, BlockError> {
        let meta = Self::parse(&id.to_string(), json)?;
        if meta.ulid != id {
            let reason = format!("it belongs to block {}", meta.ulid);
            return Err(BlockError::Meta { block: id.to_string(), reason });
        }
        Ok(meta)
    }

    /// The file as Go writes it.
    pub fn to_json(&self) -> Result<Vec<u8>, BlockError> {
        to_go_json(self)
            .map_err(|error| BlockError::Meta { block: self.ulid.to_string(), reason: error.to_string() })
    }

    /// The labels that every series of the block carries besides its own.
    pub fn external_labels(&self) -> Labels {
        let labels = self.thanos.as_ref().and_then(|thanos| thanos.labels.as_ref());
        labels.map_or_else(Labels::empty, |labels| Labels::from_pairs(labels.iter()))
    }

    /// `None` for a resolution that we do not know.
    pub fn resolution(&self) -> Option<Resolution> {
        Resolution::from_millis(self.resolution_ms())
    }

    pub fn resolution_ms(&self) -> i64 {
        self.thanos.as_ref().map_or(0, |thanos| thanos.downsample.resolution_ms)
    }

    /// The closed range of times of the block's samples; empty if the block is.
    pub fn time_range(&self) -> TimeRange {
        TimeRange::new(self.min_time_ms, self.max_time_ms.saturating_sub(1))
    }

    pub fn source(&self) -> &str {
        self.thanos.as_ref().map_or("", |thanos| &thanos.source)
    }

    /// When `meta.json` went up, in milliseconds since the epoch; `None` if absent, unreadable or Go's zero time.
    pub fn upload_time_ms(&self) -> Option<i64> {
        let text = self.thanos.as_ref()?.upload_time.as_deref()?;
        let time: jiff::Timestamp = text.parse().ok()?;
        Some(time.as_millisecond()).filter(|ms| *ms > 0)
    }

    /// The size of one of the block's files, if `meta.json` tells.
    pub fn file_size_bytes(&self, rel_path: &str) -> Option<u64> {
        let files = &self.thanos.as_ref()?.files;
        files.iter().find(|file| file.rel_path == rel_path)?.size_bytes
    }
}

/// As Go's `json.Encoder` with tab indentation writes a value.
pub(crate) fn to_go_json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut json = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))?;
    json.push(b'\n');
    Ok(escape_html(json))
}

/// Go escapes these characters, which in JSON can only be part of a string.
fn escape_html(json: Vec<u8>) -> Vec<u8> {
    const LINE_SEPARATORS: [&[u8]; 2] = ["\u{2028}".as_bytes(), "\u{2029}".as_bytes()];
    if !json.iter().any(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2)) {
        return json;
    }
    let mut escaped = Vec::with_capacity(json.len() + 64);
    let mut rest = json.as_slice();
    while let [first, tail @ ..] = rest {
        match first {
            b'<' => escaped.extend(br"\u003c"),
            b'>' => escaped.extend(br"\u003e"),
            b'&' => escaped.extend(br"\u0026"),
            _ if rest.starts_with(LINE_SEPARATORS[0]) => {
                escaped.extend(br"\u2028");
                rest = rest.get(3..).unwrap_or_default();
                continue;
            }
            _ if rest.starts_with(LINE_SEPARATORS[1]) => {
                escaped.extend(br"\u2029");
                rest = rest.get(3..).unwrap_or_default();
                continue;
            }
            byte => escaped.push(*byte),
        }
        rest = tail;
    }
    escaped
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn damaged_json_never_panics(bytes: Vec<u8>, place: prop::sample::Index, byte: u8) {
            let _ = BlockMeta::parse("x", &bytes);
            let mut json = with(r#","thanos":{"labels":{"a":"b"},"files":[{"rel_path":"index"}],"upload_time":"2026-01-01T00:00:00Z"}"#).into_bytes();
            let place = place.index(json.len());
            if let Some(at) = json.get_mut(place) {
                *at = byte;
            }
            if let Ok(meta) = BlockMeta::parse("x", &json) {
                // Whatever reads comes back the same, and none of its readings panics.
                let _ = (meta.upload_time_ms(), meta.external_labels(), meta.resolution(), meta.time_range());
                prop_assert_eq!(BlockMeta::parse("x", &meta.to_json().unwrap()).unwrap(), meta);
            }
            let _ = BlockMeta::parse("x", json.get(..place).unwrap_or_default());
        }
    }

    const ID: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

    fn with(extra: &str) -> String {
        format!(r#"{{"ulid":"{ID}","minTime":1,"maxTime":2,"version":1{extra}}}"#)
    }

    #[test]
    fn unknown_keys_survive_at_every_level() {
        let json = with(
            r#","future":{"a":[1,2.5,null]},"stats":{"numSeries":3,"numX":18446744073709551615},
            "compaction":{"level":2,"y":"z","parents":[{"ulid":"01M7ZT2XAE94D33BEGH3SZ0N19","minTime":1,"maxTime":2,"p":0}]},
            "thanos":{"labels":{"a":"<b>&"},"downsample":{"resolution":0,"d":1},"source":"","index_stats":{"s":1},
            "files":[{"rel_path":"index","size_bytes":0,"f":true}],"extensions":{"k":[1]},"rewrites":[{"sources":[]}],"t":{}}"#,
        );
        let meta = BlockMeta::parse("x", json.as_bytes()).unwrap();
        let written = meta.to_json().unwrap();
        let before: Value = serde_json::from_str(&json).unwrap();
        let after: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(before, after);
        assert!(String::from_utf8(written).unwrap().contains(r"\u003cb\u003e\u0026"));
    }

    #[test]
    fn a_meta_of_prometheus_has_no_thanos_section() {
        let meta = BlockMeta::parse("x", with("").as_bytes()).unwrap();
        assert_eq!(meta.thanos, None);
        assert!(meta.external_labels().is_empty());
        assert_eq!(meta.resolution(), Some(Resolution::Raw));
        assert!(!String::from_utf8(meta.to_json().unwrap()).unwrap().contains("thanos"));
    }

    #[test]
    fn mistakes_name_the_block_and_the_reason() {
        let bad = [
            ("{", "EOF"),
            (r#"{"ulid":"x"}"#, "ULID"),
            (&with("").replace(r#""version":1"#, r#""version":2"#), "version 2"),
            (&with(r#","thanos":{"version":7}"#), "thanos version 7"),
            (&with("").replace(r#""minTime":1"#, r#""minTime":9"#), "minTime 9"),
        ];
        for (json, reason) in bad {
            let message = BlockMeta::parse("b1", json.as_bytes()).unwrap_err().to_string();
            assert!(message.contains("b1") && message.contains(reason), "{message}");
        }
        let other: BlockId = "01M7ZT2XDX6XDB6P5XACT0A2ZN".parse().unwrap();
        let message = BlockMeta::parse_of(other, with("").as_bytes()).unwrap_err().to_string();
        assert!(message.contains(ID), "{message}");
    }

    #[test]
    fn upload_times_are_rfc_3339() {
        let time = |text: &str| {
            let json = with(&format!(r#","thanos":{{"upload_time":"{text}"}}"#));
            BlockMeta::parse("x", json.as_bytes()).unwrap().upload_time_ms()
        };
        assert_eq!(time("2026-11-21T19:42:55.670046418Z"), Some(1_795_290_175_670));
        assert_eq!(time("2026-11-21T21:42:55+02:00"), Some(1_795_290_175_000));
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert_eq!(time("yesterday"), None);
    }
}
