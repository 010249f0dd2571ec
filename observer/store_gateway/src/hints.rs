//! Request and response hints: Thanos' own messages, and no others.
//!
//! A request with hints that we do not know is refused, as Thanos refuses it. A response carries hints only where the request has them.

use std::sync::atomic::Ordering;

use parallax_model::Matcher;
use parallax_storeapi::matchers;
use parallax_storeapi::proto::hintspb;
use prost::Message;
use prost_types::Any;
use tonic::Status;

use crate::block::Block;
use crate::limits::{Data, Usage};

/// The label that block matchers see besides the external ones.
const BLOCK_ID_LABEL: &str = "__block_id";

const TYPE_URL_PREFIX: &str = "type.googleapis.com/";

/// What the hints of a request ask for.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Whether there are any, and so the answer has some too.
    pub are_present: bool,
    pub wants_stats: bool,
    block_matchers: Vec<Matcher>,
}

impl Hints {
    pub fn of_series(hints: Option<&Any>) -> Result<Self, Status> {
        let Some(any) = hints else { return Ok(Self::default()) };
        let message: hintspb::SeriesRequestHints = decode(any, "hintspb.SeriesRequestHints")?;
        Self::with(&message.block_matchers, message.enable_query_stats)
    }

    pub fn of_label_names(hints: Option<&Any>) -> Result<Self, Status> {
        let Some(any) = hints else { return Ok(Self::default()) };
        let message: hintspb::LabelNamesRequestHints = decode(any, "hintspb.LabelNamesRequestHints")?;
        Self::with(&message.block_matchers, false)
    }

    pub fn of_label_values(hints: Option<&Any>) -> Result<Self, Status> {
        let Some(any) = hints else { return Ok(Self::default()) };
        let message: hintspb::LabelValuesRequestHints = decode(any, "hintspb.LabelValuesRequestHints")?;
        Self::with(&message.block_matchers, false)
    }

    fn with(
        block_matchers: &[parallax_storeapi::proto::thanos::LabelMatcher],
        wants_stats: bool,
    ) -> Result<Self, Status> {
        Ok(Self { are_present: true, wants_stats, block_matchers: matchers::from_wire(block_matchers)? })
    }

    /// Whether the request wants this block to be asked.
    pub fn want(&self, block: &Block) -> bool {
        self.block_matchers.iter().all(|matcher| {
            if matcher.name() == BLOCK_ID_LABEL {
                matcher.matches(&block.id().to_string())
            } else {
                matcher.matches_labels(block.external())
            }
        })
    }
}

fn decode<M: Message + Default>(any: &Any, name: &str) -> Result<M, Status> {
    let found = any.type_url.rsplit('/').next().unwrap_or_default();
    if found != name {
        let message = format!("request hints are {found:?}, this store knows {name:?} only");
        return Err(Status::invalid_argument(message));
    }
    M::decode(any.value.as_slice())
        .map_err(|error| Status::invalid_argument(format!("request hints {name:?}: {error}")))
}

fn encode(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("{TYPE_URL_PREFIX}{name}"), value: message.encode_to_vec() }
}

fn ids(blocks: &[String]) -> Vec<hintspb::Block> {
    blocks.iter().map(|id| hintspb::Block { id: id.clone() }).collect()
}

pub fn series_response(blocks: &[String], usage: &Usage, hints: &Hints) -> Any {
    let message = hintspb::SeriesResponseHints {
        queried_blocks: ids(blocks),
        query_stats: hints.wants_stats.then(|| stats(blocks.len(), usage)),
    };
    encode("hintspb.SeriesResponseHints", &message)
}

pub fn label_names_response(blocks: &[String]) -> Any {
    let message = hintspb::LabelNamesResponseHints { queried_blocks: ids(blocks) };
    encode("hintspb.LabelNamesResponseHints", &message)
}

pub fn label_values_response(blocks: &[String]) -> Any {
    let message = hintspb::LabelValuesResponseHints { queried_blocks: ids(blocks) };
    encode("hintspb.LabelValuesResponseHints", &message)
}

fn stats(blocks: usize, usage: &Usage) -> hintspb::QueryStats {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let load = |value: &std::sync::atomic::AtomicU64| number(value.load(Ordering::Relaxed));
    let [postings, series, chunks] = Data::ALL.map(|data| usage.of(data));
    hintspb::QueryStats {
        blocks_queried: number(blocks as u64),
        merged_series_count: load(&usage.merged_series),
        merged_chunks_count: load(&usage.merged_chunks),
        postings_touched: load(&postings.touched),
        postings_touched_size_sum: load(&postings.touched_bytes),
        postings_fetch_count: load(&postings.fetched),
        postings_fetched_size_sum: load(&postings.fetched_bytes),
        series_touched: load(&series.touched),
        series_touched_size_sum: load(&series.touched_bytes),
        series_fetch_count: load(&series.fetched),
        series_fetched_size_sum: load(&series.fetched_bytes),
        chunks_touched: load(&chunks.touched),
        chunks_touched_size_sum: load(&chunks.touched_bytes),
        chunks_fetch_count: load(&chunks.fetched),
        chunks_fetched_size_sum: load(&chunks.fetched_bytes),
        data_downloaded_size_sum: number(usage.downloaded_bytes()),
        ..hintspb::QueryStats::default()
    }
}
