"""Statistics and configuration (6.10.1, 6.10.2): every key, and exactly what known requests come to.

Sections: docs/protocol.md. `case_39` in docs/failure-cases.md: exact counts after N known requests.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from in_process_kit import Inside, inside
from service_kit import metric, wait_until, x_request
from tiny_nets import digits_net, echo_net, pair_net, write_bundle

DURATIONS = [
    "success",
    "fail",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
]
FLAGS = ("--lanes", "1", "--buckets", "1,2,4,8", "--queue-rows", "64", "--max-wait-ms", "0")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Inside]:
    write_bundle(tmp_path / "echo" / "3", echo_net("float32"))
    write_bundle(tmp_path / "digits" / "1", digits_net())
    with inside(tmp_path, *FLAGS, "--shutdown-timeout-s", "2") as running:
        yield running


@pytest.fixture
def client(server: Inside) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def ask(client: httpx.Client, num_rows: int, **members: Any) -> int:
    document = x_request([0] * 3 * num_rows, shape=[num_rows, 3], **members)
    return client.post("/v2/models/echo/infer", json=document).status_code


def stats(client: httpx.Client, path: str = "/v2/models/echo/stats") -> dict[str, Any]:
    (entry,) = client.get(path).json()["model_stats"]
    told: dict[str, Any] = entry
    return told


def test_6_10_1_every_key_before_anything_was_asked(client: httpx.Client) -> None:
    told = stats(client)
    assert told == {
        "name": "echo",
        "version": "3",
        "last_inference": 0,
        "inference_count": 0,
        "execution_count": 0,
        "inference_stats": {key: {"count": 0, "ns": 0} for key in DURATIONS},
        "batch_stats": [],
        "memory_usage": [],
    }


def test_case_39_counts_are_exact(client: httpx.Client) -> None:
    begun = time.time()
    sizes = [1, 1, 3, 8, 20, 0]  # 20 rows run as 8 + 8 + 4, none does not run at all
    assert [ask(client, size) for size in sizes] == [200] * 6
    assert ask(client, 1, id=5) == 400
    assert ask(client, 65) == 400
    assert ask(client, 1, parameters={"timeout": 1}) == 504
    assert (
        client.post("/v2/models/echo/infer", content=b"{}", headers={"content-encoding": "br"}).status_code
        == 415
    )
    assert client.post("/v2/models/nope/infer", json={}).status_code == 404
    told = stats(client)
    assert (told["inference_count"], told["execution_count"]) == (33, 7)
    counts = {name: told["inference_stats"][name]["count"] for name in DURATIONS}
    assert counts == {
        "success": 6,
        "fail": 4,
        "queue": 6,
        "compute_input": 7,
        "compute_infer": 7,
        "compute_output": 7,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    executions = [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in told["batch_stats"]]
    assert executions == [(1, 2), (3, 1), (4, 1), (8, 3)]
    assert begun * 1000 - 1 <= told["last_inference"] <= time.time() * 1000 + 1
    for entry in told["batch_stats"]:
        assert set(entry) == {"batch_size", "compute_input", "compute_infer", "compute_output"}
    digits = stats(client, "/v2/models/digits/stats")
    assert (digits["inference_count"], digits["execution_count"], digits["batch_stats"]) == (0, 0, [])


def test_6_10_1_nanoseconds_are_whole_and_add_up(client: httpx.Client) -> None:
    for size in (1, 2, 2, 8):
        ask(client, size)
    told = stats(client)
    for name in ("compute_input", "compute_infer", "compute_output"):
        parts = [entry[name]["ns"] for entry in told["batch_stats"]]
        assert all(type(part) is int and part > 0 for part in parts), name
        assert abs(sum(parts) - told["inference_stats"][name]["ns"]) <= len(parts)
    inside_s = sum(told["inference_stats"][name]["ns"] for name in ("queue", "compute_infer"))
    assert 0 < inside_s <= told["inference_stats"]["success"]["ns"]


def test_companions_in_a_batch_count_as_one_execution(server: Inside, client: httpx.Client) -> None:
    batcher = server.served("echo").batcher
    with server.held("echo") as gate, ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, client, 1)
        gate.wait_for_batch()
        mates = [threads.submit(ask, client, 1) for _ in range(4)]
        wait_until(lambda: batcher.waiting_rows == 4, "they wait")
        assert metric(client, 'foldserve_queue_rows{model="echo",version="3"}') == 4
        assert metric(client, 'foldserve_running_rows{model="echo",version="3"}') == 1
        gate.open()
        assert [future.result() for future in (first, *mates)] == [200] * 5
    told = stats(client)
    assert (told["inference_count"], told["inference_stats"]["success"]["count"]) == (5, 5)
    executions = {entry["batch_size"]: entry["compute_infer"]["count"] for entry in told["batch_stats"]}
    assert sum(size * count for size, count in executions.items()) == 5
    assert told["execution_count"] == sum(executions.values()) == gate.num_batches
    assert metric(client, 'foldserve_queue_rows{model="echo",version="3"}') == 0
    assert metric(client, 'foldserve_running_rows{model="echo",version="3"}') == 0


def test_case_18_a_batch_that_raises_is_no_execution_of_the_model(
    server: Inside, client: httpx.Client
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("the device is gone")

    lanes = server.served("echo")._lanes
    run, lanes._run = lanes._run, broken
    assert ask(client, 2) == 500
    lanes._run = run
    assert ask(client, 2) == 200
    told = stats(client)
    assert (told["inference_count"], told["inference_stats"]["fail"]["count"]) == (2, 1)
    assert told["execution_count"] == told["inference_stats"]["compute_infer"]["count"] == 1
    assert [(entry["batch_size"], entry["compute_infer"]["count"]) for entry in told["batch_stats"]] == [
        (2, 1)
    ]
    assert metric(client, 'foldserve_failed_executions_total{model="echo",version="3"}') == 1
    assert metric(client, 'foldserve_failures_total{model="echo",reason="internal"}') == 1


def test_predict_counts_too(client: httpx.Client) -> None:
    picture = (Path(__file__).parents[2] / "docs" / "seven.png").read_bytes()
    assert client.post("/predict?model=digits", content=picture).status_code == 200
    assert client.post("/predict?model=digits", content=b"no picture").status_code == 400
    told = stats(client, "/v2/models/digits/stats")
    assert (told["inference_count"], told["execution_count"]) == (1, 1)
    assert [told["inference_stats"][name]["count"] for name in ("success", "fail")] == [1, 1]


def test_6_10_1_every_address(client: httpx.Client) -> None:
    everything = client.get("/v2/models/stats").json()["model_stats"]
    assert [(entry["name"], entry["version"]) for entry in everything] == [("digits", "1"), ("echo", "3")]
    assert stats(client, "/v2/models/echo/versions/3/stats")["name"] == "echo"
    for path in ("/v2/models/nope/stats", "/v2/models/echo/versions/1/stats"):
        answer = client.get(path)
        assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_6_10_2_configuration(tmp_path: Path) -> None:
    write_bundle(tmp_path / "pair" / "2", pair_net())
    write_bundle(tmp_path / "scalar" / "1", echo_net("uint8", []))
    flags = (
        "--lanes",
        "2",
        "--threads",
        "2",
        "--buckets",
        "1,4",
        "--queue-rows",
        "9",
        "--max-wait-ms",
        "1.5",
    )
    with inside(tmp_path, *flags) as server, httpx.Client(base_url=server.url) as client:
        told = client.get("/v2/models/pair/config").json()
        assert client.get("/v2/models/pair/versions/2/config").json() == told
        assert (told["name"], told["platform"], told["max_batch_size"]) == ("pair", "onnxruntime_onnx", 9)
        assert told["input"] == [
            {"name": "a", "data_type": "TYPE_FP32", "dims": [2, 2]},
            {"name": "b", "data_type": "TYPE_INT64", "dims": [2, 2]},
        ]
        assert told["output"] == [
            {"name": "product", "data_type": "TYPE_FP32", "dims": [2, 2]},
            {"name": "sum", "data_type": "TYPE_FP32", "dims": [2, 2]},
        ]
        assert told["dynamic_batching"]["max_queue_delay_microseconds"] == 1500
        assert told["dynamic_batching"]["preferred_batch_size"] == [1, 4]
        assert told["dynamic_batching"]["default_queue_policy"]["max_queue_size"] == 9
        assert told["instance_group"][0]["count"] == 2
        metadata = client.get("/v2/models/pair").json()
        for kind in ("input", "output"):
            shapes = {entry["name"]: [-1, *entry["dims"]] for entry in told[kind]}
            assert shapes == {entry["name"]: entry["shape"] for entry in metadata[f"{kind}s"]}
        scalar = client.get("/v2/models/scalar/config").json()["input"]
        assert scalar == [{"name": "x", "data_type": "TYPE_UINT8", "dims": []}]
        assert client.get("/v2/models/nope/config").status_code == 404
