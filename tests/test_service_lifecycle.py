"""Loading, proving, refusing, overload, hanging up and shutting down, in real processes."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service_kit import (
    ROOT,
    Server,
    busy_net,
    digits_net,
    echo_net,
    every_net,
    nudged,
    serving,
    write_bundle,
    x_request,
)

LONG = 4000.0  # steps of the busy net: a second or two
FOR_EVER = 1e7


def wait_until(is_true: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Poll a server until it says so."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def metric(client: httpx.Client, name: str) -> float:
    """The value of one line of /metrics; 0 if it is not there yet."""
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


# Loading


def reason(server: Server) -> str:
    """Why the server is not ready; it is live all the same."""
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200
    answer = httpx.get(f"{server.url}/v2/health/ready")
    assert answer.status_code == 503
    assert answer.json()["ready"] is False
    assert int(answer.headers["retry-after"]) >= 1
    return str(answer.json()["error"])


def test_a_nudged_weight_is_not_served(tmp_path: Path) -> None:
    net = digits_net()
    write_bundle(tmp_path / "digits" / "1", net, graph=nudged(net))
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        assert "model 'digits' version 1 is not served: output 'logits' differs" in reason(server)
        assert "the tolerance is 0.0001" in reason(server)
        for path in ("/v2/models/digits", "/v2/models/digits/ready", "/v2/models/digits/versions/1/ready"):
            assert httpx.get(server.url + path).status_code == 503
        answer = httpx.post(f"{server.url}/v2/models/digits/infer", content=b"{}")
        assert (answer.status_code, "differs" in answer.json()["error"]) == (503, True)
        assert metric(client, 'foldserve_version_proved{model="digits",version="1"}') == 0


def test_case_23_an_older_version_goes_on_serving(tmp_path: Path) -> None:
    net = digits_net()
    write_bundle(tmp_path / "digits" / "9", net)
    write_bundle(tmp_path / "digits" / "10", net, graph=nudged(net))
    with serving(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        url = f"{server.url}/v2/models/digits"
        assert httpx.get(f"{server.url}/v2/health/ready").status_code == 200
        assert httpx.get(url).json()["versions"] == ["9"]
        assert httpx.get(f"{url}/versions/9/ready").status_code == 200
        newest = httpx.get(f"{url}/versions/10/ready")
        assert (newest.status_code, "differs" in newest.json()["error"]) == (503, True)
        assert metric(client, 'foldserve_version_proved{model="digits",version="10"}') == 0
        assert metric(client, 'foldserve_version_proved{model="digits",version="9"}') == 1
        assert any("event=refused model=digits version=10" in line for line in server.lines)


def spoil(folder: Path, what: str) -> None:
    """Break a bundle in one way."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if what == "changed byte":
        graph = bytearray((folder / "model.onnx").read_bytes())
        graph[len(graph) // 2] ^= 1
        (folder / "model.onnx").write_bytes(graph)
        return
    if what == "half-copied":
        (folder / "golden.npz").unlink()
        return
    if what == "no manifest":
        (folder / "manifest.json").unlink()
        return
    if what == "unknown key":
        manifest["colour"] = "blue"
    elif what == "mistyped key":
        manifest["inputs"][0]["dtype"] = 32
    elif what == "wrong shape":
        manifest["outputs"][0]["name"] = "probabilities"
        manifest["tolerances"] = {"probabilities": manifest["tolerances"]["logits"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("changed byte", "model.onnx: sha-256 is"),
        ("half-copied", "golden.npz: No such file"),
        ("no manifest", "manifest.json: No such file"),
        ("unknown key", "colour: Extra inputs are not permitted"),
        ("mistyped key", "inputs.0.dtype: Input should be"),
        ("wrong shape", "output.probabilities"),
    ],
)
def test_case_28_a_spoilt_bundle_is_refused_and_the_others_are_served(
    tmp_path: Path, what: str, message: str
) -> None:
    spoil(write_bundle(tmp_path / "digits" / "1", digits_net()), what)
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path) as server:
        assert message in reason(server)
        answer = httpx.post(f"{server.url}/v2/models/echo/infer", json=x_request([1, 2, 3]))
        assert answer.status_code == 200
        assert httpx.get(f"{server.url}/v2/models/echo/ready").status_code == 200


def test_case_22_folders_that_are_no_models(tmp_path: Path) -> None:
    write_bundle(tmp_path / "stats" / "1", echo_net("float32"))
    with serving(tmp_path) as server:
        assert "the name 'stats' belongs to a route" in reason(server)


@pytest.mark.parametrize("versions", [[], ["0", "01", "v1", "1.0", "-1", "²"]])
def test_case_22_a_model_without_versions(tmp_path: Path, versions: list[str]) -> None:
    (tmp_path / "digits").mkdir()
    for version in versions:
        write_bundle(tmp_path / "digits" / version, digits_net())
    with serving(tmp_path) as server:
        assert "model 'digits' is not served: its folder holds no version" in reason(server)


def test_what_a_file_system_leaves_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    with serving(tmp_path) as server:
        assert reason(server) == "the models folder holds no model"


def test_6_1_3_no_path_reaches_a_client(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "digits" / "1", digits_net())
    (folder / "golden.npz").write_bytes(b"changed")
    with serving(tmp_path) as server:
        assert "golden.npz: sha-256 is" in reason(server)
        assert str(tmp_path) not in reason(server)


def test_an_empty_folder_is_live_and_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert reason(server) == "the models folder holds no model"
        answer = httpx.post(f"{server.url}/predict", content=b"x")
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_live_while_loading_and_sigterm_then(tmp_path: Path) -> None:
    write_bundle(tmp_path / "busy" / "1", busy_net(golden_steps=int(FOR_EVER)))
    server = Server(tmp_path)
    try:
        wait_until(lambda: responds(server.url), "it listens")
        assert "model 'busy' is loading" in reason(server)
        assert httpx.get(f"{server.url}/v2/models/busy/ready").status_code == 503
        server.terminate()
        assert server.wait() == 0
    finally:
        server.close()


def responds(url: str) -> bool:
    try:
        httpx.get(f"{url}/v2/health/live")
    except httpx.TransportError:
        return False
    return True


# Starting


def start(*flags: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and stderr of a start that must fail."""
    done = subprocess.run(
        [sys.executable, "-m", "service", *flags],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def one_sentence(code_and_text: tuple[int, str], message: str) -> None:
    code, text = code_and_text
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(start("--models", str(tmp_path / "nope")), "there is no folder")


def test_case_42_a_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        one_sentence(start("--models", str(tmp_path), "--port", port), "Address already in use")


def test_a_host_that_is_not_ours_is_one_sentence(tmp_path: Path) -> None:
    one_sentence(start("--models", str(tmp_path), "--host", "host.invalid"), "cannot listen on host.invalid")


def test_case_43_two_servers_in_one_host(tmp_path: Path) -> None:
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    with serving(tmp_path) as one, serving(tmp_path) as other:
        assert one.port != other.port


def test_the_service_loads_neither_torch_nor_onnx() -> None:
    code = "import sys, service.__main__; print(sorted({'torch', 'onnx', 'export'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Overload, hanging up, shutting down


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
        """One request in the engine for `steps`, `num_waiting` quick ones behind it."""
        first = self.ask(steps)
        self.wait_for("running", 1)
        others = [self.ask(1) for _ in range(num_waiting)]
        self.wait_for("queue", num_waiting)
        return [first, *others]

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
    body = json.dumps(x_request([FOR_EVER], shape=[1, 1])).encode()
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
    assert [answer.json()["outputs"][0]["data"] for answer in answers] == [[LONG], *[[1]] * 8]
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


def test_ctrl_c_is_a_clean_end_too(tmp_path: Path) -> None:
    every_net(tmp_path / "models")
    with serving(tmp_path / "models") as server, httpx.Client(base_url=server.url) as idle:
        assert idle.get("/v2").status_code == 200  # a live, idle connection
        server.terminate(signal.SIGINT)
        assert server.wait() == 0
        assert not [line for line in server.lines if "Traceback" in line]
