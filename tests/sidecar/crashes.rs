//! A shipper that is killed, over and over, anywhere: no partial block is ever visible, none is lost, none comes twice.
//!
//! `PARALLAX_SEED` kills at other moments, `PARALLAX_KILLS` more often.

use std::path::Path;
use std::time::{Duration, Instant};

use parallax_testkit::process::Process;
use serde_json::json;

use super::s3::{BUCKET, Bucket, Crash};
use super::world::{World, objects_in};
use crate::program::{PATIENCE, command, has_ended};

const DEFAULT_SEED: u64 = 1;
const BLOCKS: i64 = 3;
const POLL: Duration = Duration::from_millis(2);
/// More than a whole run asks of its bucket between two kills.
const MAX_REQUESTS: u64 = 14;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    let seed = number("PARALLAX_SEED", DEFAULT_SEED);
    println!("PARALLAX_SEED={seed}");
    seed
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

fn sidecar(world: &World, bucket: &serde_json::Value) -> Process {
    let mut command = command(["sidecar", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"]);
    command.arg(format!("--prometheus.url={}", world.url));
    command.arg(format!("--tsdb.path={}", world.at("data").display()));
    command.arg(format!("--objstore.config={bucket}"));
    Process::spawn(&mut command, &world.at("log")).unwrap()
}

fn forget_uploads(world: &World) {
    let _ = std::fs::remove_file(world.journal());
}

/// Waits until the process has ended, or everything is uploaded. Says whether it is.
async fn ended_or_done(world: &World, process: &Process) -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if has_ended(process.id()) {
            return false;
        }
        if world.journaled().len() == world.blocks.len() {
            return true;
        }
        assert!(Instant::now() < deadline, "it neither ends nor uploads: {}", process.output());
        tokio::time::sleep(POLL).await;
    }
}

fn no_links_are_left(world: &World) {
    assert_eq!(std::fs::read_dir(world.at("data/thanos/upload")).map_or(0, Iterator::count), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_request_to_its_bucket_a_shipper_leaves_whole_blocks_and_goes_on() {
    let (mut random, kills) = (Random(seed()), number("PARALLAX_KILLS", 300));
    let world = World::start(BLOCKS).await;
    let bucket = Bucket::start(&world.stop).await;
    let config = json!({"type": "S3", "config": {
        "bucket": BUCKET, "endpoint": bucket.address, "insecure": true, "region": "test", "bucket_lookup_type": "path",
        "access_key": "a", "secret_key": "b",
    }});
    let (mut killed, mut runs) = (0, 0);
    while killed < kills {
        bucket.clear();
        forget_uploads(&world);
        let mut whole = Vec::new();
        loop {
            let process = sidecar(&world, &config);
            let requests_left = usize::try_from(random.below(MAX_REQUESTS)).unwrap();
            let crash = Crash { requests_left, after: random.below(2) == 1 };
            bucket.arm(process.id(), Some(crash));
            runs += 1;
            let done = ended_or_done(&world, &process).await;
            drop(process);
            let now = world.whole_blocks(&bucket.objects());
            assert_eq!(now, world.blocks[..now.len()], "{crash:?}: not the oldest first");
            assert!(now.len() >= whole.len(), "{crash:?}: a block is lost");
            assert!(
                world.journaled().iter().all(|id| now.contains(id)),
                "{crash:?}: the journal says too much"
            );
            whole = now;
            if done {
                break;
            }
            killed += 1;
        }
        assert_eq!(whole, world.blocks);
        assert_eq!(bucket.late_writes(), Vec::<String>::new(), "a block came twice");
    }
    println!("killed {killed} times in {runs} runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_time_a_shipper_leaves_whole_blocks_and_no_links() {
    let (mut random, kills) = (Random(seed()), number("PARALLAX_KILLS", 300) / 2);
    let world = World::start(BLOCKS).await;
    let directory = world.at("bucket");
    let config = json!({"type": "FILESYSTEM", "config": {"directory": directory}});
    std::fs::create_dir(&directory).unwrap();
    // How long a whole run takes says when to kill.
    let began = Instant::now();
    let process = sidecar(&world, &config);
    assert!(ended_or_done(&world, &process).await);
    let mut whole_run = began.elapsed();
    drop(process);
    let (mut killed, mut unfinished) = (0, 0);
    while killed < kills {
        forget_uploads(&world);
        empty(&directory);
        let mut before = 0;
        loop {
            let began = Instant::now();
            let process = sidecar(&world, &config);
            // Mostly while it uploads, which is the last part of a run.
            let wait = whole_run.mul_f64(0.5 + random.below(1000) as f64 / 1600.0);
            while began.elapsed() < wait && world.journaled().len() < world.blocks.len() {
                tokio::time::sleep(POLL / 4).await;
            }
            drop(process);
            killed += 1;
            let objects = objects_in(&directory);
            let now = world.whole_blocks(&objects);
            assert_eq!(now, world.blocks[..now.len()], "not the oldest first");
            assert!(now.len() >= before, "a block is lost");
            assert!(world.journaled().iter().all(|id| now.contains(id)), "the journal says too much");
            // A machine that is busier by now needs longer for any block, and one that is not less.
            whole_run = whole_run.mul_f64(if now.len() > before { 0.97 } else { 1.05 });
            before = now.len();
            if world.journaled().len() == world.blocks.len() {
                break;
            }
            unfinished += usize::from(!objects.len().is_multiple_of(3));
        }
    }
    println!("killed {killed} times, {unfinished} of them inside a block");
    forget_uploads(&world);
    let process = sidecar(&world, &config);
    assert!(ended_or_done(&world, &process).await);
    drop(process);
    no_links_are_left(&world);
}

fn empty(directory: &Path) {
    std::fs::remove_dir_all(directory).unwrap();
    std::fs::create_dir(directory).unwrap();
}

/// Of two that ship from one directory, one does; when it is killed, the other takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_shipper_of_the_same_directory_waits_for_the_end_of_the_first() {
    let world = World::start(1).await;
    let (directory, log) = (world.at("bucket"), world.at("log"));
    let config = json!({
        "cluster": "eu-1", "http_address": "127.0.0.1:0", "grpc_address": "127.0.0.1:0",
        "bucket": {"type": "FILESYSTEM", "config": {"directory": directory}},
        "prometheus": [{"url": world.url, "tsdb_path": world.at("data"), "ship_interval": "50ms"}],
    });
    std::fs::write(world.at("observee.yaml"), config.to_string()).unwrap();
    let start = |log: &Path| {
        Process::spawn(command(["observee", "--config"]).arg(world.at("observee.yaml")), log).unwrap()
    };
    let wait_for = async |log: &Path, text: &str| {
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::read_to_string(log).unwrap_or_default().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} in\n{}", std::fs::read_to_string(log).unwrap());
            tokio::time::sleep(POLL).await;
        }
    };
    let first = start(&log);
    wait_for(&log, "block uploaded").await;
    let second_log = world.at("second-log");
    let second = start(&second_log);
    wait_for(&second_log, "another process ships these blocks").await;
    assert_eq!(world.whole_blocks(&objects_in(&directory)), world.blocks);
    drop(first);
    // The block is gone from the bucket and the journal: whoever ships now, uploads it again.
    empty(&directory);
    forget_uploads(&world);
    wait_for(&second_log, "block uploaded").await;
    assert_eq!(world.whole_blocks(&objects_in(&directory)), world.blocks);
    drop(second);
}
