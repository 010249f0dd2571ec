#!/usr/bin/env python3
"""What is wrong is refused by `terraform plan`, before anything is made, with a sentence that says what to change: each mistake is put into examples/plain, one at a time.

    refusals.py TERRAFORM WORK      (stand-in providers, see stub-provider)

The modules' own tests know which variable refuses; here is what a person reads, and that values reach the check while nothing exists yet.
"""
import concurrent.futures
import pathlib
import queue
import re
import shutil
import subprocess
import sys

TERRAFORM = pathlib.Path(__file__).resolve().parent.parent
EU_1 = '  cluster_name                = "eu-1"\n'
# (what is wrong, what to replace in main.tf, by what, what is said)
MISTAKES = [
    ("one bucket of two clusters", 'bucket            = "${var.bucket_prefix}-us-1"', 'bucket            = "${var.bucket_prefix}-eu-1"',
     "Two store_gateways read the same bucket: each cluster needs a bucket (or a prefix) of its own"),
    ("equal external labels", '  cluster_name                = "us-1"', '  cluster_name                = "eu-1"', "Give each cluster its own value of the label `cluster`"),
    ("a label that the name sets", '{ region = "eu-west-1" }', '{ cluster = "other" }', "external_labels must not set `cluster`: it is cluster_name"),
    ("no CA for an endpoint", "observee_ca_content         = module.pki.observee_ca_content", 'observee_ca_content         = ""', "set observee_ca_content (an output of the pki module)"),
    ("whom to trust is no CA", "trusted_ca_content          = module.pki.trusted_ca_content\n  server                      = module.pki.servers[\"eu-1\"]",
     "trusted_ca_content          = \"\"\n  server                      = module.pki.servers[\"eu-1\"]", "trusted_ca_content must be a PEM bundle"),
    ("no client certificate", 'client                      = module.pki.clients["hub"]', "client                      = null", "The hub has no client certificate: set client to"),
    ("no server certificate", 'server                      = module.pki.servers["eu-1"]', "server                      = null", "eu-1 has no server certificate: set server to"),
    ("a host that the certificate does not name", 'entry                       = { host = local.hosts["eu-1"] }', 'entry                       = { host = "elsewhere.example.com" }',
     "does not name its host elsewhere.example.com"),
    ("a certificate without a name", "{ dns_names = [host] }", "{ dns_names = [] }", "Each of servers needs dns_names"),
    ("an unknown entry", 'entry                       = { host = local.hosts["eu-1"] }', 'entry                       = { host = local.hosts["eu-1"], mode = "tunnel" }',
     'entry.mode "tunnel" is not known: use l4, gateway, traefik, nginx or none'),
    ("raw data gone before it is downsampled", EU_1, EU_1 + '  compactor                   = { retention_raw = "40h" }\n', "Keep more than 40h, or set downsampling = false"),
    ("5m data gone before it is downsampled", EU_1, EU_1 + '  compactor                   = { retention_5m = "10d" }\n', "Keep more than 10d, or set downsampling = false"),
    ("a rule of retention that is too short", EU_1, EU_1 + '  compactor                   = { retention_rules = [{ match = "{team=\\"a\\"}", raw = "1d" }] }\n', "keeps less than downsampling needs"),
    ("Prometheus keeps less than an upload may take", EU_1, EU_1 + '  prometheus                  = { retention = "2h" }\n', "prometheus.retention is below 6h"),
    ("blocks in Glacier", '  bucket            = "${var.bucket_prefix}-eu-1"', '  bucket            = "${var.bucket_prefix}-eu-1"\n  transitions       = [{ days = 90, storage_class = "GLACIER" }]',
     "moves blocks to a class that cannot be read at once"),
    ("a bucket that expires objects", '  bucket            = "${var.bucket_prefix}-eu-1"', '  bucket            = "${var.bucket_prefix}-eu-1"\n  expiration_days   = 30', "The bucket must not expire objects"),
    ("two compactors of one bucket", "    compactor = { access = \"compactor\", bucket_arn = \"arn:aws:s3:::${var.bucket_prefix}-eu-1\"",
     "    second    = { access = \"compactor\", bucket_arn = \"arn:aws:s3:::${var.bucket_prefix}-eu-1\", service_account = \"other\" }\n    compactor = { access = \"compactor\", bucket_arn = \"arn:aws:s3:::${var.bucket_prefix}-eu-1\"",
     "Two compactors are granted the same bucket"),
    ("a role for any pod", 'service_account = "parallax-observer"', 'service_account = "*"', "wildcards would let any pod with a fitting name in"),
    ("an address with a scheme", "eu-1 = module.observee_eu_1.tls_querier", 'eu-1 = merge(module.observee_eu_1.tls_querier, { stores = ["https://eu-1.example.com"] })', "A store is host:port without a scheme"),
    ("one address of two clusters", "us-1 = module.observee_us_1.tls_querier", "us-1 = module.observee_eu_1.tls_querier", "one address is one cluster"),
    ("an observee on the list of who may ask", 'entry                       = { host = local.hosts["eu-1"] }',
     'entry                       = { host = local.hosts["eu-1"], allowed_identities = ["observee/us-1"] }', "only observers and ingresses ask"),
    ("a header that nobody sets", 'entry                       = { host = local.hosts["eu-1"] }',
     'entry                       = { host = local.hosts["eu-1"], forwarded_certificates = "xfcc" }', "in other modes TLS passes through"),
    ("an unknown compression", '  cluster_name                = "hub"\n', '  cluster_name                = "hub"\n  query                       = { compression = "gzip" }\n', "query.compression is none, snappy or zstd"),
    ("a hub without a leaf for those above it", '  cluster_name                = "hub"\n', '  cluster_name                = "hub"\n  upward                      = {}\n', "upward has no certificate: set upward_server to"),
    ("an unknown mode", '  cluster_name                = "hub"\n', '  cluster_name                = "hub"\n  mode                        = "sideways"\n', 'mode "sideways" is not known: use inline or stacked'),
]


def plan(terraform, root):
    done = subprocess.run([terraform, "plan", "-input=false", "-no-color", "-refresh=false", "-lock=false"], cwd=root, capture_output=True, text=True)
    # What is said is wrapped, and has a bar at its side.
    return done.returncode, re.sub(r"\s+", " ", re.sub(r"(?m)^[│╷╵] ?", " ", done.stdout + done.stderr))


def copy(terraform, work):
    """A root of its own, so that two can be planned at once."""
    for part in ("modules", "charts", "examples"):
        shutil.copytree(TERRAFORM / part, work / part, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
    root = work / "examples/plain"
    done = subprocess.run([terraform, "init", "-input=false", "-no-color"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"refusals: init: {done.stdout}{done.stderr}")
    return root


def judge(terraform, roots, right, mistake):
    """Nothing, or what is wrong."""
    what, before, after, sentence = mistake
    if before not in right:
        return f"{what}: main.tf has no {before!r}"
    root = roots.get()
    try:
        (root / "main.tf").write_text(right.replace(before, after, 1))
        code, said = plan(terraform, root)
    finally:
        roots.put(root)
    if code == 0:
        return f"{what}: planned"
    return None if sentence in said else f"{what}: {said[-1500:]}"


def main():
    terraform, work = sys.argv[1], pathlib.Path(sys.argv[2])
    shutil.rmtree(work, ignore_errors=True)
    roots = queue.Queue()
    for number in range(2):
        root = copy(terraform, work / str(number))
        roots.put(root)
    right = (root / "main.tf").read_text()
    code, said = plan(terraform, root)
    if code:
        sys.exit(f"refusals: the example as it is: {said}")
    with concurrent.futures.ThreadPoolExecutor(roots.qsize()) as pool:
        wrong = [line for line in pool.map(lambda mistake: judge(terraform, roots, right, mistake), MISTAKES) if line]
    for line in wrong:
        print(f"refusals: {line}")
    print(f"refusals: {len(MISTAKES)} mistakes, {len(wrong)} not refused at plan time with what to change")
    sys.exit(bool(wrong))


main()
