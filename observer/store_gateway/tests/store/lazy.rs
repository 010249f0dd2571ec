//! Lazy postings: the same answers, whatever is looked up and whatever is held against series.

use std::path::Path;
use std::sync::Arc;

use parallax_model::{MatchOp, Matcher};
use parallax_store_gateway::{IndexCache, IndexCacheConfig, LazyPostings, Limits};
use parallax_storeapi::proto::thanos::{LabelNamesRequest, LabelValuesRequest, SeriesRequest};
use parallax_storeapi::{Store as _, matchers};
use parallax_telemetry::Metrics;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tonic::Request;

use crate::fixture::{Fixture, everything, golden};

const CASES: usize = 200;

/// So low a bound that every matcher but one is held against series.
const EAGER_TO_DEFER: LazyPostings = LazyPostings { is_enabled: true, max_lists_per_series: 0.001 };
const OFF: LazyPostings = LazyPostings { is_enabled: false, max_lists_per_series: 100.0 };

async fn fixture(bucket: &Path, lazy_postings: LazyPostings) -> Fixture {
    Fixture::with(bucket, |config| config.lazy_postings = lazy_postings).await
}

/// Names and some values that the bucket has.
async fn words(fixture: &Fixture) -> Vec<(String, Vec<String>)> {
    let request = LabelNamesRequest { end: i64::MAX, ..Default::default() };
    let names = fixture.gateway.label_names(Request::new(request)).await.unwrap().names;
    let mut words = Vec::new();
    for label in names {
        let request = LabelValuesRequest { label: label.clone(), end: i64::MAX, ..Default::default() };
        let values = fixture.gateway.label_values(Request::new(request)).await.unwrap().values;
        words.push((label, values.into_iter().take(8).collect()));
    }
    words.push(("nowhere".to_owned(), vec!["x".to_owned()]));
    words
}

fn random_matcher(runner: &mut TestRunner, words: &[(String, Vec<String>)]) -> Matcher {
    use proptest::sample::select;
    let mut pick = |count: usize| (0..count).new_tree(runner).unwrap().current();
    let (name, values) = &words[pick(words.len())];
    let value = &values[pick(values.len())];
    let escape = |c: char| if r"\.+*?()|[]{}^$".contains(c) { vec!['\\', c] } else { vec![c] };
    let escaped: String = value.chars().flat_map(escape).collect();
    let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][pick(4)];
    let is_regex = matches!(op, MatchOp::Regex | MatchOp::NotRegex);
    let start: String = value.chars().take(2).filter(|c| c.is_alphanumeric()).collect();
    let regexes = vec![
        escaped.clone(),
        format!("{escaped}|other"),
        format!("{escaped}|"),
        format!("{start}.*"),
        ".+".to_owned(),
        ".*".to_owned(),
        ".*[0-9].*".to_owned(),
    ];
    let text = if is_regex {
        select(regexes).new_tree(runner).unwrap().current()
    } else {
        select(vec![value.clone(), String::new(), "missing".to_owned()]).new_tree(runner).unwrap().current()
    };
    Matcher::new(op, name.as_str(), text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_with_and_without_lazy_postings() {
    let bucket = golden("bucket-short");
    let (lazy, plain) = (fixture(&bucket, EAGER_TO_DEFER).await, fixture(&bucket, OFF).await);
    let remembering = Fixture::with(&bucket, |config| {
        config.lazy_postings = EAGER_TO_DEFER;
        let cache = IndexCache::open(&IndexCacheConfig::of_outcomes(1 << 20), &Metrics::new());
        config.caches.index = Some(Arc::new(cache));
    })
    .await;
    let words = words(&plain).await;
    let seed: u8 = std::env::var("PARALLAX_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}");
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let mut answered = 0;
    for case in 0..CASES {
        let count = (1usize..4).new_tree(&mut runner).unwrap().current();
        let wanted: Vec<Matcher> = (0..count).map(|_| random_matcher(&mut runner, &words)).collect();
        let matchers = matchers::to_wire(&wanted);
        let request =
            SeriesRequest { matchers: matchers.clone(), skip_chunks: case % 2 == 0, ..everything() };
        let (one, two) =
            (lazy.series(request.clone()).await.unwrap(), plain.series(request.clone()).await.unwrap());
        assert!(one.series == two.series && one.warnings == two.warnings, "{wanted:?}");
        for time in ["first", "second"] {
            let remembered = remembering.series(request.clone()).await.unwrap();
            assert!(remembered.series == two.series, "{wanted:?}, the {time} time");
        }
        answered += usize::from(!one.series.is_empty());
        let names = LabelNamesRequest { end: i64::MAX, matchers: matchers.clone(), ..Default::default() };
        let ask =
            async |fixture: &Fixture| fixture.gateway.label_names(Request::new(names.clone())).await.unwrap();
        assert_eq!(ask(&lazy).await, ask(&plain).await, "{wanted:?}");
        let label = words[case % words.len()].0.clone();
        let values = LabelValuesRequest { label, end: i64::MAX, matchers, ..Default::default() };
        let ask = async |fixture: &Fixture| {
            fixture.gateway.label_values(Request::new(values.clone())).await.unwrap()
        };
        assert_eq!(ask(&lazy).await, ask(&plain).await, "{wanted:?}");
    }
    assert!(answered > CASES / 10, "{answered} answers with series");
    let name = "thanos_bucket_store_lazy_expanded_postings_total ";
    assert!(!lazy.metric(&format!("{name}0\n")) && plain.metric(&format!("{name}0\n")), "what was compared?");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_series_counts_those_that_match() {
    let bucket = golden("bucket-short");
    let mut request = everything();
    let job = Matcher::new(MatchOp::Regex, "__name__", ".+").unwrap();
    let none = Matcher::new(MatchOp::NotRegex, "__name__", ".+").unwrap();
    for (second, series_limit, is_refused) in [(none, 1, false), (job.clone(), 1, true)] {
        let fixture = Fixture::with(&bucket, |config| {
            config.lazy_postings = EAGER_TO_DEFER;
            config.limits = Limits { request_series: series_limit, ..Limits::default() };
        })
        .await;
        request.matchers = matchers::to_wire(&[job.clone(), second]);
        assert_eq!(fixture.series(request.clone()).await.is_err(), is_refused);
    }
}
