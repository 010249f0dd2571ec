//! A FILESYSTEM bucket from its configuration to its bytes.

use std::sync::Arc;

use bytes::Bytes;
use parallax_bucket::{Access, Bucket, BucketConfig, BucketError, BucketMetrics, Operation, RetryPolicy};

const BLOCK: &str = "01M7ZT2XAE94D33BEGH3SZ0N19";

fn bucket(directory: &std::path::Path) -> Bucket {
    let config =
        BucketConfig { prefix: "team/a".to_owned(), ..BucketConfig::filesystem(directory.to_path_buf()) };
    Bucket::open(&config, Access::Write).unwrap()
}

#[tokio::test]
async fn objects_come_back_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path());
    let object = format!("{BLOCK}/meta.json");
    bucket.put(&object, Bytes::from_static(b"0123456789")).await.unwrap();
    assert!(dir.path().join("team/a").join(&object).is_file());

    assert_eq!(bucket.get(&object, 10).await.unwrap(), "0123456789");
    assert_eq!(bucket.get_range(&object, 2..5).await.unwrap(), "234");
    assert_eq!(bucket.get_range(&object, 8..100).await.unwrap(), "89");
    assert_eq!(bucket.get_ranges(&object, &[7..9, 0..2]).await.unwrap(), ["78", "01"]);
    assert!(bucket.exists(&object).await.unwrap());
    let info = bucket.head(&object).await.unwrap();
    assert_eq!((info.name.as_str(), info.size_bytes), (object.as_str(), 10));
    assert_eq!(bucket.list(BLOCK, 10).await.unwrap(), [info]);

    bucket.delete(&object).await.unwrap();
    bucket.delete(&object).await.unwrap();
    assert!(!bucket.exists(&object).await.unwrap());
    assert!(bucket.get(&object, 10).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn limits_and_ranges_are_enforced_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path());
    bucket.put("a/b", Bytes::from_static(b"0123456789")).await.unwrap();
    assert!(matches!(
        bucket.get("a/b", 9).await.unwrap_err(),
        BucketError::TooLarge { size_bytes: 10, limit_bytes: 9, .. }
    ));
    let error = bucket.get_range("a/b", 10..12).await.unwrap_err();
    assert!(matches!(error, BucketError::Range { size_bytes: 10, start: 10, .. }), "{error}");
    #[allow(clippy::reversed_empty_ranges, reason = "a reversed range is the bad input")]
    let reversed = bucket.get_range("a/b", 5..2).await;
    assert!(matches!(reversed.unwrap_err(), BucketError::Range { .. }));
    assert!(bucket.get("../outside", 9).await.is_err());
    bucket.put("a/c", Bytes::new()).await.unwrap();
    assert!(bucket.list("a", 1).await.is_err());
}

#[tokio::test]
async fn files_are_uploaded_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(&dir.path().join("made/on/demand"));
    for size in [0, 1, (8 << 20) - 1, 8 << 20, (16 << 20) + 5] {
        let contents: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
        let file = dir.path().join("local");
        std::fs::write(&file, &contents).unwrap();
        assert_eq!(bucket.upload_file("x/index", &file).await.unwrap(), u64::from(size));
        assert!(bucket.get("x/index", u64::MAX).await.unwrap() == contents, "{size} bytes differ");
    }
    let error = bucket.upload_file("x/index", &dir.path().join("absent")).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}

#[tokio::test]
async fn files_that_are_given_up_are_moved() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        BucketConfig { prefix: "of/one".to_owned(), ..BucketConfig::filesystem(dir.path().join("b")) };
    let bucket = Bucket::open(&config, Access::Write).unwrap();
    let file = dir.path().join("local");
    for contents in ["first", "second one"] {
        std::fs::write(&file, contents).unwrap();
        assert_eq!(bucket.move_file("x/chunks/000001", &file).await.unwrap(), contents.len() as u64);
        assert_eq!(bucket.get("x/chunks/000001", 100).await.unwrap(), contents);
        assert!(!file.exists(), "it was moved");
    }
    // A name that the file system has in another form is copied.
    std::fs::write(&file, "third").unwrap();
    bucket.move_file("x/a%b", &file).await.unwrap();
    assert_eq!(bucket.get("x/a%b", 100).await.unwrap(), "third");
    assert!(file.exists());
    let error = bucket.move_file("x/index", &dir.path().join("absent")).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
}

#[tokio::test]
async fn only_ulid_directories_are_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = bucket(dir.path());
    assert!(bucket.list_blocks().await.unwrap().is_empty());
    for object in [&format!("{BLOCK}/index"), "debug/x", "01M7ZT2XDX6XDB6P5XACT0A2ZN/meta.json", "file"] {
        bucket.put(object, Bytes::new()).await.unwrap();
    }
    assert_eq!(bucket.list_blocks().await.unwrap(), [BLOCK, "01M7ZT2XDX6XDB6P5XACT0A2ZN"]);
}

#[tokio::test]
async fn a_missing_directory_is_named_and_never_an_empty_bucket() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    let config = BucketConfig::filesystem(&missing);
    let error = Bucket::open(&config, Access::Read).unwrap_err();
    assert!(matches!(&error, BucketError::MissingDirectory { directory } if *directory == missing));
    assert!(error.to_string().contains("nowhere"));

    let bucket = Bucket::open(&config, Access::Write).unwrap();
    std::fs::remove_dir_all(&missing).unwrap();
    assert!(matches!(bucket.list_blocks().await.unwrap_err(), BucketError::MissingDirectory { .. }));
}

#[tokio::test]
async fn operations_are_counted_under_thanos_names() {
    let registry = parallax_telemetry::Metrics::new();
    let metrics = BucketMetrics::register(&registry);
    let store = Arc::new(object_store::memory::InMemory::new());
    let bucket = Bucket::new(store, "", "memory")
        .unwrap()
        .with_metrics(metrics.clone())
        .with_retry(RetryPolicy::NEVER);
    bucket.put("a/b", Bytes::from_static(b"xyz")).await.unwrap();
    assert!(bucket.get("a/missing", 1).await.is_err());
    assert!(bucket.get_range("a/b", 7..9).await.is_err());
    assert_eq!(metrics.operations_of("memory", Operation::Get), 1);

    let text = registry.encode().unwrap();
    for line in [
        "thanos_objstore_bucket_operations_total{bucket=\"memory\",operation=\"upload\"} 1",
        "thanos_objstore_bucket_operation_failures_total{bucket=\"memory\",operation=\"get\"} 0",
        "thanos_objstore_bucket_operation_failures_total{bucket=\"memory\",operation=\"get_range\"} 1",
        "thanos_objstore_bucket_operation_duration_seconds_count{bucket=\"memory\",operation=\"upload\"} 1",
        "thanos_objstore_bucket_last_successful_upload_time{bucket=\"memory\"} 1",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}
