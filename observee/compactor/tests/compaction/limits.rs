//! A block that would be too large.

use parallax_compactor::{CompactorConfig, PlanConfig};
use parallax_model::Labels;

use super::fixture::{HOUR_MS, NOW_MS, SeriesSpec, TestBucket, id};

/// Five blocks of two hours, each with twenty series of its own. Their metas say that their indexes are tiny, that of the fourth less so; gives the real sizes.
fn fill(bucket: &TestBucket) -> Vec<u64> {
    let mut sizes = Vec::new();
    for n in 0..5u64 {
        let start_ms = 2 * n as i64 * HOUR_MS;
        let specs: Vec<SeriesSpec> = (0..20)
            .map(|series| SeriesSpec {
                labels: Labels::from_pairs([("__name__", format!("metric_{n}_{series}").as_str())]),
                seed: series,
                histograms: false,
                times_ms: (0..24).map(|k| start_ms + k * 300_000).collect(),
                chunk_samples: 10,
            })
            .collect();
        bucket.add(id(10 + n), (start_ms, start_ms + 2 * HOUR_MS), "a", &specs);
        let dir = bucket.path().join(id(10 + n).to_string());
        sizes.push(std::fs::metadata(dir.join("index")).unwrap().len());
        let said = if n == 3 { 2 } else { 1 };
        let json = std::fs::read_to_string(dir.join("meta.json")).unwrap();
        let files = format!(r#""thanos":{{"files":[{{"rel_path":"index","size_bytes":{said}}}],"#);
        std::fs::write(dir.join("meta.json"), json.replacen(r#""thanos":{"#, &files, 1)).unwrap();
    }
    sizes
}

#[tokio::test(flavor = "multi_thread")]
async fn the_block_with_the_largest_index_is_taken_out_and_the_group_goes_on() {
    let bucket = TestBucket::new();
    let sizes = fill(&bucket);
    let three: u64 = sizes[..3].iter().sum();
    let compactor = bucket.compactor(|config| CompactorConfig {
        plan: PlanConfig { max_index_size_bytes: three, ..config.plan.clone() },
        ..config
    });
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.set_aside, report.retries), (1, 0, 0));
    let dir = bucket.path().join(id(13).to_string());
    let mark = std::fs::read_to_string(dir.join("no-compact-mark.json")).unwrap();
    assert!(mark.contains("index-size-exceeding") && mark.contains("limit"), "{mark}");
    assert!(!dir.join("deletion-mark.json").exists());
    let merged = bucket.living().into_iter().find(|meta| meta.compaction.level == 2).unwrap();
    assert_eq!(merged.compaction.sources, [id(10), id(11), id(12)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_two_fit_together_nothing_is_lost_and_nothing_is_tried_for_ever() {
    let bucket = TestBucket::new();
    let sizes = fill(&bucket);
    let compactor = bucket.compactor(|config| CompactorConfig {
        plan: PlanConfig { max_index_size_bytes: sizes[0] + 10, ..config.plan.clone() },
        ..config
    });
    let report = compactor.pass(NOW_MS).await.unwrap();
    assert_eq!((report.compactions, report.retries), (0, 0));
    assert_eq!(bucket.living().len(), 5);
    let again = compactor.pass(NOW_MS + 1).await.unwrap();
    assert_eq!((again.compactions, again.retries, again.set_aside), (0, 0, 0));
}
