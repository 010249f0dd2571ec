//! Thanos' tenancy at a querier: whose a request is, that those beneath are told, and that an enforced tenant sees its own series only, over HTTP and gRPC.

#[path = "support/cluster_store.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod cluster_store;
#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cluster_store::ClusterStore;
use http::{HeaderMap, StatusCode};
use hub::Hub;
use parallax_model::{Labels, Matcher};
use parallax_querier::tenancy::{Hop, TenancyOptions};
use parallax_querier::{Connection, Distribution, EndpointConfig, QuerierConfig};
use parallax_storeapi::proto::thanos::info::InfoResponse;
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{
    Caller, Guard, SeriesStream, Store, StoreClient, TENANT_HEADER, frames, guarded_routes, labels,
};
use serde_json::{Value, json};
use tonic::{Extensions, Request, Status};

/// One door of a querier, with these options.
#[derive(Debug)]
struct Tenants(TenancyOptions, Hop);

impl Guard for Tenants {
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        self.0.caller(self.1, headers, extensions)
    }
}

fn options(enforce: bool) -> TenancyOptions {
    TenancyOptions { enforce, ..TenancyOptions::default() }
}

/// A store that remembers for whom it was asked.
struct Listening {
    inner: ClusterStore,
    heard: Arc<Mutex<BTreeSet<String>>>,
}

impl Listening {
    fn hear<T>(&self, what: &str, request: &Request<T>) {
        let tenant = request.metadata().get(TENANT_HEADER).and_then(|value| value.to_str().ok());
        self.heard.lock().unwrap().insert(format!("{what} for {}", tenant.unwrap_or("nobody")));
    }
}

#[async_trait]
impl Store for Listening {
    async fn info(&self) -> Result<InfoResponse, Status> {
        self.inner.info().await
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        self.hear("series", &request);
        self.inner.series(request).await
    }

    async fn label_names(&self, request: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        self.hear("names", &request);
        self.inner.label_names(request).await
    }

    async fn label_values(
        &self,
        request: Request<LabelValuesRequest>,
    ) -> Result<LabelValuesResponse, Status> {
        self.hear("values", &request);
        self.inner.label_values(request).await
    }
}

/// Two tenants' series of one cluster.
fn store(cluster: &str) -> ClusterStore {
    let series = ["a", "b"].map(|tenant| {
        let pairs = [("__name__", "up"), ("cluster", cluster), ("tenant_id", tenant)];
        (Labels::from_pairs(pairs), (1..240).map(|step| (step * 15_000, 1.0)).collect())
    });
    ClusterStore::new(vec![Labels::from_pairs([("cluster", cluster)])], series.to_vec())
}

fn local(cluster: &str) -> (EndpointConfig, Arc<Mutex<BTreeSet<String>>>) {
    let heard = Arc::<Mutex<BTreeSet<String>>>::default();
    let store = Listening { inner: store(cluster), heard: heard.clone() };
    (EndpointConfig::new(cluster, Connection::Local(Arc::new(store))), heard)
}

async fn hub_of(endpoints: Vec<EndpointConfig>, options: TenancyOptions) -> Hub {
    Hub::with(endpoints, |mut config: QuerierConfig| {
        config.api.guard = Some(Arc::new(Tenants(options, Hop::Http)));
        config
    })
    .await
}

async fn tenants(hub: &Hub, query: &str, tenant: &str) -> Value {
    let uri = format!("/api/v1/query?query={query}&time=1800");
    let (status, answer) = hub.ask_with(&uri, &[("THANOS-TENANT", tenant)]).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let series = answer["data"]["result"].as_array().unwrap().clone();
    json!(series.iter().map(|one| one["metric"]["tenant_id"].clone()).collect::<Vec<_>>())
}

#[tokio::test]
async fn an_enforced_tenant_sees_its_own_series_and_a_query_for_anothers_nothing() {
    let hub = hub_of(vec![local("eu-1").0], options(true)).await;
    assert_eq!(tenants(&hub, "up", "a").await, json!(["a"]));
    assert_eq!(tenants(&hub, "up%7Btenant_id=~%22.%2B%22%7D", "b").await, json!(["b"]));
    assert_eq!(tenants(&hub, "up%7Btenant_id=%22b%22%7D", "a").await, json!([]));
    assert_eq!(tenants(&hub, "max_over_time(up%5B5m:1m%5D)", "a").await, json!(["a"]));
    assert_eq!(tenants(&hub, "up", "").await, json!([]), "nobody is the default tenant, which has none");
    let get = async |uri: &str| hub.ask_with(uri, &[("thanos-tenant", "b")]).await.1["data"].clone();
    assert_eq!(get("/api/v1/label/tenant_id/values").await, json!(["b"]));
    let series = get("/api/v1/series?match[]=up").await;
    assert_eq!(series, json!([{"__name__": "up", "cluster": "eu-1", "tenant_id": "b"}]));

    let open = hub_of(vec![local("eu-1").0], options(false)).await;
    assert_eq!(tenants(&open, "up", "a").await, json!(["a", "b"]), "without enforcement all is seen");
}

#[tokio::test]
async fn a_name_that_no_tenant_can_have_is_refused() {
    let hub = hub_of(vec![local("eu-1").0], options(true)).await;
    let (status, answer) = hub.ask_with("/api/v1/query?query=up", &[("thanos-tenant", "../a")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(answer["error"], "Tenant name not valid");
}

#[tokio::test]
async fn the_stores_beneath_are_told_whose_a_request_is() {
    let (endpoint, heard) = local("eu-1");
    let hub = hub_of(vec![endpoint], options(false)).await;
    for uri in ["query?query=up&time=1800", "series?match[]=up", "labels", "label/cluster/values"] {
        hub.ask_with(&format!("/api/v1/{uri}"), &[("thanos-tenant", "a")]).await;
    }
    hub.ask_with("/api/v1/query?query=up&time=1800", &[]).await;
    let expected = ["names for a", "series for a", "series for default-tenant", "values for a"];
    assert_eq!(heard.lock().unwrap().iter().collect::<Vec<_>>(), expected);
}

/// The tenant travels through a querier above that does not enforce anything to one beneath that does, whether series are read or evaluated there.
#[tokio::test(flavor = "multi_thread")]
async fn a_querier_beneath_enforces_the_tenant_that_the_one_above_names() {
    let leaf = Hub::over(vec![local("eu-1").0]).await;
    let guard: Arc<dyn Guard> = Arc::new(Tenants(options(true), Hop::Grpc));
    let endpoint = hub::guarded(leaf.querier.clone(), Some(guard), &leaf.context).await;
    for distribution in [None, Some(Distribution::default())] {
        let is_distributed = distribution.is_some();
        let hub = Hub::with(vec![endpoint.clone()], |mut config| {
            config.api.guard = Some(Arc::new(Tenants(options(false), Hop::Http)));
            QuerierConfig { distribution, ..config }
        })
        .await;
        for tenant in ["a", "b"] {
            let query = "count%20by%20(tenant_id)(up)";
            assert_eq!(tenants(&hub, query, tenant).await, json!([tenant]), "distributed: {is_distributed}");
        }
        let metrics = hub.context.metrics.encode().unwrap();
        let answered = "parallax_querier_pushdown_total{outcome=\"answered\"}";
        assert_eq!(metrics.contains(answered), is_distributed, "{metrics}");
    }
}

#[tokio::test]
async fn tenants_are_enforced_over_grpc_too() {
    let hub = Hub::over(vec![local("eu-1").0]).await;
    let (_ready, readiness) = tokio::sync::watch::channel(true);
    let guard: Arc<dyn Guard> = Arc::new(Tenants(options(true), Hop::Grpc));
    let client = StoreClient::new(guarded_routes(hub.querier.clone(), Some(guard), readiness).unwrap());
    let matchers = parallax_storeapi::matchers::to_wire(&[Matcher::equal("__name__", "up")]);
    for (tenant, expected) in [("a", vec!["a"]), ("c", vec![])] {
        let request =
            SeriesRequest { matchers: matchers.clone(), max_time: i64::MAX, ..SeriesRequest::default() };
        let mut request = Request::new(request);
        request.metadata_mut().insert(TENANT_HEADER, tenant.parse().unwrap());
        let found = frames::collect(client.series(request).await.unwrap()).await.unwrap();
        let of = |series: &parallax_storeapi::proto::thanos::Series| {
            labels::from_wire(&series.labels).unwrap().get("tenant_id").unwrap().to_owned()
        };
        assert_eq!(found.series.iter().map(of).collect::<Vec<_>>(), expected);
    }
}
