//! A bucket over a store that fails from a seed: what comes back is right, or an error; never short, never other bytes.

use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;
use parallax_bucket::{Bucket, BucketError, RetryPolicy};
use parallax_testkit::faulty_bucket::{Fault, Faults, FaultyStore};

const RETRY: RetryPolicy =
    RetryPolicy { max_attempts: 3, first_pause: Duration::ZERO, max_pause: Duration::ZERO };

/// A bucket with ten objects of known contents.
async fn bucket(faults: Faults) -> (Bucket, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), faults));
    let bucket = Bucket::new(store.clone(), "p", "faulty").unwrap().with_retry(RETRY);
    store.set_on(false);
    for i in 0..10 {
        bucket.put(&format!("o/{i}"), contents(i).into()).await.unwrap();
    }
    store.set_on(true);
    (bucket, store)
}

fn contents(i: usize) -> Vec<u8> {
    (0..1000 + i).map(|at| ((at * 7 + i) % 251) as u8).collect()
}

/// One line per call: what it came to. Wrong bytes end the test.
async fn run(seed: u64, permille: u32) -> (Vec<String>, u64) {
    let (bucket, store) = bucket(Faults { slow: Duration::ZERO, ..Faults::all(seed, permille) }).await;
    let mut lines = Vec::new();
    let mut say = |what: &str, error: Option<BucketError>| {
        lines.push(format!("{what}: {}", error.map_or("right".to_owned(), |error| error.to_string())));
    };
    for _ in 0..5 {
        for i in 0..10 {
            let (name, right) = (format!("o/{i}"), contents(i));
            match bucket.get(&name, 5000).await {
                Ok(bytes) => {
                    assert!(bytes == right, "seed {seed}: get {name}");
                    say(&name, None);
                }
                Err(error) => say(&name, Some(error)),
            }
            match bucket.get_ranges(&name, &[3..20, 500..900]).await {
                Ok(parts) => {
                    assert!(
                        parts[0] == right[3..20] && parts[1] == right[500..900],
                        "seed {seed}: ranges of {name}"
                    );
                    say(&name, None);
                }
                Err(error) => say(&name, Some(error)),
            }
        }
        match bucket.list("o", 100).await {
            Ok(objects) => {
                assert_eq!(objects.len(), 10, "seed {seed}: list");
                say("list", None);
            }
            Err(error) => say("list", Some(error)),
        }
    }
    (lines, store.injected().values().sum())
}

#[tokio::test]
async fn whatever_the_store_does_an_answer_is_right_or_an_error() {
    let first: u64 = std::env::var("PARALLAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + 20 {
        println!("seed {seed} (set PARALLAX_SEED to begin there)");
        let (lines, injected) = run(seed, 300).await;
        assert!(injected > 10, "seed {seed}: {injected} faults");
        assert!(lines.iter().any(|line| line.ends_with("right")), "seed {seed}");
    }
}

#[tokio::test]
async fn the_same_seed_fails_the_same_calls() {
    assert_eq!(run(7, 300).await, run(7, 300).await);
    assert_ne!(run(7, 300).await.0, run(8, 300).await.0);
    assert_eq!(run(7, 0).await.1, 0);
}

#[tokio::test]
async fn each_fault_is_what_it_says() {
    for (fault, what) in [
        (Fault::Forbidden, "refused"),
        (Fault::NotFound, "does not exist"),
        (Fault::ServerError, "500 on purpose"),
        (Fault::HalfBody, "500 on purpose"),
        (Fault::ShortBody, "500 bytes came where the store announced 1000"),
        (Fault::LongBody, "1008 bytes came where the store announced 1000"),
    ] {
        let faults = Faults { seed: 1, permille: 1000, kinds: vec![fault], slow: Duration::ZERO };
        let (bucket, store) = bucket(faults).await;
        let error = bucket.get("o/0", 5000).await.unwrap_err().to_string();
        assert!(error.contains(what), "{fault:?}: {error}");
        let attempts = if matches!(fault, Fault::Forbidden | Fault::NotFound) { 1 } else { 3 };
        assert_eq!(store.injected()[&fault], attempts, "{fault:?}");
    }
}

#[tokio::test]
async fn writes_that_fail_leave_what_was_there() {
    let faults = Faults { kinds: vec![Fault::ServerError], ..Faults::all(3, 1000) };
    let (bucket, store) = bucket(faults).await;
    bucket.put("o/1", "new".into()).await.unwrap_err();
    bucket.delete("o/1").await.unwrap_err();
    store.set_on(false);
    assert!(bucket.get("o/1", 5000).await.unwrap() == contents(1));
}
