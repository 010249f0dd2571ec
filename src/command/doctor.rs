//! `parallax doctor`: reaches endpoints step by step, and says which step fails and what usually causes it.
//!
//! For `--endpoint`s or for all clusters of an observer's file. Exit codes: 0 if all steps went well, 1 if one failed, 2 for a wrong command line.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use futures::StreamExt;
use parallax_net::inspect::{Finding, Outcome, Step, inspect};
use parallax_net::{ClientTls, Context, GrpcTarget};
use parallax_pki::ExpectedServer;
use parallax_storeapi::proto::thanos::label_matcher::Type;
use parallax_storeapi::proto::thanos::{LabelMatcher, SeriesRequest};
use parallax_storeapi::{Store, StoreClient, labels, with_deadline};
use serde_json::json;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{observer, tls};
use crate::flags::Values;
use crate::process::{self, Failure};

/// Endpoints that are looked at at once.
const MAX_AT_ONCE: usize = 16;
/// Of which time one series is asked for.
const SERIES_RANGE: Duration = Duration::from_secs(3600);
/// Label sets of an endpoint that are shown.
const MAX_SHOWN_SETS: usize = 3;

/// One endpoint to look at.
pub struct Patient {
    pub name: String,
    /// The clusters that it has to hold.
    pub clusters: Vec<String>,
    pub target: GrpcTarget,
}

/// What was found about one.
struct Report {
    name: String,
    address: String,
    findings: Vec<Finding>,
}

impl Report {
    fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.outcome != Outcome::Failed)
    }
}

pub fn run(values: Values) -> Result<(), Failure> {
    process::run(|context| async move {
        let as_json = match values.text("output").as_deref() {
            Some("table") | None => false,
            Some("json") => true,
            Some(other) => {
                return Err(Failure::usage(anyhow!("--output={other}: use table or json")));
            }
        };
        let limit = values.duration("timeout");
        let patients = patients(&values, &context).map_err(Failure::usage)?;
        let count = patients.len();
        let reports = futures::stream::iter(patients).map(|patient| examine(patient, limit));
        let reports: Vec<Report> = reports.buffered(MAX_AT_ONCE).collect().await;
        let shown = if as_json { shown_as_json(&reports) } else { shown_as_table(&reports) };
        print!("{shown}");
        let ill = reports.iter().filter(|report| !report.is_well()).count();
        if ill > 0 {
            return Err(anyhow!("{ill} of {count} endpoints cannot be used").into());
        }
        Ok(())
    })
}

fn patients(values: &Values, context: &Context) -> anyhow::Result<Vec<Patient>> {
    let credentials = tls::grpc_client(values)?;
    let server_name = values.text("grpc-client-server-name");
    let given = values.list("endpoint");
    let mut patients: Vec<Patient> = given
        .into_iter()
        .map(|address| {
            let tls = credentials.clone().map(|source| ClientTls {
                source,
                server_name: server_name.clone(),
                expected: ExpectedServer::Name,
            });
            let target = GrpcTarget { tls, ..GrpcTarget::plain(address.as_str()) };
            Patient { name: address, clusters: Vec::new(), target }
        })
        .collect();
    if let Some(path) = values.text("config") {
        patients.extend(observer::patients(&path, context)?);
    }
    ensure!(!patients.is_empty(), "give --endpoint=host:port, or --config with an observer's file");
    Ok(patients)
}

async fn examine(patient: Patient, limit: Duration) -> Report {
    let Patient { name, clusters, target } = patient;
    let mut findings = inspect(&target, limit).await;
    if findings.last().is_none_or(|finding| finding.outcome != Outcome::Failed) {
        // What stops it is among the findings.
        let _ = ask(&target, &clusters, limit, &mut findings).await;
    }
    Report { name, address: target.address, findings }
}

/// The calls, in order; the error says only that one of them failed.
async fn ask(
    target: &GrpcTarget,
    clusters: &[String],
    limit: Duration,
    findings: &mut Vec<Finding>,
) -> Result<(), ()> {
    let began = Instant::now();
    let channel = match parallax_net::connect(target) {
        Ok(channel) => channel,
        Err(error) => {
            findings.push(Finding::failed(
                Step::Health,
                began,
                error.to_string(),
                "see the address and the certificates",
            ));
            return Err(());
        }
    };
    let mut health = HealthClient::new(channel.clone());
    let checking = health.check(HealthCheckRequest::default());
    let finding =
        judge_health(began, within(limit, checking).await.map(|answer| answer.into_inner().status()));
    let failed = finding.outcome == Outcome::Failed;
    findings.push(finding);
    if failed {
        return Err(());
    }
    let store = StoreClient::new(channel);
    let began = Instant::now();
    match within(limit, store.info()).await {
        Err(status) => {
            let advice = advice(&status, "it is not a component of Thanos or Parallax, or not ready yet");
            findings.push(Finding::failed(Step::Info, began, told(&status), advice));
            return Err(());
        }
        Ok(info) => findings.push(judge_info(began, clusters, &info)),
    }
    let began = Instant::now();
    let finding = match within(limit, one_series(&store, limit)).await {
        Ok(detail) => Finding::good(Step::Series, began, detail),
        Err(status) => {
            let advice = advice(&status, "the store is up but cannot read its data: see its log");
            Finding::failed(Step::Series, began, told(&status), advice)
        }
    };
    findings.push(finding);
    Ok(())
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {limit:?}"))))
}

fn judge_health(began: Instant, answer: Result<ServingStatus, Status>) -> Finding {
    match answer {
        Ok(ServingStatus::Serving) => Finding::good(Step::Health, began, "serving"),
        Ok(other) => Finding::failed(
            Step::Health,
            began,
            other.as_str_name().to_lowercase().replace('_', " "),
            "it has started but is not ready: it may still be loading, or lack what it depends on",
        ),
        Err(status) if status.code() == Code::Unimplemented => Finding::doubtful(
            Step::Health,
            began,
            "the server has no health service",
            "an ingress may not route grpc.health.v1.Health; only calls tell then",
        ),
        Err(status) => {
            let advice = advice(&status, "an ingress may route to nothing, or ask for another authority");
            Finding::failed(Step::Health, began, told(&status), advice)
        }
    }
}

fn judge_info(
    began: Instant,
    clusters: &[String],
    info: &parallax_storeapi::proto::thanos::info::InfoResponse,
) -> Finding {
    let sets: Vec<_> = info.label_sets.iter().filter_map(|set| labels::set_from_wire(set).ok()).collect();
    let shown: Vec<String> = sets.iter().take(MAX_SHOWN_SETS).map(ToString::to_string).collect();
    let more = sets.len().saturating_sub(MAX_SHOWN_SETS);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let detail = format!("{} with {}{more}", info.component_type, shown.join(", "));
    if info.store.is_none() {
        let advice = "it answers no queries for series; is it the right component?";
        return Finding::doubtful(Step::Info, began, format!("{detail}; without a StoreAPI"), advice);
    }
    let missing = clusters.iter().find(|cluster| !sets.iter().any(|set| set.get("cluster") == Some(cluster)));
    match missing {
        Some(cluster) => Finding::doubtful(
            Step::Info,
            began,
            format!("{detail}; without cluster {cluster:?}"),
            "the external labels of its Prometheus lack the cluster's name, or it is another cluster",
        ),
        _ if sets.is_empty() => Finding::doubtful(
            Step::Info,
            began,
            format!("{} without external labels", info.component_type),
            "set external_labels in its Prometheus, or it cannot be told from others",
        ),
        _ => Finding::good(Step::Info, began, detail),
    }
}

/// Asks for one series of the last hour, without its data.
async fn one_series(store: &impl Store, limit: Duration) -> Result<String, Status> {
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let range_ms = i64::try_from(SERIES_RANGE.as_millis()).unwrap_or(i64::MAX);
    let message = SeriesRequest {
        min_time: now_ms.saturating_sub(range_ms),
        max_time: now_ms,
        matchers: vec![LabelMatcher {
            r#type: Type::Eq.into(),
            name: "__name__".to_owned(),
            value: "up".to_owned(),
        }],
        skip_chunks: true,
        limit: 1,
        ..SeriesRequest::default()
    };
    let stream = store.series(with_deadline(message, Some(Instant::now() + limit))).await?;
    let answer = parallax_storeapi::frames::collect(stream).await?;
    let warned = answer.warnings.first().map(|text| format!(", and warns: {text}")).unwrap_or_default();
    let first = answer.series.first().map(|series| labels::display(&series.labels));
    Ok(match first {
        Some(labels) => format!("it has {labels}{warned}"),
        None => format!("it answers, without any `up` of the last hour{warned}"),
    })
}

/// What usually causes a status.
fn advice(status: &Status, otherwise: &'static str) -> &'static str {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => {
            "our certificate is not allowed to do this there: see its role and the allow-list"
        }
        Code::Unimplemented => {
            "what answers does not offer the service: an ingress routes elsewhere, or it is another program"
        }
        Code::DeadlineExceeded => "the process hangs, or is too busy: see its log and its CPU",
        Code::ResourceExhausted => "a limit was hit: see the message",
        _ => otherwise,
    }
}

fn told(status: &Status) -> String {
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

fn shown_as_table(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports {
        let named =
            if report.name == report.address { String::new() } else { format!(" ({})", report.address) };
        let _ = writeln!(text, "{}{named}", report.name);
        for finding in &report.findings {
            let Finding { step, outcome, detail, advice, took } = finding;
            let took = format!("{:.0} ms", took.as_secs_f64() * 1000.0);
            let _ = writeln!(text, "  {:<7} {:<9} {took:>8}  {detail}", step.as_str(), outcome.as_str());
            if !advice.is_empty() {
                let _ = writeln!(text, "  {:<27} -> {advice}", "");
            }
        }
    }
    text
}

fn shown_as_json(reports: &[Report]) -> String {
    let reports: Vec<_> = reports
        .iter()
        .map(|report| {
            let steps: Vec<_> = report
                .findings
                .iter()
                .map(|finding| {
                    json!({
                        "step": finding.step.as_str(),
                        "outcome": finding.outcome.as_str(),
                        "detail": finding.detail,
                        "advice": finding.advice,
                        "seconds": finding.took.as_secs_f64(),
                    })
                })
                .collect();
            json!({"name": report.name, "address": report.address, "well": report.is_well(), "steps": steps})
        })
        .collect();
    format!("{}\n", json!({ "endpoints": reports }))
}
