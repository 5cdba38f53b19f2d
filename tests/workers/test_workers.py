"""`--workers 2`: one port, counts of all, cores shared; what cannot be is one sentence.

`case_n` are the cases of docs/failure-cases.md.
"""

import os
import socket
from pathlib import Path

import httpx
import pytest

from service_kit import Server, metric, one_sentence, start
from workers_kit import (
    INFER,
    ask,
    one_client_each,
    owner_of,
    workers_of,
)


def test_every_worker_answers_on_the_one_port(server: Server) -> None:
    with one_client_each(server) as clients:
        assert len(clients) == 2
        for client in clients.values():
            assert ask(client, 1, 2, 3).json()["outputs"][0]["data"] == [1, 2, 3]
            assert client.get("/v2/health/ready").json() == {"ready": True}


def test_case_39_counts_are_sums_over_the_workers(server: Server) -> None:
    labels = '{model="echo",version="1"}'
    expected = {
        f"foldserve_requests_total{labels}": 7,
        f"foldserve_rows_total{labels}": 11,
        f"foldserve_executions_total{labels}": 7,
        f"foldserve_batch_rows_count{labels}": 7,
        f"foldserve_request_seconds_count{labels}": 7,
        f"foldserve_compute_seconds_count{labels}": 7,
        f"foldserve_queue_rows{labels}": 0,
        f"foldserve_version_proved{labels}": 1,
        'foldserve_failures_total{model="echo",reason="bad_request"}': 2,
        'foldserve_failures_total{model="",reason="unknown_model"}': 2,
        "foldserve_ready": 1,
    }
    with one_client_each(server) as clients:
        one, other = clients.values()
        for client, sizes in ((one, (1, 1, 2)), (other, (1, 1, 2, 3))):
            for size in sizes:
                assert ask(client, *[1.0] * 3 * size).status_code == 200
            assert client.post(INFER, json={}).status_code == 400
            assert client.post("/v2/models/nope/infer", json={}).status_code == 404
        for client in (one, other):
            assert {name: metric(client, name) for name in expected} == expected
            (stats,) = client.get("/v2/models/echo/stats").json()["model_stats"]
            assert (stats["inference_count"], stats["execution_count"]) == (11, 7)
            assert stats["inference_stats"]["success"]["count"] == 7
            assert stats["inference_stats"]["fail"]["count"] == 2
            executions = {
                entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats["batch_stats"]
            }
            assert executions == {1: 4, 2: 2, 3: 1}
            parity = client.get("/metrics").text.count("foldserve_parity_difference{")
            assert parity == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model-control",), "model_control needs one worker"),
        (("--device", "cuda"), "workers are for the CPU"),
        (("--threads", "4", "--lanes", "3"), "lanes share a worker's threads"),
    ],
)
def test_what_workers_cannot_do_is_one_sentence(folder: Path, flags: tuple[str, ...], message: str) -> None:
    one_sentence(start("--models", str(folder / "models"), "--workers", "2", *flags), message)


def test_a_folder_too_deep_for_sockets_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep" / ("x" * 100)
    deep.mkdir(parents=True)
    flags = ("--models", str(folder / "models"), "--workers", "2")
    one_sentence(
        start(*flags, environment={**os.environ, "TMPDIR": str(deep)}),
        "a path too long: set TMPDIR to a shorter one",
    )


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_case_42_a_port_in_use_is_one_sentence(folder: Path, workers: str, is_shared: bool) -> None:
    """A port shared by SO_REUSEPORT is in use too: half of the requests would go elsewhere."""
    with socket.socket() as taken:
        if is_shared:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        flags = ("--models", str(folder / "models"), "--workers", workers, "--threads", "2")
        one_sentence(start(*flags, "--port", str(taken.getsockname()[1])), "Address already in use")


def test_a_second_server_finds_the_workers_port_in_use(folder: Path, server: Server) -> None:
    flags = ("--models", str(folder / "models"), "--workers", "2", "--threads", "2")
    one_sentence(start(*flags, "--port", str(server.port)), "Address already in use")


def test_the_cores_are_shared_among_the_workers(server: Server) -> None:
    proved = [line for line in server.lines if "event=proved" in line]
    assert len(proved) == 2
    for line in proved:
        told = dict(part.split("=", 1) for part in line.split() if "=" in part)
        assert int(told["lanes"]) * int(told["threads"]) == 1
    assert os.getpid() not in workers_of(server)
    with httpx.Client(base_url=server.url) as client:
        assert owner_of(server, client) in workers_of(server)
