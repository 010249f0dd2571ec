//! What gRPC calls cost, under the names that go-grpc-prometheus gave them and that Thanos' dashboards ask for.
//!
//! Invariants:
//! - A call counts once as started and once as handled, whatever becomes of it: by the status in its head, its trailers or its error; one that is dropped
//!   before it has a status was canceled, or its deadline has passed.
//! - Labels are bounded: a method that is not in the table that a server or client was given is `unknown`.
//! - Counters are looked up once per method. A call costs one look at a table, two at the clock and a few atomic additions; a frame costs nothing but a call.
//!
//! Source of names and labels: go-grpc-middleware, `providers/prometheus`. The bounds of the histograms are those that Thanos sets.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use parallax_telemetry::Metrics;
use prometheus_client::encoding::{EncodeLabel as _, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tonic::Code;

mod body;
mod client;

pub use client::{ClientCalls, EndpointCalls};

/// The methods that are told apart: the path of each, such as `/thanos.Store/Series`, and its type: `unary`, `server_stream`, `client_stream` or `bidi_stream`.
pub type RpcMethods = &'static [(&'static str, &'static str)];

const UNKNOWN: &str = "unknown";
/// Services of gRPC itself begin like this; their series begin with their first call.
const PLUMBING: &str = "/grpc.";
/// A deadline is written into a call's head a little before the call is counted as begun: at most this, or so large a share of the time allowed.
const DEADLINE_SLACK: Duration = Duration::from_millis(5);
const DEADLINE_SLACK_SHARE: u32 = 10;
const TIMEOUT_HEADER: &str = "grpc-timeout";
/// By the gRPC specification.
const MAX_TIMEOUT_DIGITS: usize = 8;

/// Upper bounds of a server's histogram, in seconds; a client's has those of [`CLIENT_BOUNDS_SECONDS`] as well.
const SERVER_BOUNDS_SECONDS: [f64; 14] =
    [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0];
const CLIENT_BOUNDS_SECONDS: [f64; 3] = [240.0, 360.0, 720.0];

/// The codes as Go writes them, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CallLabels {
    kind: &'static str,
    service: &'static str,
    method: &'static str,
    code: Option<&'static str>,
    cluster: Option<Arc<str>>,
}

impl CallLabels {
    fn of((path, kind): (&'static str, &'static str), cluster: Option<Arc<str>>) -> Self {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((UNKNOWN, UNKNOWN));
        Self { kind, service, method, code: None, cluster }
    }
}

impl EncodeLabelSet for CallLabels {
    /// Without the labels that it does not have: a server's series have exactly those of Thanos.
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let labels = [
            ("grpc_type", Some(self.kind)),
            ("grpc_service", Some(self.service)),
            ("grpc_method", Some(self.method)),
            ("grpc_code", self.code),
            ("cluster", self.cluster.as_deref()),
        ];
        for (name, value) in labels {
            let Some(value) = value else { continue };
            (name, value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
struct Families {
    started: Family<CallLabels, Counter>,
    handled: Family<CallLabels, Counter>,
    seconds: Family<CallLabels, Histogram>,
}

impl Families {
    fn of_servers(metrics: &Metrics) -> Self {
        Self {
            started: metrics.register("grpc_server_started", "Calls that came in", Family::default()),
            handled: metrics.register(
                "grpc_server_handled",
                "Calls that ended, by the code of their status",
                Family::default(),
            ),
            seconds: metrics.register(
                "grpc_server_handling_seconds",
                "How long calls took, from their head to their last frame",
                Family::new_with_constructor(|| Histogram::new(SERVER_BOUNDS_SECONDS)),
            ),
        }
    }

    fn of_clients(metrics: &Metrics) -> Self {
        let make: fn() -> Histogram =
            || Histogram::new(SERVER_BOUNDS_SECONDS.into_iter().chain(CLIENT_BOUNDS_SECONDS));
        Self {
            started: metrics.register("grpc_client_started", "Calls to endpoints", Family::default()),
            handled: metrics.register(
                "grpc_client_handled",
                "Calls to endpoints that ended, by the code of their status",
                Family::default(),
            ),
            seconds: metrics.register(
                "grpc_client_handling_seconds",
                "How long calls to endpoints took, from their head to their last frame",
                Family::new_with_constructor(make),
            ),
        }
    }
}

/// The counters of one server, or of the calls to the endpoints of one cluster.
pub(crate) struct Calls {
    families: Families,
    methods: HashMap<&'static str, Method>,
    unknown: Method,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("cluster", &self.unknown.labels.cluster).finish_non_exhaustive()
    }
}

/// One method; its series begin when it is first called.
struct Method {
    labels: CallLabels,
    counters: OnceLock<Arc<Counters>>,
}

impl Method {
    fn new(labels: CallLabels) -> Self {
        Self { labels, counters: OnceLock::new() }
    }

    fn counters(&self, families: &Families) -> &Arc<Counters> {
        self.counters.get_or_init(|| {
            Arc::new(Counters {
                started: families.started.get_or_create_owned(&self.labels),
                seconds: families.seconds.get_or_create_owned(&self.labels),
                handled: [const { OnceLock::new() }; CODES.len()],
                by_code: families.handled.clone(),
                labels: self.labels.clone(),
            })
        })
    }
}

struct Counters {
    started: Counter,
    seconds: Histogram,
    handled: [OnceLock<Counter>; CODES.len()],
    by_code: Family<CallLabels, Counter>,
    labels: CallLabels,
}

impl Counters {
    fn handled(&self, code: Code) -> Option<&Counter> {
        let index = usize::try_from(i32::from(code)).ok()?;
        let (counter, name) = (self.handled.get(index)?, CODES.get(index)?);
        Some(counter.get_or_init(|| {
            self.by_code.get_or_create_owned(&CallLabels { code: Some(name), ..self.labels.clone() })
        }))
    }
}

impl Calls {
    /// Of a server. Each method's series are there from the start, for every code, so that a rate sees the first error.
    pub(crate) fn of_server(metrics: &Metrics, methods: RpcMethods) -> Arc<Self> {
        let calls = Self::new(Families::of_servers(metrics), methods, None);
        for (_, method) in calls.methods.iter().filter(|(path, _)| !path.starts_with(PLUMBING)) {
            let counters = method.counters(&calls.families);
            for number in 0..CODES.len() {
                let code = i32::try_from(number).map_or(Code::Unknown, Code::from_i32);
                counters.handled(code);
            }
        }
        Arc::new(calls)
    }

    fn new(families: Families, methods: RpcMethods, cluster: Option<&Arc<str>>) -> Self {
        let labels = |method| CallLabels::of(method, cluster.cloned());
        let unknown = Method::new(labels(("", UNKNOWN)));
        let methods = methods.iter().map(|method| (method.0, Method::new(labels(*method)))).collect();
        Self { families, methods, unknown }
    }

    /// Counts a call as started. Its end is counted when it has a status, or with the returned value.
    pub(crate) fn begin(&self, path: &str, headers: &HeaderMap) -> Call {
        let method = self.methods.get(path).unwrap_or(&self.unknown);
        let counters = Arc::clone(method.counters(&self.families));
        counters.started.inc();
        Call { counters, began: Instant::now(), timeout: timeout_of(headers), is_open: true }
    }
}

/// A call that has begun.
pub(crate) struct Call {
    counters: Arc<Counters>,
    began: Instant,
    timeout: Option<Duration>,
    is_open: bool,
}

impl Call {
    /// Counts the end. Only the first one counts.
    pub(crate) fn ended(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_open, false) {
            return;
        }
        if let Some(counter) = self.counters.handled(code) {
            counter.inc();
        }
        self.counters.seconds.observe(self.began.elapsed().as_secs_f64());
    }

    /// What a call ended with that nobody finished.
    fn code_when_dropped(&self) -> Code {
        let is_late = |timeout: Duration| {
            let slack = DEADLINE_SLACK.min(timeout / DEADLINE_SLACK_SHARE);
            self.began.elapsed() >= timeout.saturating_sub(slack)
        };
        if std::thread::panicking() {
            Code::Internal
        } else if self.timeout.is_some_and(is_late) {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.is_open {
            self.ended(self.code_when_dropped());
        }
    }
}

/// The status in a head or in trailers.
fn code_of(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// How long a call may take; a malformed header is no limit, as for those who answer it.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > MAX_TIMEOUT_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
