//! What a query tells about itself, as JSON: `stats` as Prometheus has it, `analysis` and plans as Thanos has them. Where downsampled data was allowed, `stats` has
//! `sourceResolutions` besides: which of `raw`, `5m` and `1h` the data was of.
//!
//! Sources of the shapes: Prometheus `util/stats/query_stats.go`; Thanos `pkg/api/query/v1.go` (`queryTelemetry`) and its
//! engine's `engine/explain.go`. `series`, `samples` and `bytes` of an operator are ours,
//! and so are `received`: what remote endpoints sent for the query, by cluster, and `endpoints` beside an analysis: a line for each that was asked for series.

use std::time::Duration;

use parallax_promql::engine::{OperatorStats, PlanNode, QueryOutcome, QueryRange};

use super::float::write_seconds;
use super::json::{write_list, write_string};
use crate::query::QueryTimes;
use crate::received::ReceivedLog;

/// Appends `"stats":{…}`.
pub(super) fn write_stats(
    output: &mut Vec<u8>,
    outcome: &QueryOutcome,
    times: &QueryTimes,
    range: QueryRange,
) {
    let (stats, timings) = (&outcome.stats, outcome.stats.timings);
    let execution = times.queued + times.evaluated;
    let seconds = [
        ("evalTotalTime", timings.total()),
        ("resultSortTime", timings.result),
        ("queryPreparationTime", timings.preparation),
        ("innerEvalTime", timings.inner_eval),
        ("execQueueTime", times.queued),
        ("execTotalTime", execution),
    ];
    output.extend_from_slice(b"\"stats\":{\"timings\":{");
    for (index, (name, duration)) in seconds.into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        output.extend_from_slice(format!("{comma}\"{name}\":{}", duration.as_secs_f64()).as_bytes());
    }
    output.extend_from_slice(b"},\"samples\":{");
    if let Some(counts) = stats.total_samples_per_step.as_ref().filter(|counts| !counts.is_empty()) {
        output.extend_from_slice(b"\"totalQueryableSamplesPerStep\":");
        write_list(output, counts.iter().enumerate(), |output, (step, count)| {
            let after_ms = range.step_ms.saturating_mul(i64::try_from(step).unwrap_or(i64::MAX));
            output.push(b'[');
            write_seconds(output, range.start_ms.saturating_add(after_ms));
            output.extend_from_slice(format!(",{count}]").as_bytes());
        });
        output.push(b',');
    }
    let (total, peak) = (stats.total_samples, stats.peak_samples);
    let counts = format!("\"totalQueryableSamples\":{total},\"peakSamples\":{peak}}}");
    output.extend_from_slice(counts.as_bytes());
    output.extend_from_slice(b",\"received\":");
    write_list(output, times.received.clusters(), |output, (cluster, bytes)| {
        output.extend_from_slice(b"{\"cluster\":");
        write_string(output, &cluster);
        let numbers = format!(",\"seriesBytes\":{},\"queryBytes\":{}}}", bytes.series, bytes.query);
        output.extend_from_slice(numbers.as_bytes());
    });
    if let Some(resolutions) = times.resolutions {
        output.extend_from_slice(b",\"sourceResolutions\":");
        write_list(output, resolutions.names(), write_string);
    }
    output.push(b'}');
}

/// Appends what an operator and those beneath it did.
pub(super) fn write_analysis(output: &mut Vec<u8>, operator: &OperatorStats) {
    output.extend_from_slice(b"{\"name\":");
    write_string(output, &operator.name);
    output.extend_from_slice(b",\"executionTime\":");
    write_string(output, &go_duration(operator.execution_time));
    let numbers = format!(
        ",\"peakSamples\":{},\"totalSamples\":{},\"series\":{},\"samples\":{},\"bytes\":{}",
        operator.peak_samples, operator.total_samples, operator.series, operator.samples, operator.size_bytes
    );
    output.extend_from_slice(numbers.as_bytes());
    if !operator.children.is_empty() {
        output.extend_from_slice(b",\"children\":");
        write_list(output, &operator.children, write_analysis);
    }
    output.push(b'}');
}

/// Appends a line for each endpoint that was asked for series: what it sent, how long that took and how it ended.
pub(super) fn write_endpoints(output: &mut Vec<u8>, received: &ReceivedLog) {
    write_list(output, received.endpoints(), |output, (key, cost)| {
        output.extend_from_slice(b"{\"cluster\":");
        write_string(output, &key.cluster);
        output.extend_from_slice(b",\"endpoint\":");
        write_string(output, &key.endpoint);
        output.extend_from_slice(b",\"firstFrame\":");
        match cost.first_frame {
            Some(first_frame) => write_string(output, &go_duration(first_frame)),
            None => output.extend_from_slice(b"null"),
        }
        output.extend_from_slice(b",\"time\":");
        write_string(output, &go_duration(cost.longest));
        output.extend_from_slice(b",\"outcome\":");
        write_string(output, cost.outcome);
        let numbers = format!(
            ",\"open\":{},\"calls\":{},\"frames\":{},\"series\":{},\"chunks\":{},\"samples\":{},\"receivedBytes\":{}}}",
            cost.open, cost.calls, cost.frames, cost.series, cost.chunks, cost.samples, cost.received_bytes
        );
        output.extend_from_slice(numbers.as_bytes());
    });
}

/// Appends a plan: names and children.
pub(super) fn write_plan(output: &mut Vec<u8>, node: &PlanNode) {
    output.extend_from_slice(b"{\"name\":");
    write_string(output, &node.name);
    if !node.children.is_empty() {
        output.extend_from_slice(b",\"children\":");
        write_list(output, &node.children, write_plan);
    }
    output.push(b'}');
}

/// A duration as Go's `time.Duration` prints it: `0s`, `310ns`, `12.5µs`, `1.5ms`, `1m2.25s`.
fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |unit_ns: u128, unit: &str| {
        let fraction = format!("{:0width$}", nanos % unit_ns, width = unit_ns.ilog10() as usize);
        let fraction = fraction.trim_end_matches('0');
        let dot = if fraction.is_empty() { "" } else { "." };
        format!("{}{dot}{fraction}{unit}", nanos / unit_ns)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (duration.as_secs() / 60, duration.as_secs() % 60);
            let rest = go_seconds(rest, duration.subsec_nanos());
            match (minutes / 60, minutes % 60) {
                (0, 0) => rest,
                (0, minutes) => format!("{minutes}m{rest}"),
                (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
            }
        }
    }
}

fn go_seconds(seconds: u64, nanos: u32) -> String {
    let fraction = format!("{nanos:09}");
    match fraction.trim_end_matches('0') {
        "" => format!("{seconds}s"),
        fraction => format!("{seconds}.{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_in_go() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1_000, "1µs"),
            (12_500, "12.5µs"),
            (1_000_001, "1.000001ms"),
            (250_000_000, "250ms"),
            (1_000_000_000, "1s"),
            (62_250_000_000, "1m2.25s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
        ] {
            assert_eq!(go_duration(Duration::from_nanos(nanos)), text);
        }
    }
}
