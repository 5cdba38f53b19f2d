"""One running system: started on its cores, ready with its first right answer, then ended.

In: a `System`, a bundle and its samples.  Out: a `RunningSystem` with the requests of each format; raises
NotServing with the reason.
"""

import contextlib
import http.client
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.net import free_port
from benchmarks.serving.cores import Cores
from benchmarks.serving.plan import write_plan
from benchmarks.serving.processes import Server
from benchmarks.serving.samples import Samples
from benchmarks.serving.systems import ECHO, ROOT, System
from benchmarks.serving.wire import Request, echoed, requests_for

START_LIMIT_S = 60.0
ANSWER_LIMIT_S = 60.0


class NotServing(Exception):  # noqa: N818
    """The system is not installed, did not start, or gave a wrong answer."""


@dataclass(frozen=True, kw_only=True)
class RunningSystem:
    """A started system; `folder` holds the drivers' files, `start_s` is the time to the first answer."""

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
        """The folder of requests of one format, each answered correctly once alone and concurrently."""
        requests = requests_of(self.system, form, self.samples, self.model, timeout_us)
        folder = self.folder / f"{form}-{timeout_us or 0}"
        if not folder.exists():
            for request in requests:
                _check_answer(request, self.port)
            with ThreadPoolExecutor(len(requests)) as clients:
                list(clients.map(_check_answer, requests * 2, [self.port] * 2 * len(requests)))
            write_plan(folder, requests, self.host)
        return folder


def requests_of(
    system: System, form: str, samples: Samples, model: str, timeout_us: int | None = None
) -> list[Request]:
    """One request per sample, in the system's own format."""
    requests = requests_for(system.routes[form], samples, model, timeout_us)
    return echoed(requests) if system is ECHO else requests


@contextlib.contextmanager
def start_system(
    system: System, *, bundle: Path, samples: Samples, peers: Path, cores: Cores, logs: Path
) -> Iterator[RunningSystem]:
    """Start the system, wait for its first right answer, and end it after the block; may raise NotServing."""
    if reason := system.unavailable_reason(peers):
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
            yield RunningSystem(
                system=system,
                model=model,
                samples=samples,
                port=port,
                folder=scratch / "plans",
                start_s=time.perf_counter() - begun,
            )
        finally:
            server.stop()


def ask(request: Request, port: int) -> tuple[int, bytes]:
    """Send one request over a new connection; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        connection.request("POST", request.path, request.body, request.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _check_answer(request: Request, port: int) -> None:
    try:
        status, body = ask(request, port)
    except (OSError, http.client.HTTPException) as error:
        raise NotServing(f"no answer to a first request: {error!r}") from None
    if status != 200 or not request.expected.holds(body):
        raise NotServing(f"wrong answer to a first request: {status} {body[:150]!r}")


def _wait(server: Server, request: Request, port: int) -> None:
    """Wait until the first right answer."""
    last, limit = "", time.perf_counter() + START_LIMIT_S
    while time.perf_counter() < limit:
        if server.has_ended:
            raise NotServing(f"it ended while starting: {server.last_line()}")
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
