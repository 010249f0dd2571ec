//! What a held caller gets over gRPC: whatever it asks, and however little the store beneath cares for matchers, nothing outside of its policy; and of what it may read, everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use parallax_model::{Labels, MatchOp, Matcher};
use parallax_storeapi::proto::parallax::v1::{Shipper, ShippingRequest, ShippingResponse};
use parallax_storeapi::proto::thanos::info::{InfoResponse, QueryApiInfo, StoreInfo, TsdbInfo};
use parallax_storeapi::proto::thanos::rule::Result as Kind;
use parallax_storeapi::proto::thanos::{
    ActiveTarget, Alert, AlertInstance, DroppedTarget, ExemplarData, ExemplarsRequest, ExemplarsResponse,
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, MetricMetadata,
    MetricMetadataRequest, MetricMetadataResponse, QueryRangeRequest, QueryRangeResponse, RecordingRule,
    Rule, RuleGroup, RulesRequest, RulesResponse, Series, SeriesRequest, TargetDiscovery, TargetsRequest,
    TargetsResponse, TsdbStatistics, TsdbStatisticsRequest, TsdbStatisticsResponse, ZLabelSet,
};
use parallax_storeapi::{
    Caller, FrameStream, Guard, Hold, SeriesStream, SideFrame, SideRequest, SideServices, Store, StoreClient,
    async_trait, frames, guarded_routes, labels, matchers,
};
use proptest::prelude::*;
use tonic::codegen::http::HeaderMap;
use tonic::service::Routes;
use tonic::{Code, Extensions, Request, Status};

/// Holds everybody alike, except those who say that they are nobody.
#[derive(Debug)]
struct Door(Caller);

impl Guard for Door {
    fn caller(&self, headers: &HeaderMap, _: &Extensions) -> Result<Caller, Status> {
        match headers.contains_key("x-nobody") {
            true => Err(Status::permission_denied("no rule names nobody")),
            false => Ok(self.0.clone()),
        }
    }
}

/// A store with one of everything for each team, which heeds matchers or does not.
#[derive(Clone)]
struct Teams {
    series: Vec<Labels>,
    heeds: bool,
    evaluates: bool,
}

impl Teams {
    fn new(heeds: bool) -> Self {
        let mut series = Vec::new();
        for name in ["m_bucket", "m_count", "n"] {
            for team in ["", "a", "b"] {
                for secret in ["", "no", "yes"] {
                    series.push(Labels::from_pairs([
                        ("__name__", name),
                        ("cluster", "eu-1"),
                        ("secret", secret),
                        ("team", team),
                    ]));
                }
            }
        }
        series.sort();
        Self { series, heeds, evaluates: false }
    }

    fn matching(
        &self,
        wire: &[parallax_storeapi::proto::thanos::LabelMatcher],
    ) -> Result<Vec<&Labels>, Status> {
        let all = matchers::from_wire(wire)?;
        let is_wanted = |set: &&Labels| !self.heeds || all.iter().all(|one| one.matches_labels(set));
        Ok(self.series.iter().filter(is_wanted).collect())
    }
}

fn set_of(pairs: &[(&str, &str)]) -> Option<ZLabelSet> {
    Some(labels::set_to_wire(&Labels::from_pairs(pairs.iter().copied())))
}

#[async_trait]
impl Store for Teams {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let sets = ["a", "b"].map(|team| labels::set_to_wire(&Labels::from_pairs([("team", team)])));
        let tsdb = |set: &ZLabelSet| TsdbInfo { labels: Some(set.clone()), min_time: 1, max_time: 2 };
        Ok(InfoResponse {
            label_sets: sets.to_vec(),
            store: Some(StoreInfo {
                min_time: 1,
                max_time: 2,
                tsdb_infos: sets.iter().map(tsdb).collect(),
                ..StoreInfo::default()
            }),
            query: Some(QueryApiInfo {}),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let request = request.into_inner();
        let found = self.matching(&request.matchers)?;
        let stripped = found.into_iter().map(|set| set.without(&request.without_replica_labels));
        let mut all: Vec<Labels> = stripped.collect();
        all.sort();
        let series =
            |set: &Labels| Ok(frames::series(Series { labels: labels::to_wire(set), chunks: vec![] }));
        Ok(frames::respond(frames::from_vec(all.iter().map(series).collect()), &request))
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let found = self.matching(&request.get_ref().matchers)?;
        let names: BTreeSet<String> =
            found.iter().flat_map(|set| set.iter().map(|(name, _)| name.to_owned())).collect();
        Ok(LabelNamesResponse { names: names.into_iter().collect(), ..LabelNamesResponse::default() })
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        let request = request.into_inner();
        let found = self.matching(&request.matchers)?;
        let values: BTreeSet<String> =
            found.iter().filter_map(|set| set.get(&request.label)).map(str::to_owned).collect();
        Ok(LabelValuesResponse { values: values.into_iter().collect(), ..LabelValuesResponse::default() })
    }

    fn side(&self) -> &dyn SideServices {
        self
    }
}

fn answer<R: SideRequest>(items: Vec<R::Item>) -> Result<FrameStream<R::Response>, Status> {
    let all: Vec<_> = items.into_iter().map(|item| Ok(R::frame(SideFrame::Item(item)))).collect();
    Ok(Box::pin(futures::stream::iter(all)))
}

fn groups() -> Vec<RuleGroup> {
    let recording = |team: &[(&str, &str)]| {
        Kind::Recording(RecordingRule {
            name: "r".to_owned(),
            labels: set_of(team),
            ..RecordingRule::default()
        })
    };
    let instance = |team| AlertInstance { labels: set_of(&[("team", team)]), ..AlertInstance::default() };
    let alert = |team| {
        Kind::Alert(Alert {
            name: format!("alert-{team}"),
            labels: set_of(&[("team", team)]),
            alerts: vec![instance("a"), instance("b")],
            ..Alert::default()
        })
    };
    let group = |name: &str, kinds: Vec<Kind>| RuleGroup {
        name: name.to_owned(),
        rules: kinds.into_iter().map(|kind| Rule { result: Some(kind) }).collect(),
        ..RuleGroup::default()
    };
    vec![
        group("mixed", vec![recording(&[("team", "a")]), recording(&[("team", "b")]), recording(&[])]),
        group("alerts", vec![alert("a"), alert("b")]),
        group("secret", vec![recording(&[("team", "b")])]),
    ]
}

#[async_trait]
impl SideServices for Teams {
    async fn metric_metadata(
        &self,
        _: Request<MetricMetadataRequest>,
    ) -> Result<FrameStream<MetricMetadataResponse>, Status> {
        let metadata = ["m", "n", "other"].map(|name| (name.to_owned(), Default::default()));
        answer::<MetricMetadataRequest>(vec![MetricMetadata { metadata: metadata.into_iter().collect() }])
    }

    async fn rules(&self, _: Request<RulesRequest>) -> Result<FrameStream<RulesResponse>, Status> {
        answer::<RulesRequest>(groups())
    }

    async fn targets(&self, _: Request<TargetsRequest>) -> Result<FrameStream<TargetsResponse>, Status> {
        let active = |team| ActiveTarget { labels: set_of(&[("team", team)]), ..ActiveTarget::default() };
        let dropped = |team| DroppedTarget { discovered_labels: set_of(&[("team", team)]) };
        answer::<TargetsRequest>(vec![
            TargetDiscovery {
                active_targets: vec![active("a"), active("b")],
                dropped_targets: vec![dropped("b"), dropped("a")],
            },
            TargetDiscovery { active_targets: vec![active("b")], dropped_targets: vec![] },
        ])
    }

    async fn exemplars(
        &self,
        _: Request<ExemplarsRequest>,
    ) -> Result<FrameStream<ExemplarsResponse>, Status> {
        let data = |team| ExemplarData { series_labels: set_of(&[("team", team)]), exemplars: vec![] };
        answer::<ExemplarsRequest>(vec![data("a"), data("b"), ExemplarData::default()])
    }

    async fn tsdb_statistics(
        &self,
        _: Request<TsdbStatisticsRequest>,
    ) -> Result<FrameStream<TsdbStatisticsResponse>, Status> {
        let statistics = ["a", "b"].map(|tenant| (tenant.to_owned(), Default::default()));
        answer::<TsdbStatisticsRequest>(vec![TsdbStatistics { statistics: statistics.into_iter().collect() }])
    }

    async fn query_range(
        &self,
        request: Request<QueryRangeRequest>,
    ) -> Result<FrameStream<QueryRangeResponse>, Status> {
        // Whoever says that it evaluates for held callers has to be told which.
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        Err(Status::aborted(format!("{:?}", caller.hold.matchers())))
    }

    fn evaluates_held(&self) -> bool {
        self.evaluates
    }

    async fn shipping(&self, _: Request<ShippingRequest>) -> Result<ShippingResponse, Status> {
        let shipper = |team| Shipper { labels: set_of(&[("team", team)]), ..Shipper::default() };
        Ok(ShippingResponse {
            shippers: vec![shipper("a"), shipper("b"), Shipper::default()],
            ..ShippingResponse::default()
        })
    }
}

/// `store` behind gRPC, for callers that are held to `hold`.
fn served(store: Teams, hold: Hold) -> StoreClient<Routes> {
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let guard: Arc<dyn Guard> = Arc::new(Door(Caller { hold, ..Caller::default() }));
    let routes = guarded_routes(Arc::new(store), Some(guard), readiness).unwrap();
    // Dropped, it would leave the last word standing, too.
    drop(ready);
    StoreClient::new(routes)
}

fn team_a() -> Hold {
    Hold::new(vec![Matcher::equal("team", "a")])
}

async fn items<R: SideRequest>(client: &StoreClient<Routes>, request: R) -> (Vec<R::Item>, Vec<String>) {
    let mut stream = R::ask(Request::new(request), client.side()).await.unwrap();
    let (mut items, mut warnings) = (Vec::new(), Vec::new());
    while let Some(frame) = stream.next().await {
        match R::read(frame.unwrap()).unwrap() {
            SideFrame::Item(item) => items.push(item),
            SideFrame::Warning(text) => warnings.push(text),
        }
    }
    (items, warnings)
}

fn a_matcher() -> impl Strategy<Value = Matcher> {
    let ops = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
    let names = ["team", "secret", "__name__", "cluster", "absent"];
    let values = ["", "a", "b", "yes", "n", "eu-1", "a|b", ".+", ".*", "m.*|yes"];
    (0..ops.len(), 0..names.len(), 0..values.len())
        .prop_map(move |(op, name, value)| Matcher::new(ops[op], names[name], values[value]).unwrap())
}

fn admits(all: &[Matcher], set: &Labels) -> bool {
    all.iter().all(|matcher| matcher.matches_labels(set))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_asked_nothing_outside_of_the_policy_comes_back(
        policy in prop::collection::vec(a_matcher(), 1..4),
        asked in prop::collection::vec(a_matcher(), 0..3),
        removed in prop::sample::subsequence(vec!["team", "secret", "cluster"], 0..3),
        (limit, batch) in (0..4_i64, 0..4_i64),
        heeds in any::<bool>(),
    ) {
        let store = Teams::new(heeds);
        let may_come = |set: &Labels| admits(&policy, set) && (!heeds || admits(&asked, set));
        let expected: Vec<Labels> = store.series.iter().filter(|set| may_come(set)).cloned().collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = served(store.clone(), Hold::new(policy.clone()));
            let request = SeriesRequest {
                matchers: matchers::to_wire(&asked),
                without_replica_labels: removed.iter().map(|name| (*name).to_owned()).collect(),
                limit,
                response_batch_size: batch,
                max_time: i64::MAX,
                ..SeriesRequest::default()
            };
            let found = frames::collect(client.series(Request::new(request)).await.unwrap()).await.unwrap();
            let found: Vec<Labels> = found.series.iter().map(|one| labels::from_wire(&one.labels).unwrap()).collect();
            prop_assert!(found.is_sorted(), "{:?}", found);
            let mut whole: Vec<Labels> = expected.iter().map(|set| set.without(&removed)).collect();
            whole.sort();
            if limit == 0 {
                prop_assert_eq!(&found, &whole);
            } else {
                prop_assert!(found.iter().all(|set| whole.contains(set)), "{:?} {:?}", found, whole);
                prop_assert!(!heeds || found.len() == whole.len().min(usize::try_from(limit).unwrap()));
            }
            for label in ["team", "secret", "__name__"] {
                let request = LabelValuesRequest {
                    label: label.to_owned(),
                    matchers: matchers::to_wire(&asked),
                    ..LabelValuesRequest::default()
                };
                let values = client.label_values(Request::new(request)).await.unwrap().values;
                let own = |value: &String| policy.iter().filter(|one| one.name() == label).all(|one| one.matches(value));
                prop_assert!(values.iter().all(own), "{label}: {:?}", values);
                if heeds {
                    let of: BTreeSet<String> = expected.iter().filter_map(|set| set.get(label)).map(str::to_owned).collect();
                    prop_assert_eq!(values, of.into_iter().collect::<Vec<_>>());
                }
            }
            let names = LabelNamesRequest { matchers: matchers::to_wire(&asked), ..LabelNamesRequest::default() };
            let names = client.label_names(Request::new(names)).await.unwrap().names;
            let of: BTreeSet<String> = expected.iter().flat_map(|set| set.iter().map(|(name, _)| name.to_owned())).collect();
            prop_assert!(!heeds || names == of.into_iter().collect::<Vec<_>>());
            Ok::<(), TestCaseError>(())
        })?;
    }
}

#[tokio::test]
async fn a_store_says_of_itself_what_concerns_the_caller() {
    let info = served(Teams::new(true), team_a()).info().await.unwrap();
    let sets: Vec<Labels> = info.label_sets.iter().map(|set| labels::set_from_wire(set).unwrap()).collect();
    assert_eq!(sets, [Labels::from_pairs([("team", "a")])]);
    assert_eq!(info.store.unwrap().tsdb_infos.len(), 1);
    assert!(info.query.is_none(), "who does not keep to holds is not asked to evaluate");

    let nothing = served(Teams::new(true), Hold::new(vec![Matcher::equal("team", "c")]));
    let info = nothing.info().await.unwrap();
    let store = info.store.unwrap();
    assert!(
        info.label_sets.is_empty() && store.min_time > store.max_time,
        "no sets alone would mean: anything"
    );

    let tenant = served(Teams::new(true), Hold::of_tenant("team", "c")).info().await.unwrap();
    assert_eq!(tenant.label_sets.len(), 2, "a poll is not of one tenant");

    let whole = served(Teams::new(true), Hold::default()).info().await.unwrap();
    assert!(whole.label_sets.len() == 2 && whole.query.is_some());
    let shipping =
        served(Teams::new(true), team_a()).side().shipping(Request::new(ShippingRequest {})).await.unwrap();
    assert_eq!(shipping.shippers.len(), 1);
}

#[tokio::test]
async fn rules_alerts_targets_and_exemplars_are_those_that_carry_the_label() {
    let client = served(Teams::new(false), team_a());
    let (groups, _) = items(&client, RulesRequest::default()).await;
    let names: Vec<(&str, usize)> =
        groups.iter().map(|group| (group.name.as_str(), group.rules.len())).collect();
    assert_eq!(names, [("mixed", 1), ("alerts", 1)]);
    let Some(Kind::Alert(alert)) = &groups[1].rules[0].result else { panic!("{groups:?}") };
    assert_eq!((alert.name.as_str(), alert.alerts.len()), ("alert-a", 1));
    let (targets, _) = items(&client, TargetsRequest::default()).await;
    assert_eq!(targets.len(), 1);
    assert_eq!((targets[0].active_targets.len(), targets[0].dropped_targets.len()), (1, 1));
    let (exemplars, _) = items(&client, ExemplarsRequest::default()).await;
    assert_eq!(exemplars.len(), 1);
}

#[tokio::test]
async fn metadata_is_of_metrics_that_the_caller_has_and_statistics_are_a_tenants_or_nobodys() {
    let has_n = Hold::new(vec![Matcher::equal("team", "a"), Matcher::equal("__name__", "n")]);
    let unlimited = || MetricMetadataRequest { limit: -1, ..MetricMetadataRequest::default() };
    let metrics = async |hold: Hold, request: MetricMetadataRequest| {
        let (found, warnings) = items(&served(Teams::new(true), hold), request).await;
        assert!(warnings.is_empty(), "{warnings:?}");
        let names = found.into_iter().flat_map(|one| one.metadata.into_keys());
        names.collect::<BTreeSet<String>>().into_iter().collect::<Vec<String>>()
    };
    assert_eq!(metrics(has_n, unlimited()).await, ["n"]);
    // "m" is known by the series of its buckets.
    assert_eq!(metrics(team_a(), unlimited()).await, ["m", "n"]);
    assert_eq!(metrics(team_a(), MetricMetadataRequest { limit: 1, ..unlimited() }).await.len(), 1);
    assert_eq!(metrics(Hold::default(), unlimited()).await, ["m", "n", "other"]);

    let tenant = served(Teams::new(true), Hold::of_tenant("team", "a"));
    let (found, warnings) = items(&tenant, TsdbStatisticsRequest::default()).await;
    assert!(warnings.is_empty());
    assert_eq!(found[0].statistics.keys().collect::<Vec<_>>(), ["a"]);
    let (found, warnings) =
        items(&served(Teams::new(true), team_a()), TsdbStatisticsRequest::default()).await;
    assert!(found.is_empty() && warnings[0].contains("label policy"), "{warnings:?}");
}

#[tokio::test]
async fn queries_go_to_those_who_keep_to_holds_and_who_is_refused_is_refused_by_every_service() {
    let asked = |store: Teams, hold: Hold| async move {
        let request = Request::new(QueryRangeRequest::default());
        served(store, hold).side().query_range(request).await.err().unwrap()
    };
    assert_eq!(asked(Teams::new(true), team_a()).await.code(), Code::PermissionDenied);
    let told = asked(Teams { evaluates: true, ..Teams::new(true) }, team_a()).await;
    assert!(told.code() == Code::Aborted && told.message().contains("team"), "{told:?}");
    assert_eq!(asked(Teams::new(true), Hold::default()).await.code(), Code::Aborted);

    fn nobody<T: Default>() -> Request<T> {
        let mut request = Request::new(T::default());
        request.metadata_mut().insert("x-nobody", tonic::metadata::MetadataValue::from_static("1"));
        request
    }
    let client = served(Teams::new(true), Hold::default());
    let refusals = [
        client.series(nobody()).await.err(),
        client.label_names(nobody()).await.err(),
        client.label_values(nobody()).await.err(),
        client.side().rules(nobody()).await.err(),
        client.side().targets(nobody()).await.err(),
        client.side().exemplars(nobody()).await.err(),
        client.side().metric_metadata(nobody()).await.err(),
        client.side().tsdb_statistics(nobody()).await.err(),
        client.side().query(nobody()).await.err(),
        client.side().query_range(nobody()).await.err(),
        client.side().shipping(nobody()).await.err(),
    ];
    for (index, refusal) in refusals.into_iter().enumerate() {
        assert_eq!(refusal.map(|status| status.code()), Some(Code::PermissionDenied), "service {index}");
    }
}
