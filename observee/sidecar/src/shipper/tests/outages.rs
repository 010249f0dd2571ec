//! What a shipper makes of a bucket that is down, of a full disk, and of others that ship under the same labels.

use super::*;

/// A Prometheus that keeps samples for `retention`, and leaves blocks alone.
async fn prometheus(setup: &Setup, retention: &str, more: serde_json::Value) -> String {
    let server = HttpServer::bind("127.0.0.1:0", "test").await.unwrap();
    let url = format!("http://{}", server.local_addr());
    let success =
        |data: serde_json::Value| serde_json::json!({"status": "success", "data": data}).to_string();
    let info = success(serde_json::json!({
        "reloadConfigSuccess": true, "lastConfigTime": "2026-07-01T00:00:00Z", "storageRetention": retention,
    }));
    let mut flags = serde_json::json!({
        "storage.tsdb.min-block-duration": "2h", "storage.tsdb.max-block-duration": "2h",
    });
    flags.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let flags = success(flags);
    let router = axum::Router::new()
        .route("/api/v1/status/runtimeinfo", axum::routing::get(|| async { info }))
        .route("/api/v1/status/flags", axum::routing::get(|| async { flags }));
    tokio::spawn(server.serve(router, setup.context.shutdown.clone()));
    url
}

impl Setup {
    fn number(&self, name: &str) -> f64 {
        self.metric(name).parse().unwrap()
    }
}

#[tokio::test]
async fn a_bucket_that_was_down_for_a_day_gets_everything_oldest_first() {
    let setup = Setup::new(12);
    let shipper = setup.shipper(|_| {});
    setup.writes_left.store(0, Ordering::SeqCst);
    for _ in 0..3 {
        let error = shipper.round(&setup.labels()).await.unwrap_err().to_string();
        // One block is tried at a time, the oldest: a bucket that is down is not stormed.
        assert!(error.starts_with(&format!("block {}", setup.blocks[0])), "{error}");
    }
    assert_eq!(setup.metric("thanos_shipper_upload_failures_total"), "3");
    assert_eq!(setup.metric("parallax_shipper_blocks_waiting"), "12");
    let first_end_ms = FIRST_BLOCK_MS + BLOCK_RANGE_MS;
    let lag_seconds = setup.number("parallax_shipper_upload_lag_seconds");
    assert!((lag_seconds - (now_ms() - first_end_ms) as f64 / 1000.0).abs() < 600.0, "{lag_seconds}");

    // It comes back, and goes away again in the middle.
    setup.writes_left.store(5 * WRITES_PER_BLOCK + 1, Ordering::SeqCst);
    shipper.round(&setup.labels()).await.unwrap_err();
    assert_eq!(setup.in_bucket().0, setup.blocks[..5]);
    assert_eq!(setup.metric("parallax_shipper_blocks_waiting"), "7");
    setup.writes_left.store(usize::MAX, Ordering::SeqCst);
    let round = shipper.round(&setup.labels()).await.unwrap();
    assert_eq!(round, Round { uploaded: setup.blocks[5..].to_vec(), waiting: 0 });
    assert_eq!(setup.metric("parallax_shipper_blocks_waiting"), "0");
    assert_eq!(setup.number("parallax_shipper_upload_lag_seconds"), 0.0);
    assert!(setup.number("parallax_shipper_last_upload_time_seconds") > 1e9);
}

#[tokio::test]
async fn a_lag_that_nears_what_prometheus_keeps_is_a_warning() {
    let setup = Setup::new(1);
    let lag_ms = now_ms() - (FIRST_BLOCK_MS + BLOCK_RANGE_MS);
    for (retention_ms, near) in [(lag_ms * 2, 0.0), (lag_ms + 3_600_000, 1.0)] {
        let retention = format!("{retention_ms}ms or 10GiB");
        let url = prometheus(&setup, &retention, serde_json::json!({})).await;
        let shipper = setup.shipper_of(setup.shipper(|_| {}).config, &url);
        setup.writes_left.store(0, Ordering::SeqCst);
        shipper.round(&setup.labels()).await.unwrap_err();
        let seconds = setup.number("parallax_shipper_prometheus_retention_seconds");
        assert_eq!(seconds, retention_ms as f64 / 1000.0);
        assert_eq!(setup.number("parallax_shipper_lag_nears_retention"), near);
        assert_eq!(shipper.lag().now().blocks_waiting, 1);
        setup.writes_left.store(usize::MAX, Ordering::SeqCst);
    }
    setup.shipper(|_| {}).round(&setup.labels()).await.unwrap();
    assert_eq!(setup.number("parallax_shipper_lag_nears_retention"), 0.0);
    setup.context.shutdown.cancel();
}

#[tokio::test]
async fn a_full_disk_stops_no_upload_and_is_an_error() {
    let setup = Setup::new(2);
    // Writing there fails as on a full disk.
    let temporary = setup.data.path().join("thanos.shipper.json.tmp");
    std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
    let shipper = setup.shipper(|_| {});
    for _ in 0..2 {
        let error = shipper.round(&setup.labels()).await.unwrap_err().to_string();
        assert!(error.contains("thanos.shipper.json") && error.contains("No space left"), "{error}");
        assert_eq!(setup.in_bucket().0, setup.blocks);
        // The second round has nothing to do, and asks nothing: it knows what the journal could not be told.
        setup.writes_left.store(0, Ordering::SeqCst);
    }
    assert_eq!(setup.metric("thanos_shipper_uploads_total"), "2");
    assert_eq!(setup.journal(), []);
    std::fs::remove_file(&temporary).unwrap();
    assert_eq!(shipper.round(&setup.labels()).await.unwrap(), Round::default());
    assert_eq!(setup.journal(), setup.blocks);
}

#[tokio::test]
async fn a_journal_of_a_later_version_is_an_error_and_left_as_it_is() {
    const LATER: &str = "{\"version\":2,\"uploaded\":[]}";
    let setup = Setup::new(1);
    let journal = setup.data.path().join("thanos.shipper.json");
    std::fs::write(&journal, LATER).unwrap();
    let error = setup.shipper(|_| {}).round(&setup.labels()).await.unwrap_err().to_string();
    assert!(error.contains("version 2"), "{error}");
    assert_eq!(setup.in_bucket().0, setup.blocks);
    assert_eq!(std::fs::read_to_string(journal).unwrap(), LATER);
}

#[tokio::test]
async fn a_directory_without_meta_json_is_reported_once_and_shipped_should_it_get_one() {
    let setup = Setup::new(3);
    let meta = setup.in_data(setup.blocks[0], "meta.json");
    let aside = setup.data.path().join("aside.json");
    std::fs::rename(&meta, &aside).unwrap();
    for (block, file) in [(setup.blocks[1], "index"), (setup.blocks[2], "chunks/000001")] {
        std::fs::write(setup.in_data(block, file), "").unwrap();
    }
    // A file that is called like a block is none.
    std::fs::write(setup.data.path().join("01ARZ3NDEKTSV4RRFFQ69G5FAV"), "").unwrap();
    let shipper = setup.shipper(|_| {});
    for round in 1..=3 {
        assert_eq!(shipper.round(&setup.labels()).await.unwrap(), Round::default());
        // The files of no bytes at once; what may be on its way, the second time.
        let expected = if round == 1 { "2" } else { "3" };
        assert_eq!(setup.metric("thanos_shipper_corrupted_blocks_total"), expected, "round {round}");
    }
    assert_eq!(setup.in_bucket().1, []);
    std::fs::rename(&aside, &meta).unwrap();
    assert_eq!(shipper.round(&setup.labels()).await.unwrap().uploaded, setup.blocks[..1]);
}

#[tokio::test]
async fn a_block_without_samples_is_named_once() {
    let setup = Setup::new(1);
    setup.change_meta(setup.blocks[0], |meta| meta.stats.num_samples = 0);
    let shipper = setup.shipper(|_| {});
    for _ in 0..2 {
        assert_eq!(shipper.round(&setup.labels()).await.unwrap(), Round::default());
        assert_eq!(setup.metric("parallax_shipper_skipped_blocks_total{reason=\"empty\"}"), "1");
    }
}

#[tokio::test]
async fn a_second_prometheus_with_the_same_labels_is_refused_and_harms_nothing() {
    let first = Setup::new(2);
    first.shipper(|_| {}).round(&first.labels()).await.unwrap();
    let mut second = Setup::with_seed(2, 6);
    second.bucket = Arc::clone(&first.bucket);
    let before = second.in_bucket();
    let error = second.shipper(|_| {}).round(&first.labels()).await.unwrap_err().to_string();
    for part in [second.blocks[0].to_string(), first.blocks[0].to_string(), "cluster=\"eu-1\"".to_owned()] {
        assert!(error.contains(&part), "{error}");
    }
    assert_eq!(second.in_bucket(), before);
    assert_eq!(second.metric("parallax_shipper_blocks_waiting"), "2");

    // With labels of its own, it ships.
    let own = Labels::from_pairs([("cluster", "eu-1"), ("prometheus_replica", "prometheus-1")]);
    assert_eq!(second.shipper(|_| {}).round(&own).await.unwrap().uploaded, second.blocks);
}

#[tokio::test]
async fn the_wrong_blocks_are_out_of_the_way_once_they_are_marked_for_deletion() {
    let first = Setup::new(1);
    first.shipper(|_| {}).round(&first.labels()).await.unwrap();
    let mut second = Setup::with_seed(1, 6);
    second.bucket = Arc::clone(&first.bucket);
    second.shipper(|_| {}).round(&first.labels()).await.unwrap_err();
    let mark = second.bucket.path().join(first.blocks[0].object("deletion-mark.json"));
    std::fs::write(mark, "{}").unwrap();
    assert_eq!(second.shipper(|_| {}).round(&first.labels()).await.unwrap().uploaded, second.blocks);
}

#[tokio::test]
async fn blocks_of_ones_own_may_overlap() {
    // Samples that came out of order lie in blocks of their own, over the time of others.
    let mut setup = Setup::new(1);
    let late = Fleet { seed: 6, ..setup.fleet.clone() };
    setup.shipper(|_| {}).round(&setup.labels()).await.unwrap();
    let range = TimeRange::new(FIRST_BLOCK_MS, FIRST_BLOCK_MS + BLOCK_RANGE_MS - 1);
    let more = history::write(&late, range, setup.data.path()).unwrap();
    assert_eq!(setup.shipper(|_| {}).round(&setup.labels()).await.unwrap().uploaded, more);

    // Those, too, that were merged meanwhile: only the merged block says where they are.
    std::fs::remove_file(setup.data.path().join("thanos.shipper.json")).unwrap();
    let last = Fleet { seed: 7, ..setup.fleet.clone() };
    let (merged, gone) = (setup.blocks[0], more[0]);
    setup.change_meta(merged, |meta| {
        meta.compaction.level = 2;
        meta.compaction.sources = vec![merged, gone];
    });
    std::fs::remove_dir_all(setup.data.path().join(gone.to_string())).unwrap();
    setup.blocks = history::write(&last, range, setup.data.path()).unwrap();
    assert_eq!(setup.shipper(|_| {}).round(&setup.labels()).await.unwrap().uploaded, setup.blocks);
}

#[tokio::test]
async fn the_journal_that_prometheus_waits_for_may_have_another_name_there() {
    let setup = Setup::new(1);
    for (file, allowed) in [("/prometheus/thanos.shipper.json", true), ("/prometheus/other.json", false)] {
        let flags = serde_json::json!({
            "storage.tsdb.max-block-duration": "1d", "storage.tsdb.path": "/prometheus",
            "storage.tsdb.delay-compact-file.path": file,
        });
        let url = prometheus(&setup, "15d", flags).await;
        let config = ShipperConfig { ignore_unequal_block_size: false, ..setup.shipper(|_| {}).config };
        let round = setup.shipper_of(config, &url).round(&setup.labels()).await;
        assert_eq!(round.is_ok(), allowed, "{file}: {round:?}");
        // What waits is known even while nothing may be shipped.
        assert!(allowed || setup.metric("parallax_shipper_blocks_waiting") == "0");
    }
    setup.context.shutdown.cancel();
}
