//! What HTTP requests cost, under the names, labels and bounds of Thanos' servers.
//!
//! Invariants: a request counts once, when its answer was sent whole or was given up, and is in flight until then. Labels are bounded: `handler` comes from
//! the route that matched, never from the path that was asked for.
//!
//! Source of names and bounds: Thanos `pkg/extprom/http`; of handlers: its `pkg/api`.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use bytes::Bytes;
use http::{Method, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parallax_telemetry::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// The handler of what no route answers.
const OTHER: &str = "other";
const OPTIONS: &str = "options";
const UNKNOWN_METHOD: &str = "unknown";
/// The code of a request whose client went away before the answer began, as in Prometheus' API.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Upper bounds, in seconds: Thanos' own.
const DURATION_BOUNDS_SECONDS: [f64; 17] =
    [0.001, 0.01, 0.1, 0.3, 0.6, 1.0, 3.0, 6.0, 9.0, 20.0, 30.0, 60.0, 90.0, 120.0, 240.0, 360.0, 720.0];

/// The same routes, counted. Handlers and layers that are added later are not.
pub fn counted(router: Router, metrics: &Metrics) -> Router {
    router.layer(from_fn_with_state(HttpMetrics::register(metrics), count))
}

async fn count(State(metrics): State<HttpMetrics>, request: Request, next: Next) -> Response {
    let answering = metrics.begin(&request);
    let response = next.run(request).await;
    answering.watch(response)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: u16,
    handler: String,
    method: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlightLabels {
    handler: String,
    method: &'static str,
}

#[derive(Clone)]
struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RequestLabels, Histogram>,
    request_bytes: Family<RequestLabels, Histogram>,
    response_bytes: Family<RequestLabels, Histogram>,
    in_flight: Family<FlightLabels, Gauge>,
}

impl HttpMetrics {
    fn register(metrics: &Metrics) -> Self {
        let bytes = || Family::new_with_constructor(size_histogram as fn() -> Histogram);
        Self {
            requests: metrics.register("http_requests", "HTTP requests", Family::default()),
            seconds: metrics.register(
                "http_request_duration_seconds",
                "How long HTTP requests took, until their answer was sent",
                Family::new_with_constructor(|| Histogram::new(DURATION_BOUNDS_SECONDS)),
            ),
            request_bytes: metrics.register(
                "http_request_size_bytes",
                "Size of HTTP requests, heads included",
                bytes(),
            ),
            response_bytes: metrics.register(
                "http_response_size_bytes",
                "Size of the bodies that HTTP requests were answered with",
                bytes(),
            ),
            in_flight: metrics.register(
                "http_inflight_requests",
                "HTTP requests that are answered now",
                Family::default(),
            ),
        }
    }

    fn begin(&self, request: &Request) -> Answering {
        let handler = match request.extensions().get::<MatchedPath>() {
            // What browsers ask before a request is no request of that kind.
            _ if request.method() == Method::OPTIONS => OPTIONS.to_owned(),
            Some(path) => handler_of(path.as_str()),
            None => OTHER.to_owned(),
        };
        let method = method_of(request.method());
        let in_flight =
            self.in_flight.get_or_create_owned(&FlightLabels { handler: handler.clone(), method });
        in_flight.inc();
        Answering {
            metrics: self.clone(),
            labels: RequestLabels {
                code: CLIENT_CLOSED_REQUEST,
                handler,
                method: method.to_ascii_lowercase(),
            },
            in_flight,
            began: Instant::now(),
            request_bytes: size_of(request),
            sent_bytes: 0,
        }
    }
}

fn size_histogram() -> Histogram {
    Histogram::new(exponential_buckets(64.0, 2.0, 10))
}

/// The name of a route's handler: Thanos', where it has the same one.
fn handler_of(route: &str) -> String {
    let (_, path) = route.rsplit_once("/api/v1/").unwrap_or(("", route));
    if path.contains("{*") {
        return OTHER.to_owned();
    }
    match path {
        "labels" => "label_names".to_owned(),
        "query_exemplars" => "exemplars".to_owned(),
        "status/runtimeinfo" => "status_runtime".to_owned(),
        "status/buildinfo" => "status_build".to_owned(),
        _ => {
            let is_word = |part: &&str| !part.is_empty() && *part != "-" && !part.starts_with('{');
            let words: Vec<&str> = path.split('/').filter(is_word).collect();
            if words.is_empty() { "root".to_owned() } else { words.join("_") }
        }
    }
}

fn method_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::PATCH => "PATCH",
        Method::TRACE => "TRACE",
        _ => UNKNOWN_METHOD,
    }
}

/// About how large a request is on the wire.
fn size_of(request: &Request) -> u64 {
    let fields = request.headers().iter();
    let head: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
    let line =
        request.method().as_str().len() + request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let body: u64 = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    body.saturating_add((head + line) as u64)
}

/// A request that is being answered; counted when it is dropped.
struct Answering {
    metrics: HttpMetrics,
    labels: RequestLabels,
    in_flight: Gauge,
    began: Instant,
    request_bytes: u64,
    sent_bytes: u64,
}

impl fmt::Debug for Answering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answering").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl Answering {
    fn watch(mut self, response: Response) -> Response {
        self.labels.code = response.status().as_u16();
        response.map(|body| Body::new(Watched { body, answering: self }))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.in_flight.dec();
        let Self { metrics, labels, .. } = &*self;
        metrics.requests.get_or_create(labels).inc();
        metrics.seconds.get_or_create(labels).observe(self.began.elapsed().as_secs_f64());
        metrics.request_bytes.get_or_create(labels).observe(self.request_bytes as f64);
        metrics.response_bytes.get_or_create(labels).observe(self.sent_bytes as f64);
    }
}

/// The body of an answer: a request lasts until it was sent.
struct Watched {
    body: Body,
    answering: Answering,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.answering.sent_bytes = self.answering.sent_bytes.saturating_add(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use http::StatusCode;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    fn router(metrics: &Metrics) -> Router {
        let hangs = || std::future::pending::<&'static str>();
        let api = Router::new()
            .route(
                "/api/v1/query",
                get(|| async { "12345" }).post(|| async { StatusCode::UNPROCESSABLE_ENTITY }),
            )
            .route("/api/v1/label/{name}/values", get(|| async { "" }))
            .route("/api/v1/slow", get(hangs))
            .route("/api/v1/{*rest}", post(|| async { StatusCode::NOT_FOUND }));
        let routes = Router::new().route("/-/ready", get(|| async { "OK" }));
        counted(routes.merge(Router::new().nest("/thanos", api.clone())).merge(api), metrics)
    }

    fn request(method: &str, path: &str) -> Request {
        Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
    }

    async fn ask(router: &Router, method: &str, path: &str) -> Bytes {
        let answer = router.clone().oneshot(request(method, path)).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    }

    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.encode().unwrap();
        assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
    }

    #[tokio::test]
    async fn requests_count_by_code_handler_and_method() {
        let metrics = Metrics::new();
        let router = router(&metrics);
        assert_eq!(ask(&router, "GET", "/api/v1/query?query=up").await, "12345");
        ask(&router, "GET", "/thanos/api/v1/query").await;
        ask(&router, "POST", "/api/v1/query").await;
        ask(&router, "GET", "/api/v1/label/job/values").await;
        ask(&router, "GET", "/-/ready").await;
        has(&metrics, "http_requests_total{code=\"200\",handler=\"query\",method=\"get\"} 2");
        has(&metrics, "http_requests_total{code=\"422\",handler=\"query\",method=\"post\"} 1");
        has(&metrics, "http_requests_total{code=\"200\",handler=\"label_values\",method=\"get\"} 1");
        has(&metrics, "http_requests_total{code=\"200\",handler=\"ready\",method=\"get\"} 1");
        has(&metrics, "http_request_duration_seconds_count{code=\"200\",handler=\"query\",method=\"get\"} 2");
        has(&metrics, "http_response_size_bytes_sum{code=\"200\",handler=\"query\",method=\"get\"} 10.0");
        has(&metrics, "http_inflight_requests{handler=\"query\",method=\"GET\"} 0");
    }

    #[tokio::test]
    async fn whatever_is_asked_for_the_labels_are_few() {
        let metrics = Metrics::new();
        let router = router(&metrics);
        for number in 0..50 {
            ask(&router, "GET", &format!("/nowhere/{number}")).await;
            ask(&router, "POST", &format!("/api/v1/nothing/{number}")).await;
            ask(&router, &format!("M{number}"), "/-/ready").await;
        }
        has(&metrics, "http_requests_total{code=\"404\",handler=\"other\",method=\"get\"} 50");
        has(&metrics, "http_requests_total{code=\"404\",handler=\"other\",method=\"post\"} 50");
        has(&metrics, "http_requests_total{code=\"405\",handler=\"ready\",method=\"unknown\"} 50");
        let text = metrics.encode().unwrap();
        assert_eq!(text.lines().filter(|line| line.starts_with("http_requests_total")).count(), 3, "{text}");
    }

    #[tokio::test]
    async fn a_request_is_in_flight_until_its_answer_was_sent_or_given_up() {
        let metrics = Metrics::new();
        let router = router(&metrics);
        let answer = router.clone().oneshot(request("GET", "/api/v1/query")).await.unwrap();
        assert_eq!(answer.body().size_hint().exact(), Some(5), "the length is still known");
        has(&metrics, "http_inflight_requests{handler=\"query\",method=\"GET\"} 1");
        drop(answer);
        has(&metrics, "http_inflight_requests{handler=\"query\",method=\"GET\"} 0");
        has(&metrics, "http_requests_total{code=\"200\",handler=\"query\",method=\"get\"} 1");

        let hanging = router.clone().oneshot(request("GET", "/api/v1/slow"));
        let given_up = tokio::time::timeout(std::time::Duration::from_millis(20), hanging).await;
        assert!(given_up.is_err());
        has(&metrics, "http_inflight_requests{handler=\"slow\",method=\"GET\"} 0");
        has(&metrics, "http_requests_total{code=\"499\",handler=\"slow\",method=\"get\"} 1");
    }

    #[test]
    fn handlers_have_thanos_names() {
        for (route, handler) in [
            ("/api/v1/query", "query"),
            ("/api/v1/query_range", "query_range"),
            ("/prefix/api/v1/labels", "label_names"),
            ("/api/v1/label/{name}/values", "label_values"),
            ("/api/v1/query_exemplars", "exemplars"),
            ("/api/v1/status/tsdb", "status_tsdb"),
            ("/api/v1/status/flags", "status_flags"),
            ("/api/v1/status/runtimeinfo", "status_runtime"),
            ("/api/v1/status/buildinfo", "status_build"),
            ("/api/v1/{*rest}", "other"),
            ("/api/v1/compactor/retry", "compactor_retry"),
            ("/-/healthy", "healthy"),
            ("/metrics", "metrics"),
            ("/", "root"),
        ] {
            assert_eq!(handler_of(route), handler, "{route}");
        }
    }
}
