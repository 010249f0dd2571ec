#!/usr/bin/env python3
"""Brings up, on loopback, the mesh that Terraform describes, and asks it a global question.

Applies examples/plain with the stand-in providers, takes the values and Secrets out of the state, renders the chart with them, and starts every container of
the manifests as a process: the same arguments and files; only addresses, directories and buckets are replaced. Beside them run real Prometheus servers, two
per cluster, each with a sidecar that gets the arguments of the Prometheus Operator. So every flag that a manifest passes is read by the real binary, and
the certificates of modules/pki are used for every hop.

    mesh.py --parallax BIN --helm BIN --terraform BIN --work DIR [--mode inline|stacked|both]

Needs `prometheus` and `promtool`; the stacked hub's caches are in a real memcached, if there is one. Leaves the manifests in DIR/manifests and scraped metrics in DIR/metrics.
"""
import argparse
import base64
import http.client
import json
import pathlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import names
import yaml

TERRAFORM = pathlib.Path(__file__).resolve().parent.parent
KUBERNETES = "1.33.0"
PATIENCE_S = 150
SECRET_WORDS = ("PRIVATE KEY", "secret_key")
# Static keys of one cluster's bucket, so that there is such a secret to look for.
ACCESS_KEY, SECRET_KEY = "the-access-key-of-us-1", "nobody-must-see-this-key"
# Caches, so that their metrics are there and their documents are read; an HTTP server with TLS and a password, whose files are in WEB_SECRET.
WEB_SECRET, USER, PASSWORD = "web", "ali", "open sesame"
# Of the password, at the lowest cost.
HASH = "$2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy"
INLINE = {"cache": {"index": {"type": "IN-MEMORY"}, "chunks": {"type": "IN-MEMORY"}},
          "httpServer": {"existingSecret": WEB_SECRET, "tls": True, "credentials": True, "scrape": {"passwordSecret": "scraper", "caSecret": "web-ca", "serverName": "eu-1.mesh.example.com"}}}
# A bucket's blocks shared by two gateways; aggregations evaluated by the clusters' queriers; us-1 as a hub that may answer for one cluster; one more StoreAPI from a file.
TARGETS = "more-stores"
STACKED = {"observer": {"mode": "stacked", "distributed": {"enabled": True, "partitionLabels": ["cluster"]}, "targetFiles": TARGETS}, "storeGateways": {"eu-1": {"shards": 2}},
           "tlsQueriers": {"us-1": {"delegated": ["us-1"]}}, "cache": {"memcached": {"enabled": True, "replicas": 1}}}


def fail(message):
    sys.exit(f"mesh: {message}")


def run(*command, cwd=None):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


# ---- what Terraform describes ----

def with_more(text):
    """The example, with keys for the bucket of us-1 (for the observee's Secret and for the hub's), one hub that may ask it, by a
    route that goes by names, and what it asks compressed."""
    keys = f'{{ access_key = "{ACCESS_KEY}", secret_key = "{SECRET_KEY}" }}'
    for before, after in (('  cluster_name                = "us-1"\n', f'  cluster_name                = "us-1"\n  bucket_credentials          = {keys}\n'),
                          ("us-1 = module.observee_us_1.store_gateway", f"us-1 = merge(module.observee_us_1.store_gateway, {{ credentials = {keys} }})"),
                          ('{ host = local.hosts["us-1"] }', '{ host = local.hosts["us-1"], mode = "traefik", allowed_identities = ["observer/hub"] }'),
                          ("us-1 = module.observee_us_1.tls_querier", 'us-1 = merge(module.observee_us_1.tls_querier, { compression = "zstd", foreign_labels = "refuse" })'),
                          ('  bucket                      = { bucket = module.bucket_us_1.bucket', '  sidecar                     = { extra_args = { "hash-func" = "SHA256" } }\n  bucket                      = { bucket = module.bucket_us_1.bucket')):
        if text.count(before) != 1:
            fail(f"examples/plain has no line {before.strip()!r}")
        text = text.replace(before, after)
    return text


def secrets_of(modules):
    """Every secret of the state, and lines of keys."""
    found = {ACCESS_KEY, SECRET_KEY}
    for resources in modules.values():
        for resource in resources:
            for value in [*resource["values"].values(), *(resource["values"].get("data") or {}).values()]:
                if isinstance(value, str) and "PRIVATE KEY" in value:
                    found |= {line for line in value.splitlines() if len(line) > 40 and "-----" not in line}
    return found


def shows(text, secrets):
    return next((secret for secret in (*SECRET_WORDS, *secrets) if secret in text), None)


def apply(terraform, work):
    """The state of examples/plain after an apply, as the resources of its modules."""
    tree = work / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for part in ("modules", "charts", "examples"):
        shutil.copytree(TERRAFORM / part, tree / part, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*"))
    root = tree / "examples/plain"
    (root / "main.tf").write_text(with_more((root / "main.tf").read_text()))
    run(terraform, "init", "-input=false", "-no-color", cwd=root)
    said = run(terraform, "plan", "-input=false", "-no-color", cwd=root) + run(terraform, "apply", "-auto-approve", "-input=false", "-no-color", cwd=root)
    said += run(terraform, "output", "-no-color", cwd=root)
    # A second plan finds nothing to do; it would exit with 2.
    run(terraform, "plan", "-detailed-exitcode", "-input=false", "-no-color", cwd=root)
    state = json.loads(run(terraform, "show", "-json", cwd=root))
    modules = {}

    def walk(module, name):
        for resource in module.get("resources", []):
            modules.setdefault(name, []).append(resource)
        for child in module.get("child_modules", []):
            walk(child, name or child["address"].removeprefix("module."))
    walk(state["values"]["root_module"], "")
    secrets = secrets_of(modules)
    if len(secrets) < 10:
        fail(f"only {len(secrets)} secrets in the state: this check sees nothing")
    if shows(said, secrets):
        fail(f"the plan or an output shows {shows(said, secrets)!r}")
    return root, modules, secrets


class Side:
    """One module that installs the chart: its manifests, its Secrets."""

    def __init__(self, name, resources, root, helm, work, hidden, variant="", more=None):
        self.name = name
        self.secrets = {}
        self.stack_values = None
        release = None
        for resource in resources:
            values = resource["values"]
            if resource["type"] == "kubernetes_secret_v1":
                self.secrets[values["metadata"][0]["name"]] = values["data"]
            elif resource["type"] == "helm_release" and values["chart"].endswith("charts/parallax"):
                release = values
            elif resource["type"] == "helm_release":
                self.stack_values = yaml.safe_load(values["values"][0])
        manifests = work / "manifests"
        manifests.mkdir(parents=True, exist_ok=True)
        values = []
        for part, text in (("", release["values"][0]), (".more", json.dumps(more or {}))):
            file = work / f"{name}{variant}{part}.values.yaml"
            file.write_text(text)
            values += ["-f", file]
        chart = (root / release["chart"]).resolve()
        lint = subprocess.run([helm, "lint", "--strict", "--kube-version", KUBERNETES, chart, *values], capture_output=True, text=True)
        if lint.returncode != 0:
            fail(f"helm lint of the values of {name}:\n{lint.stdout}{lint.stderr}")
        text = run(helm, "template", release["name"], chart, "-n", "monitoring", "--kube-version", KUBERNETES, *values)
        (manifests / f"{name}{variant}.yaml").write_text(text)
        self.documents = [document for document in yaml.safe_load_all(text) if document]
        for document in self.documents:
            if document["kind"] != "Secret" and shows(json.dumps(document), hidden):
                fail(f"{name}: {document['kind']} {document['metadata']['name']} holds a secret")
        if self.stack_values and shows(json.dumps(self.stack_values), hidden):
            fail(f"{name}: the values of kube-prometheus-stack hold a secret")

    def config_maps(self):
        return {document["metadata"]["name"]: document["data"] for document in self.documents if document["kind"] == "ConfigMap"}

    def workloads(self):
        for document in self.documents:
            if document["kind"] in ("Deployment", "StatefulSet"):
                yield document["metadata"]["name"], document["spec"]["template"]["spec"]


# ---- processes ----

class Mesh:
    def __init__(self, parallax, work):
        self.parallax, self.work = parallax, work
        self.processes = []
        self.buckets = {}
        # That are not the chart's.
        self.config_maps = {}

    def stop(self):
        for _, process, _ in self.processes:
            process.terminate()
        for _, process, _ in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        self.processes = []

    def start(self, name, command):
        log = self.work / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, cwd=self.work)
        self.processes.append((name, process, log))
        return process

    def check_alive(self):
        for name, process, log in self.processes:
            if process.poll() is not None:
                fail(f"{name} ended with {process.returncode}:\n{log.read_text()[-3000:]}")

    def bucket(self, identity):
        return self.buckets.setdefault(identity, self.work / "buckets" / re.sub(r"[^a-z0-9]+", "-", identity.lower()))


# Below the ports that the kernel gives to connections: of those, one may be taken before its program has started.
PORTS = iter(random.sample(range(10_000, 32_768), 5_000))


def free_port():
    for port in PORTS:
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("no free port on loopback")


# What a server with TLS and a password is asked with, by its URL.
SECURED = {}


def get(url):
    request = urllib.request.Request(url)
    trust = next((trust for base, trust in SECURED.items() if url.startswith(base)), None)
    if trust:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
        return answer.read().decode()


def secure_http(hub, observee):
    """The Secret of the HTTP servers: the leaf of a cluster, and a user. Gives what verifies it; the hub has it for the clusters' gRPC."""
    leaf = next(data for data in observee.secrets.values() if "tls.key" in data)
    config = f"tls_server_config: {{cert_file: tls.crt, key_file: tls.key}}\nbasic_auth_users: {{{USER}: {HASH}}}\n"
    hub.secrets[WEB_SECRET] = {"web.yaml": config, "tls.crt": leaf["tls.crt"], "tls.key": leaf["tls.key"]}
    trust = ssl.create_default_context(cadata=next(data["ca.crt"] for data in hub.secrets.values() if "ca.crt" in data))
    # It is reached by its address, and Terraform's tls provider writes no key identifiers.
    trust.check_hostname = False
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return trust


def is_closed(url):
    """True if nobody gets in without the password, and nobody in plain text."""
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?query=1", timeout=60, context=SECURED[url]):
            return f"{url} asks for no password"
    except urllib.error.HTTPError as error:
        if error.code != 401:
            return f"{url} answers {error.code} without a password"
    try:
        with urllib.request.urlopen(f"{url.replace('https:', 'http:')}/-/healthy", timeout=60):
            return f"{url} answers in plain text"
    except (OSError, http.client.HTTPException):
        return True


def wait_for(what, check, mesh):
    until = time.monotonic() + PATIENCE_S
    last = None
    while time.monotonic() < until:
        mesh.check_alive()
        try:
            last = check()
            if last is True:
                return
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.5)
    logs = "".join(f"--- {name}\n{log.read_text()[-1500:]}" for name, _, log in mesh.processes)
    fail(f"waited {PATIENCE_S} s for {what}: {last}\n{logs}")


def local_objstore(document, mesh):
    """The same bucket as a directory."""
    parsed = yaml.safe_load(document)
    directory = mesh.bucket(f"{parsed['type']}-{parsed['config'].get('bucket', '')}-{parsed.get('prefix', '')}")
    directory.mkdir(parents=True, exist_ok=True)
    return json.dumps({"type": "FILESYSTEM", "config": {"directory": str(directory)}})


def start_prometheus(cluster, side, mesh):
    """The Prometheus replicas of a cluster as kube-prometheus-stack would run them, each with its sidecar. Gives their gRPC addresses by pod."""
    spec = side.stack_values["prometheus"]["prometheusSpec"]
    secret = spec["thanos"]["objectStorageConfig"]["existingSecret"]
    objstore = local_objstore(side.secrets[secret["name"]][secret["key"]], mesh)
    name = f"{side.stack_values['fullnameOverride']}-prometheus"
    addresses, metrics = {}, []
    for replica in range(spec["replicas"]):
        pod = f"prometheus-{name}-{replica}"
        home = mesh.work / f"{cluster}-{replica}"
        (home / "data").mkdir(parents=True)
        port, grpc, http = free_port(), free_port(), free_port()
        config = {"global": {"scrape_interval": "1s", "external_labels": {**spec["externalLabels"], spec["replicaExternalLabelName"]: pod}},
                  "scrape_configs": [{"job_name": "prometheus", "static_configs": [{"targets": [f"127.0.0.1:{port}"], "labels": {"instance": "prometheus"}}]}]}
        (home / "prometheus.yml").write_text(json.dumps(config))
        now = int(time.time())
        samples = "".join(f"history_marker {second} {second}\n" for second in range(now - 6 * 3600, now - 3 * 3600, 60))
        (home / "history.txt").write_text(f"# TYPE history_marker gauge\n{samples}# EOF\n")
        run("promtool", "tsdb", "create-blocks-from", "openmetrics", home / "history.txt", home / "data")
        mesh.start(f"prometheus-{cluster}-{replica}", ["prometheus", f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data", "--storage.tsdb.min-block-duration=2h",
                   "--storage.tsdb.max-block-duration=2h", f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.retention.time={spec['retention']}", "--web.enable-lifecycle"])
        more = [f"--{one['name']}={one['value']}" for one in spec["thanos"].get("additionalArgs", [])]
        # One that watches its Prometheus' files itself, for what its reloader says.
        more += [f"--reloader.config-file={home}/prometheus.yml"] if replica == 0 else []
        # What the operator passes (its statefulset builder): inline objstore, an HTTP client for its own certificate, and its timeouts.
        mesh.start(f"sidecar-{cluster}-{replica}", [mesh.parallax, "sidecar", f"--prometheus.url=http://127.0.0.1:{port}/", '--prometheus.http-client={"tls_config": {"insecure_skip_verify":true}}',
                   f"--grpc-address=:{grpc}", f"--http-address=:{http}", f"--objstore.config={objstore}", f"--tsdb.path={home}/data", "--log.level=info", "--log.format=logfmt",
                   "--prometheus.ready_timeout=10m", "--prometheus.get_config_timeout=30s", "--prometheus.get_config_interval=30s", *more])
        addresses[f"{pod}.prometheus-operated.monitoring.svc:10901"] = f"127.0.0.1:{grpc}"
        metrics.append((f"sidecar-{cluster}-{replica}", f"http://127.0.0.1:{http}"))
    return addresses, metrics


def mounts(pod, side, name, mesh):
    """Where each mounted file is here: (path in the container, directory here), longest first."""
    out = []
    maps = side.config_maps()
    sources = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for number, mount in enumerate(pod["containers"][0].get("volumeMounts", [])):
        directory = mesh.work / f"{name}-mount-{number}"
        directory.mkdir(parents=True, exist_ok=True)
        source = sources.get(mount["name"], {})
        if "secret" in source:
            data = side.secrets.get(source["secret"]["secretName"])
            if data is None:
                fail(f"{name} mounts Secret {source['secret']['secretName']}, which Terraform does not make (it makes {', '.join(side.secrets)})")
        elif "configMap" in source:
            data = maps.get(source["configMap"]["name"]) or mesh.config_maps[source["configMap"]["name"]]
        else:
            data = {}
        for key, text in data.items():
            (directory / key).write_text(local_objstore(text, mesh) if key == "objstore.yaml" else text)
        out.append((mount["mountPath"], directory))
    return sorted(out, key=lambda pair: -len(pair[0]))


def start_workload(name, pod, side, mesh, addresses):
    """One container as a process. Gives its HTTP and gRPC addresses."""
    container = pod["containers"][0]
    http, grpc = free_port(), free_port()
    places = mounts(pod, side, name, mesh)

    def local(text):
        for path, directory in places:
            text = text.replace(path, str(directory))
        for address, here in addresses.items():
            text = text.replace(address, here)
        return text.replace("0.0.0.0:10902", f"127.0.0.1:{http}").replace("0.0.0.0:10901", f"127.0.0.1:{grpc}")
    for _, directory in places:
        for file in directory.glob("*.yaml"):
            file.write_text(local(file.read_text()))
    args = [local(argument) for argument in container["args"]]
    mesh.start(name, [mesh.parallax, *args])
    mesh.check_alive()
    return f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}"


def routed_names(side):
    """The names that the manifests' routes pass on: a TLSRoute's, an IngressRouteTCP's or an Ingress'."""
    found = []
    for document in side.documents:
        spec = document.get("spec") or {}
        if document["kind"] == "TLSRoute":
            found += spec["hostnames"]
        elif document["kind"] == "IngressRouteTCP" and spec["tls"]["passthrough"]:
            found += [name for route in spec["routes"] for name in re.findall(r"HostSNI\(`([^`]+)`\)", route["match"])]
        elif document["kind"] == "Ingress" and document["metadata"]["annotations"].get("nginx.ingress.kubernetes.io/ssl-passthrough") == "true":
            found += [rule["host"] for rule in spec["rules"]]
    return found


def ask(url, query, dedup=True, at=None):
    form = {"query": query, "dedup": str(dedup).lower(), **({"time": at} if at else {})}
    return json.loads(get(f"{url}/api/v1/query?{urllib.parse.urlencode(form)}"))


def question(url, clusters, replicas):
    """True if both clusters answer, with fresh data and history, with all replicas, and nothing is missing."""
    answer = ask(url, "count by (cluster) (up)")
    found = {row["metric"]["cluster"]: row["value"][1] for row in answer["data"]["result"]}
    if found != {cluster: "1" for cluster in clusters}:
        return f"count by (cluster) (up) is {found}, {answer.get('warnings')}"
    if answer.get("warnings"):
        return f"warnings {answer['warnings']}"
    answer = ask(url, "count by (cluster) (up)", dedup=False)
    found = {row["metric"]["cluster"]: row["value"][1] for row in answer["data"]["result"]}
    if found != {cluster: str(replicas) for cluster in clusters}:
        return f"without dedup {found}"
    answer = ask(url, "count by (cluster) (count_over_time(history_marker[3h]))", at=int(time.time()) - 3 * 3600)
    found = {row["metric"]["cluster"]: row["value"][1] for row in answer["data"]["result"]}
    if found != {cluster: "1" for cluster in clusters} or answer.get("warnings"):
        return f"history is {found}, {answer.get('warnings')}"
    # What was down while the hub began stays among these under its address, for a while.
    named = f'{{cluster=~"{"|".join(clusters)}"}}'
    answer = ask(url, f"min by (cluster) (parallax_cluster_up{named}) * min by (cluster) (parallax_cluster_coverage_ratio{named})")
    found = {row["metric"]["cluster"]: row["value"][1] for row in answer["data"]["result"]}
    if found != {cluster: "1" for cluster in clusters}:
        return f"coverage is {found}"
    return True


def distributed(url, clusters):
    """True if both clusters answer, and their queriers evaluated it: these are asked at whole seconds only."""
    answer = ask(url, "count by (cluster) (up)", at=int(time.time()) - 1)
    found = {row["metric"]["cluster"]: row["value"][1] for row in answer["data"]["result"]}
    if found != {cluster: "1" for cluster in clusters}:
        return f"{found}, {answer.get('warnings')}"
    counts = [line for line in get(f"{url}/metrics").splitlines() if line.startswith("parallax_querier_pushdown_total{")]
    return any(re.search(r'outcome="answered"[^}]*\} [1-9]', line) for line in counts) or f"nothing was evaluated by the clusters' queriers: {counts}"


def evaluate(url):
    """Every expression of rules and dashboards through our own engine."""
    for path in names.files():
        for expression in names.expressions(path):
            try:
                ask(url, expression)
            except urllib.error.HTTPError as error:
                fail(f"{path.name}: {expression}: {error.read().decode()}")


def paths(node, base=""):
    """Keys of a document, with dots."""
    if not isinstance(node, dict):
        return {base}
    return {path for key, value in node.items() for path in paths(value, f"{base}.{key}" if base else key)}


def follow_the_module(sides):
    """The examples' values of kube-prometheus-stack set nothing that the modules do not."""
    known = set.union(*(paths(side.stack_values) for side in sides))
    known |= {path.rsplit(".", 1)[0] for path in known if "externalLabels" in path}
    for file in sorted((TERRAFORM.parent / "examples").glob("*/*.kps.yaml")):
        for path in paths(yaml.safe_load(file.read_text())) - known:
            fail(f"{file}: {path} is set by no module: a typing error?")


def start_memcached(mesh, addresses):
    """Where the manifests' memcached is here."""
    port = free_port()
    mesh.start("memcached", ["memcached", "-l", "127.0.0.1", "-p", port, "-m", "64", "-I", "16m", "-u", "nobody"])
    addresses["parallax-memcached-0.parallax-memcached.monitoring.svc:11211"] = f"127.0.0.1:{port}"
    return port


def memcached_counts(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"stats\r\n")
        text = b""
        while not text.endswith(b"END\r\n"):
            text += connection.recv(65536)
    return {name: int(value) for name, value in re.findall(r"STAT (\w+) (\d+)\r\n", text.decode())}


def main():
    arguments = argparse.ArgumentParser()
    for name in ("parallax", "helm", "terraform", "work"):
        arguments.add_argument(f"--{name}", required=True)
    arguments = arguments.parse_args()
    work = pathlib.Path(arguments.work).resolve()
    for old in work.glob("*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    work.mkdir(parents=True, exist_ok=True)
    root, modules, hidden = apply(arguments.terraform, work)
    sides = {name: Side(name, resources, root, arguments.helm, work, hidden, more=INLINE if name == "observer" else None) for name, resources in modules.items()
             if any(resource["type"] == "helm_release" for resource in resources)}
    observees = {name.removeprefix("observee_").replace("_", "-"): side for name, side in sides.items() if name.startswith("observee_")}
    stacked = Side("observer", modules["observer"], root, arguments.helm, work, hidden, "-stacked", STACKED)
    follow_the_module([*observees.values(), sides["observer"]])
    mesh = Mesh(pathlib.Path(arguments.parallax).resolve(), work)
    try:
        scrape, entries, routed = [], {}, []
        for cluster, side in observees.items():
            addresses, metrics = start_prometheus(cluster, side, mesh)
            scrape += metrics
            if cluster == "eu-1":
                # One of its sidecars is reached past its entry, too.
                direct = next(iter(addresses.values()))
                mesh.config_maps[TARGETS] = {"more.yaml": json.dumps([{"targets": [direct]}])}
            for name, pod in side.workloads():
                started = start_workload(f"{cluster}-{name}", pod, side, mesh, addresses)
                scrape.append((f"{cluster}-{name}", started[0]))
                if name.endswith("-entry"):
                    entries[f"{cluster}.mesh.example.com:443"] = started[1]
                    if routes := [f"{host}={started[1]}" for host in routed_names(side)]:
                        port = free_port()
                        mesh.start(f"{cluster}-route", [sys.executable, TERRAFORM / "ci/sni_route.py", port, *routes])
                        entries[f"{cluster}.mesh.example.com:443"] = f"127.0.0.1:{port}"
                        routed.append(cluster)
        if routed != ["us-1"]:
            fail(f"routes of {routed}: that of us-1 was to be tried")
        wait_for("the first blocks in the buckets", lambda: len(mesh.buckets) == len(observees) and all(any(bucket.glob("*/meta.json")) for bucket in mesh.buckets.values()), mesh)
        for mode, side in (("inline", sides["observer"]), ("stacked", stacked)):
            addresses = dict(entries)
            trust = secure_http(side, observees["eu-1"]) if mode == "inline" else None
            workloads = [(name, pod) for name, pod in side.workloads() if pod["containers"][0]["name"] == "parallax"]
            memcached = start_memcached(mesh, addresses) if mode == "stacked" and shutil.which("memcached") else None
            # The global querier last: it asks the others.
            workloads.sort(key=lambda pair: pair[0] == "parallax-query")
            url = None
            for name, pod in workloads:
                url, grpc = start_workload(f"{mode}-{name}", pod, side, mesh, addresses)
                if trust:
                    url = url.replace("http:", "https:")
                    SECURED[url] = trust
                addresses[f"{name}.monitoring.svc:10901"] = grpc
                scrape.append((f"{mode}-{name}", url))
            wait_for(f"the answer of the {mode} observer", lambda: question(url, list(observees), 2), mesh)
            wait_for(f"the {mode} observer to hear of uploads", lambda: "parallax_querier_upload_lag_seconds{" in get(f"{url}/metrics"), mesh)
            evaluate(url)
            if trust and (why := is_closed(url)) is not True:
                fail(f"the HTTP server of the inline observer: {why}")
            if mode == "stacked":
                if direct not in get(f"{url}/api/v1/stores"):
                    fail(f"the stacked observer does not know {direct}, which a file of targets names")
                wait_for("the stacked observer's distributed answer", lambda: distributed(url, list(observees)), mesh)
            if memcached:
                # What is put there goes in the background.
                wait_for("the gateways to put something into the memcached of the manifests", lambda: memcached_counts(memcached)["cmd_set"] > 0, mesh)
            print(f"mesh: {mode}: {len(workloads)} workloads of the hub; {', '.join(observees)} answer over mTLS with fresh data and history, no warnings")
        metrics = work / "metrics"
        metrics.mkdir()
        for name, url in scrape:
            (metrics / f"{name}.txt").write_text(get(f"{url}/metrics"))
    finally:
        mesh.stop()
    for log in work.glob("*.log"):
        if shows(log.read_text(), hidden):
            fail(f"{log.name} shows a secret")
    print(f"mesh: none of {len(hidden)} secrets in the plan, an output, a ConfigMap, values, or {len(list(work.glob('*.log')))} logs")


if __name__ == "__main__":
    main()
