//! What every `Store` owes its callers, checked on any implementation that holds series known to the test.
//!
//! Run it on each implementation, directly and over gRPC. It never panics on a wrong answer: it returns what differs, so that a test
//! shows all of it at once. Capabilities that a store does not claim in Info are not asked of it.

use std::collections::{BTreeMap, BTreeSet};

use parallax_model::{Labels, MatchOp, Matcher, TimeRange};
use tonic::{Code, Request};

use crate::proto::thanos::info::StoreInfo;
use crate::proto::thanos::{
    LabelMatcher, LabelNamesRequest, LabelValuesRequest, Series, SeriesRequest, SeriesResponse, ShardInfo,
};
use crate::{Store, chunks, frames, labels, matchers};

/// One series that the store holds.
#[derive(Clone, Debug)]
pub struct KnownSeries {
    /// As the store answers with them, external labels included.
    pub labels: Labels,
    /// From the first sample to the last.
    pub range: TimeRange,
}

/// Everything that the store holds. Each series has a metric name.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub series: Vec<KnownSeries>,
    /// Labels that all series have and that the store advertises; may be empty.
    pub external: Labels,
}

/// Runs every check; the differences found, none if the store conforms.
pub async fn check(store: &dyn Store, known: &Known) -> Vec<String> {
    let mut suite = Suite { store, known, found: Vec::new() };
    let Some(info) = suite.info().await else { return suite.found };
    suite.matchers().await;
    suite.bad_requests().await;
    suite.windows().await;
    suite.chunks().await;
    if info.supports_without_replica_labels {
        suite.without_replica_labels().await;
    }
    if info.supports_sharding {
        suite.shards().await;
    }
    suite.limits_and_batches().await;
    suite.label_names().await;
    suite.label_values().await;
    suite.found
}

struct Suite<'a> {
    store: &'a dyn Store,
    known: &'a Known,
    found: Vec<String>,
}

/// Matches every known series, and is a matcher that no store can refuse as too wide.
fn everything() -> Matcher {
    Matcher::new(MatchOp::Regex, parallax_model::METRIC_NAME, ".+")
        .unwrap_or_else(|_| Matcher::equal(parallax_model::METRIC_NAME, ""))
}

fn request(matchers: &[Matcher], range: TimeRange) -> SeriesRequest {
    SeriesRequest {
        min_time: range.min_ms,
        max_time: range.max_ms,
        matchers: matchers::to_wire(matchers),
        ..SeriesRequest::default()
    }
}

impl Suite<'_> {
    fn whole_range(&self) -> TimeRange {
        let ranges = || self.known.series.iter().map(|series| series.range);
        TimeRange::new(
            ranges().map(|range| range.min_ms).min().unwrap_or(0),
            ranges().map(|range| range.max_ms).max().unwrap_or(0),
        )
    }

    fn expect_equal<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, got: T, expected: T) {
        if got != expected {
            self.found.push(format!("{what}: got {got:?}, expected {expected:?}"));
        }
    }

    /// The series of an answer; problems of form are noted.
    async fn ask(&mut self, what: &str, request: SeriesRequest) -> Vec<Series> {
        let answer = match self.store.series(Request::new(request)).await {
            Ok(stream) => frames::collect(stream).await,
            Err(status) => Err(status),
        };
        match answer {
            Err(status) => {
                self.found.push(format!("{what}: {status}"));
                Vec::new()
            }
            Ok(answer) => {
                if !answer.warnings.is_empty() {
                    self.found.push(format!("{what}: warnings {:?}", answer.warnings));
                }
                self.check_order(what, &answer.series);
                answer.series
            }
        }
    }

    fn check_order(&mut self, what: &str, series: &[Series]) {
        for one in series {
            if !one.labels.windows(2).all(|pair| pair[0].name < pair[1].name) {
                self.found.push(format!("{what}: labels of {} not sorted", labels::display(&one.labels)));
            }
        }
        for pair in series.windows(2) {
            if labels::compare(&pair[0].labels, &pair[1].labels).is_gt() {
                self.found.push(format!(
                    "{what}: {} before {}",
                    labels::display(&pair[0].labels),
                    labels::display(&pair[1].labels)
                ));
            }
        }
    }

    async fn ask_labels(&mut self, what: &str, request: SeriesRequest) -> BTreeSet<Labels> {
        let series = self.ask(what, request).await;
        self.label_sets(what, &series)
    }

    fn label_sets(&mut self, what: &str, series: &[Series]) -> BTreeSet<Labels> {
        let mut sets = BTreeSet::new();
        for one in series {
            match labels::from_wire(&one.labels) {
                Ok(set) => drop(sets.insert(set)),
                Err(error) => self.found.push(format!("{what}: {error}")),
            }
        }
        sets
    }

    fn expected(&self, keep: impl Fn(&KnownSeries) -> bool) -> BTreeSet<Labels> {
        self.known.series.iter().filter(|series| keep(series)).map(|series| series.labels.clone()).collect()
    }

    fn all_labels(&self) -> BTreeSet<Labels> {
        self.expected(|_| true)
    }

    /// Values by label name, over all known series.
    fn values_by_name(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut by_name: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for series in &self.known.series {
            for (name, value) in &series.labels {
                by_name.entry(name.to_owned()).or_default().insert(value.to_owned());
            }
        }
        by_name
    }

    async fn info(&mut self) -> Option<StoreInfo> {
        let info = match self.store.info().await {
            Ok(info) => info,
            Err(status) => {
                self.found.push(format!("info: {status}"));
                return None;
            }
        };
        let advertised: Vec<Labels> =
            info.label_sets.iter().filter_map(|set| labels::set_from_wire(set).ok()).collect();
        let says_nothing = self.known.external.is_empty() && advertised.is_empty();
        if !says_nothing && !advertised.contains(&self.known.external) {
            self.found.push(format!("info: advertises {advertised:?}, holds {:?}", self.known.external));
        }
        let Some(store) = info.store else {
            self.found.push("info: has no store part".to_owned());
            return None;
        };
        let range = self.whole_range();
        if store.min_time > range.min_ms || store.max_time < range.max_ms {
            self.found.push(format!("info: {}..{} does not cover {range:?}", store.min_time, store.max_time));
        }
        Some(store)
    }

    async fn matchers(&mut self) {
        for (name, values) in self.values_by_name() {
            let value = values.first().cloned().unwrap_or_default();
            let prefix: String = value.chars().take(2).collect();
            let cases = [
                (MatchOp::Equal, value.clone()),
                (MatchOp::NotEqual, value.clone()),
                (MatchOp::Regex, format!("{}.*", escape(&prefix))),
                (MatchOp::NotRegex, format!("{}.*", escape(&prefix))),
                (MatchOp::Regex, values.iter().map(|v| escape(v)).collect::<Vec<_>>().join("|")),
                (MatchOp::Regex, format!("|{}", escape(&value))),
                (MatchOp::Equal, String::new()),
                (MatchOp::NotEqual, String::new()),
                (MatchOp::Regex, ".*".to_owned()),
                (MatchOp::Regex, ".+".to_owned()),
                (MatchOp::Equal, "no such value".to_owned()),
            ];
            for (op, value) in cases {
                match Matcher::new(op, &name, value) {
                    Ok(matcher) => self.matcher(matcher).await,
                    Err(error) => self.found.push(error.to_string()),
                }
            }
        }
        self.matcher(Matcher::equal("no_such_label", "")).await;
        self.matcher(Matcher::equal("no_such_label", "x")).await;
    }

    async fn matcher(&mut self, matcher: Matcher) {
        let what = format!("series {matcher}");
        let expected = self.expected(|series| matcher.matches_labels(&series.labels));
        let got = self.ask_labels(&what, request(&[everything(), matcher], self.whole_range())).await;
        self.expect_equal(&what, got, expected);
    }

    async fn bad_requests(&mut self) {
        let bad = LabelMatcher { r#type: 2, name: "job".to_owned(), value: "a(".to_owned() };
        let mut request = request(&[everything()], self.whole_range());
        request.matchers.push(bad);
        let code = match self.store.series(Request::new(request)).await {
            Ok(stream) => frames::collect(stream).await.err().map(|status| status.code()),
            Err(status) => Some(status.code()),
        };
        self.expect_equal("broken regular expression", code, Some(Code::InvalidArgument));
    }

    async fn windows(&mut self) {
        let whole = self.whole_range();
        for range in [
            TimeRange::new(whole.min_ms - 2, whole.min_ms - 1),
            TimeRange::new(whole.max_ms + 1, whole.max_ms + 2),
        ] {
            let got = self.ask_labels("outside window", request(&[everything()], range)).await;
            self.expect_equal("outside window", got, BTreeSet::new());
        }
        let Some(first) = self.known.series.first().map(|series| series.range) else { return };
        for range in [
            first,
            TimeRange::new(first.max_ms, first.max_ms),
            TimeRange::new(whole.min_ms, whole.min_ms),
            TimeRange::new(i64::MIN, i64::MAX),
        ] {
            self.window(range).await;
        }
    }

    /// A store may answer with a series whose chunks reach into the window though its samples do not.
    async fn window(&mut self, range: TimeRange) {
        let what = format!("window {}..{}", range.min_ms, range.max_ms);
        let series = self.ask(&what, request(&[everything()], range)).await;
        for chunk in series.iter().flat_map(|series| &series.chunks) {
            if !range.overlaps(&TimeRange::new(chunk.min_time, chunk.max_time)) {
                self.found.push(format!("{what}: chunk {}..{}", chunk.min_time, chunk.max_time));
            }
        }
        let got = self.label_sets(&what, &series);
        // Only the ends of a series are surely samples: one without a sample in the window may be left out.
        let needed = self
            .expected(|series| range.contains(series.range.min_ms) || range.contains(series.range.max_ms));
        let missing: Vec<&Labels> = needed.difference(&got).collect();
        if !missing.is_empty() {
            self.found.push(format!("{what}: missing {missing:?}"));
        }
    }

    async fn chunks(&mut self) {
        let skipping = SeriesRequest { skip_chunks: true, ..request(&[everything()], self.whole_range()) };
        let series = self.ask("skip_chunks", skipping).await;
        if series.iter().any(|series| !series.chunks.is_empty()) {
            self.found.push("skip_chunks: chunks came".to_owned());
        }
        let got = self.label_sets("skip_chunks", &series);
        self.expect_equal("skip_chunks", got, self.all_labels());

        for one in self.ask("chunks", request(&[everything()], self.whole_range())).await {
            let text = labels::display(&one.labels);
            if one.chunks.is_empty() {
                self.found.push(format!("chunks: none for {text}"));
            }
            for chunk in &one.chunks {
                let parts: Vec<_> = chunks::parts(chunk).collect();
                let sound = chunk.min_time <= chunk.max_time
                    && !parts.is_empty()
                    && parts.iter().all(|(_, part)| part.hash == 0 || part.hash == chunks::hash(&part.data));
                if !sound {
                    self.found.push(format!("chunks: of {text} at {} is not sound", chunk.min_time));
                }
            }
        }
    }

    async fn without_replica_labels(&mut self) {
        let names: Vec<String> = self
            .values_by_name()
            .into_keys()
            .filter(|name| name != parallax_model::METRIC_NAME)
            .chain(["no_such_label".to_owned()])
            .collect();
        for name in names {
            let what = format!("without {name}");
            let without = vec![name];
            let expected = self.all_labels().iter().map(|labels| labels.without(&without)).collect();
            let asked = SeriesRequest {
                without_replica_labels: without,
                ..request(&[everything()], self.whole_range())
            };
            let got = self.ask_labels(&what, asked).await;
            self.expect_equal(&what, got, expected);
        }
    }

    async fn shards(&mut self) {
        for (total_shards, by) in [(1, true), (2, true), (3, false)] {
            let what = format!("{total_shards} shards, by {by}");
            let mut union = BTreeSet::new();
            let mut count = 0;
            for shard_index in 0..total_shards {
                let names = vec![parallax_model::METRIC_NAME.to_owned()];
                let info = ShardInfo { shard_index, total_shards, by, labels: names };
                let asked =
                    SeriesRequest { shard_info: Some(info), ..request(&[everything()], self.whole_range()) };
                let part = self.ask_labels(&what, asked).await;
                count += part.len();
                union.extend(part);
            }
            self.expect_equal(&what, count, union.len());
            self.expect_equal(&what, union, self.all_labels());
        }
    }

    async fn limits_and_batches(&mut self) {
        let whole = self.whole_range();
        let unlimited = SeriesRequest { limit: 1_000_000, ..request(&[everything()], whole) };
        let got = self.ask_labels("wide limit", unlimited).await;
        self.expect_equal("wide limit", got, self.all_labels());
        let one = SeriesRequest { limit: 1, ..request(&[everything()], whole) };
        let got = self.ask("limit 1", one).await.len();
        self.expect_equal("limit 1", got, self.known.series.len().min(1));

        for response_batch_size in [1, 2, 64] {
            let what = format!("batches of {response_batch_size}");
            let asked = SeriesRequest { response_batch_size, ..request(&[everything()], whole) };
            let got = self.ask_labels(&what, asked.clone()).await;
            self.expect_equal(&what, got, self.all_labels());
            self.batch_sizes(&what, asked).await;
        }
    }

    async fn batch_sizes(&mut self, what: &str, asked: SeriesRequest) {
        use crate::proto::thanos::series_response::Result as Frame;
        use futures::StreamExt;
        let most = usize::try_from(asked.response_batch_size).unwrap_or(1);
        let Ok(mut stream) = self.store.series(Request::new(asked)).await else { return };
        while let Some(Ok(SeriesResponse { result })) = stream.next().await {
            if let Some(Frame::Batch(batch)) = result
                && (batch.series.len() > most || most <= 1)
            {
                self.found.push(format!("{what}: a batch of {}", batch.series.len()));
            }
        }
    }

    async fn label_names(&mut self) {
        let range = self.whole_range();
        let all: Vec<String> = self.values_by_name().into_keys().collect();
        let asked =
            LabelNamesRequest { start: range.min_ms, end: range.max_ms, ..LabelNamesRequest::default() };
        self.names("label names", asked.clone(), all.clone()).await;
        self.names("two label names", LabelNamesRequest { limit: 2, ..asked.clone() }, first(&all, 2)).await;
        let Some(series) = self.known.series.first() else { return };
        let matcher = Matcher::equal(parallax_model::METRIC_NAME, series.labels.metric_name());
        let expected: BTreeSet<String> = self
            .known
            .series
            .iter()
            .filter(|series| matcher.matches_labels(&series.labels))
            .flat_map(|series| series.labels.iter().map(|(name, _)| name.to_owned()))
            .collect();
        let asked = LabelNamesRequest { matchers: matchers::to_wire(&[matcher]), ..asked };
        self.names("label names of one metric", asked, expected.into_iter().collect()).await;
    }

    async fn names(&mut self, what: &str, asked: LabelNamesRequest, expected: Vec<String>) {
        match self.store.label_names(Request::new(asked)).await {
            Ok(answer) => self.expect_equal(what, answer.names, expected),
            Err(status) => self.found.push(format!("{what}: {status}")),
        }
    }

    async fn label_values(&mut self) {
        let range = self.whole_range();
        let mut by_name = self.values_by_name();
        by_name.insert("no_such_label".to_owned(), BTreeSet::new());
        for (name, values) in by_name {
            let what = format!("values of {name}");
            let values: Vec<String> = values.into_iter().collect();
            let asked = LabelValuesRequest {
                label: name.clone(),
                start: range.min_ms,
                end: range.max_ms,
                ..LabelValuesRequest::default()
            };
            let matched =
                LabelValuesRequest { matchers: matchers::to_wire(&[everything()]), ..asked.clone() };
            self.values(&what, asked.clone(), values.clone()).await;
            self.values(&what, matched, values.clone()).await;
            self.values(&what, LabelValuesRequest { limit: 1, ..asked }, first(&values, 1)).await;
        }
    }

    async fn values(&mut self, what: &str, asked: LabelValuesRequest, expected: Vec<String>) {
        match self.store.label_values(Request::new(asked)).await {
            Ok(answer) => self.expect_equal(what, answer.values, expected),
            Err(status) => self.found.push(format!("{what}: {status}")),
        }
    }
}

fn first(all: &[String], count: usize) -> Vec<String> {
    all.iter().take(count).cloned().collect()
}

/// A regular expression for exactly this text.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation()
            && !matches!(
                c,
                '_' | '<' | '>' | '"' | '\'' | '/' | ':' | ',' | ';' | '!' | '%' | '=' | '@' | '`'
            )
        {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
