"""deploy/ray: the bulk job's actors, and KubeRay's manifest; test_ray_cluster.py runs both on a cluster."""

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from test_manifests import of_schema, plant

from foldserve.batch.errors import BatchError
from service.settings import Settings
from service_kit import ROOT
from tiny_nets import digits_net, echo_net, write_bundle

RAY = ROOT / "deploy/ray"
SEVEN = (ROOT / "docs/seven.png").read_bytes()


@pytest.fixture(scope="module")
def bulk() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_bulk", RAY / "bulk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_actor_answers_rows(bulk: ModuleType, tmp_path: Path) -> None:
    write_bundle(tmp_path / "1", echo_net("float32"))
    actor = bulk.Answering(str(tmp_path / "1"), with_outputs=True)
    rows = np.arange(900, dtype=np.float32).reshape(300, 3)  # more than a batch holds
    table = pyarrow.table({"key": [f"row {row}" for row in range(300)], "x": rows.tolist()})
    answered = actor(table)
    assert answered["key"].to_pylist() == table["key"].to_pylist()
    assert np.array_equal(np.stack(answered["output.y"].to_numpy()), rows)
    assert actor(table.slice(0, 0)).num_rows == 0
    for wrong, message in (
        (table.drop_columns(["key"]), "it needs `key`"),
        (table.drop_columns(["x"]), "expected x"),
    ):
        with pytest.raises(BatchError, match=message):
            actor(wrong)


@pytest.mark.parametrize("names", [("path", "bytes"), ("key", "image")])
def test_an_actor_answers_pictures(bulk: ModuleType, tmp_path: Path, names: tuple[str, str]) -> None:
    write_bundle(tmp_path / "1", digits_net())
    actor = bulk.Answering(str(tmp_path / "1"), 2)
    answered = actor(
        pyarrow.table({names[0]: ["a", "b", "c"], names[1]: [SEVEN, b"none", SEVEN]})
    ).to_pylist()
    assert [row["key"] for row in answered] == ["a", "b", "c"]
    assert answered[0]["label"] == answered[2]["label"] is not None
    assert answered[0]["label_2"] is not None
    assert (answered[1]["label"], answered[0]["error"]) == (None, None)
    assert "picture" in answered[1]["error"]


def ray_service() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((RAY / "rayservice.yaml").read_text(encoding="utf-8"))
    return document


def test_kuberay_has_no_fault() -> None:
    document = ray_service()
    assert list(of_schema(document)) == []
    (application,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    path, function = application["import_path"].split(":")
    source = (ROOT / (path.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    tree = ast.parse(source)
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    (ours,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OURS"
    )
    assert set(application["args"]) <= set(ours) | set(Settings.model_fields)
    (workers,) = document["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert application["args"]["num_replicas"] <= workers["maxReplicas"]
    mounts = workers["template"]["spec"]["containers"][0]["volumeMounts"]
    assert application["args"]["models"] in {mount["mountPath"] for mount in mounts}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "serveConfig"), "x"),
        (("spec", "rayClusterConfig", "workerGroupSpecs", 0, "replicas"), "three"),
        (("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"), []),
    ],
)
def test_a_planted_breach_of_kuberay_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    document = ray_service()
    plant("RayService", *path, value=value)([document])
    assert list(of_schema(document))
