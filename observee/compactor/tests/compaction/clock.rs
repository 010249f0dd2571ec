//! A long pass: it reads the bucket again, and what it writes carries the time of then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parallax_block::DeletionMark;
use parallax_bucket::Bucket;
use parallax_compactor::{Clock, Compactor, CompactorConfig};
use parallax_net::Context;

use super::fixture::{HOUR_MS, NOW_MS, TestBucket, id};
use super::hooked::Hooked;

/// Nine blocks of two hours, which make two of eight and leave the newest.
fn fill(bucket: &TestBucket) {
    bucket.add_two_hours_each(10, 9, "a");
}

/// A compactor that reads this clock, in milliseconds, and whose uploads of metas are shown.
fn clocked(
    bucket: &TestBucket,
    elapsed_ms: &Arc<AtomicU64>,
    uploads: impl Fn() + Send + Sync + 'static,
) -> Arc<Compactor> {
    let clock = Arc::clone(elapsed_ms);
    let store = Hooked::new(&bucket.path(), move |object| {
        if object.ends_with("meta.json") {
            uploads();
        }
    });
    let config = CompactorConfig {
        consistency_delay: Duration::ZERO,
        clock: Clock::of(move || Duration::from_millis(clock.load(Ordering::Relaxed))),
        ..CompactorConfig::new(
            Bucket::new(Arc::new(store), "", "hooked").unwrap(),
            bucket.dir.path().join("data"),
        )
    };
    Compactor::new(config, &Context::for_test()).unwrap()
}

/// A compactor during whose first upload so much time passes, and `meanwhile` happens.
fn interrupted(
    bucket: &TestBucket,
    passes: Duration,
    meanwhile: impl Fn() + Send + Sync + 'static,
) -> Arc<Compactor> {
    let elapsed_ms = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&elapsed_ms);
    clocked(bucket, &elapsed_ms, move || {
        if clock.load(Ordering::Relaxed) == 0 {
            clock.store(passes.as_millis() as u64, Ordering::Relaxed);
            meanwhile();
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_comes_in_the_middle_of_a_long_pass_is_seen() {
    // The control shows that the view is what is tested: in a short pass the mark goes unseen.
    for (passes, seen) in [(Duration::from_secs(660), true), (Duration::from_secs(60), false)] {
        let bucket = TestBucket::new();
        fill(&bucket);
        // Of the second range.
        let block = bucket.path().join(id(14).to_string());
        let mark = block.join("no-compact-mark.json");
        let compactor = interrupted(&bucket, passes, move || {
            let json = format!(r#"{{"id":"{}","version":1,"no_compact_time":1,"reason":"manual"}}"#, id(14));
            std::fs::write(&mark, json).unwrap();
        });
        let report = compactor.pass(NOW_MS).await.unwrap();
        assert_eq!((report.compactions, report.set_aside), (2, 0));
        assert_eq!(block.join("deletion-mark.json").exists(), !seen, "after {passes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_and_uploads_carry_the_time_when_they_happen() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let compactor = interrupted(&bucket, Duration::from_secs(3 * 3600), || ());
    compactor.pass(NOW_MS).await.unwrap();
    let json = std::fs::read(bucket.path().join(id(10).to_string()).join("deletion-mark.json")).unwrap();
    let mark: DeletionMark = serde_json::from_slice(&json).unwrap();
    assert_eq!(mark.deletion_time_s, (NOW_MS + 3 * HOUR_MS) / 1000);
    let uploaded = bucket.living().into_iter().filter(|meta| meta.compaction.level == 2);
    let mut uploaded: Vec<i64> = uploaded.filter_map(|meta| meta.upload_time_ms()).collect();
    uploaded.sort_unstable();
    assert_eq!(uploaded, [NOW_MS, NOW_MS + 3 * HOUR_MS]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_waits_for_another_is_compacted_at_the_time_when_its_turn_comes() {
    let bucket = TestBucket::new();
    bucket.add_two_hours_each(10, 5, "a");
    bucket.add_two_hours_each(30, 5, "b");
    let compactor = interrupted(&bucket, Duration::from_secs(3 * 3600), || ());
    assert_eq!(compactor.pass(NOW_MS).await.unwrap().compactions, 2);
    let made = bucket.living().into_iter().filter(|meta| meta.compaction.level == 2);
    let mut made: Vec<(i64, Option<i64>)> =
        made.map(|meta| (meta.ulid.time_ms(), meta.upload_time_ms())).collect();
    made.sort_unstable();
    let later_ms = NOW_MS + 3 * HOUR_MS;
    assert_eq!(made, [(NOW_MS, Some(NOW_MS)), (later_ms, Some(later_ms))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_says_what_is_left_what_was_done_and_how_long_the_rest_takes() {
    let bucket = TestBucket::new();
    fill(&bucket);
    // A second group that waits for the first, and of whose blocks sizes are known.
    bucket.add_two_hours_each(30, 5, "b");
    for entry in std::fs::read_dir(bucket.path()).unwrap() {
        let path = entry.unwrap().path().join("meta.json");
        let json = std::fs::read_to_string(&path).unwrap();
        let files =
            r#""thanos":{"files":[{"rel_path":"chunks/000001"},{"rel_path":"index","size_bytes":100}],"#;
        std::fs::write(&path, json.replacen(r#""thanos":{"#, files, 1)).unwrap();
    }
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (sink, holder) = (Arc::clone(&seen), Arc::new(std::sync::OnceLock::<Arc<Compactor>>::new()));
    let source = Arc::clone(&holder);
    let elapsed_ms = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&elapsed_ms);
    let compactor = clocked(&bucket, &elapsed_ms, move || {
        // Every compaction takes ten seconds.
        clock.fetch_add(10_000, Ordering::Relaxed);
        sink.lock().unwrap().push(source.get().unwrap().progress());
    });
    holder.set(Arc::clone(&compactor)).unwrap();
    assert_eq!(compactor.pass(NOW_MS).await.unwrap().compactions, 3);
    let seen = seen.lock().unwrap();
    let todo: Vec<usize> = seen.iter().map(|progress| progress.compactions).collect();
    assert_eq!((todo, seen[0].groups.len(), seen[2].groups.len()), (vec![3, 2, 1], 2, 1));
    assert_eq!((seen[0].compaction_blocks, seen[0].compaction_bytes), (12, 1200));
    assert_eq!((seen[0].eta_seconds, seen[0].done_compactions), (None, 0));
    // Four blocks of 100 bytes took ten seconds, as far as the pass knows; four are left.
    assert_eq!((seen[2].eta_seconds, seen[2].done_compactions), (Some(10), 2));
    let end = compactor.progress();
    assert_eq!((end.compactions, end.done_compactions, end.eta_seconds), (0, 3, Some(0)));
}
