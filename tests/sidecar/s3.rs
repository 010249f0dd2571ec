//! An S3 bucket in memory that kills the process that uses it, at a request of one's choice.
//!
//! Only what a shipper asks for: HEAD, GET, PUT and a listing by directories. Signatures are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use parallax_net::HttpServer;
use rustix::process::{Pid, Signal, kill_process};
use tokio_util::sync::CancellationToken;

pub const BUCKET: &str = "blocks";

/// When to kill, counted in requests from now, and whether what was asked for is done before.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    pub requests_left: usize,
    pub after: bool,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Bytes>,
    /// What was written into blocks that were whole already.
    late_writes: Vec<String>,
    process: Option<Pid>,
    crash: Option<Crash>,
}

#[derive(Clone)]
pub struct Bucket {
    contents: Arc<Mutex<Contents>>,
    pub address: String,
}

impl Bucket {
    pub async fn start(stop: &CancellationToken) -> Self {
        let server = HttpServer::bind("127.0.0.1:0", "s3").await.unwrap();
        let bucket = Self { contents: Arc::default(), address: server.local_addr().to_string() };
        let router = Router::new().fallback(answer).with_state(bucket.clone());
        tokio::spawn(server.serve(router, stop.clone()));
        bucket
    }

    /// Empties the bucket.
    pub fn clear(&self) {
        *self.contents.lock().unwrap() = Contents::default();
    }

    /// The process to kill, and when.
    pub fn arm(&self, process: u32, crash: Option<Crash>) {
        let mut contents = self.contents.lock().unwrap();
        contents.process = i32::try_from(process).ok().and_then(Pid::from_raw);
        contents.crash = crash;
    }

    pub fn objects(&self) -> BTreeMap<String, Bytes> {
        self.contents.lock().unwrap().objects.clone()
    }

    pub fn late_writes(&self) -> Vec<String> {
        self.contents.lock().unwrap().late_writes.clone()
    }
}

impl Contents {
    /// Whether this request is the one; it is only once.
    fn is_due(&mut self, after: bool) -> bool {
        match &mut self.crash {
            Some(crash) if crash.requests_left == 0 && crash.after == after => self.crash.take().is_some(),
            Some(crash) if after => {
                crash.requests_left = crash.requests_left.saturating_sub(1);
                false
            }
            _ => false,
        }
    }

    fn kill(&self) {
        if let Some(process) = self.process {
            kill_process(process, Signal::KILL).unwrap();
        }
    }

    fn carry_out(&mut self, method: &Method, uri: &Uri, body: Bytes) -> Response {
        let key = uri.path().strip_prefix(&format!("/{BUCKET}")).unwrap().trim_start_matches('/').to_owned();
        match *method {
            Method::PUT => {
                let block = key.split('/').next().unwrap_or_default();
                if self.objects.contains_key(&format!("{block}/meta.json")) {
                    self.late_writes.push(key.clone());
                }
                self.objects.insert(key, body);
                ([("etag", "\"x\"")], "").into_response()
            }
            Method::GET if uri.query().unwrap_or_default().contains("list-type=2") => self.list(),
            Method::GET | Method::HEAD => match self.objects.get(&key) {
                None => StatusCode::NOT_FOUND.into_response(),
                Some(bytes) => {
                    let headers = [("etag", "\"x\""), ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")];
                    (headers, bytes.clone()).into_response()
                }
            },
            _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        }
    }

    /// The directories at the top.
    fn list(&self) -> Response {
        let names: BTreeSet<&str> = self.objects.keys().filter_map(|key| key.split('/').next()).collect();
        let prefix = |name: &&str| format!("<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>");
        let all: String = names.iter().map(prefix).collect();
        ([("content-type", "application/xml")], format!("<ListBucketResult>{all}</ListBucketResult>"))
            .into_response()
    }
}

async fn answer(State(bucket): State<Bucket>, method: Method, uri: Uri, body: Bytes) -> Response {
    let (response, killed) = {
        let mut contents = bucket.contents.lock().unwrap();
        if contents.is_due(false) {
            contents.kill();
            (None, true)
        } else {
            let response = contents.carry_out(&method, &uri, body);
            let killed = contents.is_due(true);
            if killed {
                contents.kill();
            }
            (Some(response), killed)
        }
    };
    match response {
        Some(response) if !killed => response,
        // Nobody is there to hear it.
        _ => std::future::pending().await,
    }
}
