"""A real server process, how to ask it, and how to wait for it."""

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tiny_nets import ONNX_TYPES, Arrays, digits_net, echo_net, log_net, pair_net, write_bundle

ROOT = Path(__file__).parents[2]


_NUMPY = {
    "BOOL": "?",
    "UINT8": "u1",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}


class Server:
    """`python -m service` in a process of its own, on a port of the system's choice."""

    LISTENS, LOADED = "event=listening url=", ("Ready:", "Not ready:")
    EXIT_CODE = 0  # after SIGTERM

    def __init__(self, models: Path, *flags: str, environment: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            self.command(models, *flags),
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self.wait_for(self.LISTENS).split(self.LISTENS)[1].split()[0]
        self.port = int(self.url.rsplit(":", 1)[1])

    def command(self, models: Path, *flags: str) -> list[str]:
        return [sys.executable, "-m", "service", "--models", str(models), "--port", "0", *flags]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            self._queue.put(line)
        self._queue.put(None)

    def wait_for(self, *texts: str, timeout_s: float = 60) -> str:
        """The next line on stderr that holds one of `texts`."""
        while (line := self._queue.get(timeout=timeout_s)) is not None:
            if any(text in line for text in texts):
                return line
        raise AssertionError(f"the server ended without {texts}:\n{''.join(self.lines)}")

    def wait_until_loaded(self) -> "Server":
        """Wait until every model has been tried."""
        if self.LOADED:
            self.wait_for(*self.LOADED)
        return self

    def terminate(self, sig: int = signal.SIGTERM) -> None:
        self.process.send_signal(sig)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit code."""
        code = self.process.wait(timeout_s)
        self._reader.join(10)
        return code

    def close(self) -> None:
        """End the process, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Hosted(Server):
    """The same service as an ASGI application, under plain uvicorn."""

    LISTENS, LOADED = "Uvicorn running on ", ()
    EXIT_CODE = -signal.SIGTERM  # uvicorn ends well, and then by the signal

    def command(self, models: Path, *flags: str) -> list[str]:
        service = f"foldserve.asgi.AsgiService({['--models', str(models), *flags]!r})"
        run = f"uvicorn.run({service}, port=0, access_log=False)"
        return [sys.executable, "-c", f"import foldserve.asgi, uvicorn; {run}"]


@contextlib.contextmanager
def serving(
    models: Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    kind: type[Server] = Server,
) -> Iterator[Server]:
    """A server that has tried every model."""
    server = kind(models, *flags, environment=environment)
    try:
        yield server.wait_until_loaded()
    finally:
        server.close()


def every_net(root: Path) -> Path:
    """A models folder with one model of each kind."""
    for name, net in {
        "digits": digits_net(),
        "pair": pair_net(),
        "log": log_net(),
        "a model": echo_net("float32"),
        **{f"echo-{dtype}": echo_net(dtype) for dtype in ONNX_TYPES},
    }.items():
        write_bundle(root / name / "1", net)
    return root


def x_request(data: Any, datatype: str = "FP32", shape: Any = None, **members: Any) -> dict[str, Any]:
    """A request for one input `x`, three numbers a row unless told otherwise."""
    shape = [1, 3] if shape is None else shape
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **members}


def binary_body(document: dict[str, Any], *tails: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and the header that goes with it."""
    head = json.dumps(document).encode()
    return head + b"".join(tails), {"Inference-Header-Content-Length": str(len(head))}


def read_answer(headers: Any, body: bytes) -> tuple[dict[str, Any], Arrays]:
    """The JSON of an answer and its outputs, binary or not."""
    length = headers.get("inference-header-content-length")
    document = json.loads(body if length is None else body[: int(length)])
    rest = b"" if length is None else body[int(length) :]
    arrays: Arrays = {}
    for output in document["outputs"]:
        dtype = _NUMPY[output["datatype"]]
        if "data" in output:
            arrays[output["name"]] = np.array(output["data"], dtype).reshape(output["shape"])
        else:
            size = output["parameters"]["binary_data_size"]
            arrays[output["name"]] = np.frombuffer(rest[:size], dtype).reshape(output["shape"])
            rest = rest[size:]
    assert rest == b""
    return document, arrays


def resident_mb(server: Server) -> float:
    """The memory of a server's first process."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


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


def free_port() -> int:
    """A port that no process listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def responds(url: str) -> bool:
    try:
        httpx.get(f"{url}/v2/health/live")
    except httpx.TransportError:
        return False
    return True


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
    """A start was refused with exit code 2 and one line that says `message`."""
    code, text = code_and_text
    assert (code, text.count("\n")) == (2, 1), text
    assert message in text
