#!/usr/bin/env python3
"""Renders, validates or runs what stands in examples/ (and the container recipe).

    examples.py --parallax BIN --helm BIN --kubeconform BIN --work DIR [--write]

*.values.yaml are rendered with the chart, validated, and left for dry_start.py; *.args are started as processes; observer and observee files are read by the binary; quickstart
runs; manifests/ must be what the chart renders (--write writes them). In every README, each flag of a `parallax` command is one that it has, and each file that a command or a
table names is there.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import yaml

TERRAFORM = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = TERRAFORM.parent / "examples"
CHART = TERRAFORM / "charts/parallax"
KUBERNETES = "1.33.0"
# Far more than a start or an end takes.
PATIENCE_S = 120
errors = []


def expect(condition, message):
    if not condition:
        errors.append(message)


def helm(options, values):
    done = subprocess.run([options.helm, "template", "parallax", str(CHART), "-n", "monitoring", "--kube-version", KUBERNETES, *values], capture_output=True, text=True)
    return done.stdout, done.stderr if done.returncode else ""


def valid(options, name, text):
    schemas = f"{options.work}/schemas/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    done = subprocess.run([options.kubeconform, "-strict", "-schema-location", schemas, "-"], input=text, capture_output=True, text=True)
    expect(done.returncode == 0, f"{name}: {done.stdout}{done.stderr}")


def render(options):
    for values in sorted(EXAMPLES.glob("*/*.values.yaml")):
        text, error = helm(options, ["-f", str(values)])
        expect(not error, f"{values}: {error}")
        valid(options, values, text)
        rendered = pathlib.Path(options.work) / "rendered"
        rendered.mkdir(exist_ok=True)
        (rendered / f"{values.parent.name}-{values.name}").write_text(text)
    for file in EXAMPLES.glob("*/*.yaml"):
        expect(any(yaml.safe_load_all(file.read_text())), f"{file}: empty")
    for example in EXAMPLES.iterdir():
        expect(not example.is_dir() or (example / "README.md").exists(), f"{example}: no README.md")


def plain(text):
    """Manifests without the marks of Helm."""
    text = re.sub(r"(?m)^# Source: .*\n", "", text)
    text = re.sub(r"(?m)^ *(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n", "", text)
    return text


def manifests(options):
    quiet = ["--set", "monitoring.dashboards.enabled=false,monitoring.prometheusRule.enabled=false"]
    for side in ("observer", "observee"):
        text, error = helm(options, ["-f", str(CHART / f"values-{side}.yaml"), *quiet])
        expect(not error, error)
        made = f"# Made by terraform/ci/examples.py --write from the chart with values-{side}.yaml. kubectl apply -n monitoring -f {side}.yaml\n{plain(text)}"
        valid(options, side, made)
        file = EXAMPLES / f"manifests/{side}.yaml"
        if options.write:
            file.write_text(made)
        expect(file.exists() and file.read_text() == made, f"{file}: not what the chart renders; run ci/examples.py --write")


def starts(options, name, args):
    """Whether the binary takes these arguments: it listens, and goes on."""
    with tempfile.TemporaryDirectory() as home:
        (pathlib.Path(home) / "objstore.yaml").write_text(f"type: FILESYSTEM\nconfig: {{directory: {home}/bucket}}\n")
        (pathlib.Path(home) / "bucket").mkdir()
        changed = [re.sub(r"(0\.0\.0\.0)?:1090[12]$", "127.0.0.1:0", arg) if "-address=" in arg else arg for arg in args]
        changed = [arg.replace("/etc/objstore/objstore.yaml", f"{home}/objstore.yaml").replace("/var/thanos", home) for arg in changed]
        log = pathlib.Path(home) / "log"
        with log.open("w") as output:
            process = subprocess.Popen([options.parallax, *changed], stdout=output, stderr=output)
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and process.poll() is None and "grpc server listens" not in log.read_text():
            time.sleep(0.1)
        time.sleep(0.5)
        expect(process.poll() is None and "grpc server listens" in log.read_text(), f"{name}: {log.read_text()[-1500:]}")
        process.terminate()
        process.wait(PATIENCE_S)


def without_operator(options):
    """The sidecar beside a Prometheus without the operator: its arguments and mounts, and the configuration that it writes for its pod."""
    file = EXAMPLES / "without-operator/eu-1.prometheus.yaml"
    server = yaml.safe_load(file.read_text())["server"]
    container = server["sidecarContainers"]["parallax"]
    here = {"/etc/config": "config", "/etc/config-out": "out", "/data": "data", "/etc/objstore": "objstore"}
    expect({mount["mountPath"] for mount in container["volumeMounts"]} == here.keys(), f"{file}: mounts")
    expect({variable["name"] for variable in container["env"]} == {"POD_NAME"}, f"{file}: variables")
    with tempfile.TemporaryDirectory() as home:
        home = pathlib.Path(home)
        for directory in (*here.values(), "bucket"):
            (home / directory).mkdir()
        (home / "config/prometheus.yml").write_text(yaml.safe_dump({"global": server["global"]}))
        (home / "objstore/objstore.yaml").write_text(f"type: FILESYSTEM\nconfig: {{directory: {home}/bucket}}\n")
        args = []
        for argument in container["args"]:
            name, equals, value = argument.partition("=")
            value = re.sub(r"^0\.0\.0\.0:\d+$", "127.0.0.1:0", value)
            directory = next((path for path in here if value == path or value.startswith(f"{path}/")), None)
            args.append(f"{name}{equals}{home / here[directory]}{value.removeprefix(directory)}" if directory else f"{name}{equals}{value}")
        written = home / "out" / server["configPath"].rsplit("/", 1)[1]
        log = home / "log"
        with log.open("w") as output:
            process = subprocess.Popen([options.parallax, *args], stdout=output, stderr=output, cwd=home, env={**os.environ, "POD_NAME": "prometheus-server-1"})
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and process.poll() is None and not (written.exists() and "grpc server listens" in log.read_text()):
            time.sleep(0.1)
        text = written.read_text() if written.exists() else ""
        expect(process.poll() is None and yaml.safe_load(text or "{}").get("global", {}).get("external_labels", {}).get("prometheus_replica") == "prometheus-server-1",
               f"{file}: the sidecar wrote {text!r}: {log.read_text()[-1500:]}")
        process.terminate()
        process.wait(PATIENCE_S)


def documents(options):
    """Each objstore document is one that the binary reads: it goes on to reach for the bucket, at an address where nothing is."""
    found = sorted(EXAMPLES.glob("*/*objstore.yaml"))
    expect(found, "no objstore documents")
    for file in found:
        document = yaml.safe_load(file.read_text())
        if document["type"] == "S3":
            document["config"].update(endpoint="127.0.0.1:9", insecure=True, access_key="a", secret_key="b")
        with tempfile.TemporaryDirectory() as home:
            process = subprocess.Popen([options.parallax, "store", f"--objstore.config={yaml.safe_dump(document)}", f"--data-dir={home}", "--http-address=127.0.0.1:0", "--grpc-address=127.0.0.1:0"],
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            try:
                said, _ = process.communicate(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()
                said, _ = process.communicate()
                continue
            expect(process.returncode != 2, f"{file}: {said}")


def run(options):
    for file in sorted(EXAMPLES.glob("*/*.args")):
        starts(options, file, file.read_text().split("\n")[:-1])
    for side in ("observer", "observee"):
        done = subprocess.run([options.parallax, side, "--config", EXAMPLES / side / f"{side}.yaml", "--check"], capture_output=True, text=True)
        expect(done.returncode == 0, f"{side}: {done.stderr}")
    done = subprocess.run([EXAMPLES / "quickstart/run", "--once"], capture_output=True, text=True, timeout=2 * PATIENCE_S, env={**os.environ, "PARALLAX": str(pathlib.Path(options.parallax).resolve())})
    expect(done.returncode == 0, f"quickstart: {done.stdout}{done.stderr}")


def commands(text):
    """Lines of code that start with `parallax`, continued lines joined."""
    text = re.sub(r" *\\\n *", " ", text)
    code = re.findall(r"(?m)^(?:    |       )?(?:\$ )?(parallax [^`\n#]+)", text) + re.findall(r"`(parallax [^`]+)`", text)
    return [line.strip() for line in code]


def readmes(options):
    helps = {}

    def help_of(path):
        if path not in helps:
            helps[path] = subprocess.run([options.parallax, *path, "--help"], capture_output=True, text=True)
        return helps[path]
    checked = 0
    for readme in [*EXAMPLES.glob("**/README.md"), TERRAFORM / "README.md"]:
        text = readme.read_text()
        for command in commands(text):
            words = command.split()[1:]
            path = []
            while words and re.fullmatch(r"[a-z]+", words[0]) and help_of((*path, words[0])).returncode == 0 and len(path) < 3:
                path.append(words.pop(0))
            if not path:
                continue
            said = help_of(tuple(path))
            checked += 1
            for flag in (word.split("=")[0] for word in words if word.startswith("--")):
                expect(re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", said.stdout.replace("--[no-]", "--")), f"{readme}: {' '.join(path)} has no {flag}: {command}")
        if readme.parent.parent != EXAMPLES:
            continue
        for name in re.findall(r"`(\w[\w.-]*\.(?:yaml|args|hcl))`", text) + re.findall(r"(?:-f |objstore\.yaml=)([\w.-]+\.yaml)", text):
            expect((readme.parent / name).exists() or name in ("bucket.yaml", "peers.yaml", "observer.yaml", "objstore.yaml"), f"{readme}: there is no {name}")
        for name in re.findall(r"\]\((\.\.?/[^)#]+)\)", text):
            expect((readme.parent / name).exists(), f"{readme}: there is no {name}")
    expect(checked > 10, f"only {checked} commands found in the READMEs")


def image(options):
    """The recipe copies a static binary called parallax, runs it as nobody, and leaves the command to whoever passes arguments."""
    text = (TERRAFORM / "image/Containerfile").read_text()
    last = text.rsplit("\nFROM ", 1)[1]
    expect(last.startswith("scratch"), "image: the last stage is not scratch")
    expect('ENTRYPOINT ["/parallax"]' in last and "\nCMD" not in last, "image: arguments must go to the binary")
    found = re.search(r"\nUSER (\d+):(\d+)", last)
    expect(found and found[1] != "0", "image: it runs as root")
    toolchain = re.search(r'channel *= *"([\d.]+)"', (TERRAFORM.parent / "rust-toolchain.toml").read_text())[1]
    expect(f"library/rust:{toolchain.removesuffix('.0')}-alpine" in text, f"image: it is not built with Rust {toolchain}")
    # Beside the C library, which musl brings in whole, nothing is linked at run time.
    linked = subprocess.run(["ldd", options.parallax], capture_output=True, text=True).stdout
    others = {line.split()[0] for line in linked.splitlines() if line.strip()} - {"statically", "not", "linux-vdso.so.1"}
    others = {name for name in others if not re.fullmatch(r"(.*/)?(ld-linux[-\w.]*|lib(c|m|dl|rt|pthread|gcc_s))\.so\.\d+", name)}
    expect(not others, f"image: the binary needs {', '.join(sorted(others))}, which the image has not")
    starts(options, "image with the operator's arguments", [
        "sidecar", "--prometheus.url=http://127.0.0.1:9/", '--prometheus.http-client={"tls_config": {"insecure_skip_verify":true}}', "--grpc-address=:10901", "--http-address=:10902",
        "--objstore.config-file=/etc/objstore/objstore.yaml", "--tsdb.path=/var/thanos/data", "--log.level=info", "--log.format=logfmt", "--min-time=-2w",
        "--prometheus.ready_timeout=10m", "--prometheus.get_config_timeout=30s", "--prometheus.get_config_interval=30s"])


def main():
    parser = argparse.ArgumentParser()
    for name in ("parallax", "helm", "kubeconform", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for step in (render, manifests, documents, without_operator, readmes, run, image):
        step(options)
    for error in errors:
        print(f"examples: {error}")
    print(f"examples: {len(errors)} errors")
    sys.exit(bool(errors))


main()
