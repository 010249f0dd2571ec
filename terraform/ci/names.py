#!/usr/bin/env python3
"""Every metric that a dashboard or an alert names is one that our binaries export, every expression parses, and every alert has a test in which it fires.

    names.py SOURCES PROMTOOL [SCRAPES]

Names come from the sources (each string that a registry is given); with a directory of scrapes, what they show is checked, too: a name that no component
showed must be one whose series only begin with the first event. Expressions are checked by promtool here, and by our own engine in mesh.py. What Thanos' own dashboards ask
for is in tests/dashboards.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

CHART = pathlib.Path(__file__).resolve().parent.parent / "charts/parallax"
# Of Prometheus itself, kubelet, kube-state-metrics and API servers: shown by the clusters, not by us.
FOREIGN = {"up", "ALERTS", "prometheus_tsdb_head_series", "container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
           "kube_node_status_condition", "kube_pod_status_phase", "kube_pod_container_status_restarts_total", "apiserver_request_total",
           "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes", "kube_pod_container_resource_requests", "kube_pod_container_resource_limits",
           "kube_pod_container_status_waiting_reason", "kube_deployment_spec_replicas", "kube_deployment_status_replicas_available", "container_network_receive_bytes_total",
           "container_network_transmit_bytes_total", "node_cpu_seconds_total", "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes", "node_filesystem_avail_bytes",
           "node_filesystem_size_bytes"}
# Series that a querier answers with itself, to whoever asks it by name: never scraped. mesh.py asks for them.
ANSWERED = {"parallax_cluster_up", "parallax_cluster_coverage_ratio"}
# What `parallax pki status --metrics-file` writes for a collector of text files, where the state of the CAs is: never scraped from a component.
WRITTEN = {"parallax_pki_rotation_phase"}
# Families without a series until something happens.
EVENTS = {"parallax_querier_coverage_gaps_total", "parallax_tls_handshake_failures_total", "parallax_server_connections_refused_total",
          "thanos_bucket_store_queries_dropped_total", "parallax_querier_foreign_labels_total", "parallax_store_warnings_total", "parallax_bucket_cache_wrong_values_total",
          "parallax_tls_crl_next_update_timestamp_seconds", "parallax_shipper_skipped_blocks", "parallax_sidecar_prometheus_failures_total"}
# Event families of the compactor: no group has enough blocks in the short life of the mesh.
EVENTS |= {f"thanos_compact_{name}_total" for name in ("downsample", "downsample_failures", "blocks_marked", "group_compactions", "group_compactions_failures",
                                                      "group_compaction_runs_started")}
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")
WORDS = {"sum", "min", "max", "count", "by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset", "topk", "avg", "vector", "time",
         "absent", "rate", "increase", "label_replace", "histogram_quantile", "inf", "nan"}


def registered(sources):
    """Names in the sources that a registry is given, without the suffix that the text format adds."""
    names = set()
    for file in sources.rglob("*.rs"):
        parts = file.relative_to(sources).parts
        if parts[0] in ("target", "tests", "benches", "terraform"):
            continue
        text = file.read_text()
        names |= set(re.findall(r'"((?:parallax|thanos|process|grpc|http)_[a-z0-9_]+)"', text))
        # Of a text that is written whole.
        names |= WRITTEN & set(re.findall(r"# TYPE (parallax_[a-z0-9_]+) ", text))
        # Families of one beginning: format!("thanos_store_index_cache_{rest}") and the ends that it is given, name("hits").
        for beginning in re.findall(r'"((?:parallax|thanos)_[a-z0-9_]+_)\{\w+\}"', text):
            names |= {beginning + end for end in re.findall(r'(?:name|gauge|counter|histogram)\(\s*"([a-z0-9_]+)"', text)}
    return names


def named(expression):
    """Metric names of an expression: identifiers that are no function, label or word of PromQL."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'', '""', expression)
    text = re.sub(r"\{[^}]*\}", "", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\[[^\]]*\]", "", text)
    found = re.findall(r"(?<![\w:.$])([a-zA-Z_:][\w:]*)(?![\w:])(?!\s*\()", text)
    return {name for name in found if name not in WORDS and not re.fullmatch(r"[smhdwy]|ms", name)}


def dashboard_expressions(path):
    def walk(node):
        if isinstance(node, dict):
            for target in node.get("targets") or []:
                yield target["expr"]
            for variable in (node.get("templating") or {}).get("list", []):
                query = variable.get("query")
                if isinstance(query, dict):
                    found = re.fullmatch(r"label_values\((.+), *\w+\)", query["query"])
                    yield found[1] if found else query["query"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)
    for expression in walk(json.loads(path.read_text())):
        plain = expression.replace("$__rate_interval", "5m").replace("$__interval", "1m").replace("$__range", "1h")
        yield re.sub(r"\$\{?[a-z]\w*(:\w+)?\}?", ".*", plain)


def rule_expressions(path):
    for group in yaml.safe_load(path.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
            if "alert" in rule:
                lacking = {"summary", "description", "runbook"} - rule["annotations"].keys()
                if lacking:
                    yield f"__alert_{rule['alert']}_lacks_{'_and_'.join(sorted(lacking))}"


def untested():
    """Alerts that no unit test sees firing."""
    alerts = {rule["alert"] for path in (CHART / "rules").glob("*.yaml") for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"] if "alert" in rule}
    for path in (CHART / "rules/tests").glob("*.yaml"):
        for test in yaml.safe_load(path.read_text())["tests"]:
            alerts -= {case["alertname"] for case in test.get("alert_rule_test", []) if case.get("exp_alerts")}
            for case in test.get("promql_expr_test", []):
                if case.get("exp_samples"):
                    alerts -= set(re.findall(r'alertname="(\w+)"', " ".join([case["expr"], *(sample["labels"] for sample in case["exp_samples"])])))
    return sorted(alerts)


def files():
    return [*sorted((CHART / "rules").glob("*.yaml")), *sorted((CHART / "dashboards").glob("*.json"))]


def expressions(path):
    return rule_expressions(path) if path.suffix == ".yaml" else dashboard_expressions(path)


def main():
    sources, promtool = pathlib.Path(sys.argv[1]), sys.argv[2]
    scrapes = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
    rules = sorted((CHART / "rules").glob("*.yaml"))
    recorded = {rule["record"] for path in rules for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"] if "record" in rule}
    exported = {name + suffix for name in registered(sources) for suffix in SUFFIXES}
    shown = None
    if scrapes:
        shown = {line.split("{")[0].split(" ")[0] for file in scrapes.glob("*.txt") for line in file.read_text().splitlines() if line and not line.startswith("#")}
        if not shown:
            sys.exit(f"names: no scrapes in {scrapes}")
    wrong, every, ours = [], [], set()
    for path in files():
        for expression in expressions(path):
            every.append(expression)
            for name in named(expression) - FOREIGN - recorded:
                ours.add(name)
                if name not in exported:
                    wrong.append(f"{path.name}: {name} is exported by nothing (in: {expression.strip()})")
                elif shown is not None and name not in shown | EVENTS | ANSWERED | WRITTEN:
                    wrong.append(f"{path.name}: {name} was shown by no component of the mesh (in: {expression.strip()})")
    wrong += [f"no test sees {alert} firing" for alert in untested()]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump({"groups": [{"name": "all", "rules": [{"record": f"x:{number}", "expr": expression} for number, expression in enumerate(every)]}]}, file)
        file.flush()
        checked = subprocess.run([promtool, "check", "rules", file.name], capture_output=True, text=True)
        if checked.returncode != 0:
            wrong.append(checked.stdout + checked.stderr)
    for line in sorted(set(wrong)):
        print(f"names: {line}")
    print(f"names: {len(every)} expressions, {len(ours)} metrics of ours, {len(set(wrong))} wrong{'' if shown is None else f', against {len(shown)} scraped names'}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
