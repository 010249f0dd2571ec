#!/usr/bin/env python3
"""Applies the whole Terragrunt tree as one root module, with the stand-in providers: what Terragrunt would do unit by unit.

    live_apply.py LIVE MODULES TERRAFORM WORK

Each unit's locals and inputs become Terraform's; a dependency's outputs are those of the other unit's module, and mocks only where the source is a registry module.
So every expression of the tree is evaluated and every input has its type. Then a third cluster is added, as the README says: a copied folder and one line; the
observer must ask it.
"""
import pathlib
import re
import shutil
import subprocess
import sys

import yaml


def up_to_brace(text, start):
    """What stands before the brace that closes the one before `start`; braces of templates balance, too."""
    depth, at = 1, start
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[start:at - 1]


def blocks(text):
    """Top-level blocks and the inputs of a file: (header, body)."""
    for found in re.finditer(r"(?m)^(\w[^\n{]*?) *(?:= *)?\{", text):
        yield found[1].strip(), up_to_brace(text, found.end())


def body_of(name, text):
    """The body of the attribute or block `name` inside another, or nothing."""
    found = re.search(rf"(?m)^ *{name} *= *\{{", text)
    return up_to_brace(text, found.end()) if found else None


class Unit:
    def __init__(self, directory, live):
        self.directory, self.live = directory, live
        self.name = "u_" + re.sub(r"\W+", "_", str(directory.relative_to(live)))
        self.files, self.source, self.dependencies = [], None, {}
        self.read(directory / "terragrunt.hcl")

    def above(self, name):
        # Where there is none, a path that does not exist: root.hcl tries.
        return next((str(parent / name) for parent in [self.directory, *self.directory.parents] if (parent / name).exists()), f"{self.directory}/{name}")

    def literal(self, text):
        """The functions of Terragrunt, replaced by what they give here."""
        text = re.sub(r'find_in_parent_folders\("([^"]+)"\)', lambda found: f'"{self.above(found[1])}"', text)
        text = text.replace("${get_repo_root()}", str(self.live.parent.parent)).replace("${get_original_terragrunt_dir()}", str(self.directory))
        return re.sub(r'"\$\{dirname\("([^"]+)"\)\}', lambda found: f'"{pathlib.Path(found[1]).parent}', text)

    def read(self, file):
        text = self.literal(file.read_text())
        self.files.append(text)
        for header, body in blocks(text):
            value = lambda key: re.search(rf'(?:^|\s){key} *= *"?([^"\n]+)"?', body)[1]
            if header.startswith("include"):
                self.read(pathlib.Path(value("path")))
            elif header == "terraform":
                self.source = value("source")
            elif header.startswith("dependency"):
                label = header.split('"')[1]
                mocks = body_of("mock_outputs", body)
                self.dependencies[label] = ((self.directory / value("config_path")).resolve(), mocks)

    def internal(self):
        return not self.source.startswith("tfr://")


def emit(unit, units):
    out, inputs = [], ""
    for number, text in enumerate(unit.files):
        prefix = f"{unit.name}_{number}_"
        renamed = re.sub(r"\bdependency\.", f"local.{unit.name}_dependency.", re.sub(r"\blocal\.(\w+)", rf"local.{prefix}\1", text))
        renamed = renamed.replace(" in dependency :", f" in local.{unit.name}_dependency :")
        for header, body in blocks(renamed):
            if header == "locals":
                out.append("locals {\n" + re.sub(r"(?m)^  (\w+)( *= )", rf"  {prefix}\1\2", body) + "}\n")
            elif header == "inputs":
                inputs = body
    given = "".join(f'    "{label}" = {{ outputs = {f"module.{units[target].name}" if units[target].internal() else "{" + (mocks or "") + "}"} }}\n'
                    for label, (target, mocks) in unit.dependencies.items())
    out.append(f"locals {{\n  {unit.name}_dependency = {{\n{given}  }}\n}}\n")
    if unit.internal():
        # Beside the root module: a path out of a module must stay in the same package.
        module = unit.source.split("//modules/")[1]
        out.append(f'module "{unit.name}" {{\n  source = "./modules/{module}"\n{inputs}}}\n')
    else:
        out.append(f'output "{unit.name}" {{\n  value = {{{inputs}}}\n}}\n')
    return "\n".join(out)


def apply(live, modules, terraform, work, observer):
    units = {file.parent: Unit(file.parent, live) for file in sorted(live.rglob("terragrunt.hcl"))}
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(modules, work / "modules", ignore=shutil.ignore_patterns(".terraform*"))
    text = "".join(emit(unit, units) for unit in units.values())
    name = units[observer].name
    text += f'output "endpoints" {{\n  value = module.{name}.endpoints\n}}\n'
    (work / "main.tf").write_text(text)
    said = ""
    # Terragrunt applies a unit when its dependencies' outputs are known: so here, the observer and what depends on it last.
    early = [f"-target=module.{unit.name}" for unit in units.values() if unit.internal() and unit.directory != observer and observer not in [target for target, _ in unit.dependencies.values()]]
    for command in (["init"], ["apply", "-auto-approve", *early], ["apply", "-auto-approve"], ["output", "-json", "endpoints"]):
        done = subprocess.run([terraform, *command, "-no-color", *([] if command[0] == "output" else ["-input=false"])], cwd=work, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"live: {command[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}")
        said = done.stdout
    return units, yaml.safe_load(said)


def main():
    live, modules = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    terraform, work = sys.argv[3], pathlib.Path(sys.argv[4]).resolve()
    observer = live / "demo/eu-west-1/clusters/observer/eks-addons"
    units, endpoints = apply(live, modules, terraform, work / "as-it-is", observer)
    print(f"live: {len(units)} units applied as one; the observer asks {', '.join(endpoints)}")

    # A third cluster: one folder, one line.
    copy = work / "more/terraform/live"
    shutil.rmtree(work / "more", ignore_errors=True)
    shutil.copytree(live, copy)
    new = copy / "demo/us-east-1/clusters/third"
    shutil.copytree(copy / "demo/us-east-1/clusters/observee-us", new)
    values = new / "cluster_values.yaml"
    values.write_text(values.read_text().replace("name: observee-us", "name: third"))
    hub = copy / observer.relative_to(live) / "terragrunt.hcl"
    line = next(line for line in hub.read_text().split("\n") if line.startswith('dependency "observee-us"'))
    hub.write_text(hub.read_text().replace(line, line + "\n" + line.replace("observee-us", "third")))
    _, more = apply(copy, modules, terraform, work / "one-more", hub.parent)
    if more.keys() - endpoints.keys() != {"third"} or more["third"] != ["third.mesh.example.com:443"]:
        sys.exit(f"live: after a folder and a line the observer asks {more}")
    difference = subprocess.run(["diff", "-rq", live, copy], capture_output=True, text=True).stdout.splitlines()
    lines = subprocess.run(["diff", observer / "terragrunt.hcl", hub], capture_output=True, text=True).stdout.count("\n> ")
    if len(difference) != 2 or lines != 1:
        sys.exit(f"live: a third cluster is more than a folder and a line: {difference}, {lines} lines")
    print(f"live: a folder and a line more: {', '.join(more)}")


main()
