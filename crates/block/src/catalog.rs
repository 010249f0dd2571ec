//! [`Catalog`]: the metas and deletion marks of all blocks of a bucket in one object, so that who reads the list need not ask for each.
//!
//! The compactor alone writes it, [`CATALOG_OBJECT`], whenever it has read the whole bucket; readers keep a copy of their own in the same format. It
//! is a memory, not the truth: which blocks exist is what a list of the bucket says, and other programs write beside us. What one may conclude from
//! it is said in `fetcher`. Losing it costs requests, nothing else.
//!
//! ```text
//! the snappy framing format (checksummed piece by piece) around lines of UTF-8, each ended by \n:
//!
//! parallax-catalog 1 <listed_ms> <lines>     when the list began, in ms since the epoch; how many lines follow
//! B <meta.json in one line>                  a block
//! D <deletion-mark.json in one line>         its deletion mark, if it has one
//! P <ulid> <state> <reason>                  a directory that is no whole block, and why; control characters are spaces
//! ```
//!
//! A line of another letter is of a later version and passed over; a line that does not parse costs its block only, which is then read from the bucket.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _};
use std::sync::Arc;

use crate::filter::BlockState;
use crate::mark::parse_mark;
use crate::meta::MAX_META_BYTES;
use crate::{BlockError, BlockId, BlockMeta, DeletionMark, KeptMeta, Shared};

/// Where the compactor puts it. No block is called so, and Thanos passes over what is not called like a block.
pub const CATALOG_OBJECT: &str = "parallax/catalog-1";

/// No catalog is larger, packed: a million blocks have less.
pub const MAX_CATALOG_BYTES: u64 = 512 << 20;

const MAGIC: &str = "parallax-catalog";
const VERSION: u32 = 1;
/// A directory's reason is cut to so many characters.
const MAX_REASON_CHARS: usize = 300;

/// All blocks of a bucket, as of one list.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog<M = BlockMeta> {
    /// When the list began, in milliseconds since the epoch by its writer's clock.
    pub listed_ms: i64,
    pub blocks: BTreeMap<BlockId, CatalogEntry<M>>,
    /// Directories that are no whole blocks: [`BlockState::NoMeta`] or [`BlockState::CorruptedMeta`], and why.
    pub troubled: BTreeMap<BlockId, (BlockState, String)>,
    /// False if some line could not be read: then a block that is not here may exist all the same.
    pub complete: bool,
}

/// One block.
#[derive(Clone, Debug, PartialEq)]
pub struct CatalogEntry<M = BlockMeta> {
    pub meta: Arc<M>,
    pub deletion: Option<Arc<DeletionMark>>,
}

fn error(reason: impl Into<String>) -> BlockError {
    BlockError::Catalog { reason: reason.into() }
}

impl Catalog {
    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`BlockError::Catalog`] if it is none, is of another version, or ends too early.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        Self::decode_keeping(bytes, &Shared::default())
    }
}

impl<M: KeptMeta> Catalog<M> {
    /// The object's bytes.
    ///
    /// # Errors
    /// [`BlockError::Catalog`] for a meta that cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, BlockError> {
        let mut packer = snap::write::FrameEncoder::new(Vec::new());
        self.write_lines(&mut packer)?;
        packer.into_inner().map_err(|problem| error(problem.to_string()))
    }

    fn write_lines(&self, out: &mut impl std::io::Write) -> Result<(), BlockError> {
        let failed = |problem: std::io::Error| error(problem.to_string());
        let marks = self.blocks.values().filter(|entry| entry.deletion.is_some()).count();
        let lines = self.blocks.len() + marks + self.troubled.len();
        writeln!(out, "{MAGIC} {VERSION} {} {lines}", self.listed_ms).map_err(failed)?;
        for entry in self.blocks.values() {
            write_json(out, b'B', entry.meta.to_meta().as_ref())?;
            if let Some(mark) = &entry.deletion {
                write_json(out, b'D', mark.as_ref())?;
            }
        }
        for (block, (state, reason)) in &self.troubled {
            let reason: String =
                reason.chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect();
            writeln!(out, "P {block} {} {reason}", state.name()).map_err(failed)?;
        }
        Ok(())
    }

    /// As [`Catalog::decode`], each meta as its reader keeps it.
    ///
    /// # Errors
    /// As [`Catalog::decode`].
    pub fn decode_keeping(bytes: &[u8], shared: &Shared) -> Result<Self, BlockError> {
        let mut lines = Lines::new(bytes);
        let first = lines.advance()?.ok_or_else(|| error("it is empty"))?;
        let first = std::str::from_utf8(first).map_err(|_| error("it does not begin as one"))?;
        let words: Vec<&str> = first.split(' ').collect();
        let [MAGIC, version, listed_ms, count] = words[..] else {
            return Err(error("it does not begin as one"));
        };
        if version != VERSION.to_string() {
            return Err(error(format!("version {version:?} is not supported")));
        }
        let number =
            |what: &str, text: &str| text.parse::<i64>().map_err(|_| error(format!("{text:?} is no {what}")));
        let mut catalog = Self {
            listed_ms: number("time", listed_ms)?,
            blocks: BTreeMap::new(),
            troubled: BTreeMap::new(),
            complete: true,
        };
        let count = number("number of lines", count)?;
        for read in 0..count {
            let Some(line) = lines.advance()? else {
                return Err(error(format!("it ends after {read} of {count} lines")));
            };
            if catalog.take_line(line, shared).is_none() {
                catalog.complete = false;
            }
        }
        Ok(catalog)
    }

    /// `None` for a line that cannot be used.
    fn take_line(&mut self, line: &[u8], shared: &Shared) -> Option<()> {
        let (kind, rest) = line.split_at_checked(2)?;
        match kind {
            b"B " => {
                let meta = M::keep(BlockMeta::parse("of the catalog", rest).ok()?, shared);
                self.blocks.insert(meta.id(), CatalogEntry { meta, deletion: None });
            }
            b"D " => {
                let mark: DeletionMark = parse_mark(rest).ok()?;
                let entry = self.blocks.get_mut(&mark.id)?;
                entry.deletion = Some(Arc::new(mark));
            }
            b"P " => {
                let mut words = std::str::from_utf8(rest).ok()?.splitn(3, ' ');
                let (block, state) = (words.next()?.parse().ok()?, words.next()?);
                let state = [BlockState::NoMeta, BlockState::CorruptedMeta]
                    .into_iter()
                    .find(|known| known.name() == state)?;
                self.troubled.insert(block, (state, words.next().unwrap_or_default().to_owned()));
            }
            _ => {}
        }
        Some(())
    }
}

fn write_json(
    out: &mut impl std::io::Write,
    kind: u8,
    value: &impl serde::Serialize,
) -> Result<(), BlockError> {
    out.write_all(&[kind, b' ']).map_err(|problem| error(problem.to_string()))?;
    serde_json::to_writer(&mut *out, value).map_err(|problem| error(problem.to_string()))?;
    out.write_all(b"\n").map_err(|problem| error(problem.to_string()))
}

/// Lines out of packed bytes, one in memory at a time.
struct Lines<'b> {
    reader: BufReader<snap::read::FrameDecoder<&'b [u8]>>,
    line: Vec<u8>,
}

/// No line is longer: a meta without its white space.
const MAX_LINE_BYTES: u64 = MAX_META_BYTES + 16;

impl<'b> Lines<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self { reader: BufReader::new(snap::read::FrameDecoder::new(bytes)), line: Vec::new() }
    }

    /// `None` at the end.
    fn advance(&mut self) -> Result<Option<&[u8]>, BlockError> {
        self.line.clear();
        let mut limited = (&mut self.reader).take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut self.line).map_err(|problem| error(problem.to_string()))?;
        match self.line.split_last() {
            None => Ok(None),
            Some((b'\n', line)) => Ok(Some(line)),
            Some(_) => Err(error("its last line has no end, or a line is too long")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const GOLDEN: &str = concat!(
        "parallax-catalog 1 1795290175670 4\n",
        r#"B {"ulid":"01M7ZT2XAE94D33BEGH3SZ0N19","minTime":1,"maxTime":2,"stats":{"numSeries":3},"compaction":{"level":1,"sources":["01M7ZT2XAE94D33BEGH3SZ0N19"]},"version":1,"thanos":{"labels":{"cluster":"a\nb"},"downsample":{"resolution":0},"source":"sidecar"},"future":[1]}"#,
        "\n",
        r#"B {"ulid":"01M7ZT2XDX6XDB6P5XACT0A2ZN","minTime":5,"maxTime":9,"stats":{},"compaction":{"level":0},"version":1}"#,
        "\n",
        r#"D {"id":"01M7ZT2XDX6XDB6P5XACT0A2ZN","version":1,"details":"by hand","deletion_time":1795290000}"#,
        "\n",
        "P 01M8000000AAAAAAAAAAAAAAAA corrupted-meta-json block 01M8000000AAAAAAAAAAAAAAAA: meta.json: EOF  at line 1\n",
    );

    fn pack(text: &[u8]) -> Vec<u8> {
        let mut packer = snap::write::FrameEncoder::new(Vec::new());
        packer.write_all(text).unwrap();
        packer.into_inner().unwrap()
    }

    fn golden() -> Catalog {
        Catalog::decode(&pack(GOLDEN.as_bytes())).unwrap()
    }

    #[test]
    fn the_format_is_as_written_down() {
        let catalog = golden();
        assert!(catalog.complete);
        assert_eq!(
            (catalog.listed_ms, catalog.blocks.len(), catalog.troubled.len()),
            (1_795_290_175_670, 2, 1)
        );
        let [one, two] = catalog.blocks.values().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(one.meta.external_labels().get("cluster"), Some("a\nb"));
        assert!(one.meta.unknown.contains_key("future") && one.deletion.is_none());
        assert_eq!(two.deletion.as_ref().unwrap().deletion_time_s, 1_795_290_000);
        let mut written = Vec::new();
        catalog.write_lines(&mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), GOLDEN);
        assert_eq!(Catalog::decode(&catalog.encode().unwrap()).unwrap(), catalog);
    }

    #[test]
    fn what_is_no_catalog_is_an_error_that_says_why() {
        for (text, why) in [
            ("", "empty"),
            ("parallax-catalog 2 0 0\n", "version"),
            ("something else\n", "begin"),
            ("parallax-catalog 1 never 0\n", "time"),
            ("parallax-catalog 1 0 2\nX later\n", "ends after 1 of 2"),
            ("parallax-catalog 1 0 1\nX later", "no end"),
        ] {
            let message = Catalog::decode(&pack(text.as_bytes())).unwrap_err().to_string();
            assert!(message.contains(why), "{text:?}: {message}");
        }
        assert!(Catalog::decode(b"not packed").is_err());
        let whole = golden().encode().unwrap();
        assert!(Catalog::decode(&whole[..whole.len() / 2]).is_err());
    }

    #[test]
    fn a_line_that_cannot_be_read_costs_its_block_only() {
        let broken = GOLDEN.replace(r#""minTime":1,"#, r#""minTime":"x","#);
        let catalog = Catalog::decode(&pack(broken.as_bytes())).unwrap();
        assert!(!catalog.complete);
        assert_eq!((catalog.blocks.len(), catalog.troubled.len()), (1, 1));
        let later = GOLDEN.replace("P 01M", "Z 01M");
        assert!(Catalog::decode(&pack(later.as_bytes())).unwrap().complete);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, place: prop::sample::Index, byte: u8) {
            let _ = Catalog::decode(&bytes);
            let _ = Catalog::decode(&pack(&bytes));
            let mut text = GOLDEN.as_bytes().to_vec();
            let place = place.index(text.len());
            text[place] = byte;
            let _ = Catalog::decode(&pack(&text));
        }
    }
}
