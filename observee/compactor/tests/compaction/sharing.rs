//! Several workers on one bucket, with everything that may go wrong: see [`world`]. No sample is lost or out of sight at any time, and once the world is calm the work gets
//! done and no sample is there twice. `SHARING_SEEDS=100..200` tries other schedules than the usual ones.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parallax_block::BlockId;
use parallax_bucket::{Bucket, RetryPolicy};
use parallax_compactor::{Clock, Compactor, CompactorConfig, LeaseConfig};
use parallax_model::Labels;
use parallax_net::Context;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::fixture::{Content, HOUR_MS, SeriesSpec, TestBucket, id, read_content};
use world::{Door, World};

const WORKERS: usize = 3;
const DELETE_DELAY: Duration = Duration::from_secs(24 * 3600);

/// When the world begins: long after the blocks.
const START_MS: i64 = 1_790_000_000_000;

fn spec(name: &str, from_ms: i64, count: i64, step_ms: i64) -> SeriesSpec {
    SeriesSpec {
        labels: Labels::from_pairs([("__name__", name)]),
        seed: 3,
        histograms: false,
        times_ms: (0..count).map(|k| from_ms + k * step_ms).collect(),
        chunk_samples: 10,
    }
}

/// Three groups: two of nine blocks of two hours, of which four and four become one; and one with a block that is long enough to be downsampled.
fn fill(bucket: &TestBucket) {
    for (first, replica) in [(10, "a"), (30, "b")] {
        for n in 0..9 {
            let from_ms = 2 * n * HOUR_MS;
            let series = [spec(replica, from_ms, 24, 300_000), spec("x", from_ms + first, 5, 1_000_000)];
            bucket.add(id(first as u64 + n as u64), (from_ms, from_ms + 2 * HOUR_MS), replica, &series);
        }
    }
    bucket.add(id(50), (20 * HOUR_MS, 68 * HOUR_MS), "d", &[spec("d", 20 * HOUR_MS, 48, HOUR_MS)]);
    bucket.add(id(51), (68 * HOUR_MS, 70 * HOUR_MS), "d", &[spec("d", 68 * HOUR_MS, 2, HOUR_MS)]);
}

async fn fill_world(world: &World, bucket: &TestBucket) {
    for (name, bytes) in bucket.objects() {
        world.fill(&name, bytes).await;
    }
}

fn union(into: &mut Content, content: Content) {
    for (labels, samples) in content {
        into.entry(labels).or_default().extend(samples);
    }
}

/// One life of a worker: its memory and its disk end with it.
fn compactor(world: &Arc<World>, worker: usize, lasts: Duration, dir: &std::path::Path) -> Arc<Compactor> {
    let door = Door { world: Arc::clone(world), worker };
    let bucket = Bucket::new(Arc::new(door), "", "shared").unwrap().with_retry(RetryPolicy::NEVER);
    let clock = Arc::clone(world);
    let config = CompactorConfig {
        consistency_delay: Duration::ZERO,
        delete_delay: DELETE_DELAY,
        fetch_concurrency: 1,
        workers: 1,
        clock: Clock::of(move || Duration::from_millis((clock.now_ms() - START_MS).unsigned_abs())),
        sharing: Some(LeaseConfig { worker: worker.to_string(), lasts, ..LeaseConfig::default() }),
        ..CompactorConfig::new(bucket, dir)
    };
    Compactor::new(config, &Context::for_test()).unwrap()
}

/// How workers live for a while.
#[derive(Clone, Copy)]
struct Life {
    seed: u64,
    passes: usize,
    pause_ms: i64,
    /// By how much their clocks may be wrong.
    skew_ms: i64,
    /// How long leases last. Here nobody renews them while a job runs, since that goes by real time.
    lease: Duration,
}

/// In a rough world leases end before the job does, now and then.
const ROUGH: Life =
    Life { seed: 0, passes: 6, pause_ms: 60_000, skew_ms: 600_000, lease: Duration::from_secs(300) };

/// What workers have done, and how often in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    blocks: u64,
    retries: u64,
}

/// Passes; dies and is born again as the world wills.
async fn live(world: Arc<World>, worker: usize, life: Life) -> Done {
    let mut rng = StdRng::seed_from_u64(life.seed ^ ((worker as u64 + 1) << 32));
    let skew_ms = rng.random_range(-life.skew_ms..=life.skew_ms);
    let mut done = Done::default();
    let mut dir = tempfile::tempdir().unwrap();
    let mut worker_of_now = compactor(&world, worker, life.lease, dir.path());
    for _ in 0..life.passes {
        if let Ok(report) = worker_of_now.pass(world.now_ms() + skew_ms).await {
            done.blocks += report.compactions + report.downsamples;
            done.retries += report.retries;
        }
        if world.is_dead(worker) {
            dir = tempfile::tempdir().unwrap();
            worker_of_now = compactor(&world, worker, life.lease, dir.path());
            world.revive(worker);
        }
        let how_long_ms = life.pause_ms + rng.random_range(0..300_000);
        world.rest(worker, how_long_ms).await;
    }
    world.leave(worker);
    done
}

/// Lets all workers live for a while; meanwhile nothing may go out of sight.
async fn run(world: &Arc<World>, life: Life, sources: &BTreeSet<BlockId>) -> Done {
    world.enter(WORKERS);
    let workers: Vec<_> =
        (0..WORKERS).map(|worker| tokio::spawn(live(Arc::clone(world), worker, life))).collect();
    let watch = {
        let (world, sources) = (Arc::clone(world), sources.clone());
        tokio::spawn(async move {
            loop {
                let visible = world.visible().await;
                assert!(visible.is_superset(&sources), "out of sight: {:?}", &sources - &visible);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
    };
    let mut all = Done::default();
    for worker in workers {
        let done = worker.await.unwrap();
        all.blocks += done.blocks;
        all.retries += done.retries;
    }
    assert!(!watch.is_finished(), "{:?}", watch.await);
    watch.abort();
    all
}

async fn check_end(world: &World, expected: &Content, sources: &BTreeSet<BlockId>, what: &str) {
    let blocks = world.blocks().await;
    let living: Vec<_> = blocks.values().filter(|(_, mark)| mark.is_none()).map(|(meta, _)| meta).collect();
    for resolution_ms in [0, 300_000] {
        let mut holders: BTreeMap<BlockId, Vec<BlockId>> = BTreeMap::new();
        for meta in living.iter().filter(|meta| meta.resolution_ms() == resolution_ms) {
            for source in &meta.compaction.sources {
                holders.entry(*source).or_default().push(meta.ulid);
            }
        }
        if resolution_ms == 0 {
            assert_eq!(holders.keys().copied().collect::<BTreeSet<_>>(), *sources, "{what}");
        } else {
            assert_eq!(holders.keys().collect::<Vec<_>>(), [&id(50)], "{what}");
        }
        assert!(holders.values().all(|holders| holders.len() == 1), "{what}: there twice: {holders:?}");
    }
    // Two of eight hours and the newest, twice; and the two of the third group.
    assert_eq!(living.iter().filter(|meta| meta.resolution_ms() == 0).count(), 8, "{what}");
    // What is there reads, and says the same as what there was.
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in world.objects().await {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let mut found = Content::new();
    let mut count = 0;
    for meta in living.iter().filter(|meta| meta.resolution_ms() == 0) {
        let content = read_content(&dir.path().join(meta.ulid.to_string()));
        count += content.values().map(BTreeMap::len).sum::<usize>();
        union(&mut found, content);
    }
    assert!(found == *expected, "{what}");
    assert_eq!(count, expected.values().map(BTreeMap::len).sum::<usize>(), "{what}: samples are there twice");
    // Uploads that were given up are gone, too.
    let stray = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let stray: Vec<_> = stray
        .filter(|name| {
            name != "parallax" && !name.to_str().unwrap().parse().is_ok_and(|id| blocks.contains_key(&id))
        })
        .collect();
    assert!(stray.is_empty(), "{what}: {stray:?}");
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SHARING_SEEDS") else { return 0..12 };
    let (from, to) = text.split_once("..").expect("SHARING_SEEDS=100..200");
    from.parse().unwrap()..to.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_sleep_fail_and_die_lose_nothing_and_get_done() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let mut expected = Content::new();
    let mut sources = BTreeSet::new();
    for meta in bucket.living() {
        sources.insert(meta.ulid);
        union(&mut expected, bucket.content(meta.ulid));
    }
    let (mut sleeps, mut lost, mut deaths) = (0, 0, 0);
    for seed in seeds() {
        let what = format!("seed {seed}");
        let world = World::new(seed, START_MS, DELETE_DELAY);
        fill_world(&world, &bucket).await;
        run(&world, Life { seed, ..ROUGH }, &sources).await;
        let mishaps = world.mishaps();
        sleeps += mishaps.sleeps;
        lost += mishaps.lost_answers;
        deaths += mishaps.deaths;
        world.calm_down();
        // Long enough for marks and for uploads that were given up.
        let calm = Life { seed, passes: 10, pause_ms: 8 * HOUR_MS, ..ROUGH };
        run(&world, calm, &sources).await;
        check_end(&world, &expected, &sources, &what).await;
    }
    assert!(
        sleeps > 20 && lost > 20 && deaths > 2,
        "too calm: {sleeps} sleeps, {lost} lost answers, {deaths} deaths"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_calm_world_no_group_is_worked_on_twice() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let sources: BTreeSet<BlockId> = bucket.living().iter().map(|meta| meta.ulid).collect();
    for seed in 0..3 {
        let world = World::new(seed, START_MS, DELETE_DELAY);
        fill_world(&world, &bucket).await;
        world.calm_down();
        let life = Life { seed, passes: 3, pause_ms: 600_000, skew_ms: 0, lease: Duration::from_secs(7200) };
        let done = run(&world, life, &sources).await;
        // Two ranges of eight hours in each of two groups, and one block downsampled.
        assert_eq!(done, Done { blocks: 5, retries: 0 }, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_in_a_directory_is_not_shared() {
    let bucket = TestBucket::new();
    fill(&bucket);
    let compactor =
        bucket.compactor(|config| CompactorConfig { sharing: Some(LeaseConfig::default()), ..config });
    let error = compactor.pass(START_MS).await.unwrap_err();
    assert!(error.to_string().contains("--shard"), "{error}");
    assert_eq!(bucket.living().len(), 20);
}
