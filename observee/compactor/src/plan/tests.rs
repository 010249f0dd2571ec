//! The cases of Thanos' own planner tests, in our words: ranges of 20, 60, 180, 540 and 1620, and blocks by (id, from, to).

use std::collections::BTreeMap;

use super::*;

fn block(id: u64, min_time_ms: i64, max_time_ms: i64) -> BlockMeta {
    let json = format!(
        r#"{{"ulid":"{:026}","minTime":{min_time_ms},"maxTime":{max_time_ms},"version":1,"stats":{{"numSeries":10}},
            "compaction":{{"level":1,"sources":["{:026}"]}},"thanos":{{"labels":{{"a":"b"}},"downsample":{{"resolution":0}}}}}}"#,
        id, id
    );
    BlockMeta::parse("test", json.as_bytes()).unwrap()
}

fn id(number: u64) -> BlockId {
    format!("{number:026}").parse().unwrap()
}

fn group(blocks: Vec<BlockMeta>) -> Group {
    let mut blocks: Vec<_> = blocks.into_iter().map(Arc::new).collect();
    blocks.sort_by_key(|meta| (meta.min_time_ms, meta.ulid));
    Group { key: "0@1".to_owned(), resolution_ms: 0, labels: BTreeMap::new(), blocks }
}

fn config() -> PlanConfig {
    PlanConfig { ranges_ms: vec![20, 60, 180, 540, 1620], vertical: true, ..PlanConfig::default() }
}

fn planned(blocks: &[(u64, i64, i64)], marked: &[u64]) -> Vec<u64> {
    let blocks = blocks.iter().map(|(id, from, to)| block(*id, *from, *to)).collect();
    let marked = marked.iter().map(|number| id(*number)).collect();
    let plan = plan(&group(blocks), &marked, &config()).unwrap();
    plan.blocks.iter().map(|meta| meta.ulid.to_string().parse().unwrap()).collect()
}

/// What it shows, blocks as (id, from, to), and the ids that are planned.
type Case = (&'static str, &'static [(u64, i64, i64)], &'static [u64]);

#[test]
fn a_range_is_compacted_once_it_is_full_or_past() {
    let cases: &[Case] = &[
        ("one block", &[(1, 0, 20)], &[]),
        ("not full", &[(1, 0, 20), (2, 20, 40)], &[]),
        ("full, but the newest is left alone", &[(1, 0, 20), (2, 20, 40), (3, 40, 60)], &[]),
        ("full, and a newer one is there", &[(1, 0, 20), (2, 20, 40), (3, 40, 60), (4, 60, 80)], &[1, 2, 3]),
        (
            "blocks of other sizes fill it",
            &[(1, 0, 20), (2, 20, 40), (5, 40, 60), (6, 60, 120), (7, 120, 180)],
            &[1, 2, 5],
        ),
        ("a gap in the middle is as good", &[(1, 0, 20), (3, 40, 60), (4, 60, 80)], &[1, 3]),
        (
            "a gap at the start, and blocks of the next range",
            &[(2, 20, 40), (3, 40, 60), (4, 60, 80), (5, 80, 100)],
            &[2, 3],
        ),
        (
            "the second level, with all of the first done",
            &[(1, 0, 60), (2, 60, 120), (3, 120, 180), (4, 180, 200)],
            &[1, 2, 3],
        ),
        ("a lone block in a past range stays", &[(1, 0, 20), (2, 60, 80), (3, 80, 100)], &[]),
        (
            "the largest blocks stay as they are",
            &[(1, 0, 1620), (2, 1620, 3240), (3, 3240, 3260), (4, 3260, 3280)],
            &[],
        ),
        (
            "small ones between two large ones",
            &[(1, 0, 360), (6, 540, 560), (7, 360, 420), (8, 420, 540)],
            &[7, 8],
        ),
    ];
    for (what, blocks, expected) in cases {
        assert_eq!(planned(blocks, &[]), *expected, "{what}");
    }
}

#[test]
fn blocks_before_zero_align_like_all_others() {
    assert_eq!(planned(&[(1, -60, -40), (2, -40, -20), (3, -20, 0), (4, 0, 20)], &[]), [1, 2, 3]);
}

#[test]
fn a_marked_block_is_left_and_nothing_reaches_over_it() {
    let blocks = [(1, 0, 20), (2, 20, 40), (3, 40, 60), (4, 60, 80)];
    assert_eq!(planned(&blocks, &[1]), [2, 3]);
    assert_eq!(planned(&blocks, &[2]), Vec::<u64>::new());
    assert_eq!(planned(&blocks, &[3]), [1, 2]);
    // The newest is left alone whether or not it is marked.
    assert_eq!(planned(&blocks, &[4]), [1, 2, 3]);
    assert_eq!(planned(&blocks, &[1, 2, 3, 4]), Vec::<u64>::new());
}

#[test]
fn overlapping_blocks_come_first_and_all_of_a_chain_together() {
    let blocks =
        [(1, 0, 20), (2, 20, 40), (3, 40, 60), (4, 60, 80), (5, 70, 90), (6, 85, 100), (7, 100, 120)];
    assert_eq!(planned(&blocks, &[]), [4, 5, 6]);
    // The newest is no exception.
    assert_eq!(planned(&[(1, 0, 20), (2, 0, 20)], &[]), [1, 2]);
    // One that spans all the others.
    assert_eq!(planned(&[(1, 0, 80), (2, 20, 40), (3, 60, 70), (4, 80, 100)], &[]), [1, 2, 3]);
    // A mark breaks the chain.
    assert_eq!(planned(&[(1, 0, 20), (2, 10, 30), (3, 30, 50)], &[2]), Vec::<u64>::new());
}

#[test]
fn overlap_and_shared_sources_are_errors_without_vertical_compaction() {
    let config = PlanConfig { vertical: false, ..config() };
    let overlap = group(vec![block(1, 0, 20), block(2, 19, 40), block(3, 40, 60)]);
    let error = plan(&overlap, &BTreeSet::new(), &config).unwrap_err();
    let CompactError::Overlap { first, second } = error else { panic!("{error}") };
    assert_eq!((first, second), (id(1), id(2)));

    let mut blocks = vec![block(1, 0, 20), block(2, 20, 40), block(3, 40, 60), block(4, 60, 80)];
    blocks[2].compaction.sources = vec![id(9), id(1)];
    let error = plan(&group(blocks), &BTreeSet::new(), &config).unwrap_err();
    assert!(matches!(error, CompactError::SharedSource { shared, .. } if shared == id(1)), "{error}");
}

#[test]
fn a_failed_block_keeps_its_range_from_being_planned() {
    let mut blocks = vec![block(1, 0, 20), block(2, 20, 40), block(3, 40, 60), block(4, 60, 80)];
    blocks[1].compaction.failed = true;
    assert!(plan(&group(blocks), &BTreeSet::new(), &config()).unwrap().blocks.is_empty());
}

#[test]
fn a_large_block_with_many_tombstones_is_rewritten_alone() {
    let with = |tombstones: u64, length: i64| {
        let mut first = block(1, 0, length);
        first.stats.num_tombstones = tombstones;
        let plan = plan(&group(vec![first, block(2, 1620, 1640)]), &BTreeSet::new(), &config()).unwrap();
        plan.blocks.len()
    };
    // 11/20 is the limit: series count 10, and one more.
    assert_eq!(with(1, 540), 1);
    assert_eq!(with(0, 540), 0);
    assert_eq!(with(1, 60), 0, "too small");
}

#[test]
fn the_largest_index_is_taken_out_when_the_new_one_would_come_near_the_limit() {
    let sized = |id: u64, from: i64, size: u64| {
        let mut meta = block(id, from, from + 20);
        let files = &mut meta.thanos.as_mut().unwrap().files;
        let size_bytes = Some(size);
        files.push(parallax_block::MetaFile { rel_path: "index".into(), size_bytes, ..Default::default() });
        meta
    };
    let of = |sizes: [u64; 3]| {
        let [a, b, c] = sizes;
        let blocks = vec![sized(1, 0, a), sized(2, 20, b), sized(3, 40, c), sized(4, 60, 1)];
        let config = PlanConfig { max_index_size_bytes: 100, ..config() };
        let plan = plan(&group(blocks), &BTreeSet::new(), &config).unwrap();
        let blocks: Vec<BlockId> = plan.blocks.iter().map(|meta| meta.ulid).collect();
        (blocks, plan.marks)
    };
    assert_eq!(of([20, 20, 20]), (vec![id(1), id(2), id(3)], vec![]));
    assert_eq!(of([70, 10, 5]), (vec![id(2), id(3)], vec![(id(1), NoCompactReason::IndexSizeExceeding)]));
    assert_eq!(of([10, 90, 5]), (vec![], vec![(id(2), NoCompactReason::IndexSizeExceeding)]));
}

#[test]
fn downsampled_blocks_that_overlap_are_taken_out() {
    let downsampled = |number, from, to| {
        let mut meta = block(number, from, to);
        meta.thanos.as_mut().unwrap().downsample.resolution_ms = 300_000;
        meta
    };
    let blocks = vec![downsampled(1, 0, 20), downsampled(2, 10, 30), downsampled(3, 30, 50)];
    let plan = plan(&group(blocks), &BTreeSet::new(), &config()).unwrap();
    assert!(plan.blocks.is_empty());
    let reason = NoCompactReason::DownsampleVertical;
    assert_eq!(plan.marks, [(id(1), reason), (id(2), reason)]);
}

#[test]
fn the_outlook_counts_what_becomes_of_blocks_that_are_not_there_yet() {
    // Nine of the smallest: three become one, three times (the last three are not all past), and then what is full becomes one of the next range.
    let blocks: Vec<BlockMeta> = (0..10).map(|n| block(n + 1, n as i64 * 20, n as i64 * 20 + 20)).collect();
    let outlook = outlook(&group(blocks), &BTreeSet::new(), &config());
    assert_eq!((outlook.compactions, outlook.blocks), (4, 12));
    let nothing = super::outlook(&group(vec![block(1, 0, 20)]), &BTreeSet::new(), &config());
    assert_eq!(nothing, Outlook::default());
}
