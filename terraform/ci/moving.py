#!/usr/bin/env python3
"""Moves one cluster from Thanos to Parallax and back, one component at a time, as examples/moving-from-thanos says: real Prometheus, real Thanos, the arguments of that
folder for both programs, and after each step the same answers from both queriers. Nothing is uploaded twice, and what one compactor wrote the other goes on with.

    moving.py --parallax BIN --thanos BIN --work DIR      (needs `prometheus` and `promtool`)
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse

import mesh

EXAMPLE = mesh.TERRAFORM.parent / "examples/moving-from-thanos"
HOUR_S = 3600
# Before now, begin and end.
HISTORY_HOURS = (40, 10)
PATIENCE_S = 120


def fail(message):
    sys.exit(f"moving: {message}")


class Fleet:
    """The processes by what they do; a step replaces one."""

    def __init__(self, programs, work):
        self.programs, self.work = programs, work
        self.running = {}

    def start(self, what, program, args):
        self.stop(what)
        log = self.work / f"{what}-{program}.log"
        with log.open("a") as output:
            self.running[what] = (program, subprocess.Popen([self.programs[program], *args], stdout=output, stderr=output, cwd=self.work), log)

    def stop(self, what):
        if what in self.running:
            _, process, _ = self.running.pop(what)
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_all(self):
        for what in list(self.running):
            self.stop(what)

    def wait(self, what_for, check):
        until, last = time.monotonic() + PATIENCE_S, None
        while time.monotonic() < until:
            for what, (program, process, log) in self.running.items():
                if process.poll() is not None:
                    fail(f"{what} ({program}) ended:\n{log.read_text()[-2500:]}")
            try:
                last = check()
                if last is True:
                    return
            except (OSError, urllib.error.URLError) as error:
                last = error
            time.sleep(0.5)
        fail(f"waited {PATIENCE_S} s for {what_for}: {last}\n" + "".join(f"--- {log.name}\n{log.read_text()[-1200:]}" for _, _, log in self.running.values()))


def arguments(name, replaced):
    """Of an example, with addresses and paths of here."""
    args = (EXAMPLE / name).read_text().split("\n")[:-1]
    for before, after in replaced.items():
        if not any(before in argument for argument in args):
            fail(f"{name} has no {before}")
        args = [argument.replace(before, after) for argument in args]
    return args


def write_history(work, hours, name, start_of_time):
    now = start_of_time
    samples = "".join(f'{name}{{instance="a"}} {second} {second}\n' for second in range(now - hours[0] * HOUR_S, now - hours[1] * HOUR_S, 60))
    (work / "history.txt").write_text(f"# TYPE {name} gauge\n{samples}# EOF\n")
    mesh.run("promtool", "tsdb", "create-blocks-from", "openmetrics", work / "history.txt", work / "data")


class World:
    def __init__(self, fleet, work):
        self.fleet, self.work = fleet, work
        self.now = int(time.time())
        self.bucket, self.data = work / "bucket", work / "data"
        self.bucket.mkdir()
        self.objstore = work / "objstore.yaml"
        self.objstore.write_text(f"type: FILESYSTEM\nconfig: {{directory: {self.bucket}}}\n")
        ports = {name: mesh.free_port() for name in ("prometheus", "sidecar", "sidecar_http", "store", "store_http", "thanos", "thanos_http", "parallax", "parallax_http", "compact_http")}
        self.at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        write_history(work, HISTORY_HOURS, "history_marker", self.now)
        (work / "prometheus.yml").write_text(json.dumps({"global": {"scrape_interval": "1s", "external_labels": {"cluster": "eu-1", "prometheus_replica": "p-0"}},
                                                         "scrape_configs": [{"job_name": "prometheus", "static_configs": [{"targets": [self.at["prometheus"]]}]}]}))
        self.prometheus()
        self.sidecar("thanos")
        self.store("thanos")
        self.querier("thanos")
        self.querier("parallax")

    def prometheus(self):
        self.fleet.start("prometheus", "prometheus", [f"--config.file={self.work}/prometheus.yml", f"--storage.tsdb.path={self.data}", "--storage.tsdb.min-block-duration=2h",
                         "--storage.tsdb.max-block-duration=2h", "--storage.tsdb.retention.time=10d", f"--web.listen-address={self.at['prometheus']}"])

    def sidecar(self, program):
        # What the Prometheus Operator passes to either image.
        self.fleet.start("sidecar", program, ["sidecar", f"--prometheus.url=http://{self.at['prometheus']}/", '--prometheus.http-client={"tls_config": {"insecure_skip_verify":true}}',
                         f"--grpc-address={self.at['sidecar']}", f"--http-address={self.at['sidecar_http']}", f"--objstore.config-file={self.objstore}", f"--tsdb.path={self.data}",
                         # So that history can only come from the bucket.
                         "--min-time=-2h", "--log.level=info", "--log.format=logfmt"])

    def store(self, program):
        self.fleet.start("store", program, arguments("3-store.args", {"0.0.0.0:10902": self.at["store_http"], "0.0.0.0:10901": self.at["store"], "/etc/objstore/objstore.yaml": str(self.objstore),
                         "/var/thanos/store": f"{self.work}/store"}) + ["--sync-block-duration=3s"])

    def querier(self, program):
        self.fleet.start(f"{program} querier", program, arguments("1-querier.args", {"0.0.0.0:10902": self.at[f"{program}_http"], "0.0.0.0:10901": self.at[program],
                         "dnssrv+_grpc._tcp.prometheus-operated.monitoring.svc": self.at["sidecar"], "dns+thanos-store.monitoring.svc:10901": self.at["store"]}))

    def compact(self, program):
        """One pass, which ends by itself."""
        args = ["compact", f"--http-address={self.at['compact_http']}", f"--data-dir={self.work}/compact", f"--objstore.config-file={self.objstore}", "--consistency-delay=0s", "--delete-delay=0s",
                "--retention.resolution-raw=30d", "--retention.resolution-5m=180d", "--retention.resolution-1h=0d", "--log.level=info", "--log.format=logfmt"]
        done = subprocess.run([self.fleet.programs[program], *args], capture_output=True, text=True, timeout=180)
        if done.returncode:
            fail(f"{program} compact: {(done.stdout + done.stderr)[-2500:]}")

    def blocks(self):
        """Level by id of the blocks that are not marked for deletion."""
        metas = {meta.parent.name: json.loads(meta.read_text()) for meta in self.bucket.glob("*/meta.json") if not (meta.parent / "deletion-mark.json").exists()}
        return {name: meta["compaction"]["level"] for name, meta in metas.items()}

    def uploaded(self):
        """What the sidecar has noted, which it does after the upload."""
        noted = self.data / "thanos.shipper.json"
        return sorted(json.loads(noted.read_text())["uploaded"]) if noted.exists() else []

    def settled(self, count):
        """At least so many blocks, each of them noted; or what there is."""
        uploaded, blocks = self.uploaded(), sorted(self.blocks())
        return (len(uploaded) >= count and uploaded == blocks) or (uploaded, blocks)

    def same(self, step):
        """Waits until both queriers give the same answer to each question, which is also the right one."""
        minutes = (HISTORY_HOURS[0] - HISTORY_HOURS[1]) * 60
        questions = [("count by (cluster) (up)", None, "1"), (f"count_over_time(history_marker[{HISTORY_HOURS[0] - HISTORY_HOURS[1]}h])", self.now - HISTORY_HOURS[1] * HOUR_S, str(minutes)),
                     ("max by (cluster, instance) (history_marker)", self.now - 20 * HOUR_S, None)]

        def check():
            for query, at, value in questions:
                answers = [mesh.ask(f"http://{self.at[program + '_http']}", query, at=at) for program in ("thanos", "parallax")]
                results = [answer["data"]["result"] for answer in answers]
                found = [[(row["metric"], row["value"][1]) for row in result] for result in results]
                if found[0] != found[1] or len(found[0]) != 1 or any(answer.get("warnings") for answer in answers):
                    return f"{query}: thanos {found[0]}, parallax {found[1]}, {[answer.get('warnings') for answer in answers]}"
                # A sample at an edge of the range may or may not be in it.
                if value and abs(float(found[0][0][1]) - float(value)) > 1:
                    return f"{query}: {found[0]}, not {value}"
            return True
        self.fleet.wait(f"the same answers {step}", check)
        print(f"moving: {step}: both queriers answer the same")


def move(world):
    fleet = world.fleet
    fleet.wait("the uploads of Thanos' sidecar", lambda: world.settled(14))
    before = world.uploaded()
    world.same("a querier of ours beside Thanos'")
    for program in ("parallax", "thanos", "parallax"):
        world.store(program)
        world.same(f"the store gateway is {program}'s, on the same directory")
    for number, program in enumerate(("parallax", "thanos", "parallax")):
        count = len(world.uploaded())
        world.sidecar(program)
        world.same(f"the sidecar is {program}'s")
        # A block more, which only this program can upload.
        write_history(world.work, (60 + 4 * number, 58 + 4 * number), f"older_{number}", world.now)
        fleet.wait(f"an upload by {program}'s sidecar", lambda: world.settled(count + 1))
        if not set(before) <= set(world.uploaded()):
            fail(f"{program}'s sidecar has forgotten what was uploaded before it")
    level = max(world.blocks().values())
    for program in ("thanos", "parallax", "thanos"):
        world.compact(program)
        world.same(f"after a pass of {program}'s compactor")
        if max(world.blocks().values()) < level:
            fail(f"{program}'s compactor went back from level {level}")
        level = max(world.blocks().values())
    if level < 2:
        fail("nothing was compacted, so this says nothing")


def main():
    parser = argparse.ArgumentParser()
    for name in ("parallax", "thanos", "work"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    work = pathlib.Path(options.work).resolve()
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    fleet = Fleet({"parallax": str(pathlib.Path(options.parallax).resolve()), "thanos": shutil.which(options.thanos), "prometheus": "prometheus"}, work)
    try:
        move(World(fleet, work))
    finally:
        fleet.stop_all()


main()
