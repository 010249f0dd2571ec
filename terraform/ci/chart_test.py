#!/usr/bin/env python3
"""Unit tests of the chart: what it renders for given values, and what it refuses. Every rendering is validated against the schemas, and left for dry_start.py.

    chart_test.py HELM KUBECONFORM WORK     (schemas in WORK/schemas, see schemas.py; renderings go to WORK/rendered)
"""
import hashlib
import pathlib
import subprocess
import sys
import unittest

import yaml

CHART = pathlib.Path(__file__).resolve().parent.parent / "charts/parallax"
HELM, KUBECONFORM, WORK = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
KUBERNETES = "1.33.0"


def helm(side, values):
    command = [HELM, "template", "parallax", str(CHART), "-n", "monitoring", "--kube-version", KUBERNETES]
    if side:
        command += ["-f", str(CHART / f"values-{side}.yaml")]
    return subprocess.run([*command, "-f", "-"], input=yaml.safe_dump(values), capture_output=True, text=True)


class Rendered:
    def __init__(self, test, side, values):
        done = helm(side, values)
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

    def args(self, kind, name):
        return self.one(kind, name)["spec"]["template"]["spec"]["containers"][0]["args"]


CERT_MANAGER = {"entry": {"tls": {"certManager": {"enabled": True, "uri": "spiffe://m/observee/eu-1", "issuerRef": {"name": "mesh"}}}}}


class Chart(unittest.TestCase):
    def render(self, side, values=None):
        return Rendered(self, side, values or {})

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
        self.assertEqual((eu["endpoints"], eu["default_client_config"]["server_name"]), ([{"address": "dns+eu-1.mesh.example.com:443", "cluster": "eu-1"}], "eu-1.mesh.example.com"))
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

    def test_source_ranges_narrow_the_load_balancer_and_the_policy(self):
        out = self.render("observee", {"entry": {"allowedCidrs": ["192.0.2.0/24"]}})
        self.assertEqual(out.one("Service", "parallax-entry-grpc")["spec"]["loadBalancerSourceRanges"], ["192.0.2.0/24"])
        self.assertEqual(out.one("NetworkPolicy", "parallax-entry")["spec"]["ingress"][0]["from"], [{"ipBlock": {"cidr": "192.0.2.0/24"}}])

    def test_other_entries_pass_tls_through(self):
        traefik = self.render("observee", {"entry": {"mode": "traefik"}})
        self.assertTrue(traefik.one("IngressRouteTCP", "parallax-entry")["spec"]["tls"]["passthrough"])
        gateway = self.render("observee", {"entry": {"mode": "gateway", "gateway": {"name": "gw", "namespace": "edge"}}})
        self.assertEqual(gateway.one("TLSRoute", "parallax-entry")["spec"]["hostnames"], ["eu-1.mesh.example.com"])
        for out in (traefik, gateway):
            self.assertEqual(out.one("Service", "parallax-entry-grpc")["spec"]["type"], "ClusterIP")

    def test_nginx_verifies_observers_and_opens_mtls_of_its_own(self):
        out = self.render("observee", {"entry": {"mode": "nginx", "proxySecret": "ingress-leaf"}})
        annotations = out.one("Ingress", "parallax-entry")["metadata"]["annotations"]
        prefix = "nginx.ingress.kubernetes.io/"
        self.assertEqual(annotations[prefix + "auth-tls-secret"], "monitoring/parallax-entry-tls")
        self.assertEqual(annotations[prefix + "proxy-ssl-secret"], "monitoring/ingress-leaf")
        self.assertEqual(annotations[prefix + "proxy-ssl-verify"], "on")

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
            ("observee", {"entry": {"mode": "nginx"}}, ["entry.proxySecret"]),
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
            ("observer", {"observer": {"foreignLabels": "refuse"}}, ["foreignLabels", "stacked"]),
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
