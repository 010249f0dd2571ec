//! `parallax store` and `parallax query` as processes (or a real `thanos`' or `prometheus`' in their place), and questions to their HTTP API.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use http::StatusCode;
use parallax_net::{HttpClient, HttpClientConfig, HttpResponse};
use parallax_testkit::process::{Process, free_port};
use serde_json::Value;
use tempfile::TempDir;

/// Far more than a start takes, on a machine that also compiles.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Longer than the longest query of a bench.
const ANSWER_LIMIT: Duration = Duration::from_secs(300);
/// More than any answer takes.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A running component.
pub struct Component {
    process: Process,
    /// Address of its StoreAPI.
    pub grpc: String,
    /// Address of its HTTP server.
    pub http: String,
    client: HttpClient,
    _dir: TempDir,
}

impl Component {
    /// `parallax store` over a filesystem bucket. Blocks with deletion marks are served, however old the marks are.
    pub async fn store(program: &Path, bucket: &Path, more: &[String]) -> anyhow::Result<Self> {
        let bucket = serde_json::json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
        let mut arguments =
            vec![format!("--objstore.config={bucket}"), "--ignore-deletion-marks-delay=876000h".to_owned()];
        arguments.extend_from_slice(more);
        Self::start(program, "store", arguments, true).await
    }

    /// `parallax query` over StoreAPI addresses.
    pub async fn query(program: &Path, endpoints: &[&str], more: &[String]) -> anyhow::Result<Self> {
        let mut arguments: Vec<String> =
            endpoints.iter().map(|endpoint| format!("--endpoint={endpoint}")).collect();
        arguments.push("--query.replica-label=prometheus_replica".to_owned());
        let features =
            ["promql-experimental-functions", "promql-duration-expr", "promql-extended-range-selectors"];
        arguments.extend(features.iter().map(|feature| format!("--enable-feature={feature}")));
        arguments.extend_from_slice(more);
        Self::start(program, "query", arguments, false).await
    }

    /// `parallax observer` over the history of the cluster eu-1: store gateway and querier in one process.
    pub async fn observer(program: &Path, bucket: &Path) -> anyhow::Result<Self> {
        let bucket = serde_json::json!({"type": "FILESYSTEM", "config": {"directory": bucket}});
        let file = serde_json::json!({
            "replica_labels": ["prometheus_replica"],
            "clusters": [{"name": "eu-1", "bucket": bucket}],
        });
        Self::observer_of(program, &file).await
    }

    /// `parallax observer` with a file, to which its address and its directory are added.
    pub async fn observer_of(program: &Path, file: &Value) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let http = format!("127.0.0.1:{}", free_port()?);
        let mut file = file.clone();
        file["http_address"] = http.as_str().into();
        file["data_dir"] = dir.path().join("data").display().to_string().into();
        let path = dir.path().join("observer.yaml");
        std::fs::write(&path, file.to_string())?;
        let mut child = Command::new(program);
        child.arg("observer").arg("--config").arg(&path);
        Self::spawn(child, dir, http, String::new()).await
    }

    /// `parallax sidecar` beside the Prometheus at `url`.
    pub async fn sidecar(program: &Path, url: &str) -> anyhow::Result<Self> {
        Self::start(program, "sidecar", vec![format!("--prometheus.url={url}")], false).await
    }

    /// A real `prometheus` over the blocks of a bucket. It scrapes nothing, keeps everything and compacts nothing: it serves the same files.
    pub async fn prometheus(program: &Path, bucket: &Path, more: &[String]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        link_blocks(bucket, &data)?;
        let config = dir.path().join("prometheus.yml");
        let external = "{cluster: eu-1, prometheus_replica: prometheus-0}";
        std::fs::write(&config, format!("global: {{scrape_interval: 15s, external_labels: {external}}}\n"))?;
        let http = format!("127.0.0.1:{}", free_port()?);
        let mut child = Command::new(program);
        child.arg(format!("--config.file={}", config.display()));
        child.arg(format!("--storage.tsdb.path={}", data.display()));
        child.arg(format!("--web.listen-address={http}"));
        child.args(["--storage.tsdb.retention.time=100y", "--no-storage.tsdb.allow-overlapping-compaction"]);
        child.args(["--storage.tsdb.min-block-duration=2h", "--storage.tsdb.max-block-duration=2h"]);
        child.args(more);
        Self::spawn(child, dir, http, String::new()).await
    }

    /// `program command`, with addresses of its own and these arguments.
    ///
    /// # Errors
    /// If it does not become ready.
    pub async fn start(
        program: &Path,
        command: &str,
        arguments: Vec<String>,
        has_data: bool,
    ) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let http = format!("127.0.0.1:{}", free_port()?);
        let grpc = format!("127.0.0.1:{}", free_port()?);
        let mut child = Command::new(program);
        child.arg(command).args(arguments);
        child.args([format!("--http-address={http}"), format!("--grpc-address={grpc}")]);
        if has_data {
            child.arg("--data-dir").arg(dir.path().join("data"));
        }
        Self::spawn(child, dir, http, grpc).await
    }

    async fn spawn(mut child: Command, dir: TempDir, http: String, grpc: String) -> anyhow::Result<Self> {
        let mut process = Process::spawn(&mut child, &dir.path().join("log"))?;
        process.wait_for_http(&format!("http://{http}/-/ready"), START_LIMIT).await?;
        let client = HttpClientConfig {
            response_timeout: ANSWER_LIMIT,
            ..HttpClientConfig::new(format!("http://{http}"))
        };
        Ok(Self { process, grpc, http, client: HttpClient::new(client)?, _dir: dir })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks the HTTP API by GET, where a form is not taken.
    ///
    /// # Errors
    /// As [`Component::ask`].
    pub async fn get(&self, path: &str, params: &[(String, String)]) -> anyhow::Result<(StatusCode, Value)> {
        let params: Vec<(&str, &str)> =
            params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let response = self.client.get(path, &params).await?;
        let status = response.status();
        Ok((status, serde_json::from_slice(&response.bytes(MAX_ANSWER_BYTES).await?)?))
    }

    /// What is served at `path` as text.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn text(&self, path: &str) -> anyhow::Result<(StatusCode, String)> {
        let response = self.client.get(path, &[]).await?;
        let status = response.status();
        Ok((status, String::from_utf8_lossy(&response.bytes(MAX_ANSWER_BYTES).await?).into_owned()))
    }

    /// Asks the HTTP API.
    ///
    /// # Errors
    /// If there is no answer, or none in JSON.
    pub async fn ask(&self, path: &str, params: &[(String, String)]) -> anyhow::Result<(StatusCode, Value)> {
        let response = self.answer(path, params).await?;
        let status = response.status();
        let body = response.bytes(MAX_ANSWER_BYTES).await?;
        Ok((status, serde_json::from_slice(&body)?))
    }

    /// As [`Self::ask`], with the answer's body still to be read.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn answer(&self, path: &str, params: &[(String, String)]) -> anyhow::Result<HttpResponse> {
        let params: Vec<(&str, &str)> =
            params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Ok(self.client.post_form(path, &params).await?)
    }
}

/// Makes the blocks of a bucket a data directory of their own, without a copy of their bytes where the file system allows that.
fn link_blocks(bucket: &Path, data: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(bucket)? {
        let (from, to) = (entry?.path(), data);
        let to = to.join(from.file_name().unwrap_or_default());
        if from.is_dir() {
            link_blocks(&from, &to)?;
        } else {
            std::fs::create_dir_all(data)?;
            if std::fs::hard_link(&from, &to).is_err() {
                std::fs::copy(&from, &to)?;
            }
        }
    }
    Ok(())
}

/// The binary under test.
pub fn parallax() -> PathBuf {
    std::env::var_os("PARALLAX_BIN").map_or_else(|| env!("CARGO_BIN_EXE_parallax").into(), PathBuf::from)
}
