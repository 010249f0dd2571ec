//! Several compactors on a bucket without leases, each with a part of its groups.

use parallax_compactor::CompactorConfig;

use super::fixture::{NOW_MS, TestBucket};

const GROUPS: u64 = 6;

fn fill(bucket: &TestBucket) {
    for group in 0..GROUPS {
        bucket.add_two_hours_each(10 * (group + 1), 5, &format!("r{group}"));
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
