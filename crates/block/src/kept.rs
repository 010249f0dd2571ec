//! [`KeptMeta`]: how much of each `meta.json` the list of blocks keeps. Who changes blocks keeps all of it, a reader a [`BlockSummary`].
//!
//! A bucket has tens of thousands of blocks, and a `meta.json` as read takes two kilobytes and more. A summary takes two hundred bytes: label sets and
//! the names of components are held once for all blocks that have them, names of files and unknown keys not at all. Written back, it is a `meta.json` with less
//! in it: good enough for a reader's own copy, and for nothing else.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use parallax_model::{Labels, Resolution, TimeRange};
use serde_json::Map;

use crate::meta::{CHUNKS_DIRECTORY, Downsample, IndexStats, META_VERSION, MetaFile};
use crate::{BlockId, BlockMeta, BlockStats, Compaction, ThanosMeta};

/// So many different label sets, or texts, are remembered as shared; with more it begins anew, which costs memory only.
const MAX_SHARED: usize = 1 << 16;

/// Segments of one block whose sizes are kept.
const MAX_SEGMENTS: usize = 4096;

/// What a list of blocks keeps of a `meta.json`.
pub trait KeptMeta: Clone + fmt::Debug + PartialEq + Send + Sync + 'static {
    /// What a copy of these is called in the directory of who keeps them: who needs all of a `meta.json` must not begin with summaries.
    const COPY_NAME: &'static str;

    fn keep(meta: BlockMeta, shared: &Shared) -> Arc<Self>;

    fn id(&self) -> BlockId;

    fn min_time_ms(&self) -> i64;

    /// Exclusive.
    fn max_time_ms(&self) -> i64;

    fn resolution_ms(&self) -> i64;

    /// See [`BlockMeta::upload_time_ms`].
    fn upload_time_ms(&self) -> Option<i64>;

    /// Which component made the block.
    fn source(&self) -> &str;

    /// The level-1 blocks whose samples this block holds.
    fn sources(&self) -> &[BlockId];

    /// The external labels, by name.
    fn labels(&self) -> impl Iterator<Item = (&str, &str)>;

    /// As a `meta.json`.
    fn to_meta(&self) -> Cow<'_, BlockMeta>;
}

/// What many blocks have in common, held once. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Texts>>);

#[derive(Debug, Default)]
struct Texts {
    labels: HashSet<Labels>,
    texts: HashSet<Arc<str>>,
}

impl Shared {
    fn labels(&self, labels: Labels) -> Labels {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = texts.labels.get(&labels) {
            return known.clone();
        }
        if texts.labels.len() >= MAX_SHARED {
            texts.labels.clear();
        }
        texts.labels.insert(labels.clone());
        labels
    }

    fn text(&self, text: &str) -> Arc<str> {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = texts.texts.get(text) {
            return Arc::clone(known);
        }
        if texts.texts.len() >= MAX_SHARED {
            texts.texts.clear();
        }
        let text: Arc<str> = text.into();
        texts.texts.insert(Arc::clone(&text));
        text
    }
}

impl KeptMeta for BlockMeta {
    const COPY_NAME: &'static str = "catalog-1";

    fn keep(meta: BlockMeta, _: &Shared) -> Arc<Self> {
        Arc::new(meta)
    }

    fn id(&self) -> BlockId {
        self.ulid
    }

    fn min_time_ms(&self) -> i64 {
        self.min_time_ms
    }

    fn max_time_ms(&self) -> i64 {
        self.max_time_ms
    }

    fn resolution_ms(&self) -> i64 {
        Self::resolution_ms(self)
    }

    fn upload_time_ms(&self) -> Option<i64> {
        Self::upload_time_ms(self)
    }

    fn source(&self) -> &str {
        Self::source(self)
    }

    fn sources(&self) -> &[BlockId] {
        &self.compaction.sources
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.thanos.as_ref().and_then(|thanos| thanos.labels.as_ref());
        labels.into_iter().flatten().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn to_meta(&self) -> Cow<'_, BlockMeta> {
        Cow::Borrowed(self)
    }
}

/// What a reader needs of a block's `meta.json`. A block covers `[min_time_ms, max_time_ms)`.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSummary {
    pub ulid: BlockId,
    pub min_time_ms: i64,
    /// Exclusive.
    pub max_time_ms: i64,
    pub num_samples: u64,
    pub num_series: u64,
    pub num_chunks: u64,
    pub external_labels: Labels,
    /// Which component made the block.
    pub source: Arc<str>,
    pub resolution_ms: i64,
    /// 0 if it is not known.
    upload_time_ms: i64,
    /// `None` if the block is its own and only source.
    sources: Option<Box<[BlockId]>>,
    /// Of the segments from 1 on; 0 for one that is not known.
    segment_sizes_bytes: Box<[u64]>,
    pub compaction_level: u32,
    /// Of the largest series entry; 0 if it is not known.
    pub series_max_size_bytes: u32,
    /// Of the largest chunk without its frame; 0 if it is not known.
    pub chunk_max_size_bytes: u32,
    /// Whether there is a section of Thanos.
    is_shipped: bool,
}

impl BlockSummary {
    pub fn new(meta: &BlockMeta, shared: &Shared) -> Self {
        let thanos = meta.thanos.as_ref();
        let index_stats = thanos.and_then(|thanos| thanos.index_stats.clone()).unwrap_or_default();
        let short = |size_bytes: u64| u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let is_own_source = meta.compaction.sources == [meta.ulid];
        Self {
            ulid: meta.ulid,
            min_time_ms: meta.min_time_ms,
            max_time_ms: meta.max_time_ms,
            num_samples: meta.stats.num_samples,
            num_series: meta.stats.num_series,
            num_chunks: meta.stats.num_chunks,
            external_labels: shared.labels(meta.external_labels()),
            source: shared.text(meta.source()),
            resolution_ms: meta.resolution_ms(),
            upload_time_ms: meta.upload_time_ms().unwrap_or(0),
            sources: (!is_own_source).then(|| meta.compaction.sources.as_slice().into()),
            segment_sizes_bytes: segment_sizes_bytes(thanos.map_or(&[][..], |thanos| &thanos.files)),
            compaction_level: meta.compaction.level,
            series_max_size_bytes: short(index_stats.series_max_size_bytes),
            chunk_max_size_bytes: short(index_stats.chunk_max_size_bytes),
            is_shipped: thanos.is_some(),
        }
    }

    /// `None` for a resolution that we do not know.
    pub fn resolution(&self) -> Option<Resolution> {
        Resolution::from_millis(self.resolution_ms)
    }

    /// The closed range of times of the block's samples; empty if the block is.
    pub fn time_range(&self) -> TimeRange {
        TimeRange::new(self.min_time_ms, self.max_time_ms.saturating_sub(1))
    }

    /// The size of a segment (the first is 1), if `meta.json` tells.
    pub fn segment_size_bytes(&self, segment: u32) -> Option<u64> {
        let index = usize::try_from(segment).ok()?.checked_sub(1)?;
        self.segment_sizes_bytes.get(index).copied().filter(|size_bytes| *size_bytes > 0)
    }
}

/// By number; those that lie behind a hole too large to be kept are left out.
fn segment_sizes_bytes(files: &[MetaFile]) -> Box<[u64]> {
    let mut sizes = Vec::new();
    for file in files {
        let segment = file.rel_path.strip_prefix(CHUNKS_DIRECTORY).and_then(|rest| rest.strip_prefix('/'));
        let segment = segment.filter(|name| name.len() == 6).and_then(|name| name.parse::<usize>().ok());
        let (Some(segment @ 1..=MAX_SEGMENTS), Some(size_bytes @ 1..)) = (segment, file.size_bytes) else {
            continue;
        };
        if sizes.len() < segment {
            sizes.resize(segment, 0);
        }
        if let Some(place) = sizes.get_mut(segment - 1) {
            *place = size_bytes;
        }
    }
    sizes.into()
}

impl KeptMeta for BlockSummary {
    const COPY_NAME: &'static str = "summaries-1";

    fn keep(meta: BlockMeta, shared: &Shared) -> Arc<Self> {
        Arc::new(Self::new(&meta, shared))
    }

    fn id(&self) -> BlockId {
        self.ulid
    }

    fn min_time_ms(&self) -> i64 {
        self.min_time_ms
    }

    fn max_time_ms(&self) -> i64 {
        self.max_time_ms
    }

    fn resolution_ms(&self) -> i64 {
        self.resolution_ms
    }

    fn upload_time_ms(&self) -> Option<i64> {
        Some(self.upload_time_ms).filter(|time_ms| *time_ms > 0)
    }

    fn source(&self) -> &str {
        &self.source
    }

    fn sources(&self) -> &[BlockId] {
        self.sources.as_deref().unwrap_or(std::slice::from_ref(&self.ulid))
    }

    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.external_labels.iter()
    }

    fn to_meta(&self) -> Cow<'_, BlockMeta> {
        let file = |(index, size_bytes): (usize, &u64)| MetaFile {
            rel_path: format!("{CHUNKS_DIRECTORY}/{:06}", index + 1),
            size_bytes: Some(*size_bytes),
            ..MetaFile::default()
        };
        let files = self.segment_sizes_bytes.iter().enumerate().filter(|(_, size_bytes)| **size_bytes > 0);
        let upload_time = KeptMeta::upload_time_ms(self)
            .and_then(|time_ms| jiff::Timestamp::from_millisecond(time_ms).ok())
            .map(|time| time.to_string());
        let (series, chunk) = (self.series_max_size_bytes, self.chunk_max_size_bytes);
        let index_stats = (series > 0 || chunk > 0).then(|| IndexStats {
            series_max_size_bytes: series.into(),
            chunk_max_size_bytes: chunk.into(),
            ..IndexStats::default()
        });
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let thanos = self.is_shipped.then(|| ThanosMeta {
            version: META_VERSION,
            labels: Some(self.external_labels.iter().map(owned).collect()),
            downsample: Downsample { resolution_ms: self.resolution_ms, ..Downsample::default() },
            source: self.source.to_string(),
            files: files.map(file).collect(),
            index_stats,
            upload_time,
            ..ThanosMeta::default()
        });
        Cow::Owned(BlockMeta {
            ulid: self.ulid,
            min_time_ms: self.min_time_ms,
            max_time_ms: self.max_time_ms,
            stats: BlockStats {
                num_samples: self.num_samples,
                num_series: self.num_series,
                num_chunks: self.num_chunks,
                ..BlockStats::default()
            },
            compaction: Compaction {
                level: self.compaction_level,
                sources: self.sources().to_vec(),
                ..Compaction::default()
            },
            version: META_VERSION,
            thanos,
            unknown: Map::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";
    const OTHER: &str = "01M7ZT2XDX6XDB6P5XACT0A2ZN";

    fn meta(thanos: &str, sources: &str) -> BlockMeta {
        let json = format!(
            r#"{{"ulid":"{ID}","minTime":1,"maxTime":9,"version":1,"stats":{{"numSamples":7,"numSeries":3,"numChunks":4}},
            "compaction":{{"level":2,"sources":[{sources}]}},"thanos":{{"labels":{{"cluster":"eu-1","replica":"a"}},
            "downsample":{{"resolution":300000}},"source":"compactor"{thanos}}}}}"#
        );
        BlockMeta::parse("test", json.as_bytes()).unwrap()
    }

    type Told = (BlockId, (i64, i64, Option<i64>), i64, String, Vec<BlockId>, Vec<(String, String)>);

    /// All that the trait says.
    fn told<M: KeptMeta>(kept: &M) -> Told {
        let labels: Vec<(String, String)> =
            kept.labels().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let times = (kept.min_time_ms(), kept.max_time_ms(), kept.upload_time_ms());
        (kept.id(), times, kept.resolution_ms(), kept.source().to_owned(), kept.sources().to_vec(), labels)
    }

    proptest! {
        #[test]
        fn a_summary_tells_what_the_whole_tells_and_survives_being_written(
            sources in prop::sample::select(vec![String::new(), format!("\"{ID}\""), format!("\"{ID}\",\"{OTHER}\"")]),
            uploaded in prop::sample::select(vec!["", r#","upload_time":"2026-11-21T19:42:55.670046418Z""#, r#","upload_time":"x""#]),
            segments in prop::collection::vec((1u32..9, 0u64..1000), 0..4),
            sizes in (0u64..u64::MAX, 0u64..100),
        ) {
            let files: Vec<String> = segments
                .iter()
                .map(|(segment, size)| format!(r#"{{"rel_path":"chunks/{segment:06}","size_bytes":{size}}}"#))
                .collect();
            let (series, chunk) = sizes;
            let thanos = format!(
                r#"{uploaded},"files":[{}],"index_stats":{{"series_max_size":{series},"chunk_max_size":{chunk}}}"#,
                files.join(",")
            );
            let whole = meta(&thanos, &sources);
            let shared = Shared::default();
            let summary = BlockSummary::new(&whole, &shared);
            prop_assert_eq!(told(&summary), told(&whole));
            for segment in 0..12 {
                // Of two sizes for one name either may be meant; none is 0.
                let names: Vec<u64> = whole.thanos.iter().flat_map(|thanos| &thanos.files)
                    .filter(|file| file.rel_path == format!("chunks/{segment:06}"))
                    .filter_map(|file| file.size_bytes).collect();
                match summary.segment_size_bytes(segment) {
                    Some(size) => prop_assert!(names.contains(&size)),
                    None => prop_assert!(names.is_empty() || names.contains(&0)),
                }
            }
            let written = summary.to_meta().to_json().unwrap();
            let read = BlockMeta::parse("copy", &written).unwrap();
            prop_assert_eq!(BlockSummary::new(&read, &shared), summary);
        }
    }

    #[test]
    fn what_blocks_have_in_common_is_held_once() {
        let shared = Shared::default();
        let one = BlockSummary::new(&meta("", ""), &shared);
        let two = BlockSummary::new(&meta(r#","segment_files":["000001"]"#, ""), &shared);
        assert!(Arc::ptr_eq(&one.source, &two.source));
        let text = |summary: &BlockSummary| summary.external_labels.get("cluster").map(str::as_ptr);
        assert!(text(&one).is_some() && text(&one) == text(&two));
        assert!(size_of::<BlockSummary>() <= 192, "{}", size_of::<BlockSummary>());
    }

    #[test]
    fn a_block_that_nobody_shipped_stays_one() {
        let json = format!(r#"{{"ulid":"{ID}","minTime":1,"maxTime":2,"version":1}}"#);
        let whole = BlockMeta::parse("x", json.as_bytes()).unwrap();
        let summary = BlockSummary::new(&whole, &Shared::default());
        assert!(summary.to_meta().thanos.is_none() && summary.sources().is_empty());
    }

    #[test]
    fn names_that_are_no_segments_take_no_memory() {
        let thanos = r#","files":[{"rel_path":"chunks/999999","size_bytes":1},{"rel_path":"chunks/../1","size_bytes":1},
            {"rel_path":"chunks/000000","size_bytes":1},{"rel_path":"index","size_bytes":1}]"#;
        let summary = BlockSummary::new(&meta(thanos, ""), &Shared::default());
        assert!(summary.segment_sizes_bytes.is_empty());
    }
}
