//! What a gateway owes its callers besides the content: the contract of `Store`, limits, hints, readiness, metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt;
use parallax_bucket::BucketConfig;
use parallax_model::{Labels, Matcher, TimeRange};
use parallax_net::Context;
use parallax_store_gateway::{Limits, StoreGateway, StoreGatewayConfig};
use parallax_storeapi::conformance::{Known, KnownSeries, check};
use parallax_storeapi::proto::hintspb;
use parallax_storeapi::proto::thanos::{LabelMatcher, LabelNamesRequest, LabelValuesRequest, ShardInfo};
use parallax_storeapi::{Store, labels, matchers};
use prost::Message;
use prost_types::Any;
use tonic::{Code, Request};

use crate::fixture::{Fixture, everything, golden};

/// What the golden bucket holds, as one unrestricted answer tells; golden captures vouch for that answer.
async fn known(fixture: &Fixture) -> Known {
    let mut series: BTreeMap<Labels, TimeRange> = BTreeMap::new();
    for one in fixture.series(everything()).await.unwrap().series {
        let min = one.chunks.iter().map(|chunk| chunk.min_time).min().unwrap();
        let max = one.chunks.iter().map(|chunk| chunk.max_time).max().unwrap();
        let range = series.entry(labels::from_wire(&one.labels).unwrap()).or_insert(TimeRange::new(min, max));
        *range = TimeRange::new(range.min_ms.min(min), range.max_ms.max(max));
    }
    let series = series.into_iter().map(|(labels, range)| KnownSeries { labels, range }).collect();
    Known { series, external: Labels::empty() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_of_stores_is_kept_over_one_source() {
    // One set of external labels, which the suite can be told of.
    let dir = tempfile::tempdir().unwrap();
    let mut external = Labels::empty();
    for entry in std::fs::read_dir(golden("bucket-short")).unwrap() {
        let path = entry.unwrap().path();
        let json = std::fs::read(path.join("meta.json")).unwrap();
        let meta = parallax_block::BlockMeta::parse("golden", &json).unwrap();
        let labels = meta.external_labels();
        if labels.value_of("cluster") == "eu-1" && labels.value_of("prometheus_replica") == "prometheus-0" {
            external = labels;
            crate::fixture::copy_dir(&path, &dir.path().join(path.file_name().unwrap()));
        }
    }
    let fixture = Fixture::new(dir.path()).await;
    let mut known = known(&fixture).await;
    known.external = external;
    assert!(known.series.len() > 50);
    let found = check(&*fixture.gateway, &known).await;
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn matchers_on_external_labels_alone_select_all_of_their_blocks() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let mut request = everything();
    let all = fixture.series(request.clone()).await.unwrap().series.len();
    let mut counts = Vec::new();
    for cluster in ["eu-1", "us-1"] {
        request.matchers = matchers::to_wire(&[Matcher::equal("cluster", cluster)]);
        counts.push(fixture.series(request.clone()).await.unwrap().series.len());
    }
    assert!(counts.iter().all(|count| *count > 0));
    assert_eq!(counts.iter().sum::<usize>(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_refused_as_exhausted_and_counted() {
    let bucket = golden("bucket-short");
    for (limits, what) in [
        (Limits { request_series: 10, ..Limits::default() }, "series"),
        (Limits { request_samples: 1200, ..Limits::default() }, "chunks"),
        (Limits { downloaded_bytes: 10_000, ..Limits::default() }, "bytes"),
    ] {
        let fixture = Fixture::with(&bucket, |config| config.limits = limits).await;
        let status = fixture.series(everything()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains(what), "{status}");
        assert!(fixture.metric("thanos_bucket_store_queries_dropped_total{reason=\"limit\"} 1"));
    }
    let roomy = Limits { request_series: 1 << 20, request_samples: 1 << 30, downloaded_bytes: 1 << 30 };
    let fixture = Fixture::with(&bucket, |config| config.limits = roomy).await;
    assert!(fixture.series(everything()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn small_batches_small_gaps_and_one_permit_change_nothing() {
    let bucket = golden("bucket-short");
    let expected = Fixture::new(&bucket).await.series(everything()).await.unwrap();
    let fixture = Fixture::with(&bucket, |config| {
        config.max_gap_bytes = 0;
        config.request_buffer_bytes = 1;
        config.fetch_concurrency = 1;
        config.cpu_concurrency = 1;
        config.series_max_concurrency = 1;
        config.block_sync_concurrency = 1;
    })
    .await;
    assert_eq!(fixture.series(everything()).await.unwrap(), expected);
}

fn hints(name: &str, message: &impl Message) -> Option<Any> {
    Some(Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() })
}

#[tokio::test(flavor = "multi_thread")]
async fn hints_come_back_only_where_they_were_sent_and_foreign_ones_are_refused() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    assert!(fixture.series(everything()).await.unwrap().hints.is_empty());

    let mut request = everything();
    let asked = hintspb::SeriesRequestHints { enable_query_stats: true, ..Default::default() };
    request.hints = hints("hintspb.SeriesRequestHints", &asked);
    let answer = fixture.series(request.clone()).await.unwrap();
    let got = hintspb::SeriesResponseHints::decode(answer.hints[0].value.as_slice()).unwrap();
    let stats = got.query_stats.unwrap();
    assert_eq!(stats.blocks_queried, i64::try_from(got.queried_blocks.len()).unwrap());
    assert_eq!(stats.merged_series_count, i64::try_from(answer.series.len()).unwrap());
    assert!(stats.chunks_touched > 0 && stats.data_downloaded_size_sum > 0);

    let one = LabelMatcher { r#type: 0, name: "__block_id".into(), value: got.queried_blocks[0].id.clone() };
    let asked = hintspb::SeriesRequestHints { block_matchers: vec![one], enable_query_stats: false };
    request.hints = hints("hintspb.SeriesRequestHints", &asked);
    let answer = fixture.series(request.clone()).await.unwrap();
    let narrowed = hintspb::SeriesResponseHints::decode(answer.hints[0].value.as_slice()).unwrap();
    assert_eq!(narrowed.queried_blocks, got.queried_blocks[..1]);
    assert!(narrowed.query_stats.is_none());

    for foreign in
        [hints("other.Hints", &asked), Some(Any { type_url: String::new(), value: vec![0xff, 0xff] })]
    {
        request.hints = foreign;
        assert_eq!(fixture.series(request.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_invalid_arguments() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let mut request = everything();
    request.shard_info = Some(ShardInfo { shard_index: 3, total_shards: 2, ..ShardInfo::default() });
    assert_eq!(fixture.series(request).await.unwrap_err().code(), Code::InvalidArgument);
    let mut request = everything();
    request.matchers[0].value = "a(".to_owned();
    assert_eq!(fixture.series(request).await.unwrap_err().code(), Code::InvalidArgument);
    let request = LabelValuesRequest::default();
    let status = fixture.gateway.label_values(Request::new(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn label_calls_follow_matchers_external_labels_and_time() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    let values = async |label: &str, matcher: Option<Matcher>, end: i64| {
        let request = LabelValuesRequest {
            label: label.to_owned(),
            end,
            matchers: matchers::to_wire(matcher.as_slice()),
            ..LabelValuesRequest::default()
        };
        fixture.gateway.label_values(Request::new(request)).await.unwrap().values
    };
    assert_eq!(values("cluster", None, i64::MAX).await, ["eu-1", "us-1"]);
    assert_eq!(values("cluster", Some(Matcher::equal("cluster", "eu-1")), i64::MAX).await, ["eu-1"]);
    assert_eq!(values("cluster", Some(Matcher::equal("__name__", "no_such")), i64::MAX).await, [""; 0]);
    assert_eq!(values("__name__", Some(Matcher::equal("__name__", "up")), i64::MAX).await, ["up"]);
    assert_eq!(values("cluster", None, 1).await, [""; 0]);

    let request = LabelNamesRequest {
        end: i64::MAX,
        matchers: matchers::to_wire(&[Matcher::equal("__name__", "up")]),
        without_replica_labels: vec!["prometheus_replica".to_owned()],
        ..LabelNamesRequest::default()
    };
    let names = fixture.gateway.label_names(Request::new(request)).await.unwrap().names;
    assert!(names.contains(&"cluster".to_owned()) && names.contains(&"__name__".to_owned()));
    assert!(!names.contains(&"prometheus_replica".to_owned()) && !names.contains(&"le".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_time_bounds_what_is_served() {
    let bucket = golden("bucket-short");
    let all = Fixture::new(&bucket).await.gateway.info().await.unwrap().store.unwrap();
    let middle = all.min_time + (all.max_time - all.min_time) / 2;
    let fixture = Fixture::with(&bucket, |config| config.time_range = TimeRange::new(middle, i64::MAX)).await;
    let info = fixture.gateway.info().await.unwrap().store.unwrap();
    assert_eq!((info.min_time, info.max_time), (middle, all.max_time));
    let answer = fixture.series(everything()).await.unwrap();
    assert!(!answer.series.is_empty());
    let chunks = || answer.series.iter().flat_map(|series| &series.chunks);
    assert!(chunks().all(|chunk| chunk.max_time >= middle));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_ready_after_its_first_sync() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = dir.path().join("bucket");
    std::fs::create_dir(&bucket).unwrap();
    let config = StoreGatewayConfig::new(BucketConfig::filesystem(&bucket), dir.path().join("data"));
    let context = Context::for_test();
    let gateway = StoreGateway::start(config, context.clone()).await.unwrap();
    gateway.sync().await.unwrap();
    assert!(context.readiness.is_ready());
    let info = gateway.info().await.unwrap();
    assert!(info.label_sets.is_empty());
    // A bucket that vanishes later does not look empty.
    std::fs::remove_dir(&bucket).unwrap();
    assert!(gateway.sync().await.unwrap_err().to_string().contains("bucket"));
    assert!(gateway.info().await.is_ok());
}

#[tokio::test]
async fn info_is_refused_before_the_first_sync() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreGatewayConfig::new(BucketConfig::filesystem(dir.path()), dir.path().join("data"));
    let context = Context::for_test();
    // On one thread the background sync cannot have run yet.
    let gateway = StoreGateway::start(config, context.clone()).await.unwrap();
    assert!(!context.readiness.is_ready());
    assert_eq!(gateway.info().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_data_touched_are_counted_under_thanos_names() {
    let fixture = Fixture::new(&golden("bucket-short")).await;
    fixture.series(everything()).await.unwrap();
    let blocks = std::fs::read_dir(golden("bucket-short")).unwrap().count();
    for line in [
        format!("thanos_bucket_store_blocks_loaded {blocks}"),
        format!("thanos_blocks_meta_synced{{state=\"loaded\"}} {blocks}"),
        format!("thanos_bucket_store_indexheader_lazy_load_total {blocks}"),
        "thanos_bucket_store_series_data_touched_count{data_type=\"chunks\"} 1".to_owned(),
        "thanos_bucket_store_series_blocks_queried_count 1".to_owned(),
        "thanos_objstore_bucket_operations_total{bucket=\"fs: ".to_owned(),
    ] {
        assert!(fixture.metric(&line), "{line} not in\n{}", fixture.context.metrics.encode().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_index_headers_leave_memory_and_come_back() {
    let fixture = Fixture::with(&golden("bucket-short"), |config| {
        config.index_header_idle_timeout = Duration::from_millis(20);
    })
    .await;
    let before = fixture.series(everything()).await.unwrap();
    // Several may go at once, so that nobody sees each number.
    while fixture.metric("thanos_bucket_store_indexheader_lazy_unload_total 0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.series(everything()).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_answer_gives_its_turn_back() {
    let fixture = Fixture::with(&golden("bucket-short"), |config| config.series_max_concurrency = 1).await;
    for _ in 0..3 {
        let mut stream = fixture.gateway.series(Request::new(everything())).await.unwrap();
        assert!(stream.next().await.is_some());
    }
    while !fixture.metric("thanos_bucket_store_series_gate_queries_in_flight 0") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_be_read_any_more_is_said_by_readiness_until_it_can() {
    use std::sync::Arc;

    use parallax_testkit::faulty_bucket::{Fault, Faults, FaultyStore};

    use crate::fixture::{in_memory, start_on};

    let data = tempfile::tempdir().unwrap();
    let faults = Faults { seed: 1, permille: 1000, kinds: vec![Fault::Forbidden], slow: Duration::ZERO };
    let store = Arc::new(FaultyStore::new(in_memory(&golden("bucket-short")).await, faults));
    store.set_on(false);
    let context = Context::for_test();
    let gateway = start_on(store.clone(), data.path(), &context, |_| {}).await;
    gateway.sync().await.unwrap();
    assert!(context.readiness.is_ready());
    // The gateway's own first sync is over, too.
    while !context.metrics.encode().unwrap().contains("thanos_blocks_meta_syncs_total 2") {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    store.set_on(true);
    for failures in 1..=3 {
        assert!(gateway.sync().await.is_err());
        assert_eq!(context.readiness.is_ready(), failures < 3, "{failures}");
    }
    assert!(context.readiness.reasons()[0].contains("refused"), "{:?}", context.readiness.reasons());
    let loaded = gateway.loaded();
    assert!(loaded.error.is_some() && !loaded.blocks.is_empty());
    // What is known is answered all the same.
    assert!(gateway.info().await.is_ok());
    store.set_on(false);
    gateway.sync().await.unwrap();
    assert!(context.readiness.is_ready() && gateway.loaded().error.is_none());
}
