//! A mesh from a seed: clusters with known truth, tiers of queriers above them, and a network between any two.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use http::{Request, StatusCode};
use parallax_model::Labels;
use parallax_net::{Compression, GrpcServer, GrpcServerConfig, GrpcTarget};
use parallax_querier::{Connection, Distribution, EndpointConfig, EndpointOptions, QuerierConfig};
use parallax_storeapi::Store;
use parallax_telemetry::Metrics;
use parallax_testkit::fake_store::{FakeStore, Fault};
use parallax_testkit::faulty_network::{Edge, Weather};
use parallax_testkit::seeded::Seeded;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use tower::ServiceExt;

use super::hub::Hub;
use super::truth::Truth;

/// How long a querier bears silence, unless the caller's timeout is all there is.
const SILENCE: Duration = Duration::from_millis(250);
const CALLERS_TIMEOUT: &str = "700ms";
const INFO_INTERVAL: Duration = Duration::from_millis(120);
const INFO_TIMEOUT: Duration = Duration::from_millis(400);

pub struct World {
    pub clusters: Vec<Truth>,
    /// Of each question, where the queriers themselves bear any silence.
    pub timeout: Option<String>,
    shape: Shape,
    pieces: Vec<Piece>,
    hubs: Vec<Hub>,
    _stop: DropGuard,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    clusters: usize,
    tiers: u64,
    /// Whether endpoints are declared as what they hold.
    declared: bool,
    /// Whether aggregations are evaluated beneath.
    distributed: bool,
    bounded_by_caller: bool,
    stormy_from_the_start: bool,
}

/// Something that can go wrong, and whose part of answers that is.
struct Piece {
    kind: PieceKind,
    clusters: BTreeSet<String>,
}

enum PieceKind {
    Edge(Edge),
    Store(Arc<FakeStore>),
}

/// An endpoint for the next tier.
struct Beneath {
    endpoint: EndpointConfig,
    clusters: BTreeSet<String>,
}

/// What the weather does while questions are open.
pub struct Change(Vec<(Duration, Edge, Weather)>);

impl Change {
    pub async fn happen(self) {
        for (pause, edge, weather) in self.0 {
            tokio::time::sleep(pause).await;
            edge.set(weather);
        }
    }
}

struct Builder {
    row: Seeded,
    shape: Shape,
    pieces: Vec<Piece>,
    hubs: Vec<Hub>,
    stop: CancellationToken,
}

impl World {
    pub async fn build(seed: u64) -> Self {
        let mut row = Seeded::new(seed).row(1);
        let tiers = 1 + row.below(3);
        let declared = row.percent(60);
        let shape = Shape {
            clusters: 2 + row.index(5),
            tiers,
            declared,
            distributed: tiers > 1 && row.percent(50),
            bounded_by_caller: row.percent(20) && std::env::var("PARALLAX_HURRY").as_deref() != Ok("0"),
            // Nobody can name what was never declared and never heard of.
            stormy_from_the_start: declared && row.percent(30),
        };
        let clusters: Vec<Truth> = (0..shape.clusters).map(Truth::new).collect();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let mut builder = Builder { row, shape, pieces: Vec::new(), hubs: Vec::new(), stop };
        let mut level = Vec::new();
        for cluster in &clusters {
            for replica in 0..2 {
                level.push(builder.leaf(cluster, replica).await);
            }
        }
        for tier in 1..shape.tiers {
            level = builder.tier(level, tier).await;
        }
        builder.hub(level, shape.distributed).await;
        let Builder { pieces, hubs, .. } = builder;
        let timeout = shape.bounded_by_caller.then(|| CALLERS_TIMEOUT.to_owned());
        let world = Self { clusters, timeout, shape, pieces, hubs, _stop: guard };
        if !shape.stormy_from_the_start {
            world.hears_of_everything().await;
        }
        world
    }

    /// Waits until every querier knows whose series are beneath it, however busy the machine is: before, it could only name an address.
    async fn hears_of_everything(&self) {
        let knows = |hub: &Hub| {
            hub.querier.endpoints().endpoints().iter().all(|endpoint| {
                let sets = endpoint.metadata().map(|known| known.label_sets.clone()).unwrap_or_default();
                !sets.is_empty() && !sets.iter().any(Labels::is_empty)
            })
        };
        let began = Instant::now();
        while !self.hubs.iter().all(knows) {
            assert!(began.elapsed() < super::PATIENCE, "{}: not everything is heard of", self.shape());
            tokio::time::sleep(INFO_INTERVAL / 4).await;
        }
    }

    pub fn shape(&self) -> String {
        format!("{:?}", self.shape)
    }

    pub fn begins_in_fair_weather(&self) -> bool {
        !self.shape.stormy_from_the_start
    }

    /// Asks the topmost querier: the status, the header of the coverage, and the answer.
    pub async fn ask(&self, uri: &str) -> (StatusCode, String, Value) {
        let top = self.hubs.last().expect("there is a querier");
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let response = top.querier.router().oneshot(request).await.unwrap();
        let header = response.headers().get("parallax-coverage");
        let header = header.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, header, serde_json::from_slice(&body).unwrap())
    }

    /// Lets a storm begin, and says which clusters it may concern and how it goes on.
    pub fn storm(&self, row: &mut Seeded) -> (BTreeSet<String>, Change) {
        let mut troubled = BTreeSet::new();
        let mut change = Vec::new();
        for piece in &self.pieces {
            let drawn = row.below(100);
            let is_troubled = match &piece.kind {
                PieceKind::Edge(edge) => {
                    let weather = match drawn {
                        0..40 => Weather::Storm,
                        40..55 => Weather::Slow,
                        _ => Weather::Calm,
                    };
                    edge.set(weather);
                    let changes = row.percent(15);
                    if changes {
                        let next = *row.pick(&[Weather::Calm, Weather::Slow, Weather::Storm]);
                        change.push((Duration::from_millis(row.below(60)), edge.clone(), next));
                    }
                    changes || weather != Weather::Calm
                }
                PieceKind::Store(store) => {
                    let fault = if drawn < 25 { fault(row) } else { Fault::None };
                    store.set_fault(fault);
                    drawn < 25
                }
            };
            if is_troubled {
                troubled.extend(piece.clusters.iter().cloned());
            }
        }
        (troubled, Change(change))
    }

    pub fn calm(&self) {
        for piece in &self.pieces {
            match &piece.kind {
                PieceKind::Edge(edge) => edge.set(Weather::Calm),
                PieceKind::Store(store) => store.set_fault(Fault::None),
            }
        }
    }

    pub fn faults(&self) -> u64 {
        let edge = |piece: &Piece| match &piece.kind {
            PieceKind::Edge(edge) => edge.faults(),
            PieceKind::Store(_) => 0,
        };
        self.pieces.iter().map(edge).sum()
    }
}

fn fault(row: &mut Seeded) -> Fault {
    let frames = row.index(12);
    match row.below(9) {
        0 => Fault::FailOpen(Status::unavailable("connection refused")),
        1 => Fault::FailOpen(Status::permission_denied("not you")),
        2 => Fault::FailOpens(1 + frames / 3, Status::unavailable("not yet")),
        3 => Fault::HangBeforeOpen,
        4 => Fault::HangAfter(frames),
        5 => Fault::FailAfter(frames, Status::internal("disk on fire")),
        6 => Fault::Down(Status::unavailable("gone")),
        7 => Fault::Hang,
        _ => Fault::Warn("half a disk".to_owned()),
    }
}

impl Builder {
    /// One replica of a cluster, with or without a network before it.
    async fn leaf(&mut self, cluster: &Truth, replica: usize) -> Beneath {
        let store = Arc::new(cluster.store(replica));
        let clusters = BTreeSet::from([cluster.name.clone()]);
        self.pieces.push(Piece { kind: PieceKind::Store(store.clone()), clusters: clusters.clone() });
        let name = format!("{}-{replica}", cluster.name);
        let mut endpoint = self.endpoint(&name, store, &clusters).await;
        if self.shape.declared {
            endpoint = endpoint.with_cluster(&cluster.name);
        }
        Beneath { endpoint, clusters }
    }

    /// Queriers over `level`, each over some of it.
    async fn tier(&mut self, level: Vec<Beneath>, tier: u64) -> Vec<Beneath> {
        let count = 1 + self.row.index(3);
        let mut groups: Vec<Vec<Beneath>> = (0..count).map(|_| Vec::new()).collect();
        for beneath in level {
            let chosen = self.row.index(count);
            groups[chosen].push(beneath);
        }
        let mut above = Vec::new();
        for (number, group) in groups.into_iter().enumerate().filter(|(_, group)| !group.is_empty()) {
            let clusters: BTreeSet<String> =
                group.iter().flat_map(|beneath| beneath.clusters.iter().cloned()).collect();
            let distributed = self.shape.distributed && self.row.percent(50);
            let querier = self.hub(group, distributed).await;
            let name = format!("hub-{tier}-{number}");
            let mut endpoint = self.endpoint(&name, querier, &clusters).await;
            if self.shape.declared {
                let delegated: Vec<String> = clusters.iter().cloned().collect();
                endpoint = match delegated.as_slice() {
                    [only] => endpoint.with_cluster(only),
                    several => endpoint.with_cluster(&name).with_delegated(several),
                };
            }
            above.push(Beneath { endpoint, clusters });
        }
        above
    }

    async fn hub(&mut self, level: Vec<Beneath>, distributed: bool) -> Arc<dyn Store> {
        let silence = (!self.shape.bounded_by_caller).then_some(SILENCE);
        let change = |config: QuerierConfig| {
            let mut config = QuerierConfig {
                endpoint_options: EndpointOptions {
                    info_interval: INFO_INTERVAL,
                    info_timeout: INFO_TIMEOUT,
                    slow_failure: INFO_TIMEOUT,
                    ..config.endpoint_options.clone()
                },
                distribution: distributed.then(Distribution::default),
                ..config
            };
            config.proxy.response_timeout = silence;
            config
        };
        let hub = Hub::with(level.into_iter().map(|beneath| beneath.endpoint).collect(), change).await;
        let querier = hub.querier.clone();
        self.hubs.push(hub);
        querier
    }

    /// `store` as the tier above reaches it: in its process, or over an ingress, a hop, or both.
    async fn endpoint(
        &mut self,
        name: &str,
        store: Arc<dyn Store>,
        clusters: &BTreeSet<String>,
    ) -> EndpointConfig {
        let way = self.row.below(100);
        if way < 20 {
            return EndpointConfig::new(name, Connection::Local(store));
        }
        let is_ingress = way < 75;
        let is_hop = way >= 50;
        let mut address = {
            let ingress = is_ingress.then(|| self.edge(clusters));
            serve(store, ingress.as_ref(), &self.stop).await
        };
        if is_hop {
            address = self.edge(clusters).relay(address).await.unwrap();
        }
        let compression = *self.row.pick(&[None, Some(Compression::Snappy), Some(Compression::Zstd)]);
        let target = GrpcTarget { connect_timeout: INFO_TIMEOUT, compression, ..GrpcTarget::plain(address) };
        EndpointConfig::new(name, Connection::Remote(target))
    }

    fn edge(&mut self, clusters: &BTreeSet<String>) -> Edge {
        let edge = Edge::new(self.row.number());
        if self.shape.stormy_from_the_start {
            edge.set(Weather::Storm);
        }
        self.pieces.push(Piece { kind: PieceKind::Edge(edge.clone()), clusters: clusters.clone() });
        edge
    }
}

/// Serves `store` on loopback until `stop`.
async fn serve(store: Arc<dyn Store>, ingress: Option<&Edge>, stop: &CancellationToken) -> String {
    let config = GrpcServerConfig { grace_period: Duration::ZERO, ..GrpcServerConfig::new("127.0.0.1:0") };
    let server = GrpcServer::bind(config, &Metrics::new()).await.unwrap();
    let address = server.local_addr().to_string();
    let (ready, readiness) = tokio::sync::watch::channel(true);
    let routes = parallax_storeapi::routes(store, readiness).unwrap();
    let routes = match ingress {
        Some(edge) => edge.routes(routes),
        None => routes,
    };
    let serving = server.serve(routes, stop.clone());
    tokio::spawn(async move {
        let _kept_while_serving = ready;
        serving.await
    });
    address
}
