#!/usr/bin/env python3
"""Writes the Grafana dashboards (charts/parallax/dashboards): one list of panels per dashboard, so that they stay alike and reviewable.

    dashboards.py          write the files
    dashboards.py --check  exit 1 if a file is not what this program writes
"""
import json
import pathlib
import sys

OUT = pathlib.Path(__file__).resolve().parent.parent / "charts/parallax/dashboards"
# Of every dashboard its own; the mesh's dashboard also looks into the hub's Prometheus, which is no part of the mesh.
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HUB = {"type": "prometheus", "uid": "${hub}"}
MIXED = {"type": "datasource", "uid": "-- Mixed --"}
# As the observer module provisions them.
MESH_SOURCE = {"text": "Parallax", "value": "parallax"}
HUB_SOURCE = {"text": "Prometheus", "value": "prometheus-local"}
RATE = "[$__rate_interval]"


def variable(name, query, label=None, multi=True):
    return {"name": name, "label": label or name, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name},
            "refresh": 2, "multi": multi, "includeAll": multi, "allValue": ".*", "sort": 1,
            "current": {"text": "All", "value": "$__all"} if multi else {}}


def panel(kind, title, targets, unit="short", width=8, height=8, **extra):
    if isinstance(targets, str):
        targets = [(targets, "")]
    made = [{"expr": expr, "legendFormat": legend or "__auto", "refId": chr(65 + number), "datasource": SOURCE,
             **({"instant": True, "format": "table", "range": False} if kind == "table" else {"instant": kind == "stat", "range": kind != "stat"})}
            for number, (expr, legend) in enumerate(targets)]
    defaults = {"unit": unit, **extra.pop("defaults", {})}
    if kind == "timeseries":
        defaults.setdefault("custom", {"fillOpacity": 8, "showPoints": "never"})
        extra.setdefault("options", {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}})
    return {"type": kind, "title": title, "datasource": SOURCE, "targets": made, "fieldConfig": {"defaults": defaults, "overrides": extra.pop("overrides", [])},
            "_size": (width, height), **extra}


def graph(title, targets, unit="short", **extra):
    return panel("timeseries", title, targets, unit, **extra)


def stat(title, expr, unit="short", steps=None, **extra):
    steps = steps or [("green", None)]
    defaults = {"thresholds": {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}}
    return panel("stat", title, expr, unit, width=4, height=4, defaults=defaults, **extra)


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "_size": (24, 1)}


def of_hub(one):
    """The panel, asking the hub's own Prometheus."""
    for part in [one, *one["targets"]]:
        part["datasource"] = HUB
    return one


def source(name, label, current):
    return {"name": name, "type": "datasource", "query": "prometheus", "label": label, "current": current}


def dashboard(uid, title, panels, variables, description, current=HUB_SOURCE):
    x = y = tallest = 0
    for number, one in enumerate(panels):
        width, height = one.pop("_size")
        if x + width > 24:
            x, y, tallest = 0, y + tallest, 0
        one.update(id=number + 1, gridPos={"x": x, "y": y, "w": width, "h": height})
        x, tallest = x + width, max(tallest, height)
    return {"uid": uid, "title": title, "description": description, "tags": ["parallax"], "schemaVersion": 39, "version": 1, "editable": True,
            "timezone": "browser", "refresh": "30s", "time": {"from": "now-6h", "to": "now"}, "templating": {"list": [source("datasource", "data source", current), *variables]},
            "annotations": {"list": []}, "links": [{"type": "dashboards", "tags": ["parallax"], "asDropdown": True, "title": "Parallax"}], "panels": panels}


UP = [("red", None), ("green", 1)]
DAYS = [("red", None), ("orange", 3), ("green", 14)]
BAD = [("green", None), ("red", 1)]
NS = variable("namespace", "label_values(process_start_time_seconds, namespace)")
JOB = variable("job", 'label_values(process_start_time_seconds{namespace=~"$namespace"}, job)')
CLUSTER = variable("cluster", "label_values(up, cluster)")


def process(selector):
    return [row("Process"),
            graph("Resident memory", [(f"process_resident_memory_bytes{{{selector}}}", "{{pod}}")], "bytes"),
            graph("CPU", [(f"rate(process_cpu_seconds_total{{{selector}}}{RATE})", "{{pod}}")], "none"),
            graph("Open files and threads", [(f"process_open_fds{{{selector}}}", "files {{pod}}"), (f"process_threads{{{selector}}}", "threads {{pod}}")])]


# Of the hub's calls to clusters, which carry the name that an endpoint is declared as. A stream that was let go, or an endpoint that was given up, is Canceled: no error of its own.
P99 = 'histogram_quantile(0.99, sum by ({by}, le) (rate(grpc_client_handling_seconds_bucket{{grpc_service="thanos.Store",cluster!=""}}{window})))'
CALLS = 'sum by ({by}) (rate(grpc_client_handled_total{{cluster!=""}}{window}))'
ERRORS = 'sum by ({by}) (rate(grpc_client_handled_total{{cluster!="",grpc_code!~"OK|Canceled"}}{window})) or 0 * ' + CALLS


def matrix():
    """One row per cluster: instant tables joined on the cluster's name."""
    def named(expr, label):
        return f'label_replace({expr}, "cluster", "$1", "{label}", "(.+)")'
    lost = 'parallax_querier_cluster_answers_total{state!~"complete|unattested"}[1h]'
    columns = [
        (SOURCE, "min by (cluster) (parallax_cluster_up)", "up", "bool_yes_no", UP),
        (HUB, f"{P99.format(by='cluster', window='[15m]')}", "p99, 15 m", "s", [("green", None), ("orange", 2), ("red", 10)]),
        (HUB, f"({ERRORS.format(by='cluster', window='[1h]')}) / {CALLS.format(by='cluster', window='[1h]')}", "errors, 1 h", "percentunit", [("green", None), ("orange", 0.001), ("red", 0.05)]),
        (SOURCE, "avg by (cluster) (avg_over_time(parallax_cluster_coverage_ratio[1h]))", "coverage, 1 h", "percentunit", [("red", None), ("orange", 0.9), ("green", 1)]),
        (HUB, f"sum by (cluster) (increase({lost}))", "answers without it, 1 h", "short", BAD),
        (HUB, named('sum by (querier) (increase(parallax_querier_coverage_gaps_total{querier!="",kind="late"}[1h]))', "querier"), "late, 1 h", "short", BAD),
        (SOURCE, "max by (cluster) (parallax_shipper_upload_lag_seconds)", "upload lag", "s", [("green", None), ("orange", 3 * 3600), ("red", 6 * 3600)]),
        (SOURCE, "sum by (cluster) (parallax_shipper_blocks_waiting)", "blocks waiting", "short", None),
        (SOURCE, "min by (cluster) (parallax_tls_certificate_not_after_timestamp_seconds - time()) / 86400", "certificate, days", "short", DAYS),
        (SOURCE, "sum by (cluster) (thanos_sidecar_prometheus_up)", "Prometheus up", "short", UP),
        (SOURCE, "sum by (cluster) (parallax_compact_quarantined_groups)", "groups set aside", "short", BAD),
        (HUB, named('time() - max by (store_gateway) (parallax_store_last_successful_sync_timestamp_seconds{store_gateway!=""} > 0)', "store_gateway"), "bucket seen, ago", "s", None),
        (HUB, named('histogram_quantile(0.99, sum by (store_gateway, le) (rate(thanos_bucket_store_series_get_all_duration_seconds_bucket{store_gateway!=""}[15m])))', "store_gateway"), "history p99", "s", None),
    ]
    overrides = []
    for _, _, title, unit, steps in columns:
        properties = [{"id": "unit", "value": unit}]
        if steps:
            properties += [{"id": "custom.cellOptions", "value": {"type": "color-background"}},
                           {"id": "thresholds", "value": {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}}]
        overrides.append({"matcher": {"id": "byName", "options": title}, "properties": properties})
    names = {f"Value #{chr(65 + number)}": title for number, (_, _, title, _, _) in enumerate(columns)}
    hidden = ["Time", "querier", "store_gateway"] + [f"{name} {number}" for name in ("Time", "querier", "store_gateway") for number in range(1, len(columns) + 1)]
    made = panel("table", "Clusters", [(expr, "") for _, expr, _, _, _ in columns], width=24, height=9, overrides=overrides, transformations=[
        {"id": "joinByField", "options": {"byField": "cluster", "mode": "outer"}},
        {"id": "organize", "options": {"excludeByName": {name: True for name in hidden}, "renameByName": names}}])
    made["datasource"] = MIXED
    for target, (where, _, _, _, _) in zip(made["targets"], columns):
        target["datasource"] = where
    return made


MESH = dashboard("parallax-mesh", "Parallax / Mesh", [
    stat("Clusters up", "sum(parallax_cluster_up)", steps=UP),
    stat("Clusters down", "count(parallax_cluster_up == 0) or vector(0)", steps=BAD),
    stat("Least coverage, 1 h", "min(avg_over_time(parallax_cluster_coverage_ratio[1h]))", "percentunit", [("red", None), ("orange", 0.9), ("green", 1)]),
    of_hub(stat("Queries that fail", "sum(rate(parallax_query_failed_total[5m])) / sum(rate(parallax_query_started_total[5m]))", "percentunit", [("green", None), ("red", 0.05)])),
    of_hub(stat("Query p99", "histogram_quantile(0.99, sum by (le) (rate(parallax_query_duration_seconds_bucket[5m])))", "s", [("green", None), ("orange", 10), ("red", 60)])),
    stat("First certificate ends", "min(parallax_tls_certificate_not_after_timestamp_seconds - time()) / 86400", "none", DAYS),
    matrix(),
    graph("Clusters up", [("min by (cluster) (parallax_cluster_up)", "{{cluster}}")], "bool_yes_no", width=12),
    graph("Coverage by cluster", [("min by (cluster) (parallax_cluster_coverage_ratio)", "{{cluster}}")], "percentunit", width=12),
    of_hub(graph("Answers by how whole they were", [(f"sum by (state) (rate(parallax_querier_answers_total{RATE}))", "{{state}}")], "ops", width=12)),
    of_hub(graph("Holes in answers", [(f"sum by (querier, kind) (rate(parallax_querier_coverage_gaps_total{RATE}))", "{{querier}} {{kind}}")], "ops", width=12)),
    of_hub(graph("Calls to clusters, p99", [(P99.format(by="cluster", window=RATE), "{{cluster}}")], "s", width=12)),
    of_hub(graph("Calls to clusters that fail", [(f"({ERRORS.format(by='cluster', window=RATE)}) / {CALLS.format(by='cluster', window=RATE)}", "{{cluster}}")], "percentunit", width=12)),
    of_hub(graph("Endpoints up", [("min by (querier, endpoint) (parallax_querier_endpoint_up)", "{{querier}} {{endpoint}}")], "bool_yes_no", width=12)),
    of_hub(graph("Endpoints that cannot be used, and claims of other clusters", [("max by (querier) (parallax_querier_discovery_problems)", "unusable {{querier}}"), (f"sum by (querier, endpoint) (rate(parallax_querier_foreign_labels_total{RATE}))", "claims {{querier}} {{endpoint}}")], width=12)),
    graph("Upload lag by cluster", [("max by (cluster, pod) (parallax_shipper_upload_lag_seconds)", "{{cluster}} {{pod}}")], "s", width=12),
    graph("Series per cluster", [("sum by (cluster) (prometheus_tsdb_head_series)", "{{cluster}}")], width=12),
    of_hub(graph("Uploads as the hub hears of them: lag and the last one, ago", [("max by (cluster) (parallax_querier_upload_lag_seconds)", "lag {{cluster}}"), ("time() - max by (cluster) (parallax_querier_last_upload_time_seconds > 0)", "last {{cluster}}")], "s", width=12)),
    of_hub(graph("Blocks waiting as the hub hears of them", [("sum by (cluster) (max by (cluster, external_labels) (parallax_querier_upload_blocks_waiting))", "{{cluster}}"), ("max by (cluster) (parallax_querier_upload_lag_nears_retention) == 1", "{{cluster}}: Prometheus is about to delete some")], width=12)),
    row("Certificates"),
    graph("Days until certificates end", [("min by (cluster, job, name) (parallax_tls_certificate_not_after_timestamp_seconds - time()) / 86400", "{{cluster}} {{job}} {{name}}")], "none"),
    graph("Days until trusted CAs end", [("min by (cluster, job, subject) (parallax_tls_trust_anchor_not_after_timestamp_seconds - time()) / 86400", "{{cluster}} {{job}} {{subject}}")], "none"),
    graph("Trust bundles in use", [("count by (name, sha256) (parallax_tls_trust_bundle_info)", "{{name}} {{sha256}}")]),
    graph("Connections by issuer", [("sum by (cluster, issuer) (parallax_tls_connections_by_issuer)", "{{cluster}} {{issuer}}")]),
    graph("Failed handshakes, observees", [(f"sum by (cluster, side, reason) (rate(parallax_tls_handshake_failures_total{RATE}))", "{{cluster}} {{side}} {{reason}}")], "ops"),
    of_hub(graph("Failed handshakes, hub", [(f"sum by (side, reason) (rate(parallax_tls_handshake_failures_total{RATE}))", "{{side}} {{reason}}")], "ops")),
], [source("hub", "hub's Prometheus", HUB_SOURCE)], "Every cluster of the mesh at a glance: what the clusters say of themselves through the mesh, and what the hub's own Prometheus has.", MESH_SOURCE)

S = 'namespace=~"$namespace",job=~"$job"'
QUERY = dashboard("parallax-query", "Parallax / Querier", [
    graph("Queries", [(f"sum by (job) (rate(parallax_query_started_total{{{S}}}{RATE}))", "started {{job}}"), (f"sum by (job) (rate(parallax_query_failed_total{{{S}}}{RATE}))", "failed {{job}}"), (f"sum by (job) (rate(parallax_query_refused_total{{{S}}}{RATE}))", "refused {{job}}")], "ops"),
    graph("Duration", [(f"histogram_quantile({q}, sum by (le) (rate(parallax_query_duration_seconds_bucket{{{S}}}{RATE})))", f"p{int(q * 100)}") for q in (0.5, 0.9, 0.99)], "s"),
    graph("Running", [(f"sum by (pod) (parallax_query_running{{{S}}})", "{{pod}}")]),
    graph("Endpoints up", [(f"min by (querier, endpoint) (parallax_querier_endpoint_up{{{S}}})", "{{querier}} {{endpoint}}")], "bool_yes_no", width=12),
    graph("Holes in answers", [(f"sum by (querier, kind) (rate(parallax_querier_coverage_gaps_total{{{S}}}{RATE}))", "{{querier}} {{kind}}")], "ops", width=12),
    graph("Answers by how whole they were", [(f"sum by (state) (rate(parallax_querier_answers_total{{{S}}}{RATE}))", "{{state}}")], "ops"),
    graph("Clusters that were not whole", [(f'sum by (cluster, state) (rate(parallax_querier_cluster_answers_total{{{S},state!="complete"}}{RATE}))', "{{cluster}} {{state}}")], "ops"),
    graph("Endpoints that cannot be used, and claims of other clusters", [(f"max by (pod, querier) (parallax_querier_discovery_problems{{{S}}})", "unusable {{pod}} {{querier}}"), (f"sum by (querier, endpoint) (rate(parallax_querier_foreign_labels_total{{{S}}}{RATE}))", "claims {{querier}} {{endpoint}}")]),
    graph("HTTP requests", [(f"sum by (handler, code) (rate(http_requests_total{{{S}}}{RATE}))", "{{handler}} {{code}}")], "ops"),
    graph("HTTP requests, p99", [(f"histogram_quantile(0.99, sum by (handler, le) (rate(http_request_duration_seconds_bucket{{{S}}}{RATE})))", "{{handler}}")], "s"),
    graph("Queries running, and how many may", [(f"sum by (pod) (thanos_query_concurrent_gate_queries_in_flight{{{S}}})", "{{pod}}"), (f"max(thanos_query_concurrent_gate_queries_max{{{S}}})", "may run")]),
    graph("Calls of others, p99", [(f'histogram_quantile(0.99, sum by (grpc_method, le) (rate(grpc_server_handling_seconds_bucket{{{S},grpc_service="thanos.Store"}}{RATE})))', "{{grpc_method}}")], "s"),
    graph("Calls of others that fail", [(f'sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{{{S},grpc_code!~"OK|Canceled"}}{RATE}))', "{{grpc_method}} {{grpc_code}}")], "ops"),
    graph("Names looked up", [(f"sum by (pod) (rate(thanos_query_endpoints_dns_lookups_total{{{S}}}{RATE}))", "{{pod}}"), (f"sum by (pod) (rate(thanos_query_endpoints_dns_failures_total{{{S}}}{RATE}))", "failed {{pod}}")], "ops"),
    graph("Open connections", [(f"sum by (pod, protocol) (parallax_server_connections{{{S}}})", "{{pod}} {{protocol}}")]),
    graph("Refused connections", [(f"sum by (protocol, reason) (rate(parallax_server_connections_refused_total{{{S}}}{RATE}))", "{{protocol}} {{reason}}")], "ops"),
    graph("Failed handshakes", [(f"sum by (side, reason) (rate(parallax_tls_handshake_failures_total{{{S}}}{RATE}))", "{{side}} {{reason}}")], "ops"),
    *process(S)], [NS, JOB], "Queriers: the global one, those per cluster, and the entries of observees.")

SIDECAR = dashboard("parallax-sidecar", "Parallax / Sidecar", [
    graph("Prometheus up", [(f"min by (pod, prometheus) (thanos_sidecar_prometheus_up{{{S}}})", "{{pod}} {{prometheus}}")], "bool_yes_no"),
    graph("Seconds since the last heartbeat", [(f"time() - max by (pod, prometheus) (thanos_sidecar_last_heartbeat_success_time_seconds{{{S}}})", "{{pod}} {{prometheus}}")], "s"),
    graph("Series calls", [(f"sum by (pod) (rate(parallax_sidecar_series_requests_total{{{S}}}{RATE}))", "{{pod}}")], "ops"),
    graph("Calls, p99", [(f'histogram_quantile(0.99, sum by (grpc_method, le) (rate(grpc_server_handling_seconds_bucket{{{S},grpc_service="thanos.Store"}}{RATE})))', "{{grpc_method}}")], "s"),
    graph("Calls that fail", [(f'sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{{{S},grpc_code!~"OK|Canceled"}}{RATE}))', "{{grpc_method}} {{grpc_code}}")], "ops"),
    graph("Uploads and failures", [(f"sum by (pod) (increase(thanos_shipper_uploads_total{{{S}}}[2h]))", "uploads, 2 h {{pod}}"), (f"sum by (pod) (increase(thanos_shipper_upload_failures_total{{{S}}}[2h]))", "failures, 2 h {{pod}}")]),
    graph("Blocks waiting", [(f"max by (pod, prometheus) (parallax_shipper_blocks_waiting{{{S}}})", "{{pod}} {{prometheus}}"), (f"max by (pod, prometheus) (thanos_shipper_corrupted_blocks_total{{{S}}})", "corrupted {{pod}} {{prometheus}}")]),
    graph("Upload lag and what Prometheus keeps", [(f"max by (pod, prometheus) (parallax_shipper_upload_lag_seconds{{{S}}})", "lag {{pod}}"), (f"max by (pod, prometheus) (parallax_shipper_prometheus_retention_seconds{{{S}}} > 0)", "kept {{pod}}")], "s"),
    graph("Blocks left where they are", [(f"max by (pod, reason) (parallax_shipper_skipped_blocks{{{S}}})", "{{pod}} {{reason}}")]),
    graph("Questions that Prometheus did not answer as it should", [(f"sum by (pod, reason) (rate(parallax_sidecar_prometheus_failures_total{{{S}}}{RATE}))", "{{pod}} {{reason}}")], "ops"),
    graph("Rounds over the data directory", [(f"sum by (pod) (rate(thanos_shipper_dir_syncs_total{{{S}}}{RATE}))", "{{pod}}"), (f"sum by (pod) (rate(thanos_shipper_dir_sync_failures_total{{{S}}}{RATE}))", "failed {{pod}}")], "ops"),
    graph("Reloads of Prometheus, 1 h", [(f"sum by (pod) (increase(thanos_sidecar_reloader_reloads_total{{{S}}}[1h]))", "{{pod}}"), (f"sum by (pod) (increase(thanos_sidecar_reloader_reloads_failed_total{{{S}}}[1h]))", "failed {{pod}}")]),
    graph("Configuration and rules that cannot be used", [(f"max by (pod) (parallax_sidecar_reloader_files_not_yaml{{{S}}})", "not YAML {{pod}}"), (f"max by (pod) (thanos_sidecar_reloader_config_environment_variable_expansion_errors{{{S}}})", "variables not set {{pod}}"), (f"sum by (pod) (increase(thanos_sidecar_reloader_config_apply_operations_failed_total{{{S}}}[1h]))", "not applied, 1 h {{pod}}")], width=16),
    graph("Bucket operations", [(f"sum by (operation) (rate(thanos_objstore_bucket_operations_total{{{S}}}{RATE}))", "{{operation}}")], "ops"),
    graph("Bucket failures", [(f"sum by (operation) (rate(thanos_objstore_bucket_operation_failures_total{{{S}}}{RATE}))", "{{operation}}")], "ops"),
    *process(S)], [NS, JOB], "Sidecars: fresh data of one Prometheus each, and the upload of its blocks.", MESH_SOURCE)

STORE = dashboard("parallax-store", "Parallax / Store gateway", [
    graph("Series calls, duration", [(f"histogram_quantile({q}, sum by (le) (rate(thanos_bucket_store_series_get_all_duration_seconds_bucket{{{S}}}{RATE})))", f"p{int(q * 100)}") for q in (0.5, 0.9, 0.99)], "s"),
    graph("Series calls running", [(f"sum by (store_gateway, pod) (thanos_bucket_store_series_gate_queries_in_flight{{{S}}})", "{{store_gateway}} {{pod}}")]),
    graph("Calls dropped", [(f"sum by (reason) (rate(thanos_bucket_store_queries_dropped_total{{{S}}}{RATE}))", "{{reason}}")], "ops"),
    graph("Series per call (p90)", [(f"histogram_quantile(0.9, sum by (le) (rate(thanos_bucket_store_series_result_series_bucket{{{S}}}{RATE})))", "series"), (f"histogram_quantile(0.9, sum by (le) (rate(thanos_bucket_store_series_blocks_queried_bucket{{{S}}}{RATE})))", "blocks")]),
    graph("Fetched per call (p90)", [(f"histogram_quantile(0.9, sum by (data_type, le) (rate(thanos_bucket_store_series_data_size_fetched_bytes_bucket{{{S}}}{RATE})))", "{{data_type}}")], "bytes"),
    graph("Touched per call (p90)", [(f"histogram_quantile(0.9, sum by (data_type, le) (rate(thanos_bucket_store_series_data_size_touched_bytes_bucket{{{S}}}{RATE})))", "{{data_type}}")], "bytes"),
    graph("Blocks", [(f"sum by (store_gateway) (thanos_bucket_store_blocks_loaded{{{S}}})", "loaded {{store_gateway}}"), (f'sum by (store_gateway, state) (thanos_blocks_meta_synced{{{S},state!="loaded"}} > 0)', "{{state}} {{store_gateway}}")]),
    graph("Block list, age", [(f"time() - max by (store_gateway) (parallax_store_last_successful_sync_timestamp_seconds{{{S}}} > 0)", "{{store_gateway}}")], "s"),
    graph("Block list, duration (p90) and failures", [(f"histogram_quantile(0.9, sum by (le) (rate(thanos_blocks_meta_sync_duration_seconds_bucket{{{S}}}{RATE})))", "duration"), (f"sum(rate(thanos_blocks_meta_sync_failures_total{{{S}}}{RATE}))", "failures per second")], "s"),
    graph("Index-headers", [(f"sum(rate(thanos_bucket_store_indexheader_lazy_load_total{{{S}}}{RATE}))", "loaded"), (f"sum(rate(thanos_bucket_store_indexheader_lazy_unload_total{{{S}}}{RATE}))", "unloaded"), (f"sum(rate(thanos_bucket_store_indexheader_lazy_load_failed_total{{{S}}}{RATE}))", "failed")], "ops"),
    graph("Index cache, share found", [(f"sum by (item_type) (rate(thanos_store_index_cache_hits_total{{{S}}}{RATE})) / sum by (item_type) (rate(thanos_store_index_cache_requests_total{{{S}}}{RATE}))", "{{item_type}}")], "percentunit"),
    graph("Caching bucket, share found", [(f"sum by (operation, config) (rate(thanos_store_bucket_cache_operation_hits_total{{{S}}}{RATE})) / sum by (operation, config) (rate(thanos_store_bucket_cache_operation_requests_total{{{S}}}{RATE}))", "{{operation}} {{config}}")], "percentunit"),
    graph("Pieces missing from answers", [(f"sum by (store_gateway, reason) (rate(parallax_store_warnings_total{{{S}}}{RATE}))", "{{store_gateway}} {{reason}}")], "ops"),
    graph("Bucket operations, p99", [(f"histogram_quantile(0.99, sum by (operation, le) (rate(thanos_objstore_bucket_operation_duration_seconds_bucket{{{S}}}{RATE})))", "{{operation}}")], "s"),
    graph("Bucket bytes", [(f"sum by (bucket) (rate(thanos_objstore_bucket_operation_fetched_bytes_total{{{S}}}{RATE}))", "{{bucket}}")], "Bps"),
    *process(S)], [NS, JOB], "Store gateways: the history in the buckets.")

COMPACT = dashboard("parallax-compact", "Parallax / Compactor", [
    stat("Groups set aside", f"sum(parallax_compact_quarantined_groups{{{S}}})", steps=BAD),
    stat("Compactions planned", f"sum(thanos_compact_todo_compactions{{{S}}})"),
    stat("Blocks to downsample", f"sum(thanos_compact_todo_downsample_blocks{{{S}}})"),
    stat("Blocks past their retention", f"sum(thanos_compact_todo_deletion_blocks{{{S}}})"),
    stat("Passes, 24 h", f"sum(increase(thanos_compact_iterations_total{{{S}}}[24h]))", steps=UP),
    stat("Halted (Thanos' image)", f"max(thanos_compact_halted{{{S}}})", steps=BAD),
    graph("Groups", [(f"sum(rate(thanos_compact_group_compaction_runs_started_total{{{S}}}{RATE}))", "looked at"), (f"sum(rate(thanos_compact_group_compactions_total{{{S}}}{RATE}))", "compacted"), (f"sum(rate(thanos_compact_group_compactions_failures_total{{{S}}}{RATE}))", "failed")], "ops"),
    graph("Downsampling", [(f"sum by (resolution) (rate(thanos_compact_downsample_total{{{S}}}{RATE}))", "{{resolution}}"), (f"sum by (resolution) (rate(thanos_compact_downsample_failures_total{{{S}}}{RATE}))", "failed {{resolution}}")], "ops"),
    graph("Blocks marked and deleted", [(f"sum by (marker) (rate(thanos_compact_blocks_marked_total{{{S}}}{RATE}))", "{{marker}}"), (f"sum(rate(thanos_compact_blocks_cleaned_total{{{S}}}{RATE}))", "deleted"), (f"sum(rate(thanos_compact_block_cleanup_failures_total{{{S}}}{RATE}))", "not deleted")], "ops"),
    graph("What is left to do", [(f"sum(thanos_compact_todo_compactions{{{S}}})", "compactions"), (f"sum(thanos_compact_todo_compaction_blocks{{{S}}})", "their blocks"), (f"sum(thanos_compact_todo_downsample_blocks{{{S}}})", "to downsample"), (f"sum(thanos_compact_todo_deletion_blocks{{{S}}})", "to delete")]),
    graph("Bucket operations", [(f"sum by (operation) (rate(thanos_objstore_bucket_operations_total{{{S}}}{RATE}))", "{{operation}}")], "ops"),
    graph("Retries", [(f"sum(rate(thanos_compact_retries_total{{{S}}}{RATE}))", "retries")], "ops"),
    *process(S)], [NS, JOB], "Compactors: compaction, downsampling and retention of one bucket each.", MESH_SOURCE)

K = 'cluster=~"$cluster"'
KUBERNETES = dashboard("parallax-kubernetes", "Parallax / Kubernetes, all clusters", [
    graph("CPU by cluster", [(f'sum by (cluster) (rate(container_cpu_usage_seconds_total{{{K},container!=""}}{RATE}))', "{{cluster}}")], "none", width=12),
    graph("Memory by cluster", [(f'sum by (cluster) (container_memory_working_set_bytes{{{K},container!=""}})', "{{cluster}}")], "bytes", width=12),
    graph("Nodes ready", [(f'sum by (cluster) (kube_node_status_condition{{{K},condition="Ready",status="true"}})', "{{cluster}}")]),
    graph("Pods by phase", [(f"sum by (cluster, phase) (kube_pod_status_phase{{{K}}}) > 0", "{{cluster}} {{phase}}")]),
    graph("Restarts, 1 h", [(f"sum by (cluster) (increase(kube_pod_container_status_restarts_total{{{K}}}[1h]))", "{{cluster}}")]),
    graph("CPU by namespace", [(f'topk(15, sum by (cluster, namespace) (rate(container_cpu_usage_seconds_total{{{K},container!=""}}{RATE})))', "{{cluster}} {{namespace}}")], "none", width=12),
    graph("Memory by namespace", [(f'topk(15, sum by (cluster, namespace) (container_memory_working_set_bytes{{{K},container!=""}}))', "{{cluster}} {{namespace}}")], "bytes", width=12),
    graph("Requests to API servers", [(f"sum by (cluster, code) (rate(apiserver_request_total{{{K}}}{RATE}))", "{{cluster}} {{code}}")], "ops", width=12),
    graph("Volumes, share used", [(f"max by (cluster, namespace, persistentvolumeclaim) (1 - kubelet_volume_stats_available_bytes{{{K}}} / kubelet_volume_stats_capacity_bytes{{{K}}}) > 0.7", "{{cluster}} {{namespace}} {{persistentvolumeclaim}}")], "percentunit", width=12),
], [CLUSTER], "kubelet, kube-state-metrics and API servers of every cluster, through the mesh.", MESH_SOURCE)

ONE = variable("cluster", "label_values(up, cluster)", multi=False)
SPACE = variable("namespace", 'label_values(kube_pod_status_phase{cluster="$cluster"}, namespace)')
P = 'cluster="$cluster",namespace=~"$namespace"'
NODE = 'cluster="$cluster"'
CLUSTER_VIEW = dashboard("parallax-kubernetes-cluster", "Parallax / Kubernetes, one cluster", [
    stat("Nodes ready", f'sum(kube_node_status_condition{{{NODE},condition="Ready",status="true"}})'),
    stat("Pods running", f'sum(kube_pod_status_phase{{{P},phase="Running"}})'),
    stat("Pods pending or failed", f'sum(kube_pod_status_phase{{{P},phase=~"Pending|Failed|Unknown"}})', steps=BAD),
    stat("Restarts, 1 h", f"sum(increase(kube_pod_container_status_restarts_total{{{P}}}[1h]))", steps=BAD),
    stat("CPU used", f'sum(rate(container_cpu_usage_seconds_total{{{P},container!=""}}[5m]))', "none"),
    stat("Memory used", f'sum(container_memory_working_set_bytes{{{P},container!=""}})', "bytes"),
    graph("CPU by pod", [(f'topk(20, sum by (namespace, pod) (rate(container_cpu_usage_seconds_total{{{P},container!=""}}{RATE})))', "{{namespace}} {{pod}}")], "none", width=12),
    graph("Memory by pod", [(f'topk(20, sum by (namespace, pod) (container_memory_working_set_bytes{{{P},container!=""}}))', "{{namespace}} {{pod}}")], "bytes", width=12),
    graph("CPU used and asked for", [(f'sum(rate(container_cpu_usage_seconds_total{{{P},container!=""}}{RATE}))', "used"), (f'sum(kube_pod_container_resource_requests{{{P},resource="cpu"}})', "requests"), (f'sum(kube_pod_container_resource_limits{{{P},resource="cpu"}})', "limits")], "none", width=12),
    graph("Memory used and asked for", [(f'sum(container_memory_working_set_bytes{{{P},container!=""}})', "used"), (f'sum(kube_pod_container_resource_requests{{{P},resource="memory"}})', "requests"), (f'sum(kube_pod_container_resource_limits{{{P},resource="memory"}})', "limits")], "bytes", width=12),
    graph("Network in", [(f"sum by (namespace) (rate(container_network_receive_bytes_total{{{P}}}{RATE}))", "{{namespace}}")], "Bps", width=12),
    graph("Network out", [(f"sum by (namespace) (rate(container_network_transmit_bytes_total{{{P}}}{RATE}))", "{{namespace}}")], "Bps", width=12),
    graph("Deployments that lack replicas", [(f"kube_deployment_spec_replicas{{{P}}} - kube_deployment_status_replicas_available{{{P}}} > 0", "{{namespace}} {{deployment}}")], width=12),
    graph("Containers that wait", [(f"sum by (namespace, pod, reason) (kube_pod_container_status_waiting_reason{{{P}}}) > 0", "{{namespace}} {{pod}} {{reason}}")], width=12),
    row("Nodes"),
    graph("CPU", [(f'1 - avg by (instance) (rate(node_cpu_seconds_total{{{NODE},mode="idle"}}{RATE}))', "{{instance}}")], "percentunit"),
    graph("Memory", [(f"1 - node_memory_MemAvailable_bytes{{{NODE}}} / node_memory_MemTotal_bytes{{{NODE}}}", "{{instance}}")], "percentunit"),
    graph("Disks, share used", [(f'1 - node_filesystem_avail_bytes{{{NODE},fstype!~"tmpfs|overlay"}} / node_filesystem_size_bytes{{{NODE},fstype!~"tmpfs|overlay"}}', "{{instance}} {{mountpoint}}")], "percentunit"),
], [ONE, SPACE], "kubelet, kube-state-metrics and node exporters of one cluster, through the mesh.", MESH_SOURCE)

def main():
    check = "--check" in sys.argv
    OUT.mkdir(parents=True, exist_ok=True)
    stale = []
    for made in (MESH, QUERY, SIDECAR, STORE, COMPACT, KUBERNETES, CLUSTER_VIEW):
        path = OUT / f"{made['uid'].removeprefix('parallax-')}.json"
        text = json.dumps(made, indent=1) + "\n"
        # Every panel of the views of Kubernetes follows the choice of clusters.
        if made in (KUBERNETES, CLUSTER_VIEW) and any("$cluster" not in target["expr"] for one in made["panels"] for target in one.get("targets", [])):
            sys.exit(f"{made['title']}: a panel does not look at the variable cluster")
        if check and (not path.exists() or path.read_text() != text):
            stale.append(path.name)
        elif not check:
            path.write_text(text)
    if stale:
        sys.exit(f"not what ci/dashboards.py writes: {', '.join(stale)}; run it and commit")


main()
