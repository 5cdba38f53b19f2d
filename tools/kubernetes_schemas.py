"""The schemas that tests/cluster validates manifests against, in one small file.

In: PyPI's package kubernetes-validate (Kubernetes' own OpenAPI schemas) and folders of CRDs in YAML.
Out: tests/cluster/schemas.json: JSON Schema for each "apiVersion/kind" of KINDS. An unknown field is refused,
as a server does with fieldValidation=Strict. Descriptions are left out, and what occurs twice stands once.

    pip install kubernetes-validate
    python tools/kubernetes_schemas.py CRDS…
"""

import hashlib
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "tests/cluster/schemas.json"
VERSION = "1.37.0"
KINDS = {
    "apps/v1/Deployment",
    "v1/Service",
    "v1/PersistentVolumeClaim",
    "v1/ServiceAccount",
    "policy/v1/PodDisruptionBudget",
    "autoscaling/v2/HorizontalPodAutoscaler",
    "networking.k8s.io/v1/NetworkPolicy",
    "keda.sh/v1alpha1/ScaledObject",
    "serving.kserve.io/v1alpha1/ClusterServingRuntime",
    "serving.kserve.io/v1beta1/InferenceService",
    "ray.io/v1/RayService",
}
MIN_SHARED = 120  # characters of a subschema that is written once


def core(kind: str) -> dict[str, Any] | None:
    """Kubernetes' own schema of a kind, whole and strict; None if it has none."""
    spec = importlib.util.find_spec("kubernetes_validate")
    assert spec is not None, "pip install kubernetes-validate"
    assert spec.origin is not None
    folder = Path(spec.origin).parent / f"kubernetes-json-schema/v{VERSION}-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    *group, version, name = kind.split("/")
    prefix = f"{group[0].split('.')[0]}-" if group else ""
    path = folder / f"{name.lower()}-{prefix}{version}.json"
    return inlined(json.loads(path.read_text()), definitions) if path.is_file() else None


def inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """The schema with each definition in its place."""
    if isinstance(part, list):
        return [inlined(entry, definitions) for entry in part]
    if not isinstance(part, dict):
        return part
    if (reference := part.get("$ref")) is not None:
        return inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {name: inlined(entry, definitions) for name, entry in part.items()}


def custom(folders: list[Path]) -> dict[str, dict[str, Any]]:
    """The schema of each kind that a CRD defines."""
    found = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if document and document["kind"] == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    schema = version["schema"]["openAPIV3Schema"]
                    text = {"type": "string"}
                    schema["properties"] |= {"apiVersion": text, "kind": text, "metadata": {"type": "object"}}
                    found[f"{spec['group']}/{version['name']}/{spec['names']['kind']}"] = schema
    return found


def strict(part: Any) -> Any:
    """JSON Schema of a structural schema: unknown fields are refused unless it says that they stay."""
    if isinstance(part, list):
        return [strict(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    out: dict[str, Any] = {}
    for name, entry in part.items():
        if name in ("properties", "patternProperties"):
            out[name] = {field: strict(schema) for field, schema in entry.items()}
        elif name not in ("description", "title", "default", "format", "$schema") and not name.startswith(
            "x-"
        ):
            out[name] = strict(entry)
    is_open = part.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in out
    if "properties" in out and not is_open:
        out["additionalProperties"] = False
    if out.pop("nullable", False) and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def text_of(part: Any) -> str:
    return json.dumps(part, sort_keys=True, separators=(",", ":"))


def shared(schemas: dict[str, Any]) -> dict[str, Any]:
    """The same schemas, each large part that occurs more than once in $defs."""
    counts: Counter[str] = Counter()

    def count(part: Any) -> None:
        if isinstance(part, dict):
            text = text_of(part)
            counts[text] += 1
            if counts[text] > 1 and len(text) >= MIN_SHARED:
                return
        for entry in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
            count(entry)

    definitions: dict[str, Any] = {}

    def written(part: Any, *, is_schema: bool) -> Any:
        if isinstance(part, list):
            return [written(entry, is_schema=is_schema) for entry in part]
        if not isinstance(part, dict):
            return part
        text = text_of(part)
        if is_schema and len(text) >= MIN_SHARED and counts[text] > 1:
            name = hashlib.sha256(text.encode()).hexdigest()[:10]
            if name not in definitions:
                definitions[name] = None
                definitions[name] = inner(part, is_schema=True)
            return {"$ref": f"#/$defs/{name}"}
        return inner(part, is_schema=is_schema)

    def inner(part: dict[str, Any], *, is_schema: bool) -> dict[str, Any]:
        holds_schemas = {"properties", "patternProperties"}
        return {
            name: written(entry, is_schema=not (is_schema and name in holds_schemas))
            for name, entry in part.items()
        }

    count(schemas)
    kinds = {kind: written(schema, is_schema=True) for kind, schema in schemas.items()}
    return {"kinds": kinds, "$defs": definitions}


def main(folders: list[str]) -> None:
    of_crds = custom([Path(folder) for folder in folders])
    schemas = {}
    for kind in sorted(KINDS):
        schema = core(kind) or of_crds.get(kind)
        assert schema is not None, f"no schema of {kind}"
        schemas[kind] = strict(schema)
    sources = "Kubernetes, KServe, KEDA and KubeRay: Apache License 2.0"
    note = f"Derived by tools/kubernetes_schemas.py from {sources}."
    document = {"$comment": f"{note} Kubernetes {VERSION}.", **shared(schemas)}
    TARGET.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size // 1000} kB, {len(schemas)} kinds")


if __name__ == "__main__":
    main(sys.argv[1:])
