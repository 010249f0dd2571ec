//! A client that goes away ends everything that was done for it, through three tiers of queriers: nothing is left waiting at the stores.

#[path = "support/fake_side.rs"]
#[allow(dead_code, reason = "the hub's support names it")]
mod fake_side;
#[path = "support/hub.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod hub;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use hub::{Hub, served};
use parallax_model::{Labels, TimeRange};
use parallax_net::HttpServer;
use parallax_querier::{Connection, Distribution, EndpointConfig, QuerierConfig};
use parallax_storeapi::proto::thanos::info::{InfoResponse, StoreInfo};
use parallax_storeapi::proto::thanos::{
    LabelNamesRequest, LabelNamesResponse, LabelValuesRequest, LabelValuesResponse, SeriesRequest,
};
use parallax_storeapi::{SeriesStream, Store, async_trait, frames, labels};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::{Request, Status};

/// Far longer than anything in here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store of one cluster that answers nothing, and knows how many calls are open.
struct Hung {
    cluster: &'static str,
    open: Arc<AtomicUsize>,
}

/// A call that counts as open until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Store for Hung {
    async fn info(&self) -> Result<InfoResponse, Status> {
        let own = Labels::from_pairs([("cluster", self.cluster)]);
        let range = TimeRange::new(0, i64::MAX);
        Ok(InfoResponse {
            label_sets: vec![labels::set_to_wire(&own)],
            component_type: "sidecar".to_owned(),
            store: Some(StoreInfo { min_time: range.min_ms, max_time: range.max_ms, ..StoreInfo::default() }),
            ..InfoResponse::default()
        })
    }

    async fn series(&self, _: Request<SeriesRequest>) -> Result<SeriesStream, Status> {
        let open = Open::new(&self.open);
        // Something comes, so that the stream is open in every tier.
        let first = futures::stream::iter([Ok(frames::warning("wait"))]);
        Ok(Box::pin(first.chain(futures::stream::pending()).map(move |frame| {
            let _kept_while_open = &open;
            frame
        })))
    }

    async fn label_names(&self, _: Request<LabelNamesRequest>) -> Result<LabelNamesResponse, Status> {
        let _open = Open::new(&self.open);
        std::future::pending().await
    }

    async fn label_values(&self, _: Request<LabelValuesRequest>) -> Result<LabelValuesResponse, Status> {
        let _open = Open::new(&self.open);
        std::future::pending().await
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < give_up, "{what} never happens");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Three tiers over two stores that hang, with patience for ever; the last is the top.
async fn three_deep(open: &Arc<AtomicUsize>, distributed: bool) -> Vec<Hub> {
    let store = |cluster| Arc::new(Hung { cluster, open: Arc::clone(open) });
    let mut endpoints: Vec<EndpointConfig> =
        ["eu-1", "us-1"].map(|name| EndpointConfig::new(name, Connection::Local(store(name)))).into();
    let mut hubs = Vec::new();
    for tier in 0..3 {
        let patient = |mut config: QuerierConfig| {
            config.proxy.response_timeout = None;
            config.distribution = (distributed && tier > 0).then(Distribution::default);
            config
        };
        let hub = Hub::with(std::mem::take(&mut endpoints), patient).await;
        endpoints.push(served(hub.querier.clone(), &hub.context).await);
        hubs.push(hub);
    }
    hubs
}

/// Asks over HTTP, waits until all stores are busy with it, closes the connection, and waits until none is.
async fn goes_away(hubs: &[Hub], open: &AtomicUsize, uri: &str) {
    let top = hubs.last().unwrap();
    let server = HttpServer::bind("127.0.0.1:0", "http").await.unwrap();
    let address = server.local_addr();
    let stop = top.context.shutdown.child_token();
    tokio::spawn(server.serve(top.querier.router(), stop.clone()));
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {uri} HTTP/1.1\r\nHost: hub\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    until(&format!("{uri} at the stores"), || open.load(Ordering::SeqCst) == 2).await;
    drop(connection);
    until(&format!("the end of {uri} at the stores"), || open.load(Ordering::SeqCst) == 0).await;
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disconnects_ends_the_calls_three_tiers_down() {
    let open = Arc::new(AtomicUsize::new(0));
    let hubs = three_deep(&open, false).await;
    for uri in [
        "/api/v1/query?query=up&time=1000",
        "/api/v1/query_range?query=sum(rate(up%5B5m%5D))&start=0&end=1000&step=60",
        "/api/v1/series?match%5B%5D=up",
        "/api/v1/labels",
        "/api/v1/label/job/values",
    ] {
        goes_away(&hubs, &open, uri).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_also_ends_what_is_evaluated_further_down() {
    let open = Arc::new(AtomicUsize::new(0));
    let hubs = three_deep(&open, true).await;
    goes_away(&hubs, &open, "/api/v1/query?query=sum(up)&time=1000").await;
}
