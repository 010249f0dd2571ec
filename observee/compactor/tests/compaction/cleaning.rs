//! Deleting, in a bucket that changes after it was read.

use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use futures::FutureExt as _;
use object_store::local::LocalFileSystem;
use parallax_bucket::Bucket;
use parallax_compactor::{Chore, Compactor, CompactorConfig};
use parallax_net::Context;

use super::fixture::{TestBucket, id};
use super::hooked::{Call, Hooked};

/// More blocks than are deleted at once: these are done with before the last two are looked at.
const BLOCKS: u64 = 10;

const FILES: [&str; 3] = ["chunks/000001", "index", "meta.json"];

/// Longer than uploads and marks have to be there.
const OLD: Duration = Duration::from_secs(49 * 3600);

fn file(bucket: &Path, block: u64, name: &str) -> std::path::PathBuf {
    bucket.join(id(block).to_string()).join(name)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn mark(bucket: &Path, block: u64, time: SystemTime) {
    let json = format!(r#"{{"id":"{}","version":1,"deletion_time":{}}}"#, id(block), seconds(time));
    std::fs::write(file(bucket, block, "deletion-mark.json"), json).unwrap();
}

/// Cleans up now; `meanwhile` happens before the first object is deleted. Gives the number of blocks that were deleted.
async fn clean_up(bucket: &TestBucket, meanwhile: impl Fn(&Path) + Send + Sync + 'static) -> u64 {
    let (path, has_begun) = (bucket.path(), AtomicBool::new(false));
    let inner = Arc::new(LocalFileSystem::new_with_prefix(bucket.path()).unwrap());
    let store = Hooked::over(inner, move |call, _| {
        if call == Call::Deletes && !has_begun.swap(true, Ordering::SeqCst) {
            meanwhile(&path);
        }
        ready(()).boxed()
    });
    let config = CompactorConfig {
        consistency_delay: Duration::ZERO,
        ..CompactorConfig::new(
            Bucket::new(Arc::new(store), "", "hooked").unwrap(),
            bucket.dir.path().join("data"),
        )
    };
    let compactor = Compactor::new(config, &Context::for_test()).unwrap();
    let now_ms = seconds(SystemTime::now()) as i64 * 1000;
    compactor.chore(Chore::Cleanup, now_ms).await.unwrap().deleted
}

/// Which of its files each block has.
fn left(bucket: &TestBucket) -> Vec<Vec<&'static str>> {
    let of = |block| FILES.into_iter().filter(|name| file(&bucket.path(), block, name).exists()).collect();
    (1..=BLOCKS).map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_goes_on_before_it_is_deleted_as_given_up_stays() {
    let bucket = TestBucket::new();
    bucket.add_two_hours_each(1, BLOCKS, "a");
    let meta = std::fs::read(file(&bucket.path(), 9, "meta.json")).unwrap();
    for block in 1..=BLOCKS {
        std::fs::remove_file(file(&bucket.path(), block, "meta.json")).unwrap();
        for name in ["chunks/000001", "index"] {
            let written = std::fs::File::options().write(true).open(file(&bucket.path(), block, name));
            written.unwrap().set_modified(SystemTime::now() - OLD).unwrap();
        }
    }
    let deleted = clean_up(&bucket, move |bucket| {
        // Whoever died over the ninth is back and finishes it; of the tenth there is only more than before.
        for (block, name) in [(9, "chunks/000001"), (9, "index"), (10, "chunks/000001")] {
            let path = file(bucket, block, name);
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::write(file(bucket, 9, "meta.json"), &meta).unwrap();
    });
    assert_eq!(deleted.await, 8);
    let mut expected = vec![vec![]; 8];
    expected.extend([FILES.to_vec(), FILES[..2].to_vec()]);
    assert_eq!(left(&bucket), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_taken_away_before_its_block_is_deleted_counts() {
    let bucket = TestBucket::new();
    bucket.add_two_hours_each(1, BLOCKS, "a");
    for block in 1..=BLOCKS {
        mark(&bucket.path(), block, SystemTime::now() - OLD);
    }
    let deleted = clean_up(&bucket, |bucket| {
        std::fs::remove_file(file(bucket, 9, "deletion-mark.json")).unwrap();
        // Taken away, and thought better of.
        mark(bucket, 10, SystemTime::now());
    });
    assert_eq!(deleted.await, 8);
    let mut expected = vec![vec![]; 8];
    expected.extend([FILES.to_vec(), FILES.to_vec()]);
    assert_eq!(left(&bucket), expected);
}
