//! [`Content`]: what the blocks hold that a compactor made.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use parallax_model::{FloatColumn, TimeRange};
use parallax_tsdb::block::BlockReader;
use parallax_tsdb::chunk::{ChunkEncoding, decode_xor};
use serde_json::Value;

/// Of each block that was made and is not marked for deletion, by resolution and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content(BTreeMap<(i64, i64, i64), BlockContent>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct BlockContent {
    series: u64,
    /// Of downsampled blocks chunks, which are compared by their bytes.
    samples: u64,
    /// Of labels, times and values.
    digest: u64,
}

impl Content {
    pub fn of_made(bucket: &Path) -> anyhow::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(bucket)? {
            let dir = entry?.path();
            let Ok(meta) = std::fs::read(dir.join("meta.json")) else { continue };
            let meta: Value = serde_json::from_slice(&meta)?;
            let number = |pointer: &str| meta.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
            let resolution_ms = number("/thanos/downsample/resolution");
            let is_made = number("/compaction/level") > 1 || resolution_ms > 0;
            if is_made && !dir.join("deletion-mark.json").exists() {
                let key = (resolution_ms, number("/minTime"), number("/maxTime"));
                let content = read(&dir).with_context(|| dir.display().to_string())?;
                ensure!(found.insert(key, content).is_none(), "two blocks of {key:?}");
            }
        }
        ensure!(!found.is_empty(), "no block was made");
        Ok(Self(found))
    }
}

fn read(dir: &Path) -> anyhow::Result<BlockContent> {
    let block = BlockReader::open(dir)?;
    let mut content = BlockContent::default();
    let mut column = FloatColumn::default();
    for series in block.all_series(TimeRange::ALL)? {
        let series = series?;
        content.series += 1;
        for byte in series.labels.to_string().bytes() {
            content.mix(u64::from(byte));
        }
        column.timestamps_ms.clear();
        column.values.clear();
        for meta in &series.chunks {
            let chunk = block.chunk(meta)?;
            if chunk.encoding == ChunkEncoding::Xor {
                decode_xor(&chunk.data, &mut column)?;
                continue;
            }
            content.samples += 1;
            for word in chunk.data.chunks(8) {
                content.mix(word.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
            }
        }
        content.samples += column.len() as u64;
        for (time_ms, value) in column.timestamps_ms.iter().zip(&column.values) {
            content.mix(time_ms.cast_unsigned());
            content.mix(value.to_bits());
        }
    }
    Ok(content)
}

impl BlockContent {
    fn mix(&mut self, next: u64) {
        self.digest = (self.digest.rotate_left(29) ^ next).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
