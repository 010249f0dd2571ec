//! The Go program `tests/peers` as a child: the real Prometheus engine and the real Thanos, a line of JSON in, a line of JSON out.
//!
//! A peer never outlives its [`Peer`]. Everything here blocks: a test asks one peer at a time.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The program: what `PARALLAX_PEERS` names, or else what `tests/run` built into the target directory. `None` means: leave
/// the test out, which is said on its output.
///
/// # Panics
/// Where `CI=true` and there is no program: there, nothing may be left out unnoticed.
pub fn program_or_leave_out(what: &str) -> Option<PathBuf> {
    let beside_profile =
        Path::new(env!("CARGO_BIN_EXE_parallax")).ancestors().nth(2).map(|target| target.join("peers"));
    let named = std::env::var_os("PARALLAX_PEERS").map(PathBuf::from);
    let found = named.or(beside_profile).filter(|program| program.is_file());
    if found.is_none() {
        let in_ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!in_ci, "{what} needs the Go program tests/peers, and CI has to have it: run tests/run");
        println!("left out: {what} (no Go program tests/peers; tests/run builds it)");
    }
    found
}

/// A running peer that answers questions.
pub struct Peer {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `program subcommand arguments…`, with more variables in its environment.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        program: &Path,
        subcommand: &str,
        arguments: &[String],
        environment: &[(&str, PathBuf)],
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(program)
            .arg(subcommand)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let questions = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?);
        Ok(Self { child, questions, answers })
    }

    /// Thanos' store gateway over a filesystem bucket, and its address.
    pub fn store(program: &Path, bucket: &Path) -> anyhow::Result<(Self, String)> {
        let mut store = Self::start(program, "store", &[bucket.display().to_string()], &[])?;
        let address = store.line()?.trim().to_owned();
        Ok((store, address))
    }

    /// What Thanos' sidecar has beside its store, over a Prometheus, and its address.
    pub fn side(program: &Path, url: &str, external_labels: &Value) -> anyhow::Result<(Self, String)> {
        let mut side = Self::start(program, "side", &[url.to_owned(), external_labels.to_string()], &[])?;
        let address = side.line()?.trim().to_owned();
        Ok((side, address))
    }

    /// Thanos' proxies of the small services over StoreAPI addresses.
    pub fn ask_sides(program: &Path, addresses: &[&str]) -> anyhow::Result<Self> {
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        Self::start(program, "asksides", &addresses, &[])
    }

    /// Thanos' querier over StoreAPI addresses.
    pub fn query(program: &Path, addresses: &[&str]) -> anyhow::Result<Self> {
        let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
        Self::start(program, "query", &addresses, &[])
    }

    /// Thanos' remote engine, which lets the querier at `address` evaluate.
    pub fn remote(program: &Path, address: &str) -> anyhow::Result<Self> {
        Self::start(program, "remote", &[address.to_owned()], &[])
    }

    /// Prometheus' compactor: the name of the one block that it makes of some in a directory.
    ///
    /// # Errors
    /// If it makes none.
    pub fn compact(program: &Path, into: &Path, blocks: &[PathBuf]) -> anyhow::Result<String> {
        let mut arguments = vec![into.display().to_string()];
        arguments.extend(blocks.iter().map(|block| block.display().to_string()));
        Ok(serde_json::from_str(&Self::start(program, "compact", &arguments, &[])?.line()?)?)
    }

    /// Thanos' downsampling of a block: the name of what it makes in a directory.
    ///
    /// # Errors
    /// If it makes nothing.
    pub fn downsample(
        program: &Path,
        into: &Path,
        resolution_ms: i64,
        block: &Path,
    ) -> anyhow::Result<String> {
        let arguments = [into.display().to_string(), resolution_ms.to_string(), block.display().to_string()];
        Ok(serde_json::from_str(&Self::start(program, "downsample", &arguments, &[])?.line()?)?)
    }

    /// Prometheus' engine over block directories, or directories of them.
    pub fn promql(program: &Path, paths: &[&Path]) -> anyhow::Result<Self> {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        Self::start(program, "promql", &paths, &[])
    }

    /// Thanos' StoreAPI client.
    pub fn series(program: &Path, address: &str, environment: &[(&str, PathBuf)]) -> anyhow::Result<Self> {
        Self::start(program, "series", &[address.to_owned()], environment)
    }

    /// What Thanos' Info client makes of an address.
    ///
    /// # Errors
    /// If Info is refused.
    pub fn info(program: &Path, address: &str, environment: &[(&str, PathBuf)]) -> anyhow::Result<Value> {
        Self::start(program, "info", &[address.to_owned()], environment)?.answer()
    }

    /// The functions and aggregations of Prometheus' parser.
    ///
    /// # Errors
    /// If the program does not tell them.
    pub fn language(program: &Path) -> anyhow::Result<Value> {
        Self::start(program, "language", &["all".to_owned()], &[])?.answer()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// If the peer has ended.
    pub fn ask(&mut self, question: &Value) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.ask_for_line(question)?)?)
    }

    /// As [`Peer::ask`], with the answer as it came.
    ///
    /// # Errors
    /// If the peer has ended.
    pub fn ask_for_line(&mut self, question: &Value) -> anyhow::Result<String> {
        writeln!(self.questions, "{question}").context("asking a peer")?;
        self.questions.flush().context("asking a peer")?;
        self.line().with_context(|| format!("asking a peer {question}"))
    }

    fn answer(&mut self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.line()?)?)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("the peer ended with {}; its standard error says why", self.child.wait()?);
        }
        Ok(line)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
