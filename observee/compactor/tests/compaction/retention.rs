//! Retention by external labels, and dry runs.

use std::time::Duration;

use parallax_block::BlockId;
use parallax_compactor::{Action, Chore, CompactorConfig, Retention, RetentionRule};
use parallax_model::{Labels, Matcher, Resolution};

use super::fixture::{HOUR_MS, SeriesSpec, TestBucket, id};

const DAY: Duration = Duration::from_secs(86_400);

/// A block of two hours for each of three replicas.
fn fill(bucket: &TestBucket) {
    for (number, replica) in [(1, "a"), (2, "b"), (3, "c")] {
        let spec = SeriesSpec {
            labels: Labels::from_pairs([("__name__", "up")]),
            seed: 1,
            histograms: false,
            times_ms: (0..24).map(|k| k * 300_000).collect(),
            chunk_samples: 120,
        };
        bucket.add(id(number), (0, 2 * HOUR_MS), replica, &[spec]);
    }
}

fn rules() -> Vec<RetentionRule> {
    let of = |replica: &str, raw: Option<Duration>, one_hour: Option<Duration>| RetentionRule {
        matchers: vec![Matcher::equal("replica", replica)],
        raw,
        five_minutes: None,
        one_hour,
    };
    // The first says nothing of raw blocks; "a" for two days, "b" for ever; of "c" the flags speak.
    vec![of("a", None, Some(DAY)), of("a", Some(2 * DAY), None), of("b", Some(Duration::ZERO), None)]
}

fn config(config: CompactorConfig) -> CompactorConfig {
    CompactorConfig {
        retention: Retention { raw: 5 * DAY, ..Retention::default() },
        retention_rules: rules(),
        downsampling: false,
        ..config
    }
}

fn marked(bucket: &TestBucket) -> Vec<BlockId> {
    let marked =
        |number: &u64| bucket.path().join(id(*number).to_string()).join("deletion-mark.json").exists();
    (1..4).filter(marked).map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_rule_that_matches_and_speaks_of_the_resolution_decides() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let compactor =
        bucket.compactor(|defaults| CompactorConfig { delete_delay: 1000 * DAY, ..config(defaults) });
    for (hours, expected) in [(49, vec![]), (51, vec![id(1)]), (121, vec![id(1)]), (123, vec![id(1), id(3)])]
    {
        compactor.pass(hours * HOUR_MS).await.unwrap();
        assert_eq!(marked(&bucket), expected, "after {hours} h");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_go_and_marks_nothing() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let compactor =
        bucket.compactor(|defaults| CompactorConfig { retention_dry_run: true, ..config(defaults) });
    let report = compactor.pass(123 * HOUR_MS).await.unwrap();
    let planned: Vec<BlockId> = report.planned.iter().map(|planned| planned.block).collect();
    assert_eq!((planned, report.retired), (vec![id(1), id(3)], 0));
    assert!(marked(&bucket).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn chores_do_one_thing_and_dry_ones_nothing() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let dry = bucket.compactor(|defaults| CompactorConfig { dry_run: true, ..config(defaults) });
    let planned = dry.chore(Chore::Retention, 123 * HOUR_MS).await.unwrap().planned;
    assert!(planned.len() == 2 && planned.iter().all(|planned| planned.action == Action::MarkForDeletion));
    assert!(marked(&bucket).is_empty());
    let compactor = bucket.compactor(config);
    assert_eq!(compactor.chore(Chore::Cleanup, 123 * HOUR_MS).await.unwrap().deleted, 0);
    assert_eq!(compactor.chore(Chore::Retention, 123 * HOUR_MS).await.unwrap().retired, 2);
    assert_eq!(marked(&bucket), [id(1), id(3)]);
    let later_ms = 200 * HOUR_MS;
    let planned = dry.chore(Chore::Cleanup, later_ms).await.unwrap().planned;
    assert_eq!(planned.iter().filter(|planned| planned.action == Action::Delete).count(), 2);
    assert!(bucket.path().join(id(1).to_string()).exists());
    assert_eq!(compactor.chore(Chore::Cleanup, later_ms).await.unwrap().deleted, 2);
    assert!(!bucket.path().join(id(1).to_string()).join("index").exists());
    assert_eq!(bucket.living().len(), 1);
}

/// A raw block of two days and the two that are made of it by hand: one of each resolution, all of the same time.
async fn fill_resolutions(bucket: &TestBucket) -> [BlockId; 3] {
    let spec = SeriesSpec {
        labels: Labels::from_pairs([("__name__", "up")]),
        seed: 1,
        histograms: false,
        times_ms: (0..48 * 12).map(|k| k * 300_000).collect(),
        chunk_samples: 120,
    };
    let raw = bucket.add(id(1), (0, 48 * HOUR_MS), "a", &[spec]);
    let job = bucket.job();
    let five = job.downsample(&raw, Resolution::FiveMinutes, 1).await.unwrap().made().unwrap().meta;
    let five = std::sync::Arc::new(five);
    let hour = job.downsample(&five, Resolution::OneHour, 2).await.unwrap().made().unwrap().meta;
    [raw.ulid, five.ulid, hour.ulid]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_resolution_goes_when_its_own_time_is_up() {
    let bucket = TestBucket::new();
    let blocks = fill_resolutions(&bucket).await;
    let compactor = bucket.compactor(|config| CompactorConfig {
        delete_delay: 1000 * DAY,
        retention: Retention { raw: DAY, five_minutes: 3 * DAY, one_hour: 5 * DAY },
        ..config
    });
    for (days, gone) in [(2, 0), (4, 1), (6, 2), (8, 3)] {
        compactor.pass(days * 24 * HOUR_MS + HOUR_MS).await.unwrap();
        let is_marked =
            |block: &BlockId| bucket.path().join(block.to_string()).join("deletion-mark.json").exists();
        let marked: Vec<bool> = blocks.iter().map(is_marked).collect();
        assert_eq!(marked, [gone > 0, gone > 1, gone > 2], "after {days} days");
    }
    assert_eq!(count_blocks(&bucket), 3, "something was made anew of what has done its time");
}

fn count_blocks(bucket: &TestBucket) -> usize {
    let entries = std::fs::read_dir(bucket.path()).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().join("meta.json").exists()).count()
}

/// Raw data that is kept for ever beside five minutes that are not: these are made once, and not again at each pass after they have gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_done_its_time_is_not_made_anew_of_finer_blocks_that_stay() {
    let bucket = TestBucket::new();
    let [raw, five, hour] = fill_resolutions(&bucket).await;
    let compactor = bucket.compactor(|config| CompactorConfig {
        delete_delay: DAY,
        retention: Retention { five_minutes: 3 * DAY, ..Retention::default() },
        ..config
    });
    // The five-minute block is marked, out of sight, and gone.
    for hours in [121, 135, 160, 161] {
        compactor.pass(hours * HOUR_MS).await.unwrap();
        assert!(count_blocks(&bucket) <= 3, "after {hours} h");
    }
    let mut living: Vec<BlockId> = bucket.living().iter().map(|meta| meta.ulid).collect();
    living.sort_unstable();
    let mut expected = [raw, hour];
    expected.sort_unstable();
    assert_eq!(living, expected, "without {five}");
}
