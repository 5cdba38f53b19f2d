"""Overload, hanging up and shutting down, in real processes."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import pytest

from service_kit import ROOT, Server, every_net, metric, responds, serving, wait_until, x_request
from tiny_nets import busy_net, digits_net, echo_net, write_bundle

LONG = 40000.0  # steps of the busy net: two to six seconds
FOR_EVER = 1e7


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Server]:
    write_bundle(tmp_path / "models" / "busy" / "1", busy_net())
    flags = ("--buckets", "1,2,4", "--queue-rows", "8", "--shutdown-timeout-s", "20", "--threads", "1")
    with serving(tmp_path / "models", *flags) as server:
        yield server


class Crowd:
    """Clients that ask at the same time, each on a connection of its own."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.threads = ThreadPoolExecutor(32)
        self.client = httpx.Client(base_url=server.url, timeout=60)

    def ask(self, steps: float) -> Any:
        """A request for `steps` products; a future of its response."""
        document = x_request([steps], shape=[1, 1])
        return self.threads.submit(self.client.post, "/v2/models/busy/infer", json=document)

    def wait_for(self, what: str, num_rows: int) -> None:
        name = f'foldserve_{what}_rows{{model="busy",version="1"}}'
        wait_until(lambda: metric(self.client, name) == num_rows, f"{what} rows are {num_rows}")

    def occupy(self, steps: float, num_waiting: int) -> list[Any]:
        """One request in the engine for `steps` or more, and `num_waiting` quick ones that wait for it.

        Where they come too late, because the machine is busy, it is begun again with twice the steps.
        """
        first = self.ask(steps)
        others = [self.ask(1) for _ in range(num_waiting)] if self.comes("running", 1, first) else []
        if others and self.comes("queue", num_waiting, first):
            return [first, *others]
        wait([first, *others])
        return self.occupy(2 * steps, num_waiting)

    def comes(self, what: str, num_rows: int, before: Future[Any]) -> bool:
        """Whether so many rows are running, or queue, before a request is answered."""
        name = f'foldserve_{what}_rows{{model="busy",version="1"}}'
        while not (is_so := metric(self.client, name) == num_rows) and not before.done():
            time.sleep(0.01)
        return is_so

    def close(self) -> None:
        self.threads.shutdown()
        self.client.close()


@pytest.fixture
def crowd(busy: Server) -> Iterator[Crowd]:
    crowd = Crowd(busy)
    yield crowd
    busy.close()
    crowd.close()


def test_vector_22_a_full_queue_answers_503_with_retry_after(crowd: Crowd) -> None:
    accepted = crowd.occupy(LONG, 8)
    refused = [crowd.ask(1).result() for _ in range(3)]
    for answer in refused:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "8 rows are waiting and 1 more do not fit" in answer.json()["error"]
    assert [future.result().status_code for future in accepted] == [200] * 9
    assert crowd.ask(1).result().status_code == 200
    failures = 'foldserve_failures_total{model="busy",reason="overloaded"}'
    assert metric(crowd.client, failures) == 3


def test_vector_24_a_client_that_hangs_up_costs_nothing(crowd: Crowd) -> None:
    first, mate = crowd.occupy(LONG, 1)
    ran = metric(crowd.client, 'foldserve_batch_rows_sum{model="busy",version="1"}')
    body = json.dumps(x_request([LONG], shape=[1, 1])).encode()
    with socket.create_connection(("127.0.0.1", crowd.server.port)) as sock:
        head = b"POST /v2/models/busy/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
        sock.sendall(head + body)
        crowd.wait_for("queue", 2)
    crowd.wait_for("queue", 1)  # it has left the queue while the engine is still busy
    hung_up = 'foldserve_failures_total{model="busy",reason="hung_up"}'
    wait_until(lambda: metric(crowd.client, hung_up) == 1, "the hang-up is counted")
    assert [first.result().status_code, mate.result().status_code] == [200, 200]
    assert metric(crowd.client, 'foldserve_batch_rows_sum{model="busy",version="1"}') == ran + 2


def test_vector_33_sigterm_under_load_answers_every_accepted_request(crowd: Crowd) -> None:
    accepted = crowd.occupy(LONG, 8)
    crowd.server.terminate()
    answers = [future.result() for future in accepted]
    assert [answer.status_code for answer in answers] == [200] * 9
    (steps,), *others = [answer.json()["outputs"][0]["data"] for answer in answers]
    assert steps >= LONG
    assert others == [[1]] * 8
    assert crowd.server.wait() == 0
    assert "event=stopped" in crowd.server.lines[-1]


def test_draining_is_not_ready_at_once_and_refuses_after_the_delay(tmp_path: Path) -> None:
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path, "--drain-delay-s", "2") as server, httpx.Client(base_url=server.url) as client:
        assert client.get("/v2/health/ready").status_code == 200
        server.terminate()
        wait_until(lambda: client.get("/v2/health/ready").status_code == 503, "not ready", timeout_s=1.5)
        assert "shutting down" in client.get("/v2/health/ready").json()["error"]
        assert client.get("/v2/health/live").status_code == 200
        assert client.post("/v2/models/echo/infer", json=x_request([1, 2, 3])).status_code == 200
        assert server.wait() == 0


def test_case_30_the_exit_timeout_expires(tmp_path: Path) -> None:
    write_bundle(tmp_path / "busy" / "1", busy_net())
    with serving(tmp_path, "--shutdown-timeout-s", "1", "--threads", "1") as server:
        crowd = Crowd(server)
        first, mate = crowd.occupy(FOR_EVER, 1)
        server.terminate()
        for future in (first, mate):
            answer = future.result()
            assert (answer.status_code, list(answer.json())) == (503, ["error"])
        assert server.wait() == 0
        crowd.close()


@pytest.mark.parametrize("path", ["/v2/models/digits/infer", "/predict"])
def test_case_30_a_body_that_never_ends_does_not_hold_the_exit(tmp_path: Path, path: str) -> None:
    write_bundle(tmp_path / "digits" / "1", digits_net())
    flags = ("--shutdown-timeout-s", "1")
    with serving(tmp_path, *flags) as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 100")  # the server is reading the body
        server.terminate()
        answer = sock.recv(1000)
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
            "error": "the server shut down before the request was answered"
        }
        assert server.wait() == 0


def test_case_30_a_second_sigterm_exits_at_once(crowd: Crowd) -> None:
    futures = crowd.occupy(FOR_EVER, 1)
    crowd.server.terminate()
    wait_until(lambda: not responds(crowd.server.url), "it listens no more")
    crowd.server.terminate()
    assert crowd.server.wait() == 128 + signal.SIGTERM
    for future in futures:
        assert isinstance(future.exception(), httpx.TransportError)


@pytest.mark.parametrize("sig", ["SIGINT", "SIGTERM"])
def test_a_signal_before_everything_is_imported_is_a_clean_end(sig: str) -> None:
    lines = (
        "import os, signal, service.__main__ as command",
        f"command.compiled_modules = lambda: os.kill(os.getpid(), signal.{sig})",
        "command.main([])",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ctrl_c_is_a_clean_end_too(tmp_path: Path) -> None:
    every_net(tmp_path / "models")
    with serving(tmp_path / "models") as server, httpx.Client(base_url=server.url) as idle:
        assert idle.get("/v2").status_code == 200  # a live, idle connection
        server.terminate(signal.SIGINT)
        assert server.wait() == 0
        assert not [line for line in server.lines if "Traceback" in line]


@pytest.mark.parametrize("path", ["/static-offline-docs/swagger-ui-bundle.js", "/v2/models/wide/infer"])
def test_case_30_a_client_that_never_reads_does_not_hold_the_exit(tmp_path: Path, path: str) -> None:
    write_bundle(tmp_path / "wide" / "1", echo_net("float32", [100_000]))
    with serving(tmp_path, "--shutdown-timeout-s", "2") as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        deaf.connect(("127.0.0.1", server.port))
        if path.endswith("infer"):
            body = json.dumps(x_request([0.5] * 100_000, shape=[1, 100_000])).encode()
            request = (
                f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
            )
        else:
            request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
        deaf.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(20):
                deaf.sendall(request)
        begun = time.monotonic()
        server.terminate()
        assert server.wait(30) == 0
        assert time.monotonic() - begun < 10


def test_from_sigterm_on_every_answer_says_that_the_connection_closes(tmp_path: Path) -> None:
    """Else a load balancer goes on using its connections: a rollout lost 16 of 9,057 requests."""
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path, "--drain-delay-s", "3") as server, contextlib.ExitStack() as opened:

        def connect() -> http.client.HTTPConnection:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            client.connect()
            opened.callback(client.close)
            return client

        asked = {"GET": ("/v2/health/live", "/v2/models"), "POST": ("/v2/models/echo/infer",)}
        clients = [(connect(), method, path) for method, paths in asked.items() for path in paths]
        idle = connect()
        body = json.dumps(x_request([1, 2, 3])).encode()
        for client, method, path in clients:
            client.request(method, path, body if method == "POST" else None)
            answer = client.getresponse()
            assert (answer.status, answer.getheader("connection")) == (200, None)
            answer.read()
        server.terminate()
        wait_until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 503, "it drains")
        for client, method, path in clients:
            client.request(method, path, body if method == "POST" else None)
            answer = client.getresponse()
            assert (answer.status, answer.getheader("connection")) == (200, "close")
            answer.read()
        assert idle.sock.recv(1) == b"", "an idle connection is closed"
        assert server.wait() == 0
