#!/usr/bin/env python3
"""Checks the Terragrunt tree without Terragrunt: includes and sources exist, inputs are variables of the module and none that it requires is missing,
outputs that a dependency reads exist, values are in the YAML files, no cycles, and every observee is asked by the observer.

    live_check.py LIVE MODULES

It follows the few functions that the tree uses and refuses others. It does not evaluate expressions: that remains Terragrunt's.
"""
import pathlib
import re
import sys

import hcl2
import yaml

errors = []


def bare(text):
    return text.strip('"') if isinstance(text, str) else text


def load(path):
    with path.open() as file:
        return hcl2.load(file)


def blocks(document, kind):
    return {bare(label): body for block in document.get(kind, []) for label, body in block.items() if not label.startswith("__")}


def own_keys(mapping):
    return {bare(key) for key in mapping if not key.startswith("__")}


class Module:
    def __init__(self, directory):
        self.variables, self.required, self.outputs = set(), set(), set()
        for file in directory.glob("*.tf"):
            document = load(file)
            for name, body in blocks(document, "variable").items():
                self.variables.add(name)
                if "default" not in body:
                    self.required.add(name)
            self.outputs |= set(blocks(document, "output"))


class Unit:
    """A folder with terragrunt.hcl, its includes merged."""

    def __init__(self, directory, live):
        self.directory, self.live = directory, live
        self.includes, self.source, self.inputs, self.dependencies = [], None, set(), {}
        self.text = ""
        self.read(directory / "terragrunt.hcl")
        self.values = self.merged_values()

    def path(self, text):
        """A path expression of the tree, resolved."""
        text = bare(re.sub(r"^\$\{(.*)\}$", r"\1", bare(text)) if not re.search(r"\}.", bare(text)) else text)
        def parents(name):
            for parent in [self.directory, *self.directory.parents]:
                if (parent / name).exists():
                    return str(parent / name)
            errors.append(f"{self.directory}: no {name} above")
            return ""
        text = re.sub(r'\$?\{?dirname\(find_in_parent_folders\(\\?"([^"\\]+)\\?"\)\)\}?', lambda found: str(pathlib.Path(parents(found[1])).parent), text)
        text = re.sub(r'\$?\{?find_in_parent_folders\(\\?"([^"\\]+)\\?"\)\}?', lambda found: parents(found[1]), text)
        text = text.replace("${get_repo_root()}", str(self.live.parent.parent)).replace("${get_original_terragrunt_dir()}", str(self.directory))
        if "${" in text or "(" in text:
            errors.append(f"{self.directory}: cannot follow the path {text}")
        return pathlib.Path(self.directory, text).resolve()

    def read(self, file):
        if not file.is_file():
            errors.append(f"{self.directory}: include {file} does not exist")
            return
        document = load(file)
        self.text += file.read_text()
        for body in blocks(document, "include").values():
            target = self.path(body["path"])
            self.includes.append(target.name)
            self.read(target)
        for body in document.get("terraform", []):
            if "source" in body:
                if self.source is not None:
                    errors.append(f"{self.directory}: two sources")
                self.source = bare(body["source"])
        for name, body in blocks(document, "dependency").items():
            mocks = body.get("mock_outputs", {})
            allowed = {bare(command) for command in body.get("mock_outputs_allowed_terraform_commands", ["apply"])}
            if mocks and not allowed <= {"init", "validate", "plan"}:
                errors.append(f"{self.directory}: dependency {name}: mocks could be applied; set mock_outputs_allowed_terraform_commands to init, validate and plan")
            known = self.dependencies.setdefault(name, (self.path(body["config_path"]), set()))
            known[1].update(own_keys(mocks))
        self.inputs |= own_keys(document.get("inputs", {}))

    def merged_values(self):
        merged = yaml.safe_load((self.live / "global_values.yaml").read_text())
        for name in ("region_values.yaml", "cluster_values.yaml"):
            for parent in [self.directory, *self.directory.parents]:
                if (parent / name).exists():
                    merged.update(yaml.safe_load((parent / name).read_text()))
                    break
        merged.setdefault("aws_region", merged.get("tf_state_bucket_region"))
        return merged


def check_unit(unit, units, modules):
    name = unit.directory
    if "root.hcl" not in unit.includes:
        errors.append(f"{name}: does not include root.hcl, so it would have no state")
    if "read_terragrunt_config" in unit.text:
        errors.append(f"{name}: read_terragrunt_config: in a file that is read, find_in_parent_folders begins at that file and not at the unit; include it instead")
    for key in set(re.findall(r"local\.values\.(\w+)", unit.text)) - unit.values.keys():
        errors.append(f"{name}: no YAML file above sets {key}")
    if unit.source is None:
        errors.append(f"{name}: no source")
        return
    if unit.source.startswith("tfr://"):
        if not re.search(r"\?version=\d+\.\d+\.\d+$", unit.source):
            errors.append(f"{name}: {unit.source} is not pinned to a version")
    else:
        found = re.search(r"terraform//modules/([\w/-]+)$", unit.source)
        module = modules.get(found[1]) if found else None
        if module is None:
            errors.append(f"{name}: there is no module {unit.source}")
            return
        for key in unit.inputs - module.variables:
            errors.append(f"{name}: input {key} is not a variable of {found[1]}")
        for key in module.required - unit.inputs:
            errors.append(f"{name}: {found[1]} requires {key}")
    used = set(re.findall(r"dependency\.([\w-]+)\.outputs\.(\w+)", unit.text))
    for dependency, output in used:
        if dependency not in unit.dependencies:
            errors.append(f"{name}: there is no dependency {dependency}")
    for dependency, (target, mocks) in unit.dependencies.items():
        if target not in units:
            errors.append(f"{name}: dependency {dependency}: {target} is no unit")
            continue
        found = re.search(r"terraform//modules/([\w/-]+)$", units[target].source or "")
        outputs = modules[found[1]].outputs if found and found[1] in modules else mocks
        for output in {output for other, output in used if other == dependency} | mocks:
            if output not in outputs:
                errors.append(f"{name}: {dependency}.{output} is not an output of {units[target].source}")


def check_trust(units):
    """The CAs are in one state of their own; observees trust what comes from there, and nothing of an observee is typed again in the hub."""
    ends_with = lambda unit, module: (unit.source or "").endswith(f"terraform//modules/{module}")
    authorities = [unit for unit in units.values() if ends_with(unit, "pki")]
    if len(authorities) != 1:
        errors.append(f"{len(authorities)} units make CAs: one does, in a state of its own")
    for unit in units.values():
        if "generate_ca" in unit.inputs and not ends_with(unit, "pki"):
            errors.append(f"{unit.directory}: generate_ca would put the CA keys into this state")
        if ends_with(unit, "observee"):
            found = re.search(r"trusted_ca_content\s*=\s*dependency\.([\w-]+)\.outputs\.trusted_ca_content", unit.text)
            if not found or unit.dependencies[found[1]][0] not in {one.directory for one in authorities}:
                errors.append(f"{unit.directory}: trusted_ca_content does not come from the unit of the CAs")
        if ends_with(unit, "observer"):
            for typed in re.findall(r'"[\w.-]+:\d+"|bucket\s*=\s*"[^"$]+"', unit.text):
                errors.append(f"{unit.directory}: {typed} is typed by hand: take it from the observee's outputs")


def check_cycles(units):
    done, path = set(), []

    def visit(directory):
        if directory in path:
            errors.append("cycle: " + " -> ".join(str(step) for step in [*path[path.index(directory):], directory]))
            return
        if directory in done or directory not in units:
            return
        path.append(directory)
        for target, _ in units[directory].dependencies.values():
            visit(target)
        path.pop()
        done.add(directory)
    for directory in units:
        visit(directory)


def check_clusters(live, units):
    asked = {target for unit in units.values() if (unit.source or "").endswith("modules/observer") for target, _ in unit.dependencies.values()}
    names = {}
    for file in live.rglob("cluster_values.yaml"):
        values = yaml.safe_load(file.read_text())
        for part in ("vpc", "ebs-role", "eks", "iam", "eks-addons", *(["bucket"] if values["role"] == "observee" else [])):
            if file.parent / part not in units:
                errors.append(f"{file.parent}: no unit {part}")
        if values["name"] in names:
            errors.append(f"{file}: the name {values['name']} is taken by {names[values['name']]}")
        names[values["name"]] = file
        if values["role"] == "observee" and file.parent / "eks-addons" not in asked:
            errors.append(f"{file.parent}: no observer asks it; add a dependency line to the observer's eks-addons")


def main():
    live, module_root = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
    modules = {str(directory.relative_to(module_root)): Module(directory) for directory in module_root.rglob("*") if list(directory.glob("*.tf"))}
    units = {file.parent: Unit(file.parent, live) for file in sorted(live.rglob("terragrunt.hcl"))}
    for unit in units.values():
        check_unit(unit, units, modules)
    check_trust(units)
    check_cycles(units)
    check_clusters(live, units)
    for error in errors:
        print(f"live: {error}".replace(f"{live}/", ""))
    print(f"live: {len(units)} units, {len(errors)} errors")
    sys.exit(bool(errors))


main()
