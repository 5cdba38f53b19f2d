"""More models than memory: loaded and proved when they are asked for, and let go when others are."""

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from onnx import helper

from in_process_kit import PATIENCE_S, Inside, inside
from service.models import config as models_config
from service.models import registry
from service.models.overrides import OverridesError, read_overrides
from service.telemetry import exposition
from service_kit import wait_until, x_request
from tiny_nets import TinyNet, digits_net, nudged, write_bundle

COUNT = 24
IN_MEMORY = 3
FLAGS = ("--threads", "2", "--shutdown-timeout-s", "5", "--model-control")


def shift_net(by: int) -> TinyNet:
    """y = x + by: an answer says which model gave it."""
    return TinyNet(
        nodes=[helper.make_node("Add", ["x", "c"], ["y"])],
        weights={"c": np.full(3, by, np.float32)},
        inputs={"x": ("float32", [3])},
        outputs={"y": ("float32", [3])},
        truth=lambda rows: {"y": rows["x"].astype(np.float64) + by},
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "models"
    for number in range(COUNT):
        write_bundle(folder / f"m{number:02d}" / "1", shift_net(number))
    wrong = digits_net()
    write_bundle(folder / "wrong" / "1", wrong, graph=nudged(wrong))
    return folder


@pytest.fixture
def server(models: Path) -> Iterator[Inside]:
    with inside(models, "--max-models", str(IN_MEMORY), *FLAGS) as running:
        yield running


def ask(server: Inside, number: int, **members: Any) -> httpx.Response:
    body = x_request([1, 2, 3], **members)
    return httpx.post(f"{server.url}/v2/models/m{number:02d}/infer", json=body, timeout=60)


def is_right(answer: httpx.Response, number: int) -> bool:
    return answer.status_code == 200 and answer.json()["outputs"][0]["data"] == [
        value + number for value in (1, 2, 3)
    ]


def in_memory(server: Inside) -> list[str]:
    return server.on_loop(lambda: [served.name for served in server.service.models.served])


def test_every_answer_is_right_and_memory_and_threads_are_bounded(server: Inside) -> None:
    assert in_memory(server) == ["m00"], "one, which shows that models can be served here"
    chance = np.random.default_rng(0)
    held: list[int] = []

    def ask_some(numbers: list[int]) -> list[bool]:
        held.append(len(in_memory(server)))
        return [is_right(ask(server, number), number) for number in numbers]

    with ThreadPoolExecutor(8) as pool:
        asked = [chance.permutation(COUNT)[:6].tolist() for _ in range(8)]
        assert all(all(right) for right in pool.map(ask_some, asked))
    assert max(held) <= IN_MEMORY
    assert len(in_memory(server)) == IN_MEMORY
    lanes = [thread.name for thread in threading.enumerate() if thread.name.startswith("engine")]
    assert lanes == ["engines-0", "engines-1"], "two threads for all models"
    stats = httpx.get(f"{server.url}/v2/models/stats").json()["model_stats"]
    assert sum(entry["inference_stats"]["success"]["count"] for entry in stats) == 48, "also of those gone"


def test_the_least_recently_used_one_leaves(server: Inside) -> None:
    for number in (0, 1, 2, 0, 3):
        assert is_right(ask(server, number), number)
    assert in_memory(server) == ["m00", "m02", "m03"]


@pytest.mark.parametrize("others", [1, 4])
def test_a_model_with_requests_in_flight_answers_them_before_it_leaves(models: Path, others: int) -> None:
    with inside(models, "--max-models", "1", *FLAGS) as server, ThreadPoolExecutor(8) as pool:
        assert is_right(ask(server, 0), 0)
        with server.held("m00") as gate:
            first = pool.submit(ask, server, 0)
            gate.wait_for_batch()
            later = [pool.submit(ask, server, number) for number in range(1, others + 1)]
            again = pool.submit(ask, server, 0)
            server.has_read_everything()
            assert not any(asked.done() for asked in (first, *later, again))
        assert is_right(first.result(PATIENCE_S), 0)
        assert is_right(again.result(PATIENCE_S), 0)
        for number, asked in enumerate(later, 1):
            assert is_right(asked.result(PATIENCE_S), number)


def test_what_does_not_prove_is_never_served_and_harms_no_other(
    models: Path, server: Inside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = {"inputs": [{"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32", "data": [0] * 784}]}
    for _ in range(3):
        answer = httpx.post(f"{server.url}/v2/models/wrong/infer", json=rows)
        assert answer.status_code == 503
        assert "max |answer − golden|" in answer.json()["error"] or "golden" in answer.json()["error"]
        assert is_right(ask(server, 1), 1)
    refused = [line for line in caplog.messages if "event=refused" in line]
    assert len(refused) == 1, "asking again is no reason to try again at once"
    assert httpx.post(f"{server.url}/v2/models/none/infer", json=rows).status_code == 404
    assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200


def test_a_model_that_was_repaired_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "RETRY_S", 0.05)
    write_bundle(tmp_path / "m00" / "1", shift_net(0))
    (write_bundle(tmp_path / "m01" / "1", shift_net(1)) / "model.onnx").rename(tmp_path / "kept")
    with inside(tmp_path, "--max-models", "1", *FLAGS) as server:
        assert ask(server, 1).status_code == 503
        (tmp_path / "kept").rename(tmp_path / "m01" / "1" / "model.onnx")
        wait_until(lambda: is_right(ask(server, 1), 1), "it is tried again")


class SlowLoads:
    """Loads that wait until they may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()
        self._load = models_config.load_newest
        monkeypatch.setattr(models_config, "load_newest", self)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.begun.release()
        assert self.may_end.wait(PATIENCE_S)
        yield from self._load(*arguments, **options)


def test_clients_that_cannot_wait_for_a_load(server: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = SlowLoads(monkeypatch)
    with ThreadPoolExecutor(4) as pool:
        late = pool.submit(ask, server, 5, parameters={"timeout": 1000})
        patient = pool.submit(ask, server, 5)
        assert loads.begun.acquire(timeout=PATIENCE_S)
        waiting = server.service.models._on_demand._expected
        wait_until(lambda: server.on_loop(lambda: waiting["m05"]) == 2, "both wait")
        with socket.create_connection(("127.0.0.1", server.port)) as gone:
            gone.sendall(b"POST /v2/models/m05/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            server.has_read_everything()
        assert is_right(ask(server, 0), 0), "who is in memory answers meanwhile"
        loads.may_end.set()
        assert late.result(PATIENCE_S).status_code == 504
        assert is_right(patient.result(PATIENCE_S), 5)
    assert not loads.begun.acquire(blocking=False), "one load for all who asked"


def test_a_server_that_stops_while_it_loads(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(1) as pool:
        with inside(models, "--max-models", "1", *FLAGS[:2], "--shutdown-timeout-s", "1") as server:
            loads = SlowLoads(monkeypatch)
            asked = pool.submit(ask, server, 5)
            assert loads.begun.acquire(timeout=PATIENCE_S)
        assert asked.result(PATIENCE_S).status_code == 503
        loads.may_end.set()


def test_clients_who_control_models(server: Inside) -> None:
    def control(verb: str) -> int:
        return httpx.post(f"{server.url}/v2/repository/models/m07/{verb}", timeout=60).status_code

    for number in range(4):
        ask(server, number)
    assert control("load") == 200
    assert len(in_memory(server)) == IN_MEMORY
    assert control("unload") == 200
    assert ask(server, 7).status_code == 503, "unloaded by a client: it stays so until one loads it"
    assert control("load") == 200
    assert is_right(ask(server, 7), 7)


def test_what_loads_a_model_and_what_does_not(server: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for path in ("/v2/models/m09/stats", "/metrics", "/models", "/openapi.json", "/v2/models"):
            assert client.get(path).status_code == 200
        assert client.post("/v2/repository/index").status_code == 200
        assert client.post("/predict", content=b"x").status_code == 400, "it needs ?model=NAME"
        assert in_memory(server) == ["m00"]
        for number, path in enumerate(("ready", "config", "versions/1", ""), 10):
            assert client.get(f"/v2/models/m{number}/{path}".rstrip("/")).status_code == 200
            assert f"m{number}" in in_memory(server)
        assert client.get("/v2/models/m20/versions/2").status_code == 404
        monkeypatch.setattr(exposition, "MAX_VERSIONS", 2)
        page = client.get("/metrics").text
        assert set(re.findall(r'foldserve_queue_seconds_sum{model="(.*?)"', page)) == {"*"}
        assert {"m10", "m11"} < set(re.findall(r'foldserve_requests_total{model="(.*?)"', page))


def test_limits_in_mebibytes(tmp_path: Path) -> None:
    for number in range(6):
        write_bundle(tmp_path / f"m{number:02d}" / "1", digits_net(seed=number))
    with inside(tmp_path, "--max-models-mb", "0.6", *FLAGS) as server:
        sizes = server.on_loop(lambda: [served.num_bytes for served in server.service.models.served])
        assert 0.24 < sizes[0] / 2**20 < 0.25, "64 pictures of 784 numbers, and a graph of 50 kB"
        for number in range(6):
            assert httpx.get(f"{server.url}/v2/models/m{number:02d}/ready").status_code == 200
        assert in_memory(server) == ["m04", "m05"]


def test_settings_of_one_model(models: Path, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("[m01]\nqueue_rows = 300\ndefault_timeout_ms = 1e5\nlanes = 2\n")
    flags = ("--model-settings", str(tmp_path / "own.toml"), "--max-models", "9", *FLAGS)
    with inside(models, *flags) as server:
        configs = [httpx.get(f"{server.url}/v2/models/m0{number}/config").json() for number in (0, 1)]
        assert [str(config).count("1024") > 0 for config in configs] == [True, False]
        assert [config["instance_group"][0]["count"] for config in configs] == [1, 2]
        assert server.on_loop(lambda: server.served("m01").default_timeout_s) == 100
        assert is_right(ask(server, 1), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[m]\nqueue_row = 1", "m.queue_row: Extra inputs are not permitted"),
        ("[m]\nqueue_rows = 100", "m.queue_rows must hold at least one batch of 256, got 100"),
        ("[m]\nlanes = 3", "m.lanes share the threads: 3 need as many, got 2"),
        ("[m]\nlanes = 'two'", "m.lanes: Input should be a valid integer"),
        ("m = 3", "m: Input should be"),
        ("[m", "not TOML"),
        (None, "No such file or directory"),
    ],
)
def test_wrong_settings_of_a_model_are_one_sentence(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "own.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OverridesError, match=re.escape(message)) as raised:
        read_overrides(path, largest=256, threads=2)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
