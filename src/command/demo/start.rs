//! Starts the mesh part by part, with a line of progress each, and waits until it answers.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parallax_model::TimeRange;
use parallax_net::{Context, HttpClient, HttpClientConfig, free_port};
use parallax_pki::{Authority, AuthorityOptions, LeafRequest, PeerIdentity, TrustDomain};
use parallax_simulate::history::BLOCK_RANGE_MS;
use parallax_simulate::stand_in::now_ms;
use serde_json::{Value, json};
use tokio::process::Command;

use super::children::Children;
use super::layout::{ClusterLayout, Layout, REPLICA_LABEL, SIDECAR_HOURS, TRUST_DOMAIN};
use super::questions::{MACHINES_UP, Question, SAMPLES_HELD, ask};
use super::{Programs, READY_TIMEOUT, history, ingress, oracle, prometheus};

/// How long one question may take while the mesh is starting.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const HOUR_MS: i64 = 3_600_000;
const NO_PORT: &str = "looking for a free port on loopback";

/// A running mesh.
pub struct Mesh {
    pub layout: Layout,
    pub history: TimeRange,
    /// The observer's HTTP API.
    pub url: String,
    pub http: HttpClient,
    /// The process of each cluster's observee, in the order of the layout.
    pub observee_pids: Vec<u32>,
    children: Children,
    /// Removed when the mesh is dropped.
    directory: tempfile::TempDir,
}

impl Mesh {
    /// Starts everything; whatever was started is ended again if a part fails.
    pub async fn start(programs: Programs, http_address: &str, context: &Context) -> anyhow::Result<Self> {
        let started = Instant::now();
        let directory =
            tempfile::Builder::new().prefix("parallax-demo-").tempdir().context("making a directory")?;
        let layout = Layout::plan(directory.path(), programs.nginx.is_some()).context(NO_PORT)?;
        let mut children = Children::default();
        let parts = tokio::select! {
            parts = start_parts(&programs, &layout, http_address, context, &mut children) => parts,
            () = context.shutdown.cancelled() => Err(anyhow::anyhow!("stopped while the mesh was starting")),
        };
        let (history, url, observee_pids) = match parts {
            Ok(parts) => parts,
            Err(error) => {
                let error = with_logs(error, &layout.logs());
                children.stop().await;
                return Err(error);
            }
        };
        progress(started, "the mesh is ready");
        let http = client(&url)?;
        Ok(Self { layout, history, url, http, observee_pids, children, directory })
    }

    /// Ends all children and removes the directory.
    pub async fn stop(self) {
        self.children.stop().await;
        if let Err(error) = self.directory.close() {
            tracing::warn!(error = error.to_string(), "cannot remove the demo's directory");
        }
    }
}

fn progress(started: Instant, text: &str) {
    println!("{:6.2}s  {text}", started.elapsed().as_secs_f64());
}

async fn start_parts(
    programs: &Programs,
    layout: &Layout,
    http_address: &str,
    context: &Context,
    children: &mut Children,
) -> anyhow::Result<(TimeRange, String, Vec<u32>)> {
    let started = Instant::now();
    std::fs::create_dir_all(layout.logs())?;
    issue_certificates(layout)?;
    progress(started, "certificates: a CA per direction, a leaf per cluster, observer and ingress");
    let range = history::range(now_ms());
    history::write(layout, range)?;
    progress(started, "history: real two-hour blocks in every Prometheus directory");

    for cluster in &layout.clusters {
        start_prometheus(programs, layout, cluster, range, context, children).await?;
    }
    let kind = programs
        .prometheus
        .as_ref()
        .map_or("the built-in stand-in".to_owned(), |path| path.display().to_string());
    progress(started, &format!("prometheus: two replicas per cluster, {kind}"));

    let mut observee_pids = Vec::new();
    for cluster in &layout.clusters {
        let path = layout.directory.join(format!("observee-{}.yaml", cluster.name));
        write_config(&path, &observee_config(layout, cluster))?;
        observee_pids.push(children.start(
            &format!("observee-{}", cluster.name),
            side("observee", &path)?,
            &layout.logs(),
        )?);
        if let Some(nginx) = &programs.nginx {
            let command = ingress::nginx(nginx, layout, cluster)?;
            children.start(&format!("ingress-{}", cluster.name), command, &layout.logs())?;
        }
    }
    let kind = programs
        .nginx
        .as_ref()
        .map_or("none, mTLS ends in the observee".to_owned(), |path| path.display().to_string());
    progress(started, &format!("observees: sidecars and shippers; ingress: {kind}"));

    wait_until_shipped(layout, range, children).await?;
    progress(started, "buckets: every block is shipped");
    let url = start_observer(layout, http_address, children).await?;
    progress(started, "observer: a querier per cluster, a store gateway per bucket, the global querier");
    wait_until_complete(started, layout, &url, range, children).await?;
    Ok((range, url, observee_pids))
}

async fn start_prometheus(
    programs: &Programs,
    layout: &Layout,
    cluster: &ClusterLayout,
    history: TimeRange,
    context: &Context,
    children: &mut Children,
) -> anyhow::Result<()> {
    if programs.prometheus.is_some() {
        prometheus::start_exporter(cluster, context).await?;
    }
    for replica in &cluster.replicas {
        match &programs.prometheus {
            Some(program) => {
                let command = prometheus::command(program, layout, cluster, replica)?;
                children.start(
                    &format!("prometheus-{}-{}", cluster.name, replica.number),
                    command,
                    &layout.logs(),
                )?;
            }
            None => {
                prometheus::start_stand_in(
                    cluster.fleet(replica.number),
                    history.min_ms,
                    replica.port,
                    context,
                )
                .await?;
            }
        }
    }
    Ok(())
}

/// One leaf per owner, in the directories of the layout.
fn issue_certificates(layout: &Layout) -> anyhow::Result<()> {
    let domain = TrustDomain::new(TRUST_DOMAIN)?;
    let authority = Authority::init(
        &layout.directory.join("pki").join("authority"),
        &AuthorityOptions::new(domain.clone()),
    )?;
    let issue = |request: LeafRequest, owner: &str| -> anyhow::Result<()> {
        authority.issue(&request)?.write(&layout.certificates(owner))?;
        Ok(())
    };
    issue(LeafRequest::new(PeerIdentity::observer(&domain, "hub")?), "observer")?;
    for cluster in &layout.clusters {
        issue(
            LeafRequest::new(PeerIdentity::observee(&domain, &cluster.name)?).dns(cluster.server_name()),
            &cluster.name,
        )?;
        let ingress = format!("ingress-{}", cluster.name);
        issue(LeafRequest::new(PeerIdentity::ingress(&domain, &cluster.name)?), &ingress)?;
    }
    Ok(())
}

/// This binary as one side of the mesh.
fn side(side: &str, config: &Path) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg(side).arg("--config").arg(config);
    Ok(command)
}

/// JSON is YAML, and quotes what must be quoted.
fn write_config(path: &Path, config: &Value) -> anyhow::Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(config)?).with_context(|| path.display().to_string())
}

fn tls(layout: &Layout, owner: &str) -> Value {
    let directory = layout.certificates(owner);
    let file = |name: &str| directory.join(name).display().to_string();
    json!({"cert": file("tls.crt"), "key": file("tls.key"), "ca": file("ca.crt")})
}

fn bucket(layout: &Layout, cluster: &ClusterLayout) -> Value {
    json!({"type": "FILESYSTEM", "config": {"directory": cluster.bucket(layout)}})
}

fn observee_config(layout: &Layout, cluster: &ClusterLayout) -> Value {
    let prometheus: Vec<Value> = cluster
        .replicas
        .iter()
        .map(|replica| {
            json!({
                "url": format!("http://127.0.0.1:{}", replica.port),
                "tsdb_path": cluster.data(layout, replica.number),
                "min_time": format!("-{SIDECAR_HOURS}h"),
                "heartbeat_interval": "5s",
                "ship_interval": "5s",
            })
        })
        .collect();
    json!({
        "cluster": cluster.name,
        "http_address": format!("127.0.0.1:{}", cluster.observee_http_port),
        "grpc_address": format!("127.0.0.1:{}", cluster.observee_grpc_port),
        "tls": tls(layout, &cluster.name),
        "prometheus": prometheus,
        "bucket": bucket(layout, cluster),
    })
}

/// A gateway lists a bucket whole when it begins, and then for half an hour its end only: a block of the morning that is shipped after one of the evening was
/// listed would be found too late for a demo.
async fn wait_until_shipped(
    layout: &Layout,
    history: TimeRange,
    children: &mut Children,
) -> anyhow::Result<()> {
    let blocks = usize::try_from((history.max_ms + 1 - history.min_ms) / BLOCK_RANGE_MS)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    for cluster in &layout.clusters {
        while shipped(&cluster.bucket(layout)) < blocks * cluster.replicas.len() {
            if let Some(ended) = children.ended() {
                bail!("{ended} while blocks were shipped");
            }
            if Instant::now() > deadline {
                bail!("not every block of {} was shipped within {} s", cluster.name, READY_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// How many blocks are whole in a bucket that is a directory.
fn shipped(bucket: &Path) -> usize {
    let entries = std::fs::read_dir(bucket).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().join("meta.json").exists()).count()
}

async fn start_observer(
    layout: &Layout,
    http_address: &str,
    children: &mut Children,
) -> anyhow::Result<String> {
    let address = concrete_address(http_address)?;
    let clusters: Vec<Value> = layout
        .clusters
        .iter()
        .map(|cluster| {
            json!({
                "name": cluster.name,
                "address": format!("127.0.0.1:{}", cluster.ingress_port),
                "server_name": cluster.server_name(),
                "bucket": bucket(layout, cluster),
            })
        })
        .collect();
    let config = json!({
        "http_address": address,
        "tls": tls(layout, "observer"),
        "replica_labels": [REPLICA_LABEL],
        "data_dir": layout.directory.join("observer"),
        "sync_interval": "1s",
        "info_interval": "1s",
        // A cluster that is killed refuses at once; one that is only slow, on a busy machine, is not taken for lost.
        "response_timeout": "5s",
        "clusters": clusters,
    });
    for cluster in &layout.clusters {
        // The gateways may look before the first block is shipped.
        std::fs::create_dir_all(cluster.bucket(layout))?;
    }
    let path = layout.directory.join("observer.yaml");
    write_config(&path, &config)?;
    children.start("observer", side("observer", &path)?, &layout.logs())?;
    Ok(format!("http://{address}"))
}

/// Port 0 becomes a free one: the URL is printed before the observer could say which it took.
fn concrete_address(address: &str) -> anyhow::Result<String> {
    match address.strip_suffix(":0") {
        Some(host) => Ok(format!("{host}:{}", free_port().context(NO_PORT)?)),
        None => Ok(address.to_owned()),
    }
}

fn client(url: &str) -> anyhow::Result<HttpClient> {
    Ok(HttpClient::new(HttpClientConfig::new(url))?)
}

/// Waits until fresh data and the whole history of every cluster can be asked for.
async fn wait_until_complete(
    started: Instant,
    layout: &Layout,
    url: &str,
    history: TimeRange,
    children: &mut Children,
) -> anyhow::Result<()> {
    let http = client(url)?;
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut last = String::new();
    loop {
        if let Some(ended) = children.ended() {
            bail!("{ended} while the mesh was starting");
        }
        let missing = match tokio::time::timeout(ANSWER_TIMEOUT, missing(layout, &http, history)).await {
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(missing))) => missing,
            Ok(Err(error)) => Missing::answer(format!("{error:#}")),
            Err(_) => Missing::answer(format!("none within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        if missing.what != last {
            progress(started, &format!("waiting for {}", missing.what));
            last.clone_from(&missing.what);
        }
        if Instant::now() > deadline {
            bail!(
                "the mesh was not complete after {} s; missing: {} ({})",
                READY_TIMEOUT.as_secs(),
                missing.what,
                missing.detail
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the mesh still lacks.
struct Missing {
    what: String,
    detail: String,
}

impl Missing {
    fn answer(detail: String) -> Self {
        Self { what: "the observer's answer".to_owned(), detail }
    }
}

/// What cannot be asked for yet: a cluster's present, or some sample of some replica's history.
async fn missing(layout: &Layout, http: &HttpClient, history: TimeRange) -> anyhow::Result<Option<Missing>> {
    // Whether every cluster answers; a real Prometheus first scrapes five seconds after its start.
    if let Some(warning) = ask(http, &Question::instant(MACHINES_UP, now_ms(), true)).await?.warnings.first()
    {
        return Ok(Some(Missing { what: "every cluster to answer".to_owned(), detail: warning.clone() }));
    }
    // Every sample is counted: the sidecars alone give some of the hour in which their part begins.
    for end_ms in (history.min_ms - 1 + HOUR_MS..=history.max_ms).step_by(HOUR_MS as usize) {
        let old = ask(http, &Question::instant(SAMPLES_HELD, end_ms, false)).await?.by_cluster;
        for cluster in &layout.clusters {
            let samples: f64 =
                cluster.fleets().map(|fleet| oracle::count(&fleet, "up", end_ms, HOUR_MS)).sum();
            if old.get(&cluster.name) != Some(&vec![samples]) {
                let what = format!("the history of {}", cluster.name);
                return Ok(Some(Missing { what, detail: format!("the hour before {end_ms} ms") }));
            }
        }
    }
    Ok(None)
}

impl Mesh {
    /// Waits until every machine of every cluster was scraped.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_for_first_scrapes(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = ask(&self.http, &Question::instant(MACHINES_UP, now_ms(), true)).await;
            let is_up = |cluster: &ClusterLayout| {
                answer.as_ref().is_ok_and(|answer| {
                    answer.by_cluster.get(&cluster.name) == Some(&vec![f64::from(cluster.instances)])
                })
            };
            match self.layout.clusters.iter().find(|cluster| !is_up(cluster)) {
                None => return Ok(()),
                Some(cluster) if Instant::now() > deadline => {
                    bail!(
                        "not every machine of {} was scraped within {} s",
                        cluster.name,
                        READY_TIMEOUT.as_secs()
                    );
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

/// The error with the last lines that the children logged: their directory is about to go.
fn with_logs(error: anyhow::Error, logs: &Path) -> anyhow::Error {
    const LINES: usize = 5;
    let mut text = String::new();
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        let content = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let lines: Vec<&str> = content.lines().collect();
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            text.push_str(&format!("\n  {}: {line}", entry.file_name().to_string_lossy()));
        }
    }
    error.context(format!("starting the demo mesh; its parts said last:{text}\n"))
}
