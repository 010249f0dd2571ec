//! LabelNames and LabelValues calls: from index-headers alone, or, where matchers are left, from the labels of matching series.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use parallax_block::BlockId;
use parallax_model::{MatchOp, Matcher, TimeRange};
use parallax_storeapi::encoded::label_texts;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse,
};
use parallax_storeapi::{ShardMatcher, matchers};
use parallax_tsdb::index_header::IndexHeader;
use tonic::Status;

use crate::block::Block;
use crate::blocks::{Blocks, Chosen};
use crate::error::BlockFailure;
use crate::gateway::Serving;
use crate::hints::{self, Hints};
use crate::limits::Usage;
use crate::merge::{OnMissing, reason};
use crate::select::{self, BlockSelect, Item, SelectRequest};
use crate::series_call::{on_missing, unserved_in};

/// Blocks asked at a time by one call.
const BLOCKS_AT_A_TIME: usize = 16;

/// Chunks are not read; what a batch may hold does not matter.
const BATCH_BYTES: u64 = 1 << 20;

pub async fn label_names(
    serving: &Arc<Serving>,
    blocks: Arc<Blocks>,
    request: LabelNamesRequest,
) -> Result<LabelNamesResponse, Status> {
    let matchers = matchers::from_wire(&request.matchers)?;
    let hints = Hints::of_label_names(request.hints.as_ref())?;
    let call = LabelCall {
        serving: Arc::clone(serving),
        range: TimeRange::new(request.start, request.end).intersect(&serving.time_range),
        without: request.without_replica_labels,
        on_missing: on_missing(request.partial_response_disabled, request.partial_response_strategy),
        usage: Arc::new(Usage::new(serving.limits)),
        wanted: Wanted::Names,
    };
    let chosen = blocks.overlapping(&matchers, call.range, |block| hints.want(block));
    let (names, warnings) = call.run(&blocks, &chosen, request.limit).await?;
    let hints = hints.are_present.then(|| hints::label_names_response(&call.usage.queried(&chosen)));
    Ok(LabelNamesResponse { names, warnings, hints })
}

pub async fn label_values(
    serving: &Arc<Serving>,
    blocks: Arc<Blocks>,
    request: LabelValuesRequest,
) -> Result<LabelValuesResponse, Status> {
    let matchers = matchers::from_wire(&request.matchers)?;
    let hints = Hints::of_label_values(request.hints.as_ref())?;
    if request.label.is_empty() {
        return Err(Status::invalid_argument("label name is empty"));
    }
    if request.without_replica_labels.contains(&request.label) {
        return Ok(LabelValuesResponse::default());
    }
    let call = LabelCall {
        serving: Arc::clone(serving),
        range: TimeRange::new(request.start, request.end).intersect(&serving.time_range),
        without: request.without_replica_labels,
        on_missing: on_missing(request.partial_response_disabled, request.partial_response_strategy),
        usage: Arc::new(Usage::new(serving.limits)),
        wanted: Wanted::Values(request.label),
    };
    let chosen = blocks.overlapping(&matchers, call.range, |block| hints.want(block));
    let (values, warnings) = call.run(&blocks, &chosen, request.limit).await?;
    let hints = hints.are_present.then(|| hints::label_values_response(&call.usage.queried(&chosen)));
    Ok(LabelValuesResponse { values, warnings, hints })
}

/// What is asked of every block.
enum Wanted {
    Names,
    Values(String),
}

struct LabelCall {
    serving: Arc<Serving>,
    range: TimeRange,
    without: Vec<String>,
    on_missing: OnMissing,
    usage: Arc<Usage>,
    wanted: Wanted,
}

impl LabelCall {
    /// Sorted, unique, at most `limit` (0 or less: all); and the warnings.
    async fn run(
        &self,
        blocks: &Blocks,
        chosen: &[Chosen],
        limit: i64,
    ) -> Result<(Vec<String>, Vec<String>), Status> {
        let mut found = BTreeSet::new();
        let mut warnings = Vec::new();
        for unserved in unserved_in(blocks, &self.range) {
            let reason = format!("block {}: {}", unserved.block, unserved.reason);
            self.missing(BlockFailure::Repeated { reason }, &mut warnings)?;
        }
        let mut answers = futures::stream::iter(chosen.to_vec())
            .map(|chosen| self.of_block(chosen))
            .buffer_unordered(BLOCKS_AT_A_TIME);
        while let Some((texts, failures)) = answers.next().await {
            found.extend(texts);
            for failure in failures {
                self.missing(failure, &mut warnings)?;
            }
        }
        warnings.sort();
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        Ok((found.into_iter().take(limit).collect(), warnings))
    }

    fn missing(&self, failure: BlockFailure, warnings: &mut Vec<String>) -> Result<(), Status> {
        if let BlockFailure::Limit(status) = failure {
            return Err(status);
        }
        self.serving.metrics.warned(reason(&failure));
        match self.on_missing {
            OnMissing::Warn => warnings.push(failure.to_string()),
            OnMissing::Abort => return Err(Status::aborted(failure.to_string())),
        }
        Ok(())
    }

    async fn of_block(&self, mut chosen: Chosen) -> (BTreeSet<String>, Vec<BlockFailure>) {
        if !chosen.matchers.is_empty() {
            self.require_label(&mut chosen);
            return self.in_series(chosen).await;
        }
        let gone = &chosen.block;
        let result = match self.in_header(gone).await {
            Err(failure) if failure.is_not_found() => match self.serving.list.successor(gone).await {
                Some(successor) => {
                    self.serving.metrics.blocks_replaced.inc();
                    self.usage.replaced(gone.id(), successor.id());
                    self.in_header(&successor).await
                }
                None => Err(self.gone(gone, failure)),
            },
            result => result,
        };
        result.map_or_else(|failure| (BTreeSet::new(), vec![failure]), |texts| (texts, Vec::new()))
    }

    /// Only series that have the label can give a value of it.
    fn require_label(&self, chosen: &mut Chosen) {
        let Wanted::Values(name) = &self.wanted else { return };
        if chosen.block.external().contains(name) {
            return;
        }
        if let Ok(is_set) = Matcher::new(MatchOp::NotEqual, name, "") {
            chosen.matchers = chosen.matchers.iter().cloned().chain([is_set]).collect();
        }
    }

    fn gone(&self, block: &Block, failure: BlockFailure) -> BlockFailure {
        let TimeRange { min_ms, max_ms } = self.range.intersect(&block.meta.time_range());
        BlockFailure::Gone { min_ms, max_ms, source: Box::new(failure) }
    }

    async fn in_header(&self, block: &Block) -> Result<BTreeSet<String>, BlockFailure> {
        let header = block.header.get(&self.serving.fetch, &self.serving.metrics).await?;
        match &self.wanted {
            Wanted::Names => {
                let names =
                    header.postings_table().label_names().chain(block.external().iter().map(|(n, _)| n));
                Ok(names.filter(|name| !self.is_removed(name)).map(str::to_owned).collect())
            }
            Wanted::Values(name) => match block.external().get(name) {
                Some(value) => Ok(BTreeSet::from([value.to_owned()])),
                None => self.values_of(block.id(), header, name.clone()).await,
            },
        }
    }

    async fn values_of(
        &self,
        block: BlockId,
        header: Arc<IndexHeader>,
        name: String,
    ) -> Result<BTreeSet<String>, BlockFailure> {
        let values = move || header.postings_table().label_values(&name);
        let values = self.serving.fetch.compute(block, values).await?;
        let values = values.map_err(|source| BlockFailure::Damaged { block, source })?;
        Ok(values.into_iter().collect())
    }

    async fn in_series(&self, chosen: Chosen) -> (BTreeSet<String>, Vec<BlockFailure>) {
        let request = SelectRequest {
            range: self.range,
            skip_chunks: true,
            aggregates: Vec::new(),
            without_replica_labels: self.without.clone(),
            shard: ShardMatcher::default(),
            lazy: self.serving.lazy_postings,
        };
        let select = BlockSelect {
            list: Arc::clone(&self.serving.list),
            fetch: self.serving.fetch.clone(),
            metrics: self.serving.metrics.clone(),
            usage: Arc::clone(&self.usage),
            chosen,
            request: Arc::new(request),
            batch_bytes: BATCH_BYTES,
        };
        let (sender, mut receiver) = select::channel();
        let mut texts = BTreeSet::new();
        let mut failures = Vec::new();
        let collect = async {
            while let Some(item) = receiver.recv().await {
                match item {
                    Item::Series(series) => {
                        let all = (0..series.len()).filter_map(|index| series.labels(index));
                        all.for_each(|labels| self.collect(labels, &mut texts));
                    }
                    Item::Missing(failure) => failures.push(failure),
                    Item::End => return,
                }
            }
        };
        futures::future::join(select.run(sender), collect).await;
        (texts, failures)
    }

    fn collect(&self, labels: &[u8], into: &mut BTreeSet<String>) {
        let wanted = label_texts(labels).filter_map(|(name, value)| match &self.wanted {
            Wanted::Names => Some(name),
            Wanted::Values(wanted) => (name == wanted.as_bytes()).then_some(value),
        });
        for text in wanted {
            // Symbols are UTF-8 and so are external labels.
            let text = String::from_utf8_lossy(text);
            if !into.contains(text.as_ref()) {
                into.insert(text.into_owned());
            }
        }
    }

    fn is_removed(&self, name: &str) -> bool {
        self.without.iter().any(|removed| removed == name)
    }
}
