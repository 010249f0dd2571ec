//! One suite for every kind of bucket, on a directory, in memory and on servers that speak as S3, GCS and Azure do; and what a cloud can do wrong.

mod cloud_server;
mod clouds;
mod credentials;
mod s3;
mod suite;

use std::sync::Arc;

use parallax_bucket::{Access, Bucket, BucketConfig, BucketError};

use suite::Traits;

#[tokio::test]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let open = |prefix: &str| {
        let config = BucketConfig { prefix: prefix.to_owned(), ..BucketConfig::filesystem(dir.path()) };
        Bucket::open(&config, Access::Write).unwrap()
    };
    suite::conforms(&open("a"), Traits { replaces_unchanged: false }).await;
    suite::prefixes_are_isolated(&open("one"), &open("on"), &open("")).await;
}

#[tokio::test]
async fn memory_conforms() {
    let store = Arc::new(object_store::memory::InMemory::new());
    let open = |prefix: &str| Bucket::new(store.clone(), prefix, "memory").unwrap();
    suite::conforms(&open("a"), Traits { replaces_unchanged: true }).await;
    suite::prefixes_are_isolated(&open("one"), &open("on"), &open("")).await;
}

#[tokio::test]
async fn a_store_without_conditional_writes_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let bucket = Bucket::open(&BucketConfig::filesystem(dir.path()), Access::Write).unwrap();
    let revision = bucket.put_if_absent("lease", "a".into()).await.unwrap();
    let error = bucket.put_if_unchanged("lease", "b".into(), &revision).await.unwrap_err();
    assert!(matches!(error, BucketError::Unconditional { .. }), "{error}");
    assert!(error.to_string().contains("replace an object only if it is unchanged"), "{error}");
}
