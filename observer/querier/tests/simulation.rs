//! Meshes of queriers in bad weather, from seeds: never a wrong number, never silence.
//!
//! Each seed makes a mesh: two to six clusters of two replicas with known truth, beneath one to three tiers of queriers, each edge with a network of its own
//! that delays, cuts, stalls, ends, resets and refuses. In each of its storms questions are asked side by side, while the weather changes. An answer has to be right about
//! every cluster that its coverage calls complete, and to name every other that it concerns; where no partial answer is allowed, the error has to name one.
//! What hangs in here hangs for ever, so that an answer comes at all only if deadlines are kept. In the end the weather is fine, and answers have to become whole.
//!
//! Time is real, so that a seed repeats a mesh and its weather, not the order of events; what is asserted holds in any order. `PARALLAX_SEED`: the first seed.
//! `PARALLAX_MESHES`: how many. In some, the caller's own short timeout is the only bound; `PARALLAX_HURRY=0` leaves that out.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;
#[path = "simulation/question.rs"]
mod question;
#[path = "simulation/truth.rs"]
mod truth;
#[path = "simulation/verdict.rs"]
mod verdict;
#[path = "simulation/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parallax_testkit::seeded::Seeded;
use question::Question;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use verdict::{Tally, Verdict};
use world::World;

const MESHES: u64 = 32;
/// Meshes at a time: most of what they do is wait.
const SIDE_BY_SIDE: usize = 10;
const STORMS: u64 = 3;
const QUESTIONS: u64 = 5;
/// Far beyond what any deadline in here allows.
const PATIENCE: Duration = Duration::from_secs(180);

fn number_of(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_any_weather_an_answer_is_right_or_says_whose_part_is_missing() {
    let (first, meshes) = (number_of("PARALLAX_SEED", 1), number_of("PARALLAX_MESHES", MESHES));
    println!("{meshes} meshes from seed {first} (set PARALLAX_SEED to begin there)");
    let places = Arc::new(Semaphore::new(SIDE_BY_SIDE));
    let mut running = JoinSet::new();
    for seed in first..first + meshes {
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire_owned().await.unwrap();
            live(seed).await
        });
    }
    let mut all = Tally::default();
    while let Some(ended) = running.join_next().await {
        all.add(&ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
    }
    println!("{all:?}");
    if meshes >= MESHES {
        let seen = [all.whole, all.partial, all.refused, all.faults / 10];
        assert!(
            seen.iter().all(|count| *count > 0),
            "nothing is shown by weather that does nothing: {all:?}"
        );
    }
}

/// The life of one mesh.
async fn live(seed: u64) -> Tally {
    let mut row = Seeded::new(seed);
    let world = World::build(seed).await;
    let mut tally = Tally::default();
    let mut place = format!("seed {seed}, {}", world.shape());
    if world.begins_in_fair_weather() {
        become_whole(&world, &place, &mut tally).await;
    }
    for storm in 0..STORMS {
        place = format!("seed {seed}, storm {storm}, {}", world.shape());
        let (troubled, change) = world.storm(&mut row);
        let questions: Vec<Question> =
            (0..QUESTIONS).map(|_| Question::draw(&world.clusters, &mut row)).collect();
        let asking = join_all(questions.iter().map(|question| ask(&world, question, &troubled, &place)));
        let (verdicts, ()) = tokio::join!(asking, change.happen());
        verdicts.into_iter().for_each(|verdict| tally.count(verdict));
        world.calm();
        become_whole(&world, &place, &mut tally).await;
    }
    tally.faults += world.faults();
    tally
}

/// Asks, and judges the answer; a defect fails the test.
async fn ask(world: &World, question: &Question, troubled: &BTreeSet<String>, place: &str) -> Verdict {
    let uri = question.uri(world.timeout.as_deref());
    let Ok((status, header, body)) = tokio::time::timeout(PATIENCE, world.ask(&uri)).await else {
        panic!("{place}: {uri} is never answered");
    };
    let judged = verdict::judge(
        &world.clusters,
        question,
        troubled,
        world.timeout.is_some(),
        (status, &header, &body),
    );
    judged.unwrap_or_else(|defect| panic!("{place}: {uri}: {defect}\n{status} {header}\n{body}"))
}

/// In fine weather the answer becomes whole, and stays honest until then.
async fn become_whole(world: &World, place: &str, tally: &mut Tally) {
    let all: BTreeSet<String> = world.clusters.iter().map(|cluster| cluster.name.clone()).collect();
    let began = std::time::Instant::now();
    for question in Question::of_everything() {
        loop {
            let verdict = ask(world, &question, &all, place).await;
            tally.count(verdict);
            if verdict == Verdict::Whole {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{place}: in fine weather the answer does not become whole");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
