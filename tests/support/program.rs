//! The binary under test as a child: with an environment of its own, on ports that it finds itself, gone with the test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parallax_testkit::process::Process;

/// Longest wait for a program that starts or ends; far beyond what it takes, also on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(25);

/// `parallax` with these arguments. Of this process' environment it gets `PATH` only: neither `PARALLAX_…` nor a log level.
pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parallax"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).args(args);
    command
}

/// What a program that ended has said.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command` to its end; one that does not end in time is killed and fails the test.
pub fn finish(command: &mut Command) -> Finished {
    // Files, not pipes: however much it says, it is never held up, and whoever it leaves behind holds up nobody who reads.
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let output = |file: &File| Stdio::from(file.try_clone().unwrap());
    let mut child =
        command.stdin(Stdio::null()).stdout(output(&stdout)).stderr(output(&stderr)).spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            None if began.elapsed() < PATIENCE => std::thread::sleep(POLL),
            ended => break ended,
        }
    };
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let finished = Finished {
        code: status.and_then(|status| status.code()),
        stdout: whole(stdout),
        stderr: whole(stderr),
    };
    assert!(status.is_some(), "process {} does not end: {command:?}: {finished:?}", child.id());
    finished
}

/// What was written into a file, from its beginning.
fn whole(mut file: File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// As [`finish`], for these arguments.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Finished {
    finish(&mut command(args))
}

/// A `parallax` that serves.
pub struct Program {
    process: Process,
    log: PathBuf,
}

impl Program {
    /// Starts it with its log in `<directory>/<name>.log`.
    pub fn start(command: &mut Command, directory: &Path, name: &str) -> Self {
        let log = directory.join(format!("{name}.log"));
        Self { process: Process::spawn(command, &log).unwrap(), log }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The base URL of its HTTP server, once that answers.
    pub async fn http(&mut self) -> String {
        let url = format!("http://{}", self.address("http server listens").await);
        self.process.wait_for_http(&format!("{url}/-/healthy"), PATIENCE).await.unwrap();
        url
    }

    /// `host:port` of its gRPC server.
    pub async fn grpc(&mut self) -> String {
        self.address("grpc server listens").await
    }

    /// Waits until `/-/ready` says so.
    pub async fn ready(&mut self) -> String {
        let url = self.http().await;
        self.process.wait_for_http(&format!("{url}/-/ready"), PATIENCE).await.unwrap();
        url
    }

    async fn address(&self, message: &str) -> String {
        let line = self.log_line(message).await;
        let (_, address) = line.split_once("address=").unwrap();
        address.split_whitespace().next().unwrap().to_owned()
    }

    /// The first line of its log that contains `text`, once there is one.
    pub async fn log_line(&self, text: &str) -> String {
        let began = Instant::now();
        loop {
            // Looked at first: what it says last is in the log then.
            let is_over = began.elapsed() >= PATIENCE || has_ended(self.id());
            let log = self.log();
            // Without what is only half written.
            let (lines, _) = log.rsplit_once('\n').unwrap_or_default();
            if let Some(line) = lines.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(!is_over, "the log never says {text:?}:\n{log}");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Whether a process is gone, or only waits for its parent to notice.
pub fn has_ended(id: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, state)| state.trim_start().starts_with('Z')),
        Err(_) => true,
    }
}
