"""One client's pictures: whatever they cost, others are answered, memory is bounded, and nothing outlives it.

Servers with default limits, some with another deadline.  Without the bounds a file of 46 bytes took 730 MB, a
picture of 16 bits 1.1 GB, a JPEG of half a megabyte 11 s, and two uploads whose clients had gone over 100 s.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.attacks import pictures as hostile
from benchmarks.attacks.pictures import HEIGHT, WIDTH
from benchmarks.attacks.processes import MemoryWatch, children_of, cpu_s, is_running
from neighbour import Neighbour
from service_kit import ROOT, Server, serving, wait_until
from tiny_nets import digits_net, write_bundle

DEADLINE_S = 3
SLOWEST_S = 3.0  # of another client's two requests, on a busy machine
MAX_MEMORY_MB = 512  # over the quiet process
GONE_WITHIN_S = 5.0  # promised is 1 s; the machine may be busy
SEVEN = (ROOT / "docs" / "seven.png").read_bytes()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder / "digits" / "1", digits_net())
    return folder


@pytest.fixture(scope="module")
def digits(models: Path) -> Iterator[Server]:
    with serving(models) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(models: Path) -> Iterator[Server]:
    with serving(models, "--decode-timeout-s", str(DEADLINE_S)) as running:
        yield running


@pytest.fixture(scope="module")
def endless() -> bytes:
    """A JPEG that takes minutes to decode."""
    return hostile.scan_bomb(20_000)


def predict(server: Server, content: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", content=content, headers=headers or {}, timeout=120)


ATTACKS: dict[str, tuple[Callable[[], tuple[bytes, dict[str, str]]], int, str]] = {
    "46 bytes of 40 megapixels": (
        lambda: (hostile.webp(WIDTH, HEIGHT), {}),
        413,
        "at most 384 are allowed (FOLDSERVE_DECODE_MEMORY_MB)",
    ),
    "as many as a form holds": (
        lambda: hostile.form([hostile.webp(4000, 4000)] * 256),
        413,
        "at most 160000000 are decoded for one request (FOLDSERVE_MAX_REQUEST_PIXELS)",
    ),
    "more files than a form holds": (lambda: hostile.form([SEVEN] * 257), 413, "(FOLDSERVE_MAX_FILES)"),
    "16 bits": (lambda: (hostile.png(WIDTH, HEIGHT, depth=16), {}), 200, ""),
    "transparency": (lambda: (hostile.png(WIDTH, HEIGHT, colour=6, level=9), {}), 200, ""),
    "one row": (lambda: (hostile.png(WIDTH * HEIGHT, 1), {}), 413, "(FOLDSERVE_DECODE_MEMORY_MB)"),
    "text": (lambda: (hostile.png_of_text(60), {}), 200, ""),
}


def attack(server: Server, content: bytes, headers: dict[str, str]) -> httpx.Response:
    """What the attacker is answered, when others have been answered meanwhile and memory has been bounded."""
    with Neighbour(server.url) as neighbour, MemoryWatch(server.process.pid) as memory:
        answer = predict(server, content, headers)
    assert neighbour.failures == []
    assert neighbour.slowest_s < SLOWEST_S
    assert memory.peak_mb < memory.quiet_mb + MAX_MEMORY_MB
    assert predict(server, SEVEN).status_code == 200
    return answer


@pytest.mark.parametrize("name", ATTACKS)
def test_its_picture_holds_up_no_other_client(digits: Server, name: str) -> None:
    make, status, message = ATTACKS[name]
    answer = attack(digits, *make())
    assert (answer.status_code, message in answer.text) == (status, True), answer.text[:300]


def test_decoding_ends_at_the_deadline(impatient: Server, endless: bytes) -> None:
    answer = attack(impatient, endless, {})
    assert answer.status_code == 400
    assert f"longer than {DEADLINE_S} s, the maximum of a request (FOLDSERVE_DECODE_TIMEOUT_S)" in answer.text


def test_decoding_ends_at_its_memory_or_the_deadline(impatient: Server) -> None:
    answer = attack(impatient, hostile.png_of_chunks(5_000_000), {})  # the decoder lists every chunk
    assert answer.status_code == 400
    assert "needs too much memory" in answer.text or "FOLDSERVE_DECODE_TIMEOUT_S" in answer.text


def test_more_pixels_at_once_than_allowed_get_503(models: Path, endless: bytes) -> None:
    flags = ("--max-request-pixels", "40000000", "--max-inflight-pixels", str(4 * 6320 * 6320))
    with serving(models, *flags, "--decode-timeout-s", "300") as server:
        bombs = [send_and_keep(server, endless) for _ in range(4)]
        wait_until(lambda: is_refused(server, endless), "four of them leave no room for a fifth")
        answer = predict(server, endless)
        assert "are at once (FOLDSERVE_MAX_INFLIGHT_PIXELS)" in answer.text
        assert int(answer.headers["retry-after"]) >= 1
        assert predict(server, SEVEN).status_code == 200, "a small picture needs none of them"
        for bomb in bombs:
            bomb.kill()
            bomb.wait()
        wait_until(lambda: predict(server, hostile.png(2000, 2000)).status_code == 200, "all is given back")


def is_refused(server: Server, content: bytes) -> bool:
    """Whether a picture is answered with 503; one that waits for its turn is given up after a second."""
    try:
        return httpx.post(f"{server.url}/predict", content=content, timeout=1).status_code == 503
    except httpx.TimeoutException:
        return False


def send_and_keep(server: Server, content: bytes) -> "subprocess.Popen[bytes]":
    """A client that sends a picture and waits; killing it hangs up."""
    code = (
        "import socket, sys\n"
        "body = sys.stdin.buffer.read()\n"
        f"client = socket.create_connection(('127.0.0.1', {server.port}))\n"
        "head = b'POST /predict HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n'\n"
        "client.sendall(head % len(body))\n"
        "client.sendall(body)\n"
        "client.recv(1)\n"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert client.stdin is not None
    client.stdin.write(content)
    client.stdin.close()
    return client


def busy_children(server: Server) -> list[int]:
    """The children that use the processor now."""
    before = {pid: cpu_s(pid) for pid in children_of(server.process.pid)}
    time.sleep(0.3)
    return [pid for pid, used_s in before.items() if is_running(pid) and cpu_s(pid) > used_s]


def test_nothing_is_left_of_a_client_that_hangs_up(models: Path, endless: bytes) -> None:
    with serving(models, "--decode-timeout-s", "300") as server:
        clients = [send_and_keep(server, endless) for _ in range(6)]  # more than there are processes here
        wait_until(lambda: len(busy_children(server)) > 0, "a bomb is being decoded")
        decoding = children_of(server.process.pid)
        for client in clients:
            client.kill()
        gone_at = time.monotonic()
        wait_until(lambda: not any(map(is_running, decoding)), "its processes have ended")
        assert time.monotonic() - gone_at < GONE_WITHIN_S
        for client in clients:
            client.wait()
        time.sleep(1)  # one whose turn had come meanwhile
        assert busy_children(server) == []
        used_s = cpu_s(server.process.pid)
        time.sleep(1)
        assert cpu_s(server.process.pid) - used_s < 0.5
        assert predict(server, hostile.png(2000, 2000)).status_code == 200


def test_a_decoder_that_dies_fails_its_picture_alone(models: Path, endless: bytes) -> None:
    with serving(models, "--decode-timeout-s", "300") as server:
        clients = [send_and_keep(server, endless)]
        wait_until(lambda: len(busy_children(server)) > 0, "it is being decoded")
        (child,) = children_of(server.process.pid)
        os.kill(child, signal.SIGKILL)
        clients[0].wait(30)  # it has read an answer
        assert predict(server, hostile.png(2000, 2000)).status_code == 200


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_its_processes_end_with_the_server(models: Path, endless: bytes, sig: signal.Signals) -> None:
    flags = ("--decode-timeout-s", "300", "--shutdown-timeout-s", "1")
    with serving(models, *flags) as server:
        client = send_and_keep(server, endless)
        wait_until(lambda: len(busy_children(server)) > 0, "it is being decoded")
        children = children_of(server.process.pid)
        server.terminate(sig)
        server.wait(30)
        wait_until(lambda: not any(map(is_running, children)), "its processes have ended")
        client.wait(30)


def test_a_decoding_process_imports_no_server() -> None:
    code = "import sys, service.pictures.child; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {name.split(".")[0] for name in imported.stdout.split()}
    assert {"numpy", "PIL"} <= top
    assert not top & {"onnxruntime", "fastapi", "starlette", "uvicorn", "pydantic", "orjson", "asyncio"}
