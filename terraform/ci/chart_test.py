#!/usr/bin/env python3
"""Unit tests of the chart: what it renders for given values, and what it refuses. Every rendering is validated against the schemas, and left for dry_start.py.

    chart_test.py HELM KUBECONFORM WORK     (schemas in WORK/schemas, see schemas.py; renderings go to WORK/rendered)
"""
import hashlib
import json
import pathlib
import subprocess
import sys
import unittest

import yaml

CHART = pathlib.Path(__file__).resolve().parent.parent / "charts/parallax"
HELM, KUBECONFORM, WORK = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
KUBERNETES = "1.33.0"


def helm(side, values, *options):
    command = [HELM, "template", "parallax", str(CHART), "-n", "monitoring", "--kube-version", KUBERNETES, *options]
    if side:
        command += ["-f", str(CHART / f"values-{side}.yaml")]
    return subprocess.run([*command, "-f", "-"], input=yaml.safe_dump(values), capture_output=True, text=True)


class Rendered:
    def __init__(self, test, side, values, *options):
        done = helm(side, values, *options)
        test.assertEqual(done.returncode, 0, done.stderr)
        checked = subprocess.run([KUBECONFORM, "-strict", "-schema-location", f"{WORK}/schemas/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json", "-"],
                                 input=done.stdout, capture_output=True, text=True)
        test.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
        (WORK / "rendered").mkdir(exist_ok=True)
        (WORK / "rendered" / f"{hashlib.sha256(done.stdout.encode()).hexdigest()[:12]}.yaml").write_text(done.stdout)
        self.documents = [document for document in yaml.safe_load_all(done.stdout) if document]

    def one(self, kind, name):
        found = [document for document in self.documents if document["kind"] == kind and document["metadata"]["name"] == name]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} of {kind} {name}; there are {self.names()}")
        return found[0]

    def names(self, kind=None):
        return sorted(f"{document['kind']}/{document['metadata']['name']}" if kind is None else document["metadata"]["name"]
                      for document in self.documents if kind in (None, document["kind"]))

    def pods(self):
        for document in self.documents:
            if document["kind"] in ("Deployment", "StatefulSet"):
                yield document["metadata"]["name"], document["spec"]["template"]["spec"], document

    def file(self, config_map, name):
        return yaml.safe_load(self.one("ConfigMap", config_map)["data"][name])

    def container(self, kind, name):
        return self.one(kind, name)["spec"]["template"]["spec"]["containers"][0]

    def args(self, kind, name):
        return self.container(kind, name)["args"]


STACKED = {"observer": {"mode": "stacked"}}
CERT_MANAGER = {"entry": {"tls": {"certManager": {"enabled": True, "uri": "spiffe://m/observee/eu-1", "issuerRef": {"name": "mesh"}}}}}


class Chart(unittest.TestCase):
    def render(self, side, values=None, *options):
        return Rendered(self, side, values or {}, *options)

    def test_the_inline_observer_has_one_file_with_every_cluster_and_no_secret_in_it(self):
        out = self.render("observer")
        file = yaml.safe_load(out.one("ConfigMap", "parallax-query")["data"]["observer.yaml"])
        self.assertEqual(file["clusters"][0]["server_name"], "eu-1.mesh.example.com")
        self.assertEqual(file["clusters"][0]["bucket_file"], "/etc/parallax/objstore/eu-1/objstore.yaml")
        mounted = {mount["mountPath"] for mount in out.one("StatefulSet", "parallax-query")["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
        self.assertIn("/etc/parallax/objstore/eu-1", mounted)
        self.assertIn("/etc/parallax/tls/parallax-observer-tls", mounted)

    def test_a_change_of_clusters_is_a_rollout(self):
        def digest(values):
            return self.render("observer", values).one("StatefulSet", "parallax-query")["spec"]["template"]["metadata"]["annotations"]
        more = {"tlsQueriers": {"us-1": {"stores": ["us-1.mesh.example.com:443"]}}}
        self.assertNotEqual(digest({}), digest(more))

    def test_the_stacked_observer_asks_every_querier_and_gateway(self):
        out = self.render("observer", {"observer": {"mode": "stacked"}, "localStores": ["ruler:10901", "dns+receive:10901"]})
        self.assertEqual(out.file("parallax-query", "endpoints.yaml")["endpoints"], [
            {"address": "parallax-querier-eu-1.monitoring.svc:10901", "cluster": "eu-1"}, {"address": "parallax-store-eu-1.monitoring.svc:10901"},
            {"address": "ruler:10901"}, {"address": "dns+receive:10901"}])
        self.assertEqual(out.file("parallax-querier-eu-1", "endpoints.yaml")["default_client_config"]["server_name"], "eu-1.mesh.example.com")
        self.assertIn("--endpoint.sd-config-file=/etc/parallax/config/endpoints.yaml", out.args("Deployment", "parallax-querier-eu-1"))

    def test_in_mode_stacked_a_new_cluster_is_no_rollout_of_the_others(self):
        def template(values):
            return self.render("observer", {"observer": {"mode": "stacked"}, **values}).one("Deployment", "parallax-query")["spec"]["template"]
        self.assertEqual(template({}), template({"tlsQueriers": {"us-1": {"stores": ["us-1.mesh.example.com:443"]}}}))

    def test_names_are_looked_up_and_their_scheme_is_no_part_of_the_certificate(self):
        stores = {"eu-1": {"stores": ["dns+eu-1.mesh.example.com:443"], "serverName": None},
                  "us-1": {"stores": ["dnssrv+_grpc._tcp.us-1.example.com", "us-1b.example.com:443"], "serverName": "us-1.mesh", "cluster": "us"},
                  "thanos": {"stores": ["thanos.example.com:443"], "cluster": ""}}
        out = self.render("observer", {"observer": {"mode": "stacked", "foreignLabels": "refuse"}, "tlsQueriers": stores})
        eu, us = (out.file(f"parallax-querier-{name}", "endpoints.yaml") for name in ("eu-1", "us-1"))
        self.assertEqual((eu["endpoints"], eu["default_client_config"]["server_name"]), ([{"address": "dns+eu-1.mesh.example.com:443", "cluster": "eu-1", "identity": "spiffe://mesh.example.com/observee/eu-1"}], "eu-1.mesh.example.com"))
        self.assertEqual([endpoint["cluster"] for endpoint in us["endpoints"]], ["us", "us"])
        self.assertEqual(out.file("parallax-querier-thanos", "endpoints.yaml")["endpoints"], [{"address": "thanos.example.com:443"}])
        self.assertIn("--endpoint.foreign-labels=refuse", out.args("Deployment", "parallax-query"))
        entry = self.render("observee", {"entry": {"endpoints": ["dnssrv+_grpc._tcp.prometheus-operated.monitoring.svc"]}})
        self.assertEqual(entry.file("parallax-entry", "endpoints.yaml")["endpoints"], [{"address": "dnssrv+_grpc._tcp.prometheus-operated.monitoring.svc", "cluster": "eu-1"}])
        loose = self.render("observee", {"entry": {"endpoints": ["a:1"], "declareCluster": False}})
        self.assertEqual(loose.file("parallax-entry", "endpoints.yaml")["endpoints"], [{"address": "a:1"}])

    def test_a_cluster_that_is_no_more_keeps_its_history(self):
        values = {"storeGateways": {"old": {"objstoreSecret": "old"}}}
        file = self.render("observer", values).file("parallax-query", "observer.yaml")
        self.assertEqual(file["clusters"][1], {"name": "old", "bucket_file": "/etc/parallax/objstore/old/objstore.yaml"})
        stacked = self.render("observer", {**values, "observer": {"mode": "stacked"}})
        self.assertIn("StatefulSet/parallax-store-old", stacked.names())

    def test_gateways_share_a_bucket_by_the_blocks(self):
        values = {"observer": {"mode": "stacked", "syncInterval": "3m"}, "storeGateways": {"eu-1": {"shards": 2, "relabel": [{"action": "drop", "source_labels": ["team"], "regex": "x"}]}}}
        out = self.render("observer", values)
        for shard in ("0", "1"):
            rules = out.file(f"parallax-store-eu-1-{shard}", "relabel.yaml")
            self.assertEqual([rule["action"] for rule in rules], ["drop", "hashmod", "keep"])
            self.assertEqual((rules[1]["source_labels"], rules[1]["modulus"], rules[2]["regex"]), (["__block_id"], 2, shard))
        self.assertIn("--selector.relabel-config-file=/etc/parallax/config/relabel.yaml", out.args("StatefulSet", "parallax-store-eu-1-1"))
        self.assertEqual(out.names("ServiceAccount"), ["parallax-store-eu-1"])
        self.assertEqual(len(out.file("parallax-query", "endpoints.yaml")["endpoints"]), 3)

    def test_gateways_of_both_forms_use_the_memcached(self):
        memcached = {"cache": {"memcached": {"enabled": True}}}
        inline = self.render("observer", memcached).file("parallax-query", "observer.yaml")
        stacked = self.render("observer", {**memcached, "observer": {"mode": "stacked"}})
        found = [inline["index_cache"], inline["caching_bucket"], stacked.file("parallax-store-eu-1", "index-cache.yaml"), stacked.file("parallax-store-eu-1", "caching-bucket.yaml")]
        for document in found:
            # A name of several addresses would count as one server.
            self.assertEqual(document["config"]["addresses"], [f"parallax-memcached-{pod}.parallax-memcached.monitoring.svc:11211" for pod in (0, 1)])

    def test_caches_by_document_and_by_secret(self):
        out = self.render("observer", {"cache": {"index": {"type": "IN-MEMORY", "config": {"max_size": "1GiB"}}}})
        file = out.file("parallax-query", "observer.yaml")
        self.assertEqual((file["index_cache"]["config"], "caching_bucket" in file), ({"max_size": "1GiB"}, False))
        out = self.render("observer", {"observer": {"mode": "stacked"}, "cache": {"existingSecret": "redis"}})
        self.assertIn("--index-cache.config-file=/etc/parallax/cache/index-cache.yaml", out.args("StatefulSet", "parallax-store-eu-1"))
        self.assertIn("--store.caching-bucket.config-file=/etc/parallax/cache/caching-bucket.yaml", out.args("StatefulSet", "parallax-store-eu-1"))

    def test_answers_may_have_to_be_whole(self):
        values = {"observer": {"partialResponse": False, "maxHeldBytes": "2GiB"}}
        file = self.render("observer", values).file("parallax-query", "observer.yaml")
        self.assertEqual((file["partial_response"], file["max_held_bytes"]), (False, "2GiB"))
        args = self.render("observer", {"observer": {**values["observer"], "mode": "stacked"}}).args("Deployment", "parallax-query")
        self.assertTrue({"--no-query.partial-response", "--no-rule.partial-response", "--query.max-held-bytes=2GiB"} <= set(args))

    def test_what_is_added_to_every_pod_comes_after_ours(self):
        out = self.render("observee", {"podAnnotations": {"a": "b"}, "priorityClassName": "high", "extraEnv": [{"name": "RUST_BACKTRACE", "value": "1"}], "affinity": {"nodeAffinity": {}},
                                       "entry": {"extraArgs": ["--store.limits.request-series=1000000"]}})
        for _, pod, document in out.pods():
            self.assertEqual((document["spec"]["template"]["metadata"]["annotations"], pod["priorityClassName"]), ({"a": "b"}, "high"))
        self.assertEqual(out.args("Deployment", "parallax-entry")[-1], "--store.limits.request-series=1000000")

    def test_the_entry_ends_mtls_itself(self):
        out = self.render("observee")
        self.assertIn("--grpc-server-tls-client-ca=/etc/parallax/tls/ca.crt", out.args("Deployment", "parallax-entry"))
        self.assertEqual(out.one("Service", "parallax-entry-grpc")["spec"]["type"], "LoadBalancer")

    def test_sources_are_narrowed_where_their_addresses_are_seen(self):
        sources = {"allowedCidrs": ["192.0.2.0/24"]}
        out = self.render("observee", {"entry": sources})
        self.assertEqual(out.one("Service", "parallax-entry-grpc")["spec"]["loadBalancerSourceRanges"], ["192.0.2.0/24"])
        # Behind a load balancer that has addresses of its own, a policy by senders would let nobody in.
        self.assertEqual(out.one("NetworkPolicy", "parallax-entry")["spec"]["ingress"], [{"ports": [{"port": "grpc"}]}])
        pods = self.render("observee", {"entry": {**sources, "mode": "none"}})
        self.assertEqual(pods.one("NetworkPolicy", "parallax-entry")["spec"]["ingress"][0]["from"], [{"ipBlock": {"cidr": "192.0.2.0/24"}}])

    def test_others_than_this_namespace_are_let_in_by_name(self):
        peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "grafana"}}}
        out = self.render("observee", {"networkPolicy": {"from": [peer], "sidecarSelector": {"app.kubernetes.io/name": "prometheus"}}})
        self.assertEqual(out.one("NetworkPolicy", "parallax")["spec"]["ingress"], [{"from": [{"podSelector": {}}, peer]}])
        sidecars = out.one("NetworkPolicy", "parallax-sidecars")["spec"]
        self.assertEqual((sidecars["podSelector"]["matchLabels"], sidecars["ingress"][0]["from"]), ({"app.kubernetes.io/name": "prometheus"}, [{"podSelector": {}}, peer]))
        open_to_all = [range(rule["port"], rule["endPort"] + 1) for rule in sidecars["ingress"][1]["ports"]]
        self.assertEqual({port: any(port in one for one in open_to_all) for port in (9090, 10901, 10902)}, {9090: True, 10901: False, 10902: True})
        self.assertNotIn("NetworkPolicy/parallax-sidecars", self.render("observee").names())

    def test_who_may_ask_is_a_list_of_identities(self):
        out = self.render("observee", {"entry": {"allowedIdentities": ["observer/hub", "dns:querier.example.com"]}})
        self.assertTrue({"--grpc-server-allowed-identity=observer/hub", "--grpc-server-allowed-identity=dns:querier.example.com"} <= set(out.args("Deployment", "parallax-entry")))
        upward = {"upward": {"tlsSecret": "up", "allowedIdentities": ["observer/global"], "forwardedCertificates": "xfcc"}}
        inline = self.render("observer", {"observer": upward})
        file = inline.file("parallax-query", "observer.yaml")
        self.assertEqual((file["grpc_tls"]["cert"], file["allowed_observers"], file["forwarded_certificates"]), ("/etc/parallax/upward/tls.crt", ["observer/global"], "xfcc"))
        stacked = self.render("observer", {"observer": {"mode": "stacked", **upward}})
        self.assertTrue({"--grpc-server-tls-client-ca=/etc/parallax/upward/ca.crt", "--grpc-server-allowed-identity=observer/global", "--grpc-server-forwarded-certificates=xfcc"}
                        <= set(stacked.args("Deployment", "parallax-query")))
        for out, own in ((inline, True), (stacked, True), (self.render("observer"), False)):
            grpc = next(port for port in out.one("Service", "parallax-query")["spec"]["ports"] if port["name"] == "grpc")
            self.assertEqual("appProtocol" in grpc, not own)
        # Beneath the global querier nobody comes from outside.
        self.assertFalse([argument for argument in stacked.args("Deployment", "parallax-querier-eu-1") if "grpc-server" in argument])

    def test_clusters_are_told_apart_by_identity_and_labels_in_both_modes(self):
        own = {"tlsQueriers": {"eu-1": {"authority": "grpc.eu-1", "compression": "zstd", "foreignLabels": "inject"}, "us-1": {"stores": ["us-1.mesh.example.com:443"], "identity": "dns"}}}
        common = {"foreignLabels": "refuse", "clusterLabel": "site", "compression": "snappy", "maxFrameBytes": "32MiB"}
        file = self.render("observer", {**own, "observer": {**common, "infoInterval": "10s"}}).file("parallax-query", "observer.yaml")
        self.assertEqual((file["foreign_labels"], file["cluster_label"], file["max_frame_size"], file["info_interval"]), ("refuse", "site", "32MiB", "10s"))
        eu, us = file["clusters"]
        self.assertEqual((eu["authority"], eu["compression"], eu["foreign_labels"]), ("grpc.eu-1", "zstd", "inject"))
        self.assertEqual((us["identity"], us["compression"], "foreign_labels" in us), ("dns", "snappy", False))
        out = self.render("observer", {**own, "observer": {**common, "mode": "stacked"}, "storeGateways": {"eu-1": {"cluster": "eu-1"}}})
        eu, us = (out.file(f"parallax-querier-{name}", "endpoints.yaml") for name in ("eu-1", "us-1"))
        self.assertEqual(eu["endpoints"], [{"address": "eu-1.mesh.example.com:443", "cluster": "eu-1", "identity": "spiffe://mesh.example.com/observee/eu-1", "authority": "grpc.eu-1", "foreign_labels": "inject"}])
        self.assertEqual((eu["default_client_config"]["compression"], us["default_client_config"]["compression"], us["endpoints"][0]["identity"]), ("zstd", "snappy", "dns"))
        above = {endpoint["address"].split(".")[0]: endpoint for endpoint in out.file("parallax-query", "endpoints.yaml")["endpoints"]}
        self.assertEqual([above[name].get("foreign_labels") for name in ("parallax-querier-eu-1", "parallax-querier-us-1", "parallax-store-eu-1")], ["inject", None, "inject"])
        self.assertIn("--endpoint.max-frame-size=32MiB", out.args("Deployment", "parallax-querier-us-1"))

    def test_what_is_declared_of_a_cluster_reaches_its_querier_in_both_modes(self):
        declared = {"region": "europe", "labels": {"env": "prod"}, "budget": "3s", "required": True}
        own = {"tlsQueriers": {"eu-1": declared}}
        eu = self.render("observer", own).file("parallax-query", "observer.yaml")["clusters"][0]
        self.assertEqual({key: eu[key] for key in declared}, declared)
        out = self.render("observer", {**own, **STACKED})
        leaf = out.file("parallax-querier-eu-1", "endpoints.yaml")["endpoints"][0]
        self.assertEqual({key: leaf[key] for key in declared}, declared)
        above = next(one for one in out.file("parallax-query", "endpoints.yaml")["endpoints"] if one["address"].startswith("parallax-querier-eu-1."))
        self.assertEqual({key: above.get(key) for key in declared}, {**declared, "budget": None})

    def test_a_cluster_has_several_endpoints_and_replicas_are_one_as_it_is_said(self):
        endpoints = ["b:443", {"address": "c:443", "serverName": "c.example", "authority": "grpc.c"}]
        of_all = {"hedgeDelay": "200ms", "deduplicationFunc": "gap-aware"}
        file = self.render("observer", {"observer": of_all, "tlsQueriers": {"eu-1": {"endpoints": endpoints, "hedgeDelay": "50ms"}}}).file("parallax-query", "observer.yaml")
        self.assertEqual((file["hedge_delay"], file["deduplication_func"]), ("200ms", "gap-aware"))
        eu = file["clusters"][0]
        self.assertEqual((eu["endpoints"], eu["hedge_delay"]), (["b:443", {"address": "c:443", "server_name": "c.example", "authority": "grpc.c"}], "50ms"))
        plain = self.render("observer").file("parallax-query", "observer.yaml")
        self.assertFalse({"hedge_delay", "deduplication_func"} & set(plain) or {"endpoints", "hedge_delay"} & set(plain["clusters"][0]))
        out = self.render("observer", {"observer": {"mode": "stacked", "deduplicationFunc": "chain"}})
        self.assertIn("--deduplication.func=chain", out.args("Deployment", "parallax-query"))

    def test_a_hub_over_several_clusters_answers_for_those_on_its_list(self):
        hub = {"tlsQueriers": {"region-eu": {"stores": ["hub.eu.example.com:443"], "delegated": ["eu-2", "eu-3"]}}}
        self.assertEqual(self.render("observer", hub).file("parallax-query", "observer.yaml")["clusters"][1]["delegated"], ["eu-2", "eu-3"])
        out = self.render("observer", {**hub, **STACKED})
        for file in ("parallax-querier-region-eu", "parallax-query"):
            found = [endpoint for endpoint in out.file(file, "endpoints.yaml")["endpoints"] if endpoint.get("cluster") == "region-eu"]
            self.assertEqual([endpoint["delegated"] for endpoint in found], [["eu-2", "eu-3"]])

    def test_aggregations_are_evaluated_where_the_data_is(self):
        distributed = {"distributed": {"enabled": True, "partitionLabels": ["cluster"]}}
        file = self.render("observer", {"observer": distributed}).file("parallax-query", "observer.yaml")
        self.assertEqual((file["query_mode"], file["partition_labels"]), ("distributed", ["cluster"]))
        out = self.render("observer", {"observer": {**distributed, "mode": "stacked"}})
        for name in ("parallax-query", "parallax-querier-eu-1"):
            self.assertTrue({"--query.mode=distributed", "--query.partition-label=cluster"} <= set(out.args("Deployment", name)))
        self.assertNotIn("query_mode", self.render("observer").file("parallax-query", "observer.yaml"))

    def test_target_files_are_followed(self):
        out = self.render("observer", {"observer": {"mode": "stacked", "targetFiles": "stores"}})
        self.assertIn("--store.sd-files=/etc/parallax/targets/*.yaml", out.args("Deployment", "parallax-query"))
        self.assertIn({"name": "targets", "configMap": {"name": "stores"}}, out.one("Deployment", "parallax-query")["spec"]["template"]["spec"]["volumes"])

    def test_http_servers_with_tls_alone_are_probed_and_scraped_over_it(self):
        web = {"httpServer": {"existingSecret": "web", "tls": True, "scrape": {"caSecret": "web-ca", "serverName": "parallax"}}}
        for side, values in (("observer", {}), ("observer", STACKED), ("observee", {"sidecar": {"enabled": True}})):
            out = self.render(side, {**values, **web})
            for name, pod, _ in out.pods():
                container = pod["containers"][0]
                self.assertEqual([container[probe]["httpGet"]["scheme"] for probe in ("livenessProbe", "readinessProbe")], ["HTTPS", "HTTPS"], name)
                self.assertIn("/etc/parallax/http", [mount["mountPath"] for mount in container["volumeMounts"]], name)
                self.assertIn("http", [volume["name"] for volume in pod["volumes"]], name)
            endpoint = out.one("ServiceMonitor", "parallax")["spec"]["endpoints"][0]
            self.assertEqual((endpoint["scheme"], endpoint["tlsConfig"]["ca"]["secret"]["name"], endpoint["tlsConfig"]["serverName"]), ("https", "web-ca", "parallax"))
        self.assertIn("--http.config=/etc/parallax/http/web.yaml", out.args("StatefulSet", "parallax-compactor"))
        inline = self.render("observer", web)
        self.assertEqual(inline.file("parallax-query", "observer.yaml")["http_config_file"], "/etc/parallax/http/web.yaml")
        self.assertFalse([argument for argument in inline.args("StatefulSet", "parallax-query") if "http.config" in argument])

    def test_kubelet_needs_no_password(self):
        web = {"httpServer": {"existingSecret": "web", "credentials": True, "scrape": {"passwordSecret": "scraper"}}}
        out = self.render("observer", {**STACKED, **web})
        self.assertEqual(out.container("StatefulSet", "parallax-store-eu-1")["readinessProbe"]["grpc"], {"port": 10901})
        self.assertEqual(out.container("StatefulSet", "parallax-store-eu-1")["livenessProbe"]["tcpSocket"], {"port": "http"})
        self.assertEqual(out.one("ServiceMonitor", "parallax")["spec"]["endpoints"][0]["basicAuth"]["password"], {"name": "scraper", "key": "password"})
        entry = self.render("observee", web).container("Deployment", "parallax-entry")
        self.assertEqual(entry["readinessProbe"]["tcpSocket"], {"port": "http"})

    def test_a_sidecar_by_itself_tells_prometheus_to_reload(self):
        reloader = {"claim": "prometheus-files", "configFile": "prometheus.yml.tmpl", "outputFile": "out/prometheus.yml", "ruleDirs": ["rules"], "tolerateUnsetVariables": True}
        out = self.render("observee", {"sidecar": {"enabled": True, "httpClientSecret": "client", "reloader": reloader}})
        home = "/etc/parallax/prometheus"
        self.assertTrue({f"--reloader.config-file={home}/prometheus.yml.tmpl", f"--reloader.config-envsubst-file={home}/out/prometheus.yml", f"--reloader.rule-dir={home}/rules",
                         "--reloader.watch-interval=3m", "--reloader.retry-interval=5s", "--reloader.tolerate-unset-variables",
                         "--prometheus.http-client-file=/etc/parallax/http-client/http-client.yaml"} <= set(out.args("Deployment", "parallax-sidecar")))

        def writes(rendered):
            mounts = rendered.container("Deployment", "parallax-sidecar")["volumeMounts"]
            return [not mount.get("readOnly", False) for mount in mounts if mount["mountPath"] == home]
        self.assertEqual(writes(out), [True])
        self.assertEqual(writes(self.render("observee", {"sidecar": {"enabled": True, "reloader": {"claim": "prometheus-files", "ruleDirs": ["rules"]}}})), [False])

    def test_pods_go_when_load_balancers_know_and_calls_have_ended(self):
        for side, values in (("observer", {}), ("observer", STACKED), ("observee", {})):
            for name, pod, _ in self.render(side, values).pods():
                container = pod["containers"][0]
                serves = any(port["name"] == "grpc" for port in container.get("ports", []))
                self.assertEqual("lifecycle" in container, serves, name)
                if serves:
                    # The default of --grpc-grace-period is two minutes.
                    self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], container["lifecycle"]["preStop"]["sleep"]["seconds"] + 120)
        old = self.render("observee", {}, "--kube-version", "1.29.0")
        self.assertNotIn("lifecycle", old.container("Deployment", "parallax-entry"))

    def test_an_upgrade_changes_nothing_that_kubernetes_keeps(self):
        def kept(side, values):
            return {name: (document["spec"].get("serviceName"), document["spec"].get("podManagementPolicy"), document["spec"]["selector"], document["spec"].get("volumeClaimTemplates"))
                    for name, _, document in self.render(side, values).pods()}
        for side, values, more in (("observee", {}, {"compactor": {"shared": {"enabled": True}, "retention": {"rules": [{"match": '{a="b"}', "raw": "7d"}]}}}),
                                   ("observee", {}, {"entry": {"replicas": 5, "allowedIdentities": ["observer/hub"]}, "commonLabels": {"team": "a"}}),
                                   ("observer", {}, {"tlsQueriers": {"us-1": {"stores": ["us-1:443"]}}, "cache": {"memcached": {"enabled": True}}, "observer": {"replicas": 3}}),
                                   ("observer", STACKED, {"observer": {"mode": "stacked", "upward": {"tlsSecret": "up"}}, "storeGateways": {"eu-1": {"replicas": 3, "minTime": "-4w"}}})):
            before, after = kept(side, values), kept(side, {**values, **more})
            for name, fields in before.items():
                self.assertEqual(after[name], fields, name)

    def test_the_schema_has_every_key_and_lets_no_other_through(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def walk(node, path):
            node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
            kinds = node.get("type") if isinstance(node.get("type"), list) else [node.get("type")]
            if "object" in kinds:
                yield path, node
                for key, child in node.get("properties", {}).items():
                    yield from walk(child, f"{path}.{key}")
                if isinstance(node.get("additionalProperties"), dict):
                    yield from walk(node["additionalProperties"], f"{path}.*")
            elif "array" in kinds and isinstance(node.get("items"), dict):
                yield from walk(node["items"], f"{path}[]")
        seen = dict(walk(schema, ""))
        # Helm's own, and documents of other programs whose keys the type decides (below).
        free = {path for path, node in seen.items() if "additionalProperties" not in node} - {".global", ".cache.index.config", ".cache.chunks.config"}
        self.assertEqual(free, set())
        self.assertGreater(len(seen), 50)

        def keys(values, path=""):
            for key, value in values.items():
                yield f"{path}.{key}"
                if isinstance(value, dict) and value:
                    yield from keys(value, f"{path}.{key}")
        known = {f"{path}.{key}" for path, node in seen.items() for key in node.get("properties", {})}
        written = set(keys(yaml.safe_load((CHART / "values.yaml").read_text())))
        self.assertEqual(written - known - {key for key in written if key.startswith((".compactor.serviceAccount.annotations", ".observer.serviceAccount.annotations"))}, set())
        # What has a place in the schema stands in values.yaml with its default, but for what is inside of lists, maps of clusters and Kubernetes' own structures.
        inside = (".tlsQueriers.", ".storeGateways.", ".affinity.", ".cache.index.", ".cache.chunks.")
        lacking = {key for key in known - written if "[]" not in key and "*" not in key and not key.startswith(inside) and ".resources." not in key and ".issuerRef." not in key
                   and ".gateway." not in key and key != ".global"}
        self.assertEqual(lacking, set())

    def test_typing_errors_deep_inside_are_refused(self):
        for side, values, word in (
            ("observee", {"entry": {"resources": {"limit": {"memory": "1Gi"}}}}, "limit"),
            ("observee", {"compactor": {"resources": {"limits": {"memroy": "1Gi"}}}}, "memroy"),
            ("observee", {"tolerations": [{"key": "a", "operater": "Exists"}]}, "operater"),
            ("observee", {"affinity": {"podAntiAfinity": {}}}, "podAntiAfinity"),
            ("observee", {"extraEnv": [{"name": "A", "valueFrom": {"secretKeyReff": {}}}]}, "secretKeyReff"),
            ("observee", {"compactor": {"storage": {"size": "100 GB"}}}, "size"),
            ("observer", {"cache": {"index": {"type": "MEMCACHED", "config": {"adresses": ["m:1"]}}}}, "adresses"),
            ("observer", {"cache": {"chunks": {"type": "IN-MEMORY", "chunk_subrang_size": 1}}}, "chunk_subrang_size"),
            ("observer", {"networkPolicy": {"from": [{"namespaceSelecter": {}}]}}, "namespaceSelecter"),
            ("observer", {"tlsQueriers": {"eu-1": {"identitiy": "dns"}}}, "identitiy"),
        ):
            with self.subTest(word):
                done = helm(side, values)
                self.assertNotEqual(done.returncode, 0, f"accepted: {values}")
                self.assertIn(word, done.stderr)

    def test_presets_size_pods_and_a_components_own_resources_replace_them(self):
        limits = {preset: self.render("observee", {"resourcesPreset": preset}).container("Deployment", "parallax-entry")["resources"]["limits"]["memory"] for preset in ("small", "medium", "large")}
        self.assertEqual(limits, {"small": "1Gi", "medium": "4Gi", "large": "16Gi"})
        own = self.render("observee", {"entry": {"resources": {"limits": {"memory": "3Gi"}}}})
        self.assertEqual(own.container("Deployment", "parallax-entry")["resources"], {"limits": {"memory": "3Gi"}})

    def test_other_entries_pass_tls_through(self):
        traefik = self.render("observee", {"entry": {"mode": "traefik"}})
        self.assertTrue(traefik.one("IngressRouteTCP", "parallax-entry")["spec"]["tls"]["passthrough"])
        gateway = self.render("observee", {"entry": {"mode": "gateway", "gateway": {"name": "gw", "namespace": "edge"}}})
        self.assertEqual(gateway.one("TLSRoute", "parallax-entry")["spec"]["hostnames"], ["eu-1.mesh.example.com"])
        self.assertEqual(gateway.one("TLSRoute", "parallax-entry")["apiVersion"], "gateway.networking.k8s.io/v1")
        older = self.render("observee", {"entry": {"mode": "gateway", "gateway": {"name": "gw"}}}, "--api-versions", "gateway.networking.k8s.io/v1alpha2/TLSRoute")
        self.assertEqual(older.one("TLSRoute", "parallax-entry")["apiVersion"], "gateway.networking.k8s.io/v1alpha2")
        # ingress-nginx shows gRPC backends no certificate, and speaks TLS 1.2 to them: it could not end TLS before an entry.
        nginx = self.render("observee", {"entry": {"mode": "nginx"}})
        self.assertEqual(nginx.one("Ingress", "parallax-entry")["metadata"]["annotations"]["nginx.ingress.kubernetes.io/ssl-passthrough"], "true")
        self.assertNotIn("tls", nginx.one("Ingress", "parallax-entry")["spec"])
        for out in (traefik, gateway, nginx):
            self.assertEqual(out.one("Service", "parallax-entry-grpc")["spec"]["type"], "ClusterIP")

    def test_behind_a_proxy_of_ones_own_observers_are_known_by_its_header(self):
        out = self.render("observee", {"entry": {"mode": "none", "allowedIdentities": ["observer/hub"], "forwardedCertificates": "xfcc"}})
        self.assertTrue({"--grpc-server-forwarded-certificates=xfcc", "--grpc-server-allowed-identity=observer/hub"} <= set(out.args("Deployment", "parallax-entry")))

    def test_cert_manager_makes_the_leaf_and_terraform_the_trust(self):
        out = self.render("observee", CERT_MANAGER)
        self.assertEqual(out.one("Certificate", "parallax-entry")["spec"]["uris"], ["spiffe://m/observee/eu-1"])
        self.assertIn("--grpc-server-tls-client-ca=/etc/parallax/trusted-ca/ca.crt", out.args("Deployment", "parallax-entry"))

    def test_cert_manager_makes_the_hubs_leaf_and_others_say_whom_to_trust(self):
        values = {"observer": {"certManager": {"enabled": True, "uri": "spiffe://m/observer/hub", "issuerRef": {"name": "mesh"}}}}
        out = self.render("observer", values)
        self.assertEqual(out.one("Certificate", "parallax-observer")["spec"]["uris"], ["spiffe://m/observer/hub"])
        self.assertEqual(out.file("parallax-query", "observer.yaml")["clusters"][0]["tls"]["ca"], "/etc/parallax/trusted-ca/ca.crt")
        stacked = self.render("observer", {"observer": {**values["observer"], "mode": "stacked"}, "tlsQueriers": {"us-1": {"stores": ["us-1.example.com:443"], "tlsSecret": "own"}}})
        authorities = [stacked.file(f"parallax-querier-{name}", "endpoints.yaml")["default_client_config"]["tls_config"]["ca_file"] for name in ("eu-1", "us-1")]
        self.assertEqual(authorities, ["/etc/parallax/trusted-ca/ca.crt", "/etc/parallax/tls/ca.crt"])

    def test_the_compactor_is_one_pod_and_may_keep_everything(self):
        out = self.render("observee", {"compactor": {"retention": {"raw": "0d"}, "downsampling": False}})
        self.assertEqual(out.one("StatefulSet", "parallax-compactor")["spec"]["replicas"], 1)
        self.assertIn("--retention.resolution-raw=0d", out.args("StatefulSet", "parallax-compactor"))
        self.assertIn("--downsampling.disable", out.args("StatefulSet", "parallax-compactor"))

    def test_compactors_share_a_bucket_by_leases_or_parts(self):
        out = self.render("observee", {"compactor": {"shared": {"enabled": True, "replicas": 3}}, "monitoring": {"prometheusRule": {"enabled": True}}})
        self.assertEqual(out.one("StatefulSet", "parallax-compactor")["spec"]["replicas"], 3)
        self.assertIn("--compact.shared", out.args("StatefulSet", "parallax-compactor"))
        alerts = [rule.get("alert") for group in out.one("PrometheusRule", "parallax")["spec"]["groups"] for rule in group["rules"]]
        self.assertNotIn("ParallaxSeveralCompactors", alerts)
        out = self.render("observee", {"compactor": {"shards": 2}})
        self.assertIn("--shard=1/2", out.args("StatefulSet", "parallax-compactor-1"))
        self.assertEqual(out.names("ServiceAccount"), ["parallax-compactor"])

    def test_retention_by_labels_and_offline_deduplication(self):
        out = self.render("observee", {"compactor": {"retention": {"rules": [{"match": '{team="a"}', "raw": "7d", "1h": "0d"}], "dryRun": True}, "replicaLabels": ["prometheus_replica"],
                                                     "deduplicationFunc": "penalty", "verticalCompaction": True, "concurrency": 2}})
        self.assertEqual(out.file("parallax-compactor", "retention.yaml"), {"rules": [{"match": '{team="a"}', "raw": "7d", "1h": "0d"}]})
        self.assertTrue({"--retention.policy-file=/etc/parallax/config/retention.yaml", "--retention.dry-run", "--deduplication.func=penalty", "--compact.enable-vertical-compaction",
                         "--compact.concurrency=2"} <= set(out.args("StatefulSet", "parallax-compactor")))

    def test_the_compactor_may_be_thanos(self):
        out = self.render("observee", {"compactor": {"image": "quay.io/thanos/thanos:v0.41.0"}})
        self.assertEqual(out.one("StatefulSet", "parallax-compactor")["spec"]["template"]["spec"]["containers"][0]["image"], "quay.io/thanos/thanos:v0.41.0")

    def test_the_frontend_uses_the_cache(self):
        out = self.render("observer", {"queryFrontend": {"enabled": True}, "cache": {"memcached": {"enabled": True}}})
        self.assertIn("parallax-memcached", yaml.safe_load(out.one("ConfigMap", "parallax-query-frontend")["data"]["cache.yaml"])["config"]["addresses"][0])
        self.assertIn("StatefulSet/parallax-memcached", out.names())

    def test_every_pod_is_locked_down_probed_and_sized(self):
        for side, values in (("observer", {"observer": {"mode": "stacked"}, "queryFrontend": {"enabled": True}, "cache": {"memcached": {"enabled": True}}}),
                             ("observer", {}), ("observee", {"sidecar": {"enabled": True}})):
            for name, pod, _ in self.render(side, values).pods():
                with self.subTest(name):
                    self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                    self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault")
                    # Service links would be environment variables that begin as settings do.
                    self.assertEqual((pod["automountServiceAccountToken"], pod["enableServiceLinks"]), (False, False))
                    for container in pod["containers"]:
                        self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
                        self.assertEqual(container["securityContext"]["capabilities"]["drop"], ["ALL"])
                        self.assertTrue(container["livenessProbe"] and container["readinessProbe"])
                        self.assertIn("memory", container["resources"]["limits"])
                    self.assertEqual(len(pod["topologySpreadConstraints"]), 2)

    def test_every_service_reaches_pods_and_every_budget_finds_them(self):
        for side, values in (("observer", {"observer": {"mode": "stacked"}, "storeGateways": {"eu-1": {"shards": 2}}}), ("observer", {}), ("observee", {}),
                             ("observee", {"compactor": {"shards": 2, "shared": {"enabled": True}}})):
            out = self.render(side, values)
            labels = [document["spec"]["template"]["metadata"]["labels"] for _, _, document in out.pods()]
            for document in out.documents:
                selector = {"Service": lambda: document["spec"]["selector"], "PodDisruptionBudget": lambda: document["spec"]["selector"]["matchLabels"]}.get(document["kind"])
                if selector:
                    matching = [one for one in labels if selector().items() <= one.items()]
                    self.assertEqual(len(matching), 1, document["metadata"]["name"])

    def test_jobs_are_named_as_thanos_dashboards_expect(self):
        out = self.render("observer", {"observer": {"mode": "stacked"}})
        self.assertEqual(out.one("Service", "parallax-store-eu-1")["metadata"]["labels"]["parallax/job"], "thanos-store")
        self.assertEqual(out.one("ServiceMonitor", "parallax")["spec"]["jobLabel"], "parallax/job")

    def test_monitoring_renders_dashboards_alerts_and_expected_clusters(self):
        values = {"mesh": {"role": "monitoring"}, "monitoring": {"dashboards": {"enabled": True}, "prometheusRule": {"enabled": True, "disabled": ["ParallaxQueriesSlow"]},
                                                               "clusters": ["eu-1", "us.2"]}}
        out = self.render(None, values)
        rules = [rule for group in out.one("PrometheusRule", "parallax")["spec"]["groups"] for rule in group["rules"]]
        alerts = [rule.get("alert") for rule in rules]
        self.assertNotIn("ParallaxQueriesSlow", alerts)
        self.assertEqual(alerts.count("ParallaxClusterAbsent"), 2)
        self.assertIn("ParallaxUploadLagNearsRetention", alerts)
        self.assertEqual(len(out.names("ConfigMap")), len(list((CHART / "dashboards").glob("*.json"))))
        self.assertEqual(list(out.pods()), [])

    def test_an_expected_cluster_is_absent_only_if_no_form_of_the_observer_knows_it(self):
        values = {"mesh": {"role": "monitoring"}, "monitoring": {"prometheusRule": {"enabled": True}, "clusters": ["eu-1", "us.2", "old", "big", "gone"]}}
        out = Rendered(self, None, values)
        home = WORK / "expected"
        home.mkdir(exist_ok=True)
        (home / "rules.yaml").write_text(yaml.safe_dump({"groups": out.one("PrometheusRule", "parallax")["spec"]["groups"]}))
        up = "parallax_querier_endpoint_up"
        known = [f'{up}{{querier="eu-1",endpoint="eu-1.mesh:443"}}', f'{up}{{endpoint="parallax-querier-us-2.monitoring.svc:10901"}}', f'{up}{{endpoint="store gateway old"}}',
                 f'{up}{{endpoint="parallax-store-big-0.monitoring.svc:10901"}}']
        test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [{
            "interval": "1m", "input_series": [{"series": series, "values": "0x40"} for series in known],
            "promql_expr_test": [{"expr": 'count by (cluster) (ALERTS{alertname="ParallaxClusterAbsent",alertstate="firing"})', "eval_time": "30m",
                                  "exp_samples": [{"labels": '{cluster="gone"}', "value": 1}]}]}]}
        (home / "test.yaml").write_text(yaml.safe_dump(test))
        done = subprocess.run(["promtool", "test", "rules", str(home / "test.yaml")], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_grafana_finds_the_mesh(self):
        out = self.render("observer", {"monitoring": {"dataSource": {"enabled": True}}, "queryFrontend": {"enabled": True}})
        source = out.file("parallax-datasource", "parallax.yaml")["datasources"][0]
        self.assertEqual((source["uid"], source["url"]), ("parallax", "http://parallax-query-frontend.monitoring.svc:10902"))
        self.assertEqual(out.one("ConfigMap", "parallax-datasource")["metadata"]["labels"]["grafana_datasource"], "1")

    def test_rules_keep_their_templates(self):
        out = self.render("observer")
        rules = {rule.get("alert"): rule for group in out.one("PrometheusRule", "parallax")["spec"]["groups"] for rule in group["rules"]}
        self.assertIn("{{ $labels.querier }}", rules["ParallaxClusterUnreachable"]["annotations"]["summary"])

    def test_what_is_refused_and_with_which_words(self):
        for side, values, words in (
            ("observee", {"entry": {"mode": "pigeon"}}, ["mode"]),
            ("observee", {"entry": {"endpoints": []}}, ["entry.endpoints is empty"]),
            ("observee", {"entry": {"tls": {"existingSecret": ""}}}, ["entry.tls.existingSecret is empty"]),
            ("observee", {"entry": {"mode": "gateway"}}, ["entry.gateway"]),
            ("observee", {"objstore": {"existingSecret": ""}}, ["objstore.existingSecret"]),
            ("observee", {"entri": {}}, ["entri"]),
            ("observee", {"compactor": {"retention": {"raw": "soon"}}}, ["raw"]),
            ("observer", {"tlsQueriers": {"eu-1": {"stores": []}}}, ["stores"]),
            ("observer", {"tlsQueriers": {"eu-1": {"stores": ["a:1", "b:1"]}}}, ["several stores", "stacked"]),
            ("observer", {"tlsQueriers": {"eu-1": {"stores": ["dns+a:1"]}}}, ["look up", "stacked"]),
            ("observer", {"tlsQueriers": {"eu-1": {"stores": ["http://a:1"]}}}, ["stores"]),
            ("observer", {"observer": {"mode": "stacked"}, "tlsQueriers": {"eu-1": {"stores": ["dnssrv+a.b"], "serverName": None}}}, ["service records", "serverName"]),
            ("observer", {"tlsQueriers": {"eu-1": {"cluster": "other"}}}, ["tlsQueriers.eu-1.cluster", "stacked"]),
            ("observer", {"storeGateways": {"eu-1": {"shards": 2}}}, ["storeGateways.eu-1.shards", "stacked"]),
            ("observer", {"storeGateways": {"eu-1": {"minTime": "-2w"}}}, ["storeGateways.eu-1.minTime", "stacked"]),
            ("observer", {"storeGateways": {"eu-1": {"relabel": [{"action": "replace"}]}}}, ["action"]),
            ("observer", {"observer": {"foreignLabels": "keep"}}, ["foreignLabels"]),
            ("observer", {"observer": {"compression": "gzip"}}, ["compression"]),
            ("observer", {"observer": {"distributed": {"partitionLabels": ["cluster"]}}}, ["partitionLabels"]),
            ("observer", {"tlsQueriers": {"eu-1": {"delegated": []}}}, ["delegated"]),
            ("observer", {"tlsQueriers": {"eu-1": {"delegated": ["a"], "foreignLabels": "inject"}}}, ["delegated", "drop or refuse"]),
            ("observer", {**STACKED, "tlsQueriers": {"eu-1": {"delegated": ["a"], "cluster": ""}}}, ["delegated", "own name"]),
            ("observer", {"observer": {"targetFiles": "stores"}}, ["targetFiles", "stacked"]),
            ("observer", {"observer": {"mode": "stacked", "infoInterval": "5s"}}, ["infoInterval", "inline"]),
            ("observer", {"observer": {"mode": "stacked", "hedgeDelay": "5s"}}, ["hedgeDelay", "inline"]),
            ("observer", {"observer": {"deduplicationFunc": "penalti"}}, ["deduplicationFunc"]),
            ("observer", {"tlsQueriers": {"eu-1": {"hedgeDelay": "1s"}}}, ["tlsQueriers.eu-1.hedgeDelay", "endpoints"]),
            ("observer", {"tlsQueriers": {"eu-1": {"endpoints": ["dns+a:1"]}}}, ["endpoints"]),
            ("observer", {**STACKED, "tlsQueriers": {"eu-1": {"endpoints": ["a:1"]}}}, ["tlsQueriers.eu-1.endpoints", "inline"]),
            ("observer", {"observer": {"upward": {"allowedIdentities": ["observer/a"]}}}, ["upward.tlsSecret"]),
            ("observer", {"tlsQueriers": {"eu-1": {"identity": "spiffe://m/observer/hub"}}}, ["identity"]),
            ("observer", {"tlsQueriers": {"eu-1": {"stores": ["[::1]:443"], "serverName": None}}}, ["serverName"]),
            ("observee", {"entry": {"allowedIdentities": ["observee/us-1"]}}, ["allowedIdentities"]),
            ("observee", {"entry": {"forwardedCertificates": "nginx"}}, ["TLS passes through"]),
            ("observee", {"entry": {"mode": "none", "forwardedCertificates": "apache"}}, ["forwardedCertificates"]),
            ("observee", {"entry": {"mode": "nginx", "allowedCidrs": ["192.0.2.0/24"]}}, ["allowedCidrs", "proxy itself"]),
            ("observee", {"entry": {"mode": "traefik", "allowedCidrs": ["192.0.2.0/24"]}}, ["allowedCidrs", "proxy itself"]),
            ("observee", {"entry": {"allowedCidrs": ["home"]}}, ["allowedCidrs"]),
            ("observer", {"tlsQueriers": {"eu.1": {"stores": ["b:1"]}}}, ["objects of one name", "eu-1"]),
            ("observer", {**STACKED, "storeGateways": {"eu": {"objstoreSecret": "a", "shards": 2}, "eu-1": {"objstoreSecret": "b"}}}, ["objects of one name", "store-eu-1"]),
            ("observee", {"httpServer": {"tls": True}}, ["httpServer.existingSecret"]),
            ("observee", {"httpServer": {"existingSecret": "web"}}, ["say what its web.yaml asks for"]),
            ("observee", {"httpServer": {"existingSecret": "web", "tls": True}}, ["caSecret"]),
            ("observer", {"httpServer": {"existingSecret": "web", "credentials": True}, "queryFrontend": {"enabled": True}}, ["queryFrontend"]),
            ("observer", {"httpServer": {"existingSecret": "web", "credentials": True}, "monitoring": {"dataSource": {"enabled": True}}}, ["dataSource"]),
            ("observee", {"sidecar": {"enabled": True, "reloader": {"claim": "c"}}}, ["say what to watch"]),
            ("observee", {"sidecar": {"enabled": True, "reloader": {"claim": "c", "configFile": "/etc/prometheus.yml"}}}, ["configFile"]),
            ("observer", {"observer": {"extraArgs": ["--query.timeout=1m"]}}, ["observer.extraArgs", "stacked"]),
            ("observer", {"cache": {"index": {"type": "REDIS", "config": {"addr": "r:1", "password": "p"}}}}, ["password", "existingSecret"]),
            ("observer", {"cache": {"existingSecret": "redis"}}, ["cache.existingSecret", "stacked"]),
            ("observer", {"cache": {"chunks": {"type": "GROUPCACHE"}}}, ["chunks"]),
            ("observee", {"compactor": {"retention": {"rules": [{"match": '{a="b"}'}]}}}, ["says nothing"]),
            ("observee", {"compactor": {"image": "thanos", "shards": 2}}, ["compactor.image"]),
            ("observee", {"compactor": {"deduplicationFunc": "chain"}}, ["deduplicationFunc"]),
            ("observee", {"entry": {"extraArgs": ["store.limits"]}}, ["extraArgs"]),
            ("observer", {"observer": {"tlsSecret": ""}}, ["no certificates"]),
            ("observer", {"observer": {"mode": "sideways"}}, ["mode"]),
            ("observer", {"entry": {"enabled": True}}, ["observee"]),
            (None, {"mesh": {"role": "observer"}}, ["tlsQueriers is empty"]),
            (None, {"mesh": {"role": "bystander"}}, ["role"]),
            (None, {"resourcesPreset": "huge"}, ["resourcesPreset"]),
        ):
            with self.subTest(words=words, values=values):
                done = helm(side, values)
                self.assertNotEqual(done.returncode, 0, f"accepted: {values}")
                for word in words:
                    self.assertIn(word, done.stderr)


unittest.main(argv=[sys.argv[0]])
