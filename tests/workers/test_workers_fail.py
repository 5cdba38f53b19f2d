"""`--workers 2`: a worker that dies or is stopped is replaced, and readiness is that of all.

`case_n` are the cases of docs/failure-cases.md.
"""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service_kit import Server, metric, serving, wait_until, x_request
from tiny_nets import busy_net, write_bundle
from workers_kit import (
    TWO_WORKERS,
    ask,
    is_alive,
    kill,
    one_client_each,
    workers_of,
)


def test_case_34_a_killed_worker_is_missed_and_replaced(server: Server) -> None:
    with one_client_each(server) as clients:
        (victim, lost), (survivor, kept) = clients.items()
        assert kept.get("/v2/health/ready").status_code == 200
        kill(victim)
        answer = kept.get("/v2/health/ready")  # the very next one: nothing is remembered
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["error"].endswith("is starting")
        assert metric(kept, "foldserve_ready") == 0
        with pytest.raises(httpx.TransportError):
            lost.get("/v2/health/live", headers={"connection": "close"}, extensions={"trace": refuse_new})
        for _ in range(20):  # what connects waits for the new worker, or goes to the other one
            with httpx.Client(base_url=server.url, timeout=60) as new:
                answer = ask(new, 4, 5, 6)
                if answer.status_code == 200:
                    assert answer.json()["outputs"][0]["data"] == [4, 5, 6]
                else:
                    assert (answer.status_code, "is loading" in answer.json()["error"]) == (503, True)
                assert ask(kept, 1, 2, 3).status_code == 200
        wait_until(lambda: kept.get("/v2/health/ready").status_code == 200, "ready again")
        assert survivor in workers_of(server)
        assert victim not in workers_of(server)
        assert len(workers_of(server)) == 2
    assert any("event=worker_died" in line and "exit_code=-9" in line for line in server.lines)


def refuse_new(event: str, info: object) -> None:
    """A lost connection must be noticed, not quietly replaced by a new one."""
    if event == "connection.connect_tcp.started":
        raise httpx.ConnectError("a new connection")


def test_counters_never_fall_when_a_worker_dies(server: Server) -> None:
    name = 'foldserve_requests_total{model="echo",version="1"}'
    with one_client_each(server) as clients:
        (victim, lost), (_, kept) = clients.items()
        for client in (lost, lost, lost, kept):
            assert ask(client, 1, 2, 3).status_code == 200
        assert metric(kept, name) == 4
        kill(victim)
        seen = [metric(kept, name)]  # while it is dead, and while it is replaced
        while kept.get("/v2/health/ready").status_code != 200:
            seen.append(metric(kept, name))
        assert seen == [4.0] * len(seen)
        with one_client_each(server) as again:
            for client in again.values():
                assert ask(client, 1, 2, 3).status_code == 200
            assert [metric(client, name) for client in again.values()] == [6, 6]


def test_case_34_a_stopped_worker_is_killed_and_replaced(folder: Path) -> None:
    with serving(folder / "models", *TWO_WORKERS, "--worker-timeout-s", "1.5") as server:
        with one_client_each(server) as clients:
            victim = next(iter(clients))
            os.kill(victim, signal.SIGSTOP)
            server.wait_for("event=worker_stalled")
            wait_until(lambda: not is_alive(victim), "it is killed")
            wait_until(lambda: len(workers_of(server)) == 2, "it is replaced")
        for _ in range(20):
            with httpx.Client(base_url=server.url, timeout=60) as client:
                wait_until(lambda: ask(client, 1, 2, 3).status_code == 200, "every connection is answered")


def test_a_signal_while_a_worker_is_stopped_ends_within_the_limit(folder: Path) -> None:
    with serving(
        folder / "models", *TWO_WORKERS, "--shutdown-timeout-s", "1", "--worker-timeout-s", "3600"
    ) as server:
        (stopped, _) = workers_of(server)
        os.kill(stopped, signal.SIGSTOP)
        server.terminate()
        server.wait(30)
        assert not is_alive(stopped)


def test_a_connection_is_refused_while_a_worker_finishes_what_it_accepted(folder: Path) -> None:
    """The parent's copies of the sockets would take it, and nothing would ever answer."""
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    long = x_request([48_000.0], shape=[1, 1])
    flags = (*TWO_WORKERS, "--shutdown-timeout-s", "60")
    with serving(folder / "models", *flags) as server, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(
            httpx.post, f"{server.url}/v2/models/busy/infer", json=long, timeout=60, trust_env=False
        )
        with httpx.Client(base_url=server.url, timeout=60) as client:
            running = 'foldserve_running_rows{model="busy",version="1"}'
            wait_until(lambda: metric(client, running) == 1, "it is computed")
        server.terminate()
        wait_until(lambda: not accepts(server.port), "connections are refused")
        assert not answer.done(), "the request has ended before anything was seen: it must take longer"
        assert answer.result().status_code == 200
        assert server.wait(30) == 0


def accepts(port: int) -> bool:
    """Whether a new connection is accepted; one that is left waiting counts as accepted."""
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_case_34_both_workers_killed_one_after_the_other(server: Server) -> None:
    for _ in range(2):
        for pid in workers_of(server):
            kill(pid)
        wait_until(lambda: len(workers_of(server)) == 2, "both are replaced")
        with httpx.Client(base_url=server.url, timeout=60) as client:
            wait_until(lambda: client.get("/v2/health/ready").status_code == 200, "ready again")
            assert ask(client, 1, 2, 3).status_code == 200


def test_case_35_ready_is_the_conjunction_of_the_workers(folder: Path, server: Server) -> None:
    with one_client_each(server) as clients:
        (victim, _), (_, kept) = clients.items()
        spoilt = folder / "models" / "echo" / "1" / "golden.npz"
        whole = spoilt.read_bytes()
        spoilt.write_bytes(b"spoilt")
        kill(victim)
        server.wait_for("event=refused model=echo")
        wait_until(lambda: "sha-256" in kept.get("/v2/health/ready").text, "the refusal is told")
        answer = kept.get("/v2/health/ready")
        assert (answer.status_code, "golden.npz: sha-256 is" in answer.json()["error"]) == (503, True)
        assert metric(kept, 'foldserve_version_proved{model="echo",version="1"}') == 0
        assert ask(kept, 1, 2, 3).status_code == 200  # a worker that has proved it keeps serving
        spoilt.write_bytes(whole)
        (newest,) = (pid for pid in workers_of(server) if pid not in clients)
        kill(newest)
        wait_until(lambda: kept.get("/v2/health/ready").status_code == 200, "ready again")
