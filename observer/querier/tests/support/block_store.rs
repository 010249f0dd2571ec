//! A store over block directories, whole answers in memory: what a querier is tested against without a gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_trait::async_trait;
use parallax_model::{Labels, MatchOp, Matcher, TimeRange};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    AggrChunk, Chunk, Label, LabelMatcher, LabelNamesRequest, LabelNamesResponse, LabelValuesRequest,
    LabelValuesResponse, Series, SeriesBatch, SeriesRequest, SeriesResponse, chunk, label_matcher,
    series_response,
};
use parallax_storeapi::{SeriesStream, Store};
use parallax_tsdb::block::BlockReader;
use parallax_tsdb::chunk::ChunkEncoding;
use tonic::{Request, Status};

struct Block {
    external: Labels,
    reader: BlockReader,
}

pub struct BlockStore(Vec<Block>);

impl BlockStore {
    /// The raw blocks of some buckets. Those that are marked for deletion are among them, as when the answers were recorded:
    /// the marks were still young.
    pub fn open(buckets: &[&Path]) -> Self {
        let mut blocks = Vec::new();
        for bucket in buckets {
            for entry in std::fs::read_dir(bucket).expect("bucket") {
                let dir = entry.expect("entry").path();
                let Ok(meta) = std::fs::read(dir.join("meta.json")) else { continue };
                let meta: serde_json::Value = serde_json::from_slice(&meta).expect("meta.json");
                let thanos = &meta["thanos"];
                if thanos["downsample"]["resolution"] != 0 {
                    continue;
                }
                let external = thanos["labels"].as_object().expect("labels");
                let external = Labels::from_pairs(
                    external.iter().map(|(name, value)| (name, value.as_str().expect("text"))),
                );
                blocks.push(Block { external, reader: BlockReader::open(&dir).expect("block") });
            }
        }
        Self(blocks)
    }

    fn select(
        &self,
        matchers: &[LabelMatcher],
        range: TimeRange,
        without: &[String],
        with_chunks: bool,
    ) -> BTreeMap<Labels, Vec<AggrChunk>> {
        let matchers: Vec<Matcher> = matchers.iter().map(matcher).collect();
        let mut found: BTreeMap<Labels, Vec<AggrChunk>> = BTreeMap::new();
        for block in &self.0 {
            let is_external = |matcher: &&Matcher| block.external.contains(matcher.name());
            if !matchers.iter().filter(is_external).all(|matcher| matcher.matches_labels(&block.external)) {
                continue;
            }
            let inner: Vec<Matcher> = matchers.iter().filter(|m| !is_external(m)).cloned().collect();
            let selected: Vec<_> = if inner.is_empty() {
                block.reader.all_series(range).expect("series").collect()
            } else {
                block.reader.series(&inner, range).expect("series").collect()
            };
            for series in selected {
                let series = series.expect("series");
                let labels = series.labels.overlaid_with(&block.external).without(without);
                let chunks = found.entry(labels).or_default();
                if with_chunks {
                    chunks.extend(series.chunks.iter().map(|meta| {
                        let chunk = block.reader.chunk(meta).expect("chunk");
                        AggrChunk {
                            min_time: meta.min_time_ms,
                            max_time: meta.max_time_ms,
                            raw: Some(Chunk { r#type: encoding(chunk.encoding), data: chunk.data, hash: 0 }),
                            ..AggrChunk::default()
                        }
                    }));
                }
            }
        }
        found
    }
}

fn encoding(encoding: ChunkEncoding) -> i32 {
    match encoding {
        ChunkEncoding::Xor => chunk::Encoding::Xor.into(),
        ChunkEncoding::Histogram => chunk::Encoding::Histogram.into(),
        ChunkEncoding::FloatHistogram => chunk::Encoding::FloatHistogram.into(),
        other => panic!("a raw block has no {other:?}"),
    }
}

fn matcher(wire: &LabelMatcher) -> Matcher {
    let op = match wire.r#type() {
        label_matcher::Type::Eq => MatchOp::Equal,
        label_matcher::Type::Neq => MatchOp::NotEqual,
        label_matcher::Type::Re => MatchOp::Regex,
        label_matcher::Type::Nre => MatchOp::NotRegex,
    };
    Matcher::new(op, wire.name.clone(), wire.value.clone()).expect("matcher")
}

pub fn wire_labels(labels: &Labels) -> Vec<Label> {
    let bytes = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    labels.iter().map(|(name, value)| Label { name: bytes(name), value: bytes(value) }).collect()
}

#[async_trait]
impl Store for BlockStore {
    async fn info(&self) -> Result<InfoResponse, Status> {
        Ok(InfoResponse::default())
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let request = request.into_inner();
        let range = TimeRange::new(request.min_time, request.max_time);
        let found =
            self.select(&request.matchers, range, &request.without_replica_labels, !request.skip_chunks);
        let series: Vec<Series> = found
            .into_iter()
            .map(|(labels, chunks)| Series { labels: wire_labels(&labels), chunks })
            .collect();
        let batch = usize::try_from(request.response_batch_size).unwrap_or(1).max(1);
        let frames: Vec<_> = series
            .chunks(batch)
            .map(|series| {
                let batch = SeriesBatch { series: series.to_vec() };
                Ok(SeriesResponse { result: Some(series_response::Result::Batch(batch)) })
            })
            .collect();
        Ok(Box::pin(futures::stream::iter(frames)))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let request = request.into_inner();
        let range = TimeRange::new(request.start, request.end);
        let found = self.select(&request.matchers, range, &request.without_replica_labels, false);
        let names: BTreeSet<String> =
            found.keys().flat_map(|labels| labels.iter().map(|(name, _)| name.to_owned())).collect();
        Ok(LabelNamesResponse { names: names.into_iter().collect(), ..LabelNamesResponse::default() })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let request = request.into_inner();
        let range = TimeRange::new(request.start, request.end);
        let found = self.select(&request.matchers, range, &request.without_replica_labels, false);
        let values: BTreeSet<String> =
            found.keys().filter_map(|labels| labels.get(&request.label)).map(str::to_owned).collect();
        Ok(LabelValuesResponse { values: values.into_iter().collect(), ..LabelValuesResponse::default() })
    }
}
