#!/usr/bin/env python3
"""Starts every container of Parallax that the chart's tests and the examples rendered, with its own arguments and files, and looks whether the binary takes them.

    dry_start.py PARALLAX RENDERED     (directory of manifests, see chart_test.py and examples.py)

Addresses become loopback, ConfigMaps become files, Secrets are filled with what belongs there (certificates by `parallax pki`, buckets that are directories, or where nothing
is), directories are empty. A container is well if it listens, or if it ends for another reason than its command line or files (exit code 2): a bucket that cannot be reached.
"""
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import yaml

PATIENCE_S = 120
DIRECTORY = "type: FILESYSTEM\nconfig: {{directory: {home}/bucket}}\n"
# Leases need conditional writes, which a directory has not.
NOWHERE = "type: S3\nconfig: {bucket: b, endpoint: '127.0.0.1:9', insecure: true, access_key: a, secret_key: b, region: r}\n"
# Of a hash, whose password nobody knows.
WEB = "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\nbasic_auth_users: {prometheus: $2b$10$abcdefghijklmnopqrstuujMmdNDXTK0nSCgRShBTYj8.YJwDX0q2}\n"
# What a Secret holds, by the last part of where it is mounted; certificates and buckets are in `prepare`.
FILES = {"http": {"web.yaml": WEB}, "http-client": {"http-client.yaml": "basic_auth: {username: a, password: b}\n"}}
# A ConfigMap that is not the chart's: files of targets.
TARGETS = {"stores.yaml": "- targets: ['127.0.0.1:9']\n"}
CACHE = "type: IN-MEMORY\nconfig: {max_size: 10MiB, max_item_size: 1MiB}\n"


def containers(rendered):
    """(name, command line, files of ConfigMaps by mount, Secrets by mount) of each different container."""
    seen = set()
    for file in sorted(rendered.glob("*.yaml")):
        documents = [document for document in yaml.safe_load_all(file.read_text()) if document]
        maps = {document["metadata"]["name"]: document["data"] for document in documents if document["kind"] == "ConfigMap"}
        for document in documents:
            if document["kind"] not in ("Deployment", "StatefulSet"):
                continue
            pod = document["spec"]["template"]["spec"]
            container = pod["containers"][0]
            if container["name"] != "parallax" or "parallax" not in container["image"]:
                continue
            volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
            files, secrets, empty = {}, [], []
            for mount in container.get("volumeMounts", []):
                volume = volumes.get(mount["name"], {})
                if "configMap" in volume:
                    files[mount["mountPath"]] = TARGETS if mount["name"] == "targets" else maps[volume["configMap"]["name"]]
                elif "secret" in volume:
                    secrets.append(mount["mountPath"])
                else:
                    empty.append(mount["mountPath"])
            key = yaml.safe_dump([container["args"], files])
            if key not in seen:
                seen.add(key)
                yield f"{file.stem} {document['metadata']['name']}", container["args"], files, secrets, empty


def certificates(parallax, home):
    """A leaf per side that verifies the other, by the files' names in Secrets."""
    environment = {**os.environ, "PARALLAX_PKI_PASSPHRASE": "for the dry start only"}
    state = f"--state=file:{home}/pki"
    for command in (["init", state, "--trust-domain", "mesh.example.com"], ["issue", state, "--observee", "eu-1", "--dns", "eu-1.mesh.example.com", "--out", f"{home}/observee"],
                    ["issue", state, "--observer", "hub", "--out", f"{home}/observer"]):
        done = subprocess.run([parallax, "pki", *command], env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"dry start: pki {' '.join(command)}: {done.stderr}")


def prepare(args, files, secrets, empty, home, leaves):
    """Writes what is mounted below `home`; gives the command line with these paths."""
    side = leaves / ("observee" if any("server-tls" in argument for argument in args) else "observer")
    bucket = NOWHERE if "--compact.shared" in args else DIRECTORY.format(home=home)
    (home / "bucket").mkdir(parents=True)

    def local(text):
        text = re.sub(r"(?<![\w/])(/etc/parallax|/var/lib/parallax)", rf"{home}\1", text)
        return re.sub(r"0\.0\.0\.0:1090[12]", "127.0.0.1:0", text)
    for path in empty:
        (home / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        for name, text in data.items():
            (home / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
            (home / path.lstrip("/") / name).write_text(local(text))
    for path in secrets:
        directory = home / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        last = path.rsplit("/", 1)[1]
        for name, text in FILES.get(last, {}).items():
            (directory / name).write_text(text)
        if last in ("http", "upward"):
            shutil.copytree(leaves / "observee", directory, dirs_exist_ok=True)
        elif last in FILES:
            pass
        elif "/tls" in path or "trusted-ca" in path:
            shutil.copytree(side, directory, dirs_exist_ok=True)
        elif "cache" in path:
            for name in ("index-cache.yaml", "caching-bucket.yaml"):
                (directory / name).write_text(CACHE)
        else:
            (directory / "objstore.yaml").write_text(bucket)
    return [local(argument) for argument in args]


def main():
    parallax, rendered = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    wrong, counts = [], collections.Counter()
    with tempfile.TemporaryDirectory() as base:
        base = pathlib.Path(base)
        certificates(parallax, base)
        running = []
        try:
            for number, (name, args, files, secrets, empty) in enumerate(containers(rendered)):
                home = base / str(number)
                command = prepare(args, files, secrets, empty, home, base)
                log = home / "log"
                with log.open("w") as output:
                    running.append((name, args, subprocess.Popen([parallax, *command], stdout=output, stderr=output, cwd=home), log))
                counts[args[0]] += 1
            until = time.monotonic() + PATIENCE_S
            waiting = running
            while waiting and time.monotonic() < until:
                waiting = [one for one in waiting if one[2].poll() is None and "listens" not in one[3].read_text()]
                time.sleep(0.1)
            time.sleep(1)
            for name, args, process, log in running:
                if process.poll() == 2 or (process.poll() is None and "listens" not in log.read_text()):
                    wrong.append(f"{name}: {' '.join(args)}\n{log.read_text()[-1500:]}")
        finally:
            for _, _, process, _ in running:
                process.terminate()
            for _, _, process, _ in running:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    if not counts:
        sys.exit(f"dry start: no containers in {rendered}")
    for line in wrong:
        print(f"dry start: {line}")
    print(f"dry start: {', '.join(f'{count} x {command}' for command, count in sorted(counts.items()))}; {len(wrong)} refused")
    sys.exit(bool(wrong))


main()
