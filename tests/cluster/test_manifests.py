"""The manifests of deploy/kubernetes and deploy/kserve, rendered and checked without a cluster.

Each document must fit its kind's schema, unknown fields refused (schemas.json: Kubernetes, KServe, KEDA,
KubeRay), and what no schema says must fit together: names, ports, selectors, settings, times.
"""

import copy
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import extras
from service.settings import PREFIX, Settings
from service_kit import ROOT

DEPLOY = ROOT / "deploy"
KUSTOMIZATIONS = sorted(path.parent.relative_to(DEPLOY) for path in DEPLOY.rglob("kustomization.yaml"))
SCHEMAS = Path(__file__).with_name("schemas.json")
Document = dict[str, Any]


@cache
def schemas() -> dict[str, jsonschema.Draft202012Validator]:
    document = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return {
        kind: jsonschema.Draft202012Validator({**schema, "$defs": document["$defs"]})
        for kind, schema in document["kinds"].items()
    }


@cache
def rendered(folder: Path) -> tuple[Document, ...]:
    """What `kubectl kustomize` makes of a folder."""
    if extras.KUBECTL is None:
        pytest.skip(f"kubectl: {extras.NEEDED}")
    done = subprocess.run(
        [extras.KUBECTL, "kustomize", str(DEPLOY / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def kserve() -> list[Document]:
    paths = sorted((DEPLOY / "kserve").glob("*.yaml"))
    return [document for path in paths for document in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def faults(documents: list[Document]) -> list[str]:
    """Everything that is wrong with the documents of one deployment."""
    found = [fault for document in documents for fault in of_schema(document)]
    for document in documents:
        for pod in pods_of(document):
            found += of_pod(pod)
    selected = [document for document in documents if document["kind"] == "Deployment"]
    labels = [document["spec"]["template"]["metadata"]["labels"] for document in selected]
    ports = {port["name"] for pod in map(pod_of, selected) for port in pod["containers"][0]["ports"]}
    for document in documents:
        spec = document["spec"]
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment"):
            selector = spec.get("podSelector") or spec["selector"]
            wanted = selector.get("matchLabels", selector)
            if not any(wanted.items() <= have.items() for have in labels):
                found.append(f"{name}: selects no pod")
        if document["kind"] == "Service" and not {port["targetPort"] for port in spec["ports"]} <= ports:
            found.append(f"{name}: a port that no container has")
        target = spec.get("scaleTargetRef")
        if target is not None and target["name"] not in {have["metadata"]["name"] for have in selected}:
            found.append(f"{name}: scales nothing")
    return found


def of_schema(document: Document) -> Iterator[str]:
    kind = f"{document['apiVersion']}/{document['kind']}"
    if (schema := schemas().get(kind)) is None:
        yield f"unknown kind {kind}"
        return
    for error in schema.iter_errors(document):
        yield f"{kind} {'/'.join(map(str, error.absolute_path))}: {error.message[:160]}"


def pod_of(deployment: Document) -> Document:
    pod: Document = deployment["spec"]["template"]["spec"]
    return pod


def pods_of(document: Document) -> list[Document]:
    if document["kind"] == "Deployment":
        return [pod_of(document)]
    return [document["spec"]] if document["kind"] == "ClusterServingRuntime" else []


def of_pod(pod: Document) -> Iterator[str]:
    """What must be so in each pod that runs our image."""
    ours = pod["containers"][0]
    settings = {entry["name"]: entry.get("value") for entry in ours["env"]}
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}
    yield from (f"{name}: no setting" for name in settings.keys() - known)
    if f"{PREFIX}THREADS" not in settings:
        yield "threads do not follow limits.cpu"
    ends_s = sum(
        float(settings.get(f"{PREFIX}{name}") or 0) for name in ("DRAIN_DELAY_S", "SHUTDOWN_TIMEOUT_S")
    )
    if float(settings.get(f"{PREFIX}DRAIN_DELAY_S") or 0) < 5:
        yield "no time for balancers to notice that it drains"
    # A KServe runtime leaves the grace period to the InferenceService.
    if not ends_s < pod.get("terminationGracePeriodSeconds", 45):
        yield f"killed while it ends: {ends_s} s"
    of_pod_user = pod.get("securityContext", {})
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        user = {**of_pod_user, **container["securityContext"]}
        if not (user.get("runAsNonRoot") and user["capabilities"] == {"drop": ["ALL"]}):
            yield f"{container['name']}: runs with more rights than it needs"
        if user["allowPrivilegeEscalation"] or not container["resources"]["limits"].keys() >= {
            "cpu",
            "memory",
        }:
            yield f"{container['name']}: unlimited"
        if not {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes:
            yield f"{container['name']}: mounts what is no volume"
    ports = {port for have in ours["ports"] for port in (have["name"], have["containerPort"])}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = ours[name]["httpGet"]
        if probe["port"] not in ports or not re.fullmatch(r"/v2/health/(live|ready)", probe["path"]):
            yield f"{name}: asks nothing of ours"


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=str)
def test_what_kustomize_renders_has_no_fault(folder: Path) -> None:
    documents = list(rendered(folder))
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {
        document["kind"] for document in documents
    }
    assert faults(documents) == []


def test_each_overlay_changes_what_it_is_for() -> None:
    by_name = {folder.name: rendered(folder) for folder in KUSTOMIZATIONS}
    kinds = {name: {document["kind"] for document in documents} for name, documents in by_name.items()}
    assert set(by_name) == {"base", "gpu", "keda", "store"}
    assert {"HorizontalPodAutoscaler", "PersistentVolumeClaim"} <= kinds["base"]
    assert kinds["keda"] == kinds["base"] - {"HorizontalPodAutoscaler"} | {"ScaledObject"}
    assert kinds["store"] == kinds["base"] - {"PersistentVolumeClaim"}
    pods = {
        name: pod_of(next(document for document in documents if document["kind"] == "Deployment"))
        for name, documents in by_name.items()
    }
    gpu = pods["gpu"]["containers"][0]
    assert (gpu["image"], gpu["resources"]["limits"]["nvidia.com/gpu"]) == ("foldserve-gpu", "1")
    store = pods["store"]["containers"][0]
    assert store["envFrom"] == [{"secretRef": {"name": "foldserve-store"}}], "which says FOLDSERVE_MODELS"
    assert not {entry["name"] for entry in store["env"]} & {"FOLDSERVE_MODELS"}
    base = next(document for document in by_name["base"] if document["kind"] == "Deployment")
    assert base["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert pods["base"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True


def test_kserve_has_no_fault() -> None:
    documents = kserve()
    assert [document["kind"] for document in documents] == ["InferenceService", "ClusterServingRuntime"]
    assert faults(documents) == []
    service, runtime = documents
    assert service["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] == 45


def plant(*path: str | int, value: Any) -> Callable[[list[Document]], None]:
    """A change of one value, by the kind of the document and the path in it; None takes it out."""
    kind, *inner = path

    def change(documents: list[Document]) -> None:
        place: Any = next(document for document in documents if document["kind"] == kind)
        for step in inner[:-1]:
            place = place[step]
        if value is None:
            del place[inner[-1]]
        else:
            place[inner[-1]] = value

    return change


POD = ("Deployment", "spec", "template", "spec")
OURS = (*POD, "containers", 0)
BREACHES = {
    "unknown field": plant("Deployment", "spec", "replica", value=3),
    "wrong type": plant(*OURS, "ports", 0, "containerPort", value="8000"),
    "missing field": plant("Deployment", "spec", "selector", value=None),
    "unknown kind": plant("PodDisruptionBudget", "apiVersion", value="policy/v1beta1"),
    "no list": plant(*POD, "tolerations", value={"key": "gpu"}),
    "unknown setting": plant(*OURS, "env", 0, "name", value="FOLDSERVE_MODEL"),
    "killed while it ends": plant(*POD, "terminationGracePeriodSeconds", value=30),
    "runs as root": plant(*POD, "securityContext", "runAsNonRoot", value=False),
    "another selector": plant("Service", "spec", "selector", value={"app": "foldserve"}),
    "another port": plant("Service", "spec", "ports", 0, "targetPort", value="web"),
    "no volume": plant(*POD, "volumes", 1, "name", value="caches"),
    "another probe": plant(*OURS, "readinessProbe", "httpGet", "path", value="/healthz"),
    "scales nothing": plant("HorizontalPodAutoscaler", "spec", "scaleTargetRef", "name", value="served"),
}


@pytest.mark.parametrize("breach", BREACHES)
def test_a_planted_breach_is_refused(breach: str) -> None:
    documents = copy.deepcopy(list(rendered(Path("kubernetes/base"))))
    BREACHES[breach](documents)
    try:
        found = faults(documents)
    except KeyError as error:  # what is missing, the schema has refused already
        found = [f"missing {error}"]
    assert len(found) > 0


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("InferenceService", ("spec", "predictor", "model", "storage_uri"), "s3://x"),
        ("InferenceService", ("spec", "predictor", "minReplicas"), "two"),
        ("ClusterServingRuntime", ("spec", "supportedModelFormats", 0, "format"), "onnx"),
    ],
)
def test_a_planted_breach_of_kserve_is_refused(kind: str, path: tuple[str | int, ...], value: Any) -> None:
    documents = kserve()
    plant(kind, *path, value=value)(documents)
    assert len(faults(documents)) > 0


def test_a_planted_breach_of_keda_is_refused() -> None:
    documents = copy.deepcopy(list(rendered(Path("kubernetes/overlays/keda"))))
    plant("ScaledObject", "spec", "triggers", 0, "metadata", "threshold", value=4)(documents)
    assert len(faults(documents)) == 1


def test_the_job_that_trains_fits_its_schemas() -> None:
    path = DEPLOY / "kubernetes/train/job.yaml"
    service, job = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert list(of_schema(service)) == []
    deployment = schemas()["apps/v1/Deployment"].schema
    template = jsonschema.Draft202012Validator(
        {**deployment["properties"]["spec"]["properties"]["template"], "$defs": deployment["$defs"]}
    )
    assert [error.message for error in template.iter_errors(job["spec"]["template"])] == []
    job["spec"]["template"]["spec"]["container"] = []
    assert list(template.iter_errors(job["spec"]["template"])), "an unknown field is found"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == job["spec"]["template"]["metadata"]["labels"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400" in container["args"][0]
    assert f"--nnodes {job['spec']['completions']} " in container["args"][0]
