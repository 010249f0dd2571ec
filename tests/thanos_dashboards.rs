//! Thanos' dashboards and alerts on our components: what they ask for is shown, with the labels they select and group by, by components that have had something to do.
//!
//! `dashboards/thanos.txt` lists what each panel and alert needs. With `PARALLAX_THANOS_DASHBOARDS`, a directory of Thanos' dashboards (`examples/dashboards` of its
//! sources), the list is compared with them as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use crate::program::{PATIENCE, Program, command};
use crate::question::{ask, ask_until, get};
use crate::sidecar::world::World;
use regex::Regex;
use serde_json::Value;

const COMPONENTS: [&str; 4] = ["query", "sidecar", "store", "compact"];
const ADDRESSES: [&str; 2] = ["--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"];

/// A metric, and the labels that it has to have: `None` for any value but the empty one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    name: String,
    labels: Vec<(String, Option<String>)>,
}

/// A panel or an alert.
#[derive(Debug)]
struct Asker {
    component: String,
    title: String,
    needs: Vec<Need>,
}

#[derive(Debug, Default)]
struct List {
    panels: Vec<Asker>,
    alerts: Vec<Asker>,
    absent: BTreeMap<String, String>,
    others: BTreeSet<String>,
}

impl List {
    fn read() -> Self {
        let mut list = Self::default();
        let lines = include_str!("dashboards/thanos.txt").lines();
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<&str> = line.split(" | ").map(str::trim).collect();
            match fields.as_slice() {
                ["panel", component, row, title, names] => {
                    list.panels.push(asker(component, &format!("{row}: {title}"), names));
                }
                ["alert", component, name, names] => list.alerts.push(asker(component, name, names)),
                ["absent", name, reason] => {
                    assert!(reason.len() > 10, "{name}: say why");
                    list.absent.insert((*name).to_owned(), (*reason).to_owned());
                }
                ["others", name, _] => _ = list.others.insert((*name).to_owned()),
                other => panic!("no line of the list: {other:?}"),
            }
        }
        list
    }

    fn all(&self) -> impl Iterator<Item = &Asker> {
        self.panels.iter().chain(&self.alerts)
    }

    fn is_absent(&self, need: &Need) -> bool {
        self.absent.contains_key(&need.name)
    }

    /// Names that a component is asked for, absent ones included.
    fn names(&self, component: &str) -> BTreeSet<&str> {
        let of_component = self.panels.iter().filter(|panel| panel.component == component);
        of_component.flat_map(|panel| panel.needs.iter().map(|need| need.name.as_str())).collect()
    }
}

fn asker(component: &str, title: &str, names: &str) -> Asker {
    assert!(COMPONENTS.contains(&component), "{component} is no component");
    let needs = names.split_whitespace().map(|text| {
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty());
        let labels = labels.map(|label| match label.split_once('=') {
            Some((label, value)) => (label.to_owned(), Some(value.trim_matches('"').to_owned())),
            None => (label.to_owned(), None),
        });
        Need { name: name.to_owned(), labels: labels.collect() }
    });
    Asker { component: component.to_owned(), title: title.to_owned(), needs: needs.collect() }
}

impl Need {
    fn is_met_by(&self, series: &Series) -> bool {
        let fits = |(label, wanted): &(String, Option<String>)| {
            let value = series.labels.get(label).map_or("", String::as_str);
            wanted.as_ref().map_or(!value.is_empty(), |wanted| wanted == value)
        };
        series.name == self.name && self.labels.iter().all(fits)
    }
}

struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What a component showed.
struct Scrape {
    series: Vec<Series>,
}

impl Scrape {
    async fn of(url: &str) -> Self {
        let answer = get(url, "/metrics", &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = answer.body.as_str().expect("metrics are text").to_owned();
        assert!(text.ends_with("# EOF\n"), "the scrape is whole");
        let label = Regex::new(r#"(\w+)="((?:[^"\\]|\\.)*)""#).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let labels = label.captures_iter(labels).map(|found| (found[1].to_owned(), found[2].to_owned()));
            Series { name: name.to_owned(), labels: labels.collect(), value: value.parse().unwrap() }
        });
        Self { series: series.collect() }
    }

    fn has(&self, need: &Need) -> bool {
        self.series.iter().any(|series| need.is_met_by(series))
    }

    /// The sum of the series that a need selects.
    fn sum(&self, text: &str) -> f64 {
        let need = &asker("query", "", text).needs[0];
        self.series.iter().filter(|series| need.is_met_by(series)).map(|series| series.value).sum()
    }
}

/// A sidecar, a store gateway and a compactor on its bucket, and a querier over the former two, each a process.
struct Fleet {
    programs: BTreeMap<&'static str, (Program, String)>,
    world: World,
}

impl Fleet {
    async fn start() -> Self {
        let world = World::start(2).await;
        let objstore = format!(
            "--objstore.config={}",
            serde_json::json!({"type": "FILESYSTEM", "config": {"directory": world.at("bucket")}})
        );
        std::fs::create_dir(world.at("bucket")).unwrap();
        let mut fleet = Self { programs: BTreeMap::new(), world };
        let prometheus = format!("--prometheus.url={}", fleet.world.url);
        let tsdb = format!("--tsdb.path={}", fleet.world.at("data").display());
        fleet.run("sidecar", &[ADDRESSES[0], ADDRESSES[1], &prometheus, &tsdb, &objstore]).await;
        fleet.shipped().await;
        let data = |name: &str| format!("--data-dir={}", fleet.world.at(name).display());
        let (store_data, compact_data) = (data("store-data"), data("compact-data"));
        // A bucket that is a directory has no index cache unless there is one configured.
        let cache = "--index-cache.config=type: IN-MEMORY";
        fleet.run("store", &[ADDRESSES[0], ADDRESSES[1], cache, &store_data, &objstore]).await;
        let once = "--consistency-delay=0s";
        fleet.run("compact", &[ADDRESSES[0], "--wait", once, &compact_data, &objstore]).await;
        let mut endpoints = Vec::new();
        for name in ["sidecar", "store"] {
            let (program, _) = fleet.programs.get_mut(name).unwrap();
            endpoints.push(format!("--endpoint={}", program.grpc().await));
        }
        let replica = "--query.replica-label=prometheus_replica";
        let arguments = [ADDRESSES[0], ADDRESSES[1], &endpoints[0], &endpoints[1], replica];
        fleet.run("query", &arguments).await;
        fleet
    }

    async fn run(&mut self, name: &'static str, arguments: &[&str]) {
        let mut program = Program::start(command([name]).args(arguments), self.world.directory.path(), name);
        let url = program.ready().await;
        self.programs.insert(name, (program, url));
    }

    fn url(&self, name: &str) -> &str {
        &self.programs[name].1
    }

    /// Waits until the sidecar has shipped its blocks.
    async fn shipped(&self) {
        let began = Instant::now();
        while self.world.journaled().len() < self.world.blocks.len() {
            assert!(began.elapsed() < PATIENCE, "nothing is shipped: {}", self.programs["sidecar"].0.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Gives every component something to do.
    async fn work(&self) {
        let query = self.url("query");
        ask_until(query, "count(up)", |answer| answer.status == 200 && !answer.by("").is_empty()).await;
        // Within the blocks, which the store has.
        let moment = (self.world.blocks.last().unwrap().time_ms() / 1000 - 3600).to_string();
        let answer = get(query, "/api/v1/query", &[("query", "count(up)"), ("time", &moment)]).await;
        assert!(!answer.by("").is_empty(), "{answer:?}");
        let span = [("start", moment.as_str()), ("end", moment.as_str()), ("step", "15")];
        get(query, "/api/v1/query_range", &[&[("query", "rate(up[5m])")], &span[..]].concat()).await;
        for path in ["/api/v1/labels", "/api/v1/label/job/values", "/api/v1/nothing", "/nowhere"] {
            get(query, path, &[]).await;
        }
        assert_eq!(ask(query, "sum(").await.status, 400);
        let began = Instant::now();
        while Scrape::of(self.url("compact")).await.sum("thanos_compact_iterations_total") < 1.0 {
            assert!(began.elapsed() < PATIENCE, "no pass: {}", self.programs["compact"].0.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn scrapes(&self) -> BTreeMap<&'static str, Scrape> {
        let mut scrapes = BTreeMap::new();
        for (name, (_, url)) in &self.programs {
            scrapes.insert(*name, Scrape::of(url).await);
        }
        scrapes
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_alert_of_thanos_finds_what_it_asks_for_or_it_is_said_why_not() {
    let list = List::read();
    let fleet = Fleet::start().await;
    fleet.work().await;
    let scrapes = fleet.scrapes().await;
    let mut missing = BTreeSet::new();
    for asker in list.all() {
        let scrape = &scrapes[asker.component.as_str()];
        for need in asker.needs.iter().filter(|need| !list.others.contains(&need.name)) {
            if scrape.has(need) == list.is_absent(need) {
                missing.insert(format!("{}: {}: {need:?}", asker.component, asker.title));
            }
        }
    }
    assert!(missing.is_empty(), "missing, or said to be absent and there:\n{missing:#?}");
    for name in list.absent.keys().chain(&list.others) {
        assert!(
            list.all().any(|asker| asker.needs.iter().any(|need| need.name == *name)),
            "{name} is asked for by nobody"
        );
    }
    for component in COMPONENTS {
        let panels: Vec<&Asker> = list.panels.iter().filter(|panel| panel.component == component).collect();
        let whole =
            panels.iter().filter(|panel| !panel.needs.iter().any(|need| list.is_absent(need))).count();
        let in_part = panels.iter().filter(|panel| {
            let absent = panel.needs.iter().filter(|need| list.is_absent(need)).count();
            absent > 0 && absent < panel.needs.len()
        });
        println!("{component}: {whole} of {} panels work, {} in part", panels.len(), in_part.count());
    }
    counts_are_right(&scrapes);
}

/// Not only is there something: the numbers are those of what was asked.
fn counts_are_right(scrapes: &BTreeMap<&'static str, Scrape>) {
    let (query, sidecar, store) = (&scrapes["query"], &scrapes["sidecar"], &scrapes["store"]);
    let at_least_one = [
        (query, "http_requests_total{code=\"200\",handler=\"query\",method=\"get\"}"),
        (query, "http_requests_total{code=\"200\",handler=\"query_range\",method=\"get\"}"),
        (query, "http_requests_total{code=\"200\",handler=\"label_names\",method=\"get\"}"),
        (query, "http_requests_total{code=\"200\",handler=\"label_values\",method=\"get\"}"),
        (query, "http_requests_total{code=\"400\",handler=\"query\",method=\"get\"}"),
        (query, "thanos_query_concurrent_gate_queries_total"),
        (query, "thanos_query_concurrent_gate_queries_duration_seconds_count"),
        // Neither endpoint is declared as a cluster: it is the one that they advertise.
        (query, "grpc_client_handled_total{grpc_method=\"Series\",grpc_code=\"OK\",cluster=\"eu-1\"}"),
        (query, "grpc_client_handled_total{grpc_method=\"Info\",grpc_code=\"OK\",grpc_type=\"unary\"}"),
        (sidecar, "grpc_server_handled_total{grpc_method=\"Series\",grpc_code=\"OK\"}"),
        (sidecar, "grpc_server_handled_total{grpc_method=\"Info\",grpc_code=\"OK\"}"),
        (sidecar, "http_requests_total{code=\"200\",handler=\"ready\",method=\"get\"}"),
        (store, "grpc_server_handled_total{grpc_method=\"Series\",grpc_code=\"OK\"}"),
        (store, "thanos_bucket_store_series_gate_queries_total"),
        (store, "thanos_bucket_store_series_gate_duration_seconds_count"),
        (store, "thanos_bucket_store_sent_chunk_size_bytes_count"),
        (store, "thanos_bucket_store_series_merge_duration_seconds_count"),
        (&scrapes["compact"], "http_requests_total{code=\"200\",handler=\"metrics\",method=\"get\"}"),
    ];
    for (scrape, series) in at_least_one {
        assert!(scrape.sum(series) >= 1.0, "{series} is {}", scrape.sum(series));
    }
    assert_eq!(query.sum("http_requests_total{code=\"404\",handler=\"other\"}"), 2.0);
    assert_eq!(query.sum("thanos_query_concurrent_gate_queries_max"), 20.0);
    for (scrape, series) in [
        (query, "thanos_query_concurrent_gate_queries_in_flight"),
        (query, "http_inflight_requests{handler=\"query\"}"),
        (store, "thanos_bucket_store_series_gate_queries_in_flight"),
        (store, "grpc_server_handled_total{grpc_code=\"Internal\"}"),
        (sidecar, "grpc_server_handled_total{grpc_code=\"Internal\"}"),
    ] {
        assert_eq!(scrape.sum(series), 0.0, "{series}");
    }
    for (scrape, name) in [(sidecar, "grpc_server"), (store, "grpc_server"), (query, "grpc_client")] {
        let sum = |rest: &str| scrape.sum(&format!("{name}_{rest}"));
        let (started, handled) = (sum("started_total"), sum("handled_total"));
        // Polls may be on their way while it is scraped.
        assert!((started - handled).abs() <= 2.0, "{name}: {started} started, {handled} handled");
        assert!((sum("handling_seconds_count") - handled).abs() <= 2.0, "{name}");
    }
}

/// Every expression below `node`.
fn expressions(node: &Value, found: &mut Vec<String>) {
    match node {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn the_list_is_what_the_dashboards_ask_for() {
    let Some(directory) = std::env::var_os("PARALLAX_THANOS_DASHBOARDS") else {
        println!("left out: PARALLAX_THANOS_DASHBOARDS names no directory of Thanos' dashboards");
        return;
    };
    let list = List::read();
    let selector = Regex::new(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{").unwrap();
    for component in COMPONENTS {
        let path = Path::new(&directory).join(format!("{component}.json"));
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        let asked: BTreeSet<&str> = found
            .iter()
            .flat_map(|expr| selector.captures_iter(expr))
            .map(|one| one.get(1).unwrap().as_str())
            .collect();
        assert_eq!(list.names(component), asked, "{}", path.display());
    }
}
