//! Several compactors on a bucket without leases, each with a part of its groups.

use parallax_compactor::CompactorConfig;
use parallax_model::Labels;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

const GROUPS: u64 = 6;

fn fill(bucket: &TestBucket) {
    for group in 0..GROUPS {
        for n in 0..5u64 {
            let from_ms = 2 * n as i64 * HOUR_MS;
            let spec = SeriesSpec {
                labels: Labels::from_pairs([("__name__", "up")]),
                seed: 3,
                histograms: false,
                times_ms: (0..24).map(|k| from_ms + k * 300_000).collect(),
                chunk_samples: 10,
            };
            let replica = format!("r{group}");
            bucket.add(id(10 * (group + 1) + n), (from_ms, from_ms + 2 * HOUR_MS), &replica, &[spec]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_do_all_groups_once_and_leave_those_of_others_alone() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let mut done = Vec::new();
    for shard in ["0/3", "1/3", "2/3"] {
        let before = bucket.living().len();
        let compactor =
            bucket.compactor(|config| CompactorConfig { shard: Some(shard.parse().unwrap()), ..config });
        let report = compactor.pass(NOW_MS).await.unwrap();
        assert_eq!((report.set_aside, report.retries), (0, 0));
        // Four blocks become one.
        assert_eq!(before - bucket.living().len(), 3 * report.compactions as usize, "shard {shard}");
        assert_eq!(compactor.pass(NOW_MS + 1).await.unwrap().compactions, 0);
        done.push(report.compactions);
    }
    assert_eq!(done.iter().sum::<u64>(), GROUPS);
    assert!(done.iter().all(|done| *done < GROUPS), "all groups are in one shard: {done:?}");
    let levels: Vec<u32> = bucket.living().iter().map(|meta| meta.compaction.level).collect();
    assert_eq!(levels.iter().filter(|level| **level == 2).count() as u64, GROUPS);
}
