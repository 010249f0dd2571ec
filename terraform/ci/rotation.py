#!/usr/bin/env python3
"""Rotates the CAs of modules/pki as its README says, step by step, and holds each step to the one before: while a step is rolled out, some still have the old leaf and
some the old bundle, and every pair must trust each other. A rotation in one step must fail this check.

    rotation.py MODULES TERRAFORM WORK      (needs openssl)
"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

STEPS = [(["g1"], "g1"), (["g1", "g2"], "g1"), (["g1", "g2"], "g2"), (["g2"], "g2")]


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"rotation: {' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def trusts(bundle, leaf):
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as authorities, tempfile.NamedTemporaryFile("w", suffix=".pem") as certificate:
        authorities.write(bundle)
        certificate.write(leaf)
        authorities.flush()
        certificate.flush()
        return subprocess.run(["openssl", "verify", "-x509_strict", "-no-CApath", "-CAfile", authorities.name, certificate.name], capture_output=True).returncode == 0


def rotate(steps, terraform, work):
    """The outputs after each step."""
    for file in work.glob("terraform.tfstate*"):
        file.unlink()
    for generations, signing in steps:
        (work / "step.auto.tfvars.json").write_text(json.dumps({"generations": generations, "signing": signing}))
        run(terraform, "apply", "-auto-approve", "-input=false", "-no-color", cwd=work)
        yield json.loads(run(terraform, "output", "-json", "pki", cwd=work))


def broken(before, after):
    """Pairs that do not trust each other while `after` replaces `before`."""
    out = []
    for leaf_of, leaf in (("old", before), ("new", after)):
        for bundle_of, bundle in (("old", before), ("new", after)):
            if not trusts(bundle["trusted_ca_content"], leaf["clients"]["hub"]["cert_pem"]):
                out.append(f"{leaf_of} observer, {bundle_of} bundle")
            if not trusts(bundle["observee_ca_content"], leaf["servers"]["eu-1"]["cert_pem"]):
                out.append(f"{leaf_of} observee, {bundle_of} bundle")
    return out


def main():
    modules, terraform, work = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(modules / "pki", work / "pki", ignore=shutil.ignore_patterns(".terraform*"))
    (work / "main.tf").write_text("""
variable "generations" { type = list(string) }
variable "signing" { type = string }
module "pki" {
  source             = "./pki"
  trust_domain       = "mesh.example"
  generations        = var.generations
  signing_generation = var.signing
  clients            = { hub = {} }
  servers            = { eu-1 = { dns_names = ["eu-1.mesh.example"] } }
}
output "pki" {
  value     = module.pki
  sensitive = true
}
""")
    run(terraform, "init", "-input=false", "-no-color", cwd=work)
    states = list(rotate(STEPS, terraform, work))
    for number, (before, after) in enumerate(zip(states, states[1:])):
        if broken(before, after):
            sys.exit(f"rotation: step {number + 1}: {broken(before, after)}")
    if states[0]["clients"]["hub"]["cert_pem"] == states[-1]["clients"]["hub"]["cert_pem"] or trusts(states[-1]["trusted_ca_content"], states[0]["clients"]["hub"]["cert_pem"]):
        sys.exit("rotation: after it the first generation is still trusted")
    hasty = list(rotate([STEPS[0], STEPS[-1]], terraform, work))
    if not broken(*hasty):
        sys.exit("rotation: one step instead of three broke nothing, so this check sees nothing")
    print(f"rotation: {len(STEPS) - 1} steps, nobody refused in any; in one step {len(broken(*hasty))} pairs are")


main()
