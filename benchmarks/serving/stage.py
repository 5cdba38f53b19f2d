"""One system on the stage: started on its cores, ready with its first right answer, then ended.

In: a `System`, a bundle and its samples.  Out: a `Stage` with the requests of each format, or NotServing with
the reason.
"""

import contextlib
import http.client
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving.cores import Cores
from benchmarks.serving.plan import write_plan
from benchmarks.serving.processes import Server
from benchmarks.serving.samples import Samples
from benchmarks.serving.systems import ECHO, ROOT, System
from benchmarks.serving.wire import Request, echoed, requests_for

START_LIMIT_S = 60.0
ANSWER_LIMIT_S = 60.0


class NotServing(Exception):  # noqa: N818
    """It is not installed, did not start, or answered wrongly."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A running system; `folder` is for the drivers' files."""

    system: System
    model: str
    samples: Samples
    port: int
    folder: Path
    start_s: float

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def plan(self, form: str, timeout_us: int | None = None) -> Path:
        """The folder of requests of one format, each answered rightly once, alone and beside others."""
        requests = requests_of(self.system, form, self.samples, self.model, timeout_us)
        folder = self.folder / f"{form}-{timeout_us or 0}"
        if not folder.exists():
            for request in requests:
                _insist(request, self.port)
            with ThreadPoolExecutor(len(requests)) as clients:
                list(clients.map(_insist, requests * 2, [self.port] * 2 * len(requests)))
            write_plan(folder, requests, self.host)
        return folder


def requests_of(
    system: System, form: str, samples: Samples, model: str, timeout_us: int | None = None
) -> list[Request]:
    """One request a sample, as the system wants them."""
    requests = requests_for(system.routes[form], samples, model, timeout_us)
    return echoed(requests) if system is ECHO else requests


@contextlib.contextmanager
def on_stage(
    system: System, *, bundle: Path, samples: Samples, peers: Path, cores: Cores, logs: Path
) -> Iterator[Stage]:
    """Start it, wait until it is right once, end it."""
    if reason := system.why_not(peers):
        raise NotServing(reason)
    model = bundle.parent.name
    with tempfile.TemporaryDirectory(prefix="serving_") as name:
        scratch = Path(name)
        (scratch / "models").mkdir()
        (scratch / "models" / model).symlink_to(bundle.parent.resolve(), target_is_directory=True)
        port = free_port()
        command = system.command(
            peers=peers,
            models=scratch / "models",
            bundle=bundle.resolve(),
            port=port,
            threads=cores.num_server,
        )
        first = requests_of(system, next(iter(system.routes)), samples, model)[0]
        begun = time.perf_counter()
        log = logs / f"{system.name}-{model}.log"
        server = Server([*cores.server_prefix, *command], log, ROOT, {"TMPDIR": str(scratch)})
        try:
            _wait(server, first, port)
            yield Stage(
                system=system,
                model=model,
                samples=samples,
                port=port,
                folder=scratch / "plans",
                start_s=time.perf_counter() - begun,
            )
        finally:
            server.stop()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ask(request: Request, port: int) -> tuple[int, bytes]:
    """Status and body, over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _insist(request: Request, port: int) -> None:
    try:
        status, body = ask(request, port)
    except (OSError, http.client.HTTPException) as error:
        raise NotServing(f"no answer to a first request: {error!r}") from None
    if status != 200 or not request.expected.holds(body):
        raise NotServing(f"wrong answer to a first request: {status} {body[:150]!r}")


def _wait(server: Server, request: Request, port: int) -> None:
    """Until the first right answer."""
    last, limit = "", time.perf_counter() + START_LIMIT_S
    while time.perf_counter() < limit:
        if server.has_ended:
            raise NotServing(f"it ended while starting: {server.last_words()}")
        try:
            status, body = ask(request, port)
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)
            continue
        if status == 200 and request.expected.holds(body):
            return
        last = f"; it answered {status} {body[:150]!r}"
        time.sleep(0.5)
    raise NotServing(f"not ready after {START_LIMIT_S:g} s{last}")
