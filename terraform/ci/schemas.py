#!/usr/bin/env python3
"""JSON schemas for kubeconform: Kubernetes' own from the package kubernetes-validate, made self-contained, and ours for custom resources (ci/crds).

    schemas.py 1.33.0 OUT

The package keeps shared definitions in one file, which kubeconform cannot follow; each schema gets those that it uses.
"""
import json
import pathlib
import sys

import kubernetes_validate


def rewritten(node, used):
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            name = reference.rsplit("/", 1)[1]
            used.add(name)
            return {"$ref": f"#/definitions/{name}"}
        return {key: rewritten(value, used) for key, value in node.items()}
    if isinstance(node, list):
        return [rewritten(value, used) for value in node]
    return node


def bundle(source, out):
    shared = json.loads((source / "_definitions.json").read_text())["$defs"]
    count = 0
    for file in sorted(source.glob("*.json")):
        document = json.loads(file.read_text())
        if file.name in ("all.json", "_definitions.json") or "x-kubernetes-group-version-kind" not in document:
            continue
        wanted, definitions = set(), {}
        document = rewritten(document, wanted)
        while wanted - definitions.keys():
            name = (wanted - definitions.keys()).pop()
            definitions[name] = rewritten(shared[name], wanted)
        document.pop("$id", None)
        document["definitions"] = definitions
        (out / file.name).write_text(json.dumps(document))
        count += 1
    return count


def main():
    version, out = sys.argv[1], pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    source = pathlib.Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}-local-strict"
    if not source.is_dir():
        sys.exit(f"kubernetes-validate has no schemas of Kubernetes {version}")
    count = bundle(source, out)
    own = sorted((pathlib.Path(__file__).parent / "crds").glob("*.json"))
    for file in own:
        text = file.read_text()
        (out / file.name).write_text(text)
        # Of several versions of a kind that are alike, one file is enough here; kubeconform looks for one each.
        for served in json.loads(text)["properties"]["apiVersion"].get("enum", []):
            (out / f"{file.stem.rsplit('-', 1)[0]}-{served.rsplit('/', 1)[1]}.json").write_text(text)
    print(f"{count} schemas of Kubernetes {version}, {len(own)} of custom resources")


main()
