"""A blocked log collector: neither a request nor the end of the process waits for it."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.telemetry import standard_error as module
from service.telemetry.standard_error import StandardError
from service_kit import ROOT, responds, wait_until, x_request
from tiny_nets import echo_net, write_bundle


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that holds all it can, and that is never read."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x")
    os.set_blocking(writing, True)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_pipe_stops_neither_start_nor_requests_nor_the_end(tmp_path: Path, workers: str) -> None:
    write_bundle(tmp_path / "echo" / "1", echo_net("float32"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with full_pipe() as stderr:
        flags = ("--models", str(tmp_path), "--port", str(port), "--workers", workers, "--threads", workers)
        command = [
            sys.executable,
            "-m",
            "service",
            *flags,
            "--request-log",
            "all",
            "--shutdown-timeout-s",
            "5",
        ]
        process = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
        try:
            wait_until(lambda: responds(url), "it answers")
            with httpx.Client(base_url=url, timeout=60) as client:
                wait_until(lambda: client.get("/v2/health/ready").status_code == 200, "it is ready")
                for _ in range(200):
                    answer = client.post("/v2/models/echo/infer", json=x_request([1, 2, 3]))
                    assert answer.status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()


def read_all(descriptor: int, into: list[bytes]) -> None:
    while part := os.read(descriptor, 65536):
        into.append(part)


def test_everything_arrives_in_order_once_the_reader_reads() -> None:
    reading, writing = os.pipe()
    stderr = StandardError(writing)
    for number in range(20_000):
        stderr.write(f"line {number}\n")
    assert not stderr.drain(0.1), "the pipe holds 64 KiB"
    parts: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(reading, parts))
    reader.start()
    assert stderr.drain(30)
    os.close(writing)
    reader.join(30)
    assert b"".join(parts).decode() == "".join(f"line {number}\n" for number in range(20_000))
    os.close(reading)


def test_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 1000)
    with full_pipe() as writing:
        stderr = StandardError(writing)
        for _ in range(10):
            stderr.write("x" * 300)
        wait_until(lambda: stderr._num_dropped >= 4, "some were dropped")
        assert not stderr.drain(0)


def test_a_reader_that_has_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stderr = StandardError(writing)
    stderr.write("no one reads this\n")
    assert stderr.drain(30)
    os.close(writing)
