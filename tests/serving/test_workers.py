"""`--workers 2`: one port, readiness and counts of all, a worker that dies is replaced, a clean end.

`case_n` are the cases of docs/failure-cases.md.
"""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from service_kit import Server, metric, one_sentence, serving, start, wait_until, x_request
from tiny_nets import busy_net, echo_net, write_bundle
from workers_kit import descendants, is_alive, kill, one_client_each, owner_of, workers_of

INFER = "/v2/models/echo/infer"
FLAGS = ("--workers", "2", "--threads", "2", "--shutdown-timeout-s", "20", "--request-log", "off")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "models" / "echo" / "1", echo_net("float32"))
    return tmp_path


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The servers' TMPDIR, in which they leave nothing; its path is short, because Unix sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="fs-", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def server(folder: Path, temporary: Path) -> Iterator[Server]:
    environment = {"TMPDIR": str(temporary)}
    with serving(folder / "models", *FLAGS, environment=environment) as running:
        yield running
        below = descendants(running.process.pid)
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")


def ask(client: httpx.Client, *numbers: float) -> httpx.Response:
    return client.post(INFER, json=x_request(list(numbers), shape=[len(numbers) // 3, 3]))


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
    with serving(folder / "models", *FLAGS, "--worker-timeout-s", "1.5") as server:
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
        folder / "models", *FLAGS, "--shutdown-timeout-s", "1", "--worker-timeout-s", "3600"
    ) as server:
        (stopped, _) = workers_of(server)
        os.kill(stopped, signal.SIGSTOP)
        server.terminate()
        server.wait(30)
        assert not is_alive(stopped)


def test_a_connection_is_refused_while_a_worker_finishes_what_it_accepted(folder: Path) -> None:
    """The parent's copies of the sockets would take it, and nothing would ever answer."""
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    long = x_request([8_000.0], shape=[1, 1])
    flags = (*FLAGS, "--shutdown-timeout-s", "60")
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


def test_killing_the_parent_ends_the_workers(server: Server) -> None:
    below = descendants(server.process.pid)
    assert len(below) >= 2
    kill(server.process.pid)
    wait_until(lambda: not any(map(is_alive, below)), "the workers have ended")


def test_vector_33_sigterm_answers_what_was_accepted_and_leaves_nothing(
    folder: Path, temporary: Path
) -> None:
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    long = x_request([2000.0], shape=[1, 1])
    environment = {"TMPDIR": str(temporary)}
    with serving(folder / "models", *FLAGS, environment=environment) as server:
        below = descendants(server.process.pid)
        assert list(temporary.glob("foldserve-*"))
        with one_client_each(server) as clients, ThreadPoolExecutor(4) as threads:
            futures = [
                threads.submit(client.post, "/v2/models/busy/infer", json=long) for client in clients.values()
            ]
            with httpx.Client(base_url=server.url, timeout=60) as asking:
                running = 'foldserve_running_rows{model="busy",version="1"}'
                wait_until(lambda: metric(asking, running) == 2, "both are in an engine")
            server.terminate()
            answers = [future.result() for future in futures]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[2000.0], [2000.0]]
        assert server.wait() == 0
        assert sum("event=stopped" in line for line in server.lines) == 2
        assert not [line for line in server.lines if "Traceback" in line]
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")
    assert list(temporary.glob("foldserve-*")) == []


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_workers_start_is_a_clean_end(folder: Path, temporary: Path, sig: int) -> None:
    server = Server(folder / "models", *FLAGS, environment={"TMPDIR": str(temporary)})
    try:
        wait_until(lambda: len(workers_of(server)) == 2, "both were started")
        below = descendants(server.process.pid)
        server.terminate(sig)
        assert server.wait() == 0
        wait_until(lambda: not any(map(is_alive, below)), "no process is left")
        assert list(temporary.glob("foldserve-*")) == []
    finally:
        server.close()


def test_a_signal_while_a_worker_is_replaced_is_a_clean_end(server: Server) -> None:
    (victim, _) = workers_of(server)
    kill(victim)
    server.wait_for("event=worker_died")
    server.terminate()
    assert server.wait() == 0


def test_a_second_signal_ends_everything_at_once(folder: Path) -> None:
    write_bundle(folder / "models" / "busy" / "1", busy_net())
    with serving(folder / "models", *FLAGS) as server:
        below = descendants(server.process.pid)
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(1) as threads:
            endless = threads.submit(
                client.post, "/v2/models/busy/infer", json=x_request([1e7], shape=[1, 1])
            )
            with httpx.Client(base_url=server.url, timeout=60) as asking:
                running = 'foldserve_running_rows{model="busy",version="1"}'
                wait_until(lambda: metric(asking, running) == 1, "it is in the engine")
            server.terminate()
            wait_until(lambda: sum("event=stopped" in line for line in server.lines) == 1, "one has stopped")
            server.terminate()
            assert isinstance(endless.exception(), httpx.TransportError)
        assert server.wait() != 0
    wait_until(lambda: not any(map(is_alive, below)), "no process is left")


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
