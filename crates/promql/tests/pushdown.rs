//! Aggregations evaluated in parts give what they give in one place: over generated clusters, with gaps, staleness markers, NaN and histograms, and with any of the clusters declining.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use parallax_model::float::stale_nan;
use parallax_model::{FloatColumn, FloatHistogram, Labels, MatchOp, Matcher, SeriesData, Span, TimeRange};
use parallax_promql::engine::{Engine, EngineOptions, Interrupt, QueryError, QueryOutcome, QueryRange};
use parallax_promql::memory_source::MemorySource;
use parallax_promql::parse::{ParserOptions, parse};
use parallax_promql::source::{
    Cut, Pushed, PushedAnswer, Question, Scope, Selection, SeriesStream, Source, SourceError,
};
use parallax_promql::value::{MatrixSeries, QueryValue, Sample};
use proptest::prelude::*;

const CLUSTERS: [&str; 4] = ["eu-1", "eu-2", "us-1", "us-2"];
const START_MS: i64 = 3_600_000;

/// What cannot be told from a decision of the test to decline.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    Answers,
    /// Says so only when it is asked.
    Declines,
    /// Is never asked.
    Reads,
}

type Declined = Arc<Mutex<BTreeSet<usize>>>;

/// Series of all clusters; some clusters evaluate for themselves.
struct Clusters {
    all: MemorySource,
    of: Vec<MemorySource>,
    roles: Vec<Role>,
    engine: EngineOptions,
    /// Of each cut, by its number.
    declined: Mutex<Vec<Declined>>,
    /// Texts that were asked.
    asked: Arc<Mutex<Vec<String>>>,
}

struct Asking {
    number: usize,
    questions: Vec<(usize, Question)>,
    sources: Vec<MemorySource>,
    roles: Vec<Role>,
    engine: EngineOptions,
    next: usize,
    declined: Declined,
    asked: Arc<Mutex<Vec<String>>>,
    started: bool,
}

impl Clusters {
    /// The selection, narrowed to the clusters of its scope.
    fn scoped(&self, selection: &Selection) -> Selection {
        let wanted: Vec<usize> = match selection.scope {
            Scope::All => return selection.clone(),
            Scope::Rest(_) => (0..self.of.len()).filter(|at| self.roles[*at] == Role::Reads).collect(),
            Scope::Declined(number) => {
                let all = self.declined.lock().unwrap();
                let declined = all[usize::try_from(number).unwrap()].lock().unwrap();
                declined.iter().copied().collect()
            }
        };
        let names: Vec<&str> = wanted.iter().map(|at| CLUSTERS[*at]).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join("|") };
        let mut selection = selection.clone();
        selection.matchers.push(Matcher::new(MatchOp::Regex, "cluster", names).unwrap());
        selection
    }
}

impl Source for Clusters {
    fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
        self.all.select(&self.scoped(selection))
    }

    fn push_down(&self, cut: &Cut) -> Option<Box<dyn Pushed>> {
        let asked = (0..self.of.len()).filter(|at| self.roles[*at] != Role::Reads);
        let questions: Vec<_> =
            asked.map(|at| Some((at, cut.question(&["cluster"], &[])?))).collect::<Option<_>>()?;
        let declined = Declined::default();
        let mut all = self.declined.lock().unwrap();
        all.push(declined.clone());
        Some(Box::new(Asking {
            number: all.len() - 1,
            questions,
            sources: self.of.clone(),
            roles: self.roles.clone(),
            engine: self.engine.clone(),
            next: 0,
            declined,
            asked: self.asked.clone(),
            started: false,
        }))
    }
}

impl Pushed for Asking {
    fn number(&self) -> u64 {
        u64::try_from(self.number).unwrap()
    }

    fn questions(&self) -> Vec<String> {
        self.questions.iter().map(|(_, question)| question.text().to_owned()).collect()
    }

    fn start(&mut self, _: TimeRange) {
        self.started = true;
    }

    fn next_answer(&mut self) -> Result<Option<PushedAnswer>, SourceError> {
        assert!(self.started);
        while let Some((cluster, question)) = self.questions.get(self.next) {
            let at = self.next;
            self.next += 1;
            self.asked.lock().unwrap().push(question.text().to_owned());
            let answer = evaluate(&self.sources[*cluster], self.engine.clone(), question);
            match answer.and_then(|(series, notes)| question.check(series, &notes)) {
                Ok(partition) if self.roles[*cluster] == Role::Answers => {
                    return Ok(Some(PushedAnswer { question: at, partition, warnings: Vec::new() }));
                }
                _ => {
                    self.declined.lock().unwrap().insert(*cluster);
                }
            }
        }
        Ok(None)
    }

    fn has_declined(&self) -> bool {
        !self.declined.lock().unwrap().is_empty()
    }
}

/// What a querier elsewhere does with a question.
fn evaluate(
    source: &MemorySource,
    options: EngineOptions,
    question: &Question,
) -> Result<(Vec<SeriesData>, Vec<String>), String> {
    let times = question.times();
    let range = QueryRange { start_ms: times.start_ms, end_ms: times.end_ms, step_ms: times.step_ms };
    let options = EngineOptions { lookback_ms: times.lookback_ms, ..options };
    let outcome = run(source, options, question.text(), range).map_err(|error| error.to_string())?;
    let QueryValue::Matrix(series) = outcome.value else { return Err("no matrix".to_owned()) };
    let sent = |one: MatrixSeries| {
        let (timestamps_ms, values) = (one.floats.timestamps_ms.to_vec(), one.floats.values);
        let floats = FloatColumn { timestamps_ms, values };
        SeriesData { labels: one.labels, floats, histograms: one.histograms }
    };
    Ok((series.into_iter().map(sent).collect(), [outcome.warnings, outcome.infos].concat()))
}

fn run(
    source: &dyn Source,
    options: EngineOptions,
    query: &str,
    range: QueryRange,
) -> Result<QueryOutcome, QueryError> {
    let expr = parse(query, &ParserOptions::all_features()).expect(query);
    Engine::new(options).query_text(source, query, &expr, range, &Interrupt::none())
}

/// A small generator, so that a case is a number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn value(&mut self) -> f64 {
        match self.below(60) {
            0 => f64::NAN,
            1 => stale_nan(),
            2 => f64::INFINITY,
            3 => 1e300,
            // Never a negative zero: which of two zeros a minimum is depends on the order.
            _ => (self.below(2_000_000) as f64 - 1_000_000.0) / 997.0 + 0.001,
        }
    }
}

fn histogram(random: &mut Random) -> Arc<FloatHistogram> {
    let counts: Vec<f64> = (0..3).map(|_| 1.0 + random.below(9) as f64).collect();
    Arc::new(FloatHistogram {
        count: counts.iter().sum(),
        sum: 10.0,
        positive_spans: vec![Span { offset: 0, length: 3 }],
        positive_buckets: counts,
        ..FloatHistogram::default()
    })
}

fn clusters(seed: u64, roles: Vec<Role>, engine: EngineOptions) -> Clusters {
    let mut random = Random(seed);
    let mut all = MemorySource::new();
    let mut of = vec![MemorySource::new(); CLUSTERS.len()];
    let has_histograms = random.below(3) == 0;
    for (at, cluster) in CLUSTERS.iter().enumerate() {
        for name in ["x_total", "gauge", "b_bucket", "mixed"] {
            for instance in 0..random.below(6) {
                let (job, le) = (random.below(3).to_string(), ["0.1", "1", "+Inf"][(instance % 3) as usize]);
                let instance = instance.to_string();
                let mut pairs =
                    vec![("__name__", name), ("cluster", cluster), ("instance", &instance), ("job", &job)];
                if name == "b_bucket" {
                    pairs.push(("le", le));
                }
                let labels = Labels::from_pairs(pairs);
                let mut counter = 0.0;
                for step in 0..240_i64 {
                    if random.below(8) == 0 {
                        continue;
                    }
                    let time_ms =
                        START_MS - 1_200_000 + step * 15_000 + i64::try_from(random.below(3000)).unwrap();
                    counter += random.below(100) as f64;
                    if random.below(50) == 0 {
                        counter = 0.0;
                    }
                    let value = if name.ends_with("total") || name.ends_with("bucket") {
                        counter
                    } else {
                        random.value()
                    };
                    let is_histogram = name == "mixed" && has_histograms && random.below(2) == 0;
                    for source in [&mut all, &mut of[at]] {
                        if is_histogram {
                            source.push_histogram(
                                &labels,
                                time_ms,
                                histogram(&mut Random(seed ^ time_ms.unsigned_abs())),
                            );
                        } else {
                            source.push_float(&labels, time_ms, value);
                        }
                    }
                }
            }
        }
    }
    Clusters { all, of, roles, engine, declined: Mutex::default(), asked: Arc::default() }
}

const QUERIES: [&str; 32] = [
    "sum by (job) (rate(x_total[5m]))",
    "sum(rate(x_total[5m]))",
    "sum by (cluster, job) (increase(x_total[3m]))",
    "sum without (instance) (rate(x_total[5m]))",
    "sum without (instance, cluster) (x_total)",
    "sum(gauge)",
    "avg(gauge)",
    "avg by (job) (gauge)",
    "avg without (cluster) (x_total)",
    "avg by (instance) (rate(x_total[4m]))",
    "min(gauge)",
    "max by (job) (gauge)",
    "min without (instance) (abs(gauge))",
    "max(-gauge * 2 + 1)",
    "count(gauge > 5)",
    "count by (job, nothing) (x_total)",
    "group by (cluster) (gauge)",
    "group without (job) (last_over_time(gauge[2m]))",
    "sum by (job) (rate(gauge[5m]))",
    "max(clamp(gauge offset 2m, -100, 100))",
    "sum(rate(x_total[5m])) / sum(rate(x_total[5m] offset 5m))",
    "max_over_time(max by (job) (gauge)[10m:1m])",
    "histogram_quantile(0.9, sum by (le) (rate(b_bucket[5m])))",
    "max by (job) (gauge) or min by (instance) (gauge)",
    "sum(mixed)",
    "avg by (job) (mixed)",
    "max(mixed)",
    "count(mixed)",
    "sum by (job) (mixed > 0)",
    "sum(sum by (job, cluster) (x_total))",
    "count by (job) (10 < bool gauge)",
    "sum(quantile_over_time(0.5, x_total[3m] offset -1m))",
];

fn samples(value: &QueryValue) -> Vec<(String, i64, Sample)> {
    let mut found: Vec<(String, i64, Sample)> = match value {
        QueryValue::Matrix(series) => series
            .iter()
            .flat_map(|one| {
                let floats = one.floats.iter().map(|(at, value)| (at, Sample::Float(value)));
                let histograms = one.histograms.timestamps_ms.iter().zip(&one.histograms.values);
                let histograms = histograms.map(|(at, value)| (*at, Sample::Histogram(value.clone())));
                floats
                    .chain(histograms)
                    .map(|(at, sample)| (one.labels.to_string(), at, sample))
                    .collect::<Vec<_>>()
            })
            .collect(),
        QueryValue::Vector(all) => {
            all.iter().map(|one| (one.labels.to_string(), one.timestamp_ms, one.sample.clone())).collect()
        }
        other => panic!("{other:?}"),
    };
    found.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    found
}

/// Sums and averages may differ by the order of summation: each part is rounded once, to half a unit in the last place of what it sums up.
fn is_close(left: f64, right: f64) -> bool {
    let scale = left.abs().max(right.abs()).max(1e5);
    left.to_bits() == right.to_bits()
        || (left.is_nan() && right.is_nan())
        || (left - right).abs() <= scale * 1e-12
}

fn are_close(left: &[f64], right: &[f64]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_close(*left, *right))
}

/// What a histogram counts may differ as sums do; its layout may not.
fn is_close_histogram(left: &FloatHistogram, right: &FloatHistogram) -> bool {
    let layout = |of: &FloatHistogram| FloatHistogram {
        count: 0.0,
        sum: 0.0,
        zero_count: 0.0,
        positive_buckets: Vec::new(),
        negative_buckets: Vec::new(),
        ..of.clone()
    };
    layout(left) == layout(right)
        && is_close(left.count, right.count)
        && is_close(left.sum, right.sum)
        && is_close(left.zero_count, right.zero_count)
        && are_close(&left.positive_buckets, &right.positive_buckets)
        && are_close(&left.negative_buckets, &right.negative_buckets)
}

fn is_as_good(query: &str, left: &Sample, right: &Sample) -> bool {
    let sums = ["sum", "avg"].iter().any(|op| query.contains(op));
    match (left, right) {
        (Sample::Float(a), Sample::Float(b)) if !sums => {
            a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
        }
        (Sample::Float(a), Sample::Float(b)) => is_close(*a, *b),
        (Sample::Histogram(left), Sample::Histogram(right)) if sums => is_close_histogram(left, right),
        (left, right) => left == right,
    }
}

fn compare(query: &str, range: QueryRange, clusters: &Clusters) -> Result<(), TestCaseError> {
    let whole = run(&clusters.all, clusters.engine.clone(), query, range);
    let parts = run(clusters, clusters.engine.clone(), query, range);
    let (whole, parts) = match (whole, parts) {
        (Ok(whole), Ok(parts)) => (whole, parts),
        (Err(whole), Err(parts)) => {
            prop_assert_eq!(whole.to_string(), parts.to_string());
            return Ok(());
        }
        (whole, parts) => {
            return Err(TestCaseError::fail(format!("{query}: {:?} {:?}", whole.err(), parts.err())));
        }
    };
    let (expected, found) = (samples(&whole.value), samples(&parts.value));
    prop_assert_eq!(expected.len(), found.len(), "{}", query);
    for (expected, found) in expected.iter().zip(&found) {
        let same_place = (&expected.0, expected.1) == (&found.0, found.1);
        let same = same_place && is_as_good(query, &expected.2, &found.2);
        prop_assert!(same, "{}: {:?}, in parts {:?}", query, expected, found);
    }
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts
    };
    prop_assert_eq!(sorted(whole.warnings), sorted(parts.warnings), "{}", query);
    prop_assert_eq!(sorted(whole.infos), sorted(parts.infos), "{}", query);
    Ok(())
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![4 => Just(Role::Answers), 1 => Just(Role::Declines), 2 => Just(Role::Reads)]
}

proptest! {
    #[test]
    fn parts_make_the_whole(
        seed in any::<u64>(),
        query in 0..QUERIES.len(),
        roles in proptest::collection::vec(role(), CLUSTERS.len()),
        is_instant in any::<bool>(),
        steps in 1_i64..60,
    ) {
        let clusters = clusters(seed, roles, EngineOptions::default());
        let range = if is_instant {
            QueryRange::instant(START_MS + 600_000)
        } else {
            QueryRange { start_ms: START_MS, end_ms: START_MS + steps * 30_000, step_ms: 30_000 }
        };
        compare(QUERIES[query], range, &clusters)?;
    }
}

fn asked(query: &str, options: EngineOptions, range: QueryRange) -> Vec<String> {
    let clusters = clusters(1, vec![Role::Answers, Role::Reads, Role::Reads, Role::Reads], options);
    run(&clusters, clusters.engine.clone(), query, range).unwrap();
    let asked = clusters.asked.lock().unwrap();
    asked.clone()
}

const RANGE: QueryRange = QueryRange { start_ms: START_MS, end_ms: START_MS + 600_000, step_ms: 30_000 };

#[test]
fn what_is_asked_keeps_the_labels_of_the_partition() {
    for (query, expected) in [
        ("sum(rate(x_total[5m]))", "sum by (cluster) (rate(x_total[5m]))"),
        ("min by (job) (gauge{job=~\"a|b\"})", "min by (cluster, job) (gauge{job=~\"a|b\"})"),
        ("max without (cluster, job) (gauge offset 5m)", "max without (job) (gauge offset 5m)"),
        ("count((gauge) > 1)", "count by (cluster) ((gauge) > 1)"),
        (
            "avg by (job) (gauge)",
            "sum by (cluster, job) (gauge) or label_replace(count by (cluster, job) (gauge), \"parallax_partial\", \"count\", \"\", \"\")",
        ),
    ] {
        assert_eq!(asked(query, EngineOptions::default(), RANGE), [expected]);
    }
}

#[test]
fn what_is_not_certain_stays() {
    for query in [
        "topk(2, gauge)",
        "quantile(0.5, gauge)",
        "stddev(gauge)",
        "count_values(\"v\", gauge)",
        "sum(gauge @ 3600)",
        "sum(gauge @ end())",
        "sum(max_over_time(gauge[10m:1m]))",
        "sum(rate(x_total[step() * 10]))",
        "sum(label_replace(gauge, \"zone\", \"x\", \"\", \"\"))",
        "sum(gauge + on(cluster, instance, job) gauge)",
        "sum(absent(nothing))",
        "sum(scalar(gauge) * gauge)",
        "sum(ln(gauge))",
        "sum(gauge ^ 2)",
        "sum by (__name__) (gauge)",
        "sum(rate({__name__=~\"x_total\"}[5m]))",
        "sum(vector(1))",
        "sum(time() - gauge)",
    ] {
        assert_eq!(asked(query, EngineOptions::default(), RANGE), [""; 0], "{query}");
    }
    let of = |options: EngineOptions, range: QueryRange| asked("sum(gauge)", options, range);
    let default = EngineOptions::default;
    assert_eq!(of(EngineOptions { delayed_name_removal: true, ..default() }, RANGE), [""; 0]);
    assert_eq!(of(EngineOptions { lookback_ms: 1500, ..default() }, RANGE), [""; 0]);
    assert_eq!(of(default(), QueryRange { start_ms: START_MS + 1, ..RANGE }), [""; 0]);
    assert_eq!(of(default(), QueryRange { step_ms: 1500, ..RANGE }), [""; 0]);
    assert_eq!(
        of(default(), QueryRange { end_ms: RANGE.end_ms + 1, ..RANGE }).len(),
        1,
        "the last step counts"
    );
    assert_eq!(of(default(), QueryRange::instant(START_MS)).len(), 1);
}

#[test]
fn an_answer_that_is_not_what_was_asked_is_declined() {
    struct Catch(Mutex<Option<Question>>);
    impl Source for Catch {
        fn select(&self, selection: &Selection) -> Result<Box<dyn SeriesStream>, SourceError> {
            MemorySource::new().select(selection)
        }

        fn push_down(&self, cut: &Cut) -> Option<Box<dyn Pushed>> {
            *self.0.lock().unwrap() = cut.question(&["cluster"], &[]);
            None
        }
    }
    let question = |text: &str| {
        let (catch, expr) = (Catch(Mutex::new(None)), parse(text, &ParserOptions::default()).unwrap());
        Engine::default().query(&catch, &expr, RANGE, &Interrupt::none()).unwrap();
        catch.0.into_inner().unwrap().unwrap()
    };
    let series = |pairs: &[(&str, &str)], samples: &[(i64, f64)]| {
        let mut series =
            SeriesData { labels: Labels::from_pairs(pairs.iter().copied()), ..SeriesData::default() };
        samples.iter().for_each(|(at, value)| series.floats.push(*at, *value));
        series
    };
    let (good, own) = ([(START_MS, 2.0)], [("cluster", "a"), ("job", "x")]);
    let sum = question("sum by (job) (gauge)");
    assert_eq!(sum.check(vec![series(&own, &good)], &[]).unwrap().len(), 1);
    let mut mixed = series(&own, &good);
    mixed.histograms.push(START_MS + 30_000, Arc::default());
    for (answer, notes, reason) in [
        (vec![mixed], vec![], "histograms"),
        (vec![series(&own, &good), series(&own, &good)], vec![], "twice"),
        (vec![series(&own, &[(START_MS + 1, 1.0)])], vec![], "no step"),
        (vec![series(&own, &[(START_MS + 630_000, 1.0)])], vec![], "no step"),
        (vec![series(&own, &[(START_MS + 30_000, 1.0), (START_MS, 1.0)])], vec![], "no step"),
        (vec![series(&own, &[(START_MS, stale_nan())])], vec![], "staleness"),
        (vec![series(&own, &[(START_MS, f64::INFINITY)])], vec![], "nothing can be made"),
        (vec![series(&[("cluster", "a"), ("instance", "x")], &good)], vec![], "grouped by instance"),
        (vec![], vec!["PromQL warning: encountered a mix".to_owned()], "a mix"),
        (vec![], vec!["PromQL info: a, PromQL info: b".to_owned()], "PromQL info"),
    ] {
        let error = sum.check(answer, &notes).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let avg = question("avg by (job) (gauge)");
    let counts = [("cluster", "a"), ("job", "x"), ("parallax_partial", "count")];
    avg.check(vec![series(&own, &good), series(&counts, &good)], &[]).unwrap();
    for answer in [
        vec![series(&own, &good)],
        vec![series(&counts, &good)],
        vec![series(&own, &good), series(&counts, &[(START_MS + 30_000, 2.0)])],
        vec![series(&own, &good), series(&counts, &[(START_MS, 1.5)])],
        vec![series(&own, &[(START_MS, f64::NAN)]), series(&counts, &good)],
    ] {
        assert!(avg.check(answer.clone(), &[]).is_err(), "{answer:?}");
    }
}
