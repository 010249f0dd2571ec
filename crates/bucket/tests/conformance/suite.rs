//! What any bucket has to do. The bucket is empty at the start.

use bytes::Bytes;
use parallax_bucket::{Bucket, BucketError};

/// Where stores differ.
#[derive(Clone, Copy)]
pub struct Traits {
    /// Whether an object can be replaced only if it is unchanged.
    pub replaces_unchanged: bool,
}

pub async fn conforms(bucket: &Bucket, traits: Traits) {
    an_empty_bucket_is_empty(bucket).await;
    objects_come_back(bucket).await;
    missing_objects_are_missing(bucket).await;
    ranges_are_exact(bucket).await;
    limits_hold(bucket).await;
    listings_are_whole_and_sorted(bucket).await;
    odd_names_are_names(bucket).await;
    large_files_come_back(bucket).await;
    one_of_many_creators_wins(bucket).await;
    if traits.replaces_unchanged {
        one_of_many_replacers_wins(bucket).await;
    }
}

async fn an_empty_bucket_is_empty(bucket: &Bucket) {
    assert!(bucket.list("", 10).await.unwrap().is_empty());
    assert!(bucket.list_blocks().await.unwrap().is_empty());
    assert_eq!(bucket.list_directory("nowhere").await.unwrap(), parallax_bucket::Listing::default());
}

async fn objects_come_back(bucket: &Bucket) {
    bucket.put("round/trip", "first".into()).await.unwrap();
    assert_eq!(bucket.get("round/trip", 5).await.unwrap(), "first");
    bucket.put("round/trip", "second one".into()).await.unwrap();
    assert_eq!(bucket.get("round/trip", 10).await.unwrap(), "second one");
    let info = bucket.head("round/trip").await.unwrap();
    assert_eq!((info.name.as_str(), info.size_bytes), ("round/trip", 10));
    bucket.put("round/empty", Bytes::new()).await.unwrap();
    assert_eq!(bucket.get("round/empty", 0).await.unwrap(), "");
    bucket.delete("round/trip").await.unwrap();
    bucket.delete("round/trip").await.unwrap();
    assert!(!bucket.exists("round/trip").await.unwrap());
    assert!(bucket.exists("round/empty").await.unwrap());
    bucket.delete("round/empty").await.unwrap();
}

async fn missing_objects_are_missing(bucket: &Bucket) {
    assert!(bucket.get("no/such", 10).await.unwrap_err().is_not_found());
    assert!(bucket.get_range("no/such", 0..1).await.unwrap_err().is_not_found());
    assert!(bucket.get_ranges("no/such", &[0..1, 7..9]).await.unwrap_err().is_not_found());
    assert!(bucket.head("no/such").await.unwrap_err().is_not_found());
    assert!(!bucket.exists("no/such").await.unwrap());
    // A directory is no object.
    bucket.put("no/such/deeper", "x".into()).await.unwrap();
    assert!(!bucket.exists("no/such").await.unwrap());
    bucket.delete("no/such/deeper").await.unwrap();
}

async fn ranges_are_exact(bucket: &Bucket) {
    let contents: Vec<u8> = (0..2_000_000_u32).map(|i| (i % 251) as u8).collect();
    let size = contents.len() as u64;
    bucket.put("ranges", contents.clone().into()).await.unwrap();
    let wanted =
        [5..10, 0..1, size - 1..size, 1_000_000..1_000_001, 0..size, 5..10, 1_999_990..size + 50, 7..300_000];
    let parts = bucket.get_ranges("ranges", &wanted).await.unwrap();
    for (range, part) in wanted.iter().zip(&parts) {
        let (start, end) = (range.start as usize, range.end.min(size) as usize);
        assert!(part == &contents[start..end], "{range:?}");
    }
    assert_eq!(bucket.get_range("ranges", size - 3..u64::MAX).await.unwrap(), contents[contents.len() - 3..]);
    assert!(bucket.get_ranges("ranges", &[]).await.unwrap().is_empty());
    for (ranges, start) in
        [([0..1, size..size + 1], size), ([0..1, size + 9..size + 10], size + 9), ([0..1, 9..9], 9)]
    {
        let error = bucket.get_ranges("ranges", &ranges).await.unwrap_err();
        assert!(matches!(error, BucketError::Range { start: s, .. } if s == start), "{ranges:?}: {error}");
        let error = bucket.get_range("ranges", ranges[1].clone()).await.unwrap_err();
        assert!(matches!(error, BucketError::Range { start: s, .. } if s == start), "{ranges:?}: {error}");
    }
    bucket.delete("ranges").await.unwrap();
}

async fn limits_hold(bucket: &Bucket) {
    bucket.put("limit", "0123456789".into()).await.unwrap();
    let error = bucket.get("limit", 9).await.unwrap_err();
    assert!(matches!(error, BucketError::TooLarge { size_bytes: 10, limit_bytes: 9, .. }), "{error}");
    bucket.put("limit2", Bytes::new()).await.unwrap();
    assert!(matches!(bucket.list("", 1).await.unwrap_err(), BucketError::TooLarge { .. }));
    for name in ["", "/abs", "end/", "../up", "a/../b", "a//b", "back\\slash", "nul\0"] {
        let error = bucket.put(name, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, BucketError::InvalidName { .. }), "{name:?}: {error}");
    }
    bucket.delete("limit").await.unwrap();
    bucket.delete("limit2").await.unwrap();
}

async fn listings_are_whole_and_sorted(bucket: &Bucket) {
    let block = |i: usize| format!("01M7ZT2XAE94D33BEGH3SZ{i:04}");
    for i in 0..11 {
        for file in ["meta.json", "chunks/000001"] {
            bucket.put(&format!("{}/{file}", block(i)), "x".into()).await.unwrap();
        }
    }
    bucket.put("file-in-the-root", "yz".into()).await.unwrap();
    bucket.put("debug/no-block", "x".into()).await.unwrap();

    let blocks: Vec<String> = (0..11).map(block).collect();
    assert_eq!(bucket.list_blocks().await.unwrap(), blocks);
    let root = bucket.list_directory("").await.unwrap();
    assert_eq!(root.directories.len(), 12);
    assert_eq!(root.objects.len(), 1);
    assert_eq!((root.objects[0].name.as_str(), root.objects[0].size_bytes), ("file-in-the-root", 2));
    let one = bucket.list_directory(&block(3)).await.unwrap();
    assert_eq!(one.directories, [format!("{}/chunks", block(3))]);
    assert_eq!(one.objects[0].name, format!("{}/meta.json", block(3)));

    let all = bucket.list("", 100).await.unwrap();
    assert_eq!(all.len(), 24);
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(bucket.list(&block(0), 100).await.unwrap().len(), 2);
    // A directory's name is whole: what merely begins like it is not beneath it.
    assert!(bucket.list("01M7ZT2XAE94D33BEGH3SZ", 100).await.unwrap().is_empty());
    for object in all {
        bucket.delete(&object.name).await.unwrap();
    }
    assert!(bucket.list("", 10).await.unwrap().is_empty());
}

async fn odd_names_are_names(bucket: &Bucket) {
    const NAMES: &[&str] = &[
        "a b",
        "ü/é",
        "plus+and&",
        "per%25cent",
        "per%zz",
        "hash#q?x=1",
        "quote\"'",
        "日本語/指標",
        "tilde~",
        "eq=uals",
        "star*",
        "brackets[1]",
        "semi;colon",
        "$dollar",
        "@at",
        "co:lon",
        "<less>",
        "(paren)!",
        "...dots",
        "UPPER",
        "emoji-🦀",
    ];
    for name in NAMES {
        let object = format!("odd/{name}");
        bucket.put(&object, (*name).into()).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(bucket.get(&object, 100).await.unwrap(), *name, "{name}");
        assert_eq!(bucket.head(&object).await.unwrap().name, object);
    }
    let mut listed: Vec<String> =
        bucket.list("odd", 100).await.unwrap().into_iter().map(|object| object.name).collect();
    let mut expected: Vec<String> = NAMES.iter().map(|name| format!("odd/{name}")).collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for name in listed {
        bucket.delete(&name).await.unwrap();
    }
    assert!(bucket.list("odd", 100).await.unwrap().is_empty());
}

async fn large_files_come_back(bucket: &Bucket) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("local");
    // Around the sizes of one part and of two: parts have 8 MiB, and 5 MiB on the S3 server.
    for size in [0, 1, (5 << 20) - 1, 5 << 20, 8 << 20, (16 << 20) + 5_usize] {
        let contents: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        std::fs::write(&file, &contents).unwrap();
        assert_eq!(bucket.upload_file("large", &file).await.unwrap(), size as u64);
        assert!(bucket.get("large", u64::MAX).await.unwrap() == contents, "{size} bytes differ");
    }
    bucket.delete("large").await.unwrap();
    let error = bucket.upload_file("large", &dir.path().join("absent")).await.unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert!(!bucket.exists("large").await.unwrap());
}

async fn one_of_many_creators_wins(bucket: &Bucket) {
    let attempts = (0..8).map(|i| bucket.put_if_absent("lease", format!("writer {i}").into()));
    let results = futures::future::join_all(attempts).await;
    let winners: Vec<usize> = results.iter().enumerate().filter(|(_, r)| r.is_ok()).map(|(i, _)| i).collect();
    assert_eq!(winners.len(), 1, "{results:?}");
    assert!(
        results.iter().all(|result| result.as_ref().err().is_none_or(BucketError::is_condition)),
        "{results:?}"
    );
    assert_eq!(bucket.get("lease", 100).await.unwrap(), format!("writer {}", winners[0]));
    bucket.delete("lease").await.unwrap();
    bucket.put_if_absent("lease", "again".into()).await.unwrap();
    bucket.delete("lease").await.unwrap();
}

async fn one_of_many_replacers_wins(bucket: &Bucket) {
    let created = bucket.put_if_absent("lease", "0".into()).await.unwrap();
    let (contents, read) = bucket.get_with_revision("lease", 10).await.unwrap();
    assert_eq!(contents, "0");
    let attempts = (1..6).map(|i| bucket.put_if_unchanged("lease", format!("{i}").into(), &read));
    let results = futures::future::join_all(attempts).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    let stale = bucket.put_if_unchanged("lease", "late".into(), &created).await.unwrap_err();
    assert!(stale.is_condition(), "{stale}");
    let newest = results.into_iter().find_map(Result::ok).unwrap();
    bucket.put_if_unchanged("lease", "last".into(), &newest).await.unwrap();
    assert_eq!(bucket.get("lease", 10).await.unwrap(), "last");
    bucket.delete("lease").await.unwrap();
}

/// `one` and `other` have different prefixes of the same store, neither beneath the other; `root` has none.
pub async fn prefixes_are_isolated(one: &Bucket, other: &Bucket, root: &Bucket) {
    one.put("x/y", "one".into()).await.unwrap();
    other.put("x/y", "other".into()).await.unwrap();
    other.put("x/z", "z".into()).await.unwrap();
    assert_eq!(one.get("x/y", 10).await.unwrap(), "one");
    assert!(!one.exists("x/z").await.unwrap());
    assert_eq!(one.list("", 10).await.unwrap().len(), 1);
    assert_eq!(one.list("x", 10).await.unwrap()[0].name, "x/y");
    assert_eq!(other.list("", 10).await.unwrap().len(), 2);
    one.delete("x/y").await.unwrap();
    assert!(other.exists("x/y").await.unwrap());
    let directories = root.list_directory("").await.unwrap().directories;
    assert!(directories.contains(&"on".to_owned()), "{directories:?}");
}
