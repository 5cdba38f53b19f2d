"""deploy/ray: the bulk job's actors, KubeRay's manifest, and a real cluster where Ray is installed."""

import ast
import importlib.util
import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow
import pytest
import yaml
from test_manifests import of_schema, plant

import extras
import netns_kit
from benchmarks.ray_cluster import CONNECTIONS, account
from cluster_kit import load
from foldserve.batch.errors import BatchError
from service.settings import Settings
from service_kit import ROOT, wait_until
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


def answered(*keys: int, wrong: tuple[int, ...] = ()) -> pyarrow.Table:
    """Answers to these rows of four, some of them wrong."""
    outputs = [[key + (0.25 if key in wrong else 0.0)] for key in keys]
    return pyarrow.table({"key": [str(key) for key in keys], "output.y": outputs})


@pytest.mark.parametrize(
    ("answers", "differs"),
    [
        (answered(3, 0, 2, 1), {}),
        (answered(0, 1, 2, 3, 3), {"once": 3, "repeated": 1, "right": 5}),
        (answered(0, 1, 3), {"once": 3, "missing": 1, "right": 3}),
        (answered(0, 1, 2, 3, wrong=(2,)), {"right": 3}),
        (answered(0, 1, 1, 2), {"once": 2, "repeated": 1, "missing": 1}),
    ],
)
def test_rows_that_are_missing_repeated_or_wrong_are_counted(
    answers: pyarrow.Table, differs: dict[str, int]
) -> None:
    rows = np.arange(4, dtype=np.float32)[:, None]
    assert account(answers, rows) == {"once": 4, "repeated": 0, "missing": 0, "right": 4} | differs


class Unreliable(ThreadingHTTPServer):
    """Answers with the row that came, or with another one, or hangs up on each client's first request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, how: str) -> None:
        self.how = how
        self.seen: set[float] = set()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unreliable

    def do_POST(self) -> None:
        row = self.rfile.read(int(self.headers["content-length"]))[-12:]
        number = float(np.frombuffer(row, "<f4")[0])
        is_first = number < CONNECTIONS and number not in self.server.seen
        self.server.seen.add(number)
        if self.server.how == "hangs up" and is_first:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("content-length", "12")
        self.end_headers()
        self.wfile.write(bytes(12) if self.server.how == "wrong" else row)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


@pytest.mark.parametrize(
    ("how", "retries", "num_failures"),
    [
        ("right", 0, 0),
        ("hangs up", 0, CONNECTIONS),
        ("hangs up", 1, 0),
        ("wrong", 0, None),
        ("wrong", 1, None),
    ],
)
def test_clients_notice_lost_and_wrong_answers(how: str, retries: int, num_failures: int | None) -> None:
    """The control of what is said of Ray: a retry makes up for a lost answer, and never for a wrong one."""
    with Unreliable(how) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        with load([server.server_address[:2]], connections=CONNECTIONS, retries=retries) as answers:
            wait_until(lambda: answers.right + len(answers.failures) > 5 * CONNECTIONS, "enough was asked")
        server.shutdown()
    if num_failures is not None:
        assert len(answers.failures) == num_failures
    else:
        assert answers.right == 0
        assert all("WrongAnswer" in failure for failure in answers.failures)


def measured(*flags: str) -> dict[str, Any]:
    """What `benchmarks.ray_cluster` found with these flags."""
    command = [str(extras.RAY_PYTHON), "-m", "benchmarks.ray_cluster", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        stdout, stderr = process.communicate()
    finally:
        process.terminate()  # it ends its nodes then
        process.wait(60)
    assert process.returncode == 0, stderr[-5000:]
    facts: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return facts


@pytest.mark.alone
@pytest.mark.parametrize(
    ("rows", "seconds"), [(60_000, 1), pytest.param(600_000, 15, marks=pytest.mark.cluster)]
)
def test_a_node_lost_costs_bulk_nothing_and_clients_with_a_retry_nothing(rows: int, seconds: float) -> None:
    if extras.RAY_PYTHON is None:
        pytest.skip(f"ray: {extras.NEEDED}")
    facts = measured("--rows", str(rows), "--seconds", str(seconds))
    assert (facts["nodes"] == "network namespaces") == (netns_kit.why_not() is None), facts["nodes"]
    assert facts["redeployed"]["failures"] == {}
    assert facts["redeployed"]["right"] > 100
    failures = {who: sum(got["failures"].values()) for who, got in facts["killed"].items()}
    for who, got in facts["killed"].items():
        assert failures[who] <= (CONNECTIONS if who.endswith("once") else 0), (who, got)
        assert got["right"] > 100, (who, got)
    if facts["nodes"] == "network namespaces":
        assert failures["its own proxy, asked once"] > 0, "the proxy was killed with its node"
    bulk = facts["bulk"]
    assert bulk.pop("killed while it ran")
    assert bulk.pop("seconds") > 0
    assert bulk == {"once": rows, "repeated": 0, "missing": 0, "right": rows}
